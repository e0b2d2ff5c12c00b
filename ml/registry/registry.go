// Package registry is MLflow's model registry over the model assets of a
// workspace: a registered model is the asset's container, a model version the
// asset's version. What only MLflow knows sits in their member "mlflow".
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/ml/webhook"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// The types of the assets.
const (
	modelType   = ml.Workspaces + "/models"
	versionType = modelType + "/versions"
)

// Registry has the rules of registered models and their versions, in MLflow's
// words.
type Registry struct {
	manager *manager.Manager
	runs    *tracking.Service
	hooks   *webhook.Service
}

// New returns the registry. Writes go the manager's road, as the principal
// that the context carries; what they do is told to webhooks, unless those are
// nil.
func New(m *manager.Manager, runs *tracking.Service, hooks *webhook.Service) *Registry {
	return &Registry{manager: m, runs: runs, hooks: hooks}
}

// Model is a registered model.
type Model struct {
	Name        string
	Description string
	Tags        map[string]string
	Aliases     map[string]string // alias → version
	Created     int64             // Unix ms
	Updated     int64             // Unix ms
}

// Version is a version of a registered model.
type Version struct {
	Name, Number string
	Description  string
	Tags         map[string]string
	Aliases      []string
	Stage        string // None, Staging, Production, Archived
	Source       string // as the client gave it
	Run          string // id of the run that made it
	RunLink      string
	Model        string // id of the logged model it is
	User         string
	Created      int64 // Unix ms
	Updated      int64 // Unix ms

	path string // where its bytes lie, of a version that Azure ML's clients made
}

// Stages of a version.
var stages = []string{"None", "Staging", "Production", "Archived"}

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

func modelMissing(name string) error {
	return fault.NotFound("Registered Model with name=%s not found", name).With("RESOURCE_DOES_NOT_EXIST")
}

func versionMissing(name, version string) error {
	return fault.NotFound("Model Version (name=%s, version=%s) not found", name, version).With("RESOURCE_DOES_NOT_EXIST")
}

// only is the member of an asset that MLflow alone knows.
type only struct {
	Aliases map[string]string `json:"aliases,omitempty"`
	Created int64             `json:"created,omitempty"` // of what came from another registry
	Updated int64             `json:"updated,omitempty"`
	Source  string            `json:"source,omitempty"`
	Run     string            `json:"runId,omitempty"`
	RunLink string            `json:"runLink,omitempty"`
	Model   string            `json:"modelId,omitempty"`
	User    string            `json:"user,omitempty"`

	quiet bool  // the change is of tags or aliases, which MLflow does not count as an update
	rows  []any // what is stored with the change: deliveries to webhooks
}

// created is when the asset was made, in Unix ms: in the registry that it came
// from, if it did.
func (m only) created(r resource.Resource) int64 {
	if m.Created != 0 {
		return m.Created
	}
	return r.Created.At.UnixMilli()
}

// updated is when the asset was last changed, in Unix ms. To bring it here was
// no change.
func (m only) updated(r resource.Resource) int64 {
	if m.Created != 0 && r.Updated.At.Equal(r.Created.At) {
		return m.Updated
	}
	return max(r.Updated.At.UnixMilli(), m.Updated)
}

// properties are those of an asset that the registry reads.
type properties struct {
	Description string            `json:"description"`
	Tags        map[string]string `json:"tags"`
	Stage       string            `json:"stage"`
	ModelURI    string            `json:"modelUri"`
	JobName     string            `json:"jobName"`
	MLflow      only              `json:"mlflow"`
}

func decode(r resource.Resource) (properties, error) {
	var p properties
	err := json.Unmarshal(r.Properties, &p)
	return p, err
}

func (g *Registry) modelID(site ml.Site, name string) (resource.ID, error) {
	if err := checkModelName(name); err != nil {
		return resource.ID{}, err
	}
	id := site.ID.Child("models", name)
	if id.Zero() {
		return id, invalid("Invalid model name: %q.", name)
	}
	return id, nil
}

func checkModelName(name string) error {
	if name == "" {
		return invalid("Registered model name cannot be empty.")
	}
	if strings.ContainsAny(name, "/:") {
		return invalid("Invalid model name '%s'. Names cannot contain '/' or ':'.", name)
	}
	if len(name) > 255 || strings.ContainsAny(name, `\?#%`) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
		return invalid("Invalid model name: %q. A name has 1 to 255 characters without '/', ':', '\\', '?', '#' and '%%'.", name)
	}
	return nil
}

