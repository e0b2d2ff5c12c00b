package trace

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string.
func appendText(b, s []byte) []byte {
	b = append(b, '"')
	start := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		start = i + 1
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendFloat writes a finite number as Python does: 2.0, 1e-05, 1e+16.
func appendFloat(b []byte, f float64) []byte {
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	from := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	if bytes.IndexByte(b[from:], '.') < 0 {
		b = append(b, ".0"...)
	}
	return b
}

// appendBytes writes bytes as Python shows them: b'\\x00ab'.
func appendBytes(b, s []byte) []byte {
	quote := byte('\'')
	if bytes.IndexByte(s, '\'') >= 0 && bytes.IndexByte(s, '"') < 0 {
		quote = '"'
	}
	b = append(b, 'b', quote)
	for _, c := range s {
		switch {
		case c == quote || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20 || c >= 0x7f:
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, quote)
}

// appendJSON writes a value as plain JSON, spaced as Python does.
func appendJSON(b []byte, v *value) []byte {
	switch v.kind {
	case aString:
		return appendText(b, v.text)
	case aBytes:
		return appendText(b, appendBytes(nil, v.text))
	case aBool:
		return strconv.AppendBool(b, v.num != 0)
	case anInt:
		return strconv.AppendInt(b, int64(v.num), 10)
	case aDouble:
		switch f := math.Float64frombits(v.num); {
		case math.IsNaN(f):
			return append(b, "NaN"...)
		case math.IsInf(f, 1):
			return append(b, "Infinity"...)
		case math.IsInf(f, -1):
			return append(b, "-Infinity"...)
		default:
			return appendFloat(b, f)
		}
	case anArray:
		b = append(b, '[')
		for i := range v.items {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = appendJSON(b, &v.items[i])
		}
		return append(b, ']')
	case aList:
		b = append(b, '{')
		for i := range v.pairs {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendText(b, v.pairs[i].key), ": "...)
			b = appendJSON(b, &v.pairs[i].value)
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

// stored is an attribute as MLflow keeps it: JSON, or the text that the client
// wrote if that was JSON already.
func (v *value) stored() string {
	if v.raw != nil {
		return string(v.raw)
	}
	return string(appendJSON(nil, v))
}

// plain is an attribute as a text: a string itself, anything else as JSON.
func (v *value) plain() string {
	if v.kind == aString {
		return string(v.text)
	}
	return v.stored()
}

// reader reads JSON as Python does: NaN and infinities are numbers too.
type reader struct {
	b  []byte
	at int
}

// readJSON reads a JSON text.
func readJSON(b []byte) (value, bool) {
	r := reader{b: b}
	v, ok := r.value(0)
	r.space()
	return v, ok && r.at == len(r.b)
}

func (r *reader) space() {
	for r.at < len(r.b) && (r.b[r.at] == ' ' || r.b[r.at] == '\n' || r.b[r.at] == '\t' || r.b[r.at] == '\r') {
		r.at++
	}
}

// next takes c, after space.
func (r *reader) next(c byte) bool {
	r.space()
	if r.at < len(r.b) && r.b[r.at] == c {
		r.at++
		return true
	}
	return false
}

func (r *reader) word(w string) bool {
	if len(r.b)-r.at >= len(w) && string(r.b[r.at:r.at+len(w)]) == w {
		r.at += len(w)
		return true
	}
	return false
}

func (r *reader) value(depth int) (v value, ok bool) {
	r.space()
	if r.at >= len(r.b) || depth > maxDepth {
		return v, false
	}
	switch c := r.b[r.at]; c {
	case '"':
		v.kind = aString
		v.text, ok = r.string()
		return v, ok
	case '{':
		r.at++
		v.kind = aList
		if r.next('}') {
			return v, true
		}
		for {
			r.space()
			key, ok := r.string()
			if !ok || !r.next(':') {
				return v, false
			}
			x, ok := r.value(depth + 1)
			if !ok {
				return v, false
			}
			// Of a key that is there twice the last holds; among many keys
			// nobody looks.
			if i := -1; len(v.pairs) > fewPairs {
				v.pairs = append(v.pairs, pair{key, x})
			} else if i = find(v.pairs, string(key)); i >= 0 {
				v.pairs[i].value = x
			} else {
				v.pairs = append(v.pairs, pair{key, x})
			}
			if r.next('}') {
				return v, true
			}
			if !r.next(',') {
				return v, false
			}
		}
	case '[':
		r.at++
		v.kind = anArray
		if r.next(']') {
			return v, true
		}
		for {
			x, ok := r.value(depth + 1)
			if !ok {
				return v, false
			}
			v.items = append(v.items, x)
			if r.next(']') {
				return v, true
			}
			if !r.next(',') {
				return v, false
			}
		}
	case 't':
		return value{kind: aBool, num: 1}, r.word("true")
	case 'f':
		return value{kind: aBool}, r.word("false")
	case 'n':
		return value{}, r.word("null")
	case 'N':
		return value{kind: aDouble, num: math.Float64bits(math.NaN())}, r.word("NaN")
	case 'I':
		return value{kind: aDouble, num: math.Float64bits(math.Inf(1))}, r.word("Infinity")
	}
	if r.word("-Infinity") {
		return value{kind: aDouble, num: math.Float64bits(math.Inf(-1))}, true
	}
	return r.number()
}

func (r *reader) number() (value, bool) {
	from := r.at
	digits := func() bool {
		start := r.at
		for r.at < len(r.b) && r.b[r.at] >= '0' && r.b[r.at] <= '9' {
			r.at++
		}
		return r.at > start
	}
	if r.b[r.at] == '-' {
		r.at++
	}
	first := r.at
	if !digits() || r.b[first] == '0' && r.at > first+1 {
		return value{}, false
	}
	whole := true
	if r.at < len(r.b) && r.b[r.at] == '.' {
		r.at++
		if whole = false; !digits() {
			return value{}, false
		}
	}
	if r.at < len(r.b) && r.b[r.at]|0x20 == 'e' {
		r.at++
		if r.at < len(r.b) && (r.b[r.at] == '+' || r.b[r.at] == '-') {
			r.at++
		}
		if whole = false; !digits() {
			return value{}, false
		}
	}
	text := string(r.b[from:r.at])
	if whole {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return value{kind: anInt, num: uint64(n)}, true
		}
	}
	f, _ := strconv.ParseFloat(text, 64) // what is too large is an infinity
	return value{kind: aDouble, num: math.Float64bits(f)}, true
}

func (r *reader) string() ([]byte, bool) {
	if r.at >= len(r.b) || r.b[r.at] != '"' {
		return nil, false
	}
	r.at++
	from := r.at
	for i := from; i < len(r.b); i++ {
		switch c := r.b[i]; {
		case c == '"':
			r.at = i + 1
			return r.b[from:i:i], true
		case c < 0x20:
			return nil, false
		case c == '\\':
			return r.escaped(from, i)
		}
	}
	return nil, false
}

// escaped reads the rest of a string from its first backslash on.
func (r *reader) escaped(from, at int) ([]byte, bool) {
	s := append([]byte(nil), r.b[from:at]...)
	hex4 := func(i int) (rune, bool) {
		if i+4 > len(r.b) {
			return 0, false
		}
		n, err := strconv.ParseUint(string(r.b[i:i+4]), 16, 16)
		return rune(n), err == nil
	}
	for i := at; i < len(r.b); i++ {
		c := r.b[i]
		if c == '"' {
			r.at = i + 1
			return s, true
		}
		if c < 0x20 {
			return nil, false
		}
		if c != '\\' {
			s = append(s, c)
			continue
		}
		if i++; i >= len(r.b) {
			return nil, false
		}
		switch c = r.b[i]; c {
		case '"', '\\', '/':
			s = append(s, c)
		case 'b':
			s = append(s, '\b')
		case 'f':
			s = append(s, '\f')
		case 'n':
			s = append(s, '\n')
		case 'r':
			s = append(s, '\r')
		case 't':
			s = append(s, '\t')
		case 'u':
			x, ok := hex4(i + 1)
			if !ok {
				return nil, false
			}
			i += 4
			if utf16.IsSurrogate(x) {
				y, ok := rune(0), false
				if i+2 < len(r.b) && r.b[i+1] == '\\' && r.b[i+2] == 'u' {
					y, ok = hex4(i + 3)
				}
				if x = utf16.DecodeRune(x, y); ok && x != utf8.RuneError {
					i += 6
				}
			}
			s = utf8.AppendRune(s, x)
		default:
			return nil, false
		}
	}
	return nil, false
}
