package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

// Put makes the resource as the body wants it, or replaces it.
func (m *Manager) Put(ctx context.Context, req Request) (Reply, error) {
	return retry(ctx, func() (Reply, error) { return m.put(ctx, req) })
}

func (m *Manager) put(ctx context.Context, req Request) (Reply, error) {
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
	c, err := m.change(ctx, t, req) // the stored resource beside the wanted one
	if err != nil {
		return Reply{}, err
	}
	return m.admit(ctx, t, req, c)
}

// admit is the rest of the road, which PUT and PATCH share.
func (m *Manager) admit(ctx context.Context, t *resource.Type, req Request, c *resource.Change) (Reply, error) {
	if !req.Own {
		if err := keepOwn(t, c); err != nil {
			return Reply{}, err
		}
	}
	if m.policies != nil {
		if err := m.policies.Apply(ctx, c); err != nil {
			return Reply{}, err
		}
	}
	if t.Admit != nil {
		if err := t.Admit(ctx, c); err != nil {
			return Reply{}, err
		}
	}
	return m.commit(ctx, t, req, c)
}

// keepOwn leaves what the server alone writes as it is stored.
func keepOwn(t *resource.Type, c *resource.Change) error {
	if len(t.Own) == 0 {
		return nil
	}
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	old := resource.Document{}
	if c.Old != nil {
		if old, err = resource.ParseDocument(c.Old.Properties); err != nil {
			return err
		}
	}
	for _, name := range t.Own {
		// Readers may match names without regard to case.
		maps.DeleteFunc(p, func(given string, _ json.RawMessage) bool { return strings.EqualFold(given, name) })
		if raw, ok := old[name]; ok {
			p[name] = raw
		}
	}
	c.New.Properties = p.Raw()
	return nil
}

// envelope is what the body of a PUT may hold beside read-only members.
type envelope struct {
	Location   string            `json:"location"`
	Kind       string            `json:"kind"`
	Tags       map[string]string `json:"tags"`
	SKU        json.RawMessage   `json:"sku"`
	Identity   json.RawMessage   `json:"identity"`
	Properties json.RawMessage   `json:"properties"`
}

// change reads what is stored and what is wanted.
func (m *Manager) change(ctx context.Context, t *resource.Type, req Request) (*resource.Change, error) {
	old, err := m.stored(ctx, t, req.ID)
	if err != nil {
		return nil, err
	}
	if err := condition(req, old); err != nil {
		return nil, err
	}
	if err := settled(t, old); err != nil {
		return nil, err
	}
	var gone *resource.Resource
	if old == nil {
		if gone, err = m.gone(ctx, t, req.ID); err != nil {
			return nil, err
		}
		if err := m.parent(ctx, req.ID); err != nil {
			return nil, err
		}
		if t.Check != nil {
			if err := t.Check(req.ID.Name()); err != nil {
				return nil, err
			}
		}
	}
	var e envelope
	if err := decodeBody(req.Body, &e); err != nil {
		return nil, err
	}
	props, err := resource.DropNulls(e.Properties)
	if err != nil {
		return nil, fault.Invalid("the request body is not valid JSON: %v", err).With("InvalidRequestContent")
	}
	if len(props) == 0 || string(props) == "null" {
		props = json.RawMessage("{}")
	}
	if props[0] != '{' {
		return nil, fault.Invalid("'properties' must be an object").With("InvalidRequestContent").At("properties")
	}
	wanted := resource.Resource{ID: req.ID, Location: e.Location, Kind: e.Kind, Tags: e.Tags,
		SKU: notNull(e.SKU), Identity: notNull(e.Identity), Properties: props, Updated: m.stamp(req.Caller)}
	if old != nil {
		wanted.ID = old.ID // the case it was made in
		wanted.Status, wanted.Created, wanted.Born = old.Status, old.Created, old.Born
		wanted.Lookup, wanted.Archived = old.Lookup, old.Archived
		if req.Quiet {
			wanted.Updated = old.Updated
		}
		if wanted.Location == "" {
			wanted.Location = old.Location
		}
	} else {
		wanted.Created = wanted.Updated
	}
	if gone != nil {
		wanted.ID, wanted.Created = gone.ID, gone.Created
	}
	return &resource.Change{Old: old, New: &wanted, Gone: gone, Caller: req.Caller, View: req.View}, nil
}