func (g *Registry) get(ctx context.Context, id resource.ID) (resource.Resource, error) {
	return g.manager.Get(ctx, identity.Of(ctx), id, resource.View{})
}

func modelOf(r resource.Resource) (Model, error) {
	p, err := decode(r)
	m := Model{Name: r.ID.Name(), Description: p.Description, Tags: p.Tags, Aliases: p.MLflow.Aliases,
		Created: p.MLflow.created(r), Updated: p.MLflow.updated(r)}
	return m, err
}

func versionOf(r resource.Resource, aliases map[string]string) (Version, error) {
	p, err := decode(r)
	v := Version{
		Name: r.ID.Parent().Name(), Number: r.ID.Name(), Description: p.Description, Tags: p.Tags, Stage: p.Stage,
		Source: p.MLflow.Source, Run: p.MLflow.Run, RunLink: p.MLflow.RunLink, Model: p.MLflow.Model, User: p.MLflow.User,
		Created: p.MLflow.created(r), Updated: p.MLflow.updated(r),
	}
	if v.Stage == "" {
		v.Stage = "None"
	}
	if v.Source == "" {
		v.Source, v.path, v.Run = p.ModelURI, p.ModelURI, p.JobName
	}
	for alias, of := range aliases {
		if of == v.Number {
			v.Aliases = append(v.Aliases, alias)
		}
	}
	slices.Sort(v.Aliases)
	return v, err
}

// Model finds a registered model.
func (g *Registry) Model(ctx context.Context, site ml.Site, name string) (Model, error) {
	id, err := g.modelID(site, name)
	if err != nil {
		return Model{}, err
	}
	r, err := g.get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return Model{}, modelMissing(name)
	}
	if err != nil {
		return Model{}, err
	}
	return modelOf(r)
}

// put stores an asset with the properties, if it is as it was read.
func (g *Registry) put(ctx context.Context, p resource.Document, req manager.Request) (resource.Resource, error) {
	body := resource.Document{}
	body.Set("properties", p)
	req.Caller, req.Body, req.Own = identity.Of(ctx), body.Raw(), true
	reply, err := g.manager.Put(ctx, req)
	if len(req.Rows) > 0 && err == nil {
		g.hooks.Wake()
	}
	return reply.Resource, err
}

// change alters an asset's properties; when others write meanwhile it reads
// and alters again.
func (g *Registry) change(ctx context.Context, id resource.ID, gone error, alter func(p resource.Document, m *only) error) (resource.Resource, error) {
	var tries manager.Tries
	for {
		r, err := g.get(ctx, id)
		if fault.Is(err, fault.Missing) {
			return r, gone
		}
		if err != nil {
			return r, err
		}
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return r, err
		}
		var m only
		if raw, ok := p["mlflow"]; ok {
			if err := json.Unmarshal(raw, &m); err != nil {
				return r, err
			}
		}
		if err := alter(p, &m); err != nil {
			return r, err
		}
		if !m.quiet {
			m.Updated = time.Now().UnixMilli()
		}
		p.Set("mlflow", m)
		r, err = g.put(ctx, p, manager.Request{ID: id, IfMatch: r.Etag, Quiet: m.quiet, Rows: m.rows})
		if fault.Is(err, fault.PreconditionFailed) && tries.Again(ctx) {
			continue
		}
		return r, err
	}
}

func asMap(tags []tracking.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.Key] = t.Value
	}
	return m
}

// CreateModel makes a registered model.
func (g *Registry) CreateModel(ctx context.Context, site ml.Site, name, description string, tags []tracking.Tag) (Model, error) {
	for _, t := range tags {
		if err := checkTag(t); err != nil {
			return Model{}, err
		}
	}
	id, err := g.modelID(site, name)
	if err != nil {
		return Model{}, err
	}
	p := resource.Document{}
	p.Set("tags", asMap(tags))
	p.Set("mlflow", only{})
	if description != "" {
		p.Set("description", description)
	}
	rows, err := g.tell(ctx, site, asMap(tags), "registered_model", "prompt", "created", modelMade{name, shownTags(asMap(tags)), description})
	if err != nil {
		return Model{}, err
	}
	r, err := g.put(ctx, p, manager.Request{ID: id, IfNoneMatch: "*", Rows: rows})
	if fault.Is(err, fault.PreconditionFailed) || fault.Is(err, fault.Conflict) {
		return Model{}, fault.Invalid("Registered Model (name=%s) already exists.", name).With("RESOURCE_ALREADY_EXISTS").From(err)
	}
	if err != nil {
		return Model{}, err
	}
	return modelOf(r)
}

