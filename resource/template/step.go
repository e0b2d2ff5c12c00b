package template

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

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
