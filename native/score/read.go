package score

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"lapis/frame"
	"lapis/native/catalog"
	"lapis/native/scan"
	"lapis/native/tensor"
)

// call is one request on its way.
type call struct {
	server *Server
	path   string
	azure  bool // the form of the reply, and of errors
	text   []byte

	data   data
	params cell // an object; null for none
}

// data is what was given: a table, one array, or named arrays.
type data struct {
	table *table
	array *array
	named []array
	csv   bool
}

// table is a pandas DataFrame.
type table struct {
	columns []column
	rows    int
	named   bool // columns have names; else they are numbered
}

type column struct {
	name  string
	cells []cell
	given int    // in how many records it was
	dtype string // numpy's name of its type, where what was read has types
}

// cell is a value in a table.
type cell struct {
	kind  kind
	f     float64
	i     int64
	whole bool
	s     string
	list  []cell
}

type kind byte

const (
	null kind = iota
	number
	boolean
	text
	list
	object
)

// array is a numpy array. Its elements lie in a tensor at once when the model
// takes numbers.
type array struct {
	name string
	tensor.Tensor
	seen   [object + 1]bool // which kinds were among the elements
	floats bool             // numbers with a point
	words  []string         // elements that are no numbers, where the model takes numbers
	ragged bool
}

// The fields that make an object a request in MLflow's form.
var mlflowFields = []string{"dataframe_split", "dataframe_records", "instances", "inputs"}

// Fields of language models, which MLflow passes whole to a model.
var llmFields = []string{"messages", "prompt", "input"}

const (
	required = "The input must be a JSON dictionary with exactly one of the input fields {'dataframe_split', 'instances', 'inputs', 'dataframe_records'}"
	change   = "IMPORTANT: The MLflow Model scoring protocol has changed in MLflow version 2.0. If you are seeing this error, you are likely using an outdated scoring request format. To resolve the error, either update your request format or adjust your MLflow Model's requirements file to specify an older version of MLflow (for example, change the 'mlflow' requirement specifier to 'mlflow==1.30.0'). If you are making a request using the MLflow client (e.g. via `mlflow.pyfunc.spark_udf()`), upgrade your MLflow client to a version >= 2.0 in order to use the new request format. For more information about the updated MLflow Model scoring protocol in MLflow 2.0, see https://mlflow.org/docs/latest/models.html#deploy-mlflow-models."
)

// read reads the body.
func (c *call) read(q *frame.Request) error {
	c.text = q.Body
	content := frame.Header(q.Headers, "Content-Type")
	parts := strings.Split(content, ";")
	mime := strings.ToLower(strings.TrimSpace(parts[0]))
	if mime == "text/csv" || mime == parquetType {
		c.azure = false
	}
	if coding := frame.Header(q.Headers, "Content-Encoding"); coding != "" && coding != "identity" {
		return &badType{"the body has the Content-Encoding " + coding + ", and is taken as it is only"}
	}
	isJSON := mime == "application/json"
	if c.azure {
		isJSON = isJSON || strings.HasPrefix(mime, "application/") && strings.HasSuffix(mime, "+json") || c.server.mlmodel == nil && mime == ""
		if !isJSON {
			return &badType{"Expects Content-Type to be application/json"}
		}
		return c.object(q.Body)
	}
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch {
		case name == "charset" && strings.ToLower(value) != "utf-8":
			return &badType{"The scoring server only supports UTF-8"}
		case name != "charset":
			return &badType{"Unrecognized content type parameters: " + name + ". " + change}
		}
	}
	switch {
	case isJSON:
		return c.object(q.Body)
	case mime == "text/csv":
		return c.csv(q.Body)
	case mime == parquetType:
		return c.parquet(q.Body)
	}
	if content == "" {
		content = "None"
	}
	return &badType{"This predictor only supports the following content types: Types: ['text/csv', 'application/json', 'application/vnd.apache.parquet']. Got '" + content + "'."}
}

