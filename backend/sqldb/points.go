package sqldb

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"

	"lapis/ml/tracking"
)

// errPacked says that packed points do not decode; the row is damaged.
var errPacked = errors.New("packed points are damaged")

// packLog packs the points of one request, by key:
//
//	uvarint length of key, key, uvarint n, n × (varint Δstep, varint Δtime, 8 bytes value)
func packLog(points []tracking.Metric) []byte {
	b := make([]byte, 0, 24+len(points)*14)
	for len(points) > 0 {
		// Most requests have one key, or each key once.
		n := 1
		for n < len(points) && points[n].Key == points[0].Key {
			n++
		}
		b = packKey(b, points[:n])
		points = points[n:]
	}
	return b
}

// packKey appends points of one key.
func packKey(b []byte, points []tracking.Metric) []byte {
	b = binary.AppendUvarint(b, uint64(len(points[0].Key)))
	b = append(b, points[0].Key...)
	b = binary.AppendUvarint(b, uint64(len(points)))
	var last tracking.Point
	for i := range points {
		p := &points[i].Point
		b = binary.AppendVarint(b, p.Step-last.Step)
		b = binary.AppendVarint(b, p.Time-last.Time)
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(p.Value))
		last = *p
	}
	return b
}

// eachLogged calls visit with each point of a packed request.
func eachLogged(b []byte, visit func(key []byte, p tracking.Point)) error {
	for len(b) > 0 {
		size, w := binary.Uvarint(b)
		if w <= 0 || size > uint64(len(b)-w) {
			return errPacked
		}
		key := b[w : w+int(size)]
		b = b[w+int(size):]
		n, w := binary.Uvarint(b)
		if w <= 0 {
			return errPacked
		}
		b = b[w:]
		var p tracking.Point
		for ; n > 0; n-- {
			step, w := binary.Varint(b)
			if w <= 0 {
				return errPacked
			}
			b = b[w:]
			ms, w := binary.Varint(b)
			if w <= 0 || len(b) < w+8 {
				return errPacked
			}
			b = b[w:]
			p.Step += step
			p.Time += ms
			p.Value = math.Float64frombits(binary.LittleEndian.Uint64(b))
			b = b[8:]
			visit(key, p)
		}
	}
	return nil
}

// latestOf keeps the latest point of each key.
type latestOf struct {
	byKey map[string]int
	list  []tracking.Metric
}

func newLatest(from []tracking.Metric) *latestOf {
	l := &latestOf{byKey: make(map[string]int, len(from)+4), list: slices.Clone(from)}
	for i := range from {
		l.byKey[from[i].Key] = i
	}
	return l
}

func (l *latestOf) add(key []byte, p tracking.Point) {
	i, ok := l.byKey[string(key)]
	if !ok {
		l.byKey[string(key)] = len(l.list)
		l.list = append(l.list, tracking.Metric{Key: string(key), Point: p})
		return
	}
	if p.After(l.list[i].Point) {
		l.list[i].Point = p
	}
}

// metrics returns the points by key.
func (l *latestOf) metrics() []tracking.Metric {
	slices.SortFunc(l.list, func(a, b tracking.Metric) int { return strings.Compare(a.Key, b.Key) })
	return l.list
}

// packLatest packs one point for each key; unpackLatest is its inverse. The
// form is that of packLog.
func packLatest(m []tracking.Metric) []byte { return packLog(m) }

func unpackLatest(b []byte) ([]tracking.Metric, error) {
	var m []tracking.Metric
	err := eachLogged(b, func(key []byte, p tracking.Point) {
		m = append(m, tracking.Metric{Key: string(key), Point: p})
	})
	return m, err
}

// before orders points by step, time and value; NaN is 0, after the real one.
func before(a, b tracking.Point) bool {
	if a.Step != b.Step {
		return a.Step < b.Step
	}
	if a.Time != b.Time {
		return a.Time < b.Time
	}
	x, y := a.Value, b.Value
	if x != x {
		x = 0
	}
	if y != y {
		y = 0
	}
	if x != y {
		return x < y
	}
	return a.Value == a.Value && b.Value != b.Value
}

// same tells whether two points are one point logged twice.
func same(a, b tracking.Point) bool {
	return a.Step == b.Step && a.Time == b.Time && (a.Value == b.Value || a.Value != a.Value && b.Value != b.Value)
}

// tidy sorts points and drops what is there twice. Most come in order.
func tidy(p []tracking.Point) []tracking.Point {
	for i := 1; i < len(p); i++ {
		if p[i-1].Step < p[i].Step || before(p[i-1], p[i]) {
			continue
		}
		slices.SortFunc(p, func(a, b tracking.Point) int {
			switch {
			case before(a, b):
				return -1
			case before(b, a):
				return 1
			}
			return 0
		})
		return slices.CompactFunc(p, same)
	}
	return p
}
