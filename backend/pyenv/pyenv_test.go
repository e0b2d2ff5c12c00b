package pyenv_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/backend/pyenv"
	"lapis/fault"
	"lapis/ml/environment"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("PYENV_TEST_BUILDER"); dir != "" {
		buildAndHang(dir)
	}
	os.Exit(m.Run())
}

// newBuilder is a builder as serve makes it, in a folder of its own.
func newBuilder(t *testing.T, change ...func(*pyenv.Config)) *pyenv.Builder {
	t.Helper()
	cfg := pyenv.Config{Dir: filepath.Join(t.TempDir(), "envs"), UV: os.Getenv("LAPIS_UV"), Env: os.Environ(), Timeout: 5 * time.Minute}
	for _, c := range change {
		c(&cfg)
	}
	b, err := pyenv.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func needPython(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("there is no python3 on PATH")
	}
}

func needUV(t *testing.T) {
	t.Helper()
	needPython(t)
	if _, err := exec.LookPath("uv"); err != nil && os.Getenv("LAPIS_UV") == "" {
		t.Skip("there is no uv on PATH, and LAPIS_UV names none")
	}
}

func python(t *testing.T, built environment.Built, code string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(built.Dir, "bin", "python"), "-c", code).CombinedOutput()
	if err != nil {
		t.Fatalf("python: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestTheDefaultEnvironmentNeedsNoIndex(t *testing.T) {
	needUV(t)
	b := newBuilder(t, func(c *pyenv.Config) {
		c.Env = append(c.Env, "UV_INDEX_URL=http://127.0.0.1:9/simple", "PIP_INDEX_URL=http://127.0.0.1:9/simple")
	})
	built, err := b.Build(t.Context(), environment.Recipe{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got := python(t, built, "import sys; print(sys.prefix)"); got != built.Dir {
		t.Errorf("its prefix is %s, want %s", got, built.Dir)
	}
	if got := python(t, built, "import platform; print(platform.python_version())"); got != built.Python {
		t.Errorf("it says Python %s and is %s", built.Python, got)
	}
	again, ok := b.Find(t.Context(), environment.Recipe{})
	if !ok || again.Dir != built.Dir || again.Python != built.Python {
		t.Errorf("it is not found again: %+v", again)
	}
}

func TestAnEnvironmentHasItsPackagesAndOwnPip(t *testing.T) {
	needUV(t)
	b := newBuilder(t)
	r, err := environment.ParseConda("dependencies:\n- python=3.11\n- pip\n- gcc\n- idna=3.*\n- pip:\n  - six==1.16.0\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Find(t.Context(), r); ok {
		t.Fatal("it is there before it is built")
	}
	var log bytes.Buffer
	built, err := b.Build(t.Context(), r, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if got := python(t, built, "import six, idna; print(six.__version__)"); got != "1.16.0" {
		t.Errorf("six is %s", got)
	}
	if notes := strings.Join(built.Notes, "\n"); !strings.Contains(notes, "gcc") {
		t.Errorf("notes do not tell that gcc is left out: %q", notes)
	}
	pip, err := os.ReadFile(filepath.Join(built.Dir, "bin", "pip"))
	if err != nil || !bytes.Contains(pip, []byte(built.Dir)) {
		t.Errorf("pip is not the environment's own: %v", err)
	}
	var stages []string
	for line := range strings.Lines(log.String()) {
		if s, ok := environment.Stage(line); ok {
			stages = append(stages, s)
		}
	}
	if all := strings.Join(stages, "; "); !strings.Contains(all, "resolving 2 packages; fetching and installing 2 packages") || !strings.Contains(all, "ready in") {
		t.Errorf("stages are %q", all)
	}
	kept, err := os.ReadFile(b.LogFile(built.Hash))
	if err != nil || string(kept) != log.String() {
		t.Errorf("the log kept differs from the log shown: %v\n%s\n%s", err, kept, &log)
	}

	log.Reset()
	if _, err := b.Build(t.Context(), r, &log); err != nil || log.Len() > 0 {
		t.Errorf("it is built a second time: %v %s", err, &log)
	}
}

func TestAFailedBuildEndsWithItsReason(t *testing.T) {
	needUV(t)
	for _, c := range []struct {
		name string
		pip  []string
		want string
	}{
		{"an unknown package", []string{"lapis-no-such-package==99"}, "lapis-no-such-package was not found in the package registry"},
		{"an unknown version", []string{"six==99"}, "there is no version of six==99"},
		{"versions that conflict", []string{"requests==2.31.0", "idna<2"}, "you require idna<2, we can conclude that your requirements are unsatisfiable"},
		{"a requirement that is none", []string{"six=1.16"}, "six=1.16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(t)
			r := environment.Recipe{Pip: c.pip}
			var log bytes.Buffer
			_, err := b.Build(t.Context(), r, &log)
			if !fault.Is(err, fault.BadRequest) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want a 400 with %q\n%s", err, c.want, &log)
			}
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("the reason has several lines: %q", err)
			}
			if _, ok := b.Find(t.Context(), r); ok {
				t.Error("it counts as built")
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(b.LogFile(r.Hash())), r.Hash())); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something half-made stays: %v", err)
			}
			if kept, err := os.ReadFile(b.LogFile(r.Hash())); err != nil || !bytes.Contains(kept, []byte(c.want)) {
				t.Errorf("its log is not kept: %v", err)
			}
		})
	}
}

