package edge

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"lapis/fault"
	"lapis/pattern"
	"lapis/resource/identity"
)

// Front stands before all protocols: it names the request, refuses what was
// not meant for this server, turns a panic into a 500 and writes the access log.
func Front(next http.Handler, origins *Origins, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		r = identify(w, r)
		caller := new(identity.Principal)
		r = r.WithContext(context.WithValue(r.Context(), callerKey, caller))
		rec := &recorder{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler {
				panic(p)
			}
			if p != nil {
				log.Error("panic", "request", RequestID(r.Context()), "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if rec.status == 0 {
					WriteError(rec, fault.New(fault.Internal, "InternalServerError", "Internal error. The server's log has it under the request id %s.", RequestID(r.Context())))
				}
			}
			served[min(rec.status/100, len(served)-1)].Add(1)
			logAccess(log, r, rec, caller, time.Since(start))
		}()
		if err := origins.Check(r); err != nil {
			WriteError(rec, err)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// served counts the requests that were answered, by the hundreds of the status.
var served [6]atomic.Int64

// Served is how many requests this process has answered, by class of status:
// "2xx" → 17.
func Served() map[string]int64 {
	counts := map[string]int64{}
	for i := 1; i < len(served); i++ {
		counts[strconv.Itoa(i)+"xx"] = served[i].Load()
	}
	return counts
}

const callerKey contextKey = 1

// note keeps who is calling for the access log.
func note(ctx context.Context, p identity.Principal) {
	if c, ok := ctx.Value(callerKey).(*identity.Principal); ok {
		*c = p
	}
}

// tracked are the calls that a training script makes thousands of.
var tracked = pattern.New(`/mlflow/(runs/(log-|set-tag|search)|traces|metrics)|/v1/traces`)

// logAccess writes one line. Reads that went well are at debug level, and so is
// what scripts log: a client that follows a job makes hundreds. Queries are left
// out, they may hold signatures.
func logAccess(log *slog.Logger, r *http.Request, rec *recorder, caller *identity.Principal, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case rec.status >= 500:
		level = slog.LevelError
	case rec.status < 400 && (r.Method == http.MethodGet || r.Method == http.MethodHead || tracked.MatchString(r.URL.Path)):
		level = slog.LevelDebug
	}
	if !log.Enabled(r.Context(), level) {
		return
	}
	log.LogAttrs(r.Context(), level, "request",
		slog.String("request", RequestID(r.Context())),
		slog.String("method", r.Method),
		slog.String("path", clip(r.URL.Path, 1000)),
		slog.String("api-version", clip(r.URL.Query().Get("api-version"), 40)),
		slog.Int("status", rec.status),
		slog.Int64("bytes", rec.bytes),
		slog.Duration("took", took),
		slog.String("caller", caller.Name),
		slog.String("job", caller.Job),
		slog.String("client", clip(strings.ToValidUTF8(r.UserAgent(), "?"), 120)),
	)
}

// clip bounds what a client puts into the log.
func clip(s string, most int) string {
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// recorder remembers what was replied.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom keeps the short way from a file to the connection open.
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, r)
	w.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach Flush and deadlines.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush sends what is written so far.
func (w *recorder) Flush() {
	http.NewResponseController(w.ResponseWriter).Flush()
}
