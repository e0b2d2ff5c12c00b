package tracking

import "strings"

// MatchesKey tells whether a value passes, or that it is missing.
func (c *Clause) MatchesKey(s string, there bool) bool { return c.matchesKey(s, there) }

// Matches tells whether a text passes the clause.
func (c *Clause) Matches(s string) bool {
	switch c.Op {
	case "=":
		return s == c.Text
	case "!=":
		return s != c.Text
	case "RLIKE":
		return c.regular.MatchString(s)
	case "LIKE", "ILIKE":
		return c.like.match(s)
	case "IN":
		return contains(c.Values, s)
	case "NOT IN":
		return !contains(c.Values, s)
	}
	return false
}

// MatchesNumber tells whether a number passes the clause. NaN passes != alone.
func (c *Clause) MatchesNumber(v float64) bool {
	switch c.Op {
	case "=":
		return v == c.Number
	case "!=":
		return v != c.Number
	case ">":
		return v > c.Number
	case ">=":
		return v >= c.Number
	case "<":
		return v < c.Number
	case "<=":
		return v <= c.Number
	}
	return false
}

// matchesKey tells whether a value that may be missing passes.
func (c *Clause) matchesKey(s string, there bool) bool {
	switch c.Op {
	case "IS NULL":
		return !there
	case "IS NOT NULL":
		return there
	}
	return there && c.Matches(s)
}

// pattern is the right side of LIKE: % is any text, _ any one character.
type pattern struct {
	text  []rune
	fold  bool
	parts []string // between the %, when there is no _
}

func newPattern(s string, fold bool) *pattern {
	if fold {
		s = strings.ToLower(s)
	}
	p := &pattern{text: []rune(s), fold: fold}
	if !strings.Contains(s, "_") {
		p.parts = strings.Split(s, "%")
	}
	return p
}

func (p *pattern) match(s string) bool {
	if p.fold {
		s = strings.ToLower(s)
	}
	if p.parts != nil {
		return inOrder(p.parts, s)
	}
	t := []rune(s)
	// Greedy with one point to fall back to: linear but for that.
	i, j, star, mark := 0, 0, -1, 0
	for i < len(t) {
		switch {
		case j < len(p.text) && p.text[j] == '%':
			star, mark = j, i
			j++
		case j < len(p.text) && (p.text[j] == '_' || p.text[j] == t[i]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	for j < len(p.text) && p.text[j] == '%' {
		j++
	}
	return j == len(p.text)
}

// inOrder tells whether s begins with the first part, ends with the last, and
// has the others between, one after the other.
func inOrder(parts []string, s string) bool {
	n := len(parts) - 1
	if n == 0 {
		return s == parts[0]
	}
	if len(s) < len(parts[0])+len(parts[n]) || !strings.HasPrefix(s, parts[0]) || !strings.HasSuffix(s, parts[n]) {
		return false
	}
	s = s[len(parts[0]) : len(s)-len(parts[n])]
	for _, part := range parts[1:n] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
