// Package evaluation keeps what applications are evaluated with: datasets of
// records, and the scorers that judge answers to them.
package evaluation

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/tracking"
)

// Dataset is a set of records.
type Dataset struct {
	Workspace   string            `json:"-"`
	ID          string            `json:"id"` // "d-" and 32 hex digits
	Name        string            `json:"name"`
	Tags        map[string]string `json:"tags,omitempty"`
	Schema      string            `json:"schema,omitempty"`  // JSON: the type of each member
	Profile     string            `json:"profile,omitempty"` // JSON
	Digest      string            `json:"digest"`
	Created     int64             `json:"created"` // Unix ms
	Updated     int64             `json:"updated"` // Unix ms
	CreatedBy   string            `json:"createdBy,omitempty"`
	UpdatedBy   string            `json:"updatedBy,omitempty"`
	Experiments []string          `json:"experiments,omitempty"` // as they were named; some may be gone
}

// Record is one input with what is expected for it. Its JSON is the form that
// clients read.
type Record struct {
	ID           string                     `json:"dataset_record_id"`
	Dataset      string                     `json:"dataset_id"`
	Inputs       json.RawMessage            `json:"inputs"`
	Outputs      json.RawMessage            `json:"outputs,omitempty"`
	Expectations map[string]json.RawMessage `json:"expectations,omitempty"`
	Tags         map[string]string          `json:"tags"`
	Source       json.RawMessage            `json:"source,omitempty"`
	SourceID     string                     `json:"source_id,omitempty"`
	SourceType   string                     `json:"source_type,omitempty"`
	Created      int64                      `json:"created_time"`
	Updated      int64                      `json:"last_update_time"`
	CreatedBy    string                     `json:"created_by,omitempty"`
	UpdatedBy    string                     `json:"last_updated_by,omitempty"`
}

// Scorer is one version of a scorer.
type Scorer struct {
	Experiment string
	Name       string
	Version    int64
	ID         string // the same for all versions
	Created    int64  // Unix ms
	Body       string // JSON
}

// Store keeps datasets and scorers. What a writing method has acknowledged
// survives a crash.
type Store interface {
	// Dataset returns the dataset, or fault.Missing.
	Dataset(ctx context.Context, workspace, id string) (Dataset, error)

	// Datasets returns all of the workspace, newest first.
	Datasets(ctx context.Context, workspace string) ([]Dataset, error)

	// CreateDataset stores a new dataset.
	CreateDataset(ctx context.Context, d Dataset) error

	// ChangeDataset reads the dataset, lets change alter it and stores it, in
	// one transaction, together with what change does to records by the hash of
	// their inputs: old is nil for a new one.
	ChangeDataset(ctx context.Context, workspace, id string, hashes []string, change func(d *Dataset, old map[string]*Record) ([]Hashed, error)) (Dataset, error)

	// DeleteDataset removes a dataset with its records; one that is not there is no error.
	DeleteDataset(ctx context.Context, workspace, id string) error

	// Records returns up to limit records, oldest first, after the place that
	// the page before ended at, and that of this page; 0 on the last page.
	Records(ctx context.Context, workspace, id string, after int64, limit int) ([]Record, int64, error)

	// DeleteRecords removes those of the records that exist, and says how many.
	DeleteRecords(ctx context.Context, workspace, id string, records []string) (int, error)

	// AddScorer stores the next version of a scorer and returns it.
	AddScorer(ctx context.Context, workspace string, s Scorer) (Scorer, error)

	// Scorers returns all versions of all scorers of the experiments, or of the
	// workspace for none, by experiment, name and version.
	Scorers(ctx context.Context, workspace string, experiments []string) ([]Scorer, error)

	// DeleteScorer removes a version, or all for 0, and says how many.
	DeleteScorer(ctx context.Context, workspace, experiment, name string, version int64) (int, error)
}

// Hashed is a record with the hash of its inputs.
type Hashed struct {
	Hash string
	Record
}

