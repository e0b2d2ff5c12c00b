package mlflowhttp

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"lapis/ml/trace"
)

// traceMetrics answers figures of traces, spans and assessments.
func (s *Server) traceMetrics(c *call) error {
	q := trace.MetricsQuery{Experiments: c.texts("experiment_ids", required), View: c.choice("view_type", "", trace.ViewTraces, trace.ViewSpans, trace.ViewAssessments),
		Metric: c.text("metric_name", required), Dimensions: c.texts("dimensions", false), Filters: c.texts("filters", false),
		Interval: c.integer("time_interval_seconds", false), From: c.maybe("start_time_ms"), To: c.maybe("end_time_ms"), Limit: 1000}
	if c.err == nil && q.View == "" {
		c.needed("view_type")
	}
	for _, a := range c.messages("aggregations", required) {
		one := trace.Aggregation{Type: a.choice("aggregation_type", "", "COUNT", "SUM", "AVG", "PERCENTILE", "MIN", "MAX")}
		if a.has("percentile_value") {
			p := a.number("percentile_value", false)
			one.Percentile = &p
		}
		if c.err == nil && one.Type == "" {
			a.needed("aggregation_type")
		}
		q.Aggregations = append(q.Aggregations, one)
	}
	if c.has("max_results") {
		n := c.integer("max_results", false)
		if c.err == nil && (n < 1 || n > 100_000) {
			return invalid("Invalid value %d for parameter 'max_results' supplied. It must be between 1 and 100000.", n)
		}
		q.Limit = int(n)
	}
	if c.err != nil {
		return c.err
	}
	if len(q.Aggregations) == 0 {
		c.needed("aggregations")
		return c.err
	}
	points, err := s.Traces.Metrics(c.ctx(), c.workspace, q)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(points) > 0 {
		o.list("data_points")
		for _, p := range points {
			o.open()
			o.text("metric_name", p.Metric)
			o.strings("dimensions", p.Dimensions)
			o.object("values")
			for _, k := range slices.Sorted(maps.Keys(p.Values)) {
				o.number(k, p.Values[k])
			}
			o.close()
			o.close()
		}
		o.closeList()
	}
	o.close()
	return c.reply(&o)
}

// correlateTraces answers how much two filters go together.
func (s *Server) correlateTraces(c *call) error {
	ids := c.texts("experiment_ids", required)
	first, second, base := c.text("filter_string1", required), c.text("filter_string2", required), c.text("base_filter", false)
	if c.err != nil {
		return c.err
	}
	r, err := s.Traces.Correlate(c.ctx(), c.workspace, ids, first, second, base)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if !math.IsNaN(r.NPMI) {
		o.number("npmi", r.NPMI)
	}
	if !math.IsNaN(r.Smoothed) {
		o.number("npmi_smoothed", r.Smoothed)
	}
	o.integer("filter1_count", int64(r.First))
	o.integer("filter2_count", int64(r.Second))
	o.integer("joint_count", int64(r.Joint))
	o.integer("total_count", int64(r.Total))
	o.close()
	return c.reply(&o)
}

// linkPrompts links versions of prompts to a trace.
func (s *Server) linkPrompts(c *call) error {
	id := c.text("trace_id", required)
	var versions []string
	for _, v := range c.messages("prompt_versions", required) {
		name, version := v.text("name", required), v.text("version", required)
		if _, err := strconv.Atoi(version); c.err == nil && err != nil {
			v.wrong("version", version)
		}
		versions = append(versions, name+"/"+version)
	}
	if c.err != nil {
		return c.err
	}
	if len(versions) == 0 {
		return c.empty()
	}
	return c.done(s.Traces.LinkPrompts(c.ctx(), c.workspace, id, versions))
}
