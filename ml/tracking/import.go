package tracking

import (
	"context"
	"maps"
	"slices"
	"strings"
	"unicode"

	"lapis/fault"
)

// What another MLflow store holds comes in with its ids and its times. Every
// step may be taken again: what is there already is added to, never doubled.

// importMark is the property of a run that came from elsewhere: importOpen
// while it is being copied, then what its source said it was like.
const (
	importMark = "lapis.import"
	importOpen = "open"
)

// ImportState is how far the copy of a run is.
type ImportState string

// The states of an import.
const (
	ImportNew   ImportState = "new"   // it was made now
	ImportOpen  ImportState = "open"  // an earlier import did not end, or the source has changed since
	ImportDone  ImportState = "done"  // it is here as the source has it
	ImportTaken ImportState = "taken" // a run of that id is here that was not imported
)

// ImportExperiment gives the experiment of e's name, made with e's id, dates
// and tags if there is none. An id that is taken is replaced by a new one. made
// tells whether it was made.
func (s *Service) ImportExperiment(ctx context.Context, e Experiment) (found Experiment, made bool, err error) {
	if _, err := s.defaultExperiment(ctx, e.Workspace); err != nil {
		return e, false, err
	}
	if err := checkExperimentName(e.Name, "name"); err != nil {
		return e, false, err
	}
	if e.Artifact != "" {
		if err := CheckLocation(e.Artifact, "artifact_location"); err != nil {
			return e, false, err
		}
	}
	for k, v := range e.Tags {
		if err := checkExperimentTag(Tag{k, v}); err != nil {
			return e, false, err
		}
	}
	found, err = s.store.ExperimentNamed(ctx, e.Workspace, e.Name)
	if fault.Is(err, fault.Missing) {
		e.Deleted = 0
		found, err = s.store.CreateExperiment(ctx, e)
		return found, err == nil, err
	}
	if err != nil || found.Deleted != 0 {
		return found, false, err
	}
	// Tags that nobody has set here.
	found, err = s.store.ChangeExperiment(ctx, e.Workspace, found.ID, func(old *Experiment) error {
		tags := maps.Clone(e.Tags)
		if tags == nil {
			tags = map[string]string{}
		}
		maps.Copy(tags, old.Tags)
		old.Tags = tags
		return nil
	})
	return found, false, err
}

// ImportRun begins the copy of a run: it is made with its id, times, params,
// tags, inputs and outputs. mark tells what the source has; a run that was
// copied with the same mark is left alone. The run comes back as it is here.
func (s *Service) ImportRun(ctx context.Context, r Record, mark string) (Run, ImportState, error) {
	r.Job, r.Deleted, r.Hidden = false, 0, false
	if err := checkImported(&r); err != nil {
		return r.Run, "", err
	}
	experiment, err := s.resolve(ctx, r.Workspace, r.Experiment)
	if err != nil {
		return r.Run, "", err
	}
	r.Experiment = experiment
	tags := r.Tags
	r.Tags = map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		r.setTag(Tag{k, tags[k]})
	}
	if r.Name == "" {
		r.Name = randomName()
	}
	state := ImportOpen
	old, err := s.store.Run(ctx, r.Workspace, r.ID)
	switch {
	case fault.Is(err, fault.Missing):
		n := r.Run
		n.Created, n.Properties = n.Start, map[string]string{importMark: importOpen}
		if n.Created == 0 {
			n.Created = s.millis()
		}
		if old, err = s.store.CreateRun(ctx, n); err != nil {
			return old, "", err
		}
		state = ImportNew
	case err != nil:
		return old, "", err
	case old.Properties[importMark] == "":
		return old, ImportTaken, nil
	case old.Properties[importMark] == mark:
		return old, ImportDone, nil
	case old.Deleted != 0:
		return old, "", RunDeleted(old.ID)
	}
	err = s.store.Log(ctx, r.Workspace, r.ID, nil, func(to *Record) error {
		for k, v := range r.Params {
			to.setParam(Tag{k, v})
		}
		for k, v := range r.Tags {
			to.setTag(Tag{k, v})
		}
		to.Name, to.Description, to.Parent = r.Name, r.Description, r.Parent
		to.Datasets = append(to.Datasets, r.Datasets...)
		for _, m := range r.ModelInputs {
			if !contains(to.ModelInputs, m) {
				to.ModelInputs = append(to.ModelInputs, m)
			}
		}
		for _, m := range r.ModelOutputs {
			if !slices.ContainsFunc(to.ModelOutputs, func(o ModelOutput) bool { return o.Model == m.Model }) {
				to.ModelOutputs = append(to.ModelOutputs, m)
			}
		}
		return nil
	})
	return old, state, err
}

