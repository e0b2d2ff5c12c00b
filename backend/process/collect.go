package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

// collected are the folders of the working folder that are artefacts of the
// job, under the same names. They stay real folders, not links, because
// scripts delete them and make them anew.
var collected = []string{"outputs", "logs"}

// maxLogs bounds how many artefacts Logs lists.
const maxLogs = 10_000

// Collect copies logs and outputs of an ended task to where they belong.
func (r *Runtime) Collect(ctx context.Context, id string) (map[string]int64, error) {
	name := folder(id)
	defer r.hold(name)()
	o, err := r.observe(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.NotFound("nothing of job %s is on this machine", id)
	}
	if err != nil {
		return nil, fmt.Errorf("collect %s: %w", id, err)
	}
	if o.Phase != compute.Exited {
		return nil, fault.Conflicts("job %s has not ended", id)
	}
	dir := r.dir(name)
	m, err := readRecord[manifest](dir, taskFile)
	if err != nil {
		return nil, fmt.Errorf("collect %s: %w", id, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("collect %s: %w", id, err)
	}
	defer root.Close()
	c := &collector{r, root, dir}
	sizes := map[string]int64{}
	for _, out := range m.Outputs {
		n, ok, err := c.output(ctx, out)
		if err != nil {
			return nil, fmt.Errorf("collect output %q of %s: %w", out.Name, id, err)
		}
		if ok {
			sizes[out.Name] = n
		}
	}
	for _, in := range m.Back {
		if err := c.back(ctx, in, m.Staged); err != nil {
			return nil, fmt.Errorf("write back input %q of %s: %w", in.Name, id, err)
		}
	}
	for from, to := range map[string]string{artefacts: "", workDir + "/outputs": "outputs/", workDir + "/logs": "logs/"} {
		if _, err := c.tree(ctx, from, compute.Tree{Container: m.Logs.Container, Prefix: m.Logs.Prefix + to}); err != nil {
			return nil, fmt.Errorf("collect %s of %s: %w", from, id, err)
		}
	}
	return sizes, nil
}

// collector reads a task's folder through root: links that lead out of it are
// not followed.
type collector struct {
	*Runtime
	root *os.Root
	dir  string
}

// back writes what the command did to an input to where that came from. It may
// be done again after a crash.
func (c *collector) back(ctx context.Context, in compute.Input, since time.Time) error {
	p := path.Clean(in.Path)
	if in.File {
		there, err := c.cfg.Blobs.Stat(ctx, in.From.Container, in.From.Prefix)
		if err != nil && !fault.Is(err, fault.Missing) {
			return err
		}
		st, gone := c.root.Stat(p)
		switch {
		case gone == nil && st.Mode().IsRegular() && changed(st, there, since):
			_, err = c.file(ctx, p, in.From.Container, in.From.Prefix)
			return err
		case errors.Is(gone, fs.ErrNotExist) && err == nil && !there.Modified.After(since):
			return c.delete(ctx, in.From.Container, in.From.Prefix)
		}
		return nil
	}
	prefix := blob.Folder(in.From.Prefix)
	there := map[string]blob.Info{}
	for q := (blob.Query{Prefix: prefix}); ; {
		page, err := c.cfg.Blobs.List(ctx, in.From.Container, q)
		if err != nil {
			return err
		}
		for _, b := range page.Blobs {
			there[strings.TrimPrefix(b.Key, prefix)] = b
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	left := map[string]bool{}
	err := walk(c.root, c.dir, p, func(p, rel string) error {
		if len(left) == c.cfg.MaxFiles {
			return fault.New(fault.TooLarge, "TooManyFiles", "the job left more than %d files in input %q; put them into an archive", c.cfg.MaxFiles, in.Name)
		}
		left[rel] = true
		st, err := c.root.Lstat(p)
		if err != nil || !changed(st, there[rel], since) {
			return ctx.Err()
		}
		_, err = c.file(ctx, p, in.From.Container, prefix+rel)
		return err
	})
	if err != nil {
		return err
	}
	for rel, b := range there {
		if rel == "" || left[rel] || b.Modified.After(since) || c.exists(path.Join(p, rel)) {
			continue
		}
		if err := c.delete(ctx, in.From.Container, b.Key); err != nil {
			return err
		}
	}
	return nil
}

// exists tells whether something of that name is in the task's folder, of
// whatever kind, or may be: what cannot be looked at is not deleted.
func (c *collector) exists(p string) bool {
	_, err := c.root.Lstat(p)
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
}

func (c *collector) delete(ctx context.Context, from blob.Container, key string) error {
	err := c.cfg.Blobs.Delete(ctx, from, key, blob.Condition{})
	if fault.Is(err, fault.Missing) {
		return nil
	}
	return err
}

// changed tells whether a file is another than the blob it was staged from,
// whose time it was given. Where others have written the blob since, a file that
// the command has left alone does not undo that.
func changed(file fs.FileInfo, b blob.Info, since time.Time) bool {
	if b.Key == "" {
		return true
	}
	if file.Size() == b.Size && file.ModTime().Equal(b.Modified) {
		return false
	}
	return !b.Modified.After(since) || file.ModTime().After(since)
}

// output copies one output. A file that the command has not made is no error,
// and is not ok. What the command made is what counts: a folder in place of a
// file is copied below the file's name, a file in place of a folder into it.
func (c *collector) output(ctx context.Context, out compute.Output) (size int64, ok bool, err error) {
	p := path.Clean(out.Path)
	st, err := c.root.Stat(p)
	if err != nil || !st.IsDir() && !st.Mode().IsRegular() {
		if !errors.Is(err, fs.ErrNotExist) {
			c.cfg.Log.Warn("an output is neither a file nor a folder of the job", "output", out.Name, "folder", c.dir, "err", err)
		}
		return 0, false, nil
	}
	key := out.To.Prefix
	if st.IsDir() {
		size, err = c.tree(ctx, p, compute.Tree{Container: out.To.Container, Prefix: blob.Folder(key)})
		return size, true, err
	}
	if key == "" || strings.HasSuffix(key, "/") {
		key += path.Base(p)
	}
	size, err = c.file(ctx, p, out.To.Container, key)
	return size, true, err
}

// tree copies a folder and returns the sum of its sizes.
func (c *collector) tree(ctx context.Context, from string, to compute.Tree) (int64, error) {
	var sum int64
	files := 0
	err := walk(c.root, c.dir, from, func(p, rel string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if files++; files > c.cfg.MaxFiles {
			return fault.New(fault.TooLarge, "TooManyFiles", "the job left more than %d files in %s; put them into an archive", c.cfg.MaxFiles, from)
		}
		n, err := c.file(ctx, p, to.Container, to.Prefix+rel)
		sum += n
		return err
	})
	return sum, err
}

func (c *collector) file(ctx context.Context, p string, to blob.Container, key string) (int64, error) {
	f, err := c.root.Open(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	_, err = c.cfg.Blobs.Put(ctx, to, key, io.LimitReader(f, st.Size()), st.Size(), blob.Attributes{ContentType: contentType(key)}, blob.Condition{})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p, err)
	}
	return st.Size(), nil
}

func contentType(key string) string {
	switch t := mime.TypeByExtension(path.Ext(key)); {
	case t != "":
		return t
	case strings.HasSuffix(key, ".log"):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// walk visits the files below from: p is a path in root without links, rel
// the name below from. A link to a file inside dir is visited under the link's
// name. Links to folders or out of dir, sockets, pipes and what the job has
// shut are passed over. What is no folder inside dir is empty.
func walk(root *os.Root, dir, from string, visit func(p, rel string) error) error {
	if st, err := root.Stat(from); err != nil || !st.IsDir() {
		return nil
	}
	return fs.WalkDir(root.FS(), from, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil // gone since it was listed, or shut by the job
		case err != nil || d.IsDir():
			return err
		}
		rel := strings.TrimPrefix(p, from+"/")
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := filepath.EvalSymlinks(filepath.Join(dir, p))
			if err != nil {
				return nil
			}
			inside, err := filepath.Rel(dir, to)
			if err != nil || !filepath.IsLocal(inside) {
				return nil
			}
			st, err := root.Lstat(inside)
			if err != nil || !st.Mode().IsRegular() {
				return nil
			}
			return visit(inside, rel)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return visit(p, rel)
	})
}

// Logs lists the artefacts that are there so far with their sizes in bytes.
func (r *Runtime) Logs(ctx context.Context, id string) (map[string]int64, error) {
	dir := r.dir(folder(id))
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.NotFound("nothing of job %s is on this machine", id)
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	names := map[string]int64{}
	errEnough := errors.New("enough")
	for _, t := range []struct{ from, to string }{{artefacts, ""}, {workDir + "/logs", "logs/"}, {workDir + "/outputs", "outputs/"}} {
		err := walk(root, dir, t.from, func(p, rel string) error {
			if len(names) == maxLogs {
				return errEnough
			}
			if st, err := root.Lstat(p); err == nil {
				names[t.to+rel] = st.Size()
			}
			return ctx.Err()
		})
		if err != nil && err != errEnough {
			return nil, fmt.Errorf("logs of %s: %w", id, err)
		}
	}
	return names, nil
}

// OpenLog opens an artefact from offset to what is its end now, and tells its
// whole size.
func (r *Runtime) OpenLog(ctx context.Context, id, name string, offset int64) (io.ReadCloser, int64, error) {
	missing := fault.NotFound("job %s has no log %q", id, name)
	first, _, _ := strings.Cut(name, "/")
	if !filepath.IsLocal(name) {
		return nil, 0, missing
	}
	dir := r.dir(folder(id))
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, 0, missing.From(err)
	}
	defer root.Close()
	p := path.Join(artefacts, name)
	for _, d := range collected {
		if first == d {
			p = path.Join(workDir, name)
		}
	}
	if to, err := filepath.EvalSymlinks(filepath.Join(dir, p)); err == nil {
		if p, err = filepath.Rel(dir, to); err != nil || !filepath.IsLocal(p) {
			return nil, 0, missing
		}
	}
	// A pipe would keep us waiting for its other end.
	if st, err := root.Lstat(p); err != nil || !st.Mode().IsRegular() {
		return nil, 0, missing.From(err)
	}
	f, err := root.Open(p)
	if err != nil {
		return nil, 0, missing.From(err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if offset < 0 || offset > st.Size() {
		f.Close()
		return nil, 0, fault.New(fault.RangeUnsatisfiable, "InvalidRange", "%q has %d bytes, and %d lies outside", name, st.Size(), offset)
	}
	return logReader{io.NewSectionReader(f, offset, st.Size()-offset), f}, st.Size(), nil
}

type logReader struct {
	io.Reader
	io.Closer
}
