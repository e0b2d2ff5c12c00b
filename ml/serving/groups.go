package serving

import (
	"context"
	"time"
)

// Groups is how the control plane speaks with groups, and with one instance to
// see whether it answers. A group or an instance that cannot be reached is
// fault.Unavailable.
type Groups interface {
	// Look asks the group of that folder how its instances are.
	Look(ctx context.Context, dir string) (Group, error)

	// Resize tells the group how many instances to keep. It returns at once.
	Resize(ctx context.Context, dir string, count int) (Group, error)

	// Ask sends one request to an instance and reads the whole answer.
	Ask(ctx context.Context, in Instance, q Question) (Answer, error)
}

// Question is one request to an instance.
type Question struct {
	Method  string
	Target  string            // path and query
	Headers map[string]string // in their canonical form
	Body    []byte
	Timeout time.Duration
}

// Answer is what an instance says to a Question.
type Answer struct {
	Status int
	Body   []byte
}
