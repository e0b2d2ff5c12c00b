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
	part  []byte      // the end of what was read, which may be half a head
	twice atomic.Bool // a head with both was seen
}

// partMost bounds what is kept of one read for the next, in bytes.
const partMost = 16 << 10

// Read is called by one goroutine at a time.
func (c *guardedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	seen := b[:n]
	if len(c.part) > 0 {
		c.part = append(c.part, seen...)
		seen = c.part
	}
	if hasBoth(seen) {
		c.twice.Store(true)
	}
	c.part = append(c.part[:0], unfinished(seen)...)
	return n, err
}

// unfinished is what follows the last blank line: half of a head, or of a body.
// What is longer than a head is no head.
func unfinished(b []byte) []byte {
	for len(b) <= partMost {
		at := bytes.Index(b, []byte("\n\r\n"))
		if at < 0 {
			return b
		}
		b = b[at+3:]
	}
	return nil
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
			if hasLine(head) && bytes.Contains(bytes.ToLower(head), []byte("\ncontent-length")) {
				return true
			}
		}
	}
}

// hasLine tells whether the first line of a head is there. It may end without
// a carriage return.
func hasLine(head []byte) bool {
	return bytes.Contains(head, []byte("HTTP/1.1\r\n")) || bytes.Contains(head, []byte("HTTP/1.1\n"))
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
