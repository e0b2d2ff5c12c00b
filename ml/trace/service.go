package trace

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"lapis/fault"
	"lapis/ml/tracking"
)

// Service has the rules of traces, in MLflow's words.
type Service struct {
	store Store
	runs  *tracking.Service
	now   func() time.Time
}

// New returns the service over a store. Experiments and runs are those of runs.
func New(store Store, runs *tracking.Service) *Service {
	return &Service{store: store, runs: runs, now: time.Now}
}

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

func missing(id string) error {
	return fault.NotFound("Trace with ID '%s' not found.", id).With("RESOURCE_DOES_NOT_EXIST")
}

// Limits, in characters unless said otherwise.
const (
	maxID    = 64
	maxKey   = 250
	maxValue = 4096
	maxSpans = 100_000 // in a request
)

func cut(s string) string {
	if len(s) <= maxValue || utf8.RuneCountInString(s) <= maxValue {
		return s
	}
	return string([]rune(s)[:maxValue])
}

// fixed are tags that the server alone sets.
var fixed = []string{TagSpans, "mlflow.trace.archiveLocation", "mlflow.trace.archivalFailure"}

func checkKey(key string) error {
	if key == "" {
		return invalid("Missing value for required parameter 'key'.")
	}
	if len(key) > maxKey && utf8.RuneCountInString(key) > maxKey {
		return invalid("'key' exceeds the maximum length of %d characters", maxKey)
	}
	return nil
}

// Start stores what is known of a trace; of one that is there already, tags
// and metadata are added to.
func (s *Service) Start(ctx context.Context, workspace string, in Info) (*Info, error) {
	if in.ID == "" || len(in.ID) > maxID {
		return nil, invalid("Invalid trace ID '%s': it has 1 to %d characters.", in.ID, maxID)
	}
	e, err := s.runs.Experiment(ctx, workspace, in.Experiment)
	if err != nil {
		return nil, err
	}
	for k := range in.Tags {
		if err := checkKey(k); err != nil {
			return nil, err
		}
	}
	return s.store.ChangeTrace(ctx, workspace, in.ID, func(old *Info) (*Info, error) {
		n := in
		n.Workspace, n.Experiment = workspace, e.ID
		n.Tags, n.Metadata = map[string]string{}, map[string]string{}
		if old != nil {
			maps.Copy(n.Tags, old.Tags)
			maps.Copy(n.Metadata, old.Metadata)
			n.Assessments, n.Runs = old.Assessments, old.Runs
		}
		for k, v := range in.Tags {
			if !slices.Contains(fixed, k) {
				n.Tags[k] = cut(v)
			}
		}
		maps.Copy(n.Metadata, in.Metadata)
		n.Metadata[MetaFinal] = "true"
		n.Tags[TagArtifacts] = artifacts(e, in.ID)
		for _, a := range in.Assessments {
			n.Assessments = append(n.Assessments, s.newAssessment(n.ID, a.Fields))
		}
		return &n, nil
	})
}

func artifacts(e tracking.Experiment, id string) string {
	return strings.TrimSuffix(e.Artifact, "/") + "/traces/" + id + "/artifacts"
}

// Log stores spans in an experiment, and links their traces to a run if one is
// named. A trace that is not there is made of its spans.
func (s *Service) Log(ctx context.Context, workspace, experiment, run string, spans []Span) error {
	if len(spans) > maxSpans {
		return invalid("A request can hold at most %d spans. Got %d.", maxSpans, len(spans))
	}
	e, err := s.runs.Experiment(ctx, workspace, experiment)
	if err != nil {
		return err
	}
	return s.store.LogSpans(ctx, workspace, spans, func(id string, old *Info, spans []Span, stored func() ([]Span, error)) (*Info, error) {
		n := old
		if n == nil {
			n = &Info{ID: id, Workspace: workspace, Experiment: e.ID, Duration: -1, State: "IN_PROGRESS",
				Tags: map[string]string{TagArtifacts: artifacts(e, id)}}
		}
		return n, n.grow(spans, old == nil, run, stored)
	})
}

