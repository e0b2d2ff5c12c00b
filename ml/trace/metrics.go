package trace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Views of metrics: what is counted.
const (
	ViewTraces      = "TRACES"
	ViewSpans       = "SPANS"
	ViewAssessments = "ASSESSMENTS"
)

// Aggregation is one figure of a group: COUNT, SUM, AVG, MIN, MAX or
// PERCENTILE, of which the percentile (0 to 100) is given too.
type Aggregation struct {
	Type       string
	Percentile *float64
}

// name is what the figure is called in an answer.
func (a Aggregation) name() string {
	if a.Type == "PERCENTILE" {
		return "P" + string(appendFloat(nil, *a.Percentile))
	}
	return a.Type
}

// MetricsQuery asks for figures of traces, of their spans or of what is thought
// of them, grouped.
type MetricsQuery struct {
	Experiments  []string
	View, Metric string
	Aggregations []Aggregation
	Dimensions   []string
	Filters      []string // all must pass
	Interval     int64    // seconds; 0 = not grouped by time
	From, To     *int64   // Unix ms, both included
	Limit        int
}

// DataPoint is the figures of one group.
type DataPoint struct {
	Metric     string
	Dimensions map[string]string
	Values     map[string]float64
}

// measure is what can be asked about a metric.
type measure struct {
	aggregations []string
	dimensions   []string
}

var (
	counted   = []string{"COUNT"}
	averaged  = []string{"AVG", "MAX", "MIN", "PERCENTILE"}
	summed    = []string{"AVG", "MAX", "MIN", "PERCENTILE", "SUM"}
	ofModels  = []string{"span_model_name", "span_model_provider"}
	byName    = []string{"trace_name"}
	spanKinds = []string{"span_model_name", "span_model_provider", "span_name", "span_status", "span_type"}
)

// metricNames are the metrics of each view, in MLflow's order.
var metricNames = map[string][]string{
	ViewTraces: {"trace_count", "session_count", "latency", "input_tokens", "output_tokens", "total_tokens",
		"cache_read_input_tokens", "cache_creation_input_tokens"},
	ViewSpans:       {"span_count", "latency", "input_cost", "output_cost", "total_cost"},
	ViewAssessments: {"assessment_count", "assessment_value"},
}

func measureOf(view, metric string) measure {
	switch view {
	case ViewTraces:
		switch metric {
		case "trace_count":
			return measure{counted, []string{"trace_name", "trace_status"}}
		case "session_count":
			return measure{counted, nil}
		case "latency":
			return measure{averaged, byName}
		}
		return measure{summed, byName}
	case ViewSpans:
		switch metric {
		case "span_count":
			return measure{counted, spanKinds}
		case "latency":
			return measure{averaged, []string{"span_name", "span_status"}}
		}
		return measure{summed, ofModels}
	}
	if metric == "assessment_count" {
		return measure{counted, []string{"assessment_name", "assessment_value"}}
	}
	return measure{averaged, []string{"assessment_name"}}
}

// maxInterval bounds the seconds that are grouped together.
const maxInterval = 1e12

func quotedList(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	return "['" + strings.Join(list, "', '") + "']"
}

// without returns those of list that are not in known, sorted.
func without(list, known []string) (more []string) {
	for _, x := range list {
		if !slices.Contains(known, x) && !slices.Contains(more, x) {
			more = append(more, x)
		}
	}
	slices.Sort(more)
	return more
}

