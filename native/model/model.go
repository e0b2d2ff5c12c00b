// Package model holds models that are loaded, whatever they were made with, and
// finds them in the folders that they come in.
package model

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"lapis/native/tensor"
)

// Runner computes the outputs of a model. It may be called by several at once.
type Runner interface {
	// Run takes the inputs in the order of the model's and returns the wanted
	// outputs, by their numbers. It gives up at the deadline with ErrDeadline;
	// a zero one is none.
	Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error)
}

// ErrDeadline is a run that took too long.
var ErrDeadline = errors.New("the deadline of the request has passed")

// InputError is what the model finds wrong with its inputs.
type InputError struct{ Reason string }

func (e *InputError) Error() string { return e.Reason }

// Model is one version of a model.
type Model struct {
	Name     string
	Version  string
	Platform string // "onnxruntime_onnx", "lightgbm", "xgboost"
	Inputs   []tensor.Info
	Outputs  []tensor.Info
	MaxBatch int // the most rows of one request; 0 is any number
	Runner   Runner
	Counted  Counters
}

// Counters count what a model did.
type Counters struct {
	Last atomic.Int64 // when it ran last, in milliseconds since 1970
	Rows atomic.Int64 // along the first axis
	Runs atomic.Int64

	Took     atomic.Int64 // by those runs together, in nanoseconds
	Failed   atomic.Int64 // runs that gave no answer
	FailedIn atomic.Int64 // the time that they took, in nanoseconds
}

// Run runs the model and counts it.
func (m *Model) Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error) {
	begun := time.Now()
	out, err := m.Runner.Run(inputs, wanted, deadline)
	took := time.Since(begun).Nanoseconds()
	if err != nil {
		m.Counted.Failed.Add(1)
		m.Counted.FailedIn.Add(took)
	} else {
		m.Counted.Took.Add(took)
		rows := int64(1)
		if len(inputs) > 0 && len(inputs[0].Shape) > 0 {
			rows = inputs[0].Shape[0]
		}
		m.Counted.Rows.Add(rows)
		m.Counted.Runs.Add(1)
		m.Counted.Last.Store(time.Now().UnixMilli())
	}
	return out, err
}

// Input finds an input by its name.
func (m *Model) Input(name string) int {
	return slices.IndexFunc(m.Inputs, func(i tensor.Info) bool { return i.Name == name })
}

// Output finds an output by its name.
func (m *Model) Output(name string) int {
	return slices.IndexFunc(m.Outputs, func(i tensor.Info) bool { return i.Name == name })
}

// AllOutputs are the numbers of all outputs.
func (m *Model) AllOutputs() []int {
	all := make([]int, len(m.Outputs))
	for i := range all {
		all[i] = i
	}
	return all
}

// Repository is the models of an instance.
type Repository struct {
	models map[string][]*Model // versions from the lowest
	names  []string
}

// Add adds a model; versions of a name come from the lowest.
func (r *Repository) Add(m *Model) {
	if r.models == nil {
		r.models = map[string][]*Model{}
	}
	if r.models[m.Name] == nil {
		r.names = append(r.names, m.Name)
	}
	r.models[m.Name] = append(r.models[m.Name], m)
}

// UnknownError is a model, or a version of it, that is not there. Its text is
// that of the protocol's servers.
type UnknownError struct{ Name, Version string }

func (e *UnknownError) Error() string {
	if e.Version == "" {
		return "Request for unknown model: '" + e.Name + "' is not found"
	}
	return "Request for unknown model: '" + e.Name + "' version " + e.Version + " is not found"
}

// Find returns the version of the model of that name; the highest for no
// version.
func (r *Repository) Find(name, version string) (*Model, error) {
	versions := r.models[name]
	if len(versions) == 0 {
		return nil, &UnknownError{name, ""}
	}
	if version == "" {
		return versions[len(versions)-1], nil
	}
	for _, m := range versions {
		if m.Version == version {
			return m, nil
		}
	}
	return nil, &UnknownError{name, version}
}

// Versions of the model of that name, from the lowest.
func (r *Repository) Versions(name string) []*Model { return r.models[name] }

// Names of the models, in the order in which they were found.
func (r *Repository) Names() []string { return r.names }

// Only returns the model of a repository that has one.
func (r *Repository) Only() (*Model, bool) {
	if len(r.names) != 1 {
		return nil, false
	}
	versions := r.models[r.names[0]]
	return versions[len(versions)-1], true
}
