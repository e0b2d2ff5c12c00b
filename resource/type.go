package resource

import (
	"context"
	"encoding/json"
	"sort"
	"strings"

	"lapis/fault"
	"lapis/resource/identity"
)

// Type tells the manager about one resource type. A type is data: the kernel
// needs no change for a new one.
type Type struct {
	Name  string // "Microsoft.MachineLearningServices/workspaces/jobs"
	Title string // for people: "job"

	// Check refuses a name, with a fault that tells the rule. Nil takes any.
	Check func(name string) error

	// Implied: the resource is made when its first child is, so a child needs
	// no parent of this type to be there.
	Implied bool

	// Virtual: the type only stands on the way to others ("locations").
	Virtual bool

	// Refused answers every use of the type: one that clients know and that is
	// not offered.
	Refused error

	// Resolve finds what a name stands for that no resource has; the zero ID if
	// nothing. Readers alone may use such a name.
	Resolve func(ctx context.Context, id ID) (ID, error)

	// Gone tells that a resource which is kept counts as deleted: it, and all below
	// it, is there for nobody but a PUT that brings it back and a purge.
	Gone func(r Resource) bool

	// Tracked: the type stands in the lists of all resources of a group, and what
	// contains it asks it before it goes.
	Tracked bool

	// Async: a PUT or DELETE is answered with an operation to poll, although it
	// may be done already.
	Async bool

	// Own are the members of properties that the server alone writes. Those that
	// a client sends are passed over, and those that are stored stay.
	Own []string

	// Admit checks a change and fills in defaults. It reads; it never writes:
	// what must be stored together with the resource it adds to the change.
	Admit func(ctx context.Context, c *Change) error

	// Provision makes the world match and returns the new status (nil keeps
	// it). It may be called again after a crash. If nil, the resource is ready
	// once it is stored.
	Provision func(ctx context.Context, r Resource) (json.RawMessage, error)

	// Release takes back what Provision made; it is called before the resource
	// is removed, and may be called again after a crash.
	Release func(ctx context.Context, r Resource) error

	// AdmitDelete refuses a deletion, or adds to the change.
	AdmitDelete func(ctx context.Context, c *Change) error

	// View fills in, for readers, what is kept elsewhere or made up as the
	// reply is. It may change the resources in place.
	View func(ctx context.Context, v View, rs []Resource) error

	// Read and List stand in for the store, for types that are not kept in it
	// or need their own index. List's Query.After is opaque to the kernel.
	Read func(ctx context.Context, id ID) (Resource, error)
	List func(ctx context.Context, q Query, o Options) (Page, error)

	// Actions are the POST verbs: cancel, listKeys, start.
	Actions map[string]Action
}

// View says for whom a resource is shown.
type View struct {
	Origin string // "https://host:port", for absolute URLs
	List   bool   // the resources are of a list, and not asked for by name
}

// Options are the query parameters of a request, by lower-case name.
type Options map[string]string

// Action is one POST verb of a type.
type Action struct {
	// Run does it and returns the answer's body, nil for none.
	Run func(ctx context.Context, call Call) (any, error)

	// Begin, of an Async action, is done before the reply: what must not wait
	// until there is time for Run.
	Begin func(ctx context.Context, call Call) error

	// Bare: the resource itself need not be there (startPendingUpload).
	Bare bool

	// Async: Run is the work of an operation and may take long; the reply is
	// 202 with an operation to poll.
	Async bool

	// Secret: the body is a secret and is not kept for Run, which does what is
	// left once Begin has read it.
	Secret bool

	// Accepted: done at once, but answered with 202 as the protocol wants it.
	Accepted bool
}

// Call is one use of an action.
type Call struct {
	ID       ID
	Resource Resource // zero if Bare and not there
	Body     json.RawMessage
	Caller   identity.Principal
	View     View
}

// Change is what Admit sees: the stored resource beside the wanted one.
type Change struct {
	Old    *Resource // nil if it is new
	New    *Resource // what will be stored; nil at a deletion. Admit may alter it
	Patch  bool      // it came as a patch: New is Old with it applied
	Caller identity.Principal
	Batch  Batch // what is stored together with it; Admit may add to it

	Gone  *Resource       // of a new resource: what was deleted under this id and is kept
	Purge bool            // of a deletion: nothing is to be kept
	Root  ID              // of a deletion that goes with that of what it lies in: what is deleted; else zero
	Kept  json.RawMessage // of a deletion: the status that AdmitDelete keeps the resource with, so that it is Gone

	View View
}

// Rely makes the commit fail, and the road run again, if the resource has
// changed since it was read.
func (c *Change) Rely(r Resource) {
	c.Batch.Relies = append(c.Batch.Relies, Expectation{ID: r.ID, Etag: r.Etag})
}

// Types finds types by name.
type Types struct{ byName map[string]*Type }

// NewTypes makes the registry of the types.
func NewTypes(types ...*Type) *Types {
	r := &Types{byName: make(map[string]*Type, len(types))}
	for _, t := range types {
		key := strings.ToLower(t.Name)
		if _, twice := r.byName[key]; twice {
			panic("resource type " + t.Name + " is registered twice")
		}
		r.byName[key] = t
	}
	return r
}

// Find returns the type of that name, or a fault that names it.
func (r *Types) Find(name string) (*Type, error) {
	if t, ok := r.byName[strings.ToLower(name)]; ok {
		return t, t.Refused
	}
	return nil, fault.New(fault.Missing, "InvalidResourceType", "The resource type %q is not known here.", fault.Clip(name)).At(name)
}

// All are the types, by name.
func (r *Types) All() []*Type {
	all := make([]*Type, 0, len(r.byName))
	for _, t := range r.byName {
		all = append(all, t)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Under tells the types right below a type.
func (r *Types) Under(name string) []*Type {
	var under []*Type
	prefix := strings.ToLower(name) + "/"
	for key, t := range r.byName {
		if strings.HasPrefix(key, prefix) && !strings.Contains(key[len(prefix):], "/") {
			under = append(under, t)
		}
	}
	return under
}
