// Package armhttp is Azure Resource Manager's protocol for any resource: PUT,
// GET, PATCH and DELETE of ids, POST of actions, polling of operations, paging.
// Requests are routed by the id that their path is; every api-version that is
// well-formed is taken.
package armhttp

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"lapis/edge"
	"lapis/fault"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 4 << 20

// provider is the namespace under which operations are polled.
const provider = "Microsoft.MachineLearningServices"

// Server answers ARM requests. The caller stands in the request's context
// (identity.Of).
type Server struct {
	manager *manager.Manager
	origins *edge.Origins
	log     *slog.Logger
	extra   []Route
	prefix  string // before the paths, where they are not ARM's own
}

// Route is a path that is no resource, such as the operations of a deployment.
type Route struct {
	Method string
	Type   string // the address' type: scope type and tail, "Microsoft.X/things/tail"; "*/tail" below any
	Handle func(r *http.Request, a resource.Address, v resource.View) (status int, body any, err error)
}

// headed is a route's answer that has headers of its own.
type headed struct {
	header http.Header
	body   any
}

// New makes a server over the manager.
func New(m *manager.Manager, origins *edge.Origins, log *slog.Logger, extra ...Route) *Server {
	return &Server{manager: m, origins: origins, log: log, extra: extra}
}

var apiVersion = pattern.New(`^\d{4}-\d{2}-\d{2}(-[A-Za-z0-9.]+)?$`)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := s.serve(w, r); err != nil {
		if fault.Find(err) == nil && r.Context().Err() == nil {
			s.log.Error("request", "request", edge.RequestID(r.Context()), "method", r.Method, "path", r.URL.Path, "err", err)
		}
		edge.WriteError(w, err)
	}
}

// doubled are the slashes that az leaves where a parent's path is empty.
var doubled = pattern.New(`//+`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) error {
	if v := r.URL.Query().Get("api-version"); !apiVersion.MatchString(v) {
		return fault.New(fault.BadRequest, "InvalidApiVersionParameter", "The api-version '%s' is invalid. The supported form is 'YYYY-MM-DD', with '-preview' or another suffix if there is one; send it as the query parameter api-version.", v).At("api-version")
	}
	// The SDK asks for /data/azureml:NAME when a job's input is azureml:NAME@latest.
	a, err := resource.ParseAddress(assetPrefix.ReplaceAllString(doubled.ReplaceAllString(r.URL.EscapedPath(), "/"), "/"))
	if err != nil {
		return err
	}
	view := resource.View{Origin: s.origins.Base(r)}
	for _, route := range s.extra {
		if route.Method == r.Method && route.takes(addressType(a)) {
			status, body, err := route.Handle(r, a, view)
			if err != nil {
				return err
			}
			if h, ok := body.(headed); ok {
				maps.Copy(w.Header(), h.header)
				body = h.body
			}
			if body == nil {
				w.WriteHeader(status)
				return nil
			}
			edge.WriteJSON(w, status, body)
			return nil
		}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case isOperation(a.Scope) && a.Tail == "":
			return s.operation(w, r, a.Scope)
		case a.Tail != "":
			return s.list(w, r, a, view)
		}
		return s.get(w, r, a.Scope, view)
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		if a.Tail != "" {
			return fault.New(fault.NotAllowed, "MethodNotAllowed", "%s needs the name of a resource at the end of the path.", r.Method)
		}
		return s.write(w, r, a.Scope, view)
	case http.MethodPost:
		if a.Tail == "" {
			return fault.New(fault.NotAllowed, "MethodNotAllowed", "POST needs the name of an action at the end of the path.")
		}
		return s.act(w, r, a, view)
	}
	return fault.New(fault.NotAllowed, "MethodNotAllowed", "The method %s is not known here.", r.Method)
}

var assetPrefix = pattern.New(`/(?i:azureml(?::|%3A))`)

// takes tells whether the route is for an address of that type.
func (r Route) takes(kind string) bool {
	if tail, any := strings.CutPrefix(r.Type, "*"); any {
		return len(kind) > len(tail) && strings.EqualFold(kind[len(kind)-len(tail):], tail)
	}
	return strings.EqualFold(r.Type, kind)
}

func addressType(a resource.Address) string {
	if a.Tail == "" {
		return a.Scope.Type()
	}
	return a.Type()
}

