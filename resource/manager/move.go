package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

// Move gives a resource, with all that lies below it, another name beside its
// old one, in one commit. The caller needs to be allowed to delete the old one
// and to write the new one. Types that have something in the world outside are
// not moved: it would go on under the old name.
func (m *Manager) Move(ctx context.Context, req Request, to resource.ID) (Reply, error) {
	return retry(ctx, func() (Reply, error) { return m.move(ctx, req, to) })
}

func (m *Manager) move(ctx context.Context, req Request, to resource.ID) (Reply, error) {
	t, err := m.types.Find(req.ID.Type())
	if err != nil {
		return Reply{}, err
	}
	family, err := m.movable(t)
	if err != nil {
		return Reply{}, err
	}
	if !to.Is(t.Name) || !to.Parent().Same(req.ID.Parent()) {
		return Reply{}, fault.Invalid("'%s' can be moved only to another name in the same place, not to '%s'.", req.ID, to).With("InvalidRequestContent")
	}
	if err := m.access.Check(ctx, req.Caller, t.Name+"/delete", req.ID); err != nil {
		return Reply{}, err
	}
	if err := m.access.Check(ctx, req.Caller, t.Name+"/write", to); err != nil {
		return Reply{}, err
	}
	old, err := m.existing(ctx, t, req)
	if err != nil {
		return Reply{}, err
	}
	if taken, err := m.stored(ctx, t, to); err != nil {
		return Reply{}, err
	} else if taken != nil {
		return Reply{}, fault.Conflicts("A %s '%s' exists already.", t.Title, to.Name()).With("Conflict").At(to.String())
	}
	if t.Check != nil {
		if err := t.Check(to.Name()); err != nil {
			return Reply{}, err
		}
	}
	moved := *old
	moved.ID, moved.Updated = to, m.stamp(req.Caller)
	c := &resource.Change{Old: old, New: &moved, Caller: req.Caller, View: req.View}
	if m.policies != nil {
		if err := m.policies.Apply(ctx, c); err != nil {
			return Reply{}, err
		}
	}
	b := c.Batch
	b.Rows = append(b.Rows, req.Rows...)
	b.Puts = append(b.Puts, resource.Write{Resource: moved, Expect: resource.Absent})
	for _, below := range family {
		err := m.each(ctx, below, old.ID, func(r resource.Resource) error {
			b.Relies = append(b.Relies, resource.Expectation{ID: r.ID, Etag: r.Etag})
			id, err := resource.ParseID(to.String() + r.ID.String()[len(old.ID.String()):])
			if err != nil {
				return err
			}
			r.ID, r.Updated = id, moved.Updated
			b.Puts = append(b.Puts, resource.Write{Resource: r, Expect: resource.Absent})
			return nil
		})
		if err != nil {
			return Reply{}, err
		}
	}
	// What was added below since it was read is counted in the status.
	b.Statuses = append(b.Statuses, resource.StatusWrite{ID: old.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		if !bytes.Equal(stored, old.Status) {
			return nil, resource.ErrChanged
		}
		return stored, nil
	}})
	b.Removals = append(b.Removals, resource.Removal{ID: old.ID, Expect: old.Etag, Deep: true})
	b.Activities = append(b.Activities, m.activity(req, t.Name+"/move", "Succeeded"))
	seq, err := m.store.Commit(ctx, b)
	if err != nil {
		return Reply{}, err
	}
	reply := Reply{Resource: moved, Created: true}
	reply.Resource.Etag, reply.Resource.Seq, reply.Resource.Born = resource.Etag(seq), seq, seq
	return reply, m.view(ctx, t, req.View, &reply.Resource)
}

// movable are the types below one whose resources move, or a refusal.
func (m *Manager) movable(t *resource.Type) ([]*resource.Type, error) {
	var below []*resource.Type
	for _, other := range append(m.types.All(), t) {
		if other != t && !strings.HasPrefix(strings.ToLower(other.Name), strings.ToLower(t.Name)+"/") {
			continue
		}
		if other.Virtual || other.Read != nil || other.Provision != nil || other.Release != nil || other.Gone != nil {
			return nil, fault.New(fault.NotAllowed, "MethodNotAllowed", "A %s cannot be moved.", t.Title)
		}
		if other != t {
			below = append(below, other)
		}
	}
	return below, nil
}
