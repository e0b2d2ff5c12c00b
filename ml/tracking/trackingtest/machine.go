package trackingtest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lapis/fault"
	"lapis/ml/tracking"
)

// machine makes random calls and keeps what they must have led to in maps, as
// plainly as can be.
func machine(t *testing.T, s tracking.Store, fold func() error) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		m := &model{
			t: rt, store: s, service: tracking.New(s), fold: fold,
			workspace: fmt.Sprintf("%08d-0000-4000-8000-000000000009", n),
			runs:      map[string]*modelRun{}, experiments: map[string]*modelExperiment{},
		}
		m.newExperiment()
		for range 6 {
			m.newRun()
			m.log()
		}
		rt.Repeat(map[string]func(*rapid.T){
			"new experiment":     func(*rapid.T) { m.newExperiment() },
			"new run":            func(*rapid.T) { m.newRun() },
			"another run":        func(*rapid.T) { m.newRun() },
			"log":                func(*rapid.T) { m.log() },
			"log more":           func(*rapid.T) { m.log() },
			"change a param":     func(*rapid.T) { m.conflict() },
			"end a run":          func(*rapid.T) { m.end() },
			"delete a run":       func(*rapid.T) { m.deleteRun() },
			"restore a run":      func(*rapid.T) { m.restoreRun() },
			"delete a tag":       func(*rapid.T) { m.deleteTag() },
			"delete tags":        func(*rapid.T) { m.deleteTags() },
			"delete experiment":  func(*rapid.T) { m.deleteExperiment() },
			"restore experiment": func(*rapid.T) { m.restoreExperiment() },
			"purge a run":        func(*rapid.T) { m.purgeRun() },
			"purge experiment":   func(*rapid.T) { m.purgeExperiment() },
			"fold":               func(*rapid.T) { m.must(fold()) },
			"look at a run":      func(*rapid.T) { m.look() },
			"search":             func(*rapid.T) { m.search() },
			"search and write":   func(*rapid.T) { m.searchWhileWriting() },
			"count":              func(*rapid.T) { m.count() },
		})
	})
}

type model struct {
	t           *rapid.T
	store       tracking.Store
	service     *tracking.Service
	fold        func() error
	workspace   string
	made        int
	experiments map[string]*modelExperiment
	runs        map[string]*modelRun
}

type modelExperiment struct {
	id      string
	deleted bool
}

type modelRun struct {
	id, experiment, name string
	start, end           int64
	status               string
	deleted              bool
	with                 bool // deleted with its experiment
	params, tags         map[string]string
	metrics              map[string][]tracking.Point
}

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// refused wants a client's mistake.
func (m *model) refused(err error, what string) {
	m.t.Helper()
	if !fault.Is(err, fault.BadRequest) && !fault.Is(err, fault.Missing) && !fault.Is(err, fault.Conflict) {
		m.t.Fatalf("%s: %v, want a refusal", what, err)
	}
}

func (m *model) experiment() *modelExperiment {
	if len(m.experiments) == 0 {
		m.t.Skip("there is no experiment")
	}
	return m.experiments[rapid.SampledFrom(slices.Sorted(maps.Keys(m.experiments))).Draw(m.t, "experiment")]
}

func (m *model) run() *modelRun {
	if len(m.runs) == 0 {
		m.t.Skip("there is no run")
	}
	return m.runs[rapid.SampledFrom(slices.Sorted(maps.Keys(m.runs))).Draw(m.t, "run")]
}

func (m *model) newExperiment() {
	m.made++
	e, err := m.service.CreateExperiment(m.t.Context(), m.workspace, fmt.Sprint("e", m.made), "", nil)
	m.must(err)
	m.experiments[e.ID] = &modelExperiment{id: e.ID}
}

func (m *model) newRun() {
	e := m.experiment()
	r := &modelRun{experiment: e.id, start: int64(rapid.IntRange(0, 3).Draw(m.t, "start")), status: "RUNNING",
		name: rapid.SampledFrom([]string{"a", "b", "A"}).Draw(m.t, "name"), params: map[string]string{}, tags: map[string]string{}, metrics: map[string][]tracking.Point{}}
	d, err := m.service.CreateRun(m.t.Context(), m.workspace, tracking.NewRun{Experiment: e.id, Name: r.name, Start: r.start})
	if e.deleted {
		m.refused(err, "a run in a deleted experiment")
		return
	}
	m.must(err)
	r.id = d.ID
	m.runs[r.id] = r
}

