package workspace

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Catalog is how MLflow's clients see the workspaces of a resource group: by
// names that a header carries. MLflow's workspaces are off until one is made
// through it; then all workspaces of the group can be named, and the group's
// first is the one that MLflow calls "default".
type Catalog struct {
	manager *manager.Manager
	runs    *tracking.Service
	first   resource.ID // the workspace "default"

	mu    sync.Mutex
	known map[string]entry // by MLflow's name
	byID  map[string]string
	read  time.Time
}

// Default is MLflow's name of the first workspace.
const Default = "default"

// own is the member of a workspace's properties that the catalog keeps.
const own = "mlflow"

// Entry is a workspace in MLflow's words.
type Entry struct {
	Name        string
	Description string
	Root        string // where artefacts of new experiments go; "" = the server's place
	Archive     Archive
}

// Archive is where and how long old traces go. It is kept and not acted on.
type Archive struct {
	Location  string `json:"location,omitempty"`
	Retention string `json:"retention,omitempty"`
}

type entry struct {
	Entry
	site ml.Site
	made bool // through MLflow
}

// kept is what the member own holds.
type kept struct {
	Root    string  `json:"root,omitempty"`
	Archive Archive `json:"archive,omitzero"`
}

// NewCatalog returns the catalog of the group that first lies in.
func NewCatalog(m *manager.Manager, runs *tracking.Service, first resource.ID) *Catalog {
	c := &Catalog{manager: m, runs: runs, first: first}
	runs.Root = c.Root
	return c
}

