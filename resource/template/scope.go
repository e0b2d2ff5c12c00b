package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"lapis/fault"
)

// ErrLater is what a World says that cannot know yet what it is asked for. The
// expression then stays as it is written.
var ErrLater = errors.New("not known before it is deployed")

// scope is where an expression stands: what it may speak of.
type scope struct {
	t        *Template
	world    World          // nil: it may not ask what is there
	defaults bool           // of a parameter: it may ask for the time and for new GUIDs
	loops    map[string]int // of the loops around it, in lower case
	loop     string         // the loop that copyIndex() without a name means
	args     map[string]any // of one of the template's own functions; nil outside of them
	lambda   map[string]any
	depth    int
}

func (e scope) wrong(c call, format string, args ...any) error {
	name := c.name
	if c.space != "" {
		name = c.space + "." + name
	}
	return Invalid("Unable to evaluate the template language function '%s': "+format+".", append([]any{fault.Clip(name)}, args...)...)
}

// inLoop is the scope of one pass of a loop.
func (e scope) inLoop(name string, index int) scope {
	e.loops = maps.Clone(e.loops)
	if e.loops == nil {
		e.loops = map[string]int{}
	}
	e.loops[strings.ToLower(name)] = index
	return e
}

// decode reads JSON; whole numbers are int64, others stay as they are written.
func decode(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, Invalid("The template is not valid JSON: %v", err)
	}
	return whole(v), nil
}

func whole(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
	case map[string]any:
		for k, m := range v {
			v[k] = whole(m)
		}
	case []any:
		for i, m := range v {
			v[i] = whole(m)
		}
	}
	return v
}

// Decode reads JSON as values of templates.
func Decode(raw json.RawMessage) (any, error) { return decode(raw) }

// raw evaluates JSON.
func (e scope) raw(raw json.RawMessage) (any, error) {
	v, err := decode(raw)
	if err != nil {
		return nil, err
	}
	if v, err = e.value(v); err != nil {
		return nil, err
	}
	if weight(v, 4*maxMade) < 0 {
		return nil, Invalid("The template makes a value of more than %d bytes.", 4*maxMade)
	}
	return v, nil
}

// value is a value with its expressions evaluated. What it is given stays as it is.
func (e scope) value(v any) (any, error) {
	if e.depth++; e.depth > maxDepth {
		return nil, Invalid("The template is nested deeper than %d levels.", maxDepth)
	}
	switch v := v.(type) {
	case string:
		made, err := e.text(v)
		if errors.Is(err, ErrLater) {
			return v, nil
		}
		return made, err
	case map[string]any:
		made := make(map[string]any, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if loops, ok := propertyLoops(name, v[name]); ok {
				for _, l := range loops {
					list, err := e.repeat(l)
					if err != nil {
						return nil, err
					}
					made[l.name] = list
				}
				continue
			}
			key, err := e.text(name)
			if errors.Is(err, ErrLater) {
				key, err = name, nil
			}
			if err != nil {
				return nil, err
			}
			name2, ok := key.(string)
			if !ok {
				return nil, Invalid("The name of a member, '%s', does not evaluate to a string.", fault.Clip(name))
			}
			if made[name2], err = e.value(v[name]); err != nil {
				return nil, err
			}
		}
		return made, nil
	case []any:
		made := make([]any, len(v))
		var err error
		for i, element := range v {
			if made[i], err = e.value(element); err != nil {
				return nil, err
			}
		}
		return made, nil
	}
	return v, nil
}

// text is a text, or what the expression that it is evaluates to.
func (e scope) text(v string) (any, error) {
	if strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") {
		if strings.HasPrefix(v, "[[") {
			return v[1:], nil
		}
		n, err := e.t.parsed(v[1 : len(v)-1])
		if err != nil {
			return nil, err
		}
		before := e.t.secretly
		e.t.secretly = false
		made, err := e.eval(n)
		secretly := e.t.secretly
		e.t.secretly = before || secretly
		if secretly && e.world != nil && e.world.Preview() { // previews are shown
			return nil, ErrLater
		}
		if secretly && fault.Find(err) != nil {
			return nil, Invalid("The expression %s cannot be evaluated: what it makes of a secret fails.", fault.Clip(v))
		}
		if err != nil && e.world != nil && e.world.Preview() {
			asks := false
			calls(n, func(c call) { asks = asks || runtime(c.name) })
			if asks { // of what is there it would get another answer then
				return nil, ErrLater
			}
		}
		if _, ok := made.(lambda); ok {
			return nil, Invalid("The expression %s evaluates to a function, which is no value.", fault.Clip(v))
		}
		return made, err
	}
	return v, nil
}