func checkTag(t tracking.Tag) error {
	if t.Key == "" {
		return invalid("Missing value for required parameter 'key'.")
	}
	if err := tracking.CheckTagKey(t.Key); err != nil {
		return err
	}
	if len(t.Value) > 100_000 {
		return invalid("'value' exceeds the maximum length of 100000 characters")
	}
	return nil
}

// UpdateModel sets the description of a registered model.
func (g *Registry) UpdateModel(ctx context.Context, site ml.Site, name, description string) (Model, error) {
	return g.changeModel(ctx, site, name, func(p resource.Document, _ *only) error {
		p.Set("description", description)
		return nil
	})
}

func (g *Registry) changeModel(ctx context.Context, site ml.Site, name string, alter func(p resource.Document, m *only) error) (Model, error) {
	id, err := g.modelID(site, name)
	if err != nil {
		return Model{}, err
	}
	r, err := g.change(ctx, id, modelMissing(name), alter)
	if err != nil {
		return Model{}, err
	}
	return modelOf(r)
}

func tagsOf(p resource.Document) map[string]string {
	tags := map[string]string{}
	_ = json.Unmarshal(p["tags"], &tags)
	return tags
}

// SetModelTag sets a tag of a registered model.
func (g *Registry) SetModelTag(ctx context.Context, site ml.Site, name string, t tracking.Tag) error {
	if err := checkTag(t); err != nil {
		return err
	}
	_, err := g.changeModel(ctx, site, name, func(p resource.Document, m *only) error {
		return errors.Join(setTag(t)(p, m), g.tellTag(ctx, site, p, m, "set", tagChange{Name: name, Key: t.Key, Value: &t.Value}))
	})
	return err
}

func setTag(t tracking.Tag) func(p resource.Document, _ *only) error {
	return func(p resource.Document, m *only) error {
		m.quiet = true
		tags := tagsOf(p)
		tags[t.Key] = t.Value
		p.Set("tags", tags)
		return nil
	}
}

func deleteTag(key string) func(p resource.Document, _ *only) error {
	return func(p resource.Document, m *only) error {
		m.quiet = true
		tags := tagsOf(p)
		delete(tags, key)
		p.Set("tags", tags)
		return nil
	}
}

// DeleteModelTag removes a tag of a registered model; one that is not there is
// no error.
func (g *Registry) DeleteModelTag(ctx context.Context, site ml.Site, name, key string) error {
	_, err := g.changeModel(ctx, site, name, func(p resource.Document, m *only) error {
		return errors.Join(deleteTag(key)(p, m), g.tellTag(ctx, site, p, m, "deleted", tagChange{Name: name, Key: key}))
	})
	return err
}

// DeleteModel removes a registered model with all its versions.
func (g *Registry) DeleteModel(ctx context.Context, site ml.Site, name string) error {
	id, err := g.modelID(site, name)
	if err != nil {
		return err
	}
	if _, err := g.get(ctx, id); err != nil {
		if fault.Is(err, fault.Missing) {
			return modelMissing(name)
		}
		return err
	}
	_, err = g.manager.Delete(ctx, manager.Request{ID: id, Caller: identity.Of(ctx)})
	return err
}

// RenameModel gives a registered model, its versions and aliases another name.
func (g *Registry) RenameModel(ctx context.Context, site ml.Site, name, to string) (Model, error) {
	from, err := g.modelID(site, name)
	if err != nil {
		return Model{}, err
	}
	target, err := g.modelID(site, to)
	if err != nil {
		return Model{}, err
	}
	if from.Same(target) {
		return g.changeModel(ctx, site, name, func(resource.Document, *only) error { return nil })
	}
	reply, err := g.manager.Move(ctx, manager.Request{ID: from, Caller: identity.Of(ctx)}, target)
	switch {
	case fault.Is(err, fault.Missing):
		return Model{}, modelMissing(name)
	case fault.Is(err, fault.Conflict):
		return Model{}, fault.Invalid("Registered Model (name=%s) already exists.", to).With("RESOURCE_ALREADY_EXISTS").From(err)
	case err != nil:
		return Model{}, err
	}
	return modelOf(reply.Resource)
}

