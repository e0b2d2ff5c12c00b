package mlflowhttp

import (
	"encoding/json"

	"lapis/ml/evaluation"
)

func (s *Server) evaluationRoutes() {
	const base, scorers = "3.0/mlflow/datasets", "3.0/mlflow/scorers"
	s.handle("POST", base+"/create", experimentsWrite, s.createDataset)
	s.handle("GET|POST", base+"/search", experimentsRead, s.searchDatasets)
	s.handle("GET", base+"/{dataset_id}", experimentsRead, s.getDataset)
	s.handle("DELETE", base+"/{dataset_id}", experimentsDelete, s.deleteDataset)
	s.handle("PATCH", base+"/{dataset_id}/tags", experimentsWrite, s.setDatasetTags)
	s.handle("DELETE", base+"/{dataset_id}/tags/{key}", experimentsWrite, s.deleteDatasetTag)
	s.handle("POST", base+"/{dataset_id}/records", experimentsWrite, s.upsertRecords)
	s.handle("GET", base+"/{dataset_id}/records", experimentsRead, s.getRecords)
	s.handle("DELETE", base+"/{dataset_id}/records", experimentsWrite, s.deleteRecords)
	s.handle("GET", base+"/{dataset_id}/experiment-ids", experimentsRead, s.datasetExperiments)
	s.handle("POST", base+"/{dataset_id}/add-experiments", experimentsWrite, s.moveDataset(true))
	s.handle("POST", base+"/{dataset_id}/remove-experiments", experimentsWrite, s.moveDataset(false))
	s.handle("POST", scorers+"/register", experimentsWrite, s.registerScorer)
	s.handle("GET", scorers+"/list", experimentsRead, s.listScorers)
	s.handle("GET", scorers+"/versions", experimentsRead, s.scorerVersions)
	s.handle("GET", scorers+"/get", experimentsRead, s.getScorer)
	s.handle("DELETE", scorers+"/delete", experimentsWrite, s.deleteScorer)
	// No scorer runs by itself here, so none has a configuration.
	s.handle("GET", scorers+"/online-configs", experimentsRead, func(c *call) error {
		var o out
		o.open()
		o.list("configs")
		o.closeList()
		o.close()
		return c.reply(&o)
	})
}

// dataset writes a dataset. Its experiments are told when it is made; they have
// a route of their own.
func (o *out) dataset(key string, d *evaluation.Dataset, experiments []string) {
	o.object(key)
	o.text("dataset_id", d.ID)
	o.text("name", d.Name)
	if d.Tags == nil {
		o.text("tags", "{}")
	} else {
		tags, _ := json.Marshal(d.Tags)
		o.text("tags", string(tags))
	}
	o.some("schema", d.Schema)
	o.some("profile", d.Profile)
	o.text("digest", d.Digest)
	o.integer("created_time", d.Created)
	o.integer("last_update_time", d.Updated)
	o.some("created_by", d.CreatedBy)
	o.some("last_updated_by", d.UpdatedBy)
	o.texts("experiment_ids", experiments)
	o.close()
}

// texts writes a list of strings; an empty one is left out.
func (o *out) texts(key string, list []string) {
	if len(list) == 0 {
		return
	}
	o.list(key)
	for _, s := range list {
		o.b = append(appendText(o.b, s), ',')
	}
	o.closeList()
}

func (c *call) replyDataset(d evaluation.Dataset, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.dataset("dataset", &d, nil)
	o.close()
	return c.reply(&o)
}

// encoded reads a field that is JSON in a string.
func (m *message) encoded(name string, need bool, into any) {
	text := m.text(name, need)
	if text == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		m.fail(invalid("Invalid value for parameter '%s%s' supplied: it is not the JSON that is expected: %v", m.path, name, err))
	}
}

func (s *Server) createDataset(c *call) error {
	name, experiments := c.text("name", required), c.texts("experiment_ids", false)
	var tags map[string]string
	c.encoded("tags", false, &tags)
	if c.err != nil {
		return c.err
	}
	d, err := s.Evaluation.CreateDataset(c.ctx(), c.workspace, name, experiments, tags)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.dataset("dataset", &d, d.Experiments)
	o.close()
	return c.reply(&o)
}

func (s *Server) getDataset(c *call) error {
	return c.replyDataset(s.Evaluation.Dataset(c.ctx(), c.workspace, c.vars["dataset_id"]))
}

func (s *Server) deleteDataset(c *call) error {
	return c.done(s.Evaluation.DeleteDataset(c.ctx(), c.workspace, c.vars["dataset_id"]))
}

