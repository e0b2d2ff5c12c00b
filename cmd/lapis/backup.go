package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lapis/fault"
	"lapis/file"
)

func backupCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "backup FILE",
		Short:   "Copy all that the server keeps into one file",
		GroupID: groupServer,
		Long: `Copy all that the server keeps into one file: resources, runs, metrics, blobs and
keys, as they were at one moment. The server may be running. Environments are
not in it, they are built again; nor is what jobs that run have not uploaded.

The file holds the keys to everything: keep it as you keep them. A name that
ends in .gz is compressed.`,
		Example: `  lapis backup lapis-monday.tar
  lapis backup /backups/lapis.tar.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return backup(cmd.Context(), data, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder of the server")
	return cmd
}

func restoreCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "restore FILE",
		Short:   "Make a data folder of a backup",
		GroupID: groupServer,
		Example: `  lapis restore lapis-monday.tar --data /srv/lapis
  lapis up --data /srv/lapis`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return restore(cmd.Context(), data, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder to make; it must not hold anything yet")
	return cmd
}

// manifest is the first file of a backup. The last is empty and named theEnd:
// without it the backup is not whole.
type manifest struct {
	Layout  int       `json:"layout"`
	Lapis   string    `json:"lapis"`
	Created time.Time `json:"created"`
	Folder  string    `json:"folder"`
}

const manifestName, theEnd = "backup.json", "backup.end"

// What a backup holds beside lapis.db and blobs/. Where the server was is not
// in it: the restored one may be elsewhere.
var backedUp = []string{"version", "identity.json", "keys"}

func backup(ctx context.Context, data, to string, out io.Writer) (err error) {
	f, err := openFolder(data)
	if err != nil {
		return err
	}
	if err := f.private(); err != nil {
		return err
	}
	snapshot, err := os.MkdirTemp(f.dir, ".backup-*")
	if err != nil {
		return f.explain(err)
	}
	defer os.RemoveAll(snapshot)

	// The database comes first: it names blobs that were there before.
	if err := copyDatabase(ctx, f.path("lapis.db"), filepath.Join(snapshot, "lapis.db")); err != nil {
		return f.explain(fmt.Errorf("copy the database: %w", err))
	}
	if err := freeze(ctx, f.path("blobs"), filepath.Join(snapshot, "blobs"), halfWritten); err != nil {
		return f.explain(fmt.Errorf("copy the blobs: %w", err))
	}
	for _, name := range backedUp {
		if err := freeze(ctx, f.path(name), filepath.Join(snapshot, name), file.Unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy %s: %w", name, err)
		}
	}

	tmp, err := os.OpenFile(to+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fault.Denied("The backup cannot be written to %s: %v.", to, plain(err)).From(err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	n, err := pack(ctx, f.dir, snapshot, tmp, strings.HasSuffix(to, ".gz"))
	if errors.Is(err, syscall.ENOSPC) {
		return fault.New(fault.StorageFull, "StorageFull", "There is no room for the backup %s.", to).From(err)
	}
	if err == nil {
		err = errors.Join(tmp.Sync(), tmp.Close())
	}
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	info, err := os.Stat(to)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Wrote %s: %d files, %.1f MB. It holds the keys to everything.\n", to, n, float64(info.Size())/1e6)
	return nil
}

// copyDatabase makes a whole copy of a database that others may be writing to.
func copyDatabase(ctx context.Context, from, to string) error {
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The driver is the one that backend/sqldb registers.
	db, err := sql.Open("sqlite", "file:"+(&urlPath{from}).String()+"?_pragma=busy_timeout(30000)")
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", to)
	return err
}

// urlPath is a path in a URL.
type urlPath struct{ path string }

func (u *urlPath) String() string {
	return strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23").Replace(u.path)
}

// freeze copies a file or a folder as it is at one moment. Files that are only
// ever replaced, never written in place, are linked: it takes no room and no
// time. A folder whose files change meanwhile is done again, so that files
// which belong together (a blob's header and its bytes) do. What is left out is
// told by the path below from; a folder that is left out is there, and empty.
func freeze(ctx context.Context, from, to string, without func(path string) bool) error {
	return freezeBelow(ctx, from, to, ".", without)
}

// halfWritten tells where backend/disk keeps what is not a blob yet, or no more.
func halfWritten(path string) bool {
	parts := strings.Split(path, "/")
	return len(parts) == 3 && parts[2] == "tmp" || path == ".trash"
}

func freezeBelow(ctx context.Context, from, to, at string, without func(string) bool) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return link(from, to)
	}
	if err := os.MkdirAll(to, info.Mode().Perm()|0o700); err != nil || without(at) {
		return err
	}
	done := map[string]bool{} // folders below
	const tries = 1000
	for range tries {
		if err := ctx.Err(); err != nil {
			return err
		}
		folders, steady, err := freezeFiles(from, to, at, without)
		if err != nil {
			return err
		}
		if !steady {
			continue
		}
		for _, name := range folders {
			if done[name] {
				continue
			}
			err := freezeBelow(ctx, filepath.Join(from, name), filepath.Join(to, name), path.Join(at, name), without)
			if errors.Is(err, fs.ErrNotExist) {
				// It is gone, and maybe the file that named it has changed.
				steady = false
				if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			done[name] = true
		}
		if steady {
			return nil
		}
	}
	return fmt.Errorf("%s keeps changing", from)
}

// freezeFiles links the files of a folder, and tells whether they were the same
// ones all the while. The folders below are those that were there meanwhile.
func freezeFiles(from, to, at string, without func(string) bool) (folders []string, steady bool, err error) {
	before, _, err := filesIn(from, at, without)
	if err != nil {
		return nil, false, err
	}
	old, _, err := filesIn(to, at, without)
	if err != nil {
		return nil, false, err
	}
	for name := range old { // of an earlier try
		if err := os.Remove(filepath.Join(to, name)); err != nil {
			return nil, false, err
		}
	}
	for name := range before {
		err := link(filepath.Join(from, name), filepath.Join(to, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	after, folders, err := filesIn(from, at, without)
	return folders, maps.Equal(before, after), err
}

// filesIn tells which files a folder holds, by inode, and which folders.
func filesIn(dir, at string, without func(string) bool) (files map[string]uint64, folders []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	files = map[string]uint64{}
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
			continue
		}
		if without(path.Join(at, e.Name())) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			files[e.Name()] = st.Ino
		}
	}
	return files, folders, nil
}

// link links a file, or copies it where the file system cannot link.
func link(from, to string) error {
	err := os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// pack writes the snapshot as a tar file and tells how many files it holds.
func pack(ctx context.Context, dir, snapshot string, file io.Writer, compress bool) (int, error) {
	buffered := bufio.NewWriterSize(file, 1<<20)
	var to io.Writer = buffered
	var zip *gzip.Writer
	if compress {
		zip, _ = gzip.NewWriterLevel(buffered, gzip.BestSpeed)
		to = zip
	}
	t := tar.NewWriter(to)
	about, _ := json.Marshal(manifest{Layout: layoutVersion, Lapis: version(), Created: time.Now().UTC(), Folder: dir})
	if err := packBytes(t, manifestName, about); err != nil {
		return 0, err
	}
	count := 0
	err := filepath.WalkDir(snapshot, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == snapshot {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			return nil
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		name, err := filepath.Rel(snapshot, p)
		if err != nil {
			return err
		}
		h.Name = filepath.ToSlash(name)
		h.Uname, h.Gname, h.Uid, h.Gid = "", "", 0, 0
		h.Format = tar.FormatPAX
		if err := t.WriteHeader(h); err != nil || info.IsDir() {
			return err
		}
		in, err := os.Open(p)
		if err != nil {
			return err
		}
		defer in.Close()
		count++
		_, err = io.Copy(t, in)
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := packBytes(t, theEnd, nil); err != nil {
		return 0, err
	}
	if err := t.Close(); err != nil {
		return 0, err
	}
	if zip != nil {
		if err := zip.Close(); err != nil {
			return 0, err
		}
	}
	return count, buffered.Flush()
}

func packBytes(t *tar.Writer, name string, b []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: time.Now()}); err != nil {
		return err
	}
	_, err := t.Write(b)
	return err
}

func restore(ctx context.Context, data, file string, out io.Writer) error {
	dir, err := folderPath(data)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fault.Conflicts("The folder %s holds something already. Restore into a new one with --data, or move that away.", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.Denied("The folder %s cannot be read: %v.", dir, plain(err)).From(err)
	}
	in, err := os.Open(file)
	if err != nil {
		return fault.NotFound("The backup %s cannot be read: %v.", file, plain(err)).From(err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	// All is made beside the folder and put in its place at the end.
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".restore-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	m, n, err := unpack(ctx, in, tmp)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fault.New(fault.StorageFull, "StorageFull", "There is no room to restore %s in %s.", file, filepath.Dir(dir)).From(err)
	case errors.Is(err, errNoBackup), errors.Is(err, tar.ErrHeader), errors.Is(err, gzip.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrChecksum):
		return fault.Invalid("%s is not a whole backup of lapis: %v. Nothing was restored.", file, err).From(err)
	case err != nil:
		return err
	}
	if m.Layout > layoutVersion {
		return fault.Conflicts("The backup %s was written by a newer lapis (%s). Use that one to restore it.", file, m.Lapis)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Chmod(tmp, 0o700); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "Restored %d files of %s into %s. Start the server with: lapis up --data %s\n", n, m.Created.Format(time.RFC3339), dir, quote(dir))
	return nil
}

var errNoBackup = errors.New("it does not begin and end as one")

func unpack(ctx context.Context, file io.Reader, dir string) (m manifest, count int, err error) {
	buffered := bufio.NewReaderSize(file, 1<<20)
	var from io.Reader = buffered
	if magic, _ := buffered.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		if from, err = gzip.NewReader(buffered); err != nil {
			return m, 0, err
		}
	}
	root, err := os.OpenRoot(dir) // no name in the file leads out of the folder
	if err != nil {
		return m, 0, err
	}
	defer root.Close()
	t := tar.NewReader(from)
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return m, 0, err
		}
		h, err := t.Next()
		if err == io.EOF {
			return m, 0, errNoBackup
		}
		if err != nil {
			return m, 0, err
		}
		name := path.Clean(strings.TrimSuffix(h.Name, "/"))
		switch {
		case first:
			if name != manifestName {
				return m, 0, errNoBackup
			}
			if err := json.NewDecoder(io.LimitReader(t, 1<<20)).Decode(&m); err != nil {
				return m, 0, errNoBackup
			}
			continue
		case name == theEnd:
			return m, count, nil
		case !filepath.IsLocal(name):
			return m, 0, fmt.Errorf("%w: the name %q leads out of the folder", errNoBackup, h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(name, h.FileInfo().Mode().Perm()|0o700); err != nil {
				return m, 0, err
			}
		case tar.TypeReg:
			if err := unpackFile(root, name, h, t); err != nil {
				return m, 0, err
			}
			count++
		default:
			return m, 0, fmt.Errorf("%w: %q is neither a file nor a folder", errNoBackup, h.Name)
		}
	}
}

func unpackFile(root *os.Root, name string, h *tar.Header, from io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}