// request reads what all writes have in common.
func (s *Server) request(w http.ResponseWriter, r *http.Request, id resource.ID, view resource.View) (manager.Request, error) {
	body, err := edge.ReadBody(w, r, maxBody)
	if err != nil {
		return manager.Request{}, err
	}
	if len(body) > 0 && !json.Valid(body) {
		var any json.RawMessage
		err := json.Unmarshal(body, &any)
		return manager.Request{}, fault.Invalid("The request content was invalid and could not be deserialized: '%v'.", err).With("InvalidRequestContent")
	}
	return manager.Request{
		ID:          id,
		Caller:      identity.Of(r.Context()),
		Body:        body,
		IfMatch:     r.Header.Get("If-Match"),
		IfNoneMatch: r.Header.Get("If-None-Match"),
		Correlation: w.Header().Get("x-ms-correlation-request-id"),
		View:        view,
	}, nil
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, id resource.ID, view resource.View) error {
	res, err := s.manager.Get(r.Context(), identity.Of(r.Context()), id, view)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	w.Header().Set("ETag", `"`+res.Etag+`"`)
	if list := r.Header.Get("If-None-Match"); list != "" && resource.MatchesEtag(list, res.Etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	edge.WriteJSON(w, http.StatusOK, s.show(res))
	return nil
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, id resource.ID, view resource.View) error {
	req, err := s.request(w, r, id, view)
	if err != nil {
		return err
	}
	var reply manager.Reply
	switch r.Method {
	case http.MethodPut:
		reply, err = s.manager.Put(r.Context(), req)
	case http.MethodPatch:
		reply, err = s.manager.Patch(r.Context(), req)
	default:
		req.Purge = strings.EqualFold(r.URL.Query().Get("forceToPurge"), "true")
		reply, err = s.manager.Delete(r.Context(), req)
	}
	if err != nil {
		return err
	}
	if r.Method == http.MethodDelete {
		return s.deleted(w, reply, view)
	}
	status := http.StatusOK
	if reply.Created {
		status = http.StatusCreated
	}
	if reply.Operation != "" {
		s.pollAt(w, reply.Resource.ID, reply.Operation, view)
		switch {
		case r.Method == http.MethodPut:
			status = http.StatusCreated // with 200 the SDK would take it for done and decode the body twice
		case scores(reply.Resource.ID):
			status = http.StatusAccepted
		}
	}
	w.Header().Set("ETag", `"`+reply.Resource.Etag+`"`)
	if s.prefix != "" && reply.Operation != "" {
		w.WriteHeader(http.StatusAccepted) // 202 alone is accepted
		return nil
	}
	if s.prefix != "" && r.Method == http.MethodPut {
		status = http.StatusCreated // 201 alone is accepted of a container
	}
	body := s.show(reply.Resource)
	if reply.Operation != "" && scores(reply.Resource.ID) {
		// Scripts look here for where to poll.
		body.Properties = withOperation(body.Properties, w.Header().Get("Azure-AsyncOperation"))
	}
	edge.WriteJSON(w, putStatus(reply.Resource.ID, status), body)
	return nil
}

// scores tells whether the id is an online endpoint's or one of its deployments'.
func scores(id resource.ID) bool {
	const endpoints = provider + "/workspaces/onlineEndpoints"
	return id.Is(endpoints) || id.Is(endpoints+"/deployments")
}

// withOperation puts the address of an operation among the properties that are
// text.
func withOperation(properties json.RawMessage, at string) json.RawMessage {
	p, err := resource.ParseDocument(properties)
	if err != nil {
		return properties
	}
	texts := p.Object("properties")
	texts.Set("AzureAsyncOperationUri", at)
	p["properties"] = texts.Raw()
	return p.Raw()
}

// putStatus bends a status to what the clients of a type accept.
func putStatus(id resource.ID, status int) int {
	switch {
	case status == http.StatusCreated && id.Is(provider+"/workspaces"):
		return http.StatusAccepted // 200 and 202 are accepted
	case id.Is(provider + "/workspaces/connections"):
		return http.StatusOK // 200 alone is accepted
	}
	return status
}

func (s *Server) deleted(w http.ResponseWriter, reply manager.Reply, view resource.View) error {
	switch {
	case reply.Resource.ID.Zero():
		w.WriteHeader(http.StatusNoContent)
	case reply.Operation != "":
		s.pollAt(w, reply.Resource.ID, reply.Operation, view)
		w.WriteHeader(http.StatusAccepted)
	default:
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

func (s *Server) act(w http.ResponseWriter, r *http.Request, a resource.Address, view resource.View) error {
	req, err := s.request(w, r, a.Scope, view)
	if err != nil {
		return err
	}
	req.Action = a.Tail
	reply, err := s.manager.Act(r.Context(), req)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if reply.Accepted {
		status = http.StatusAccepted
	}
	if reply.Operation != "" {
		s.pollAt(w, a.Scope, reply.Operation, view)
	}
	if reply.Body == nil {
		w.WriteHeader(status)
		return nil
	}
	edge.WriteJSON(w, status, reply.Body)
	return nil
}

// list answers with one page.
func (s *Server) list(w http.ResponseWriter, r *http.Request, a resource.Address, view resource.View) error {
	options := resource.Options{}
	for name, values := range r.URL.Query() {
		if len(values) > 0 {
			options[strings.ToLower(name)] = values[0]
		}
	}
	q := resource.Query{Type: a.Type()}
	if a.Scope.Is(resource.SubscriptionType) && strings.Contains(a.Tail, "/") {
		q.Scope = a.Scope
	} else {
		q.Parent = a.Scope
	}
	if err := readOptions(options, &q); err != nil {
		return err
	}
	top := options["$top"] != ""
	page, err := s.manager.List(r.Context(), identity.Of(r.Context()), q, options, view)
	if err != nil {
		return err
	}
	body := listBody{Value: make([]shown, len(page.Resources))}
	for i, res := range page.Resources {
		body.Value[i] = s.show(res)
	}
	if page.Next != "" && !top {
		query := r.URL.Query()
		query.Del("$skipToken")
		query.Set("$skip", base64.RawURLEncoding.EncodeToString([]byte(page.Next)))
		link := view.Origin + s.prefix + r.URL.EscapedPath() + "?" + query.Encode()
		body.NextLink = &link
	}
	edge.WriteJSON(w, http.StatusOK, body)
	return nil
}

type listBody struct {
	Value    []shown `json:"value"`
	NextLink *string `json:"nextLink"`
}

// readOptions reads the query parameters that mean the same for every type.
func readOptions(o resource.Options, q *resource.Query) error {
	yes, no := true, false
	// Of registries the SDK sends the name of its constant: ListViewType.ACTIVE_ONLY.
	switch strings.TrimPrefix(strings.ToLower(strings.ReplaceAll(o["listviewtype"], "_", "")), "listviewtype.") {
	case "", "activeonly", "enabledonly":
		q.Archived = &no
	case "archivedonly", "disabledonly":
		q.Archived = &yes
	case "all":
	default:
		return fault.Invalid("listViewType is %q; it must be ActiveOnly, ArchivedOnly or All", o["listviewtype"]).With("InvalidListViewType").At("listViewType")
	}
	for _, name := range []string{"$top", "count", "pagesize"} {
		text, ok := o[name]
		if !ok {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fault.Invalid("%s is %q; it must be a whole number from 1", name, text).With("InvalidQueryParameterValue").At(name)
		}
		q.Limit = min(n, 1000)
	}
	order := strings.ToLower(o["$orderby"] + " " + o["orderby"])
	if strings.Contains(order, "createdtime") || strings.Contains(order, "createdat") {
		q.Newest = strings.Contains(order, "desc")
	}
	token := o["$skip"]
	if token == "" {
		token = o["$skiptoken"]
	}
	if token != "" {
		after, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(after) == 0 {
			return fault.Invalid("the continuation token in $skip is not one of this server's; start the list again").With("InvalidContinuationToken").At("$skip")
		}
		q.After = string(after)
	}
	return nil
}

// pollAt tells the client where to look how an operation goes. Never without
// Retry-After: the SDK would sleep 30 s.
func (s *Server) pollAt(w http.ResponseWriter, id resource.ID, operation string, view resource.View) {
	base := fmt.Sprintf("%s/subscriptions/%s/providers/%s/locations/local/", view.Origin, url.PathEscape(id.Subscription()), provider)
	h := w.Header()
	h.Set("Azure-AsyncOperation", base+"operationStatuses/"+operation+"?api-version=2024-10-01")
	h.Set("Location", base+"operationResults/"+operation+"?api-version=2024-10-01")
	h.Set("Retry-After", "1")
}

func isOperation(id resource.ID) bool {
	return id.Is(provider+"/locations/operationStatuses") || id.Is(provider+"/locations/operationResults")
}

// operation tells how an operation goes: its status document, or, at
// operationResults, 202 until it is done and then its result.
func (s *Server) operation(w http.ResponseWriter, r *http.Request, id resource.ID) error {
	op, err := s.manager.Operation(r.Context(), identity.Of(r.Context()), id.Name())
	if err != nil {
		return err
	}
	if !op.Done() {
		w.Header().Set("Retry-After", "1")
	}
	if id.Is(provider + "/locations/operationResults") {
		switch {
		case !op.Done():
			w.Header().Set("Location", s.origins.Base(r)+r.URL.RequestURI())
			w.WriteHeader(http.StatusAccepted)
		case op.State == resource.Failed:
			return fault.New(fault.Conflict, op.Code, "%s", op.Message)
		case len(op.Result) > 0:
			edge.WriteJSON(w, http.StatusOK, op.Result)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
		return nil
	}
	body := map[string]any{"id": id.String(), "name": op.ID, "status": op.State, "startTime": stampTime(op.Started)}
	if op.State == resource.OperationRunning {
		body["status"] = "InProgress"
	} else {
		body["endTime"] = stampTime(op.Ended)
		body["percentComplete"] = 100.0
	}
	if op.State == resource.Failed {
		body["error"] = map[string]any{"code": op.Code, "message": op.Message, "details": []any{}}
	}
	if len(op.Result) > 0 {
		body["properties"] = op.Result
	}
	edge.WriteJSON(w, http.StatusOK, body)
	return nil
}