// Few keys and values, so that they meet.
var (
	someKeys   = rapid.SampledFrom([]string{"k", "l", "train/loss"})
	someValues = rapid.SampledFrom([]string{"x", "y", "xy", "", "long" + strings.Repeat("z", 600), "é\"\\<"})
	someNumber = rapid.OneOf(rapid.Map(rapid.IntRange(-3, 3), func(i int) float64 { return float64(i) / 2 }), rapid.Just(math.NaN()))
)

func (m *model) batch() *tracking.Batch {
	b := &tracking.Batch{}
	for range rapid.IntRange(0, 6).Draw(m.t, "metrics") {
		b.Metrics = append(b.Metrics, tracking.Metric{Key: someKeys.Draw(m.t, "key"), Point: tracking.Point{
			Step: int64(rapid.IntRange(-2, 20).Draw(m.t, "step")), Time: int64(rapid.IntRange(0, 2).Draw(m.t, "time")), Value: someNumber.Draw(m.t, "value")}})
	}
	if rapid.Bool().Draw(m.t, "a param") {
		b.Params = append(b.Params, tracking.Tag{Key: someKeys.Draw(m.t, "key"), Value: someValues.Draw(m.t, "value")})
	}
	if rapid.Bool().Draw(m.t, "a tag") {
		b.Tags = append(b.Tags, tracking.Tag{Key: someKeys.Draw(m.t, "key"), Value: someValues.Draw(m.t, "value")})
	}
	return b
}

func (m *model) log() { m.logTo(m.run()) }

func (m *model) logTo(r *modelRun) {
	b := m.batch()
	err := m.service.LogBatch(m.t.Context(), m.workspace, r.id, b)
	for _, p := range b.Params {
		if old, ok := r.params[p.Key]; ok && old != p.Value {
			m.refused(err, "another value of a param")
			return // and nothing of the batch is there
		}
	}
	if r.deleted {
		m.refused(err, "a batch for a deleted run")
		return
	}
	m.must(err)
	for _, p := range b.Metrics {
		if !slices.ContainsFunc(r.metrics[p.Key], func(q tracking.Point) bool { return equal(q, p.Point) }) {
			r.metrics[p.Key] = append(r.metrics[p.Key], p.Point)
		}
	}
	for _, p := range b.Params {
		r.params[p.Key] = p.Value
	}
	for _, p := range b.Tags {
		r.tags[p.Key] = p.Value
	}
}

// conflict sends a batch of which a part cannot be stored.
func (m *model) conflict() {
	r := m.run()
	for k, v := range r.params {
		m.refused(m.service.LogBatch(m.t.Context(), m.workspace, r.id, &tracking.Batch{
			Metrics: []tracking.Metric{{Key: "never", Point: tracking.Point{Value: 1}}},
			Tags:    []tracking.Tag{{Key: "never", Value: "x"}},
			Params:  []tracking.Tag{{Key: k, Value: v + "!"}},
		}), "another value of a param")
	}
	m.compare(r)
}

func (m *model) end() {
	r := m.run()
	status, end := tracking.Completed, int64(rapid.IntRange(1, 9).Draw(m.t, "end"))
	_, err := m.service.UpdateRun(m.t.Context(), m.workspace, r.id, &status, &end, nil)
	if r.deleted {
		m.refused(err, "an update of a deleted run")
		return
	}
	m.must(err)
	r.status, r.end = "FINISHED", end
}

func (m *model) deleteRun() {
	r := m.run()
	m.must(m.service.DeleteRun(m.t.Context(), m.workspace, r.id))
	r.deleted = true
}

func (m *model) restoreRun() {
	r := m.run()
	m.must(m.service.RestoreRun(m.t.Context(), m.workspace, r.id))
	r.deleted, r.with = false, false
}

// deleteTags deletes a tag everywhere.
func (m *model) deleteTags() {
	key := someKeys.Draw(m.t, "key")
	for _, id := range slices.Sorted(maps.Keys(m.runs)) {
		m.deleteTagOf(m.runs[id], key)
	}
	left := map[string]bool{}
	for _, id := range m.pages(tracking.RunSearch{Experiments: slices.Collect(maps.Keys(m.experiments)), Filter: "tags.`" + key + "` IS NOT NULL", View: tracking.All, Limit: 100}, func() {}) {
		left[id] = true
	}
	for id, r := range m.runs {
		if _, ok := r.tags[key]; ok != left[id] {
			m.t.Fatalf("run %s is found by its tag %q: %v, want %v", id, key, left[id], ok)
		}
	}
}

