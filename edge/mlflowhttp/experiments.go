package mlflowhttp

import (
	"maps"
	"slices"

	"lapis/ml/tracking"
)

func (s *Server) experimentRoutes() {
	s.handle("POST", "2.0/mlflow/experiments/create", experimentsWrite, s.createExperiment)
	s.handle("GET", "2.0/mlflow/experiments/get", experimentsRead, s.getExperiment)
	s.handle("GET", "2.0/mlflow/experiments/get-by-name", experimentsRead, s.getExperimentByName)
	s.handle("GET|POST", "2.0/mlflow/experiments/search", experimentsRead, s.searchExperiments)
	s.handle("POST", "2.0/mlflow/experiments/delete", experimentsDelete, s.deleteExperiment)
	s.handle("POST", "2.0/mlflow/experiments/restore", experimentsWrite, s.restoreExperiment)
	s.handle("POST", "2.0/mlflow/experiments/update", experimentsWrite, s.updateExperiment)
	s.handle("POST", "2.0/mlflow/experiments/set-experiment-tag", experimentsWrite, s.setExperimentTag)
	s.handle("POST", "2.0/mlflow/experiments/search-datasets", experimentsRead, s.searchSummaries)
	s.handle("POST", "2.0/mlflow/experiments/delete-experiment-tag", experimentsWrite, s.deleteExperimentTag)
}

func (s *Server) createExperiment(c *call) error {
	name, location, tags := c.text("name", required), c.text("artifact_location", false), c.tags("tags", false)
	if c.err != nil {
		return c.err
	}
	if c.spaces && location != "" {
		return invalid("artifact_location cannot be specified when workspaces are enabled")
	}
	e, err := s.Tracking.CreateExperiment(c.ctx(), c.workspace, name, location, tags)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("experiment_id", e.ID)
	o.close()
	return c.reply(&o)
}

// experiment writes an experiment of a workspace.
func (o *out) experiment(key string, e *tracking.Experiment, workspace string) {
	o.object(key)
	o.text("experiment_id", e.ID)
	o.text("name", e.Name)
	o.text("artifact_location", e.Artifact)
	o.text("lifecycle_stage", e.Lifecycle())
	o.integer("last_update_time", e.Updated)
	o.integer("creation_time", e.Created)
	o.tags("tags", e.Tags)
	o.text("workspace", workspace)
	o.close()
}

// tags writes a map as a list of keys and values, by key; an empty one is left out.
func (o *out) tags(key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	o.list(key)
	for _, k := range sortedKeys(m) {
		o.tag(k, m[k])
	}
	o.closeList()
}

func (o *out) tag(key, value string) {
	o.open()
	o.text("key", key)
	o.text("value", value)
	o.close()
}

func (c *call) replyExperiment(e *tracking.Experiment) error {
	name, err := c.spaceName()
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.experiment("experiment", e, name)
	o.close()
	return c.reply(&o)
}

func (s *Server) getExperiment(c *call) error {
	id := c.text("experiment_id", required)
	if c.err != nil {
		return c.err
	}
	e, err := s.Tracking.Experiment(c.ctx(), c.workspace, id)
	if err != nil {
		return err
	}
	return c.replyExperiment(&e)
}

func (s *Server) getExperimentByName(c *call) error {
	name := c.text("experiment_name", required)
	if c.err != nil {
		return c.err
	}
	e, err := s.Tracking.ExperimentNamed(c.ctx(), c.workspace, name)
	if err != nil {
		return err
	}
	return c.replyExperiment(&e)
}

func (s *Server) searchExperiments(c *call) error {
	q := tracking.ExperimentSearch{
		Filter: c.text("filter", false), View: c.view("view_type"), Order: c.texts("order_by", false),
	}
	// This one must say how many.
	q.Limit, q.Page = c.page(pages{most: 50000, few: fewPages, many: "Invalid value # for parameter 'max_results' supplied. It must be at most 50000"})
	if c.err != nil {
		return c.err
	}
	found, next, err := s.Tracking.SearchExperiments(c.ctx(), c.workspace, q)
	if err != nil {
		return err
	}
	name, err := c.spaceName()
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(found) > 0 {
		o.list("experiments")
		for i := range found {
			o.experiment("", &found[i], name)
		}
		o.closeList()
	}
	o.some("next_page_token", next)
	o.close()
	return c.reply(&o)
}

func (s *Server) deleteExperiment(c *call) error {
	id := c.text("experiment_id", required)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.DeleteExperiment(c.ctx(), c.workspace, id); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) restoreExperiment(c *call) error {
	id := c.text("experiment_id", required)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.RestoreExperiment(c.ctx(), c.workspace, id); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) updateExperiment(c *call) error {
	id, name := c.text("experiment_id", required), c.text("new_name", required)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.RenameExperiment(c.ctx(), c.workspace, id, name); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) setExperimentTag(c *call) error {
	id, key, value := c.text("experiment_id", required), c.text("key", required), c.text("value", false)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.SetExperimentTag(c.ctx(), c.workspace, id, tracking.Tag{Key: key, Value: value}); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) deleteExperimentTag(c *call) error {
	id, key := c.text("experiment_id", required), c.text("key", required)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.DeleteExperimentTag(c.ctx(), c.workspace, id, key); err != nil {
		return err
	}
	return c.empty()
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// maxSummaries bounds the datasets that searchSummaries tells of.
const maxSummaries = 1000

// searchSummaries tells which datasets the runs of experiments read.
func (s *Server) searchSummaries(c *call) error {
	experiments := c.texts("experiment_ids", false)
	if c.err != nil {
		return c.err
	}
	if len(experiments) == 0 {
		return invalid("SearchDatasets request must specify at least one experiment_id.")
	}
	if len(experiments) > 20 {
		return invalid("SearchDatasets request cannot specify more than 20 experiment_ids. Received %d experiment_ids.", len(experiments))
	}
	list, err := s.Tracking.DatasetsOf(c.ctx(), c.workspace, experiments, maxSummaries)
	if err != nil {
		return err
	}
	var o out
	o.open()
	if len(list) > 0 {
		o.list("dataset_summaries")
		for _, d := range list {
			o.open()
			o.text("experiment_id", d.Experiment)
			o.text("name", d.Name)
			o.text("digest", d.Digest)
			o.some("context", d.Context)
			o.close()
		}
		o.closeList()
	}
	o.close()
	return c.reply(&o)
}
