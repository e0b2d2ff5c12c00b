// Package template reads templates of Azure Resource Manager: which resources
// one asks for, in which order, and what its expressions evaluate to. It asks a
// World for what only a deployment can know.
package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"lapis/fault"
	"lapis/resource"
)

// maxResources bounds a template.
const maxResources = 800

// Deployments is the type of the resources that are templates themselves.
const Deployments = "Microsoft.Resources/deployments"

// World is what a template may ask of what is there.
type World interface {
	// Get returns a resource as readers see it, or a fault.
	Get(id resource.ID) (map[string]any, error)

	// List returns what an action like listKeys says, or a fault.
	List(id resource.ID, action string, body json.RawMessage) (any, error)

	// Site tells of a resource group, for the deployment of a template in it.
	Site(group resource.ID, deployment string) (Site, error)

	// Preview tells that nothing is made: what asks for what is not there yet
	// stays as it is written.
	Preview() bool
}

// Site is where a template is deployed: what its functions of these names say.
type Site struct {
	Group                                                                  resource.ID
	ResourceGroup, Subscription, Tenant, Environment, Deployment, Deployer map[string]any
}

// Template is one that has been read.
type Template struct {
	// Steps are the resources in the order in which they are to be made.
	Steps []*Step

	source     json.RawMessage
	parent     *Template // whose parameters and variables it speaks of; nil: its own
	site       Site
	group      resource.ID // where its resources lie
	base       scope       // of outputs, names and counts
	defined    map[string]definition
	given      map[string]json.RawMessage
	unknown    map[string]bool // parameters whose values a preview does not know
	known      map[string]any  // values of parameters and variables
	hidden     map[string]bool // variables that are made of secrets
	secretly   bool            // a secret was read
	evaluating map[string]bool
	variables  map[string]json.RawMessage
	loops      map[string]propertyLoop // that make variables
	functions  map[string]ownFunction
	types      map[string]Parameter
	nodes      map[string]node
	outputs    resource.Document
	all        []*Step
	copies     map[string]bool // names of the loops of resources
	skipped    bool            // a preview could not tell the name of a resource
	work       *int
}

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

type definition struct {
	name string
	Parameter
}

// ownFunction is one that the template defines.
type ownFunction struct {
	Parameters []struct {
		Name string `json:"name"`
		Parameter
	} `json:"parameters"`
	Output struct {
		Type  string          `json:"type"`
		Value json.RawMessage `json:"value"`
	} `json:"output"`
}

// Step is one resource of a template.
type Step struct {
	ID       resource.ID
	Existing bool // it is spoken of, and not made

	t       *Template
	key     string // of the member of the template's resources that it came from
	source  map[string]any
	e       scope
	symbol  string
	loop    string
	pass    int
	off     bool // its condition is false
	name    string
	depends []string
	after   []*Step
	fixed   json.RawMessage
}

// Invalid says what is wrong with a template.
func Invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("InvalidTemplate").At("properties.template")
}

// Fixed is what a template makes of which one knows what it wants: one resource.
func Fixed(id resource.ID, body json.RawMessage) *Template {
	return &Template{Steps: []*Step{{ID: id, fixed: body}}}
}

// Read reads a template for a site, with the values of its parameters as a
// deployment has them: {"name": {"value": …}}.
func Read(source json.RawMessage, given resource.Document, at Site) (*Template, error) {
	work := maxWork * 16
	return read(source, given, nil, at, &work)
}