// utf8JSON is JSON in UTF-8, whichever of Unicode's encodings it came in. Which
// it is shows in the mark at its beginning, or in where its zero bytes are.
func utf8JSON(b []byte) []byte {
	if bytes.HasPrefix(b, []byte("\xef\xbb\xbf")) {
		return b[3:]
	}
	if len(b) < 2 {
		return b
	}
	var head [4]byte
	n := copy(head[:], b)
	size, order := 0, binary.ByteOrder(binary.LittleEndian)
	switch {
	case n == 4 && bytes.Equal(head[:], []byte("\xff\xfe\x00\x00")):
		size, b = 4, b[4:]
	case n == 4 && bytes.Equal(head[:], []byte("\x00\x00\xfe\xff")):
		size, order, b = 4, binary.BigEndian, b[4:]
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		size, b = 2, b[2:]
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		size, order, b = 2, binary.BigEndian, b[2:]
	case head[0] == 0 && head[1] == 0 && n == 4:
		size, order = 4, binary.BigEndian
	case head[0] == 0:
		size, order = 2, binary.BigEndian
	case head[1] == 0 && head[2] == 0 && head[3] == 0 && n == 4:
		size = 4
	case head[1] == 0:
		size = 2
	default:
		return b
	}
	out := make([]byte, 0, len(b)/size+len(b)/8)
	if size == 4 {
		for ; len(b) >= 4; b = b[4:] {
			out = utf8.AppendRune(out, rune(order.Uint32(b)))
		}
		return out
	}
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	for _, r := range utf16.Decode(units) {
		out = utf8.AppendRune(out, r)
	}
	return out
}

// member is a member of the body whose value was passed over.
type member struct {
	name string
	at   int
}

// object reads a body of JSON.
func (c *call) object(body []byte) error {
	body = utf8JSON(body)
	c.text = body
	s := scan.New(body)
	switch s.Peek() {
	case '{':
	case '[':
		if c.server.mlmodel == nil {
			// A plain model takes a plain array.
			c.azure = true
			a, err := c.array(s, "")
			if err == nil {
				err = s.End()
			}
			c.data.array = a
			return err
		}
		if err := wellFormed(s); err != nil {
			return err
		}
		if c.azure {
			return invalid("POST body should be a JSON dictionary.")
		}
		return invalid("Invalid input. %s. Received a list.", required)
	case 0:
		if c.azure {
			return invalid("POST body is empty. Expecting a JSON dictionary.")
		}
		return &scan.Error{Reason: "Expecting value: line 1 column 1", At: 0}
	default:
		if err := wellFormed(s); err != nil {
			return err
		}
		if c.azure {
			return invalid("POST body should be a JSON dictionary.")
		}
		return invalid("Invalid input. %s. Received unexpected input type '%s.", required, pythonType(body))
	}
	var members []member
	err := s.Object(func(name string) error {
		s.Peek()
		members = append(members, member{name, s.Offset()})
		return s.Skip()
	})
	if err == nil {
		err = s.End()
	}
	if err != nil {
		return err
	}
	at := func(name string) int {
		return slices.IndexFunc(members, func(m member) bool { return m.name == name })
	}
	var forms []string
	for _, name := range mlflowFields {
		if at(name) >= 0 {
			forms = append(forms, name)
		}
	}
	if i := at("params"); i >= 0 {
		s.Jump(members[i].at)
		if c.params, err = readCell(s); err != nil {
			return err
		}
	}
	if i := at("input_data"); i >= 0 && len(forms) == 0 {
		c.azure = true
		s.Jump(members[i].at)
		return c.inputData(s)
	}
	plain := c.server.mlmodel == nil
	if len(forms) == 0 && plain {
		if i := at("data"); i >= 0 {
			c.azure = true
			s.Jump(members[i].at)
			return c.inputData(s)
		}
		if len(members) > 0 && c.server.model.Input(members[0].name) >= 0 {
			c.azure = true
			s.Jump(0)
			return c.inputData(s)
		}
	}
	if len(forms) == 0 && c.azure {
		return invalid("A value is not provided for the 'input_data' parameter.")
	}
	c.azure = false
	if len(forms) != 1 {
		names := make([]string, 0, len(members))
		for _, m := range members {
			if m.name != "params" {
				names = append(names, m.name)
			}
		}
		for _, name := range llmFields {
			if at(name) < 0 || len(forms) > 0 {
				continue
			}
			if c.server.mlmodel != nil && len(c.server.inputs()) > 0 {
				t := &table{named: true, rows: 1}
				for _, m := range members {
					t.columns = append(t.columns, column{name: m.name, cells: make([]cell, 1)})
				}
				c.data.table = t
				return nil
			}
			return &badRun{"the model takes tables and arrays, and the request has the field " + name + " of language models"}
		}
		if len(forms) == 0 {
			names = nil // what MLflow keeps of the body
		} else {
			names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(mlflowFields, n) })
		}
		return invalid("%s. Received dictionary with input fields: %s. %s", required, pythonList(names), change)
	}
	s.Jump(members[at(forms[0])].at)
	switch forms[0] {
	case "dataframe_split":
		return c.split(s)
	case "dataframe_records":
		return c.records(s, "Invalid input. Dataframe records format must be a list of records. Got %s.")
	case "instances":
		if s.Peek() == '[' && nextIs(s, '{') {
			if err := c.records(s, ""); err != nil {
				return err
			}
			if !c.evenly() {
				return invalid("Invalid input. The length of values for each input/column name are not the same")
			}
			return c.columnar()
		}
	case "inputs":
		if s.Peek() == '[' && nextIs(s, '{') {
			return c.listed(s)
		}
	}
	return c.arrays(s)
}

