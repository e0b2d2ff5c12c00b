// Package mlflowhttp speaks MLflow's REST protocol, as the clients of version
// 3.17.2 expect it, over ml/tracking and blob.Store.
package mlflowhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/evaluation"
	"lapis/ml/registry"
	"lapis/ml/trace"
	"lapis/ml/tracking"
	"lapis/ml/trash"
	"lapis/ml/webhook"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Version is the release of MLflow whose protocol this is. Clients turn
// features on by it.
const Version = "3.17.2"

// maxBody bounds a request's body, in bytes; artefacts are streamed and have
// no bound here.
const maxBody = 16 << 20

// Config is what the handler needs from outside.
type Config struct {
	Tracking   *tracking.Service
	Registry   *registry.Registry
	Traces     *trace.Service
	Evaluation *evaluation.Service
	Webhooks   *webhook.Service
	Workspaces *workspace.Catalog // nil: MLflow's workspaces stay off
	Resources  resource.Store
	Blobs      blob.Store

	// Trash removes runs and experiments for good; nil: they cannot be.
	Trash *trash.Trash

	// Site finds another workspace as the one of a request names it: by its
	// name in the same resource group, or by its resource id. nil: there is none.
	Site func(ctx context.Context, from ml.Site, name string) (ml.Site, error)

	// Resolve tells which workspace a request is for, and the path below it:
	// "/api/2.0/mlflow/…".
	Resolve func(r *http.Request) (site ml.Site, rest string, err error)

	// Authenticate hands requests on with their principal in the context
	// (identity.Of), and others to refuse.
	Authenticate func(next http.Handler, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler

	// Access refuses what a principal may not do in a workspace.
	Access manager.Access

	// Link makes the address of a blob that carries its own permissions ("r",
	// "w") for a while: whoever has it needs no token. Without it artefacts
	// are sent through this handler alone.
	Link func(r *http.Request, c blob.Container, key, permissions string, lasting time.Duration) string

	Log *slog.Logger
}

// Permissions that routes need, as Azure ML names them.
const (
	experimentsRead   = "Microsoft.MachineLearningServices/workspaces/experiments/read"
	experimentsWrite  = "Microsoft.MachineLearningServices/workspaces/experiments/write"
	experimentsDelete = "Microsoft.MachineLearningServices/workspaces/experiments/delete"
	runsRead          = "Microsoft.MachineLearningServices/workspaces/experiments/runs/read"
	runsWrite         = "Microsoft.MachineLearningServices/workspaces/experiments/runs/write"
	runsDelete        = "Microsoft.MachineLearningServices/workspaces/experiments/runs/delete"
	modelsRead        = "Microsoft.MachineLearningServices/workspaces/models/read"
	modelsWrite       = "Microsoft.MachineLearningServices/workspaces/models/write"
	modelsDelete      = "Microsoft.MachineLearningServices/workspaces/models/delete"
	artifactsRead     = "Microsoft.MachineLearningServices/workspaces/metadata/artifacts/read"
	artifactsWrite    = "Microsoft.MachineLearningServices/workspaces/metadata/artifacts/write"
	artifactsDelete   = "Microsoft.MachineLearningServices/workspaces/metadata/artifacts/delete"
)

// Server answers MLflow's requests.
type Server struct {
	Config
	exact  map[string]route // "GET 2.0/mlflow/runs/get"
	shaped []shape          // with a {variable}
	paths  map[string]bool  // exact paths, for the 405
}

type route struct {
	permission string // "" = none but a known caller
	raw        bool   // the body is not JSON
	serve      func(c *call) error
}

// shape is a route with variables: "logged-models/{id}/tags/{key}". The last
// variable may be "{path...}", which takes the rest.
type shape struct {
	method string
	parts  []string
	route
}

// call is one request under way.
type call struct {
	*message
	w         http.ResponseWriter
	r         *http.Request
	site      ml.Site
	workspace string // the site's GUID
	spaces    bool   // MLflow's workspaces are on, and the request goes by them
	vars      map[string]string
	server    *Server
}

func (c *call) ctx() context.Context { return c.r.Context() }

// New returns the handler.
func New(config Config) *Server {
	s := &Server{Config: config, exact: map[string]route{}, paths: map[string]bool{}}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	s.experimentRoutes()
	s.runRoutes()
	s.artifactRoutes()
	s.modelRoutes()
	s.registryRoutes()
	s.traceRoutes()
	s.evaluationRoutes()
	s.importRoutes()
	s.beyondRoutes()
	s.webhookRoutes()
	s.workspaceRoutes()
	s.graphqlRoutes()
	return s
}

// handle adds routes; methods are joined by "|".
func (s *Server) handle(methods, path, permission string, serve func(c *call) error) {
	s.add(methods, path, route{permission: permission, serve: serve})
}

func (s *Server) add(methods, path string, r route) {
	for m := range strings.SplitSeq(methods, "|") {
		if strings.Contains(path, "{") {
			s.shaped = append(s.shaped, shape{m, strings.Split(path, "/"), r})
			continue
		}
		s.exact[m+" "+path] = r
		s.paths[path] = true
	}
}

// find returns the route of a path like "2.0/mlflow/runs/get".
func (s *Server) find(method, path string) (r route, vars map[string]string, ok bool) {
	if r, ok := s.exact[method+" "+path]; ok {
		return r, nil, true
	}
	parts := strings.Split(path, "/")
	for i := range s.shaped {
		if sh := &s.shaped[i]; sh.method == method {
			if vars, ok := sh.match(parts); ok {
				return sh.route, vars, true
			}
		}
	}
	return route{}, nil, false
}

func (s *shape) match(parts []string) (map[string]string, bool) {
	var vars map[string]string
	for i, want := range s.parts {
		if i >= len(parts) {
			return nil, false
		}
		if want[0] != '{' {
			if want != parts[i] {
				return nil, false
			}
			continue
		}
		if vars == nil {
			vars = map[string]string{}
		}
		name := want[1 : len(want)-1]
		if rest, ok := strings.CutSuffix(name, "..."); ok {
			vars[rest] = strings.Join(parts[i:], "/")
			return vars, vars[rest] != ""
		}
		if parts[i] == "" {
			return nil, false
		}
		vars[name] = parts[i]
	}
	return vars, len(parts) == len(s.parts)
}

// known tells whether any method has the path.
func (s *Server) known(path string) bool {
	if s.paths[path] {
		return true
	}
	parts := strings.Split(path, "/")
	for i := range s.shaped {
		if _, ok := s.shaped[i].match(parts); ok {
			return true
		}
	}
	return false
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/version":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, Version)
		return
	case "/health":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "OK")
		return
	}
	h := http.Handler(http.HandlerFunc(s.serve))
	if s.Authenticate != nil && !strings.HasSuffix(r.URL.Path, "/mlflow/server-info") {
		h = s.Authenticate(h, s.refuse)
	}
	h.ServeHTTP(w, r)
}

