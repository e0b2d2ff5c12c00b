package trace

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"lapis/fault"
)

// kinds of assessments: the member that holds what is thought.
var assessmentKinds = []string{"feedback", "expectation", "issue"}

// kind is what an assessment is: feedback, expectation or issue.
func (a *Assessment) kind() string {
	for _, k := range assessmentKinds {
		if a.Fields[k] != nil {
			return k
		}
	}
	return ""
}

// newAssessment makes an assessment of what a client sends.
func (s *Service) newAssessment(trace string, fields map[string]json.RawMessage) (Assessment, error) {
	var b [16]byte
	_, _ = rand.Read(b[:])
	a := Assessment{ID: "a-" + hex.EncodeToString(b[:]), Fields: maps.Clone(fields)}
	kind := a.kind()
	if kind == "" {
		return a, invalid("Unknown assessment type: None")
	}
	for _, other := range assessmentKinds {
		if other != kind {
			delete(a.Fields, other)
		}
	}
	if err := a.settle(); err != nil {
		return a, err
	}
	if kind == "expectation" {
		// MLflow keeps these of feedback alone.
		delete(a.Fields, "rationale")
		delete(a.Fields, "overrides")
	}
	for _, f := range []string{"rationale", "span_id", "overrides"} {
		if a.text(f) == "" {
			delete(a.Fields, f)
		}
	}
	if string(a.Fields["metadata"]) == "{}" {
		delete(a.Fields, "metadata")
	}
	a.set("assessment_name", a.text("assessment_name"))
	source := map[string]string{}
	if json.Unmarshal(a.Fields["source"], &source) != nil || !slices.Contains(sources, source["source_type"]) {
		source["source_type"] = "SOURCE_TYPE_UNSPECIFIED"
	}
	a.set("source", source)
	a.set("assessment_id", a.ID)
	a.set("trace_id", trace)
	now := s.now().UTC().Format("2006-01-02T15:04:05.000Z")
	for _, f := range []string{"create_time", "last_update_time"} {
		at, err := time.Parse(time.RFC3339Nano, a.text(f))
		switch {
		case a.text(f) == "":
			a.set(f, now)
		case err != nil:
			return a, invalid("Invalid value for parameter 'assessment.%s' supplied: a time looks like 2026-01-31T12:00:00Z.", f)
		case at.Nanosecond() < 1e6:
			a.set(f, at.UTC().Format("2006-01-02T15:04:05Z"))
		default:
			a.set(f, at.UTC().Format("2006-01-02T15:04:05.000Z"))
		}
	}
	a.set("valid", true)
	return a, nil
}

// sources are the kinds of those who assess.
var sources = []string{"HUMAN", "LLM_JUDGE", "AI_JUDGE", "CODE"}

// settle brings what is thought into the form that MLflow shows. Objects and
// lists that are expected are packed as JSON in a text.
func (a *Assessment) settle() error {
	kind := a.kind()
	if kind == "issue" {
		return nil
	}
	var holder map[string]json.RawMessage
	if err := json.Unmarshal(a.Fields[kind], &holder); err != nil {
		return invalid("Invalid value for parameter 'assessment.%s' supplied.", kind)
	}
	if kind == "feedback" {
		if holder["value"] == nil {
			holder["value"] = json.RawMessage("null")
		}
		a.set(kind, holder)
		return nil
	}
	if holder["serialized_value"] == nil {
		v, _ := readJSON(holder["value"])
		if v.kind == anArray || v.kind == aList {
			v.floats() // as all numbers of protobuf's values are
			a.pack(&v)
			return nil
		}
		if v.kind == 0 {
			return invalid("The `value` field must be specified.")
		}
		a.set(kind, map[string]json.RawMessage{"value": holder["value"]})
		return nil
	}
	var packed struct {
		Format string `json:"serialization_format"`
		Value  string `json:"value"`
	}
	if err := json.Unmarshal(holder["serialized_value"], &packed); err != nil {
		return invalid("Invalid value for parameter 'assessment.expectation.serialized_value' supplied.")
	}
	if packed.Format != "JSON_FORMAT" {
		return invalid("Unknown serialization format: %s. Only JSON_FORMAT is supported.", packed.Format)
	}
	v, ok := readJSON([]byte(packed.Value))
	if !ok || !json.Valid([]byte(packed.Value)) {
		return invalid("The serialized value of an expectation is JSON: '%s' is none.", cut(packed.Value))
	}
	if v.kind == anArray || v.kind == aList {
		a.pack(&v)
	} else {
		a.set(kind, map[string]json.RawMessage{"value": json.RawMessage(packed.Value)})
	}
	return nil
}