// resources are the versions of a model, or of a whole workspace.
func (g *Registry) resources(ctx context.Context, below resource.ID) ([]resource.Resource, error) {
	q := resource.Query{Type: versionType, Limit: 1000}
	if below.Is(modelType) {
		q.Parent = below
	} else {
		q.Scope = below
	}
	return g.all(ctx, q)
}

func (g *Registry) all(ctx context.Context, q resource.Query) ([]resource.Resource, error) {
	var all []resource.Resource
	for {
		page, err := g.manager.List(ctx, identity.Of(ctx), q, nil, resource.View{})
		if err != nil {
			return nil, err
		}
		all = append(all, page.Resources...)
		if page.Next == "" {
			return all, nil
		}
		q.After = page.Next
	}
}

// Models returns all registered models of a workspace.
func (g *Registry) Models(ctx context.Context, site ml.Site) ([]Model, error) {
	list, err := g.all(ctx, resource.Query{Type: modelType, Parent: site.ID, Limit: 1000})
	if err != nil {
		return nil, err
	}
	models := make([]Model, 0, len(list))
	for _, r := range list {
		m, err := modelOf(r)
		if err != nil {
			return nil, err
		}
		models = append(models, m)
	}
	return models, nil
}

// Versions returns the versions of a model, or of all models for "".
func (g *Registry) Versions(ctx context.Context, site ml.Site, name string) ([]Version, error) {
	aliases := map[string]map[string]string{}
	var below resource.ID
	if name != "" {
		m, err := g.Model(ctx, site, name)
		if err != nil {
			return nil, err
		}
		aliases[m.Name] = m.Aliases
		if below, err = g.modelID(site, name); err != nil {
			return nil, err
		}
	} else {
		models, err := g.Models(ctx, site)
		if err != nil {
			return nil, err
		}
		for _, m := range models {
			aliases[m.Name] = m.Aliases
		}
		below = site.ID
	}
	list, err := g.resources(ctx, below)
	if err != nil {
		return nil, err
	}
	versions := make([]Version, 0, len(list))
	for _, r := range list {
		v, err := versionOf(r, aliases[r.ID.Parent().Name()])
		if err != nil {
			return nil, err
		}
		versions = append(versions, v)
	}
	return versions, nil
}

// Version finds a version of a registered model.
func (g *Registry) Version(ctx context.Context, site ml.Site, name, number string) (Version, error) {
	m, err := g.Model(ctx, site, name)
	if err != nil {
		if fault.Is(err, fault.Missing) {
			err = versionMissing(name, number)
		}
		return Version{}, err
	}
	id, err := g.versionID(site, name, number)
	if err != nil {
		return Version{}, err
	}
	r, err := g.get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return Version{}, versionMissing(name, number)
	}
	if err != nil {
		return Version{}, err
	}
	return versionOf(r, m.Aliases)
}

func (g *Registry) versionID(site ml.Site, name, number string) (resource.ID, error) {
	id, err := g.modelID(site, name)
	if err != nil {
		return id, err
	}
	child := id.Child("versions", number)
	if child.Zero() {
		return child, invalid("Parameter 'version' must be an integer, got '%s'.", number)
	}
	return child, nil
}

// NewVersion is what CreateVersion is told.
type NewVersion struct {
	Name, Source, Run, RunLink, Description, Model string

	// RunGiven and ModelGiven tell that the client named them, if only as "".
	RunGiven, ModelGiven bool
	Tags                 []tracking.Tag
}

