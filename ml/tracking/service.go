package tracking

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultName is the name of the experiment that runs go to when none is named.
const DefaultName = "Default"

// Service has the rules of experiments and runs, in MLflow's words: what is
// checked, what follows from what, and the errors that clients know.
type Service struct {
	store Store
	now   func() time.Time

	// Root, if it is set, tells where artefacts of new experiments of a
	// workspace go, each in a folder of its id; "" is the server's own place.
	Root func(ctx context.Context, workspace string) (string, error)

	mu       sync.Mutex
	defaults map[string]string // workspace → id of its experiment "Default"
}

// New returns the service over a store.
func New(store Store) *Service {
	return &Service{store: store, now: time.Now, defaults: map[string]string{}}
}

func (s *Service) millis() int64 { return s.now().UnixMilli() }

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

// NewRun is what CreateRun is told.
type NewRun struct {
	Experiment string
	User       string
	Name       string
	Start      int64
	Tags       []Tag
}

// Tags that are fields of the run, unless the field is empty.
const (
	TagName   = "mlflow.runName"
	TagNote   = "mlflow.note.content"
	TagParent = "mlflow.parentRunId"
)

// CreateRun makes a run of its own, without a job.
func (s *Service) CreateRun(ctx context.Context, workspace string, n NewRun) (*Detail, error) {
	experiment, err := s.resolve(ctx, workspace, n.Experiment)
	if err != nil {
		return nil, err
	}
	r := Run{
		Workspace: workspace, ID: newID(), Experiment: experiment, Name: n.Name, User: n.User,
		Tags: map[string]string{}, Status: Running, Created: s.millis(), Start: n.Start,
	}
	for _, t := range n.Tags {
		if t.Key == TagName && n.Name != "" && t.Value != n.Name {
			if e, err := s.Experiment(ctx, workspace, n.Experiment); err != nil {
				return nil, err
			} else if e.Deleted != 0 {
				return nil, ExperimentDeleted(e.ID)
			}
			return nil, invalid("Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='%s', mlflow.runName='%s').", n.Name, t.Value)
		}
		t.Value = cut(t.Value, maxTag)
		r.setTag(t)
	}
	if r.Name == "" {
		r.Name = randomName()
	}
	r, err = s.store.CreateRun(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Detail{Record: Record{Run: r}}, nil
}

// newID is 32 random hex digits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b[:])
}

// setTag sets a tag or the field that it is.
func (r *Run) setTag(t Tag) {
	switch t.Key {
	case TagName:
		if t.Value == "" {
			return // a run is never without a name
		}
		r.Name = t.Value
	case TagNote:
		r.Description = t.Value
	case TagParent:
		r.Parent = t.Value
	}
	// A field that is empty does not tell whether the tag is there.
	if t.Value != "" && (t.Key == TagName || t.Key == TagNote || t.Key == TagParent) {
		delete(r.Tags, t.Key)
		return
	}
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	r.Tags[t.Key] = t.Value
}

// Tag returns a tag as MLflow sees it: name, description and parent are tags.
func (r *Run) Tag(key string) (string, bool) {
	field := ""
	switch key {
	case TagName:
		field = r.Name
	case TagNote:
		field = r.Description
	case TagParent:
		field = r.Parent
	}
	if field != "" {
		return field, true
	}
	v, ok := r.Tags[key]
	return v, ok
}

// EachTag visits all tags as MLflow sees them.
func (r *Run) EachTag(visit func(key, value string)) {
	for _, k := range []string{TagName, TagNote, TagParent} {
		if v, ok := r.Tag(k); ok {
			visit(k, v)
		}
	}
	for k, v := range r.Tags {
		if k != TagName && k != TagNote && k != TagParent {
			visit(k, v)
		}
	}
}

// MLflow is the status in MLflow's words.
func (s Status) MLflow() string {
	switch s {
	case Running, Finalizing, CancelRequested, NotResponding, Paused:
		return "RUNNING"
	case Completed:
		return "FINISHED"
	case Failed:
		return "FAILED"
	case Canceled:
		return "KILLED"
	}
	return "SCHEDULED"
}

// StatusOf is the status that MLflow's word means for a run of its own.
func StatusOf(word string) (Status, bool) {
	switch word {
	case "RUNNING":
		return Running, true
	case "SCHEDULED":
		return Queued, true
	case "FINISHED":
		return Completed, true
	case "FAILED":
		return Failed, true
	case "KILLED":
		return Canceled, true
	}
	return "", false
}

