package trace

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml/tracking"
)

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
	var orders []tracking.Order
	for _, text := range q.Order {
		o, err := tracking.TraceGrammar.ParseOrder(text)
		if err != nil {
			return nil, "", err
		}
		if slices.ContainsFunc(orders, func(x tracking.Order) bool { return x.Of() == o.Of() && x.Key == o.Key }) {
			return nil, "", invalid("`order_by` contains duplicate fields: ['%s']", strings.Join(q.Order, "', '"))
		}
		orders = append(orders, o)
	}
	f, err := s.filter(ctx, workspace, q.Experiments, q.Filter)
	if err != nil {
		return nil, "", err
	}
	from, err := parsePage(q.Page)
	if err != nil {
		return nil, "", err
	}
	var found []*Info
	enough := -1 // how many are wanted; -1 = all
	err = f.each(func(i *Info) (bool, error) {
		found = append(found, i)
		// The store gives them in the order that is wanted if none is named: the
		// last that was shown is passed, or it is gone and the place counts.
		if len(orders) == 0 && enough < 0 && (from.After == "" || i.ID == from.After) {
			enough = q.Limit + from.Offset
			if from.After != "" {
				enough = q.Limit + len(found)
			}
		}
		return enough < 0 || len(found) <= enough, nil
	})
	if err != nil {
		return nil, "", err
	}
	if len(orders) > 0 {
		slices.SortStableFunc(found, func(a, b *Info) int {
			for _, o := range orders {
				if c := o.Compare(a.sortValue(&o), b.sortValue(&o)); c != 0 {
					return c
				}
			}
			return cmp.Or(cmp.Compare(b.Start, a.Start), strings.Compare(a.ID, b.ID))
		})
	}
	start := min(from.Offset, len(found))
	if from.After != "" {
		// Traces may have come and gone since: go on after the last one shown.
		if i := slices.IndexFunc(found, func(i *Info) bool { return i.ID == from.After }); i >= 0 {
			start = i + 1
		}
	}
	page := found[start:]
	if len(page) < q.Limit {
		return page, "", nil
	}
	page = page[:q.Limit]
	// MLflow names a next page when this one is full, even if that is empty.
	token, err := json.Marshal(pageToken{start + q.Limit, page[len(page)-1].ID})
	return page, base64.StdEncoding.EncodeToString(token), err
}

// pageToken says where the next page begins.
type pageToken struct {
	Offset int    `json:"offset"`
	After  string `json:"after,omitempty"` // the last trace shown
}

func parsePage(token string) (t pageToken, err error) {
	if token == "" {
		return t, nil
	}
	text, err := base64.StdEncoding.DecodeString(token)
	if err != nil {
		return t, invalid("Invalid page token, could not base64-decode")
	}
	if json.Unmarshal(text, &t) != nil || t.Offset < 0 {
		return t, invalid("Invalid page token, decoded value=%q", text)
	}
	return t, nil
}