func read(source json.RawMessage, given resource.Document, unknown map[string]bool, at Site, work *int) (*Template, error) {
	doc, err := resource.ParseDocument(source)
	if err != nil {
		return nil, Invalid("The template must be a JSON object.")
	}
	t := &Template{source: source, site: at, group: at.Group, defined: map[string]definition{}, given: map[string]json.RawMessage{}, unknown: unknown, known: map[string]any{}, hidden: map[string]bool{},
		evaluating: map[string]bool{}, variables: map[string]json.RawMessage{}, loops: map[string]propertyLoop{}, functions: map[string]ownFunction{},
		types: map[string]Parameter{}, nodes: map[string]node{}, copies: map[string]bool{}, work: work}
	t.base = scope{t: t}
	for _, member := range []string{"extensions", "imports"} {
		if v, err := decode(doc[member]); err == nil && v != nil && !Alike(v, map[string]any{}) {
			return nil, Invalid("The template has '%s', which are not offered.", member)
		}
	}
	if err := t.declare(doc); err != nil {
		return nil, err
	}
	for name, raw := range given {
		p, err := resource.ParseDocument(raw)
		if err != nil {
			return nil, Invalid("The parameter '%s' must be an object with a 'value'.", fault.Clip(name)).At("properties.parameters." + fault.Clip(name))
		}
		if _, ok := t.defined[strings.ToLower(name)]; !ok {
			return nil, Invalid("The template has no parameter '%s'. The parameters it has are '%s'.", fault.Clip(name), fault.Clip(strings.Join(t.names(), ", "))).At("properties.parameters." + fault.Clip(name))
		}
		if _, ok := p["reference"]; ok {
			return nil, Invalid("The parameter '%s' refers to a secret in a key vault, which is not offered; give its value.", name).At("properties.parameters." + name)
		}
		if raw, ok := p["value"]; ok {
			t.given[strings.ToLower(name)] = raw
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.defined)) {
		if _, err := t.parameter(name); err != nil && !errors.Is(err, ErrLater) {
			return nil, err
		}
	}
	if err := t.resources(doc); err != nil {
		return nil, err
	}
	t.outputs = doc.Object("outputs")
	return t, t.order()
}

func (t *Template) names() []string {
	var all []string
	for _, d := range t.defined {
		all = append(all, d.name)
	}
	slices.Sort(all)
	return all
}

// declare reads parameters, variables, types and functions.
func (t *Template) declare(doc resource.Document) error {
	fits := func(member string, into any) error {
		if raw, ok := doc[member]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return Invalid("The template's '%s' are not what is expected: %v", member, err)
			}
		}
		return nil
	}
	var defined map[string]Parameter
	var variables map[string]json.RawMessage
	var functions []struct {
		Namespace string                 `json:"namespace"`
		Members   map[string]ownFunction `json:"members"`
	}
	if err := errors.Join(fits("parameters", &defined), fits("variables", &variables), fits("functions", &functions), fits("definitions", &t.types)); err != nil {
		return Invalid("%v", err)
	}
	for name, p := range defined {
		t.defined[strings.ToLower(name)] = definition{name, p}
	}
	for _, f := range functions {
		for name, own := range f.Members {
			t.functions[strings.ToLower(f.Namespace+"."+name)] = own
		}
	}
	for name, raw := range variables {
		if v, err := decode(raw); err == nil {
			if loops, ok := propertyLoops(name, v); ok {
				for _, l := range loops {
					t.loops[strings.ToLower(l.name)] = l
				}
				continue
			}
		}
		t.variables[strings.ToLower(name)] = raw
	}
	return nil
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

// variable is the value of a variable.
func (t *Template) variable(name string) (any, error) {
	key := strings.ToLower(name)
	before := t.secretly
	t.secretly = t.hidden[key]
	defer func() {
		t.hidden[key] = t.secretly
		t.secretly = t.secretly || before
	}()
	return t.once("variables."+key, func() (any, error) {
		e := scope{t: t}
		if l, ok := t.loops[key]; ok {
			return e.repeat(l)
		}
		raw, ok := t.variables[key]
		if !ok {
			return nil, Invalid("The template variable '%s' is not found.", fault.Clip(name))
		}
		return e.raw(raw)
	})
}

// once evaluates what may refer to others, and not to itself.
func (t *Template) once(what string, do func() (any, error)) (any, error) {
	if v, ok := t.known[what]; ok {
		return v, nil
	}
	if t.evaluating[what] {
		return nil, Invalid("'%s' of the template refers to itself.", fault.Clip(what))
	}
	if len(t.evaluating) > 4*maxDepth {
		return nil, Invalid("The template's variables are nested deeper than %d levels.", 4*maxDepth)
	}
	t.evaluating[what] = true
	defer delete(t.evaluating, what)
	v, err := do()
	if err == nil {
		t.known[what] = v
	}
	return v, err
}

