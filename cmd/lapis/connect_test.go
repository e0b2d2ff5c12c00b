package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// connected is what a shell with the environment gets from connect.
func connected(t *testing.T, s *instance, env []string, args ...string) map[string]string {
	t.Helper()
	out, errs, err := commandEnv(t, env, append([]string{"connect", "--data", s.dir, "-o", "json"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, errs)
	}
	var vars map[string]*string
	if err := json.Unmarshal([]byte(out), &vars); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for name, v := range vars {
		if v != nil {
			values[name] = *v
		}
	}
	return values
}

// shell runs a script in a shell with nothing but the environment given, and
// returns what it prints.
func shell(t *testing.T, env []string, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "--norc", "--noprofile", "-c", "set -eu; "+script)
	cmd.Env, cmd.Dir = append([]string{"PATH=" + filepath.Dir(lapis(t)) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...), t.TempDir()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s\n%s%s", err, script, out.String(), errs.String())
	}
	return out.String()
}

// variables reads what `env -0` printed, without what bash itself changes.
func variables(text string) map[string]string {
	m := map[string]string{}
	for _, v := range strings.Split(text, "\x00") {
		if name, value, ok := strings.Cut(v, "="); ok && name != "_" && name != "SHLVL" && name != "PWD" && name != "OLDPWD" {
			m[name] = value
		}
	}
	return m
}

func TestConnectTwiceChangesNothingAndUnsetGivesAllBack(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "it's a \"folder\" with $odd `names`"))
	company := filepath.Join(t.TempDir(), "company's ca.pem")
	os.WriteFile(company, []byte("-----BEGIN CERTIFICATE-----\nCOMPANY\n-----END CERTIFICATE-----\n"), 0o600)
	connect := `eval "$(lapis connect --data ` + quote(s.dir) + `)"; `
	for _, c := range []struct {
		name string
		env  []string
	}{
		{"an empty environment", nil},
		{"proxies and a company's authority", []string{
			"HTTPS_PROXY=http://proxy.example:3128", "NO_PROXY=intra.example, .corp", "REQUESTS_CA_BUNDLE=" + company,
			"AZURE_TENANT_ID=it's mine\nand $HOME `too`", "MLFLOW_TRACKING_URI=", "MLFLOW_TRACKING_USERNAME=me"}},
		{"lower-case proxy variables", []string{"https_proxy=http://proxy.example:3128", "no_proxy=*", "SSL_CERT_FILE=" + company}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := variables(shell(t, c.env, "env -0"))
			once := variables(shell(t, c.env, connect+"env -0"))
			// Without a token in its environment each shell gets a new one.
			twice := strings.SplitN(shell(t, c.env, connect+"env -0; echo -n SPLIT; "+connect+connect+"env -0"), "SPLIT", 2)
			if a, b := variables(twice[0]), variables(twice[1]); !maps.Equal(a, b) {
				t.Errorf("the second time changes something:\n%v\n%v", a, b)
			}
			if len(once) < len(before)+10 {
				t.Errorf("connect set too little: %v", once)
			}
			after := variables(shell(t, c.env, connect+connect+`eval "$(lapis connect --unset)"; env -0`))
			if !maps.Equal(drop(before, "HOME"), drop(after, "HOME")) {
				t.Errorf("after --unset:\n%v\nbefore:\n%v", after, before)
			}
			if once["MLFLOW_TRACKING_URI"] != s.info.Plain || once["AZURE_AUTHORITY_HOST"] != s.info.URL+"/adfs" || once["LAPIS_DATA"] != s.dir {
				t.Errorf("%v", once)
			}
			if _, set := once["MLFLOW_TRACKING_USERNAME"]; set {
				t.Error("MLflow would sign in with a name and password that are for another server")
			}
		})
	}
}

func drop(m map[string]string, name string) map[string]string {
	m = maps.Clone(m)
	delete(m, name)
	return m
}

