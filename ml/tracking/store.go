// Package tracking keeps experiments, runs, params, metrics and tags: the
// MLflow store, and the one row behind each job's state.
package tracking

import "context"

// Store keeps runs and what they log. Workspaces are named by their GUID. What
// a writing method has acknowledged survives a crash. trackingtest has the suite.
type Store interface {
	// Run returns the run, or fault.Missing.
	Run(ctx context.Context, workspace, id string) (Run, error)

	// Runs returns those of the runs that exist, by lower-case id.
	Runs(ctx context.Context, workspace string, ids []string) (map[string]Run, error)

	// Children returns the runs whose parent is id, oldest first.
	Children(ctx context.Context, workspace, id string) ([]Run, error)

	// OpenJobs returns the runs of jobs of all workspaces that have not ended,
	// oldest first (by Seq).
	OpenJobs(ctx context.Context) ([]Run, error)

	// ChangeRun reads the run, lets change alter it, and stores it, in one
	// transaction: nobody writes in between. An error of change is returned and
	// stores nothing. The changed run comes back.
	ChangeRun(ctx context.Context, workspace, id string, change func(*Run) error) (Run, error)

	// EnsureExperiment returns the id of the experiment of that name, which it
	// makes if it is not there. A deleted one is a fault.
	EnsureExperiment(ctx context.Context, workspace, name string) (string, error)
}
