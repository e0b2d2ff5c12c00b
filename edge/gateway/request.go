package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	randv2 "math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// The headers that are contract.
const (
	headerRequestID  = "X-Request-Id"
	headerClientID   = "X-Ms-Client-Request-Id"
	headerDeployment = "Azureml-Model-Deployment"
	headerModelCode  = "Ms-Azureml-Model-Error-Statuscode"
	headerModelWhy   = "Ms-Azureml-Model-Error-Reason"
	headerReason     = "X-Aml-Reason"
)

// clientIDLength is what is kept of a caller's own request id.
const clientIDLength = 40

// defaultTimeout is for deployments that name none.
const defaultTimeout = 5 * time.Second

// exchange is one request on its way. Exchanges are used again: what they
// hold is good until the handler returns.
type exchange struct {
	g        *Gateway
	w        http.ResponseWriter
	r        *http.Request
	began    time.Time
	id       string
	clientID string
	method   string
	target   string
	rt       *route
	d        *deployment
	cfg      serving.Deployment
	pinned   bool // the caller named the deployment

	frame []byte // the request as a frame: head, headers, body
	head  int    // where in frame the headers begin
	body  int    // where in frame the body begins

	deadline time.Time
	status   int // what the caller got
	model    int // what the instance answered
	sent     int64

	upgrades    bool   // the request asks for a WebSocket, and the instance may agree
	calls       bool   // the request is a gRPC call
	headed      bool   // its headers are with the caller
	grpcStatus  string // of the last message
	grpcMessage string

	reply   []byte // body of a whole reply
	held    int64  // bytes of a large body
	torn    bool   // the caller has half of a reply, which must not look whole
	stop    func() bool
	untaken int // attempts that no instance took
	mirror  *copied
	keep    *kept
}

var exchanges = sync.Pool{New: func() any { return &exchange{} }}

// heldBodies bounds the memory for large bodies of all requests together, in
// bytes.
const heldBodies = 1 << 30

// keepBuffer bounds the buffers that stay with an exchange, in bytes.
const keepBuffer = 1 << 20

// ServeHTTP answers a caller.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	x.g, x.w, x.r, x.began = g, w, r, time.Now()
	g.look.Begin()
	defer g.look.End() // also where the connection is torn
	x.serve()
	if x.held > 0 {
		g.held.Add(-x.held)
	}
	frame, reply := x.frame[:0], x.reply[:0]
	*x = exchange{}
	if cap(frame) <= keepBuffer {
		x.frame = frame
	}
	if cap(reply) <= keepBuffer {
		x.reply = reply
	}
	exchanges.Put(x)
}

func (x *exchange) serve() {
	x.identify()
	if ambiguous(x.r) {
		x.w.Header().Set("Connection", "close")
		x.refuse(twoLengths)
		return
	}
	t := x.g.table.Load()
	rt, target, name := t.find(x.r)
	var caller keyHash
	grpc := isGRPC(x.r)
	if rt == nil && name == "" {
		if x.r.URL.Path == "/healthz" {
			x.whole(http.StatusOK, "application/json; charset=utf-8", []byte(`{"status":"ok"}`))
			return
		}
		if grpc {
			rt = t.findGRPC(x.r)
		}
	}
	if rt == nil {
		x.refuse(unknownEndpoint(name))
		return
	}
	x.rt, x.target, x.method = rt, target, x.r.Method
	rt.state.meet(x.r.Context())
	if len(rt.CORS) > 0 && x.cors() {
		return
	}
	caller, no := t.admit(rt, x.r, x.g.checks)
	if no == nil {
		no = rt.state.limits.allow(caller, rt.Limits)
	}
	if no == nil {
		no = x.route()
	}
	if no == nil && x.d.full() {
		no = busy
	}
	if no == nil && grpc {
		if x.cfg.Runtime == serving.Program {
			x.call()
		} else {
			x.grpc()
		}
		return
	}
	if no == nil {
		no = x.read()
	}
	if no != nil {
		x.refuse(no)
		if x.d != nil {
			x.finish()
		}
		return
	}
	x.upgrades = x.cfg.Runtime == serving.Program && upgrades(x.r)
	x.deadline = time.Now().Add(x.timeout())
	x.shadow()
	x.capture()
	if no := x.score(); no != nil {
		x.refuse(no)
	}
	x.finish()
	if x.torn {
		panic(http.ErrAbortHandler) // ends the connection
	}
}

func (x *exchange) timeout() time.Duration {
	if x.cfg.Timeout > 0 {
		return x.cfg.Timeout
	}
	return defaultTimeout
}