func TestAnIndexThatDoesNotAnswerIsNamed(t *testing.T) {
	needUV(t)
	b := newBuilder(t, func(c *pyenv.Config) { c.Env = append(c.Env, "UV_HTTP_RETRIES=0", "UV_NO_CACHE=1") })
	r := environment.Recipe{Pip: []string{"--index-url http://someone:secret-word@127.0.0.1:9/simple", "six"}}
	var log bytes.Buffer
	_, err := b.Build(t.Context(), r, &log)
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "127.0.0.1:9") {
		t.Errorf("got %v", err)
	}
	if strings.Contains(fmt.Sprint(err)+log.String(), "secret-word") {
		t.Errorf("the password of the index shows: %v\n%s", err, &log)
	}
}

func TestCallsForOneRecipeShareOneBuild(t *testing.T) {
	needUV(t)
	dir := filepath.Join(t.TempDir(), "envs")
	share := func(c *pyenv.Config) { c.Dir = dir }
	servers := []*pyenv.Builder{newBuilder(t, share), newBuilder(t, share)}
	r := environment.Recipe{Pip: []string{"six==1.16.0"}}
	var wg sync.WaitGroup
	logs := make([]bytes.Buffer, 8)
	for i := range logs {
		wg.Go(func() {
			built, err := servers[i%2].Build(t.Context(), r, &logs[i])
			if err != nil || built.Dir == "" {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	built := 0
	for i := range servers {
		if strings.Contains(logs[i].String(), "ready in") {
			built++
		}
	}
	for i := range logs {
		if i%2 == 0 && logs[i].String() != logs[0].String() && logs[i].Len() > 0 {
			t.Errorf("call %d saw another log:\n%s\n%s", i, &logs[i], &logs[0])
		}
	}
	if built > 1 {
		t.Errorf("%d builds were made", built)
	}
	if _, ok := servers[1].Find(t.Context(), r); !ok {
		t.Error("the other server does not find it")
	}
}

func TestABuildGoesOnWhileAnyoneWaits(t *testing.T) {
	needUV(t)
	index := newSilentIndex(t)
	b := newBuilder(t)
	r := environment.Recipe{Pip: []string{"--index-url " + index.url, "six"}}
	first, leave := context.WithCancel(t.Context())
	second, leaveToo := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { _, err := b.Build(first, r, io.Discard); ended <- err }()
	<-index.asked
	go func() { _, err := b.Build(second, r, io.Discard); ended <- err }()
	time.Sleep(100 * time.Millisecond) // for the second to join; if it has not, it builds on its own and the test still holds
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who left got %v", err)
	}
	select {
	case err := <-ended:
		t.Fatalf("the build ended for the one who stayed: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	leaveToo()
	<-ended
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(b.LogFile("x")), r.Hash(), "*"))
	if len(left) > 0 {
		t.Errorf("half-made files stay: %q", left)
	}
}

func TestABuildHasALimitOfTime(t *testing.T) {
	needUV(t)
	index := newSilentIndex(t)
	b := newBuilder(t, func(c *pyenv.Config) { c.Timeout = 2 * time.Second })
	_, err := b.Build(t.Context(), environment.Recipe{Pip: []string{"--index-url " + index.url, "six"}}, io.Discard)
	if !fault.Is(err, fault.BadRequest) || !strings.Contains(err.Error(), "not built within 2s") {
		t.Errorf("got %v", err)
	}
}

// silentIndex takes connections and never answers.
type silentIndex struct {
	url   string
	asked chan struct{}
}

func newSilentIndex(t *testing.T) silentIndex {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := silentIndex{"http://" + l.Addr().String() + "/simple", make(chan struct{}, 100)}
	var held []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
			select {
			case s.asked <- struct{}{}:
			default:
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range held {
			_ = c.Close()
		}
	})
	return s
}

// buildAndHang is a server that is killed while it builds.
func buildAndHang(dir string) {
	b, err := pyenv.New(pyenv.Config{Dir: dir, UV: os.Getenv("LAPIS_UV"), Env: os.Environ()})
	if err != nil {
		panic(err)
	}
	_, err = b.Build(context.Background(), crashRecipe(os.Getenv("PYENV_TEST_INDEX")), os.Stdout)
	fmt.Println("ended:", err)
	os.Exit(1)
}

func crashRecipe(index string) environment.Recipe {
	return environment.Recipe{Pip: []string{"--extra-index-url " + index, "six==1.16.0"}}
}

func TestAServerKilledMidBuildLeavesNothingInTheWay(t *testing.T) {
	needUV(t)
	index := newSilentIndex(t)
	dir := filepath.Join(t.TempDir(), "envs")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "PYENV_TEST_BUILDER="+dir, "PYENV_TEST_INDEX="+index.url)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "resolving") {
	}
	<-index.asked
	r := crashRecipe(index.url)
	half := filepath.Join(dir, r.Hash())
	if _, err := os.Stat(filepath.Join(half, "bin", "python")); err != nil {
		t.Fatalf("nothing is half-made yet: %v", err)
	}

	other := newBuilder(t, func(c *pyenv.Config) { c.Dir = dir })
	if _, err := os.Stat(half); err != nil {
		t.Errorf("a second server removes what the first is building: %v", err)
	}
	if _, ok := other.Find(t.Context(), r); ok {
		t.Error("a half-made environment is found")
	}

	if err := child.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	for deadline := time.Now().Add(10 * time.Second); running(half); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("uv goes on after its server was killed")
		}
	}
	if _, err := pyenv.New(pyenv.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half-made stays: %v", err)
	}
	same := environment.Recipe{Pip: []string{"six==1.16.0"}}
	if _, err := other.Build(t.Context(), same, io.Discard); err != nil {
		t.Errorf("the next build: %v", err)
	}
}

