package environment_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/ml/environment"
)

func TestParseConda(t *testing.T) {
	r, err := environment.ParseConda(`
name: model-env
channels:
  - pytorch
  - conda-forge
dependencies:
  - python=3.10
  - pip
  - numpy=1.21
  - conda-forge::scikit-learn>=1.1,<1.3
  - pytorch==2.0.1=py3.10_cpu_0
  - gcc
  - pip:
    - mlflow==2.10.0  # tracking
    - "--extra-index-url https://example.org/simple"
    - -f https://example.org/wheels
    - azureml-defaults
`)
	if err != nil {
		t.Fatal(err)
	}
	if r.Python != "3.10" {
		t.Errorf("python is %q: the zero of 3.10 must stay", r.Python)
	}
	if !slices.Equal(r.Channels, []string{"pytorch", "conda-forge"}) {
		t.Errorf("channels are %q", r.Channels)
	}
	lines, notes, err := r.Requirements()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"numpy==1.21.*", "scikit-learn>=1.1,<1.3", "torch==2.0.1", "mlflow==2.10.0",
		"--extra-index-url https://example.org/simple", "--find-links https://example.org/wheels", "azureml-defaults",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("requirements are\n%q, want\n%q", lines, want)
	}
	for _, word := range []string{"pytorch as torch", "left out, PyPI has no counterpart: gcc"} {
		if !strings.Contains(strings.Join(notes, "\n"), word) {
			t.Errorf("notes %q do not say %q", notes, word)
		}
	}
}

func TestCondaSpecsBecomeRequirements(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"numpy", "numpy"},
		{"NumPy", "numpy"},
		{"numpy=1.21", "numpy==1.21.*"},
		{"numpy =1.21", "numpy==1.21.*"},
		{"numpy=1.21.*", "numpy==1.21.*"},
		{"numpy 1.21.*", "numpy==1.21.*"},
		{"numpy 1.21", "numpy==1.21"},
		{"numpy==1.21", "numpy==1.21"},
		{"numpy==1.21.*", "numpy==1.21.*"},
		{"numpy=1.21.2=py38_0", "numpy==1.21.2"},
		{"numpy 1.21.2 py38_0", "numpy==1.21.2"},
		{"numpy>=1.21,<2", "numpy>=1.21,<2"},
		{"numpy >= 1.21, < 2", "numpy>=1.21,<2"},
		{"numpy!=1.5.*", "numpy!=1.5.*"},
		{"numpy~=1.5", "numpy~=1.5"},
		{"numpy=*", "numpy"},
		{"numpy=1.20|=1.21", "numpy==1.21.*"},
		{"numpy[version='>=1.21,<2',build=py38]", "numpy>=1.21,<2"},
		{"defaults::numpy=1", "numpy==1.*"},
		{"py-xgboost=1.7", "xgboost==1.7.*"},
		{"matplotlib-base", "matplotlib"},
		{"opencv", "opencv-python-headless"},
		{"pip<=23.1", "pip<=23.1"},
	} {
		lines, _, err := environment.Recipe{Conda: []string{c.spec}}.Requirements()
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
		} else if got := strings.Join(lines, " "); got != c.want {
			t.Errorf("%s becomes %q, want %q", c.spec, got, c.want)
		}
	}
}

func TestPythonVersionsOfCondaFiles(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"python=3.10", "3.10"},
		{"python==3.8.5", "3.8.5"},
		{"python 3.9", "3.9"},
		{"python=3.8.*", "3.8"},
		{"python>=3.8,<3.11", ">=3.8,<3.11"},
		{"python", ""},
	} {
		r, err := environment.ParseConda("dependencies:\n- " + c.spec)
		if err != nil || r.Python != c.want {
			t.Errorf("%s asks for %q (%v), want %q", c.spec, r.Python, err, c.want)
		}
	}
}

