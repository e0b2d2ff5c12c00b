// Package mlflow reads what an MLflow store holds (a database, a folder of
// files or a running server) and copies it to a Lapis server through its
// public API.
package mlflow

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"lapis/fault"
)

// Store is an MLflow store that is read.
type Store interface {
	// Experiments returns all, deleted ones too.
	Experiments(ctx context.Context) ([]Experiment, error)

	// Runs returns the ids of an experiment's runs, deleted ones too, oldest
	// first.
	Runs(ctx context.Context, e Experiment) ([]string, error)

	// Run reads a run with all but its metrics. State tells of the metrics
	// what changes when points are added.
	Run(ctx context.Context, e Experiment, id string) (Run, error)

	// Metrics gives the points of a run, in pieces of at most 1,000.
	Metrics(ctx context.Context, r Run) iter.Seq2[[]Metric, error]

	// Models returns the logged models of an experiment, deleted ones too,
	// with their metrics.
	Models(ctx context.Context, e Experiment) ([]LoggedModel, error)

	// Registered returns the registered models with their versions and aliases.
	Registered(ctx context.Context) ([]RegisteredModel, error)

	// Traces returns the ids of an experiment's traces, oldest first.
	Traces(ctx context.Context, e Experiment) ([]string, error)

	// Trace reads a trace with its spans.
	Trace(ctx context.Context, e Experiment, id string) (Trace, error)

	// Files gives the files of an artefact folder. A fault of the kind Missing
	// says that they lie where they cannot be read from here.
	Files(ctx context.Context, f Folder) ([]File, error)

	// Left counts what there is besides, which is not imported.
	Left(ctx context.Context) (map[string]int, error)

	Close() error
}

// Tag is a key and its value.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Experiment groups runs.
type Experiment struct {
	ID        string `json:"experiment_id"`
	Name      string `json:"name"`
	Artifact  string `json:"artifact_location,omitempty"`
	Lifecycle string `json:"lifecycle_stage,omitempty"`
	Created   int64  `json:"creation_time,omitempty"`    // Unix ms
	Updated   int64  `json:"last_update_time,omitempty"` // Unix ms
	Tags      []Tag  `json:"tags,omitempty"`
}

// Run is a run without its metrics.
type Run struct {
	Info    RunInfo    `json:"info"`
	Data    RunData    `json:"data"`
	Inputs  RunInputs  `json:"inputs"`
	Outputs RunOutputs `json:"outputs"`

	State string `json:"-"` // changes when its metrics do
	dir   string // of a store of files
	keys  []string
}

// RunInfo is what a run is.
type RunInfo struct {
	ID         string `json:"run_id"`
	Experiment string `json:"experiment_id"`
	Name       string `json:"run_name,omitempty"`
	User       string `json:"user_id,omitempty"`
	Status     string `json:"status,omitempty"` // RUNNING, SCHEDULED, FINISHED, FAILED, KILLED
	Start      int64  `json:"start_time,omitempty"`
	End        int64  `json:"end_time,omitempty"`
	Lifecycle  string `json:"lifecycle_stage,omitempty"`
	Artifact   string `json:"artifact_uri,omitempty"`
	Deleted    int64  `json:"deleted_time,omitempty"`
}

// RunData is what a run logged.
type RunData struct {
	Params []Tag `json:"params,omitempty"`
	Tags   []Tag `json:"tags,omitempty"`
}

// RunInputs is what a run read.
type RunInputs struct {
	Datasets []DatasetInput `json:"dataset_inputs,omitempty"`
	Models   []ModelInput   `json:"model_inputs,omitempty"`
}

// RunOutputs is what a run made.
type RunOutputs struct {
	Models []ModelOutput `json:"model_outputs,omitempty"`
}

// DatasetInput is a dataset as an input of a run.
type DatasetInput struct {
	Tags    []Tag   `json:"tags,omitempty"`
	Dataset Dataset `json:"dataset"`
}

// Dataset is data that runs read.
type Dataset struct {
	Name       string `json:"name"`
	Digest     string `json:"digest"`
	SourceType string `json:"source_type"`
	Source     string `json:"source"`
	Schema     string `json:"schema,omitempty"`
	Profile    string `json:"profile,omitempty"`
}

// ModelInput is a logged model that a run read.
type ModelInput struct {
	Model string `json:"model_id"`
}

// ModelOutput is a logged model that a run made.
type ModelOutput struct {
	Model string `json:"model_id"`
	Step  int64  `json:"step"`
}

// Metric is one point.
type Metric struct {
	Key           string `json:"key"`
	Value         Number `json:"value"`
	Time          int64  `json:"timestamp"` // Unix ms
	Step          int64  `json:"step"`
	Model         string `json:"model_id,omitempty"`
	DatasetName   string `json:"dataset_name,omitempty"`
	DatasetDigest string `json:"dataset_digest,omitempty"`
	Run           string `json:"run_id,omitempty"`
}

// LoggedModel is a model that a run logged.
type LoggedModel struct {
	ID         string   `json:"model_id"`
	Experiment string   `json:"experiment_id"`
	Name       string   `json:"name"`
	Type       string   `json:"model_type,omitempty"`
	SourceRun  string   `json:"source_run_id,omitempty"`
	Artifact   string   `json:"artifact_uri,omitempty"`
	Status     string   `json:"status,omitempty"` // LOGGED_MODEL_PENDING, …_READY, …_UPLOAD_FAILED
	Message    string   `json:"status_message,omitempty"`
	Created    int64    `json:"creation_timestamp_ms,omitempty"`
	Updated    int64    `json:"last_updated_timestamp_ms,omitempty"`
	Deleted    int64    `json:"deleted_time,omitempty"`
	Tags       []Tag    `json:"tags,omitempty"`
	Params     []Tag    `json:"params,omitempty"`
	Metrics    []Metric `json:"-"`
	dir        string
}

