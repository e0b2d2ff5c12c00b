package monitor

import (
	"slices"
	"strings"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// Query asks for metrics of one resource.
type Query struct {
	Resource resource.ID
	Names    []string // none: the first metric of its type
	From, To time.Time
	Step     time.Duration // whole minutes; 0: one value for the whole time
	Terms    []Term
	Top      int // lines of a split metric; 0: 10
}

// Term restricts a metric to values of a dimension.
type Term struct {
	Name   string
	Values []string // one of them; "*" is any, each told by itself
	Not    bool
}

func (t Term) any() bool { return slices.Contains(t.Values, "*") || len(t.Values) > 1 || t.Not }

func (t Term) takes(value string) bool {
	if slices.Contains(t.Values, "*") {
		return true
	}
	has := slices.ContainsFunc(t.Values, func(v string) bool { return strings.EqualFold(v, value) })
	return has != t.Not
}

// Metric is what was found of one metric.
type Metric struct {
	Definition
	Lines []Line
}

// Line is a metric for one combination of the dimensions that it is split by.
type Line struct {
	Dimensions map[string]string
	Points     []Point
}

// maxPoints bounds what one query tells of a line.
const maxPoints = 10_000

// Query reads metrics. A resource that has none, a metric that it does not have
// and a wrong step are faults.
func (m *Monitor) Query(q Query) ([]Metric, error) {
	definitions := Of(q.Resource.Type())
	if len(definitions) == 0 {
		return nil, fault.Invalid("Resources of the type %s have no metrics here.", q.Resource.Type()).With("BadRequest").At(q.Resource.String())
	}
	if len(q.Names) == 0 {
		q.Names = []string{definitions[0].Name}
	}
	if !q.From.Before(q.To) {
		return nil, fault.Invalid("The timespan ends before it begins: %s/%s.", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339)).With("BadRequest").At("timespan")
	}
	if q.Step < 0 || q.Step%time.Minute != 0 {
		return nil, fault.Invalid("The interval %s is no whole number of minutes.", q.Step).With("BadRequest").At("interval")
	}
	spans, err := steps(q)
	if err != nil {
		return nil, err
	}
	top := q.Top
	if top <= 0 {
		top = 10
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := minuteOf(m.Now())
	var out []Metric
	for _, name := range q.Names {
		d, ok := find(q.Resource.Type(), name)
		if !ok {
			return nil, fault.Invalid("Failed to find metric configuration for provider: Microsoft.MachineLearningServices, resource Type: %s, metric: %s, Valid metrics: %s",
				strings.TrimPrefix(definitions[0].Scope, "Microsoft.MachineLearningServices/"), fault.Clip(name), names(definitions)).With("BadRequest").At("metricnames")
		}
		for _, t := range q.Terms {
			if !slices.ContainsFunc(d.Dimensions, func(dim string) bool { return strings.EqualFold(dim, t.Name) }) {
				return nil, fault.Invalid("Metric: %s does not have the dimension %s; it has: %s", d.Name, fault.Clip(t.Name), strings.Join(d.Dimensions, ", ")).With("BadRequest").At("$filter")
			}
		}
		found := Metric{Definition: d}
		groups := m.series.chosen(d, q.Resource.Key(), q.Terms)
		if len(groups) == 0 && !slices.ContainsFunc(q.Terms, Term.any) {
			groups = []group{{}}
		}
		for _, g := range groups[:min(len(groups), top)] {
			found.Lines = append(found.Lines, Line{Dimensions: g.dims, Points: m.series.points(d, q.Resource.Key(), g.lines, spans, now)})
		}
		out = append(out, found)
	}
	return out, nil
}

// steps cuts a query's time into spans of whole minutes.
func steps(q Query) ([]span, error) {
	from, to := minuteOf(q.From), minuteOf(q.To.Add(time.Minute-1))
	step := int64(q.Step / time.Minute)
	if step == 0 {
		return []span{{from, to}}, nil
	}
	if (to-from)/step > maxPoints {
		return nil, fault.Invalid("The timespan has more than %d steps of %s; ask for less time or a longer interval.", maxPoints, q.Step).With("BadRequest").At("interval")
	}
	var spans []span
	for at := from; at < to; at += step {
		spans = append(spans, span{at, at + step})
	}
	return spans, nil
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

func names(definitions []Definition) string {
	list := make([]string, len(definitions))
	for i, d := range definitions {
		list[i] = d.Name
	}
	return strings.Join(list, ",")
}

// ParseFilter reads a filter of Azure Monitor: terms such as "deployment eq
// 'blue'" joined by and; several values of one dimension by or.
func ParseFilter(text string) ([]Term, error) {
	bad := fault.Invalid("The $filter %q is not understood; it is of the form: deployment eq 'blue' and statusCode eq '*'", fault.Clip(text)).With("BadRequest").At("$filter")
	var terms []Term
	words, ok := words(text)
	if !ok || len(text) > 4096 {
		return nil, bad
	}
	or := false
	for len(words) > 0 {
		if len(words) < 3 || !quoted(words[2]) {
			return nil, bad
		}
		name, op, value := words[0], strings.ToLower(words[1]), strings.ReplaceAll(words[2][1:len(words[2])-1], "''", "'")
		last := len(terms) - 1
		switch {
		case op != "eq" && op != "ne" || quoted(name):
			return nil, bad
		case or && (last < 0 || !strings.EqualFold(terms[last].Name, name) || terms[last].Not != (op == "ne")):
			return nil, bad
		case or:
			terms[last].Values = append(terms[last].Values, value)
		default:
			terms = append(terms, Term{Name: name, Values: []string{value}, Not: op == "ne"})
		}
		if words = words[3:]; len(words) == 0 {
			break
		}
		or = strings.EqualFold(words[0], "or")
		if !or && !strings.EqualFold(words[0], "and") || len(words) == 1 {
			return nil, bad
		}
		words = words[1:]
	}
	return terms, nil
}

func quoted(word string) bool { return len(word) >= 2 && word[0] == '\'' }

// words cuts a filter into names, words and quoted texts; parentheses say
// nothing that the words do not.
func words(text string) ([]string, bool) {
	var out []string
	for {
		text = strings.TrimLeft(text, " ()\t")
		if text == "" {
			return out, true
		}
		n := strings.IndexAny(text, " ()\t'")
		if text[0] == '\'' {
			n = 1
			for {
				end := strings.IndexByte(text[n:], '\'')
				if end < 0 {
					return nil, false
				}
				if n += end + 1; n < len(text) && text[n] == '\'' { // a quote within
					n++
					continue
				}
				break
			}
		} else if n < 0 {
			n = len(text)
		}
		if n == 0 {
			return nil, false
		}
		out, text = append(out, text[:n]), text[n:]
	}
}
