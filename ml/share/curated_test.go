package share_test

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lapis/ml/share"
)

var pinned = regexp.MustCompile(`^  - [a-z0-9][a-z0-9._-]*==[^\s=*<>~,;]+$`)

func TestEveryLineOfACuratedEnvironmentIsPinned(t *testing.T) {
	all, err := share.Curated()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 7 {
		t.Errorf("there are %d versions", len(all))
	}
	for _, a := range all {
		_, list, _ := strings.Cut(a.Properties.Text("condaFile"), "- pip:\n")
		lines := strings.Split(strings.TrimRight(list, "\n"), "\n")
		if len(lines) < 20 {
			t.Errorf("%s:%s has %d requirements", a.Name, a.Version, len(lines))
		}
		for _, line := range lines {
			if !pinned.MatchString(line) {
				t.Errorf("%s: %q is not pinned", a.Name, line)
			}
		}
	}
}

// TestEveryCuratedEnvironmentThatFilesNameIsThere reads the references of the
// corpus of examples.
func TestEveryCuratedEnvironmentThatFilesNameIsThere(t *testing.T) {
	f, err := os.Open(corpus(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := share.Curated()
	if err != nil {
		t.Fatal(err)
	}
	has := func(name, version, label string) bool {
		for i, a := range all {
			if a.Name != name {
				continue
			}
			latest := i+1 == len(all) || all[i+1].Name != name
			if a.Version == version || label == "latest" && latest {
				return true
			}
			for _, l := range a.Labels {
				if l == label {
					return true
				}
			}
		}
		return false
	}
	registered := regexp.MustCompile(`^azureml://registries/azureml/environments/([^/]+)/(versions|labels)/([^/]+)$`)
	named := regexp.MustCompile(`^azureml:AzureML-([^:@]+)(?::([^:@]+)|@([^:@]+))$`)
	seen := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		cells := strings.Split(lines.Text(), "\t")
		if len(cells) < 2 {
			continue
		}
		name, version, label := "", "", ""
		if m := registered.FindStringSubmatch(cells[1]); m != nil {
			if name, version = m[1], m[3]; m[2] == "labels" {
				version, label = "", m[3]
			}
		} else if m := named.FindStringSubmatch(cells[1]); m != nil {
			name, version, label = m[1], m[2], m[3]
		} else {
			continue
		}
		seen++
		if !has(name, version, label) {
			t.Errorf("%s is not there", cells[1])
		}
	}
	if seen < 10 {
		t.Errorf("only %d references were found", seen)
	}
}

// corpus finds the table of references, or skips the test.
func corpus(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		table := filepath.Join(dir, "shared", "corpus", "environments.tsv")
		if _, err := os.Stat(table); err == nil {
			return table
		}
		if dir == filepath.Dir(dir) {
			t.Skip("the corpus is not beside the repository")
		}
	}
}
