// Package frame is how the gateway speaks with the processes that score: over a
// unix socket, one request at a time on a connection, each message one frame.
//
// A frame is its length (4 bytes, little-endian, of all that follows), one byte
// that tells its kind, and the payload. Whoever accepts the connection says
// Hello first. Then the dialling side sends a Request and reads either one
// Reply, or a Begin, any number of Data and an End. It ends the connection to
// cancel what is under way; the other side frees what worked on it, no later
// than 50 ms after the request's deadline.
//
// Numbers are little-endian. Headers are lines "Name: value\r\n", names in
// their canonical form, as often as they are repeated.
package frame

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind is the first byte of a frame.
type Kind byte

// The kinds of frames.
const (
	KindHello   Kind = 'h' // JSON, a Hello
	KindRequest Kind = 'q'
	KindReply   Kind = 's' // a whole reply
	KindBegin   Kind = 'b' // the head of a reply that is sent in pieces, and its first bytes
	KindData    Kind = 'd' // the next bytes
	KindEnd     Kind = 'e' // headers that come last; often empty
	KindBroken  Kind = 'x' // text: the reply cannot be completed; the connection ends
)

// MaxSize bounds a frame, in bytes.
const MaxSize = 1 << 30

// Hello is what the accepting side says first.
type Hello struct {
	Protocol int    `json:"protocol"` // 1
	Instance string `json:"instance"` // which instance answers
	PID      int    `json:"pid"`
}

// Request is one request to score. Body and Headers share the buffer that they
// were read into: they are good until the next read.
type Request struct {
	Timeout time.Duration // from the arrival of the frame; 0 means none; milliseconds
	Method  string
	Target  string // path and query, as they were sent
	Headers []byte
	Body    []byte
}

// Reply is a whole reply, or the Begin of one.
type Reply struct {
	Status  int
	Headers []byte
	Body    []byte
}

// ErrMalformed is a frame that breaks the rules of this page.
var ErrMalformed = errors.New("malformed frame")

// Reader reads frames.
type Reader struct {
	r   *bufio.Reader
	buf []byte
	max int
}

// NewReader returns a reader that refuses frames of more than max bytes; 0
// means MaxSize.
func NewReader(r io.Reader, max int) *Reader {
	if max <= 0 || max > MaxSize {
		max = MaxSize
	}
	return &Reader{r: bufio.NewReaderSize(r, 16<<10), max: max}
}

// keep bounds the buffer that is kept between frames.
const keep = 1 << 20

// Next reads a frame. The payload is good until the next call. At the end of
// the stream it returns io.EOF, within a frame io.ErrUnexpectedEOF.
func (r *Reader) Next() (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[:4]))
	if n < 1 || n > int64(r.max) {
		return 0, nil, fmt.Errorf("%w: %d bytes long, and 1 to %d are allowed", ErrMalformed, n, r.max)
	}
	payload, err := r.read(int(n) - 1)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return Kind(head[4]), payload, err
}

// read fills the buffer. A large one grows with what arrives and not with what
// is promised.
func (r *Reader) read(n int) ([]byte, error) {
	if cap(r.buf) > keep && n <= keep {
		r.buf = nil
	}
	if n <= max(cap(r.buf), keep) {
		if cap(r.buf) < n {
			r.buf = make([]byte, n, max(n, 4<<10))
		}
		r.buf = r.buf[:n]
		_, err := io.ReadFull(r.r, r.buf)
		return r.buf, err
	}
	r.buf = r.buf[:0]
	for len(r.buf) < n {
		step := min(n-len(r.buf), max(len(r.buf), keep))
		from := len(r.buf)
		if cap(r.buf) < from+step {
			grown := make([]byte, from, min(n, from+2*step))
			copy(grown, r.buf)
			r.buf = grown
		}
		r.buf = r.buf[:from+step]
		if _, err := io.ReadFull(r.r, r.buf[from:]); err != nil {
			return nil, err
		}
	}
	return r.buf, nil
}

// Buffered tells whether bytes wait that nobody has read.
func (r *Reader) Buffered() int { return r.r.Buffered() }

