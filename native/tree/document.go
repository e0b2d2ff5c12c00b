package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"lapis/native/scan"
)

func baseName(file string) string { return filepath.Base(file) }

// document is a value of JSON, or of the binary form of it that XGBoost writes
// (UBJ). Lists of numbers are kept as numbers.
type document struct {
	members map[string]*document
	list    []*document
	numbers []float64
	text    string
	number  float64
	kind    byte // '{' '[' '"' '0', or 'n' for null
}

// at is the member of that path; a document of kind 0 when there is none.
func (d *document) at(path ...string) *document {
	for _, name := range path {
		if d = d.members[name]; d == nil {
			return &document{}
		}
	}
	return d
}

// float is a number, also one in a string; missing when it is not there.
func (d *document) float(missing float64) (float64, error) {
	switch d.kind {
	case '0':
		return d.number, nil
	case '"':
		word := strings.Trim(d.text, "[] ")
		f, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no number", d.text)
		}
		return f, nil
	}
	return missing, nil
}

func (d *document) whole(missing int) (int, error) {
	f, err := d.float(float64(missing))
	if err == nil && (f != math.Trunc(f) || math.Abs(f) > 1<<31) {
		err = fmt.Errorf("%v is no whole number", f)
	}
	return int(f), err
}

func (d *document) strings() []string {
	var out []string
	for _, e := range d.list {
		out = append(out, e.text)
	}
	return out
}

// parseJSON reads JSON.
func parseJSON(b []byte) (*document, error) {
	s := scan.New(b)
	d, err := jsonValue(s)
	if err == nil {
		err = s.End()
	}
	return d, err
}

func jsonValue(s *scan.Scanner) (*document, error) {
	switch s.Peek() {
	case '{':
		d := &document{kind: '{', members: map[string]*document{}}
		return d, s.Object(func(name string) error {
			v, err := jsonValue(s)
			d.members[name] = v
			return err
		})
	case '[':
		d := &document{kind: '['}
		return d, s.Array(func(int) error {
			switch c := s.Peek(); {
			case c == '{' || c == '[' || c == '"':
				v, err := jsonValue(s)
				d.list = append(d.list, v)
				return err
			case c == 't' || c == 'f':
				b, err := s.Bool()
				n := 0.0
				if b {
					n = 1
				}
				d.numbers = append(d.numbers, n)
				return err
			}
			f, err := s.Float()
			d.numbers = append(d.numbers, f)
			return err
		})
	case '"':
		t, err := s.String()
		return &document{kind: '"', text: t}, err
	case 't', 'f':
		b, err := s.Bool()
		d := &document{kind: '0'}
		if b {
			d.number = 1
		}
		return d, err
	case 'n':
		return &document{kind: 'n'}, s.Skip()
	}
	f, err := s.Float()
	return &document{kind: '0', number: f}, err
}

// errShort is a file that ends too early.
var errShort = errors.New("it ends too early")

// binaryReader reads UBJ.
type binaryReader struct {
	b     []byte
	depth int
}

func parseUBJ(b []byte) (*document, error) {
	r := &binaryReader{b: b}
	m, err := r.marker()
	if err != nil {
		return nil, err
	}
	return r.value(m)
}

func (r *binaryReader) take(n int) ([]byte, error) {
	if n < 0 || n > len(r.b) {
		return nil, errShort
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b, nil
}

func (r *binaryReader) marker() (byte, error) {
	for {
		b, err := r.take(1)
		if err != nil || b[0] != 'N' { // N is no value
			if err != nil {
				return 0, err
			}
			return b[0], nil
		}
	}
}

// scalar reads a number of the marked type.
func (r *binaryReader) scalar(marker byte) (float64, error) {
	size := map[byte]int{'i': 1, 'U': 1, 'C': 1, 'I': 2, 'l': 4, 'L': 8, 'd': 4, 'D': 8, 'T': 0, 'F': 0}
	n, ok := size[marker]
	if !ok {
		return 0, fmt.Errorf("it has a value of an unknown type %q", marker)
	}
	b, err := r.take(n)
	if err != nil {
		return 0, err
	}
	return number(marker, b), nil
}

func number(marker byte, b []byte) float64 {
	switch marker {
	case 'i':
		return float64(int8(b[0]))
	case 'U', 'C':
		return float64(b[0])
	case 'I':
		return float64(int16(binary.BigEndian.Uint16(b)))
	case 'l':
		return float64(int32(binary.BigEndian.Uint32(b)))
	case 'L':
		return float64(int64(binary.BigEndian.Uint64(b)))
	case 'd':
		return float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
	case 'D':
		return math.Float64frombits(binary.BigEndian.Uint64(b))
	case 'T':
		return 1
	}
	return 0
}

func (r *binaryReader) length() (int, error) {
	m, err := r.marker()
	if err != nil {
		return 0, err
	}
	f, err := r.scalar(m)
	if err == nil && (f < 0 || f > float64(len(r.b))+1) {
		err = errShort
	}
	return int(f), err
}

func (r *binaryReader) name() (string, error) {
	n, err := r.length()
	if err != nil {
		return "", err
	}
	b, err := r.take(n)
	return string(b), err
}

func (r *binaryReader) value(marker byte) (*document, error) {
	switch marker {
	case 'Z':
		return &document{kind: 'n'}, nil
	case 'S', 'H':
		s, err := r.name()
		return &document{kind: '"', text: s}, err
	case '{', '[':
		if r.depth++; r.depth > scan.MaxDepth {
			return nil, errors.New("its values are nested too deeply")
		}
		defer func() { r.depth-- }()
		return r.container(marker)
	}
	f, err := r.scalar(marker)
	return &document{kind: '0', number: f}, err
}

// container reads an object or a list, with or without a type and a length
// given before.
func (r *binaryReader) container(marker byte) (*document, error) {
	d := &document{kind: marker}
	if marker == '{' {
		d.members = map[string]*document{}
	}
	kind, count := byte(0), -1
	if len(r.b) > 0 && r.b[0] == '$' {
		b, err := r.take(2)
		if err != nil {
			return nil, err
		}
		kind = b[1]
		if len(r.b) == 0 || r.b[0] != '#' {
			return nil, errors.New("it has a typed list without a length")
		}
	}
	if len(r.b) > 0 && r.b[0] == '#' {
		r.b = r.b[1:]
		var err error
		if count, err = r.length(); err != nil {
			return nil, err
		}
	}
	end := byte(']')
	if marker == '{' {
		end = '}'
	}
	for i := 0; count < 0 || i < count; i++ {
		if count < 0 {
			if len(r.b) == 0 {
				return nil, errShort
			}
			if r.b[0] == end {
				r.b = r.b[1:]
				break
			}
		}
		name := ""
		var err error
		if marker == '{' {
			if name, err = r.name(); err != nil {
				return nil, err
			}
		}
		m := kind
		if m == 0 {
			if m, err = r.marker(); err != nil {
				return nil, err
			}
		}
		v, err := r.element(d, m, marker)
		if err != nil {
			return nil, err
		}
		if marker == '{' {
			d.members[name] = v
		} else if v != nil {
			d.list = append(d.list, v)
		}
	}
	return d, nil
}

// element reads one value; a number of a list goes to its numbers.
func (r *binaryReader) element(into *document, m, marker byte) (*document, error) {
	if marker == '[' && m != '{' && m != '[' && m != 'S' && m != 'H' && m != 'Z' {
		f, err := r.scalar(m)
		into.numbers = append(into.numbers, f)
		return nil, err
	}
	return r.value(m)
}
