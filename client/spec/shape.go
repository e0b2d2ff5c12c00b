package spec

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"lapis/fault"
)

// maxName is the longest name, in characters, that any resource may have.
const maxName = 255

// maxMistakes bounds what one error lists.
const maxMistakes = 10

// shape is what a value must look like. It notes each mistake with the checker
// and may tidy the node: a choice is left in its own spelling.
type shape func(c *checker, n *Node, path string)

type checker struct{ mistakes []*fault.Error }

// wrong notes a mistake: where it is, what is wrong, what to do.
func (c *checker) wrong(n *Node, path, format string, args ...any) {
	c.mistakes = append(c.mistakes, n.fault(path, format, args...))
}

// fault says what is wrong with the field at path, of which n is the value.
func (n *Node) fault(path, format string, args ...any) *fault.Error {
	place := n.doc.File
	switch {
	case place == "--set "+path, strings.HasPrefix(place, "--") && !strings.HasPrefix(place, "--set "):
		return fault.Invalid("%s: %s", place, fmt.Sprintf(format, args...)).At(path)
	case !strings.HasPrefix(place, "--set ") && n.line > 0:
		place = fmt.Sprintf("%s:%d", place, n.line)
	}
	if path != "" {
		place += ": " + path
	}
	return fault.Invalid("%s: %s", place, fmt.Sprintf(format, args...)).At(path)
}

// err is all mistakes as one fault, or nil.
func (c *checker) err() error {
	switch len(c.mistakes) {
	case 0:
		return nil
	case 1:
		return c.mistakes[0]
	}
	f := *c.mistakes[0]
	f.Details = c.mistakes[1:min(len(c.mistakes), maxMistakes)]
	if more := len(c.mistakes) - maxMistakes; more > 0 {
		f.Details = append(f.Details, fault.Invalid("… and %d more.", more))
	}
	return &f
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// str takes a string.
func str(c *checker, n *Node, path string) {
	if !n.typed && n.kind < mapping {
		n.kind = text
	}
	switch {
	case n.kind == text:
	case n.kind > null && n.kind < text:
		c.wrong(n, path, "this is %s where a string is wanted. Put it in quotes: %q.", n.kind, n.text)
	default:
		c.wrong(n, path, "this is %s where a string is wanted.", n.kind)
	}
}

// scalar takes anything but a list or a mapping.
func scalar(c *checker, n *Node, path string) {
	if n.kind >= mapping || n.kind == null {
		c.wrong(n, path, "this is %s where a string, a number or a boolean is wanted.", n.kind)
	}
}

// name takes the name of a resource: it becomes part of a path.
func name(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) > before {
		return
	}
	checkName(c, n, path)
}

func checkName(c *checker, n *Node, path string) {
	switch length := utf8.RuneCountInString(n.text); {
	case length == 0:
		c.wrong(n, path, "the name is empty.")
	case length > maxName:
		c.wrong(n, path, "the name has %d characters; %d is the most. Shorten it.", length, maxName)
	case strings.ContainsAny(n.text, "/\\?#%") || strings.ContainsFunc(n.text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.wrong(n, path, "a name cannot hold %q, %q, %q, %q, %q or control characters.", '/', '\\', '?', '#', '%')
	case n.text == "." || n.text == "..":
		c.wrong(n, path, "%q cannot be a name.", n.text)
	}
}

// version takes a word or a number and leaves a string.
func version(c *checker, n *Node, path string) {
	if n.kind == integer || n.kind == float {
		n.text, n.kind = n.literal(), text
	}
	name(c, n, path)
}

// anything takes any value.
func anything(*checker, *Node, string) {}

// present takes any value but none.
func present(c *checker, n *Node, path string) {
	if n.kind == null {
		c.wrong(n, path, "this is nothing where a value is wanted.")
	}
}

// flag takes a boolean.
func flag(c *checker, n *Node, path string) {
	if n.kind == text || n.kind == integer {
		switch strings.ToLower(n.text) {
		case "1", "0":
			n.text = map[string]string{"1": "true", "0": "false"}[n.text]
			fallthrough
		default:
			n.kind = resolve(strings.ToLower(n.text))
		}
	}
	if n.kind != boolean {
		c.wrong(n, path, "this is %s where true or false is wanted.", n.kind)
	}
}

// whole takes a whole number of at least low.
func whole(low int64) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind == text && intForm.MatchString(n.text) {
			n.kind = integer
		}
		if n.kind != integer {
			c.wrong(n, path, "this is %s where a whole number is wanted.", n.kind)
			return
		}
		i, err := n.whole()
		switch {
		case err != nil || i > 1<<31-1:
			c.wrong(n, path, "%s is too large.", n.text)
		case i < low:
			c.wrong(n, path, "%d is too small; %d is the least.", i, low)
		}
	}
}

// between takes a whole number of those bounds.
func between(low, high int64) shape {
	return func(c *checker, n *Node, path string) {
		before := len(c.mistakes)
		whole(low)(c, n, path)
		if len(c.mistakes) > before {
			return
		}
		if i, _ := n.whole(); i > high {
			c.wrong(n, path, "%d is too large; %d is the most.", i, high)
		}
	}
}

// port takes a port that anyone may listen at.
var port = between(1025, 65535)

