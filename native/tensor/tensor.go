// Package tensor holds what models take and give: dense arrays with a name, in
// the terms of the Open Inference Protocol.
package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// Type is the type of the elements.
type Type byte

// The types.
const (
	None Type = iota
	Bool
	Uint8
	Uint16
	Uint32
	Uint64
	Int8
	Int16
	Int32
	Int64
	Float16
	Float32
	Float64
	Bytes
	BFloat16
)

var names = [...]string{"", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16"}

var sizes = [...]int{0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2}

// String is the protocol's word for the type.
func (t Type) String() string { return names[t] }

// Size is the bytes of an element; 0 for Bytes.
func (t Type) Size() int { return sizes[t] }

// Parse finds the type of that name; None when there is none.
func Parse(name string) Type {
	for i, n := range names {
		if n == name {
			return Type(i)
		}
	}
	return None
}

// Info is what a model says of one of its inputs or outputs.
type Info struct {
	Name  string
	Type  Type
	Shape []int64 // -1 is any length
}

// Tensor is an array in row-major order. Elements lie in Data, little-endian,
// or in Strings when the type is Bytes.
type Tensor struct {
	Name    string
	Type    Type
	Shape   []int64
	Data    []byte
	Strings []string

	// Keys are the words of the columns where the model gives a map for each
	// row, such as the probability of each class: JSON keys, and Whole tells
	// that they are numbers.
	Keys  []string
	Whole bool
}

// MaxElements bounds a tensor.
const MaxElements = 1 << 28

// Elements is the number of elements that the shape asks for; false when it is
// negative or too large.
func Elements(shape []int64) (int, bool) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, false
		}
		if d != 0 && n > MaxElements/d {
			return 0, false
		}
		n *= d
	}
	return int(n), true
}

// Len is the number of elements that are there.
func (t *Tensor) Len() int {
	if t.Type == Bytes {
		return len(t.Strings)
	}
	return len(t.Data) / t.Type.Size()
}

// Float is element i as a number; a string that is none is NaN.
func (t *Tensor) Float(i int) float64 {
	d := t.Data
	switch t.Type {
	case Float32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(d[4*i:])))
	case Float64:
		return math.Float64frombits(binary.LittleEndian.Uint64(d[8*i:]))
	case Bool, Uint8:
		return float64(d[i])
	case Int8:
		return float64(int8(d[i]))
	case Uint16:
		return float64(binary.LittleEndian.Uint16(d[2*i:]))
	case Int16:
		return float64(int16(binary.LittleEndian.Uint16(d[2*i:])))
	case Uint32:
		return float64(binary.LittleEndian.Uint32(d[4*i:]))
	case Int32:
		return float64(int32(binary.LittleEndian.Uint32(d[4*i:])))
	case Uint64:
		return float64(binary.LittleEndian.Uint64(d[8*i:]))
	case Int64:
		return float64(int64(binary.LittleEndian.Uint64(d[8*i:])))
	case Float16:
		return float64(FromFloat16(binary.LittleEndian.Uint16(d[2*i:])))
	case BFloat16:
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(d[2*i:])) << 16))
	case Bytes:
		if f, err := strconv.ParseFloat(t.Strings[i], 64); err == nil {
			return f
		}
	}
	return math.NaN()
}

// FromFloat16 widens a number of half precision.
func FromFloat16(h uint16) float32 {
	sign, exp, frac := uint32(h>>15)<<31, uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0xff<<23 | frac<<13)
	case exp == 0:
		f := float32(frac) / (1 << 24)
		if sign != 0 {
			f = -f
		}
		return f
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// ToFloat16 narrows a number to half precision, to the nearest even.
func ToFloat16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	exp, frac := int(b>>23)&0xff, b&0x7fffff
	switch {
	case exp == 0xff:
		if frac != 0 {
			return sign | 0x7e00
		}
		return sign | 0x7c00
	case exp-112 >= 0x1f:
		return sign | 0x7c00
	case exp-112 <= 0:
		if exp < 102 {
			return sign
		}
		frac |= 0x800000
		shift := uint(126 - exp)
		h := frac >> shift
		if rest, half := frac&(1<<shift-1), uint32(1)<<(shift-1); rest > half || rest == half && h&1 == 1 {
			h++
		}
		return sign | uint16(h)
	}
	h := uint32(exp-112)<<10 | frac>>13
	if rest := frac & 0x1fff; rest > 0x1000 || rest == 0x1000 && h&1 == 1 {
		h++
	}
	return sign | uint16(h)
}

