package armhttp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

// The bounds of a template.
const (
	maxTemplateResources = 800
	maxExpression        = 24_576 // bytes
	maxDepth             = 64
	maxCalls             = 100_000 // of functions
	maxMade              = 1 << 20 // bytes of a text, or elements of a list
)

// planned is one resource that a template asks for.
type planned struct {
	id    resource.ID
	body  json.RawMessage
	after []string // ids and names of what must be there first
}

// template is what is read of a template. Linked and nested templates, loops and
// what asks the cloud for a value (reference, listKeys) are refused.
type template struct {
	group      resource.ID
	location   string
	defined    map[string]templateParameter
	given      resource.Document
	variables  resource.Document
	evaluating map[string]bool
	calls      *int
}

type templateParameter struct {
	Type    string          `json:"type"`
	Default json.RawMessage `json:"defaultValue"`
	Allowed []any           `json:"allowedValues"`
}

func badTemplate(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("InvalidTemplate").At("properties.template")
}

// plan tells which resources a template makes in the group, in the order in which
// they are to be made.
func plan(group resource.ID, location string, source, parameters resource.Document) ([]planned, error) {
	t := &template{group: group, location: location, given: parameters, variables: source.Object("variables"), evaluating: map[string]bool{}, calls: new(int)}
	if raw, ok := source["parameters"]; ok {
		if err := json.Unmarshal(raw, &t.defined); err != nil {
			return nil, badTemplate("The template's 'parameters' are not what is expected: %v", err)
		}
	}
	for name := range parameters {
		if _, ok := t.defined[name]; !ok {
			return nil, badTemplate("The template has no parameter '%s'.", name)
		}
	}
	for name := range t.defined {
		if _, err := t.parameter(name); err != nil {
			return nil, err
		}
	}
	var resources []json.RawMessage
	if bytes.HasPrefix(bytes.TrimSpace(source["resources"]), []byte("{")) { // by symbolic names
		named := source.Object("resources")
		for _, name := range named.Names() {
			resources = append(resources, named[name])
		}
	} else if raw, ok := source["resources"]; ok {
		if err := json.Unmarshal(raw, &resources); err != nil {
			return nil, badTemplate("The template's 'resources' must be a list.")
		}
	}
	var all []planned
	for _, raw := range resources {
		var err error
		if all, err = t.resource(all, resource.ID{}, raw, 0); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, badTemplate("The template makes no resources.")
	}
	return ordered(all)
}