func (t *Template) parsed(text string) (node, error) {
	if n, ok := t.nodes[text]; ok {
		return n, nil
	}
	n, err := parse(text)
	if err == nil {
		t.nodes[text] = n
	}
	return n, err
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

// resources reads the resources of a template: a list, or an object by symbolic
// names.
func (t *Template) resources(doc resource.Document) error {
	v, err := decode(doc["resources"])
	if err != nil {
		return err
	}
	add := func(key, symbol string, one any) error {
		first := len(t.all)
		if err := t.expand(one, symbol, nil, t.base, 0); err != nil {
			m, _ := one.(map[string]any)
			name, _ := m["name"].(string)
			return t.located(err, key, name)
		}
		for _, s := range t.all[first:] {
			s.key = key
		}
		return nil
	}
	switch all := v.(type) {
	case nil:
	case []any:
		for i, one := range all {
			if err := add(fmt.Sprint(i), "", one); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, symbol := range slices.Sorted(maps.Keys(all)) {
			if err := add(symbol, symbol, all[symbol]); err != nil {
				return err
			}
		}
	default:
		return Invalid("The template's 'resources' must be a list, or an object by symbolic names.")
	}
	return nil
}

// located says where in the template the resource stands that an error is about.
func (t *Template) located(err error, key, name string) error {
	f := fault.Find(err)
	if f == nil || f.Code != "InvalidTemplate" || strings.HasPrefix(f.Message, "The template resource '") {
		return err
	}
	if name == "" {
		name = key
	}
	line, column := locate(t.source, "resources", key)
	if line == 0 {
		return err
	}
	f.Message = fmt.Sprintf("The template resource '%s' at line '%d' and column '%d' is not valid: %s", fault.Clip(name), line, column, f.Message)
	return f
}

// locate finds the line and column at which a member of a template's section
// begins: its index in a list, or its name in an object. Line 0: not found.
func locate(source json.RawMessage, section, key string) (line, column int) {
	d := json.NewDecoder(bytes.NewReader(source))
	find := func(key string) bool { // among the members of what begins here
		open, err := d.Token()
		if err != nil {
			return false
		}
		for i := 0; d.More(); i++ {
			name := fmt.Sprint(i)
			if open == json.Delim('{') {
				t, err := d.Token()
				if err != nil {
					return false
				}
				name, _ = t.(string)
			}
			if name == key {
				return true
			}
			var skip json.RawMessage
			if d.Decode(&skip) != nil {
				return false
			}
		}
		return false
	}
	if !find(section) || !find(key) {
		return 0, 0
	}
	at := int(d.InputOffset())
	for at < len(source) && bytes.IndexByte([]byte(" \t\r\n,:"), source[at]) >= 0 {
		at++
	}
	before := source[:at]
	return 1 + bytes.Count(before, []byte("\n")), at - bytes.LastIndexByte(before, '\n')
}

// expand adds a resource, as often as its loop says, and those that lie in it.
func (t *Template) expand(source any, symbol string, within *Step, e scope, depth int) error {
	m, ok := source.(map[string]any)
	if !ok {
		return Invalid("A resource of the template must be an object.")
	}
	if depth > maxDepth {
		return Invalid("The template is nested deeper than %d levels.", maxDepth)
	}
	loop, ok := m["copy"].(map[string]any)
	if !ok {
		if _, bad := m["copy"]; bad && m["copy"] != nil {
			return Invalid("A resource's 'copy' must be an object with a 'name' and a 'count'.")
		}
		return t.later(t.add(m, symbol, "", 0, nil, within, e, depth))
	}
	name, _ := loop["name"].(string)
	if name == "" {
		return Invalid("A resource's 'copy' has no 'name'.")
	}
	n, err := e.count(name, loop["count"])
	if err != nil {
		return t.later(err)
	}
	t.copies[strings.ToLower(name)] = true
	size := n // that are made at once
	if mode, _ := loop["mode"].(string); strings.EqualFold(mode, "serial") {
		size = 1
		if given, ok := loop["batchSize"]; ok {
			v, err := e.value(given)
			if err != nil {
				return err
			}
			if b, ok := v.(int64); ok && b > 0 && b <= maxResources {
				size = int(b)
			} else {
				return Invalid("The copy loop '%s' has the batchSize %s; it must be a whole number from 1.", name, fault.Clip(plain(v)))
			}
		}
	}
	var before, batch []*Step
	for i := range n {
		if i > 0 && i%size == 0 {
			before, batch = batch, nil
		}
		pass := e.inLoop(name, i)
		pass.loop = name
		first := len(t.all)
		if err := t.later(t.add(m, symbol, name, i, before, within, pass, depth)); err != nil {
			return err
		}
		batch = append(batch, t.all[first:]...)
	}
	return nil
}

// later passes over what a preview cannot know.
func (t *Template) later(err error) error {
	if errors.Is(err, ErrLater) {
		t.skipped = true
		return nil
	}
	return err
}

// sections are the members of a resource that its PUT has.
var sections = []string{"location", "kind", "tags", "sku", "identity", "plan", "zones", "managedBy", "extendedLocation", "properties"}

// add adds one resource, and those that lie in it.
func (t *Template) add(m map[string]any, symbol, loop string, pass int, after []*Step, within *Step, e scope, depth int) error {
	if len(t.all) >= maxResources {
		return Invalid("The template makes more than %d resources.", maxResources)
	}
	s := &Step{t: t, source: m, e: e, symbol: symbol, loop: loop, pass: pass, after: slices.Clone(after)}
	s.Existing, _ = m["existing"].(bool)
	if condition, ok := m["condition"]; ok {
		v, err := e.sure(condition)
		if err != nil {
			return err
		}
		on, ok := v.(bool)
		if !ok {
			return Invalid("A resource's 'condition' must be true or false, not %s.", fault.Clip(string(Encode(v))))
		}
		s.off = !on
	}
	kind, _ := m["type"].(string)
	v, err := e.sure(m["name"])
	if err != nil {
		return err
	}
	if s.name, _ = v.(string); s.name == "" {
		return Invalid("A resource of the type '%s' has no name.", fault.Clip(kind))
	}
	if strings.HasPrefix(kind, "[") {
		return Invalid("The type '%s' is an expression; a resource's type must be written out.", fault.Clip(kind))
	}
	var lies resource.ID
	if within != nil {
		lies = within.ID
		s.after = append(s.after, within)
	}
	group := t.group
	if strings.EqualFold(kind, Deployments) || s.Existing {
		if group, err = s.group(); err != nil {
			return err
		}
	}
	at, ok := m["scope"]
	if ok && at != nil {
		v, err := e.sure(at)
		if err != nil {
			return err
		}
		text, _ := v.(string)
		if text != "" && !strings.HasPrefix(text, "/") {
			text = t.group.String() + "/providers/" + text
		}
		if lies, err = resource.ParseID(text); err != nil {
			return Invalid("The 'scope' of '%s' is %s, which is no id of a resource.", s.name, fault.Clip(string(Encode(v))))
		}
	}
	if s.ID, err = idOf(group, lies, kind, s.name); err != nil {
		return err
	}
	if on, ok := m["dependsOn"]; ok {
		v, err := e.sure(on)
		if err != nil {
			return err
		}
		list, ok := v.([]any)
		if !ok && v != nil {
			return Invalid("The 'dependsOn' of '%s' must be a list.", s.name)
		}
		for _, one := range list {
			text, ok := one.(string)
			if !ok || text == "" {
				return Invalid("The 'dependsOn' of '%s' must name resources, not %s.", s.name, fault.Clip(string(Encode(one))))
			}
			s.depends = append(s.depends, text)
		}
	}
	t.all = append(t.all, s)
	switch inside := m["resources"].(type) {
	case nil:
	case []any:
		for _, one := range inside {
			if err := t.expand(one, "", s, e, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(inside)) {
			if err := t.expand(inside[name], name, s, e, depth+1); err != nil {
				return err
			}
		}
	default:
		return Invalid("The 'resources' in '%s' must be a list.", s.name)
	}
	return nil
}

// sure evaluates what must be known before anything is made.
func (e scope) sure(v any) (any, error) {
	if text, ok := v.(string); ok {
		return e.text(text)
	}
	list, ok := v.([]any)
	if !ok {
		return e.value(v)
	}
	made := make([]any, len(list))
	for i, one := range list {
		var err error
		if made[i], err = e.sure(one); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// group is the resource group that a deployment within a template goes to, or
// that a resource which is there lies in.
func (s *Step) group() (resource.ID, error) {
	group := s.t.group
	text := map[string]string{"subscriptionId": group.Subscription(), "resourceGroup": group.Name()}
	for member := range text {
		if given, ok := s.source[member]; ok && given != nil {
			v, err := s.e.sure(given)
			if err != nil {
				return group, err
			}
			if text[member], ok = v.(string); !ok || text[member] == "" {
				return group, Invalid("The '%s' of '%s' must be a string.", member, s.name)
			}
		}
	}
	found, err := resource.ParseID("/subscriptions/" + text["subscriptionId"] + "/resourceGroups/" + text["resourceGroup"])
	if err != nil || !found.Is(resource.GroupType) {
		return group, Invalid("'%s' is to lie in '%s', which is no name of a resource group.", s.name, fault.Clip(text["resourceGroup"]))
	}
	return found, nil
}

// idOf is the id of a resource: type "P/a/b" and name "x/y". One that lies in
// another has a type relative to it, or one of another provider.
func idOf(group, within resource.ID, kind, name string) (resource.ID, error) {
	provider, types, ok := strings.Cut(kind, "/")
	segments, names := strings.Split(types, "/"), strings.Split(name, "/")
	base := group.String() + "/providers/" + provider
	switch {
	case !within.Zero() && !strings.Contains(provider, "."):
		base, segments, ok = within.String(), strings.Split(kind, "/"), true
	case !within.Zero() && len(segments) == len(names) && !strings.HasPrefix(strings.ToLower(kind), strings.ToLower(within.Type()+"/")):
		base = within.String() + "/providers/" + provider
	case strings.EqualFold(kind, "Microsoft.Resources/resourceGroups"):
		base = "/subscriptions/" + group.Subscription()
	}
	if !ok || len(segments) != len(names) {
		return resource.ID{}, Invalid("The type '%s' and the name '%s' do not fit: a name has a part for each part of its type after the provider.", fault.Clip(kind), fault.Clip(name))
	}
	for i, segment := range segments {
		base += "/" + segment + "/" + names[i]
	}
	id, err := resource.ParseID(base)
	if err != nil || strings.ContainsAny(name, "%?#") {
		return id, Invalid("'%s' of the type '%s' is no name of a resource.", fault.Clip(name), fault.Clip(kind))
	}
	return id, nil
}

// find returns the resources that a text of dependsOn or reference means: an id,
// a symbolic name, the name of a loop or of a resource.
func (t *Template) find(text string) []*Step {
	relative := t.group.String() + "/providers/" + strings.TrimPrefix(text, "/")
	var exact, named []*Step
	for _, s := range t.all {
		switch {
		case strings.EqualFold(text, s.ID.String()), strings.EqualFold(relative, s.ID.String()), s.symbol != "" && text == s.symbol,
			s.symbol != "" && s.loop != "" && text == fmt.Sprintf("%s[%d]", s.symbol, s.pass), s.loop != "" && strings.EqualFold(text, s.loop):
			exact = append(exact, s)
		case strings.EqualFold(text, s.name), strings.EqualFold(text, s.ID.Name()):
			named = append(named, s)
		}
	}
	switch {
	case len(exact) > 0:
		return exact
	case len(named) == 0 && t.parent != nil:
		return t.parent.find(text)
	}
	return named
}

// order finds what each resource waits for, and puts what others depend on
// before them.
func (t *Template) order() error {
	made := map[string]bool{}
	for _, s := range t.all {
		if s.off || s.Existing {
			continue
		}
		if made[s.ID.Key()] {
			return Invalid("The resource '%s' is defined multiple times in the template.", s.ID)
		}
		made[s.ID.Key()] = true
	}
	for _, s := range t.all {
		for _, text := range s.depends {
			found := t.find(text)
			if len(found) == 0 && !t.copies[strings.ToLower(text)] && !t.skipped {
				return Invalid("The resource '%s' is not defined in the template; '%s' depends on it ('dependsOn').", fault.Clip(text), s.name)
			}
			s.after = append(s.after, found...)
		}
		s.after = append(s.after, s.asks()...)
		for _, other := range t.all {
			if other.ID.Same(s.ID.Parent()) {
				s.after = append(s.after, other)
			}
		}
		s.after = slices.DeleteFunc(s.after, func(other *Step) bool { return other.t != t || other.ID.Same(s.ID) })
	}
	placed := map[*Step]bool{}
	for left := slices.Clone(t.all); len(left) > 0; {
		next := slices.IndexFunc(left, func(s *Step) bool {
			return !slices.ContainsFunc(s.after, func(other *Step) bool { return !placed[other] })
		})
		if next < 0 {
			return Invalid("Circular dependency detected on resource: '%s'. The resources of the template wait for each other ('dependsOn').", left[0].ID)
		}
		s := left[next]
		placed[s] = true
		if !s.off && !s.Existing {
			t.Steps = append(t.Steps, s)
		}
		left = slices.Delete(left, next, next+1)
	}
	return nil
}

// asks are the resources that the step's expressions ask for.
func (s *Step) asks() []*Step {
	var found []*Step
	inner := s.ID.Is(Deployments) && !s.outer()
	var walk func(v any, top bool)
	walk = func(v any, top bool) {
		switch v := v.(type) {
		case string:
			if !strings.HasPrefix(v, "[") || strings.HasPrefix(v, "[[") || !strings.HasSuffix(v, "]") || !asking(v) {
				return
			}
			n, err := s.t.parsed(v[1 : len(v)-1])
			if err != nil {
				return
			}
			calls(n, func(c call) {
				if !runtime(c.name) || len(c.args) == 0 {
					return
				}
				if of, err := s.e.eval(c.args[0]); err == nil {
					if text, ok := of.(string); ok {
						found = append(found, s.t.find(text)...)
					}
				}
			})
		case map[string]any:
			for k, m := range v {
				if !top || !inner || !strings.EqualFold(k, "template") {
					walk(m, false)
				}
			}
		case []any:
			for _, m := range v {
				walk(m, false)
			}
		}
	}
	for _, section := range sections {
		walk(s.source[section], section == "properties")
	}
	return found
}

// asking tells roughly whether a text may ask for what is there.
func asking(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(text, "reference") || strings.Contains(text, "list")
}

// runtime tells whether a function asks for what is there.
func runtime(name string) bool {
	name = strings.ToLower(name)
	return name == "reference" || name == "references" || strings.HasPrefix(name, "list") && len(name) > 4
}

// Waits tells whether this step comes after another one because of it.
func (s *Step) Waits(other *Step) bool { return slices.Contains(s.after, other) }

// Body is what its PUT says.
func (s *Step) Body(w World) (json.RawMessage, error) {
	if s.fixed != nil {
		return s.fixed, nil
	}
	e := s.e
	e.world = w
	body := map[string]any{}
	for _, section := range sections {
		v, ok := s.source[section]
		if !ok {
			continue
		}
		made, err := e.value(v)
		if err != nil {
			return nil, s.t.located(err, s.key, s.name)
		}
		if weight(made, 4*maxMade) < 0 {
			return nil, Invalid("The resource '%s' is larger than %d bytes.", s.name, 4*maxMade)
		}
		body[section] = made
	}
	return Encode(body), nil
}

// outer tells that a template within a template speaks of what that one has.
func (s *Step) outer() bool {
	props, _ := s.source["properties"].(map[string]any)
	options, _ := props["expressionEvaluationOptions"].(map[string]any)
	text, _ := options["scope"].(string)
	return !strings.EqualFold(text, "inner")
}

// Nested reads the template that the step deploys; nil if it deploys none.
func (s *Step) Nested(w World) (*Template, error) {
	if !s.ID.Is(Deployments) || s.fixed != nil {
		return nil, nil
	}
	if s.e.depth > maxDepth/4 {
		return nil, Invalid("Templates lie in templates for more than %d levels.", maxDepth/4)
	}
	props, _ := s.source["properties"].(map[string]any)
	for _, link := range []string{"templateLink", "parametersLink"} {
		if props[link] != nil {
			return nil, Invalid("'%s' names its template by '%s': nothing is fetched for a template here. Put the template in it ('template').", s.name, link)
		}
	}
	if mode, _ := props["mode"].(string); mode != "" && !strings.EqualFold(mode, "Incremental") {
		return nil, Invalid("'%s' has the mode '%s'; a template within a template must have Incremental.", s.name, fault.Clip(mode))
	}
	source, ok := props["template"].(map[string]any)
	if !ok {
		return nil, Invalid("'%s' has no 'template' that is an object.", s.name)
	}
	group := s.ID.Parent()
	if s.outer() {
		t := *s.t
		t.Steps, t.all, t.copies, t.skipped, t.group, t.parent = nil, nil, map[string]bool{}, false, group, s.t
		t.base = s.e
		t.base.t = &t
		t.base.depth++
		t.source = Encode(source)
		doc, err := resource.ParseDocument(t.source)
		if err != nil {
			return nil, err
		}
		if err := t.resources(doc); err != nil {
			return nil, err
		}
		t.outputs = doc.Object("outputs")
		return &t, t.order()
	}
	at, err := w.Site(group, s.ID.Name())
	if err != nil {
		return nil, err
	}
	e := s.e
	e.world = w
	given, unknown := resource.Document{}, map[string]bool{}
	list, _ := props["parameters"].(map[string]any)
	for name, one := range list {
		p, ok := one.(map[string]any)
		if !ok {
			return nil, Invalid("The parameter '%s' of '%s' must be an object with a 'value'.", fault.Clip(name), s.name)
		}
		v, err := e.value(p)
		if err != nil {
			return nil, err
		}
		text, written := p["value"].(string)
		if m := v.(map[string]any); w.Preview() && written && strings.HasPrefix(text, "[") && m["value"] == text {
			unknown[strings.ToLower(name)] = true
			delete(m, "value")
		}
		given[name] = Encode(v)
	}
	t, err := read(Encode(source), given, unknown, at, s.t.work)
	if err != nil {
		return nil, err
	}
	for _, inner := range t.all {
		inner.e.depth += s.e.depth + 1
	}
	return t, nil
}

// Outputs are what the template says when all is made, as a deployment shows it,
// and beside them the values of those that are secret.
func (t *Template) Outputs(w World) (made, secrets map[string]any, err error) {
	e := t.base
	e.world = w
	made, secrets = map[string]any{}, map[string]any{}
	for _, name := range t.outputs.Names() {
		one := t.outputs.Object(name)
		var p Parameter
		if err := json.Unmarshal(one.Raw(), &p); err != nil {
			return nil, nil, Invalid("The template's output '%s' is not what is expected: %v", fault.Clip(name), err)
		}
		p = t.typeOf(p)
		if raw, ok := one["condition"]; ok {
			v, err := e.raw(raw)
			if err != nil {
				return nil, nil, err
			}
			if on, ok := v.(bool); !ok {
				return nil, nil, Invalid("The condition of the template's output '%s' must be true or false.", fault.Clip(name))
			} else if !on {
				continue
			}
		}
		shown := map[string]any{"type": typeName(p.Type)}
		made[name] = shown
		var v any
		var err error
		if raw, ok := one["copy"]; ok {
			var loop map[string]any
			if loop, ok = mustObject(raw); !ok {
				return nil, nil, Invalid("The 'copy' of the template's output '%s' must be an object.", fault.Clip(name))
			}
			pass := e
			pass.loop = name
			v, err = pass.repeat(propertyLoop{name, loop["count"], loop["input"]})
		} else {
			v, err = e.raw(one["value"])
		}
		if err != nil {
			return nil, nil, err
		}
		if err := t.fits(p, "The output '"+name+"'", v); err != nil && !w.Preview() {
			return nil, nil, err
		}
		if secret(p.Type) {
			secrets[name] = map[string]any{"type": shown["type"], "value": v}
		} else {
			shown["value"] = v
		}
	}
	return made, secrets, nil
}

func mustObject(raw json.RawMessage) (map[string]any, bool) {
	v, err := decode(raw)
	m, ok := v.(map[string]any)
	return m, ok && err == nil
}