// CreateVersion makes the next version of a registered model.
func (g *Registry) CreateVersion(ctx context.Context, site ml.Site, n NewVersion) (Version, error) {
	for _, t := range n.Tags {
		if err := checkTag(t); err != nil {
			return Version{}, err
		}
	}
	id, err := g.modelID(site, n.Name)
	if err != nil {
		return Version{}, err
	}
	if err := g.checkSource(ctx, site, &n); err != nil {
		return Version{}, err
	}
	var tries manager.Tries
	for {
		held, err := g.get(ctx, id)
		if fault.Is(err, fault.Missing) {
			return Version{}, modelMissing(n.Name)
		}
		if err != nil {
			return Version{}, err
		}
		number, err := g.nextNumber(ctx, held)
		if err != nil {
			return Version{}, err
		}
		p := resource.Document{}
		p.Set("tags", asMap(n.Tags))
		p.Set("stage", "None")
		p.Set("mlflow", only{Source: n.Source, Run: n.Run, RunLink: n.RunLink, Model: n.Model, User: identity.Of(ctx).Name})
		if n.Description != "" {
			p.Set("description", n.Description)
		}
		if n.Run != "" {
			p.Set("jobName", n.Run)
		}
		uri, err := g.resolveSource(ctx, site, n.Source, 0)
		if fault.Is(err, fault.Missing) {
			uri = n.Source // of a run that MLflow does not look for either
		} else if err != nil {
			return Version{}, err
		}
		p.Set("modelUri", uri)
		if at, ok := assetURI(uri); ok {
			p.Set("modelUri", at)
			p.Set("modelType", "mlflow_model")
		} else {
			p.Set("modelType", "custom_model")
		}
		rows, err := g.tellVersion(ctx, site, number, n)
		if err != nil {
			return Version{}, err
		}
		r, err := g.put(ctx, p, manager.Request{ID: id.Child("versions", number), IfNoneMatch: "*", Rows: rows})
		if (fault.Is(err, fault.PreconditionFailed) || fault.Is(err, fault.Conflict)) && tries.Again(ctx) {
			continue // another client took the number
		}
		if err != nil {
			return Version{}, err
		}
		g.touch(ctx, site, n.Name)
		if n.Model != "" {
			if err := g.tagLogged(ctx, site, n.Model, n.Name, number); err != nil {
				return Version{}, err
			}
		}
		return versionOf(r, nil)
	}
}

// tagVersions is the tag of a logged model that tells which versions it is.
const tagVersions = "mlflow.modelVersions"

// tagLogged tells a logged model that it is a version of a registered one.
func (g *Registry) tagLogged(ctx context.Context, site ml.Site, model, name, version string) error {
	type one struct {
		Name    string `json:"name"`
		Version int64  `json:"version"`
	}
	_, err := g.runs.ChangeModel(ctx, site.GUID, model, func(m *tracking.LoggedModel) error {
		var all []one
		_ = json.Unmarshal([]byte(m.Tags[tagVersions]), &all) // what is no list is replaced
		if v := (one{name, number(version)}); !slices.Contains(all, v) {
			all = append(all, v)
		}
		var text []string // with the spaces that MLflow's server puts there
		for _, v := range all {
			name, err := json.Marshal(v.Name)
			if err != nil {
				return err
			}
			text = append(text, fmt.Sprintf(`{"name": %s, "version": %d}`, name, v.Version))
		}
		if m.Tags == nil {
			m.Tags = map[string]string{}
		}
		m.Tags[tagVersions] = "[" + strings.Join(text, ", ") + "]"
		return nil
	})
	return err
}

// touch dates a model whose versions changed. What failed then is the date alone.
func (g *Registry) touch(ctx context.Context, site ml.Site, name string) {
	_, _ = g.changeModel(ctx, site, name, func(resource.Document, *only) error { return nil })
}

// nextNumber is one more than any version that there was.
func (g *Registry) nextNumber(ctx context.Context, model resource.Resource) (string, error) {
	var counts struct {
		Next string `json:"nextVersion"`
	}
	_ = json.Unmarshal(model.Status, &counts)
	next, _ := strconv.ParseInt(counts.Next, 10, 64)
	if next < 1 {
		next = 1
		list, err := g.resources(ctx, model.ID)
		if err != nil {
			return "", err
		}
		for _, r := range list {
			if n, err := strconv.ParseInt(r.ID.Name(), 10, 64); err == nil && n >= next {
				next = n + 1
			}
		}
	}
	return strconv.FormatInt(next, 10), nil
}

// changeVersion alters a version.
func (g *Registry) changeVersion(ctx context.Context, site ml.Site, name, number string, alter func(p resource.Document, m *only) error) (Version, error) {
	id, err := g.versionID(site, name, number)
	if err != nil {
		return Version{}, err
	}
	if _, err := g.change(ctx, id, versionMissing(name, number), alter); err != nil {
		return Version{}, err
	}
	return g.Version(ctx, site, name, number)
}

// UpdateVersion sets the description of a version.
func (g *Registry) UpdateVersion(ctx context.Context, site ml.Site, name, number, description string) (Version, error) {
	return g.changeVersion(ctx, site, name, number, func(p resource.Document, _ *only) error {
		p.Set("description", description)
		return nil
	})
}

