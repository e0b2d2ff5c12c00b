package tracking

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is one word of a filter.
type token struct {
	kind byte // i identifier, s quoted string, n number, o operator, p punctuation, x anything else
	text string
}

func wordRune(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// quoted returns the length of the quoted text that s begins with, its quotes
// included, or 0.
func quoted(s string) int {
	q := s[0]
	if q != '\'' && q != '"' && q != '`' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		if s[i] == q {
			if i+1 < len(s) && s[i+1] == q { // a doubled quote stands for one
				i++
				continue
			}
			return i + 1
		}
	}
	return 0
}

// tokens cuts a filter into words.
func tokens(s string) []token {
	var list []token
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case unicode.IsSpace(r):
			s = s[size:]
		case r == '\'':
			n := quoted(s)
			if n == 0 {
				return append(list, token{'x', s})
			}
			list = append(list, token{'s', s[:n]})
			s = s[n:]
		case r == '-' || r == '+' || r == '.' || r >= '0' && r <= '9':
			n := 1
			for n < len(s) && (strings.IndexByte("0123456789.eE", s[n]) >= 0 || (s[n] == '-' || s[n] == '+') && (s[n-1] == 'e' || s[n-1] == 'E')) {
				n++
			}
			kind := byte('n')
			if _, err := strconv.ParseFloat(s[:n], 64); err != nil {
				kind = 'x'
			}
			list = append(list, token{kind, s[:n]})
			s = s[n:]
		case strings.ContainsRune("=<>!", r):
			n := 1
			for n < len(s) && strings.IndexByte("=<>!", s[n]) >= 0 {
				n++
			}
			list = append(list, token{'o', s[:n]})
			s = s[n:]
		case strings.ContainsRune("(),;", r):
			list = append(list, token{'p', s[:1]})
			s = s[1:]
		case wordRune(r) || r == '"' || r == '`':
			n := identifier(s)
			if n == 0 {
				return append(list, token{'x', s})
			}
			list = append(list, token{'i', s[:n]})
			s = s[n:]
		default:
			n := strings.IndexFunc(s, unicode.IsSpace)
			if n < 0 {
				n = len(s)
			}
			list = append(list, token{'x', s[:n]})
			s = s[n:]
		}
	}
	return list
}

// identifier returns the length of the dotted name that s begins with; parts
// may be quoted.
func identifier(s string) int {
	n := 0
	for n < len(s) {
		if q := quoted(s[n:]); q > 0 && s[n] != '\'' {
			n += q
		} else {
			start := n
			for n < len(s) {
				r, size := utf8.DecodeRuneInString(s[n:])
				if !wordRune(r) {
					break
				}
				n += size
			}
			if n == start {
				return n
			}
		}
		if n < len(s) && s[n] == '.' {
			n++
			continue
		}
		return n
	}
	return n
}

func word(list []token, i int, w string) bool {
	return i < len(list) && list[i].kind == 'i' && strings.EqualFold(list[i].text, w)
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '`' || s[0] == '\'') && s[len(s)-1] == s[0] {
		q := s[:1]
		return strings.ReplaceAll(s[1:len(s)-1], q+q, q)
	}
	return s
}
