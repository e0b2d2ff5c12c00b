// Package oip answers the Open Inference Protocol, version 2: over REST with
// the extension for binary tensors, and over gRPC. Where the protocol leaves
// room it does as Triton does, down to the texts of errors.
package oip

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"lapis/frame"
	"lapis/native/model"
	"lapis/native/tensor"
)

// Server answers from the models of a repository.
type Server struct {
	Models  *model.Repository
	Version string
}

// Extensions are what the server tells of itself.
var extensions = []string{"model_repository", "binary_tensor_data", "parameters"}

// Failure is an error with its status.
type Failure struct {
	Status int
	Text   string
}

func (e *Failure) Error() string { return e.Text }

func refuse(status int, format string, args ...any) error {
	return &Failure{status, fmt.Sprintf(format, args...)}
}

// request is an inference as it was asked for.
type request struct {
	id      string
	inputs  []input
	outputs []output
	binary  bool // all outputs, unless they say otherwise
}

type input struct {
	tensor.Tensor
	datatype string
	size     int // bytes in the binary part; -1 for none
	given    bool
	contents []byte // of a call over gRPC
}

type output struct {
	name   string
	binary bool
	set    bool
}

// label names the request in errors.
func (q *request) label() string {
	if q.id == "" {
		return "[request id: <id_unknown>] "
	}
	return "[request id: " + q.id + "] "
}

// run computes what is asked for: the outputs in the order of the model, or of
// the request when it names some.
func (q *request) run(m *model.Model, deadline time.Time) ([]tensor.Tensor, error) {
	inputs := make([]tensor.Tensor, len(m.Inputs))
	seen := 0
	rows := int64(-1)
	for i := range q.inputs {
		in := &q.inputs[i]
		at := m.Input(in.Name)
		if at < 0 {
			return nil, refuse(400, "unexpected inference input '%s' for model '%s'", in.Name, m.Name)
		}
		want := m.Inputs[at]
		if in.Type != want.Type {
			return nil, refuse(400, "%sinference input '%s' data-type is '%s', but model '%s' expects '%s'", q.label(), in.Name, in.datatype, m.Name, want.Type)
		}
		if m.MaxBatch > 0 && len(in.Shape) > 0 {
			if in.Shape[0] > int64(m.MaxBatch) {
				return nil, refuse(400, "%sinference request batch-size must be <= %d for '%s'", q.label(), m.MaxBatch, m.Name)
			}
			if rows >= 0 && rows != in.Shape[0] {
				return nil, refuse(400, "%sinput '%s' batch size does not match other inputs for '%s'", q.label(), in.Name, m.Name)
			}
			rows = in.Shape[0]
		}
		if !fits(in.Shape, want.Shape) {
			return nil, refuse(400, "%sunexpected shape for input '%s' for model '%s'. Expected %s, got %s. ", q.label(), in.Name, m.Name, tensor.Text(want.Shape), tensor.Text(in.Shape))
		}
		if inputs[at].Type != tensor.None {
			return nil, refuse(400, "input '%s' already exists in request", in.Name)
		}
		inputs[at] = in.Tensor
		seen++
	}
	if seen != len(m.Inputs) {
		var missing []string
		for i, want := range m.Inputs {
			if inputs[i].Type == tensor.None {
				missing = append(missing, "'"+want.Name+"'")
			}
		}
		return nil, refuse(400, "%sexpected %d inputs but got %d inputs for model '%s'. Got input(s) [%s], but missing required input(s) [%s]. Please provide all required input(s).",
			q.label(), len(m.Inputs), len(q.inputs), m.Name, q.names(), strings.Join(missing, ","))
	}
	wanted := make([]int, 0, len(m.Outputs))
	for _, o := range q.outputs {
		at := m.Output(o.name)
		if at < 0 {
			return nil, refuse(400, "unexpected inference output '%s' for model '%s'", o.name, m.Name)
		}
		wanted = append(wanted, at)
	}
	if len(wanted) == 0 {
		wanted = m.AllOutputs()
	}
	out, err := m.Run(inputs, wanted, deadline)
	var wrong *model.InputError
	if errors.As(err, &wrong) {
		return nil, &Failure{400, wrong.Reason}
	}
	return out, err
}

func (q *request) names() string {
	var names []string
	for i := range q.inputs {
		names = append(names, "'"+q.inputs[i].Name+"'")
	}
	return strings.Join(names, ",")
}

func fits(got, want []int64) bool {
	if len(got) != len(want) {
		return false
	}
	for i, d := range want {
		if d >= 0 && d != got[i] {
			return false
		}
	}
	return true
}

// deadline of a request that arrived now.
func deadline(q *frame.Request) time.Time {
	if q.Timeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(q.Timeout)
}