// Service has the rules, in MLflow's words.
type Service struct {
	store Store
	runs  *tracking.Service
	now   func() time.Time
}

// New returns the service over a store. Experiments are those of runs.
func New(store Store, runs *tracking.Service) *Service { return &Service{store, runs, time.Now} }

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

func newID(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// newGUID is the id of a scorer.
func newGUID() string {
	s := newID("")
	return s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-a" + s[17:20] + "-" + s[20:]
}

func digest(name string, at int64) string {
	sum := sha256.Sum256([]byte(name + ":" + strconv.FormatInt(at, 10)))
	return hex.EncodeToString(sum[:4])
}

// active finds an experiment and refuses a deleted one.
func (s *Service) active(ctx context.Context, workspace, id string) (tracking.Experiment, error) {
	e, err := s.runs.Experiment(ctx, workspace, id)
	if err == nil && e.Deleted > 0 {
		err = tracking.ExperimentDeleted(id)
	}
	return e, err
}

// CreateDataset makes an empty dataset. Who made it is what the tag
// mlflow.user says. Experiments are not looked up.
func (s *Service) CreateDataset(ctx context.Context, workspace, name string, experiments []string, tags map[string]string) (Dataset, error) {
	at := s.now().UnixMilli()
	d := Dataset{Workspace: workspace, ID: newID("d-"), Name: name, Tags: tags, Created: at, Updated: at,
		Digest: digest(name, at), Experiments: experiments, CreatedBy: tags["mlflow.user"], UpdatedBy: tags["mlflow.user"]}
	return d, s.store.CreateDataset(ctx, d)
}

// ExperimentsOf returns a dataset's experiments; one that is not there has none.
func (s *Service) ExperimentsOf(ctx context.Context, workspace, id string) ([]string, error) {
	d, err := s.store.Dataset(ctx, workspace, id)
	if fault.Is(err, fault.Missing) {
		err = nil
	}
	return d.Experiments, err
}

// Dataset finds a dataset.
func (s *Service) Dataset(ctx context.Context, workspace, id string) (Dataset, error) {
	return s.store.Dataset(ctx, workspace, id)
}

// DeleteDataset removes a dataset; one that is not there is no error.
func (s *Service) DeleteDataset(ctx context.Context, workspace, id string) error {
	return s.store.DeleteDataset(ctx, workspace, id)
}

// SetTags sets tags of a dataset; a nil value removes one. When a dataset is
// gone, so are its tags: removing some is no error.
func (s *Service) SetTags(ctx context.Context, workspace, id string, tags map[string]*string) error {
	_, err := s.store.ChangeDataset(ctx, workspace, id, nil, func(d *Dataset, _ map[string]*Record) ([]Hashed, error) {
		if d.Tags == nil {
			d.Tags = map[string]string{}
		}
		for k, v := range tags {
			if v == nil {
				delete(d.Tags, k)
				continue
			}
			if err := tracking.CheckTagKey(k); err != nil {
				return nil, err
			}
			d.Tags[k] = *v
		}
		return nil, nil
	})
	if fault.Is(err, fault.Missing) {
		for _, v := range tags {
			if v != nil {
				return fault.NotFound("Could not find evaluation dataset with ID %s", id).With("RESOURCE_DOES_NOT_EXIST")
			}
		}
		return nil
	}
	return err
}

// Move adds experiments to a dataset, or takes them away.
func (s *Service) Move(ctx context.Context, workspace, id string, experiments []string, add bool) (Dataset, error) {
	_, err := s.store.Dataset(ctx, workspace, id)
	if fault.Is(err, fault.Missing) {
		return Dataset{}, fault.NotFound("Dataset '%s' not found", id).With("RESOURCE_DOES_NOT_EXIST")
	}
	if err != nil {
		return Dataset{}, err
	}
	if add {
		for _, e := range experiments {
			if _, err := s.runs.Experiment(ctx, workspace, e); fault.Is(err, fault.Missing) {
				return Dataset{}, fault.NotFound("No Experiment with id=%s", e).With("RESOURCE_DOES_NOT_EXIST")
			} else if err != nil {
				return Dataset{}, err
			}
		}
	}
	return s.store.ChangeDataset(ctx, workspace, id, nil, func(d *Dataset, _ map[string]*Record) ([]Hashed, error) {
		changed := add
		for _, e := range experiments {
			at := slices.Index(d.Experiments, e)
			switch {
			case add && at < 0:
				d.Experiments = append(d.Experiments, e)
			case !add && at >= 0:
				d.Experiments, changed = slices.Delete(d.Experiments, at, at+1), true
			}
		}
		if changed {
			d.Updated = s.now().UnixMilli()
		}
		return nil, nil
	})
}

// NewRecord is a record as a client sends it.
type NewRecord struct {
	Inputs       json.RawMessage            `json:"inputs"`
	Outputs      json.RawMessage            `json:"outputs"`
	Expectations map[string]json.RawMessage `json:"expectations"`
	Tags         map[string]string          `json:"tags"`
	Source       json.RawMessage            `json:"source"`
}

// maxRecords bounds the records of a request.
const maxRecords = 10_000

// Upsert adds records. One whose inputs are there already gets its
// expectations and tags added to, and its outputs replaced.
func (s *Service) Upsert(ctx context.Context, workspace, id string, records []NewRecord) (inserted, updated int, err error) {
	if len(records) > maxRecords {
		return 0, 0, invalid("A request can hold at most %d records. Got %d.", maxRecords, len(records))
	}
	hashes := make([]string, len(records))
	for i := range records {
		r := &records[i]
		if len(r.Inputs) == 0 || string(r.Inputs) == "null" {
			r.Inputs = json.RawMessage("{}")
		}
		var v any
		if err := json.Unmarshal(r.Inputs, &v); err != nil {
			return 0, 0, invalid("The inputs of record %d are no JSON.", i)
		}
		sorted, err := json.Marshal(v) // members by name
		if err != nil {
			return 0, 0, err
		}
		sum := sha256.Sum256(sorted)
		hashes[i] = hex.EncodeToString(sum[:])
	}
	_, err = s.store.ChangeDataset(ctx, workspace, id, hashes, func(d *Dataset, old map[string]*Record) ([]Hashed, error) {
		inserted, updated = 0, 0
		at := s.now().UnixMilli()
		current := maps.Clone(old)
		var order []string
		d.UpdatedBy = ""
		schema := parseSchema(d.Schema)
		for i, n := range records {
			r := current[hashes[i]]
			user := n.Tags["mlflow.user"]
			if r == nil {
				inserted++
				r = &Record{ID: newID("dr-"), Dataset: id, Inputs: n.Inputs, Created: at, CreatedBy: user, Outputs: json.RawMessage("{}"), Tags: map[string]string{}}
				if err := r.from(n.Source); err != nil {
					return nil, err
				}
			} else {
				updated++
			}
			r.merge(n, at, user)
			schema.add(n)
			if user != "" {
				d.UpdatedBy = user
			}
			if !slices.Contains(order, hashes[i]) {
				order = append(order, hashes[i])
			}
			current[hashes[i]] = r
		}
		var profile struct {
			Records int `json:"num_records"`
		}
		_ = json.Unmarshal([]byte(d.Profile), &profile)
		profile.Records += inserted
		if profile.Records > 0 {
			text, _ := json.Marshal(profile)
			d.Profile = string(text)
		}
		if len(records) > 0 {
			d.Schema = schema.String()
		}
		d.Updated, d.Digest = at, digest(d.Name, at)
		changed := make([]Hashed, len(order))
		for i, h := range order {
			changed[i] = Hashed{h, *current[h]}
		}
		return changed, nil
	})
	if len(records) == 0 && fault.Is(err, fault.Missing) {
		err = nil
	}
	return inserted, updated, err
}

// from says where a new record comes from.
func (r *Record) from(source json.RawMessage) error {
	if len(source) == 0 || string(source) == "null" || string(source) == "{}" {
		return nil
	}
	var s struct {
		Type string `json:"source_type"`
		Data struct {
			Trace  string `json:"trace_id"`
			Source string `json:"source_id"`
		} `json:"source_data"`
	}
	if err := json.Unmarshal(source, &s); err != nil {
		return invalid("Invalid source of a dataset record: %s", source)
	}
	types := []string{"UNSPECIFIED", "TRACE", "HUMAN", "DOCUMENT", "CODE"}
	r.Source, r.SourceType = source, strings.ToUpper(s.Type)
	if !slices.Contains(types, r.SourceType) {
		return invalid("Invalid dataset record source type: %s. Valid source types: ['%s']", r.SourceType, strings.Join(types, "', '"))
	}
	if r.SourceID = s.Data.Source; r.SourceType == "TRACE" {
		r.SourceID = s.Data.Trace
	}
	return nil
}

// merge adds what a client sends to what is there. Where a record comes from
// stays as it was.
func (r *Record) merge(n NewRecord, at int64, user string) {
	switch {
	case string(n.Outputs) == "null":
		r.Outputs = nil
	case len(n.Outputs) > 0:
		r.Outputs = n.Outputs
	}
	if len(n.Expectations) > 0 {
		if r.Expectations == nil {
			r.Expectations = map[string]json.RawMessage{}
		}
		maps.Copy(r.Expectations, n.Expectations)
	}
	if len(n.Tags) > 0 {
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
		maps.Copy(r.Tags, n.Tags)
	}
	r.Updated = at
	if user != "" {
		r.UpdatedBy = user
	}
}

// schema is the type of each member that records have had, the first it had.
// Outputs that are no object have one type: "outputs": "string".
type schema struct {
	Inputs       map[string]string `json:"inputs"`
	Outputs      any               `json:"outputs"`
	Expectations map[string]string `json:"expectations"`
	Version      string            `json:"version"`
}

func parseSchema(text string) *schema {
	s := &schema{Inputs: map[string]string{}, Expectations: map[string]string{}, Version: "1.0"}
	_ = json.Unmarshal([]byte(text), s)
	if s.Outputs == nil {
		s.Outputs = map[string]any{}
	}
	return s
}

func (s *schema) add(n NewRecord) {
	var members map[string]json.RawMessage
	if json.Unmarshal(n.Inputs, &members) == nil {
		for k, v := range members {
			if _, ok := s.Inputs[k]; !ok {
				s.Inputs[k] = kind(v)
			}
		}
	}
	for k, v := range n.Expectations {
		if _, ok := s.Expectations[k]; !ok {
			s.Expectations[k] = kind(v)
		}
	}
	if kind(n.Outputs) == "null" {
		return
	}
	known, ok := s.Outputs.(map[string]any)
	if !ok {
		return
	}
	members = nil
	if json.Unmarshal(n.Outputs, &members) != nil {
		if len(known) == 0 {
			s.Outputs = kind(n.Outputs)
		}
		return
	}
	for k, v := range members {
		if _, ok := known[k]; !ok {
			known[k] = kind(v)
		}
	}
}

// kind is the type of a JSON value, in MLflow's words.
func kind(raw json.RawMessage) string {
	switch {
	case len(raw) == 0 || raw[0] == 'n':
		return "null"
	case raw[0] == '"':
		return "string"
	case raw[0] == '{':
		return "object"
	case raw[0] == '[':
		return "array"
	case raw[0] == 't' || raw[0] == 'f':
		return "boolean"
	case strings.ContainsAny(string(raw), ".eE"):
		return "float"
	}
	return "integer"
}

func (s *schema) String() string {
	b, _ := json.Marshal(s)
	return string(b)
}

// Records returns a page of a dataset's records; page is the token of the page
// before.
func (s *Service) Records(ctx context.Context, workspace, id, page string, limit int) ([]Record, string, error) {
	after := int64(0)
	if page != "" {
		var err error
		if after, err = strconv.ParseInt(page, 10, 64); err != nil {
			return nil, "", invalid("Invalid page token: %s", page)
		}
	}
	records, next, err := s.store.Records(ctx, workspace, id, after, limit)
	if fault.Is(err, fault.Missing) {
		return nil, "", nil // a dataset that is not there has none
	}
	if err != nil || next == 0 {
		return records, "", err
	}
	return records, strconv.FormatInt(next, 10), nil
}

// DeleteRecords removes records of a dataset and says how many there were.
func (s *Service) DeleteRecords(ctx context.Context, workspace, id string, records []string) (int, error) {
	n, err := s.store.DeleteRecords(ctx, workspace, id, records)
	if fault.Is(err, fault.Missing) {
		return 0, nil
	}
	if err != nil || n == 0 {
		return n, err
	}
	_, err = s.store.ChangeDataset(ctx, workspace, id, nil, func(d *Dataset, _ map[string]*Record) ([]Hashed, error) {
		var profile struct {
			Records int `json:"num_records"`
		}
		_ = json.Unmarshal([]byte(d.Profile), &profile)
		if profile.Records -= n; profile.Records <= 0 {
			d.Profile = "null"
			return nil, nil
		}
		text, _ := json.Marshal(profile)
		d.Profile = string(text)
		return nil, nil
	})
	return n, err
}

// Search finds datasets, of any of the experiments if some are named.
func (s *Service) Search(ctx context.Context, workspace string, experiments []string, filter string, order []string, limit int, page string) ([]Dataset, string, error) {
	if _, _, err := tracking.Page[Dataset](nil, page, 1, nil); err != nil {
		return nil, "", err
	}
	clauses, err := tracking.DatasetGrammar.Parse(filter)
	if err != nil {
		return nil, "", err
	}
	var orders []tracking.Order
	for _, text := range order {
		o, err := tracking.DatasetOrders.ParseOrder(text)
		if err != nil {
			return nil, "", err
		}
		orders = append(orders, o)
	}
	all, err := s.store.Datasets(ctx, workspace)
	if err != nil {
		return nil, "", err
	}
	var found []Dataset
	for _, d := range all {
		if (len(experiments) == 0 || slices.ContainsFunc(experiments, func(e string) bool { return slices.Contains(d.Experiments, e) })) && d.passes(clauses) {
			found = append(found, d)
		}
	}
	slices.SortStableFunc(found, func(a, b Dataset) int {
		for _, o := range orders {
			if c := o.Compare(a.value(o.Key), b.value(o.Key)); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(b.Created, a.Created), strings.Compare(a.ID, b.ID))
	})
	return tracking.Page(found, page, limit, func(d Dataset) string { return d.ID })
}

func (d *Dataset) value(key string) tracking.Value {
	switch key {
	case "name":
		return tracking.Value{Text: d.Name}
	case "created_time":
		return tracking.Value{Number: float64(d.Created)}
	case "last_update_time":
		return tracking.Value{Number: float64(d.Updated)}
	case "created_by":
		return tracking.Value{Text: d.CreatedBy, Missing: d.CreatedBy == ""}
	case "last_updated_by":
		return tracking.Value{Text: d.UpdatedBy, Missing: d.UpdatedBy == ""}
	}
	v, ok := d.Tags[key]
	return tracking.Value{Text: v, Missing: !ok}
}

func (d *Dataset) passes(clauses []tracking.Clause) bool {
	for i := range clauses {
		c := &clauses[i]
		if c.Of() == tracking.OfTag {
			if v, ok := d.Tags[c.Key]; !c.MatchesKey(v, ok) {
				return false
			}
			continue
		}
		v := d.value(c.Key)
		if c.Key == "created_time" || c.Key == "last_update_time" {
			if !c.MatchesNumber(v.Number) {
				return false
			}
		} else if v.Missing || !c.Matches(v.Text) {
			return false
		}
	}
	return true
}

// AddScorer stores the next version of a scorer.
func (s *Service) AddScorer(ctx context.Context, workspace, experiment, name, body string) (Scorer, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(body), &fields); err != nil {
		return Scorer{}, invalid("serialized_scorer must be valid JSON")
	}
	if v, ok := fields["call_source"]; ok && string(v) != "null" {
		return Scorer{}, invalid("Custom scorer registration (using @scorer decorator) is disabled by default outside of Databricks tracking environments due to security concerns. Custom scorers require arbitrary code execution during deserialization. This server runs no code that a client sends: keep it in a source code repository and import it, or use built-in scorers.")
	}
	if strings.TrimSpace(name) == "" {
		return Scorer{}, invalid("Scorer name cannot be empty or contain only whitespace.")
	}
	e, err := s.active(ctx, workspace, experiment)
	if err != nil {
		return Scorer{}, err
	}
	return s.store.AddScorer(ctx, workspace, Scorer{Experiment: e.ID, Name: name, ID: newGUID(), Created: s.now().UnixMilli(), Body: body})
}

