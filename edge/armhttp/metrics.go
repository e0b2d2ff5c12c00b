package armhttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/monitor"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Metrics answers as Azure Monitor does what the metrics of a resource were.
type Metrics struct {
	Manager  *manager.Manager
	Monitor  *monitor.Monitor
	Location string
	Now      func() time.Time
}

// insights is the provider below which metrics are asked for.
const insights = "Microsoft.Insights"

// Routes are the paths below resources.
func (m Metrics) Routes() []Route {
	return []Route{
		{http.MethodGet, insights + "/metrics", m.metrics},
		{http.MethodGet, insights + "/metricDefinitions", m.definitions},
		{http.MethodGet, insights + "/metricNamespaces", m.namespaces},
	}
}

// local is a text with its form for people, which is the same.
func local(s string) map[string]string { return map[string]string{"value": s, "localizedValue": s} }

// steps are the intervals that Azure Monitor knows.
var steps = []string{"PT1M", "PT5M", "PT15M", "PT30M", "PT1H", "PT6H", "PT12H", "P1D"}

// aggregations in Azure Monitor's order.
var aggregations = []string{"None", "Average", "Minimum", "Maximum", "Total", "Count"}

func (m Metrics) definitions(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if _, err := m.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope, v); err != nil {
		return 0, nil, err
	}
	list := []any{}
	for _, d := range monitor.Of(a.Scope.Type()) {
		dims := []any{}
		for _, name := range d.Dimensions {
			dims = append(dims, local(name))
		}
		grains := []any{}
		for _, step := range steps {
			grains = append(grains, map[string]string{"timeGrain": step, "retention": "P93D"})
		}
		list = append(list, map[string]any{
			"id":         a.Scope.String() + "/providers/microsoft.insights/metricdefinitions/" + url.PathEscape(d.Name),
			"resourceId": a.Scope.String(), "namespace": d.Scope, "name": local(d.Name), "displayDescription": d.About, "category": "Traffic",
			"isDimensionRequired": false, "unit": d.Unit, "primaryAggregationType": d.Primary, "supportedAggregationTypes": aggregations,
			"metricAvailabilities": grains, "dimensions": dims, "metricClass": "Transactions",
		})
	}
	return http.StatusOK, map[string]any{"value": list}, nil
}

func (m Metrics) namespaces(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if _, err := m.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope, v); err != nil {
		return 0, nil, err
	}
	list := []any{}
	if of := monitor.Of(a.Scope.Type()); len(of) > 0 {
		list = append(list, map[string]any{"id": a.Scope.String() + "/providers/microsoft.insights/metricNamespaces/" + url.PathEscape(of[0].Scope),
			"type": "Microsoft.Insights/metricNamespaces", "name": of[0].Scope, "classification": "Platform", "properties": map[string]string{"metricNamespaceName": of[0].Scope}})
	}
	return http.StatusOK, map[string]any{"value": list}, nil
}

func (m Metrics) metrics(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if _, err := m.Manager.Get(r.Context(), identity.Of(r.Context()), a.Scope, v); err != nil {
		return 0, nil, err
	}
	q, interval, asked, err := m.query(r, a.Scope)
	if err != nil {
		return 0, nil, err
	}
	found, err := m.Monitor.Query(q)
	if err != nil {
		return 0, nil, err
	}
	values, namespace := []any{}, ""
	for _, metric := range found {
		namespace = metric.Scope
		wanted := asked
		if len(wanted) == 0 {
			wanted = []string{strings.ToLower(metric.Primary)}
		}
		lines := []any{}
		for _, l := range metric.Lines {
			lines = append(lines, map[string]any{"metadatavalues": metadata(l.Dimensions), "data": points(l.Points, wanted)})
		}
		values = append(values, map[string]any{"id": a.Scope.String() + "/providers/Microsoft.Insights/metrics/" + metric.Name, "type": "Microsoft.Insights/metrics",
			"name": local(metric.Name), "displayDescription": metric.About, "unit": metric.Unit, "timeseries": lines, "errorCode": "Success"})
	}
	body := map[string]any{"cost": int(q.To.Sub(q.From) / time.Minute), "timespan": stampTime(q.From) + "/" + stampTime(q.To), "interval": interval,
		"value": values, "namespace": namespace, "resourceregion": m.Location}
	return http.StatusOK, body, nil
}

func metadata(dims map[string]string) []any {
	list := []any{}
	for name, value := range dims {
		list = append(list, map[string]any{"name": local(strings.ToLower(name)), "value": value})
	}
	return list
}

