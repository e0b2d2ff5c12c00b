// Package manager is the one road that every write to a resource takes, and
// the way all reads go: which type, may the caller, what does policy say, is it
// sound, store.
package manager

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
)

// Access answers whether a principal may do something to a resource. Actions
// are the type and the verb: "Microsoft.X/things/write".
type Access interface {
	Check(ctx context.Context, p identity.Principal, action string, id resource.ID) error
}

// Policies are rules on writes. They may alter the change or refuse it.
type Policies interface {
	Apply(ctx context.Context, c *resource.Change) error
}

// Manager keeps the road.
type Manager struct {
	types    *resource.Types
	burying  []*resource.Type // those whose resources may be Gone
	store    resource.Store
	access   Access
	policies Policies // nil: none
	log      *slog.Logger
	wake     chan struct{} // tells the operation loop that there is work
	now      func() time.Time
}

// New makes a manager. Policies may be nil.
func New(types *resource.Types, store resource.Store, access Access, policies Policies, log *slog.Logger) *Manager {
	m := &Manager{types: types, store: store, access: access, policies: policies, log: log,
		wake: make(chan struct{}, 1), now: func() time.Time { return time.Now().UTC() }}
	for _, t := range types.All() {
		if t.Gone != nil {
			m.burying = append(m.burying, t)
		}
	}
	return m
}

// Types are the types the manager knows.
func (m *Manager) Types() *resource.Types { return m.types }

// Store is where resources are kept, for nouns and loops that read.
func (m *Manager) Store() resource.Store { return m.store }

// Request is one write.
type Request struct {
	ID          resource.ID
	Caller      identity.Principal
	Body        json.RawMessage // of a PUT: the envelope; of a PATCH: the patch; of an action: its input
	IfMatch     string          // an etag or "*"; "" for none
	IfNoneMatch string          // "*"; "" for none
	Action      string          // of a POST
	Correlation string
	View        resource.View
	Purge       bool // of a DELETE: what is kept of earlier ones too

	// Quiet is set for a write that does not count as an update: the resource
	// keeps the stamp of its last one.
	Quiet bool

	// Own is set for a write of the server's: it may change what its type calls
	// its own.
	Own bool

	// Rows are stored in the same commit, if it comes to one: resource.Batch
	// says what they are.
	Rows []any
}

// Reply is what a write made of it.
type Reply struct {
	Resource  resource.Resource
	Created   bool
	Operation string // id to poll; "" when all is done
	Body      any    // of an action
	Accepted  bool   // of an action: answer with 202
}

// retryFor bounds how long the road is run again while others write to the same
// ground, such as many new versions of one asset at once.
const retryFor = 15 * time.Second

// retry runs one pass of the road, again while its ground moves under it. Each
// pass looks at the request's condition anew, so a conditional request fails
// when what it speaks of has changed, not when something else has.
func retry(ctx context.Context, pass func() (Reply, error)) (Reply, error) {
	var tries Tries
	for {
		reply, err := pass()
		if !errors.Is(err, resource.ErrChanged) {
			return reply, err
		}
		if !tries.Again(ctx) {
			if ctx.Err() != nil {
				return Reply{}, ctx.Err()
			}
			return Reply{}, fault.New(fault.Conflict, "Conflict", "The resource is being changed by others; try again.").From(err)
		}
	}
}

// Tries are those of one who reads, writes what follows from it, and is told
// that others wrote meanwhile. The zero Tries is ready.
type Tries struct {
	start time.Time
	pause time.Duration
}

// Again waits a moment and tells whether to try again: not when it has been
// tried for long, or ctx has ended. Those who collided do not come back all at
// once.
func (t *Tries) Again(ctx context.Context) bool {
	if t.start.IsZero() {
		t.start = time.Now()
	}
	if time.Since(t.start) > retryFor {
		return false
	}
	t.pause = min(max(time.Millisecond, 2*t.pause), 50*time.Millisecond)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(rand.N(t.pause)):
		return true
	}
}

func stale(id string) error {
	return fault.Stale("The condition of the request does not hold for %s: the resource is not there, or not as the request expects; read it, and send its present etag.", id).At(id)
}

