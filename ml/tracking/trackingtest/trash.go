package trackingtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/ml/tracking"
)

// waste is what is left to remove, as text.
func waste(t *testing.T, s tracking.Store, workspace string) string {
	t.Helper()
	var list []string
	for _, w := range must[[]tracking.Waste](t)(s.Waste(t.Context(), workspace, 0, 1000)) {
		list = append(list, string(w.Kind)+" "+w.Ref)
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

func deleteRun(t *testing.T, s tracking.Store, id string, at int64) {
	t.Helper()
	if _, err := s.ChangeRun(t.Context(), here, id, func(r *tracking.Run) error { r.Deleted = at; return nil }); err != nil {
		t.Fatal(err)
	}
}

func purge(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	e := newRun(t, s, here, "a", false).Experiment
	for _, id := range []string{"b", "c", "d"} {
		newRun(t, s, here, id, false)
	}
	newRun(t, s, here, "j", true)
	log := func(id string) {
		t.Helper()
		if err := s.Log(ctx, here, id, []tracking.Metric{{Key: "m", Point: tracking.Point{Value: 1}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	log("a")
	if err := fold(); err != nil {
		t.Fatal(err)
	}
	log("a")
	log("b")
	if err := s.PurgeRun(ctx, here, "a", false); !fault.Is(err, fault.Conflict) {
		t.Errorf("a run that is not deleted: %v", err)
	}
	if err := s.PurgeExperiment(ctx, here, e, false); !fault.Is(err, fault.Conflict) {
		t.Errorf("an experiment that is not deleted: %v", err)
	}
	for i, id := range []string{"a", "b", "j"} {
		deleteRun(t, s, id, int64(10+i))
	}
	if err := s.PurgeRun(ctx, here, "j", false); !fault.Is(err, fault.Conflict) {
		t.Errorf("a job's run: %v", err)
	}
	if err := s.PurgeRun(ctx, there, "a", false); !fault.Is(err, fault.Missing) {
		t.Errorf("another workspace's run: %v", err)
	}
	var got string
	q := tracking.DeletedRuns{Limit: 1}
	for {
		page := must[[]tracking.Run](t)(s.DeletedRuns(ctx, q))
		if len(page) == 0 {
			break
		}
		got += page[0].ID
		q.Deleted, q.Seq = page[0].Deleted, page[0].Seq
	}
	if got != "jba" {
		t.Errorf("deleted runs %q, want jba", got)
	}
	if runs := must[[]tracking.Run](t)(s.DeletedRuns(ctx, tracking.DeletedRuns{Workspace: here, Until: 11, Limit: 9})); names(runs) != "ba" {
		t.Errorf("deleted until 11: %q, want ba", names(runs))
	}
	if runs := must[[]tracking.Run](t)(s.DeletedRuns(ctx, tracking.DeletedRuns{Workspace: there, Limit: 9})); len(runs) != 0 {
		t.Errorf("another workspace's: %q", names(runs))
	}

	seen := func() (list string) {
		t.Helper()
		for _, d := range searched(t, s, here, e) {
			list += d.ID
		}
		return list
	}
	if got := seen(); got != "jdcba" {
		t.Errorf("runs %q, want jdcba", got)
	}
	a := must[tracking.Run](t)(s.Run(ctx, here, "a"))
	for id, keep := range map[string]bool{"a": false, "b": true} {
		if err := s.PurgeRun(ctx, here, id, keep); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Detail(ctx, here, id); !fault.Is(err, fault.Missing) {
			t.Errorf("%s is there: %v", id, err)
		}
		if err := s.Log(ctx, here, id, []tracking.Metric{{Key: "m"}}, nil); !fault.Is(err, fault.Missing) {
			t.Errorf("%s took a metric: %v", id, err)
		}
	}
	if got := seen(); got != "jdc" {
		t.Errorf("runs %q, want jdc", got)
	}
	if got, want := waste(t, s, here), "artifacts "+a.Artifact; got != want {
		t.Errorf("waste %q, want %q", got, want)
	}
	// A run of the same id has nothing of the old one.
	newRun(t, s, here, "a", false)
	if err := fold(); err != nil {
		t.Fatal(err)
	}
	if d := must[*tracking.Detail](t)(s.Detail(ctx, here, "a")); len(d.Metrics) != 0 {
		t.Errorf("the new run has %v", d.Metrics)
	}
	if p := must[[]tracking.Point](t)(s.Series(ctx, here, "a", "m")); len(p) != 0 {
		t.Errorf("the new run has %v", p)
	}

	purgeExperiment(t, s, e)
}

// purgeExperiment removes an experiment with more runs than fit into a step.
func purgeExperiment(t *testing.T, s tracking.Store, other string) {
	ctx := t.Context()
	e := must[tracking.Experiment](t)(s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "large"}))
	for i := range 450 {
		if _, err := s.CreateRun(ctx, tracking.Run{Workspace: here, ID: fmt.Sprint("large-", i), Experiment: e.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateModel(ctx, tracking.LoggedModel{Workspace: here, ID: "m-1", Experiment: e.ID, Artifact: "mlflow-artifacts:/x/models/m-1/artifacts"}); err != nil {
		t.Fatal(err)
	}
	change := func(deleted int64) {
		t.Helper()
		if _, err := s.ChangeExperiment(ctx, here, e.ID, func(e *tracking.Experiment) error { e.Deleted = deleted; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change(50)
	if runs := must[[]tracking.Run](t)(s.DeletedRuns(ctx, tracking.DeletedRuns{Workspace: here, Limit: 9})); names(runs) != "j" {
		t.Errorf("runs that went with their experiment are listed: %q", names(runs))
	}
	if err := s.PurgeExperiment(ctx, here, e.ID, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Experiment(ctx, here, e.ID); !fault.Is(err, fault.Missing) {
		t.Errorf("the experiment is there: %v", err)
	}
	if _, err := s.Run(ctx, here, "large-449"); !fault.Is(err, fault.Missing) {
		t.Errorf("its run is there: %v", err)
	}
	if _, err := s.Model(ctx, here, "m-1"); !fault.Is(err, fault.Missing) {
		t.Errorf("its model is there: %v", err)
	}
	list := must[[]tracking.Waste](t)(s.Waste(ctx, here, 0, 1000))
	if len(list) != 1+450+1 {
		t.Errorf("%d pieces of waste, want 452", len(list))
	}
	for _, w := range list {
		if err := s.Cleared(ctx, w.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := waste(t, s, ""); got != "" {
		t.Errorf("waste %q after all was cleared", got)
	}
	if _, err := s.Experiment(ctx, here, other); err != nil {
		t.Errorf("the other experiment: %v", err)
	}
	if _, err := s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "large"}); err != nil {
		t.Errorf("the name is not free again: %v", err)
	}
}

func tallies(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	e := newRun(t, s, here, "a", false).Experiment
	newRun(t, s, here, "b", false)
	newRun(t, s, here, "c", false)
	newRun(t, s, there, "x", false)
	deleteRun(t, s, "c", 5)
	empty := must[tracking.Experiment](t)(s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "empty"}))
	if err := s.CreateModel(ctx, tracking.LoggedModel{Workspace: here, ID: "m-1", Experiment: e}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for _, id := range []string{"a", "b"} {
			var list []tracking.Metric
			for i := range 10 {
				list = append(list, tracking.Metric{Key: fmt.Sprint("k", i%2), Point: tracking.Point{Step: int64(round*10 + i)}})
			}
			if err := s.Log(ctx, here, id, list, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := fold(); err != nil {
			t.Fatal(err)
		}
		want := tracking.Tally{Experiment: e, Name: "e", Active: 2, Deleted: 1, Metrics: 4, Points: int64(20 * (round + 1)), Models: 1}
		if got := must[[]tracking.Tally](t)(s.Tallies(ctx, here, []string{e})); len(got) != 1 || got[0] != want {
			t.Errorf("round %d: %+v, want %+v", round, got, want)
		}
	}
	all := must[[]tracking.Tally](t)(s.Tallies(ctx, here, nil))
	if len(all) != 2 || all[1] != (tracking.Tally{Experiment: empty.ID, Name: "empty"}) {
		t.Errorf("all: %+v", all)
	}
	if _, err := s.Tallies(ctx, there, []string{e}); !fault.Is(err, fault.Missing) {
		t.Errorf("another workspace's experiment: %v", err)
	}
	extents := must[[]tracking.Extent](t)(s.Extents(ctx, here, "a"))
	if want := (tracking.Extent{Key: "k1", Points: 10, First: 1, Last: 19}); len(extents) != 2 || extents[1] != want {
		t.Errorf("extents %+v, want %+v second", extents, want)
	}
	if _, err := s.Extents(ctx, here, "nope"); !fault.Is(err, fault.Missing) {
		t.Errorf("a run that is not there: %v", err)
	}
}
