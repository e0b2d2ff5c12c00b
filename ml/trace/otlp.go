package trace

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// errOTLP says that a body is not what OpenTelemetry's protocol says.
var errOTLP = errors.New("invalid OpenTelemetry format")

// field is one field of a protobuf message.
type field struct {
	number int
	value  uint64 // of a varint or a fixed number
	bytes  []byte // of a string, bytes or a message
}

// each calls visit with each field of a protobuf message.
func each(b []byte, visit func(field) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return errOTLP
		}
		b = b[n:]
		f := field{number: int(tag >> 3)}
		switch tag & 7 {
		case 0:
			if f.value, n = binary.Uvarint(b); n <= 0 {
				return errOTLP
			}
		case 1:
			if n = 8; len(b) < n {
				return errOTLP
			}
			f.value = binary.LittleEndian.Uint64(b)
		case 2:
			size, w := binary.Uvarint(b)
			if w <= 0 || size > uint64(len(b)-w) {
				return errOTLP
			}
			f.bytes = b[w : w+int(size)]
			n = w + int(size)
		case 5:
			if n = 4; len(b) < n {
				return errOTLP
			}
			f.value = uint64(binary.LittleEndian.Uint32(b))
		default:
			return errOTLP
		}
		b = b[n:]
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// maxDepth bounds values within values.
const maxDepth = 64

// value is an attribute's value: string, bool, int64, float64, []byte, []any
// or []pair.
type pair struct {
	key   string
	value any
}

// span is a decoded span.
type span struct {
	trace, id, parent []byte
	state, name       string
	kind              uint64
	start, end        uint64
	attributes        []pair
	events            []event
	links             []link
	status            uint64
	message           string
}

type event struct {
	at         uint64
	name       string
	attributes []pair
}

type link struct {
	trace, id  []byte
	state      string
	attributes []pair
}

// ParseProto reads an ExportTraceServiceRequest.
func ParseProto(body []byte) ([]Span, error) {
	var spans []Span
	err := each(body, func(f field) error {
		if f.number != 1 || f.bytes == nil {
			return nil
		}
		return each(f.bytes, func(f field) error { // ResourceSpans
			if f.number != 2 {
				return nil
			}
			return each(f.bytes, func(f field) error { // ScopeSpans
				if f.number != 2 {
					return nil
				}
				var s span
				if err := s.read(f.bytes); err != nil {
					return err
				}
				shown, err := s.show()
				spans = append(spans, shown)
				return err
			})
		})
	})
	return spans, err
}

func (s *span) read(b []byte) error {
	return each(b, func(f field) (err error) {
		switch f.number {
		case 1:
			s.trace = f.bytes
		case 2:
			s.id = f.bytes
		case 3:
			s.state = text(f.bytes)
		case 4:
			s.parent = f.bytes
		case 5:
			s.name = text(f.bytes)
		case 6:
			s.kind = f.value
		case 7:
			s.start = f.value
		case 8:
			s.end = f.value
		case 9:
			s.attributes, err = keyValue(s.attributes, f.bytes, 0)
		case 11:
			var e event
			err = each(f.bytes, func(f field) (err error) {
				switch f.number {
				case 1:
					e.at = f.value
				case 2:
					e.name = text(f.bytes)
				case 3:
					e.attributes, err = keyValue(e.attributes, f.bytes, 0)
				}
				return err
			})
			s.events = append(s.events, e)
		case 13:
			var l link
			err = each(f.bytes, func(f field) (err error) {
				switch f.number {
				case 1:
					l.trace = f.bytes
				case 2:
					l.id = f.bytes
				case 3:
					l.state = text(f.bytes)
				case 4:
					l.attributes, err = keyValue(l.attributes, f.bytes, 0)
				}
				return err
			})
			s.links = append(s.links, l)
		case 15:
			err = each(f.bytes, func(f field) error {
				switch f.number {
				case 2:
					s.message = text(f.bytes)
				case 3:
					s.status = f.value
				}
				return nil
			})
		}
		return err
	})
}

