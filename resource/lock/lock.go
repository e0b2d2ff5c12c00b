// Package lock has management locks: while one stands at a scope, what lies
// there cannot be deleted, or not be changed at all.
package lock

import (
	"context"
	"strings"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
)

// TypeName is the type of locks. They stand at any scope.
const TypeName = "Microsoft.Authorization/locks"

// The levels of a lock.
const (
	CanNotDelete = "CanNotDelete"
	ReadOnly     = "ReadOnly"
)

// maxNotes bounds a lock's notes, in bytes.
const maxNotes = 512

// Type makes the type of locks. A list names the locks at the scope and below.
func Type(store resource.Store) *resource.Type {
	return &resource.Type{
		Name: TypeName, Title: "lock",
		Admit: admit,
		List: func(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
			if !strings.EqualFold(strings.ReplaceAll(o["$filter"], " ", ""), "atScope()") && !q.Parent.Zero() {
				q.Scope, q.Parent = q.Parent, resource.ID{}
			}
			return store.List(ctx, q)
		},
	}
}

func admit(_ context.Context, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	switch level := p.Text("level"); {
	case strings.EqualFold(level, CanNotDelete):
		p.Set("level", CanNotDelete)
	case strings.EqualFold(level, ReadOnly):
		p.Set("level", ReadOnly)
	default:
		return fault.Invalid("'properties.level' is %q; it must be CanNotDelete or ReadOnly", level).With("InvalidLockLevel").At("properties.level")
	}
	if len(p.Text("notes")) > maxNotes {
		return fault.Invalid("'properties.notes' is longer than %d bytes", maxNotes).With("InvalidLockNotes").At("properties.notes")
	}
	c.New.Properties = p.Raw()
	return nil
}

// Access answers whether a principal may do something to a resource.
type Access interface {
	Check(ctx context.Context, p identity.Principal, action string, id resource.ID) error
}

// Guard refuses what a lock forbids, after Access has allowed it. A lock holds
// for its scope and all below it; what lies above a locked resource cannot be
// deleted either.
type Guard struct {
	Access Access
	Store  resource.Store
}

// Check refuses what the principal may not do, then what a lock forbids.
func (g Guard) Check(ctx context.Context, p identity.Principal, action string, id resource.ID) error {
	if err := g.Access.Check(ctx, p, action, id); err != nil {
		return err
	}
	verb := action[strings.LastIndexByte(action, '/')+1:]
	if verb == "read" || id.Is(TypeName) {
		return nil
	}
	q := resource.Query{Type: TypeName, Limit: 1000}
	for {
		page, err := g.Store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, l := range page.Resources {
			if forbids(l, verb, id) {
				return locked(l, verb, id)
			}
		}
		if q.After = page.Next; q.After == "" {
			return nil
		}
	}
}

// forbids tells whether a lock stands against a verb on a resource.
func forbids(l resource.Resource, verb string, id resource.ID) bool {
	scope := l.ID.Parent()
	holds := id.Same(scope) || strings.HasPrefix(id.Key(), scope.Key()+"/")
	if verb == "delete" {
		return holds || strings.HasPrefix(scope.Key(), id.Key()+"/")
	}
	p, err := resource.ParseDocument(l.Properties)
	return holds && (err != nil || p.Text("level") == ReadOnly)
}

func locked(l resource.Resource, verb string, id resource.ID) error {
	what := "perform write operation"
	if verb == "delete" {
		what = "perform delete operation"
	}
	return fault.Conflicts("The scope '%s' cannot %s because following scope(s) are locked: '%s'. Please remove the lock '%s' and try again.",
		id, what, l.ID.Parent(), l.ID.Name()).With("ScopeLocked").At(id.String())
}
