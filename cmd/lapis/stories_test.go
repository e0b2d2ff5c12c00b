package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestStories runs the scripts in testdata/stories against one server, as a
// user types them: the first word `lapis` is the binary, which knows the server
// by its data folder.
func TestStories(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "data"), "--slots", "4")
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