func (m *model) deleteTag() { m.deleteTagOf(m.run(), someKeys.Draw(m.t, "key")) }

func (m *model) deleteTagOf(r *modelRun, key string) {
	err := m.service.DeleteTag(m.t.Context(), m.workspace, r.id, key)
	if _, ok := r.tags[key]; !ok || r.deleted {
		m.refused(err, "a tag that cannot be deleted")
		return
	}
	m.must(err)
	delete(r.tags, key)
}

func (m *model) deleteExperiment() {
	e := m.experiment()
	err := m.service.DeleteExperiment(m.t.Context(), m.workspace, e.id)
	if e.deleted {
		m.refused(err, "a deleted experiment")
		return
	}
	m.must(err)
	e.deleted = true
	for _, r := range m.runs {
		if r.experiment == e.id && !r.deleted {
			r.deleted, r.with = true, true
		}
	}
}

func (m *model) restoreExperiment() {
	e := m.experiment()
	err := m.service.RestoreExperiment(m.t.Context(), m.workspace, e.id)
	if !e.deleted {
		m.refused(err, "an active experiment")
		return
	}
	m.must(err)
	e.deleted = false
	for _, r := range m.runs {
		if r.experiment == e.id && r.with {
			r.deleted, r.with = false, false
		}
	}
}

func (m *model) purgeRun() {
	r := m.run()
	err := m.store.PurgeRun(m.t.Context(), m.workspace, r.id, true)
	if !r.deleted {
		m.refused(err, "an active run")
		return
	}
	m.must(err)
	delete(m.runs, r.id)
	if _, err := m.store.Detail(m.t.Context(), m.workspace, r.id); !fault.Is(err, fault.Missing) {
		m.t.Fatalf("a run that was removed for good: %v", err)
	}
	for _, key := range []string{"k", "l", "train/loss"} {
		if points, err := m.store.Series(m.t.Context(), m.workspace, r.id, key); err != nil || len(points) != 0 {
			m.t.Fatalf("points of a run that was removed for good: %v, %v", points, err)
		}
	}
}

func (m *model) purgeExperiment() {
	e := m.experiment()
	err := m.store.PurgeExperiment(m.t.Context(), m.workspace, e.id, true)
	if !e.deleted {
		m.refused(err, "an active experiment")
		return
	}
	m.must(err)
	delete(m.experiments, e.id)
	maps.DeleteFunc(m.runs, func(_ string, r *modelRun) bool { return r.experiment == e.id })
}

func (m *model) look() { m.compare(m.run()) }

// latest is the point that comes last by step, time and value.
func latest(points []tracking.Point) tracking.Point {
	best := points[0]
	for _, p := range points {
		if p.After(best) {
			best = p
		}
	}
	return best
}

func (m *model) compare(r *modelRun) {
	ctx := m.t.Context()
	d, err := m.store.Detail(ctx, m.workspace, r.id)
	m.must(err)
	m.compareDetail(d, r)
	for key, want := range r.metrics {
		got, err := m.store.Series(ctx, m.workspace, r.id, key)
		m.must(err)
		if len(got) != len(want) {
			m.t.Fatalf("%s has the points %v, want %v", key, got, want)
		}
		for i, p := range got {
			if !slices.ContainsFunc(want, func(q tracking.Point) bool { return equal(p, q) }) {
				m.t.Fatalf("%s has the points %v, want %v", key, got, want)
			}
			if i > 0 && (got[i-1].Step > p.Step || got[i-1].Step == p.Step && got[i-1].Time > p.Time) {
				m.t.Fatalf("%s is out of order: %v", key, got)
			}
		}
	}
}

func (m *model) compareDetail(d *tracking.Detail, r *modelRun) {
	if d.Name != r.name || d.Start != r.start || d.End != r.end || d.Status.MLflow() != r.status || (d.Deleted != 0) != r.deleted {
		m.t.Fatalf("run %+v, want %+v", d.Run, r)
	}
	if !maps.Equal(d.Params, r.params) && len(d.Params)+len(r.params) > 0 {
		m.t.Fatalf("params %v, want %v", d.Params, r.params)
	}
	tags := map[string]string{}
	d.EachTag(func(k, v string) {
		if k != tracking.TagName {
			tags[k] = v
		}
	})
	if !maps.Equal(tags, r.tags) {
		m.t.Fatalf("tags %v, want %v", tags, r.tags)
	}
	if len(d.Metrics) != len(r.metrics) {
		m.t.Fatalf("metrics %v, want %v", d.Metrics, r.metrics)
	}
	for key, want := range r.metrics {
		if p, ok := d.Latest(key); !ok || latest(want).After(p) || p.After(latest(want)) {
			m.t.Fatalf("the latest %s is %v, want %v", key, p, latest(want))
		}
	}
}

