package template

import (
	"encoding/json"
	"strconv"
	"strings"

	"lapis/fault"
)

// The bounds of expressions.
const (
	maxExpression = 24_576 // bytes
	maxDepth      = 64     // of calls in calls, and of values in values
	maxWork       = 4 << 20
	maxMade       = 1 << 20 // bytes of a value, roughly
)

// node is a part of an expression: literal, call or member.
type node any

type literal struct{ value any }

// call is one of a function: of the language, or of the template's own (space.name).
type call struct {
	space, name string
	args        []node
}

type member struct{ of, key node }

// parser reads what stands in brackets.
type parser struct {
	text  string
	at    int
	depth int
}

func parse(text string) (node, error) {
	if len(text) > maxExpression {
		return nil, Invalid("An expression of the template is longer than %d bytes.", maxExpression)
	}
	p := &parser{text: text}
	n, err := p.operand()
	if err != nil {
		return nil, err
	}
	if p.blanks(); p.at < len(p.text) {
		return nil, p.wrong("%q is too much", fault.Clip(p.text[p.at:]))
	}
	return n, nil
}

func (p *parser) wrong(format string, args ...any) error {
	return Invalid("The expression [%s] cannot be read: "+format+".", append([]any{fault.Clip(p.text)}, args...)...)
}

func (p *parser) blanks() {
	for p.at < len(p.text) && strings.ContainsRune(" \t\r\n", rune(p.text[p.at])) {
		p.at++
	}
}

// is reads a character if it comes next.
func (p *parser) is(c byte) bool {
	if p.blanks(); p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) operand() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.wrong("it is nested deeper than %d levels", maxDepth)
	}
	defer func() { p.depth-- }()
	n, err := p.primary()
	for links := 0; err == nil; links++ {
		if links > maxDepth {
			return nil, p.wrong("it is nested deeper than %d levels", maxDepth)
		}
		switch {
		case p.is('.'):
			word := p.word()
			if word == "" {
				return nil, p.wrong("the name of a member is missing")
			}
			n = member{n, literal{word}}
		case p.is('['):
			var key node
			if key, err = p.operand(); err == nil && !p.is(']') {
				err = p.wrong("']' is missing")
			}
			n = member{n, key}
		default:
			return n, nil
		}
	}
	return nil, err
}

func (p *parser) word() string {
	p.blanks()
	from := p.at
	for p.at < len(p.text) && (p.text[p.at] == '_' || p.text[p.at] == '$' || p.text[p.at] >= '0' && p.text[p.at] <= '9' || p.text[p.at]|0x20 >= 'a' && p.text[p.at]|0x20 <= 'z') {
		p.at++
	}
	return p.text[from:p.at]
}

func (p *parser) primary() (node, error) {
	p.blanks()
	if p.at >= len(p.text) {
		return nil, p.wrong("it ends too soon")
	}
	switch c := p.text[p.at]; {
	case c == '\'':
		var b strings.Builder
		for p.at++; p.at < len(p.text); p.at++ {
			if p.text[p.at] != '\'' {
				b.WriteByte(p.text[p.at])
				continue
			}
			if p.at++; p.at >= len(p.text) || p.text[p.at] != '\'' {
				return literal{b.String()}, nil
			}
			b.WriteByte('\'')
		}
		return nil, p.wrong("a string does not end")
	case c == '-' || c >= '0' && c <= '9':
		from := p.at
		for p.at++; p.at < len(p.text) && (p.text[p.at] >= '0' && p.text[p.at] <= '9' || p.text[p.at] == '.'); p.at++ {
		}
		if n, err := strconv.ParseInt(p.text[from:p.at], 10, 64); err == nil {
			return literal{n}, nil
		}
		if !json.Valid([]byte(p.text[from:p.at])) {
			return nil, p.wrong("%q is no number", p.text[from:p.at])
		}
		return literal{json.Number(p.text[from:p.at])}, nil
	}
	made := call{name: p.word()}
	if made.name != "" && p.is('.') {
		made.space, made.name = made.name, p.word()
	}
	if made.name == "" || !p.is('(') {
		return nil, p.wrong("a call of a function is expected at %q", fault.Clip(p.text[p.at:]))
	}
	for !p.is(')') {
		if len(made.args) > 0 && !p.is(',') {
			return nil, p.wrong("',' or ')' is missing")
		}
		arg, err := p.operand()
		if err != nil {
			return nil, err
		}
		made.args = append(made.args, arg)
	}
	return made, nil
}

// calls calls do for each call in an expression.
func calls(n node, do func(call)) {
	switch n := n.(type) {
	case call:
		do(n)
		for _, a := range n.args {
			calls(a, do)
		}
	case member:
		calls(n.of, do)
		calls(n.key, do)
	}
}