func (s *Server) searchDatasets(c *call) error {
	experiments, filter, order := c.texts("experiment_ids", false), c.text("filter_string", false), c.texts("order_by", false)
	limit, page := c.page(pages{usual: 1000, most: 50000})
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Evaluation.Search(c.ctx(), c.workspace, experiments, filter, order, limit, page)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("datasets")
		for i := range found {
			o.dataset("", &found[i], nil)
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) setDatasetTags(c *call) error {
	var tags map[string]*string
	c.encoded("tags", required, &tags)
	if c.err != nil {
		return c.err
	}
	return c.done(s.Evaluation.SetTags(c.ctx(), c.workspace, c.vars["dataset_id"], tags))
}

func (s *Server) deleteDatasetTag(c *call) error {
	return c.done(s.Evaluation.SetTags(c.ctx(), c.workspace, c.vars["dataset_id"], map[string]*string{c.vars["key"]: nil}))
}

func (s *Server) upsertRecords(c *call) error {
	var records []evaluation.NewRecord
	c.encoded("records", required, &records)
	if c.err != nil {
		return c.err
	}
	inserted, updated, err := s.Evaluation.Upsert(c.ctx(), c.workspace, c.vars["dataset_id"], records)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.integer("inserted_count", int64(inserted))
	o.integer("updated_count", int64(updated))
	o.close()
	return c.reply(&o)
}

func (s *Server) getRecords(c *call) error {
	limit, page := c.page(pages{usual: 1000, most: 50000})
	if c.err != nil {
		return c.err
	}
	records, next, err := s.Evaluation.Records(c.ctx(), c.workspace, c.vars["dataset_id"], page, limit)
	if err != nil {
		return err
	}
	if records == nil {
		records = []evaluation.Record{}
	}
	text, err := json.Marshal(records)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("records", string(text))
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) deleteRecords(c *call) error {
	records := c.texts("dataset_record_ids", false)
	if c.err != nil {
		return c.err
	}
	n, err := s.Evaluation.DeleteRecords(c.ctx(), c.workspace, c.vars["dataset_id"], records)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.integer("deleted_count", int64(n))
	o.close()
	return c.reply(&o)
}

func (s *Server) datasetExperiments(c *call) error {
	experiments, err := s.Evaluation.ExperimentsOf(c.ctx(), c.workspace, c.vars["dataset_id"])
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.texts("experiment_ids", experiments)
	o.close()
	return c.reply(&o)
}

func (s *Server) moveDataset(add bool) func(c *call) error {
	return func(c *call) error {
		experiments := c.texts("experiment_ids", false)
		if c.err != nil {
			return c.err
		}
		return c.replyDataset(s.Evaluation.Move(c.ctx(), c.workspace, c.vars["dataset_id"], experiments, add))
	}
}

func (o *out) scorer(key string, x *evaluation.Scorer) {
	o.object(key)
	o.experimentNumber(x.Experiment)
	o.text("scorer_name", x.Name)
	o.integer("scorer_version", x.Version)
	o.text("serialized_scorer", x.Body)
	o.integer("creation_time", x.Created)
	o.text("scorer_id", x.ID)
	o.close()
}

// experimentNumber writes an experiment's id as the number that scorers have.
func (o *out) experimentNumber(id string) {
	o.key("experiment_id")
	o.b = append(append(o.b, id...), ',')
}

func (s *Server) registerScorer(c *call) error {
	e, name, body := c.text("experiment_id", required), c.text("name", required), c.text("serialized_scorer", required)
	if c.err != nil {
		return c.err
	}
	x, err := s.Evaluation.AddScorer(c.ctx(), c.workspace, e, name, body)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.integer("version", x.Version)
	o.text("scorer_id", x.ID)
	o.text("experiment_id", x.Experiment)
	o.text("name", x.Name)
	o.text("serialized_scorer", x.Body)
	o.integer("creation_time", x.Created)
	o.close()
	return c.reply(&o)
}

func (c *call) replyScorers(list []evaluation.Scorer) error {
	var o out
	o.open()
	if len(list) > 0 {
		o.list("scorers")
		for i := range list {
			o.scorer("", &list[i])
		}
		o.closeList()
	}
	o.close()
	return c.reply(&o)
}

func (s *Server) listScorers(c *call) error {
	one, several := c.text("experiment_id", false), c.texts("experiment_ids", false)
	if c.err != nil {
		return c.err
	}
	if one != "" {
		if len(several) > 0 {
			return invalid("Cannot specify both 'experiment_id' and 'experiment_ids'. Use 'experiment_ids' to scope the query to multiple experiments, or 'experiment_id' to scope it to a single experiment.")
		}
		list, err := s.Evaluation.ScorersOf(c.ctx(), c.workspace, one)
		if err != nil {
			return err
		}
		return c.replyScorers(list)
	}
	list, err := s.Evaluation.Scorers(c.ctx(), c.workspace, several)
	if err != nil {
		return err
	}
	return c.replyScorers(list)
}

// scorerNamed reads which scorer a request is about.
func (c *call) scorerNamed() (experiment, name string, version int64) {
	return c.text("experiment_id", required), c.text("name", required), c.integer("version", false)
}

func (s *Server) scorerVersions(c *call) error {
	e, name, _ := c.scorerNamed()
	if c.err != nil {
		return c.err
	}
	list, err := s.Evaluation.ScorerVersions(c.ctx(), c.workspace, e, name)
	if err != nil {
		return err
	}
	return c.replyScorers(list)
}

func (s *Server) getScorer(c *call) error {
	e, name, version := c.scorerNamed()
	if c.err != nil {
		return c.err
	}
	x, err := s.Evaluation.Scorer(c.ctx(), c.workspace, e, name, version)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.scorer("scorer", &x)
	o.close()
	return c.reply(&o)
}

func (s *Server) deleteScorer(c *call) error {
	e, name, version := c.scorerNamed()
	if c.err != nil {
		return c.err
	}
	return c.done(s.Evaluation.DeleteScorer(c.ctx(), c.workspace, e, name, version))
}