func (a *Assessment) pack(v *value) {
	a.set("expectation", map[string]any{"serialized_value": map[string]string{
		"serialization_format": "JSON_FORMAT", "value": string(appendJSON(nil, v))}})
}

// floats makes all whole numbers in a value floating ones.
func (v *value) floats() {
	if v.kind == anInt {
		*v = value{kind: aDouble, num: math.Float64bits(float64(int64(v.num)))}
	}
	for i := range v.items {
		v.items[i].floats()
	}
	for i := range v.pairs {
		v.pairs[i].value.floats()
	}
}

// value is what an assessment says, as MLflow keeps it; nil if it says nothing.
func (a *Assessment) value() *value {
	v, ok := readJSON(a.Fields[a.kind()])
	if !ok {
		return nil
	}
	if a.kind() == "issue" {
		return &v
	}
	if packed := member(&v, "serialized_value"); packed != nil {
		if text := member(packed, "value"); text != nil {
			if inner, ok := readJSON(text.text); ok {
				return &inner
			}
		}
	}
	if x := member(&v, "value"); x != nil {
		x.floats() // as all numbers of protobuf's values are
		return x
	}
	return &value{}
}

// number is the value as a number for sums: yes and no, true and false are 1
// and 0. Plain tells whether it was a number.
func (a *Assessment) number() (n float64, plain, ok bool) {
	v := a.value()
	if v == nil {
		return 0, false, false
	}
	switch v.kind {
	case aBool:
		return float64(v.num), false, true
	case anInt, aDouble:
		n, ok = number(v)
		return n, ok, ok
	case aString:
		switch strings.ToLower(strings.TrimSpace(string(v.text))) {
		case "yes":
			return 1, false, true
		case "no":
			return 0, false, true
		}
	}
	return math.NaN(), false, false
}

// valid tells whether nothing has taken the assessment's place.
func (a *Assessment) valid() bool { return string(a.Fields["valid"]) != "false" }

// ofSession tells whether the assessment is of the whole session.
func (a *Assessment) ofSession() bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(a.Fields["metadata"], &m) == nil && m[MetaSession] != nil
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
	a, err := s.newAssessment(id, fields)
	if err != nil {
		return a, err
	}
	_, err = s.change(ctx, workspace, id, func(i *Info) error {
		if old := a.text("overrides"); old != "" {
			at := i.assessment(old)
			if at < 0 {
				return assessmentMissing(old, id)
			}
			i.Assessments[at].set("valid", false)
		}
		i.Assessments = append(i.Assessments, a)
		i.sortAssessments()
		return nil
	})
	return a, err
}

// sortAssessments puts the assessments in the order in which they were made.
func (i *Info) sortAssessments() {
	made := func(a *Assessment) time.Time {
		t, _ := time.Parse(time.RFC3339Nano, a.text("create_time"))
		return t
	}
	slices.SortStableFunc(i.Assessments, func(a, b Assessment) int { return made(&a).Compare(made(&b)) })
}

// assessment returns where an assessment is, -1 if it is not there.
func (i *Info) assessment(id string) int {
	return slices.IndexFunc(i.Assessments, func(a Assessment) bool { return a.ID == id })
}