// UpdateRun changes what is not nil. A job's status and end are the platform's:
// for a job's run they stay as they are.
func (s *Service) UpdateRun(ctx context.Context, workspace, id string, status *Status, end *int64, name *string) (Run, error) {
	return s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		if r.Deleted != 0 {
			return RunDeleted(r.ID)
		}
		if !r.Job {
			if status != nil {
				r.Status = *status
			}
			if end != nil {
				r.End = *end
			}
		}
		if name != nil && *name != "" {
			r.Name = *name
		}
		return nil
	})
}

// Run finds a run with all it logged.
func (s *Service) Run(ctx context.Context, workspace, id string) (*Detail, error) {
	return s.store.Detail(ctx, workspace, id)
}

// DeleteRun deletes a run; one that is deleted stays so.
func (s *Service) DeleteRun(ctx context.Context, workspace, id string) error {
	_, err := s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		if r.Deleted == 0 {
			r.Deleted = s.millis()
		}
		return nil
	})
	return err
}

// RestoreRun brings a run back; one that is active stays so.
func (s *Service) RestoreRun(ctx context.Context, workspace, id string) error {
	_, err := s.store.ChangeRun(ctx, workspace, id, func(r *Run) error {
		r.Deleted = 0
		return nil
	})
	return err
}

// LogMetric logs one point.
func (s *Service) LogMetric(ctx context.Context, workspace, run string, m Metric) error {
	if err := checkMetric(&m, ""); err != nil {
		return err
	}
	m.Value = finite(m.Value)
	return s.store.Log(ctx, workspace, run, []Metric{m}, nil)
}

// finite is v as MLflow keeps it: an infinity is the largest number there is.
func finite(v float64) float64 {
	if math.IsInf(v, 0) {
		return math.Copysign(math.MaxFloat64, v)
	}
	return v
}

// LogParam logs a param, which cannot be changed later.
func (s *Service) LogParam(ctx context.Context, workspace, run string, p Tag) error {
	if err := checkParam(&p, ""); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		if old, ok := r.Params[p.Key]; ok && old != p.Value {
			return invalid("Changing param values is not allowed. Param with key='%s' was already logged with value='%s' for run ID='%s'. Attempted logging new value '%s'.", p.Key, old, run, p.Value)
		}
		r.setParam(p)
		return nil
	})
}

func (r *Record) setParam(p Tag) {
	if r.Params == nil {
		r.Params = map[string]string{}
	}
	r.Params[p.Key] = p.Value
}

// SetTag sets a tag.
func (s *Service) SetTag(ctx context.Context, workspace, run string, t Tag) error {
	if err := checkTag(&t, ""); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		r.setTag(t)
		return nil
	})
}

// DeleteTag removes a tag.
func (s *Service) DeleteTag(ctx context.Context, workspace, run, key string) error {
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		if _, ok := r.Tag(key); !ok {
			return missing("No tag with name: %s in run with id %s", key, run)
		}
		switch key {
		case TagNote:
			r.Description = ""
		case TagParent:
			r.Parent = ""
		}
		delete(r.Tags, key)
		return nil
	})
}

// Batch is what one request logs, all of it or nothing.
type Batch struct {
	Metrics []Metric
	Params  []Tag
	Tags    []Tag
}

// LogBatch logs metrics, params and tags in one step.
func (s *Service) LogBatch(ctx context.Context, workspace, run string, b *Batch) error {
	if err := checkRunID(run); err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	var change func(r *Record) error
	if len(b.Params)+len(b.Tags) > 0 {
		change = func(r *Record) error { return b.apply(r, run) }
	}
	return s.store.Log(ctx, workspace, run, b.Metrics, change)
}

