package monitor

import (
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"lapis/ml/serving"
)

// How long values are kept: by the minute, then by the hour. maxLines bounds the
// combinations of dimensions of one metric of one resource; the one that was
// quiet the longest goes first.
const (
	minutesFor = 25 * time.Hour
	hoursFor   = 93 * 24 * time.Hour
	maxLines   = 500
)

// cell is what was seen within a minute or an hour.
type cell struct {
	At      int64         `json:"-"` // Unix minutes of its beginning
	Min     float64       `json:"min"`
	Max     float64       `json:"max"`
	Sum     float64       `json:"sum"`
	Count   int64         `json:"count"`
	Buckets map[int]int64 `json:"buckets,omitempty"` // of a histogram: bucket → how many
}

// merge takes in what another cell has seen.
func (c *cell) merge(o cell) {
	if o.Count == 0 {
		return
	}
	if c.Count == 0 {
		c.Min, c.Max = o.Min, o.Max
	}
	c.Min, c.Max = min(c.Min, o.Min), max(c.Max, o.Max)
	c.Sum += o.Sum
	c.Count += o.Count
	for b, n := range o.Buckets {
		if c.Buckets == nil {
			c.Buckets = map[int]int64{}
		}
		c.Buckets[b] += n
	}
}

// histogram is the cell's, as the gateway has it.
func (c cell) histogram() serving.Histogram {
	h := serving.Histogram{Counts: make([]int64, serving.Buckets()), Count: c.Count, Sum: time.Duration(c.Sum * float64(time.Millisecond))}
	for b, n := range c.Buckets {
		if b >= 0 && b < len(h.Counts) {
			h.Counts[b] = n
		}
	}
	return h
}

