package spec

import (
	"slices"
	"strconv"
	"strings"

	"lapis/pattern"
)

// emit writes a value as block YAML with sorted keys: the form in which conda
// specifications are sent.
func emit(n *Node) string {
	var b strings.Builder
	emitBlock(&b, n, "", false)
	return b.String()
}

// emitBlock writes n. The first line is not indented if it goes on a line
// that has begun.
func emitBlock(b *strings.Builder, n *Node, indent string, begun bool) {
	lead := func() {
		if !begun {
			b.WriteString(indent)
		}
		begun = false
	}
	switch {
	case n.kind == mapping && len(n.keys) > 0:
		order := make([]int, len(n.keys))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(i, j int) int { return strings.Compare(n.keys[i].text, n.keys[j].text) })
		for _, i := range order {
			lead()
			b.WriteString(quote(n.keys[i]) + ":")
			switch v := n.values[i]; {
			case v.kind == mapping && len(v.keys) > 0:
				b.WriteString("\n")
				emitBlock(b, v, indent+"  ", false)
			case v.kind == sequence && len(v.items) > 0:
				b.WriteString("\n")
				emitBlock(b, v, indent, false)
			default:
				b.WriteString(" ")
				emitBlock(b, v, indent, true)
			}
		}
	case n.kind == sequence && len(n.items) > 0:
		for _, item := range n.items {
			lead()
			b.WriteString("- ")
			emitBlock(b, item, indent+"  ", true)
		}
	case n.kind == mapping:
		b.WriteString("{}\n")
	case n.kind == sequence:
		b.WriteString("[]\n")
	default:
		b.WriteString(quote(n) + "\n")
	}
}

var plainWord = pattern.New(`^[^\s\-?:,\[\]{}#&*!|>'"%@` + "`" + `=][^\n]*$`)

// quote writes a scalar so that it is read back as what it was.
func quote(n *Node) string {
	switch n.kind {
	case null:
		return "null"
	case boolean:
		return strconv.FormatBool(n.truth())
	case integer, float:
		return strings.ToLower(n.literal())
	}
	s := n.text
	switch {
	case s == "":
		return "''"
	case strings.ContainsAny(s, "\n\t") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0xfeff }):
		return strconv.Quote(s)
	case resolve(s) != text, dateLike.MatchString(s),
		!plainWord.MatchString(s) && !(len(s) > 1 && strings.ContainsRune("-?:", rune(s[0])) && s[1] != ' '),
		strings.Contains(s, ": "), strings.Contains(s, " #"), strings.HasSuffix(s, ":"), strings.HasSuffix(s, " "):
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return s
}

var dateLike = pattern.New(`^\d{4}-\d\d?-\d\d?([Tt \t].*)?$`)
