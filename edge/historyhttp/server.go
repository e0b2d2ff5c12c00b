// Package historyhttp is discovery and the run history, as the Azure clients
// call them: how a job goes, where its logs are, what came out of it.
package historyhttp

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/ml/tracking"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 4 << 20

// Access answers whether a principal may do something.
type Access interface {
	Check(ctx context.Context, p identity.Principal, action string, id resource.ID) error
}

// Links makes links to single blobs that carry their own permission to be read.
type Links interface {
	Blob(origin string, c blob.Container, key string, until time.Time, who string) string
}

// Config is what a server works with.
type Config struct {
	Resources resource.Store
	Runs      tracking.Store
	Blobs     blob.Store // in which the logs of running tasks grow
	Access    Access
	Links     Links
	Origins   *edge.Origins
	Log       *slog.Logger
	Now       func() time.Time
}

// Server answers under /history, /data, /modelregistry and /execution, for
// callers that are authenticated, and /discovery, for all.
type Server struct {
	Config
	routes []route

	mu   sync.Mutex
	late map[string]time.Time // run and caller → when it last asked
}

// New makes a server.
func New(c Config) *Server {
	s := &Server{Config: c, late: map[string]time.Time{}}
	for _, r := range []route{
		{method: "GET", path: `runs/([^/]+)/details`, permission: "jobs/read", handle: s.details},
		{method: "GET", path: `runs/([^/]+)/children`, permission: "jobs/read", handle: s.children},
		{method: "GET", path: `runs/([^/]+)/serviceinstances/([^/]+)`, permission: "jobs/read", handle: s.services},
		{method: "GET", path: `runs/([^/]+)`, permission: "jobs/read", handle: s.get},
		{method: "PATCH", path: `runs/([^/]+)`, permission: "jobs/write", handle: s.patch},
		{method: "GET", path: `experiments/[^/]+/runs/([^/]+)`, permission: "jobs/read", handle: s.get},
		{method: "GET", path: `experiments/[^/]+/runs/([^/]+)/details`, permission: "jobs/read", handle: s.details},
		{method: "GET", path: `experiments/[^/]+/runs/([^/]+)/children`, permission: "jobs/read", handle: s.children},
		{method: "PATCH", path: `experiments/[^/]+/runs/([^/]+)`, permission: "jobs/write", handle: s.patch},
		{method: "POST", path: `rundata`, permission: "jobs/read", handle: s.rundata},
		{method: "POST", path: `dataversion/batchGetResolvedUris`, permission: "data/read", handle: s.resolveData},
		{method: "POST", path: `models/batchGetResolvedUris`, permission: "models/read", handle: s.resolveModels},
	} {
		r.re = regexp.MustCompile(`^(?i:` + r.path + `)$`)
		s.routes = append(s.routes, r)
	}
	return s
}

// route is one call below a workspace; permission is the type and the verb
// behind "Microsoft.MachineLearningServices/workspaces/".
type route struct {
	method, path, permission string
	handle                   func(call) (any, error)
	re                       *regexp.Regexp
}

// call is one request on its way to its handler.
type call struct {
	ctx    context.Context
	site   ml.Site
	args   []string
	body   json.RawMessage
	origin string
	caller identity.Principal
	client string // User-Agent
	query  url.Values
}

// Discovery answers where everything is: all of it at one origin. Clients ask
// without a token.
func (s *Server) Discovery(w http.ResponseWriter, r *http.Request) {
	base := s.Origins.Base(r)
	doc := map[string]string{}
	for _, name := range []string{"api", "history", "experimentation", "studio", "execution", "modelmanagement", "catalog", "cert", "hyperdrive", "inference", "notebooks", "pipelines", "registry"} {
		doc[name] = base
	}
	edge.WriteJSON(w, http.StatusOK, doc)
}

