package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

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

func versionMissing(name, version string) error {
	return fault.NotFound("Model Version (name=%s, version=%s) not found", name, version).With("RESOURCE_DOES_NOT_EXIST")
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