func text(b []byte) string { return strings.ToValidUTF8(string(b), "\ufffd") }

func keyValue(to []pair, b []byte, depth int) ([]pair, error) {
	var p pair
	err := each(b, func(f field) (err error) {
		switch f.number {
		case 1:
			p.key = text(f.bytes)
		case 2:
			p.value, err = anyValue(f.bytes, depth)
		}
		return err
	})
	return append(to, p), err
}

func anyValue(b []byte, depth int) (v any, err error) {
	if depth > maxDepth {
		return nil, errOTLP
	}
	err = each(b, func(f field) error {
		switch f.number {
		case 1:
			v = text(f.bytes)
		case 2:
			v = f.value != 0
		case 3:
			v = int64(f.value)
		case 4:
			v = math.Float64frombits(f.value)
		case 5:
			list := []any{}
			err := each(f.bytes, func(f field) error {
				if f.number != 1 {
					return nil
				}
				x, err := anyValue(f.bytes, depth+1)
				list = append(list, x)
				return err
			})
			v = list
			return err
		case 6:
			pairs := []pair{}
			err := each(f.bytes, func(f field) (err error) {
				if f.number == 1 {
					pairs, err = keyValue(pairs, f.bytes, depth+1)
				}
				return err
			})
			v = pairs
			return err
		case 7:
			v = f.bytes
		}
		return nil
	})
	return v, err
}

// TraceID is a trace's id in MLflow's form.
func TraceID(id []byte) string { return "tr-" + hex.EncodeToString(id) }

const traceAttribute = "mlflow.traceRequestId"

var statusNames = []string{"STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"}

