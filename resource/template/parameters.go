package template

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"lapis/fault"
)

// Parameter is what a template says of one.
type Parameter struct {
	Type      string            `json:"type"`
	Ref       string            `json:"$ref"`
	Default   json.RawMessage   `json:"defaultValue"`
	Allowed   []json.RawMessage `json:"allowedValues"`
	MinValue  *int64            `json:"minValue"`
	MaxValue  *int64            `json:"maxValue"`
	MinLength *int              `json:"minLength"`
	MaxLength *int              `json:"maxLength"`
	Nullable  bool              `json:"nullable"`
}

// typeOf follows the references of a parameter's type.
func (t *Template) typeOf(p Parameter) Parameter {
	for range 16 {
		name, ok := strings.CutPrefix(p.Ref, "#/definitions/")
		if !ok {
			break
		}
		of, ok := t.types[name]
		if !ok {
			break
		}
		of.Nullable = of.Nullable || p.Nullable
		if of.Default == nil {
			of.Default = p.Default
		}
		p = of
	}
	return p
}

func secret(kind string) bool { return strings.HasPrefix(strings.ToLower(kind), "secure") }

// types are the types of values, in the words that deployments show.
var types = map[string]string{"string": "String", "securestring": "SecureString", "int": "Int", "bool": "Bool", "object": "Object", "secureobject": "SecureObject", "array": "Array"}

// fits tells whether a value is one that a parameter takes.
func (t *Template) fits(p Parameter, what string, v any) error {
	p = t.typeOf(p)
	if v == nil && p.Nullable {
		return nil
	}
	shown := "that"
	if !secret(p.Type) {
		shown = fault.Clip(plain(v))
	}
	fits, size := true, -1
	switch strings.ToLower(p.Type) {
	case "string", "securestring":
		var s string
		if s, fits = v.(string); fits {
			size = utf8.RuneCountInString(s)
		}
	case "int":
		var n int64
		if n, fits = v.(int64); fits && (p.MinValue != nil && n < *p.MinValue || p.MaxValue != nil && n > *p.MaxValue) {
			return Invalid("%s is %d, which is out of its range.", what, n)
		}
	case "bool":
		_, fits = v.(bool)
	case "object", "secureobject":
		_, fits = v.(map[string]any)
	case "array":
		var l []any
		if l, fits = v.([]any); fits {
			size = len(l)
		}
	case "":
		fits = true
	default:
		return Invalid("%s has the type '%s'; it must be one of string, secureString, int, bool, object, secureObject and array.", what, fault.Clip(p.Type))
	}
	if !fits {
		return Invalid("%s must be of the type %s, and %s is not.", what, p.Type, shown)
	}
	if size >= 0 && (p.MinLength != nil && size < *p.MinLength || p.MaxLength != nil && size > *p.MaxLength) {
		return Invalid("%s has the length %d, which is out of its range.", what, size)
	}
	if len(p.Allowed) == 0 {
		return nil
	}
	var allowed []string
	among := map[string]bool{}
	for _, raw := range p.Allowed {
		one, err := decode(raw)
		if err != nil {
			return err
		}
		allowed = append(allowed, plain(one))
		among[string(Encode(one))] = true
	}
	chosen, list := v.([]any)
	ok := among[string(Encode(v))]
	if list && !ok { // any of them, then
		ok = !slices.ContainsFunc(chosen, func(one any) bool { return !among[string(Encode(one))] })
	}
	if !ok {
		return Invalid("%s is %s; allowed are '%s'.", what, shown, strings.Join(allowed, ", "))
	}
	return nil
}

// parameter is the value of a parameter, as it was given or by default.
func (t *Template) parameter(name string) (any, error) {
	key := strings.ToLower(name)
	d, ok := t.defined[key]
	if !ok {
		return nil, Invalid("The template has no parameter '%s'.", fault.Clip(name))
	}
	if t.unknown[key] {
		return nil, ErrLater
	}
	if secret(t.typeOf(d.Parameter).Type) {
		t.secretly = true
	}
	at := "properties.parameters." + d.name
	return t.once("parameters."+key, func() (any, error) {
		raw, given := t.given[key]
		var v any
		var err error
		p := t.typeOf(d.Parameter)
		switch {
		case given:
			v, err = decode(raw)
		case len(p.Default) > 0:
			v, err = scope{t: t, defaults: true}.raw(p.Default)
		case p.Nullable:
		default:
			return nil, Invalid("The value for the template parameter '%s' is not provided: '%s' is required.", d.name, d.name).At(at)
		}
		if err != nil {
			return nil, err
		}
		if err := t.fits(d.Parameter, "The parameter '"+d.name+"'", v); err != nil {
			return nil, fault.Find(err).At(at)
		}
		return v, nil
	})
}

// Parameters are the parameters as a deployment shows them: never a secret.
func (t *Template) Parameters() map[string]any {
	shown := map[string]any{}
	for key, d := range t.defined {
		kind := t.typeOf(d.Parameter).Type
		one := map[string]any{"type": typeName(kind)}
		if v, err := t.parameter(key); err == nil && !secret(kind) {
			one["value"] = v
		}
		shown[d.name] = one
	}
	return shown
}

func typeName(kind string) string {
	if name, ok := types[strings.ToLower(kind)]; ok {
		return name
	}
	return kind
}
