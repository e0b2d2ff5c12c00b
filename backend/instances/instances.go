// Package instances speaks with the groups that score and with their
// instances, for the control plane.
package instances

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"path/filepath"
	"strings"
	"time"

	"lapis/fault"
	"lapis/frame"
	"lapis/ml/serving"
)

// Socket is the name of the socket on which a group listens for its orders.
const Socket = "control.sock"

// The bounds of one exchange with a group: it answers at once, or is busy dying.
const (
	orderWithin = 5 * time.Second
	maxOrder    = 4 << 20  // bytes
	maxAnswer   = 64 << 20 // bytes
)

// Groups implements serving.Groups.
type Groups struct{}

var _ serving.Groups = Groups{}

// Look implements serving.Groups.
func (g Groups) Look(ctx context.Context, dir string) (serving.Group, error) {
	return order(ctx, dir, "GET", nil)
}

// Resize implements serving.Groups.
func (g Groups) Resize(ctx context.Context, dir string, count int) (serving.Group, error) {
	return order(ctx, dir, "PUT", []byte(fmt.Sprintf(`{"count":%d}`, count)))
}

func order(ctx context.Context, dir, method string, body []byte) (serving.Group, error) {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	var group serving.Group
	q := serving.Question{Method: method, Target: "/instances", Body: body, Timeout: orderWithin}
	a, err := framed(ctx, "unix", filepath.Join(dir, Socket), q, maxOrder)
	if err != nil {
		return group, err
	}
	if a.Status != http.StatusOK {
		return group, fmt.Errorf("the group in %s answers %s %s with %d: %s", dir, method, q.Target, a.Status, clip(a.Body))
	}
	if err := json.Unmarshal(a.Body, &group); err != nil {
		return group, fmt.Errorf("the group in %s tells of itself what is no JSON: %w", dir, err)
	}
	return group, nil
}

// Ask implements serving.Groups.
func (g Groups) Ask(ctx context.Context, in serving.Instance, q serving.Question) (serving.Answer, error) {
	if q.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.Timeout)
		defer cancel()
	}
	if in.Frames {
		return framed(ctx, in.Network, in.Address, q, maxAnswer)
	}
	return plain(ctx, in, q)
}

// away is the fault of one that cannot be reached.
func away(address string, err error) error {
	return fault.New(fault.Unavailable, "InstanceUnavailable", "nobody answers at %s: %v", address, err).From(err)
}

func framed(ctx context.Context, network, address string, q serving.Question, limit int) (serving.Answer, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return serving.Answer{}, away(address, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	a, err := exchange(conn, q, limit)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return serving.Answer{}, away(address, err)
	}
	return a, nil
}

func exchange(conn net.Conn, q serving.Question, limit int) (serving.Answer, error) {
	var a serving.Answer
	r := frame.NewReader(conn, limit)
	kind, _, err := r.Next()
	if err != nil {
		return a, err
	}
	if kind != frame.KindHello {
		return a, fmt.Errorf("%w: it begins with %q and not with a greeting", frame.ErrMalformed, kind)
	}
	var headers strings.Builder
	for name, value := range q.Headers {
		headers.WriteString(textproto.CanonicalMIMEHeaderKey(name) + ": " + value + "\r\n")
	}
	out, err := frame.AppendRequest(nil, frame.Request{Timeout: q.Timeout, Method: q.Method, Target: q.Target,
		Headers: []byte(headers.String()), Body: q.Body})
	if err != nil {
		return a, err
	}
	if _, err := conn.Write(out); err != nil {
		return a, err
	}
	for began := false; ; {
		kind, payload, err := r.Next()
		if err != nil {
			return a, err
		}
		switch {
		case !began && (kind == frame.KindReply || kind == frame.KindBegin):
			reply, err := frame.ParseReply(payload)
			if err != nil {
				return a, err
			}
			a.Status, a.Body = reply.Status, bytes.Clone(reply.Body)
			if kind == frame.KindReply {
				return a, nil
			}
			began = true
		case began && kind == frame.KindData:
			if a.Body = append(a.Body, payload...); len(a.Body) > limit {
				return a, fmt.Errorf("its answer is longer than %d bytes", limit)
			}
		case began && kind == frame.KindEnd:
			return a, nil
		case kind == frame.KindBroken:
			return a, fmt.Errorf("it gave up: %s", clip(payload))
		default:
			return a, fmt.Errorf("%w: a frame of the kind %q is out of place", frame.ErrMalformed, kind)
		}
	}
}

func plain(ctx context.Context, in serving.Instance, q serving.Question) (serving.Answer, error) {
	req, err := http.NewRequestWithContext(ctx, q.Method, "http://"+in.Address+q.Target, bytes.NewReader(q.Body))
	if err != nil {
		return serving.Answer{}, err
	}
	for name, value := range q.Headers {
		req.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // no proxy: it is this machine
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return serving.Answer{}, away(in.Address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return serving.Answer{}, away(in.Address, err)
	}
	return serving.Answer{Status: resp.StatusCode, Body: body}, nil
}

func clip(b []byte) string {
	if len(b) > 200 {
		b = b[:200]
	}
	return strings.ToValidUTF8(string(b), "\uFFFD")
}