func assessmentMissing(assessment, trace string) error {
	return fault.NotFound("Assessment with ID '%s' not found for trace '%s'", assessment, trace).With("RESOURCE_DOES_NOT_EXIST")
}

// requestMissing is missing in the words of the calls about assessments.
func requestMissing(err error, trace string) error {
	if f := fault.Find(err); f != nil && f.Kind == fault.Missing && strings.HasPrefix(f.Message, "Trace with ID") {
		return fault.NotFound("Trace with request_id '%s' not found", trace).With("RESOURCE_DOES_NOT_EXIST")
	}
	return err
}

// Assessment finds an assessment of a trace.
func (s *Service) Assessment(ctx context.Context, workspace, id, assessment string) (Assessment, error) {
	i, err := s.Find(ctx, workspace, id)
	if err != nil {
		return Assessment{}, requestMissing(err, id)
	}
	at := i.assessment(assessment)
	if at < 0 {
		return Assessment{}, assessmentMissing(assessment, id)
	}
	return i.Assessments[at], nil
}

// Reassess changes the named fields of an assessment. Metadata are added to.
func (s *Service) Reassess(ctx context.Context, workspace, id, assessment string, fields map[string]json.RawMessage, names []string) (a Assessment, err error) {
	_, err = s.change(ctx, workspace, id, func(i *Info) error {
		at := i.assessment(assessment)
		if at < 0 {
			return assessmentMissing(assessment, id)
		}
		a = Assessment{ID: i.Assessments[at].ID, Fields: maps.Clone(i.Assessments[at].Fields)}
		if slices.Contains(names, "feedback") && slices.Contains(names, "expectation") {
			return invalid("Cannot specify both `expectation` and `feedback` parameters.")
		}
		for _, name := range names {
			v, there := fields[name]
			switch name {
			case "expectation":
				if a.kind() != "expectation" {
					return invalid("Cannot update expectation value on a Feedback assessment.")
				}
				a.Fields[name] = json.RawMessage("{}")
				if there {
					a.Fields[name] = v
				}
				if err := a.settle(); err != nil {
					return err
				}
			case "feedback":
				if a.kind() != "feedback" {
					return invalid("Cannot update feedback value on an Expectation assessment.")
				}
				a.Fields[name] = json.RawMessage("{}")
				if there {
					a.Fields[name] = v
				}
				if err := a.settle(); err != nil {
					return err
				}
			case "metadata":
				all := map[string]json.RawMessage{}
				for _, m := range []json.RawMessage{a.Fields[name], v} {
					if len(m) > 0 {
						if err := json.Unmarshal(m, &all); err != nil {
							return invalid("Invalid value for parameter 'assessment.metadata' supplied.")
						}
					}
				}
				a.set(name, all)
			case "rationale":
				// An expectation has none.
				if there && a.kind() != "expectation" {
					a.Fields[name] = v
				}
			case "assessment_name", "valid":
				if there {
					a.Fields[name] = v
				}
			}
		}
		a.set("last_update_time", s.now().UTC().Format("2006-01-02T15:04:05.000Z"))
		i.Assessments[at] = a
		return nil
	})
	return a, requestMissing(err, id)
}

// DeleteAssessment removes an assessment; one that is not there is no error.
// What it took the place of is valid again.
func (s *Service) DeleteAssessment(ctx context.Context, workspace, id, assessment string) error {
	_, err := s.change(ctx, workspace, id, func(i *Info) error {
		at := i.assessment(assessment)
		if at < 0 {
			return nil
		}
		if old := i.assessment(i.Assessments[at].text("overrides")); old >= 0 {
			i.Assessments[old].set("valid", true)
		}
		i.Assessments = slices.Delete(i.Assessments, at, at+1)
		return nil
	})
	if fault.Is(err, fault.Missing) {
		return nil
	}
	return err
}
