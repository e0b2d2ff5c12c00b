package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
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

// value is the value of an attribute. Its bytes are those of the request.
type value struct {
	kind  byte // 0 for none, or one of those below
	text  []byte
	num   uint64 // of a bool, an integer, or the bits of a double
	items []value
	pairs []pair
	raw   []byte // the JSON that the value was written as, if it was a string
}

const (
	aString byte = 's'
	aBool   byte = 'b'
	anInt   byte = 'i'
	aDouble byte = 'd'
	aBytes  byte = 'y'
	anArray byte = 'a'
	aList   byte = 'k' // of pairs
)

type pair struct {
	key   []byte
	value value
}

// span is a decoded span.
type span struct {
	trace, id, parent []byte
	name              []byte
	start, end        uint64
	attributes        []pair
	events            []event
	links             []link
	status            uint64
	message           []byte
}

type event struct {
	at         uint64
	name       []byte
	attributes []pair
}

type link struct {
	trace, id  []byte
	attributes []pair
}

// ParseProto reads an ExportTraceServiceRequest. Resources is how many resources
// it had, with spans or without.
func ParseProto(body []byte) (spans []Span, resources int, err error) {
	var s span
	out := shown{b: make([]byte, 0, len(body)+len(body)/2)}
	err = each(body, func(f field) error {
		if f.number != 1 {
			return nil
		}
		resources++
		var about []pair
		// The resource stands before its spans; one that came after them would
		// be read too late, so it is looked for first.
		err := each(f.bytes, func(f field) error {
			if f.number != 1 {
				return nil
			}
			return each(f.bytes, func(f field) (err error) {
				if f.number == 1 {
					about, err = keyValue(about, f.bytes, 0)
				}
				return err
			})
		})
		if err != nil {
			return err
		}
		tags := resourceTags(about)
		return each(f.bytes, func(f field) error { // ResourceSpans
			if f.number != 2 {
				return nil
			}
			return each(f.bytes, func(f field) error { // ScopeSpans
				if f.number != 2 {
					return nil
				}
				s = span{attributes: s.attributes[:0], events: s.events[:0], links: s.links[:0]}
				if err := s.read(f.bytes); err != nil {
					return err
				}
				one, err := out.span(&s, tags)
				spans = append(spans, one)
				return err
			})
		})
	})
	return spans, resources, err
}

func (s *span) read(b []byte) error {
	return each(b, func(f field) (err error) {
		switch f.number {
		case 1:
			s.trace = f.bytes
		case 2:
			s.id = f.bytes
		case 4:
			s.parent = f.bytes
		case 5:
			s.name, err = text(f.bytes)
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
					e.name, err = text(f.bytes)
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
				case 4:
					l.attributes, err = keyValue(l.attributes, f.bytes, 0)
				}
				return err
			})
			s.links = append(s.links, l)
		case 15:
			err = each(f.bytes, func(f field) (err error) {
				switch f.number {
				case 2:
					s.message, err = text(f.bytes)
				case 3:
					s.status = f.value
				}
				return err
			})
		}
		return err
	})
}

// text is a string field, which is UTF-8.
func text(b []byte) ([]byte, error) {
	if !utf8.Valid(b) {
		return nil, errOTLP
	}
	return b, nil
}

func keyValue(to []pair, b []byte, depth int) ([]pair, error) {
	var p pair
	err := each(b, func(f field) (err error) {
		switch f.number {
		case 1:
			p.key, err = text(f.bytes)
		case 2:
			p.value, err = anyValue(f.bytes, depth)
		}
		return err
	})
	return append(to, p), err
}

func anyValue(b []byte, depth int) (v value, err error) {
	if depth > maxDepth {
		return v, errOTLP
	}
	err = each(b, func(f field) (err error) {
		switch f.number {
		case 1:
			v = value{kind: aString}
			v.text, err = text(f.bytes)
		case 2:
			v = value{kind: aBool, num: f.value}
		case 3:
			v = value{kind: anInt, num: f.value}
		case 4:
			v = value{kind: aDouble, num: f.value}
		case 5:
			v = value{kind: anArray}
			err = each(f.bytes, func(f field) error {
				if f.number != 1 {
					return nil
				}
				x, err := anyValue(f.bytes, depth+1)
				v.items = append(v.items, x)
				return err
			})
		case 6:
			v = value{kind: aList}
			err = each(f.bytes, func(f field) (err error) {
				if f.number == 1 {
					v.pairs, err = keyValue(v.pairs, f.bytes, depth+1)
				}
				return err
			})
		case 7:
			v = value{kind: aBytes, text: f.bytes}
		}
		return err
	})
	return v, err
}