// listed reads a list of objects where arrays are meant: a signature of columns
// makes a table of it, and any other model does not take it.
func (c *call) listed(s *scan.Scanner) error {
	if c.server.takesColumns() {
		return c.records(s, "")
	}
	if err := s.Skip(); err != nil {
		return err
	}
	if in := c.server.inputs(); len(in) > 0 && in[0].Name != "" {
		return &badSchema{c.shown(), "Model is missing inputs " + pythonList(columnNames(in)) + "."}
	}
	return &badRun{"the model takes tables and arrays, and a list of objects was given"}
}

func wellFormed(s *scan.Scanner) error {
	if err := s.Skip(); err != nil {
		return err
	}
	return s.End()
}

// nextIs tells whether the first element of the array that comes begins so.
func nextIs(s *scan.Scanner, first byte) bool {
	back := s.Offset()
	defer s.Jump(back)
	s.Jump(back + 1)
	return s.Peek() == first
}

func pythonType(body []byte) string {
	switch b := bytes.TrimSpace(body); {
	case b[0] == '"':
		return "<class 'str'>"
	case b[0] == 't' || b[0] == 'f':
		return "<class 'bool'>"
	case b[0] == 'n':
		return "<class 'NoneType'>"
	case bytes.ContainsAny(b, ".eEN"):
		return "<class 'float'>"
	}
	return "<class 'int'>"
}