// refuse answers a caller who is not known.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) { s.fail(w, r, err) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.fail(w, r, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	if err := s.answer(w, r); err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) error {
	site, rest, err := s.Resolve(r)
	if err != nil {
		return err
	}
	switch rest {
	case "/version", "/health":
		r.URL.Path = rest
		s.ServeHTTP(w, r)
		return nil
	}
	path, ok := strings.CutPrefix(rest, "/api/")
	if !ok {
		if path, ok = strings.CutPrefix(rest, "/ajax-api/"); !ok {
			path = strings.TrimPrefix(rest, "/")
		}
	}
	route, vars, ok := s.find(r.Method, path)
	if !ok {
		if s.known(path) {
			return fault.New(fault.NotAllowed, "ENDPOINT_NOT_FOUND", "%s does not take %s.", rest, r.Method)
		}
		return s.offered(path, rest)
	}
	c := &call{w: w, r: r, site: site, workspace: site.GUID, vars: vars, server: s}
	if path != serverInfoPath {
		if err := s.enter(c, rest == r.URL.Path); err != nil {
			return err
		}
	}
	if s.Access != nil && route.permission != "" {
		if err := s.Access.Check(r.Context(), identity.Of(r.Context()), route.permission, c.site.ID); err != nil {
			return err
		}
	}
	if !route.raw {
		if c.message, err = readMessage(r); err != nil {
			return err
		}
	}
	return route.serve(c)
}

