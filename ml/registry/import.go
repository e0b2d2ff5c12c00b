package registry

import (
	"context"
	"net/url"
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

// ImportModel makes a registered model that another registry holds, with its
// dates and tags, if there is none of that name; made tells.
func (g *Registry) ImportModel(ctx context.Context, site ml.Site, m Model) (made bool, err error) {
	for k, v := range m.Tags {
		if err := checkTag(tracking.Tag{Key: k, Value: v}); err != nil {
			return false, err
		}
	}
	id, err := g.modelID(site, m.Name)
	if err != nil {
		return false, err
	}
	p := resource.Document{}
	p.Set("tags", tagsOr(m.Tags))
	p.Set("mlflow", only{Created: m.Created, Updated: m.Updated})
	if m.Description != "" {
		p.Set("description", m.Description)
	}
	_, err = g.put(ctx, p, manager.Request{ID: id, IfNoneMatch: "*"})
	if there(err) {
		return false, nil
	}
	return err == nil, err
}

// there tells that a resource was not made because it exists.
func there(err error) bool {
	return fault.Is(err, fault.PreconditionFailed) || fault.Is(err, fault.Conflict)
}

func tagsOr(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// ImportVersion makes a version that another registry holds, with its number,
// dates, stage and tags, if there is none of that number; made tells. What its
// source names need not be here. Another version of that number is a fault.
func (g *Registry) ImportVersion(ctx context.Context, site ml.Site, v Version) (made bool, err error) {
	for k, value := range v.Tags {
		if err := checkTag(tracking.Tag{Key: k, Value: value}); err != nil {
			return false, err
		}
	}
	if n, err := strconv.ParseInt(v.Number, 10, 64); err != nil || n < 1 || strconv.FormatInt(n, 10) != v.Number {
		return false, invalid("Parameter 'version' must be an integer, got '%s'.", v.Number)
	}
	id, err := g.versionID(site, v.Name, v.Number)
	if err != nil {
		return false, err
	}
	to := "None"
	if v.Stage != "" {
		if to, err = stage(v.Stage); err != nil {
			return false, err
		}
	}
	_, prompt := v.Tags[promptTag]
	if err := checkImported(v.Source, prompt); err != nil {
		return false, err
	}
	if v.User == "" {
		v.User = identity.Of(ctx).Name
	}
	p := resource.Document{}
	p.Set("tags", tagsOr(v.Tags))
	p.Set("stage", to)
	p.Set("mlflow", only{Source: v.Source, Run: v.Run, RunLink: v.RunLink, Model: v.Model, User: v.User, Created: v.Created, Updated: v.Updated})
	if v.Description != "" {
		p.Set("description", v.Description)
	}
	if v.Run != "" {
		p.Set("jobName", v.Run)
	}
	uri, err := g.resolveSource(ctx, site, v.Source, 0)
	if fault.Find(err) != nil {
		uri = v.Source // what it came from is gone
	} else if err != nil {
		return false, err
	}
	p.Set("modelUri", uri)
	p.Set("modelType", "custom_model")
	if at, ok := assetURI(uri); ok {
		p.Set("modelUri", at)
		p.Set("modelType", "mlflow_model")
	}
	_, err = g.put(ctx, p, manager.Request{ID: id, IfNoneMatch: "*"})
	if !there(err) {
		return err == nil, err
	}
	old, err := g.Version(ctx, site, v.Name, v.Number)
	if err == nil && (old.Created != v.Created || old.Run != v.Run) {
		err = fault.Conflicts("Another version of that number is here already: it was made from the run %q, this one from %q.", old.Run, v.Run).With("RESOURCE_ALREADY_EXISTS")
	}
	return false, err
}

// checkImported refuses sources that would lead a client to a place on its own
// disk, or out of a folder.
func checkImported(source string, prompt bool) error {
	if prompt {
		return nil
	}
	if source == "" {
		return invalid("Missing value for required parameter 'source'.")
	}
	scheme, rest, ok := strings.Cut(source, ":")
	if !ok || len(scheme) < 2 || strings.EqualFold(scheme, "file") {
		return badSource(source, "A path on a disk means nothing on this server: send the files, and name them where they are then.")
	}
	for range 4 {
		if slices.Contains(strings.FieldsFunc(rest, func(r rune) bool { return r == '/' || r == '\\' }), "..") {
			return badSource(source, "It must not hold '..'.")
		}
		plain, err := url.PathUnescape(rest)
		if err != nil || plain == rest {
			break
		}
		rest = plain
	}
	if slices.Contains([]string{"models", "runs", "mlflow-artifacts"}, strings.ToLower(scheme)) {
		return nil
	}
	return tracking.CheckLocation(strings.SplitN(source, "#", 2)[0], "source")
}
