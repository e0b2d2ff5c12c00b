package driver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// patience bounds every wait: what is waited for comes within milliseconds on
// an idle machine.
const patience = 60 * time.Second

// group is a group that a test started.
type group struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	log string
}

// script starts a group that serves a scoring script with files beside it.
func script(t *testing.T, files map[string]string, env ...string) *group {
	t.Helper()
	return scriptOf(t, python(t), files, env...)
}

// python is the interpreter that the tests are run with.
func python(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 on PATH")
	}
	return path
}

// withFlask is an interpreter that has Flask.
func withFlask(t *testing.T) string {
	t.Helper()
	for _, path := range []string{os.Getenv("LAPIS_TEST_PYTHON"), python(t)} {
		if path != "" && exec.Command(path, "-c", "import flask").Run() == nil {
			return path
		}
	}
	t.Skip("Flask is not installed; make test does")
	return ""
}

func scriptOf(t *testing.T, python string, files map[string]string, env ...string) *group {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, python, append([]string{"AML_APP_ROOT=" + root, "AZUREML_ENTRY_SCRIPT=score.py"}, env...)...)
}

func start(t *testing.T, python string, env ...string) *group {
	t.Helper()
	program, err := Unpack(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// The path of a socket is short: t.TempDir with a test's name is not.
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	g := &group{t: t, dir: dir, log: filepath.Join(dir, "log.txt")}
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	g.cmd = exec.Command("bash", "-c", Command(python, program))
	g.cmd.Stdout, g.cmd.Stderr = log, log
	g.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "PYTHONUNBUFFERED=1",
		serving.GroupFolder + "=" + dir, serving.GroupName + "=e/d/1",
	}, env...)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.end()
		if t.Failed() {
			t.Logf("the group's log:\n%s", g.text())
		}
		os.RemoveAll(dir)
	})
	return g
}

// end stops the group and waits for it.
func (g *group) end() {
	if g.cmd.ProcessState != nil {
		return
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(patience, func() { _ = g.cmd.Process.Kill() })
	defer kill.Stop()
	_ = g.cmd.Wait()
}

func (g *group) text() string {
	b, _ := os.ReadFile(g.log)
	return string(b)
}

// conn is a connection that speaks frames.
type conn struct {
	net.Conn
	r     *frame.Reader
	hello frame.Hello
}

// dial connects to a socket, as soon as it is there and says hello.
func (g *group) dial(path string) *conn {
	g.t.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err != nil {
			last = err
			continue
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		d := &conn{Conn: c, r: frame.NewReader(c, 0)}
		kind, payload, err := d.r.Next()
		if err != nil {
			last = err
			c.Close()
			continue
		}
		if kind != frame.KindHello {
			g.t.Fatalf("a connection begins with a %q frame", kind)
		}
		if err := json.Unmarshal(payload, &d.hello); err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { c.Close() })
		return d
	}
	g.t.Fatalf("nobody listens on %s: %v", path, last)
	return nil
}

type reply struct {
	status  int
	headers string
	body    string
	pieces  int // Data frames; 0 for a whole reply
}

// ask sends a request and reads its reply.
func (c *conn) ask(q frame.Request) (reply, error) {
	b, err := frame.AppendRequest(nil, q)
	if err != nil {
		return reply{}, err
	}
	if _, err := c.Write(b); err != nil {
		return reply{}, err
	}
	kind, payload, err := c.r.Next()
	if err != nil {
		return reply{}, err
	}
	if kind == frame.KindBroken {
		return reply{}, fmt.Errorf("broken: %s", payload)
	}
	a, err := frame.ParseReply(payload)
	if err != nil {
		return reply{}, err
	}
	out := reply{status: a.Status, headers: string(a.Headers), body: string(a.Body)}
	for kind != frame.KindReply && kind != frame.KindEnd {
		if kind, payload, err = c.r.Next(); err != nil {
			return out, err
		}
		switch kind {
		case frame.KindData:
			out.body += string(payload)
			out.pieces++
		case frame.KindBroken:
			return out, fmt.Errorf("broken: %s", payload)
		}
	}
	return out, nil
}

