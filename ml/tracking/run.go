package tracking

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"
)

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

// NewRun is what CreateRun is told.
type NewRun struct {
	Experiment string
	User       string
	Name       string
	Start      int64
	Tags       []Tag
}

// Tags that are fields of the run, unless the field is empty.
const (
	TagName   = "mlflow.runName"
	TagNote   = "mlflow.note.content"
	TagParent = "mlflow.parentRunId"
)

// CreateRun makes a run of its own, without a job.
func (s *Service) CreateRun(ctx context.Context, workspace string, n NewRun) (*Detail, error) {
	experiment, err := s.resolve(ctx, workspace, n.Experiment)
	if err != nil {
		return nil, err
	}
	r := Run{
		Workspace: workspace, ID: newID(), Experiment: experiment, Name: n.Name, User: n.User,
		Tags: map[string]string{}, Status: Running, Created: s.millis(), Start: n.Start,
	}
	for _, t := range n.Tags {
		if t.Key == TagName && n.Name != "" && t.Value != n.Name {
			if e, err := s.Experiment(ctx, workspace, n.Experiment); err != nil {
				return nil, err
			} else if e.Deleted != 0 {
				return nil, ExperimentDeleted(e.ID)
			}
			return nil, invalid("Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='%s', mlflow.runName='%s').", n.Name, t.Value)
		}
		t.Value = cut(t.Value, maxTag)
		r.setTag(t)
	}
	if r.Name == "" {
		r.Name = randomName()
	}
	r, err = s.store.CreateRun(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Detail{Record: Record{Run: r}}, nil
}

// newID is 32 random hex digits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b[:])
}

// setTag sets a tag or the field that it is.
func (r *Run) setTag(t Tag) {
	switch t.Key {
	case TagName:
		if t.Value == "" {
			return // a run is never without a name
		}
		r.Name = t.Value
	case TagNote:
		r.Description = t.Value
	case TagParent:
		r.Parent = t.Value
	}
	// A field that is empty does not tell whether the tag is there.
	if t.Value != "" && (t.Key == TagName || t.Key == TagNote || t.Key == TagParent) {
		delete(r.Tags, t.Key)
		return
	}
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	r.Tags[t.Key] = t.Value
}

// Tag returns a tag as MLflow sees it: name, description and parent are tags.
func (r *Run) Tag(key string) (string, bool) {
	field := ""
	switch key {
	case TagName:
		field = r.Name
	case TagNote:
		field = r.Description
	case TagParent:
		field = r.Parent
	}
	if field != "" {
		return field, true
	}
	v, ok := r.Tags[key]
	return v, ok
}

// EachTag visits all tags as MLflow sees them.
func (r *Run) EachTag(visit func(key, value string)) {
	for _, k := range []string{TagName, TagNote, TagParent} {
		if v, ok := r.Tag(k); ok {
			visit(k, v)
		}
	}
	for k, v := range r.Tags {
		if k != TagName && k != TagNote && k != TagParent {
			visit(k, v)
		}
	}
}

// MLflow is the status in MLflow's words.
func (s Status) MLflow() string {
	switch s {
	case Running, Finalizing, CancelRequested, NotResponding, Paused:
		return "RUNNING"
	case Completed:
		return "FINISHED"
	case Failed:
		return "FAILED"
	case Canceled:
		return "KILLED"
	}
	return "SCHEDULED"
}

// StatusOf is the status that MLflow's word means for a run of its own.
func StatusOf(word string) (Status, bool) {
	switch word {
	case "RUNNING":
		return Running, true
	case "SCHEDULED":
		return Queued, true
	case "FINISHED":
		return Completed, true
	case "FAILED":
		return Failed, true
	case "KILLED":
		return Canceled, true
	}
	return "", false
}

// UpdateRun changes what is not nil. A job's status and end are the platform's:
// for a job's run they stay as they are.
func (s *Service) UpdateRun(ctx context.Context, workspace, id string, status *Status, end *int64, name *string) (Run, error) {
	return s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		if r.Deleted != 0 {
			return RunDeleted(r.ID)
		}
		if !r.Job {
			if status != nil {
				r.Status = *status
			}
			if end != nil {
				r.End = *end
			}
		}
		if name != nil && *name != "" {
			r.Name = *name
		}
		return nil
	})
}

// Run finds a run with all it logged.
func (s *Service) Run(ctx context.Context, workspace, id string) (*Detail, error) {
	return s.store.Detail(ctx, workspace, id)
}

// DeleteRun deletes a run; one that is deleted stays so.
func (s *Service) DeleteRun(ctx context.Context, workspace, id string) error {
	_, err := s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		if r.Deleted == 0 {
			r.Deleted = s.millis()
		}
		return nil
	})
	return err
}

// RestoreRun brings a run back; one that is active stays so.
func (s *Service) RestoreRun(ctx context.Context, workspace, id string) error {
	_, err := s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		r.Deleted = 0
		return nil
	})
	return err
}