// grow takes time, state, previews and counts from spans, and links the trace
// to the run if it has a root among them. What the client has said of the
// trace itself goes before what its spans say.
func (i *Info) grow(spans []Span, isNew bool, run string, stored func() ([]Span, error)) error {
	if i.Tags == nil {
		i.Tags = map[string]string{}
	}
	if i.Metadata == nil {
		i.Metadata = map[string]string{}
	}
	first, last := int64(math.MaxInt64), int64(0)
	state, session, user := "", "", ""
	var root *Span
	var usage, cost bool
	var resource map[string]string
	for n := range spans {
		s := &spans[n]
		f := s.facts
		if f == nil {
			f = &facts{}
		}
		first, last = min(first, s.Start/1e6), max(last, s.End/1e6)
		if session == "" {
			session = f.session
		}
		if user == "" {
			user = f.user
		}
		if resource == nil {
			resource = f.resource
		}
		usage, cost = usage || f.usage != nil, cost || f.cost != nil
		if s.Parent != "" {
			continue
		}
		if root = s; state == "" {
			state = "OK"
			if s.Status == "STATUS_CODE_ERROR" {
				state = "ERROR"
			}
		}
	}
	if len(session) > maxKey && utf8.RuneCountInString(session) > maxKey {
		return invalid("'Session ID' exceeds the maximum length of %d characters", maxKey)
	}
	final := i.Metadata[MetaFinal] == "true"
	if isNew {
		i.Start = first
		if last > 0 {
			i.Duration = last - first
		} else {
			i.Duration = 0
		}
	} else if !final || !usage && !cost && session == "" {
		end := last
		if i.Duration >= 0 {
			end = max(end, i.Start+i.Duration)
		}
		i.Start = min(i.Start, first)
		i.Duration = end - i.Start
	}
	if state != "" && (i.State == "IN_PROGRESS" || i.State == "STATE_UNSPECIFIED" || i.State == "") {
		i.State = state
	}
	for k, v := range resource {
		i.Tags[k] = v
	}
	i.Tags[TagSpans] = "TRACKING_STORE"
	if root != nil && root.facts != nil {
		f := root.facts
		if i.Request == "" && f.inputs != nil {
			i.Request = preview(f.inputs, "user")
		}
		if i.Response == "" && f.outputs != nil {
			i.Response = preview(f.outputs, "assistant")
		}
		for _, p := range f.tags {
			key := strings.TrimPrefix(string(p.key), tagAttribute)
			if checkKey(key) == nil && !slices.Contains(fixed, key) {
				i.Tags[key] = cut(p.value.plain())
			}
		}
	}
	if root != nil && run != "" && !slices.Contains(i.Runs, run) {
		i.Runs = append(i.Runs, run)
	}
	if session != "" && i.Metadata[MetaSession] == "" {
		i.Metadata[MetaSession] = session
	}
	if user != "" && i.Metadata[MetaUser] == "" {
		i.Metadata[MetaUser] = user
	}
	usage = usage && !(final && i.Metadata[MetaUsage] != "")
	cost = cost && !(final && i.Metadata[MetaCost] != "")
	if !usage && !cost {
		return nil
	}
	all := spans
	if !isNew {
		// A parent that counts for its children may have come in another request.
		before, err := stored()
		if err != nil {
			return err
		}
		all = Tidy(append(before, spans...))
	}
	if usage {
		if text := usageText(sum(nodes(all, func(f *facts) []pair { return f.usage }), tokenKinds, 3)); text != "" {
			i.Metadata[MetaUsage] = text
		}
	}
	if cost {
		if text := costText(sum(nodes(all, func(f *facts) []pair { return f.cost }), costKinds, 3)); text != "" {
			i.Metadata[MetaCost] = text
		}
	}
	return nil
}

func nodes(spans []Span, of func(*facts) []pair) []node {
	list := make([]node, len(spans))
	for i := range spans {
		s := &spans[i]
		if s.facts == nil {
			s.facts = s.readFacts()
		}
		list[i] = node{s.ID, s.Parent, of(s.facts)}
	}
	return list
}

// Find returns a trace without its spans.
func (s *Service) Find(ctx context.Context, workspace, id string) (*Info, error) {
	found, err := s.store.Traces(ctx, workspace, []string{id})
	if err == nil && len(found) == 0 {
		err = missing(id)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Many returns those of the traces that exist.
func (s *Service) Many(ctx context.Context, workspace string, ids []string) ([]*Info, error) {
	return s.store.Traces(ctx, workspace, ids)
}

// Spans returns the spans of a trace, in the order of their start.
func (s *Service) Spans(ctx context.Context, workspace, id string) ([]Span, error) {
	return s.store.Spans(ctx, workspace, id)
}

// change alters a trace that must be there.
func (s *Service) change(ctx context.Context, workspace, id string, alter func(*Info) error) (*Info, error) {
	return s.store.ChangeTrace(ctx, workspace, id, func(old *Info) (*Info, error) {
		if old == nil {
			return nil, missing(id)
		}
		return old, alter(old)
	})
}

// SetTag sets a tag of a trace.
func (s *Service) SetTag(ctx context.Context, workspace, id string, t tracking.Tag) error {
	if err := checkKey(t.Key); err != nil {
		return err
	}
	if slices.Contains(fixed, t.Key) {
		return invalid("Tag '%s' is immutable and cannot be set on a trace.", t.Key)
	}
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		if i.Tags == nil {
			i.Tags = map[string]string{}
		}
		i.Tags[t.Key] = cut(t.Value)
		return nil
	})
	return err
}