// cellOf is a histogram as a cell, in milliseconds.
func cellOf(h serving.Histogram) cell {
	c := cell{Count: h.Count, Sum: ms(h.Sum), Buckets: map[int]int64{}}
	first := true
	for b, n := range h.Counts {
		if n <= 0 {
			continue
		}
		c.Buckets[b] = n
		if first {
			c.Min, first = ms(serving.Bound(b)), false
		}
		c.Max = ms(serving.Bound(b))
	}
	return c
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// line has the values of one metric of one resource for one combination of
// dimensions, oldest first.
type line struct {
	dims    map[string]string
	minutes []cell
	hours   []cell
}

// key names a line. Dimensions are encoded, sorted by name.
type key struct{ Resource, Metric, Dims string }

// series holds all lines. It is not safe for use by several goroutines.
type series struct {
	lines map[string]map[string]map[string]*line // resource → metric → dimensions
	born  map[string]int64                       // resource → the minute it was first seen
}

func newSeries() *series {
	return &series{lines: map[string]map[string]map[string]*line{}, born: map[string]int64{}}
}

// encode writes dimensions in one way: pairs of names and values.
func encode(pairs ...string) string {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

func decode(dims string) map[string]string {
	v, _ := url.ParseQuery(dims)
	m := map[string]string{}
	for name := range v {
		m[name] = v.Get(name)
	}
	return m
}

// seen notes that a resource is there, so that minutes without a value count as 0.
func (s *series) seen(resource string, minute int64) {
	if at, ok := s.born[resource]; !ok || minute < at {
		s.born[resource] = minute
	}
}

func (s *series) line(k key) *line {
	metrics := s.lines[k.Resource]
	if metrics == nil {
		metrics = map[string]map[string]*line{}
		s.lines[k.Resource] = metrics
	}
	lines := metrics[k.Metric]
	if lines == nil {
		lines = map[string]*line{}
		metrics[k.Metric] = lines
	}
	l := lines[k.Dims]
	if l == nil {
		if len(lines) >= maxLines {
			oldest, at := "", int64(math.MaxInt64)
			for dims, l := range lines {
				if last := l.last(); last < at {
					oldest, at = dims, last
				}
			}
			delete(lines, oldest)
		}
		l = &line{dims: decode(k.Dims)}
		lines[k.Dims] = l
	}
	return l
}

func (l *line) last() int64 {
	if n := len(l.minutes); n > 0 {
		return l.minutes[n-1].At
	}
	if n := len(l.hours); n > 0 {
		return l.hours[n-1].At
	}
	return math.MinInt64
}

// put merges a cell into a list that is ordered by time.
func put(list []cell, c cell) []cell {
	at, found := slices.BinarySearchFunc(list, c.At, func(x cell, at int64) int { return int(x.At - at) })
	if found {
		list[at].merge(c)
		return list
	}
	c.Buckets = maps.Clone(c.Buckets)
	return slices.Insert(list, at, c)
}

// trim drops what is past its time, and lines without a value.
func (s *series) trim(now int64) {
	oldMinute, oldHour := now-int64(minutesFor/time.Minute), now-int64(hoursFor/time.Minute)
	for resource, metrics := range s.lines {
		for metric, lines := range metrics {
			for dims, l := range lines {
				l.minutes = since(l.minutes, oldMinute)
				l.hours = since(l.hours, oldHour)
				if len(l.minutes)+len(l.hours) == 0 {
					delete(lines, dims)
				}
			}
			if len(lines) == 0 {
				delete(metrics, metric)
			}
		}
		if len(metrics) == 0 {
			delete(s.lines, resource)
			delete(s.born, resource)
		}
	}
}

func since(list []cell, at int64) []cell {
	i, _ := slices.BinarySearchFunc(list, at, func(x cell, at int64) int { return int(x.At - at) })
	if i == 0 {
		return list
	}
	return slices.Clone(list[i:])
}

// fold makes the hour that begins at that minute of its minutes, and tells the
// lines that it has values of.
func (s *series) fold(hour int64) map[key]cell {
	made := map[key]cell{}
	for resource, metrics := range s.lines {
		for metric, lines := range metrics {
			for dims, l := range lines {
				var sum cell
				for _, c := range l.minutes {
					if c.At >= hour && c.At < hour+60 {
						sum.merge(c)
					}
				}
				if sum.Count > 0 {
					sum.At = hour
					made[key{resource, metric, dims}] = sum
				}
			}
		}
	}
	return made
}

// Point is what a metric was within one step of time.
type Point struct {
	At                               time.Time
	Average, Minimum, Maximum, Total float64
	Count                            float64
	Empty                            bool // nothing is known of it
}

// span is a part of time, in Unix minutes, end excluded.
type span struct{ from, to int64 }

// points reads the lines of a metric as one: what they are together, in steps.
func (s *series) points(d Definition, resource string, lines []*line, spans []span, now int64) []Point {
	oldMinute := now - int64(minutesFor/time.Minute) + 60
	born, known := s.born[resource]
	out := make([]Point, 0, len(spans))
	for _, sp := range spans {
		p := Point{At: time.Unix(sp.from*60, 0).UTC(), Empty: true}
		hourly := sp.from < oldMinute
		byTime := map[int64][]cell{} // what the lines say of the same minute or hour
		for _, l := range lines {
			list := l.minutes
			if hourly {
				list = l.hours
			}
			i, _ := slices.BinarySearchFunc(list, sp.from, func(x cell, at int64) int { return int(x.At - at) })
			for ; i < len(list) && list[i].At < sp.to; i++ {
				byTime[list[i].At] = append(byTime[list[i].At], list[i])
			}
		}
		var all cell
		switch d.Kind {
		case Sum:
			steps, least := int64(0), math.Inf(1)
			for _, cells := range byTime {
				var sum float64
				for _, c := range cells {
					sum += c.Sum
				}
				all.Sum += sum
				all.Max = max(all.Max, sum)
				least = min(least, sum)
				if steps++; hourly {
					steps += 59
				}
			}
			if !hourly && known {
				lived := min(sp.to, now+1) - max(sp.from, born)
				if lived > steps {
					least, steps = 0, lived
				}
			}
			if steps > 0 {
				p = Point{At: p.At, Total: all.Sum, Average: all.Sum / float64(steps), Minimum: least, Maximum: all.Max, Count: float64(steps)}
				if math.IsInf(least, 1) {
					p.Minimum = 0
				}
			}
		case Level:
			for _, cells := range byTime {
				var sum cell
				for _, c := range cells {
					// Parts that there were for a part of the minute alone count for that part.
					sum.Min += c.Min
					sum.Max += c.Max
					sum.Sum += c.Sum
					sum.Count = max(sum.Count, c.Count)
				}
				all.merge(sum)
			}
			if all.Count == 0 && known && sp.from <= now && sp.to > born {
				p.Empty, p.Count = false, 1
			}
			p.fill(all)
		default:
			for _, cells := range byTime {
				for _, c := range cells {
					all.merge(c)
				}
			}
			p.fill(all)
			if d.quantile > 0 && all.Count > 0 {
				v := ms(all.histogram().Percentile(d.quantile))
				p.Average, p.Minimum, p.Maximum, p.Total = v, v, v, v
			}
		}
		out = append(out, p)
	}
	return out
}

func (p *Point) fill(c cell) {
	if c.Count == 0 {
		return
	}
	p.Empty = false
	p.Average, p.Minimum, p.Maximum, p.Total, p.Count = c.Sum/float64(c.Count), c.Min, c.Max, c.Sum, float64(c.Count)
}

// chosen are the lines of a metric that fit the terms, together or, where a term
// asks for any value, one by one.
func (s *series) chosen(d Definition, resource string, terms []Term) []group {
	lines := s.lines[resource][d.source()]
	groups := map[string]*group{}
	names := make([]string, 0, len(lines))
	for dims := range lines {
		names = append(names, dims)
	}
	slices.Sort(names)
	var order []string
	for _, dims := range names {
		l := lines[dims]
		split := map[string]string{}
		fits := true
		for _, t := range terms {
			value, ok := lookup(l.dims, t.Name)
			fits = fits && ok && t.takes(value)
			if t.any() {
				split[t.Name] = value
			}
		}
		if !fits {
			continue
		}
		id := encodeMap(split)
		if groups[id] == nil {
			groups[id] = &group{dims: split}
			order = append(order, id)
		}
		groups[id].lines = append(groups[id].lines, l)
	}
	out := make([]group, 0, len(order))
	for _, id := range order {
		out = append(out, *groups[id])
	}
	return out
}

type group struct {
	dims  map[string]string
	lines []*line
}

func lookup(dims map[string]string, name string) (string, bool) {
	for k, v := range dims {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

func encodeMap(m map[string]string) string {
	v := url.Values{}
	for name, value := range m {
		v.Set(name, value)
	}
	return v.Encode()
}