// running tells whether a process has the text among its arguments.
func running(text string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if args, err := os.ReadFile(f); err == nil && bytes.Contains(args, []byte(text)) {
			return true
		}
	}
	return false
}

func TestWithoutUVPipBuilds(t *testing.T) {
	needPython(t)
	b := newBuilder(t, func(c *pyenv.Config) { c.UV = "/nonexistent/uv" })
	var log bytes.Buffer
	built, err := b.Build(t.Context(), environment.Recipe{Pip: []string{"six==1.16.0"}}, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if got := python(t, built, "import six; print(six.__version__)"); got != "1.16.0" {
		t.Errorf("six is %s", got)
	}
	_, err = b.Build(t.Context(), environment.Recipe{Pip: []string{"lapis-no-such-package==99"}}, &log)
	if !fault.Is(err, fault.BadRequest) || !strings.Contains(err.Error(), "No matching distribution found for lapis-no-such-package==99") {
		t.Errorf("got %v", err)
	}
}

func TestUVIsFetchedOnceIfThereIsNone(t *testing.T) {
	needPython(t)
	tools := filepath.Join(t.TempDir(), "tools")
	b := newBuilder(t, func(c *pyenv.Config) {
		c.Tools, c.UV = tools, ""
		c.Env = append(c.Env, "PATH="+withoutUV(), "HOME="+t.TempDir(), "UV_CACHE_DIR="+t.TempDir())
	})
	var log bytes.Buffer
	if _, err := b.Build(t.Context(), environment.Recipe{Pip: []string{"six"}}, &log); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !strings.Contains(log.String(), "fetching uv") {
		t.Errorf("the log does not tell:\n%s", &log)
	}
	if names, _ := filepath.Glob(filepath.Join(tools, "*")); len(names) != 2 || filepath.Base(names[1]) != "uv" {
		t.Errorf("the tools folder has %q", names)
	}
	log.Reset()
	if _, err := b.Build(t.Context(), environment.Recipe{Pip: []string{"idna"}}, &log); err != nil || strings.Contains(log.String(), "fetching uv") {
		t.Errorf("it is fetched again: %v\n%s", err, &log)
	}
}

func withoutUV() string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "uv")); err != nil {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, ":")
}

