// Package spec turns Azure ML's YAML files into the requests that create what
// they describe.
//
// A file is read into a tree whose nodes know their line (document.go), the
// tree is checked against the table of its kind (shape.go, kinds.go), and the
// kind's builder (one file each) writes requests. What only a server knows –
// the next version, where an upload went – a builder asks of a World: a client
// answers with the server's word, DryRun with what can be said without one.
package spec

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"lapis/fault"
	"lapis/pattern"
)

// The bounds of a document. A file past them is refused, so that a small file
// cannot grow into a large tree by aliases.
const (
	maxFileSize = 4 << 20 // bytes
	maxNodes    = 100_000
	maxDepth    = 64
)

// Document is one YAML file, read.
type Document struct {
	File string // as the user named it; errors begin with it
	Dir  string // relative paths in the file start here
	Root *Node
}

type kind int

const (
	null kind = iota
	boolean
	integer
	float
	text
	mapping
	sequence
)

func (k kind) String() string {
	return [...]string{"nothing", "a boolean", "a whole number", "a number", "a string", "a mapping", "a list"}[k]
}

// Node is one value of a document and its place.
type Node struct {
	doc  *Document
	line int
	kind kind
	text string // a scalar as it is written; for a string, its value

	// typed is false for a value that came from the command line: there a
	// word may stand for a number or a number for a word, as the field wants.
	typed bool

	keys   []*Node // of a mapping, in the file's order
	values []*Node
	items  []*Node // of a sequence
}

// ReadFile reads and parses the file at path.
func ReadFile(path string) (*Document, error) {
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return nil, fault.NotFound("%s: there is no such file. Check the path given with --file.", path)
	case err != nil:
		return nil, fault.Invalid("%s cannot be read: %v", path, err)
	case info.IsDir():
		return nil, fault.Invalid("%s is a folder. Name the YAML file in it.", path)
	case info.Size() > maxFileSize:
		return nil, fault.Invalid("%s has %d bytes; a YAML file may have %d. Is it the right file?", path, info.Size(), maxFileSize)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Invalid("%s cannot be read: %v", path, err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, filepath.Dir(abs), data)
}

// Parse reads a document. Errors are faults that begin with file and line.
func Parse(file, dir string, data []byte) (*Document, error) {
	d := &Document{File: file, Dir: dir}
	if len(data) > maxFileSize {
		return nil, fault.Invalid("%s has %d bytes; a YAML file may have %d.", file, len(data), maxFileSize)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) {
		line := 1 + bytes.Count(data[:invalidAt(data)], []byte("\n"))
		return nil, fault.Invalid("%s:%d: the file is not UTF-8. Save it as UTF-8 and try again.", file, line)
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))

	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := decode(dec, &doc); err != nil {
		if err.Error() == "EOF" {
			return nil, fault.Invalid("%s: the file is empty. It has to describe one resource.", file)
		}
		return nil, d.syntax(err)
	}
	var more yaml.Node
	if err := decode(dec, &more); err == nil {
		return nil, fault.Invalid("%s:%d: a second YAML document begins here. Keep one resource in each file.", file, more.Line)
	}
	if len(doc.Content) == 0 {
		return nil, fault.Invalid("%s: the file is empty. It has to describe one resource.", file)
	}
	r := &reader{doc: d, open: map[*yaml.Node]bool{}}
	root, err := r.node(doc.Content[0], 0)
	if err != nil {
		return nil, err
	}
	d.Root = root
	return d, nil
}

// decode keeps the YAML library's panics on odd input from reaching the user.
func decode(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	return dec.Decode(n)
}

func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return 0
}

var syntaxLine = pattern.New(`^yaml: (?:line (\d+): )?(.*)$`)

func (d *Document) syntax(err error) error {
	m := syntaxLine.FindStringSubmatch(err.Error())
	if m == nil {
		return fault.Invalid("%s: this is not YAML: %v", d.File, err)
	}
	if m[1] == "" {
		return fault.Invalid("%s: this is not YAML: %s. Check quotes, indentation and tabs.", d.File, m[2])
	}
	return fault.Invalid("%s:%s: this is not YAML: %s. Check quotes, indentation and tabs around this line.", d.File, m[1], m[2])
}

