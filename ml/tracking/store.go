// Package tracking keeps experiments, runs, params, metrics and tags: the
// MLflow store, and the one row behind each job's state.
package tracking

import "context"

// Store keeps runs and what they log. Workspaces are named by their GUID; ids
// of runs match without regard to case. What a writing method has acknowledged
// survives a crash. trackingtest has the suite.
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

	// ListJobs returns up to limit runs of jobs of the workspace that pass the
	// filter, newest first, beginning with the first older than Seq before
	// (0: with the newest).
	ListJobs(ctx context.Context, workspace string, f JobFilter, before int64, limit int) ([]Run, error)

	// ChangeRun reads the run, lets change alter it, and stores it, in one
	// transaction: nobody writes in between. An error of change is returned and
	// stores nothing. The changed run comes back.
	ChangeRun(ctx context.Context, workspace, id string, change func(*Run) error) (Run, error)

	// CreateRun stores a new run and returns it with its Seq. An empty Artifact
	// becomes the experiment's. A run of that id is a fault.
	CreateRun(ctx context.Context, r Run) (Run, error)

	// Detail returns the run with all it logged, metrics by their latest
	// point, or fault.Missing.
	Detail(ctx context.Context, workspace, id string) (*Detail, error)

	// Index calls visit with the index of each of the experiments' runs, as of
	// all that was acknowledged before. It is valid only until visit returns.
	Index(ctx context.Context, workspace string, experiments []string, visit func(*Index) error) error

	// Details returns those of the runs that exist, by Seq, of whatever
	// workspace. They are shared: they must not be changed.
	Details(ctx context.Context, seqs []int64) (map[int64]*Detail, error)

	// Log appends points to a run in one step with what change does to the
	// run's record; change may be nil. Points that the run has already are
	// kept once. A deleted run is a fault, and so is a change that fails:
	// neither stores anything.
	Log(ctx context.Context, workspace, id string, points []Metric, change func(*Record) error) error

	// Series returns the points of one metric, each once, ordered by step,
	// time and value. A metric or run that is not there has none.
	Series(ctx context.Context, workspace, id, key string) ([]Point, error)

	// Points is Series for points that need not be held: begin is told how many
	// there are, then visit is called with some at a time, in order. They are
	// valid only until it returns.
	Points(ctx context.Context, workspace, id, key string, begin func(n int), visit func([]Point)) error

	// EnsureExperiment returns the id of the experiment of that name, which it
	// makes if it is not there. A deleted one is a fault.
	EnsureExperiment(ctx context.Context, workspace, name string) (string, error)

	// DefaultExperiment returns the id of the workspace's experiment
	// "Default", which it makes if there is none. The first on a server is "0".
	DefaultExperiment(ctx context.Context, workspace string) (string, error)

	// CreateExperiment stores a new experiment and returns it with its id, which
	// is the one it has if that is free on the server. An empty Artifact
	// becomes "mlflow-artifacts:/" and the id. A name that is taken is a fault
	// (RESOURCE_ALREADY_EXISTS).
	CreateExperiment(ctx context.Context, e Experiment) (Experiment, error)

	// Experiment returns the experiment, or fault.Missing.
	Experiment(ctx context.Context, workspace, id string) (Experiment, error)

	// ExperimentNamed returns the experiment of that name, or fault.Missing.
	ExperimentNamed(ctx context.Context, workspace, name string) (Experiment, error)

	// Experiments returns all of the workspace, deleted ones too.
	Experiments(ctx context.Context, workspace string) ([]Experiment, error)

	// ChangeExperiment reads the experiment, lets change alter it and stores
	// it, in one transaction. When change deletes it, its active runs are
	// deleted at the same time; when change restores it, those come back.
	ChangeExperiment(ctx context.Context, workspace, id string, change func(*Experiment) error) (Experiment, error)

	// CreateModel stores a new logged model.
	CreateModel(ctx context.Context, m LoggedModel) error

	// Model returns the logged model, deleted ones too, or fault.Missing.
	Model(ctx context.Context, workspace, id string) (LoggedModel, error)

	// ChangeModel reads the logged model, lets change alter it and stores it,
	// in one transaction.
	ChangeModel(ctx context.Context, workspace, id string, change func(*LoggedModel) error) (LoggedModel, error)

	// Models returns the logged models of the experiments, newest first.
	Models(ctx context.Context, workspace string, experiments []string) ([]LoggedModel, error)

	Bin
}

// JobFilter chooses the runs that ListJobs returns. Zero fields choose all.
type JobFilter struct {
	Hidden     *bool
	Experiment string  // id
	Parent     *string // id; "" = runs without a parent
	Status     Status
}
