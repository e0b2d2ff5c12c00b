// Package native scores models without Python: it loads what a deployment
// names and answers requests in frames (see frame and ml/serving).
package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	"lapis/frame"
	"lapis/native/model"
	"lapis/native/oip"
)

// Instance answers requests from a repository of models.
type Instance struct {
	ID string

	models *model.Repository
	oip    oip.Server
	score  scorer
}

// scorer answers the calls that are not of the Open Inference Protocol.
type scorer interface {
	// Serve answers; it tells whether the path is one of its own.
	Serve(q *frame.Request, path string, a *frame.Reply) bool
}

// New makes an instance.
func New(id, version string, models *model.Repository, score scorer) *Instance {
	return &Instance{ID: id, models: models, oip: oip.Server{Models: models, Version: version}, score: score}
}

// Serve answers on the listener until ctx ends, and then finishes what it
// works on.
func (n *Instance) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var mu sync.Mutex
	conns := map[*conversation]bool{}
	var work sync.WaitGroup
	for {
		conn, err := l.Accept()
		if err != nil {
			mu.Lock()
			for c := range conns {
				c.finish()
			}
			mu.Unlock()
			work.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		c := &conversation{instance: n, conn: conn}
		mu.Lock()
		conns[c] = true
		mu.Unlock()
		work.Go(func() {
			c.run()
			mu.Lock()
			delete(conns, c)
			mu.Unlock()
		})
	}
}

// conversation is one connection.
type conversation struct {
	instance *Instance
	conn     net.Conn

	mu     sync.Mutex
	busy   bool
	ending bool
}

// finish ends the connection when no request is under way.
func (c *conversation) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	if !c.busy {
		_ = c.conn.Close() // the reader sees it
	}
}

// turn marks the connection busy or idle; false: it is to end.
func (c *conversation) turn(busy bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
	return !c.ending
}

// keepReply bounds the buffer that a connection keeps, in bytes.
const keepReply = 1 << 20

func (c *conversation) run() {
	defer c.conn.Close()
	hello, err := json.Marshal(frame.Hello{Protocol: 1, Instance: c.instance.ID, PID: os.Getpid()})
	if err != nil {
		return
	}
	if _, err := c.conn.Write(frame.Append(nil, frame.KindHello, hello)); err != nil {
		return
	}
	r := frame.NewReader(c.conn, 0)
	var out []byte
	var a frame.Reply
	for {
		kind, payload, err := r.Next()
		if err != nil || kind != frame.KindRequest || !c.turn(true) {
			return
		}
		q, err := frame.ParseRequest(payload)
		if err != nil {
			return
		}
		a.Status, a.Headers, a.Body = 0, a.Headers[:0], a.Body[:0]
		err = c.instance.answer(&q, &a)
		if errors.Is(err, model.ErrDeadline) {
			out = frame.Append(out[:0], frame.KindBroken, []byte(err.Error()))
			_, _ = c.conn.Write(out) // whoever asked has gone
			return
		}
		if out, err = frame.AppendReply(out[:0], frame.KindReply, a); err != nil {
			return
		}
		if _, err := c.conn.Write(out); err != nil || !c.turn(false) {
			return
		}
		if cap(out) > keepReply {
			out = nil
		}
		if cap(a.Body) > keepReply {
			a.Body = nil
		}
	}
}

// answer answers one request. The only error is model.ErrDeadline.
func (n *Instance) answer(q *frame.Request, a *frame.Reply) (err error) {
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(os.Stderr, "%s %s panics: %v\n%s\n", q.Method, q.Target, r, debug.Stack())
			a.Status, a.Headers, a.Body = 500, append(a.Headers[:0], jsonType...), append(a.Body[:0], `{"error":"internal error"}`...)
		}
	}()
	path, _, _ := strings.Cut(q.Target, "?")
	switch {
	case path == "/v2" || strings.HasPrefix(path, "/v2/"):
		err = n.oip.Serve(q, path, a)
	case strings.HasPrefix(path, oip.Service):
		return n.oip.ServeGRPC(q, path, a)
	case n.score.Serve(q, path, a):
		return nil
	case path == "/":
		a.Status, a.Headers, a.Body = 200, append(a.Headers, "Content-Type: text/html; charset=utf-8\r\n"...), append(a.Body, "Healthy"...)
		return nil
	default:
		err = &oip.Failure{Status: 404, Text: "Not Found"}
	}
	if err == nil || errors.Is(err, model.ErrDeadline) {
		return err
	}
	var refusal *oip.Failure
	if !errors.As(err, &refusal) {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", q.Method, q.Target, err)
		refusal = &oip.Failure{Status: 500, Text: "internal error"}
	}
	body, err := json.Marshal(map[string]string{"error": refusal.Text})
	if err != nil {
		return nil
	}
	a.Status, a.Headers, a.Body = refusal.Status, append(a.Headers[:0], jsonType...), append(a.Body[:0], body...)
	return nil
}

const jsonType = "Content-Type: application/json\r\n"

// Listen listens on the socket of instance number of a group's folder.
func Listen(folder string, number int) (net.Listener, error) {
	path := Socket(folder, number)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// Socket is where instance number of a group listens.
func Socket(folder string, number int) string {
	return filepath.Join(folder, fmt.Sprintf("%d.sock", number))
}
