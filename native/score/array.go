package score

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"lapis/native/scan"
	"lapis/native/tensor"
)

// array reads an array that lies nested in lists, or a single value.
func (c *call) array(s *scan.Scanner, name string) (*array, error) {
	a := &array{name: name}
	a.Type = c.server.target(name)
	a.Shape = make([]int64, 0, 4)
	if s.Peek() == '{' {
		return nil, invalid("an array is needed, and an object was given")
	}
	if err := a.read(s, 0); err != nil {
		return nil, err
	}
	if n, ok := tensor.Elements(a.Shape); !ok || n != a.Len() {
		a.ragged = true
	}
	return a, nil
}

// read reads one list at a depth, or an element. The first list of each depth
// tells its length; one of another makes the array ragged.
func (a *array) read(s *scan.Scanner, depth int) error {
	if s.Peek() != '[' {
		if depth != len(a.Shape) {
			a.ragged = true
		}
		return a.element(s)
	}
	if depth > 32 {
		return invalid("the array has more than 32 dimensions")
	}
	known := depth < len(a.Shape)
	if !known {
		// A list beside elements that are none.
		a.ragged = a.ragged || a.Len() > 0
		a.Shape = append(a.Shape, -1)
	}
	n := int64(0)
	err := s.Array(func(int) error {
		n++
		return a.read(s, depth+1)
	})
	if a.Shape[depth] < 0 {
		a.Shape[depth] = n
	} else if a.Shape[depth] != n {
		a.ragged = true
	}
	return err
}

// cells are the elements of an array.
func (a *array) cells() []cell {
	out := make([]cell, a.Len())
	for i := range out {
		if a.Type == tensor.Bytes {
			out[i] = cell{kind: text, s: a.Strings[i]}
			continue
		}
		f := a.Float(i)
		out[i] = cell{kind: number, f: f, i: int64(f), whole: !a.floats && f == math.Trunc(f)}
	}
	return out
}

func (a *array) floating() bool {
	return a.Type == tensor.Float32 || a.Type == tensor.Float64 || a.Type == tensor.Float16 || a.Type == tensor.BFloat16
}

func (a *array) element(s *scan.Scanner) error {
	switch s.Peek() {
	case '"':
		t, err := s.String()
		a.seen[text] = true
		if a.Type == tensor.Bytes {
			a.Strings = append(a.Strings, t)
			return err
		}
		f, e := strconv.ParseFloat(strings.TrimSpace(t), 64)
		if e != nil && err == nil {
			// Without a signature it is an array of texts, which the model refuses.
			a.words, f = append(a.words, t), math.NaN()
			if !a.floating() {
				f = 0
			}
		}
		a.Data = tensor.AppendFloat(a.Data, a.Type, f)
		return err
	case 't', 'f':
		b, err := s.Bool()
		a.seen[boolean] = true
		if a.Type == tensor.Bytes {
			a.Strings = append(a.Strings, strings.ToUpper(strconv.FormatBool(b)[:1])+strconv.FormatBool(b)[1:])
			return err
		}
		n := int64(0)
		if b {
			n = 1
		}
		a.Data = tensor.AppendInt(a.Data, a.Type, n)
		return err
	case 'n':
		if s.Word("null") {
			a.seen[null] = true
			switch a.Type {
			case tensor.Bytes:
				a.Strings = append(a.Strings, "None")
			case tensor.Float16, tensor.Float32, tensor.Float64, tensor.BFloat16:
				a.Data = tensor.AppendFloat(a.Data, a.Type, math.NaN())
			default:
				a.words = append(a.words, "None")
				a.Data = tensor.AppendInt(a.Data, a.Type, 0)
			}
			return nil
		}
	case '{':
		return invalid("an array is needed, and an object lies in it")
	}
	n, err := s.Number()
	a.seen[number] = true
	a.floats = a.floats || !n.Whole
	switch {
	case err != nil:
	case a.Type == tensor.Float32:
		a.Data = tensor.AppendFloat32(a.Data, float32(n.Float))
	case a.Type == tensor.Bytes:
		if n.Whole {
			a.Strings = append(a.Strings, strconv.FormatInt(n.Int, 10))
		} else {
			a.Strings = append(a.Strings, string(tensor.AppendNumber(nil, n.Float)))
		}
	case n.Whole:
		a.Data = tensor.AppendInt(a.Data, a.Type, n.Int)
	case n.Large && n.Uint != 0:
		a.Data = tensor.AppendInt(a.Data, a.Type, int64(n.Uint))
	default:
		a.Data = tensor.AppendFloat(a.Data, a.Type, n.Float)
	}
	return err
}