// resource adds one resource of a template, and those that lie in it.
func (t *template) resource(all []planned, within resource.ID, raw json.RawMessage, depth int) ([]planned, error) {
	if len(all) >= maxTemplateResources || depth > maxDepth {
		return nil, badTemplate("The template makes more than %d resources.", maxTemplateResources)
	}
	source, err := resource.ParseDocument(raw)
	if err != nil {
		return nil, badTemplate("A resource of the template must be an object.")
	}
	if _, loop := source["copy"]; loop {
		return nil, badTemplate("The template makes copies in a loop, which is not offered; name each resource.")
	}
	if condition, ok := source["condition"]; ok {
		wanted, err := t.value(condition, 0)
		if err != nil {
			return nil, err
		}
		if on, ok := wanted.(bool); !ok {
			return nil, badTemplate("A resource's 'condition' must be true or false, not %v.", wanted)
		} else if !on {
			return all, nil
		}
	}
	kind, name := source.Text("type"), ""
	if v, err := t.value(source["name"], 0); err != nil {
		return nil, err
	} else if name, _ = v.(string); name == "" {
		return nil, badTemplate("A resource of the type '%s' has no name.", kind)
	}
	id, err := t.id(within, kind, name)
	if err != nil {
		return nil, err
	}
	if id.Is(deployments) {
		return nil, badTemplate("The template has another template in it, which is not offered; deploy each by itself.")
	}
	body := resource.Document{}
	for _, member := range []string{"location", "kind", "tags", "sku", "identity", "properties"} {
		raw, ok := source[member]
		if !ok {
			continue
		}
		v, err := t.value(raw, 0)
		if err != nil {
			return nil, err
		}
		body.Set(member, v)
	}
	p := planned{id: id, body: body.Raw()}
	if !within.Zero() {
		p.after = append(p.after, within.String())
	}
	after, err := t.value(source["dependsOn"], 0)
	if err != nil {
		return nil, err
	}
	list, _ := after.([]any)
	for _, one := range list {
		if text, ok := one.(string); ok {
			p.after = append(p.after, text)
		}
	}
	all = append(all, p)
	var inside []json.RawMessage
	if raw, ok := source["resources"]; ok && json.Unmarshal(raw, &inside) != nil {
		return nil, badTemplate("The 'resources' in '%s' must be a list.", name)
	}
	for _, raw := range inside {
		if all, err = t.resource(all, id, raw, depth+1); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// id is the id of a resource of the template: type "P/a/b" and name "x/y".
func (t *template) id(within resource.ID, kind, name string) (resource.ID, error) {
	at := t.group
	provider, types, ok := strings.Cut(kind, "/")
	segments, names := strings.Split(types, "/"), strings.Split(name, "/")
	if !within.Zero() && !strings.Contains(provider, ".") { // relative to what it lies in
		at, segments, ok = within, strings.Split(kind, "/"), true
	}
	if !ok || len(segments) != len(names) {
		return resource.ID{}, badTemplate("The type '%s' and the name '%s' do not fit: a name has a part for each part of its type after the provider.", kind, name)
	}
	for i, segment := range segments {
		if i == 0 && at == t.group {
			segment = provider + "/" + segment
		}
		if at = at.Child(segment, names[i]); at.Zero() {
			return at, badTemplate("'%s' of the type '%s' is no name of a resource.", name, kind)
		}
	}
	return at, nil
}

// ordered puts what others depend on before them.
func ordered(all []planned) ([]planned, error) {
	var done []planned
	needs := func(p planned) bool {
		for _, other := range all {
			waits := slices.ContainsFunc(p.after, func(text string) bool {
				return strings.EqualFold(text, other.id.String()) || strings.EqualFold(text, other.id.Name())
			})
			if waits && !other.id.Same(p.id) {
				return true
			}
		}
		return false
	}
	for len(all) > 0 {
		next := slices.IndexFunc(all, func(p planned) bool { return !needs(p) })
		if next < 0 {
			return nil, badTemplate("The resources of the template wait for each other ('dependsOn').")
		}
		done = append(done, all[next])
		all = slices.Delete(all, next, next+1)
	}
	return done, nil
}

// parameter is the value of a parameter, as it was given or by default.
func (t *template) parameter(name string) (any, error) {
	d, ok := t.defined[name]
	if !ok {
		return nil, badTemplate("The template has no parameter '%s'.", fault.Clip(name))
	}
	raw, given := t.given.Object(name)["value"]
	var v any
	var err error
	switch {
	case given:
		err = json.Unmarshal(raw, &v)
	case len(d.Default) > 0:
		v, err = t.once("parameters."+name, d.Default)
	default:
		return nil, badTemplate("The template's parameter '%s' is required.", name).At("properties.parameters." + name)
	}
	if err != nil {
		return nil, err
	}
	fits := true
	switch strings.ToLower(d.Type) {
	case "string", "securestring":
		_, fits = v.(string)
	case "int":
		n, number := v.(float64)
		fits = number && n == math.Trunc(n)
	case "bool":
		_, fits = v.(bool)
	case "object", "secureobject":
		_, fits = v.(map[string]any)
	case "array":
		_, fits = v.([]any)
	}
	if !fits {
		return nil, badTemplate("The parameter '%s' must be of the type %s.", name, d.Type).At("properties.parameters." + name)
	}
	if len(d.Allowed) > 0 && !slices.ContainsFunc(d.Allowed, func(a any) bool { return alike(a, v) }) {
		return nil, badTemplate("The parameter '%s' is %v; allowed are %v.", name, v, d.Allowed).At("properties.parameters." + name)
	}
	return v, nil
}

// once evaluates what may refer to others, and not to itself.
func (t *template) once(what string, raw json.RawMessage) (any, error) {
	if t.evaluating[what] {
		return nil, badTemplate("'%s' of the template refers to itself.", what)
	}
	t.evaluating[what] = true
	defer delete(t.evaluating, what)
	return t.value(raw, 0)
}

// value is JSON with its expressions evaluated.
func (t *template) value(raw json.RawMessage, depth int) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, badTemplate("The template is not valid JSON: %v", err)
	}
	return t.deep(v, depth)
}

