package manager

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"lapis/resource"
	"lapis/resource/identity"
)

// Get returns the resource as readers see it.
func (m *Manager) Get(ctx context.Context, p identity.Principal, id resource.ID, v resource.View) (resource.Resource, error) {
	t, err := m.types.Find(id.Type())
	if err != nil {
		return resource.Resource{}, err
	}
	if err := m.access.Check(ctx, p, t.Name+"/read", id); err != nil {
		return resource.Resource{}, err
	}
	r, err := m.stored(ctx, t, id)
	if err != nil {
		return resource.Resource{}, err
	}
	if r == nil && t.Resolve != nil {
		if r, err = m.resolved(ctx, t, id); err != nil {
			return resource.Resource{}, err
		}
	}
	if r == nil {
		return resource.Resource{}, m.absent(ctx, t, id)
	}
	return *r, m.view(ctx, t, v, r)
}

// resolved is what a name stands for that no resource has, or nil.
func (m *Manager) resolved(ctx context.Context, t *resource.Type, id resource.ID) (*resource.Resource, error) {
	found, err := t.Resolve(ctx, id)
	if err != nil || found.Zero() {
		return nil, err
	}
	return m.stored(ctx, t, found)
}

// List returns one page of a type's resources as readers see them. What they
// lie in must be there.
func (m *Manager) List(ctx context.Context, p identity.Principal, q resource.Query, o resource.Options, v resource.View) (resource.Page, error) {
	t, err := m.types.Find(q.Type)
	if err != nil {
		return resource.Page{}, err
	}
	scope := q.Scope
	if scope.Zero() {
		scope = q.Parent
	}
	if err := m.access.Check(ctx, p, t.Name+"/read", scope); err != nil {
		return resource.Page{}, err
	}
	if !scope.Zero() {
		above, err := m.types.Find(scope.Type())
		if err != nil {
			return resource.Page{}, err
		}
		if !above.Virtual && !above.Implied {
			r, err := m.stored(ctx, above, scope)
			if err != nil {
				return resource.Page{}, err
			}
			if r == nil {
				return resource.Page{}, m.absent(ctx, above, scope)
			}
		} else if err := m.parent(ctx, scope); err != nil {
			return resource.Page{}, err
		}
	}
	list := func(ctx context.Context, q resource.Query, _ resource.Options) (resource.Page, error) {
		return m.store.List(ctx, q)
	}
	if t.List != nil {
		list = t.List
	}
	page, err := list(ctx, q, o)
	if err != nil {
		return resource.Page{}, err
	}
	if t.View != nil && len(page.Resources) > 0 {
		v.List = true
		err = t.View(ctx, v, page.Resources)
	}
	return page, err
}

// Operation returns a long-running operation to a caller who may read what it
// works on.
func (m *Manager) Operation(ctx context.Context, p identity.Principal, id string) (resource.Operation, error) {
	op, err := m.store.Operation(ctx, id)
	if err != nil {
		return op, err
	}
	return op, m.access.Check(ctx, p, op.Resource.Type()+"/read", op.Resource)
}

func (m *Manager) view(ctx context.Context, t *resource.Type, v resource.View, r *resource.Resource) error {
	if t.View == nil {
		return nil
	}
	one := []resource.Resource{*r}
	err := t.View(ctx, v, one)
	*r = one[0]
	return err
}

// findAction matches a verb without regard to case and gives its proper name.
func findAction(t *resource.Type, verb string) (string, resource.Action, bool) {
	for name, a := range t.Actions {
		if strings.EqualFold(name, verb) {
			return name, a, true
		}
	}
	return "", resource.Action{}, false
}

var zeroTime time.Time

func orEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}
