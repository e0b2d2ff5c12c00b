package gateway

import (
	"bytes"
	"net"
	"net/http"
	"sync/atomic"
)

// Guard returns a listener whose connections notice requests that give their
// body's length twice, as a number and as chunks: servers read those in
// different ways, and one request is smuggled in another. net/http takes the
// chunks and forgets the number; the gateway refuses such a request.
func Guard(l net.Listener) net.Listener { return guarded{l} }

type guarded struct{ net.Listener }

func (g guarded) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardedConn{Conn: c}, nil
}

type guardedConn struct {
	net.Conn
	twice atomic.Bool // a head with both was seen
}

func (c *guardedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if hasBoth(b[:n]) {
		c.twice.Store(true)
	}
	return n, err
}

// hasBoth tells whether the bytes hold a head of HTTP/1.1 with both headers.
// Most bytes have neither, and only dashes are looked at.
func hasBoth(b []byte) bool {
	for at := 0; ; {
		dash := bytes.IndexByte(b[at:], '-')
		if dash < 0 {
			return false
		}
		at += dash + 1
		start := at - 1 - len("transfer")
		if start >= 0 && len(b) >= at+len("encoding") && foldedEqual(b[start:at+len("encoding")], "transfer-encoding") {
			head := b[:start]
			if first := bytes.LastIndex(head, []byte("\r\n\r\n")); first >= 0 {
				head = b[first+4:]
			} else {
				head = b
			}
			if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 {
				head = head[:end]
			}
			if bytes.Contains(head, []byte("HTTP/1.1\r\n")) && bytes.Contains(bytes.ToLower(head), []byte("\ncontent-length")) {
				return true
			}
		}
	}
}

// foldedEqual compares letters without their case.
func foldedEqual(b []byte, lower string) bool {
	for n := range b {
		c := b[n]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[n] {
			return false
		}
	}
	return true
}

// ambiguous tells whether the length of the request's body was given twice.
func ambiguous(r *http.Request) bool {
	if r.ProtoMajor != 1 || len(r.TransferEncoding) == 0 {
		return false
	}
	k, _ := r.Context().Value(callerKey).(*caller)
	return k != nil && k.guard != nil && k.guard.twice.Load()
}