var path = pattern.New(`^/(?i:history|data|modelregistry|execution)/v[0-9.]+(/(?i:subscriptions)/[^/]+/(?i:resourcegroups)/[^/]+/(?i:providers)/[^/]+/(?i:workspaces)/[^/]+)/(.+)$`)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply, err := s.serve(w, r)
	if err != nil {
		if fault.Find(err) == nil && r.Context().Err() == nil {
			s.Log.Error("request", "request", edge.RequestID(r.Context()), "method", r.Method, "path", r.URL.Path, "err", err)
		}
		edge.WriteError(w, err)
		return
	}
	edge.WriteJSON(w, http.StatusOK, reply)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	m := path.FindStringSubmatch(r.URL.EscapedPath())
	if m == nil {
		return nil, fault.NotFound("There is no such call of the run history: %s %s", r.Method, r.URL.Path)
	}
	id, err := resource.ParseID(m[1])
	if err != nil {
		return nil, err
	}
	known := false
	for _, route := range s.routes {
		args := route.re.FindStringSubmatch(m[2])
		if args == nil {
			continue
		}
		known = true
		if route.method != r.Method {
			continue
		}
		for i := range args {
			if args[i], err = url.PathUnescape(args[i]); err != nil {
				return nil, fault.Invalid("the path has a broken percent-encoding")
			}
		}
		c := call{ctx: r.Context(), args: args[1:], origin: s.Origins.Base(r), caller: identity.Of(r.Context()), client: r.UserAgent(), query: r.URL.Query()}
		if err := s.Access.Check(c.ctx, c.caller, ml.Workspaces+"/"+route.permission, id); err != nil {
			return nil, err
		}
		if c.site, err = ml.SiteOf(c.ctx, s.Resources, id); err != nil {
			return nil, err
		}
		if r.Method != http.MethodGet {
			body, err := edge.ReadBody(w, r, maxBody)
			if err != nil {
				return nil, err
			}
			c.body = body
		}
		return route.handle(c)
	}
	if known {
		return nil, fault.New(fault.NotAllowed, "MethodNotAllowed", "%s is not known at %s.", r.Method, r.URL.Path)
	}
	return nil, fault.NotFound("There is no such call of the run history: %s %s", r.Method, r.URL.Path)
}

func (c call) decode(into any) error {
	if err := json.Unmarshal(c.body, into); err != nil {
		return fault.Invalid("the request body is not what is expected here: %v", err).With("InvalidRequestContent")
	}
	return nil
}

