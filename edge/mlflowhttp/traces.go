package mlflowhttp

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/trace"
	"lapis/ml/tracking"
)

func (s *Server) traceRoutes() {
	const base, old = "3.0/mlflow/traces", "2.0/mlflow/traces"
	s.handle("POST", base, runsWrite, s.startTrace)
	s.handle("POST", base+"/search", runsRead, s.searchTraces)
	s.handle("GET", base+"/get", runsRead, s.getTrace)
	s.handle("GET", base+"/batchGet", runsRead, s.getTraces)
	s.handle("POST", base+"/batchGetInfos", runsRead, s.getTraceInfos)
	s.handle("POST", base+"/metrics", runsRead, s.traceMetrics)
	s.handle("POST", base+"/calculate-filter-correlation", runsRead, s.correlateTraces)
	s.handle("POST", old+"/link-to-run", runsWrite, s.linkTraces)
	s.handle("POST", old+"/link-prompts", runsWrite, s.linkPrompts)
	for _, v := range []string{base, old} {
		s.handle("POST", v+"/delete-traces", runsDelete, s.deleteTraces)
		s.handle("PATCH", v+"/{trace_id}/tags", runsWrite, s.setTraceTag)
		s.handle("DELETE", v+"/{trace_id}/tags", runsWrite, s.deleteTraceTag)
	}
	s.handle("GET", base+"/{trace_id}", runsRead, s.getTraceInfo)
	s.handle("POST", base+"/{trace_id}/assessments", runsWrite, s.addAssessment)
	s.handle("GET", base+"/{trace_id}/assessments/{assessment_id}", runsRead, s.getAssessment)
	s.handle("PATCH", base+"/{trace_id}/assessments/{assessment_id}", runsWrite, s.updateAssessment)
	s.handle("DELETE", base+"/{trace_id}/assessments/{assessment_id}", runsWrite, s.deleteAssessment)
	s.oldTraceRoutes(old)
	s.add("GET", "2.0/mlflow/get-trace-artifact", route{runsRead, true, s.getTraceArtifact})
	s.add("GET", "3.0/mlflow/get-trace-artifact", route{runsRead, true, s.getTraceArtifact})
	s.add("POST", "v1/traces", route{runsWrite, true, s.logSpans})
}

// stamp writes a time (Unix ms) as protobuf's JSON does: milliseconds only when
// there are some.
func stamp(ms int64) string {
	form := "2006-01-02T15:04:05Z"
	if ms%1000 != 0 {
		form = "2006-01-02T15:04:05.000Z"
	}
	return time.UnixMilli(ms).UTC().Format(form)
}

// seconds writes a span of time (ms) as protobuf's JSON does.
func seconds(ms int64) string {
	if ms%1000 == 0 {
		return strconv.FormatInt(ms/1000, 10) + "s"
	}
	return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) + "s"
}

// traceInfo writes a trace without its spans.
func (o *out) traceInfo(key string, i *trace.Info) {
	o.object(key)
	o.text("trace_id", i.ID)
	o.given("client_request_id", i.ClientRequest)
	o.object("trace_location")
	o.text("type", "MLFLOW_EXPERIMENT")
	o.object("mlflow_experiment")
	o.text("experiment_id", i.Experiment)
	o.close()
	o.close()
	o.given("request_preview", i.Request)
	o.given("response_preview", i.Response)
	o.text("request_time", stamp(i.Start))
	if i.Duration >= 0 {
		o.text("execution_duration", seconds(i.Duration))
	}
	o.text("state", i.State)
	o.strings("trace_metadata", i.Metadata)
	o.strings("tags", i.Tags)
	if len(i.Assessments) > 0 {
		o.list("assessments")
		for n := range i.Assessments {
			o.raw("", i.Assessments[n].Fields)
		}
		o.closeList()
	}
	o.close()
}

// given writes a text unless there is none.
func (o *out) given(key string, v *string) {
	if v != nil {
		o.text(key, *v)
	}
}

// strings writes a map as an object; an empty one is left out.
func (o *out) strings(key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	o.object(key)
	for _, k := range sortedKeys(m) {
		o.b = append(appendText(o.b, k), ':')
		o.b = append(appendText(o.b, m[k]), ',')
	}
	o.close()
}

// raw writes an object whose members are JSON already.
func (o *out) raw(key string, m map[string]json.RawMessage) {
	text, err := json.Marshal(m)
	if err != nil {
		text = []byte("{}") // it was parsed before it was kept
	}
	o.key(key)
	o.b = append(append(o.b, text...), ',')
}

