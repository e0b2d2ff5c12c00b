package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"lapis/ml/serving"
)

// gRPC calls of a program of the user's own go through as they are: as HTTP/2
// without TLS, message by message in both directions, and each call is one
// request whatever it streams.

// newCalls returns what carries calls to programs.
func newCalls() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: protocols, Proxy: nil, DisableCompression: true, IdleConnTimeout: 30 * time.Second}
}

// call answers a call to a program.
func (x *exchange) call() {
	x.calls = true
	x.deadline = time.Now().Add(x.timeout())
	if no := x.callAny(); no != nil {
		x.refuse(no)
	}
	x.finish()
	if x.torn {
		panic(http.ErrAbortHandler) // ends the call
	}
}

// callAny has an instance answer the call: another one where nothing was sent.
func (x *exchange) callAny() *refusal {
	limit := x.rt.Limits.MaxBody
	if limit <= 0 {
		limit = serving.DefaultMaxBody
	}
	body := &callBody{from: x.r.Body, limit: limit, left: limit}
	for attempt := 0; ; attempt++ {
		i, held, no := x.d.acquire(x.r.Context(), x.deadline, attempt > 0)
		if no != nil {
			return no
		}
		if held { // a cold start has a bound of its own
			x.deadline = time.Now().Add(x.timeout())
		}
		no, unsent := x.callOne(i, body)
		if unsent {
			i.unreachable()
		} else if no == nil || no == crashed || no == badReply || no == late {
			i.report(no == nil && !x.torn)
		}
		x.d.release(i)
		if !unsent {
			return no
		}
	}
}

// callOne passes the call on to the instance, and its answer back. unsent tells
// that the instance has not been reached.
func (x *exchange) callOne(i *instance, body *callBody) (no *refusal, unsent bool) {
	ctx, cancel := context.WithDeadline(x.r.Context(), x.deadline)
	defer cancel()
	target, err := url.ParseRequestURI(x.target)
	if err != nil {
		return badBody, false
	}
	target.Scheme, target.Host = "http", i.Address
	q := &http.Request{Method: http.MethodPost, URL: target, Host: x.r.Host, Header: x.callHeaders(), Body: body, ContentLength: -1}
	begun := time.Now()
	defer func() { x.d.stats.busy.Add(int64(time.Since(begun))) }()
	resp, err := x.g.calls.RoundTrip(q.WithContext(ctx))
	if err != nil {
		var op *net.OpError
		switch {
		case x.r.Context().Err() != nil:
			return callerLeft, false
		case ctx.Err() != nil:
			return late, false
		case body.tooLong.Load():
			return bodyTooLarge(-1, body.limit), false
		case errors.As(err, &op) && op.Op == "dial":
			return nil, true
		case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.As(err, &op):
			return crashed, false
		}
		return badReply, false
	}
	defer resp.Body.Close()
	x.model = resp.StatusCode
	if resp.StatusCode != http.StatusOK {
		x.status = http.StatusFailedDependency
		x.trail(strconv.Itoa(grpcInternal), "the model answered "+strconv.Itoa(resp.StatusCode))
		return nil, false
	}
	h := x.w.Header()
	for name, values := range resp.Header {
		for _, v := range values {
			x.takeHeader(h, name, v)
		}
	}
	x.status = http.StatusOK
	h[headerDeployment] = []string{x.d.name}
	x.w.WriteHeader(http.StatusOK)
	if v := resp.Header.Get("Grpc-Status"); v != "" { // it ends in its headers
		x.callEnded(v)
		return nil, false
	}
	x.headed = true
	control := http.NewResponseController(x.w)
	if control.Flush() != nil {
		return callerLeft, false
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			m, werr := x.w.Write(buf[:n])
			x.sent += int64(m)
			if werr != nil || control.Flush() != nil {
				return callerLeft, false
			}
		}
		switch {
		case err == io.EOF:
			for name, values := range resp.Trailer {
				for _, v := range values {
					h.Add(http.TrailerPrefix+name, v)
				}
			}
			x.callEnded(resp.Trailer.Get("Grpc-Status"))
			return nil, false
		case err != nil && x.r.Context().Err() != nil:
			return callerLeft, false
		case err != nil && ctx.Err() != nil:
			return late, false
		case err != nil && body.tooLong.Load():
			return bodyTooLarge(-1, body.limit), false
		case err != nil:
			x.torn = true
			return nil, false
		}
	}
}

// callEnded counts the call by the status that the program gave it.
func (x *exchange) callEnded(status string) {
	if status != "0" {
		x.status = http.StatusFailedDependency
	}
}

// callHeaders are those of the call that go on.
func (x *exchange) callHeaders() http.Header {
	h := http.Header{"Te": {"trailers"}, headerRequestID: {x.id}}
	for name, values := range x.r.Header {
		if !skipped[name] && (name != "Authorization" || x.rt.Auth == "") {
			h[name] = values
		}
	}
	if x.clientID != "" {
		h[headerClientID] = []string{x.clientID}
	}
	return h
}

// callBody is what the caller sends, up to a bound in bytes. It stays open when an
// attempt ends, since another may need it.
type callBody struct {
	from    io.Reader
	limit   int64
	left    int64
	tooLong atomic.Bool
}

func (b *callBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.left -= int64(n); b.left < 0 {
		b.tooLong.Store(true)
		return 0, errMessageTooLarge
	}
	return n, err
}

func (b *callBody) Close() error { return nil }
