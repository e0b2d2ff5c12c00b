// Package trace keeps traces: what happened inside one request to an
// application, span by span, with what people and programs think of it.
package trace

import (
	"context"
	"encoding/json"
)

// Info is a trace without its spans.
type Info struct {
	Workspace  string `json:"-"`
	ID         string `json:"trace_id"`
	Experiment string `json:"-"`

	Start    int64  `json:"start"`    // Unix ms
	Duration int64  `json:"duration"` // ms; -1 while it is not known
	State    string `json:"state"`    // OK, ERROR, IN_PROGRESS, STATE_UNSPECIFIED

	ClientRequest *string `json:"client_request_id,omitempty"`
	Request       *string `json:"request_preview,omitempty"`
	Response      *string `json:"response_preview,omitempty"`

	Metadata    map[string]string `json:"metadata,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Assessments []Assessment      `json:"assessments,omitempty"`
	Runs        []string          `json:"runs,omitempty"`    // linked to it later
	Prompts     []string          `json:"prompts,omitempty"` // linked to it: "name/version"
}

// Assessment is what someone thinks of a trace: a feedback or an expectation.
// It is kept as the JSON it came as.
type Assessment struct {
	ID     string                     `json:"id"`
	Fields map[string]json.RawMessage `json:"fields"`
}

// Tags and metadata that have a meaning of their own.
const (
	TagName      = "mlflow.traceName"
	TagSpans     = "mlflow.trace.spansLocation"
	TagArtifacts = "mlflow.artifactLocation"
	MetaRun      = "mlflow.sourceRun"
	MetaSession  = "mlflow.trace.session"
	MetaUser     = "mlflow.trace.user"
	MetaUsage    = "mlflow.trace.tokenUsage"
	MetaCost     = "mlflow.trace.cost"
	MetaFinal    = "mlflow.trace.infoFinalized"
	MetaSchema   = "mlflow.trace_schema.version"
)

// Span is one step of a trace. JSON is the whole of it, as the protocol shows
// it; the other fields are what searching needs.
type Span struct {
	Trace  string // id of the trace
	ID     string // base64
	Parent string // base64; "" for the root
	Name   string
	Status string // STATUS_CODE_OK, STATUS_CODE_ERROR, STATUS_CODE_UNSET
	Start  int64  // Unix ns
	End    int64  // Unix ns
	JSON   []byte

	facts *facts // of a span that has just come in
	read  []pair // the attributes, once they are read
}

// Store keeps traces. What a writing method has acknowledged survives a crash.
type Store interface {
	// ChangeTrace reads the trace, lets change alter it and stores it, in one
	// transaction. For a trace that is not there, change gets nil and may
	// return a new one; otherwise it returns what to store, nil for nothing.
	ChangeTrace(ctx context.Context, workspace, id string, change func(*Info) (*Info, error)) (*Info, error)

	// LogSpans stores spans together with what change makes of their traces,
	// all or nothing. A span that is there already is replaced. For a trace
	// that is not there, change gets nil, and may be called before the
	// transaction and more than once; stored reads the spans that the trace has.
	LogSpans(ctx context.Context, workspace string, spans []Span,
		change func(id string, old *Info, spans []Span, stored func() ([]Span, error)) (*Info, error)) error

	// Traces returns those of the traces that exist, in the order of ids.
	Traces(ctx context.Context, workspace string, ids []string) ([]*Info, error)

	// Spans returns the spans of a trace, each as JSON, in the order of start.
	Spans(ctx context.Context, workspace, id string) ([]Span, error)

	// EachTrace calls visit with the traces of the experiments, newest first.
	EachTrace(ctx context.Context, workspace string, experiments []string, visit func(*Info) (bool, error)) error

	// DeleteTraces removes those of the traces that exist and returns how many.
	DeleteTraces(ctx context.Context, workspace string, ids []string) (int, error)
}
