package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

// TestNoMutantIsTheServersFault puts a value of every type into every place of
// files of all kinds and sends what the client lets through: the server takes
// it or refuses it, and never fails.
func TestNoMutantIsTheServersFault(t *testing.T) {
	s := start(t, dataFolder(t))
	t.Setenv("LAPIS_DATA", s.dir)
	t.Setenv("ARM_CLOUD_METADATA_URL", "")
	cfg, err := (&scopeFlags{}).configuration()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "a.py"), []byte("pass"), 0o644); err != nil {
		t.Fatal(err)
	}
	values := []string{"null", "true", "-7", "1.5", "word", "''", "[1, two]", "{a: 1}", "[]", "{}", "2024-01-01", "99999999999", "a/b", "ü", strings.Repeat("x", 250)}
	var sent, taken, refused atomic.Int64
	var nouns sync.WaitGroup
	for _, noun := range spec.Nouns {
		source, err := os.ReadFile(filepath.Join("..", "..", "client", "spec", "testdata", "every", noun+".yml"))
		if err != nil {
			t.Fatal(err)
		}
		whole, err := spec.Parse("file.yml", dir, source)
		if err != nil {
			t.Fatal(err)
		}
		// A compute takes its time; the others need not wait for it.
		nouns.Go(func() {
			for _, path := range whole.Paths() {
				for _, v := range values {
					d, err := spec.Parse("file.yml", dir, source)
					if err != nil {
						t.Error(err)
						return
					}
					if d.Set(path+"="+v) != nil {
						continue
					}
					set := map[string]string{}
					if noun == "job" { // one that is taken runs: let it be quick
						set["command"] = "true"
						if !strings.HasPrefix(path, "environment") {
							set["environment"] = "{image: a}"
						}
						if path != "name" {
							set["name"] = fmt.Sprintf("mutant_%d", sent.Load())
						}
					}
					for key, value := range set {
						if err := d.Set(key + "=" + value); err != nil {
							t.Error(err)
						}
					}
					o := spec.Options{Target: c.Target, Experiment: "mutants"}
					if spec.Check(context.Background(), d, noun, o) != nil {
						continue
					}
					sent.Add(1)
					_, err = c.Create(context.Background(), d, noun, o)
					switch f := fault.Find(err); {
					case err == nil:
						taken.Add(1)
					case f == nil || f.Kind == fault.Internal || f.Kind == fault.Unavailable:
						t.Errorf("%s: %s=%s: %v", noun, path, v, err)
					default:
						refused.Add(1)
					}
				}
			}
		})
	}
	nouns.Wait()
	t.Logf("%d sent, %d taken, %d refused", sent.Load(), taken.Load(), refused.Load())
	if taken.Load() == 0 || refused.Load() == 0 {
		t.Error("this tests nothing")
	}
}
