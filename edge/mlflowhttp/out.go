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
	// Most numbers that are logged have few digits: an integer over 10,000
	// that gives the same number again has its digits.
	if x := math.Round(v * 1e4); x/1e4 == v && math.Abs(x) < 1e15 && (x != 0 || !math.Signbit(v)) {
		return appendDecimal(b, int64(x))
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

// appendDecimal writes x over 10,000.
func appendDecimal(b []byte, x int64) []byte {
	if x < 0 {
		b, x = append(b, '-'), -x
	}
	b = strconv.AppendInt(b, x/1e4, 10)
	d := int(x % 1e4)
	b = append(b, '.', byte('0'+d/1000), byte('0'+d/100%10), byte('0'+d/10%10), byte('0'+d%10))
	for range 3 {
		if b[len(b)-1] != '0' {
			break
		}
		b = b[:len(b)-1]
	}
	return b
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
