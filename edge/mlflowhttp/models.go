package mlflowhttp

import "lapis/ml/tracking"

func (s *Server) modelRoutes() {
	const base = "2.0/mlflow/logged-models"
	s.handle("POST", base, runsWrite, s.createModel)
	s.handle("POST", base+"/search", runsRead, s.searchModels)
	s.handle("GET", base+"/{model_id}", runsRead, s.getModel)
	s.handle("PATCH", base+"/{model_id}", runsWrite, s.finishModel)
	s.handle("DELETE", base+"/{model_id}", runsDelete, s.deleteModel)
	s.handle("PATCH", base+"/{model_id}/tags", runsWrite, s.setModelTags)
	s.handle("DELETE", base+"/{model_id}/tags/{key}", runsWrite, s.deleteModelTag)
	s.handle("POST", base+"/{model_id}/params", runsWrite, s.addModelParams)
	s.handle("GET", base+"/{model_id}/artifacts/directories", artifactsRead, s.listModelArtifacts)
	s.add("GET|HEAD", base+"/{model_id}/artifacts/files", route{artifactsRead, true, s.getModelArtifact})
}

// modelState is the number of each state of a logged model, as clients send it.
var modelStates = []string{"", tracking.ModelPending, tracking.ModelReady, tracking.ModelFailed}

func (o *out) model(key string, m *tracking.LoggedModel) {
	o.object(key)
	o.object("info")
	o.text("model_id", m.ID)
	o.text("experiment_id", m.Experiment)
	o.text("name", m.Name)
	o.integer("creation_timestamp_ms", m.Created)
	o.integer("last_updated_timestamp_ms", m.Updated)
	o.text("artifact_uri", m.Artifact)
	o.text("status", m.Status)
	o.some("creator_id", m.Creator)
	o.text("model_type", m.Type)
	o.text("source_run_id", m.SourceRun)
	o.some("status_message", m.Message)
	o.tags("tags", m.Tags)
	o.close()
	o.object("data")
	if len(m.Params) > 0 {
		o.list("params")
		for _, k := range sortedKeys(m.Params) {
			o.tag(k, m.Params[k])
		}
		o.closeList()
	}
	if len(m.Metrics) > 0 {
		o.list("metrics")
		for i := range m.Metrics {
			v := &m.Metrics[i]
			o.open()
			o.text("key", v.Key)
			o.number("value", v.Kept())
			o.integer("timestamp", v.Time)
			o.integer("step", v.Step)
			o.text("model_id", m.ID)
			o.some("run_id", v.Run)
			o.some("dataset_name", v.DatasetName)
			o.some("dataset_digest", v.DatasetDigest)
			o.close()
		}
		o.closeList()
	}
	o.close()
	o.close()
}

func (c *call) replyModel(m *tracking.LoggedModel, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.model("model", m)
	o.close()
	return c.reply(&o)
}

func asMap(tags []tracking.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.Key] = t.Value
	}
	return m
}

func (s *Server) createModel(c *call) error {
	m := tracking.LoggedModel{
		Workspace: c.workspace, Experiment: c.text("experiment_id", required), Name: c.text("name", false),
		Type: c.text("model_type", false), SourceRun: c.text("source_run_id", false),
		Tags: asMap(c.tags("tags", false)), Params: asMap(c.tags("params", false)),
	}
	if c.err != nil {
		return c.err
	}
	m, err := s.Tracking.CreateModel(c.ctx(), m)
	return c.replyModel(&m, err)
}

func (s *Server) getModel(c *call) error {
	deleted := c.flag("allow_deleted", false)
	if c.err != nil {
		return c.err
	}
	m, err := s.Tracking.Model(c.ctx(), c.workspace, c.vars["model_id"], deleted)
	return c.replyModel(&m, err)
}

func (s *Server) finishModel(c *call) error {
	c.text("model_id", required)
	status := c.choice("status", modelStates...)
	if c.err == nil && status == "" {
		c.needed("status")
	}
	if c.err != nil {
		return c.err
	}
	m, err := s.Tracking.FinishModel(c.ctx(), c.workspace, c.vars["model_id"], status)
	return c.replyModel(&m, err)
}

func (s *Server) deleteModel(c *call) error {
	if err := s.Tracking.DeleteModel(c.ctx(), c.workspace, c.vars["model_id"]); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) setModelTags(c *call) error {
	tags := c.tags("tags", false)
	if c.err != nil {
		return c.err
	}
	if _, err := s.Tracking.SetModelTags(c.ctx(), c.workspace, c.vars["model_id"], tags); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) deleteModelTag(c *call) error {
	if err := s.Tracking.DeleteModelTag(c.ctx(), c.workspace, c.vars["model_id"], c.vars["key"]); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) addModelParams(c *call) error {
	c.text("model_id", required)
	params := c.tags("params", false)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.AddModelParams(c.ctx(), c.workspace, c.vars["model_id"], params); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) searchModels(c *call) error {
	q := tracking.ModelSearch{
		Experiments: c.texts("experiment_ids", required), Filter: c.text("filter", false),
	}
	q.Limit, q.Page = c.page(pages{usual: 50, most: 50})
	for _, m := range c.messages("datasets", false) {
		q.Datasets = append(q.Datasets, tracking.Dataset{Name: m.text("dataset_name", required), Digest: m.text("dataset_digest", false)})
	}
	for _, m := range c.messages("order_by", false) {
		o := tracking.ModelOrder{Field: m.text("field_name", required), DatasetName: m.text("dataset_name", false), DatasetDigest: m.text("dataset_digest", false)}
		o.Desc = m.has("ascending") && !m.flag("ascending", false)
		q.Order = append(q.Order, o)
	}
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Tracking.SearchModels(c.ctx(), c.workspace, q)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("models")
		for i := range found {
			o.model("", &found[i])
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) listModelArtifacts(c *call) error {
	below := c.text("artifact_directory_path", false)
	if c.err != nil {
		return c.err
	}
	if err := checkPath(below); err != nil {
		return err
	}
	m, err := s.Tracking.Model(c.ctx(), c.workspace, c.vars["model_id"], false)
	if err != nil {
		return err
	}
	return s.replyFiles(c, m.Artifact, below)
}

func (s *Server) getModelArtifact(c *call) error {
	p := c.r.URL.Query().Get("artifact_file_path")
	if p == "" {
		return invalid("Missing value for required parameter 'artifact_file_path'.%s", seeDocs)
	}
	if err := checkPath(p); err != nil {
		return err
	}
	m, err := s.Tracking.Model(c.ctx(), c.workspace, c.vars["model_id"], false)
	if err != nil {
		return err
	}
	base, err := proxied(m.Artifact)
	if err != nil {
		return err
	}
	at, err := s.locate(c, base+"/"+p)
	if err != nil {
		return err
	}
	return s.send(c, at, p)
}