// What spans are called by and asked for.
const (
	traceAttribute   = "mlflow.traceRequestId"
	inputsAttribute  = "mlflow.spanInputs"
	outputsAttribute = "mlflow.spanOutputs"
	typeAttribute    = "mlflow.spanType"
	usageAttribute   = "mlflow.chat.tokenUsage"
	costAttribute    = "mlflow.llm.cost"
	modelAttribute   = "mlflow.llm.model"
	ownerAttribute   = "mlflow.llm.provider"
	formatAttribute  = "mlflow.message.format"
	toolsAttribute   = "mlflow.chat.tools"
	tagAttribute     = "mlflow.traceTag." // and the tag's key
)

var statusNames = []string{"STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"}

// facts are what a trace takes from a span.
type facts struct {
	resource      map[string]string // tags
	session, user string
	usage, cost   []pair // nil for none
	inputs        *value // of the root alone, as what follows
	outputs       *value
	tags          []pair
}

// shown writes spans as JSON into one buffer.
type shown struct{ b []byte }

// wide brings an id to its width in bytes: zeros before a short one. A longer
// one is refused.
func wide(id []byte, width int) ([]byte, error) {
	id = bytes.TrimLeft(id, "\x00")
	if len(id) > width {
		return nil, ErrSpan
	}
	full := make([]byte, width)
	copy(full[width-len(id):], id)
	return full, nil
}

// ErrSpan says that a span is well-formed and yet none.
var ErrSpan = errors.New("a span has the id of its trace, of 16 bytes, and an id of its own, of 8 bytes")

