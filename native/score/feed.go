package score

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/native/catalog"
	"lapis/native/scan"
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

// array reads an array that lies nested in lists, or a single value.
func (c *call) array(s *scan.Scanner, name string) (*array, error) {
	a := &array{name: name}
	a.Type = c.server.target(name)
	a.Shape = make([]int64, 0, 4)
	if s.Peek() == '{' {
		return nil, invalid("an array is needed, and an object was given")
	}
	if err := a.read(s, 0); err != nil {
		return nil, err
	}
	if n, ok := tensor.Elements(a.Shape); !ok || n != a.Len() {
		a.ragged = true
	}
	return a, nil
}

// read reads one list at a depth, or an element. The first list of each depth
// tells its length; one of another makes the array ragged.
func (a *array) read(s *scan.Scanner, depth int) error {
	if s.Peek() != '[' {
		if depth != len(a.Shape) {
			a.ragged = true
		}
		return a.element(s)
	}
	if depth > 32 {
		return invalid("the array has more than 32 dimensions")
	}
	known := depth < len(a.Shape)
	if !known {
		// A list beside elements that are none.
		a.ragged = a.ragged || a.Len() > 0
		a.Shape = append(a.Shape, -1)
	}
	n := int64(0)
	err := s.Array(func(int) error {
		n++
		return a.read(s, depth+1)
	})
	if a.Shape[depth] < 0 {
		a.Shape[depth] = n
	} else if a.Shape[depth] != n {
		a.ragged = true
	}
	return err
}

func (a *array) floating() bool {
	return a.Type == tensor.Float32 || a.Type == tensor.Float64 || a.Type == tensor.Float16 || a.Type == tensor.BFloat16
}

func (a *array) element(s *scan.Scanner) error {
	switch s.Peek() {
	case '"':
		t, err := s.String()
		a.seen[text] = true
		if a.Type == tensor.Bytes {
			a.Strings = append(a.Strings, t)
			return err
		}
		f, e := strconv.ParseFloat(strings.TrimSpace(t), 64)
		if e != nil && err == nil {
			// Without a signature it is an array of texts, which the model refuses.
			a.words, f = append(a.words, t), math.NaN()
			if !a.floating() {
				f = 0
			}
		}
		a.Data = tensor.AppendFloat(a.Data, a.Type, f)
		return err
	case 't', 'f':
		b, err := s.Bool()
		a.seen[boolean] = true
		if a.Type == tensor.Bytes {
			a.Strings = append(a.Strings, strings.ToUpper(strconv.FormatBool(b)[:1])+strconv.FormatBool(b)[1:])
			return err
		}
		n := int64(0)
		if b {
			n = 1
		}
		a.Data = tensor.AppendInt(a.Data, a.Type, n)
		return err
	case 'n':
		if s.Word("null") {
			a.seen[null] = true
			switch a.Type {
			case tensor.Bytes:
				a.Strings = append(a.Strings, "None")
			case tensor.Float16, tensor.Float32, tensor.Float64, tensor.BFloat16:
				a.Data = tensor.AppendFloat(a.Data, a.Type, math.NaN())
			default:
				a.words = append(a.words, "None")
				a.Data = tensor.AppendInt(a.Data, a.Type, 0)
			}
			return nil
		}
	case '{':
		return invalid("an array is needed, and an object lies in it")
	}
	n, err := s.Number()
	a.seen[number] = true
	a.floats = a.floats || !n.Whole
	switch {
	case err != nil:
	case a.Type == tensor.Float32:
		a.Data = tensor.AppendFloat32(a.Data, float32(n.Float))
	case a.Type == tensor.Bytes:
		if n.Whole {
			a.Strings = append(a.Strings, strconv.FormatInt(n.Int, 10))
		} else {
			a.Strings = append(a.Strings, string(tensor.AppendNumber(nil, n.Float)))
		}
	case n.Whole:
		a.Data = tensor.AppendInt(a.Data, a.Type, n.Int)
	case n.Large && n.Uint != 0:
		a.Data = tensor.AppendInt(a.Data, a.Type, int64(n.Uint))
	default:
		a.Data = tensor.AppendFloat(a.Data, a.Type, n.Float)
	}
	return err
}

