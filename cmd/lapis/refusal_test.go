package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatIsRefusedLeavesNothing gives files to a server that are wrong in the
// last thing that is looked at: what they upload before it is not there.
func TestWhatIsRefusedLeavesNothing(t *testing.T) {
	s := start(t, dataFolder(t))
	dir := t.TempDir()
	for name, content := range map[string]string{
		"src/a.py": "pass", "data.csv": "1", "MLTable/MLTable": "no paths",
		"folder.yml":    "command: echo\ncode: src\nenvironment: {image: python}\ninputs:\n  a: {type: uri_file, path: data.csv}\n  b: {type: uri_file, path: nowhere.csv}\n",
		"unknown.yml":   "command: echo\ncode: src\nenvironment: {image: python}\ncolour: red\n",
		"binding.yml":   "command: echo ${{inputs.b}}\ncode: src\nenvironment: {image: python}\ninputs: {a: 1}\n",
		"table.yml":     "name: t\ntype: mltable\npath: MLTable\n",
		"kind.yml":      "name: t\ntype: uri_folder\npath: data.csv\n",
		"component.yml": "name: c\ncommand: echo\ncode: src\nenvironment: azureml:e:1\ninputs: {a: {type: integer, default: many}}\n",
		"secret.yml":    "name: box\ntype: azure_blob\naccount_name: a\ncontainer_name: refused-box\ncredentials: {client_secret: very-secret}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lapis := func(args ...string) (string, error) {
		cmd := exec.Command(s.bin, args...)
		cmd.Env, cmd.Dir = append(os.Environ(), "LAPIS_DATA="+s.dir), dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	before := blobs(t, s.dir)
	for _, c := range []struct{ noun, file, want string }{
		{"job", "folder.yml", `folder.yml:6: inputs.b.path: there is no file or folder "nowhere.csv"`},
		{"job", "unknown.yml", "unknown.yml:4: colour: this key is not known here"},
		{"job", "binding.yml", `binding.yml:1: command: it uses ${{inputs.b}}, and inputs has no "b"`},
		{"data", "table.yml", "MLTable"},
		{"data", "kind.yml", "kind.yml:3: path"},
		{"component", "component.yml", `component.yml:5: inputs.a.default: "many" is no value of the type integer`},
		{"datastore", "secret.yml", "secret.yml:5: credentials.client_secret: this key is not known here"},
	} {
		out, err := lapis(c.noun, "create", "-f", c.file)
		if err == nil || !strings.Contains(out, c.want) || strings.Contains(out, "very-secret") {
			t.Errorf("%s: %v\n%s", c.file, err, out)
		}
	}
	for _, noun := range []string{"job", "data", "component", "environment"} {
		if out, err := lapis(noun, "list", "--include-archived", "--query", "[?!starts_with(name, 'AzureML-')]"); err != nil || strings.TrimSpace(out) != "[]" {
			t.Errorf("%s: %v\n%s", noun, err, out)
		}
	}
	if out, err := lapis("datastore", "show", "-n", "box"); err == nil {
		t.Error(out)
	}
	if after := blobs(t, s.dir); after != before {
		t.Errorf("there were %d files, now %d", before, after)
	}
}

// blobs counts the files under a server's blobs.
func blobs(t *testing.T, dir string) (count int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			count++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}