// experiments are those of the ids that exist.
func (s *Service) experiments(ctx context.Context, workspace string, ids []string) (found []string, err error) {
	for _, id := range ids {
		e, err := s.runs.Experiment(ctx, workspace, id)
		if fault.Is(err, fault.Missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(found, e.ID) {
			found = append(found, e.ID)
		}
	}
	return found, nil
}

// filter is a filter over the traces of some experiments.
type filter struct {
	service     *Service
	ctx         context.Context
	workspace   string
	experiments []string
	clauses     []tracking.Clause
	spans       []*tracking.Clause // those that one span must pass all of
	run         string             // the run that traces belong to or are linked to

	// sessions[n] are the sessions that an assessment of a whole session brings
	// under clause n.
	sessions map[int]map[string]bool
}

// filter parses a filter.
func (s *Service) filter(ctx context.Context, workspace string, experiments []string, text string) (*filter, error) {
	clauses, err := tracking.TraceGrammar.Parse(text)
	if err != nil {
		return nil, err
	}
	f := &filter{service: s, ctx: ctx, workspace: workspace, clauses: clauses, sessions: map[int]map[string]bool{}}
	if f.experiments, err = s.experiments(ctx, workspace, experiments); err != nil {
		return nil, err
	}
	assessed := false
	for n := range clauses {
		c := &clauses[n]
		switch c.Of() {
		case tracking.OfSpan:
			f.spans = append(f.spans, c)
		case tracking.OfMetadata:
			if c.Key == MetaRun && c.Op == "=" {
				f.run = c.Text // of several the last holds, as in MLflow
			}
		case tracking.OfFeedback, tracking.OfExpectation:
			assessed = true
			f.sessions[n] = map[string]bool{}
		}
	}
	if !assessed {
		return f, nil
	}
	return f, s.store.EachTrace(ctx, workspace, f.experiments, func(i *Info) (bool, error) {
		session := i.Metadata[MetaSession]
		if session == "" {
			return true, nil
		}
		for n, under := range f.sessions {
			for k := range i.Assessments {
				if a := &i.Assessments[k]; a.ofSession() && a.named(&clauses[n]) && a.passes(&clauses[n]) {
					under[session] = true
				}
			}
		}
		return true, nil
	})
}

// each calls visit with the traces that pass, the newest first.
func (f *filter) each(visit func(*Info) (bool, error)) error {
	return f.service.store.EachTrace(f.ctx, f.workspace, f.experiments, func(i *Info) (bool, error) {
		ok, err := f.passes(i)
		if err != nil || !ok {
			return true, err
		}
		return visit(i)
	})
}

// passes tells whether a trace passes all clauses.
func (f *filter) passes(i *Info) (bool, error) {
	for n := range f.clauses {
		c := &f.clauses[n]
		ok := true
		switch c.Of() {
		case tracking.OfTag:
			if c.Key == "mlflow.linkedPrompts" {
				ok = slices.Contains(i.Prompts, c.Text)
				break
			}
			v, there := i.Tags[c.Key]
			ok = c.MatchesKey(v, there)
		case tracking.OfMetadata:
			if c.Key == MetaRun && c.Op == "=" {
				ok = i.Metadata[MetaRun] == f.run || slices.Contains(i.Runs, f.run)
				break
			}
			v, there := i.Metadata[c.Key]
			ok = c.MatchesKey(v, there)
		case tracking.OfFeedback, tracking.OfExpectation:
			ok = i.assessed(c, f.sessions[n])
		case tracking.OfIssue:
			ok = slices.ContainsFunc(i.Assessments, func(a Assessment) bool {
				return a.kind() == "issue" && c.Matches(a.text("assessment_name"))
			})
		case tracking.OfSpan:
		default:
			ok = i.attribute(c)
		}
		if !ok {
			return false, nil
		}
	}
	if len(f.spans) == 0 {
		return true, nil
	}
	spans, err := f.service.store.Spans(f.ctx, f.workspace, i.ID)
	if err != nil {
		return false, err
	}
	for n := range spans {
		all := true
		for _, c := range f.spans {
			if all = spans[n].passes(c); !all {
				break
			}
		}
		if all {
			return true, nil
		}
	}
	return false, nil
}

func (i *Info) attribute(c *tracking.Clause) bool {
	switch c.Key {
	case "timestamp":
		return c.MatchesNumber(float64(i.Start))
	case "execution_time":
		return i.Duration >= 0 && c.MatchesNumber(float64(i.Duration))
	case "end_time":
		return c.MatchesNumber(float64(i.Start + max(i.Duration, 0)))
	case "request_id":
		return c.Matches(i.ID)
	case "status":
		return c.Matches(i.State)
	case "client_request_id":
		return i.ClientRequest != nil && c.Matches(*i.ClientRequest)
	}
	return false
}

// sortValue is what a trace is sorted by.
func (i *Info) sortValue(o *tracking.Order) tracking.Value {
	switch o.Of() {
	case tracking.OfTag:
		v, there := i.Tags[o.Key]
		return tracking.Value{Text: v, Missing: !there}
	case tracking.OfMetadata:
		v, there := i.Metadata[o.Key]
		return tracking.Value{Text: v, Missing: !there}
	}
	switch o.Key {
	case "timestamp":
		return tracking.Value{Number: float64(i.Start)}
	case "execution_time":
		return tracking.Value{Number: float64(i.Duration), Missing: i.Duration < 0}
	case "end_time":
		return tracking.Value{Number: float64(i.Start + max(i.Duration, 0))}
	case "experiment_id":
		n, _ := strconv.ParseInt(i.Experiment, 10, 64)
		return tracking.Value{Number: float64(n)}
	case "status":
		return tracking.Value{Text: i.State}
	}
	return tracking.Value{Text: i.ID}
}

// named tells whether an assessment is one that a clause speaks of.
func (a *Assessment) named(c *tracking.Clause) bool {
	return a.kind() == c.Of() && a.text("assessment_name") == c.Key && a.valid()
}

// assessed tells whether an assessment of the clause's name passes, or one of
// the session that the trace is part of.
func (i *Info) assessed(c *tracking.Clause, sessions map[string]bool) bool {
	session := i.Metadata[MetaSession]
	there := session != "" && sessions[session]
	for n := range i.Assessments {
		if there {
			break
		}
		a := &i.Assessments[n]
		there = a.named(c) && a.passes(c)
	}
	if c.Op == "IS NULL" {
		return !there
	}
	return there
}

// passes tells whether what an assessment says passes; that there is one
// passes IS NULL too, which its caller turns round.
func (a *Assessment) passes(c *tracking.Clause) bool {
	if c.Op == "IS NULL" || c.Op == "IS NOT NULL" {
		return true
	}
	if c.IsNumeric {
		n, plain, ok := a.number()
		return ok && plain && c.MatchesNumber(n)
	}
	v := a.value()
	if v == nil {
		return false
	}
	text := string(appendJSON(nil, v))
	switch c.Op {
	case "=":
		return text == c.Text || text == string(appendText(nil, []byte(c.Text)))
	case "!=":
		return text != c.Text && text != string(appendText(nil, []byte(c.Text)))
	}
	return c.Matches(text)
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
		kind, ok := s.kind()
		return ok && c.Matches(kind)
	}
	switch c.Op {
	case "LIKE", "ILIKE", "RLIKE":
		return c.Matches(s.text())
	}
	// MLflow compares with the JSON of the whole span, which never is the same.
	v := s.attribute(strings.Trim(strings.TrimPrefix(c.Key, "attributes."), "`"))
	switch {
	case v == nil:
		return false
	case c.Op == "!=" || c.Op == "NOT IN":
		return c.Matches(v.plain()) && c.Matches(v.stored())
	}
	return c.Matches(v.plain()) || c.Matches(v.stored())
}
