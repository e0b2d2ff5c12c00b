package environment

import (
	"context"
	"io"
)

// Builder makes Python environments. The same recipe gives the same
// environment, built once and shared by all jobs.
type Builder interface {
	// Find returns the ready environment of the recipe, if there is one.
	Find(ctx context.Context, r Recipe) (Built, bool)

	// Build makes the environment, unless it is ready, and writes the build
	// log to w as it happens. Calls for one recipe share one build. A failed
	// build is a fault whose message ends in the last meaningful line of its
	// log; nothing half-made stays.
	Build(ctx context.Context, r Recipe, w io.Writer) (Built, error)
}

// Built is a ready environment.
type Built struct {
	Hash   string   // of the recipe
	Dir    string   // its folder; Dir/bin goes on PATH
	Python string   // version of its interpreter, "3.11.7"
	Notes  []string // what differs from what was asked, one line each, for the job's log
}
