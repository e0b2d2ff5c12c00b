// Package process runs tasks as processes of this machine. Each task has a
// folder and a supervisor, a small process of its own that outlives the
// server; DESIGN.md tells how the two keep their promises through a crash.
package process

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/file"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

// Config says where tasks run and what they are made from.
type Config struct {
	Dir        string                      // absolute; one folder for each task, made if it is missing
	Blobs      blob.Store                  // where code and inputs come from, and logs and outputs go to
	Supervisor []string                    // command line whose process calls Supervise, such as {"/usr/bin/lapis", "supervise"}
	Log        *slog.Logger                // nil means none
	HTTP       *http.Client                // for inputs that are web addresses; nil means a client that waits a minute for the first byte
	Overlay    func(bin, dir string) error // makes in dir a task's own layer (dir/bin) over the environment whose bin folder is given; nil: tasks share it as it is
	MaxURL     int64                       // bytes of one input that is a web address; 0 means 100 GiB
	MaxFiles   int                         // files in one input, one output or the code; 0 means 1,000,000
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = time.Minute
		c.HTTP = &http.Client{Transport: t}
	}
	if c.MaxURL == 0 {
		c.MaxURL = 100 << 30
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = 1_000_000
	}
}

// Check names the field that is wrong and what it should be.
func (c Config) Check() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("process: Dir is %q, and must be an absolute path", c.Dir)
	case c.Blobs == nil:
		return errors.New("process: Blobs is not set")
	case len(c.Supervisor) == 0 || !filepath.IsAbs(c.Supervisor[0]):
		return fmt.Errorf("process: Supervisor is %q, and must begin with the absolute path of a program", c.Supervisor)
	}
	return nil
}

// Runtime is a compute.Runtime of local processes.
type Runtime struct {
	cfg   Config
	bash  string
	boot  string
	ended chan struct{}
	stop  context.CancelFunc // of ctx
	ctx   context.Context    // until Close
	loops sync.WaitGroup

	mu       sync.Mutex
	held     map[string]*holder                 // folder name → who may change the folder
	staging  map[string]context.CancelCauseFunc // folder name → the launch that is under way
	watched  map[string]bool                    // folder name → a goroutine waits for its end
	finished map[string]compute.Observed        // folder name → how it ended, which never changes
}

var _ compute.Runtime = (*Runtime)(nil)

// New opens the folder and follows the tasks that it finds running there.
func New(c Config) (*Runtime, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c.defaults()
	bash, err := exec.LookPath("bash")
	if err != nil {
		return nil, fmt.Errorf("process: jobs are run by bash, which is not on PATH: install it: %w", err)
	}
	if bash, err = filepath.Abs(bash); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	// What a process tells of itself has no links in it, so Dir has none either.
	if c.Dir, err = filepath.EvalSymlinks(c.Dir); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	r := &Runtime{
		cfg: c, bash: bash, boot: boot,
		ended:    make(chan struct{}, 1),
		held:     map[string]*holder{},
		staging:  map[string]context.CancelCauseFunc{},
		watched:  map[string]bool{},
		finished: map[string]compute.Observed{},
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if err := r.adopt(); err != nil {
		r.stop()
		return nil, fmt.Errorf("process: %w", err)
	}
	r.loops.Go(r.poll)
	return r, nil
}

// Close ends what this Runtime does by itself. Tasks go on.
func (r *Runtime) Close() error {
	r.stop()
	r.loops.Wait()
	return nil
}

// Ended is signalled when a task has ended.
func (r *Runtime) Ended() <-chan struct{} { return r.ended }

func (r *Runtime) signalEnded() {
	select {
	case r.ended <- struct{}{}:
	default:
	}
}

// folder is the name of a task's folder: readable, safe on any file system,
// and short, because jobs make sockets below it and those paths are limited to
// 107 bytes.
func folder(id string) string {
	sum := sha256.Sum256([]byte(id))
	_, name, ok := strings.Cut(id, "/")
	if !ok {
		name = id
	}
	name = strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-':
			return c
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		}
		return '_'
	}, name)
	name = name[:min(len(name), 12)]
	return name + "-" + strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:10]))
}

func (r *Runtime) dir(name string) string { return filepath.Join(r.cfg.Dir, name) }

// maxSocket is the longest path of a socket, and pythonSocket what Python's
// multiprocessing puts below TMPDIR.
const (
	maxSocket    = 107
	pythonSocket = "/pymp-12345678/listener-12345678"
)

// shortcut is a link to a task's TMPDIR for folders whose path is too long. No
// other task of this machine has one of that name.
func shortcut(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join("/tmp", "lapis-"+base32.HexEncoding.EncodeToString(sum[:10]))
}

// removeShortcut takes the link away when the task is over.
func removeShortcut(dir string) {
	if to, err := os.Readlink(shortcut(dir)); err == nil && to == filepath.Join(dir, tmpDir) {
		os.Remove(shortcut(dir))
	}
}

// tempDir returns the TMPDIR of a task: tmp/ in its folder, by a name that is
// short enough for sockets.
func tempDir(dir string) string {
	tmp := filepath.Join(dir, tmpDir)
	if len(tmp+pythonSocket) <= maxSocket {
		return tmp
	}
	link := shortcut(dir)
	os.Symlink(tmp, link)
	// On a shared machine the name may be someone else's.
	st, err := os.Lstat(link)
	if err != nil {
		return tmp
	}
	if owner, ok := st.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
		return tmp
	}
	if to, err := os.Readlink(link); err != nil || to != tmp {
		return tmp
	}
	return link
}

// holder lets one caller at a time change a task's folder.
type holder struct {
	mu    sync.Mutex
	users int
}

// hold waits for the folder and returns what gives it back.
func (r *Runtime) hold(name string) func() {
	r.mu.Lock()
	h := r.held[name]
	if h == nil {
		h = &holder{}
		r.held[name] = h
	}
	h.users++
	r.mu.Unlock()
	h.mu.Lock()
	return func() {
		h.mu.Unlock()
		r.mu.Lock()
		if h.users--; h.users == 0 {
			delete(r.held, name)
		}
		r.mu.Unlock()
	}
}

// Remove forgets an ended task.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	name := folder(id)
	defer r.hold(name)()
	dir := r.dir(name)
	o, err := r.observe(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.Phase == compute.Running {
		return fault.Conflicts("job %s still runs; cancel it and wait for its end before its folder is removed", id)
	}
	if o.Phase == compute.Staging { // half-staged by a server before this one
		lock, err := tryLock(dir)
		if errors.Is(err, errLocked) {
			return fault.Conflicts("job %s is just starting; cancel it and wait for its end before its folder is removed", id)
		}
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if err := r.discard(name); err != nil {
		return fmt.Errorf("remove folder of job %s: %w", id, err)
	}
	r.mu.Lock()
	delete(r.finished, name)
	r.mu.Unlock()
	return nil
}

// trash begins the names of folders that are being deleted.
const trash = ".trash-"

// discard takes the folder away in one step, then deletes it.
func (r *Runtime) discard(name string) error {
	gone := r.dir(trash + name)
	removeShortcut(r.dir(name))
	if err := sweep(gone); err != nil {
		return err
	}
	if err := os.Rename(r.dir(name), gone); err != nil {
		return err
	}
	if err := file.Sync(r.cfg.Dir); err != nil {
		return err
	}
	return sweep(gone)
}

// sweep deletes a folder, also where the job has taken rights away.
func sweep(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, os.ErrPermission) {
		return err
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

var errLocked = errors.New("held by another process")

// readAll reads a small file of ours; more than limit bytes is an error.
func readAll(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}
