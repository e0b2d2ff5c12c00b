package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/resource/identity"
)

// raceFlags are those that build the program as the tests were built.
var raceFlags []string

// builds is the folder that the program is built in.
var builds = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "lapis-test-") })

// binary is the program, built once for all tests; shipped is the program as
// users get it.
var (
	binary = sync.OnceValues(func() (string, error) {
		if raceFlags == nil {
			return shipped()
		}
		return build("lapis", nil, raceFlags...)
	})
	shipped = sync.OnceValues(func() (string, error) {
		return build("shipped", []string{"CGO_ENABLED=0"}, "-trimpath", "-ldflags=-s -w")
	})
)

func build(name string, env []string, flags ...string) (string, error) {
	dir, err := builds()
	if err != nil {
		return "", err
	}
	// The folder comes first on PATH in tests of shells: the name is lapis.
	path := filepath.Join(dir, name, "lapis")
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), ".")...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := builds(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// transcript is what a process has said so far.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *transcript) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *transcript) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// instance is a running server.
type instance struct {
	t     testing.TB
	bin   string
	dir   string
	cmd   *exec.Cmd
	out   *transcript
	info  serverInfo
	ready time.Duration
	done  chan error
}

func lapis(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts a server on the folder and waits until it is ready.
func start(t testing.TB, dir string, args ...string) *instance {
	t.Helper()
	return startBinary(t, lapis(t), dir, args...)
}

func startBinary(t testing.TB, bin, dir string, args ...string) *instance {
	t.Helper()
	s := &instance{t: t, bin: bin, dir: dir, out: &transcript{}, done: make(chan error, 1)}
	s.cmd = exec.Command(s.bin, append([]string{"up", "--data", dir, "--listen", "localhost:0"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.done
		if strings.Contains(s.out.String(), "DATA RACE") {
			t.Errorf("the server has a race:\n%s", s.out)
		}
	})
	f := &folder{dir: dir}
	for {
		info, err := f.readServer()
		if err == nil && info.Pid == s.cmd.Process.Pid {
			if resp, err := http.Get(info.Plain + "/healthz"); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					s.info, s.ready = info, time.Since(began)
					return s
				}
			}
		}
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("the server ended: %v\n%s", err, s.out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("not ready after 30 s\n%s", s.out)
		}
	}
}

// stop sends the signal and waits for the end.
func (s *instance) stop(sig os.Signal) {
	s.t.Helper()
	s.cmd.Process.Signal(sig)
	select {
	case err := <-s.done:
		s.done <- err
		if sig != os.Kill && err != nil {
			s.t.Errorf("the server ended with %v\n%s", err, s.out)
		}
	case <-time.After(20 * time.Second):
		s.t.Fatal("the server does not stop")
	}
}

// kill ends the server at once.
func (s *instance) kill() {
	s.cmd.Process.Kill()
	err := <-s.done
	s.done <- err
}

// command runs one command line in a clean folder and returns what it printed.
func command(t *testing.T, args ...string) (out, errs string, err error) {
	t.Helper()
	return commandEnv(t, os.Environ(), args...)
}

func commandEnv(t *testing.T, env []string, args ...string) (out, errs string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, lapis(t), args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.Dir = &o, &e, env, t.TempDir()
	err = cmd.Run()
	return o.String(), e.String(), err
}

// refused runs a command that must fail and say all the words.
func refused(t *testing.T, words []string, args ...string) {
	t.Helper()
	out, errs, err := command(t, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("lapis %v: %v, want exit code 1\n%s%s", args, err, out, errs)
	}
	if strings.Count(strings.TrimSpace(errs), "\n") > 0 {
		t.Errorf("lapis %v: more than a line:\n%s", args, errs)
	}
	for _, w := range words {
		if !strings.Contains(errs, w) {
			t.Errorf("lapis %v: does not say %q:\n%s", args, w, errs)
		}
	}
}

func (s *instance) folder() *folder { return &folder{dir: s.dir} }

// secure is a client that trusts the server's authority alone.
func (s *instance) secure() *http.Client {
	pool := x509.NewCertPool()
	b, err := os.ReadFile(s.folder().path("keys", "ca.crt"))
	if err != nil || !pool.AppendCertsFromPEM(b) {
		s.t.Fatal("no authority", err)
	}
	tr := &http.Transport{Proxy: nil, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func TestAServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)

	t.Run("answers TLS and plain HTTP on both loopback addresses of one port", func(t *testing.T) {
		secure := s.secure()
		for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
			if host == "[::1]" && !hasIPv6() {
				continue
			}
			for _, scheme := range []string{"https", "http"} {
				resp, err := secure.Get(scheme + "://" + host + ":" + s.info.Port + "/healthz")
				if err != nil {
					t.Error(err)
					continue
				}
				resp.Body.Close()
				if resp.StatusCode != 200 || scheme == "https" && resp.ProtoMajor != 2 {
					t.Errorf("%s %s: %s %s", scheme, host, resp.Status, resp.Proto)
				}
			}
		}
	})
	t.Run("refuses names that are not its own", func(t *testing.T) {
		r, _ := http.NewRequest("GET", s.info.Plain+"/healthz", nil)
		r.Host = "evil.example"
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 421 || !bytes.Contains(b, []byte("--url")) {
			t.Errorf("%s %s", resp.Status, b)
		}
	})
	t.Run("asks for a token on every protected path", func(t *testing.T) {
		for _, path := range []string{"/subscriptions?api-version=2022-12-01", "/SUBSCRIPTIONS/x?api-version=2022-12-01", "//subscriptions?api-version=2022-12-01", "/providers?api-version=2022-12-01"} {
			resp, err := http.Get(s.info.Plain + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s: %s %q", path, resp.Status, resp.Header.Get("WWW-Authenticate"))
			}
		}
	})
	t.Run("keeps its secrets from others", func(t *testing.T) {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				t.Error(err)
				return nil
			}
			info, _ := e.Info()
			inKeys := strings.HasPrefix(path, filepath.Join(dir, "keys"))
			if inKeys && !strings.HasSuffix(path, ".crt") && info.Mode().Perm()&0o077 != 0 || path == dir && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %s", path, info.Mode())
			}
			return nil
		})
		secret, err := s.folder().adminSecret()
		if err != nil || len(secret) < 40 {
			t.Fatal(len(secret), err)
		}
		for _, name := range []string{"identity.json", "server.json", "keys/admin.sealed", "logs/server.log"} {
			if b, _ := os.ReadFile(filepath.Join(dir, name)); bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s holds the administrator's secret", name)
			}
		}
	})
	t.Run("has its folder to itself", func(t *testing.T) {
		refused(t, []string{"in use", strconv.Itoa(s.info.Pid), "lapis down"}, "up", "--data", dir, "--listen", "localhost:0")
	})
	t.Run("has its port to itself", func(t *testing.T) {
		refused(t, []string{"Port " + s.info.Port, "pid " + strconv.Itoa(s.info.Pid), "--listen"}, "up", "--data", t.TempDir(), "--listen", "localhost:"+s.info.Port)
	})
	t.Run("stops at SIGTERM and says what goes on", func(t *testing.T) {
		s.stop(syscall.SIGTERM)
		if !strings.Contains(s.out.String(), "Stopped.") {
			t.Errorf("it said:\n%s", s.out)
		}
		info, err := s.folder().readServer()
		if err != nil || info.Pid != 0 || info.URL != s.info.URL {
			t.Errorf("%+v %v", info, err)
		}
	})
	t.Run("is the same server after a restart", func(t *testing.T) {
		files := []string{"identity.json", "keys/ca.crt", "keys/signing.key", "keys/server.crt", "keys/admin.sealed"}
		before := contents(t, dir, files)
		token := clientToken(t, s)
		again := start(t, dir, "--listen", "localhost:"+s.info.Port)
		for i, b := range contents(t, dir, files) {
			if b != before[i] {
				t.Errorf("%s has changed", files[i])
			}
		}
		if status := again.get(t, token, "/subscriptions?api-version=2022-12-01"); status != 200 {
			t.Errorf("a token from before: %d", status)
		}
		again.stop(os.Kill)
		third := start(t, dir) // after a kill, on another port
		third.stop(syscall.SIGINT)
	})
}

