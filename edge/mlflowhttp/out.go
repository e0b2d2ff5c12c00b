package mlflowhttp

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// out writes JSON. Each value is followed by a comma, which close takes back.
type out struct{ b []byte }

func (o *out) key(name string) {
	if name != "" {
		o.b = append(o.b, '"')
		o.b = append(o.b, name...)
		o.b = append(o.b, '"', ':')
	}
}

func (o *out) open()             { o.b = append(o.b, '{') }
func (o *out) object(key string) { o.key(key); o.b = append(o.b, '{') }
func (o *out) list(key string)   { o.key(key); o.b = append(o.b, '[') }

func (o *out) end(c byte) {
	if o.b[len(o.b)-1] == ',' {
		o.b = o.b[:len(o.b)-1]
	}
	o.b = append(o.b, c, ',')
}

func (o *out) close()     { o.end('}') }
func (o *out) closeList() { o.end(']') }

// bytes is what was written, without the last comma.
func (o *out) bytes() []byte {
	if n := len(o.b); n > 0 && o.b[n-1] == ',' {
		return o.b[:n-1]
	}
	return o.b
}

func (o *out) text(key, v string) {
	o.key(key)
	o.b = appendText(o.b, v)
	o.b = append(o.b, ',')
}

// some writes a text unless it is empty.
func (o *out) some(key, v string) {
	if v != "" {
		o.text(key, v)
	}
}

func (o *out) integer(key string, v int64) {
	o.key(key)
	o.b = strconv.AppendInt(o.b, v, 10)
	o.b = append(o.b, ',')
}

func (o *out) flag(key string, v bool) {
	o.key(key)
	o.b = strconv.AppendBool(o.b, v)
	o.b = append(o.b, ',')
}

func (o *out) number(key string, v float64) {
	o.key(key)
	o.b = appendNumber(o.b, v)
	o.b = append(o.b, ',')
}

func appendNumber(b []byte, v float64) []byte {
	switch {
	case v != v:
		return append(b, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(b, `"-Infinity"`...)
	}
	n := len(b)
	b = strconv.AppendFloat(b, v, 'g', -1, 64)
	for _, c := range b[n:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, ".0"...) // Python keeps floats and ints apart
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c < utf8.RuneSelf {
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
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			i++
			start = i
			continue
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
