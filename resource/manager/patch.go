package manager

import (
	"context"
	"encoding/json"

	"lapis/fault"
	"lapis/resource"
)

// Patch merges the body into the stored resource (RFC 7396) and takes the rest
// of the road of a Put.
func (m *Manager) Patch(ctx context.Context, req Request) (Reply, error) {
	return retry(ctx, func() (Reply, error) {
		t, err := m.types.Find(req.ID.Type())
		if err != nil {
			return Reply{}, err
		}
		if t.Virtual || t.Read != nil {
			return Reply{}, fault.New(fault.NotAllowed, "MethodNotAllowed", "A %s cannot be written.", t.Title)
		}
		if err := m.access.Check(ctx, req.Caller, t.Name+"/write", req.ID); err != nil {
			return Reply{}, err
		}
		old, err := m.existing(ctx, t, req)
		if err != nil {
			return Reply{}, err
		}
		c, err := m.patched(old, req)
		if err != nil {
			return Reply{}, err
		}
		return m.admit(ctx, t, req, c)
	})
}

// patched is the stored resource with the patch applied.
func (m *Manager) patched(old *resource.Resource, req Request) (*resource.Change, error) {
	var p envelope
	var given map[string]json.RawMessage
	if err := decodeBody(req.Body, &given); err != nil {
		return nil, err
	}
	if err := decodeBody(req.Body, &p); err != nil {
		return nil, err
	}
	wanted := *old
	wanted.Updated = m.stamp(req.Caller)
	for _, field := range []struct {
		name string
		at   *json.RawMessage
	}{{"properties", &wanted.Properties}, {"sku", &wanted.SKU}, {"identity", &wanted.Identity}} {
		if patch, ok := given[field.name]; ok {
			merged, err := resource.MergePatch(*field.at, patch)
			if err != nil {
				return nil, err
			}
			*field.at = notNull(merged)
		}
	}
	if len(wanted.Properties) == 0 {
		wanted.Properties = json.RawMessage("{}")
	}
	if wanted.Properties[0] != '{' {
		return nil, fault.Invalid("'properties' must be an object").With("InvalidRequestContent").At("properties")
	}
	if _, ok := given["tags"]; ok {
		wanted.Tags = p.Tags // ARM replaces tags as a whole
	}
	if p.Kind != "" {
		wanted.Kind = p.Kind
	}
	return &resource.Change{Old: old, New: &wanted, Patch: true, Caller: req.Caller, View: req.View}, nil
}
