package blobhttp

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"time"

	"lapis/fault"
)

// body reads a request's body. It turns what can go wrong on the line into
// faults and lets a body stand still no longer than idle.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	size    int64 // as announced, -1 if it was not
	n       int64
	until   time.Time
	ended   bool
}

func (b *body) Read(p []byte) (int, error) {
	if now := time.Now(); b.until.Sub(now) < idle-time.Second {
		b.until = now.Add(idle)
		b.control.SetReadDeadline(b.until)
	}
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		b.ended = true
		return n, io.EOF
	case errors.As(err, &over):
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fault.Invalid("The body stood still for %v after %d bytes. Nothing was kept; send it again.", idle, b.n).With("RequestBodyTimeout")
	}
	return n, fault.Invalid("The body ended after %d bytes, before it was whole. Nothing was kept; send it again.", b.n).With("IncompleteBody")
}

// drain reads on after an error: a client that sends first and listens later
// would otherwise see a broken line in place of the reply.
func (b *body) drain(r *http.Request) {
	const most = 256 << 20
	if b.ended || b.size == 0 || b.size > most || r.Header.Get("Expect") != "" {
		return
	}
	io.CopyN(io.Discard, b, most)
}

// limit returns the body as far as the limit, past which it is a fault.
func limit(r *request, most int64) (io.Reader, error) {
	if r.ContentLength > most {
		return nil, tooLarge(most)
	}
	if r.ContentLength >= 0 {
		return r.Body, nil
	}
	return &limited{r: r.Body, left: most, most: most}, nil
}

type limited struct {
	r          io.Reader
	left, most int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n, tooLarge(l.most)
	}
	return n, err
}

func tooLarge(most int64) error {
	return fault.New(fault.TooLarge, "RequestBodyTooLarge", "The body is larger than the limit of %d bytes. Upload it in blocks.", most)
}

// checked compares the body with the Content-MD5 that came with it. The
// mismatch shows at the end of the body, in place of io.EOF.
func checked(r *request, body io.Reader) (io.Reader, error) {
	sum, err := md5Header(r, "Content-MD5")
	if err != nil || sum == nil {
		return body, err
	}
	return &checkedReader{r: body, hash: md5.New(), want: sum}, nil
}

func md5Header(r *request, name string) ([]byte, error) {
	v := r.Header.Get(name)
	if v == "" {
		return nil, nil
	}
	sum, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(sum) != md5.Size {
		return nil, fault.Invalid("The header %s is not the base64 of an MD5 sum.", name).With("InvalidMd5").At(name)
	}
	return sum, nil
}

type checkedReader struct {
	r    io.Reader
	hash hash.Hash
	want []byte
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if err == io.EOF && !bytes.Equal(c.hash.Sum(nil), c.want) {
		return n, fault.Invalid("The body's MD5 sum is not that of the header Content-MD5: it was changed on its way. Nothing was kept; send it again.").With("Md5Mismatch")
	}
	return n, err
}
