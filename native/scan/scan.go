// Package scan reads JSON where it lies: bodies with many numbers, without a
// value made for each. Beside JSON it takes the bare words NaN, Infinity and
// -Infinity, as Python writes and reads them.
package scan

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// Scanner reads one document, front to back.
type Scanner struct {
	b     []byte
	at    int
	depth int
}

// New returns a scanner of the document.
func New(b []byte) *Scanner { return &Scanner{b: b} }

// Error is where and why a document is no JSON.
type Error struct {
	Reason string
	At     int // bytes from the start
}

func (e *Error) Error() string { return fmt.Sprintf("%s at %d", e.Reason, e.At) }

// MaxDepth bounds how deep values may lie in others.
const MaxDepth = 512

func (s *Scanner) fail(reason string) error { return &Error{reason, s.at} }

// Offset is where the scanner stands.
func (s *Scanner) Offset() int { return s.at }

// Since are the bytes from an earlier offset to here.
func (s *Scanner) Since(from int) []byte { return s.b[from:s.at] }

// Peek returns the first byte of what comes next, or 0 at the end.
func (s *Scanner) Peek() byte {
	for s.at < len(s.b) {
		switch c := s.b[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// End returns an error unless the document ends here.
func (s *Scanner) End() error {
	if s.Peek() != 0 || s.at < len(s.b) {
		return s.fail("The document root must not be followed by other values.")
	}
	return nil
}

// Object reads an object: member reads the value of each name.
func (s *Scanner) Object(member func(name string) error) error {
	if s.Peek() != '{' {
		return s.fail("Invalid value.")
	}
	if s.depth++; s.depth > MaxDepth {
		return s.fail("The document is nested too deeply.")
	}
	defer func() { s.depth-- }()
	s.at++
	if s.Peek() == '}' {
		s.at++
		return nil
	}
	for {
		if s.Peek() != '"' {
			return s.fail("Missing a name for object member.")
		}
		name, err := s.String()
		if err != nil {
			return err
		}
		if s.Peek() != ':' {
			return s.fail("Missing a colon after a name of object member.")
		}
		s.at++
		if err := member(name); err != nil {
			return err
		}
		switch s.Peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			return nil
		default:
			return s.fail("Missing a comma or } after an object member.")
		}
	}
}

// Array reads an array: element reads each of its values.
func (s *Scanner) Array(element func(i int) error) error {
	if s.Peek() != '[' {
		return s.fail("Invalid value.")
	}
	if s.depth++; s.depth > MaxDepth {
		return s.fail("The document is nested too deeply.")
	}
	defer func() { s.depth-- }()
	s.at++
	if s.Peek() == ']' {
		s.at++
		return nil
	}
	for i := 0; ; i++ {
		if err := element(i); err != nil {
			return err
		}
		switch s.Peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return nil
		default:
			return s.fail("Missing a comma or ] after an array element.")
		}
	}
}

// String reads a string.
func (s *Scanner) String() (string, error) {
	if s.Peek() != '"' {
		return "", s.fail("Invalid value.")
	}
	from := s.at + 1
	for i := from; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.at = i + 1
			if text := s.b[from:i]; utf8.Valid(text) {
				return string(text), nil
			}
			s.at = from
			return "", s.fail("Invalid encoding in string.")
		case c == '\\':
			return s.escaped(from, i)
		case c < 0x20:
			s.at = i
			return "", s.fail("Invalid encoding in string.")
		}
	}
	s.at = len(s.b)
	return "", s.fail("Missing a closing quotation mark in string.")
}

// escaped goes on with a string that has an escape at i.
func (s *Scanner) escaped(from, i int) (string, error) {
	out := append([]byte(nil), s.b[from:i]...)
	for i < len(s.b) {
		c := s.b[i]
		switch {
		case c == '"':
			s.at = i + 1
			if !utf8.Valid(out) {
				return "", s.fail("Invalid encoding in string.")
			}
			return string(out), nil
		case c < 0x20:
			s.at = i
			return "", s.fail("Invalid encoding in string.")
		case c != '\\':
			out = append(out, c)
			i++
			continue
		}
		s.at = i
		if i+1 >= len(s.b) {
			break
		}
		const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
		if k := indexByte(from, s.b[i+1]); k >= 0 {
			out = append(out, to[k])
			i += 2
			continue
		}
		r, ok := s.unicode(i)
		if !ok {
			return "", s.fail("Invalid escape character in string.")
		}
		i += 6
		if utf16.IsSurrogate(r) {
			low, ok := s.unicode(i)
			if pair := utf16.DecodeRune(r, low); ok && pair != utf8.RuneError {
				r = pair
				i += 6
			} else {
				return "", s.fail("The surrogate pair in string is invalid.")
			}
		}
		out = utf8.AppendRune(out, r)
	}
	return "", s.fail("Missing a closing quotation mark in string.")
}

func indexByte(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// unicode reads \uXXXX at i.
func (s *Scanner) unicode(i int) (rune, bool) {
	if i+6 > len(s.b) || s.b[i] != '\\' || s.b[i+1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.b[i+2:i+6]), 16, 32)
	return rune(n), err == nil
}

