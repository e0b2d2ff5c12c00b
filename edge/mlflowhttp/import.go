package mlflowhttp

import (
	"lapis/ml/registry"
	"lapis/ml/tracking"
)

// importRoutes are ours, not MLflow's: by them comes in what another MLflow
// store holds, with its ids and dates, as the protocol has no words for. Each
// may be sent again.
func (s *Server) importRoutes() {
	const base = "lapis/import"
	s.handle("POST", base+"/experiments", experimentsWrite, s.importExperiment)
	s.handle("POST", base+"/runs", runsWrite, s.importRun)
	s.handle("POST", base+"/runs/finish", runsWrite, s.finishImport)
	s.handle("POST", base+"/logged-models", runsWrite, s.importModel)
	s.handle("POST", base+"/registered-models", modelsWrite, s.importRegistered)
	s.handle("POST", base+"/model-versions", modelsWrite, s.importVersion)
}

func (s *Server) importExperiment(c *call) error {
	e := tracking.Experiment{
		Workspace: c.workspace, ID: c.text("experiment_id", required), Name: c.text("name", required),
		Artifact: c.text("artifact_location", false), Tags: asMap(c.tags("tags", required)),
		Created: c.integer("creation_time", false), Updated: c.integer("last_update_time", false),
	}
	if c.err != nil {
		return c.err
	}
	found, made, err := s.Tracking.ImportExperiment(c.ctx(), e)
	if err != nil {
		return err
	}
	workspace, err := c.spaceName()
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.flag("made", made)
	o.experiment("experiment", &found, workspace)
	o.close()
	return c.reply(&o)
}

func (s *Server) importRun(c *call) error {
	run := c.message.message("run")
	info, data := run.message("info"), run.message("data")
	r := tracking.Record{
		Run: tracking.Run{
			Workspace: c.workspace, ID: info.text("run_id", required), Experiment: info.text("experiment_id", required),
			Name: info.text("run_name", false), User: info.text("user_id", false), Start: info.integer("start_time", false),
			End: info.integer("end_time", false), Artifact: info.text("artifact_uri", false),
			Tags: asMap(data.tags("tags", required)),
		},
		Params: asMap(data.tags("params", required)),
	}
	r.Status = info.status()
	inputs := run.message("inputs")
	r.Datasets = inputs.datasets("dataset_inputs")
	for _, m := range inputs.messages("model_inputs", false) {
		r.ModelInputs = append(r.ModelInputs, m.text("model_id", required))
	}
	for _, m := range run.message("outputs").messages("model_outputs", false) {
		r.ModelOutputs = append(r.ModelOutputs, tracking.ModelOutput{Model: m.text("model_id", required), Step: m.integer("step", false)})
	}
	mark := c.text("mark", required)
	if c.err != nil {
		return c.err
	}
	found, state, err := s.Tracking.ImportRun(c.ctx(), r, mark)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("state", string(state))
	o.text("experiment_id", found.Experiment)
	o.text("artifact_uri", found.Artifact)
	o.close()
	return c.reply(&o)
}

// status reads a run's status; one that is not there has ended well.
func (m *message) status() tracking.Status {
	word := m.choice("status", "", "RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
	if word == "" {
		return tracking.Completed
	}
	status, _ := tracking.StatusOf(word)
	return status
}

func (s *Server) finishImport(c *call) error {
	id, mark := c.text("run_id", required), c.text("mark", required)
	status, end, deleted := c.status(), c.integer("end_time", false), c.integer("deleted_time", false)
	if c.err != nil {
		return c.err
	}
	if err := s.Tracking.FinishImport(c.ctx(), c.workspace, id, status, end, deleted, mark); err != nil {
		return err
	}
	return c.empty()
}

func (s *Server) importModel(c *call) error {
	m := tracking.LoggedModel{
		Workspace: c.workspace, ID: c.text("model_id", required), Experiment: c.text("experiment_id", required),
		Name: c.text("name", required), Type: c.text("model_type", false), SourceRun: c.text("source_run_id", false),
		Status: c.choice("status", modelStates...), Message: c.text("status_message", false),
		Artifact: c.text("artifact_uri", false),
		Created:  c.integer("creation_timestamp_ms", false), Updated: c.integer("last_updated_timestamp_ms", false),
		Deleted: c.integer("deleted_time", false),
		Tags:    asMap(c.tags("tags", required)), Params: asMap(c.tags("params", required)),
	}
	if c.err != nil {
		return c.err
	}
	found, made, err := s.Tracking.ImportModel(c.ctx(), m)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.flag("made", made)
	o.text("artifact_uri", found.Artifact)
	o.close()
	return c.reply(&o)
}

func (s *Server) importRegistered(c *call) error {
	m := registry.Model{
		Name: c.text("name", required), Description: c.text("description", false), Tags: asMap(c.tags("tags", required)),
		Created: c.integer("creation_timestamp", false), Updated: c.integer("last_updated_timestamp", false),
	}
	if c.err != nil {
		return c.err
	}
	made, err := s.Registry.ImportModel(c.ctx(), c.site, m)
	return c.replyMade(made, err)
}

func (s *Server) importVersion(c *call) error {
	v := registry.Version{
		Name: c.text("name", required), Number: c.text("version", required), Description: c.text("description", false),
		Tags: asMap(c.tags("tags", required)), Stage: c.text("current_stage", false), Source: c.text("source", false),
		Run: c.text("run_id", false), RunLink: c.text("run_link", false), Model: c.text("model_id", false), User: c.text("user_id", false),
		Created: c.integer("creation_timestamp", false), Updated: c.integer("last_updated_timestamp", false),
	}
	if c.err != nil {
		return c.err
	}
	made, err := s.Registry.ImportVersion(c.ctx(), c.site, v)
	return c.replyMade(made, err)
}

func (c *call) replyMade(made bool, err error) error {
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.flag("made", made)
	o.close()
	return c.reply(&o)
}