func TestAMistakeIsNamedWithItsLineAndField(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no mapping", "- numpy", "line 1, conda_file"},
		{"broken YAML", "dependencies:\n  - [numpy", "not valid YAML: [2:"},
		{"dependencies are no list", "name: x\ndependencies: numpy", "line 2, dependencies: a list is expected"},
		{"a second python", "dependencies:\n- python=3.8\n- python=3.9", "line 3, dependencies[1]: python is asked for a second time"},
		{"a strange version", "dependencies:\n- numpy=", "line 2, dependencies[0]"},
		{"a file that is not there", "dependencies:\n- pip:\n  - six\n  - -r requirements.txt", "line 4, dependencies[0].pip[1]"},
		{"a folder that is not there", "dependencies:\n- pip:\n  - -e .", "line 3, dependencies[0].pip[0]"},
		{"a path", "dependencies:\n- pip:\n  - ./wheel.whl", "is a path"},
		{"an option of pip install", "dependencies:\n- pip:\n  - --target=/etc", "option --target cannot stand"},
		{"a nested npm list", "dependencies:\n- npm:\n  - left-pad", "only a pip list may be nested"},
		{"a section twice", "dependencies: []\ndependencies: []", "2"},
		{"too long", strings.Repeat("#", 1<<20), "the limit is"},
	} {
		_, err := environment.ParseConda(c.text)
		if err == nil || !fault.Is(err, fault.BadRequest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want a 400 that says %q", c.name, err, c.want)
		}
	}
}

func TestOddFilesThatAreFine(t *testing.T) {
	for _, text := range []string{
		"", "# nothing", "name: x", "dependencies:", "dependencies:\n- pip:", "{dependencies: [python=3.9, {pip: [six]}]}",
	} {
		if _, err := environment.ParseConda(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	r, err := environment.ParseConda("dependancies:\n- numpy")
	if err != nil || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "dependancies") {
		t.Errorf("a misspelt section: %v, notes %q", err, r.Notes)
	}
}

func TestRequirementsFiles(t *testing.T) {
	r, err := environment.ParseRequirements("3.11", "# ours\nsix==1.16 # old\n\nidna \\\n  >=2 ; python_version > '3'\n-i https://example.org/simple\ngit+https://example.org/a.git@main\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"six==1.16", "idna >=2 ; python_version > '3'", "--index-url https://example.org/simple", "git+https://example.org/a.git@main"}
	if !slices.Equal(r.Pip, want) || r.Python != "3.11" {
		t.Errorf("got %+v", r)
	}
	if _, err := environment.ParseRequirements("", "six\n-r more.txt"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestHashIsOfWhatIsAskedFor(t *testing.T) {
	base := environment.Recipe{Python: "3.10", Pip: []string{"six", "idna", "--index-url https://a", "--extra-index-url https://b"}}
	same := environment.Recipe{Python: "3.10", Channels: []string{"conda-forge"}, Notes: []string{"x"},
		Pip: []string{"idna", "six", " six ", "--index-url  https://a", "--extra-index-url https://b"}}
	if base.Hash() != same.Hash() {
		t.Error("order, blanks, notes and idle channels change the hash")
	}
	for _, other := range []environment.Recipe{
		{}, {Python: "3.11", Pip: base.Pip}, {Python: "3.10", Pip: base.Pip[:3]}, {Python: "3.10", Conda: base.Pip[:2], Pip: base.Pip[2:]},
		{Python: "3.10", Pip: []string{"six", "idna", "--extra-index-url https://b", "--index-url https://a"}},
	} {
		if other.Hash() == base.Hash() {
			t.Errorf("%+v has the same hash", other)
		}
	}
}

func TestCondaFilesOfTheExamplesAreRead(t *testing.T) {
	root := filepath.Join("..", "..", "..", "shared", "corpus", "azureml-examples")
	if _, err := os.Stat(root); err != nil {
		t.Skip("the public examples are not beside the repository")
	}
	count := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "ml") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains("\n"+string(text), "\ndependencies:") || strings.HasPrefix(filepath.Base(path), "python_env") {
			return nil
		}
		count++
		r, err := environment.ParseConda(string(text))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		if _, _, err := r.Requirements(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count < 20 {
		t.Errorf("only %d conda files were found", count)
	}
}

func FuzzParseConda(f *testing.F) {
	f.Add("dependencies:\n- python=3.8\n- numpy>=1,<2\n- pip:\n  - six\n")
	f.Add("a: &x [1]\nb: *x\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := environment.ParseConda(text)
		if err != nil {
			if fault.Find(err) == nil {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		if _, _, err := r.Requirements(); err != nil {
			t.Fatalf("was read, cannot be written: %v", err)
		}
		r.Hash()
	})
}

func TestCondaFilesOfOurExamplesAreRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "examples", "*", "conda.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no example has a conda file: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r, err := environment.ParseConda(string(text))
		if err != nil || r.Python == "" || len(r.Pip) == 0 || len(r.Notes) > 0 {
			t.Errorf("%s: %+v, %v", file, r, err)
		}
	}
}
