package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lapis/edge/gateway"
	"lapis/frame"
	"lapis/ml/serving"
)

// answering is an instance that answers all requests.
func answering(t *testing.T) serving.Instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	i := serving.Instance{ID: "e/d/1/0", Network: "unix", Address: filepath.Join(dir, "s"), Frames: true}
	l, err := net.Listen("unix", i.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	reply, err := frame.AppendReply(nil, frame.KindReply, frame.Reply{Status: 200, Body: []byte("[1]")})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				hello, _ := json.Marshal(frame.Hello{Protocol: 1})
				if _, err := c.Write(frame.Append(nil, frame.KindHello, hello)); err != nil {
					return
				}
				for r := frame.NewReader(c, 0); ; {
					if _, _, err := r.Next(); err != nil {
						return
					}
					if _, err := c.Write(reply); err != nil {
						return
					}
				}
			}()
		}
	}()
	return i
}

const scoringKey = "the-key"

// routed gives the gateway of the folder an endpoint "e" that answers. The
// server's own routes are older, and passed over.
func routed(t *testing.T, f *folder, instances ...serving.Instance) *gateway.Client {
	t.Helper()
	sum := sha256.Sum256([]byte(scoringKey))
	routes := serving.Routes{Version: math.MaxInt64, Endpoints: []serving.Endpoint{{
		Name: "e", ID: "/e", Kind: "Managed", Auth: serving.AuthKey, Keys: []string{hex.EncodeToString(sum[:])}, Traffic: map[string]int{"d": 100},
		Deployments: []serving.Deployment{{Name: "d", ID: "/e/d", Generation: "1", Runtime: serving.Python, Timeout: 20 * time.Second,
			Concurrency: 8, Capacity: 1, Instances: instances}},
	}}}
	c := gateway.NewClient(f.gatewaySocket())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for c.Apply(ctx, routes) != nil {
		if ctx.Err() != nil {
			t.Fatal("the gateway takes no routes")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return c
}

// scoreAt calls the endpoint "e" and returns the status, 0 for a connection
// that broke.
func scoreAt(client *http.Client, listen string) (int, error) {
	r, _ := http.NewRequest("POST", "http://"+listen+"/endpoints/e/score", strings.NewReader("{}"))
	r.Header.Set("Authorization", "Bearer "+scoringKey)
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func waitUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute, still not: %s", what)
		}
	}
}

func gatewayOf(t *testing.T, f *folder) int {
	t.Helper()
	pid, err := f.gatewayPid()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// ended waits for the end of a gateway, so that it does not write into a folder
// that is being removed.
func ended(t *testing.T, f *folder) {
	t.Cleanup(func() {
		if pid, err := f.gatewayPid(); err == nil && pid > 0 {
			syscall.Kill(pid, syscall.SIGKILL)
			waitUntil(t, "the gateway is gone", func() bool { now, _ := f.gatewayPid(); return now == 0 })
		}
	})
}

func TestAKilledGatewayIsBackAndNobodyIsRefused(t *testing.T) {
	dir := t.TempDir()
	f := &folder{dir: dir}
	ended(t, f)
	start(t, dir, "--scoring-listen", "localhost:0")
	routed(t, f, answering(t))
	listen := f.lastScoring()
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	var good, broken atomic.Int64
	const count = 4
	for range count {
		callers.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				status, err := scoreAt(client, listen)
				switch {
				case status == 200 && err == nil:
					good.Add(1)
				case err != nil && !errors.Is(err, syscall.ECONNREFUSED):
					broken.Add(1) // it was on its way when the gateway was killed
				default:
					t.Errorf("%d %v", status, err)
				}
			}
		})
	}
	const kills = 3
	for range kills {
		at := good.Load()
		waitUntil(t, "requests are answered", func() bool { return good.Load() > at+50 })
		pid := gatewayOf(t, f)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "another gateway is there", func() bool { now := gatewayOf(t, f); return now != 0 && now != pid })
	}
	at := good.Load()
	waitUntil(t, "requests are answered", func() bool { return good.Load() > at+50 })
	stop()
	callers.Wait()
	// Each caller has one request on its way, and may try one more on a
	// connection that the dead gateway had taken.
	if n := broken.Load(); n > 2*kills*count {
		t.Errorf("%d of %d requests broke", n, n+good.Load())
	}
}

func TestTheGatewayOutlivesTheServerAndIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	f := &folder{dir: dir}
	ended(t, f)
	s := start(t, dir, "--scoring-listen", "localhost:0")
	routed(t, f, answering(t))
	listen, pid := f.lastScoring(), gatewayOf(t, f)
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	check := func(when string) {
		t.Helper()
		if status, err := scoreAt(client, listen); status != 200 {
			t.Errorf("%s: %d %v", when, status, err)
		}
		if now := gatewayOf(t, f); now != pid {
			t.Errorf("%s: another gateway, %d", when, now)
		}
	}
	check("at first")
	s.stop(syscall.SIGINT)
	check("the server was stopped")
	if out := s.out.String(); !strings.Contains(out, "1 deployment goes on") || !strings.Contains(out, "lapis down") || !strings.Contains(out, listen) {
		t.Errorf("the server said\n%s", out)
	}
	s = start(t, dir)
	check("another server")
	s.stop(os.Kill)
	check("that was killed")
	s = start(t, dir, "--scoring-listen", listen)
	check("a third")
	out, errs, err := command(t, "down", "--data", dir)
	if err != nil || !strings.Contains(out, strconv.Itoa(pid)) {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
	<-s.done
	s.done <- nil
	if now := gatewayOf(t, f); now != 0 {
		t.Errorf("the gateway goes on as %d", now)
	}
	if _, err := scoreAt(client, listen); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after all is down: %v", err)
	}
	routes, err := os.ReadFile(f.path("gateway", "routes.json"))
	if err != nil || !strings.Contains(string(routes), `"e"`) {
		t.Errorf("%s %v", routes, err)
	}
	// The next start has the same address, and a gateway with nothing to do ends
	// with its server.
	start(t, dir)
	if now := f.lastScoring(); now != listen {
		t.Errorf("it listens on %s, and did on %s", now, listen)
	}
}

func TestAScoringPortThatIsTakenIsNamed(t *testing.T) {
	dir := t.TempDir()
	f := &folder{dir: dir}
	ended(t, f)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	refused(t, []string{taken[len("localhost:"):], "in use by pid " + strconv.Itoa(os.Getpid()), "--scoring-listen"}, "up", "--data", dir, "--listen", "localhost:0", "--scoring-listen", taken)
	refused(t, []string{"--scoring-listen", "HOST:PORT"}, "up", "--data", dir, "--listen", "localhost:0", "--scoring-listen", "nonsense")
	refused(t, []string{"--only", "gateway"}, "up", "--data", dir, "--only", "nonsense")

	// Where it was last is taken by now, and nobody asked for it: another will do.
	if err := os.MkdirAll(f.gatewayFolder(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path("gateway", scoringFile), []byte(`{"Listen":"`+taken+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir)
	listen := f.lastScoring()
	if listen == taken {
		t.Fatal("it says that it listens where another does")
	}
	_, port, _ := net.SplitHostPort(listen)
	waitUntil(t, "the server has said it", func() bool { return strings.Contains(s.out.String(), "called on port "+port) })
	s.stop(syscall.SIGTERM)
	if now := gatewayOf(t, f); now != 0 {
		t.Errorf("a gateway without deployments goes on as %d", now)
	}
}

func TestAGatewayEndsWithItsFolder(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, strings.Repeat("long-", 20)) // too long for a socket in it
	f := &folder{dir: dir}
	s := start(t, dir, "--scoring-listen", "localhost:0")
	routed(t, f, answering(t))
	pid := gatewayOf(t, f)
	s.stop(os.Kill)
	waitUntil(t, "the folder is gone", func() bool { return os.RemoveAll(dir) == nil })
	waitUntil(t, "the gateway has ended", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	if _, err := os.Stat(filepath.Dir(f.gatewaySocket())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's folder is left behind: %v", err)
	}
}

func TestTheGatewayRunsAlone(t *testing.T) {
	dir := t.TempDir()
	f := &folder{dir: dir}
	ended(t, f)
	cmd := exec.Command(lapis(t), "up", "--only", "gateway", "--data", dir, "--scoring-listen", "localhost:0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	routed(t, f, answering(t))
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	if status, err := scoreAt(client, f.lastScoring()); status != 200 {
		t.Errorf("%d %v", status, err)
	}
	// A server on the same folder finds it.
	s := start(t, dir)
	if pid := gatewayOf(t, f); pid != cmd.Process.Pid {
		t.Errorf("the gateway is %d", pid)
	}
	s.stop(syscall.SIGTERM)
	cmd.Process.Signal(syscall.SIGTERM)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
