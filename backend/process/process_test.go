package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lapis/backend/disk"
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
				pause := 300 * time.Millisecond
				arg, very := strings.CutPrefix(arg, "very ")
				if very { // longer than a busy machine takes for what comes before
					pause = 3 * time.Second
				}
				if step, ok := strings.CutPrefix(arg, "slow at "); ok {
					checkpoint = func(s string) {
						if s == step {
							time.Sleep(pause)
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
		dir, blobs := t.TempDir(), testStore(t)
		return runtimetest.Subject{
			Runtime: open(t, dir, blobs),
			Blobs:   blobs,
			Reopen:  func() compute.Runtime { return open(t, dir, blobs) },
		}
	})
}

// store opens the blobs in dir.
func store(dir string) (blob.Store, error) {
	d, err := disk.New(dir)
	return shortPages{d}, err
}

func testStore(t testing.TB) blob.Store {
	t.Helper()
	blobs, err := store(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.(shortPages).Close() })
	return blobs
}

// shortPages is a store whose listings have several pages.
type shortPages struct{ *disk.Store }

func (s shortPages) List(ctx context.Context, c blob.Container, q blob.Query) (blob.Page, error) {
	q.Limit = 3
	return s.Store.List(ctx, c, q)
}

func TestTheHeadOfALongLogGivesItsRoomBack(t *testing.T) {
	const keep = 1 << 20
	s := supervisor{order: order{Dir: t.TempDir(), LogKeep: keep}}
	path := filepath.Join(s.Dir, artefacts, stdLog)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	room := func() int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Sys().(*syscall.Stat_t).Blocks * 512
	}
	log := strings.Repeat("a line of a log that goes on\n", 2*keep/29)
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	s.trimLog()
	if text := read(t, path); text != log {
		t.Error("a log that is not too long was changed")
	}
	log += log
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	if room() < 3*keep {
		t.Skip("the file system here compresses what it keeps")
	}
	s.trimLog()
	text := read(t, path)
	if len(text) != len(log) || text[len(text)-keep:] != log[len(log)-keep:] {
		t.Errorf("the log's last %d bytes are not what was written", keep)
	}
	if room() > keep+64<<10 {
		t.Errorf("the log still takes %d bytes of the disk", room())
	}
}
