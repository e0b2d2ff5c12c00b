package tracking

// Experiment groups runs. Its name is unique in the workspace, also among the
// deleted.
type Experiment struct {
	Workspace string // GUID
	ID        string // decimal integer, unique over the server
	Name      string
	Artifact  string // where artefacts of its runs go, as MLflow shows it
	Root      string // of a new one without Artifact: what that begins with; its id follows. "" is "mlflow-artifacts:"
	Tags      map[string]string
	Created   int64 // Unix ms
	Updated   int64 // Unix ms
	Deleted   int64 // Unix ms; 0 = active
}

// Lifecycle is "active" or "deleted".
func (e *Experiment) Lifecycle() string { return lifecycle(e.Deleted) }

// Lifecycle is "active" or "deleted".
func (r *Run) Lifecycle() string { return lifecycle(r.Deleted) }

func lifecycle(deleted int64) string {
	if deleted != 0 {
		return "deleted"
	}
	return "active"
}
