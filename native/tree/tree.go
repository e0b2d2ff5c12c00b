// Package tree evaluates ensembles of decision trees that LightGBM and XGBoost
// wrote, as those libraries do: the same decisions, the same order of sums.
package tree

import (
	"fmt"
	"math"
	"time"

	"lapis/native/model"
	"lapis/native/tensor"
)

// Model is an ensemble that is loaded. It may be run by several at once.
type Model struct {
	features int
	names    []string // of the features; nil when the model has none
	outputs  int      // numbers for each row
	columns  bool     // the result has an axis of outputs, also when there is one
	classes  bool     // the result is whole numbers
	library  string

	// margin fills sums, one for each output, for a row.
	score func(row []float64, sums []float64)
	// finish turns the sums of a row into what is answered: as many numbers as
	// there are outputs.
	finish func(sums []float64)
	single bool // numbers are of single precision
}

// Features are the names of the features in their order; nil for none.
func (m *Model) Features() []string { return m.names }

// Model describes it as a model of a repository.
func (m *Model) Model(name, version string) *model.Model {
	in, out := tensor.Float64, tensor.Float64
	if m.single {
		in, out = tensor.Float32, tensor.Float32
	}
	if m.classes {
		out = tensor.Int64
	}
	shape := []int64{-1}
	if m.columns {
		shape = append(shape, int64(m.outputs))
	}
	return &model.Model{Name: name, Version: version, Platform: m.library, Runner: m,
		Inputs:  []tensor.Info{{Name: "input", Type: in, Shape: []int64{-1, int64(m.features)}}},
		Outputs: []tensor.Info{{Name: "output", Type: out, Shape: shape}}}
}

// rowsPerLook is how many rows are scored between two looks at the clock.
const rowsPerLook = 256

// Run scores the rows of a matrix.
func (m *Model) Run(inputs []tensor.Tensor, wanted []int, deadline time.Time) ([]tensor.Tensor, error) {
	in := &inputs[0]
	if len(in.Shape) != 2 {
		return nil, &model.InputError{Reason: fmt.Sprintf("a table of %d columns is needed, and the data has the shape %s", m.features, tensor.Text(in.Shape))}
	}
	rows, width := int(in.Shape[0]), int(in.Shape[1])
	if width != m.features {
		return nil, &model.InputError{Reason: m.misfit(width)}
	}
	kind := tensor.Float64
	switch {
	case m.classes:
		kind = tensor.Int64
	case m.single:
		kind = tensor.Float32
	}
	out := tensor.Tensor{Name: "output", Type: kind, Shape: []int64{int64(rows)}, Data: make([]byte, 0, rows*m.outputs*kind.Size())}
	if m.columns {
		out.Shape = append(out.Shape, int64(m.outputs))
	}
	row, sums := make([]float64, width), make([]float64, m.outputs)
	for i := range rows {
		if i%rowsPerLook == rowsPerLook-1 && !deadline.IsZero() && time.Now().After(deadline) {
			return nil, model.ErrDeadline
		}
		for j := range row {
			f := in.Float(i*width + j)
			if m.single {
				f = float64(float32(f))
			}
			row[j] = f
		}
		m.score(row, sums)
		m.finish(sums)
		for _, f := range sums {
			if m.classes {
				out.Data = tensor.AppendInt(out.Data, kind, int64(f))
			} else {
				out.Data = tensor.AppendFloat(out.Data, kind, f)
			}
		}
	}
	return []tensor.Tensor{out}, nil
}

// misfit is what the library says of data of another width.
func (m *Model) misfit(width int) string {
	if m.single {
		return fmt.Sprintf("Feature shape mismatch, expected: %d, got %d", m.features, width)
	}
	return fmt.Sprintf("The number of features in data (%d) is not the same as it was in training data (%d).", width, m.features)
}

// inSet tells whether a number is in a set of bits.
func inSet(bits []uint32, n int) bool {
	return n>>5 < len(bits) && bits[n>>5]>>(n&31)&1 == 1
}

// softmax makes shares of sums.
func softmax(sums []float64) {
	most := math.Inf(-1)
	for _, s := range sums {
		most = math.Max(most, s)
	}
	total := 0.0
	for i, s := range sums {
		sums[i] = math.Exp(s - most)
		total += sums[i]
	}
	for i := range sums {
		sums[i] /= total
	}
}

// each makes a function of sums of one of a number.
func each(f func(float64) float64) func([]float64) {
	return func(sums []float64) {
		for i := range sums {
			sums[i] = f(sums[i])
		}
	}
}

func same([]float64) {}

// maxNodes bounds the nodes of a tree.
const maxNodes = 1 << 26