func TestSweepRemovesWhatWasUsedLongestAgo(t *testing.T) {
	needUV(t)
	b := newBuilder(t, func(c *pyenv.Config) { c.Quota = 1 })
	var envs []environment.Built
	for i, r := range []environment.Recipe{{}, {Python: "3"}, {Channels: []string{"x"}, Pip: []string{"six"}}} {
		built, err := b.Build(t.Context(), r, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Duration(10-i) * time.Hour)
		if i < 2 {
			if err := os.Chtimes(filepath.Join(built.Dir, ".ready"), old, old); err != nil {
				t.Fatal(err)
			}
		}
		envs = append(envs, built)
	}
	freed, err := b.Sweep(t.Context(), func(hash string) bool { return hash == envs[0].Hash })
	if err != nil || freed == 0 {
		t.Fatalf("freed %d bytes, %v", freed, err)
	}
	for i, want := range []bool{true, false, true} {
		if _, err := os.Stat(envs[i].Dir); (err == nil) != want {
			t.Errorf("environment %d (0 is in use, 1 is old, 2 was just used): there is %v, want %v", i, err == nil, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(envs[0].Dir), ".trash*")); len(left) > 0 {
		t.Errorf("trash stays: %q", left)
	}
}

func TestInspectSaysWhatThereIs(t *testing.T) {
	needUV(t)
	tools := pyenv.Inspect(t.Context(), pyenv.Config{UV: os.Getenv("LAPIS_UV"), Env: os.Environ()})
	if tools.UV == "" || tools.UVVersion == "" || len(tools.Pythons) == 0 {
		t.Errorf("got %+v", tools)
	}
	built, err := newBuilder(t).Build(t.Context(), environment.Recipe{}, io.Discard)
	if err != nil || built.Python != tools.Default {
		t.Errorf("the default environment has Python %s (%v), announced was %s", built.Python, err, tools.Default)
	}
	if none := pyenv.Inspect(t.Context(), pyenv.Config{UV: "/nonexistent/uv"}); none.UV != "" || none.UVVersion != "" {
		t.Errorf("a uv that is not there is found: %+v", none)
	}
}

func TestAnEnvironmentWhosePythonIsGoneIsBuiltAgain(t *testing.T) {
	needUV(t)
	b := newBuilder(t)
	built, err := b.Build(t.Context(), environment.Recipe{}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(built.Dir, "bin", "python")
	if err := errors.Join(os.Remove(link), os.Symlink("/nonexistent/python3", link)); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Find(t.Context(), environment.Recipe{}); ok {
		t.Error("it is found without its Python")
	}
	if built, err = b.Build(t.Context(), environment.Recipe{}, io.Discard); err != nil {
		t.Fatal(err)
	}
	python(t, built, "pass")
}

func TestMoreBuildsThanRunAtOnceAllEnd(t *testing.T) {
	needUV(t)
	b := newBuilder(t)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			r := environment.Recipe{Pip: []string{"six", fmt.Sprintf("idna>=3.%d", i)}}
			if built, err := b.Build(t.Context(), r, io.Discard); err != nil || built.Hash != r.Hash() {
				t.Errorf("build %d: %+v, %v", i, built, err)
			}
		})
	}
	wg.Wait()
}
