package tracking

import (
	"context"

	"lapis/fault"
)

// Tally is how much an experiment holds.
type Tally struct {
	Experiment string
	Name       string
	Active     int64 // runs
	Deleted    int64 // runs
	Metrics    int64 // series: pairs of a run and a metric's key
	Points     int64
	Models     int64 // logged models that are not deleted
	Traces     int64
}

// Extent is how far one metric of a run reaches.
type Extent struct {
	Key    string
	Points int64
	First  int64 // lowest step
	Last   int64 // highest step
}

// DeletedRuns chooses runs that were deleted one by one: those that were
// deleted with their experiment come back with it, and are not among them.
type DeletedRuns struct {
	Workspace string // GUID; "" = of all workspaces
	Until     int64  // deleted at this time or before, in Unix ms; 0 = whenever
	Deleted   int64  // Deleted and Seq of the last run seen; 0 = from the start
	Seq       int64
	Limit     int
}

// Waste is what is left to remove of something that was removed for good.
type Waste struct {
	ID        int64
	Workspace string // GUID
	Kind      WasteKind
	Ref       string
}

// WasteKind says what the Ref of a Waste is.
type WasteKind string

// The kinds of waste.
const (
	WasteExperiment WasteKind = "experiment" // id of an experiment whose rows PurgeExperiment has not all removed
	WasteRows       WasteKind = "rows"       // the same; its artefacts are kept
	WasteArtifacts  WasteKind = "artifacts"  // URI of a folder of artefacts
)

// Bin is the part of a Store that counts what there is and removes it for good.
type Bin interface {
	// Tallies returns what the experiments hold, by id, without loading it; of
	// all experiments of the workspace if none are named. Points that were sent
	// twice may count twice.
	Tallies(ctx context.Context, workspace string, experiments []string) ([]Tally, error)

	// Extents returns the metrics of a run, by key, without loading them.
	Extents(ctx context.Context, workspace, id string) ([]Extent, error)

	// DeletedRuns returns up to q.Limit runs, those deleted last first.
	DeletedRuns(ctx context.Context, q DeletedRuns) ([]Run, error)

	// PurgeRun removes a deleted run and all it logged. Its artefacts become
	// waste, unless they are to be kept. A run that is not deleted is a fault,
	// and so is a job's: it goes with its job.
	PurgeRun(ctx context.Context, workspace, id string, keepArtifacts bool) error

	// PurgeExperiment removes a deleted experiment with its runs, logged
	// models, datasets, traces and scorers. Artefacts become waste, unless they
	// are to be kept. What a crash interrupts is waste too: call it again. An
	// experiment that is not deleted is a fault, and so are runs of jobs in it.
	PurgeExperiment(ctx context.Context, workspace, id string, keepArtifacts bool) error

	// PurgeWorkspace removes all of a workspace that goes for good, its jobs'
	// runs too. Its artefacts are not noted as waste. After a crash, call it
	// again.
	PurgeWorkspace(ctx context.Context, workspace string) error

	// Discard notes a folder of artefacts as waste.
	Discard(ctx context.Context, workspace, uri string) error

	// Waste returns up to limit pieces of waste after an id, oldest first, of
	// all workspaces if workspace is "".
	Waste(ctx context.Context, workspace string, after int64, limit int) ([]Waste, error)

	// Cleared forgets a piece of waste that is gone.
	Cleared(ctx context.Context, id int64) error
}

// NotDeleted is the fault of purging what is in use.
func NotDeleted(what, id string) error {
	return fault.Conflicts("The %s %s is not deleted: delete it before it is removed for good.", what, id).With("RESOURCE_CONFLICT")
}

// OfJob is the fault of purging the run of a job.
func OfJob(id string) error {
	return fault.Conflicts("The run %s is a job's: delete the job, and its run goes with it.", id).With("RESOURCE_CONFLICT")
}

// HoldsJobs is the fault of purging an experiment that jobs are in.
func HoldsJobs(id string, n int64) error {
	return fault.Conflicts("%d runs of the experiment %s are those of jobs: delete the jobs first.", n, id).With("RESOURCE_CONFLICT")
}

// Tallies counts what experiments hold; all of the workspace if none are named.
func (s *Service) Tallies(ctx context.Context, workspace string, experiments []string) ([]Tally, error) {
	ids := make([]string, 0, len(experiments))
	for _, id := range experiments {
		id, err := s.resolve(ctx, workspace, id)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		if _, err := s.defaultExperiment(ctx, workspace); err != nil {
			return nil, err
		}
	}
	return s.store.Tallies(ctx, workspace, ids)
}

// Extents returns the metrics of a run with the number of their points.
func (s *Service) Extents(ctx context.Context, workspace, run string) ([]Extent, error) {
	return s.store.Extents(ctx, workspace, run)
}

// Resolve gives the id of an experiment that a client names.
func (s *Service) Resolve(ctx context.Context, workspace, id string) (string, error) {
	return s.resolve(ctx, workspace, id)
}