func (q *MetricsQuery) check() error {
	if !slices.Contains(metricNames[q.View], q.Metric) {
		return invalid("metric_name must be one of %s, got '%s'", quotedList(metricNames[q.View]), q.Metric)
	}
	m := measureOf(q.View, q.Metric)
	var types []string
	for _, a := range q.Aggregations {
		types = append(types, a.Type)
		switch {
		case a.Type == "PERCENTILE" && a.Percentile == nil:
			return invalid("Percentile value is required for PERCENTILE aggregation")
		case a.Type == "PERCENTILE" && !(*a.Percentile >= 0 && *a.Percentile <= 100):
			return invalid("Percentile value must be between 0 and 100, got %v", *a.Percentile)
		case a.Type != "PERCENTILE" && a.Percentile != nil:
			return invalid("Percentile value is only allowed for PERCENTILE aggregation type, got %s", a.Type)
		}
	}
	if wrong := without(types, m.aggregations); len(wrong) > 0 {
		return invalid("Found invalid aggregation_type(s): %s. Supported aggregation types: %s", quotedList(wrong), quotedList(m.aggregations))
	}
	if wrong := without(q.Dimensions, m.dimensions); len(wrong) > 0 {
		return invalid("Found invalid dimension(s): %s. Supported dimensions: %s", quotedList(wrong), quotedList(m.dimensions))
	}
	if q.Interval != 0 && (q.From == nil || q.To == nil) {
		return invalid("start_time_ms and end_time_ms are required if time_interval_seconds is set")
	}
	if q.Interval < 0 || q.Interval > maxInterval {
		return invalid("time_interval_seconds must be a positive number of seconds, got %d.", q.Interval)
	}
	return nil
}

// bucket is a group under way.
type bucket struct {
	at         int64 // Unix ms, when grouped by time
	dimensions []string
	values     []float64
	sessions   map[string]bool
}