func (b *Batch) check() error {
	limits := []struct {
		what       string
		got, limit int
	}{
		{"metrics", len(b.Metrics), maxBatchMetrics},
		{"params", len(b.Params), maxBatchParamsTags},
		{"tags", len(b.Tags), maxBatchParamsTags},
		{"metrics, params, and tags", len(b.Metrics) + len(b.Params) + len(b.Tags), maxBatch},
	}
	for _, l := range limits {
		if l.got > l.limit {
			return invalid("A batch logging request can contain at most %d %s. Got %d %s. Please split up %s across multiple requests and try again.", l.limit, l.what, l.got, l.what, l.what)
		}
	}
	last := ""
	for i := range b.Metrics {
		m := &b.Metrics[i]
		if m.Key != last || i == 0 || m.Time < 0 { // or the key was checked just before
			if err := checkMetric(m, ""); err != nil {
				return checkMetric(m, "metrics["+strconv.Itoa(i)+"].")
			}
		}
		m.Value = finite(m.Value)
		last = m.Key
	}
	seen := map[string]bool{}
	var twice []string
	for i := range b.Params {
		if err := checkParam(&b.Params[i], "params["+strconv.Itoa(i)+"]."); err != nil {
			return err
		}
		if k := b.Params[i].Key; seen[k] && !contains(twice, k) {
			twice = append(twice, k)
		}
		seen[b.Params[i].Key] = true
	}
	if len(twice) > 0 {
		return invalid("Duplicate parameter keys have been submitted: ['%s']. Please ensure the request contains only one param value per param key.", strings.Join(twice, "', '"))
	}
	for i := range b.Tags {
		if err := checkTag(&b.Tags[i], "tags["+strconv.Itoa(i)+"]."); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) apply(r *Record, run string) error {
	var changed []string
	for _, p := range b.Params {
		if old, ok := r.Params[p.Key]; ok && old != p.Value {
			changed = append(changed, "{'key': "+repr(p.Key)+", 'old_value': "+repr(old)+", 'new_value': "+repr(p.Value)+"}")
			continue
		}
		r.setParam(p)
	}
	if len(changed) > 0 {
		return invalid("Changing param values is not allowed. Params were already logged='[%s]' for run ID='%s'.", strings.Join(changed, ", "), run)
	}
	for _, t := range b.Tags {
		r.setTag(t)
	}
	return nil
}

// Limits of a dataset, in characters.
const (
	maxDatasetName    = 500
	maxDatasetDigest  = 36
	maxDatasetSchema  = 1<<20 - 1
	maxDatasetSource  = 1<<16 - 1
	maxDatasetProfile = 1<<24 - 1
	maxInputTagKey    = 255
	maxInputTagValue  = 500
)

// checkDatasets refuses datasets whose fields are too long.
func checkDatasets(datasets []DatasetInput) error {
	for _, d := range datasets {
		for _, l := range []struct {
			what, text string
			limit      int
		}{
			{"name", d.Dataset.Name, maxDatasetName}, {"digest", d.Dataset.Digest, maxDatasetDigest},
			{"schema", d.Dataset.Schema, maxDatasetSchema}, {"source", d.Dataset.Source, maxDatasetSource},
			{"profile", d.Dataset.Profile, maxDatasetProfile},
		} {
			if longer(l.text, l.limit) {
				return invalid("Dataset %s exceeds the maximum length of %d", l.what, l.limit)
			}
		}
		for _, t := range d.Tags {
			if longer(t.Key, maxInputTagKey) {
				return invalid("InputTag key exceeds the maximum length of %d", maxInputTagKey)
			}
			if longer(t.Value, maxInputTagValue) {
				return invalid("InputTag value exceeds the maximum length of %d", maxInputTagValue)
			}
		}
	}
	return nil
}

// LogInputs says what a run read: datasets, and logged models by id.
func (s *Service) LogInputs(ctx context.Context, workspace, run string, datasets []DatasetInput, models []string) error {
	if err := checkRunID(run); err != nil {
		return err
	}
	if err := checkDatasets(datasets); err != nil {
		return err
	}
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		r.Datasets = append(r.Datasets, datasets...)
		for _, m := range models {
			if !contains(r.ModelInputs, m) {
				r.ModelInputs = append(r.ModelInputs, m)
			}
		}
		return nil
	})
}

// LogOutputs says which logged models a run made.
func (s *Service) LogOutputs(ctx context.Context, workspace, run string, models []ModelOutput) error {
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		for _, m := range models {
			// Once for each model: a request that is sent again changes nothing.
			if !slices.ContainsFunc(r.ModelOutputs, func(old ModelOutput) bool { return old.Model == m.Model }) {
				r.ModelOutputs = append(r.ModelOutputs, m)
			}
		}
		return nil
	})
}

// LogModelHistory appends a model to the run's tag of models, as older clients do.
func (s *Service) LogModelHistory(ctx context.Context, workspace, run string, model json.RawMessage) error {
	const key = "mlflow.log-model.history"
	return s.store.Log(ctx, workspace, run, nil, func(r *Record) error {
		var history []json.RawMessage
		if old := r.Tags[key]; old != "" {
			if err := json.Unmarshal([]byte(old), &history); err != nil {
				return invalid("The run's tag %s is not a JSON list.", key)
			}
		}
		text, err := json.Marshal(append(history, model))
		if err != nil {
			return err
		}
		r.setTag(Tag{key, string(text)})
		return nil
	})
}

// offsetToken is a page token: how many things came before.
type offsetToken struct {
	Offset int    `json:"offset"`
	After  string `json:"after,omitempty"` // id of the last thing shown
	Last   *mark  `json:"last,omitempty"`  // the last run shown
}

func (t offsetToken) String() string {
	b, _ := json.Marshal(t)
	return base64.StdEncoding.EncodeToString(b)
}

