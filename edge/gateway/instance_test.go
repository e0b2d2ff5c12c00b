package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// process is the other end: an instance that speaks frames.
type process struct {
	serving.Instance
	listener net.Listener
	open     atomic.Int64 // connections
	handled  atomic.Int64
	ended    atomic.Int64 // connections that the gateway ended while we worked
	conns    sync.Map
	dead     atomic.Bool
}

// write sends one frame.
type write func(frame.Kind, []byte)

// work answers a request: whole when it returns a reply, else by what it wrote.
type work func(q frame.Request, gone <-chan struct{}, out write) *frame.Reply

func answer(status int, body string, headers ...string) *frame.Reply {
	return &frame.Reply{Status: status, Headers: lines(headers...), Body: []byte(body)}
}

func lines(headers ...string) []byte {
	var b []byte
	for n := 0; n+1 < len(headers); n += 2 {
		b = fmt.Appendf(b, "%s: %s\r\n", headers[n], headers[n+1])
	}
	return b
}

var instances atomic.Int64

// startProcess starts an instance on a socket of its own.
func startProcess(t testing.TB, do work) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := instances.Add(1)
	p := &process{Instance: serving.Instance{ID: fmt.Sprintf("e/d/1/%d", n), Network: "unix", Address: filepath.Join(dir, "s"), Frames: true}}
	p.listen(t, do)
	return p
}

func (p *process) listen(t testing.TB, do work) {
	t.Helper()
	var err error
	p.dead.Store(false)
	if p.listener, err = net.Listen(p.Network, p.Address); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	listener := p.listener
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			p.conns.Store(c, true)
			if p.dead.Load() {
				c.Close()
			}
			all.Go(func() {
				p.open.Add(1)
				p.serve(c, do)
				p.open.Add(-1)
				p.conns.Delete(c)
			})
		}
	})
	t.Cleanup(func() { p.die(); all.Wait() })
}

// die ends the instance as a kill would.
func (p *process) die() {
	p.dead.Store(true)
	p.listener.Close()
	p.conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
}

func (p *process) serve(c net.Conn, do work) {
	defer c.Close()
	hello, _ := json.Marshal(frame.Hello{Protocol: 1, Instance: p.ID, PID: os.Getpid()})
	out := func(k frame.Kind, b []byte) { _, _ = c.Write(frame.Append(nil, k, b)) }
	out(frame.KindHello, hello)
	if do == nil {
		serveFixed(c)
		return
	}
	type got struct {
		kind    frame.Kind
		payload []byte
	}
	frames := make(chan got)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r := frame.NewReader(c, 0)
		for {
			kind, payload, err := r.Next()
			if err != nil {
				return
			}
			frames <- got{kind, bytes.Clone(payload)}
		}
	}()
	for {
		select {
		case <-gone:
			return
		case f := <-frames:
			q, err := frame.ParseRequest(f.payload)
			if err != nil || f.kind != frame.KindRequest {
				return
			}
			p.handled.Add(1)
			a := do(q, gone, out)
			select {
			case <-gone:
				p.ended.Add(1)
				return
			default:
			}
			if a != nil {
				b, err := frame.AppendReply(nil, frame.KindReply, *a)
				if err != nil {
					return
				}
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		}
	}
}

// house is a gateway with callers.
type house struct {
	t   testing.TB
	g   *Gateway
	dir string
	url string
	srv *httptest.Server

	mu     sync.Mutex
	routes serving.Routes
}

const testKey = "primary-key"

