package sqldb

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"lapis/ml/tracking"
)

// A chunk keeps sorted points of one metric: a mark, the number of points,
// then the columns, each as integers in blocks, then a checksum.
//
//	steps and times: the first, then the differences
//	values: a form, then what the form says
//
// Metrics are mostly decimals of a few digits, or floats of 32 bits: both are
// integers in disguise and are packed as such, with the few that are not set
// aside. Other values are packed byte by byte and compressed.
const (
	markChunk    = 2    // of this form
	markZstd     = 0x28 // of the form before it: one frame of zstd
	maxChunk     = 1 << 16
	blockSize    = 256
	formDecimal  = 0 // a byte d: values are integers over 10^d
	formFloat32  = 1 // values are floats of 32 bits
	formPlanes   = 2 // bytes of the same weight stand together, compressed
	maxDecimals  = 14
	largestExact = 1 << 53
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

var powers = func() (p [maxDecimals + 1]float64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(64<<20))
)

// packChunk packs sorted points for keeping. There are at most maxChunk.
func packChunk(p []tracking.Point) []byte {
	b := make([]byte, 0, 64+len(p)*4)
	b = append(b, markChunk)
	b = binary.AppendUvarint(b, uint64(len(p)))
	if len(p) > 0 {
		column := make([]int64, len(p))
		for i := range p {
			column[i] = p[i].Step
		}
		b = packDifferences(b, column)
		for i := range p {
			column[i] = p[i].Time
		}
		b = packDifferences(b, column)
		b = packValues(b, p, column)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

// unpackChunk appends the points of a packed chunk to dst.
func unpackChunk(packed []byte, dst []tracking.Point) ([]tracking.Point, error) {
	var u unpacking
	return u.chunk(packed, dst)
}

// unpacking unpacks one chunk after the other.
type unpacking struct{ column []int64 }

func (w *unpacking) chunk(packed []byte, dst []tracking.Point) ([]tracking.Point, error) {
	if len(packed) > 0 && packed[0] == markZstd {
		return unpackZstd(packed, dst)
	}
	if len(packed) < 6 || packed[0] != markChunk {
		return dst, errPacked
	}
	body, sum := packed[:len(packed)-4], packed[len(packed)-4:]
	if crc32.Checksum(body, crcTable) != binary.LittleEndian.Uint32(sum) {
		return dst, errPacked
	}
	u := ints{b: body[1:]}
	n := u.uvarint()
	if u.bad || n > maxChunk {
		return dst, errPacked
	}
	if n == 0 {
		return dst, nil
	}
	at := len(dst)
	dst = slices.Grow(dst, int(n))[:at+int(n)]
	p := dst[at:]
	w.column = slices.Grow(w.column[:0], int(n))[:n]
	column := w.column
	u.differences(column)
	for i := range p {
		p[i].Step = column[i]
	}
	u.differences(column)
	for i := range p {
		p[i].Time = column[i]
	}
	u.values(p, column)
	if u.bad || len(u.b) != 0 {
		return dst[:at], errPacked
	}
	return dst, nil
}

// packDifferences packs a column by what each value adds to the one before. It
// changes the column.
func packDifferences(b []byte, column []int64) []byte {
	b = binary.AppendVarint(b, column[0])
	for i := len(column) - 1; i > 0; i-- {
		column[i] -= column[i-1]
	}
	return packInts(b, column[1:])
}

func (u *ints) differences(column []int64) {
	column[0] = u.varint()
	u.unpack(column[1:])
	last := column[0]
	for i := 1; i < len(column); i++ {
		last += column[i]
		column[i] = last
	}
}

// packInts packs integers in blocks: the base, the bits that each takes above
// it, those that do not fit, then the bits.
func packInts(b []byte, v []int64) []byte {
	for block := range slices.Chunk(v, blockSize) {
		base, width := frame(block)
		b = binary.AppendVarint(b, base)
		b = append(b, byte(width))
		at := len(b)
		b = append(b, 0)
		odd := 0
		for i, x := range block {
			if d := uint64(x) - uint64(base); width < 64 && d>>width != 0 {
				odd++
				b = append(b, byte(i))
				b = binary.AppendVarint(b, x)
			}
		}
		b[at] = byte(odd) // never a whole block: the base is one of it
		b = packBits(b, block, base, width)
	}
	return b
}

// frame chooses the base and the width that take the least room for a block.
func frame(block []int64) (base int64, width uint) {
	base = slices.Min(block)
	width, least, high := widthFrom(block, base)
	// A higher base helps only when a few low ones are far below the rest.
	if width == 0 || high < len(block)-len(block)/8 {
		return base, width
	}
	var sorted [blockSize]int64
	s := sorted[:copy(sorted[:], block)]
	slices.Sort(s)
	for _, at := range [...]int{1, 2, 4, 8, 16} {
		if at > len(s)/8 {
			break
		}
		if w, room, _ := widthFrom(block, s[at]); room < least {
			base, width, least = s[at], w, room
		}
	}
	return base, width
}

// widthFrom chooses the width for a base, and tells the room that the block
// then takes in bytes, and how many values need all of the width.
func widthFrom(block []int64, base int64) (width uint, least, high int) {
	var count [65]int // by bits needed
	var room [65]int
	for _, x := range block {
		n := 64
		if x >= base {
			n = bits.Len64(uint64(x) - uint64(base))
		}
		count[n]++
		room[n] += 2 + bits.Len64(uint64(x<<1)^uint64(x>>63))/7
	}
	least = math.MaxInt
	bytes, odd := 0, 0 // of those that do not fit
	for w := 64; w >= 0; w-- {
		if w <= 56 || w == 64 { // wider ones are kept whole
			if cost := (len(block)*w+7)/8 + bytes; odd < min(len(block), 255) && cost < least {
				least, width = cost, uint(w)
			}
		}
		bytes += room[w]
		odd += count[w]
	}
	return width, least, count[width]
}

func packBits(b []byte, v []int64, base int64, width uint) []byte {
	switch width {
	case 0:
		return b
	case 64:
		for _, x := range v {
			b = binary.LittleEndian.AppendUint64(b, uint64(x)-uint64(base))
		}
		return b
	}
	mask := uint64(1)<<width - 1
	var acc uint64
	var have uint
	for _, x := range v {
		d := uint64(x) - uint64(base)
		if d&^mask != 0 {
			d = 0 // it stands beside
		}
		acc |= d << have
		have += width
		for have >= 8 {
			b = append(b, byte(acc))
			acc >>= 8
			have -= 8
		}
		// What did not fit into acc: width is at most 56 and have was below 8.
	}
	if have > 0 {
		b = append(b, byte(acc))
	}
	return b
}

// ints reads what packInts and its like write; bad says that it cannot be.
type ints struct {
	b   []byte
	bad bool
}

func (u *ints) fail() { u.bad, u.b = true, nil }

func (u *ints) uvarint() uint64 {
	v, w := binary.Uvarint(u.b)
	if w <= 0 {
		u.fail()
		return 0
	}
	u.b = u.b[w:]
	return v
}

func (u *ints) varint() int64 {
	v, w := binary.Varint(u.b)
	if w <= 0 {
		u.fail()
		return 0
	}
	u.b = u.b[w:]
	return v
}

func (u *ints) byte() byte {
	if len(u.b) == 0 {
		u.fail()
		return 0
	}
	c := u.b[0]
	u.b = u.b[1:]
	return c
}

// unpack fills v.
func (u *ints) unpack(v []int64) {
	type oddity struct {
		at int
		v  int64
	}
	var odd [256]oddity
	for len(v) > 0 && !u.bad {
		block := v[:min(blockSize, len(v))]
		v = v[len(block):]
		base, width, n := u.varint(), uint(u.byte()), int(u.byte())
		for i := range n {
			odd[i] = oddity{int(u.byte()), u.varint()}
			if odd[i].at >= len(block) {
				u.fail()
			}
		}
		u.bits(block, base, width)
		if u.bad {
			return
		}
		for _, o := range odd[:n] {
			block[o.at] = o.v
		}
	}
}

func (u *ints) bits(v []int64, base int64, width uint) {
	if width > 56 && width != 64 {
		u.fail()
		return
	}
	size := (len(v)*int(width) + 7) / 8
	if size > len(u.b) {
		u.fail()
		return
	}
	b := u.b[:size]
	switch width {
	case 0:
		for i := range v {
			v[i] = base
		}
	case 64:
		for i := range v {
			v[i] = base + int64(binary.LittleEndian.Uint64(b[8*i:]))
		}
	default:
		mask := uint64(1)<<width - 1
		i, at := 0, uint(0)
		// As long as eight bytes can be read at once.
		if fast := u.b; len(fast) >= 8 {
			for ; i < len(v) && int(at>>3)+8 <= len(fast); i++ {
				v[i] = base + int64(binary.LittleEndian.Uint64(fast[at>>3:])>>(at&7)&mask)
				at += width
			}
		}
		for ; i < len(v); i++ {
			var word [8]byte
			copy(word[:], b[at>>3:])
			v[i] = base + int64(binary.LittleEndian.Uint64(word[:])>>(at&7)&mask)
			at += width
		}
	}
	u.b = u.b[size:]
}

// decimal tells whether v is an integer over a power of ten, and which.
func decimal(v, power float64) (int64, bool) {
	x := math.Round(v * power)
	if !(math.Abs(x) < largestExact) || x/power != v || x == 0 && math.Signbit(v) {
		return 0, false
	}
	return int64(x), true
}

// single tells whether v is a float of 32 bits, and which; the integers are in
// the order of the floats.
func single(v float64) (int64, bool) {
	f := float32(v)
	if math.Float64bits(float64(f)) != math.Float64bits(v) {
		return 0, false
	}
	x := int32(math.Float32bits(f))
	return int64(x ^ int32(uint32(x>>31)>>1)), true
}

func fromSingle(x int64) float64 {
	y := int32(x)
	return float64(math.Float32frombits(uint32(y ^ int32(uint32(y>>31)>>1))))
}

// packValues packs the values in the form that takes the least room.
func packValues(b []byte, p []tracking.Point, column []int64) []byte {
	digits := bestDecimals(p)
	at := len(b)
	b, rest := packAs(append(b, formDecimal, byte(digits)), p, column, func(v float64) (int64, bool) { return decimal(v, powers[digits]) })
	if rest*8 <= len(p) {
		return b
	}
	// Many are no decimals: see which form is shorter.
	forms := [][]byte{slices.Clone(b[at:])}
	single, rest := packAs([]byte{formFloat32}, p, column, single)
	forms = append(forms, single)
	if rest*4 > len(p) {
		forms = append(forms, packPlanes(p))
	}
	shortest := slices.MinFunc(forms, func(a, b []byte) int { return len(a) - len(b) })
	return append(b[:at], shortest...)
}

// bestDecimals is the least number of digits with which the most values of a
// sample are decimals.
func bestDecimals(p []tracking.Point) int {
	best, most := 0, -1
	step := max(1, len(p)/64)
	for d := range maxDecimals + 1 {
		n, seen := 0, 0
		for i := 0; i < len(p); i += step {
			seen++
			if _, ok := decimal(p[i].Value, powers[d]); ok {
				n++
			}
		}
		// A digit more costs 3.3 bits of each value; a value set aside, 80.
		if n > most+seen/24 || most < 0 {
			best, most = d, n
		}
		if n == seen {
			break
		}
	}
	return best
}

// packAs packs values as integers; those that are none are set aside and
// counted.
func packAs(b []byte, p []tracking.Point, column []int64, as func(float64) (int64, bool)) ([]byte, int) {
	var odd []int
	var last int64
	for i := range p {
		x, ok := as(p[i].Value)
		if !ok {
			odd = append(odd, i)
			x = last
		}
		column[i], last = x, x
	}
	b = binary.AppendUvarint(b, uint64(len(odd)))
	for _, i := range odd {
		b = binary.LittleEndian.AppendUint16(b, uint16(i))
	}
	for _, i := range odd {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p[i].Value))
	}
	return packInts(b, column), len(odd)
}