// Metrics answers a query: the groups in the order of time and dimensions.
func (s *Service) Metrics(ctx context.Context, workspace string, q MetricsQuery) ([]DataPoint, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	var filters []metricFilter
	for _, text := range q.Filters {
		f, err := parseMetricFilter(text)
		if err != nil {
			return nil, err
		}
		if f.view == "span" && q.View != ViewSpans {
			return nil, invalid("Filtering by span is only supported for SPANS view type, got %s", q.View)
		}
		if f.view == "assessment" && q.View != ViewAssessments {
			return nil, invalid("Filtering by assessment is only supported for ASSESSMENTS view type, got %s", q.View)
		}
		filters = append(filters, f)
	}
	experiments, err := s.experiments(ctx, workspace, q.Experiments)
	if err != nil {
		return nil, err
	}
	buckets := map[string]*bucket{}
	add := func(at int64, v float64, session string, dimension func(string) (string, bool)) {
		b := bucket{}
		var key strings.Builder
		if q.Interval > 0 {
			// As MLflow's SQLite does: whole numbers are cut towards zero.
			b.at = at / (q.Interval * 1000) * (q.Interval * 1000)
			fmt.Fprintf(&key, "%d\x00", b.at)
		}
		for _, d := range q.Dimensions {
			x, ok := dimension(d)
			if !ok {
				return
			}
			b.dimensions = append(b.dimensions, x)
			key.WriteString(x + "\x00")
		}
		to := buckets[key.String()]
		if to == nil {
			to = &b
			buckets[key.String()] = to
		}
		if session != "" {
			if to.sessions == nil {
				to.sessions = map[string]bool{}
			}
			to.sessions[session] = true
			return
		}
		to.values = append(to.values, v)
	}
	inside := func(ms int64) bool { return (q.From == nil || ms >= *q.From) && (q.To == nil || ms <= *q.To) }
	cost := q.View == ViewSpans && strings.HasSuffix(q.Metric, "_cost")
	err = s.store.EachTrace(ctx, workspace, experiments, func(i *Info) (bool, error) {
		if !cost && !inside(i.Start) {
			return true, nil
		}
		for _, f := range filters {
			if f.view == "trace" && !f.passes(i) {
				return true, nil
			}
		}
		switch q.View {
		case ViewTraces:
			i.measure(q.Metric, add)
		case ViewAssessments:
			for n := range i.Assessments {
				a := &i.Assessments[n]
				if !a.valid() || slices.ContainsFunc(filters, func(f metricFilter) bool {
					return f.view == "assessment" && f.value != map[string]string{"name": a.text("assessment_name"), "type": a.kind()}[f.entity]
				}) {
					continue
				}
				v, _, ok := a.number()
				if q.Metric == "assessment_count" {
					v, ok = 1, true
				}
				if ok {
					add(i.Start, v, "", func(d string) (string, bool) {
						if d == "assessment_name" {
							return a.text("assessment_name"), true
						}
						return string(appendJSON(nil, a.value())), true
					})
				}
			}
		case ViewSpans:
			spans, err := s.store.Spans(ctx, workspace, i.ID)
			if err != nil {
				return false, err
			}
			for n := range spans {
				sp := &spans[n]
				if cost && !inside(sp.Start/1e6) || slices.ContainsFunc(filters, func(f metricFilter) bool {
					x, _ := sp.dimension("span_" + f.entity)
					return f.view == "span" && f.value != x
				}) {
					continue
				}
				v, ok := sp.measure(q.Metric)
				if ok {
					add(sp.Start/1e6, v, "", sp.dimension)
				}
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return q.points(buckets), nil
}

// measure adds what a trace has of a metric.
func (i *Info) measure(metric string, add func(at int64, v float64, session string, dimension func(string) (string, bool))) {
	dimension := func(d string) (string, bool) {
		if d == "trace_status" {
			return i.State, true
		}
		name, ok := i.Tags[TagName]
		return name, ok
	}
	switch metric {
	case "trace_count":
		add(i.Start, 1, "", dimension)
	case "session_count":
		if session, ok := i.Metadata[MetaSession]; ok {
			add(i.Start, 0, "session "+session, dimension) // a session without a name is one
		}
	case "latency":
		if i.Duration >= 0 {
			add(i.Start, float64(i.Duration), "", dimension)
		}
	default:
		usage, _ := readJSON([]byte(i.Metadata[MetaUsage]))
		if n := member(&usage, metric); n != nil {
			if v, ok := number(n); ok {
				add(i.Start, v, "", dimension)
			}
		}
	}
}

// measure is what a span has of a metric.
func (s *Span) measure(metric string) (float64, bool) {
	switch metric {
	case "span_count":
		return 1, true
	case "latency":
		return float64((s.End - s.Start) / 1e6), true
	}
	v := s.attribute(costAttribute)
	if v == nil {
		return 0, false
	}
	n := member(v, metric)
	if n == nil {
		return 0, false
	}
	return number(n)
}

// dimension is what a span is grouped by.
func (s *Span) dimension(d string) (string, bool) {
	key := ""
	switch d {
	case "span_name":
		return s.Name, true
	case "span_type":
		return s.kind()
	case "span_status":
		return strings.TrimPrefix(s.Status, "STATUS_CODE_"), true
	case "span_model_name":
		key = modelAttribute
	case "span_model_provider":
		key = ownerAttribute
	}
	v := s.attribute(key)
	if v == nil || v.kind != aString {
		return "", false
	}
	return string(v.text), true
}

// points makes the answer of the groups.
func (q *MetricsQuery) points(buckets map[string]*bucket) []DataPoint {
	var list []*bucket
	for _, b := range buckets {
		list = append(list, b)
	}
	if len(list) == 0 && q.Interval == 0 && len(q.Dimensions) == 0 {
		list = append(list, &bucket{}) // nothing is counted as 0
	}
	slices.SortFunc(list, func(a, b *bucket) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		return slices.Compare(a.dimensions, b.dimensions)
	})
	if len(list) > q.Limit {
		list = list[:q.Limit]
	}
	var points []DataPoint
	for _, b := range list {
		p := DataPoint{Metric: q.Metric, Dimensions: map[string]string{}, Values: map[string]float64{}}
		if q.Interval > 0 {
			p.Dimensions["time_bucket"] = time.UnixMilli(b.at).UTC().Format("2006-01-02T15:04:05+00:00")
		}
		for i, d := range q.Dimensions {
			p.Dimensions[d] = b.dimensions[i]
		}
		slices.Sort(b.values)
		for _, a := range q.Aggregations {
			if v, ok := a.of(b); ok {
				p.Values[a.name()] = v
			}
		}
		if len(p.Values) > 0 {
			points = append(points, p)
		}
	}
	return points
}

// of computes the figure of a group, whose values are sorted.
func (a Aggregation) of(b *bucket) (float64, bool) {
	n := len(b.values)
	if a.Type == "COUNT" {
		return float64(n + len(b.sessions)), true
	}
	if n == 0 {
		return 0, false
	}
	sum := 0.0
	for _, v := range b.values {
		sum += v
	}
	switch a.Type {
	case "SUM":
		return sum, true
	case "AVG":
		return sum / float64(n), true
	case "MIN":
		return b.values[0], true
	case "MAX":
		return b.values[n-1], true
	}
	// Between two values the percentile is on the line between them.
	at := *a.Percentile / 100 * float64(n-1)
	low := int(at)
	if low >= n-1 {
		return b.values[n-1], true
	}
	return b.values[low] + (b.values[low+1]-b.values[low])*(at-float64(low)), true
}

// metricFilter is one comparison: trace.tag.color = 'red'.
type metricFilter struct{ view, entity, key, value string }

// keyed tells of what each view knows whether it has a key.
var keyed = map[string]map[string]bool{
	"trace":      {"status": false, "tag": true, "metadata": true},
	"span":       {"name": false, "status": false, "type": false},
	"assessment": {"name": false, "type": false},
}

// entityOrder is how errors list what a view knows.
var entityOrder = map[string][]string{"trace": {"status", "tag", "metadata"}, "span": {"name", "status", "type"}, "assessment": {"name", "type"}}

func parseMetricFilter(text string) (f metricFilter, err error) {
	if strings.TrimSpace(text) == "" {
		return f, invalid("Invalid filter: '%s'. Expected one filter clause.", text)
	}
	left, right, ok := strings.Cut(text, "=")
	left = strings.TrimSpace(left)
	if words := strings.Fields(text); !ok && len(words) == 3 {
		return f, invalid("Invalid comparator: '%s', only '=' operator is supported", words[1])
	}
	if !ok || left == "" {
		return f, invalid("Invalid clause(s) in filter string: %s", text)
	}
	if op := left[len(left)-1]; op == '!' || op == '<' || op == '>' {
		return f, invalid("Invalid comparator: '%c=', only '=' operator is supported", op)
	}
	parts := strings.SplitN(left, ".", 3)
	if len(parts) < 2 {
		return f, invalid("Invalid identifier '%s'. Columns should be specified as 'trace.<key>', 'span.<key>', 'assessment.<key>'.", left)
	}
	f.view, f.entity = strings.Trim(parts[0], "`"), parts[1]
	entities, ok := keyed[f.view]
	if !ok {
		return f, invalid("Invalid view type '%s'. Valid values are dict_keys(['trace', 'span', 'assessment'])", f.view)
	}
	needsKey, ok := entities[f.entity]
	switch {
	case !ok:
		return f, invalid("Invalid entity '%s' specified for view type '%s'. Valid entities are %s", f.entity, f.view, quotedList(entityOrder[f.view]))
	case needsKey && len(parts) < 3:
		return f, invalid("Filtering by %s requires a key, e.g. '%s.%s.<key> = <value>'", f.entity, f.view, f.entity)
	case !needsKey && len(parts) > 2:
		return f, invalid("Filtering by %s does not require a key, use '%s.%s' instead", f.entity, f.view, f.entity)
	}
	if needsKey {
		f.key = strings.Trim(parts[2], "`\"'")
	}
	right = strings.TrimSpace(right)
	if n := len(right); n < 2 || right[0] != right[n-1] || right[0] != '\'' && right[0] != '"' {
		return f, invalid("Expected a quoted string value for %s (e.g. 'my-value'). Got value %s", f.entity, right)
	}
	f.value = right[1 : len(right)-1]
	if strings.ContainsRune(f.value, rune(right[0])) {
		return f, invalid("Invalid filter: %s. Expected one filter clause.", strconv.Quote(text))
	}
	return f, nil
}

// passes tells whether a trace passes.
func (f *metricFilter) passes(i *Info) bool {
	switch f.entity {
	case "status":
		return i.State == f.value
	case "tag":
		v, ok := i.Tags[f.key]
		return ok && v == f.value
	}
	if f.key == MetaRun && slices.Contains(i.Runs, f.value) {
		return true
	}
	v, ok := i.Metadata[f.key]
	return ok && v == f.value
}
