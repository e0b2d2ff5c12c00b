package oip

import (
	"encoding/binary"
	"errors"
	"math"
)

// The wire format of protocol buffers, as far as the messages of the protocol
// need it.

var errWire = errors.New("the message is no valid protocol buffer")

// The kinds of fields on the wire.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// field is one field of a message.
type field struct {
	number int
	kind   int
	bits   uint64 // of all kinds but wireBytes
	bytes  []byte // of wireBytes
}

func (f *field) text() string { return string(f.bytes) }

// eachField calls f with the fields of a message, in their order.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return errWire
		}
		b = b[n:]
		v := field{number: int(tag >> 3), kind: int(tag & 7)}
		switch v.kind {
		case wireVarint:
			if v.bits, n = binary.Uvarint(b); n <= 0 {
				return errWire
			}
		case wireFixed64:
			if n = 8; len(b) < n {
				return errWire
			}
			v.bits = binary.LittleEndian.Uint64(b)
		case wireFixed32:
			if n = 4; len(b) < n {
				return errWire
			}
			v.bits = uint64(binary.LittleEndian.Uint32(b))
		case wireBytes:
			size, k := binary.Uvarint(b)
			if k <= 0 || size > uint64(len(b)-k) {
				return errWire
			}
			n = k + int(size)
			v.bytes = b[k:n]
		default:
			return errWire
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// eachNumber calls f with the numbers of a repeated field, packed or not.
func (f *field) eachNumber(kind int, call func(uint64)) error {
	if f.kind == kind {
		call(f.bits)
		return nil
	}
	if f.kind != wireBytes {
		return errWire
	}
	b := f.bytes
	for len(b) > 0 {
		var v uint64
		n := 0
		switch kind {
		case wireVarint:
			v, n = binary.Uvarint(b)
		case wireFixed32:
			if len(b) >= 4 {
				v, n = uint64(binary.LittleEndian.Uint32(b)), 4
			}
		case wireFixed64:
			if len(b) >= 8 {
				v, n = binary.LittleEndian.Uint64(b), 8
			}
		}
		if n <= 0 {
			return errWire
		}
		call(v)
		b = b[n:]
	}
	return nil
}

func appendTag(b []byte, number, kind int) []byte {
	return binary.AppendUvarint(b, uint64(number)<<3|uint64(kind))
}

func appendWord(b []byte, number int, s string) []byte {
	if s == "" {
		return b
	}
	return append(binary.AppendUvarint(appendTag(b, number, wireBytes), uint64(len(s))), s...)
}

func appendBytes(b []byte, number int, v []byte) []byte {
	return append(binary.AppendUvarint(appendTag(b, number, wireBytes), uint64(len(v))), v...)
}

func appendVarint(b []byte, number int, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(appendTag(b, number, wireVarint), v)
}

// appendShape appends a packed list of int64.
func appendShape(b []byte, number int, shape []int64) []byte {
	if len(shape) == 0 {
		return b
	}
	var packed []byte
	for _, d := range shape {
		packed = binary.AppendUvarint(packed, uint64(d))
	}
	return appendBytes(b, number, packed)
}

func float32Of(bits uint64) float64 { return float64(math.Float32frombits(uint32(bits))) }