func hash(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

func open(t testing.TB) *house { t.Helper(); return openIn(t, t.TempDir()) }

func openIn(t testing.TB, dir string) *house {
	t.Helper()
	g, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, g: g, dir: dir}
	h.srv = httptest.NewUnstartedServer(g)
	h.srv.Config.ConnContext, h.srv.Config.ConnState = g.ConnContext, g.ConnState
	h.srv.Config.Protocols = new(http.Protocols)
	h.srv.Config.Protocols.SetHTTP1(true)
	h.srv.Config.Protocols.SetUnencryptedHTTP2(true)
	h.srv.Listener = Guard(h.srv.Listener)
	h.srv.Start()
	h.url = h.srv.URL
	t.Cleanup(func() {
		h.srv.Close()
		if err := g.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return h
}

// endpoint is an endpoint "e" with keys and the deployments; the first gets
// all the traffic.
func endpointOf(deployments ...serving.Deployment) serving.Endpoint {
	e := serving.Endpoint{Name: "e", ID: "/subscriptions/s/onlineEndpoints/e", Kind: "Managed", Auth: serving.AuthKey,
		Keys: []string{hash(testKey), hash("secondary-key")}, Deployments: deployments, Traffic: map[string]int{}}
	if len(deployments) > 0 {
		e.Traffic[deployments[0].Name] = 100
	}
	return e
}

func deploymentOf(name string, concurrency int, processes ...*process) serving.Deployment {
	d := serving.Deployment{Name: name, ID: "/subscriptions/s/onlineEndpoints/e/deployments/" + name, Generation: "1", Runtime: serving.Python,
		ScoringPath: "/score", Timeout: 20 * time.Second, Concurrency: concurrency, Capacity: len(processes)}
	for _, p := range processes {
		d.Instances = append(d.Instances, p.Instance)
	}
	return d
}

// apply makes these the endpoints.
func (h *house) apply(endpoints ...serving.Endpoint) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes.Version++
	h.routes.Endpoints = endpoints
	if err := h.g.Apply(h.routes); err != nil {
		h.t.Fatal(err)
	}
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (r reply) reason() string { return r.header.Get("x-aml-reason") }

// code is the word of an error reply.
func (r reply) code() string {
	var e struct {
		Error struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(r.body), &e) != nil || e.Error.Message == "" {
		return ""
	}
	return e.Error.Code
}

// score calls an endpoint's /score with the primary key, and what else is set.
func (h *house) score(body string, headers ...string) reply {
	return h.call("POST", "/endpoints/e/score", body, append([]string{"Authorization", "Bearer " + testKey, "Content-Type", "application/json"}, headers...)...)
}

var patient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 300, DisableCompression: true}, Timeout: time.Minute,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func (h *house) call(method, path, body string, headers ...string) reply {
	return h.callWith(context.Background(), method, path, body, headers...)
}

func (h *house) callWith(ctx context.Context, method, path, body string, headers ...string) reply {
	r, err := http.NewRequestWithContext(ctx, method, h.url+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	for n := 0; n+1 < len(headers); n += 2 {
		if headers[n] == "Host" {
			r.Host = headers[n+1]
			continue
		}
		r.Header.Set(headers[n], headers[n+1])
	}
	resp, err := patient.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), err}
}

// until waits for something to become true.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 30 s, still not: %s", what)
		}
	}
}

// headersOf are the headers of a framed request.
func headersOf(q frame.Request) http.Header {
	h := http.Header{}
	eachHeader(q.Headers, h.Add)
	return h
}

// deployment is the deployment's state.
func (h *house) deployment(name string) *deployment {
	return h.g.table.Load().named["e"].deployments[name]
}

func (d *deployment) counts() (running, waiting int) {
	s := d.state()
	return int(s.Running), int(s.Waiting)
}

// events are the first that come.
func listenUnix(path string) (net.Listener, error) { return net.Listen("unix", path) }

func (h *house) events() []serving.Event {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list := h.g.events.after(ctx, 0)
	if len(list) == 0 {
		h.t.Fatal("no event came")
	}
	return list
}

// pipe is a listener of one connection in memory.
type pipe struct {
	client net.Conn
	conns  chan net.Conn
}

func newPipe() *pipe {
	server, client := net.Pipe()
	p := &pipe{client: client, conns: make(chan net.Conn, 1)}
	p.conns <- server
	return p
}

func (p *pipe) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p *pipe) Close() error {
	close(p.conns)
	return nil
}

func (p *pipe) Addr() net.Addr { return p.client.LocalAddr() }
