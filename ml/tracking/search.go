package tracking

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// RunSearch is one page of a search of runs.
type RunSearch struct {
	Experiments []string
	Filter      string
	View        View
	Order       []string
	Limit       int
	Page        string
}

// SearchRuns finds runs. The details are shared: they must not be changed.
func (s *Service) SearchRuns(ctx context.Context, workspace string, q RunSearch) (page []*Detail, next string, err error) {
	page, _, next, err = s.find(ctx, []Source{{Workspace: workspace, Experiments: q.Experiments}}, q)
	return page, next, err
}

// find returns one page of the runs of some sources, and how many there are on
// all pages.
func (s *Service) find(ctx context.Context, sources []Source, q RunSearch) (page []*Detail, total int, next string, err error) {
	clauses, err := RunGrammar.Parse(q.Filter)
	if err != nil {
		return nil, 0, "", err
	}
	order, err := runOrders.orders(q.Order)
	if err != nil {
		return nil, 0, "", err
	}
	t, err := parseToken(q.Page)
	if err != nil {
		return nil, 0, "", err
	}
	var found []match
	add := func(d *Detail) {
		if q.View.shows(d.Deleted) && d.passes(clauses) {
			m := match{run: d}
			if len(order) > 0 {
				m.first = d.value(order[0])
			}
			found = append(found, m)
		}
	}
	for _, src := range sources {
		if len(src.Runs) > 0 {
			seen := map[string]bool{}
			for _, id := range src.Runs {
				d, err := s.store.Detail(ctx, src.Workspace, id)
				if err != nil {
					return nil, 0, "", err
				}
				if !seen[d.ID] {
					seen[d.ID] = true
					add(d)
				}
			}
			continue
		}
		experiments := make([]string, 0, len(src.Experiments))
		for _, id := range src.Experiments {
			id, err := s.resolve(ctx, src.Workspace, id)
			if err != nil {
				continue // what cannot be an experiment has no runs
			}
			experiments = append(experiments, id)
		}
		err = s.store.Scan(ctx, src.Workspace, experiments, func(d *Detail) bool { add(d); return true })
		if err != nil {
			return nil, 0, "", err
		}
	}
	compare := func(a, b match) int {
		for i, o := range order {
			x, y := a.first, b.first
			if i > 0 {
				x, y = a.run.value(o), b.run.value(o)
			}
			if c := o.compare(x, y); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(b.run.Start, a.run.Start), strings.Compare(a.run.ID, b.run.ID))
	}
	if q.Page == "" && q.Limit > 0 && len(found) > 4*q.Limit {
		first := best(found, q.Limit, compare)
		page = make([]*Detail, len(first))
		for i, m := range first {
			page[i] = m.run
		}
		return page, len(found), offsetToken{Offset: q.Limit, After: page[len(page)-1].ID}.String(), nil
	}
	slices.SortFunc(found, compare)
	matches, next := paged(found, t, q.Limit, func(m match) string { return m.run.ID })
	page = make([]*Detail, len(matches))
	for i, m := range matches {
		page[i] = m.run
	}
	return page, len(found), next, nil
}

// match is a run that a search found, with the first thing to sort it by.
type match struct {
	run   *Detail
	first sortValue
}

// best returns the n first of a list, sorted, in one pass with a heap.
func best(list []match, n int, compare func(a, b match) int) []match {
	heap := slices.Clone(list[:n]) // the worst of the best on top
	sift := func(i int) {
		for {
			worst := i
			for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
				if compare(heap[c], heap[worst]) > 0 {
					worst = c
				}
			}
			if worst == i {
				return
			}
			heap[i], heap[worst] = heap[worst], heap[i]
			i = worst
		}
	}
	for i := n/2 - 1; i >= 0; i-- {
		sift(i)
	}
	for _, m := range list[n:] {
		if compare(m, heap[0]) < 0 {
			heap[0] = m
			sift(0)
		}
	}
	slices.SortFunc(heap, compare)
	return heap
}

func (d *Detail) passes(clauses []Clause) bool {
	for i := range clauses {
		if !d.pass(&clauses[i]) {
			return false
		}
	}
	return true
}

func (d *Detail) pass(c *Clause) bool {
	switch c.of {
	case metric:
		p, ok := d.Latest(c.Key)
		return ok && c.MatchesNumber(p.Value)
	case param:
		v, ok := d.Params[c.Key]
		return c.matchesKey(v, ok)
	case tag:
		v, ok := d.Tag(c.Key)
		return c.matchesKey(v, ok)
	case datasetOf:
		for _, in := range d.Datasets {
			switch c.Key {
			case "name":
				if c.Matches(in.Dataset.Name) {
					return true
				}
			case "digest":
				if c.Matches(in.Dataset.Digest) {
					return true
				}
			case "context":
				for _, t := range in.Tags {
					if t.Key == "mlflow.data.context" && c.Matches(t.Value) {
						return true
					}
				}
			}
		}
		return false
	}
	switch c.Key {
	case "start_time":
		return c.MatchesNumber(float64(d.Start))
	case "end_time":
		return d.End != 0 && c.MatchesNumber(float64(d.End))
	}
	v, _ := d.attribute(c.Key)
	return c.Matches(v)
}

// attribute is a string attribute of a run.
func (d *Detail) attribute(key string) (string, bool) {
	switch key {
	case "run_id":
		return d.ID, true
	case "run_name":
		return d.Name, true
	case "status":
		return d.Status.MLflow(), true
	case "user_id":
		return d.User, true
	case "artifact_uri":
		return d.Artifact, true
	}
	return "", false
}

func (d *Detail) value(o Order) sortValue {
	switch o.of {
	case metric:
		p, ok := d.Latest(o.Key)
		if !ok {
			return sortValue{rank: 2}
		}
		return numberValue(p.Value)
	case param:
		v, ok := d.Params[o.Key]
		return textValue(v, ok)
	case tag:
		v, ok := d.Tag(o.Key)
		return textValue(v, ok)
	}
	switch o.Key {
	case "start_time":
		return numberValue(float64(d.Start))
	case "end_time":
		if d.End == 0 {
			return sortValue{rank: 2}
		}
		return numberValue(float64(d.End))
	}
	return textValue(d.attribute(o.Key))
}
