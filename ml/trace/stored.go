package trace

import (
	"encoding/base64"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
)

// attributes reads the attributes of a stored span.
func (s *Span) attributes() []pair {
	if s.read == nil {
		s.read = []pair{}
		if v, ok := readJSON(s.JSON); ok {
			if a := member(&v, "attributes"); a != nil {
				s.read = shownPairs(a)
			}
		}
	}
	return s.read
}

// shownPairs reads pairs as a span shows them.
func shownPairs(list *value) []pair {
	pairs := make([]pair, 0, len(list.items))
	for i := range list.items {
		e := &list.items[i]
		key := member(e, "key")
		if key == nil {
			continue
		}
		p := pair{key: key.text}
		if v := member(e, "value"); v != nil {
			p.value = shownValue(v)
		}
		pairs = append(pairs, p)
	}
	return pairs
}

// shownValue reads a value as a span shows it.
func shownValue(v *value) value {
	if v.kind != aList || len(v.pairs) == 0 {
		return value{}
	}
	x := v.pairs[0].value
	switch string(v.pairs[0].key) {
	case "string_value", "bool_value", "int_value":
		return x
	case "double_value":
		switch {
		case x.kind == anInt:
			x = value{kind: aDouble, num: math.Float64bits(float64(int64(x.num)))}
		case x.kind == aString:
			f, _ := strconv.ParseFloat(strings.Replace(string(x.text), "Infinity", "Inf", 1), 64)
			x = value{kind: aDouble, num: math.Float64bits(f)}
		}
		return x
	case "array_value":
		list := value{kind: anArray}
		if values := member(&x, "values"); values != nil {
			for i := range values.items {
				list.items = append(list.items, shownValue(&values.items[i]))
			}
		}
		return list
	case "kvlist_value":
		list := value{kind: aList}
		if values := member(&x, "values"); values != nil {
			list.pairs = shownPairs(values)
		}
		return list
	}
	return value{}
}

// attribute is an attribute of a span, nil if it is not there.
func (s *Span) attribute(key string) *value {
	a := s.attributes()
	if i := find(a, key); i >= 0 {
		return &a[i].value
	}
	return nil
}

// kind is the type of a span, if it has one.
func (s *Span) kind() (string, bool) {
	v := s.attribute(typeAttribute)
	if v == nil || v.kind == 0 {
		return "", false
	}
	return v.plain(), true
}

// readFacts are the counts of a stored span.
func (s *Span) readFacts() *facts {
	f := &facts{}
	for key, to := range map[string]*[]pair{usageAttribute: &f.usage, costAttribute: &f.cost} {
		if v := s.attribute(key); v != nil && v.kind == aList {
			*to = append([]pair{}, v.pairs...)
		}
	}
	return f
}

// text is a span as MLflow keeps it, which searches look through: attributes
// are JSON within JSON.
func (s *Span) text() string { return string(s.plain(nil)) }

// Plain is a span in the JSON that MLflow keeps of it: attributes are JSON
// within JSON.
func (s *Span) Plain() []byte { return s.plain(nil) }

// plain writes a span as MLflow's own JSON of spans has it.
func (s *Span) plain(b []byte) []byte {
	shown, _ := readJSON(s.JSON)
	get := func(key string) *value {
		if v := member(&shown, key); v != nil {
			return v
		}
		return &value{}
	}
	number := func(v *value) []byte {
		if v.kind == 0 {
			return append(b, '0')
		}
		return appendJSON(b, v)
	}
	b = appendJSON(append(b, `{"trace_id": `...), get("trace_id"))
	b = appendJSON(append(b, `, "span_id": `...), get("span_id"))
	b = appendJSON(append(b, `, "parent_span_id": `...), get("parent_span_id"))
	b = appendText(append(b, `, "name": `...), get("name").text)
	b = append(b, `, "start_time_unix_nano": `...)
	b = number(get("start_time_unix_nano"))
	b = append(b, `, "end_time_unix_nano": `...)
	b = number(get("end_time_unix_nano"))
	b = append(b, `, "events": [`...)
	events := get("events").items
	for i := range events {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, `{"name": `...)
		if v := member(&events[i], "name"); v != nil {
			b = appendJSON(b, v)
		}
		b = append(b, `, "time_unix_nano": `...)
		at := value{}
		if v := member(&events[i], "time_unix_nano"); v != nil {
			at = *v
		}
		b = number(&at)
		about := value{kind: aList}
		if v := member(&events[i], "attributes"); v != nil {
			about.pairs = shownPairs(v)
		}
		b = appendJSON(append(b, `, "attributes": `...), &about)
		b = append(b, '}')
	}
	b = append(b, `], "status": {"code": `...)
	b = appendText(b, []byte(s.Status))
	b = append(b, `, "message": `...)
	if m := member(get("status"), "message"); m != nil {
		b = appendJSON(b, m)
	} else {
		b = append(b, `""`...)
	}
	b = append(b, `}, "attributes": {`...)
	for i, p := range s.attributes() {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(appendText(b, p.key), ": "...)
		b = appendText(b, []byte(p.value.stored()))
	}
	b = append(b, `}, "links": [`...)
	links := get("links").items
	for i := range links {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendText(append(b, `{"trace_id": `...), []byte("tr-"+hexOf(member(&links[i], "trace_id"))))
		b = appendText(append(b, `, "span_id": `...), []byte(hexOf(member(&links[i], "span_id"))))
		about := value{kind: aList}
		if v := member(&links[i], "attributes"); v != nil {
			about.pairs = shownPairs(v)
		}
		b = appendJSON(append(b, `, "attributes": `...), &about)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

// hexOf is an id that is shown as base64.
func hexOf(v *value) string {
	if v == nil {
		return ""
	}
	b, _ := base64.StdEncoding.DecodeString(string(v.text))
	return hex.EncodeToString(b)
}
