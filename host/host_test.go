package host

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// buffer is a log that several write to.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// group runs a group of programs until the test ends, and returns its folder
// and what it printed.
func group(t *testing.T, count int, p *Program) (folder string, log *buffer) {
	t.Helper()
	folder, err := os.MkdirTemp("", "g")
	if err != nil {
		t.Fatal(err)
	}
	log = &buffer{}
	g := New(Config{Folder: folder, Name: "e/d/1", Count: count, Grace: 10 * time.Second, Kind: p, Out: log, Err: log})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(folder) // a temporary folder
	})
	return folder, log
}

// ask gives the group an order.
func ask(t *testing.T, folder, method, target, body string) (int, string) {
	t.Helper()
	var conn net.Conn
	wait(t, "the group listens", func() bool {
		var err error
		conn, err = net.Dial("unix", filepath.Join(folder, ControlSocket))
		return err == nil
	})
	defer conn.Close()
	r := frame.NewReader(conn, 0)
	if k, _, err := r.Next(); err != nil || k != frame.KindHello {
		t.Fatalf("no hello: %c %v", k, err)
	}
	out, err := frame.AppendRequest(nil, frame.Request{Method: method, Target: target, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(out); err != nil {
		t.Fatal(err)
	}
	_, payload, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	a, err := frame.ParseReply(payload)
	if err != nil {
		t.Fatal(err)
	}
	return a.Status, string(a.Body)
}

func state(t *testing.T, folder string) []serving.GroupInstance {
	t.Helper()
	_, body := ask(t, folder, "GET", "/instances", "")
	var g serving.Group
	if err := json.Unmarshal([]byte(body), &g); err != nil {
		t.Fatal(err)
	}
	return g.Instances
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for a minute: %s", what)
		}
	}
}

func allReady(t *testing.T, folder string, count int) (list []serving.GroupInstance) {
	t.Helper()
	wait(t, fmt.Sprintf("%d instances are ready", count), func() bool {
		list = state(t, folder)
		for _, i := range list {
			if i.State != serving.Ready {
				return false
			}
		}
		return len(list) == count
	})
	return list
}

func get(t *testing.T, address, path string) string {
	t.Helper()
	a, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// server is a program that answers with its process id, and that ends at
// GET /die with exit status 3.
const server = `exec python3 -u -c '
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            print("I was asked to", file=sys.stderr)
            os._exit(3)
        self.send_response(200 if self.path in ("/live", "/") else 404)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *a): pass
print("up on", sys.argv[1])
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
' `

func TestCopiesOfAProgramComeAndGo(t *testing.T) {
	folder, log := group(t, 2, &Program{Command: server + "$PORT", Probe: "/live"})
	list := allReady(t, folder, 2)
	if list[0].Address == list[1].Address || get(t, list[0].Address, "/") != fmt.Sprint(list[0].PID) || get(t, list[1].Address, "/") != fmt.Sprint(list[1].PID) {
		t.Fatalf("each instance is a process with a port of its own: %+v", list)
	}
	if status, body := ask(t, folder, "PUT", "/instances", `{"count":3}`); status != 200 || !strings.Contains(body, `"number":3`) {
		t.Fatalf("PUT is answered at once: %d %s", status, body)
	}
	three := allReady(t, folder, 3)
	if three[0].PID != list[0].PID || three[1].PID != list[1].PID {
		t.Errorf("instances that were there stay: %+v then %+v", list, three)
	}
	ask(t, folder, "PUT", "/instances", `{"count":1}`)
	one := allReady(t, folder, 1)
	if one[0].PID != list[0].PID {
		t.Errorf("the one with the lowest number stays: %+v", one)
	}
	if err := syscall.Kill(three[2].PID, 0); err == nil {
		t.Error("the process of an instance that was told to go is still there")
	}
	ask(t, folder, "PUT", "/instances", `{"count":0}`)
	wait(t, "all are gone", func() bool { return len(state(t, folder)) == 0 })
	ask(t, folder, "PUT", "/instances", `{"count":1}`)
	allReady(t, folder, 1)
	if !strings.Contains(log.String(), "up on") {
		t.Errorf("what instances print is in the log of the group: %q", log.String())
	}
}

func TestAnInstanceThatDiesIsStartedAgain(t *testing.T) {
	folder, log := group(t, 2, &Program{Command: server + "$PORT", Probe: "/live"})
	before := allReady(t, folder, 2)
	if a, err := http.Get("http://" + before[0].Address + "/die"); err == nil {
		a.Body.Close()
	}
	var after []serving.GroupInstance
	wait(t, "the instance is back", func() bool {
		after = state(t, folder)
		return len(after) == 2 && after[0].State == serving.Ready && after[0].PID != before[0].PID
	})
	if after[0].Restarts != 1 || after[1].PID != before[1].PID || after[1].Restarts != 0 {
		t.Errorf("one was started again, the other not: %+v", after)
	}
	if want := "Instance 1 failed: I was asked to (the process ended with exit status 3)"; !strings.Contains(log.String(), want) {
		t.Errorf("the log says why: %q is not in %q", want, log.String())
	}
}

func TestAProgramThatCannotStartIsFatal(t *testing.T) {
	for _, c := range []struct{ name, command, first string }{
		{"no such command", "no-such-command --port $PORT", "command not found (the process ended with exit status 127)"},
		{"it ends again and again", "echo 'ValueError: no model' >&2; exit 4", "ValueError: no model (the process ended with exit status 4)"},
		{"it ends without a word", "exit 0", "the process ended by itself, with exit status 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder, _ := group(t, 1, &Program{Command: c.command, Probe: "/"})
			var list []serving.GroupInstance
			wait(t, "it is fatal", func() bool {
				list = state(t, folder)
				return len(list) == 1 && list[0].Fatal
			})
			if first := firstLine(list[0].Error); list[0].State != serving.Failed || !strings.HasSuffix(first, c.first) {
				t.Errorf("the first line is %q, the state %s", first, list[0].State)
			}
		})
	}
}