// Scorers returns the newest version of each scorer of the experiments that
// are not deleted, of all for none.
func (s *Service) Scorers(ctx context.Context, workspace string, experiments []string) ([]Scorer, error) {
	all, err := s.store.Scorers(ctx, workspace, experiments)
	if err != nil {
		return nil, err
	}
	var newest []Scorer
	for i, x := range all {
		if i < len(all)-1 && all[i+1].Name == x.Name && all[i+1].Experiment == x.Experiment {
			continue
		}
		if n := len(newest); n == 0 || newest[n-1].Experiment != x.Experiment {
			switch _, err := s.active(ctx, workspace, x.Experiment); {
			case fault.Is(err, fault.BadRequest) || fault.Is(err, fault.Missing):
				continue
			case err != nil:
				return nil, err
			}
		}
		newest = append(newest, x)
	}
	return newest, nil
}

// ScorersOf returns the newest version of each scorer of an experiment.
func (s *Service) ScorersOf(ctx context.Context, workspace, experiment string) ([]Scorer, error) {
	e, err := s.active(ctx, workspace, experiment)
	if err != nil {
		return nil, err
	}
	return s.Scorers(ctx, workspace, []string{e.ID})
}

// ScorerVersions returns all versions of a scorer, the newest last.
func (s *Service) ScorerVersions(ctx context.Context, workspace, experiment, name string) ([]Scorer, error) {
	e, err := s.active(ctx, workspace, experiment)
	if err != nil {
		return nil, err
	}
	all, err := s.store.Scorers(ctx, workspace, []string{e.ID})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(x Scorer) bool { return x.Name != name })
	if len(all) == 0 {
		return nil, scorerMissing(name, experiment)
	}
	return all, nil
}

