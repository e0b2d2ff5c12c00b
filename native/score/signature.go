package score

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"lapis/native/catalog"
	"lapis/native/tensor"
)

// schema is the signature's inputs as MLflow writes them.
func (s *Server) schema() string {
	var out []string
	for _, c := range s.inputs() {
		out = append(out, spec(c))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// spec is one input of a signature as MLflow writes it.
func spec(c catalog.Column) string {
	text := c.Kind
	if c.Tensor != nil {
		text = fmt.Sprintf("Tensor('%s', %s)", c.Tensor.Type, tuple(c.Tensor.Shape))
	}
	if c.Name == "" {
		return text
	}
	need := "required"
	if c.Required != nil && !*c.Required {
		need = "optional"
	}
	return fmt.Sprintf("'%s': %s (%s)", c.Name, text, need)
}

// tuple is a shape as Python writes it.
func tuple(shape []int64) string {
	parts := make([]string, len(shape))
	for i, d := range shape {
		parts[i] = strconv.FormatInt(d, 10)
	}
	if len(parts) == 1 {
		return "(" + parts[0] + ",)"
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// checkParams checks the parameters against the signature.
func (c *call) checkParams() error {
	if c.server.mlmodel == nil || c.params.kind == null {
		return nil
	}
	if c.server.mlmodel.Params == nil {
		fmt.Fprintln(os.Stderr, "`params` can only be specified at inference time if the model signature defines a params schema. This model does not define a params schema.")
		return nil
	}
	if c.params.kind != object {
		return &badParam{fmt.Sprintf("Parameters must be a dictionary. Got type '%s'.", c.params.python())}
	}
	for _, p := range c.server.mlmodel.Params {
		at := slices.IndexFunc(c.params.list, func(m cell) bool { return m.s == p.Name })
		if at < 0 || c.params.list[at].list[0].kind == null {
			continue
		}
		v := c.params.list[at].list[0]
		if p.Shape != nil {
			if v.kind != list {
				return &badParam{fmt.Sprintf("Invalid parameters found: {('%s', 'Value must be a 1D array with shape (-1,) for param %s, received %s')}", p.Name, p.Name, v.python())}
			}
			continue
		}
		ok := false
		switch p.Kind {
		case "string":
			ok = v.kind == text
		case "boolean":
			ok = v.kind == boolean
		case "integer", "long":
			ok = v.kind == number && v.whole
		case "float", "double":
			ok = v.kind == number
		default:
			ok = true
		}
		if !ok {
			return &badParam{fmt.Sprintf("Invalid parameters found: {('%s', \"Can not safely convert `<class '%s'>` to `DataType.%s` for value `%s`\")}", p.Name, v.python(), p.Kind, v.show())}
		}
	}
	return nil
}

// sound tells what is wrong with arrays as such.
func (c *call) sound() error {
	in := c.server.inputs()
	list := c.data.named
	if c.data.array != nil {
		list = []array{*c.data.array}
	}
	for i := range list {
		a := &list[i]
		if a.ragged && a.words == nil {
			depth := max(len(a.Shape)-1, 1)
			return invalid("Invalid input. setting an array element with a sequence. The requested array has an inhomogeneous shape after %d dimensions. The detected shape was %s + inhomogeneous part.", depth, tuple(a.Shape[:min(depth, len(a.Shape))]))
		}
		if len(in) == 0 {
			unsigned := c.server.mlmodel != nil && (a.seen[null] || a.seen[text] && c.server.flavor == "onnx" && a.Type != tensor.Bytes)
			if a.words != nil || unsigned {
				return &badRun{"the array has elements that are no numbers: " + strings.Join(a.words[:min(len(a.words), 10)], ", ")}
			}
			continue
		}
		if a.words != nil && len(a.Shape) == 0 {
			return invalid("Invalid input. Failed to convert data `%s` to type `%s` defined in the model signature.", a.words[0], spec(in[0]))
		}
		if a.words != nil {
			return invalid("Invalid input. could not convert string to float: '%s'", a.words[0])
		}
	}
	return nil
}

// enforce brings the data into the shape that the signature says.
func (c *call) enforce() error {
	if err := c.sound(); err != nil {
		return err
	}
	in := c.server.inputs()
	switch {
	case len(in) == 0:
		return nil
	case c.server.takesColumns():
		return c.enforceColumns(in)
	}
	return c.enforceTensors(in)
}

func (c *call) wrong(format string, args ...any) error {
	return &badSchema{c.data.String(), fmt.Sprintf(format, args...)}
}

func (c *call) enforceColumns(in []catalog.Column) error {
	if err := c.toTable(); err != nil {
		return err
	}
	t := c.data.table
	if in[0].Name == "" {
		if len(t.columns) < len(in) {
			return c.wrong("Model inference is missing inputs. The model signature declares %d inputs  but the provided value only has %d inputs. Note: the inputs were not named in the signature so we can only verify their count.", len(in), len(t.columns))
		}
		t.columns = t.columns[:len(in)]
		for i := range in {
			if err := c.convert(&t.columns[i], in[i].Kind); err != nil {
				return err
			}
		}
		return nil
	}
	var missing, extra []string
	columns := make([]column, 0, len(in))
	for _, want := range in {
		at := slices.IndexFunc(t.columns, func(col column) bool { return t.named && col.name == want.Name })
		switch {
		case at >= 0:
			columns = append(columns, t.columns[at])
		case want.Required == nil || *want.Required:
			missing = append(missing, "'"+want.Name+"'")
		}
	}
	if missing != nil {
		for _, col := range t.columns {
			known := t.named && slices.ContainsFunc(in, func(w catalog.Column) bool { return w.Name == col.name })
			switch {
			case known:
			case t.named:
				extra = append(extra, "'"+col.name+"'")
			default:
				extra = append(extra, col.name)
			}
		}
		text := "Model is missing inputs [" + strings.Join(missing, ", ") + "]."
		if extra != nil {
			text += " Note that there were extra inputs: [" + strings.Join(extra, ", ") + "]."
		}
		return c.wrong("%s", text)
	}
	t.columns = columns
	for i := range columns {
		k := slices.IndexFunc(in, func(w catalog.Column) bool { return w.Name == columns[i].name })
		if err := c.convert(&t.columns[i], in[k].Kind); err != nil {
			return err
		}
	}
	return nil
}

// dtypes are numpy's names of the column types.
var dtypes = map[string]string{"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "boolean": "bool", "string": "<class 'object'>"}

// safe are the types that may become one of a signature without a loss.
var safe = map[string][]string{
	"double": {"float64", "float32", "int32"}, "float": {"float32"}, "long": {"int64", "int32"}, "integer": {"int32"}, "boolean": {"bool"}, "string": {"object"},
}

// convert makes the cells of a column ones of the signature's type.
func (c *call) convert(col *column, kind string) error {
	fail := func(reason string) error {
		if c.data.csv {
			if _, quoted, ok := strings.Cut(reason, `("`); ok {
				reason = strings.TrimSuffix(quoted, `")`)
			} else {
				reason = "Integer column has NA values"
			}
			return traced(invalid(csvWrong, reason))
		}
		if c.azure {
			return c.wrong("Failed to convert column %s to type '%s'. Error: %s", col.name, dtypes[kind], reason)
		}
		return invalid("Invalid input. Data is not compatible with model signature. Failed to convert column %s to type '%s'. Error: '%s'", col.name, dtypes[kind], reason)
	}
	if col.dtype != "" && !slices.Contains(safe[kind], col.dtype) {
		return c.wrong("Incompatible input types for column %s. Can not safely convert %s to %s.", col.name, col.dtype, dtypes[kind])
	}
	col.cells = slices.Clone(col.cells)
	for i := range col.cells {
		v := &col.cells[i]
		switch kind {
		case "string":
			continue
		case "double", "float":
			f, err := v.number()
			if err != nil {
				return fail(fmt.Sprintf("ValueError(%q)", err.Error()))
			}
			if kind == "float" {
				f = float64(float32(f))
			}
			*v = cell{kind: number, f: f}
		case "long", "integer":
			f, err := v.number()
			switch {
			case err != nil && v.kind == text:
				return fail(fmt.Sprintf(`ValueError("invalid literal for int() with base 10: '%s'")`, v.s))
			case err != nil:
				return fail(fmt.Sprintf("TypeError(%q)", err.Error()))
			case math.IsNaN(f) || math.IsInf(f, 0):
				return fail("IntCastingNaNError('Cannot convert non-finite values (NA or inf) to integer')")
			case v.kind == text && f != math.Trunc(f):
				return fail(fmt.Sprintf(`ValueError("invalid literal for int() with base 10: '%s'")`, v.s))
			}
			if !v.whole {
				v.i = int64(f)
			}
			if kind == "integer" {
				v.i = int64(int32(v.i))
			}
			*v = cell{kind: number, f: float64(v.i), i: v.i, whole: true}
		case "boolean":
			truth := v.kind == text && v.s != "" || v.kind != text && v.kind != null && v.f != 0
			*v = cell{kind: boolean}
			if truth {
				v.f, v.i = 1, 1
			}
		default:
			return &badRun{fmt.Sprintf("column %s has a type in the signature that native serving does not take; set the property serving.tier to python", col.name)}
		}
	}
	return nil
}

func (c *call) enforceTensors(in []catalog.Column) error {
	d := &c.data
	if in[0].Name == "" {
		if d.table != nil {
			for i := range d.table.columns {
				col := &d.table.columns[i]
				if col.dtype != "" && col.dtype != in[0].Tensor.Type {
					return c.wrong("dtype of input %s does not match expected dtype %s", col.dtype, in[0].Tensor.Type)
				}
				if t := in[0].Tensor.Type; d.table.rows == 0 {
					return invalid("Invalid input. Data is not compatible with model signature. Failed to convert column %s to type '%s'. Error: 'IndexError('single positional indexer is out-of-bounds')'", col.name, t)
				}
				kind := map[string]string{"float32": "float", "float64": "double", "int32": "integer", "int64": "long", "bool": "boolean"}[in[0].Tensor.Type]
				lists := slices.ContainsFunc(col.cells, func(v cell) bool { return v.kind == list })
				if lists && len(d.table.columns) > 1 {
					return c.wrong("setting an array element with a sequence.")
				}
				if kind != "" && !lists {
					if err := c.convert(col, kind); err != nil {
						return err
					}
				}
			}
			a, err := c.matrix(d.table)
			if err != nil {
				return err
			}
			if len(in[0].Tensor.Shape) != 2 || len(d.table.columns) > 1 && in[0].Tensor.Shape[1] != int64(len(d.table.columns)) {
				return c.wrong("This model contains a model signature with an unnamed input. Since the input data is a pandas DataFrame containing multiple columns, the input shape must be of the structure (-1, number_of_dataframe_columns). Instead, the input DataFrame passed had %d columns and an input shape of %s with all values within the DataFrame of scalar type. Please adjust the passed in DataFrame to match the expected structure", len(d.table.columns), tuple(in[0].Tensor.Shape))
			}
			d.array, d.table = a, nil
		}
		if d.array == nil && bytes.Contains(c.text, []byte(`"instances"`)) {
			return c.wrong("This model contains a tensor-based model signature with no input names, which suggests a numpy array input or a pandas dataframe input with proper column values, but an input of type <class 'dict'> was found.")
		}
		if d.array == nil {
			return invalid("Invalid input. Failed to parse input data. This model contains an un-named  model signature which expects a single n-dimensional array or a single value as input, however, an input of type <class 'dict'> was found.")
		}
		return c.checkShape(d.array, in[0])
	}
	if d.array != nil {
		if len(in) != 1 {
			return c.wrong("Model is missing inputs %s.", pythonList(columnNames(in)))
		}
		d.array.name = in[0].Name
		d.named, d.array = []array{*d.array}, nil
	}
	if t := d.table; t != nil {
		d.table = nil
		for _, col := range t.columns {
			if !slices.ContainsFunc(in, func(w catalog.Column) bool { return w.Name == col.name }) {
				d.named = append(d.named, array{name: col.name})
				continue
			}
			want := in[slices.IndexFunc(in, func(w catalog.Column) bool { return w.Name == col.name })].Tensor
			if t.rows == 0 {
				return invalid("Invalid input. Data is not compatible with model signature. Failed to convert column %s to type '%s'. Error: 'IndexError('single positional indexer is out-of-bounds')'", col.name, want.Type)
			}
			a, err := c.fromCells(col.name, col.cells)
			if err == nil && a.ragged || err != nil && slices.ContainsFunc(col.cells, func(v cell) bool { return v.kind == list }) {
				d.table = t
				return c.wrong("The value in the Input DataFrame column '%s' could not be converted to the expected shape of: '%s'. Ensure that each of the input list elements are of uniform length and that the data can be coerced to the tensor type '%s'", col.name, tuple(want.Shape), want.Type)
			}
			if err != nil {
				d.table = t
				return err
			}
			d.named = append(d.named, *a)
		}
	}
	var missing, extra []string
	kept := make([]array, 0, len(in))
	for _, want := range in {
		at := slices.IndexFunc(d.named, func(a array) bool { return a.name == want.Name })
		if at < 0 {
			missing = append(missing, want.Name)
			continue
		}
		a := d.named[at]
		if shape := want.Tensor.Shape; len(shape) == 2 && shape[1] == 1 && len(a.Shape) == 1 && len(a.Strings)+len(a.Data) > 0 && c.wasTable() {
			a.Shape = []int64{a.Shape[0], 1}
		}
		if err := c.checkShape(&a, want); err != nil {
			return err
		}
		kept = append(kept, a)
	}
	if missing != nil {
		for _, a := range d.named {
			if !slices.ContainsFunc(in, func(w catalog.Column) bool { return w.Name == a.name }) {
				extra = append(extra, a.name)
			}
		}
		text := "Model is missing inputs " + pythonList(missing) + "."
		if extra != nil {
			text += " Note that there were extra inputs: " + pythonList(extra) + "."
		}
		return c.wrong("%s", text)
	}
	d.named = kept
	return nil
}

// wasTable tells whether the data came as a table.
func (c *call) wasTable() bool {
	return strings.Contains(string(c.text[:min(len(c.text), 200)]), "dataframe_") || c.data.csv
}

func columnNames(in []catalog.Column) []string {
	names := make([]string, len(in))
	for i, c := range in {
		names[i] = c.Name
	}
	return names
}

func (c *call) checkShape(a *array, want catalog.Column) error {
	ok := !a.ragged && len(a.Shape) == len(want.Tensor.Shape)
	for i := 0; ok && i < len(a.Shape); i++ {
		ok = want.Tensor.Shape[i] < 0 || want.Tensor.Shape[i] == a.Shape[i]
	}
	if a.ragged {
		return invalid("Invalid input. setting an array element with a sequence. The requested array has an inhomogeneous shape after %d dimensions. The detected shape was %s + inhomogeneous part.", max(len(a.Shape)-1, 1), tuple(a.Shape[:max(len(a.Shape)-1, 0)]))
	}
	if !ok {
		return c.wrong("Shape of input %s does not match expected shape %s.", tuple(a.Shape), tuple(want.Tensor.Shape))
	}
	return nil
}

// objects tells why the array that pandas makes of a table is none that a model
// of numbers takes; "" if it is one.
func (t *table) objects(floating bool) string {
	if t.rows == 0 {
		return "the table has no rows, so its columns have no type"
	}
	var seen [object + 1]bool
	points := false
	for _, col := range t.columns {
		for i := range col.cells {
			v := &col.cells[i]
			seen[v.kind] = true
			points = points || v.kind == number && !v.whole
		}
	}
	switch {
	case seen[boolean] && (seen[number] || seen[null] || seen[text]):
		return "the table has booleans beside other values"
	case floating && seen[text]:
		return "the table has texts"
	case floating && seen[number] && !points && !seen[null]:
		return "Unexpected input data type. Actual: (tensor(int64)), expected: (tensor(float))"
	}
	return ""
}
