package tracking

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Experiment groups runs. Its name is unique in the workspace, also among the
// deleted.
type Experiment struct {
	Workspace string // GUID
	ID        string // decimal integer, unique over the server
	Name      string
	Artifact  string // where artefacts of its runs go, as MLflow shows it
	Root      string // of a new one without Artifact: what that begins with; its id follows. "" is "mlflow-artifacts:"
	Tags      map[string]string
	Created   int64 // Unix ms
	Updated   int64 // Unix ms
	Deleted   int64 // Unix ms; 0 = active
}

// Lifecycle is "active" or "deleted".
func (e *Experiment) Lifecycle() string { return lifecycle(e.Deleted) }

// Lifecycle is "active" or "deleted".
func (r *Run) Lifecycle() string { return lifecycle(r.Deleted) }

func lifecycle(deleted int64) string {
	if deleted != 0 {
		return "deleted"
	}
	return "active"
}

// DefaultName is the name of the experiment that runs go to when none is named.
const DefaultName = "Default"

// resolve gives the id of an experiment that a client names: "0" is the
// workspace's default one.
func (s *Service) resolve(ctx context.Context, workspace, id string) (string, error) {
	if id == "0" {
		return s.defaultExperiment(ctx, workspace)
	}
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return "", badExperimentID(id)
	}
	return id, nil
}

func badExperimentID(id string) error {
	return invalid("Invalid experiment ID '%s'. Experiment ID must be a valid integer.", id)
}

func (s *Service) defaultExperiment(ctx context.Context, workspace string) (string, error) {
	s.mu.Lock()
	id, ok := s.defaults[workspace]
	s.mu.Unlock()
	if ok {
		return id, nil
	}
	id, err := s.store.DefaultExperiment(ctx, workspace)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.defaults[workspace] = id
	s.mu.Unlock()
	return id, nil
}

// CreateExperiment makes an experiment.
func (s *Service) CreateExperiment(ctx context.Context, workspace, name, artifact string, tags []Tag) (Experiment, error) {
	if _, err := s.defaultExperiment(ctx, workspace); err != nil {
		return Experiment{}, err
	}
	if err := checkExperimentName(name, "name"); err != nil {
		return Experiment{}, err
	}
	if artifact != "" {
		if err := CheckLocation(artifact, "artifact_location"); err != nil {
			return Experiment{}, err
		}
	}
	e := Experiment{Workspace: workspace, Name: name, Artifact: artifact, Tags: map[string]string{}, Created: s.millis()}
	if s.Root != nil {
		var err error
		if e.Root, err = s.Root(ctx, workspace); err != nil {
			return Experiment{}, err
		}
	}
	for _, t := range tags {
		if err := checkExperimentTag(t); err != nil {
			return Experiment{}, err
		}
		e.Tags[t.Key] = t.Value
	}
	return s.store.CreateExperiment(ctx, e)
}

func checkExperimentName(name, what string) error {
	if name == "" {
		return invalid("Invalid experiment name: ''")
	}
	if longer(name, maxExperimentName) {
		return tooLong(what, maxExperimentName)
	}
	return nil
}

// hostSchemes are those whose address names a host: a client could be sent
// anywhere.
var hostSchemes = []string{"ftp", "sftp", "hdfs", "viewfs", "http", "https", "r2", "b2", "abfss"}

// CheckLocation refuses a place for artefacts that cannot be one. field is
// what the error names.
func CheckLocation(location, field string) error {
	u, err := url.Parse(location)
	if err != nil {
		return invalid("'%s' %q is not a valid URI", field, location)
	}
	scheme := strings.ToLower(u.Scheme)
	if u.Fragment != "" || strings.Contains(u.Path, ";") && u.Host != "" {
		return invalid("'%s' URL can't include fragments or params.", field)
	}
	if q, _ := url.QueryUnescape(u.RawQuery); strings.Contains(q, "..") {
		return invalid("Invalid query string")
	}
	if scheme == "runs" {
		return invalid("Artifact location cannot be a runs:/ URI. Given: '%s'", location)
	}
	if contains(hostSchemes, scheme) || scheme == "mlflow-artifacts" && u.Host != "" {
		return invalid("'%s' cannot use the '%s' scheme: it names a host. Use a place that this server keeps.", field, scheme)
	}
	for _, part := range strings.FieldsFunc(u.Path, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == ".." {
			return invalid("'%s' %q must not hold '..'", field, location)
		}
	}
	return nil
}

// Experiment finds an experiment by id.
func (s *Service) Experiment(ctx context.Context, workspace, id string) (Experiment, error) {
	id, err := s.resolve(ctx, workspace, id)
	if err != nil {
		return Experiment{}, err
	}
	return s.store.Experiment(ctx, workspace, id)
}

// ExperimentNamed finds an experiment by name, a deleted one too.
func (s *Service) ExperimentNamed(ctx context.Context, workspace, name string) (Experiment, error) {
	if name == DefaultName {
		if _, err := s.defaultExperiment(ctx, workspace); err != nil {
			return Experiment{}, err
		}
	}
	return s.store.ExperimentNamed(ctx, workspace, name)
}

// changeExperiment alters an experiment. Its tags change without a new date.
func (s *Service) changeExperiment(ctx context.Context, workspace, id string, change func(*Experiment) error) error {
	id, err := s.resolve(ctx, workspace, id)
	if err != nil {
		return err
	}
	_, err = s.store.ChangeExperiment(ctx, workspace, id, func(e *Experiment) error {
		return change(e)
	})
	return err
}