func TestTheBundleHoldsOursAndThoseThatWereTrustedBefore(t *testing.T) {
	s := start(t, t.TempDir())
	dir := t.TempDir()
	pem := func(name string) string {
		path := filepath.Join(dir, name)
		os.WriteFile(path, []byte("-----BEGIN CERTIFICATE-----\n"+name+"\n-----END CERTIFICATE-----"), 0o600)
		return path
	}
	one, two := pem("one"), pem("two")
	os.Mkdir(filepath.Join(dir, "many"), 0o700)
	pem("many/a.pem")
	pem("many/b.pem")
	ours := contents(t, s.dir, []string{"keys/ca.crt"})[0]
	base := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	for _, c := range []struct {
		name       string
		env        []string
		with, sans []string
	}{
		{"requests' own variable comes first", []string{"SSL_CERT_FILE=" + two, "REQUESTS_CA_BUNDLE=" + one}, []string{"one"}, []string{"two"}},
		{"then curl's", []string{"SSL_CERT_FILE=" + two, "CURL_CA_BUNDLE=" + one}, []string{"one"}, []string{"two"}},
		{"then OpenSSL's", []string{"SSL_CERT_FILE=" + two}, []string{"two"}, []string{"one"}},
		{"a folder of certificates", []string{"REQUESTS_CA_BUNDLE=" + filepath.Join(dir, "many")}, []string{"many/a.pem", "many/b.pem"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			vars := connected(t, s, append(slices.Clone(base), c.env...))
			b, err := os.ReadFile(vars["REQUESTS_CA_BUNDLE"])
			if err != nil || vars["SSL_CERT_FILE"] != vars["REQUESTS_CA_BUNDLE"] {
				t.Fatal(vars, err)
			}
			for _, w := range append(c.with, ours) {
				if !strings.Contains(string(b), w) {
					t.Errorf("the bundle lacks %q", w)
				}
			}
			for _, w := range c.sans {
				if strings.Contains(string(b), w) {
					t.Errorf("the bundle holds %q", w)
				}
			}
		})
	}
	_, errs, err := commandEnv(t, append(slices.Clone(base), "REQUESTS_CA_BUNDLE=/none/such"), "connect", "--data", s.dir)
	if err == nil || !strings.Contains(errs, "REQUESTS_CA_BUNDLE") || !strings.Contains(errs, "/none/such") {
		t.Errorf("a bundle that is not there: %v %s", err, errs)
	}
}

func TestConnectWritesTheFileForFromConfig(t *testing.T) {
	s := start(t, t.TempDir())
	out := shell(t, nil, `lapis connect --config --data `+quote(s.dir)+` >/dev/null; cat .azureml/config.json
		lapis connect --config --data `+quote(s.dir)+` >/dev/null
		if lapis connect --config -w other --data `+quote(s.dir)+` 2>&1 >/dev/null; then exit 9; fi
		lapis connect --config -w other --force --data `+quote(s.dir)+` >/dev/null; cat .azureml/config.json`)
	for _, want := range []string{`"workspace_name": "main"`, `"workspace_name": "other"`, `"resource_group": "lapis"`, "--force"} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %s:\n%s", want, out)
		}
	}
}

func TestScriptsForOtherShellsQuoteAnyValue(t *testing.T) {
	for shellName, want := range map[string]string{
		"sh":         `export N='it'\''s $x \ "y"'`,
		"fish":       `set -gx N 'it\'s $x \\ "y"'`,
		"powershell": `$env:N = 'it''s $x \ "y"'`,
	} {
		if got := scripts[shellName](variable{name: "N", value: `it's $x \ "y"`}); got != want {
			t.Errorf("%s: %s", shellName, got)
		}
	}
}

func TestConnectWithoutAServerSaysSo(t *testing.T) {
	s := start(t, t.TempDir())
	s.stop(syscall.SIGTERM)
	out, errs, err := command(t, "connect", "--data", s.dir)
	if err != nil || !strings.Contains(out, "export MLFLOW_TRACKING_URI=") || !strings.Contains(errs, "no server is running") {
		t.Errorf("%v\n%s\n%s", err, out, errs)
	}
}

// unmodified is a Python with azure-ai-ml and azure-identity.
func unmodified(t *testing.T) string {
	python := os.Getenv("LAPIS_TEST_PYTHON")
	if python == "" {
		t.Skip("LAPIS_TEST_PYTHON names no Python with azure-ai-ml, azure-identity and requests")
	}
	return python
}

func TestUnmodifiedPythonClientsSignInWithWhatConnectPrints(t *testing.T) {
	python := unmodified(t)
	s := start(t, t.TempDir())
	script, err := filepath.Abs(filepath.Join("testdata", "signin.py"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  []string
	}{
		{"with nothing set before", nil},
		// Nobody listens there: what goes to the proxy fails.
		{"behind a proxy", []string{"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9", "http_proxy=http://127.0.0.1:9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := shell(t, c.env, `eval "$(lapis connect --data `+quote(s.dir)+`)"; `+quote(python)+" "+quote(script))
			if !strings.HasSuffix(out, "all is well\n") {
				t.Error(out)
			}
		})
	}
}

func TestADatastoreMayHaveAContainerNamedLikeAProtocol(t *testing.T) {
	python := unmodified(t)
	s := start(t, t.TempDir())
	script, err := filepath.Abs(filepath.Join("testdata", "containers.py"))
	if err != nil {
		t.Fatal(err)
	}
	out := shell(t, nil, `eval "$(lapis connect --data `+quote(s.dir)+`)"; `+quote(python)+" "+quote(script)+" 2>/dev/null")
	if !strings.HasSuffix(out, "all is well\n") {
		t.Error(out)
	}
}