// Word reads one of the bare words and tells whether it was there.
func (s *Scanner) Word(word string) bool {
	s.Peek()
	if len(s.b)-s.at >= len(word) && string(s.b[s.at:s.at+len(word)]) == word {
		s.at += len(word)
		return true
	}
	return false
}

// Bool reads true or false.
func (s *Scanner) Bool() (bool, error) {
	switch {
	case s.Word("true"):
		return true, nil
	case s.Word("false"):
		return false, nil
	}
	return false, s.fail("Invalid value.")
}

// Number is a number as it was written.
type Number struct {
	Float float64
	Int   int64 // when Whole
	Whole bool  // it has neither point nor exponent, and fits
	Large bool  // whole, but too large for Int: Float is near it, Uint exact when it fits
	Uint  uint64
}

var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// Float reads a number.
func (s *Scanner) Float() (float64, error) {
	n, err := s.Number()
	return n.Float, err
}

// Number reads a number.
func (s *Scanner) Number() (Number, error) {
	s.Peek()
	b, i := s.b, s.at
	negative := false
	if i < len(b) && b[i] == '-' {
		negative = true
		i++
	}
	first := i
	var mantissa uint64
	digits, point := 0, -1
	for ; i < len(b); i++ {
		c := b[i]
		if c >= '0' && c <= '9' {
			if digits < 19 {
				mantissa = mantissa*10 + uint64(c-'0')
			}
			if mantissa != 0 {
				digits++
			}
			continue
		}
		if c == '.' && point < 0 && i > first {
			point = i
			continue
		}
		break
	}
	switch {
	case i == first:
		return s.named()
	case i == point+1: // "1."
		return Number{}, s.fail("Miss fraction part in number.")
	case b[first] == '0' && i > first+1 && point != first+1: // "01"
		return Number{}, s.fail("Invalid value.")
	}
	exponent := 0
	if point >= 0 {
		exponent = point - i + 1
	}
	short := digits <= 19
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		j := i + 1
		if j < len(b) && (b[j] == '+' || b[j] == '-') {
			j++
		}
		from := j
		for j < len(b) && b[j] >= '0' && b[j] <= '9' {
			j++
		}
		if j == from {
			return Number{}, s.fail("Miss exponent in number.")
		}
		if e, err := strconv.Atoi(string(b[i+1 : j])); err == nil && e > -1000 && e < 1000 {
			exponent += e
		} else {
			short = false
		}
		if point < 0 {
			point = i
		}
		i = j
	}
	var n Number
	if point < 0 && short && mantissa <= math.MaxInt64 {
		n.Whole, n.Int = true, int64(mantissa)
		if negative {
			n.Int = -n.Int
		}
	}
	if short && mantissa < 1<<53 && exponent >= -22 && exponent <= 22 {
		// Both are exact, so one operation rounds once.
		n.Float = float64(mantissa)
		if exponent < 0 {
			n.Float /= powers[-exponent]
		} else {
			n.Float *= powers[exponent]
		}
		if negative {
			n.Float = -n.Float
		}
		s.at = i
		return n, nil
	}
	word := b[s.at:i]
	f, err := strconv.ParseFloat(unsafe.String(&word[0], len(word)), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return Number{}, s.fail("Invalid value.")
	}
	n.Float = f
	if point < 0 && !n.Whole {
		n.Large = true
		if u, err := strconv.ParseUint(string(word), 10, 64); err == nil {
			n.Uint = u
		} else if i, err := strconv.ParseInt(string(word), 10, 64); err == nil {
			n.Whole, n.Large, n.Int = true, false, i
		}
	}
	s.at = i
	return n, nil
}

// named reads the numbers that are words.
func (s *Scanner) named() (Number, error) {
	switch {
	case s.Word("NaN"):
		return Number{Float: math.NaN()}, nil
	case s.Word("Infinity"):
		return Number{Float: math.Inf(1)}, nil
	case s.Word("-Infinity"):
		return Number{Float: math.Inf(-1)}, nil
	}
	return Number{}, s.fail("Invalid value.")
}

// Skip passes over a value, whatever it is.
func (s *Scanner) Skip() error {
	switch c := s.Peek(); c {
	case '{':
		return s.Object(func(string) error { return s.Skip() })
	case '[':
		return s.Array(func(int) error { return s.Skip() })
	case '"':
		_, err := s.String()
		return err
	case 't', 'f':
		_, err := s.Bool()
		return err
	case 'n':
		if !s.Word("null") {
			return s.fail("Invalid value.")
		}
		return nil
	case 0:
		if s.at == len(s.b) {
			return s.fail("The document is empty.")
		}
		fallthrough
	default:
		_, err := s.Number()
		return err
	}
}

// Jump goes on at an offset of this document and returns where the scanner
// stood.
func (s *Scanner) Jump(to int) (from int) {
	from, s.at = s.at, to
	return from
}

// Left is the number of bytes that were not read yet.
func (s *Scanner) Left() int { return len(s.b) - s.at }
