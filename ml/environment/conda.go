package environment

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"lapis/fault"
)

// maxFile bounds a conda file or a requirements file, in bytes.
const maxFile = 256 << 10

// ParseConda reads a conda environment file (YAML). What is wrong with it is a
// fault that names line and field.
func ParseConda(text string) (Recipe, error) {
	if len(text) > maxFile {
		return Recipe{}, condaFault(nil, "conda_file", "it has %d bytes, the limit is %d", len(text), maxFile)
	}
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		return Recipe{}, fault.Invalid("the conda file is not valid YAML: %s", firstLine(err.Error())).
			With("InvalidCondaFile").At("conda_file").From(err)
	}
	var docs []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	if len(docs) == 0 {
		return Recipe{}, nil
	}
	if len(docs) > 1 {
		return Recipe{}, condaFault(docs[1], "conda_file", "one YAML document is expected, this is the second")
	}
	sections, ok := mapping(docs[0])
	if !ok {
		return Recipe{}, condaFault(docs[0], "conda_file", "a mapping with name, channels and dependencies is expected")
	}

	var r Recipe
	seen := map[string]bool{}
	for _, s := range sections {
		key, ok := scalar(s.Key)
		if !ok {
			return Recipe{}, condaFault(s.Key, "conda_file", "a section's name is expected")
		}
		if seen[key] {
			return Recipe{}, condaFault(s.Key, key, "the section stands here a second time")
		}
		seen[key] = true
		switch key {
		case "name", "prefix":
		case "channels":
			r.Channels, err = scalars(s.Value, "channels")
		case "dependencies":
			err = r.readDependencies(s.Value)
		default:
			r.Notes = append(r.Notes, fmt.Sprintf("conda file line %d: section %q is not known and has no effect", line(s.Key), key))
		}
		if err != nil {
			return Recipe{}, err
		}
	}
	return r, nil
}

func (r *Recipe) readDependencies(n ast.Node) error {
	items, ok := sequence(n)
	if !ok {
		return condaFault(n, "dependencies", "a list is expected")
	}
	for i, item := range items {
		field := fmt.Sprintf("dependencies[%d]", i)
		if text, ok := scalar(item); ok {
			spec, err := ParseSpec(text)
			if err != nil {
				return condaFault(item, field, "%v", err)
			}
			if spec.Name != "python" {
				r.Conda = append(r.Conda, strings.TrimSpace(text))
				continue
			}
			if r.Python != "" {
				return condaFault(item, field, "python is asked for a second time")
			}
			r.Python = pythonVersion(spec)
			continue
		}
		nested, ok := mapping(item)
		if !ok || len(nested) != 1 {
			return condaFault(item, field, "a package such as numpy=1.21, or a pip list, is expected")
		}
		if key, _ := scalar(nested[0].Key); key != "pip" {
			return condaFault(nested[0].Key, field, "only a pip list may be nested here, not %q", key)
		}
		if err := r.readPip(nested[0].Value, field+".pip"); err != nil {
			return err
		}
	}
	return nil
}

func (r *Recipe) readPip(n ast.Node, field string) error {
	items, ok := sequence(n)
	if !ok {
		return condaFault(n, field, "a list of requirements is expected")
	}
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", field, i)
		text, ok := scalar(item)
		if !ok {
			return condaFault(item, at, "a requirement such as numpy==1.21 is expected")
		}
		if err := r.addRequirement(text); err != nil {
			return condaFault(item, at, "%v", err)
		}
	}
	return nil
}

// pythonVersion turns the conda spec of Python into Recipe.Python: "=3.10",
// "3.10.*" and "==3.10" all ask for 3.10.
func pythonVersion(s Spec) string {
	v := strings.TrimSpace(s.Version)
	if strings.ContainsAny(v, "<>!~,|") {
		return v
	}
	v = strings.TrimLeft(v, "=")
	return strings.TrimSuffix(strings.TrimSuffix(v, "*"), ".")
}

func condaFault(n ast.Node, field, format string, args ...any) *fault.Error {
	where := ""
	if n != nil {
		where = fmt.Sprintf(" line %d", line(n))
	}
	return fault.Invalid("conda file%s, %s: %s", where, field, fmt.Sprintf(format, args...)).
		With("InvalidCondaFile").At(field)
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// mapping returns the pairs of a YAML mapping.
func mapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// sequence returns the items of a YAML list. Nothing at all is an empty list,
// which is what people mean by a lone "- pip:".
func sequence(n ast.Node) ([]ast.Node, bool) {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil, true
	case *ast.SequenceNode:
		return n.Values, true
	}
	return nil, false
}

// scalar returns the text of a plain value as it was written, so that a
// version that looks like a number ("3.10") keeps its zero.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func scalars(n ast.Node, field string) ([]string, error) {
	items, ok := sequence(n)
	if !ok {
		return nil, condaFault(n, field, "a list is expected")
	}
	var out []string
	for i, item := range items {
		s, ok := scalar(item)
		if !ok {
			return nil, condaFault(item, fmt.Sprintf("%s[%d]", field, i), "a word is expected")
		}
		out = append(out, s)
	}
	return out, nil
}
