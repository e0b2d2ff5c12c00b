package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"lapis/frame"
)

// ControlSocket is the name of the socket that a group takes its orders on.
const ControlSocket = "control.sock"

func (g *Group) listen() (net.Listener, error) {
	path := filepath.Join(g.cfg.Folder, ControlSocket)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the socket of the group: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}

// serve answers orders until ctx ends.
func (g *Group) serve(ctx context.Context, l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer conn.Close()
			_ = g.converse(conn) // whoever asked has gone
		})
	}
}

// maxOrder bounds an order, in bytes.
const maxOrder = 1 << 20

func (g *Group) converse(conn net.Conn) error {
	hello, err := json.Marshal(frame.Hello{Protocol: 1, Instance: g.cfg.Name, PID: os.Getpid()})
	if err != nil {
		return err
	}
	if _, err := conn.Write(frame.Append(nil, frame.KindHello, hello)); err != nil {
		return err
	}
	r := frame.NewReader(conn, maxOrder)
	for {
		kind, payload, err := r.Next()
		if err != nil {
			return err
		}
		if kind != frame.KindRequest {
			return frame.ErrMalformed
		}
		q, err := frame.ParseRequest(payload)
		if err != nil {
			return err
		}
		status, body := g.order(q)
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		out, err := frame.AppendReply(nil, frame.KindReply, frame.Reply{Status: status, Headers: []byte("Content-Type: application/json\r\n"), Body: b})
		if err != nil {
			return err
		}
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
}

// order does what a request asks for.
func (g *Group) order(q frame.Request) (int, any) {
	type refusal struct {
		Error string `json:"error"`
	}
	switch {
	case q.Target != "/instances":
		return 404, refusal{"there is only /instances"}
	case q.Method == "GET":
		return 200, g.State()
	case q.Method != "PUT":
		return 405, refusal{"/instances takes GET and PUT"}
	}
	var want struct {
		Count *int `json:"count"`
	}
	if err := json.Unmarshal(q.Body, &want); err != nil || want.Count == nil || *want.Count < 0 || *want.Count > MaxInstances {
		return 400, refusal{fmt.Sprintf(`the body must be {"count": n}, with 0 to %d instances`, MaxInstances)}
	}
	g.Resize(*want.Count)
	return 200, g.State()
}