func parseToken(s string) (t offsetToken, err error) {
	if s == "" {
		return t, nil
	}
	// What is no digit of base64 does not count, as in Python.
	b, err := base64.StdEncoding.DecodeString(strings.Map(func(r rune) rune {
		if r < 128 && (r == '+' || r == '/' || r == '=' || wordRune(r) && r != '_') {
			return r
		}
		return -1
	}, s))
	if err != nil {
		return t, invalid("Invalid page token, could not base64-decode")
	}
	var said struct {
		Offset any    `json:"offset"`
		After  string `json:"after"`
		Last   *mark  `json:"last"`
	}
	if err := json.Unmarshal(b, &said); err != nil {
		return t, invalid("Invalid page token, decoded value=b'%s'", b)
	}
	offset, ok := said.Offset.(float64)
	if !ok || offset < 1 || offset > 1<<53 {
		return t, invalid("Invalid page token, not stringable %v", said.Offset)
	}
	return offsetToken{Offset: int(offset), After: said.After, Last: said.Last}, nil
}

// History returns up to limit points of a metric, by time, step and value;
// limit 0 means all. next is "" at the end.
func (s *Service) History(ctx context.Context, workspace, run, key string, limit int, page string) (points []Point, next string, err error) {
	t, err := parseToken(page)
	if err != nil {
		return nil, "", err
	}
	points, err = s.store.Series(ctx, workspace, run, key)
	if err != nil {
		return nil, "", err
	}
	byTime := func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Step, b.Step), cmp.Compare(number(a.Value), number(b.Value)))
	}
	if !slices.IsSortedFunc(points, byTime) {
		slices.SortStableFunc(points, byTime)
	}
	points = points[min(t.Offset, len(points)):]
	if limit > 0 && len(points) > limit {
		points = points[:limit]
		next = offsetToken{Offset: t.Offset + limit}.String()
	}
	return points, next, nil
}

// ExperimentSearch is one page of a search of experiments.
type ExperimentSearch struct {
	Filter string
	View   View
	Order  []string
	Limit  int
	Page   string
}

// View chooses by lifecycle.
type View int

// The views.
const (
	ActiveOnly View = iota
	DeletedOnly
	All
)

func (v View) shows(deleted int64) bool {
	return v == All || (v == DeletedOnly) == (deleted != 0)
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

func (g *Grammar) orders(list []string) ([]Order, error) {
	var orders []Order
	for _, text := range list {
		o, err := g.ParseOrder(text)
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// Page cuts one page out of a sorted list; token is the next of the page before.
func Page[T any](list []T, token string, limit int, id func(T) string) (page []T, next string, err error) {
	t, err := parseToken(token)
	if err != nil {
		return nil, "", err
	}
	page, next = paged(list, t, limit, id)
	return page, next, nil
}

// paged cuts the page after t out of a sorted list.
func paged[T any](list []T, t offsetToken, limit int, id func(T) string) (page []T, next string) {
	start := min(t.Offset, len(list))
	if t.After != "" {
		// Things may have come and gone since: go on after the last one shown.
		if i := slices.IndexFunc(list, func(x T) bool { return id(x) == t.After }); i >= 0 {
			start = i + 1
		}
	}
	page = list[start:]
	if limit > 0 && len(page) > limit {
		page = page[:limit]
		next = offsetToken{Offset: start + limit, After: id(page[limit-1])}.String()
	}
	return page, next
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

// sortValue is one thing to sort by. What is missing comes last whatever the
// direction, NaN just before it.
type sortValue struct {
	rank   int8 // 0 there, 1 NaN, 2 missing
	text   string
	number float64
}

func textValue(s string, there bool) sortValue {
	if !there {
		return sortValue{rank: 2}
	}
	return sortValue{text: s}
}

func numberValue(v float64) sortValue {
	if v != v {
		return sortValue{rank: 1}
	}
	return sortValue{number: v}
}

func (o Order) compare(a, b sortValue) int {
	if a.rank != b.rank {
		return cmp.Compare(a.rank, b.rank)
	}
	var c int
	switch {
	case a.number < b.number:
		c = -1
	case a.number > b.number:
		c = 1
	default:
		c = strings.Compare(a.text, b.text)
	}
	if o.Desc {
		return -c
	}
	return c
}

// Value is a text or a number to sort by, or nothing, which comes last.
type Value struct {
	Text    string
	Number  float64
	Missing bool
}

// Compare puts two values in the order of o.
func (o Order) Compare(a, b Value) int {
	value := func(v Value) sortValue {
		if v.Missing {
			return sortValue{rank: 2}
		}
		return sortValue{text: v.Text, number: v.Number}
	}
	return o.compare(value(a), value(b))
}
