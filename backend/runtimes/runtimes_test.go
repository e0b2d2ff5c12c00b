package runtimes

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"lapis/fault"
)

func TestWithoutAPackageIndexTheFaultSaysSo(t *testing.T) {
	offline := fault.New(fault.Unavailable, "PackageIndexUnavailable", "no index")
	dir := t.TempDir()
	r := New(Config{Dir: dir, Runner: "/bin/true", Fetch: func(context.Context, Package, string, io.Writer) error { return offline }})
	if _, _, err := r.Native(context.Background(), io.Discard); !errors.Is(err, offline) {
		t.Errorf("the fault is that of the index: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("nothing half-made stays: %v", left)
	}
}

func TestALibraryOfAnotherHashIsRefused(t *testing.T) {
	r := New(Config{Dir: t.TempDir(), Runner: "/bin/true", Fetch: func(_ context.Context, p Package, dir string, _ io.Writer) error {
		capi := filepath.Join(dir, "onnxruntime", "capi")
		if err := os.MkdirAll(capi, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(capi, "libonnxruntime.so."+p.Version), []byte("something else"), 0o755)
	}})
	if _, _, err := r.Native(context.Background(), io.Discard); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "hash") {
		t.Errorf("it must say that the hash differs: %v", err)
	}
}

func TestALibraryThatWasDamagedIsFetchedAgain(t *testing.T) {
	fetched := 0
	stop := errors.New("far enough")
	dir := t.TempDir()
	r := New(Config{Dir: dir, Runner: "/bin/true", Fetch: func(context.Context, Package, string, io.Writer) error { fetched++; return stop }})
	at := filepath.Join(dir, "onnxruntime-"+onnxVersion+"-"+runtime.GOARCH)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(at, "libonnxruntime.so"), []byte("half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Native(context.Background(), io.Discard); !errors.Is(err, stop) || fetched != 1 {
		t.Errorf("it was fetched %d times: %v", fetched, err)
	}
}

// What was carried along is unpacked once, and runs.
func TestTheRunnerIsUnpacked(t *testing.T) {
	if _, err := embedded.Open("embedded/lapis-runner.gz"); err != nil {
		r := New(Config{Dir: t.TempDir()})
		if _, err := r.Runner(); !fault.Is(err, fault.NotImplemented) || !strings.Contains(err.Error(), "make") {
			t.Errorf("without a runner the fault says what to do: %v", err)
		}
		return
	}
	r := New(Config{Dir: t.TempDir()})
	first, err := r.Runner()
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Runner()
	if err != nil || first != second {
		t.Errorf("a second call finds it: %s %s %v", first, second, err)
	}
	cmd := exec.Command(first)
	cmd.Env = nil
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "LAPIS_GROUP_DIR") {
		t.Errorf("it runs, and says what it misses: %v %s", err, out)
	}
}
