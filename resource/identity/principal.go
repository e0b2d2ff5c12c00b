// Package identity knows who is calling. It signs and checks tokens (JWT) and
// shared access signatures; it does no I/O.
package identity

import "context"

// Kind tells people, programs and jobs apart.
type Kind string

// The kinds of principals.
const (
	User             Kind = "User"
	ServicePrincipal Kind = "ServicePrincipal"
	Job              Kind = "Job" // code inside a job, with the rights of a job
)

// Principal is who is calling.
type Principal struct {
	ID     string // object id (GUID)
	Name   string // for people to read
	Kind   Kind
	Tenant string
	Client string // client (application) id of a service principal

	// Of a job's token: the workspace's resource id and the job's name. Such a
	// principal works in that workspace alone.
	Workspace string
	Job       string
}

type contextKey struct{}

// With returns a context that carries the principal.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// Of returns the principal that the context carries; the zero one if none.
func Of(ctx context.Context) Principal {
	p, _ := ctx.Value(contextKey{}).(Principal)
	return p
}