// identify gives the request an id of ours and takes a short, harmless form of
// the caller's.
func (x *exchange) identify() {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], b[0:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	hex.Encode(text[24:36], b[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	x.id = string(text[:])
	h := x.w.Header()
	h[headerRequestID] = []string{x.id}
	if v := x.r.Header[headerClientID]; len(v) > 0 {
		if x.clientID = harmless(v[0]); x.clientID != "" {
			h[headerClientID] = []string{x.clientID}
		}
	}
}

// harmless keeps the letters, digits, - and _ of a caller's id, 40 of them at most.
func harmless(id string) string {
	ok := len(id) <= clientIDLength
	for i := 0; ok && i < len(id); i++ {
		ok = plainByte(id[i])
	}
	if ok {
		return id
	}
	b := make([]byte, 0, clientIDLength)
	for i := 0; i < len(id) && len(b) < clientIDLength; i++ {
		if plainByte(id[i]) {
			b = append(b, id[i])
		}
	}
	return string(b)
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// route finds the deployment.
func (x *exchange) route() *refusal {
	if v := x.r.Header[headerDeployment]; len(v) > 0 && v[0] != "" {
		x.pinned = true
		if x.d = x.rt.deployments[strings.ToLower(v[0])]; x.d == nil {
			return unknownDeployment(x.rt.Name, v[0])
		}
	} else if x.d = x.rt.choose(x.r.Header); x.d == nil {
		return noTraffic(x.rt.Name)
	}
	x.cfg = x.d.config()
	return nil
}

// skipped are headers that end here: those of one connection, those that we
// write ourselves, and the caller's proof.
var skipped = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Expect": true, "Http2-Settings": true,
	"Content-Length": true, "Host": true, headerRequestID: true, headerClientID: true,
}

// read makes the frame of the request, with the whole body in it.
func (x *exchange) read() *refusal {
	limit := x.rt.Limits.MaxBody
	if limit <= 0 {
		limit = serving.DefaultMaxBody
	}
	r := x.r
	if r.ContentLength > limit {
		return x.tooLarge(r.ContentLength, limit)
	}
	if no := x.begin(r.Method, x.target); no != nil {
		return no
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := x.frame
	if n := int(r.ContentLength); n > 0 {
		b = grow(b, min(n, keepBuffer)+1)
	}
	for {
		if len(b) == cap(b) {
			more := max(len(b)-x.body, 4<<10)
			if len(b) > keepBuffer {
				x.held += int64(more)
				if x.g.held.Add(int64(more)) > heldBodies {
					x.w.Header().Set("Connection", "close")
					return crowded
				}
			}
			b = grow(b, more)
		}
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		x.frame = b
		if int64(len(b)-x.body) > limit {
			return x.tooLarge(-1, limit)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			x.w.Header().Set("Connection", "close")
			if r.Context().Err() != nil {
				return callerLeft
			}
			return badBody
		}
	}
	x.rt.state.bytesIn.Add(int64(len(b) - x.body))
	return nil
}

// begin starts the frame with the head of the request.
func (x *exchange) begin(method, target string) *refusal {
	var headers [4 << 10]byte
	h := x.appendHeaders(headers[:0])
	b, err := frame.AppendRequest(x.frame[:0], frame.Request{Method: method, Target: target, Headers: h})
	if err != nil {
		return longTarget
	}
	x.frame, x.body = b, len(b)
	x.head = len(b) - len(h)
	return nil
}

func (x *exchange) appendHeaders(b []byte) []byte {
	named := x.r.Header["Connection"] // headers that it names are for us alone
	for name, values := range x.r.Header {
		if skipped[name] || name == "Authorization" && x.rt.Auth != "" || len(named) > 0 && listed(named, name) {
			continue
		}
		for _, v := range values {
			b = appendHeader(b, name, v)
		}
	}
	b = appendHeader(b, "Host", x.r.Host)
	b = appendHeader(b, headerRequestID, x.id)
	if x.clientID != "" {
		b = appendHeader(b, headerClientID, x.clientID)
	}
	return b
}

func appendHeader(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, value...)
	return append(b, '\r', '\n')
}

// listed tells whether a comma-separated list has the name.
func listed(lists []string, name string) bool {
	for _, l := range lists {
		for part := range strings.SplitSeq(l, ",") {
			if strings.EqualFold(strings.TrimSpace(part), name) {
				return true
			}
		}
	}
	return false
}

func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	g := make([]byte, len(b), len(b)+n)
	copy(g, b)
	return g
}

// tooLarge refuses a body. What the caller still sends is read on, within
// bounds, so that the refusal reaches those who send all before they look. Who
// asks first is not told to go on.
func (x *exchange) tooLarge(size, limit int64) *refusal {
	x.w.Header().Set("Connection", "close")
	if size >= 0 && x.r.Header.Get("Expect") != "" {
		return bodyTooLarge(size, limit)
	}
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(discardFor))
	_, _ = io.CopyN(io.Discard, x.r.Body, discardBytes)
	return bodyTooLarge(size, limit)
}

