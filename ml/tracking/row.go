package tracking

// JobRun, in the Rows of a resource.Batch, is a job's run that is stored
// together with its resource. The experiment of that name is made if it is not
// there. A run of that id that is there already is a fault.
type JobRun struct {
	Run        Run
	Experiment string
}

// RunEdit, in the Rows of a resource.Batch, changes a run together with the
// batch. An error of Change undoes the whole batch. If Experiment is not "",
// the run moves to the experiment of that name.
type RunEdit struct {
	Workspace, ID string
	Experiment    string
	Change        func(*Run) error
}

// RunGone, in the Rows of a resource.Batch, removes a run and all it logged.
type RunGone struct{ Workspace, ID string }