// fromCells makes an array of the cells of a column.
func (c *call) fromCells(name string, cells []cell) (*array, error) {
	a := &array{name: name}
	a.Type = c.server.target(name)
	a.Shape = []int64{int64(len(cells))}
	is := func(k kind) func(cell) bool { return func(v cell) bool { return v.kind == k } }
	if a.Type == tensor.Bytes && !slices.ContainsFunc(cells, is(text)) && slices.ContainsFunc(cells, func(v cell) bool { return v.kind == number && !v.whole }) {
		// In a column of numbers, whole ones beside others are written as those are.
		cells = slices.Clone(cells)
		for i := range cells {
			cells[i].whole = false
		}
	}
	for i := range cells {
		if err := a.cell(&cells[i], 1); err != nil {
			return nil, err
		}
	}
	if n, ok := tensor.Elements(a.Shape); !ok || n != a.Len() {
		a.ragged = true
	}
	return a, nil
}

func (a *array) cell(v *cell, depth int) error {
	if v.kind == list {
		if depth >= len(a.Shape) {
			a.Shape = append(a.Shape, int64(len(v.list)))
		}
		if depth > 32 || a.Shape[depth] != int64(len(v.list)) {
			a.ragged = true
			return nil
		}
		for i := range v.list {
			if err := a.cell(&v.list[i], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	a.seen[v.kind] = true
	if a.Type == tensor.Bytes {
		switch v.kind {
		case text:
			a.Strings = append(a.Strings, v.s)
		case boolean:
			a.Strings = append(a.Strings, v.show())
		default:
			a.Strings = append(a.Strings, v.label())
		}
		return nil
	}
	f, err := v.number()
	if err != nil {
		return invalid("Invalid input. %s", err)
	}
	a.floats = a.floats || v.kind == number && !v.whole
	if v.whole {
		a.Data = tensor.AppendInt(a.Data, a.Type, v.i)
	} else {
		a.Data = tensor.AppendFloat(a.Data, a.Type, f)
	}
	return nil
}

// number is the value as a number; null is NaN.
func (v *cell) number() (float64, error) {
	switch v.kind {
	case number, boolean:
		return v.f, nil
	case null:
		return math.NaN(), nil
	case text:
		word := strings.TrimSpace(v.s)
		if f, err := strconv.ParseFloat(word, 64); err == nil && !strings.HasPrefix(strings.TrimLeft(word, "+-"), "0x") {
			return f, nil
		}
		return 0, fmt.Errorf("could not convert string to float: '%s'", v.s)
	}
	return 0, fmt.Errorf("float() argument must be a string or a real number, not '%s'", v.python())
}

// String shows the data in errors.
func (d *data) String() string {
	var b []byte
	switch {
	case d.table != nil:
		b = append(b, "  "...)
		for _, col := range d.table.columns {
			b = append(append(b, "  "...), col.name...)
		}
		for row := range min(d.table.rows, 10) {
			b = strconv.AppendInt(append(b, '\n'), int64(row), 10)
			for i := range d.table.columns {
				b = append(append(b, "  "...), d.table.columns[i].cells[row].show()...)
			}
		}
	case d.array != nil && !d.array.ragged:
		b = d.array.AppendNested(b, d.array.Shape, 0)
	default:
		b = append(b, '{')
		for i := range d.named {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(append(append(b, '\''), d.named[i].name...), "': array(...)"...)
		}
		b = append(b, '}')
	}
	return clip(b)
}

func (v *cell) show() string {
	switch v.kind {
	case text:
		return v.s
	case boolean:
		return strings.ToUpper(strconv.FormatBool(v.f != 0)[:1]) + strconv.FormatBool(v.f != 0)[1:]
	case null:
		return "NaN"
	}
	return v.label()
}