// ParseRequest reads the payload of a KindRequest.
func ParseRequest(p []byte) (Request, error) {
	var q Request
	if len(p) < 4 {
		return q, fmt.Errorf("%w: a request without its head", ErrMalformed)
	}
	q.Timeout = time.Duration(binary.LittleEndian.Uint32(p)) * time.Millisecond
	p = p[4:]
	method, p, ok1 := short(p)
	target, p, ok2 := short(p)
	headers, p, ok3 := long(p)
	if !ok1 || !ok2 || !ok3 || len(method) == 0 || len(target) == 0 {
		return q, fmt.Errorf("%w: a request that ends in its head", ErrMalformed)
	}
	q.Method, q.Target, q.Headers, q.Body = string(method), string(target), headers, p
	return q, nil
}

// ParseReply reads the payload of a KindReply or a KindBegin.
func ParseReply(p []byte) (Reply, error) {
	var a Reply
	if len(p) < 2 {
		return a, fmt.Errorf("%w: a reply without its status", ErrMalformed)
	}
	a.Status = int(binary.LittleEndian.Uint16(p))
	headers, body, ok := long(p[2:])
	if !ok || a.Status < 200 || a.Status > 999 {
		return a, fmt.Errorf("%w: a reply of status %d that ends in its head", ErrMalformed, a.Status)
	}
	a.Headers, a.Body = headers, body
	return a, nil
}

func short(p []byte) (text, rest []byte, ok bool) {
	if len(p) < 2 {
		return nil, nil, false
	}
	n := int(binary.LittleEndian.Uint16(p))
	if p = p[2:]; len(p) < n {
		return nil, nil, false
	}
	return p[:n], p[n:], true
}

func long(p []byte) (text, rest []byte, ok bool) {
	if len(p) < 4 {
		return nil, nil, false
	}
	n := int64(binary.LittleEndian.Uint32(p))
	if p = p[4:]; int64(len(p)) < n {
		return nil, nil, false
	}
	return p[:n], p[n:], true
}

// AppendRequest appends the whole frame of a request to b. The method and the
// target may have 65,535 bytes each.
func AppendRequest(b []byte, q Request) ([]byte, error) {
	if len(q.Method) > 1<<16-1 || len(q.Target) > 1<<16-1 {
		return b, fmt.Errorf("%w: a target of %d bytes", ErrMalformed, len(q.Target))
	}
	n := 1 + 4 + 2 + len(q.Method) + 2 + len(q.Target) + 4 + len(q.Headers) + len(q.Body)
	if n > MaxSize {
		return b, fmt.Errorf("%w: %d bytes long, and at most %d are allowed", ErrMalformed, n, MaxSize)
	}
	b = head(b, n, KindRequest)
	b = binary.LittleEndian.AppendUint32(b, uint32(min(max(q.Timeout.Milliseconds(), 0), 1<<32-1)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(q.Method)))
	b = append(b, q.Method...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(q.Target)))
	b = append(b, q.Target...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(q.Headers)))
	b = append(b, q.Headers...)
	return append(b, q.Body...), nil
}

// CompleteRequest sets the length and the timeout of a request's frame that
// stands in b alone, after bytes of its body were appended to b.
func CompleteRequest(b []byte, timeout time.Duration) error {
	if len(b) < 9 || Kind(b[4]) != KindRequest {
		return fmt.Errorf("%w: not a request", ErrMalformed)
	}
	if len(b)-4 > MaxSize {
		return fmt.Errorf("%w: %d bytes long, and at most %d are allowed", ErrMalformed, len(b)-4, MaxSize)
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	binary.LittleEndian.PutUint32(b[5:], uint32(min(max(timeout.Milliseconds(), 0), 1<<32-1)))
	return nil
}

// AppendReply appends the whole frame of a reply to b: of a KindReply or a
// KindBegin.
func AppendReply(b []byte, k Kind, a Reply) ([]byte, error) {
	n := 1 + 2 + 4 + len(a.Headers) + len(a.Body)
	if n > MaxSize {
		return b, fmt.Errorf("%w: %d bytes long, and at most %d are allowed", ErrMalformed, n, MaxSize)
	}
	b = head(b, n, k)
	b = binary.LittleEndian.AppendUint16(b, uint16(a.Status))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.Headers)))
	b = append(b, a.Headers...)
	return append(b, a.Body...), nil
}

// Append appends the frame of any other kind to b. The payload is shorter than
// MaxSize.
func Append(b []byte, k Kind, payload []byte) []byte {
	return append(head(b, 1+len(payload), k), payload...)
}

func head(b []byte, n int, k Kind) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(n)), byte(k))
}