// AppendFloat appends element of type t with the value f to data; numbers wrap
// as they do in C.
func AppendFloat(data []byte, t Type, f float64) []byte {
	switch t {
	case Float32:
		return binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(f)))
	case Float64:
		return binary.LittleEndian.AppendUint64(data, math.Float64bits(f))
	case Float16:
		return binary.LittleEndian.AppendUint16(data, ToFloat16(float32(f)))
	case BFloat16:
		return binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(float32(f))>>16))
	case Bool:
		if f != 0 {
			return append(data, 1)
		}
		return append(data, 0)
	}
	return AppendInt(data, t, int64(f))
}

// AppendInt appends an element of a whole type, or any other, to data.
func AppendInt(data []byte, t Type, n int64) []byte {
	switch t {
	case Uint8, Int8:
		return append(data, byte(n))
	case Uint16, Int16:
		return binary.LittleEndian.AppendUint16(data, uint16(n))
	case Uint32, Int32:
		return binary.LittleEndian.AppendUint32(data, uint32(n))
	case Uint64, Int64:
		return binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	return AppendFloat(data, t, float64(n))
}

// AppendJSON appends element i as JSON. Numbers that are none are written as
// the bare words NaN, Infinity and -Infinity, as Python does.
func (t *Tensor) AppendJSON(b []byte, i int) []byte {
	switch t.Type {
	case Float32:
		return AppendNumber(b, float64(math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))))
	case Float64, Float16, BFloat16:
		return AppendNumber(b, t.Float(i))
	case Bool:
		return strconv.AppendBool(b, t.Data[i] != 0)
	case Uint64:
		return strconv.AppendUint(b, binary.LittleEndian.Uint64(t.Data[8*i:]), 10)
	case Int64:
		return strconv.AppendInt(b, int64(binary.LittleEndian.Uint64(t.Data[8*i:])), 10)
	case Bytes:
		return AppendString(b, t.Strings[i])
	}
	return strconv.AppendInt(b, int64(t.Float(i)), 10)
}

// AppendNumber appends a number as Python writes it: shortest, with a point.
func AppendNumber(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "NaN"...)
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	from := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	for _, c := range b[from:] {
		if c == '.' {
			return b
		}
	}
	return append(b, '.', '0')
}

const hex = "0123456789abcdef"

// AppendString appends a JSON string, as Python writes it: in ASCII.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= 0x20 && r < 0x7f:
			b = append(b, byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\r':
			b = append(b, '\\', 'r')
		case r == '\t':
			b = append(b, '\\', 't')
		case r == '\b':
			b = append(b, '\\', 'b')
		case r == '\f':
			b = append(b, '\\', 'f')
		case r > 0xffff:
			r -= 0x10000
			b = appendEscape(appendEscape(b, 0xd800+(r>>10)), 0xdc00+(r&0x3ff))
		default:
			b = appendEscape(b, r)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// AppendNested appends the tensor as nested JSON lists.
func (t *Tensor) AppendNested(b []byte, shape []int64, from int) []byte {
	if len(shape) == 0 {
		return t.AppendJSON(b, from)
	}
	step := 1
	for _, d := range shape[1:] {
		step *= int(d)
	}
	b = append(b, '[')
	for i := range int(shape[0]) {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = t.AppendNested(b, shape[1:], from+i*step)
	}
	return append(b, ']')
}

// Text is a shape as Python and Triton write it: [2,3].
func Text(shape []int64) string {
	b := []byte{'['}
	for i, d := range shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, d, 10)
	}
	return string(append(b, ']'))
}

// Check tells whether the elements fit the shape.
func (t *Tensor) Check() error {
	n, ok := Elements(t.Shape)
	if !ok || t.Len() != n || t.Type != Bytes && len(t.Data) != n*t.Type.Size() {
		return fmt.Errorf("%s has %d elements, and its shape %s asks for %d", t.Name, t.Len(), Text(t.Shape), n)
	}
	return nil
}

// AppendFloat32 appends an element of type Float32.
func AppendFloat32(data []byte, f float32) []byte {
	return binary.LittleEndian.AppendUint32(data, math.Float32bits(f))
}