func TestTheProgramIsSmallAndReadyWithinASecond(t *testing.T) {
	bin, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	s := startBinary(t, bin, filepath.Join(t.TempDir(), "data"))
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	rss := residentMB(t, s.info.Pid)
	t.Logf("binary %.1f MB, idle memory %.1f MB, ready on an empty folder after %s", float64(info.Size())/1e6, rss, s.ready)
	if info.Size() > 50e6 {
		t.Errorf("the binary has %d bytes", info.Size())
	}
	if rss > 80 {
		t.Errorf("%.1f MB of memory", rss)
	}
	if s.ready > time.Second && !underLoad() {
		t.Errorf("ready after %s", s.ready)
	}
}

// clientToken signs a token as the server would, with the server's key.
func clientToken(t testing.TB, s *instance) string {
	f := s.folder()
	k, err := f.loadKeys()
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	i := identity.NewIssuer(identity.IssuerConfig{Key: k.signing, Tenant: w.Tenant, Trusted: func(string) bool { return true }})
	token, err := i.Issue(w.admin(), s.info.URL+"/adfs", s.info.URL, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (s *instance) get(t *testing.T, token, path string) int {
	t.Helper()
	r, _ := http.NewRequest("GET", s.info.Plain+path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// container is the path of the container of the workspace's default datastore.
func (s *instance) container(t *testing.T, token string) string {
	t.Helper()
	status, m := s.call(t, token, "GET", s.workspace(t)+"/datastores/workspaceblobstore", "")
	p, ok := m["properties"].(map[string]any)
	if !ok {
		t.Fatal(status, m)
	}
	return fmt.Sprintf("/blob/%s/%s", p["accountName"], p["containerName"])
}

func (s *instance) download(t *testing.T, token, path string) string {
	t.Helper()
	r, _ := http.NewRequest("GET", s.info.Plain+path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("x-ms-version", "2025-05-05")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %s %v %s", path, resp.Status, err, b)
	}
	return string(b)
}

func contents(t *testing.T, dir string, names []string) []string {
	var out []string
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	return out
}

func residentMB(t testing.TB, pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("no /proc here")
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// underLoad tells whether the machine has more to do than it can: times mean
// little then.
func underLoad() bool {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return false
	}
	load, _ := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
	return load > float64(runtime.NumCPU())
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

func TestACertificateIsMadeAnewWhenNamesChange(t *testing.T) {
	dir := t.TempDir()
	start(t, dir).stop(syscall.SIGTERM)
	ca := contents(t, dir, []string{"keys/ca.crt"})
	s := start(t, dir, "--url", "https://lapis.example.com:7777")
	if got := contents(t, dir, []string{"keys/ca.crt"}); got[0] != ca[0] {
		t.Error("the authority has changed")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca[0]))
	for _, name := range []string{"lapis.example.com", "localhost"} {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+s.info.Port, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		conn.Close()
	}
}

func TestASettingThatIsWrongIsNamedWithItsRemedy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	newer := filepath.Join(dir, "newer")
	os.MkdirAll(newer, 0o700)
	os.WriteFile(filepath.Join(newer, "version"), []byte("99\n"), 0o600)
	open := filepath.Join(dir, "open")
	os.MkdirAll(filepath.Join(open, "keys"), 0o755)
	os.Chmod(filepath.Join(open, "keys"), 0o755)
	for _, c := range []struct {
		words, args []string
	}{
		{[]string{"--listen", "HOST:PORT"}, []string{"--listen", "nonsense"}},
		{[]string{"--listen", "65535"}, []string{"--listen", "localhost:99999"}},
		{[]string{"--listen", "203.0.113.9"}, []string{"--listen", "203.0.113.9:0"}},
		{[]string{"--url", "ftp://x", "https://HOST"}, []string{"--url", "ftp://x"}},
		{[]string{"--slots", "0"}, []string{"--slots", "0"}},
		{[]string{"is a file", "--data"}, []string{"--data", file}},
		{[]string{"newer lapis", "--data"}, []string{"--data", newer}},
		{[]string{"chmod 700"}, []string{"--data", open}},
	} {
		refused(t, c.words, append([]string{"up", "--data", filepath.Join(dir, "d"), "--listen", "localhost:0"}, c.args...)...)
	}
	for _, verb := range []string{"connect", "down"} {
		refused(t, []string{"No server has used", "lapis up"}, verb, "--data", filepath.Join(dir, "none"))
	}
}

func TestDownStopsTheServerAndIsNoErrorTwice(t *testing.T) {
	s := start(t, t.TempDir())
	out, errs, err := command(t, "down", "--data", s.dir)
	if err != nil || !strings.Contains(out, strconv.Itoa(s.info.Pid)) {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if err := <-s.done; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	s.done <- nil
	if out, errs, err := command(t, "down", "--data", s.dir); err != nil || !strings.Contains(out, "No server is running") {
		t.Errorf("the second time: %v\n%s%s", err, out, errs)
	}
}

func TestARevokedTokenIsWorthlessAtOnce(t *testing.T) {
	s := start(t, t.TempDir())
	vars := connected(t, s, os.Environ())
	token := vars["MLFLOW_TRACKING_TOKEN"]
	const path = "/subscriptions?api-version=2022-12-01"
	if status := s.get(t, token, path); status != 200 {
		t.Fatalf("before: %d", status)
	}
	out, errs, err := command(t, "token", "list", "--data", s.dir)
	if err != nil || !strings.Contains(out, identity.LongTokenID(token)[:12]) || strings.Contains(out, token) {
		t.Errorf("list: %v\n%s%s", err, out, errs)
	}
	if _, errs, err := command(t, "token", "revoke", token, "--data", s.dir); err != nil {
		t.Fatal(err, errs)
	}
	if status := s.get(t, token, path); status != 401 {
		t.Errorf("after: %d", status)
	}
	refused(t, []string{"no such token", "token list"}, "token", "revoke", token, "--data", s.dir)
}

func TestABackupHoldsAllAndIsRestoredWhole(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	w, err := s.folder().loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	group := func(n int) string {
		return fmt.Sprintf("/subscriptions/%s/resourceGroups/g%d?api-version=2022-12-01", w.Subscription, n)
	}
	put := func(n int) {
		r, _ := http.NewRequest("PUT", s.info.Plain+group(n), strings.NewReader(`{"location":"local"}`))
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Errorf("PUT g%d: %s", n, resp.Status)
		}
	}
	for n := range 20 {
		put(n)
	}
	// Blobs that are replaced all the time: whichever version the backup has
	// must be whole.
	container := s.container(t, token)
	text := func(n int) string { return strings.Repeat(fmt.Sprintf("%08d", n), 1000) }
	upload := func(key string, n int) {
		r, _ := http.NewRequest("PUT", s.info.Plain+container+"/"+key, strings.NewReader(text(n)))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("x-ms-version", "2025-05-05")
		r.Header.Set("x-ms-blob-type", "BlockBlob")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != 201 {
			t.Errorf("upload: %s", resp.Status)
		}
	}
	const blobs = 5
	for n := range blobs {
		upload(fmt.Sprintf("folder/b%d", n), n)
	}

	stop := make(chan bool) // others go on writing
	var writers sync.WaitGroup
	finish := sync.OnceFunc(func() { close(stop); writers.Wait() })
	defer finish()
	writers.Go(func() {
		for n := 100; ; n++ {
			select {
			case <-stop:
				return
			default:
				put(n)
				upload(fmt.Sprintf("folder/b%d", n%blobs), n)
			}
		}
	})
	for _, name := range []string{"b.tar", "b.tar.gz"} {
		file := filepath.Join(t.TempDir(), name)
		if out, errs, err := command(t, "backup", file, "--data", s.dir); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errs)
		}
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v: the backup holds keys", info.Mode(), err)
		}
		dir := filepath.Join(t.TempDir(), "restored")
		if out, errs, err := command(t, "restore", file, "--data", dir); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errs)
		}
		r := start(t, dir, "--url", s.info.URL)
		for n := range 20 {
			if status := r.get(t, token, group(n)); status != 200 {
				t.Errorf("%s: g%d: %d", name, n, status)
			}
		}
		for n := range blobs {
			got := r.download(t, token, container+fmt.Sprintf("/folder/b%d", n))
			if len(got) != len(text(0)) || strings.Repeat(got[:8], 1000) != got {
				t.Errorf("%s: blob %d is not whole: %d bytes", name, n, len(got))
			}
		}
		r.stop(syscall.SIGTERM)

		refused(t, []string{"holds something already", "--data"}, "restore", file, "--data", dir)
		whole, _ := os.ReadFile(file)
		for _, cut := range []int{0, 1, len(whole) / 2, len(whole) - 1600} {
			os.WriteFile(file, whole[:max(0, cut)], 0o600)
			empty := filepath.Join(t.TempDir(), "d")
			refused(t, []string{"not a whole backup"}, "restore", file, "--data", empty)
			if _, err := os.Stat(empty); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a backup of %d bytes left something behind", cut)
			}
		}
	}
	finish()
	if left, _ := filepath.Glob(filepath.Join(s.dir, ".backup-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDoctorNamesTheRemedyOfEachTrouble(t *testing.T) {
	s := start(t, t.TempDir())
	look := func(args ...string) map[string]finding {
		t.Helper()
		out, errs, _ := command(t, append([]string{"doctor", "-o", "json"}, args...)...)
		var list []finding
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errs)
		}
		by := map[string]finding{}
		for _, f := range list {
			if (f.Status == fine) != (f.Remedy == "") {
				t.Errorf("%+v", f)
			}
			by[f.Check] = f
		}
		return by
	}
	found := look("--data", s.dir)
	for _, check := range []string{"data folder", "server", "certificates", "clock", "localhost"} {
		if found[check].Status != fine {
			t.Errorf("%+v", found[check])
		}
	}
	if !strings.Contains(found["server"].Found, strconv.Itoa(s.info.Pid)) {
		t.Errorf("%+v", found["server"])
	}
	other := look("--data", filepath.Join(t.TempDir(), "d"), "--listen", "localhost:"+s.info.Port)
	if f := other["server"]; f.Status != failing || !strings.Contains(f.Remedy, strconv.Itoa(s.info.Pid)) {
		t.Errorf("a port in use: %+v", f)
	}
	s.stop(syscall.SIGTERM)
	os.Chmod(filepath.Join(s.dir, "keys"), 0o755)
	late := time.Now().Add(time.Hour)
	os.Chtimes(filepath.Join(s.dir, "server.json"), late, late)
	os.WriteFile(filepath.Join(s.dir, "keys", "server.crt"), []byte("rust"), 0o600)
	found = look("--data", s.dir)
	for _, check := range []string{"data folder", "clock", "certificates"} {
		if found[check].Status != failing {
			t.Errorf("%+v", found[check])
		}
	}
}

func TestALogStartsAnewWhenItIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.log")
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 7 * logSize / len(line) {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 1+logKeep {
		t.Errorf("%v", files)
	}
	for _, f := range files {
		if info, _ := os.Stat(f); info.Size() > logSize {
			t.Errorf("%s has %d bytes", f, info.Size())
		}
	}
}

func TestAFullDiskIsNamedAndNothingIsLost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small disk")
	}
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("no small disk can be mounted: %s", out)
	}
	defer exec.Command("umount", disk).Run()
	dir := filepath.Join(disk, "data")
	s := start(t, dir)
	token := clientToken(t, s)
	w, err := s.folder().loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	group := func(name string) string { return "/subscriptions/" + w.Subscription + "/resourceGroups/" + name }
	put := func(name string) int {
		status, _ := s.call(t, token, "PUT", group(name), `{"location":"local"}`)
		return status
	}
	if status := put("before"); status != 201 {
		t.Fatal(status)
	}
	fill := filepath.Join(disk, "fill")
	file, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 16; size > 0; size /= 2 {
		for err = nil; err == nil; _, err = file.Write(make([]byte, size)) {
		}
	}
	file.Close()

	status := 0
	for n := 0; n < 100 && status != 507; n++ { // what room the log has left is used first
		if status = put(fmt.Sprintf("during%d", n)); status != 201 && status != 507 {
			t.Fatalf("PUT on a full disk: %d", status)
		}
	}
	if status != 507 {
		t.Fatalf("PUT on a full disk: %d", status)
	}
	if status, _ := s.call(t, token, "GET", group("before"), ""); status != 200 {
		t.Errorf("GET on a full disk: %d", status)
	}
	refused(t, []string{"no room left", dir}, "connect", "--data", dir)
	refused(t, []string{"no room left", dir}, "backup", filepath.Join(t.TempDir(), "b.tar"), "--data", dir)
	s.stop(os.Kill)
	refused(t, []string{"no room left", dir}, "up", "--data", dir, "--listen", "localhost:0")
	refused(t, []string{"no room left", disk}, "up", "--data", filepath.Join(disk, "other"), "--listen", "localhost:0")

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s = start(t, dir, "--listen", "localhost:"+s.info.Port)
	for name, want := range map[string]int{"before": 200, "never": 404} {
		if status, _ := s.call(t, token, "GET", group(name), ""); status != want {
			t.Errorf("%s after room was made: %d", name, status)
		}
	}
	if status := put("after"); status != 201 {
		t.Errorf("PUT after room was made: %d", status)
	}
	s.stop(syscall.SIGTERM)
}
