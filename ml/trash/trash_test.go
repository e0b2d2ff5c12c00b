package trash_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/tracking"
	"lapis/ml/trash"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/storetest"
)

// world is a workspace with runs and artefacts.
type world struct {
	t     *testing.T
	trash *trash.Trash
	runs  *sqldb.Tracking
	blobs blob.Store
	site  ml.Site
	now   time.Time
	jobs  []string // deleted
}

const guid = "10000000-0000-4000-8000-000000000001"

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{t: t, now: time.UnixMilli(1_800_000_000_000)}
	if w.runs, err = sqldb.NewTracking(db); err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = disk.New(filepath.Join(dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	resources := sqldb.NewResources(db)
	id := storetest.ID(t, "/subscriptions/s/resourceGroups/g/providers/"+ml.Workspaces+"/w")
	status, err := json.Marshal(map[string]string{"workspaceId": guid, "storageAccountName": "st"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resources.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: resource.Resource{ID: id,
		Properties: json.RawMessage(`{}`), Status: status}, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	if w.site, err = ml.SiteOf(t.Context(), resources, id); err != nil {
		t.Fatal(err)
	}
	if err := w.blobs.CreateContainer(t.Context(), w.site.Artifacts()); err != nil {
		t.Fatal(err)
	}
	w.trash = &trash.Trash{Runs: w.runs, Blobs: w.blobs, Resources: resources, Keep: time.Hour,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return w.now },
		DeleteJob: func(_ context.Context, _ identity.Principal, _ ml.Site, name string) error {
			w.jobs = append(w.jobs, name)
			_, err := resources.Commit(t.Context(), resource.Batch{Rows: []any{tracking.RunGone{Workspace: guid, ID: name}}})
			return err
		}}
	return w
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// put makes an experiment with a run for each name, each with an artefact; the
// run of a job if its name begins with "job".
func (w *world) put(experiment string, runs ...string) (id string) {
	w.t.Helper()
	e := must(w.runs.CreateExperiment(w.t.Context(), tracking.Experiment{Workspace: guid, Name: experiment}))
	for _, name := range runs {
		must(w.runs.CreateRun(w.t.Context(), tracking.Run{Workspace: guid, ID: name, Experiment: e.ID, Job: strings.HasPrefix(name, "job"), Status: tracking.Completed}))
		must(w.blobs.Put(w.t.Context(), w.site.Artifacts(), "ExperimentRun/dcid."+name+"/f", strings.NewReader("x"), 1, blob.Attributes{}, blob.Condition{}))
	}
	return e.ID
}

// files are the runs that have artefacts.
func (w *world) files() string {
	w.t.Helper()
	var list []string
	for _, b := range must(w.blobs.List(w.t.Context(), w.site.Artifacts(), blob.Query{})).Blobs {
		list = append(list, strings.TrimSuffix(strings.TrimPrefix(b.Key, "ExperimentRun/dcid."), "/f"))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (w *world) deleteRun(id string, at time.Time) {
	w.t.Helper()
	must(w.runs.ChangeRun(w.t.Context(), guid, id, func(r *tracking.Run) error { r.Deleted = at.UnixMilli(); return nil }))
}

func (w *world) deleteExperiment(id string, at time.Time) {
	w.t.Helper()
	must(w.runs.ChangeExperiment(w.t.Context(), guid, id, func(e *tracking.Experiment) error { e.Deleted = at.UnixMilli(); return nil }))
}

// sweep lets the trash run until its first pass is over.
func (w *world) sweep(until func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.trash.Run(ctx) }()
	for i := 0; !until(); i++ {
		if i > 3000 {
			w.t.Error("the trash was not emptied")
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		w.t.Error(err)
	}
}

func TestWhatHasLainInTheTrashForLongEnoughIsRemovedForGood(t *testing.T) {
	w := newWorld(t)
	old, young := w.now.Add(-2*time.Hour), w.now.Add(-time.Minute)
	w.put("stays", "keep", "young", "gone", "job-gone")
	w.deleteRun("young", young)
	w.deleteRun("gone", old)
	w.deleteRun("job-gone", old)
	whole := w.put("whole", "a", "job-b")
	w.deleteExperiment(whole, old)
	recent := w.put("recent", "c")
	w.deleteExperiment(recent, young)
	w.sweep(func() bool { return w.files() == "c keep young" })
	if _, err := w.runs.Experiment(t.Context(), guid, whole); !fault.Is(err, fault.Missing) {
		t.Errorf("the experiment is there: %v", err)
	}
	if got := must(w.runs.Runs(t.Context(), guid, []string{"keep", "young", "gone", "job-gone", "a", "job-b", "c"})); len(got) != 3 {
		t.Errorf("runs %v, want keep, young and c", got)
	}
	slices.Sort(w.jobs)
	if !slices.Equal(w.jobs, []string{"job-b", "job-gone"}) {
		t.Errorf("jobs %v were deleted", w.jobs)
	}
	list, _, err := w.trash.List(t.Context(), guid, 10, "")
	if err != nil || len(list) != 2 || list[0].Experiment.ID != recent || list[1].Run.ID != "young" || !list[1].Purged.Equal(young.Add(time.Hour)) {
		t.Errorf("trash %+v, %v", list, err)
	}
}

func TestATrashWithoutAnEndKeepsAll(t *testing.T) {
	w := newWorld(t)
	w.trash.Keep = 0
	w.put("e", "a")
	w.deleteRun("a", time.UnixMilli(1))
	if err := w.runs.Discard(t.Context(), guid, "mlflow-artifacts:/9/nobody/artifacts"); err != nil {
		t.Fatal(err)
	}
	w.sweep(func() bool { return len(must(w.runs.Waste(t.Context(), "", 0, 9))) == 0 })
	if w.files() != "a" {
		t.Errorf("files %q", w.files())
	}
}

// failing is a store of blobs that cannot delete for a while.
type failing struct {
	blob.Store
	fail bool
}

func (f *failing) Delete(ctx context.Context, c blob.Container, key string, cond blob.Condition) error {
	if f.fail {
		return errors.New("not now")
	}
	return f.Store.Delete(ctx, c, key, cond)
}

func TestWhatCouldNotBeRemovedIsRemovedLater(t *testing.T) {
	w := newWorld(t)
	broken := &failing{w.blobs, true}
	w.trash.Blobs = broken
	e := w.put("e", "a", "b")
	if err := w.trash.DeleteRun(t.Context(), identity.Principal{}, w.site, "a", false); err == nil {
		t.Error("nobody was told that the artefacts are there")
	}
	if err := w.trash.DeleteExperiment(t.Context(), identity.Principal{}, w.site, e, false); err == nil {
		t.Error("nobody was told that the artefacts are there")
	}
	if w.files() != "a b" {
		t.Fatalf("files %q", w.files())
	}
	broken.fail = false
	w.sweep(func() bool { return w.files() == "" && len(must(w.runs.Waste(t.Context(), "", 0, 9))) == 0 })
}

func TestArtefactsThatAreToBeKeptAreKept(t *testing.T) {
	w := newWorld(t)
	e := w.put("e", "a", "b", "job-c")
	if err := w.trash.DeleteRun(t.Context(), identity.Principal{}, w.site, "a", true); err != nil {
		t.Fatal(err)
	}
	if err := w.trash.DeleteExperiment(t.Context(), identity.Principal{}, w.site, e, true); err != nil {
		t.Fatal(err)
	}
	if w.files() != "a b job-c" {
		t.Errorf("files %q", w.files())
	}
	if _, err := w.runs.Experiment(t.Context(), guid, e); !fault.Is(err, fault.Missing) {
		t.Errorf("the experiment is there: %v", err)
	}
}