func TestAProgramThatIgnoresPortCanHaveOneInstance(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	folder, _ := group(t, 1, &Program{Command: server + fmt.Sprint(port), Port: port, Probe: "/live"})
	list := allReady(t, folder, 1)
	if list[0].Address != local(port) {
		t.Fatalf("it is found where it listens: %+v", list)
	}
	ask(t, folder, "PUT", "/instances", `{"count":2}`)
	wait(t, "the second is refused", func() bool {
		list = state(t, folder)
		return len(list) == 2 && list[1].Fatal && strings.Contains(list[1].Error, "let the command listen on $PORT")
	})
	if list[0].State != serving.Ready {
		t.Errorf("the first goes on: %+v", list[0])
	}
}

func TestSomebodyElsesServerIsNotTakenForTheProgram(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {})
	other := &http.Server{Handler: mux}
	go func() { _ = other.Serve(l) }()
	defer other.Close()
	port := l.Addr().(*net.TCPAddr).Port
	folder, _ := group(t, 1, &Program{Command: server + "$PORT", Port: port, Probe: "/live"})
	if list := allReady(t, folder, 1); list[0].Address == local(port) {
		t.Errorf("the other server was taken: %+v", list)
	}
}

func TestOrdersThatMakeNoSenseAreRefused(t *testing.T) {
	folder, _ := group(t, 0, &Program{Command: "sleep 60"})
	for _, c := range []struct {
		method, target, body string
		status               int
	}{
		{"GET", "/", "", 404}, {"DELETE", "/instances", "", 405}, {"PUT", "/instances", "", 400},
		{"PUT", "/instances", `{"count":-1}`, 400}, {"PUT", "/instances", `{"count":100000}`, 400}, {"PUT", "/instances", `{"count":"2"}`, 400},
	} {
		if status, body := ask(t, folder, c.method, c.target, c.body); status != c.status {
			t.Errorf("%s %s %s: %d %s", c.method, c.target, c.body, status, body)
		}
	}
}

func TestPausesGrowToThirtySeconds(t *testing.T) {
	var got []time.Duration
	for n := 1; n < 10; n++ {
		got = append(got, pause(n)/time.Second)
	}
	if fmt.Sprint(got) != "[0s 1ns 2ns 4ns 8ns 16ns 30ns 30ns 30ns]" {
		t.Errorf("got %v", got)
	}
}

func TestAProgramThatTakesGRPCCallsAloneIsReady(t *testing.T) {
	for _, c := range []struct {
		kind  string
		ready bool
	}{{"application/grpc", true}, {"text/plain", false}} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Content-Type") == "application/grpc" {
				w.Header().Set("Content-Type", c.kind)
				w.Header().Set("Grpc-Status", "12")
			}
		}))
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		port := srv.Listener.Addr().(*net.TCPAddr).Port
		err := (&Program{Probe: "/live"}).probe(context.Background(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, port)
		if (err == nil) != c.ready {
			t.Errorf("one that answers calls with %s: %v", c.kind, err)
		}
		srv.Close()
		if err := (&Program{Probe: "/live"}).probe(context.Background(), http.DefaultClient, port); err == nil {
			t.Error("one that is not there is ready")
		}
	}
}
