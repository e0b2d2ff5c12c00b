package mlflowhttp

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"lapis/fault"
	"lapis/ml/tracking"
)

func (s *Server) runRoutes() {
	s.handle("POST", "2.0/mlflow/runs/create", runsWrite, s.createRun)
	s.handle("POST", "2.0/mlflow/runs/update", runsWrite, s.updateRun)
	s.handle("GET", "2.0/mlflow/runs/get", runsRead, s.getRun)
	s.handle("POST", "2.0/mlflow/runs/search", runsRead, s.searchRuns)
	s.handle("POST", "2.0/mlflow/runs/delete", runsDelete, s.deleteRun)
	s.handle("POST", "2.0/mlflow/runs/restore", runsWrite, s.restoreRun)
	s.add("POST", "2.0/mlflow/runs/log-metric", route{runsWrite, true, s.logMetric})
	s.handle("POST", "2.0/mlflow/runs/log-parameter", runsWrite, s.logParam)
	s.handle("POST", "2.0/mlflow/runs/set-tag", runsWrite, s.setTag)
	s.handle("POST", "2.0/mlflow/runs/delete-tag", runsWrite, s.deleteTag)
	s.add("POST", "2.0/mlflow/runs/log-batch", route{runsWrite, true, s.logBatch})
	s.handle("POST", "2.0/mlflow/runs/log-inputs", runsWrite, s.logInputs)
	s.handle("POST", "2.0/mlflow/runs/outputs", runsWrite, s.logOutputs)
	s.handle("POST", "2.0/mlflow/runs/log-model", runsWrite, s.logModel)
	s.handle("GET", "2.0/mlflow/metrics/get-history", runsRead, s.history)
	s.handle("GET", "2.0/mlflow/metrics/get-history-bulk-interval", runsRead, s.historyInterval)
	s.handle("GET", "2.0/mlflow/metrics/get-history-bulk", runsRead, s.historyBulk)
}

func (s *Server) createRun(c *call) error {
	n := tracking.NewRun{
		Experiment: c.text("experiment_id", false), User: c.text("user_id", false), Name: c.text("run_name", false),
		Start: c.integer("start_time", false), Tags: c.tags("tags", false),
	}
	if c.err != nil {
		return c.err
	}
	if n.Experiment == "" {
		return fault.Invalid("Missing value for required parameter 'experiment_id'.").With("BAD_REQUEST")
	}
	d, err := s.Tracking.CreateRun(c.ctx(), c.workspace, n)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.object("run")
	o.runInfo("info", &d.Run)
	o.runData(d)
	o.object("inputs")
	o.close()
	o.close()
	o.close()
	return c.reply(&o)
}

func (c *call) replyRun(d *tracking.Detail) error {
	var o out
	o.open()
	o.run("run", d)
	o.close()
	return c.reply(&o)
}

func (o *out) runInfo(key string, r *tracking.Run) {
	o.object(key)
	o.text("run_uuid", r.ID)
	o.text("experiment_id", r.Experiment)
	o.text("run_name", r.Name)
	o.text("user_id", r.User)
	o.text("status", r.Status.MLflow())
	o.integer("start_time", r.Start)
	if r.End != 0 {
		o.integer("end_time", r.End)
	}
	o.text("artifact_uri", r.Artifact)
	o.text("lifecycle_stage", r.Lifecycle())
	o.text("run_id", r.ID)
	o.close()
}

func (o *out) run(key string, d *tracking.Detail) {
	o.object(key)
	o.runInfo("info", &d.Run)
	o.runData(d)
	o.inputs(d)
	o.close()
}

// runData writes what a run logged.
func (o *out) runData(d *tracking.Detail) {
	o.object("data")
	if len(d.Metrics) > 0 {
		o.list("metrics")
		for i := range d.Metrics {
			o.point(d.Metrics[i].Key, "", d.Metrics[i].Point)
		}
		o.closeList()
	}
	o.tags("params", d.Params)
	var tags []tracking.Tag
	d.EachTag(func(k, v string) { tags = append(tags, tracking.Tag{Key: k, Value: v}) })
	if len(tags) > 0 {
		slices.SortFunc(tags, func(a, b tracking.Tag) int { return strings.Compare(a.Key, b.Key) })
		o.list("tags")
		for _, t := range tags {
			o.tag(t.Key, t.Value)
		}
		o.closeList()
	}
	o.close()
}

