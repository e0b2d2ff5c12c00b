package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

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
