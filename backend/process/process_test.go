package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/compute/runtimetest"
)

// TestMain lets the test binary be the supervisor, and the server that dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			for _, arg := range os.Args[2:] {
				if step, ok := strings.CutPrefix(arg, "slow at "); ok {
					checkpoint = func(s string) {
						if s == step {
							time.Sleep(300 * time.Millisecond)
						}
					}
				} else {
					dieAt(arg)
				}
			}
			// Without the second that the race detector takes for its exit; open
			// looks for what it has found.
			syscall.Exit(Supervise())
		case "serve-and-die":
			serveAndDie(os.Args[2], os.Args[3], os.Args[4:])
		}
	}
	os.Exit(m.Run())
}

// dieAt makes this process kill itself at the step.
func dieAt(step string) {
	checkpoint = func(s string) {
		if s == step {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

func open(t *testing.T, dir string, blobs blob.Store, supervisor ...string) *Runtime {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: dir, Blobs: blobs, Supervisor: append([]string{exe, "supervise"}, supervisor...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		logs, err := filepath.Glob(filepath.Join(dir, "*", ownLog))
		if err != nil {
			t.Error(err)
		}
		for _, path := range logs {
			if text := read(t, path); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
				t.Errorf("%s:\n%s", path, text)
			}
		}
	})
	return r
}

func TestRuntime(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		dir, blobs := t.TempDir(), &memory{}
		return runtimetest.Subject{
			Runtime: open(t, dir, blobs),
			Blobs:   blobs,
			Reopen:  func() compute.Runtime { return open(t, dir, blobs) },
		}
	})
}

// memory is a blob.Store of the calls that the runtime makes.
type memory struct {
	blob.Store
	mu    sync.Mutex
	blobs map[string][]byte // "account/container/key"
}

func at(c blob.Container, key string) string { return c.Account + "/" + c.Name + "/" + key }

func (m *memory) CreateContainer(_ context.Context, c blob.Container) error { return nil }

func (m *memory) Put(_ context.Context, c blob.Container, key string, r io.Reader, size int64, _ blob.Attributes, _ blob.Condition) (blob.Info, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return blob.Info{}, err
	}
	if size >= 0 && int64(len(b)) != size {
		return blob.Info{}, fmt.Errorf("%s: %d bytes of %d", key, len(b), size)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[string][]byte{}
	}
	m.blobs[at(c, key)] = b
	return blob.Info{Key: key, Size: int64(len(b))}, nil
}

func (m *memory) Open(_ context.Context, c blob.Container, key string, offset, length int64) (io.ReadCloser, blob.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[at(c, key)]
	if !ok {
		return nil, blob.Info{}, fault.NotFound("no blob %q", key).With("BlobNotFound")
	}
	return io.NopCloser(bytes.NewReader(b)), blob.Info{Key: key, Size: int64(len(b))}, nil
}

func (m *memory) Stat(ctx context.Context, c blob.Container, key string) (blob.Info, error) {
	_, info, err := m.Open(ctx, c, key, 0, -1)
	return info, err
}

func (m *memory) List(_ context.Context, c blob.Container, q blob.Query) (blob.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var p blob.Page
	for k, b := range m.blobs {
		if key, ok := strings.CutPrefix(k, at(c, "")); ok && strings.HasPrefix(key, q.Prefix) && key > q.After {
			p.Blobs = append(p.Blobs, blob.Info{Key: key, Size: int64(len(b))})
		}
	}
	slices.SortFunc(p.Blobs, func(a, b blob.Info) int { return strings.Compare(a.Key, b.Key) })
	if len(p.Blobs) > 3 { // pages are short, so that paging is used
		p.Blobs = p.Blobs[:3]
		p.Next = p.Blobs[2].Key
	}
	return p, nil
}
