package mlflowhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"lapis/fault"
	"lapis/ml/tracking"
)

// message is a request's fields: of a JSON body, or of a query. Reading a
// field notes the first thing that is wrong in err; the handler looks at it
// once, when it has read all.
type message struct {
	fields map[string]any
	query  url.Values // instead of fields, for GET
	path   string     // of a nested message: "metrics[0]."
	top    *message   // where err is noted
	err    error
}

const required = true

// readMessage reads the fields of a request.
func readMessage(r *http.Request) (*message, error) {
	m := &message{}
	m.top = m
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		m.query = r.URL.Query()
		return m, nil
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if err := checkKind(r); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	if err := readBody(r, &b); err != nil {
		return nil, err
	}
	return newMessage(b.Bytes()), nil
}

// newMessage is a message of a JSON body.
func newMessage(body []byte) *message {
	m := &message{fields: parseObject(body)}
	m.top = m
	return m
}

// checkKind refuses bodies that say to be other than JSON.
func checkKind(r *http.Request) error {
	kind := r.Header.Get("Content-Type")
	if kind == "" {
		return invalid("Bad Request. Content-Type header is missing.")
	}
	if media, _, _ := strings.Cut(kind, ";"); strings.TrimSpace(media) != "application/json" {
		return invalid("Bad Request. Content-Type must be one of ['application/json'].")
	}
	return nil
}

// readBody reads a body within the limit.
func readBody(r *http.Request, b *bytes.Buffer) error {
	if r.ContentLength > maxBody {
		return tooLarge()
	}
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		var cut *http.MaxBytesError
		if errors.As(err, &cut) {
			return tooLarge()
		}
		return fault.Invalid("The request's body ended early: send it again.").With("BAD_REQUEST").From(err)
	}
	if n > maxBody {
		return tooLarge()
	}
	return nil
}

func tooLarge() error {
	return fault.New(fault.TooLarge, "INVALID_PARAMETER_VALUE", "The request's body is larger than %d MB: split it into several requests.", maxBody>>20)
}

// parseObject reads a JSON object. What is none counts as an empty one, as in
// MLflow, so that the error names the first field that is missing. A string
// that holds an object is that object.
func parseObject(body []byte) map[string]any {
	for range 2 {
		if !utf8.Valid(body) {
			return nil
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return nil
		}
		if _, err := d.Token(); err != io.EOF {
			return nil
		}
		switch v := v.(type) {
		case map[string]any:
			return v
		case string:
			body = []byte(v)
		default:
			return nil
		}
	}
	return nil
}