// snakeCase tells whether a client wants uri_folder rather than UriFolder: the
// SDK does since 1.35.0, and compares to the letter.
func (c call) snakeCase() bool {
	m := sdkVersion.FindStringSubmatch(c.client)
	if m == nil {
		return true
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major > 1 || minor >= 35
}

var sdkVersion = pattern.New(`(?i)azure-ai-ml/(\d+)\.(\d+)`)

// pascal are the names that older clients want.
var pascal = map[string]string{"uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable",
	"custom_model": "CustomModel", "mlflow_model": "MLFlowModel", "triton_model": "TritonModel"}

// typeName is the type of an output as the client knows it. A model is told as
// the folder that it is: the SDK's call for models fails in itself (1.35.2).
func (c call) typeName(kind string) string {
	if strings.HasSuffix(kind, "_model") {
		kind = "uri_folder"
	}
	if name, ok := pascal[kind]; ok && !c.snakeCase() {
		return name
	}
	return kind
}

func (s *Server) find(c call, id string) (tracking.Run, error) {
	r, err := s.Runs.Run(c.ctx, c.site.GUID, id)
	if fault.Is(err, fault.Missing) {
		return r, fault.NotFound("The run '%s' could not be found in workspace '%s'.", id, c.site.ID.Name()).At(id)
	}
	return r, err
}

// run is a run as the run history shows it.
func (s *Server) run(c call, r tracking.Run) map[string]any {
	root := r.ID
	if r.Parent != "" {
		root = r.Parent
	}
	kind := "azureml.commandjob"
	if !r.Job {
		kind = "mlflow"
	}
	outputs := map[string]any{}
	for name, a := range r.Outputs {
		outputs[name] = map[string]string{"assetId": a.AssetID, "type": c.typeName(a.Type)}
	}
	doc := map[string]any{
		"runId": r.ID, "runUuid": r.ID, "rootRunId": root, "parentRunId": orNil(r.Parent), "status": string(r.Status),
		"displayName": r.Name, "name": r.Name, "description": r.Description, "runType": kind, "experimentId": r.Experiment,
		"hidden": r.Hidden, "tags": orEmpty(r.Tags), "properties": orEmpty(r.Properties), "outputs": outputs,
		"createdUtc": utc(r.Created), "startTimeUtc": utc(r.Start), "endTimeUtc": utc(r.End),
		"createdBy": map[string]string{"userName": r.User}, "dataContainerId": "dcid." + r.ID,
		"error": runError(r), "warnings": warnings(r),
	}
	if r.Reason != "" {
		doc["statusReason"] = r.Reason
	}
	return doc
}

func runError(r tracking.Run) any {
	if r.Error == nil {
		return nil
	}
	return map[string]any{"error": map[string]any{"code": r.Error.Code, "message": r.Error.Message, "messageFormat": "", "details": []any{}}, "time": utc(r.End)}
}

func warnings(r tracking.Run) []map[string]string {
	list := []map[string]string{}
	for _, w := range r.Warnings {
		list = append(list, map[string]string{"source": "lapis", "message": w})
	}
	return list
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// utc writes Unix ms as the run history does; nil for never.
func utc(ms int64) any {
	if ms == 0 {
		return nil
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.0000000-07:00")
}

func (s *Server) get(c call) (any, error) {
	r, err := s.find(c, c.args[0])
	if err != nil {
		return nil, err
	}
	return s.run(c, r), nil
}

// linksFor is how long the links to logs are good.
const linksFor = 24 * time.Hour

// details is what a client polls while it follows a job.
func (s *Server) details(c call) (any, error) {
	r, err := s.find(c, c.args[0])
	if err != nil {
		return nil, err
	}
	logs, err := s.logs(c, r)
	if err != nil {
		return nil, err
	}
	status := r.Status
	if s.holdBack(c, r) && status.Terminal() {
		status = tracking.Finalizing
	}
	doc := map[string]any{
		"runId": r.ID, "target": nil, "status": string(status), "startTimeUtc": utc(r.Start), "endTimeUtc": utc(r.End),
		"properties": orEmpty(r.Properties), "inputDatasets": []any{}, "outputDatasets": []any{}, "runDefinition": nil,
		"logFiles": logs, "warnings": warnings(r), "submittedBy": r.User, "error": runError(r),
	}
	if r.Reason != "" {
		doc["statusReason"] = r.Reason
	}
	return doc, nil
}

// heldFor is how long a caller is taken to be the one that asked before.
const heldFor = 90 * time.Second

// holdBack tells whether this caller asks for the first time in a while, and is
// to hear Finalizing if the job has ended. The SDK prints logs only after it
// has seen a job in progress: it would show nothing of a job that ended before
// the first time it asks.
func (s *Server) holdBack(c call, r tracking.Run) bool {
	if !sdkVersion.MatchString(c.client) {
		return false
	}
	key := r.Workspace + "/" + r.ID + "/" + c.caller.ID
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	told, again := s.late[key]
	if again = again && now.Sub(told) < heldFor; again && r.Status.Terminal() {
		delete(s.late, key) // the stream ends here; the next one begins anew
		return false
	}
	if len(s.late) > maxLate {
		for k, told := range s.late {
			if now.Sub(told) >= heldFor {
				delete(s.late, k)
			}
		}
	}
	s.late[key] = now
	return !again
}

// maxLate is how many callers are remembered before old ones are forgotten.
const maxLate = 10_000

// logFolders are the folders of a run's artefacts that hold logs.
var logFolders = []string{"user_logs/", "azureml-logs/", "logs/", "system_logs/"}

// maxLogs bounds how many logs of a folder are named.
const maxLogs = 500

// logs are links to the logs of a run, by name.
func (s *Server) logs(c call, r tracking.Run) (map[string]string, error) {
	links := map[string]string{}
	folder := ml.RunFolder(r.ID)
	until := s.Now().Add(linksFor).Truncate(time.Hour) // the same link for a while: clients may keep it
	for _, sub := range logFolders {
		page, err := s.Blobs.List(c.ctx, c.site.Artifacts(), blob.Query{Prefix: folder + sub, Limit: maxLogs})
		if err != nil {
			if fault.Is(err, fault.Missing) {
				continue
			}
			return nil, err
		}
		for _, b := range page.Blobs {
			links[strings.TrimPrefix(b.Key, folder)] = s.Links.Blob(c.origin, c.site.Artifacts(), b.Key, until, c.caller.Name)
		}
	}
	return links, nil
}

func (s *Server) children(c call) (any, error) {
	if _, err := s.find(c, c.args[0]); err != nil {
		return nil, err
	}
	runs, err := s.Runs.Children(c.ctx, c.site.GUID, c.args[0])
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, r := range runs {
		list = append(list, s.run(c, r))
	}
	return map[string]any{"value": list, "nextLink": nil, "continuationToken": nil}, nil
}

// services are the interactive services of a job's node; none are offered.
func (s *Server) services(c call) (any, error) {
	if _, err := s.find(c, c.args[0]); err != nil {
		return nil, err
	}
	return map[string]any{"instances": map[string]any{}}, nil
}

// patch changes what describes a run. Members that are not there stay.
func (s *Server) patch(c call) (any, error) {
	var body struct {
		Hidden      *bool              `json:"hidden"`
		DisplayName *string            `json:"displayName"`
		Description *string            `json:"description"`
		Tags        map[string]*string `json:"tags"`
		Properties  map[string]*string `json:"properties"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.DisplayName != nil && (*body.DisplayName == "" || len(*body.DisplayName) > 255) {
		return nil, fault.Invalid("'displayName' must have 1 to 255 characters").With("ValidationError").At("displayName")
	}
	if _, err := s.find(c, c.args[0]); err != nil {
		return nil, err
	}
	r, err := s.Runs.ChangeRun(c.ctx, c.site.GUID, c.args[0], func(r *tracking.Run) error {
		if body.Hidden != nil {
			r.Hidden = *body.Hidden
		}
		if body.DisplayName != nil {
			r.Name = *body.DisplayName
		}
		if body.Description != nil {
			r.Description = *body.Description
		}
		if body.Tags != nil {
			r.Tags = replaced(body.Tags)
		}
		if body.Properties != nil {
			r.Properties = replaced(body.Properties)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.run(c, r), nil
}

// replaced drops what is null.
func replaced(m map[string]*string) map[string]string {
	kept := map[string]string{}
	for k, v := range m {
		if v != nil {
			kept[k] = *v
		}
	}
	return kept
}

func (s *Server) rundata(c call) (any, error) {
	var body struct {
		RunID string `json:"runId"`
	}
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if body.RunID == "" {
		return nil, fault.Invalid("'runId' is required").With("ValidationError").At("runId")
	}
	r, err := s.find(c, body.RunID)
	if err != nil {
		return nil, err
	}
	return map[string]any{"runMetadata": s.run(c, r), "runDefinition": nil, "jobSpecification": nil}, nil
}

type resolveBody struct {
	Values []string `json:"values"`
}

// maxResolve bounds how many ids are resolved at once.
const maxResolve = 1000

// resolveData tells where data assets lie.
func (s *Server) resolveData(c call) (any, error) { return s.resolve(c) }

// resolveModels tells where model assets lie.
func (s *Server) resolveModels(c call) (any, error) { return s.resolve(c) }

func (s *Server) resolve(c call) (any, error) {
	var body resolveBody
	if err := c.decode(&body); err != nil {
		return nil, err
	}
	if len(body.Values) > maxResolve {
		return nil, fault.Invalid("'values' holds %d ids; at most %d are allowed", len(body.Values), maxResolve).With("ValidationError").At("values")
	}
	values := map[string]any{}
	for _, id := range body.Values {
		at, err := data.Locate(c.ctx, s.Resources, c.site.ID, id)
		if err != nil {
			return nil, err
		}
		uri := at.URL
		if uri == "" {
			uri = s.address(c.site, at)
		}
		values[id] = map[string]string{"uri": uri, "path": uri, "type": pascalOr(at.Type)}
	}
	return map[string]any{"values": values}, nil
}

func pascalOr(kind string) string {
	if name, ok := pascal[kind]; ok {
		return name
	}
	return kind
}

// address is the long form of a location.
func (s *Server) address(site ml.Site, at data.Location) string {
	store := at.Datastore
	if store == "" {
		store = ml.BlobStore
		if at.Container == site.Artifacts() {
			store = ml.ArtifactStore
		}
	}
	return site.DatastoreURI(store, at.Path)
}