// notOffered are parts of MLflow that are left out, by the start of their path.
var notOffered = []string{
	"3.0/mlflow/gateway/", "2.0/mlflow/gateway/", "3.0/mlflow/mcp-servers", "3.0/mlflow/review-queues",
	"3.0/mlflow/label-schemas", "3.0/mlflow/prompt-optimization/", "3.0/mlflow/traces/", "2.0/mlflow/traces",
	"3.0/mlflow/scorers/", "3.0/mlflow/scorer/", "3.0/mlflow/issues",
	"3.0/mlflow/jobs/", "3.0/mlflow/demo/", "3.0/mlflow/genai/", "3.0/mlflow/ui-telemetry",
	"2.0/mlflow/gateway-proxy", "2.0/mlflow/get-online-trace-details", "2.0/mlflow/unified-traces", "2.0/mlflow/runs/create-promptlab-run",
	"3.0/jobs",
}

// offered is the error for a path that no route has.
func (s *Server) offered(path, rest string) error {
	for _, p := range notOffered {
		if strings.HasPrefix(path, p) {
			return fault.New(fault.NotImplemented, "NOT_IMPLEMENTED", "%s is not offered by this server.", rest)
		}
	}
	return fault.NotFound("There is nothing at %q on this server.", rest).With("ENDPOINT_NOT_FOUND")
}

// codes are MLflow's words for kinds of faults, for faults that carry another
// protocol's.
var codes = map[fault.Kind]string{
	fault.BadRequest:         "INVALID_PARAMETER_VALUE",
	fault.Unauthenticated:    "UNAUTHENTICATED",
	fault.Forbidden:          "PERMISSION_DENIED",
	fault.Missing:            "RESOURCE_DOES_NOT_EXIST",
	fault.NotAllowed:         "ENDPOINT_NOT_FOUND",
	fault.Conflict:           "RESOURCE_CONFLICT",
	fault.PreconditionFailed: "RESOURCE_CONFLICT",
	fault.TooLarge:           "INVALID_PARAMETER_VALUE",
	fault.UnsupportedMedia:   "INVALID_PARAMETER_VALUE",
	fault.RangeUnsatisfiable: "INVALID_PARAMETER_VALUE",
	fault.Misdirected:        "BAD_REQUEST",
	fault.Locked:             "RESOURCE_CONFLICT",
	fault.TooMany:            "REQUEST_LIMIT_EXCEEDED",
	fault.NotImplemented:     "NOT_IMPLEMENTED",
	fault.Unavailable:        "TEMPORARILY_UNAVAILABLE",
	fault.StorageFull:        "RESOURCE_EXHAUSTED",
}

// fail answers an error in MLflow's form. What is not a fault is logged and
// leaves as "internal error".
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // nobody is listening
	}
	f := fault.Find(err)
	if f == nil || f.Kind == fault.Internal {
		s.Log.Error("mlflow request", "method", r.Method, "path", r.URL.Path, "request", edge.RequestID(r.Context()), "err", err)
		f = fault.New(fault.Internal, "INTERNAL_ERROR", "internal error; the server's log has it under request %s", edge.RequestID(r.Context()))
	}
	code := f.Code
	if code == "" || strings.ToUpper(code) != code {
		if code = codes[f.Kind]; code == "" {
			code = "INTERNAL_ERROR"
		}
	}
	status := edge.Status(f.Kind)
	switch f.Kind {
	case fault.TooLarge:
		status = http.StatusBadRequest
	case fault.Unauthenticated:
		edge.Challenge(w, f)
	}
	var o out
	o.open()
	o.text("error_code", code)
	o.text("message", short(f.Message))
	o.close()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(o.bytes())
}

// maxMessage bounds what an error says, in bytes: it names what was sent, and
// that may be megabytes.
const maxMessage = 4000

func short(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}

// reply answers 200 with a JSON object.
func (c *call) reply(o *out) error {
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(o.bytes())
	return nil
}

// empty answers 200 {}.
func (c *call) empty() error {
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(c.w, "{}")
	return nil
}

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

func missing(format string, args ...any) *fault.Error {
	return fault.NotFound(format, args...).With("RESOURCE_DOES_NOT_EXIST")
}