// trace writes a trace with its spans.
func (o *out) trace(key string, i *trace.Info, spans []trace.Span) {
	o.object(key)
	o.traceInfo("trace_info", i)
	if len(spans) > 0 {
		o.list("spans")
		for _, s := range spans {
			o.b = append(append(o.b, s.JSON...), ',')
		}
		o.closeList()
	}
	o.close()
}

func (c *call) replyTraceInfo(i *trace.Info) error {
	var o out
	o.open()
	o.object("trace")
	o.traceInfo("trace_info", i)
	o.close()
	o.close()
	return c.reply(&o)
}

// members reads an object of strings.
func (m *message) members(name string) map[string]string {
	v := m.value(name)
	o, ok := v.(map[string]any)
	if v != nil && !ok {
		m.wrong(name, v)
	}
	found := map[string]string{}
	for k, x := range o {
		s, ok := x.(string)
		if !ok {
			m.wrong(name, v)
			return found
		}
		found[k] = s
	}
	return found
}

// object reads an object whose members stay JSON; nil if it is not there.
func (m *message) object(name string) map[string]json.RawMessage {
	v := m.value(name)
	if v == nil {
		return nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		m.wrong(name, v)
		return nil
	}
	fields := map[string]json.RawMessage{}
	for k, x := range o {
		if x == nil {
			continue
		}
		raw, err := json.Marshal(x)
		if err != nil {
			m.wrong(name, v)
			return nil
		}
		fields[k] = raw
	}
	return fields
}

// stamp reads a time, as Unix ms.
func (m *message) stamp(name string) int64 {
	text := m.text(name, false)
	if text == "" {
		return 0
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		m.wrong(name, text)
		return 0
	}
	return t.UnixMilli()
}

// duration reads a span of time ("1.5s"), in ms; -1 if it is not there.
func (m *message) duration(name string) int64 {
	text := m.text(name, false)
	if text == "" {
		return -1
	}
	seconds, err := strconv.ParseFloat(strings.TrimSuffix(text, "s"), 64)
	if err != nil || !strings.HasSuffix(text, "s") || !(seconds >= 0 && seconds < 1e12) {
		m.wrong(name, text)
		return -1
	}
	return int64(seconds*1000 + 0.5)
}

func (s *Server) startTrace(c *call) error {
	if !c.has("trace") {
		c.needed("trace")
		return c.err
	}
	m := c.message.message("trace").message("trace_info")
	i := trace.Info{
		ID: m.text("trace_id", required), Experiment: m.message("trace_location").message("mlflow_experiment").text("experiment_id", required),
		Start: m.stamp("request_time"), Duration: m.duration("execution_duration"),
		State:         m.choice("state", "STATE_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"),
		ClientRequest: m.optional("client_request_id"), Request: m.optional("request_preview"), Response: m.optional("response_preview"),
		Metadata: m.members("trace_metadata"), Tags: m.members("tags"),
	}
	for _, a := range m.messages("assessments", false) {
		fields := map[string]json.RawMessage{}
		for k, v := range a.fields {
			fields[k], _ = json.Marshal(v)
		}
		i.Assessments = append(i.Assessments, trace.Assessment{Fields: fields})
	}
	if c.err != nil {
		return c.err
	}
	if i.State == "" {
		i.State = "STATE_UNSPECIFIED"
	}
	stored, err := s.Traces.Start(c.ctx(), c.workspace, i)
	if err != nil {
		return err
	}
	return c.replyTraceInfo(stored)
}

func (s *Server) getTraceInfo(c *call) error {
	i, err := s.Traces.Find(c.ctx(), c.workspace, c.vars["trace_id"])
	if err != nil {
		return err
	}
	return c.replyTraceInfo(i)
}

func (s *Server) getTrace(c *call) error {
	id := c.text("trace_id", required)
	if c.err != nil {
		return c.err
	}
	i, err := s.Traces.Find(c.ctx(), c.workspace, id)
	if fault.Is(err, fault.Missing) {
		return missing("Trace with ID %s is not found.", id)
	}
	if err != nil {
		return err
	}
	spans, err := s.Traces.Spans(c.ctx(), c.workspace, id)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.trace("trace", i, spans)
	o.close()
	return c.reply(&o)
}