// fromCells makes an array of the cells of a column.
func (c *call) fromCells(name string, cells []cell) (*array, error) {
	a := &array{name: name}
	a.Type = c.server.target(name)
	a.Shape = []int64{int64(len(cells))}
	is := func(k kind) func(cell) bool { return func(v cell) bool { return v.kind == k } }
	if a.Type == tensor.Bytes && !slices.ContainsFunc(cells, is(text)) && slices.ContainsFunc(cells, func(v cell) bool { return v.kind == number && !v.whole }) {
		// In a column of numbers, whole ones beside others are written as those are.
		cells = slices.Clone(cells)
		for i := range cells {
			cells[i].whole = false
		}
	}
	for i := range cells {
		if err := a.cell(&cells[i], 1); err != nil {
			return nil, err
		}
	}
	if n, ok := tensor.Elements(a.Shape); !ok || n != a.Len() {
		a.ragged = true
	}
	return a, nil
}

func (a *array) cell(v *cell, depth int) error {
	if v.kind == list {
		if depth >= len(a.Shape) {
			a.Shape = append(a.Shape, int64(len(v.list)))
		}
		if depth > 32 || a.Shape[depth] != int64(len(v.list)) {
			a.ragged = true
			return nil
		}
		for i := range v.list {
			if err := a.cell(&v.list[i], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	a.seen[v.kind] = true
	if a.Type == tensor.Bytes {
		switch v.kind {
		case text:
			a.Strings = append(a.Strings, v.s)
		case boolean:
			a.Strings = append(a.Strings, v.show())
		default:
			a.Strings = append(a.Strings, v.label())
		}
		return nil
	}
	f, err := v.number()
	if err != nil {
		return invalid("Invalid input. %s", err)
	}
	a.floats = a.floats || v.kind == number && !v.whole
	if v.whole {
		a.Data = tensor.AppendInt(a.Data, a.Type, v.i)
	} else {
		a.Data = tensor.AppendFloat(a.Data, a.Type, f)
	}
	return nil
}

// number is the value as a number; null is NaN.
func (v *cell) number() (float64, error) {
	switch v.kind {
	case number, boolean:
		return v.f, nil
	case null:
		return math.NaN(), nil
	case text:
		word := strings.TrimSpace(v.s)
		if f, err := strconv.ParseFloat(word, 64); err == nil && !strings.HasPrefix(strings.TrimLeft(word, "+-"), "0x") {
			return f, nil
		}
		return 0, fmt.Errorf("could not convert string to float: '%s'", v.s)
	}
	return 0, fmt.Errorf("float() argument must be a string or a real number, not '%s'", v.python())
}

// String shows the data in errors.
func (d *data) String() string {
	var b []byte
	switch {
	case d.table != nil:
		b = append(b, "  "...)
		for _, col := range d.table.columns {
			b = append(append(b, "  "...), col.name...)
		}
		for row := range min(d.table.rows, 10) {
			b = strconv.AppendInt(append(b, '\n'), int64(row), 10)
			for i := range d.table.columns {
				b = append(append(b, "  "...), d.table.columns[i].cells[row].show()...)
			}
		}
	case d.array != nil && !d.array.ragged:
		b = d.array.AppendNested(b, d.array.Shape, 0)
	default:
		b = append(b, '{')
		for i := range d.named {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(append(append(b, '\''), d.named[i].name...), "': array(...)"...)
		}
		b = append(b, '}')
	}
	return clip(b)
}

func (v *cell) show() string {
	switch v.kind {
	case text:
		return v.s
	case boolean:
		return strings.ToUpper(strconv.FormatBool(v.f != 0)[:1]) + strconv.FormatBool(v.f != 0)[1:]
	case null:
		return "NaN"
	}
	return v.label()
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

// cells are the elements of an array.
func (a *array) cells() []cell {
	out := make([]cell, a.Len())
	for i := range out {
		if a.Type == tensor.Bytes {
			out[i] = cell{kind: text, s: a.Strings[i]}
			continue
		}
		f := a.Float(i)
		out[i] = cell{kind: number, f: f, i: int64(f), whole: !a.floats && f == math.Trunc(f)}
	}
	return out
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