// SetVersionTag sets a tag of a version.
func (g *Registry) SetVersionTag(ctx context.Context, site ml.Site, name, number string, t tracking.Tag) error {
	if err := checkTag(t); err != nil {
		return err
	}
	_, err := g.changeVersion(ctx, site, name, number, func(p resource.Document, m *only) error {
		return errors.Join(setTag(t)(p, m), g.tellVersionTag(ctx, site, m, "set", tagChange{Name: name, Version: number, Key: t.Key, Value: &t.Value}))
	})
	return err
}

// DeleteVersionTag removes a tag of a version; one that is not there is no error.
func (g *Registry) DeleteVersionTag(ctx context.Context, site ml.Site, name, number, key string) error {
	_, err := g.changeVersion(ctx, site, name, number, func(p resource.Document, m *only) error {
		return errors.Join(deleteTag(key)(p, m), g.tellVersionTag(ctx, site, m, "deleted", tagChange{Name: name, Version: number, Key: key}))
	})
	return err
}

// DeleteVersion removes a version and the aliases that name it.
func (g *Registry) DeleteVersion(ctx context.Context, site ml.Site, name, number string) error {
	v, err := g.Version(ctx, site, name, number)
	if err != nil {
		return err
	}
	if len(v.Aliases) > 0 {
		_, err := g.changeModel(ctx, site, name, func(_ resource.Document, m *only) error {
			m.quiet = true
			for alias, of := range m.Aliases {
				if of == number {
					delete(m.Aliases, alias)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	id, err := g.versionID(site, name, number)
	if err != nil {
		return err
	}
	if _, err = g.manager.Delete(ctx, manager.Request{ID: id, Caller: identity.Of(ctx)}); err == nil {
		g.touch(ctx, site, name)
	}
	return err
}

// stage is the proper spelling of a stage.
func stage(s string) (string, error) {
	for _, known := range stages {
		if strings.EqualFold(known, s) {
			return known, nil
		}
	}
	return "", invalid("Invalid Model Version stage: %s. Value must be one of None, Staging, Production, Archived.", s)
}

// MoveVersion puts a version into a stage; with archive, those that are in it
// are archived.
func (g *Registry) MoveVersion(ctx context.Context, site ml.Site, name, number, to string, archive bool) (Version, error) {
	to, err := stage(to)
	if err != nil {
		return Version{}, err
	}
	if archive && to != "Staging" && to != "Production" {
		return Version{}, invalid("Model version transition cannot archive existing model versions because '%s' is not an Active stage. Valid stages are Staging, Production", to)
	}
	move := func(number, to string) (Version, error) {
		return g.changeVersion(ctx, site, name, number, func(p resource.Document, _ *only) error {
			p.Set("stage", to)
			return nil
		})
	}
	v, err := move(number, to)
	if err != nil {
		return v, err
	}
	g.touch(ctx, site, name)
	if !archive {
		return v, nil
	}
	others, err := g.Versions(ctx, site, name)
	if err != nil {
		return v, err
	}
	for _, o := range others {
		if o.Number != number && o.Stage == to {
			// At the same moment, as searches order by it.
			_, err := g.changeVersion(ctx, site, name, o.Number, func(p resource.Document, m *only) error {
				p.Set("stage", "Archived")
				m.quiet, m.Updated = true, v.Updated
				return nil
			})
			if err != nil {
				return v, err
			}
		}
	}
	return v, nil
}

// LatestVersions returns the newest version in each of the stages; in all, if
// none is named.
func (g *Registry) LatestVersions(ctx context.Context, site ml.Site, name string, in []string) ([]Version, error) {
	all, err := g.Versions(ctx, site, name)
	if err != nil {
		return nil, err
	}
	wanted := stages
	if len(in) > 0 {
		wanted = nil
		for _, s := range in {
			s, err := stage(s)
			if err != nil {
				return nil, err
			}
			wanted = append(wanted, s)
		}
	}
	return latest(all, wanted), nil
}

// latest picks the newest version of each stage.
func latest(all []Version, in []string) []Version {
	newest := map[string]Version{}
	for _, v := range all {
		if old, ok := newest[v.Stage]; !ok || number(v.Number) > number(old.Number) {
			newest[v.Stage] = v
		}
	}
	var list []Version
	for _, s := range in {
		if v, ok := newest[s]; ok {
			list = append(list, v)
			delete(newest, s)
		}
	}
	return list
}

// number is a version as a number; versions that are none come first.
func number(version string) int64 {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return -1
	}
	return n
}