func scorerMissing(name, experiment string) error {
	return fault.NotFound("Scorer with name '%s' not found for experiment %s.", name, experiment).With("RESOURCE_DOES_NOT_EXIST")
}

// Scorer returns a version of a scorer, the newest for 0.
func (s *Service) Scorer(ctx context.Context, workspace, experiment, name string, version int64) (Scorer, error) {
	all, err := s.ScorerVersions(ctx, workspace, experiment, name)
	if err != nil {
		return Scorer{}, err
	}
	if version == 0 {
		return all[len(all)-1], nil
	}
	for _, x := range all {
		if x.Version == version {
			return x, nil
		}
	}
	return Scorer{}, fault.NotFound("Scorer with name '%s' and version %d not found for experiment %s.", name, version, experiment).With("RESOURCE_DOES_NOT_EXIST")
}

// DeleteScorer removes a version of a scorer, or all for 0.
func (s *Service) DeleteScorer(ctx context.Context, workspace, experiment, name string, version int64) error {
	e, err := s.active(ctx, workspace, experiment)
	if err != nil {
		return err
	}
	n, err := s.store.DeleteScorer(ctx, workspace, e.ID, name, version)
	if err == nil && n == 0 {
		_, err = s.Scorer(ctx, workspace, experiment, name, version)
	}
	return err
}
