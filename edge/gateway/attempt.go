package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"lapis/frame"
)

// outcome is how an attempt ended.
type outcome int

const (
	answered  outcome = iota // the caller has got the instance's reply
	untaken                  // the instance has not taken the request: another one may have it
	missing                  // the instance cannot be reached; nothing was sent
	broken                   // the connection broke, and the instance may have worked on it
	malformed                // what came is no reply
	timedOut
	abandoned // the caller has left
)

// score has an instance answer the request. A refusal is returned when the
// caller has got nothing yet.
func (x *exchange) score() *refusal {
	ctx := x.r.Context()
	for attempt := 0; ; attempt++ {
		i, held, no := x.d.acquire(ctx, x.deadline, attempt > 0)
		if no != nil {
			x.keep = nil // only what an instance was given is collected
			return no
		}
		if held { // a cold start has a bound of its own
			x.deadline = time.Now().Add(x.timeout())
		}
		budgeted := x.untaken > 1
		if budgeted && !x.d.retry() {
			x.d.release(i)
			return unreachable
		}
		out := x.attempt(ctx, i)
		if budgeted {
			x.d.retries.Add(-1)
		}
		switch out {
		case answered:
			i.report(x.model < 500 && !x.torn)
			return nil
		case missing:
			i.unreachable()
			x.d.release(i)
			continue
		case untaken:
			i.forget()
			x.d.release(i)
			if x.untaken++; x.untaken < mostUntaken {
				continue
			}
			return unreachable
		case timedOut:
			i.report(false)
			return late
		case abandoned:
			return callerLeft
		case malformed:
			i.report(false)
			return badReply
		default:
			i.report(false)
			return crashed
		}
	}
}

// mostUntaken bounds the attempts of one request.
const mostUntaken = 5

// attempt sends the request to the instance and passes its reply on. Unless it
// returns untaken or missing, it has released the instance.
func (x *exchange) attempt(ctx context.Context, i *instance) outcome {
	c, err := i.connect(ctx, x.deadline, x.untaken > 0)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			x.d.release(i)
			return abandoned
		case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
			x.d.release(i)
			return timedOut
		}
		return missing
	}
	// When the caller leaves, so do we: the instance sees the end and stops.
	x.stop = context.AfterFunc(ctx, func() { c.SetDeadline(past) })
	start := time.Now()
	var out outcome
	var ok bool // the connection can be used again
	var released bool
	if c.http != nil {
		out, ok, released = x.overHTTP(c, i)
	} else {
		out, ok, released = x.overFrames(c, i)
	}
	x.d.stats.busy.Add(int64(time.Since(start)))
	if released {
		return out
	}
	if !x.stop() {
		ok = false
		if out != answered {
			out = abandoned
		}
	}
	switch {
	case out == untaken:
		c.Close()
		if !c.used { // not even a fresh connection gets through
			out = missing
		}
		return out
	case !ok:
		c.Close()
	}
	i.done(c, ok)
	return out
}

// done releases the instance, and keeps the connection if it is good.
func (i *instance) done(c *conn, good bool) {
	i.d.mu.Lock()
	if good {
		i.keep(c)
	}
	i.d.free(i)
	i.d.mu.Unlock()
}

// overFrames sends the request as a frame and passes on what comes back.
func (x *exchange) overFrames(c *conn, i *instance) (out outcome, ok, released bool) {
	left := time.Until(x.deadline)
	if left <= 0 {
		return timedOut, true, false
	}
	if err := frame.CompleteRequest(x.frame, left); err != nil {
		return malformed, true, false
	}
	c.SetDeadline(x.deadline)
	if _, err := c.Write(x.frame); err != nil {
		if isTimeout(err) {
			return timedOut, false, false
		}
		return untaken, false, false // a frame that is not whole is not worked on
	}
	kind, payload, err := c.reader.Next()
	switch {
	case err == nil:
	case isTimeout(err):
		return timedOut, false, false
	case errors.Is(err, syscall.ECONNRESET):
		// The other side closed without having read all that we sent: it has not
		// seen the whole frame.
		return untaken, false, false
	case errors.Is(err, frame.ErrMalformed):
		return malformed, false, false
	default:
		return broken, false, false
	}
	switch kind {
	case frame.KindReply:
		a, err := frame.ParseReply(payload)
		if err != nil {
			return malformed, false, false
		}
		x.model = a.Status
		if x.calls {
			x.takeGRPC(a.Status, a.Headers)
		} else {
			x.takeHeaders(a.Headers)
		}
		x.reply = append(x.reply[:0], a.Body...)
		i.done(c, x.stop() && c.reader.Buffered() == 0)
		x.send(a.Status, x.reply)
		return answered, true, true
	case frame.KindBegin:
		a, err := frame.ParseReply(payload)
		if err != nil {
			return malformed, false, false
		}
		x.model = a.Status
		if x.calls { // a call is answered message by message
			return malformed, false, false
		}
		x.takeHeaders(a.Headers)
		out, ok = x.streamFrames(c, a)
		return out, ok, false
	case frame.KindBroken:
		return broken, false, false
	}
	return malformed, false, false
}

// streamFrames passes on a reply as it comes.
func (x *exchange) streamFrames(c *conn, a frame.Reply) (outcome, bool) {
	control := http.NewResponseController(x.w)
	_ = control.SetWriteDeadline(x.deadline.Add(time.Second))
	x.status = x.outward(a.Status)
	x.w.WriteHeader(x.status)
	piece := func(b []byte) bool {
		x.note(b)
		if len(b) > 0 {
			n, err := x.w.Write(b)
			x.sent += int64(n)
			if err != nil {
				return false
			}
		}
		return control.Flush() == nil
	}
	if !piece(a.Body) {
		return answered, false
	}
	for {
		kind, payload, err := c.reader.Next()
		switch {
		case err != nil || kind != frame.KindData && kind != frame.KindEnd:
			x.torn = true
			return answered, false
		case kind == frame.KindEnd:
			eachHeader(payload, func(name, value string) {
				x.w.Header().Add(http.TrailerPrefix+name, value)
			})
			_ = control.SetWriteDeadline(time.Time{})
			return answered, true
		case !piece(payload):
			return answered, false
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
