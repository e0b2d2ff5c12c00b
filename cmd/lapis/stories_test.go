package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// dataFolder is a folder for a server that is killed at the end: what it had
// begun, such as an environment, may still be written for a moment.
func dataFolder(t testing.TB) string {
	dir, err := os.MkdirTemp("", "lapis-data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 50 {
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s cannot be removed: something goes on writing there", dir)
	})
	return filepath.Join(dir, "data")
}

// TestStories runs the scripts in testdata/stories against one server, as a
// user types them: the first word `lapis` is the binary, which knows the server
// by its data folder.
func TestStories(t *testing.T) {
	s := start(t, dataFolder(t), "--slots", "4")
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "stories"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("LAPIS_DATA", s.dir)
			e.Setenv("PATH", filepath.Dir(s.bin)+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			for _, name := range []string{"LAPIS_UV", "UV_CACHE_DIR", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"} {
				if v := os.Getenv(name); v != "" {
					e.Setenv(name, v)
				}
			}
			return nil
		},
	})
}

// BenchmarkCommand is one command from start to end, as a shell waits for it.
func BenchmarkCommand(b *testing.B) {
	s := start(b, filepath.Join(b.TempDir(), "data"))
	for name, args := range map[string][]string{
		"help":    {"job", "--help"},
		"dry-run": {"job", "create", "--dry-run", "-f", filepath.Join("..", "..", "examples", "iris", "job.yml")},
		"list":    {"job", "list"},
		"show":    {"workspace", "show", "-n", "main"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(s.bin, args...)
				cmd.Env = append(os.Environ(), "LAPIS_DATA="+s.dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
			}
		})
	}
}
