package manager

import (
	"context"
	"strings"

	"lapis/resource"
	"lapis/resource/identity"
)

// each calls do for every stored resource of a type below a scope.
func (m *Manager) each(ctx context.Context, t *resource.Type, scope resource.ID, do func(resource.Resource) error) error {
	q := resource.Query{Type: t.Name, Scope: scope, Limit: 1000}
	for {
		page, err := m.store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range page.Resources {
			if err := do(r); err != nil {
				return err
			}
		}
		if q.After = page.Next; q.After == "" {
			return nil
		}
	}
}

// admitBelow asks what is tracked below a resource whether it may go with it.
func (m *Manager) admitBelow(ctx context.Context, c *resource.Change) error {
	for _, t := range m.types.All() {
		if !t.Tracked || t.AdmitDelete == nil {
			continue
		}
		err := m.each(ctx, t, c.Old.ID, func(r resource.Resource) error {
			below := &resource.Change{Old: &r, Root: c.Old.ID, Caller: c.Caller, View: c.View, Batch: c.Batch}
			err := t.AdmitDelete(ctx, below)
			c.Batch = below.Batch
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// releaseBelow takes back what was provisioned below a resource that goes.
func (m *Manager) releaseBelow(ctx context.Context, id resource.ID) error {
	for _, t := range m.types.All() {
		if t.Release == nil {
			continue
		}
		if err := m.each(ctx, t, id, func(r resource.Resource) error { return t.Release(ctx, r) }); err != nil {
			return err
		}
	}
	return nil
}

// Tracked returns one page of the tracked resources of all types below a scope,
// type by type, as readers see them. The scope must be there.
func (m *Manager) Tracked(ctx context.Context, p identity.Principal, scope resource.ID, after string, limit int, v resource.View) (resource.Page, error) {
	if _, err := m.Get(ctx, p, scope, v); err != nil {
		return resource.Page{}, err
	}
	no := false
	from, token, _ := strings.Cut(after, " ")
	var page resource.Page
	for _, t := range m.types.All() {
		if !t.Tracked || t.Name < from {
			continue
		}
		if t.Name != from {
			token = ""
		}
		part, err := m.List(ctx, p, resource.Query{Type: t.Name, Scope: scope, Archived: &no, After: token, Limit: limit - len(page.Resources)}, resource.Options{}, v)
		if err != nil {
			return page, err
		}
		page.Resources = append(page.Resources, part.Resources...)
		if part.Next != "" || len(page.Resources) >= limit {
			page.Next = t.Name + " " + part.Next
			if part.Next == "" {
				page.Next = t.Name + "\x00 "
			}
			return page, nil
		}
	}
	return page, nil
}
