// Package registry is MLflow's model registry over the model assets of a
// workspace: a registered model is the asset's container, a model version the
// asset's version. What only MLflow knows sits in their member "mlflow".
package registry

import (
	"context"
	"encoding/json"
	"errors"
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

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

func modelMissing(name string) error {
	return fault.NotFound("Registered Model with name=%s not found", name).With("RESOURCE_DOES_NOT_EXIST")
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

// touch dates a model whose versions changed. What failed then is the date alone.
func (g *Registry) touch(ctx context.Context, site ml.Site, name string) {
	_, _ = g.changeModel(ctx, site, name, func(resource.Document, *only) error { return nil })
}
