package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

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