func notNull(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// decodeBody reads a body into a struct and names what is wrong with it.
func decodeBody(body json.RawMessage, into any) error {
	if len(body) == 0 {
		return fault.Invalid("the request has no body; a JSON object is expected").With("InvalidRequestContent")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return resource.WrongJSON(err, "")
	}
	return nil
}

// condition checks If-Match and If-None-Match against what is stored.
func condition(req Request, old *resource.Resource) error {
	if req.IfMatch != "" && (old == nil || !resource.MatchesEtag(req.IfMatch, old.Etag)) {
		return stale(req.ID.String())
	}
	if req.IfNoneMatch != "" && old != nil && resource.MatchesEtag(req.IfNoneMatch, old.Etag) {
		return stale(req.ID.String())
	}
	return nil
}

// settled refuses to write a resource that is going away.
func settled(t *resource.Type, old *resource.Resource) error {
	if old == nil || !bytes.Contains(old.Status, []byte(resource.Deleting)) {
		return nil
	}
	var s resource.State
	if err := json.Unmarshal(old.Status, &s); err != nil || s.ProvisioningState != resource.Deleting {
		return nil
	}
	return fault.Conflicts("The %s '%s' is being deleted; wait until it is gone.", t.Title, old.ID.Name()).With("AnotherOperationInProgress").At(old.ID.String())
}

// commit stores the change with its activity entry and, where work outlives the
// request, its operation.
func (m *Manager) commit(ctx context.Context, t *resource.Type, req Request, c *resource.Change) (Reply, error) {
	b := c.Batch
	b.Rows = append(b.Rows, req.Rows...)
	expect, result := resource.Absent, "Succeeded"
	if c.Old != nil {
		expect = c.Old.Etag
	} else if c.Gone != nil {
		expect = c.Gone.Etag
	}
	reply := Reply{Created: c.Old == nil}
	if t.Async || t.Provision != nil {
		op := resource.Operation{ID: resource.NewGUID(), Verb: "put", Resource: c.New.ID, Caller: req.Caller.Name,
			State: resource.Succeeded, Started: m.now(), Ended: m.now()}
		if t.Provision != nil {
			op.State, op.Ended, result = resource.OperationRunning, zeroTime, "Started"
			state := resource.Creating
			if c.Old != nil {
				state = resource.Updating
			}
			// A new one is stored with it; over that of an old one it is laid.
			b.Statuses = append(b.Statuses, resource.StatusWrite{ID: c.New.ID, Change: overlaid(stateJSON(state))})
			c.New.Status = resource.Overlay(orEmpty(c.New.Status), stateJSON(state))
		}
		b.Operations = append(b.Operations, op)
		if t.Async {
			reply.Operation = op.ID
		}
	}
	unchanged := c.Old != nil && equal(*c.Old, *c.New)
	switch {
	case c.Old == nil:
		b.Puts = append(b.Puts, resource.Write{Resource: *c.New, Expect: expect})
	case unchanged:
		// A client that sends again what is there changes nothing, its etag least.
		b.Relies = append(b.Relies, resource.Expectation{ID: c.New.ID, Etag: expect})
	default:
		// Loops may have written the status since it was read: it is stored only
		// where the noun has changed it.
		keep := t.Provision != nil || bytes.Equal(c.Old.Status, c.New.Status)
		b.Puts = append(b.Puts, resource.Write{Resource: *c.New, Expect: expect, Keep: keep})
	}
	b.Activities = append(b.Activities, m.activity(req, t.Name+"/write", result))
	seq, err := m.store.Commit(ctx, b)
	if err != nil {
		return Reply{}, err
	}
	if t.Provision != nil {
		m.Wake()
	}
	switch reply.Resource = *c.New; {
	case unchanged:
		reply.Resource = *c.Old
	case c.Old == nil:
		reply.Resource.Born = seq
	default:
		reply.Resource.Born, reply.Resource.Created = c.Old.Born, c.Old.Created
	}
	if !unchanged {
		reply.Resource.Etag, reply.Resource.Seq = resource.Etag(seq), seq
	}
	return reply, m.view(ctx, t, req.View, &reply.Resource)
}

// equal tells whether both are the same to the user.
func equal(a, b resource.Resource) bool {
	return a.Location == b.Location && a.Kind == b.Kind && maps.Equal(a.Tags, b.Tags) &&
		a.Lookup == b.Lookup && a.Archived == b.Archived && bytes.Equal(a.Status, b.Status) &&
		resource.EqualJSON(orEmpty(a.SKU), orEmpty(b.SKU)) && resource.EqualJSON(orEmpty(a.Identity), orEmpty(b.Identity)) &&
		resource.EqualJSON(a.Properties, b.Properties)
}

// overlaid lays members over whatever status is stored.
func overlaid(top json.RawMessage) func(json.RawMessage) (json.RawMessage, error) {
	return func(stored json.RawMessage) (json.RawMessage, error) {
		return resource.Overlay(orEmpty(stored), top), nil
	}
}

func stateJSON(state string) json.RawMessage {
	raw, _ := json.Marshal(resource.State{ProvisioningState: state})
	return raw
}