// clause draws a part of a filter, and what it means.
func (m *model) clause() (string, func(r *modelRun) bool) {
	t := m.t
	key := someKeys.Draw(t, "key")
	switch rapid.IntRange(0, 6).Draw(t, "clause") {
	case 0, 1:
		op := rapid.SampledFrom([]string{">", ">=", "<", "<=", "=", "!="}).Draw(t, "op")
		n := float64(rapid.IntRange(-3, 3).Draw(t, "number")) / 2
		return fmt.Sprintf("metrics.`%s` %s %v", key, op, n), func(r *modelRun) bool {
			if len(r.metrics[key]) == 0 {
				return false
			}
			v := latest(r.metrics[key]).Value // what is no number passes != alone
			return map[string]bool{">": v > n, ">=": v >= n, "<": v < n, "<=": v <= n, "=": v == n, "!=": v != n}[op]
		}
	case 2, 3:
		of, group := func(r *modelRun) map[string]string { return r.params }, "params"
		if rapid.Bool().Draw(t, "of tags") {
			of, group = func(r *modelRun) map[string]string { return r.tags }, "tags"
		}
		switch rapid.IntRange(0, 4).Draw(t, "op") {
		case 0:
			return fmt.Sprintf("%s.`%s` = 'x'", group, key), func(r *modelRun) bool { v, ok := of(r)[key]; return ok && v == "x" }
		case 1:
			return fmt.Sprintf("%s.`%s` != 'x'", group, key), func(r *modelRun) bool { v, ok := of(r)[key]; return ok && v != "x" }
		case 2:
			return fmt.Sprintf("%s.`%s` LIKE '%%zz'", group, key), func(r *modelRun) bool { return strings.HasSuffix(of(r)[key], "zz") }
		case 3:
			return fmt.Sprintf("%s.`%s` IS NULL", group, key), func(r *modelRun) bool { _, ok := of(r)[key]; return !ok }
		}
		return fmt.Sprintf("%s.`%s` IS NOT NULL", group, key), func(r *modelRun) bool { _, ok := of(r)[key]; return ok }
	case 4:
		return "attributes.status = 'FINISHED'", func(r *modelRun) bool { return r.status == "FINISHED" }
	case 5:
		return "attributes.run_name ILIKE 'a'", func(r *modelRun) bool { return strings.EqualFold(r.name, "a") }
	}
	return "attributes.start_time > 1", func(r *modelRun) bool { return r.start > 1 }
}

// sortKey is something to sort by: what is missing comes last, NaN before it.
type sortKey struct {
	rank   int
	number float64
	text   string
}

// order draws an order, and what it sorts by.
func (m *model) order() (string, func(a, b *modelRun) int) {
	t := m.t
	key := someKeys.Draw(t, "key")
	var of func(r *modelRun) sortKey
	var name string
	switch rapid.IntRange(0, 3).Draw(t, "order") {
	case 0, 1:
		name = "metrics.`" + key + "`"
		of = func(r *modelRun) sortKey {
			if len(r.metrics[key]) == 0 {
				return sortKey{rank: 2}
			}
			v := latest(r.metrics[key]).Value
			if v != v {
				return sortKey{rank: 1}
			}
			return sortKey{number: v}
		}
	case 2:
		name = "params.`" + key + "`"
		of = func(r *modelRun) sortKey {
			v, ok := r.params[key]
			if !ok {
				return sortKey{rank: 2}
			}
			return sortKey{text: v}
		}
	default:
		name = "attributes.end_time"
		of = func(r *modelRun) sortKey {
			if r.end == 0 {
				return sortKey{rank: 2}
			}
			return sortKey{number: float64(r.end)}
		}
	}
	sign := 1
	if rapid.Bool().Draw(t, "descending") {
		name, sign = name+" DESC", -1
	}
	return name, func(a, b *modelRun) int {
		x, y := of(a), of(b)
		if x.rank != y.rank {
			return cmp.Compare(x.rank, y.rank)
		}
		return sign * cmp.Or(cmp.Compare(x.number, y.number), strings.Compare(x.text, y.text))
	}
}

