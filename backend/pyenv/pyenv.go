// Package pyenv makes Python environments on this machine with uv, or with
// venv and pip where uv cannot be had. Each lives in a folder named by the
// hash of its recipe and counts only once its marker is written, so that
// neither a crash nor a second server ever leaves half of one in use.
package pyenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/environment"
)

// Config tells a Builder where to work and with what.
type Config struct {
	Dir     string        // the environments' folder, such as DATA/envs
	Tools   string        // where uv is fetched to if there is none; "" never fetches it
	UV      string        // uv's path; "" looks on PATH, then in Tools
	Env     []string      // "NAME=value": the server's environment, for proxies, indexes and CAs
	Timeout time.Duration // of one build; 0 means 1 h
	Quota   int64         // bytes that Sweep leaves; 0 means 50 GB
	Fetch   bool          // lets uv download a Python that is not on this machine
}

// atOnce is how many builds run side by side; more only slow each other down.
const atOnce = 2

// Builder is an environment.Builder. Close it to end its builds.
type Builder struct {
	cfg     Config
	vars    variables
	pythons pythons
	uv      uvTool

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	slots   chan struct{} // held by builds that install packages
	mu      sync.Mutex
	flights map[string]*flight // builds under way, by hash
}

var _ environment.Builder = (*Builder)(nil)