const (
	discardBytes = 64 << 20
	discardFor   = 10 * time.Second
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

// eachHeader goes through lines "Name: value\r\n".
func eachHeader(lines []byte, each func(name, value string)) {
	text := string(lines)
	for text != "" {
		line, rest, _ := strings.Cut(text, "\r\n")
		text = rest
		if name, value, ok := strings.Cut(line, ":"); ok && name != "" {
			each(name, strings.TrimLeft(value, " "))
		}
	}
}

// dropped are headers of a reply that do not go on: those of one connection, and
// those that we write ourselves.
var dropped = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Proxy-Authenticate": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Content-Length": true,
	headerRequestID: true, headerClientID: true, headerDeployment: true,
}

// takeHeaders takes the headers of the instance's reply into ours.
func (x *exchange) takeHeaders(lines []byte) {
	h := x.w.Header()
	eachHeader(lines, func(name, value string) { x.takeHeader(h, name, value) })
}

func (x *exchange) takeHeader(h http.Header, name, value string) {
	if !sound(name, value) { // no client would read the reply
		return
	}
	name = http.CanonicalHeaderKey(name)
	if name == headerClientID && x.clientID == "" { // the instance knows the id by another header
		h[name] = []string{harmless(value)}
		return
	}
	if dropped[name] || strings.HasPrefix(name, "Access-Control-") && len(x.rt.CORS) > 0 {
		return
	}
	h[name] = append(h[name], value)
}

// sound tells whether a header can be sent.
func sound(name, value string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return name != ""
}

// outward is the status that the caller gets for that of the model.
func (x *exchange) outward(model int) int {
	h := x.w.Header()
	h[headerDeployment] = []string{x.d.name}
	if model < 400 {
		return model
	}
	h[headerModelCode] = []string{strconv.Itoa(model)}
	h[headerModelWhy] = []string{http.StatusText(model)}
	h[headerReason] = []string{"model_error"}
	if x.rt.Kind != kindK8S {
		return http.StatusFailedDependency
	}
	if model >= 500 {
		return http.StatusBadGateway
	}
	return model
}

const kindK8S = "K8S"

// send gives the caller a whole reply.
func (x *exchange) send(model int, body []byte) {
	if x.calls {
		x.sendGRPC(body)
		return
	}
	x.status = x.outward(model)
	h := x.w.Header()
	if x.status != http.StatusNoContent && x.status != http.StatusNotModified {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
		if _, ok := h["Content-Type"]; !ok {
			h["Content-Type"] = nil // nobody guesses
		}
	}
	x.note(body)
	x.w.WriteHeader(x.status)
	if x.r.Method != http.MethodHead && bodyAllowed(x.status) {
		n, _ := x.w.Write(body)
		x.sent += int64(n)
	}
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// whole is a reply of the gateway itself.
func (x *exchange) whole(status int, contentType string, body []byte) {
	h := x.w.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.w.WriteHeader(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write(body)
	}
}

// refuse answers in place of a model.
func (x *exchange) refuse(no *refusal) {
	kind := ""
	if x.rt != nil {
		kind = x.rt.Kind
	}
	x.status = no.status
	if kind == kindK8S {
		x.status = no.k8s
	}
	if x.rt != nil && x.d == nil {
		x.rt.state.unrouted.add(x.status, 0)
	}
	if no == callerLeft {
		return // nobody listens
	}
	h := x.w.Header()
	h[headerReason] = []string{no.reason}
	if x.d != nil {
		h[headerDeployment] = []string{x.d.name}
	}
	if no.model != 0 && kind != kindK8S {
		h[headerModelCode] = []string{strconv.Itoa(no.model)}
		h[headerModelWhy] = []string{no.reason}
	}
	if no.retryAfter != "" {
		h["Retry-After"] = []string{no.retryAfter}
	}
	if x.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{`Bearer realm="online endpoint"`}
	}
	if x.calls || isGRPC(x.r) {
		x.refuseGRPC(no)
		return
	}
	body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": no.code, "message": no.message}})
	x.note(body)
	x.whole(x.status, "application/json; charset=utf-8", body)
	x.sent += int64(len(body))
}

// finish counts the request.
func (x *exchange) finish() {
	took := time.Since(x.began)
	x.d.stats.add(x.status, x.model, took)
	x.rt.state.bytesOut.Add(x.sent)
	if x.mirror != nil {
		status := x.model
		if status == 0 {
			status = x.status // the gateway's own answer
		}
		x.mirror.answered(status, took)
		x.mirror = nil
	}
	if x.keep != nil {
		x.g.collect.take(x.keep, x)
		x.keep = nil
	}
	if x.g.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		x.g.cfg.Log.Debug("request", "endpoint", x.rt.Name, "deployment", x.d.name, "method", x.r.Method, "path", x.target,
			"status", x.status, "model", x.model, "took", took, "id", x.id)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// chance is true for a share of all calls.
func chance(share float64) bool { return share >= 1 || share > 0 && randv2.Float64() < share }