func (t *template) deep(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, badTemplate("The template is nested deeper than %d levels.", maxDepth)
	}
	var err error
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "[[") {
			return v[1:], nil
		}
		if strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") {
			return t.expression(v[1:len(v)-1], depth)
		}
	case map[string]any:
		for name, member := range v {
			if v[name], err = t.deep(member, depth+1); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, element := range v {
			if v[i], err = t.deep(element, depth+1); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// expression evaluates what stands in brackets: calls, literals, members.
func (t *template) expression(text string, depth int) (any, error) {
	if len(text) > maxExpression {
		return nil, badTemplate("An expression of the template is longer than %d bytes.", maxExpression)
	}
	p := &expression{t: t, text: text, depth: depth}
	v, err := p.operand()
	if err != nil {
		return nil, err
	}
	if p.blanks(); p.at < len(p.text) {
		return nil, p.wrong("%q is too much", fault.Clip(p.text[p.at:]))
	}
	return v, nil
}

// expression is one that is being read.
type expression struct {
	t     *template
	text  string
	at    int
	depth int
}

func (p *expression) wrong(format string, args ...any) error {
	return badTemplate("The expression [%s] cannot be evaluated: "+format+".", append([]any{fault.Clip(p.text)}, args...)...)
}

func (p *expression) blanks() {
	for p.at < len(p.text) && strings.ContainsRune(" \t\r\n", rune(p.text[p.at])) {
		p.at++
	}
}

// is reads a character if it comes next.
func (p *expression) is(c byte) bool {
	if p.blanks(); p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *expression) operand() (any, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.wrong("it is nested deeper than %d levels", maxDepth)
	}
	defer func() { p.depth-- }()
	v, err := p.primary()
	for err == nil {
		switch {
		case p.is('.'):
			v, err = p.member(v, p.word())
		case p.is('['):
			var key any
			if key, err = p.operand(); err == nil && !p.is(']') {
				err = p.wrong("']' is missing")
			}
			if err == nil {
				v, err = p.member(v, key)
			}
		default:
			return v, nil
		}
	}
	return nil, err
}

func (p *expression) word() string {
	p.blanks()
	from := p.at
	for p.at < len(p.text) && (p.text[p.at] == '_' || p.text[p.at] >= '0' && p.text[p.at] <= '9' || p.text[p.at]|0x20 >= 'a' && p.text[p.at]|0x20 <= 'z') {
		p.at++
	}
	return p.text[from:p.at]
}

func (p *expression) member(of, key any) (any, error) {
	switch of := of.(type) {
	case map[string]any:
		name, _ := key.(string)
		for given, v := range of {
			if strings.EqualFold(given, name) {
				return v, nil
			}
		}
	case []any:
		if n, ok := key.(float64); ok && n == math.Trunc(n) && n >= 0 && int(n) < len(of) {
			return of[int(n)], nil
		}
	}
	return nil, p.wrong("there is no member %v", key)
}

func (p *expression) primary() (any, error) {
	p.blanks()
	if p.at >= len(p.text) {
		return nil, p.wrong("it ends too soon")
	}
	switch c := p.text[p.at]; {
	case c == '\'':
		var b strings.Builder
		for p.at++; p.at < len(p.text); p.at++ {
			if p.text[p.at] != '\'' {
				b.WriteByte(p.text[p.at])
				continue
			}
			if p.at++; p.at >= len(p.text) || p.text[p.at] != '\'' {
				return b.String(), nil
			}
			b.WriteByte('\'')
		}
		return nil, p.wrong("a string does not end")
	case c == '-' || c >= '0' && c <= '9':
		from := p.at
		for p.at++; p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9'; p.at++ {
		}
		n, err := strconv.ParseInt(p.text[from:p.at], 10, 64)
		if err != nil {
			return nil, p.wrong("%q is no number", p.text[from:p.at])
		}
		return float64(n), nil
	}
	name := p.word()
	if name == "" || !p.is('(') {
		return nil, p.wrong("a call of a function is expected at %q", fault.Clip(p.text[p.at:]))
	}
	var args []any
	for !p.is(')') {
		if len(args) > 0 && !p.is(',') {
			return nil, p.wrong("',' or ')' is missing")
		}
		v, err := p.operand()
		if err != nil {
			return nil, err
		}
		args = append(args, v)
	}
	if *p.t.calls++; *p.t.calls > maxCalls {
		return nil, p.wrong("the template calls more than %d functions", maxCalls)
	}
	v, err := p.call(name, args)
	switch made := v.(type) {
	case string:
		if len(made) > maxMade {
			return nil, p.wrong("it makes a text of more than %d bytes", maxMade)
		}
	case []any:
		if len(made) > maxMade/16 {
			return nil, p.wrong("it makes a list of more than %d elements", maxMade/16)
		}
	}
	return v, err
}