// post scores a body, which must be answered.
func (c *conn) post(t *testing.T, body string) reply {
	t.Helper()
	a, err := c.ask(frame.Request{Method: "POST", Target: "/score", Headers: []byte("Content-Type: application/json\r\n"), Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// state asks the group for its instances.
func (g *group) state() serving.Group {
	g.t.Helper()
	return g.order("GET", "")
}

func (g *group) order(method, body string) serving.Group {
	g.t.Helper()
	c := g.dial(filepath.Join(g.dir, "control.sock"))
	defer c.Close()
	a, err := c.ask(frame.Request{Method: method, Target: "/instances", Body: []byte(body)})
	if err != nil {
		g.t.Fatal(err)
	}
	var s serving.Group
	if a.status != 200 || json.Unmarshal([]byte(a.body), &s) != nil {
		g.t.Fatalf("%s /instances: %d %s", method, a.status, a.body)
	}
	return s
}

// until waits for a state of the group.
func (g *group) until(what string, ok func(serving.Group) bool) serving.Group {
	g.t.Helper()
	var s serving.Group
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s = g.state(); ok(s) {
			return s
		}
	}
	g.t.Fatalf("not %s: %+v", what, s)
	return s
}

// ready waits until n instances answer, and returns where.
func (g *group) ready(n int) []string {
	g.t.Helper()
	s := g.until(fmt.Sprintf("%d instances ready", n), func(s serving.Group) bool {
		for _, i := range s.Instances {
			if i.State != serving.Ready {
				return false
			}
		}
		return len(s.Instances) == n
	})
	paths := []string{}
	for _, i := range s.Instances {
		paths = append(paths, i.Address)
	}
	return paths
}

const echo = `
import json, os, time
def init():
    pass
def run(data):
    if data == "sleep":
        time.sleep(3600)
    if data == "exit":
        os._exit(7)
    if data == "raise":
        raise ValueError("no such thing")
    return data
`

func TestAScriptIsServed(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo})
	c := g.dial(g.ready(1)[0])
	if c.hello.Instance != "e/d/1/1" || c.hello.Protocol != 1 || c.hello.PID == 0 {
		t.Errorf("hello says %+v", c.hello)
	}
	for body, want := range map[string]reply{
		"x":     {status: 200, body: `"x"`},
		"\"☃\"": {status: 200, body: `"\"\u2603\""`},
		"raise": {status: 500, body: `{"message": "An unexpected error occurred in scoring script. Check the logs for more info."}`},
	} {
		if a := c.post(t, body); a.status != want.status || a.body != want.body {
			t.Errorf("%q is answered %d %s", body, a.status, a.body)
		}
	}
	large := strings.Repeat("0123456789", 300_000)
	if a := c.post(t, large); a.body != `"`+large+`"` {
		t.Errorf("%d bytes come back as %d", len(large)+2, len(a.body))
	}
}

func TestAWorkerPastItsDeadlineIsReplaced(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo})
	c := g.dial(g.ready(1)[0])
	_, err := c.ask(frame.Request{Timeout: 100 * time.Millisecond, Method: "POST", Target: "/score", Body: []byte("sleep")})
	if !errors.Is(err, io.EOF) {
		t.Fatalf("a request past its deadline ends with %v", err)
	}
	d := g.dial(g.ready(1)[0])
	if d.hello.PID == c.hello.PID {
		t.Error("the worker that hangs is still there")
	}
	d.post(t, "x")
	if !strings.Contains(g.text(), "its request ran past its deadline") {
		t.Error("the log says nothing of it")
	}
}

func TestAWorkerWhoseCallerIsGoneIsReplaced(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo})
	path := g.ready(1)[0]
	c := g.dial(path)
	b, _ := frame.AppendRequest(nil, frame.Request{Method: "POST", Target: "/score", Body: []byte("sleep")})
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	c.Close()
	d := g.dial(path)
	if d.hello.PID == c.hello.PID {
		t.Error("the worker that hangs is still there")
	}
	d.post(t, "x")
}

