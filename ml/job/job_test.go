package job_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/ml/environment"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

const main = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main"

type house struct {
	t       testing.TB
	store   *sqldb.Resources
	runs    *sqldb.Tracking
	manager *manager.Manager
	site    ml.Site
	woken   int
}

var eve = identity.Principal{ID: "1", Name: "eve", Kind: identity.User}

func newHouse(t testing.TB) *house {
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: sqldb.NewResources(db)}
	if h.runs, err = sqldb.NewTracking(db); err != nil {
		t.Fatal(err)
	}
	blobs, err := disk.New(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	jobs := &job.Service{Resources: h.store, Runs: h.runs, Now: time.Now, Wake: func() { h.woken++ },
		Kinds: map[string]job.Kind{"command": job.Command{Resources: h.store}}}
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(), jobs.Type(),
		(&workspace.Service{Resources: h.store, Blobs: blobs}).Type(),
		data.Datastores(h.store, blobs, nil, nil, time.Now)}
	types = append(types, compute.Types(h.store)...)
	for _, k := range []asset.Kind{data.Assets(h.store), environment.Environments(), asset.Code(h.store, blobs, nil, time.Now)} {
		types = append(types, k.Types(h.store)...)
	}
	h.manager = manager.New(resource.NewTypes(types...), h.store, rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { h.manager.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		loop.Wait()
		db.Close()
	})
	h.must("/subscriptions/s", `{}`)
	h.must("/subscriptions/s/resourceGroups/g", `{"location":"local"}`)
	for _, w := range []string{main, main + "2"} {
		h.must(w, `{"location":"local"}`)
	}
	if h.site, err = ml.SiteOf(t.Context(), h.store, storetest.ID(t, main)); err != nil {
		t.Fatal(err)
	}
	h.must(main+"/environments/e/versions/1", `{"properties":{"image":"python"}}`)
	h.must(main+"2/environments/other/versions/1", `{"properties":{"image":"python"}}`)
	h.must(main+"/computes/cpu", `{"location":"local","properties":{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS1_V2"}}}`)
	h.must(main+"/computes/empty", `{"location":"local","properties":{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS1_V2","scaleSettings":{"maxNodeCount":0}}}}`)
	h.must(main+"/computes/k8s", `{"location":"local","properties":{"computeType":"Kubernetes"}}`)
	h.must(main+"/datastores/files", `{"properties":{"datastoreType":"AzureFile","accountName":"a","fileShareName":"f"}}`)
	return h
}

func (h *house) request(id, body string) manager.Request {
	return manager.Request{ID: storetest.ID(h.t, "%s", id), Caller: eve, Body: json.RawMessage(body), View: resource.View{Origin: "https://o"}}
}

func (h *house) must(id, body string) manager.Reply {
	h.t.Helper()
	r, err := h.manager.Put(h.t.Context(), h.request(id, body))
	if err != nil {
		h.t.Fatalf("PUT %s: %v", id, err)
	}
	return r
}