// stored is the resource, or nil if it is not there.
func (m *Manager) stored(ctx context.Context, t *resource.Type, id resource.ID) (*resource.Resource, error) {
	r, err := m.read(ctx, t, id)
	if fault.Is(err, fault.Missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t.Gone != nil && t.Gone(r) {
		return nil, nil
	}
	if buried, err := m.buried(ctx, id); err != nil || buried {
		return nil, err
	}
	return &r, nil
}

// buried tells whether what a resource lies in is gone.
func (m *Manager) buried(ctx context.Context, id resource.ID) (bool, error) {
	for _, t := range m.burying {
		up := id.Ancestor(t.Name)
		if up.Zero() || up.Same(id) {
			continue
		}
		r, err := m.store.Get(ctx, up)
		if err != nil && !fault.Is(err, fault.Missing) {
			return false, err
		}
		if err == nil && t.Gone(r) {
			return true, nil
		}
	}
	return false, nil
}

// gone is what was deleted under an id and is kept, or nil.
func (m *Manager) gone(ctx context.Context, t *resource.Type, id resource.ID) (*resource.Resource, error) {
	if t.Gone == nil {
		return nil, nil
	}
	r, err := m.store.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return nil, nil
	}
	if err != nil || !t.Gone(r) {
		return nil, err
	}
	return &r, nil
}

func (m *Manager) read(ctx context.Context, t *resource.Type, id resource.ID) (resource.Resource, error) {
	if t.Read != nil {
		return t.Read(ctx, id)
	}
	return m.store.Get(ctx, id)
}

// parent makes sure that what the resource lies in is there. Of several that
// are not, the fault names the outermost.
func (m *Manager) parent(ctx context.Context, id resource.ID) error {
	for up := id.Parent(); !up.Zero(); up = up.Parent() {
		t, err := m.types.Find(up.Type())
		if err != nil {
			return err
		}
		if t.Virtual || t.Implied {
			continue
		}
		r, err := m.stored(ctx, t, up)
		if err != nil {
			return err
		}
		if r == nil {
			return m.absent(ctx, t, up)
		}
		return nil
	}
	return nil
}

// existing is the stored resource that a request changes: it must be there, be
// what the request's conditions say, and not be on its way out.
func (m *Manager) existing(ctx context.Context, t *resource.Type, req Request) (*resource.Resource, error) {
	old, err := m.stored(ctx, t, req.ID)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, m.absent(ctx, t, req.ID)
	}
	if err := condition(req, old); err != nil {
		return nil, err
	}
	return old, settled(t, old)
}

// absent is the fault that a resource, or what it lies in, is not there.
func (m *Manager) absent(ctx context.Context, t *resource.Type, id resource.ID) error {
	if err := m.parent(ctx, id); err != nil {
		return err
	}
	return missing(t, id)
}

// missing says in ARM's codes that a resource is not there.
func missing(t *resource.Type, id resource.ID) error {
	switch {
	case id.Is(resource.SubscriptionType):
		return fault.New(fault.Missing, "SubscriptionNotFound", "The subscription '%s' could not be found.", id.Name()).At(id.String())
	case id.Is(resource.GroupType):
		return fault.New(fault.Missing, "ResourceGroupNotFound", "Resource group '%s' could not be found.", id.Name()).At(id.String())
	}
	where := ""
	if up := id.Parent(); !up.Zero() {
		where = " in '" + up.Name() + "'"
	}
	return fault.New(fault.Missing, "ResourceNotFound", "The %s '%s' could not be found%s.", t.Title, id.Name(), where).At(id.String())
}

func (m *Manager) activity(req Request, action, result string) resource.Activity {
	return resource.Activity{At: m.now(), Caller: req.Caller.Name, CallerID: req.Caller.ID,
		Action: action, Resource: req.ID, Result: result, Correlation: req.Correlation}
}

// stamp says that the caller did it now.
func (m *Manager) stamp(p identity.Principal) resource.Stamp {
	by := "User"
	if p.Kind != identity.User {
		by = "Application"
	}
	return resource.Stamp{At: m.now(), By: p.Name, ByType: by}
}
