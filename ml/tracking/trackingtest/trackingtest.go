// Package trackingtest checks what tracking.Store promises. A back end passes
// it in three lines.
package trackingtest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"lapis/fault"
	"lapis/ml/tracking"
)

const (
	here  = "10000000-0000-4000-8000-000000000001"
	there = "20000000-0000-4000-8000-000000000002"
)

// Run checks a store that open makes, an empty one for each call. fold has the
// store move what was logged to where it is kept for long; it may do nothing.
func Run(t *testing.T, open func(t *testing.T) (store tracking.Store, fold func() error)) {
	tests := []struct {
		name string
		run  func(t *testing.T, s tracking.Store, fold func() error)
	}{
		{"ids of runs match without regard to case", ids},
		{"a workspace does not see another's", apart},
		{"a change that fails stores nothing", failedChange},
		{"changes of one run come one after the other", changes},
		{"open jobs are those that have not ended, oldest first", openJobs},
		{"jobs are listed newest first, filtered and in pages", listJobs},
		{"children are those of their parent", children},
		{"an experiment is made once under a name", experiments},
		{"the first default experiment of a server is 0", defaults},
		{"deleting an experiment deletes its active runs and restoring brings them back", lifecycle},
		{"what a request logs stands or falls together", together},
		{"points are kept once, whenever they come", points},
		{"points that come late find their place", late},
		{"a search sees all that was acknowledged before it", scan},
		{"datasets are shared by name and digest", datasets},
		{"logged models keep each value of their metrics", models},
		{"what is removed for good leaves nothing but its artefacts as waste", purge},
		{"a workspace that goes for good takes its own with it, and nothing else", purgeWorkspace},
		{"counts are those of what there is", tallies},
		{"any calls lead to what they say", machine},
	}
	for _, x := range tests {
		t.Run(x.name, func(t *testing.T) {
			s, fold := open(t)
			x.run(t, s, fold)
		})
	}
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newRun makes a run, of a job if job is set.
func newRun(t *testing.T, s tracking.Store, workspace, id string, job bool) tracking.Run {
	t.Helper()
	e := must[string](t)(s.EnsureExperiment(t.Context(), workspace, "e"))
	return must[tracking.Run](t)(s.CreateRun(t.Context(), tracking.Run{Workspace: workspace, ID: id, Experiment: e, Job: job,
		Status: tracking.Running, Tags: map[string]string{"a": "1"}, Name: "n " + id}))
}

func ids(t *testing.T, s tracking.Store, _ func() error) {
	newRun(t, s, here, "Some_Run", false)
	for _, id := range []string{"Some_Run", "some_run", "SOME_RUN"} {
		r := must[tracking.Run](t)(s.Run(t.Context(), here, id))
		if r.ID != "Some_Run" || r.Tags["a"] != "1" || r.Name != "n Some_Run" || !strings.HasSuffix(r.Artifact, "/Some_Run/artifacts") {
			t.Errorf("%s: %+v", id, r)
		}
	}
	found := must[map[string]tracking.Run](t)(s.Runs(t.Context(), here, []string{"SOME_run", "nope"}))
	if len(found) != 1 || found["some_run"].ID != "Some_Run" {
		t.Errorf("Runs: %v", found)
	}
	if _, err := s.CreateRun(t.Context(), tracking.Run{Workspace: here, ID: "some_RUN", Experiment: found["some_run"].Experiment}); err == nil {
		t.Error("a second run of the same id was made")
	}
	if _, err := s.Run(t.Context(), here, "nope"); !fault.Is(err, fault.Missing) {
		t.Errorf("a run that is not there: %v", err)
	}
}

func apart(t *testing.T, s tracking.Store, _ func() error) {
	r := newRun(t, s, here, "r", false)
	ctx := t.Context()
	if _, err := s.Run(ctx, there, "r"); !fault.Is(err, fault.Missing) {
		t.Errorf("Run: %v", err)
	}
	if _, err := s.Detail(ctx, there, "r"); !fault.Is(err, fault.Missing) {
		t.Errorf("Detail: %v", err)
	}
	if err := s.Log(ctx, there, "r", []tracking.Metric{{Key: "m"}}, nil); !fault.Is(err, fault.Missing) {
		t.Errorf("Log: %v", err)
	}
	if _, err := s.Experiment(ctx, there, r.Experiment); !fault.Is(err, fault.Missing) {
		t.Errorf("Experiment: %v", err)
	}
	if _, err := s.CreateRun(ctx, tracking.Run{Workspace: there, ID: "x", Experiment: r.Experiment}); !fault.Is(err, fault.Missing) {
		t.Errorf("CreateRun in another workspace's experiment: %v", err)
	}
	if got := searched(t, s, there, r.Experiment); len(got) != 0 {
		t.Errorf("Index: %v", got)
	}
	newRun(t, s, there, "r", false)
}

func failedChange(t *testing.T, s tracking.Store, _ func() error) {
	newRun(t, s, here, "r", false)
	sad := errors.New("no")
	_, err := s.ChangeRun(t.Context(), here, "r", func(r *tracking.Run) error { r.Name = "changed"; return sad })
	if !errors.Is(err, sad) {
		t.Errorf("got %v", err)
	}
	if r := must[tracking.Run](t)(s.Run(t.Context(), here, "r")); r.Name != "n r" {
		t.Errorf("name %q", r.Name)
	}
	if _, err := s.ChangeRun(t.Context(), here, "nope", func(*tracking.Run) error { return nil }); !fault.Is(err, fault.Missing) {
		t.Errorf("got %v", err)
	}
}

func changes(t *testing.T, s tracking.Store, _ func() error) {
	newRun(t, s, here, "r", true)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			_, err := s.ChangeRun(t.Context(), here, "r", func(r *tracking.Run) error {
				r.Warnings = append(r.Warnings, "w")
				r.Outputs = map[string]tracking.Asset{"o": {Type: "uri_file", URI: "azureml://x"}}
				r.Error = &tracking.RunError{Code: "UserError", Message: "m"}
				r.Properties = map[string]string{"p": "q"}
				r.Reason, r.Description = "why", "what"
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if err := s.Log(t.Context(), here, "r", nil, func(r *tracking.Record) error {
				r.Params = with(r.Params, fmt.Sprint("p", i), "v")
				r.Tags = with(r.Tags, fmt.Sprint("t", i), "v")
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d := must[*tracking.Detail](t)(s.Detail(t.Context(), here, "r"))
	if len(d.Warnings) != 40 || len(d.Params) != 40 || len(d.Tags) != 41 {
		t.Errorf("%d warnings, %d params, %d tags; want 40, 40, 41", len(d.Warnings), len(d.Params), len(d.Tags))
	}
	if d.Outputs["o"].URI != "azureml://x" || d.Error.Code != "UserError" || d.Properties["p"] != "q" || d.Reason != "why" || d.Description != "what" {
		t.Errorf("lost in storing: %+v", d.Run)
	}
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// searched returns all runs of experiments, newest first, as a search finds
// them.
func searched(t *testing.T, s tracking.Store, workspace string, experiments ...string) []*tracking.Detail {
	t.Helper()
	runs, _, err := tracking.New(s).SearchRuns(t.Context(), workspace, tracking.RunSearch{Experiments: experiments, View: tracking.All})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(runs, func(a, b *tracking.Detail) int { return cmp.Compare(b.Seq, a.Seq) })
	return runs
}

func names(runs []tracking.Run) string {
	var b strings.Builder
	for _, r := range runs {
		b.WriteString(r.ID)
	}
	return b.String()
}

func openJobs(t *testing.T, s tracking.Store, _ func() error) {
	for _, id := range []string{"a", "b", "c", "d"} {
		newRun(t, s, here, id, id != "c")
	}
	newRun(t, s, there, "e", true)
	if _, err := s.ChangeRun(t.Context(), here, "b", func(r *tracking.Run) error { r.Status = tracking.Failed; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := names(must[[]tracking.Run](t)(s.OpenJobs(t.Context()))); got != "ade" {
		t.Errorf("open jobs %q, want ade", got)
	}
}

func listJobs(t *testing.T, s tracking.Store, _ func() error) {
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		newRun(t, s, here, id, id != "c")
	}
	newRun(t, s, there, "f", true)
	for id, change := range map[string]func(*tracking.Run){
		"a": func(r *tracking.Run) { r.Hidden = true },
		"b": func(r *tracking.Run) { r.Status, r.Parent = tracking.Completed, "E" },
	} {
		if _, err := s.ChangeRun(t.Context(), here, id, func(r *tracking.Run) error { change(r); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	yes, no, e, none := true, false, "e", ""
	for _, x := range []struct {
		name string
		f    tracking.JobFilter
		want string
	}{
		{"all", tracking.JobFilter{}, "edba"},
		{"hidden", tracking.JobFilter{Hidden: &yes}, "a"},
		{"shown", tracking.JobFilter{Hidden: &no}, "edb"},
		{"children", tracking.JobFilter{Parent: &e}, "b"},
		{"without a parent", tracking.JobFilter{Parent: &none}, "eda"},
		{"ended", tracking.JobFilter{Status: tracking.Completed}, "b"},
		{"of another experiment", tracking.JobFilter{Experiment: "999"}, ""},
	} {
		got, before := "", int64(0)
		for {
			page := must[[]tracking.Run](t)(s.ListJobs(t.Context(), here, x.f, before, 2))
			got += names(page)
			if len(page) < 2 {
				break
			}
			before = page[1].Seq
		}
		if got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
	}
}

func children(t *testing.T, s tracking.Store, _ func() error) {
	for _, id := range []string{"p", "a", "b"} {
		newRun(t, s, here, id, true)
	}
	for _, id := range []string{"b", "a"} {
		if _, err := s.ChangeRun(t.Context(), here, id, func(r *tracking.Run) error { r.Parent = "P"; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(must[[]tracking.Run](t)(s.Children(t.Context(), here, "p"))); got != "ab" {
		t.Errorf("children %q, want ab", got)
	}
	if got := names(must[[]tracking.Run](t)(s.Children(t.Context(), here, ""))); got != "" {
		t.Errorf("children of nobody: %q", got)
	}
}

func experiments(t *testing.T, s tracking.Store, _ func() error) {
	ctx := t.Context()
	var wg sync.WaitGroup
	got := make([]string, 16)
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = s.EnsureExperiment(ctx, here, "e"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if slices.ContainsFunc(got, func(id string) bool { return id != got[0] }) {
		t.Errorf("ids %v", got)
	}
	if _, err := s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "e"}); fault.Find(err) == nil || fault.Find(err).Code != "RESOURCE_ALREADY_EXISTS" {
		t.Errorf("a second experiment of the name: %v", err)
	}
	e := must[tracking.Experiment](t)(s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "f", Tags: map[string]string{"k": "v"}}))
	if e.Artifact != "mlflow-artifacts:/"+e.ID {
		t.Errorf("artifact %q", e.Artifact)
	}
	if _, err := s.ChangeExperiment(ctx, here, e.ID, func(e *tracking.Experiment) error { e.Name = "e"; return nil }); fault.Find(err) == nil {
		t.Errorf("renamed to a name that is taken: %v", err)
	}
	e = must[tracking.Experiment](t)(s.ExperimentNamed(ctx, here, "f"))
	if e.Tags["k"] != "v" {
		t.Errorf("tags %v", e.Tags)
	}
	other := must[string](t)(s.EnsureExperiment(ctx, there, "e"))
	if other == got[0] {
		t.Error("two workspaces share an experiment")
	}
	if _, err := s.ChangeExperiment(ctx, here, got[0], func(e *tracking.Experiment) error { e.Deleted = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.EnsureExperiment(ctx, here, "e"); fault.Find(err) == nil {
		t.Errorf("a deleted experiment was used: %v", err)
	}
}

func defaults(t *testing.T, s tracking.Store, _ func() error) {
	must[string](t)(s.EnsureExperiment(t.Context(), here, "first"))
	for range 2 {
		if id := must[string](t)(s.DefaultExperiment(t.Context(), here)); id != "0" {
			t.Errorf("id %q", id)
		}
	}
	if id := must[string](t)(s.DefaultExperiment(t.Context(), there)); id == "0" {
		t.Error("two workspaces share the experiment 0")
	}
	e := must[tracking.Experiment](t)(s.Experiment(t.Context(), here, "0"))
	if e.Name != "Default" || e.Artifact != "mlflow-artifacts:/0" {
		t.Errorf("%+v", e)
	}
}

func lifecycle(t *testing.T, s tracking.Store, _ func() error) {
	a := newRun(t, s, here, "a", false)
	newRun(t, s, here, "b", false)
	ctx := t.Context()
	if _, err := s.ChangeRun(ctx, here, "b", func(r *tracking.Run) error { r.Deleted = 5; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Log(ctx, here, "a", []tracking.Metric{{Key: "m"}}, nil); err != nil {
		t.Fatal(err)
	}
	set := func(deleted int64) {
		t.Helper()
		if _, err := s.ChangeExperiment(ctx, here, a.Experiment, func(e *tracking.Experiment) error { e.Deleted = deleted; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	deleted := func() (list string) {
		t.Helper()
		for _, d := range searched(t, s, here, a.Experiment) {
			list += fmt.Sprint(d.ID, d.Deleted, " ")
		}
		return list
	}
	if got := deleted(); got != "b5 a0 " {
		t.Errorf("before: %s", got)
	}
	set(7)
	if got := deleted(); got != "b5 a7 " {
		t.Errorf("deleted: %s", got)
	}
	if err := s.Log(ctx, here, "a", []tracking.Metric{{Key: "m"}}, nil); fault.Find(err) == nil {
		t.Errorf("a deleted run took a metric: %v", err)
	}
	set(0)
	if got := deleted(); got != "b5 a0 " {
		t.Errorf("restored: %s", got)
	}
	if err := s.Log(ctx, here, "a", []tracking.Metric{{Key: "m"}}, nil); err != nil {
		t.Error(err)
	}
}

func together(t *testing.T, s tracking.Store, _ func() error) {
	newRun(t, s, here, "r", false)
	ctx := t.Context()
	sad := errors.New("no")
	err := s.Log(ctx, here, "r", []tracking.Metric{{Key: "m", Point: tracking.Point{Value: 1}}}, func(r *tracking.Record) error {
		r.Params = with(r.Params, "p", "1")
		r.Tags["a"] = "2"
		return sad
	})
	if !errors.Is(err, sad) {
		t.Errorf("got %v", err)
	}
	d := must[*tracking.Detail](t)(s.Detail(ctx, here, "r"))
	if len(d.Metrics) != 0 || len(d.Params) != 0 || d.Tags["a"] != "1" {
		t.Errorf("a failed request left %v %v %v", d.Metrics, d.Params, d.Tags)
	}
	if err := s.Log(ctx, here, "nope", []tracking.Metric{{Key: "m"}}, nil); !fault.Is(err, fault.Missing) {
		t.Errorf("got %v", err)
	}
}

// points logs the same points in many orders, folding now and then.
func points(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(1, 2))
	newRun(t, s, here, "r", false)
	odd := []float64{0, 1, -1, math.NaN(), math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1)}
	want := map[string][]tracking.Point{}
	for range 400 {
		var batch []tracking.Metric
		for range rng.IntN(40) + 1 {
			m := tracking.Metric{Key: fmt.Sprint("k/", rng.IntN(4)), Point: tracking.Point{
				Step: int64(rng.IntN(60)) - 10, Time: int64(rng.IntN(3)), Value: odd[rng.IntN(len(odd))]}}
			if rng.IntN(50) == 0 {
				m.Step, m.Time = math.MaxInt64, math.MaxInt64
			}
			batch = append(batch, m)
			if !slices.ContainsFunc(want[m.Key], func(p tracking.Point) bool { return equal(p, m.Point) }) {
				want[m.Key] = append(want[m.Key], m.Point)
			}
		}
		if err := s.Log(ctx, here, "r", batch, nil); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(60) == 0 {
			if err := fold(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := range 2 {
		d := must[*tracking.Detail](t)(s.Detail(ctx, here, "r"))
		if len(d.Metrics) != len(want) {
			t.Errorf("%d metrics, want %d", len(d.Metrics), len(want))
		}
		for key, w := range want {
			got := must[[]tracking.Point](t)(s.Series(ctx, here, "r", key))
			if len(got) != len(w) {
				t.Errorf("round %d: %s has %d points, want %d", round, key, len(got), len(w))
			}
			best := w[0]
			for _, p := range w {
				if p.After(best) {
					best = p
				}
				if !slices.ContainsFunc(got, func(g tracking.Point) bool { return equal(g, p) }) {
					t.Errorf("round %d: %s lost %v", round, key, p)
				}
			}
			for i := 1; i < len(got); i++ {
				if got[i-1].Step > got[i].Step || got[i-1].Step == got[i].Step && got[i-1].Time > got[i].Time {
					t.Fatalf("round %d: %s is out of order at %d: %v", round, key, i, got[i-1:i+1])
				}
			}
			last, ok := d.Latest(key)
			if !ok || best.After(last) || last.After(best) {
				t.Errorf("round %d: latest %s is %v, want %v", round, key, last, best)
			}
		}
		if err := fold(); err != nil {
			t.Fatal(err)
		}
	}
}

// late logs a long series, and then points that belong between.
func late(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	newRun(t, s, here, "r", false)
	log := func(from, to, by int64) {
		t.Helper()
		var batch []tracking.Metric
		for step := from; step < to; step += by {
			batch = append(batch, tracking.Metric{Key: "m", Point: tracking.Point{Step: step, Value: float64(step)}})
		}
		if err := s.Log(ctx, here, "r", batch, nil); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want int) {
		t.Helper()
		got := must[[]tracking.Point](t)(s.Series(ctx, here, "r", "m"))
		if len(got) != want {
			t.Fatalf("%d points, want %d", len(got), want)
		}
		for i, p := range got {
			if p.Value != float64(p.Step) || i > 0 && got[i-1].Step >= p.Step {
				t.Fatalf("point %d is %v, after %v", i, p, got[max(0, i-1)])
			}
		}
		told, visited := -1, 0
		if err := s.Points(ctx, here, "r", "m", func(n int) { told = n }, func(p []tracking.Point) { visited += len(p) }); err != nil || told != want || visited != want {
			t.Errorf("told of %d points, visited %d, %v; want %d", told, visited, err, want)
		}
	}
	log(0, 20_000, 2)
	check(10_000)
	for i, step := range []func(){
		func() { log(101, 103, 2) },       // one in between, in the log
		func() { log(20_000, 20_100, 1) }, // at the end
		func() { log(0, 200, 2) },         // again
		func() { log(8_001, 9_001, 2) },   // many in between
		func() { log(-100, 0, 1) },        // before all
	} {
		want := []int{10_001, 10_101, 10_101, 10_601, 10_701}[i]
		if err := fold(); err != nil {
			t.Fatal(err)
		}
		step()
		check(want)
		if err := fold(); err != nil {
			t.Fatal(err)
		}
		check(want)
	}
	if got := must[[]tracking.Point](t)(s.Series(ctx, here, "r", "none")); len(got) != 0 {
		t.Errorf("a metric that is not there has %d points", len(got))
	}
}

func equal(a, b tracking.Point) bool {
	return a.Step == b.Step && a.Time == b.Time && (a.Value == b.Value || a.Value != a.Value && b.Value != b.Value)
}

func scan(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	a := newRun(t, s, here, "a", false)
	rng := rand.New(rand.NewPCG(3, 4))
	state := map[string]float64{"a": -1}
	for i := range 300 {
		switch rng.IntN(6) {
		case 0:
			id := fmt.Sprint("r", i)
			newRun(t, s, here, id, false)
			state[id] = -1
		case 1:
			if err := fold(); err != nil {
				t.Fatal(err)
			}
		case 2:
			if _, err := s.ChangeRun(ctx, here, "a", func(r *tracking.Run) error { r.Name = fmt.Sprint(i); return nil }); err != nil {
				t.Fatal(err)
			}
		default:
			for id := range state {
				if err := s.Log(ctx, here, id, []tracking.Metric{{Key: "m", Point: tracking.Point{Step: int64(i), Value: float64(i)}}}, nil); err != nil {
					t.Fatal(err)
				}
				state[id] = float64(i)
				break
			}
		}
		seen := map[string]bool{}
		for _, d := range searched(t, s, here, a.Experiment, a.Experiment) {
			if seen[d.ID] {
				t.Errorf("step %d: %s was found twice", i, d.ID)
			}
			seen[d.ID] = true
			p, ok := d.Latest("m")
			if want := state[d.ID]; ok != (want >= 0) || ok && p.Value != want {
				t.Errorf("step %d: %s has %v, %v; want %v", i, d.ID, p.Value, ok, want)
			}
		}
		if len(seen) != len(state) {
			t.Fatalf("step %d: %d runs, want %d", i, len(seen), len(state))
		}
	}
}

func datasets(t *testing.T, s tracking.Store, _ func() error) {
	ctx := t.Context()
	for _, id := range []string{"a", "b"} {
		newRun(t, s, here, id, false)
		for _, source := range []string{"one", "two"} {
			if err := s.Log(ctx, here, id, nil, func(r *tracking.Record) error {
				r.Datasets = append(r.Datasets, tracking.DatasetInput{Tags: []tracking.Tag{{Key: "of", Value: id}},
					Dataset: tracking.Dataset{Name: "d", Digest: "1", Source: source}})
				r.ModelInputs = []string{"m-1"}
				r.ModelOutputs = []tracking.ModelOutput{{Model: "m-2", Step: 3}}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		d := must[*tracking.Detail](t)(s.Detail(ctx, here, id))
		if len(d.Datasets) != 1 || d.Datasets[0].Dataset.Source != "one" || d.Datasets[0].Tags[0].Value != id {
			t.Errorf("%s: %+v", id, d.Datasets)
		}
		if !slices.Equal(d.ModelInputs, []string{"m-1"}) || d.ModelOutputs[0].Step != 3 {
			t.Errorf("%s: %v %v", id, d.ModelInputs, d.ModelOutputs)
		}
	}
}

func models(t *testing.T, s tracking.Store, _ func() error) {
	ctx := t.Context()
	r := newRun(t, s, here, "r", false)
	if err := s.CreateModel(ctx, tracking.LoggedModel{Workspace: here, ID: "m-1", Experiment: r.Experiment, Name: "n"}); err != nil {
		t.Fatal(err)
	}
	log := func(step int64, value float64, dataset string) error {
		return s.Log(ctx, here, "r", []tracking.Metric{{Key: "acc", Point: tracking.Point{Step: step, Value: value}, Model: "m-1", DatasetName: dataset}}, nil)
	}
	for _, err := range []error{log(5, .5, ""), log(3, .3, ""), log(1, math.NaN(), "d"), log(3, .3, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m := must[tracking.LoggedModel](t)(s.Model(ctx, here, "m-1"))
	check := func(list []tracking.ModelMetric) {
		t.Helper()
		if len(list) != 3 || list[0].Step != 1 || list[0].Value == list[0].Value || list[0].DatasetName != "d" ||
			list[1].Value != .3 || list[2].Value != .5 || list[2].Run != "r" {
			t.Errorf("%+v", list)
		}
	}
	check(m.Metrics)
	m = must[tracking.LoggedModel](t)(s.ChangeModel(ctx, here, "m-1", func(m *tracking.LoggedModel) error { m.Name = "other"; return nil }))
	check(m.Metrics)
	err := s.Log(ctx, here, "r", []tracking.Metric{{Key: "x", Model: "m-9"}}, nil)
	if !fault.Is(err, fault.BadRequest) {
		t.Errorf("a metric of a model that is not there: %v", err)
	}
	if d := must[*tracking.Detail](t)(s.Detail(ctx, here, "r")); len(d.Metrics) != 1 {
		t.Errorf("it left %v", d.Metrics)
	}
	if _, err := s.Model(ctx, there, "m-1"); !fault.Is(err, fault.Missing) {
		t.Errorf("another workspace's model: %v", err)
	}
	list := must[[]tracking.LoggedModel](t)(s.Models(ctx, here, []string{r.Experiment}))
	if len(list) != 1 || list[0].Name != "other" {
		t.Fatalf("Models: %v", list)
	}
	check(list[0].Metrics)
	if err := s.CreateModel(ctx, tracking.LoggedModel{Workspace: here, ID: "m-2", Experiment: r.Experiment}); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{"metrics.acc = 0.3": 1, "metrics.acc > 0.4": 1, "metrics.acc > 0.5": 0, "": 2} {
		found, _, err := tracking.New(s).SearchModels(ctx, here, tracking.ModelSearch{Experiments: []string{r.Experiment}, Filter: filter})
		if err != nil || len(found) != want {
			t.Errorf("%q: %d models, %v; want %d", filter, len(found), err, want)
		}
	}
	deleteRun(t, s, "r", 1)
	if err := s.PurgeRun(ctx, here, "r", false); err != nil {
		t.Fatal(err)
	}
	if m := must[tracking.LoggedModel](t)(s.Model(ctx, here, "m-1")); len(m.Metrics) != 0 {
		t.Errorf("metrics of a run that was removed for good: %v", m.Metrics)
	}
}
