package tracking

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// States of a logged model.
const (
	ModelPending = "LOGGED_MODEL_PENDING"
	ModelReady   = "LOGGED_MODEL_READY"
	ModelFailed  = "LOGGED_MODEL_UPLOAD_FAILED"
)

// CreateModel makes a logged model. It has Experiment, Name, Type, SourceRun,
// Tags and Params; the rest is set here.
func (s *Service) CreateModel(ctx context.Context, m LoggedModel) (LoggedModel, error) {
	e, err := s.Experiment(ctx, m.Workspace, m.Experiment)
	if err != nil {
		return m, err
	}
	if e.Deleted != 0 {
		return m, ExperimentDeleted(m.Experiment)
	}
	if strings.ContainsAny(m.Name, `/:.%"'`) {
		return m, invalid("Invalid model name ('%s') provided. Model name must be a non-empty string and cannot contain the following characters: ('/', ':', '.', '%%', '\"', \"'\")", m.Name)
	}
	if m.Name == "" {
		m.Name = randomName()
	}
	if err := checkModelParams(m.Params); err != nil {
		return m, err
	}
	m.Experiment = e.ID
	m.ID = "m-" + newID()
	m.Status = ModelPending
	m.Created = s.millis()
	m.Updated = m.Created
	m.Artifact = strings.TrimSuffix(e.Artifact, "/") + "/models/" + m.ID + "/artifacts"
	return m, s.store.CreateModel(ctx, m)
}

func checkModelParams(params map[string]string) error {
	for k, v := range params {
		p := Tag{k, v}
		if err := checkParam(&p, ""); err != nil {
			return err
		}
		params[k] = p.Value
	}
	return nil
}

// Model finds a logged model; a deleted one only if the caller asks for it.
func (s *Service) Model(ctx context.Context, workspace, id string, deleted bool) (LoggedModel, error) {
	m, err := s.store.Model(ctx, workspace, id)
	if err == nil && m.Deleted != 0 && !deleted {
		return m, modelMissing(id)
	}
	return m, err
}

func modelMissing(id string) error { return missing("Logged model with ID '%s' not found.", id) }

// ChangeModel alters a logged model that is not deleted and dates it.
func (s *Service) ChangeModel(ctx context.Context, workspace, id string, change func(m *LoggedModel) error) (LoggedModel, error) {
	return s.store.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		if m.Deleted != 0 {
			return modelMissing(id)
		}
		return change(m)
	})
}

// FinishModel says how the upload of a logged model ended.
func (s *Service) FinishModel(ctx context.Context, workspace, id, status string) (LoggedModel, error) {
	if status != ModelReady && status != ModelFailed {
		return LoggedModel{}, invalid("Invalid model status: %s. Expected status to be one of [LOGGED_MODEL_READY, LOGGED_MODEL_UPLOAD_FAILED]", status)
	}
	return s.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		m.Status, m.Updated = status, s.millis()
		return nil
	})
}

// SetModelTags sets tags of a logged model, also of a deleted one.
func (s *Service) SetModelTags(ctx context.Context, workspace, id string, tags []Tag) (LoggedModel, error) {
	return s.store.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		if m.Tags == nil {
			m.Tags = map[string]string{}
		}
		for _, t := range tags {
			if err := checkTag(&t, ""); err != nil {
				return err
			}
			m.Tags[t.Key] = t.Value
		}
		return nil
	})
}

// DeleteModelTag removes a tag of a logged model, also of a deleted one.
func (s *Service) DeleteModelTag(ctx context.Context, workspace, id, key string) error {
	_, err := s.store.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		if _, ok := m.Tags[key]; !ok {
			return missing("No tag with key '%s' found for model with ID '%s'.", key, id)
		}
		delete(m.Tags, key)
		return nil
	})
	return err
}

// AddModelParams adds params to a logged model, also to a deleted one; those that are there cannot be
// set again.
func (s *Service) AddModelParams(ctx context.Context, workspace, id string, params []Tag) error {
	_, err := s.store.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		if m.Params == nil {
			m.Params = map[string]string{}
		}
		for _, p := range params {
			if err := checkParam(&p, ""); err != nil {
				return err
			}
			if old, ok := m.Params[p.Key]; ok {
				return invalid("Param '%s' of logged model '%s' is '%s' already and cannot be changed.", p.Key, id, old).With("BAD_REQUEST")
			}
			m.Params[p.Key] = p.Value
		}
		return nil
	})
	return err
}

