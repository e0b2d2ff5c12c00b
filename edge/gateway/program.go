package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// httpConn is a connection to a program of the user's, which speaks HTTP/1.1.
type httpConn struct {
	r   *bufio.Reader
	out []byte
}

func newHTTPConn(c net.Conn) *httpConn { return &httpConn{r: bufio.NewReaderSize(c, 8<<10)} }

// idleFor is how long a connection to a program is kept for the next request:
// less than what servers keep theirs.
const idleFor = 1500 * time.Millisecond

// fit tells whether a kept connection can carry a request: the other side has
// not closed it, and said nothing that nobody asked for.
func (h *httpConn) fit(c *conn) bool {
	if h.r.Buffered() > 0 || time.Since(c.since) > idleFor {
		return false
	}
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	fit := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		fit = n <= 0 && errors.Is(err, syscall.EAGAIN)
		return true
	})
	return fit && err == nil
}

// appendHTTP appends the head of the request as HTTP/1.1 has it. It has one
// length, which is that of the body.
func (x *exchange) appendHTTP(b []byte) []byte {
	b = append(b, x.method...)
	b = append(b, ' ')
	b = append(b, x.target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = append(b, x.frame[x.head:x.body]...)
	if x.upgrades {
		b = append(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	}
	if n := len(x.frame) - x.body; n > 0 || !safe(x.method) {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(n), 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// overHTTP sends the request to a program and passes on what comes back.
func (x *exchange) overHTTP(c *conn, i *instance) (out outcome, ok, released bool) {
	h := c.http
	b := x.appendHTTP(h.out[:0])
	body := x.frame[x.body:]
	c.SetDeadline(x.deadline)
	var err error
	if len(body) <= 32<<10 {
		b = append(b, body...)
		_, err = c.Write(b)
	} else {
		_, err = (&net.Buffers{b, body}).WriteTo(c.Conn)
	}
	h.out = b[:0]
	if cap(h.out) > keepBuffer {
		h.out = nil
	}
	if err != nil && isTimeout(err) {
		return timedOut, false, false
	}
	// A program may answer before it has read all, and close: an error in
	// writing is looked at when no answer has come.
	wrote := err
	var resp *http.Response
	for {
		if _, err := h.r.Peek(1); err != nil {
			switch {
			case isTimeout(err):
				return timedOut, false, false
			case c.used && (wrote != nil || safe(x.method)):
				return untaken, false, false // it was closed before we came
			}
			return broken, false, false
		}
		resp, err = http.ReadResponse(h.r, x.r)
		if err != nil {
			if isTimeout(err) {
				return timedOut, false, false
			}
			return malformed, false, false
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && !x.upgrades { // nobody asked for it
		return malformed, false, false
	}
	defer resp.Body.Close()
	header := x.w.Header()
	named := resp.Header["Connection"]
	for name, values := range resp.Header {
		if len(named) > 0 && listed(named, name) {
			continue
		}
		for _, v := range values {
			x.takeHeader(header, name, v)
		}
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.upgrade(c, resp), false, false
	}
	x.model = resp.StatusCode
	if resp.ContentLength < 0 || resp.ContentLength > wholeReply {
		out, ok = x.streamHTTP(resp)
		return out, ok && !resp.Close && wrote == nil, false
	}
	if x.method == http.MethodHead {
		i.done(c, x.stop() && !resp.Close && wrote == nil)
		x.status = x.outward(resp.StatusCode)
		if resp.ContentLength >= 0 && resp.Header.Get("Content-Length") != "" {
			header["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
		}
		x.w.WriteHeader(x.status)
		return answered, true, true
	}
	n := int(resp.ContentLength)
	x.reply = grow(x.reply[:0], n)[:n]
	if _, err := io.ReadFull(resp.Body, x.reply); err != nil {
		clear(header)
		x.w.Header()[headerRequestID] = []string{x.id}
		if isTimeout(err) {
			return timedOut, false, false
		}
		return broken, false, false
	}
	i.done(c, x.stop() && !resp.Close && wrote == nil)
	x.send(resp.StatusCode, x.reply)
	return answered, true, true
}

// safe tells whether a request may be sent again without harm.
func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// wholeReply is up to which length a reply is taken whole before it is passed
// on, so that the program is free again while a slow caller reads. In bytes.
const wholeReply = 4 << 20

// streamHTTP passes on a reply as it comes.
func (x *exchange) streamHTTP(resp *http.Response) (outcome, bool) {
	control := http.NewResponseController(x.w)
	_ = control.SetWriteDeadline(x.deadline.Add(time.Second))
	x.status = x.outward(resp.StatusCode)
	if resp.ContentLength >= 0 {
		x.w.Header()["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
	x.w.WriteHeader(x.status)
	if x.method == http.MethodHead {
		return answered, true
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			x.note(buf[:n])
			m, werr := x.w.Write(buf[:n])
			x.sent += int64(m)
			if werr == nil && err == nil {
				werr = control.Flush()
			}
			if werr != nil {
				return answered, false
			}
		}
		switch {
		case err == io.EOF:
			for name, values := range resp.Trailer {
				for _, v := range values {
					x.w.Header().Add(http.TrailerPrefix+name, v)
				}
			}
			_ = control.SetWriteDeadline(time.Time{})
			return answered, true
		case err != nil:
			x.torn = true
			return answered, false
		}
	}
}