func (u *ints) values(p []tracking.Point, column []int64) {
	form := u.byte()
	var power float64
	switch form {
	case formDecimal:
		d := int(u.byte())
		if d > maxDecimals {
			u.fail()
			return
		}
		power = powers[d]
	case formFloat32:
	case formPlanes:
		u.planes(p)
		return
	default:
		u.fail()
	}
	n := u.uvarint()
	if u.bad || n > uint64(len(p)) || 10*n > uint64(len(u.b)) {
		u.fail()
		return
	}
	places, odd := u.b[:2*n], u.b[2*n:10*n]
	u.b = u.b[10*n:]
	u.unpack(column)
	if u.bad {
		return
	}
	if form == formDecimal {
		for i := range p {
			p[i].Value = float64(column[i]) / power
		}
	} else {
		for i := range p {
			p[i].Value = fromSingle(column[i])
		}
	}
	for k := range int(n) {
		at := int(binary.LittleEndian.Uint16(places[2*k:]))
		if at >= len(p) {
			u.fail()
			return
		}
		p[at].Value = math.Float64frombits(binary.LittleEndian.Uint64(odd[8*k:]))
	}
}

// packPlanes packs values by what differs from the one before, bytes of the
// same weight together.
func packPlanes(p []tracking.Point) []byte {
	n := len(p)
	plane := make([]byte, 8*n)
	var prev uint64
	for i := range p {
		now := math.Float64bits(p[i].Value)
		x := now ^ prev
		prev = now
		for k := range 8 {
			plane[k*n+i] = byte(x >> (8 * k))
		}
	}
	packed := packer.EncodeAll(plane, nil)
	b := append([]byte{formPlanes}, binary.AppendUvarint(nil, uint64(len(packed)))...)
	return append(b, packed...)
}

