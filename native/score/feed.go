package score

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/native/catalog"
	"lapis/native/tensor"
)

// inputs are the columns or tensors of the signature; nil without one.
func (s *Server) inputs() []catalog.Column {
	if s.mlmodel == nil {
		return nil
	}
	return s.mlmodel.Inputs
}

// takesColumns tells whether the signature speaks of the columns of a table.
func (s *Server) takesColumns() bool {
	in := s.inputs()
	return len(in) > 0 && in[0].Tensor == nil
}

// target is the type that the elements of an array become.
func (s *Server) target(name string) tensor.Type {
	in := s.model.Inputs
	at := 0
	if name != "" {
		at = s.model.Input(name)
	}
	if at < 0 || name == "" && len(in) > 1 && in[0].Type == tensor.Bytes {
		return tensor.Float64
	}
	return in[at].Type
}

// matrix makes a 2-D array of a table, for the model's only input.
func (c *call) matrix(t *table) (*array, error) {
	a := &array{}
	a.Type = c.server.model.Inputs[0].Type
	a.Shape = []int64{int64(t.rows), int64(len(t.columns))}
	if a.Type != tensor.Bytes {
		a.Data = make([]byte, 0, t.rows*len(t.columns)*a.Type.Size())
	}
	for row := range t.rows {
		for i := range t.columns {
			v := &t.columns[i].cells[row]
			if v.kind == list || v.kind == object {
				return nil, &badRun{fmt.Sprintf("column %s has a %s where a value is needed", t.columns[i].name, v.python())}
			}
			if err := a.cell(v, 2); err != nil {
				return nil, &badRun{err.Error()}
			}
		}
	}
	return a, nil
}

// feed makes the model's inputs of the data.
func (c *call) feed() ([]tensor.Tensor, error) {
	m, d := c.server.model, &c.data
	if c.server.flavor != "onnx" {
		return c.features()
	}
	switch {
	case d.table != nil && len(m.Inputs) == 1:
		if c.server.mlmodel != nil && len(c.server.inputs()) == 0 {
			if why := d.table.objects(m.Inputs[0].Type == tensor.Float32 || m.Inputs[0].Type == tensor.Float64); why != "" {
				return nil, &badRun{why}
			}
		}
		a, err := c.matrix(d.table)
		if err != nil {
			return nil, err
		}
		return []tensor.Tensor{a.Tensor}, nil
	case d.table != nil:
		return c.byColumn(d.table)
	case d.array != nil && len(m.Inputs) == 1:
		a := d.array
		if a.ragged {
			return nil, &badRun{"the array is ragged: its lists have different lengths"}
		}
		want := m.Inputs[0].Shape
		// One row may come without a list around it.
		if len(want) == 2 && len(a.Shape) == 1 && c.server.mlmodel == nil && want[1] == a.Shape[0] {
			a.Shape = []int64{1, a.Shape[0]}
		}
		return []tensor.Tensor{a.Tensor}, nil
	case d.array != nil:
		if c.server.mlmodel == nil && len(d.array.Shape) == 2 && int(d.array.Shape[1]) == len(m.Inputs) && !d.array.ragged {
			if err := c.toTable(); err != nil {
				return nil, err
			}
			for i := range d.table.columns {
				d.table.columns[i].name = m.Inputs[i].Name
			}
			return c.byColumn(d.table)
		}
		return nil, &badRun{fmt.Sprintf("Unable to map numpy array input to the expected model input. Numpy arrays can only be used as input for MLflow ONNX models that have a single input. This model requires %d inputs. Please pass in data as either a dictionary or a DataFrame with the following tensors: %s.", len(m.Inputs), pythonList(c.server.inputNames()))}
	}
	if len(d.named) > len(m.Inputs) && c.server.mlmodel != nil {
		return nil, &badRun{"Invalid input name in " + pythonList(namesOf(d.named))}
	}
	out := make([]tensor.Tensor, len(m.Inputs))
	for i, want := range m.Inputs {
		at := slices.IndexFunc(d.named, func(a array) bool { return a.name == want.Name })
		if at < 0 {
			return nil, &badRun{fmt.Sprintf("Required inputs (['%s']) are missing from input feed (%s).", want.Name, pythonList(namesOf(d.named)))}
		}
		if d.named[at].ragged {
			return nil, &badRun{fmt.Sprintf("the array %s is ragged: its lists have different lengths", want.Name)}
		}
		out[i] = d.named[at].Tensor
	}
	return out, nil
}

func namesOf(list []array) []string {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].name
	}
	return names
}

func (s *Server) inputNames() []string {
	names := make([]string, len(s.model.Inputs))
	for i := range names {
		names[i] = s.model.Inputs[i].Name
	}
	return names
}

// byColumn gives each input the column of its name.
func (c *call) byColumn(t *table) ([]tensor.Tensor, error) {
	m := c.server.model
	out := make([]tensor.Tensor, len(m.Inputs))
	for i, want := range m.Inputs {
		at := slices.IndexFunc(t.columns, func(col column) bool { return col.name == want.Name })
		if at < 0 {
			return nil, &badRun{fmt.Sprintf("KeyError: '%s'", want.Name)}
		}
		a, err := c.fromCells(want.Name, t.columns[at].cells)
		if err != nil {
			return nil, &badRun{err.Error()}
		}
		if a.ragged {
			return nil, &badRun{fmt.Sprintf("column %s has lists of different lengths", want.Name)}
		}
		// scikit-learn's converters make an input of one column of each.
		if len(want.Shape) == 2 && len(a.Shape) == 1 {
			a.Shape = []int64{a.Shape[0], 1}
		}
		out[i] = a.Tensor
	}
	return out, nil
}