// camel is a field's other spelling: runId for run_id.
func camel(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

func (m *message) fail(err error) {
	if m.top.err == nil {
		m.top.err = err
	}
}

const seeDocs = " See the API docs for more information about request parameters."

// value returns a field, nil if it is not there.
func (m *message) value(name string) any {
	if m.query != nil {
		if v, ok := m.query[name]; ok {
			return v[0]
		}
		return nil
	}
	v, ok := m.fields[name]
	if other := camel(name); other != name {
		if w, both := m.fields[other]; both {
			if ok {
				m.fail(invalid("Request specifies both '%s' and '%s'; provide only one of them.", name, other))
			}
			v = w
		}
	}
	return v
}

// needed notes that a required field is missing.
func (m *message) needed(name string) {
	m.fail(invalid("Missing value for required parameter '%s%s'.%s", m.path, name, seeDocs))
}

// wrong notes that a field is of a wrong type.
func (m *message) wrong(name string, v any) {
	kind := "str"
	switch v := v.(type) {
	case bool:
		kind = "bool"
	case json.Number:
		kind = "int"
		if strings.ContainsAny(v.String(), ".eE") {
			kind = "float"
		}
	case []any:
		kind = "list"
	case map[string]any:
		kind = "dict"
	}
	text, _ := json.Marshal(v)
	if len(text) > 200 {
		text = append(text[:200:200], "…"...)
	}
	m.fail(invalid("Invalid value %s for parameter '%s%s' supplied:  Hint: Value was of type '%s'.%s", text, m.path, name, kind, seeDocs))
}

// has tells whether a field is there.
func (m *message) has(name string) bool { return m.value(name) != nil }

// text reads a string field, "" if it is not there.
func (m *message) text(name string, need bool) string {
	switch v := m.value(name).(type) {
	case nil:
		if need {
			m.needed(name)
		}
		return ""
	case string:
		if need && v == "" {
			m.needed(name)
		}
		return v
	default:
		m.wrong(name, v)
		return ""
	}
}

// optional reads a string field, nil if it is not there.
func (m *message) optional(name string) *string {
	if !m.has(name) {
		return nil
	}
	s := m.text(name, false)
	return &s
}

// integer reads an int64 field, which may be written as a string.
func (m *message) integer(name string, need bool) int64 {
	v := m.value(name)
	switch x := v.(type) {
	case nil:
		if need {
			m.needed(name)
		}
		return 0
	case json.Number:
		if n, ok := parseInteger(x.String()); ok {
			return n
		}
	case string:
		if x == "" && need {
			m.needed(name)
			return 0
		}
		if n, ok := parseInteger(x); ok {
			return n
		}
	}
	m.wrong(name, v)
	return 0
}

// parseInteger reads a whole number; 5.0 and 1e3 are.
func parseInteger(s string) (int64, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<63 || !strings.ContainsAny(s, ".eE") {
		return 0, false
	}
	return int64(f), true
}

// maybe reads an int64 field, nil if it is not there.
func (m *message) maybe(name string) *int64 {
	if !m.has(name) {
		return nil
	}
	n := m.integer(name, false)
	return &n
}

// number reads a double field: a number, or a string that is one, "NaN" and
// "Infinity" too.
func (m *message) number(name string, need bool) float64 {
	v := m.value(name)
	switch x := v.(type) {
	case nil:
		if need {
			m.needed(name)
		}
		return 0
	case json.Number:
		// Too large a number is an infinity, as it is for Python.
		f, err := strconv.ParseFloat(x.String(), 64)
		if err == nil || errors.Is(err, strconv.ErrRange) {
			return f
		}
	case string:
		switch x {
		case "NaN":
			return math.NaN()
		case "Infinity":
			return math.Inf(1)
		case "-Infinity":
			return math.Inf(-1)
		}
		if f, err := strconv.ParseFloat(x, 64); err == nil && !strings.ContainsAny(x, "xXpP_nN") {
			return f
		}
	}
	m.wrong(name, v)
	return 0
}

// flag reads a bool field.
func (m *message) flag(name string, need bool) bool {
	v := m.value(name)
	switch x := v.(type) {
	case nil:
		if need {
			m.needed(name)
		}
		return false
	case bool:
		return x
	case string:
		if m.query != nil {
			switch strings.ToLower(x) {
			case "true":
				return true
			case "false":
				return false
			}
			m.fail(invalid("Invalid boolean value: %s, must be 'true' or 'false'.", x))
			return false
		}
	}
	m.wrong(name, v)
	return false
}

// texts reads a list of strings.
func (m *message) texts(name string, need bool) []string {
	if m.query != nil {
		list := m.query[name]
		if need && len(list) == 0 {
			m.needed(name)
		}
		return list
	}
	v := m.value(name)
	list, ok := v.([]any)
	if v == nil {
		if need {
			m.needed(name)
		}
		return nil
	}
	if !ok {
		m.wrong(name, v)
		return nil
	}
	texts := make([]string, 0, len(list))
	for _, x := range list {
		s, ok := x.(string)
		if !ok {
			m.wrong(name, v)
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// messages reads a list of objects.
func (m *message) messages(name string, need bool) []*message {
	v := m.value(name)
	if v == nil || m.query != nil {
		if need {
			m.needed(name)
		}
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		m.wrong(name, v)
		return nil
	}
	all := make([]*message, 0, len(list))
	for i, x := range list {
		o, ok := x.(map[string]any)
		if !ok {
			m.wrong(name, v)
			return nil
		}
		all = append(all, &message{fields: o, path: m.path + name + "[" + strconv.Itoa(i) + "].", top: m.top})
	}
	return all
}

// message reads an object; one that is not there is empty.
func (m *message) message(name string) *message {
	v := m.value(name)
	o, ok := v.(map[string]any)
	if v != nil && !ok {
		m.wrong(name, v)
	}
	return &message{fields: o, path: m.path + name + ".", top: m.top}
}

// tags reads a list of keys and values.
func (m *message) tags(name string, needKey bool) []tracking.Tag {
	var tags []tracking.Tag
	for _, t := range m.messages(name, false) {
		tags = append(tags, tracking.Tag{Key: t.text("key", needKey), Value: t.text("value", false)})
	}
	return tags
}

// run reads the run's id, which older clients call run_uuid.
func (m *message) run() string {
	if !m.has("run_id") && m.has("run_uuid") {
		return m.text("run_uuid", required)
	}
	return m.text("run_id", required)
}

// choice reads an enum by name or number; "" if it is not there.
func (m *message) choice(name string, values ...string) string {
	v := m.value(name)
	switch x := v.(type) {
	case nil:
		return ""
	case string:
		for _, s := range values {
			if s == x && s != "" {
				return s
			}
		}
		if n, err := strconv.Atoi(x); err == nil && m.query != nil && n >= 0 && n < len(values) && values[n] != "" {
			return values[n]
		}
	case json.Number:
		if n, err := strconv.Atoi(x.String()); err == nil && n >= 0 && n < len(values) && values[n] != "" {
			return values[n]
		}
	}
	m.wrong(name, v)
	return ""
}

// view reads which things to show by lifecycle.
func (m *message) view(name string) tracking.View {
	switch m.choice(name, "", "ACTIVE_ONLY", "DELETED_ONLY", "ALL") {
	case "DELETED_ONLY":
		return tracking.DeletedOnly
	case "ALL":
		return tracking.All
	}
	return tracking.ActiveOnly
}

// pages are the rules for the pages of a list: how many things a request gets
// that does not say, how many it may ask for, and MLflow's words for fewer than
// one and for more than that, in which # is the number. A list without words
// takes any number, and fewer than one for none said.
type pages struct {
	usual, most int64
	few, many   string
	zero        bool // 0 says nothing, though there are words for fewer than one
}

const fewPages = "Invalid value # for parameter 'max_results' supplied. It must be a positive integer"

// page reads which page of a list a request wants, and how long it may be.
func (m *message) page(p pages) (limit int, token string) {
	token = m.text("page_token", false)
	n := p.usual
	if m.has("max_results") {
		n = m.integer("max_results", false)
	}
	if n == 0 && p.zero || n < 1 && p.few == "" {
		n = p.usual
	}
	words := ""
	switch {
	case n < 1:
		words = p.few
	case n > p.most:
		words = p.many
	}
	if words != "" {
		m.fail(invalid("%s", strings.ReplaceAll(words, "#", strconv.FormatInt(n, 10))))
	}
	return int(min(n, p.most)), token
}
