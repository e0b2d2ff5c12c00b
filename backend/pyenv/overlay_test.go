package pyenv_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lapis/backend/pyenv"
	"lapis/ml/environment"
)

func TestWhatAJobInstallsStaysInItsOverlay(t *testing.T) {
	needUV(t)
	b := newBuilder(t)
	shared, err := b.Build(t.Context(), environment.Recipe{Pip: []string{"idna==3.7", "six==1.16.0"}}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	shell := func(bin, command string) string {
		t.Helper()
		cmd := exec.Command("bash", "-c", command)
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	jobs := make([]string, 2)
	for i := range jobs {
		dir := filepath.Join(t.TempDir(), []string{"it's a job", "plain"}[i], "env")
		for range 2 { // a crash in between makes it a second time
			if jobs[i], err = pyenv.Overlay(filepath.Join(shared.Dir, "bin"), dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	const what = `python -c "import six, idna; print(six.__version__, idna.__version__)"`
	if got := shell(jobs[0], what); got != "1.16.0 3.7" {
		t.Errorf("the overlay sees %q", got)
	}
	shell(jobs[0], "pip install -q six==1.17.0 tabulate==0.9.0")
	for _, c := range []struct{ name, bin, want string }{
		{"the job that installed", jobs[0], "1.17.0 3.7"},
		{"another job", jobs[1], "1.16.0 3.7"},
		{"the shared environment", filepath.Join(shared.Dir, "bin"), "1.16.0 3.7"},
	} {
		if got := shell(c.bin, what); got != c.want {
			t.Errorf("%s sees %q, want %q", c.name, got, c.want)
		}
	}
	if got := shell(jobs[0], "command -v tabulate && printf 'a b' | tabulate"); !strings.HasPrefix(got, jobs[0]) {
		t.Errorf("the script that came with a package is %q", got)
	}
	if got := shell(jobs[1], "command -v pip"); got != filepath.Join(jobs[1], "pip") {
		t.Errorf("pip is %q", got)
	}
	if got := shell(jobs[1], "pip --version"); !strings.Contains(got, shared.Dir) || !strings.HasPrefix(got, "pip ") {
		t.Errorf("pip says %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(shared.Dir, "lib", "python3*", "site-packages", "tabulate*")); len(left) > 0 {
		t.Errorf("the shared environment has %q", left)
	}
}

func BenchmarkOverlay(b *testing.B) {
	if _, err := exec.LookPath("uv"); err != nil {
		b.Skip("there is no uv on PATH")
	}
	builder, err := pyenv.New(pyenv.Config{Dir: b.TempDir(), Env: os.Environ()})
	if err != nil {
		b.Fatal(err)
	}
	defer builder.Close()
	shared, err := builder.Build(b.Context(), environment.Recipe{Pip: []string{"idna==3.7"}}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		if _, err := pyenv.Overlay(filepath.Join(shared.Dir, "bin"), filepath.Join(dir, string(rune('a'+i%26)), filepath.Base(b.TempDir()))); err != nil {
			b.Fatal(err)
		}
	}
}