// propertyLoop is a member that is made by a loop.
type propertyLoop struct {
	name         string
	count, input any
}

// propertyLoops reads a member "copy" that lists loops.
func propertyLoops(name string, v any) ([]propertyLoop, bool) {
	list, ok := v.([]any)
	if !strings.EqualFold(name, "copy") || !ok || len(list) == 0 {
		return nil, false
	}
	var loops []propertyLoop
	for _, one := range list {
		m, _ := one.(map[string]any)
		text, _ := m["name"].(string)
		count, counted := m["count"]
		input, fed := m["input"]
		if text == "" || !counted || !fed {
			return nil, false
		}
		loops = append(loops, propertyLoop{text, count, input})
	}
	return loops, true
}

func (e scope) repeat(l propertyLoop) (any, error) {
	n, err := e.count(l.name, l.count)
	if err != nil {
		return nil, err
	}
	list := make([]any, n)
	for i := range list {
		pass := e.inLoop(l.name, i)
		if pass.loop == "" {
			pass.loop = l.name
		}
		if list[i], err = pass.value(l.input); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// count is how often a loop is passed.
func (e scope) count(name string, v any) (int, error) {
	v, err := e.value(v)
	if err != nil {
		return 0, err
	}
	n, ok := v.(int64)
	if !ok || n < 0 || n > maxResources {
		return 0, Invalid("The copy loop '%s' has the count %s; it must be a whole number from 0 to %d.", name, fault.Clip(plain(v)), maxResources)
	}
	return int(n), nil
}

// eval is what an expression evaluates to.
func (e scope) eval(n node) (any, error) {
	if e.depth++; e.depth > 2*maxDepth {
		return nil, Invalid("The template's expressions are nested deeper than %d levels.", 2*maxDepth)
	}
	switch n := n.(type) {
	case literal:
		return n.value, nil
	case member:
		of, err := e.eval(n.of)
		if err != nil {
			return nil, err
		}
		key, err := e.eval(n.key)
		if err != nil {
			return nil, err
		}
		v, ok := memberOf(of, key)
		if !ok {
			return nil, Invalid("The language expression property '%s' doesn't exist, available properties are '%s'.", fault.Clip(plain(key)), fault.Clip(strings.Join(namesOf(of), ", ")))
		}
		return v, nil
	case call:
		v, err := e.call(n)
		if err != nil {
			return nil, err
		}
		if !keepsValues[strings.ToLower(n.name)] {
			cost := weight(v, maxMade)
			if cost < 0 {
				return nil, e.wrong(n, "it makes a value of more than %d bytes", maxMade)
			}
			*e.t.work -= cost
		}
		if *e.t.work--; *e.t.work < 0 {
			return nil, e.wrong(n, "the template does more than is allowed; let it make less")
		}
		return v, nil
	}
	return nil, Invalid("The template has an expression that is empty.")
}

// keepsValues are functions that make no value of their own.
var keepsValues = map[string]bool{"parameters": true, "variables": true, "if": true, "coalesce": true, "lambdavariables": true, "lambda": true}

// weight is roughly how many bytes a value has; below 0, more than most.
func weight(v any, most int) int {
	left := most
	var add func(v any) bool
	add = func(v any) bool {
		left--
		switch v := v.(type) {
		case string:
			left -= len(v)
		case map[string]any:
			for k, m := range v {
				if left -= len(k); !add(m) {
					return false
				}
			}
		case []any:
			for _, m := range v {
				if !add(m) {
					return false
				}
			}
		}
		return left >= 0
	}
	if !add(v) {
		return -1
	}
	return most - left
}

// memberOf is a member of an object, or an element of a list.
func memberOf(of, key any) (any, bool) {
	switch of := of.(type) {
	case map[string]any:
		name, ok := key.(string)
		if !ok {
			return nil, false
		}
		if v, ok := of[name]; ok {
			return v, true
		}
		for _, given := range slices.Sorted(maps.Keys(of)) {
			if strings.EqualFold(given, name) {
				return of[given], true
			}
		}
	case []any:
		if n, ok := key.(int64); ok && n >= 0 && n < int64(len(of)) {
			return of[n], true
		}
	}
	return nil, false
}

func namesOf(of any) []string {
	if m, ok := of.(map[string]any); ok {
		return slices.Sorted(maps.Keys(m))
	}
	return nil
}

// call is what a call evaluates to.
func (e scope) call(c call) (any, error) {
	if c.space != "" {
		return e.own(c)
	}
	name := strings.ToLower(c.name)
	switch name { // those that do not want all of their arguments evaluated
	case "if":
		if len(c.args) != 3 {
			return nil, e.wrong(c, "it takes a condition and two values")
		}
		on, err := e.eval(c.args[0])
		if err != nil {
			return nil, err
		}
		is, ok := on.(bool)
		if !ok {
			return nil, e.wrong(c, "its condition is %s, not true or false", fault.Clip(plain(on)))
		}
		if is {
			return e.eval(c.args[1])
		}
		return e.eval(c.args[2])
	case "and", "or":
		if len(c.args) == 0 {
			return nil, e.wrong(c, "it takes at least one argument")
		}
		for _, a := range c.args {
			v, err := e.eval(a)
			if err != nil {
				return nil, err
			}
			is, ok := v.(bool)
			if !ok {
				return nil, e.wrong(c, "%s is not true or false", fault.Clip(plain(v)))
			}
			if is == (name == "or") {
				return is, nil
			}
		}
		return name == "and", nil
	case "coalesce":
		for _, a := range c.args {
			if v, err := e.eval(a); err != nil || v != nil {
				return v, err
			}
		}
		return nil, nil
	case "lambda":
		if len(c.args) == 0 {
			return nil, e.wrong(c, "it takes the names of its arguments and what it makes of them")
		}
		l := lambda{e: e, body: c.args[len(c.args)-1]}
		for _, a := range c.args[:len(c.args)-1] {
			name, ok := a.(literal)
			text, isText := name.value.(string)
			if !ok || !isText {
				return nil, e.wrong(c, "its arguments are named by strings")
			}
			l.names = append(l.names, text)
		}
		return l, nil
	}
	args := make([]any, len(c.args))
	for i, a := range c.args {
		var err error
		if args[i], err = e.eval(a); err != nil {
			return nil, err
		}
	}
	f, ok := functions[name]
	if !ok {
		if strings.HasPrefix(name, "list") && len(name) > 4 {
			f = function{1, 3, list}
		} else {
			return nil, Invalid("The template function '%s' is not valid: it is not one that is offered here. Usage is described at https://aka.ms/arm-functions.", fault.Clip(c.name))
		}
	}
	if len(args) < f.least || f.most >= 0 && len(args) > f.most {
		return nil, e.wrong(c, "it does not take %d arguments", len(args))
	}
	return f.do(e, c, args)
}

// lambda is a function that is handed to another one.
type lambda struct {
	e     scope
	names []string
	body  node
}

func (l lambda) do(args ...any) (any, error) {
	e := l.e
	e.lambda = maps.Clone(e.lambda)
	if e.lambda == nil {
		e.lambda = map[string]any{}
	}
	for i, name := range l.names {
		if i < len(args) {
			e.lambda[strings.ToLower(name)] = args[i]
		}
	}
	return e.eval(l.body)
}

// own calls one of the template's own functions: they see their arguments alone.
func (e scope) own(c call) (any, error) {
	f, ok := e.t.functions[strings.ToLower(c.space+"."+c.name)]
	if !ok {
		return nil, Invalid("The template has no function '%s'.", fault.Clip(c.space+"."+c.name))
	}
	if len(c.args) != len(f.Parameters) {
		return nil, e.wrong(c, "it takes %d arguments, not %d", len(f.Parameters), len(c.args))
	}
	inner := scope{t: e.t, args: map[string]any{}, depth: e.depth}
	for i, a := range c.args {
		v, err := e.eval(a)
		if err != nil {
			return nil, err
		}
		if err := e.t.fits(f.Parameters[i].Parameter, "The argument '"+f.Parameters[i].Name+"' of the function '"+c.name+"'", v); err != nil {
			return nil, err
		}
		inner.args[strings.ToLower(f.Parameters[i].Name)] = v
	}
	v, err := decode(f.Output.Value)
	if err != nil {
		return nil, err
	}
	return inner.value(v)
}
