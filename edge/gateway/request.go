package gateway

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
	"lapis/resource"
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
	x.id = resource.NewGUID()
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

// chance is true for a share of all calls.
func chance(share float64) bool { return share >= 1 || share > 0 && rand.Float64() < share }