var kindNames = []string{"", "SPAN_KIND_INTERNAL", "SPAN_KIND_SERVER", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"}

// show makes the span's JSON.
func (s *span) show() (Span, error) {
	if len(s.trace) == 0 || len(s.id) == 0 || s.start > math.MaxInt64 || s.end > math.MaxInt64 {
		return Span{}, errOTLP
	}
	out := Span{Trace: TraceID(s.trace), ID: b64(s.id), Name: s.name, Status: statusNames[0], Start: int64(s.start), End: int64(s.end)}
	if s.status < uint64(len(statusNames)) {
		out.Status = statusNames[s.status]
	}
	// MLflow's own client sends the id of the trace in MLflow's form.
	found := false
	for _, p := range s.attributes {
		if id, ok := p.value.(string); ok && p.key == traceAttribute {
			found = true
			if id = strings.Trim(id, `"`); id != "" && len(id) <= 64 {
				out.Trace = id
			}
		}
	}
	if !found {
		s.attributes = append([]pair{{traceAttribute, out.Trace}}, s.attributes...)
	}
	b := []byte(`{"trace_id":"` + b64(s.trace) + `","span_id":"` + out.ID + `"`)
	if s.state != "" {
		b = append(append(b, `,"trace_state":`...), quote(s.state)...)
	}
	if len(s.parent) > 0 {
		out.Parent = b64(s.parent)
		b = append(b, `,"parent_span_id":"`+out.Parent+`"`...)
	}
	b = append(append(b, `,"name":`...), quote(s.name)...)
	if s.kind > 0 && s.kind < uint64(len(kindNames)) {
		b = append(b, `,"kind":"`+kindNames[s.kind]+`"`...)
	}
	b = append(b, `,"start_time_unix_nano":`...)
	b = strconv.AppendUint(b, s.start, 10)
	b = append(b, `,"end_time_unix_nano":`...)
	b = strconv.AppendUint(b, s.end, 10)
	b = appendPairs(append(b, `,"attributes":`...), s.attributes)
	if len(s.events) > 0 {
		b = append(b, `,"events":[`...)
		for i, e := range s.events {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"time_unix_nano":`...)
			b = strconv.AppendUint(b, e.at, 10)
			b = append(append(b, `,"name":`...), quote(e.name)...)
			if len(e.attributes) > 0 {
				b = appendPairs(append(b, `,"attributes":`...), e.attributes)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	if len(s.links) > 0 {
		b = append(b, `,"links":[`...)
		for i, l := range s.links {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"trace_id":"`+b64(l.trace)+`","span_id":"`+b64(l.id)+`"`...)
			if l.state != "" {
				b = append(append(b, `,"trace_state":`...), quote(l.state)...)
			}
			if len(l.attributes) > 0 {
				b = appendPairs(append(b, `,"attributes":`...), l.attributes)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	b = append(b, `,"status":{`...)
	if s.message != "" {
		b = append(append(append(b, `"message":`...), quote(s.message)...), ',')
	}
	b = append(b, `"code":"`+out.Status+`"}}`...)
	out.JSON = b
	return out, nil
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func quote(s string) []byte {
	b, _ := json.Marshal(s)
	return b
}

func appendPairs(b []byte, pairs []pair) []byte {
	b = append(b, '[')
	for i, p := range pairs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `{"key":`...), quote(p.key)...)
		b = append(b, `,"value":`...)
		b = appendValue(b, p.value)
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		b = append(append(b, `{"string_value":`...), quote(v)...)
	case bool:
		b = strconv.AppendBool(append(b, `{"bool_value":`...), v)
	case int64:
		b = strconv.AppendInt(append(b, `{"int_value":`...), v, 10)
	case float64:
		b = append(b, `{"double_value":`...)
		switch {
		case math.IsNaN(v):
			b = append(b, `"NaN"`...)
		case math.IsInf(v, 0):
			b = append(b, `"`+strings.Replace(strings.TrimPrefix(fmt.Sprint(v), "+"), "Inf", "Infinity", 1)+`"`...)
		default:
			b = strconv.AppendFloat(b, v, 'g', -1, 64)
		}
	case []byte:
		b = append(b, `{"bytes_value":"`+b64(v)+`"`...)
	case []any:
		b = append(b, `{"array_value":{"values":[`...)
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, x)
		}
		b = append(b, `]}`...)
	case []pair:
		b = appendPairs(append(b, `{"kvlist_value":{"values":`...), v)
		b = append(b, '}')
	default:
		b = append(b, '{')
	}
	return append(b, '}')
}