// choice takes one of words, in any case and with or without underscores.
func choice(words ...string) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind == boolean || n.kind == null {
			n.kind = text // a word such as `off` is still a word
		}
		if n.kind != text {
			c.wrong(n, path, "this is %s; %s.", n.kind, oneOf(words))
			return
		}
		for _, w := range words {
			if fold(w) == fold(n.text) {
				n.text = w
				return
			}
		}
		c.wrong(n, path, "%q is not known here; %s.%s", n.text, oneOf(words), didYouMean(n.text, words))
	}
}

func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return "it can only be " + words[0]
	}
	return "it can be " + strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// listOf takes a list of values of one shape.
func listOf(of shape) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind != sequence {
			c.wrong(n, path, "this is %s where a list is wanted.", n.kind)
			return
		}
		for i, item := range n.items {
			of(c, item, fmt.Sprintf("%s.%d", path, i))
		}
	}
}

// mapOf takes a mapping from any key to values of one shape.
func mapOf(of shape) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind != mapping {
			c.wrong(n, path, "this is %s where a mapping is wanted.", n.kind)
			return
		}
		for i, k := range n.keys {
			of(c, n.values[i], join(path, k.text))
		}
	}
}

// nullable lets a value be absent though its key is there.
func nullable(s shape) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind != null {
			s(c, n, path)
		}
	}
}

// tags takes a mapping from words to words; numbers and booleans are taken
// as they are written.
func tags(c *checker, n *Node, path string) {
	mapOf(nullable(scalar))(c, n, path)
}

// field is a key of a mapping.
type field struct {
	key   string
	shape shape
	rule  rule
}

type rule int

const (
	optional rule = iota
	required
	readOnly // the server's to say: taken from a file that `show` wrote, and ignored
)

// fields is the table of a mapping's keys.
type fields []field

// and adds more fields; one of the same key replaces the older.
func (f fields) and(more ...field) fields {
	out := slices.Clone(f)
next:
	for _, m := range more {
		for i := range out {
			if out[i].key == m.key {
				out[i] = m
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}

func (f fields) names() []string {
	var names []string
	for _, x := range f {
		if x.rule != readOnly && x.key != "$schema" {
			names = append(names, x.key)
		}
	}
	return names
}

// check is the shape of a mapping with these fields and no others.
func (f fields) check(c *checker, n *Node, path string) {
	if n.kind != mapping {
		c.wrong(n, path, "this is %s where a mapping is wanted, with %s.", n.kind, strings.Join(f.names(), ", "))
		return
	}
	for i, k := range n.keys {
		at := slices.IndexFunc(f, func(x field) bool { return x.key == k.text })
		if at < 0 {
			remedy := didYouMean(k.text, f.names())
			if remedy == "" {
				remedy = " Remove it."
				if known, _ := nearest(k.text, f.names()); known != "" {
					remedy = fmt.Sprintf(" The nearest known one is %q; if that is not meant, remove the key.", known)
				}
			}
			c.wrong(k, join(path, k.text), "this key is not known here.%s", remedy)
			continue
		}
		switch v := n.values[i]; {
		case f[at].rule == readOnly:
		case v.kind == null && !acceptsNull(f[at].shape, v):
			c.wrong(k, join(path, k.text), "the value is missing. Give one or remove the key.")
		default:
			f[at].shape(c, v, join(path, k.text))
		}
	}
	for _, x := range f {
		if x.rule == required && n.find(x.key) == nil {
			c.wrong(n, join(path, x.key), "this field is required.")
		}
	}
}

func acceptsNull(s shape, n *Node) bool {
	var c checker
	s(&c, clone(n), "")
	return len(c.mistakes) == 0
}

// has tells whether a key is in the table.
func (f fields) has(key string) bool {
	return slices.ContainsFunc(f, func(x field) bool { return x.key == key })
}

// variant picks, of several mappings that could be meant, the one that a
// word in the file names, else the one that shares most keys with it.
func variant(kinds ...fields) shape {
	return func(c *checker, n *Node, path string) {
		if n.kind != mapping {
			kinds[0].check(c, n, path)
			return
		}
		best, bestScore := kinds[0], -1<<31
		for _, f := range kinds {
			if len(f) == 0 && len(n.keys) > 0 {
				continue
			}
			score := 0
			for _, k := range n.keys {
				if f.has(k.text) {
					score += 4
				}
			}
			var trial checker
			f.check(&trial, clone(n), path)
			if score -= len(trial.mistakes); score > bestScore {
				best, bestScore = f, score
			}
		}
		best.check(c, n, path)
	}
}

func clone(n *Node) *Node {
	if n == nil {
		return nil
	}
	m := *n
	m.values, m.items = make([]*Node, len(n.values)), make([]*Node, len(n.items))
	for i, v := range n.values {
		m.values[i] = clone(v)
	}
	for i, v := range n.items {
		m.items[i] = clone(v)
	}
	return &m
}

func didYouMean(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return fmt.Sprintf(" Did you mean %q?", best)
	}
	return ""
}

// Nearest gives the known word that the given one may have been meant for; ""
// if none is near.
func Nearest(word string, known []string) string {
	best, distance := nearest(word, known)
	if distance > 1+len(word)/3 && fold(best) != fold(word) {
		return ""
	}
	return best
}

// nearest gives the known word with the fewest edits to the given one.
func nearest(word string, known []string) (best string, distance int) {
	distance = 1 << 30
	for _, k := range known {
		d := edits(strings.ToLower(word), strings.ToLower(k))
		if fold(k) == fold(word) {
			d = 0
		}
		if d < distance {
			best, distance = k, d
		}
	}
	return best, distance
}

// edits counts the insertions, removals and replacements between two words.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
