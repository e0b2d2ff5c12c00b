package manager

import (
	"context"

	"lapis/fault"
	"lapis/resource"
)

// Delete removes the resource and all below it. One that is not there is no
// error: the reply then holds no resource.
func (m *Manager) Delete(ctx context.Context, req Request) (Reply, error) {
	return retry(ctx, func() (Reply, error) {
		t, err := m.types.Find(req.ID.Type())
		if err != nil {
			return Reply{}, err
		}
		if t.Virtual || t.Read != nil {
			return Reply{}, fault.New(fault.NotAllowed, "MethodNotAllowed", "A %s cannot be deleted.", t.Title)
		}
		if err := m.access.Check(ctx, req.Caller, t.Name+"/delete", req.ID); err != nil {
			return Reply{}, err
		}
		old, err := m.stored(ctx, t, req.ID)
		if err != nil {
			return Reply{}, err
		}
		if old == nil && req.Purge {
			if old, err = m.gone(ctx, t, req.ID); err != nil {
				return Reply{}, err
			}
		}
		if old == nil {
			return Reply{}, m.parent(ctx, req.ID)
		}
		if err := condition(req, old); err != nil {
			return Reply{}, err
		}
		c := &resource.Change{Old: old, Caller: req.Caller, View: req.View, Purge: req.Purge}
		if m.policies != nil {
			if err := m.policies.Apply(ctx, c); err != nil {
				return Reply{}, err
			}
		}
		if t.AdmitDelete != nil {
			if err := t.AdmitDelete(ctx, c); err != nil {
				return Reply{}, err
			}
		}
		if err := m.admitBelow(ctx, c); err != nil {
			return Reply{}, err
		}
		return m.remove(ctx, t, req, c)
	})
}

// remove takes the resource away at once, or by an operation where something
// has to be released first.
func (m *Manager) remove(ctx context.Context, t *resource.Type, req Request, c *resource.Change) (Reply, error) {
	b := c.Batch
	b.Rows = append(b.Rows, req.Rows...)
	reply := Reply{Resource: *c.Old}
	op := resource.Operation{ID: resource.NewGUID(), Verb: "delete", Resource: c.Old.ID, Caller: req.Caller.Name,
		State: resource.OperationRunning, Started: m.now()}
	switch {
	case c.Kept != nil:
		kept := *c.Old
		kept.Archived, kept.Status = true, resource.Overlay(orEmpty(kept.Status), c.Kept)
		b.Puts = append(b.Puts, resource.Write{Resource: kept, Expect: c.Old.Etag})
		op.State, op.Ended = resource.Succeeded, m.now()
		b.Operations = append(b.Operations, op)
		reply.Operation = op.ID
	case t.Release != nil:
		b.Statuses = append(b.Statuses, resource.StatusWrite{ID: c.Old.ID, Change: overlaid(stateJSON(resource.Deleting))})
		b.Relies = append(b.Relies, resource.Expectation{ID: c.Old.ID, Etag: c.Old.Etag})
		b.Operations = append(b.Operations, op)
		reply.Operation = op.ID
	default:
		b.Removals = append(b.Removals, resource.Removal{ID: c.Old.ID, Expect: c.Old.Etag, Deep: true})
		if t.Async {
			op.State, op.Ended = resource.Succeeded, m.now()
			b.Operations = append(b.Operations, op)
			reply.Operation = op.ID
		}
	}
	b.Activities = append(b.Activities, m.activity(req, t.Name+"/delete", "Succeeded"))
	if _, err := m.store.Commit(ctx, b); err != nil {
		return Reply{}, err
	}
	if t.Release != nil {
		m.Wake()
	}
	return reply, nil
}

// Act runs one of the type's POST verbs.
func (m *Manager) Act(ctx context.Context, req Request) (Reply, error) {
	t, err := m.types.Find(req.ID.Type())
	if err != nil {
		return Reply{}, err
	}
	name, act, ok := findAction(t, req.Action)
	if !ok {
		return Reply{}, fault.New(fault.Missing, "InvalidResourceType", "A %s has no action %q.", t.Title, req.Action).At(req.Action)
	}
	action := t.Name + "/" + name + "/action"
	if err := m.access.Check(ctx, req.Caller, action, req.ID); err != nil {
		return Reply{}, err
	}
	old, err := m.stored(ctx, t, req.ID)
	if err != nil {
		return Reply{}, err
	}
	call := resource.Call{ID: req.ID, Body: req.Body, Caller: req.Caller, View: req.View}
	if old != nil {
		call.Resource, call.ID = *old, old.ID
	} else {
		if !act.Bare {
			return Reply{}, m.absent(ctx, t, req.ID)
		}
		if err := m.parent(ctx, req.ID); err != nil {
			return Reply{}, err
		}
	}
	entry := m.activity(req, action, "Succeeded")
	if act.Async {
		if act.Begin != nil {
			if err := act.Begin(ctx, call); err != nil {
				return Reply{}, err
			}
		}
		op := resource.Operation{ID: resource.NewGUID(), Verb: name, Resource: call.ID, Caller: req.Caller.Name,
			State: resource.OperationRunning, Started: m.now(), Input: req.Body}
		if act.Secret {
			op.Input = nil
		}
		entry.Result = "Started"
		if _, err := m.store.Commit(ctx, resource.Batch{Operations: []resource.Operation{op}, Activities: []resource.Activity{entry}}); err != nil {
			return Reply{}, err
		}
		m.Wake()
		return Reply{Operation: op.ID, Accepted: true}, nil
	}
	body, err := act.Run(ctx, call)
	if err != nil {
		return Reply{}, err
	}
	if _, err := m.store.Commit(ctx, resource.Batch{Activities: []resource.Activity{entry}}); err != nil {
		return Reply{}, err
	}
	return Reply{Body: body, Accepted: act.Accepted}, nil
}