func TestAProcessThatEndsInRunIsReplaced(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo})
	path := g.ready(1)[0]
	c := g.dial(path)
	if _, err := c.ask(frame.Request{Method: "POST", Target: "/score", Body: []byte("exit")}); !errors.Is(err, io.EOF) {
		t.Fatalf("the request of a process that ended: %v", err)
	}
	g.dial(path).post(t, "x")
}

func TestInstancesComeAndGo(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo}, serving.GroupWorkers+"=2")
	g.ready(1)
	g.order("PUT", `{"count": 3}`)
	paths := g.ready(3)
	seen := map[int]bool{}
	for _, path := range paths {
		one, two := g.dial(path), g.dial(path) // two workers answer at once
		one.post(t, "x")
		two.post(t, "x")
		seen[one.hello.PID], seen[two.hello.PID] = true, true
	}
	if len(seen) != 6 {
		t.Errorf("3 instances of 2 workers are %d processes", len(seen))
	}
	g.order("PUT", `{"count": 0}`)
	g.ready(0)
	g.end()
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the group ends with %d", code)
	}
}

func TestARequestIsFinishedBeforeTheGroupEnds(t *testing.T) {
	dir := t.TempDir()
	g := script(t, map[string]string{"score.py": `
import os, time
def init(): pass
def run(data):
    open(os.environ["BEGUN"], "w").close()
    while not os.path.exists(os.environ["GO_ON"]):
        time.sleep(0.005)
    return "done"
`}, "BEGUN="+filepath.Join(dir, "begun"), "GO_ON="+filepath.Join(dir, "go"), serving.GroupGrace+"=60000")
	c := g.dial(g.ready(1)[0])
	answer := make(chan reply, 1)
	go func() {
		a, _ := c.ask(frame.Request{Method: "POST", Target: "/score"})
		answer <- a
	}()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "begun")); err == nil {
			break
		}
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	g.until("stopping", func(s serving.Group) bool { return s.Instances[0].State == serving.Stopping })
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if a := <-answer; a.body != `"done"` {
		t.Errorf("answered %d %q", a.status, a.body)
	}
}

func TestAScriptThatCannotServeSaysWhyInOneLine(t *testing.T) {
	for name, c := range map[string]struct{ score, want string }{
		"a missing package":    {"import json\n\nimport nope_nope\n", "ModuleNotFoundError: No module named 'nope_nope' (score.py, line 3)"},
		"a syntax error":       {"def init(:\n", "SyntaxError: invalid syntax (score.py, line 1)"},
		"init raises":          {"def init():\n    raise KeyError('k')\ndef run(x): pass\n", "KeyError: 'k' (score.py, line 2)"},
		"no run()":             {"def init(): pass\n", "score.py does not have a run() function defined."},
		"a sibling that fails": {"import inner.part\n", "RuntimeError: not today (inner/part.py, line 1)"},
	} {
		t.Run(name, func(t *testing.T) {
			g := script(t, map[string]string{"score.py": c.score, "inner/__init__.py": "", "inner/part.py": "raise RuntimeError('not today')\n"})
			s := g.until("failed", func(s serving.Group) bool { return s.Instances[0].State == serving.Failed })
			line, rest, _ := strings.Cut(s.Instances[0].Error, "\n")
			if !strings.Contains(line, c.want) || !s.Instances[0].Fatal {
				t.Errorf("the first line is %q (fatal %v)", line, s.Instances[0].Fatal)
			}
			if !strings.Contains(rest, "Traceback") {
				t.Errorf("and then %q", rest)
			}
		})
	}
}

func TestTheProgramIsUnpackedOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := Unpack(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Unpack(dir)
	if err != nil || first != second {
		t.Fatalf("%q and then %q (%v)", first, second, err)
	}
	b, err := os.ReadFile(filepath.Join(first, "lapis_group.py"))
	if err != nil || !bytes.Contains(b, []byte("def main")) {
		t.Errorf("unpacked %d bytes (%v)", len(b), err)
	}
	if rest, _ := filepath.Glob(filepath.Join(dir, "half-*")); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

func TestOnlyWhatAScriptNamesAndItsEnvironmentLacksIsAdded(t *testing.T) {
	env := t.TempDir()
	site := filepath.Join(env, "lib", "python3.11", "site-packages")
	if err := os.MkdirAll(filepath.Join(site, "flask"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir, source string
		want        int
	}{
		{env, "import numpy", 0},
		{env, "from azureml.contrib.services.aml_request import rawhttp", 0},
		{t.TempDir(), "from azureml.contrib.services.aml_request import rawhttp", 2},
		{env, "from inference_schema.schema_decorators import input_schema", 1},
		{env, "from azureml.ai.monitoring import Collector", 1},
		{env, "x = 'flasks'", 0},
	} {
		if lines := Lacking(c.dir, [][]byte{[]byte(c.source)}); len(lines) != c.want {
			t.Errorf("%q adds %q", c.source, lines)
		}
	}
	if Site(env) != site {
		t.Errorf("packages are in %q", Site(env))
	}
}

func TestWorkersEndWithTheGroup(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo}, serving.GroupWorkers+"=2")
	path := g.ready(1)[0]
	pids := []int{g.dial(path).hello.PID, g.dial(path).hello.PID}
	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = g.cmd.Wait()
	for _, pid := range pids {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || bytes.Contains(state, []byte(") Z ")) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("worker %d outlives its group", pid)
			}
		}
	}
}