// query draws a search and returns it with the runs that it must find, in order.
func (m *model) query() (tracking.RunSearch, func() []*modelRun) {
	var filters []string
	var passes []func(*modelRun) bool
	for range rapid.IntRange(0, 2).Draw(m.t, "clauses") {
		f, pass := m.clause()
		filters, passes = append(filters, f), append(passes, pass)
	}
	var orders []string
	var compares []func(a, b *modelRun) int
	for range rapid.IntRange(0, 2).Draw(m.t, "orders") {
		o, compare := m.order()
		if !slices.ContainsFunc(orders, func(had string) bool { return strings.Fields(had)[0] == strings.Fields(o)[0] }) {
			orders, compares = append(orders, o), append(compares, compare)
		}
	}
	var of []string
	for id := range m.experiments {
		if rapid.Bool().Draw(m.t, "experiment") {
			of = append(of, id)
		}
	}
	q := tracking.RunSearch{Experiments: of, Filter: strings.Join(filters, " AND "), Order: orders,
		View: rapid.SampledFrom([]tracking.View{tracking.ActiveOnly, tracking.DeletedOnly, tracking.All}).Draw(m.t, "view"), Limit: rapid.IntRange(1, 4).Draw(m.t, "limit")}
	return q, func() (want []*modelRun) {
		for _, r := range m.runs {
			if !slices.Contains(of, r.experiment) || q.View == tracking.ActiveOnly && r.deleted || q.View == tracking.DeletedOnly && !r.deleted {
				continue
			}
			if !slices.ContainsFunc(passes, func(pass func(*modelRun) bool) bool { return !pass(r) }) {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, func(a, b *modelRun) int {
			for _, compare := range compares {
				if c := compare(a, b); c != 0 {
					return c
				}
			}
			return cmp.Or(cmp.Compare(b.start, a.start), strings.Compare(a.id, b.id))
		})
		return want
	}
}

// pages follows a search to its end; between is called between two pages.
func (m *model) pages(q tracking.RunSearch, between func()) (ids []string) {
	for n := 0; ; n++ {
		page, next, err := m.service.SearchRuns(m.t.Context(), m.workspace, q)
		m.must(err)
		if len(page) > q.Limit {
			m.t.Fatalf("a page of %d runs, want at most %d", len(page), q.Limit)
		}
		for _, d := range page {
			ids = append(ids, d.ID)
			m.compareDetail(d, m.runs[d.ID])
		}
		if next == "" {
			return ids
		}
		if n > 1000 {
			m.t.Fatal("the pages of a search have no end")
		}
		q.Page = next
		between()
	}
}

func (m *model) search() {
	q, found := m.query()
	var want []string
	for _, r := range found() {
		want = append(want, r.id)
	}
	if got := m.pages(q, func() {}); !slices.Equal(got, want) {
		m.t.Fatalf("%q by %q of %v found %v, want %v", q.Filter, q.Order, q.Experiments, got, want)
	}
}

// searchWhileWriting looks for runs while others come and change: those that
// stay as they are must each be found once.
func (m *model) searchWhileWriting() {
	q, found := m.query()
	before := found()
	changed := map[string]bool{}
	q.Limit = 1
	got := m.pages(q, func() {
		for range rapid.IntRange(0, 2).Draw(m.t, "writes") {
			r := m.run()
			changed[r.id] = true
			m.logTo(r)
		}
		if rapid.Bool().Draw(m.t, "fold") {
			m.must(m.fold())
		}
	})
	times := map[string]int{}
	for _, id := range got {
		times[id]++
	}
	for _, r := range before {
		if !changed[r.id] && times[r.id] != 1 {
			m.t.Fatalf("%q by %q found a run that nobody changed %d times", q.Filter, q.Order, times[r.id])
		}
		delete(times, r.id)
	}
	for id := range times {
		if !changed[id] {
			m.t.Fatalf("%q by %q found a run that does not pass", q.Filter, q.Order)
		}
	}
}

func (m *model) count() {
	e := m.experiment()
	tallies, err := m.store.Tallies(m.t.Context(), m.workspace, []string{e.id})
	m.must(err)
	want := tracking.Tally{Experiment: e.id, Name: tallies[0].Name, Points: tallies[0].Points}
	var points int64
	for _, r := range m.runs {
		if r.experiment != e.id {
			continue
		}
		if r.deleted {
			want.Deleted++
		} else {
			want.Active++
		}
		want.Metrics += int64(len(r.metrics))
		for _, p := range r.metrics {
			points += int64(len(p))
		}
	}
	if tallies[0] != want || want.Points < points {
		m.t.Fatalf("counts %+v, want %+v and at least %d points", tallies[0], want, points)
	}
}