// tracesNamed finds the traces that a request names, in its experiments if it
// names some.
func (s *Server) tracesNamed(c *call) ([]*trace.Info, error) {
	ids, experiments := c.texts("trace_ids", required), c.texts("experiment_ids", false)
	if c.err != nil {
		return nil, c.err
	}
	for _, e := range experiments {
		if _, err := strconv.ParseInt(e, 10, 64); err != nil {
			return nil, invalid("Invalid experiment ID '%s'. Experiment ID must be a valid integer.", e)
		}
	}
	named := map[string]bool{}
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		was := named[id]
		named[id] = true
		return was
	})
	found, err := s.Traces.Many(c.ctx(), c.workspace, ids)
	if err == nil && c.has("experiment_ids") {
		found = slices.DeleteFunc(found, func(i *trace.Info) bool { return !slices.Contains(experiments, i.Experiment) })
	}
	return found, err
}

func (s *Server) getTraces(c *call) error {
	found, err := s.tracesNamed(c)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("traces")
		for _, i := range found {
			spans, err := s.Traces.Spans(c.ctx(), c.workspace, i.ID)
			if err != nil {
				return err
			}
			o.trace("", i, spans)
		}
		o.closeList()
	}
	o.close()
	return c.reply(&o)
}

// replyTraces answers a list of traces, in the form that write gives them.
func (c *call) replyTraces(found []*trace.Info, key, next string, write func(*out, string, *trace.Info)) error {
	var o out
	o.open()
	if len(found) > 0 {
		o.list(key)
		for _, i := range found {
			write(&o, "", i)
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) getTraceInfos(c *call) error {
	found, err := s.tracesNamed(c)
	if err != nil {
		return err
	}
	return c.replyTraces(found, "trace_infos", "", (*out).traceInfo)
}

// pageOfTraces answers a search, whose page is as long as the call says.
func (s *Server) pageOfTraces(c *call, q trace.Search, write func(*out, string, *trace.Info)) error {
	if c.err == nil && c.has("max_results") {
		n := c.integer("max_results", false)
		switch {
		case c.err != nil:
		case n > 500:
			c.wrong("max_results", c.value("max_results"))
		case n < 1:
			c.fail(invalid("Invalid value %d for parameter 'max_results' supplied. It must be a positive integer", n))
		}
		q.Limit = int(n)
	}
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Traces.Search(c.ctx(), c.workspace, q)
	if err != nil {
		return err
	}
	return c.replyTraces(found, "traces", next, write)
}

func (s *Server) searchTraces(c *call) error {
	q := trace.Search{Filter: c.text("filter", false), Order: c.texts("order_by", false), Page: c.text("page_token", false), Limit: 100}
	for _, l := range c.messages("locations", required) {
		if e := l.message("mlflow_experiment").text("experiment_id", false); e != "" {
			q.Experiments = append(q.Experiments, e)
		}
	}
	return s.pageOfTraces(c, q, (*out).traceInfo)
}

func (s *Server) deleteTraces(c *call) error {
	e, ids := c.text("experiment_id", required), c.texts("request_ids", false)
	ids = append(ids, c.texts("trace_ids", false)...)
	before, limit := c.maybe("max_timestamp_millis"), c.integer("max_traces", false)
	if c.err != nil {
		return c.err
	}
	switch {
	case before == nil && len(ids) == 0:
		return invalid("Either `max_timestamp_millis` or `trace_ids` must be specified.")
	case before != nil && len(ids) > 0:
		return invalid("Only one of `max_timestamp_millis` and `trace_ids` can be specified.")
	case c.has("max_traces") && len(ids) > 0:
		return invalid("`max_traces` can't be specified if `trace_ids` is specified.")
	case limit < 0 || c.has("max_traces") && limit == 0:
		return invalid("`max_traces` must be a positive integer, received %d.", limit)
	}
	n, err := s.Traces.Delete(c.ctx(), c.workspace, e, ids, before, int(limit))
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.integer("traces_deleted", int64(n))
	o.close()
	return c.reply(&o)
}

func (s *Server) linkTraces(c *call) error {
	ids, run := c.texts("trace_ids", required), c.text("run_id", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Traces.LinkRun(c.ctx(), c.workspace, run, ids))
}

func (s *Server) setTraceTag(c *call) error {
	t := tracking.Tag{Key: c.text("key", required), Value: c.text("value", false)}
	if c.err != nil {
		return c.err
	}
	return c.done(s.Traces.SetTag(c.ctx(), c.workspace, c.vars["trace_id"], t))
}

func (s *Server) deleteTraceTag(c *call) error {
	key := c.text("key", required)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Traces.DeleteTag(c.ctx(), c.workspace, c.vars["trace_id"], key))
}

func (c *call) replyAssessment(a trace.Assessment, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.raw("assessment", a.Fields)
	o.close()
	return c.reply(&o)
}

func (s *Server) addAssessment(c *call) error {
	fields := c.object("assessment")
	if c.err == nil && fields == nil {
		c.needed("assessment")
	}
	if c.err != nil {
		return c.err
	}
	a, err := s.Traces.Assess(c.ctx(), c.workspace, c.vars["trace_id"], fields)
	return c.replyAssessment(a, err)
}

func (s *Server) getAssessment(c *call) error {
	a, err := s.Traces.Assessment(c.ctx(), c.workspace, c.vars["trace_id"], c.vars["assessment_id"])
	return c.replyAssessment(a, err)
}

func (s *Server) updateAssessment(c *call) error {
	fields, mask := c.object("assessment"), c.text("update_mask", required)
	if c.err == nil && fields == nil {
		c.needed("assessment")
	}
	if c.err != nil {
		return c.err
	}
	var names []string
	for name := range strings.SplitSeq(mask, ",") {
		name = strings.TrimSpace(name)
		if strings.Contains(name, "_") {
			names = nil // a mask names fields as protobuf's JSON does, or none
			break
		}
		if name == "assessmentName" {
			name = "assessment_name"
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	a, err := s.Traces.Reassess(c.ctx(), c.workspace, c.vars["trace_id"], c.vars["assessment_id"], fields, names)
	return c.replyAssessment(a, err)
}

func (s *Server) deleteAssessment(c *call) error {
	return c.done(s.Traces.DeleteAssessment(c.ctx(), c.workspace, c.vars["trace_id"], c.vars["assessment_id"]))
}

// detail answers a mistake in the form of the span endpoint, which is not
// MLflow's own.
func (c *call) detail(status int, what any) error {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_ = json.NewEncoder(c.w).Encode(map[string]any{"detail": what})
	return nil
}

// logSpans takes spans in OpenTelemetry's protocol.
func (s *Server) logSpans(c *call) error {
	experiment := c.r.Header.Get("x-mlflow-experiment-id")
	if experiment == "" {
		return c.detail(http.StatusUnprocessableEntity, []any{map[string]any{
			"type": "missing", "loc": []string{"header", "x-mlflow-experiment-id"}, "msg": "Field required", "input": nil}})
	}
	kind, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	parse := trace.ParseProto
	switch strings.TrimSpace(kind) {
	case "application/x-protobuf":
	case "application/json":
		parse = trace.ParseJSON
	default:
		return c.detail(http.StatusBadRequest, "Invalid Content-Type: "+c.r.Header.Get("Content-Type")+". Expected: application/x-protobuf or application/json")
	}
	b := bodies.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= 1<<20 {
			b.Reset()
			bodies.Put(b)
		}
	}()
	if err := readBody(c.r, b); err != nil {
		return err
	}
	body := b.Bytes()
	if coding := strings.ToLower(c.r.Header.Get("Content-Encoding")); coding != "" && coding != "identity" {
		var err error
		if body, err = inflate(body, coding); err != nil {
			if errors.Is(err, errCoding) {
				return c.detail(http.StatusBadRequest, "Unsupported Content-Encoding: "+coding)
			}
			if f := fault.Find(err); f != nil {
				return err
			}
			return c.detail(http.StatusBadRequest, "Failed to decompress "+coding+" payload")
		}
	}
	spans, resources, err := parse(body)
	switch {
	case errors.Is(err, trace.ErrSpan):
		return c.detail(http.StatusUnprocessableEntity, "Cannot convert OpenTelemetry span to MLflow span")
	case err != nil:
		return c.detail(http.StatusBadRequest, "Invalid OpenTelemetry format")
	case resources == 0:
		return c.detail(http.StatusBadRequest, "Invalid OpenTelemetry format - no spans found")
	case len(spans) == 0:
		return c.exported()
	}
	if err := s.Traces.Log(c.ctx(), c.workspace, experiment, c.r.Header.Get("x-mlflow-run-id"), spans); err != nil {
		return err
	}
	return c.exported()
}

// exported answers an empty ExportTraceServiceResponse: in protobuf, as MLflow
// does whatever the request was in.
func (c *call) exported() error {
	c.w.Header().Set("Content-Type", "application/x-protobuf")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

var errCoding = errors.New("unknown coding")

// inflate undoes a Content-Encoding, within the limit of a body.
func inflate(body []byte, coding string) ([]byte, error) {
	var r io.Reader
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(body))
	default:
		return nil, errCoding
	}
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, 4*maxBody+1))
	if err == nil && len(plain) > 4*maxBody {
		return nil, fault.New(fault.TooLarge, "INVALID_PARAMETER_VALUE", "The request's body is larger than %d MB when it is decompressed: split it into several requests.", 4*maxBody>>20)
	}
	return plain, err
}