func (u *ints) planes(p []tracking.Point) {
	size := u.uvarint()
	if u.bad || size > uint64(len(u.b)) {
		u.fail()
		return
	}
	b, err := unpacker.DecodeAll(u.b[:size], make([]byte, 0, 8*len(p)))
	if err != nil || len(b) != 8*len(p) {
		u.fail()
		return
	}
	u.b = u.b[size:]
	unplane(b, p)
}

// unplane reads values from planes of bytes.
func unplane(b []byte, p []tracking.Point) {
	n := len(p)
	var prev uint64
	for i := range p {
		var x uint64
		for k := range 8 {
			x |= uint64(b[k*n+i]) << (8 * k)
		}
		prev ^= x
		p[i].Value = math.Float64frombits(prev)
	}
}

// unpackZstd reads the form of chunks that was written before: all columns in
// one frame, steps and times as differences of differences.
func unpackZstd(packed []byte, dst []tracking.Point) ([]tracking.Point, error) {
	b, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return dst, errors.Join(errPacked, err)
	}
	count, w := binary.Uvarint(b)
	if w <= 0 || count > uint64(len(b)) {
		return dst, errPacked
	}
	b = b[w:]
	n := int(count)
	at := len(dst)
	dst = append(dst, make([]tracking.Point, n)...)
	p := dst[at:]
	for column := range 2 {
		var last, delta int64
		for i := range p {
			dd, w := binary.Varint(b)
			if w <= 0 {
				return dst[:at], errPacked
			}
			b = b[w:]
			delta += dd
			last += delta
			if column == 0 {
				p[i].Step = last
			} else {
				p[i].Time = last
			}
		}
	}
	if len(b) != 8*n {
		return dst[:at], errPacked
	}
	unplane(b, p)
	return dst, nil
}
