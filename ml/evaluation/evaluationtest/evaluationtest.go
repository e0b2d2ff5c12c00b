// Package evaluationtest is the suite that every evaluation.Store passes.
package evaluationtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"lapis/fault"
	"lapis/ml/evaluation"
)

// Subject is a fresh, empty store. Reopen closes it and opens it again, as a
// restart of the server does.
type Subject struct {
	Store  evaluation.Store
	Reopen func() evaluation.Store
}

// Run tests the stores that make makes.
func Run(t *testing.T, make func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Subject)
	}{
		{"a dataset comes back as it was stored, also after a restart", comesBack},
		{"what is not there is missing", missing},
		{"workspaces do not see each other's datasets", apart},
		{"records change with their dataset, or neither does", together},
		{"changes that happen at once are all kept", atOnce},
		{"pages hold every record once, oldest first", paging},
		{"a dataset takes its records along", deleted},
		{"versions of a scorer count up and are listed in their order", scorers},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { c.test(t, make(t)) })
	}
}

const home = "10000000-0000-4000-8000-000000000001"

func dataset(id string) evaluation.Dataset {
	return evaluation.Dataset{Workspace: home, ID: id, Name: "name of " + id, Tags: map[string]string{"k": "v é"}, Schema: "{}", Profile: `{"num_records":0}`,
		Digest: "d", Created: 1, Updated: 2, CreatedBy: "eve", UpdatedBy: "bob", Experiments: []string{"1", "2"}}
}