// ParseJSON reads an ExportTraceServiceRequest in JSON, whose ids are hex.
func ParseJSON(body []byte) ([]Span, error) {
	var request struct {
		Resources []struct {
			Scopes []struct {
				Spans []jsonSpan `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, errors.Join(errOTLP, err)
	}
	var spans []Span
	for _, r := range request.Resources {
		for _, sc := range r.Scopes {
			for i := range sc.Spans {
				s, err := sc.Spans[i].span()
				if err != nil {
					return nil, err
				}
				shown, err := s.show()
				if err != nil {
					return nil, err
				}
				spans = append(spans, shown)
			}
		}
	}
	return spans, nil
}

// jsonSpan is a span in OTLP's JSON. Numbers of 64 bits may be strings.
type jsonSpan struct {
	Trace      string         `json:"traceId"`
	ID         string         `json:"spanId"`
	Parent     string         `json:"parentSpanId"`
	State      string         `json:"traceState"`
	Name       string         `json:"name"`
	Kind       jsonEnum       `json:"kind"`
	Start      jsonInt        `json:"startTimeUnixNano"`
	End        jsonInt        `json:"endTimeUnixNano"`
	Attributes []jsonKeyValue `json:"attributes"`
	Events     []struct {
		At         jsonInt        `json:"timeUnixNano"`
		Name       string         `json:"name"`
		Attributes []jsonKeyValue `json:"attributes"`
	} `json:"events"`
	Links []struct {
		Trace      string         `json:"traceId"`
		ID         string         `json:"spanId"`
		State      string         `json:"traceState"`
		Attributes []jsonKeyValue `json:"attributes"`
	} `json:"links"`
	Status struct {
		Message string   `json:"message"`
		Code    jsonEnum `json:"code"`
	} `json:"status"`
}

type jsonKeyValue struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// jsonInt is an integer, as a number or a string.
type jsonInt int64

func (n *jsonInt) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = jsonInt(v)
	if string(b) == "null" {
		return nil
	}
	return err
}

// jsonEnum is an enum, as a number or a name.
type jsonEnum uint64

func (e *jsonEnum) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `"`)
	for _, names := range [][]string{statusNames, kindNames} {
		for i, n := range names {
			if n == s && n != "" {
				*e = jsonEnum(i)
				return nil
			}
		}
	}
	v, err := strconv.ParseUint(s, 10, 32)
	*e = jsonEnum(v)
	if string(b) == "null" {
		return nil
	}
	return err
}

func (j *jsonSpan) span() (s span, err error) {
	id := func(text string) []byte {
		b, e := hex.DecodeString(text)
		if e != nil {
			err = errors.Join(errOTLP, e)
		}
		return b
	}
	pairs := func(list []jsonKeyValue) []pair {
		p, e := jsonPairs(list, 0)
		if e != nil {
			err = e
		}
		return p
	}
	s = span{trace: id(j.Trace), id: id(j.ID), parent: id(j.Parent), state: j.State, name: j.Name, kind: uint64(j.Kind),
		start: uint64(j.Start), end: uint64(j.End), attributes: pairs(j.Attributes), status: uint64(j.Status.Code), message: j.Status.Message}
	for _, e := range j.Events {
		s.events = append(s.events, event{uint64(e.At), e.Name, pairs(e.Attributes)})
	}
	for _, l := range j.Links {
		s.links = append(s.links, link{id(l.Trace), id(l.ID), l.State, pairs(l.Attributes)})
	}
	return s, err
}

func jsonPairs(list []jsonKeyValue, depth int) ([]pair, error) {
	pairs := make([]pair, 0, len(list))
	for _, kv := range list {
		v, err := jsonValue(kv.Value, depth)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{kv.Key, v})
	}
	return pairs, nil
}

func jsonValue(raw json.RawMessage, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errOTLP
	}
	var v struct {
		String *string          `json:"stringValue"`
		Bool   *bool            `json:"boolValue"`
		Int    *jsonInt         `json:"intValue"`
		Double *json.RawMessage `json:"doubleValue"`
		Bytes  []byte           `json:"bytesValue"`
		Array  *struct {
			Values []json.RawMessage `json:"values"`
		} `json:"arrayValue"`
		List *struct {
			Values []jsonKeyValue `json:"values"`
		} `json:"kvlistValue"`
	}
	if len(raw) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, errors.Join(errOTLP, err)
	}
	switch {
	case v.String != nil:
		return *v.String, nil
	case v.Bool != nil:
		return *v.Bool, nil
	case v.Int != nil:
		return int64(*v.Int), nil
	case v.Double != nil:
		f, err := strconv.ParseFloat(strings.Replace(strings.Trim(string(*v.Double), `"`), "Infinity", "Inf", 1), 64)
		if err != nil {
			return nil, errors.Join(errOTLP, err)
		}
		return f, nil
	case v.Bytes != nil:
		return v.Bytes, nil
	case v.Array != nil:
		list := []any{}
		for _, x := range v.Array.Values {
			e, err := jsonValue(x, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		return list, nil
	case v.List != nil:
		return jsonPairs(v.List.Values, depth+1)
	}
	return nil, nil
}

// sortSpans puts the spans of a trace in the order of their start.
func sortSpans(spans []Span) {
	sort.SliceStable(spans, func(i, j int) bool { return spans[i].Start < spans[j].Start })
}
