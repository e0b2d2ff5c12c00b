package mlflowhttp

import (
	"net/url"
	"strconv"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/resource/identity"
)

// beyondRoutes are what MLflow's protocol has no call for; docs/mlflow.md
// describes them.
func (s *Server) beyondRoutes() {
	s.handle("GET", "lapis/counts", experimentsRead, s.counts)
	s.handle("GET", "lapis/runs/{run}/counts", runsRead, s.runCounts)
	s.handle("POST", "lapis/runs/table", runsRead, s.table)
	s.handle("GET", "lapis/metrics/chart", runsRead, s.chart)
	if s.Trash != nil {
		s.handle("GET", "lapis/trash", runsRead, s.trash)
		s.handle("POST", "lapis/trash/empty", experimentsDelete, s.emptyTrash)
		s.handle("DELETE", "lapis/runs/{run}", runsDelete, s.purgeRun)
		s.handle("DELETE", "lapis/experiments/{experiment}", experimentsDelete, s.purgeExperiment)
	}
}

// counts tells how much experiments hold.
func (s *Server) counts(c *call) error {
	ids := c.texts("experiment_ids", false)
	if c.err != nil {
		return c.err
	}
	tallies, err := s.Tracking.Tallies(c.ctx(), c.workspace, ids)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.list("experiments")
	for _, y := range tallies {
		o.open()
		o.text("experiment_id", y.Experiment)
		o.text("name", y.Name)
		o.integer("active_runs", y.Active)
		o.integer("deleted_runs", y.Deleted)
		o.integer("metrics", y.Metrics)
		o.integer("points", y.Points)
		o.integer("logged_models", y.Models)
		o.integer("traces", y.Traces)
		o.close()
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}

// runCounts tells how many points each metric of a run has.
func (s *Server) runCounts(c *call) error {
	extents, err := s.Tracking.Extents(c.ctx(), c.workspace, c.vars["run"])
	if err != nil {
		return err
	}
	var points int64
	for _, e := range extents {
		points += e.Points
	}
	var o out
	o.open()
	o.text("run_id", c.vars["run"])
	o.integer("points", points)
	o.list("metrics")
	for _, e := range extents {
		o.open()
		o.text("key", e.Key)
		o.integer("points", e.Points)
		o.integer("first_step", e.First)
		o.integer("last_step", e.Last)
		o.close()
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}

// maxTable bounds the runs of one page of a table.
const maxTable = 50_000

// table shows chosen columns of runs, also of several experiments and workspaces.
func (s *Server) table(c *call) error {
	q := tracking.TableQuery{Columns: c.texts("columns", false), RunSearch: tracking.RunSearch{
		Filter: c.text("filter", false), View: c.view("run_view_type"), Order: c.texts("order_by", false),
		Page: c.text("page_token", false), Limit: 1000,
	}}
	if c.has("max_results") {
		n := c.integer("max_results", false)
		if n < 1 || n > maxTable {
			return invalid("max_results must be between 1 and %d.", maxTable)
		}
		q.Limit = int(n)
	}
	names := map[string]string{c.workspace: c.site.ID.Name()}
	for _, m := range c.messages("sources", false) {
		site, err := s.siteOf(c, m.text("workspace", false))
		if err != nil {
			return err
		}
		names[site.GUID] = site.ID.Name()
		q.Sources = append(q.Sources, tracking.Source{Workspace: site.GUID, Experiments: m.texts("experiment_ids", false), Runs: m.texts("run_ids", false)})
	}
	if len(q.Sources) == 0 {
		q.Sources = []tracking.Source{{Workspace: c.workspace, Experiments: c.texts("experiment_ids", false), Runs: c.texts("run_ids", false)}}
	}
	if c.err != nil {
		return c.err
	}
	t, err := s.Tracking.Table(c.ctx(), q)
	if err != nil {
		return err
	}
	o := out{b: make([]byte, 0, 1024+len(t.Runs)*len(t.Columns)*16)}
	o.open()
	o.list("columns")
	for _, name := range t.Columns {
		o.text("", name)
	}
	o.closeList()
	o.list("rows")
	for _, d := range t.Runs {
		o.list("")
		for _, name := range t.Columns {
			switch v := d.Column(name).(type) {
			case nil:
				o.b = append(o.b, "null,"...)
			case string:
				if name == "workspace" {
					v = names[v]
				}
				o.text("", v)
			case int64:
				o.integer("", v)
			case float64:
				o.number("", v)
			case bool:
				o.flag("", v)
			}
		}
		o.closeList()
	}
	o.closeList()
	o.integer("total", int64(t.Total))
	o.some("next_page_token", t.Next)
	o.close()
	return c.reply(&o)
}

// siteOf is the workspace that a source names, by its name in the group of the
// request's workspace or by its resource id; the caller must be allowed to read
// its runs.
func (s *Server) siteOf(c *call, name string) (ml.Site, error) {
	if name == "" {
		return c.site, nil
	}
	if s.Site == nil {
		return ml.Site{}, invalid("This server knows one workspace only.")
	}
	site, err := s.Site(c.ctx(), c.site, name)
	if err != nil {
		return site, err
	}
	if s.Access != nil {
		err = s.Access.Check(c.ctx(), identity.Of(c.ctx()), runsRead, site.ID)
	}
	return site, err
}

const maxBuckets = 10_000

// chart shows metrics of runs, thinned so that no peak is lost.
func (s *Server) chart(c *call) error {
	runs, keys := c.texts("run_id", required), c.texts("key", required)
	buckets := int64(320)
	if n, ok := parseInteger(c.text("buckets", false)); ok {
		buckets = n
	}
	switch {
	case c.err != nil:
		return c.err
	case len(runs) > 100:
		return invalid("At most 100 runs fit into one chart. Received %d.", len(runs))
	case len(keys) > 100:
		return invalid("At most 100 metrics fit into one chart. Received %d.", len(keys))
	case buckets < 1 || buckets > maxBuckets:
		return invalid("buckets must be between 1 and %d.", maxBuckets)
	}
	charts, err := s.Tracking.Charts(c.ctx(), c.workspace, runs, keys, int(buckets))
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.list("series")
	for _, ch := range charts {
		o.open()
		o.text("run_id", ch.Run)
		o.text("key", ch.Key)
		o.integer("count", int64(ch.Count))
		o.list("points")
		for _, p := range ch.Points {
			o.list("")
			o.integer("", p.Step)
			o.integer("", p.Time)
			o.number("", p.Value)
			o.closeList()
		}
		o.closeList()
		o.close()
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}

// trash lists what was deleted and can be restored.
func (s *Server) trash(c *call) error {
	limit := int64(1000)
	if n, ok := parseInteger(c.text("max_results", false)); ok {
		limit = n
	}
	if limit < 1 || limit > maxTable {
		return invalid("max_results must be between 1 and %d.", maxTable)
	}
	list, next, err := s.Trash.List(c.ctx(), c.workspace, int(limit), c.text("page_token", false))
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.list("items")
	for _, e := range list {
		o.open()
		if e.Run == nil {
			o.text("kind", "experiment")
		} else {
			o.text("kind", "run")
			o.text("run_id", e.Run.ID)
			o.text("run_name", e.Run.Name)
			o.flag("job", e.Run.Job)
		}
		o.text("experiment_id", e.Experiment.ID)
		o.text("experiment_name", e.Experiment.Name)
		o.integer("deletion_time", e.Deleted.UnixMilli())
		if !e.Purged.IsZero() {
			o.integer("purge_time", e.Purged.UnixMilli())
		}
		o.close()
	}
	o.closeList()
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

// emptyTrash removes for good what was deleted until a time, by default now.
func (s *Server) emptyTrash(c *call) error {
	until := time.Now()
	if ms := c.maybe("deleted_until"); ms != nil {
		until = time.UnixMilli(*ms)
	}
	if c.err != nil {
		return c.err
	}
	if s.Access != nil {
		if err := s.Access.Check(c.ctx(), identity.Of(c.ctx()), runsDelete, c.site.ID); err != nil {
			return err
		}
	}
	done, err := s.Trash.Empty(c.ctx(), identity.Of(c.ctx()), c.site, until)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.integer("experiments", int64(done.Experiments))
	o.integer("runs", int64(done.Runs))
	o.close()
	return c.reply(&o)
}

// keepArtifacts reads the query's keep_artifacts.
func keepArtifacts(q url.Values) (bool, error) {
	text := q.Get("keep_artifacts")
	if text == "" {
		return false, nil
	}
	keep, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid("Invalid boolean value: %s, must be 'true' or 'false'.", text)
	}
	return keep, nil
}

func (s *Server) purgeRun(c *call) error {
	keep, err := keepArtifacts(c.r.URL.Query())
	if err == nil {
		err = s.Trash.DeleteRun(c.ctx(), identity.Of(c.ctx()), c.site, c.vars["run"], keep)
	}
	if err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) purgeExperiment(c *call) error {
	keep, err := keepArtifacts(c.r.URL.Query())
	if err != nil {
		return err
	}
	id, err := s.Tracking.Resolve(c.ctx(), c.workspace, c.vars["experiment"])
	if fault.Is(err, fault.BadRequest) {
		return err
	}
	if err == nil {
		err = s.Trash.DeleteExperiment(c.ctx(), identity.Of(c.ctx()), c.site, id, keep)
	}
	if err != nil {
		return err
	}
	return c.empty()
}