func create(t *testing.T, s evaluation.Store, id string) evaluation.Dataset {
	t.Helper()
	d := dataset(id)
	if err := s.CreateDataset(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// put adds records whose inputs are their names.
func put(t *testing.T, s evaluation.Store, id string, names ...string) {
	t.Helper()
	_, err := s.ChangeDataset(t.Context(), home, id, names, func(*evaluation.Dataset, map[string]*evaluation.Record) ([]evaluation.Hashed, error) {
		var list []evaluation.Hashed
		for _, n := range names {
			list = append(list, evaluation.Hashed{Hash: n, Record: evaluation.Record{ID: "dr-" + n, Dataset: id, Inputs: json.RawMessage(fmt.Sprintf("%q", n))}})
		}
		return list, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, s evaluation.Store, id string) string {
	t.Helper()
	list, _, err := s.Records(t.Context(), home, id, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range list {
		all = append(all, strings.TrimPrefix(r.ID, "dr-"))
	}
	return strings.Join(all, " ")
}

func comesBack(t *testing.T, s Subject) {
	want := create(t, s.Store, "d-1")
	put(t, s.Store, "d-1", "a", "b")
	for _, store := range []evaluation.Store{s.Store, nil} {
		if store == nil {
			store = s.Reopen()
		}
		got, err := store.Dataset(t.Context(), home, "d-1")
		if a, b := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); err != nil || a != b {
			t.Errorf("%v\nstored %s\nread   %s", err, a, b)
		}
		if got := names(t, store, "d-1"); got != "a b" {
			t.Errorf("records %s", got)
		}
	}
}

func missing(t *testing.T, s Subject) {
	ctx := t.Context()
	if _, err := s.Store.Dataset(ctx, home, "d-0"); !fault.Is(err, fault.Missing) {
		t.Error(err)
	}
	if _, err := s.Store.ChangeDataset(ctx, home, "d-0", nil, func(*evaluation.Dataset, map[string]*evaluation.Record) ([]evaluation.Hashed, error) {
		t.Error("changed")
		return nil, nil
	}); !fault.Is(err, fault.Missing) {
		t.Error(err)
	}
	if err := s.Store.DeleteDataset(ctx, home, "d-0"); err != nil {
		t.Error(err)
	}
	if n, err := s.Store.DeleteScorer(ctx, home, "1", "s", 0); err != nil || n != 0 {
		t.Error(n, err)
	}
}

func apart(t *testing.T, s Subject) {
	create(t, s.Store, "d-1")
	other := dataset("d-2")
	other.Workspace = "other"
	if err := s.Store.CreateDataset(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	create(t, s.Store, "d-3")
	all, err := s.Store.Datasets(t.Context(), home)
	if err != nil || len(all) != 2 || all[0].ID != "d-3" || all[1].ID != "d-1" {
		t.Errorf("%v: newest first: %+v", err, all)
	}
	if _, err := s.Store.Dataset(t.Context(), home, "d-2"); !fault.Is(err, fault.Missing) {
		t.Error(err)
	}
	if err := s.Store.DeleteDataset(t.Context(), home, "d-2"); err != nil {
		t.Error(err)
	}
	if _, err := s.Store.Dataset(t.Context(), "other", "d-2"); err != nil {
		t.Errorf("deleted through another workspace: %v", err)
	}
}

func together(t *testing.T, s Subject) {
	create(t, s.Store, "d-1")
	put(t, s.Store, "d-1", "a")
	boom := errors.New("boom")
	_, err := s.Store.ChangeDataset(t.Context(), home, "d-1", []string{"a", "b"}, func(d *evaluation.Dataset, old map[string]*evaluation.Record) ([]evaluation.Hashed, error) {
		if old["a"] == nil || old["a"].ID != "dr-a" || old["b"] != nil {
			t.Errorf("old are %v", old)
		}
		d.Name = "half"
		return []evaluation.Hashed{{Hash: "b", Record: evaluation.Record{ID: "dr-b"}}}, boom
	})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if d, err := s.Store.Dataset(t.Context(), home, "d-1"); err != nil || d.Name == "half" || names(t, s.Store, "d-1") != "a" {
		t.Errorf("%v: a change that failed left %q with %s", err, d.Name, names(t, s.Store, "d-1"))
	}
	d, err := s.Store.ChangeDataset(t.Context(), home, "d-1", []string{"a", "b"}, func(d *evaluation.Dataset, old map[string]*evaluation.Record) ([]evaluation.Hashed, error) {
		d.Name = "whole"
		a := *old["a"]
		a.Tags = map[string]string{"x": "y"}
		return []evaluation.Hashed{{Hash: "b", Record: evaluation.Record{ID: "dr-b"}}, {Hash: "a", Record: a}}, nil
	})
	if err != nil || d.Name != "whole" || names(t, s.Store, "d-1") != "a b" {
		t.Errorf("%v: %q with %s", err, d.Name, names(t, s.Store, "d-1"))
	}
	list, _, err := s.Store.Records(t.Context(), home, "d-1", 0, 1)
	if err != nil || list[0].Tags["x"] != "y" {
		t.Errorf("%v: %+v", err, list)
	}
}

func atOnce(t *testing.T, s Subject) {
	create(t, s.Store, "d-1")
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			_, err := s.Store.ChangeDataset(t.Context(), home, "d-1", []string{"same"}, func(d *evaluation.Dataset, old map[string]*evaluation.Record) ([]evaluation.Hashed, error) {
				d.Updated++
				r := evaluation.Record{ID: "dr-same", Tags: map[string]string{}}
				if old["same"] != nil {
					r = *old["same"]
				}
				r.Tags[fmt.Sprint(i)] = "x"
				return []evaluation.Hashed{{Hash: "same", Record: r}}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	d, err := s.Store.Dataset(t.Context(), home, "d-1")
	list, _, err2 := s.Store.Records(t.Context(), home, "d-1", 0, 10)
	if err != nil || err2 != nil || d.Updated != 22 || len(list) != 1 || len(list[0].Tags) != 20 {
		t.Errorf("%v %v: changed %d times, %d records", err, err2, d.Updated-2, len(list))
	}
}

func paging(t *testing.T, s Subject) {
	create(t, s.Store, "d-1")
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("%02d", i))
	}
	put(t, s.Store, "d-1", want...)
	for _, limit := range []int{1, 5, 24, 25, 26} {
		var got []string
		for after, n := int64(0), 0; ; n++ {
			list, next, err := s.Store.Records(t.Context(), home, "d-1", after, limit)
			if err != nil || len(list) > limit || n > 26 {
				t.Fatal(err, len(list), n)
			}
			for _, r := range list {
				got = append(got, strings.TrimPrefix(r.ID, "dr-"))
			}
			if after = next; after == 0 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v", limit, got)
		}
	}
	n, err := s.Store.DeleteRecords(t.Context(), home, "d-1", []string{"dr-03", "dr-03", "dr-99", "dr-04"})
	if got := names(t, s.Store, "d-1"); err != nil || n != 2 || strings.Contains(got, "03") || !strings.Contains(got, "05") {
		t.Errorf("%v: %d deleted, left %s", err, n, got)
	}
}

func deleted(t *testing.T, s Subject) {
	create(t, s.Store, "d-1")
	create(t, s.Store, "d-2")
	put(t, s.Store, "d-1", "a")
	put(t, s.Store, "d-2", "a")
	if err := s.Store.DeleteDataset(t.Context(), home, "d-1"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Store.Records(t.Context(), home, "d-1", 0, 10); !fault.Is(err, fault.Missing) {
		t.Errorf("its records: %v", err)
	}
	if got := names(t, s.Store, "d-2"); got != "a" {
		t.Errorf("the other one has %q", got)
	}
	create(t, s.Store, "d-1")
	if got := names(t, s.Store, "d-1"); got != "" {
		t.Errorf("made anew it has %q", got)
	}
}

func scorers(t *testing.T, s Subject) {
	ctx := t.Context()
	ids := map[string]string{}
	for i, x := range []struct {
		experiment, name string
		version          int64
	}{{"1", "b", 1}, {"1", "a", 1}, {"1", "b", 2}, {"2", "b", 1}, {"1", "b", 3}} {
		got, err := s.Store.AddScorer(ctx, home, evaluation.Scorer{Experiment: x.experiment, Name: x.name, ID: fmt.Sprint("new-", i), Created: int64(i), Body: fmt.Sprint(i)})
		key := x.experiment + x.name
		if ids[key] == "" {
			ids[key] = got.ID
		}
		if err != nil || got.Version != x.version || got.ID != ids[key] {
			t.Errorf("%v: %+v, want version %d of %s", err, got, x.version, ids[key])
		}
	}
	show := func(experiments ...string) string {
		t.Helper()
		list, err := s.Store.Scorers(ctx, home, experiments)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, x := range list {
			all = append(all, fmt.Sprintf("%s%s%d=%s", x.Experiment, x.Name, x.Version, x.Body))
		}
		return strings.Join(all, " ")
	}
	if got := show("1"); got != "1a1=1 1b1=0 1b2=2 1b3=4" {
		t.Errorf("of experiment 1: %s", got)
	}
	if got := show(); got != "1a1=1 1b1=0 1b2=2 1b3=4 2b1=3" {
		t.Errorf("of all: %s", got)
	}
	if n, err := s.Store.DeleteScorer(ctx, home, "1", "b", 2); err != nil || n != 1 {
		t.Error(n, err)
	}
	if n, err := s.Store.DeleteScorer(ctx, "other", "1", "b", 0); err != nil || n != 0 {
		t.Errorf("deleted %d through another workspace: %v", n, err)
	}
	if n, err := s.Store.DeleteScorer(ctx, home, "1", "b", 0); err != nil || n != 2 {
		t.Error(n, err)
	}
	if got := show(); got != "1a1=1 2b1=3" {
		t.Errorf("left: %s", got)
	}
}