func TestMalformedFramesHarmNobody(t *testing.T) {
	g := script(t, map[string]string{"score.py": echo})
	path := g.ready(1)[0]
	request, err := frame.AppendRequest(nil, frame.Request{Method: "POST", Target: "/score", Headers: []byte("A: b\r\n"), Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		bad := bytes.Clone(request)
		switch n % 4 {
		case 0: // some bytes are others; the length stays, so that it is a frame
			for range 1 + random.IntN(4) {
				bad[4+random.IntN(len(bad)-4)] = byte(random.Uint32())
			}
		case 1: // it ends early
			bad = bad[:random.IntN(len(bad))]
		case 2: // its length is another
			binary.LittleEndian.PutUint32(bad, random.Uint32())
		case 3: // noise
			bad = make([]byte, random.IntN(200))
			for i := range bad {
				bad[i] = byte(random.Uint32())
			}
		}
		to := path
		if n%8 >= 4 {
			to = filepath.Join(g.dir, "control.sock")
		}
		c := g.dial(to)
		if _, err := c.Write(bad); err != nil {
			t.Fatal(err)
		}
		_ = c.Conn.(*net.UnixConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
	}
	g.dial(path).post(t, "x")
	g.ready(1)
}

func TestWhatAScriptPrintsIsInTheLog(t *testing.T) {
	g := script(t, map[string]string{"score.py": `
import logging, sys
def init():
    print("from", "init", sep="-")
def run(data):
    sys.stderr.write("raw\n")
    logging.getLogger("mine").warning("careful")
    return data
`})
	c := g.dial(g.ready(1)[0])
	c.post(t, "x")
	c.post(t, "x") // the lines of a request are there before the next one is read
	for _, want := range []string{
		" azmlinfsrv.print - from-init\n", "\nraw\n", "\nWARNING:mine:careful\n",
		" azmlinfsrv - POST /score 200 ", `gunicorn.access - 127.0.0.1 - - [`, `"POST /score HTTP/1.1" 200 3 "-" "-"`,
		" azmlinfsrv.user_script - Users's init has completed successfully\n",
	} {
		if !strings.Contains(g.text(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
}

func TestEachWorkerDrawsItsOwnRandomNumbers(t *testing.T) {
	g := script(t, map[string]string{"score.py": "import random\ndef init(): pass\ndef run(x): return random.random()\n"}, serving.GroupWorkers+"=2")
	path := g.ready(1)[0]
	one, two := g.dial(path), g.dial(path)
	if a, b := one.post(t, ""), two.post(t, ""); a.body == b.body {
		t.Errorf("both draw %s", a.body)
	}
}

func TestAScriptMaySpawnProcesses(t *testing.T) {
	g := script(t, map[string]string{"score.py": `
import concurrent.futures, multiprocessing
def init(): pass
def run(data):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(len, data).result()
`})
	if a := g.dial(g.ready(1)[0]).post(t, "four"); a.body != "4" {
		t.Errorf("answered %d %s", a.status, a.body)
	}
}

func TestALibraryThatStartsThreadsIsNotForked(t *testing.T) {
	g := script(t, map[string]string{
		"score.py": "import threaded\ndef init(): pass\ndef run(x): return threaded.pid()\n",
	}, "PYTHONPATH="+library(t, "threaded.py", `
import os, threading
_pid = os.getpid()
threading.Thread(target=threading.Event().wait, daemon=True).start()
def pid(): return _pid == os.getpid()
`))
	if a := g.dial(g.ready(1)[0]).post(t, ""); a.body != "true" {
		t.Errorf("the library was imported in another process: %s", a.body)
	}
}

func TestALibraryIsImportedBeforeTheFork(t *testing.T) {
	g := script(t, map[string]string{
		"score.py": "import quiet\ndef init(): pass\ndef run(x): return quiet.pid()\n",
	}, "PYTHONPATH="+library(t, "quiet.py", "import os\nprint('hidden')\n_pid = os.getpid()\ndef pid(): return _pid == os.getpid()\n"))
	if a := g.dial(g.ready(1)[0]).post(t, ""); a.body != "false" {
		t.Errorf("the library was imported in the worker: %s", a.body)
	}
	if strings.Contains(g.text(), "hidden") {
		t.Error("what it prints there is in the log")
	}
}

func TestWhatAScriptKnowsOfTheAzureServerIsImportedBeforeTheFork(t *testing.T) {
	for _, module := range []string{"azureml_inference_server_http.api.aml_request", "azureml.contrib.services.aml_request"} {
		g := scriptOf(t, withFlask(t), map[string]string{
			"score.py": "import sys\nthere = 'flask' in sys.modules\nfrom " + module + " import rawhttp\ndef init(): pass\n@rawhttp\ndef run(r): return there\n",
		})
		if a := g.dial(g.ready(1)[0]).post(t, ""); a.body != "true" {
			t.Errorf("%s was imported in the worker: %s", module, a.body)
		}
	}
}

func library(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAnInstanceServesWhileOneOfItsWorkersKeepsFailing(t *testing.T) {
	dir := t.TempDir()
	g := script(t, map[string]string{"score.py": `
import os
def init():
    try:
        os.mkdir(os.environ["ONE"])
    except FileExistsError:
        raise MemoryError("only one fits")
def run(data):
    return data
`}, "ONE="+filepath.Join(dir, "one"), serving.GroupWorkers+"=2")
	s := g.until("ready", func(s serving.Group) bool { return s.Instances[0].State == serving.Ready })
	if !strings.HasPrefix(s.Instances[0].Error, "MemoryError: only one fits (score.py, line 7)\n") {
		t.Errorf("it says %q", s.Instances[0].Error)
	}
	g.dial(s.Instances[0].Address).post(t, "x")
}

func TestAProcessThatEndsBeforeItIsReadyFails(t *testing.T) {
	g := script(t, map[string]string{"score.py": "import os\ndef init(): os._exit(9)\ndef run(x): return x\n"})
	s := g.until("failed", func(s serving.Group) bool { return s.Instances[0].State == serving.Failed })
	if i := s.Instances[0]; i.Error != "the process ended before it was ready: exit code 9" || i.Fatal {
		t.Errorf("it says %q (fatal %v)", i.Error, i.Fatal)
	}
}

func TestACallerLearnsOfAKilledWorkerThoughItsChildrenLiveOn(t *testing.T) {
	g := script(t, map[string]string{"score.py": `
import os, time
def init(): pass
def run(data):
    if data == "x":
        return data
    if os.fork() == 0:
        while os.path.exists(os.environ["LAPIS_GROUP_DIR"]):
            time.sleep(0.05)
        os._exit(0)
    os._exit(1)
`})
	path := g.ready(1)[0]
	c := g.dial(path)
	if _, err := c.ask(frame.Request{Method: "POST", Target: "/score", Body: []byte("fork")}); !errors.Is(err, io.EOF) {
		t.Fatalf("the request ends with %v", err)
	}
	g.dial(path).post(t, "x")
}

func TestAReplyInPiecesLeavesPieceByPiece(t *testing.T) {
	dir := t.TempDir()
	g := scriptOf(t, withFlask(t), map[string]string{"score.py": `
import os, time
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse
def init(): pass
def pieces():
    yield b"first"
    while not os.path.exists(os.environ["GO_ON"]):
        time.sleep(0.005)
    yield b"last"
@rawhttp
def run(request):
    assert request.method == "POST"
    return AMLResponse(pieces(), 203, {"X-Many": "a, b"})
`}, "GO_ON="+filepath.Join(dir, "go"))
	c := g.dial(g.ready(1)[0])
	b, err := frame.AppendRequest(nil, frame.Request{Method: "POST", Target: "/score?x=1", Headers: []byte("Content-Type: text/plain\r\n"), Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	kind, payload, err := c.r.Next()
	if err != nil || kind != frame.KindBegin {
		t.Fatalf("a %q frame (%v)", kind, err)
	}
	head, err := frame.ParseReply(payload)
	if err != nil || head.Status != 203 || strings.Count(string(head.Headers), "X-Many: ") != 2 {
		t.Fatalf("the reply begins %d %q (%v)", head.Status, head.Headers, err)
	}
	if kind, payload, err = c.r.Next(); err != nil || kind != frame.KindData || string(payload) != "first" {
		t.Fatalf("then %q %q (%v)", kind, payload, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if kind, payload, err = c.r.Next(); err != nil || kind != frame.KindData || string(payload) != "last" {
		t.Fatalf("then %q %q (%v)", kind, payload, err)
	}
	if kind, _, err = c.r.Next(); err != nil || kind != frame.KindEnd {
		t.Fatalf("then %q (%v)", kind, err)
	}
	if a, err := c.ask(frame.Request{Method: "POST", Target: "/score"}); err != nil || a.body != "firstlast" || a.pieces != 2 {
		t.Errorf("the next reply is %q in %d pieces (%v)", a.body, a.pieces, err)
	}
}

func TestAReplyThatBreaksOffIsSaidToBeBroken(t *testing.T) {
	g := scriptOf(t, withFlask(t), map[string]string{"score.py": `
import flask
def init(): pass
def pieces():
    yield "first"
    raise ValueError("no more")
def run(data):
    if data == "late":
        return flask.Response(pieces())
    return flask.Response(int(x) for x in ["no number"])
`})
	path := g.ready(1)[0]
	c := g.dial(path)
	a, err := c.ask(frame.Request{Method: "POST", Target: "/score", Body: []byte("late")})
	if err == nil || !strings.Contains(err.Error(), "broken: ValueError: no more") || a.body != "first" {
		t.Errorf("%q, and then %v", a.body, err)
	}
	if a := g.dial(path).post(t, "early"); a.status != 500 {
		t.Errorf("what fails before its first piece is answered %d %s", a.status, a.body)
	}
}

func TestAScriptMayForkProcessesAndEndThem(t *testing.T) {
	g := script(t, map[string]string{"score.py": `
import multiprocessing
def init(): pass
def run(data):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(len, [data, data]))
`})
	c := g.dial(g.ready(1)[0])
	for range 3 {
		if a := c.post(t, "four"); a.body != "8" {
			t.Errorf("answered %d %s", a.status, a.body)
		}
	}
}
