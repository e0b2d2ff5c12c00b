// Package edge holds what all protocols share: the request's id, who is
// calling, the names the server goes by, limits, the access log, and the table
// that tells the protocols apart. It decides nothing that a protocol decides.
package edge

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"lapis/fault"
)

type contextKey int

const requestIDKey contextKey = iota

// RequestID is the id of the request the context belongs to, "" outside of one.
// It stands in the reply's x-ms-request-id and in the log.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// NewID makes a random GUID.
func NewID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// identify gives the request an id and echoes those of the client.
func identify(w http.ResponseWriter, r *http.Request) *http.Request {
	id := NewID()
	h := w.Header()
	h.Set("x-ms-request-id", id)
	for _, name := range []string{"x-ms-client-request-id", "x-ms-correlation-request-id"} {
		if v := r.Header.Get(name); v != "" && len(v) <= 256 {
			h.Set(name, v)
		}
	}
	if h.Get("x-ms-correlation-request-id") == "" {
		h.Set("x-ms-correlation-request-id", id)
	}
	return r.WithContext(context.WithValue(r.Context(), requestIDKey, id))
}

// Status is the HTTP status of a kind of fault.
func Status(k fault.Kind) int {
	switch k {
	case fault.BadRequest:
		return http.StatusBadRequest
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.Missing:
		return http.StatusNotFound
	case fault.NotAllowed:
		return http.StatusMethodNotAllowed
	case fault.Conflict:
		return http.StatusConflict
	case fault.PreconditionFailed:
		return http.StatusPreconditionFailed
	case fault.TooLarge:
		return http.StatusRequestEntityTooLarge
	case fault.UnsupportedMedia:
		return http.StatusUnsupportedMediaType
	case fault.RangeUnsatisfiable:
		return http.StatusRequestedRangeNotSatisfiable
	case fault.Misdirected:
		return http.StatusMisdirectedRequest
	case fault.Locked:
		return http.StatusLocked
	case fault.TooMany:
		return http.StatusTooManyRequests
	case fault.NotImplemented:
		return http.StatusNotImplemented
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.StorageFull:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// bodyWithin is how long a client may take to send a body that is read whole.
var bodyWithin = 2 * time.Minute

// bodyAtOnce is how much room is made for a body before any of it has come, in
// bytes: what a request says of its length is not believed.
const bodyAtOnce = 64 << 10

// ReadBody reads the whole body, at most limit bytes, within two minutes. A
// longer one is fault.TooLarge, one that was cut in the middle is a fault that
// says so.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		discard(w, r)
		return nil, tooLarge(r.ContentLength, limit)
	}
	// Not every ResponseWriter has deadlines; those of net/http do.
	control := http.NewResponseController(w)
	if control.SetReadDeadline(time.Now().Add(bodyWithin)) == nil {
		defer control.SetReadDeadline(time.Time{})
	}
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength+bytes.MinRead, 0), bodyAtOnce)))
	n, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if err == nil && r.ContentLength > n {
		err = io.ErrUnexpectedEOF
	}
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		discard(w, r)
		return nil, tooLarge(-1, limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, fault.Invalid("The request's body was not whole after %s: %d bytes had come. Send it again.", bodyWithin, n).With("RequestTimeout").From(err)
	case err != nil:
		return nil, fault.Invalid("The request's body ended after %d bytes, before it was whole. Send it again.", n).From(err)
	}
	return body.Bytes(), nil
}

// Bounds of what is read of a body that is refused.
const (
	discardBytes = 64 << 20
	discardFor   = 10 * time.Second
)

// discard reads on, within bounds: a client that sends all before it looks for
// the answer would otherwise find the connection broken in place of the
// refusal. What is not read stays on the wire, so the connection ends here.
func discard(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardFor))
	_, _ = io.CopyN(io.Discard, r.Body, discardBytes)
}

func tooLarge(size, limit int64) error {
	if size < 0 {
		return fault.New(fault.TooLarge, "RequestBodyTooLarge", "The request's body is larger than the limit of %d bytes.", limit)
	}
	return fault.New(fault.TooLarge, "RequestBodyTooLarge", "The request's body of %d bytes is larger than the limit of %d bytes.", size, limit)
}

// WriteError sends an error in ARM's JSON, the form for places that belong to no
// protocol. What is not a fault leaves as "internal error".
func WriteError(w http.ResponseWriter, err error) {
	f := fault.Find(err)
	if f == nil {
		f = fault.New(fault.Internal, "InternalServerError", "Internal error. The server's log has it under the request id %s.", w.Header().Get("x-ms-request-id"))
	}
	if f.Kind == fault.Unauthenticated {
		Challenge(w, f)
	}
	if f.Kind == fault.Unavailable {
		w.Header().Set("Retry-After", "1")
	}
	WriteJSON(w, Status(f.Kind), map[string]any{"error": errorBody(f)})
}

// errorBody is a fault in ARM's JSON.
func errorBody(f *fault.Error) map[string]any {
	details := make([]any, len(f.Details))
	for i, d := range f.Details {
		details[i] = errorBody(d)
	}
	body := map[string]any{"code": f.Code, "message": f.Message, "details": details}
	if f.Target != "" {
		body["target"] = f.Target
	}
	return body
}

// WriteJSON sends v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types that are sent can all be encoded
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}
