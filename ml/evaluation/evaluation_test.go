package evaluation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml/evaluation"
	"lapis/ml/tracking"
)

const home = "10000000-0000-4000-8000-000000000001"

// world is the service over a database, with two experiments.
type world struct {
	*evaluation.Service
	t           *testing.T
	runs        *tracking.Service
	first, last string // experiments
}

func newWorld(t *testing.T) *world {
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	kept, err := sqldb.NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, runs: tracking.New(kept)}
	w.Service = evaluation.New(sqldb.NewEvaluation(db), w.runs)
	w.first, w.last = w.experiment("first"), w.experiment("last")
	return w
}

func (w *world) ctx() context.Context { return w.t.Context() }

func (w *world) experiment(name string) string {
	w.t.Helper()
	e, err := w.runs.CreateExperiment(w.ctx(), home, name, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return e.ID
}

func (w *world) dataset(name string, tags map[string]string, experiments ...string) evaluation.Dataset {
	w.t.Helper()
	d, err := w.CreateDataset(w.ctx(), home, name, experiments, tags)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func records(texts ...string) []evaluation.NewRecord {
	var all []evaluation.NewRecord
	for _, text := range texts {
		var r evaluation.NewRecord
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			panic(err)
		}
		all = append(all, r)
	}
	return all
}

func TestARecordIsTheOneWithTheSameInputs(t *testing.T) {
	w := newWorld(t)
	d := w.dataset("d", map[string]string{"mlflow.user": "eve"}, w.first)
	if d.CreatedBy != "eve" || !strings.HasPrefix(d.ID, "d-") {
		t.Errorf("%+v", d)
	}
	for _, x := range []struct {
		records           []evaluation.NewRecord
		inserted, updated int
	}{
		{records(`{"inputs":{"a":1,"b":[2]},"expectations":{"x":1},"tags":{"t":"1"}}`, `{"inputs":{"q":"other"}}`), 2, 0},
		{records(`{"inputs":{"b":[2],"a":1},"expectations":{"y":2},"tags":{"u":"2"},"outputs":"new"}`), 0, 1},
		{records(`{"inputs":{"n":1}}`, `{"inputs":{"n":1},"tags":{"z":"1"}}`), 1, 1},
		{nil, 0, 0},
	} {
		inserted, updated, err := w.Upsert(w.ctx(), home, d.ID, x.records)
		if err != nil || inserted != x.inserted || updated != x.updated {
			t.Errorf("%v: %d inserted and %d updated, want %d and %d", err, inserted, updated, x.inserted, x.updated)
		}
	}
	list, next, err := w.Records(w.ctx(), home, d.ID, "", 10)
	if err != nil || next != "" || len(list) != 3 {
		t.Fatalf("%v: %d records, then %q", err, len(list), next)
	}
	r := list[0]
	if string(r.Expectations["x"]) != "1" || string(r.Expectations["y"]) != "2" || r.Tags["t"] != "1" || r.Tags["u"] != "2" || !strings.HasPrefix(r.ID, "dr-") {
		t.Errorf("%+v", r)
	}
	if list[2].Tags["z"] != "1" {
		t.Errorf("twice in one request: %+v", list[2])
	}
	n, err := w.DeleteRecords(w.ctx(), home, d.ID, []string{r.ID, r.ID, "dr-nothing"})
	if list, _, err2 := w.Records(w.ctx(), home, d.ID, "", 10); err != nil || err2 != nil || n != 1 || len(list) != 2 {
		t.Errorf("%v %v: %d deleted, %d left", err, err2, n, len(list))
	}
}

func TestRecordsThatAreAddedAtOnceAreAllThere(t *testing.T) {
	w := newWorld(t)
	d := w.dataset("d", nil)
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			_, _, err := w.Upsert(w.ctx(), home, d.ID, records(fmt.Sprintf(`{"inputs":{"i":%d}}`, i), `{"inputs":{"i":"same"}}`))
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	got, err := w.Dataset(w.ctx(), home, d.ID)
	if err != nil || !strings.Contains(got.Profile, `"num_records":11`) {
		t.Errorf("%v: %s", err, got.Profile)
	}
	if list, _, err := w.Records(w.ctx(), home, d.ID, "", 100); err != nil || len(list) != 11 {
		t.Errorf("%v: %d records", err, len(list))
	}
}

func TestDatasetsAreFoundByExperimentNameAndTag(t *testing.T) {
	w := newWorld(t)
	w.dataset("alpha", map[string]string{"k": "v"}, w.first)
	b := w.dataset("beta", nil, w.last)
	w.dataset("gamma", map[string]string{"k": "w", "mlflow.user": "eve"}, w.first, w.last)
	for _, x := range []struct {
		experiments []string
		filter      string
		order       string
		want        string
	}{
		{nil, "", "name", "alpha beta gamma"},
		{nil, "", "name DESC", "gamma beta alpha"},
		{[]string{w.first}, "", "name", "alpha gamma"},
		{[]string{w.last}, "name LIKE 'b%'", "name", "beta"},
		{nil, "tags.k = 'v'", "name", "alpha"},
		{nil, "tags.k != 'v'", "name", "gamma"},
		{nil, "created_by = 'eve'", "name", "gamma"},
		{nil, "name ILIKE '%A' AND created_time > 0", "name", "alpha beta gamma"},
		{[]string{"999"}, "", "name", ""},
	} {
		var got []string
		for page := ""; ; {
			found, next, err := w.Search(w.ctx(), home, x.experiments, x.filter, []string{x.order}, 1, page)
			if err != nil {
				t.Fatalf("%+v: %v", x, err)
			}
			for _, d := range found {
				got = append(got, d.Name)
			}
			if page = next; page == "" {
				break
			}
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("%q of %v by %q: %s, want %s", x.filter, x.experiments, x.order, s, x.want)
		}
	}
	for _, filter := range []string{"nope = 'x'", "name > 'x'", "name =", "tags.k = 1", "name = 'a' OR name = 'b'"} {
		if _, _, err := w.Search(w.ctx(), home, nil, filter, nil, 1, ""); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%s: %v", filter, err)
		}
	}
	if _, _, err := w.Search(w.ctx(), home, nil, "", nil, 1, "!!"); !fault.Is(err, fault.BadRequest) {
		t.Errorf("a bad token: %v", err)
	}
	moved, err := w.Move(w.ctx(), home, b.ID, []string{w.first}, true)
	if err != nil || strings.Join(moved.Experiments, " ") != w.last+" "+w.first {
		t.Errorf("%v: %v", err, moved.Experiments)
	}
	if moved, err = w.Move(w.ctx(), home, b.ID, []string{w.last, "999"}, false); err != nil || strings.Join(moved.Experiments, " ") != w.first {
		t.Errorf("%v: %v", err, moved.Experiments)
	}
	if _, err := w.Move(w.ctx(), home, b.ID, []string{"999"}, true); !fault.Is(err, fault.Missing) {
		t.Errorf("to no experiment: %v", err)
	}
	v := "1"
	if err := w.SetTags(w.ctx(), home, b.ID, map[string]*string{"x": &v, "k": nil}); err != nil {
		t.Error(err)
	}
	if d, err := w.Dataset(w.ctx(), home, b.ID); err != nil || d.Tags["x"] != "1" {
		t.Errorf("%v: %v", err, d.Tags)
	}
	if err := w.SetTags(w.ctx(), home, b.ID, map[string]*string{strings.Repeat("k", 300): &v}); !fault.Is(err, fault.BadRequest) {
		t.Errorf("a long key: %v", err)
	}
}