// span writes a span and returns it with what its trace takes of it. What the
// span refers to in s is copied.
func (o *shown) span(s *span, resource map[string]string) (Span, error) {
	if len(s.trace) == 0 || len(s.id) == 0 || s.start > math.MaxInt64 || s.end > math.MaxInt64 {
		return Span{}, ErrSpan
	}
	var err error
	if s.trace, err = wide(s.trace, 16); err != nil {
		return Span{}, err
	}
	if s.id, err = wide(s.id, 8); err != nil {
		return Span{}, err
	}
	if len(s.parent) > 0 {
		if s.parent, err = wide(s.parent, 8); err != nil {
			return Span{}, err
		}
	}
	one := Span{Trace: "tr-" + hex.EncodeToString(s.trace), ID: b64(s.id), Name: string(s.name), Status: statusNames[0], Start: int64(s.start), End: int64(s.end)}
	if s.status < uint64(len(statusNames)) {
		one.Status = statusNames[s.status]
	}
	root := len(bytes.Trim(s.parent, "\x00")) == 0
	s.settle(one.Trace)
	s.translate()
	one.facts = s.facts(root)
	one.facts.resource = resource

	from := len(o.b)
	b := append(o.b, `{"trace_id":"`...)
	b = base64.StdEncoding.AppendEncode(b, s.trace)
	b = append(append(append(b, `","span_id":"`...), one.ID...), '"')
	if !root {
		one.Parent = b64(s.parent)
		b = append(append(append(b, `,"parent_span_id":"`...), one.Parent...), '"')
	}
	if len(s.name) > 0 {
		b = appendText(append(b, `,"name":`...), s.name)
	}
	if s.start > 0 {
		b = strconv.AppendUint(append(b, `,"start_time_unix_nano":`...), s.start, 10)
	}
	if s.end > 0 {
		b = strconv.AppendUint(append(b, `,"end_time_unix_nano":`...), s.end, 10)
	}
	b = appendPairs(append(b, `,"attributes":`...), s.attributes)
	if len(s.events) > 0 {
		b = append(b, `,"events":[`...)
		for i := range s.events {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '{')
			e := &s.events[i]
			if e.at > 0 {
				b = append(strconv.AppendUint(append(b, `"time_unix_nano":`...), e.at, 10), ',')
			}
			b = appendText(append(b, `"name":`...), e.name)
			if len(e.attributes) > 0 {
				b = appendPairs(append(b, `,"attributes":`...), e.attributes)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	if len(s.links) > 0 {
		b = append(b, `,"links":[`...)
		for i := range s.links {
			if i > 0 {
				b = append(b, ',')
			}
			l := &s.links[i]
			b = append(append(append(b, `{"trace_id":"`...), b64(l.trace)...), `","span_id":"`...)
			b = append(append(b, b64(l.id)...), '"')
			if len(l.attributes) > 0 {
				b = appendPairs(append(b, `,"attributes":`...), l.attributes)
			}
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	b = append(b, `,"status":{`...)
	// What a status says besides its code, OpenTelemetry keeps of errors alone.
	if len(s.message) > 0 && s.status == 2 {
		b = append(appendText(append(b, `"message":`...), s.message), ',')
	}
	if s.status > 0 && s.status < uint64(len(statusNames)) {
		b = append(append(append(b, `"code":"`...), one.Status...), '"')
	}
	b = append(b, "}}"...)
	o.b = b
	one.JSON = b[from:len(b):len(b)]
	return one, nil
}

// settle keeps the last of the attributes of each key, reads strings that are
// JSON, and sets the id of the trace in MLflow's form.
func (s *span) settle(trace string) {
	id := value{kind: aString, text: []byte(trace)}
	kept, named := s.attributes[:0], false
	var at map[string]int // where keys are, once there are too many to look through
	if len(s.attributes) > fewPairs {
		at = make(map[string]int, len(s.attributes))
	}
	for _, p := range s.attributes {
		if string(p.key) == traceAttribute {
			p.value, named = id, true
		} else {
			p.value.unfold()
		}
		if at != nil {
			if i, ok := at[string(p.key)]; ok {
				kept[i].value = p.value
				continue
			}
			at[string(p.key)] = len(kept)
		} else if i := find(kept, string(p.key)); i >= 0 {
			kept[i].value = p.value
			continue
		}
		kept = append(kept, p)
	}
	if !named {
		kept = append(kept, pair{[]byte(traceAttribute), id})
	}
	s.attributes = kept
}

// fewPairs are so few that looking through them is fast.
const fewPairs = 64

// find returns where a key is among pairs, -1 if it is not there.
func find(pairs []pair, key string) int {
	for i := range pairs {
		if string(pairs[i].key) == key {
			return i
		}
	}
	return -1
}

// unfold makes a string that is the JSON of an object, a list or a string the
// value that it says, as MLflow's clients write their attributes. What else
// looks like JSON (12, true) stays a string.
func (v *value) unfold() {
	if v.kind != aString {
		return
	}
	t := bytes.TrimLeft(v.text, " \t\r\n")
	if len(t) < 2 || t[0] != '{' && t[0] != '[' && t[0] != '"' {
		return
	}
	if read, ok := readJSON(t); ok {
		read.raw = v.text
		*v = read
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func appendPairs(b []byte, pairs []pair) []byte {
	b = append(b, '[')
	for i := range pairs {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"key":`...), pairs[i].key)
		if pairs[i].value.kind != 0 {
			b = appendValue(append(b, `,"value":`...), &pairs[i].value)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

func appendValue(b []byte, v *value) []byte {
	switch v.kind {
	case aString:
		b = appendText(append(b, `{"string_value":`...), v.text)
	case aBytes:
		b = appendText(append(b, `{"string_value":`...), appendBytes(nil, v.text))
	case aBool:
		b = strconv.AppendBool(append(b, `{"bool_value":`...), v.num != 0)
	case anInt:
		b = strconv.AppendInt(append(b, `{"int_value":`...), int64(v.num), 10)
	case aDouble:
		b = append(b, `{"double_value":`...)
		switch f := math.Float64frombits(v.num); {
		case math.IsNaN(f):
			b = append(b, `"NaN"`...)
		case math.IsInf(f, 1):
			b = append(b, `"Infinity"`...)
		case math.IsInf(f, -1):
			b = append(b, `"-Infinity"`...)
		default:
			b = appendFloat(b, f)
		}
	case anArray:
		b = append(b, `{"array_value":{`...)
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			} else {
				b = append(b, `"values":[`...)
			}
			b = appendValue(b, &v.items[i])
		}
		if len(v.items) > 0 {
			b = append(b, ']')
		}
		b = append(b, '}')
	case aList:
		b = append(b, `{"kvlist_value":{`...)
		if len(v.pairs) > 0 {
			b = appendPairs(append(b, `"values":`...), v.pairs)
		}
		b = append(b, '}')
	default:
		b = append(b, '{')
	}
	return append(b, '}')
}

// ParseJSON reads an ExportTraceServiceRequest in JSON, whose ids are hex.
func ParseJSON(body []byte) (spans []Span, resources int, err error) {
	var request struct {
		Resources []struct {
			Resource struct {
				Attributes []jsonKeyValue `json:"attributes"`
			} `json:"resource"`
			Scopes []struct {
				Spans []jsonSpan `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, 0, errors.Join(errOTLP, err)
	}
	out := shown{b: make([]byte, 0, len(body))}
	for _, r := range request.Resources {
		about, err := jsonPairs(r.Resource.Attributes, 0)
		if err != nil {
			return nil, 0, err
		}
		tags := resourceTags(about)
		for _, sc := range r.Scopes {
			for i := range sc.Spans {
				s, err := sc.Spans[i].span()
				if err != nil {
					return nil, 0, err
				}
				one, err := out.span(&s, tags)
				if err != nil {
					return nil, 0, err
				}
				spans = append(spans, one)
			}
		}
	}
	return spans, len(request.Resources), nil
}

// jsonSpan is a span in OTLP's JSON. Numbers of 64 bits may be strings.
type jsonSpan struct {
	Trace      string         `json:"traceId"`
	ID         string         `json:"spanId"`
	Parent     string         `json:"parentSpanId"`
	Name       string         `json:"name"`
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
	for i, n := range statusNames {
		if n == s {
			*e = jsonEnum(i)
			return nil
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
	s = span{trace: id(j.Trace), id: id(j.ID), parent: id(j.Parent), name: []byte(j.Name),
		start: uint64(j.Start), end: uint64(j.End), attributes: pairs(j.Attributes), status: uint64(j.Status.Code), message: []byte(j.Status.Message)}
	for _, e := range j.Events {
		s.events = append(s.events, event{uint64(e.At), []byte(e.Name), pairs(e.Attributes)})
	}
	for _, l := range j.Links {
		s.links = append(s.links, link{id(l.Trace), id(l.ID), pairs(l.Attributes)})
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
		pairs = append(pairs, pair{[]byte(kv.Key), v})
	}
	return pairs, nil
}

func jsonValue(raw json.RawMessage, depth int) (value, error) {
	if depth > maxDepth {
		return value{}, errOTLP
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
		return value{}, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return value{}, errors.Join(errOTLP, err)
	}
	switch {
	case v.String != nil:
		return value{kind: aString, text: []byte(*v.String)}, nil
	case v.Bool != nil:
		n := uint64(0)
		if *v.Bool {
			n = 1
		}
		return value{kind: aBool, num: n}, nil
	case v.Int != nil:
		return value{kind: anInt, num: uint64(*v.Int)}, nil
	case v.Double != nil:
		f, err := strconv.ParseFloat(strings.Replace(strings.Trim(string(*v.Double), `"`), "Infinity", "Inf", 1), 64)
		if err != nil {
			return value{}, errors.Join(errOTLP, err)
		}
		return value{kind: aDouble, num: math.Float64bits(f)}, nil
	case v.Bytes != nil:
		return value{kind: aBytes, text: v.Bytes}, nil
	case v.Array != nil:
		list := value{kind: anArray}
		for _, x := range v.Array.Values {
			e, err := jsonValue(x, depth+1)
			if err != nil {
				return value{}, err
			}
			list.items = append(list.items, e)
		}
		return list, nil
	case v.List != nil:
		pairs, err := jsonPairs(v.List.Values, depth+1)
		return value{kind: aList, pairs: pairs}, err
	}
	return value{}, nil
}

// sortSpans puts the spans of a trace in the order of their start, roots first.
func sortSpans(spans []Span) {
	sort.SliceStable(spans, func(i, j int) bool {
		a, b := &spans[i], &spans[j]
		if (a.Parent == "") != (b.Parent == "") {
			return a.Parent == ""
		}
		return a.Start < b.Start
	})
}