// features makes the matrix that tree models take.
func (c *call) features() ([]tensor.Tensor, error) {
	if c.server.mlmodel != nil && len(c.server.inputs()) == 0 {
		if err := c.unsigned(); err != nil {
			return nil, err
		}
	}
	if c.data.array == nil || len(c.data.array.Shape) != 2 || c.data.array.ragged {
		if err := c.toTable(); err != nil {
			return nil, err
		}
	}
	if a := c.data.array; a != nil {
		return []tensor.Tensor{a.Tensor}, nil
	}
	t := c.data.table
	if named, ok := c.server.model.Runner.(interface{ Features() []string }); ok && c.server.flavor == "xgboost" {
		if names := named.Features(); names != nil {
			given := make([]string, len(t.columns))
			for i := range given {
				given[i] = t.columns[i].name
			}
			if !slices.Equal(names, given) && (t.named || c.server.mlmodel != nil) {
				return nil, &badRun{"feature_names mismatch: " + pythonList(names) + " " + pythonList(given)}
			}
		}
	}
	a, err := c.matrix(t)
	if err != nil {
		return nil, err
	}
	if c.server.mlmodel != nil {
		if t.rows == 0 && (c.server.flavor == "lightgbm" || len(c.server.inputs()) == 0) {
			return nil, &badRun{"Input data must be 2 dimensional and non empty."}
		}
		for i := range a.Len() {
			if f := a.Float(i); c.server.flavor == "xgboost" && math.IsInf(f, 0) {
				return nil, &badRun{"Input data contains `inf` or a value too large, while `missing` is not set to `inf`"}
			}
		}
	}
	return []tensor.Tensor{a.Tensor}, nil
}

// unsigned tells what the libraries find wrong with data that no signature has
// brought into shape.
func (c *call) unsigned() error {
	if c.data.named != nil {
		return &badRun{"Cannot convert data type dict to a table"}
	}
	names := []string(nil)
	if m, ok := c.server.model.Runner.(interface{ Features() []string }); ok {
		names = m.Features()
	}
	if c.data.table == nil {
		if c.server.flavor == "xgboost" && names != nil {
			return &badRun{"training data did not have the following fields: " + strings.Join(names, ", ")}
		}
		return nil
	}
	for _, col := range c.data.table.columns {
		empty := len(col.cells) > 0
		var seen [object + 1]bool
		for i := range col.cells {
			seen[col.cells[i].kind] = true
			if seen[boolean] && (seen[number] || seen[null]) {
				return &badRun{"pandas dtypes must be int, float or bool. Fields with bad pandas dtypes: " + col.name + ": object"}
			}
			empty = empty && col.cells[i].kind == null
			if k := col.cells[i].kind; k == text || k == list || k == object {
				return &badRun{"pandas dtypes must be int, float or bool. Fields with bad pandas dtypes: " + col.name + ": object"}
			}
		}
		if empty && !c.data.csv {
			return &badRun{"pandas dtypes must be int, float or bool. Fields with bad pandas dtypes: " + col.name + ": object"}
		}
	}
	return nil
}

// run scores the data.
func (c *call) run(ends time.Time) ([]tensor.Tensor, error) {
	if err := c.enforce(); err != nil {
		return nil, err
	}
	if err := c.checkParams(); err != nil {
		return nil, err
	}
	inputs, err := c.feed()
	if err != nil {
		return nil, err
	}
	return c.server.model.Run(inputs, c.server.model.AllOutputs(), ends)
}

// toTable makes a table of what was given.
func (c *call) toTable() error {
	d := &c.data
	switch {
	case d.table != nil:
		return nil
	case d.named != nil:
		t := &table{named: true}
		for i := range d.named {
			a := &d.named[i]
			if len(a.Shape) > 1 || a.ragged {
				return c.wrong("Incompatible input types for column %s. Can not safely convert object to float64.", a.name)
			}
			if i > 0 && a.Len() != t.rows {
				return c.wrong("This model contains a column-based signature, which suggests a DataFrame input. There was an error casting the input data to a DataFrame: All arrays must be of the same length")
			}
			t.columns = append(t.columns, column{name: a.name, cells: a.cells()})
			t.rows = a.Len()
		}
		d.table, d.named = t, nil
		return nil
	case d.array.ragged || len(d.array.Shape) > 2:
		return c.wrong("Must pass 2-d input. shape=%s", tuple(d.array.Shape))
	}
	a := d.array
	t := &table{}
	width := 1
	t.rows = 1
	if len(a.Shape) > 0 {
		t.rows = int(a.Shape[0])
	}
	if len(a.Shape) == 2 {
		width = int(a.Shape[1])
	}
	all := a.cells()
	for i := range width {
		col := column{name: strconv.Itoa(i), cells: make([]cell, t.rows)}
		for row := range t.rows {
			col.cells[row] = all[row*width+i]
		}
		t.columns = append(t.columns, col)
	}
	if in := c.server.inputs(); len(in) == 1 && in[0].Name != "" && width == 1 {
		t.named, t.columns[0].name = true, in[0].Name
	}
	d.table, d.array = t, nil
	return nil
}