func points(list []monitor.Point, wanted []string) []any {
	out := make([]any, len(list))
	for i, p := range list {
		point := map[string]any{"timeStamp": stampTime(p.At)}
		if !p.Empty {
			for _, w := range wanted {
				switch w {
				case "average":
					point[w] = p.Average
				case "minimum":
					point[w] = p.Minimum
				case "maximum":
					point[w] = p.Maximum
				case "total":
					point[w] = p.Total
				case "count":
					point[w] = p.Count
				}
			}
		}
		out[i] = point
	}
	return out
}

// query reads the parameters; names are matched without regard to case.
func (m Metrics) query(r *http.Request, id resource.ID) (q monitor.Query, interval string, asked []string, err error) {
	params := map[string]string{}
	for name, values := range r.URL.Query() {
		value := values[0]
		if strings.Contains(value, "%") { // az encodes what it encodes once more
			if plain, err := url.QueryUnescape(value); err == nil {
				value = plain
			}
		}
		params[strings.ToLower(name)] = value
	}
	q.Resource = id
	for _, name := range strings.Split(params["metricnames"], ",") {
		if name = strings.TrimSpace(name); name != "" {
			q.Names = append(q.Names, name)
		}
	}
	if len(q.Names) > 20 {
		return q, "", nil, fault.Invalid("metricnames has %d names; at most 20 are told at once", len(q.Names)).With("BadRequest").At("metricnames")
	}
	q.To = m.Now()
	q.From = q.To.Add(-time.Hour)
	if span := params["timespan"]; span != "" {
		if q.From, q.To, err = timespan(span, q.To); err != nil {
			return q, "", nil, err
		}
	}
	interval = "PT1M"
	if given := params["interval"]; given != "" {
		interval = strings.ToUpper(given)
	}
	if interval != "FULL" {
		if q.Step, err = compute.ParseDuration(interval); err != nil || q.Step < time.Minute {
			return q, "", nil, fault.Invalid("Detected invalid time grain input: %s, supported ones: %s,FULL", fault.Clip(interval), strings.Join(steps, ",")).With("BadRequest").At("interval")
		}
	}
	for _, one := range strings.Split(strings.ToLower(params["aggregation"]), ",") {
		switch one = strings.TrimSpace(one); one {
		case "":
		case "average", "minimum", "maximum", "total", "count":
			asked = append(asked, one)
		case "none":
		default:
			return q, "", nil, fault.Invalid("The aggregation %q is not known; the known ones are Average, Minimum, Maximum, Total, Count", fault.Clip(one)).With("BadRequest").At("aggregation")
		}
	}
	if text := params["$filter"]; text != "" {
		if q.Terms, err = monitor.ParseFilter(text); err != nil {
			return q, "", nil, err
		}
	}
	top := params["top"]
	if top == "" {
		top = params["$top"]
	}
	if top != "" {
		if q.Top, err = strconv.Atoi(top); err != nil || q.Top < 1 || q.Top > 10_000 {
			return q, "", nil, fault.Invalid("top is %q; it must be a whole number from 1", fault.Clip(top)).With("BadRequest").At("top")
		}
	}
	return q, interval, asked, nil
}

// timespan reads "FROM/TO", "DURATION/TO", "FROM/DURATION" or "DURATION", which ends now.
func timespan(text string, now time.Time) (from, to time.Time, err error) {
	bad := fault.Invalid("Invalid timespan %q: it is of the form 2026-01-02T03:04:05Z/2026-01-02T04:04:05Z, or PT1H for the last hour", fault.Clip(text)).With("BadRequest").At("timespan")
	first, second, both := strings.Cut(text, "/")
	if !both {
		d, err := compute.ParseDuration(strings.ToUpper(first))
		if err != nil {
			return from, to, bad
		}
		return now.Add(-d), now, nil
	}
	a, aWrong := moment(first)
	b, bWrong := moment(second)
	switch {
	case aWrong == nil && bWrong == nil:
		return a, b, nil
	case aWrong == nil:
		d, err := compute.ParseDuration(strings.ToUpper(second))
		if err != nil {
			return from, to, bad
		}
		return a, a.Add(d), nil
	case bWrong == nil:
		d, err := compute.ParseDuration(strings.ToUpper(first))
		if err != nil {
			return from, to, bad
		}
		return b.Add(-d), b, nil
	}
	return from, to, bad
}

func moment(text string) (time.Time, error) {
	var err error
	text = strings.ReplaceAll(text, " ", "+") // a plus sign that was not encoded
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02"} {
		var t time.Time
		if t, err = time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, err
}