// point writes a metric's point.
func (o *out) point(key, run string, p tracking.Point) {
	o.open()
	o.text("key", key)
	o.number("value", p.Value)
	o.integer("timestamp", p.Time)
	o.integer("step", p.Step)
	o.some("run_id", run)
	o.close()
}

func (o *out) inputs(d *tracking.Detail) {
	o.object("inputs")
	if len(d.Datasets) > 0 {
		o.list("dataset_inputs")
		for i := range d.Datasets {
			in := &d.Datasets[i]
			o.open()
			if len(in.Tags) > 0 {
				o.list("tags")
				for _, t := range in.Tags {
					o.tag(t.Key, t.Value)
				}
				o.closeList()
			}
			o.object("dataset")
			o.text("name", in.Dataset.Name)
			o.text("digest", in.Dataset.Digest)
			o.text("source_type", in.Dataset.SourceType)
			o.text("source", in.Dataset.Source)
			o.some("schema", in.Dataset.Schema)
			o.some("profile", in.Dataset.Profile)
			o.close()
			o.close()
		}
		o.closeList()
	}
	if len(d.ModelInputs) > 0 {
		o.list("model_inputs")
		for _, m := range d.ModelInputs {
			o.open()
			o.text("model_id", m)
			o.close()
		}
		o.closeList()
	}
	o.close()
	o.object("outputs")
	if len(d.ModelOutputs) > 0 {
		o.list("model_outputs")
		for _, m := range d.ModelOutputs {
			o.open()
			o.text("model_id", m.Model)
			o.integer("step", m.Step)
			o.close()
		}
		o.closeList()
	}
	o.close()
}