// DeleteTag removes a tag of a trace.
func (s *Service) DeleteTag(ctx context.Context, workspace, id, key string) error {
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		if _, ok := i.Tags[key]; !ok {
			return fault.NotFound("No trace tag with key '%s' for trace with ID '%s'", key, id).With("RESOURCE_DOES_NOT_EXIST")
		}
		delete(i.Tags, key)
		return nil
	})
	return err
}

// LinkRun links traces to a run.
func (s *Service) LinkRun(ctx context.Context, workspace, run string, ids []string) error {
	if len(ids) > 100 {
		return invalid("Cannot link more than 100 traces to a run in a single request. Provided %d traces.", len(ids))
	}
	for _, id := range ids {
		if _, err := s.change(ctx, workspace, id, func(i *Info) error {
			if !slices.Contains(i.Runs, run) {
				i.Runs = append(i.Runs, run)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes traces of an experiment: the named ones, or the oldest that
// began before a time (Unix ms), at most limit of them; limit 0 means all.
func (s *Service) Delete(ctx context.Context, workspace, experiment string, ids []string, before *int64, limit int) (int, error) {
	e, err := s.runs.Experiment(ctx, workspace, experiment)
	if err != nil {
		return 0, err
	}
	var chosen []*Info
	if before != nil {
		err = s.store.EachTrace(ctx, workspace, []string{e.ID}, func(i *Info) (bool, error) {
			if i.Start <= *before {
				chosen = append(chosen, i)
			}
			return true, nil
		})
		slices.Reverse(chosen)
		if limit > 0 && len(chosen) > limit {
			chosen = chosen[:limit]
		}
	} else {
		chosen, err = s.store.Traces(ctx, workspace, ids)
	}
	if err != nil {
		return 0, err
	}
	var gone []string
	for _, i := range chosen {
		if i.Experiment == e.ID {
			gone = append(gone, i.ID)
		}
	}
	return s.store.DeleteTraces(ctx, workspace, gone)
}

func (s *Service) newAssessment(trace string, fields map[string]json.RawMessage) Assessment {
	var b [16]byte
	_, _ = rand.Read(b[:])
	a := Assessment{ID: "a-" + hex.EncodeToString(b[:]), Fields: maps.Clone(fields)}
	a.set("assessment_id", a.ID)
	a.set("trace_id", trace)
	now := s.now().UTC().Format("2006-01-02T15:04:05.000Z")
	for _, f := range []string{"create_time", "last_update_time"} {
		if _, ok := a.Fields[f]; !ok {
			a.set(f, now)
		}
	}
	if _, ok := a.Fields["valid"]; !ok {
		a.set("valid", true)
	}
	return a
}

func (a *Assessment) set(name string, v any) {
	a.Fields[name], _ = json.Marshal(v)
}

func (a *Assessment) text(name string) string {
	var s string
	_ = json.Unmarshal(a.Fields[name], &s)
	return s
}

// Assess adds an assessment to a trace. One that overrides another makes that
// one invalid.
func (s *Service) Assess(ctx context.Context, workspace, id string, fields map[string]json.RawMessage) (Assessment, error) {
	a := s.newAssessment(id, fields)
	if a.text("assessment_name") == "" {
		return a, invalid("Missing value for required parameter 'assessment.assessment_name'.")
	}
	if a.Fields["feedback"] == nil && a.Fields["expectation"] == nil && a.Fields["issue"] == nil {
		return a, invalid("An assessment is a feedback or an expectation: give one of them.")
	}
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		if old := a.text("overrides"); old != "" {
			at := slices.IndexFunc(i.Assessments, func(x Assessment) bool { return x.ID == old })
			if at < 0 {
				return assessmentMissing(old, id)
			}
			i.Assessments[at].set("valid", false)
		}
		i.Assessments = append(i.Assessments, a)
		return nil
	})
	return a, err
}

func assessmentMissing(assessment, trace string) error {
	return fault.NotFound("Assessment with ID '%s' not found for trace '%s'", assessment, trace).With("RESOURCE_DOES_NOT_EXIST")
}

// Assessment finds an assessment of a trace.
func (s *Service) Assessment(ctx context.Context, workspace, id, assessment string) (Assessment, error) {
	i, err := s.Find(ctx, workspace, id)
	if err != nil {
		return Assessment{}, err
	}
	at := slices.IndexFunc(i.Assessments, func(a Assessment) bool { return a.ID == assessment })
	if at < 0 {
		return Assessment{}, assessmentMissing(assessment, id)
	}
	return i.Assessments[at], nil
}

// Reassess changes the named fields of an assessment.
func (s *Service) Reassess(ctx context.Context, workspace, id, assessment string, fields map[string]json.RawMessage, names []string) (a Assessment, err error) {
	_, err = s.change(ctx, workspace, id, func(i *Info) error {
		at := slices.IndexFunc(i.Assessments, func(a Assessment) bool { return a.ID == assessment })
		if at < 0 {
			return assessmentMissing(assessment, id)
		}
		a = i.Assessments[at]
		for _, name := range names {
			if !slices.Contains([]string{"assessment_name", "expectation", "feedback", "rationale", "metadata", "valid"}, name) {
				return invalid("Field '%s' of an assessment cannot be updated.", name)
			}
			if v, ok := fields[name]; ok {
				a.Fields[name] = v
			}
		}
		a.set("last_update_time", s.now().UTC().Format("2006-01-02T15:04:05.000Z"))
		i.Assessments[at] = a
		return nil
	})
	return a, err
}

// DeleteAssessment removes an assessment; one that is not there is no error.
func (s *Service) DeleteAssessment(ctx context.Context, workspace, id, assessment string) error {
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		i.Assessments = slices.DeleteFunc(i.Assessments, func(a Assessment) bool { return a.ID == assessment })
		return nil
	})
	return err
}

// Search is one page of a search of traces.
type Search struct {
	Experiments []string
	Filter      string
	Order       []string
	Limit       int
	Page        string
}

// Search finds traces, without their spans.
func (s *Service) Search(ctx context.Context, workspace string, q Search) ([]*Info, string, error) {
	clauses, err := tracking.TraceGrammar.Parse(q.Filter)
	if err != nil {
		return nil, "", err
	}
	var orders []tracking.Order
	for _, text := range q.Order {
		o, err := tracking.TraceGrammar.ParseOrder(text)
		if err != nil {
			return nil, "", err
		}
		orders = append(orders, o)
	}
	var experiments []string
	for _, id := range q.Experiments {
		e, err := s.runs.Experiment(ctx, workspace, id)
		if fault.Is(err, fault.Missing) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		experiments = append(experiments, e.ID)
	}
	var found []*Info
	err = s.store.EachTrace(ctx, workspace, experiments, func(i *Info) (bool, error) {
		ok, err := s.passes(ctx, i, clauses)
		if ok {
			found = append(found, i)
		}
		return true, err
	})
	if err != nil {
		return nil, "", err
	}
	slices.SortStableFunc(found, func(a, b *Info) int {
		for _, o := range orders {
			if c := o.Compare(a.value(o.Key), b.value(o.Key)); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(b.Start, a.Start), strings.Compare(a.ID, b.ID))
	})
	return tracking.Page(found, q.Page, q.Limit, func(i *Info) string { return i.ID })
}

// value is an attribute or tag of a trace to sort by.
func (i *Info) value(key string) tracking.Value {
	switch key {
	case "timestamp":
		return tracking.Value{Number: float64(i.Start)}
	case "execution_time":
		return tracking.Value{Number: float64(i.Duration), Missing: i.Duration < 0}
	case "end_time":
		return tracking.Value{Number: float64(i.Start + i.Duration), Missing: i.Duration < 0}
	}
	text, there := i.text(key)
	if !there {
		text, there = i.Tags[key]
	}
	return tracking.Value{Text: text, Missing: !there}
}

// text is a string attribute of a trace.
func (i *Info) text(key string) (string, bool) {
	get := func(m map[string]string, k string) (string, bool) { v, ok := m[k]; return v, ok }
	switch key {
	case "request_id":
		return i.ID, true
	case "status":
		return i.State, true
	case "client_request_id":
		return i.ClientRequest, i.ClientRequest != ""
	case "name":
		return get(i.Tags, TagName)
	case "prompt":
		return get(i.Tags, "mlflow.linkedPrompts")
	case "run_id":
		return get(i.Metadata, MetaRun)
	}
	return "", false
}

// passes tells whether a trace passes all clauses.
func (s *Service) passes(ctx context.Context, i *Info, clauses []tracking.Clause) (bool, error) {
	var spans []Span
	read := false
	for n := range clauses {
		c := &clauses[n]
		ok := false
		switch c.Of() {
		case tracking.OfTag:
			v, there := i.Tags[c.Key]
			ok = c.MatchesKey(v, there)
		case tracking.OfMetadata:
			v, there := i.Metadata[c.Key]
			ok = c.MatchesKey(v, there)
		case tracking.OfFeedback, tracking.OfExpectation:
			ok = i.assessed(c)
		case tracking.OfSpan:
			if !read {
				var err error
				if spans, err = s.store.Spans(ctx, i.Workspace, i.ID); err != nil {
					return false, err
				}
				read = true
			}
			ok = slices.ContainsFunc(spans, func(sp Span) bool { return sp.passes(c) })
		default:
			ok = i.attribute(c)
			if !ok && c.Key == "text" {
				if !read {
					var err error
					if spans, err = s.store.Spans(ctx, i.Workspace, i.ID); err != nil {
						return false, err
					}
					read = true
				}
				ok = slices.ContainsFunc(spans, func(sp Span) bool { return c.Matches(string(sp.JSON)) })
			}
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

func (i *Info) attribute(c *tracking.Clause) bool {
	switch c.Key {
	case "timestamp":
		return c.MatchesNumber(float64(i.Start))
	case "execution_time":
		return i.Duration >= 0 && c.MatchesNumber(float64(i.Duration))
	case "end_time":
		return i.Duration >= 0 && c.MatchesNumber(float64(i.Start+i.Duration))
	case "run_id":
		v, there := i.Metadata[MetaRun]
		return c.MatchesKey(v, there) || slices.ContainsFunc(i.Runs, c.Matches)
	}
	v, there := i.text(c.Key)
	return c.MatchesKey(v, there)
}

// assessed tells whether an assessment of the clause's name passes.
func (i *Info) assessed(c *tracking.Clause) bool {
	kind := "feedback"
	if c.Of() == tracking.OfExpectation {
		kind = "expectation"
	}
	there := false
	for n := range i.Assessments {
		a := &i.Assessments[n]
		if a.text("assessment_name") != c.Key || a.Fields[kind] == nil || string(a.Fields["valid"]) == "false" {
			continue
		}
		there = true
		var holder struct {
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(a.Fields[kind], &holder) != nil {
			continue
		}
		text := string(holder.Value)
		if c.IsNumeric {
			if v, err := strconv.ParseFloat(text, 64); err == nil && c.MatchesNumber(v) {
				return true
			}
			continue
		}
		var plain string
		if json.Unmarshal(holder.Value, &plain) != nil {
			plain = text
		}
		if c.Matches(plain) {
			return true
		}
	}
	return c.Op == "IS NULL" && !there || c.Op == "IS NOT NULL" && there
}

// passes tells whether a span passes a clause.
func (s *Span) passes(c *tracking.Clause) bool {
	switch c.Key {
	case "name":
		return c.Matches(s.Name)
	case "status":
		return c.Matches(strings.TrimPrefix(s.Status, "STATUS_CODE_"))
	case "content":
		return c.Matches(s.text())
	case "type":
		return c.Matches(s.kind())
	}
	v := s.attribute(strings.TrimPrefix(c.Key, "attributes."))
	return v != nil && c.Matches(v.stored())
}

// ParseSpan reads a span's JSON as it is stored.
func ParseSpan(trace string, raw []byte) (Span, error) {
	var shown struct {
		ID     string `json:"span_id"`
		Parent string `json:"parent_span_id"`
		Name   string `json:"name"`
		Start  int64  `json:"start_time_unix_nano"`
		End    int64  `json:"end_time_unix_nano"`
		Status struct {
			Code string `json:"code"`
		} `json:"status"`
	}
	err := json.Unmarshal(raw, &shown)
	if shown.Status.Code == "" {
		shown.Status.Code = statusNames[0]
	}
	return Span{Trace: trace, ID: shown.ID, Parent: shown.Parent, Name: shown.Name, Start: shown.Start, End: shown.End,
		Status: shown.Status.Code, JSON: raw}, err
}

// Tidy keeps the last of each span and puts them in the order of their start.
func Tidy(spans []Span) []Span {
	last := make(map[string]int, len(spans))
	for i, s := range spans {
		last[s.ID] = i
	}
	kept := spans[:0]
	for i, s := range spans {
		if last[s.ID] == i {
			kept = append(kept, s)
		}
	}
	sortSpans(kept)
	return kept
}