// New returns a builder and removes what earlier ones left half-made.
func New(cfg Config) (*Builder, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Hour
	}
	if cfg.Quota <= 0 {
		cfg.Quota = 50 << 30
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("environments folder %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(filepath.Join(dir, ".locks"), 0o755); err != nil {
		return nil, fmt.Errorf("environments folder: %w", err)
	}
	vars := parseVariables(cfg.Env)
	if vars["HOME"] == "" { // as in a bare service: uv and pip want a place for what they fetched
		vars.setDefault("UV_CACHE_DIR", filepath.Join(dir, ".cache", "uv"))
		vars.setDefault("PIP_CACHE_DIR", filepath.Join(dir, ".cache", "pip"))
	}
	b := &Builder{
		cfg: cfg, vars: vars, flights: map[string]*flight{}, slots: make(chan struct{}, atOnce),
		pythons: pythons{vars: vars},
		uv:      uvTool{path: cfg.UV, tools: cfg.Tools, vars: vars},
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if err := b.clean(); err != nil {
		return nil, err
	}
	return b, nil
}

// Close ends the builds under way and waits for them.
func (b *Builder) Close() error {
	b.mu.Lock()
	b.stop()
	b.mu.Unlock()
	b.wg.Wait()
	return nil
}

// LogFile is where the log of the newest build of the recipe's hash is kept.
func (b *Builder) LogFile(hash string) string {
	return filepath.Join(b.cfg.Dir, hash+".log")
}

// Find returns the ready environment of the recipe and marks it as used.
func (b *Builder) Find(_ context.Context, r environment.Recipe) (environment.Built, bool) {
	return b.find(r.Hash())
}

func (b *Builder) find(hash string) (environment.Built, bool) {
	dir := filepath.Join(b.cfg.Dir, hash)
	text, err := os.ReadFile(filepath.Join(dir, readyFile))
	if err != nil {
		return environment.Built{}, false
	}
	var m marker
	if json.Unmarshal(text, &m) != nil {
		return environment.Built{}, false
	}
	// The interpreter that the environment stands on may have been removed since.
	if _, err := os.Stat(filepath.Join(dir, "bin", "python")); err != nil {
		return environment.Built{}, false
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Join(dir, readyFile), now, now) // best effort: it only orders the sweep
	return environment.Built{Hash: hash, Dir: dir, Python: m.Python, Notes: m.Notes}, true
}

// flight is one build that any number of callers wait for.
type flight struct {
	log     *buildLog
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	built   environment.Built
	err     error
}

// Build makes the environment unless it is ready. The build goes on while
// anyone waits for it, and ends when the last has left.
func (b *Builder) Build(ctx context.Context, r environment.Recipe, w io.Writer) (environment.Built, error) {
	hash := r.Hash()
	if built, ok := b.find(hash); ok {
		return built, nil
	}
	b.mu.Lock()
	if b.ctx.Err() != nil {
		b.mu.Unlock()
		return environment.Built{}, fault.New(fault.Unavailable, "ServerStopping", "the server is stopping; the environment is built when it runs again")
	}
	f := b.flights[hash]
	if f == nil {
		flying, cancel := context.WithTimeout(b.ctx, b.cfg.Timeout)
		f = &flight{log: newBuildLog(b.LogFile(hash)), cancel: cancel, done: make(chan struct{})}
		b.flights[hash] = f
		b.wg.Go(func() {
			defer cancel()
			f.built, f.err = b.locked(flying, hash, r, f.log)
			f.log.close()
			b.mu.Lock()
			if b.flights[hash] == f {
				delete(b.flights, hash)
			}
			b.mu.Unlock()
			close(f.done)
		})
	}
	f.waiters++
	b.mu.Unlock()

	err := f.log.follow(ctx, w)
	if err == nil {
		<-f.done
		return f.built, f.err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f.waiters--
	if f.waiters == 0 {
		f.cancel()
		if b.flights[hash] == f {
			delete(b.flights, hash) // who comes now begins anew, once this one is gone
		}
	}
	return environment.Built{}, err
}

// locked builds under the lock that all servers of this folder share.
func (b *Builder) locked(ctx context.Context, hash string, r environment.Recipe, log *buildLog) (environment.Built, error) {
	unlock, err := b.lock(ctx, hash, func() { log.stage("waiting for another build of this environment") })
	if err != nil {
		return environment.Built{}, b.ended(ctx, err)
	}
	defer unlock()
	if built, ok := b.find(hash); ok {
		return built, nil
	}
	if len(r.Conda)+len(r.Pip) > 0 {
		select {
		case b.slots <- struct{}{}:
		default:
			log.stage("waiting for %d other environments that are being built", atOnce)
			select {
			case b.slots <- struct{}{}:
			case <-ctx.Done():
				return environment.Built{}, b.ended(ctx, ctx.Err())
			}
		}
		defer func() { <-b.slots }()
	}
	dir := filepath.Join(b.cfg.Dir, hash)
	if err := removeAll(dir, dyingFor); err != nil {
		return environment.Built{}, fmt.Errorf("remove a half-made environment: %w", err)
	}
	if err := log.open(); err != nil {
		return environment.Built{}, fmt.Errorf("build log: %w", err)
	}
	built, err := b.make(ctx, hash, dir, r, log)
	if err != nil {
		err = b.ended(ctx, err)
		if gone := removeAll(dir, dyingFor); gone != nil {
			err = errors.Join(err, fmt.Errorf("remove a half-made environment: %w", gone))
		}
		log.line("failed: " + err.Error())
		return environment.Built{}, err
	}
	return built, nil
}

// ended tells a build that was stopped from one that failed.
func (b *Builder) ended(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fault.New(fault.BadRequest, "EnvironmentBuildFailed",
			"the environment was not built within %s; its last stage is the last line of the build log", b.cfg.Timeout).From(err)
	case ctx.Err() != nil:
		return fmt.Errorf("environment build: %w", ctx.Err())
	}
	return err
}

// clean removes what builds that were cut short left behind. What another
// server is building right now is locked and stays.
func (b *Builder) clean() error {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return fmt.Errorf("environments folder: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(b.cfg.Dir, e.Name())
		if strings.HasPrefix(e.Name(), trash) {
			_ = os.RemoveAll(path) // the next start tries again
		}
		if !e.IsDir() || !isHash(e.Name()) {
			continue
		}
		if _, err := os.Stat(filepath.Join(path, readyFile)); err == nil {
			continue
		}
		unlock, ok, err := b.tryLock(e.Name())
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if _, ready := b.find(e.Name()); !ready {
			// What cannot be removed now keeps nobody from starting: it is not ready,
			// and the next build of it removes it first.
			_ = removeAll(path, startFor)
		}
		unlock()
	}
	return nil
}

// How long the programs of a build whose server was killed may go on writing
// until they are gone as well: when an environment is built anew, and when a
// server starts.
const (
	dyingFor = 5 * time.Second
	startFor = 100 * time.Millisecond
)

// removeAll removes a folder, again while somebody still writes into it.
func removeAll(dir string, within time.Duration) error {
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := os.RemoveAll(dir)
		if !errors.Is(err, syscall.ENOTEMPTY) || time.Since(start) > within {
			return err
		}
	}
}

func isHash(name string) bool {
	return len(name) == 32 && strings.Trim(name, "0123456789abcdef") == ""
}
