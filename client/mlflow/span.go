package mlflow

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"lapis/fault"
)

var notANumber = Number(math.NaN())

// span is a span in OpenTelemetry's JSON, whose ids are hex.
type span struct {
	Trace      string     `json:"traceId"`
	ID         string     `json:"spanId"`
	State      string     `json:"traceState,omitempty"`
	Parent     string     `json:"parentSpanId,omitempty"`
	Name       string     `json:"name"`
	Kind       any        `json:"kind,omitempty"`
	Start      string     `json:"startTimeUnixNano"`
	End        string     `json:"endTimeUnixNano,omitempty"`
	Attributes []pair     `json:"attributes,omitempty"`
	Events     []event    `json:"events,omitempty"`
	Links      []link     `json:"links,omitempty"`
	Status     spanStatus `json:"status"`
}

type spanStatus struct {
	Code    int    `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

type pair struct {
	Key   string `json:"key"`
	Value value  `json:"value"`
}

type event struct {
	At         string `json:"timeUnixNano"`
	Name       string `json:"name"`
	Attributes []pair `json:"attributes,omitempty"`
}

type link struct {
	Trace      string `json:"traceId"`
	ID         string `json:"spanId"`
	Attributes []pair `json:"attributes,omitempty"`
}

// value is an attribute's value, as OpenTelemetry writes it.
type value map[string]any

// valueOf writes a JSON value as OpenTelemetry does.
func valueOf(v any) value {
	switch v := v.(type) {
	case nil:
		return value{}
	case string:
		return value{"stringValue": v}
	case bool:
		return value{"boolValue": v}
	case json.Number:
		if _, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return value{"intValue": v.String()}
		}
		f, err := v.Float64()
		if err != nil {
			return value{"stringValue": v.String()}
		}
		return value{"doubleValue": f}
	case []any:
		list := []value{}
		for _, x := range v {
			list = append(list, valueOf(x))
		}
		return value{"arrayValue": map[string]any{"values": list}}
	case map[string]any:
		return value{"kvlistValue": map[string]any{"values": pairsOf(v)}}
	}
	return value{}
}

func pairsOf(m map[string]any) []pair {
	list := []pair{}
	for _, k := range sorted(m) {
		list = append(list, pair{k, valueOf(m[k])})
	}
	return list
}

// decode reads JSON with its numbers as they are written.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// attributes reads those of a span as MLflow keeps them: each value is JSON in
// a text. What is none is the text itself.
func attributes(m map[string]any) []pair {
	list := []pair{}
	for _, k := range sorted(m) {
		v := m[k]
		if s, ok := v.(string); ok {
			if x, err := decode([]byte(s)); err == nil {
				v = x
			}
		}
		list = append(list, pair{k, valueOf(v)})
	}
	return list
}

// hexID reads an id in any of the forms that releases of MLflow write: base64,
// hex, 0xhex, and "tr-" before them. size is in bytes.
func hexID(v any, size int) string {
	s, _ := v.(string)
	s = strings.TrimPrefix(strings.TrimPrefix(s, "tr-"), "0x")
	if s == "" {
		return ""
	}
	if len(s) == 2*size {
		if _, err := hex.DecodeString(s); err == nil {
			return strings.ToLower(s)
		}
	}
	if b, err := base64.StdEncoding.DecodeString(s); err == nil && len(b) == size {
		return hex.EncodeToString(b)
	}
	if len(s) < 2*size {
		s = strings.Repeat("0", 2*size-len(s)) + s
	}
	if _, err := hex.DecodeString(s); err != nil || len(s) != 2*size {
		return ""
	}
	return strings.ToLower(s)
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

func object(v any) map[string]any { m, _ := v.(map[string]any); return m }
func list(v any) []any            { l, _ := v.([]any); return l }

// either is the first of the keys that is there.
func either(m map[string]any, keys ...string) any {
	for _, k := range keys {
		if v, ok := m[k]; ok {
			return v
		}
	}
	return nil
}

// parseSpan reads a span in any of the forms that MLflow has kept it in: of
// its releases 2 and 3, and of OpenTelemetry's protocol.
func parseSpan(content []byte) (span, error) {
	v, err := decode(content)
	m := object(v)
	if err != nil || m == nil {
		return span{}, fault.Invalid("a span is not JSON: %v", err)
	}
	return spanOf(m)
}

func spanOf(m map[string]any) (span, error) {
	from := m
	if c := object(m["context"]); c != nil {
		from = c // of release 2
	}
	s := span{
		Trace: hexID(either(from, "trace_id", "traceId"), 16), ID: hexID(either(from, "span_id", "spanId"), 8),
		Parent: hexID(either(m, "parent_span_id", "parentSpanId", "parent_id"), 8),
		Name:   text(m["name"]), Start: text(either(m, "start_time_unix_nano", "startTimeUnixNano", "start_time")),
		End: text(either(m, "end_time_unix_nano", "endTimeUnixNano", "end_time")), Kind: m["kind"], State: text(either(m, "trace_state", "traceState")),
	}
	if s.Trace == "" || s.ID == "" || s.Start == "" {
		return s, fault.Invalid("a span has no id or no start")
	}
	status := object(m["status"])
	code := text(either(status, "code"))
	if status == nil {
		code = text(m["status_code"])
	}
	switch strings.TrimPrefix(code, "STATUS_CODE_") {
	case "OK", "1":
		s.Status.Code = 1
	case "ERROR", "2":
		s.Status.Code = 2
	}
	s.Status.Message = text(either(status, "message"))
	if status == nil {
		s.Status.Message = text(m["status_message"])
	}
	s.Attributes = attributesOf(m["attributes"], true)
	for _, e := range list(m["events"]) {
		e := object(e)
		s.Events = append(s.Events, event{At: text(either(e, "time_unix_nano", "timeUnixNano", "timestamp")), Name: text(e["name"]), Attributes: attributesOf(e["attributes"], false)})
	}
	for _, l := range list(m["links"]) {
		l := object(l)
		s.Links = append(s.Links, link{hexID(either(l, "trace_id", "traceId"), 16), hexID(either(l, "span_id", "spanId"), 8), attributesOf(l["attributes"], false)})
	}
	return s, nil
}

// attributesOf reads attributes: an object as MLflow keeps it, or a list as
// OpenTelemetry sends it.
func attributesOf(v any, inText bool) []pair {
	if m := object(v); m != nil {
		if inText {
			return attributes(m)
		}
		return pairsOf(m)
	}
	var found []pair
	for _, p := range list(v) {
		p := object(p)
		found = append(found, pair{text(p["key"]), camelValue(object(p["value"]))})
	}
	return found
}

// camelValue writes the names of a value's kinds as JSON has them.
func camelValue(m map[string]any) value {
	for snake, camel := range map[string]string{"string_value": "stringValue", "bool_value": "boolValue", "int_value": "intValue", "double_value": "doubleValue", "bytes_value": "bytesValue"} {
		if v, ok := m[snake]; ok {
			return value{camel: v}
		}
		if v, ok := m[camel]; ok {
			return value{camel: v}
		}
	}
	if a := object(either(m, "array_value", "arrayValue")); a != nil {
		values := []value{}
		for _, x := range list(a["values"]) {
			values = append(values, camelValue(object(x)))
		}
		return value{"arrayValue": map[string]any{"values": values}}
	}
	if a := object(either(m, "kvlist_value", "kvlistValue")); a != nil {
		pairs := attributesOf(a["values"], false)
		if pairs == nil {
			pairs = []pair{}
		}
		return value{"kvlistValue": map[string]any{"values": pairs}}
	}
	return value{}
}

// traceAttribute names a span's trace in MLflow's form.
const traceAttribute = "mlflow.traceRequestId"

// own makes the spans say which trace they are of.
func (t *Trace) own() {
	for i := range t.Spans {
		s := &t.Spans[i]
		kept := s.Attributes[:0:0]
		for _, p := range s.Attributes {
			if p.Key != traceAttribute {
				kept = append(kept, p)
			}
		}
		s.Attributes = append([]pair{{traceAttribute, value{"stringValue": t.ID}}}, kept...)
	}
}

// maxSpanFile bounds the file of a trace's spans, in bytes.
const maxSpanFile = 256 << 20

// readSpans reads the spans that lie as an artefact, where releases before 3.6
// put them.
func (t *Trace) readSpans(d disk) error {
	at := t.Tags["mlflow.artifactLocation"]
	dir := d.find(at)
	if dir == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, "traces.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSpanFile))
	if err != nil {
		return err
	}
	return t.parseSpans(content)
}

// parseSpans reads the file of a trace's spans.
func (t *Trace) parseSpans(content []byte) error {
	v, err := decode(content)
	if err != nil {
		return fault.Invalid("the spans of trace %s are not JSON: %v", t.ID, err)
	}
	for _, m := range list(object(v)["spans"]) {
		s, err := spanOf(object(m))
		if err != nil {
			return err
		}
		t.Spans = append(t.Spans, s)
	}
	return nil
}