func TestAScorerHasVersionsAndNoCode(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		x, err := w.AddScorer(w.ctx(), home, w.first, "s", fmt.Sprintf(`{"n":%d}`, i))
		if err != nil || x.Version != int64(i+1) {
			t.Errorf("%v: %+v", err, x)
		}
	}
	if _, err := w.AddScorer(w.ctx(), home, w.last, "s", `{"n":"last"}`); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[int64]string{0: `{"n":2}`, 1: `{"n":0}`, 3: `{"n":2}`} {
		if x, err := w.Scorer(w.ctx(), home, w.first, "s", version); err != nil || x.Body != want {
			t.Errorf("version %d: %v %s, want %s", version, err, x.Body, want)
		}
	}
	if list, err := w.Scorers(w.ctx(), home, nil); err != nil || len(list) != 2 || list[0].Version != 3 || list[1].Version != 1 {
		t.Errorf("%v: %+v", err, list)
	}
	for _, x := range []struct {
		experiment, name, body string
		kind                   fault.Kind
	}{
		{w.first, "c", `{"call_source":"import os"}`, fault.BadRequest},
		{w.first, "c", `nonsense`, fault.BadRequest},
		{w.first, "c", `[1]`, fault.BadRequest},
		{w.first, " ", `{}`, fault.BadRequest},
		{"999", "c", `{}`, fault.Missing},
		{"x", "c", `{}`, fault.BadRequest},
	} {
		if _, err := w.AddScorer(w.ctx(), home, x.experiment, x.name, x.body); !fault.Is(err, x.kind) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if err := w.DeleteScorer(w.ctx(), home, w.first, "s", 3); err != nil {
		t.Error(err)
	}
	if x, err := w.Scorer(w.ctx(), home, w.first, "s", 0); err != nil || x.Version != 2 {
		t.Errorf("%v: the newest is %d", err, x.Version)
	}
	for _, version := range []int64{3, 9} {
		if err := w.DeleteScorer(w.ctx(), home, w.first, "s", version); !fault.Is(err, fault.Missing) {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if err := w.runs.DeleteExperiment(w.ctx(), home, w.first); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddScorer(w.ctx(), home, w.first, "s", `{}`); !fault.Is(err, fault.BadRequest) {
		t.Errorf("in a deleted experiment: %v", err)
	}
	if list, err := w.Scorers(w.ctx(), home, nil); err != nil || len(list) != 1 || list[0].Experiment != w.last {
		t.Errorf("%v: %+v", err, list)
	}
}
