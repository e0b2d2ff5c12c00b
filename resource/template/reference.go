package template

import (
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/resource"
)

// resourceID is the id that resourceId(…) means: subscription and group may come
// before the type. Its brothers leave out the group, or both.
func resourceID(e scope, c call, args []any) (any, error) {
	var parts []string
	at := -1
	for i, a := range args {
		s, ok := a.(string)
		if !ok || s == "" {
			return nil, e.wrong(c, "it takes strings that are not empty, and argument %d is none", i+1)
		}
		if at < 0 && strings.Contains(s, "/") {
			at = i
		}
		parts = append(parts, s)
	}
	name, most := strings.ToLower(c.name), 2
	switch name {
	case "subscriptionresourceid":
		most = 1
	case "tenantresourceid":
		most = 0
	}
	if at < 0 || at > most {
		return nil, e.wrong(c, "there is no type such as Microsoft.MachineLearningServices/workspaces among its arguments")
	}
	group := e.t.site.Group
	subscription, in := group.Subscription(), group.Name()
	switch {
	case at == 2:
		subscription, in = parts[0], parts[1]
	case at == 1 && name == "resourceid":
		in = parts[0]
	case at == 1:
		subscription = parts[0]
	}
	base := "/subscriptions/" + subscription
	switch {
	case name == "tenantresourceid":
		base = ""
	case name == "resourceid" && !strings.EqualFold(parts[at], "Microsoft.Resources/resourceGroups"):
		base += "/resourceGroups/" + in
	}
	return below(e, c, base, parts[at], parts[at+1:])
}

func extensionResourceID(e scope, c call, args []any) (any, error) {
	var parts []string
	for _, a := range args {
		s, err := textOf(e, c, a)
		if err != nil {
			return nil, err
		}
		parts = append(parts, s)
	}
	return below(e, c, strings.TrimSuffix(parts[0], "/"), parts[1], parts[2:])
}

// below is the id of a resource of a type below a scope.
func below(e scope, c call, base, kind string, names []string) (any, error) {
	provider, types, _ := strings.Cut(kind, "/")
	segments, names := strings.Split(types, "/"), strings.Split(strings.Join(names, "/"), "/")
	if len(segments) != len(names) {
		return nil, e.wrong(c, "the type '%s' and the name '%s' do not fit: a name has a part for each part of its type after the provider", fault.Clip(kind), fault.Clip(strings.Join(names, "/")))
	}
	if strings.EqualFold(kind, "Microsoft.Resources/resourceGroups") {
		return base + "/resourceGroups/" + names[0], nil
	}
	base += "/providers/" + provider
	for i, segment := range segments {
		base += "/" + segment + "/" + names[i]
	}
	return base, nil
}

// target is the id of the resource that a name, a symbolic name or an id means.
func (e scope) target(c call, v any) (resource.ID, error) {
	text, err := textOf(e, c, v)
	if err != nil {
		return resource.ID{}, err
	}
	if found := e.t.find(text); len(found) == 1 {
		return found[0].ID, nil
	}
	full := text
	if !strings.HasPrefix(text, "/") {
		full = e.t.group.String() + "/providers/" + text
	}
	id, err := resource.ParseID(full)
	if err != nil || !strings.Contains(text, "/") {
		return id, e.wrong(c, "the resource '%s' is not defined in the template", fault.Clip(text))
	}
	return id, nil
}

// asked is what the world is for.
func (e scope) asked(c call) error {
	if e.world == nil {
		return Invalid("The template function '%s' is not expected at this location: it asks for what is there, so it is for the properties of resources and for outputs.", fault.Clip(c.name))
	}
	return nil
}

// reference is a resource that is there: its properties, or with 'Full' all of it.
func reference(e scope, c call, args []any) (any, error) {
	if err := e.asked(c); err != nil {
		return nil, err
	}
	id, err := e.target(c, args[0])
	if err != nil {
		return nil, err
	}
	full := len(args) == 3 && strings.EqualFold(plain(args[2]), "full") || len(args) == 2 && strings.EqualFold(plain(args[1]), "full")
	return e.there(id, full, args)
}

func (e scope) there(id resource.ID, full bool, args []any) (any, error) {
	found, err := e.world.Get(id)
	if err != nil {
		return nil, err
	}
	if full {
		found["subscriptionId"], found["resourceGroupName"], found["resourceId"] = id.Subscription(), id.Group(), id.String()
		if len(args) > 1 {
			found["apiVersion"] = args[1]
		}
		return found, nil
	}
	if props, ok := found["properties"].(map[string]any); ok {
		return props, nil
	}
	return map[string]any{}, nil
}

// references are all resources of a loop that has a symbolic name.
func references(e scope, c call, args []any) (any, error) {
	if err := e.asked(c); err != nil {
		return nil, err
	}
	name, err := textOf(e, c, args[0])
	if err != nil {
		return nil, err
	}
	full := len(args) == 2 && strings.EqualFold(plain(args[1]), "full")
	list := []any{}
	for _, s := range e.t.find(name) {
		if s.off {
			continue
		}
		one, err := e.there(s.ID, full, nil)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// resourceInfo is what is known of a resource of the template before it is made.
func resourceInfo(e scope, c call, args []any) (any, error) {
	id, err := e.target(c, args[0])
	if err != nil {
		return nil, err
	}
	return map[string]any{"id": id.String(), "name": id.Name(), "type": id.Type()}, nil
}

// list is any function whose name begins with it: an action of the resource.
func list(e scope, c call, args []any) (any, error) {
	if err := e.asked(c); err != nil {
		return nil, err
	}
	id, err := e.target(c, args[0])
	if err != nil {
		return nil, err
	}
	var body json.RawMessage
	if len(args) == 3 {
		body = Encode(args[2])
	}
	return e.world.List(id, c.name, body)
}