func (s *Server) updateRun(c *call) error {
	run := c.run()
	end, name := c.maybe("end_time"), c.optional("run_name")
	word := c.choice("status", "", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
	if c.err != nil {
		return c.err
	}
	var status *tracking.Status
	if st, ok := tracking.StatusOf(word); ok {
		status = &st
	}
	r, err := s.Tracking.UpdateRun(c.ctx(), c.workspace, run, status, end, name)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.runInfo("run_info", &r)
	o.close()
	return c.reply(&o)
}

func (s *Server) getRun(c *call) error {
	run := c.run()
	if c.err != nil {
		return c.err
	}
	d, err := s.Tracking.Run(c.ctx(), c.workspace, run)
	if err != nil {
		return err
	}
	return c.replyRun(d)
}

func (s *Server) searchRuns(c *call) error {
	q := tracking.RunSearch{
		Experiments: c.texts("experiment_ids", false), Filter: c.text("filter", false), View: c.view("run_view_type"),
		Order: c.texts("order_by", false),
	}
	q.Limit, q.Page = c.page(pages{usual: 1000, most: 50000, few: fewPages,
		many: "Invalid value # for parameter 'max_results' supplied:  Hint: Value was of type 'int'." + seeDocs})
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Tracking.SearchRuns(c.ctx(), c.workspace, q)
	if err != nil {
		return err
	}
	o := out{b: make([]byte, 0, 256+len(found)*1024)}
	o.open()
	if len(found) > 0 {
		o.list("runs")
		for _, d := range found {
			shown := d.Shown.Load()
			if shown == nil {
				var one out
				one.run("", d)
				shown = &one.b
				d.Shown.Store(shown)
			}
			o.b = append(o.b, *shown...)
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) deleteRun(c *call) error {
	run := c.run()
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.DeleteRun(c.ctx(), c.workspace, run); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) restoreRun(c *call) error {
	run := c.run()
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.RestoreRun(c.ctx(), c.workspace, run); err != nil {
		return err
	}
	return c.empty()
}

// metric reads the fields of a point.
func (m *message) metric() tracking.Metric {
	return tracking.Metric{
		Key:         m.text("key", required),
		Point:       tracking.Point{Value: m.number("value", required), Time: m.integer("timestamp", required), Step: m.integer("step", false)},
		Model:       m.text("model_id", false),
		DatasetName: m.text("dataset_name", false), DatasetDigest: m.text("dataset_digest", false),
	}
}

// bodies are the buffers of requests that log.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// scan gives the body to fast; if that does not take it, the fields are read in
// the general way.
func (c *call) scan(fast func(body []byte) bool, slow func()) error {
	if err := checkKind(c.r); err != nil {
		return err
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
	if fast(b.Bytes()) {
		return nil
	}
	c.message = newMessage(b.Bytes())
	slow()
	return c.err
}

func (s *Server) logMetric(c *call) error {
	var run string
	var metric tracking.Metric
	err := c.scan(func(body []byte) (ok bool) {
		run, metric, ok = scanMetric(body)
		return ok
	}, func() { run, metric = c.run(), c.metric() })
	if err != nil {
		return err
	}
	if err := s.Tracking.LogMetric(c.ctx(), c.workspace, run, metric); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) logParam(c *call) error {
	run, key, value := c.run(), c.text("key", required), c.text("value", false)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.LogParam(c.ctx(), c.workspace, run, tracking.Tag{Key: key, Value: value}); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) setTag(c *call) error {
	run, key, value := c.run(), c.text("key", required), c.text("value", false)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.SetTag(c.ctx(), c.workspace, run, tracking.Tag{Key: key, Value: value}); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) deleteTag(c *call) error {
	run, key := c.run(), c.text("key", required)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.DeleteTag(c.ctx(), c.workspace, run, key); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) logBatch(c *call) error {
	var run string
	var b tracking.Batch
	err := c.scan(func(body []byte) (ok bool) {
		run, b, ok = scanBatch(body)
		return ok
	}, func() {
		run = c.run()
		for _, m := range c.messages("metrics", false) {
			b.Metrics = append(b.Metrics, m.metric())
		}
		b.Params, b.Tags = c.tags("params", required), c.tags("tags", required)
	})
	if err != nil {
		return err
	}
	if err := s.Tracking.LogBatch(c.ctx(), c.workspace, run, &b); err != nil {
		return err
	}
	return c.empty()
}

// datasets reads the datasets that a run read.
func (m *message) datasets(name string) []tracking.DatasetInput {
	var datasets []tracking.DatasetInput
	for _, m := range m.messages(name, false) {
		in := tracking.DatasetInput{Tags: m.tags("tags", false)}
		if m.has("dataset") {
			d := m.message("dataset")
			in.Dataset = tracking.Dataset{
				Name: d.text("name", false), Digest: d.text("digest", false), SourceType: d.text("source_type", false),
				Source: d.text("source", false), Schema: d.text("schema", false), Profile: d.text("profile", false),
			}
		}
		datasets = append(datasets, in)
	}
	return datasets
}

func (s *Server) logInputs(c *call) error {
	run := c.run()
	datasets := c.datasets("datasets")
	var models []string
	for _, m := range c.messages("models", false) {
		models = append(models, m.text("model_id", false))
	}
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.LogInputs(c.ctx(), c.workspace, run, datasets, models); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) logOutputs(c *call) error {
	run := c.run()
	var models []tracking.ModelOutput
	for _, m := range c.messages("models", required) {
		models = append(models, tracking.ModelOutput{Model: m.text("model_id", false), Step: m.integer("step", false)})
	}
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.LogOutputs(c.ctx(), c.workspace, run, models); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) logModel(c *call) error {
	run, text := c.run(), c.text("model_json", required)
	if c.err != nil {
		return c.err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return invalid("Malformed model info. \n %s \n could not be read as a JSON object", text)
	}
	var gone []string
	for _, f := range []string{"artifact_path", "flavors", "run_id", "utc_time_created"} {
		if _, ok := fields[f]; !ok {
			gone = append(gone, f)
		}
	}
	if len(gone) > 0 {
		return invalid("Model json is missing mandatory fields: {'%s'}", strings.Join(gone, "', '"))
	}
	if err := s.Tracking.LogModelHistory(c.ctx(), c.workspace, run, json.RawMessage(text)); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) history(c *call) error {
	run, key, page := c.run(), c.text("metric_key", required), c.text("page_token", false)
	limit := 0
	if n, ok := parseInteger(c.text("max_results", false)); ok {
		if n <= 0 {
			return invalid("Invalid value %d for parameter 'max_results' supplied. It must be a positive integer.", n)
		}
		limit = int(min(n, 1<<31))
	}
	if c.err != nil {
		return c.err
	}
	if err := c.known(run); err != nil {
		return err
	}
	points, next, err := s.Tracking.History(c.ctx(), c.workspace, run, key, limit, page)
	if err != nil {
		return err
	}
	return c.replyPoints(key, points, next)
}

// historyPiece is how much of a history is written at once, in bytes.
const historyPiece = 64 << 10

// replyPoints streams a history: a long one is tens of megabytes.
func (c *call) replyPoints(key string, points []tracking.Point, next string) error {
	c.w.Header().Set("Content-Type", "application/json")
	head := append([]byte(`{"key":`), appendText(nil, key)...)
	head = append(head, `,"value":`...)
	o := out{b: make([]byte, 0, min(historyPiece+1024, 128+len(points)*(72+len(key))))}
	o.open()
	if len(points) > 0 {
		o.list("metrics")
		for _, p := range points {
			o.b = append(o.b, head...)
			o.b = appendNumber(o.b, p.Value)
			o.b = append(o.b, `,"timestamp":`...)
			o.b = strconv.AppendInt(o.b, p.Time, 10)
			o.b = append(o.b, `,"step":`...)
			o.b = strconv.AppendInt(o.b, p.Step, 10)
			o.b = append(o.b, '}', ',')
			if len(o.b) >= historyPiece {
				// The comma stays: what follows may take it back.
				if _, err := c.w.Write(o.b[:len(o.b)-1]); err != nil {
					return nil // nobody is listening
				}
				o.b = append(o.b[:0], ',')
			}
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	_, _ = c.w.Write(o.bytes())
	return nil
}

// maxSampled bounds the points of a run in one chart.
const maxSampled = 2500

func (s *Server) historyInterval(c *call) error {
	runs, key := c.texts("run_ids", required), c.text("metric_key", required)
	from, to := c.maybe("start_step"), c.maybe("end_step")
	limit := int64(maxSampled)
	if c.has("max_results") {
		limit = c.integer("max_results", false)
	}
	if c.err != nil {
		return c.err
	}
	switch {
	case (from == nil) != (to == nil):
		return invalid("If either start step or end step are specified, both must be specified.")
	case from != nil && *from > *to:
		return invalid("end_step must be greater than start_step. Found start_step=%d and end_step=%d.", *from, *to)
	case len(runs) > 100:
		return invalid("GetMetricHistoryBulkInterval request must specify at most 100 run_ids. Received %d run_ids.%s", len(runs), seeDocs)
	case limit < 1 || limit > maxSampled:
		return invalid("max_results must be between 1 and %d.%s", maxSampled, seeDocs)
	}
	if err := c.known(runs...); err != nil {
		return err
	}
	var o out
	o.open()
	o.list("metrics")
	empty := true
	all, err := s.Tracking.Samples(c.ctx(), c.workspace, runs, key, from, to, int(limit))
	if err != nil {
		return err
	}
	for i, points := range all {
		for _, p := range points {
			o.point(key, runs[i], p)
			empty = false
		}
	}
	o.closeList()
	o.close()
	if empty {
		return c.empty()
	}
	return c.reply(&o)
}

// historyBulk is the older form of charts, for MLflow's own pages.
func (s *Server) historyBulk(c *call) error {
	runs, key := c.texts("run_id", required), c.text("metric_key", required)
	limit := int64(25000)
	if c.has("max_results") {
		limit = min(limit, c.integer("max_results", false))
	}
	if c.err != nil {
		return c.err
	}
	if len(runs) > 100 {
		return invalid("GetMetricHistoryBulk request cannot specify more than 100 run_ids. Received %d run_ids.", len(runs))
	}
	var o out
	o.open()
	o.list("metrics")
	for _, run := range runs {
		points, _, err := s.Tracking.History(c.ctx(), c.workspace, run, key, 0, "")
		if err != nil {
			return err
		}
		for _, p := range points {
			if limit--; limit < 0 {
				break
			}
			o.point(key, run, p)
		}
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}