func wrong(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

var catalogName = pattern.New(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// checkName refuses what is no name of an MLflow workspace.
func checkName(name string) error {
	switch {
	case len(name) < 2 || len(name) > 63:
		return wrong("Workspace name '%s' must be between 2 and 63 characters.", fault.Clip(name))
	case !catalogName.MatchString(name):
		return wrong("Workspace name '%s' must match the pattern %s (lowercase alphanumeric with optional internal hyphens).", name, catalogName)
	case slices.Contains([]string{"workspaces", "api", "ajax-api", "static-files"}, name):
		return wrong("Workspace name '%s' is reserved and cannot be used.", name)
	}
	return nil
}

func notFound(name string) error {
	return fault.NotFound("Workspace '%s' not found", fault.Clip(name)).With("RESOURCE_DOES_NOT_EXIST")
}

// freshFor is how long the list of workspaces is taken to be as it was. What
// the catalog itself writes it knows at once.
const freshFor = time.Second

// load reads the workspaces of the group.
func (c *Catalog) load(ctx context.Context) (map[string]entry, map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known != nil && time.Since(c.read) < freshFor {
		return c.known, c.byID, nil
	}
	known, byID := map[string]entry{}, map[string]string{}
	q := resource.Query{Type: ml.Workspaces, Parent: c.first.Parent(), Limit: 1000}
	for {
		page, err := c.manager.Store().List(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		for _, r := range page.Resources {
			site, err := ml.SiteFrom(r)
			if err != nil {
				continue // deleted, or not ready
			}
			e, err := c.entry(r)
			if err != nil {
				return nil, nil, err
			}
			e.site = site
			byID[site.GUID] = e.Name
			if e.Name == Default || checkName(e.Name) == nil {
				known[e.Name] = e
			}
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	c.known, c.byID, c.read = known, byID, time.Now()
	return known, byID, nil
}

func (c *Catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
}

func (c *Catalog) entry(r resource.Resource) (entry, error) {
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return entry{}, err
	}
	e := entry{Entry: Entry{Name: strings.ToLower(r.ID.Name()), Description: p.Text("description")}}
	if r.ID.Same(c.first) {
		e.Name = Default
	}
	if raw, ok := p[own]; ok {
		var k kept
		if err := json.Unmarshal(raw, &k); err != nil {
			return e, err
		}
		e.made, e.Root, e.Archive = true, k.Root, k.Archive
	}
	return e, nil
}

// Enabled tells whether MLflow's workspaces are on.
func (c *Catalog) Enabled(ctx context.Context) (bool, error) {
	if c == nil {
		return false, nil
	}
	known, _, err := c.load(ctx)
	for _, e := range known {
		if e.made {
			return true, nil
		}
	}
	return false, err
}

// Site is the workspace of a name.
func (c *Catalog) Site(ctx context.Context, name string) (ml.Site, error) {
	e, err := c.find(ctx, name)
	return e.site, err
}

func (c *Catalog) find(ctx context.Context, name string) (entry, error) {
	if name != Default {
		if err := checkName(name); err != nil {
			return entry{}, err
		}
	}
	known, _, err := c.load(ctx)
	if err != nil {
		return entry{}, err
	}
	e, ok := known[name]
	if !ok {
		return entry{}, notFound(name)
	}
	return e, nil
}

// NameOf is MLflow's name of a workspace.
func (c *Catalog) NameOf(ctx context.Context, guid string) (string, error) {
	if c == nil {
		return Default, nil
	}
	_, byID, err := c.load(ctx)
	if name, ok := byID[guid]; ok {
		return name, nil
	}
	return Default, err
}

// Root is where the artefacts of new experiments of a workspace go, each in a
// folder of its id; "" is the server's own place.
func (c *Catalog) Root(ctx context.Context, guid string) (string, error) {
	on, err := c.Enabled(ctx)
	if err != nil || !on {
		return "", err
	}
	known, byID, err := c.load(ctx)
	if err != nil {
		return "", err
	}
	e, ok := known[byID[guid]]
	switch {
	case !ok:
		return "", nil
	case e.Root != "":
		return e.Root, nil
	}
	return "mlflow-artifacts:/workspaces/" + e.Name, nil
}

// Get finds a workspace.
func (c *Catalog) Get(ctx context.Context, name string) (Entry, error) {
	e, err := c.find(ctx, name)
	if err != nil {
		return Entry{}, err
	}
	_, err = c.manager.Get(ctx, identity.Of(ctx), e.site.ID, resource.View{})
	return e.Entry, err
}

// List returns all workspaces, by name.
func (c *Catalog) List(ctx context.Context) ([]Entry, error) {
	// Who may not read the workspaces of the group is refused here.
	if _, err := c.manager.List(ctx, identity.Of(ctx), resource.Query{Type: ml.Workspaces, Parent: c.first.Parent(), Limit: 1}, nil, resource.View{}); err != nil {
		return nil, err
	}
	known, _, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Entry, 0, len(known))
	for _, e := range known {
		all = append(all, e.Entry)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Change is what a new workspace has, or what changes of one; nil stays.
type Change struct {
	Description, Root, ArchiveLocation, ArchiveRetention *string
}

func (ch Change) check() error {
	for _, f := range []struct {
		name string
		at   *string
	}{{"default_artifact_root", ch.Root}, {"trace_archival_config.location", ch.ArchiveLocation}} {
		if f.at == nil || strings.TrimSpace(*f.at) == "" {
			continue
		}
		*f.at = strings.TrimSpace(*f.at)
		if err := tracking.CheckLocation(*f.at, f.name); err != nil {
			return err
		}
		if scheme, _, ok := strings.Cut(*f.at, ":"); !ok || len(scheme) < 2 || strings.EqualFold(scheme, "file") {
			return wrong("Invalid value for '%s'. Expected a URI (for example 's3://bucket/prefix' or 'mlflow-artifacts:/prefix'), got '%s'.", f.name, fault.Clip(*f.at))
		}
	}
	for _, s := range []*string{ch.Description, ch.Root, ch.ArchiveLocation, ch.ArchiveRetention} {
		if s != nil && len(*s) > 5000 {
			return wrong("A workspace's fields have at most 5000 characters each.")
		}
	}
	return nil
}

func (ch Change) apply(p resource.Document) error {
	var k kept
	if raw, ok := p[own]; ok {
		if err := json.Unmarshal(raw, &k); err != nil {
			return err
		}
	}
	for _, f := range []struct{ to, from *string }{{&k.Root, ch.Root}, {&k.Archive.Location, ch.ArchiveLocation}, {&k.Archive.Retention, ch.ArchiveRetention}} {
		if f.from != nil {
			*f.to = strings.TrimRight(strings.TrimSpace(*f.from), "/")
		}
	}
	if ch.Description != nil {
		p.Set("description", *ch.Description)
	}
	p.Set(own, k)
	return nil
}

func (c *Catalog) put(ctx context.Context, p resource.Document, req manager.Request) (Entry, error) {
	body := resource.Document{}
	body.Set("properties", p)
	req.Caller, req.Body, req.Own = identity.Of(ctx), body.Raw(), true
	reply, err := c.manager.Put(ctx, req)
	c.forget()
	if err != nil {
		return Entry{}, err
	}
	e, err := c.entry(reply.Resource)
	return e.Entry, err
}

// Create makes a workspace, and turns MLflow's workspaces on.
func (c *Catalog) Create(ctx context.Context, name string, ch Change) (Entry, error) {
	if name == Default {
		return Entry{}, wrong("The '%s' workspace is reserved and cannot be created", Default)
	}
	if err := checkName(name); err != nil {
		return Entry{}, err
	}
	if err := ch.check(); err != nil {
		return Entry{}, err
	}
	p := resource.Document{}
	if err := ch.apply(p); err != nil {
		return Entry{}, err
	}
	id, err := resource.ParseID(c.first.Parent().String() + "/providers/" + ml.Workspaces + "/" + name)
	if err != nil {
		return Entry{}, err
	}
	e, err := c.put(ctx, p, manager.Request{ID: id, IfNoneMatch: "*"})
	f := fault.Find(err)
	switch {
	case fault.Is(err, fault.PreconditionFailed):
		return e, fault.Invalid("Workspace '%s' already exists.", name).With("RESOURCE_ALREADY_EXISTS").From(err)
	case f != nil && f.Code == "ValidationError":
		return e, wrong("Workspace name '%s' cannot be used: %s", name, f.Message)
	}
	return e, err
}

// Update changes a workspace.
func (c *Catalog) Update(ctx context.Context, name string, ch Change) (Entry, error) {
	if ch == (Change{}) {
		return Entry{}, wrong("Workspace update must have at least one key")
	}
	if err := ch.check(); err != nil {
		return Entry{}, err
	}
	var tries manager.Tries
	for {
		e, err := c.find(ctx, name)
		if err != nil {
			return Entry{}, err
		}
		r, err := c.manager.Store().Get(ctx, e.site.ID)
		if err != nil {
			return Entry{}, err
		}
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return Entry{}, err
		}
		was := p[own]
		if err := ch.apply(p); err != nil {
			return Entry{}, err
		}
		if was == nil && ch.Root == nil && ch.ArchiveLocation == nil && ch.ArchiveRetention == nil {
			delete(p, own) // to describe a workspace is not to make it through MLflow
		}
		req := manager.Request{ID: r.ID, IfMatch: r.Etag, Caller: identity.Of(ctx), Own: true}
		body := resource.Document{}
		body.Set("properties", p)
		req.Body = body.Raw()
		reply, err := c.manager.Patch(ctx, req)
		c.forget()
		if fault.Is(err, fault.PreconditionFailed) && tries.Again(ctx) {
			continue
		}
		if err != nil {
			return Entry{}, err
		}
		changed, err := c.entry(reply.Resource)
		return changed.Entry, err
	}
}

// Delete removes a workspace for good; one that holds something only with
// everything.
func (c *Catalog) Delete(ctx context.Context, name string, everything bool) error {
	if name == Default {
		return wrong("The '%s' workspace is reserved and cannot be deleted", Default)
	}
	e, err := c.find(ctx, name)
	if err != nil {
		return err
	}
	if !everything {
		if err := c.empty(ctx, e); err != nil {
			return err
		}
	}
	reply, err := c.manager.Delete(ctx, manager.Request{ID: e.site.ID, Caller: identity.Of(ctx), Purge: true})
	c.forget()
	if err != nil || reply.Operation == "" {
		return err
	}
	// The name can be used again when this has been answered.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; {
		op, err := c.manager.Store().Operation(ctx, reply.Operation)
		if err != nil || op.Done() || time.Now().After(end) {
			c.forget()
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// contents are what a workspace can hold that is worth a question.
var contents = []string{"jobs", "models", "webhooks", "data", "components", "codes", "computes", "onlineEndpoints", "batchEndpoints", "schedules"}

// empty refuses a workspace that holds something.
func (c *Catalog) empty(ctx context.Context, e entry) error {
	full := func(what string, n int) error {
		return fault.Invalid("Cannot delete workspace '%s': table '%s' still contains %d resource(s). Remove or reassign them before deleting the workspace.", e.Name, what, n).With("INVALID_STATE")
	}
	for _, kind := range contents {
		page, err := c.manager.Store().List(ctx, resource.Query{Type: ml.Workspaces + "/" + kind, Parent: e.site.ID, Limit: 1000})
		if err != nil {
			return err
		}
		if n := len(page.Resources); n > 0 {
			return full(kind, n)
		}
	}
	found, _, err := c.runs.SearchExperiments(ctx, e.site.GUID, tracking.ExperimentSearch{View: tracking.All, Limit: 50000})
	if err != nil {
		return err
	}
	n := 0
	for _, x := range found {
		if x.Name == tracking.DefaultName {
			runs, _, err := c.runs.SearchRuns(ctx, e.site.GUID, tracking.RunSearch{Experiments: []string{x.ID}, View: tracking.All, Limit: 1})
			if err != nil {
				return err
			}
			if len(runs) == 0 {
				continue
			}
		}
		n++
	}
	if n > 0 {
		return full("experiments", n)
	}
	return nil
}