// DeleteModel deletes a logged model; one that is deleted stays so.
func (s *Service) DeleteModel(ctx context.Context, workspace, id string) error {
	_, err := s.store.ChangeModel(ctx, workspace, id, func(m *LoggedModel) error {
		if m.Deleted == 0 {
			m.Deleted = s.millis()
		}
		return nil
	})
	return err
}

// ModelOrder is one key to sort logged models by; a metric may be that of one
// dataset.
type ModelOrder struct {
	Field         string
	Desc          bool
	DatasetName   string
	DatasetDigest string
}

// ModelSearch is one page of a search of logged models.
type ModelSearch struct {
	Experiments []string
	Filter      string
	Datasets    []Dataset // metrics count only if of one of these; no digest = any
	Order       []ModelOrder
	Limit       int
	Page        string
}

// SearchModels finds logged models that are not deleted.
func (s *Service) SearchModels(ctx context.Context, workspace string, q ModelSearch) ([]LoggedModel, string, error) {
	t, err := q.token()
	if err != nil {
		return nil, "", err
	}
	clauses, err := ModelGrammar.Parse(q.Filter)
	if err != nil {
		return nil, "", err
	}
	orders := make([]Order, len(q.Order))
	for i, o := range q.Order {
		if first, _, dotted := cutName(o.Field); dotted && first != "metrics" {
			return nil, "", invalid("Invalid order by field name: %s. Only metrics are supported.", o.Field)
		}
		of, key, err := ModelGrammar.name(o.Field)
		if err != nil {
			return nil, "", invalid("Invalid order by field name: %s", o.Field)
		}
		orders[i] = Order{of: of, Key: key, Desc: o.Desc}
	}
	experiments := make([]string, 0, len(q.Experiments))
	for _, id := range q.Experiments {
		if id, err = s.resolve(ctx, workspace, id); err != nil {
			return nil, "", err
		}
		experiments = append(experiments, id)
	}
	if len(experiments) == 0 {
		return nil, "", nil // no experiments have no models
	}
	all, err := s.store.Models(ctx, workspace, experiments)
	if err != nil {
		return nil, "", err
	}
	var found []LoggedModel
	for _, m := range all {
		if m.Deleted == 0 && m.passes(clauses, q.Datasets) {
			found = append(found, m)
		}
	}
	slices.SortStableFunc(found, func(a, b LoggedModel) int {
		for i, o := range orders {
			var of []Dataset
			if q.Order[i].DatasetName != "" {
				of = []Dataset{{Name: q.Order[i].DatasetName, Digest: q.Order[i].DatasetDigest}}
			}
			if c := o.compare(a.value(o, of), b.value(o, of)); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(b.Created, a.Created), strings.Compare(a.ID, b.ID))
	})
	page, next := paged(found, t.offsetToken, q.Limit, func(m LoggedModel) string { return m.ID })
	if next != "" {
		t.offsetToken, _ = parseToken(next)
		next = t.String()
	}
	return page, next, nil
}

// modelToken is a page token that holds for the search it was given out for.
type modelToken struct {
	offsetToken
	Experiments []string     `json:"experiment_ids"`
	Filter      string       `json:"filter_string"`
	Order       []ModelOrder `json:"order_by"`
}

func (t modelToken) String() string {
	b, _ := json.Marshal(t)
	return base64.StdEncoding.EncodeToString(b)
}

// token reads the search's page token, and refuses another search's.
func (q *ModelSearch) token() (modelToken, error) {
	t := modelToken{Experiments: q.Experiments, Filter: q.Filter, Order: q.Order}
	if q.Page == "" {
		return t, nil
	}
	var said modelToken
	b, err := base64.StdEncoding.DecodeString(q.Page)
	if err == nil {
		err = json.Unmarshal(b, &said)
	}
	switch {
	case err != nil:
		return t, invalid("Invalid page token: %s. %v", q.Page, err)
	case !slices.Equal(said.Experiments, q.Experiments):
		return t, invalid("Experiment IDs in the page token do not match the requested experiment IDs. Expected: %s. Found: %s", listed(q.Experiments), listed(said.Experiments))
	case said.Filter != q.Filter:
		return t, invalid("Filter string in the page token does not match the requested filter string. Expected: %s. Found: %s", cmp.Or(q.Filter, "None"), cmp.Or(said.Filter, "None"))
	case !slices.Equal(said.Order, q.Order):
		return t, invalid("Order by in the page token does not match the requested order by.")
	case said.Offset < 0:
		return t, invalid("Invalid page token: %s. Its offset is negative.", q.Page)
	}
	t.offsetToken = said.offsetToken
	return t, nil
}