// DeleteExperiment deletes an active experiment and its active runs.
func (s *Service) DeleteExperiment(ctx context.Context, workspace, id string) error {
	return s.changeExperiment(ctx, workspace, id, func(e *Experiment) error {
		if e.Deleted != 0 {
			return missing("No Experiment with id=%s exists", id)
		}
		e.Updated = s.millis()
		e.Deleted = e.Updated
		return nil
	})
}

// RestoreExperiment brings a deleted experiment back, with the runs that were
// deleted with it.
func (s *Service) RestoreExperiment(ctx context.Context, workspace, id string) error {
	return s.changeExperiment(ctx, workspace, id, func(e *Experiment) error {
		if e.Deleted == 0 {
			return missing("No Experiment with id=%s exists", id)
		}
		e.Deleted, e.Updated = 0, s.millis()
		return nil
	})
}

// RenameExperiment gives an active experiment another name.
func (s *Service) RenameExperiment(ctx context.Context, workspace, id, name string) error {
	if err := checkExperimentName(name, "name"); err != nil {
		return err
	}
	return s.changeExperiment(ctx, workspace, id, func(e *Experiment) error {
		if e.Deleted != 0 {
			return invalid("Cannot rename a non-active experiment.")
		}
		e.Name, e.Updated = name, s.millis()
		return nil
	})
}

// SetExperimentTag sets a tag of an active experiment.
func (s *Service) SetExperimentTag(ctx context.Context, workspace, id string, t Tag) error {
	if err := checkExperimentTag(t); err != nil {
		return err
	}
	return s.changeExperiment(ctx, workspace, id, func(e *Experiment) error {
		if e.Deleted != 0 {
			return ExperimentDeleted(id)
		}
		e.Tags[t.Key] = t.Value
		return nil
	})
}

// DeleteExperimentTag removes a tag of an active experiment.
func (s *Service) DeleteExperimentTag(ctx context.Context, workspace, id, key string) error {
	return s.changeExperiment(ctx, workspace, id, func(e *Experiment) error {
		if e.Deleted != 0 {
			return ExperimentDeleted(id)
		}
		if _, ok := e.Tags[key]; !ok {
			return missing("No tag with name: %s in experiment with id %s", key, id)
		}
		delete(e.Tags, key)
		return nil
	})
}

// ExperimentDeleted is the fault of a write to a deleted experiment.
func ExperimentDeleted(id string) error {
	return invalid("The experiment %s must be in the 'active' state. Current state is deleted.", id)
}

// ExperimentSearch is one page of a search of experiments.
type ExperimentSearch struct {
	Filter string
	View   View
	Order  []string
	Limit  int
	Page   string
}

// SearchExperiments finds experiments.
func (s *Service) SearchExperiments(ctx context.Context, workspace string, q ExperimentSearch) (found []Experiment, next string, err error) {
	clauses, err := ExperimentGrammar.Parse(q.Filter)
	if err != nil {
		return nil, "", err
	}
	for _, c := range clauses {
		if key, ok := c.Attribute(); !ok || key != "experiment_id" {
			continue
		}
		for _, id := range append([]string{c.Text}, c.Values...) {
			if _, err := strconv.ParseInt(id, 10, 64); err != nil && id != "" {
				return nil, "", badExperimentID(id)
			}
		}
	}
	order, err := ExperimentGrammar.orders(q.Order)
	if err != nil {
		return nil, "", err
	}
	t, err := parseToken(q.Page)
	if err != nil {
		return nil, "", err
	}
	if _, err := s.defaultExperiment(ctx, workspace); err != nil {
		return nil, "", err
	}
	all, err := s.store.Experiments(ctx, workspace)
	if err != nil {
		return nil, "", err
	}
	for _, e := range all {
		if q.View.shows(e.Deleted) && e.passes(clauses) {
			found = append(found, e)
		}
	}
	slices.SortStableFunc(found, func(a, b Experiment) int {
		for _, o := range order {
			if c := o.compare(a.value(o), b.value(o)); c != 0 {
				return c
			}
		}
		if len(order) == 0 {
			if c := cmp.Compare(b.Created, a.Created); c != 0 {
				return c
			}
		}
		return compareIDs(a.ID, b.ID)
	})
	page, next := paged(found, t, q.Limit, func(e Experiment) string { return e.ID })
	return page, next, nil
}

func compareIDs(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func (e *Experiment) passes(clauses []Clause) bool {
	for i := range clauses {
		c := &clauses[i]
		ok := false
		switch {
		case c.of == tag:
			v, there := e.Tags[c.Key]
			ok = c.matchesKey(v, there)
		case c.Key == "name":
			ok = c.Matches(e.Name)
		case c.Key == "experiment_id":
			ok = c.Matches(e.ID)
		case c.Key == "creation_time":
			ok = c.MatchesNumber(float64(e.Created))
		case c.Key == "last_update_time":
			ok = c.MatchesNumber(float64(e.Updated))
		}
		if !ok {
			return false
		}
	}
	return true
}

func (e *Experiment) value(o Order) sortValue {
	switch {
	case o.of == tag:
		v, ok := e.Tags[o.Key]
		return textValue(v, ok)
	case o.Key == "name":
		return textValue(e.Name, true)
	case o.Key == "creation_time":
		return numberValue(float64(e.Created))
	case o.Key == "last_update_time":
		return numberValue(float64(e.Updated))
	}
	n, _ := strconv.ParseInt(e.ID, 10, 64)
	return numberValue(float64(n))
}
