package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"sort"
	"strings"

	"lapis/fault"
)

// WrongJSON says where JSON that does not fit is wrong: at is the path of what
// was decoded, "" for the whole body.
func WrongJSON(err error, at string) *fault.Error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return fault.Invalid("the request body is not what is expected here: %v", err).With("InvalidRequestContent")
	}
	field := strings.Trim(at+"."+wrong.Field, ".")
	if field == "" {
		return fault.Invalid("the request body must be a JSON object, not of the type %s", wrong.Value).With("InvalidRequestContent")
	}
	return fault.Invalid("'%s' must not be of the type %s", field, wrong.Value).With("ValidationError").At(field)
}

// Document is a JSON object whose members are kept as they came. Nouns write
// defaults as patches on it and never encode a struct again, so that members
// they don't know survive.
type Document map[string]json.RawMessage

// ParseDocument reads an object; nil and null are an empty one. Members that
// are null are dropped.
func ParseDocument(raw json.RawMessage) (Document, error) {
	d := Document{}
	if len(bytes.TrimSpace(raw)) == 0 {
		return d, nil
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, fault.Invalid("a JSON object is expected here, not %s", fault.Clip(string(raw)))
	}
	if d == nil {
		return Document{}, nil
	}
	for k, v := range d {
		if bytes.Equal(bytes.TrimSpace(v), []byte("null")) {
			delete(d, k)
		}
	}
	return d, nil
}

// Raw is the object as JSON, members sorted by name.
func (d Document) Raw() json.RawMessage {
	raw, err := json.Marshal(map[string]json.RawMessage(d))
	if err != nil {
		panic("a document holds broken JSON: " + err.Error()) // only valid JSON gets in
	}
	return raw
}

// Set puts a value, encoded as JSON.
func (d Document) Set(name string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		panic("a value cannot be JSON: " + err.Error())
	}
	d[name] = raw
}

// Default puts a value if the member is not there.
func (d Document) Default(name string, value any) {
	if _, ok := d[name]; !ok {
		d.Set(name, value)
	}
}

// Text is the member as a string; "" if it is none.
func (d Document) Text(name string) string {
	var s string
	if raw, ok := d[name]; ok {
		_ = json.Unmarshal(raw, &s)
	}
	return s
}

// Object is the member as an object; an empty one if it is none.
func (d Document) Object(name string) Document {
	inner, err := ParseDocument(d[name])
	if err != nil {
		return Document{}
	}
	return inner
}

// Names are the member names, sorted.
func (d Document) Names() []string {
	names := make([]string, 0, len(d))
	for k := range d {
		names = append(names, k)
	}
	sort.Strings(names)
	return names
}

// Overlay returns base with the members of top put over it.
func Overlay(base, top json.RawMessage) json.RawMessage {
	if len(top) == 0 {
		return base
	}
	under, err := ParseDocument(base)
	if err != nil {
		return base
	}
	over, err := ParseDocument(top)
	if err != nil {
		return base
	}
	for k, v := range over {
		under[k] = v
	}
	return under.Raw()
}

// MergePatch applies an RFC 7396 merge patch.
func MergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	var p any
	if err := decodeNumbers(patch, &p); err != nil {
		return nil, fault.Invalid("the patch is not valid JSON: %v", err).With("InvalidRequestContent")
	}
	var t any
	if len(target) > 0 {
		if err := decodeNumbers(target, &t); err != nil {
			return nil, err
		}
	}
	return json.Marshal(mergeValue(t, p))
}

func mergeValue(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = mergeValue(t[k], v)
		}
	}
	return t
}

// decodeNumbers decodes JSON and keeps numbers as they are written.
func decodeNumbers(raw json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode(into)
}

// DropNulls returns the JSON without members that are null, at any depth of
// objects; elements of lists are kept.
func DropNulls(raw json.RawMessage) (json.RawMessage, error) {
	if !bytes.Contains(raw, []byte("null")) {
		return raw, nil
	}
	var v any
	if err := decodeNumbers(raw, &v); err != nil {
		return nil, err
	}
	return json.Marshal(withoutNulls(v))
}

func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, member := range v {
			if member == nil {
				delete(v, k)
			} else {
				v[k] = withoutNulls(member)
			}
		}
	case []any:
		for i, element := range v {
			v[i] = withoutNulls(element)
		}
	}
	return v
}

// EqualJSON tells whether two texts are the same JSON.
func EqualJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if decodeNumbers(a, &x) != nil || decodeNumbers(b, &y) != nil {
		return false
	}
	p, err1 := json.Marshal(x)
	q, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}
