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
	if err := settle(in.Tags, in.Metadata); err != nil {
		return nil, err
	}
	return s.store.ChangeTrace(ctx, workspace, in.ID, func(old *Info) (*Info, error) {
		n := in
		n.Workspace, n.Experiment = workspace, e.ID
		n.Tags, n.Metadata, n.Assessments = map[string]string{}, map[string]string{}, nil
		if old != nil {
			maps.Copy(n.Tags, old.Tags)
			maps.Copy(n.Metadata, old.Metadata)
			n.Assessments, n.Runs, n.Prompts = old.Assessments, old.Runs, old.Prompts
			if n.Request == nil {
				n.Request = old.Request
			}
			if n.Response == nil {
				n.Response = old.Response
			}
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
			made, err := s.newAssessment(n.ID, a.Fields)
			if err != nil {
				return nil, err
			}
			n.Assessments = append(n.Assessments, made)
		}
		n.sortAssessments()
		return &n, nil
	})
}

// settle checks the tags and metadata that a client gives a trace, and brings
// counts and costs into their form.
func settle(tags, metadata map[string]string) error {
	for k := range tags {
		if err := checkKey(k); err != nil {
			return err
		}
	}
	if err := checkName(tags[TagName]); err != nil {
		return err
	}
	if v := metadata[MetaSession]; len(v) > maxKey && utf8.RuneCountInString(v) > maxKey {
		return invalid("'Session ID' exceeds the maximum length of %d characters", maxKey)
	}
	for key, form := range map[string]func([]pair) string{MetaUsage: usageText, MetaCost: costText} {
		text, there := metadata[key]
		if !there {
			continue
		}
		v, _ := readJSON([]byte(text))
		if metadata[key] = form(v.pairs); metadata[key] == "" {
			delete(metadata, key)
		}
	}
	return nil
}

func checkName(name string) error {
	if len(name) > maxValue && utf8.RuneCountInString(name) > maxValue {
		return invalid("'Trace name' exceeds the maximum length of %d characters", maxValue)
	}
	return nil
}

func artifacts(e tracking.Experiment, id string) string {
	return strings.TrimSuffix(e.Artifact, "/") + "/traces/" + id + "/artifacts"
}

// Begin makes a trace of version 2, whose id the server gives.
func (s *Service) Begin(ctx context.Context, workspace string, in Info) (*Info, error) {
	e, err := s.runs.Experiment(ctx, workspace, in.Experiment)
	if err != nil {
		return nil, err
	}
	if err := settle(in.Tags, in.Metadata); err != nil {
		return nil, err
	}
	var b [16]byte
	_, _ = rand.Read(b[:])
	in.ID, in.Workspace, in.Experiment = hex.EncodeToString(b[:]), workspace, e.ID
	for k, v := range in.Tags {
		in.Tags[k] = cut(v)
	}
	in.Tags[TagArtifacts] = artifacts(e, in.ID)
	return s.store.ChangeTrace(ctx, workspace, in.ID, func(*Info) (*Info, error) { return &in, nil })
}

// End ends a trace of version 2 at a time (Unix ms).
func (s *Service) End(ctx context.Context, workspace, id string, at int64, state string, metadata, tags map[string]string) (*Info, error) {
	if err := settle(tags, metadata); err != nil {
		return nil, err
	}
	return s.change(ctx, workspace, id, func(i *Info) error {
		i.State, i.Duration = state, max(at-i.Start, 0)
		if i.Tags == nil {
			i.Tags = map[string]string{}
		}
		if i.Metadata == nil {
			i.Metadata = map[string]string{}
		}
		for k, v := range tags {
			i.Tags[k] = cut(v)
		}
		maps.Copy(i.Metadata, metadata)
		return nil
	})
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
		if i.Request == nil && f.inputs != nil {
			i.Request = new(preview(f.inputs, "user"))
		}
		if i.Response == nil && f.outputs != nil {
			i.Response = new(preview(f.outputs, "assistant"))
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
	if t.Key == TagName {
		if err := checkName(t.Value); err != nil {
			return err
		}
	}
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		if i.Tags == nil {
			i.Tags = map[string]string{}
		}
		i.Tags[t.Key] = cut(t.Value)
		return nil
	})
	if fault.Is(err, fault.Missing) {
		return fault.Invalid("Trace with ID '%s' not found: it cannot be tagged.", id).With("BAD_REQUEST")
	}
	return err
}

// DeleteTag removes a tag of a trace.
func (s *Service) DeleteTag(ctx context.Context, workspace, id, key string) error {
	if slices.Contains(fixed, key) {
		return invalid("Tag '%s' is immutable and cannot be deleted on a trace.", key)
	}
	none := fault.NotFound("No trace tag with key '%s' for trace with ID '%s'", key, id).With("RESOURCE_DOES_NOT_EXIST")
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		if _, ok := i.Tags[key]; !ok {
			return none
		}
		delete(i.Tags, key)
		return nil
	})
	if fault.Is(err, fault.Missing) {
		return none
	}
	return err
}

// LinkRun links those of the traces that exist to a run.
func (s *Service) LinkRun(ctx context.Context, workspace, run string, ids []string) error {
	if len(ids) > 100 {
		return invalid("Cannot link more than 100 traces to a run in a single request. Provided %d traces.", len(ids))
	}
	for _, id := range ids {
		_, err := s.change(ctx, workspace, id, func(i *Info) error {
			if !slices.Contains(i.Runs, run) {
				i.Runs = append(i.Runs, run)
			}
			return nil
		})
		if err != nil && !fault.Is(err, fault.Missing) {
			return err
		}
	}
	return nil
}

// LinkPrompts links versions of prompts ("name/version") to a trace.
func (s *Service) LinkPrompts(ctx context.Context, workspace, id string, versions []string) error {
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		for _, v := range versions {
			if !slices.Contains(i.Prompts, v) {
				i.Prompts = append(i.Prompts, v)
			}
		}
		return nil
	})
	return err
}

// Delete removes traces of an experiment: the named ones, or the oldest that
// began before a time (Unix ms), at most limit of them; limit 0 means all.
func (s *Service) Delete(ctx context.Context, workspace, experiment string, ids []string, before *int64, limit int) (int, error) {
	e, err := s.runs.Experiment(ctx, workspace, experiment)
	if fault.Is(err, fault.Missing) {
		return 0, nil
	}
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
		slices.SortStableFunc(chosen, func(a, b *Info) int { return cmp.Or(cmp.Compare(a.Start, b.Start), strings.Compare(a.ID, b.ID)) })
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