// checkImported refuses what a run could not have been given here.
func checkImported(r *Record) error {
	if r.ID == "" || len(r.ID) > 256 {
		return invalid("Invalid value %s for parameter 'run_id' supplied.", quote(r.ID))
	}
	if err := checkRunID(r.ID); err != nil {
		return err
	}
	if strings.ContainsFunc(r.ID, func(c rune) bool { return c > unicode.MaxASCII }) {
		return invalid("Invalid value %s for parameter 'run_id' supplied.", quote(r.ID))
	}
	if r.Artifact != "" {
		if err := CheckLocation(r.Artifact, "artifact_uri"); err != nil {
			return err
		}
		if strings.HasPrefix(r.Artifact, "mlflow-artifacts:") {
			return invalid("'artifact_uri' %q: artefacts that this server keeps have a place of its own choice. Leave the field out.", r.Artifact)
		}
	}
	for k, v := range r.Params {
		p := Tag{k, v}
		if err := checkParam(&p, ""); err != nil {
			return err
		}
		r.Params[k] = p.Value
	}
	for k, v := range r.Tags {
		t := Tag{k, v}
		if err := checkTag(&t, ""); err != nil {
			return err
		}
		r.Tags[k] = t.Value
	}
	return checkDatasets(r.Datasets)
}

// FinishImport ends the copy of a run: its state and end are set, it is deleted
// if the source has it so (deleted is then when, in Unix ms), and mark is kept.
func (s *Service) FinishImport(ctx context.Context, workspace, id string, status Status, end, deleted int64, mark string) error {
	if mark == "" || mark == importOpen || len(mark) > 200 {
		return invalid("Invalid value %s for parameter 'mark' supplied.", quote(mark))
	}
	_, err := s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		if r.Properties[importMark] == "" {
			return fault.Conflicts("The run %s was not imported: it is changed by those who made it.", id).With("RESOURCE_CONFLICT")
		}
		r.Status, r.End, r.Deleted = status, end, deleted
		r.Properties = maps.Clone(r.Properties)
		r.Properties[importMark] = mark
		return nil
	})
	return err
}

// ImportModel makes a logged model with its id and times, if it is not there;
// made tells. Its artefacts get a place here unless it names one elsewhere; its
// metrics come with the runs that measured them.
func (s *Service) ImportModel(ctx context.Context, m LoggedModel) (found LoggedModel, made bool, err error) {
	e, err := s.Experiment(ctx, m.Workspace, m.Experiment)
	if err != nil {
		return m, false, err
	}
	if hex, ok := strings.CutPrefix(m.ID, "m-"); !ok || hex == "" || len(m.ID) > 64 || checkRunID(hex) != nil || strings.ContainsAny(m.ID, "_") {
		return m, false, invalid("Invalid value %s for parameter 'model_id' supplied.", quote(m.ID))
	}
	if m.Name == "" {
		return m, false, invalid("Missing value for required parameter 'name'.")
	}
	if err := checkModelParams(m.Params); err != nil {
		return m, false, err
	}
	found, err = s.store.Model(ctx, m.Workspace, m.ID)
	if err == nil || !fault.Is(err, fault.Missing) {
		return found, false, err
	}
	m.Experiment = e.ID
	if m.Artifact != "" {
		if err := CheckLocation(m.Artifact, "artifact_uri"); err != nil {
			return m, false, err
		}
		if strings.HasPrefix(m.Artifact, "mlflow-artifacts:") {
			return m, false, invalid("'artifact_uri' %q: artefacts that this server keeps have a place of its own choice. Leave the field out.", m.Artifact)
		}
	} else {
		m.Artifact = strings.TrimSuffix(e.Artifact, "/") + "/models/" + m.ID + "/artifacts"
	}
	switch m.Status {
	case ModelPending, ModelReady, ModelFailed:
	default:
		m.Status = ModelPending
	}
	return m, true, s.store.CreateModel(ctx, m)
}
