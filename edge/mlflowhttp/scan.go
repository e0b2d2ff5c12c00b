package mlflowhttp

import (
	"math"
	"strconv"
	"unicode/utf8"

	"lapis/ml/tracking"
)

// scanner reads the bodies of log-metric and log-batch in the one form that
// clients write them in, many times faster than a general decoder. Whatever it
// does not expect makes it give up, and the general way decides: so it never
// answers differently, only sooner.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\n', '\r', '\t':
			s.i++
		default:
			return
		}
	}
}

// next skips space and takes c if it comes next.
func (s *scanner) next(c byte) bool {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// text reads a string without escapes.
func (s *scanner) text() ([]byte, bool) {
	if !s.next('"') {
		return nil, false
	}
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			t := s.b[start:s.i]
			s.i++
			return t, true
		case c == '\\' || c < ' ':
			return nil, false
		}
		s.i++
	}
	return nil, false
}

// digits returns the characters of a number.
func (s *scanner) digits() []byte {
	s.space()
	start := s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			s.i++
		default:
			return s.b[start:s.i]
		}
	}
	return s.b[start:s.i]
}

// integer reads a whole number of up to 18 digits.
func (s *scanner) integer() (int64, bool) {
	d := s.digits()
	negative := len(d) > 0 && d[0] == '-'
	if negative {
		d = d[1:]
	}
	if len(d) == 0 || len(d) > 18 || d[0] == '0' && len(d) > 1 {
		return 0, false
	}
	var n int64
	for _, c := range d {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, true
}

// number reads a number, or the name of one that JSON does not have.
func (s *scanner) number() (float64, bool) {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == '"' {
		t, ok := s.text()
		switch {
		case ok && string(t) == "NaN":
			return math.NaN(), true
		case ok && string(t) == "Infinity":
			return math.Inf(1), true
		case ok && string(t) == "-Infinity":
			return math.Inf(-1), true
		}
		return 0, false
	}
	d := s.digits()
	// JSON's form, which is narrower than Go's: no "+1", "01", ".5", "5.".
	digit := func(i int) bool { return i < len(d) && d[i] >= '0' && d[i] <= '9' }
	i := 0
	if i < len(d) && d[i] == '-' {
		i++
	}
	if !digit(i) || d[i] == '0' && digit(i+1) {
		return 0, false
	}
	for digit(i) {
		i++
	}
	if i < len(d) && d[i] == '.' {
		if i++; !digit(i) {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(string(d), 64)
	return f, err == nil
}

// fields reads an object and calls field with each name, once for each; field
// reads the value.
func (s *scanner) fields(field func(name []byte) bool) bool {
	if !s.next('{') {
		return false
	}
	if s.next('}') {
		return true
	}
	for {
		name, ok := s.text()
		if !ok || !s.next(':') || !field(name) {
			return false
		}
		if s.next(',') {
			continue
		}
		return s.next('}')
	}
}

// elements reads a list and calls element for each.
func (s *scanner) elements(element func() bool) bool {
	if !s.next('[') {
		return false
	}
	if s.next(']') {
		return true
	}
	for {
		if !element() {
			return false
		}
		if s.next(',') {
			continue
		}
		return s.next(']')
	}
}

// Fields of a point, as bits: a field that comes twice is not for the scanner.
const (
	sawKey = 1 << iota
	sawValue
	sawTime
	sawStep
	sawModel
	sawName
	sawDigest
	sawRun
	sawRunUUID
)

// pointField reads one field of a point.
func (s *scanner) pointField(name []byte, m *tracking.Metric, saw *int, last string) bool {
	var bit int
	ok := false
	var t []byte
	switch string(name) {
	case "key":
		bit = sawKey
		if t, ok = s.text(); ok && len(t) > 0 {
			if string(t) == last {
				m.Key = last // most points have the key of the point before
			} else {
				m.Key = string(t)
			}
		} else {
			return false
		}
	case "value":
		bit = sawValue
		m.Value, ok = s.number()
	case "timestamp":
		bit = sawTime
		m.Time, ok = s.integer()
	case "step":
		bit = sawStep
		m.Step, ok = s.integer()
	case "model_id":
		bit = sawModel
		t, ok = s.text()
		m.Model = string(t)
	case "dataset_name":
		bit = sawName
		t, ok = s.text()
		m.DatasetName = string(t)
	case "dataset_digest":
		bit = sawDigest
		t, ok = s.text()
		m.DatasetDigest = string(t)
	}
	if !ok || *saw&bit != 0 {
		return false
	}
	*saw |= bit
	return true
}

const wholePoint = sawKey | sawValue | sawTime

// runField reads the run's id, which may be there under both its names.
func (s *scanner) runField(name []byte, run *string, saw *int) bool {
	bit := sawRun
	if string(name) == "run_uuid" {
		bit = sawRunUUID
	}
	t, ok := s.text()
	if !ok || len(t) == 0 || *saw&bit != 0 || *run != "" && *run != string(t) {
		return false
	}
	*saw |= bit
	*run = string(t)
	return true
}

// end tells whether nothing but space is left.
func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// scanMetric reads the body of a log-metric.
func scanMetric(body []byte) (run string, m tracking.Metric, ok bool) {
	if !utf8.Valid(body) {
		return "", m, false
	}
	s := scanner{b: body}
	saw := 0
	ok = s.fields(func(name []byte) bool {
		if string(name) == "run_id" || string(name) == "run_uuid" {
			return s.runField(name, &run, &saw)
		}
		return s.pointField(name, &m, &saw, "")
	})
	return run, m, ok && s.end() && saw&(wholePoint|sawRun) == wholePoint|sawRun
}

// scanBatch reads the body of a log-batch.
func scanBatch(body []byte) (run string, b tracking.Batch, ok bool) {
	if !utf8.Valid(body) {
		return "", b, false
	}
	s := scanner{b: body}
	saw := 0
	seen := map[string]bool{}
	last := ""
	point := func() bool {
		var m tracking.Metric
		fields := 0
		if !s.fields(func(name []byte) bool { return s.pointField(name, &m, &fields, last) }) || fields&wholePoint != wholePoint {
			return false
		}
		last = m.Key
		b.Metrics = append(b.Metrics, m)
		return len(b.Metrics) <= 2000 // the limit's error is not for the scanner
	}
	tags := func(list *[]tracking.Tag) bool {
		return s.elements(func() bool {
			var t tracking.Tag
			fields := 0
			ok := s.fields(func(name []byte) bool {
				bit, into := sawKey, &t.Key
				switch string(name) {
				case "key":
				case "value":
					bit, into = sawValue, &t.Value
				default:
					return false
				}
				text, ok := s.text()
				*into = string(text)
				again := fields&bit != 0
				fields |= bit
				return ok && !again
			})
			*list = append(*list, t)
			return ok && t.Key != "" && len(*list) <= 2000
		})
	}
	ok = s.fields(func(name []byte) bool {
		switch string(name) {
		case "run_id", "run_uuid":
			return s.runField(name, &run, &saw)
		case "metrics", "params", "tags":
			if seen[string(name)] {
				return false
			}
			seen[string(name)] = true
		}
		switch string(name) {
		case "metrics":
			// A point takes 60 bytes and more.
			b.Metrics = make([]tracking.Metric, 0, min(1000, len(body)/60+1))
			return s.elements(point)
		case "params":
			return tags(&b.Params)
		case "tags":
			return tags(&b.Tags)
		}
		return false
	})
	return run, b, ok && s.end() && saw&sawRun != 0
}
