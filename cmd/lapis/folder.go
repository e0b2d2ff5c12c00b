package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/file"
)

// folder is the data folder: all that a server keeps.
//
//	lock          held while a server runs; holds its pid
//	version       the layout's version
//	server.json   where the server is
//	identity.json who the tenant, the subscription and the administrator are
//	keys/         the local authority, signing and sealing keys, tokens (0700)
//	lapis.db      resources, runs, metrics
//	blobs/ envs/ jobs/ logs/
type folder struct{ dir string }

// layoutVersion is the version of the folder's layout. A newer one is refused.
const layoutVersion = 1

// folderPath is the data folder that a flag (may be "") or the environment names.
func folderPath(flag string) (string, error) {
	dir := flag
	if dir == "" {
		dir = os.Getenv("LAPIS_DATA")
	}
	if dir == "" {
		if base := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(base) {
			dir = filepath.Join(base, "lapis")
		}
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fault.Invalid("There is no home folder to keep data in. Name a folder with --data or LAPIS_DATA.").From(err)
		}
		dir = filepath.Join(home, ".local", "share", "lapis")
	}
	return filepath.Abs(dir)
}

// openFolder opens a folder that a server has made, for commands beside the server.
func openFolder(flag string) (*folder, error) {
	dir, err := folderPath(flag)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	if _, err := os.Stat(f.path("identity.json")); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil, notYours(dir, err)
		}
		return nil, fault.NotFound("No server has used the data folder %s yet. Start one with `lapis up`, or name its folder with --data.", dir).From(err)
	}
	return f, nil
}

// makeFolder opens the folder for a server and makes what is missing.
func makeFolder(flag string) (*folder, error) {
	dir, err := folderPath(flag)
	if err != nil {
		return nil, err
	}
	f := &folder{dir: dir}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, fault.Invalid("The data folder %s is a file. Name a folder with --data.", dir)
	}
	// What jobs read and write is nobody else's business.
	for _, sub := range []string{"", "blobs", "envs", "jobs", "logs"} {
		if err := os.MkdirAll(f.path(sub), 0o700); err != nil {
			return nil, fault.Denied("The data folder %s cannot be made: %v. Name another with --data.", dir, plain(err)).From(err)
		}
	}
	keys := f.path("keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return nil, fault.Denied("The folder %s cannot be made: %v. Name another data folder with --data.", keys, plain(err)).From(err)
	}
	if err := f.private(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *folder) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// private makes sure that the keys are the caller's and nobody else's.
func (f *folder) private() error {
	keys := f.path("keys")
	info, err := os.Stat(keys)
	if errors.Is(err, fs.ErrPermission) {
		return notYours(f.dir, err)
	}
	if err != nil {
		return fault.NotFound("The data folder %s has no keys. Start a server on it with `lapis up`.", f.dir).From(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return notYours(f.dir, nil)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fault.Denied("Others may read the keys in %s. Take that right away: chmod 700 %s", keys, quote(keys))
	}
	return nil
}

func notYours(dir string, cause error) error {
	return fault.Denied("The data folder %s belongs to another user, who alone may use its keys. Run this as that user, or name a folder of your own with --data.", dir).From(cause)
}

// plain is the reason of a file error without the path, which the message has.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// write replaces a file in one step; it is on the disk when this returns.
func (f *folder) write(name string, data []byte, mode fs.FileMode) error {
	return f.explain(file.Replace(f.path(name), data, mode))
}

// full is less room than anything can be done in, in bytes.
const full = 1 << 20

// explain says of an error that is no fault that the disk is full, if it is:
// not every layer keeps that reason.
func (f *folder) explain(err error) error {
	if err == nil || fault.Find(err) != nil {
		return err
	}
	var st syscall.Statfs_t
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		syscall.Statfs(f.dir, &st) == nil && st.Bavail*uint64(st.Bsize) < full {
		return fault.New(fault.StorageFull, "StorageFull", "There is no room left for the data folder %s. Free some space and try again.", f.dir).From(err)
	}
	return err
}

// lock takes the folder for this process until the file is closed.
func (f *folder) lock() (*os.File, error) {
	file, err := os.OpenFile(f.path("lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fault.Denied("The data folder %s cannot be written: %v.", f.dir, plain(err)).From(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.dir, err)
		}
		holder := "another server"
		if pid := readPid(file); pid > 0 {
			holder = fmt.Sprintf("the server with pid %d", pid)
		}
		return nil, fault.New(fault.Locked, "DataFolderInUse", "The data folder %s is in use by %s. Stop it with `lapis down --data %s`, or name another folder with --data.", f.dir, holder, quote(f.dir))
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, f.explain(err)
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		file.Close()
		return nil, f.explain(err)
	}
	return file, nil
}

func readPid(r io.ReaderAt) int {
	b := make([]byte, 32)
	n, _ := r.ReadAt(b, 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// serverPid is the pid of the server that holds the folder, 0 if none does.
func (f *folder) serverPid() (int, error) { return holder(f.path("lock")) }

// holder is the pid of the process that holds a lock, 0 if none does.
func holder(path string) (int, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return readPid(file), nil
	}
	return 0, err
}

// admitVersion refuses a layout that is newer than this program. An older one
// is the business of migrations, which start here when there are any.
func (f *folder) admitVersion() error {
	b, err := os.ReadFile(f.path("version"))
	if errors.Is(err, fs.ErrNotExist) {
		return f.write("version", []byte(strconv.Itoa(layoutVersion)+"\n"), 0o644)
	}
	if err != nil {
		return err
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fault.Invalid("The file %s holds %q, which is no version. It should hold %d.", f.path("version"), strings.TrimSpace(string(b)), layoutVersion)
	}
	if v > layoutVersion {
		return fault.Conflicts("The data folder %s was written by a newer lapis (layout %d; this one knows %d). Use that lapis, or name another folder with --data.", f.dir, v, layoutVersion)
	}
	return nil
}

// serverInfo is what server.json says. Pid is 0 when the server has stopped;
// the rest then says where it was.
type serverInfo struct {
	URL     string    `json:"url"`   // the default one
	URLs    []string  `json:"urls"`  // all that were asked for
	Plain   string    `json:"plain"` // plain HTTP on loopback
	Port    string    `json:"port"`
	Pid     int       `json:"pid"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

func (f *folder) readServer() (serverInfo, error) {
	var s serverInfo
	b, err := os.ReadFile(f.path("server.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func (f *folder) writeServer(s serverInfo) error {
	b, _ := json.MarshalIndent(s, "", "  ")
	return f.write("server.json", append(b, '\n'), 0o644)
}
