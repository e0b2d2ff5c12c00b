package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	// A copy: in a repository, git is asked for the commit.
	files := b.TempDir()
	if err := os.CopyFS(files, os.DirFS(filepath.Join("..", "..", "examples", "iris"))); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		target int // ms
		args   []string
	}{
		{"help", 50, []string{"job", "--help"}},
		{"dry-run", 20, []string{"job", "create", "--dry-run", "-f", filepath.Join(files, "job.yml")}},
		{"list", 50, []string{"job", "list"}},
		{"show", 50, []string{"workspace", "show"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				cmd := exec.Command(s.bin, c.args...)
				cmd.Env = append(os.Environ(), "LAPIS_DATA="+s.dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				took = append(took, time.Since(began))
			}
			if slices.Sort(took); len(took) >= 10 {
				figure("command, "+c.name, "p50 %.1f ms, p99 %.1f ms of %d starts (target %d ms)", ms(took[len(took)/2]), ms(took[len(took)*99/100]), len(took), c.target)
			}
		})
	}
}
