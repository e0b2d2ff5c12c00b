package pyenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestThePythonAskedForOrTheNearest(t *testing.T) {
	var machine []interpreter
	for _, v := range []string{"3.11.7", "2.7.18", "3.6.15", "3.8.18", "3.10.4", "3.10.13", "3.13.0"} {
		parsed, _ := parseVersion(v)
		machine = append(machine, interpreter{Path: "/py/" + v, Version: parsed})
	}
	for _, c := range []struct{ want, got, note string }{
		{"", "3.11.7", ""},
		{"3", "3.11.7", ""},
		{"3.8", "3.8.18", ""},
		{"3.10", "3.10.13", ""},
		{"3.10.4", "3.10.4", ""},
		{"3.10.5", "3.10.13", "Python 3.10.13 in place of 3.10.5"},
		{"3.8.5", "3.8.18", "Python 3.8.18 in place of 3.8.5"},
		{"3.9", "3.10.13", "Python 3.10.13 in place of 3.9"},
		{"3.12", "3.13.0", "in place of 3.12"},
		{"3.14", "3.13.0", "in place of 3.14"},
		{"3.4", "3.6.15", "in place of 3.4"},
		{"2.7", "3.6.15", "in place of 2.7"},
		{">=3.8,<3.11", "3.10.13", ""},
		{">=3.8", "3.11.7", ""},
		{"<3.7|>=3.13", "3.13.0", ""},
		{"~=3.10", "3.11.7", ""},
		{"~=3.10.2", "3.10.13", ""},
		{"!=3.11.7", "3.13.0", ""},
		{">=3.14", "3.13.0", "in place of >=3.14"},
		{"nonsense", "3.11.7", ""},
	} {
		p, note, ok := choose(machine, c.want)
		if !ok || p.Version.String() != c.got || !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%q: got %s with note %q, want %s with %q", c.want, p.Version, note, c.got, c.note)
		}
	}
	if _, _, ok := choose(machine[1:2], ""); ok {
		t.Error("Python 2 is taken for a Python 3")
	}
}

func TestTheReasonOfAFailureIsTheLineAPersonNeeds(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"uv, in boxes", `==> resolving 1 package
  × No solution found when resolving dependencies:
  ╰─▶ Because foo was not found in the package registry and you require
      foo==99, we can conclude that your requirements are unsatisfiable.

      hint: something else`,
			"Because foo was not found in the package registry and you require foo==99, we can conclude that your requirements are unsatisfiable."},
		{"uv, a package that does not build", "==> resolving 1 package\nerror: Failed to build `x==1`\n  cause: The build backend returned an error\n  cause: Call to `setup` failed (exit status: 1)\n\n         [stderr]\n         Traceback (most recent call last):\n         ModuleNotFoundError: No module named 'pkg_resources'\n\nhint: This error likely indicates",
			"Failed to build `x==1`: ModuleNotFoundError: No module named 'pkg_resources'"},
		{"pip, a conflict", "ERROR: Cannot install a and b because these package versions have conflicting dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io",
			"Cannot install a and b because these package versions have conflicting dependencies."},
		{"anything else", "one\ntwo\n\n", "two"},
		{"nothing", "", "it ended without a word"},
	} {
		if got := reason(strings.Split(c.log, "\n")); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	if long := reason([]string{"error: " + strings.Repeat("word ", 1000)}); len(long) > maxReason+10 {
		t.Errorf("a reason of %d bytes", len(long))
	}
}

func TestPasswordsOfURLsAreMasked(t *testing.T) {
	for in, want := range map[string]string{
		"fetch https://me:pass@index.example/simple/six/": "fetch https://****@index.example/simple/six/",
		"--index-url=http://token@h/s and ssh://git@h/r":  "--index-url=http://****@h/s and ssh://****@h/r",
		"https://h/a@b": "https://h/a@b",
	} {
		if got := mask(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestSettingsForPipHoldForUV(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".pip"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := "[global]\nindex-url = https://company/simple\nextra_index_url =\n    https://one/simple\n    https://two/simple\n[install]\ntrusted-host: company\n[list]\nformat=json\n"
	if err := os.WriteFile(filepath.Join(home, ".pip", "pip.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	v := parseVariables([]string{
		"HOME=" + home, "PIP_FIND_LINKS=/no/such/folder " + home, "REQUESTS_CA_BUNDLE=/ca.pem", "PIP_DEFAULT_TIMEOUT=180",
		"AZURE_CLIENT_SECRET=s", "PYTHONHOME=/x", "PIP_TARGET=/y", "UV_PYTHON=3.6", "HTTPS_PROXY=http://proxy",
	}).forBuild(false)
	for name, want := range map[string]string{
		"UV_INDEX_URL": "https://company/simple", "UV_EXTRA_INDEX_URL": "https://one/simple https://two/simple",
		"UV_INSECURE_HOST": "company", "UV_FIND_LINKS": home, "SSL_CERT_FILE": "/ca.pem", "UV_HTTP_TIMEOUT": "180",
		"HTTPS_PROXY": "http://proxy", "UV_PYTHON_DOWNLOADS": "never",
		"AZURE_CLIENT_SECRET": "", "PYTHONHOME": "", "PIP_TARGET": "", "UV_PYTHON": "",
	} {
		if v[name] != want {
			t.Errorf("%s is %q, want %q", name, v[name], want)
		}
	}
	own := parseVariables([]string{"HOME=" + home, "UV_INDEX_URL=https://uv/simple", "PIP_INDEX_URL=https://pip/simple"}).forBuild(true)
	if own["UV_INDEX_URL"] != "https://uv/simple" || own["UV_EXTRA_INDEX_URL"] != "" || own["UV_PYTHON_DOWNLOADS"] != "" {
		t.Errorf("uv's own settings are overruled: %q %q", own["UV_INDEX_URL"], own["UV_EXTRA_INDEX_URL"])
	}
}

func TestLinesAreCutWithinBounds(t *testing.T) {
	var got []string
	w := &lineWriter{take: func(s string) { got = append(got, s) }}
	for _, part := range []string{"on", "e\ntwo\n", strings.Repeat("x", 3*maxLine), "\nlast"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.flush()
	if got[0] != "one" || got[1] != "two" || got[len(got)-1] != "last" {
		t.Errorf("lines are cut wrong: %.20q", got)
	}
	for _, line := range got {
		if len(line) > maxLine {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	if all := strings.Join(got, ""); len(all) != len("onetwolast")+3*maxLine {
		t.Errorf("%d bytes came out", len(all))
	}
}
