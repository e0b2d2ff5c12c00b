package mlflowhttp

import (
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml/trace"
	"lapis/pattern"
)

// oldTraceRoutes are the calls of version 2, over the same traces.
func (s *Server) oldTraceRoutes(base string) {
	s.handle("POST", base, runsWrite, s.startOldTrace)
	s.handle("GET", base, runsRead, s.searchOldTraces)
	s.handle("PATCH", base+"/{request_id}", runsWrite, s.endOldTrace)
	s.handle("GET", base+"/{request_id}/info", runsRead, s.getOldTrace)
}

// traceStatuses are version 2's words for the states of a trace.
var traceStatuses = []string{"TRACE_STATUS_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"}

// oldTrace writes a trace in the form of version 2.
func (o *out) oldTrace(key string, i *trace.Info) {
	o.object(key)
	o.text("request_id", i.ID)
	o.text("experiment_id", i.Experiment)
	o.integer("timestamp_ms", i.Start)
	o.integer("execution_time_ms", max(i.Duration, 0))
	status := i.State
	if status == "STATE_UNSPECIFIED" || status == "" {
		status = traceStatuses[0]
	}
	o.text("status", status)
	for _, m := range []struct {
		name string
		of   map[string]string
		most int
	}{{"request_metadata", i.Metadata, 250}, {"tags", i.Tags, 4096}} {
		if len(m.of) == 0 {
			continue
		}
		o.list(m.name)
		for _, k := range oldKeys(m.of) {
			o.open()
			o.text("key", clip(k, 250))
			o.text("value", clip(m.of[k], m.most))
			o.close()
		}
		o.closeList()
	}
	o.close()
}

// oldKeys are the keys of tags or metadata, sorted. Those that MLflow keeps
// apart come last.
func oldKeys(m map[string]string) []string {
	last := []string{trace.MetaSession, trace.MetaUsage, trace.MetaCost, trace.TagName}
	keys := slices.DeleteFunc(sortedKeys(m), func(k string) bool { return slices.Contains(last, k) })
	for _, k := range last {
		if _, ok := m[k]; ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// clip cuts a text after some characters.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	if r := []rune(s); len(r) > most {
		return string(r[:most])
	}
	return s
}

func (c *call) replyOldTrace(i *trace.Info, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.oldTrace("trace_info", i)
	o.close()
	return c.reply(&o)
}

// pairsOf reads a list of keys and values as a map.
func (m *message) pairsOf(name string) map[string]string {
	found := map[string]string{}
	for _, t := range m.tags(name, true) {
		found[t.Key] = t.Value
	}
	return found
}

func (s *Server) startOldTrace(c *call) error {
	i := trace.Info{Experiment: c.text("experiment_id", required), Start: c.integer("timestamp_ms", false), Duration: -1, State: "IN_PROGRESS",
		Metadata: c.pairsOf("request_metadata"), Tags: c.pairsOf("tags")}
	if c.err != nil {
		return c.err
	}
	made, err := s.Traces.Begin(c.ctx(), c.workspace, i)
	return c.replyOldTrace(made, err)
}

func (s *Server) endOldTrace(c *call) error {
	at, status := c.integer("timestamp_ms", false), c.choice("status", traceStatuses...)
	metadata, tags := c.pairsOf("request_metadata"), c.pairsOf("tags")
	if c.err != nil {
		return c.err
	}
	if status == "" || status == traceStatuses[0] {
		status = "STATE_UNSPECIFIED"
	}
	ended, err := s.Traces.End(c.ctx(), c.workspace, c.vars["request_id"], at, status, metadata, tags)
	return c.replyOldTrace(ended, err)
}

func (s *Server) getOldTrace(c *call) error {
	i, err := s.Traces.Find(c.ctx(), c.workspace, c.vars["request_id"])
	return c.replyOldTrace(i, err)
}

func (s *Server) searchOldTraces(c *call) error {
	q := trace.Search{Experiments: c.texts("experiment_ids", required), Filter: c.text("filter", false), Order: c.texts("order_by", false),
		Page: c.text("page_token", false), Limit: 100}
	return s.pageOfTraces(c, q, (*out).oldTrace)
}

// getTraceArtifact answers the spans of a trace as the file that MLflow's pages
// read, or a file that is attached to the trace.
func (s *Server) getTraceArtifact(c *call) error {
	q := c.r.URL.Query()
	id, p := q.Get("request_id"), q.Get("path")
	if id == "" {
		return fault.Invalid(`Request must include the "request_id" query parameter.`).With("BAD_REQUEST")
	}
	if err := checkPath(p); err != nil {
		return err
	}
	if p != "" && !attachment.MatchString(p) {
		return invalid("Invalid attachment path: '%s'. Attachment path must be a valid UUID.", p)
	}
	i, err := s.Traces.Find(c.ctx(), c.workspace, id)
	if fault.Is(err, fault.Missing) && p == "" {
		return missing("Trace with ID %s is not found.", id)
	}
	if err != nil {
		return err
	}
	file := "attachments/" + p
	if p == "" {
		if i.Tags[trace.TagSpans] == "TRACKING_STORE" {
			return s.sendSpans(c, id)
		}
		file = traceFile
	}
	base, err := proxied(i.Tags[trace.TagArtifacts])
	if err != nil {
		return err
	}
	at, err := s.locate(c, path.Join(base, file))
	if err != nil {
		return err
	}
	err = s.send(c, at, strings.TrimPrefix(file, "attachments/"))
	if fault.Is(err, fault.Missing) && p == "" {
		return fault.NotFound("Trace data not found for path=%s", traceFile).With("NOT_FOUND")
	}
	return err
}

// attachment is the form of the name of a file that is attached to a trace.
var attachment = pattern.New(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$`)

const traceFile = "traces.json"

func (s *Server) sendSpans(c *call, id string) error {
	spans, err := s.Traces.Spans(c.ctx(), c.workspace, id)
	if err != nil {
		return err
	}
	body := []byte(`{"spans":[`)
	for n := range spans {
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, spans[n].Plain()...)
	}
	body = append(body, "]}"...)
	h := c.w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": traceFile}))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(body)
	return nil
}
