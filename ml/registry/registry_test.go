package registry_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/model"
	"lapis/ml/registry"
	"lapis/ml/tracking"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/lock"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

const home = "/subscriptions/s/resourceGroups/g/providers/" + ml.Workspaces + "/main"

var eve = identity.Principal{ID: "1", Name: "eve", Kind: identity.User}

// world is a registry over a database, with one workspace and one run.
type world struct {
	*registry.Registry
	t       *testing.T
	ctx     context.Context
	manager *manager.Manager
	runs    *tracking.Service
	site    ml.Site
	run     string
	source  string // of a model that the run made
}

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := disk.New(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	store := sqldb.NewResources(db)
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(), lock.Type(store),
		(&workspace.Service{Resources: store, Blobs: blobs}).Type()}
	types = append(types, model.Models(store, blobs).Types(store)...)
	m := manager.New(resource.NewTypes(types...), store, lock.Guard{Access: rbac.Checker{}, Store: store}, nil, slog.New(slog.DiscardHandler))
	for _, id := range []string{"/subscriptions/s", "/subscriptions/s/resourceGroups/g", home} {
		if _, err := m.Put(t.Context(), manager.Request{ID: storetest.ID(t, "%s", id), Caller: eve, Body: []byte(`{"location":"local"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	site, err := ml.SiteOf(t.Context(), store, storetest.ID(t, home))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := sqldb.NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: identity.With(t.Context(), eve), manager: m, runs: tracking.New(kept), site: site}
	w.Registry = registry.New(m, w.runs, nil)
	r, err := w.runs.CreateRun(w.ctx, site.GUID, tracking.NewRun{Experiment: "0"})
	if err != nil {
		t.Fatal(err)
	}
	w.run, w.source = r.ID, r.Artifact+"/model"
	return w
}

func (w *world) model(name string, tags ...tracking.Tag) {
	w.t.Helper()
	if _, err := w.CreateModel(w.ctx, w.site, name, "", tags); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) version(name string) string {
	w.t.Helper()
	v, err := w.CreateVersion(w.ctx, w.site, registry.NewVersion{Name: name, Source: w.source, Run: w.run})
	if err != nil {
		w.t.Fatal(err)
	}
	return v.Number
}

// put writes a resource as a client of Azure ML does.
func (w *world) put(path, body string) error {
	_, err := w.manager.Put(w.ctx, manager.Request{ID: storetest.ID(w.t, "%s/%s", home, path), Caller: eve, Body: []byte(body)})
	return err
}

func TestAModelOfAzureMLIsARegisteredModel(t *testing.T) {
	w := newWorld(t)
	w.model("n")
	w.version("n")
	if err := w.put("models/n/versions/7", `{"properties":{"modelUri":"https://example.org/m","modelType":"custom_model","description":"theirs","tags":{"a":"b"}}}`); err != nil {
		t.Fatal(err)
	}
	v, err := w.Version(w.ctx, w.site, "n", "7")
	if err != nil || v.Description != "theirs" || v.Tags["a"] != "b" || v.Source != "https://example.org/m" || v.Stage != "None" {
		t.Errorf("%v: %+v", err, v)
	}
	if n := w.version("n"); n != "8" {
		t.Errorf("after 7 comes %s", n)
	}
	if err := w.SetAlias(w.ctx, w.site, "n", "best", "7"); err != nil {
		t.Fatal(err)
	}
	// A client that knows nothing of aliases writes the container as it knows it.
	if err := w.put("models/n", `{"properties":{"description":"new"}}`); err != nil {
		t.Fatal(err)
	}
	m, err := w.Model(w.ctx, w.site, "n")
	if err != nil || m.Description != "new" || m.Aliases["best"] != "7" {
		t.Errorf("%v: %+v", err, m)
	}
}

func TestWhatTheRegistryAloneWritesCannotBeForged(t *testing.T) {
	w := newWorld(t)
	const forged = `"%s":{"source":"file:///etc/passwd","runId":"other","aliases":{"best":"1"}}`
	for _, member := range []string{"mlflow", "MLflow", "MLFLOW"} {
		name := "n" + strings.ToLower(member[:1]) + fmt.Sprint(len(member), member[1])
		// Where the bytes lie is looked for, whatever else is said.
		err := w.put("models/"+name+"/versions/1", fmt.Sprintf(`{"properties":{"modelUri":"azureml://datastores/workspaceblobstore/paths/nothing",`+forged+`}}`, member))
		if !fault.Is(err, fault.BadRequest) {
			t.Errorf("%s: a version of nothing: %v", member, err)
		}
		if err := w.put("models/"+name+"/versions/1", fmt.Sprintf(`{"properties":{"modelUri":"https://example.org/m",`+forged+`}}`, member)); err != nil {
			t.Fatal(err)
		}
		if err := w.put("models/"+name, fmt.Sprintf(`{"properties":{`+forged+`}}`, member)); err != nil {
			t.Fatal(err)
		}
		v, err := w.Version(w.ctx, w.site, name, "1")
		if err != nil || v.Source != "https://example.org/m" || v.Run == "other" || len(v.Aliases) != 0 {
			t.Errorf("%s: %v: %+v", member, err, v)
		}
	}
}

func TestVersionsThatAreMadeAtOnceHaveNumbersOfTheirOwn(t *testing.T) {
	w := newWorld(t)
	w.model("n")
	var mu sync.Mutex
	var got []string
	var group sync.WaitGroup
	for range 12 {
		group.Go(func() {
			n := w.version("n")
			mu.Lock()
			defer mu.Unlock()
			got = append(got, n)
		})
	}
	group.Wait()
	slices.Sort(got)
	if len(slices.Compact(got)) != 12 {
		t.Errorf("%v", got)
	}
}

func TestARenameTakesAllAlongAndAsksWhoMay(t *testing.T) {
	w := newWorld(t)
	w.model("n", tracking.Tag{Key: "k", Value: "v"})
	w.version("n")
	w.version("n")
	if err := w.SetAlias(w.ctx, w.site, "n", "best", "2"); err != nil {
		t.Fatal(err)
	}
	w.model("taken")
	if _, err := w.RenameModel(w.ctx, w.site, "n", "taken"); err == nil || fault.Find(err).Code != "RESOURCE_ALREADY_EXISTS" {
		t.Errorf("to a name that is taken: %v", err)
	}
	if _, err := w.RenameModel(w.ctx, w.site, "nobody", "x"); !fault.Is(err, fault.Missing) {
		t.Errorf("of nobody: %v", err)
	}
	job := identity.Principal{ID: "2", Name: "job", Kind: identity.Job, Workspace: home}
	if _, err := w.RenameModel(identity.With(t.Context(), identity.Principal{Kind: identity.Job, ID: "3", Workspace: home + "x"}), w.site, "n", "m"); !fault.Is(err, fault.Forbidden) {
		t.Errorf("by a job of another workspace: %v", err)
	}
	locked := storetest.ID(t, "%s/models/n/providers/Microsoft.Authorization/locks/l", home)
	if _, err := w.manager.Put(w.ctx, manager.Request{ID: locked, Caller: eve, Body: []byte(`{"properties":{"level":"CanNotDelete"}}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RenameModel(identity.With(t.Context(), job), w.site, "n", "m"); err == nil {
		t.Error("a locked model was renamed")
	}
	if _, err := w.manager.Delete(w.ctx, manager.Request{ID: locked, Caller: eve}); err != nil {
		t.Fatal(err)
	}
	m, err := w.RenameModel(identity.With(t.Context(), job), w.site, "n", "m")
	if err != nil || m.Name != "m" || m.Tags["k"] != "v" || m.Aliases["best"] != "2" {
		t.Fatalf("%v: %+v", err, m)
	}
	if v, err := w.Aliased(w.ctx, w.site, "m", "best"); err != nil || v.Number != "2" || v.Run != w.run {
		t.Errorf("%v: %+v", err, v)
	}
	if _, err := w.Model(w.ctx, w.site, "n"); !fault.Is(err, fault.Missing) {
		t.Errorf("the old name: %v", err)
	}
	if n := w.version("m"); n != "3" {
		t.Errorf("the next version is %s", n)
	}
}

func TestNoVersionIsLostToARename(t *testing.T) {
	w := newWorld(t)
	w.model("n0")
	w.version("n0")
	stop, made := make(chan struct{}), 1
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i := range 6 {
				v, err := w.CreateVersion(w.ctx, w.site, registry.NewVersion{Name: fmt.Sprint("n", i), Source: w.source, Run: w.run})
				if err == nil && v.Number != "" {
					made++
				} else if f := fault.Find(err); f == nil || f.Kind != fault.Missing && f.Kind != fault.Conflict {
					t.Error(err)
				}
			}
		}
	})
	for i := range 5 {
		if _, err := w.RenameModel(w.ctx, w.site, fmt.Sprint("n", i), fmt.Sprint("n", i+1)); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
	total := 0
	for i := range 6 {
		list, err := w.Versions(w.ctx, w.site, fmt.Sprint("n", i))
		if err != nil && !fault.Is(err, fault.Missing) {
			t.Error(err)
		}
		total += len(list)
	}
	if total != made {
		t.Errorf("%d versions were made, and %d are there", made, total)
	}
}

func TestAnAliasNamesOneVersionAndGoesWithIt(t *testing.T) {
	w := newWorld(t)
	w.model("n")
	for range 3 {
		w.version("n")
	}
	for _, x := range []struct{ alias, version, code string }{
		{"best", "1", ""}, {"best", "2", ""}, {"other-One_1", "2", ""},
		{"latest", "1", "INVALID_PARAMETER_VALUE"}, {"LATEST", "1", "INVALID_PARAMETER_VALUE"}, {"v12", "1", "INVALID_PARAMETER_VALUE"}, {"V1", "1", "INVALID_PARAMETER_VALUE"},
		{"", "1", "INVALID_PARAMETER_VALUE"}, {"a b", "1", "INVALID_PARAMETER_VALUE"}, {"a/b", "1", "INVALID_PARAMETER_VALUE"}, {strings.Repeat("a", 256), "1", "INVALID_PARAMETER_VALUE"},
		{"a", "x", "INVALID_PARAMETER_VALUE"}, {"a", "9", "RESOURCE_DOES_NOT_EXIST"},
	} {
		err := w.SetAlias(w.ctx, w.site, "n", x.alias, x.version)
		if f := fault.Find(err); err == nil && x.code != "" || err != nil && (f == nil || f.Code != x.code) {
			t.Errorf("%.20q → %s: %v, want %q", x.alias, x.version, err, x.code)
		}
	}
	v, err := w.Version(w.ctx, w.site, "n", "2")
	if err != nil || strings.Join(v.Aliases, " ") != "best other-One_1" {
		t.Errorf("%v: %v", err, v.Aliases)
	}
	if err := w.DeleteVersion(w.ctx, w.site, "n", "2"); err != nil {
		t.Fatal(err)
	}
	if m, err := w.Model(w.ctx, w.site, "n"); err != nil || len(m.Aliases) != 0 {
		t.Errorf("%v: aliases %v", err, m.Aliases)
	}
	if v, err := w.Aliased(w.ctx, w.site, "n", "latest"); err != nil || v.Number != "3" {
		t.Errorf("%v: the latest is %s", err, v.Number)
	}
}

func TestStagesHoldOneVersionWhenTheOthersAreArchived(t *testing.T) {
	w := newWorld(t)
	w.model("n")
	for range 4 {
		w.version("n")
	}
	for _, x := range []struct {
		version, stage string
		archive        bool
	}{{"1", "Production", false}, {"2", "production", false}, {"3", "STAGING", true}, {"4", "Production", true}} {
		if _, err := w.MoveVersion(w.ctx, w.site, "n", x.version, x.stage, x.archive); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, n := range []string{"1", "2", "3", "4"} {
		v, err := w.Version(w.ctx, w.site, "n", n)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v.Stage)
	}
	if s := strings.Join(got, " "); s != "Archived Archived Staging Production" {
		t.Error(s)
	}
	latest, err := w.LatestVersions(w.ctx, w.site, "n", []string{"production", "none"})
	if err != nil || len(latest) != 1 || latest[0].Number != "4" {
		t.Errorf("%v: %+v", err, latest)
	}
	for _, x := range []struct {
		stage   string
		archive bool
	}{{"Archived", true}, {"None", true}, {"Nope", false}, {"", false}} {
		if _, err := w.MoveVersion(w.ctx, w.site, "n", "1", x.stage, x.archive); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%+v: %v", x, err)
		}
	}
}