// job is the body of a command job with members changed: "" takes one away.
func body(change map[string]string) string {
	p := map[string]json.RawMessage{"jobType": []byte(`"Command"`), "command": []byte(`"true"`), "environmentId": []byte(`"` + main + `/environments/e/versions/1"`)}
	for k, v := range change {
		if v == "" {
			delete(p, k)
		} else {
			p[k] = json.RawMessage(v)
		}
	}
	raw, err := json.Marshal(map[string]any{"properties": p})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func (h *house) run(name string) tracking.Run {
	h.t.Helper()
	r, err := h.runs.Run(h.t.Context(), h.site.GUID, name)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func TestAJobThatCannotRunIsRefusedWithTheFieldThatIsWrong(t *testing.T) {
	h := newHouse(t)
	input := func(in string) map[string]string { return map[string]string{"inputs": `{"x":` + in + `}`} }
	output := func(out string) map[string]string { return map[string]string{"outputs": `{"x":` + out + `}`} }
	for _, c := range []struct {
		what   string
		change map[string]string
		field  string // after "properties."
		kind   fault.Kind
	}{
		{"a jobType that nobody knows", map[string]string{"jobType": `"Sing"`}, "jobType", fault.BadRequest},
		{"a jobType that is not here yet", map[string]string{"jobType": `"Sweep"`}, "jobType", fault.BadRequest},
		{"no command", map[string]string{"command": ""}, "command", fault.BadRequest},
		{"a blank command", map[string]string{"command": `" \n"`}, "command", fault.BadRequest},
		{"an endless command", map[string]string{"command": `"` + strings.Repeat("x", 100_001) + `"`}, "command", fault.BadRequest},
		{"no environment", map[string]string{"environmentId": ""}, "environmentId", fault.BadRequest},
		{"an environment that is no id", map[string]string{"environmentId": `"python"`}, "environmentId", fault.BadRequest},
		{"an environment that is not there", map[string]string{"environmentId": `"` + main + `/environments/none/versions/1"`}, "", fault.Missing},
		{"an environment's version that is not there", map[string]string{"environmentId": `"` + main + `/environments/e/versions/2"`}, "", fault.Missing},
		{"an environment of another workspace", map[string]string{"environmentId": `"` + main + `2/environments/other/versions/1"`}, "environmentId", fault.BadRequest},
		{"code that is not there", map[string]string{"codeId": `"` + main + `/codes/none/versions/1"`}, "", fault.Missing},
		{"code of another workspace", map[string]string{"codeId": `"` + main + `2/codes/none/versions/1"`}, "codeId", fault.BadRequest},
		{"code that is no code", map[string]string{"codeId": `"` + main + `/environments/e/versions/1"`}, "codeId", fault.BadRequest},
		{"a compute that is not there", map[string]string{"computeId": `"` + main + `/computes/none"`}, "computeId", fault.Missing},
		{"a compute of another workspace", map[string]string{"computeId": `"` + main + `2/computes/cpu"`}, "computeId", fault.BadRequest},
		{"a compute that may have no node", map[string]string{"computeId": `"` + main + `/computes/empty"`}, "computeId", fault.BadRequest},
		{"a compute on which no job can run", map[string]string{"computeId": `"` + main + `/computes/k8s"`}, "computeId", fault.BadRequest},
		{"a negative number of nodes", map[string]string{"resources": `{"instanceCount":-1}`}, "resources.instanceCount", fault.BadRequest},
		{"several nodes", map[string]string{"resources": `{"instanceCount":2}`}, "resources.instanceCount", fault.BadRequest},
		{"an instance type that is none", map[string]string{"resources": `{"instanceType":"huge"}`}, "resources.instanceType", fault.BadRequest},
		{"a timeout that is no duration", map[string]string{"limits": `{"timeout":"1h"}`}, "limits.timeout", fault.BadRequest},
		{"a timeout of nothing", map[string]string{"limits": `{"timeout":"PT0S"}`}, "limits.timeout", fault.BadRequest},
		{"an input without a type", input(`{"uri":"https://x/y"}`), "inputs.x.jobInputType", fault.BadRequest},
		{"an input of a type that is none", input(`{"jobInputType":"file","uri":"https://x/y"}`), "inputs.x.jobInputType", fault.BadRequest},
		{"an input without a place", input(`{"jobInputType":"uri_file"}`), "inputs.x.uri", fault.BadRequest},
		{"a literal without a value", input(`{"jobInputType":"literal"}`), "inputs.x.value", fault.BadRequest},
		{"an input in a datastore that is not there", input(`{"jobInputType":"uri_file","uri":"azureml://datastores/none/paths/a"}`), "inputs.x", fault.Missing},
		{"an input in a datastore that cannot be read", input(`{"jobInputType":"uri_file","uri":"azureml://datastores/files/paths/a"}`), "inputs.x", fault.BadRequest},
		{"an input that leaves its container", input(`{"jobInputType":"uri_file","uri":"azureml://datastores/workspaceblobstore/paths/../../etc/passwd"}`), "inputs.x", fault.BadRequest},
		{"an input with a name that is none", map[string]string{"inputs": `{"a b":{"jobInputType":"literal","value":"1"}}`}, "inputs.a b", fault.BadRequest},
		{"an output that is a literal", output(`{"jobOutputType":"literal"}`), "outputs.x.jobOutputType", fault.BadRequest},
		{"an output to the web", output(`{"jobOutputType":"uri_file","uri":"https://x/y"}`), "outputs.x.uri", fault.BadRequest},
		{"an output with a name that leaves its folder", map[string]string{"outputs": `{"../x":{"jobOutputType":"uri_file"}}`}, "outputs.../x", fault.BadRequest},
		{"a reference to an input that it has not", map[string]string{"command": `"cat ${{inputs.y}}"`}, "command", fault.BadRequest},
		{"a reference to an output that it has not", map[string]string{"command": `"cat ${{ outputs.y }}"`}, "command", fault.BadRequest},
		{"a reference to nothing", map[string]string{"command": `"cat ${{secrets.y}}"`}, "command", fault.BadRequest},
		{"a variable that refers to what is not there", map[string]string{"environmentVariables": `{"A":"${{inputs.y}}"}`}, "environmentVariables.A", fault.BadRequest},
		{"an experiment of two lines", map[string]string{"experimentName": `"a\nb"`}, "experimentName", fault.BadRequest},
		{"a display name that is too long", map[string]string{"displayName": `"` + strings.Repeat("x", 256) + `"`}, "displayName", fault.BadRequest},
	} {
		t.Run(strings.ReplaceAll(c.what, " ", "_"), func(t *testing.T) {
			_, err := h.manager.Put(t.Context(), h.request(main+"/jobs/bad", body(c.change)))
			f := fault.Find(err)
			if f == nil || f.Kind != c.kind {
				t.Fatalf("%v", err)
			}
			if c.field != "" && f.Target != "properties."+c.field {
				t.Errorf("it is said to be at %q: %s", f.Target, f.Message)
			}
			if _, err := h.store.Get(t.Context(), storetest.ID(t, main+"/jobs/bad")); !fault.Is(err, fault.Missing) {
				t.Error("half a job is left")
			}
			if _, err := h.runs.Run(t.Context(), h.site.GUID, "bad"); !fault.Is(err, fault.Missing) {
				t.Error("a run is left")
			}
		})
	}
	for _, name := range []string{"-a", "a.b", "a b", strings.Repeat("n", 256), "é"} {
		if _, err := h.manager.Put(t.Context(), h.request(main+"/jobs/"+name, body(nil))); !fault.Is(err, fault.BadRequest) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestWhatAJobMayName(t *testing.T) {
	h := newHouse(t)
	h.must(main+"/data/d/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"azureml://datastores/workspaceblobstore/paths/a.csv"}}`)
	for i, change := range []map[string]string{
		nil,
		{"environmentId": `"azureml:e:1"`}, {"environmentId": `"azureml:e@latest"`}, {"environmentId": `"` + main + `/environments/e/labels/latest"`},
		{"environmentId": `"` + strings.ToLower(main) + `/environments/E/versions/1"`},
		{"computeId": `"` + main + `/computes/cpu"`}, {"computeId": `"azureml:cpu"`}, {"computeId": `"local"`}, {"computeId": `"serverless"`}, {"computeId": `"` + main + `/computes/CPU"`},
		{"inputs": `{"a":{"jobInputType":"literal","value":"1"},"b":{"jobInputType":"uri_file","uri":"azureml:d:1"},"c":{"jobInputType":"uri_file","uri":"https://example.org/x"},"d":{"jobInputType":"uri_file","uri":"` + main + `/data/d/versions/1"}}`,
			"command": `"echo ${{inputs.a}} ${{ inputs.b }} $HOME ${X}"`},
		{"outputs": `{"o":{"jobOutputType":"uri_folder"},"default":{"jobOutputType":"uri_folder"}}`, "command": `"ls ${{outputs.o}}"`},
		{"limits": `{"jobLimitsType":"Command","timeout":"PT15S"}`}, {"resources": `{"instanceCount":1,"instanceType":"Standard_DS3_v2"}`},
		{"jobType": `"command"`}, {"somethingNew": `{"deep":[1,null]}`},
	} {
		name := fmt.Sprint("good", i)
		if _, err := h.manager.Put(t.Context(), h.request(main+"/jobs/"+name, body(change))); err != nil {
			t.Errorf("%v: %v", change, err)
		} else if r := h.run(name); r.Status != tracking.NotStarted || !r.Job || r.Name != name || r.User != "eve" {
			t.Errorf("%v: %+v", change, r)
		}
	}
}

// shown are the properties of a job as a reader sees them.
func (h *house) shown(name string) resource.Document {
	h.t.Helper()
	r, err := h.manager.Get(h.t.Context(), eve, storetest.ID(h.t, "%s/jobs/%s", main, name), resource.View{Origin: "https://o"})
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func TestAJobRunsOnceHoweverOftenItIsPut(t *testing.T) {
	h := newHouse(t)
	first := body(map[string]string{"displayName": `"one"`, "tags": `{"a":"1"}`, "experimentName": `"x"`, "extra": `{"kept":1}`})
	h.must(main+"/jobs/j", first)
	before := h.run("j")
	if _, err := h.runs.ChangeRun(t.Context(), h.site.GUID, "j", func(r *tracking.Run) error { r.Status, r.End = tracking.Completed, 7; return nil }); err != nil {
		t.Fatal(err)
	}
	h.must(main+"/jobs/J", first)
	h.must(main+"/jobs/j", body(map[string]string{"displayName": `"two"`, "tags": `{"b":"2"}`, "experimentName": `"y"`, "isArchived": "true", "status": `"Running"`}))
	r := h.run("j")
	if r.Status != tracking.Completed || r.End != 7 || r.Seq != before.Seq || r.Name != "two" || r.Tags["b"] != "2" || r.Tags["a"] != "" || !r.Hidden {
		t.Errorf("%+v", r)
	}
	p := h.shown("j")
	if p.Text("status") != "Completed" || p.Text("experimentName") != "y" || string(p["isArchived"]) != "true" || p.Text("displayName") != "two" || string(p["extra"]) != `{"kept":1}` {
		t.Errorf("%s", p.Raw())
	}
	if p.Object("services").Object("Studio").Text("endpoint") == "" {
		t.Error("no address of the Studio")
	}
	page, err := h.manager.List(t.Context(), eve, resource.Query{Type: job.Type, Parent: storetest.ID(t, main)}, nil, resource.View{Origin: "https://host"})
	if err != nil || len(page.Resources) != 1 {
		t.Fatal(page, err)
	}
	if s := string(page.Resources[0].Properties); !strings.Contains(s, `"Tracking"`) || strings.Contains(s, `"Studio"`) {
		t.Errorf("a list costs the SDK a request for each job: %s", s)
	}
	for _, change := range []string{`"false"`, `"True"`} {
		if _, err := h.manager.Put(t.Context(), h.request(main+"/jobs/j", body(map[string]string{"command": change}))); !fault.Is(err, fault.BadRequest) {
			t.Errorf("with the command %s: %v", change, err)
		}
	}
	h.must(main+"/jobs/j", `{"properties":{"jobType":"Command","isArchived":false}}`)
	if r := h.run("j"); r.Hidden || r.Name != "two" {
		t.Errorf("restored: %+v", r)
	}
}

func TestAJobIsArchivedByPatchToo(t *testing.T) {
	h := newHouse(t)
	h.must(main+"/jobs/j", body(nil))
	for _, archived := range []bool{true, false} {
		if _, err := h.manager.Patch(t.Context(), h.request(main+"/jobs/j", fmt.Sprintf(`{"properties":{"isArchived":%v,"description":"d"}}`, archived))); err != nil {
			t.Fatal(err)
		}
		if r := h.run("j"); r.Hidden != archived || r.Description != "d" {
			t.Errorf("%+v", r)
		}
		list := func(want bool) int {
			page, err := h.manager.List(t.Context(), eve, resource.Query{Type: job.Type, Parent: storetest.ID(t, main), Archived: &want}, nil, resource.View{})
			if err != nil {
				t.Fatal(err)
			}
			return len(page.Resources)
		}
		if yes, no := list(true), list(false); (yes == 1) != archived || (no == 1) == archived {
			t.Errorf("archived %v: %d among the archived, %d among the others", archived, yes, no)
		}
	}
}

func TestARunOfThatNameIsNotTakenOver(t *testing.T) {
	h := newHouse(t)
	e, err := h.runs.DefaultExperiment(t.Context(), h.site.GUID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.runs.CreateRun(t.Context(), tracking.Run{Workspace: h.site.GUID, ID: "mine", Experiment: e, Name: "by hand", Status: tracking.Running}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.manager.Put(t.Context(), h.request(main+"/jobs/MINE", body(nil))); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v", err)
	}
	if r := h.run("mine"); r.Name != "by hand" || r.Job {
		t.Errorf("%+v", r)
	}
}

func TestAJobThatRunsCannotBeDeleted(t *testing.T) {
	h := newHouse(t)
	h.must(main+"/jobs/j", body(nil))
	if _, err := h.manager.Delete(t.Context(), h.request(main+"/jobs/j", "")); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v", err)
	}
	if _, err := h.runs.ChangeRun(t.Context(), h.site.GUID, "j", func(r *tracking.Run) error { return job.Move(r, tracking.Canceled) }); err != nil {
		t.Fatal(err)
	}
	if _, err := h.manager.Delete(t.Context(), h.request(main+"/jobs/j", "")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.runs.Run(t.Context(), h.site.GUID, "j"); !fault.Is(err, fault.Missing) {
		t.Errorf("its run is still there: %v", err)
	}
	h.must(main+"/jobs/j", body(nil))
	if r := h.run("j"); r.Status != tracking.NotStarted {
		t.Errorf("made anew: %+v", r)
	}
}

func TestACancelIsAskedForAtOnce(t *testing.T) {
	h := newHouse(t)
	h.must(main+"/jobs/j", body(nil))
	req := h.request(main+"/jobs/j", "")
	req.Action = "cancel"
	if _, err := h.manager.Act(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if r := h.run("j"); r.Status != tracking.CancelRequested || h.woken == 0 {
		t.Errorf("%+v, woken %d times", r, h.woken)
	}
}

func TestListsOfJobs(t *testing.T) {
	h := newHouse(t)
	for i := range 25 {
		change := map[string]string{}
		if i%5 == 0 {
			change["tags"] = `{"team":"blue"}`
		}
		h.must(fmt.Sprintf("%s/jobs/j%02d", main, i), body(change))
	}
	list := func(q resource.Query, o resource.Options) (names []string) {
		q.Type, q.Parent = job.Type, storetest.ID(t, main)
		for {
			page, err := h.manager.List(t.Context(), eve, q, o, resource.View{})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Resources {
				names = append(names, r.ID.Name())
			}
			if q.After = page.Next; q.After == "" {
				return names
			}
		}
	}
	for _, limit := range []int{0, 1, 4, 24, 25, 26} {
		if got := list(resource.Query{Limit: limit}, nil); len(got) != 25 || got[0] != "j24" || got[24] != "j00" {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	for option, want := range map[string]int{"team": 5, "team=blue": 5, "team=red": 0} {
		if got := list(resource.Query{Limit: 3}, resource.Options{"tag": option}); len(got) != want {
			t.Errorf("tag %s: %v", option, got)
		}
	}
	if got := list(resource.Query{Limit: 10}, resource.Options{"jobtype": "command"}); len(got) != 25 {
		t.Errorf("of the type command: %d", len(got))
	}
	if got := list(resource.Query{}, resource.Options{"jobtype": "Sweep"}); len(got) != 0 {
		t.Errorf("of the type Sweep: %v", got)
	}
	if _, err := h.manager.List(t.Context(), eve, resource.Query{Type: job.Type, Parent: storetest.ID(t, main), After: "x"}, nil, resource.View{}); !fault.Is(err, fault.BadRequest) {
		t.Errorf("a token of no list: %v", err)
	}
}

var statuses = []tracking.Status{tracking.NotStarted, tracking.Starting, tracking.Provisioning, tracking.Preparing, tracking.Queued, tracking.Running,
	tracking.Finalizing, tracking.CancelRequested, tracking.Completed, tracking.Failed, tracking.Canceled, tracking.NotResponding}

func TestTheStatesOfAJobObeyTheirTable(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		run := tracking.Run{ID: "j", Status: tracking.NotStarted}
		started, asked := false, false
		for range rapid.IntRange(1, 30).Draw(r, "moves") {
			was := run.Status
			to := rapid.SampledFrom(statuses).Draw(r, "to")
			err := job.Move(&run, to)
			switch {
			case err != nil && run.Status != was:
				r.Fatalf("a refused move from %s to %s left it %s", was, to, run.Status)
			case err == nil && run.Status != to:
				r.Fatalf("a move from %s to %s left it %s", was, to, run.Status)
			case err == nil && was.Terminal() && to != was:
				r.Fatalf("%s is no end: it went on to %s", was, to)
			case err == nil && to == tracking.NotStarted && was != to:
				r.Fatalf("from %s back to the start", was)
			case err == nil && asked && !to.Terminal() && to != tracking.CancelRequested:
				r.Fatalf("a job that was asked to end went from %s to %s", was, to)
			case err == nil && started && (to == tracking.Queued || to == tracking.Preparing || to == tracking.Starting || to == tracking.Provisioning):
				r.Fatalf("a job that ran went from %s to %s", was, to)
			case err == nil && to == tracking.Completed && !started && !asked && was != to:
				r.Fatalf("it is Completed without having run: from %s", was)
			}
			started = started || run.Status == tracking.Running || run.Status == tracking.Finalizing
			asked = asked || run.Status == tracking.CancelRequested
		}
	})
	for _, from := range statuses {
		reach := tracking.Run{Status: from}
		if !from.Terminal() && job.Move(&reach, tracking.Failed) != nil {
			t.Errorf("a job that is %s cannot fail", from)
		}
		reach = tracking.Run{Status: from}
		if !from.Terminal() && job.Move(&reach, tracking.CancelRequested) != nil {
			t.Errorf("a job that is %s cannot be cancelled", from)
		}
	}
}
