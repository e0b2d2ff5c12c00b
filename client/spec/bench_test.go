package spec_test

import (
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDryRun makes the requests of a job with code, an environment and an
// input.
func BenchmarkDryRun(b *testing.B) {
	dir := b.TempDir()
	os.Mkdir(filepath.Join(dir, "src"), 0o755)
	os.WriteFile(filepath.Join(dir, "src", "train.py"), make([]byte, 4096), 0o644)
	os.WriteFile(filepath.Join(dir, "data.csv"), make([]byte, 4096), 0o644)
	source := "command: python train.py --data ${{inputs.data}}\ncode: src\nenvironment:\n  image: python\n  conda_file: {dependencies: [python=3.11, pip]}\ninputs:\n  data: {type: uri_file, path: data.csv}\n"
	for b.Loop() {
		if _, err := create(b, dir, "job", source); err != nil {
			b.Fatal(err)
		}
	}
}