// call is what a function makes of its arguments.
func (p *expression) call(name string, args []any) (any, error) {
	text := func(i int) string {
		if i < len(args) {
			s, _ := args[i].(string)
			return s
		}
		return ""
	}
	need := func(n int) bool { return len(args) == n }
	switch f := strings.ToLower(name); {
	case f == "parameters" && need(1):
		return p.t.parameter(text(0))
	case f == "variables" && need(1):
		raw, ok := p.t.variables[text(0)]
		if !ok {
			return nil, p.wrong("there is no variable '%s'", fault.Clip(text(0)))
		}
		return p.t.once("variables."+text(0), raw)
	case f == "concat" && len(args) > 0:
		if _, lists := args[0].([]any); lists {
			joined := []any{}
			for _, a := range args {
				list, _ := a.([]any)
				joined = append(joined, list...)
			}
			return joined, nil
		}
		var b strings.Builder
		for _, a := range args {
			b.WriteString(plainText(a))
		}
		return b.String(), nil
	case f == "format" && len(args) > 0:
		made := text(0)
		for i, a := range args[1:] {
			made = strings.ReplaceAll(made, "{"+strconv.Itoa(i)+"}", plainText(a))
		}
		return made, nil
	case f == "resourceid" && len(args) >= 2:
		return p.resourceID(args)
	case f == "subscription" && need(0):
		return map[string]any{"id": "/subscriptions/" + p.t.group.Subscription(), "subscriptionId": p.t.group.Subscription()}, nil
	case f == "resourcegroup" && need(0):
		return map[string]any{"id": p.t.group.String(), "name": p.t.group.Name(), "location": p.t.location}, nil
	case f == "tolower" && need(1):
		return strings.ToLower(text(0)), nil
	case f == "toupper" && need(1):
		return strings.ToUpper(text(0)), nil
	case f == "trim" && need(1):
		return strings.TrimSpace(text(0)), nil
	case f == "replace" && need(3):
		return strings.ReplaceAll(text(0), text(1), text(2)), nil
	case f == "string" && need(1):
		return plainText(args[0]), nil
	case f == "int" && need(1):
		n, err := strconv.ParseInt(plainText(args[0]), 10, 64)
		if err != nil {
			return nil, p.wrong("%v is no whole number", args[0])
		}
		return float64(n), nil
	case f == "bool" && need(1):
		return strings.EqualFold(plainText(args[0]), "true") || plainText(args[0]) == "1", nil
	case f == "if" && need(3):
		if args[0] == true {
			return args[1], nil
		}
		return args[2], nil
	case f == "equals" && need(2):
		return alike(args[0], args[1]), nil
	case f == "not" && need(1):
		return args[0] != true, nil
	case f == "and":
		return !slices.ContainsFunc(args, func(a any) bool { return a != true }), nil
	case f == "or":
		return slices.Contains(args, any(true)), nil
	case f == "true" && need(0), f == "false" && need(0):
		return f == "true", nil
	case f == "null" && need(0):
		return nil, nil
	case f == "empty" && need(1):
		switch v := args[0].(type) {
		case nil:
			return true, nil
		case string:
			return v == "", nil
		case []any:
			return len(v) == 0, nil
		case map[string]any:
			return len(v) == 0, nil
		}
		return false, nil
	case f == "coalesce":
		for _, a := range args {
			if a != nil {
				return a, nil
			}
		}
		return nil, nil
	case f == "createarray":
		return append([]any{}, args...), nil
	}
	return nil, p.wrong("the function '%s' is not offered, or not with %d arguments", name, len(args))
}

// resourceID is the id that resourceId(…) means: subscription and group may come
// before the type.
func (p *expression) resourceID(args []any) (any, error) {
	var parts []string
	for _, a := range args {
		s, ok := a.(string)
		if !ok || s == "" {
			return nil, p.wrong("resourceId takes strings")
		}
		parts = append(parts, s)
	}
	group, at := p.t.group, slices.IndexFunc(parts, func(s string) bool { return strings.Contains(s, "/") })
	if at < 0 || at > 2 {
		return nil, p.wrong("resourceId has no type")
	}
	if at > 0 {
		subscription := group.Subscription()
		if at == 2 {
			subscription = parts[0]
		}
		var err error
		if group, err = resource.ParseID("/subscriptions/" + subscription + "/resourceGroups/" + parts[at-1]); err != nil {
			return nil, p.wrong("%v", err)
		}
	}
	other := *p.t
	other.group = group
	id, err := other.id(resource.ID{}, parts[at], strings.Join(parts[at+1:], "/"))
	if err != nil {
		return nil, err
	}
	return id.String(), nil
}

// plainText is a value as it stands in a text.
func plainText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

// alike tells whether two values are equal; texts are matched as they are.
func alike(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
