// Package template reads templates of Azure Resource Manager: which resources
// one asks for, in which order, and what its expressions evaluate to. It asks a
// World for what only a deployment can know.
package template

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

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
	switch {
	case err != nil:
		return nil, Invalid("The template must be a JSON object.")
	case len(doc) == 0:
		return nil, Invalid("The deployment has no 'template'.")
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
