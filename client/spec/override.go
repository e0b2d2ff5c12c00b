package spec

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lapis/fault"
)

// Set writes a value given on the command line, `a.b=c`, into the document.
// A number in the path is a place in a list. Values are read as YAML, so
// `inputs.lr=0.1` is a number and `tags={}` an empty mapping.
func (d *Document) Set(assignment string) error {
	path, value, ok := strings.Cut(assignment, "=")
	if !ok || path == "" {
		return fault.Invalid("--set %s: write it as --set FIELD=VALUE.", assignment)
	}
	return d.Put("--set "+path, path, value)
}

// Put is Set where another flag than --set gave the value; errors name the
// source.
func (d *Document) Put(source, path, value string) error {
	var y yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(value))
	if err := decode(dec, &y); err != nil || len(y.Content) == 0 || y.Content[0].Kind == yaml.ScalarNode {
		// Not YAML, or a scalar, whose exact text is kept.
		y = yaml.Node{Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: value}}}
	}
	r := &reader{doc: &Document{File: source, Dir: d.Dir}, open: map[*yaml.Node]bool{}}
	n, err := r.node(y.Content[0], 0)
	if err != nil {
		return err
	}
	n.typed = false
	return d.set(strings.Split(path, "."), n, source)
}

func (d *Document) set(path []string, value *Node, source string) error {
	if len(path) > maxDepth {
		return fault.Invalid("%s: the path is more than %d deep.", source, maxDepth)
	}
	if d.Root.kind == null {
		d.Root.kind = mapping
	}
	at := d.Root
	for i, step := range path {
		last := i == len(path)-1
		switch at.kind {
		case sequence:
			index, err := strconv.Atoi(step)
			if err != nil || index < 0 || index >= len(at.items) {
				return fault.Invalid("%s: %q is not a place in a list of %d.", source, step, len(at.items))
			}
			if last {
				at.items[index] = value
				return nil
			}
			at = at.items[index]
		case mapping:
			if step == "" {
				return fault.Invalid("%s: a part of the path is empty.", source)
			}
			next := at.find(step)
			if next == nil {
				next = &Node{doc: value.doc, line: value.line, kind: mapping}
				key := &Node{doc: value.doc, line: value.line, kind: text, text: step}
				at.keys, at.values = append(at.keys, key), append(at.values, next)
			}
			if last {
				at.replace(&Node{doc: value.doc, line: value.line, kind: text, text: step}, value)
				return nil
			}
			if next.kind == null {
				fresh := &Node{doc: value.doc, line: value.line, kind: mapping}
				at.replace(&Node{doc: value.doc, kind: text, text: step}, fresh)
				next = fresh
			}
			at = next
		default:
			return fault.Invalid("%s: %s is %s in the file, so it has no field %q.", source, strings.Join(path[:i], "."), at.kind, step)
		}
	}
	return nil
}