func pythonList(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = "'" + n + "'"
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// inputData reads the value of input_data: a table in pandas' split form, one
// array, or named arrays.
func (c *call) inputData(s *scan.Scanner) error {
	if s.Peek() != '{' {
		return c.arrays(s)
	}
	back := s.Offset()
	var names []string
	if err := s.Object(func(name string) error { names = append(names, name); return s.Skip() }); err != nil {
		return err
	}
	s.Jump(back)
	if slices.Contains(names, "columns") && slices.Contains(names, "data") {
		return c.split(s)
	}
	return c.arrays(s)
}

// split reads a table in pandas' split form.
func (c *call) split(s *scan.Scanner) error {
	if s.Peek() != '{' {
		kind := "type " + pythonType(s.Since(0))
		if s.Peek() == '[' {
			kind = "list"
		}
		return invalid("Invalid input. Dataframe split format must be a dictionary. Got %s.", kind)
	}
	t := &table{}
	var keys []string
	var rows []cell
	var columns []cell
	hasData := false
	err := s.Object(func(name string) (err error) {
		keys = append(keys, name)
		v, err := readCell(s)
		switch name {
		case "columns":
			columns = v.list
			t.named = v.kind == list
		case "data":
			hasData = true
			rows = v.list
			if v.kind != list {
				err = invalid("Invalid input. Provided dataframe_split field is not a valid dataframe representation in 'split' format. Error: 'DataFrame constructor not properly called!'")
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	extra := slices.ContainsFunc(keys, func(k string) bool { return k != "columns" && k != "data" && k != "index" })
	if !hasData || extra {
		quoted := make([]string, len(keys))
		for i, k := range keys {
			quoted[i] = "'" + k + "'"
		}
		return invalid("Invalid input. Dataframe split format must have 'data' field and optionally 'columns' and 'index' fields. Got {%s}.'", strings.Join(quoted, ", "))
	}
	width := len(columns)
	if !t.named {
		for _, r := range rows {
			width = max(width, max(len(r.list), 1))
		}
	}
	for i := range width {
		name := strconv.Itoa(i)
		if t.named {
			name = columns[i].label()
		}
		t.columns = append(t.columns, column{name: name, cells: make([]cell, 0, len(rows))})
	}
	for _, r := range rows {
		cells := r.list
		if r.kind != list {
			cells = []cell{r}
		}
		if t.named && len(cells) != width {
			return invalid("Invalid input. Provided dataframe_split field is not a valid dataframe representation in 'split' format. Error: '%d columns passed, passed data had %d columns'", width, len(cells))
		}
		for i := range width {
			v := cell{}
			if i < len(cells) {
				v = cells[i]
			}
			t.columns[i].cells = append(t.columns[i].cells, v)
		}
	}
	t.rows = len(rows)
	c.data.table = t
	return nil
}

// records reads a table as a list of objects.
func (c *call) records(s *scan.Scanner, wrong string) error {
	if s.Peek() != '[' {
		kind := "type " + pythonType(append([]byte(nil), s.Peek()))
		if s.Peek() == '{' {
			kind = "dictionary"
		}
		return invalid(wrong, kind)
	}
	t := &table{named: true}
	at := map[string]int{}
	err := s.Array(func(row int) error {
		t.rows = row + 1
		v, err := readCell(s)
		if err != nil {
			return err
		}
		if v.kind != object {
			return invalid("Invalid input. Provided dataframe_records field is not a valid dataframe representation in 'records' format. Error: 'record %d is no object'", row)
		}
		for _, m := range v.list {
			i, known := at[m.s]
			if !known {
				i = len(t.columns)
				at[m.s] = i
				t.columns = append(t.columns, column{name: m.s})
			}
			col := &t.columns[i]
			col.given++
			for len(col.cells) < row {
				col.cells = append(col.cells, cell{})
			}
			if len(col.cells) == row {
				col.cells = append(col.cells, m.list[0])
			} else {
				col.cells[row] = m.list[0]
			}
		}
		return nil
	})
	for i := range t.columns {
		for len(t.columns[i].cells) < t.rows {
			t.columns[i].cells = append(t.columns[i].cells, cell{})
		}
	}
	c.data.table = t
	return err
}

// evenly tells whether each row had all of the columns that the signature
// wants, or any.
func (c *call) evenly() bool {
	var counts []int
	for i := range c.data.table.columns {
		col := &c.data.table.columns[i]
		wanted := true
		for _, in := range c.server.inputs() {
			if in.Name == col.name {
				wanted = in.Required == nil || *in.Required
				break
			}
			wanted = in.Name == ""
		}
		if wanted {
			counts = append(counts, col.given)
		}
	}
	return len(counts) == 0 || slices.Min(counts) == slices.Max(counts)
}

// columnar turns records into named arrays, as MLflow does with instances, for
// models that take arrays.
func (c *call) columnar() error {
	if c.server.takesColumns() {
		return nil
	}
	t := c.data.table
	c.data.table = nil
	for _, col := range t.columns {
		a, err := c.fromCells(col.name, col.cells)
		if err != nil && len(c.server.inputs()) == 0 && c.server.flavor != "onnx" {
			a, err = &array{name: col.name}, nil // the library has its say
		}
		if err != nil {
			return err
		}
		c.data.named = append(c.data.named, *a)
	}
	return nil
}

// arrays reads one array, or an object of them.
func (c *call) arrays(s *scan.Scanner) error {
	if s.Peek() != '{' {
		a, err := c.array(s, "")
		c.data.array = a
		return err
	}
	if c.server.takesColumns() {
		// A signature of columns makes a table of them.
		return c.columns(s)
	}
	return s.Object(func(name string) error {
		a, err := c.array(s, name)
		if err == nil {
			c.data.named = append(c.data.named, *a)
		}
		return err
	})
}

// columns reads a table as an object of columns; of values, it is one row.
func (c *call) columns(s *scan.Scanner) error {
	t := &table{named: true}
	scalar := true
	err := s.Object(func(name string) error {
		v, err := readCell(s)
		col := column{name: name, cells: v.list}
		if v.kind != list {
			col.cells = []cell{v}
		} else {
			scalar = false
		}
		t.columns = append(t.columns, col)
		return err
	})
	if err != nil {
		return err
	}
	for i, col := range t.columns {
		if i == 0 || scalar {
			t.rows = len(col.cells)
		} else if len(col.cells) != t.rows {
			return &badSchema{c.shown(), "This model contains a column-based signature, which suggests a DataFrame input. There was an error casting the input data to a DataFrame: All arrays must be of the same length"}
		}
	}
	c.data.table = t
	return nil
}

func (c *call) shown() string { return clip(c.text) }

// csvWrong is what MLflow says of a table that cannot be read.
const csvWrong = "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV-formatted Pandas DataFrame produced using the `pandas.DataFrame.to_csv()` method. Error: '%v'"

// csv reads a table of comma-separated values.
func (c *call) csv(body []byte) error {
	if !utf8.Valid(body) {
		return invalid("Invalid input. Ensure that input is a valid UTF-8 encoded string.")
	}
	r := csv.NewReader(bytes.NewReader(body))
	r.TrimLeadingSpace = false
	const wrong = csvWrong
	invalid := func(format string, args ...any) error { return traced(invalid(format, args...)) }
	if in := c.server.inputs(); len(in) > 0 && in[0].Tensor != nil {
		return invalid(wrong, "TensorSpec only supports numpy types, use numpy_types() instead")
	}
	head, err := r.Read()
	if err == io.EOF {
		return invalid(wrong, "No columns to parse from file")
	}
	if err != nil {
		return invalid(wrong, err)
	}
	t := &table{named: true}
	for _, name := range head {
		t.columns = append(t.columns, column{name: name})
	}
	for {
		row, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return invalid(wrong, err)
		}
		for i, word := range row {
			t.columns[i].cells = append(t.columns[i].cells, csvCell(word))
		}
		t.rows++
	}
	c.data.table, c.data.csv = t, true
	for i, col := range t.columns {
		if said := c.unsafe(col); said != "" {
			return invalid(wrong, fmt.Sprintf(said, i))
		}
	}
	return nil
}

// unsafe tells what is wrong with a column of a file of words for the type that
// the signature gives it: pandas takes words as the type that they look like, and
// no others.
func (c *call) unsafe(col column) string {
	in := c.server.inputs()
	at := slices.IndexFunc(in, func(w catalog.Column) bool { return w.Name == col.name })
	if at < 0 {
		return ""
	}
	truths, points, missing, beyond := 0, false, false, false
	for _, v := range col.cells {
		switch v.kind {
		case boolean:
			truths++
		case null:
			missing = true
		case number:
			points = points || v.f != math.Trunc(v.f)
			beyond = beyond || v.f != 0 && v.f != 1
		}
	}
	switch kind := in[at].Kind; kind {
	case "double", "float":
		if truths > 0 && truths < len(col.cells) {
			return "could not convert string to float: 'True'%.0d"
		}
	case "long", "integer":
		switch {
		case truths > 0 && truths < len(col.cells):
			return "cannot safely convert passed user dtype of " + dtypes[kind] + " for object dtyped data in column %d"
		case points && !missing:
			return "cannot safely convert passed user dtype of " + dtypes[kind] + " for float64 dtyped data in column %d"
		}
	case "boolean":
		switch {
		case truths > 0 && truths < len(col.cells):
			return "cannot safely convert passed user dtype of bool for object dtyped data in column %d"
		case beyond:
			return "cannot safely convert passed user dtype of bool for int64 dtyped data in column %d"
		}
	}
	return ""
}

// absent are the words that pandas reads as missing.
var absent = []string{"", "#N/A", "N/A", "NA", "<NA>", "NULL", "null", "NaN", "nan", "None", "n/a", "-NaN", "-nan"}

func csvCell(word string) cell {
	if slices.Contains(absent, word) {
		return cell{}
	}
	if i, err := strconv.ParseInt(word, 10, 64); err == nil {
		return cell{kind: number, f: float64(i), i: i, whole: true}
	}
	if f, err := strconv.ParseFloat(word, 64); err == nil {
		return cell{kind: number, f: f}
	}
	switch word {
	case "True", "TRUE", "true":
		return cell{kind: boolean, f: 1, i: 1}
	case "False", "FALSE", "false":
		return cell{kind: boolean}
	}
	return cell{kind: text, s: word}
}

// readCell reads any value. The members of an object are cells with a name and
// a list of one.
func readCell(s *scan.Scanner) (cell, error) {
	switch s.Peek() {
	case '"':
		t, err := s.String()
		return cell{kind: text, s: t}, err
	case 't', 'f':
		b, err := s.Bool()
		if b {
			return cell{kind: boolean, f: 1, i: 1}, err
		}
		return cell{kind: boolean}, err
	case 'n':
		if s.Word("null") {
			return cell{}, nil
		}
	case '[':
		v := cell{kind: list}
		err := s.Array(func(int) error {
			e, err := readCell(s)
			v.list = append(v.list, e)
			return err
		})
		return v, err
	case '{':
		v := cell{kind: object}
		err := s.Object(func(name string) error {
			e, err := readCell(s)
			v.list = append(v.list, cell{s: name, list: []cell{e}})
			return err
		})
		return v, err
	}
	n, err := s.Number()
	return cell{kind: number, f: n.Float, i: n.Int, whole: n.Whole}, err
}

// label is a cell as the name of a column.
func (v *cell) label() string {
	switch {
	case v.kind == text:
		return v.s
	case v.kind == number && v.whole:
		return strconv.FormatInt(v.i, 10)
	case v.kind == number:
		return string(tensor.AppendNumber(nil, v.f))
	}
	return "None"
}

// python is the name of the value's type in Python.
func (v *cell) python() string {
	switch v.kind {
	case number:
		if v.whole {
			return "int"
		}
		return "float"
	case boolean:
		return "bool"
	case text:
		return "str"
	case list:
		return "list"
	case object:
		return "dict"
	}
	return "NoneType"
}