// reader turns the library's tree into ours: aliases become copies, within
// bounds, and mappings with a key twice are refused.
type reader struct {
	doc   *Document
	count int
	open  map[*yaml.Node]bool // the nodes that the current one lies in
}

func (r *reader) fail(line int, format string, args ...any) error {
	return fault.Invalid("%s:%d: %s", r.doc.File, line, fmt.Sprintf(format, args...))
}

func (r *reader) node(y *yaml.Node, depth int) (*Node, error) {
	if r.count++; r.count > maxNodes {
		return nil, r.fail(y.Line, "the document has more than %d values once its aliases are put in place. Write it without aliases of aliases.", maxNodes)
	}
	if depth > maxDepth {
		return nil, r.fail(y.Line, "values are nested more than %d deep.", maxDepth)
	}
	if y.Kind == yaml.AliasNode {
		if r.open[y.Alias] {
			return nil, r.fail(y.Line, "the alias *%s stands inside the value that it names. Remove it.", y.Value)
		}
		return r.node(y.Alias, depth)
	}
	n := &Node{doc: r.doc, line: y.Line, typed: true}
	switch y.Kind {
	case yaml.ScalarNode:
		n.text = y.Value
		n.kind = text
		if y.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && y.Style&yaml.TaggedStyle == 0 {
			n.kind = resolve(y.Value)
		}
		if y.Style&yaml.TaggedStyle != 0 && y.ShortTag() != "!!str" {
			n.kind = resolve(y.Value)
		}
	case yaml.SequenceNode:
		n.kind = sequence
		r.open[y] = true
		defer delete(r.open, y)
		for _, c := range y.Content {
			item, err := r.node(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
	case yaml.MappingNode:
		n.kind = mapping
		r.open[y] = true
		defer delete(r.open, y)
		seen := map[string]int{}
		for i := 0; i+1 < len(y.Content); i += 2 {
			key, err := r.node(y.Content[i], depth+1)
			if err != nil {
				return nil, err
			}
			value, err := r.node(y.Content[i+1], depth+1)
			if err != nil {
				return nil, err
			}
			if key.kind >= mapping {
				return nil, r.fail(key.line, "a key has to be a word, and this is %s.", key.kind)
			}
			if y.Content[i].Tag == "!!merge" {
				if err := r.merge(n, value, seen); err != nil {
					return nil, err
				}
				continue
			}
			if at, ok := seen[key.text]; ok && at > 0 {
				return nil, r.fail(key.line, "%s: this key stands in line %d already. Keep one of the two.", key.text, at)
			} else if ok {
				n.replace(key, value) // the mapping's own key outranks a merged one
			} else {
				n.keys, n.values = append(n.keys, key), append(n.values, value)
			}
			seen[key.text] = key.line
		}
	default:
		return nil, r.fail(y.Line, "this is not a value.")
	}
	return n, nil
}

// merge puts the keys of `<<: *anchor` into n; zero in seen marks them as
// merged.
func (r *reader) merge(n, from *Node, seen map[string]int) error {
	switch from.kind {
	case mapping:
		for i, k := range from.keys {
			if _, ok := seen[k.text]; !ok {
				n.keys, n.values = append(n.keys, k), append(n.values, from.values[i])
				seen[k.text] = 0
			}
		}
		return nil
	case sequence:
		for _, item := range from.items {
			if err := r.merge(n, item, seen); err != nil {
				return err
			}
		}
		return nil
	}
	return r.fail(from.line, "<<: a merge takes a mapping, and this is %s.", from.kind)
}

func (n *Node) replace(key, value *Node) {
	for i, k := range n.keys {
		if k.text == key.text {
			n.keys[i], n.values[i] = key, value
		}
	}
}

// What an unquoted scalar is, by the rules of YAML 1.1, which the files are
// written for: `yes` is a boolean and `1e3` a string.
var (
	intForm   = pattern.New(`^[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$`)
	floatForm = pattern.New(`^([-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

func resolve(s string) kind {
	switch s {
	case "", "~", "null", "Null", "NULL":
		return null
	case "yes", "Yes", "YES", "no", "No", "NO", "true", "True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF":
		return boolean
	}
	if intForm.MatchString(s) {
		return integer
	}
	if floatForm.MatchString(s) {
		return float
	}
	return text
}

// truth is the value of a boolean.
func (n *Node) truth() bool {
	switch strings.ToLower(n.text) {
	case "yes", "true", "on":
		return true
	}
	return false
}

// whole is the value of an integer.
func (n *Node) whole() (int64, error) {
	s := strings.ReplaceAll(n.text, "_", "")
	sign := ""
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		sign, s = strings.TrimPrefix(s[:1], "+"), s[1:]
	}
	return strconv.ParseInt(sign+s, 0, 64)
}

// number is the value of an integer or a float.
func (n *Node) number() (float64, error) {
	switch s := strings.ToLower(strings.ReplaceAll(n.text, "_", "")); strings.TrimLeft(s, "+-") {
	case ".inf":
		if strings.HasPrefix(s, "-") {
			return math.Inf(-1), nil
		}
		return math.Inf(1), nil
	case ".nan":
		return math.NaN(), nil
	default:
		if n.kind == integer {
			i, err := n.whole()
			return float64(i), err
		}
		return strconv.ParseFloat(s, 64)
	}
}

// literal is a scalar as Azure ML's clients write it into a request: a string,
// `True` or `False`, and the shortest form of a number. Job inputs, defaults
// of components and versions are sent this way.
func (n *Node) literal() string {
	switch n.kind {
	case boolean:
		if n.truth() {
			return "True"
		}
		return "False"
	case integer:
		if i, err := n.whole(); err == nil {
			return strconv.FormatInt(i, 10)
		}
	case float:
		if f, err := n.number(); err == nil {
			return shortest(f)
		}
	case null:
		return "None"
	}
	return n.text
}

// shortest writes a float with as few digits as tell it apart, always with a
// point or an exponent: 1.0, 0.0001, 1e-05.
func shortest(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// get returns the value at a key of a mapping, or nil. A null is nil too.
func (n *Node) get(key string) *Node {
	v := n.find(key)
	if v == nil || v.kind == null {
		return nil
	}
	return v
}

// find is get that tells a null from an absent key.
func (n *Node) find(key string) *Node {
	if n == nil || n.kind != mapping {
		return nil
	}
	for i, k := range n.keys {
		if k.text == key {
			return n.values[i]
		}
	}
	return nil
}

// str is the text at a key, or "".
func (n *Node) str(key string) string {
	if v := n.get(key); v != nil {
		return v.text
	}
	return ""
}

// plain gives the value as JSON has it.
func (n *Node) plain() any {
	if n == nil {
		return nil
	}
	switch n.kind {
	case null:
		return nil
	case boolean:
		return n.truth()
	case integer:
		if i, err := n.whole(); err == nil {
			return i
		}
		return n.text
	case float:
		if f, err := n.number(); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
		return n.text
	case text:
		return n.text
	case sequence:
		list := make([]any, len(n.items))
		for i, item := range n.items {
			list[i] = item.plain()
		}
		return list
	}
	m := make(map[string]any, len(n.keys))
	for i, k := range n.keys {
		m[k.text] = n.values[i].plain()
	}
	return m
}

// Name is what the document calls the resource; "" where it leaves that open.
func (d *Document) Name() string { return d.Root.str("name") }

// EndpointName is the endpoint that the document, of a deployment, names.
func (d *Document) EndpointName() string { return d.Root.str("endpoint_name") }

// Paths lists where the values of the document are, in the form that Set takes.
func (d *Document) Paths() []string {
	var all []string
	var walk func(n *Node, at string)
	walk = func(n *Node, at string) {
		if at != "" {
			all = append(all, at)
		}
		for i, k := range n.keys {
			walk(n.values[i], join(at, k.text))
		}
		for i, item := range n.items {
			walk(item, join(at, strconv.Itoa(i)))
		}
	}
	walk(d.Root, "")
	return all
}
