package tracking

import "time"

// Run is one run: of a job (Job is true; the run's id is the job's name), or
// one that a script started by itself. What ARM, the run history and MLflow
// show of a run's state, name, tags and experiment is this row and no other.
type Run struct {
	Workspace  string // GUID of the workspace
	ID         string // unique in the workspace, without regard to case
	Experiment string // id of the experiment, a decimal integer
	Parent     string // id of the parent run, "" for none
	Job        bool   // a job resource of the same name stands beside it

	Name        string // display name; MLflow's run name
	Description string
	User        string // name of who made it
	Tags        map[string]string
	Properties  map[string]string // Azure ML's, not shown to MLflow

	Status   Status
	Hidden   bool   // archived, in Azure ML's words
	Deleted  int64  // when MLflow deleted it, in Unix ms; 0 = not deleted
	Created  int64  // Unix ms
	Start    int64  // Unix ms; 0 before the start. MLflow keeps what the client says.
	End      int64  // Unix ms; 0 before the end
	Artifact string // artefact root, as MLflow shows it

	Reason   string           // why it waits or what it is doing now, for people: "waits for a slot on cpu-cluster (2 of 2 busy)"
	Warnings []string         // things the user should know that did not stop the job
	Error    *RunError        // why it failed
	Outputs  map[string]Asset // named outputs that are there, by name
	Inputs   map[string]Asset

	Seq int64 // order of creation over the whole server; set by the store
}

// RunError is why a run failed: Code is "UserError" when the user's code or
// request is to blame, "SystemError" when it is the platform.
type RunError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Asset is a named input or output of a run.
type Asset struct {
	Type    string `json:"type"`              // uri_file, uri_folder, mltable, custom_model, mlflow_model, triton_model, literal
	URI     string `json:"uri"`               // azureml://subscriptions/… datastore path
	AssetID string `json:"assetId,omitempty"` // azureml://locations/… of the asset it was registered as, or of the anonymous one
}

// Status is a state of a run, in Azure ML's words.
type Status string

// The states of a run (JOB-07). ml/job has the table of legal moves.
const (
	NotStarted      Status = "NotStarted"
	Starting        Status = "Starting"
	Provisioning    Status = "Provisioning"
	Preparing       Status = "Preparing"
	Queued          Status = "Queued"
	Running         Status = "Running"
	Finalizing      Status = "Finalizing"
	CancelRequested Status = "CancelRequested"
	Completed       Status = "Completed"
	Failed          Status = "Failed"
	Canceled        Status = "Canceled"
	NotResponding   Status = "NotResponding"
	Paused          Status = "Paused"
)

// Terminal tells whether no move leads out of the state.
func (s Status) Terminal() bool {
	return s == Completed || s == Failed || s == Canceled
}

// Millis is the time in Unix milliseconds.
func Millis(t time.Time) int64 { return t.UnixMilli() }