// listed is a list of ids as messages have it.
func listed(ids []string) string {
	if ids == nil {
		return "None"
	}
	return "['" + strings.Join(ids, "', '") + "']"
}

// Kept is the value as MLflow keeps it for models, where what is no number is 0.
func (v *ModelMetric) Kept() float64 {
	if math.IsNaN(float64(v.Value)) {
		return 0
	}
	return float64(v.Value)
}

// of tells whether the value was measured with one of the datasets, if any are
// named.
func (v *ModelMetric) of(datasets []Dataset) bool {
	return len(datasets) == 0 || slices.ContainsFunc(datasets, func(d Dataset) bool {
		return d.Name == v.DatasetName && (d.Digest == "" || d.Digest == v.DatasetDigest)
	})
}

// latest returns the value of a metric that was measured last, of one of the
// datasets if any are named.
func (m *LoggedModel) latest(key string, of []Dataset) (Number, bool) {
	var last *ModelMetric
	for i := range m.Metrics {
		v := &m.Metrics[i]
		if v.Key == key && v.of(of) && (last == nil || cmp.Or(cmp.Compare(v.Time, last.Time), cmp.Compare(v.Step, last.Step), strings.Compare(last.Run, v.Run)) > 0) {
			last = v
		}
	}
	if last == nil {
		return 0, false
	}
	return last.Value, true
}

// passes tells whether the model has all that the clauses ask for: a metric
// passes with any value that it ever had. Where datasets are named and no
// metric is, any value measured with one of them will do.
func (m *LoggedModel) passes(clauses []Clause, of []Dataset) bool {
	metrics := false
	for i := range clauses {
		c := &clauses[i]
		ok := false
		switch c.of {
		case metric:
			metrics = true
			ok = slices.ContainsFunc(m.Metrics, func(v ModelMetric) bool {
				return v.Key == c.Key && v.of(of) && c.MatchesNumber(v.Kept())
			})
		case param:
			v, there := m.Params[c.Key]
			ok = c.matchesKey(v, there)
		case tag:
			v, there := m.Tags[c.Key]
			ok = c.matchesKey(v, there)
		default:
			switch c.Key {
			case "creation_timestamp":
				ok = c.MatchesNumber(float64(m.Created))
			case "last_updated_timestamp":
				ok = c.MatchesNumber(float64(m.Updated))
			default:
				ok = c.Matches(m.attribute(c.Key))
			}
		}
		if !ok {
			return false
		}
	}
	if len(of) > 0 && !metrics {
		return slices.ContainsFunc(m.Metrics, func(v ModelMetric) bool { return v.of(of) })
	}
	return true
}

func (m *LoggedModel) attribute(key string) string {
	switch key {
	case "name":
		return m.Name
	case "model_id":
		return m.ID
	case "model_type":
		return m.Type
	case "status":
		return strings.TrimPrefix(m.Status, "LOGGED_MODEL_")
	case "source_run_id":
		return m.SourceRun
	case "experiment_id":
		return m.Experiment
	}
	return ""
}

func (m *LoggedModel) value(o Order, of []Dataset) sortValue {
	switch o.of {
	case metric:
		v, ok := m.latest(o.Key, of)
		if !ok {
			return sortValue{rank: 2}
		}
		return numberValue(float64(v))
	case param:
		v, ok := m.Params[o.Key]
		return textValue(v, ok)
	case tag:
		v, ok := m.Tags[o.Key]
		return textValue(v, ok)
	}
	switch o.Key {
	case "creation_timestamp":
		return numberValue(float64(m.Created))
	case "last_updated_timestamp":
		return numberValue(float64(m.Updated))
	}
	return textValue(m.attribute(o.Key), true)
}