// modelStates are the states of a logged model by their number.
var modelStates = []string{"", "LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED"}

func modelState(n int) string {
	if n > 0 && n < len(modelStates) {
		return modelStates[n]
	}
	return modelStates[1]
}

// RegisteredModel is a model of the registry.
type RegisteredModel struct {
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	Created     int64             `json:"creation_timestamp,omitempty"`
	Updated     int64             `json:"last_updated_timestamp,omitempty"`
	Tags        []Tag             `json:"tags,omitempty"`
	Versions    []ModelVersion    `json:"-"`
	Aliases     map[string]string `json:"-"` // alias → version
	Last        int64             `json:"-"` // the highest number there ever was, if that is known
}

// ModelVersion is a version of a registered model.
type ModelVersion struct {
	Name        string `json:"name"`
	Number      string `json:"version"`
	Description string `json:"description,omitempty"`
	User        string `json:"user_id,omitempty"`
	Stage       string `json:"current_stage,omitempty"`
	Source      string `json:"source,omitempty"`
	Run         string `json:"run_id,omitempty"`
	RunLink     string `json:"run_link,omitempty"`
	Model       string `json:"model_id,omitempty"`
	Created     int64  `json:"creation_timestamp,omitempty"`
	Updated     int64  `json:"last_updated_timestamp,omitempty"`
	Tags        []Tag  `json:"tags,omitempty"`

	Storage string `json:"-"` // where its files lie
}

// deletedStage is the stage of versions that MLflow has deleted.
const deletedStage = "Deleted_Internal"

// Trace is a trace with its spans.
type Trace struct {
	ID            string            `json:"trace_id"`
	Location      traceLocation     `json:"trace_location"`
	ClientRequest string            `json:"client_request_id,omitempty"`
	Request       string            `json:"request_preview,omitempty"`
	Response      string            `json:"response_preview,omitempty"`
	Time          string            `json:"request_time"`
	Duration      string            `json:"execution_duration,omitempty"`
	State         string            `json:"state,omitempty"`
	Metadata      map[string]string `json:"trace_metadata,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	Assessments   []json.RawMessage `json:"assessments,omitempty"`

	Spans []span   `json:"-"`
	Runs  []string `json:"-"` // that it is linked to
}

type traceLocation struct {
	Type       string            `json:"type"`
	Experiment map[string]string `json:"mlflow_experiment,omitempty"`
}

func inExperiment(id string) traceLocation {
	return traceLocation{Type: "MLFLOW_EXPERIMENT", Experiment: map[string]string{"experiment_id": id}}
}

// Folder is an artefact folder of a store: of a run, of a logged model, or of
// neither, such as a model version's own.
type Folder struct {
	URI   string
	Run   string
	Model string
	dir   string // where a store of files has it
}

// File is one artefact.
type File struct {
	Path string // from the folder, with slashes
	Size int64  // bytes; -1 if not known
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Options say how a store is read.
type Options struct {
	// Artifacts is the folder that artefacts lie in now, where they are not
	// where the store says.
	Artifacts string

	// Token is sent to a server that wants one, as a bearer's.
	Token string
}

// Open opens the store at an address: sqlite:///PATH, a file of that kind, a
// folder such as ./mlruns, or http(s)://HOST.
func Open(ctx context.Context, address string, o Options) (Store, error) {
	scheme, _, _ := strings.Cut(address, ":")
	switch strings.ToLower(scheme) {
	case "http", "https":
		return openServer(ctx, address, o)
	case "sqlite":
		rest, ok := strings.CutPrefix(address[len("sqlite"):], ":///")
		if !ok || rest == "" || rest == ":memory:" {
			return nil, fault.Invalid("%q does not name a database: write sqlite:///FILE, with four slashes for a path from the root.", address)
		}
		rest, _, _ = strings.Cut(rest, "?")
		return openDatabase(ctx, rest, o)
	case "postgresql", "postgres", "mysql", "mssql", "postgresql+psycopg2", "mysql+pymysql", "mssql+pymssql":
		return nil, fault.Invalid("A %s database is not read directly. Start its server, `mlflow server --backend-store-uri %s://…`, and import from the address it answers at.", scheme, scheme)
	case "file":
		u, err := url.Parse(address)
		if err != nil || u.Path == "" {
			return nil, fault.Invalid("%q is not the address of a folder.", address)
		}
		address = u.Path
	default:
		if strings.Contains(address, "://") {
			return nil, fault.Invalid("%q: an MLflow store is imported from sqlite:///FILE, from a folder such as ./mlruns, or from http://HOST:PORT.", address)
		}
	}
	info, err := os.Stat(address)
	if err != nil {
		return nil, fault.NotFound("There is no MLflow store at %s: %v", address, err)
	}
	if !info.IsDir() {
		return openDatabase(ctx, address, o)
	}
	if _, err := os.Stat(filepath.Join(address, "mlflow.db")); err == nil {
		return openDatabase(ctx, filepath.Join(address, "mlflow.db"), o)
	}
	return openFolder(address, o)
}