func TestACopyIsWhatItCopies(t *testing.T) {
	w := newWorld(t)
	w.model("n")
	w.version("n")
	if err := w.SetAlias(w.ctx, w.site, "n", "best", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.MoveVersion(w.ctx, w.site, "n", "1", "Production", false); err != nil {
		t.Fatal(err)
	}
	w.model("copy")
	for _, source := range []string{"models:/n/1", "models:/n@best", "models:/n/latest", "models:/n/production"} {
		v, err := w.CreateVersion(w.ctx, w.site, registry.NewVersion{Name: "copy", Source: source})
		if err != nil || v.Source != "models:/n/1" || v.Run != w.run {
			t.Errorf("%s: %v: %+v", source, err, v)
		}
		if uri, err := w.DownloadURI(w.ctx, w.site, "copy", v.Number); err != nil || uri != w.source {
			t.Errorf("%s: read from %s (%v), want %s", source, uri, err, w.source)
		}
	}
	w.model("p", tracking.Tag{Key: "mlflow.prompt.is_prompt", Value: "true"})
	prompt := []tracking.Tag{{Key: "mlflow.prompt.is_prompt", Value: "true"}, {Key: "mlflow.prompt.text", Value: "hi"}}
	if _, err := w.CreateVersion(w.ctx, w.site, registry.NewVersion{Name: "p", Source: "dummy-source", Tags: prompt}); err != nil {
		t.Error(err)
	}
	for _, n := range []registry.NewVersion{
		{Name: "copy", Source: "models:/p/1"},
		{Name: "p", Source: "s3://b/x", Tags: prompt},
		{Name: "copy", Source: "dummy-source", Tags: []tracking.Tag{{Key: "mlflow.prompt.is_prompt", Value: "false"}}},
		{Name: "copy", Source: "models:/n/1", Run: "other", RunGiven: true},
		{Name: "copy", Source: "models:/n/1", Run: "", RunGiven: true},
		{Name: "copy", Source: "models:/n/1", Model: "m-1", ModelGiven: true},
		{Name: "copy", Source: "models:/"},
		{Name: "copy", Source: "models://host/n/1"},
		{Name: "copy", Source: "runs://host/" + w.run + "/x", Run: w.run},
	} {
		if v, err := w.CreateVersion(w.ctx, w.site, n); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%+v: %v %+v", n, err, v)
		}
	}
}
