package gateway

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A WebSocket to a program of the user's goes through as it is. Its handshake is
// a request like any other; after that it keeps its place at the instance until
// one side ends it, or neither has said anything for quietFor.

// quietFor bounds the silence of an upgraded connection.
const quietFor = time.Minute

// upgrades tells whether the caller asks for a WebSocket.
func upgrades(r *http.Request) bool {
	v := r.Header["Upgrade"]
	return len(v) == 1 && r.ProtoMajor == 1 && r.Method == http.MethodGet && strings.EqualFold(v[0], "websocket") &&
		listed(r.Header["Connection"], "Upgrade")
}

// upgrade passes on the program's agreement, and then what both sides say. It
// returns when they have ended.
func (x *exchange) upgrade(c *conn, resp *http.Response) outcome {
	if !x.stop() { // from here on the caller's end is seen by reading
		return abandoned
	}
	caller, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return malformed
	}
	defer caller.Close()
	first, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	first = bytes.Clone(first)
	if g, ok := caller.(*guardedConn); ok { // there are no more heads
		caller = g.Conn
	}
	x.model, x.status = resp.StatusCode, resp.StatusCode
	x.w.Header()[headerDeployment] = []string{x.d.name}
	head := []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	for name, values := range x.w.Header() {
		for _, v := range values {
			head = appendHeader(head, name, v)
		}
	}
	handshake := time.Since(x.began)
	_ = caller.SetDeadline(time.Now().Add(quietFor))
	_ = c.SetDeadline(time.Now().Add(quietFor))
	if _, err := caller.Write(append(head, '\r', '\n')); err == nil {
		x.tunnel(caller, io.MultiReader(bytes.NewReader(first), caller), c)
	}
	x.began = time.Now().Add(-handshake) // what is measured is the handshake
	return answered
}

// tunnel copies both ways until one side ends.
func (x *exchange) tunnel(caller net.Conn, said io.Reader, c *conn) {
	end := func() {
		caller.Close()
		c.Close()
	}
	defer context.AfterFunc(x.g.ends, end)()
	pass := func(to net.Conn, from io.Reader, count func(int)) {
		b := make([]byte, 16<<10)
		for {
			n, err := from.Read(b)
			if n > 0 {
				until := time.Now().Add(quietFor)
				_ = caller.SetDeadline(until)
				_ = c.SetDeadline(until)
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
				count(n)
			}
			if err != nil {
				return
			}
		}
	}
	var back sync.WaitGroup
	back.Go(func() {
		defer end()
		pass(caller, c.http.r, func(n int) { x.sent += int64(n) })
	})
	pass(c, said, func(n int) { x.rt.state.bytesIn.Add(int64(n)) })
	end()
	back.Wait()
}
