package deploy

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/endpoint"
	"lapis/ml/serving"
	"lapis/resource"
)

func TestTheLastLinesOfALogAreAsManyAsAskedFor(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc", 1, "c"}, {"a\n", 5, "a\n"}, {"", 3, ""}, {"a\nb\n", 0, ""}, {"\n\n\n", 2, "\n\n"},
	} {
		if got := lastLines(c.text, c.n); got != c.want {
			t.Errorf("the last %d lines of %q are %q, not %q", c.n, c.text, got, c.want)
		}
	}
}

func TestAMissingPackageIsToldWithWhereItGoes(t *testing.T) {
	const cause = "ModuleNotFoundError: No module named 'sklearn.tree' (score.py, line 3)"
	for flavor, where := range map[string]string{"script": "conda file", "mlflow": "pip_requirements"} {
		got := withFix(cause, Spec{Instance: Instance{Flavor: flavor}})
		if !strings.HasPrefix(got, cause+"; add the package that has sklearn ") || !strings.Contains(got, where) {
			t.Errorf("%s: %q", flavor, got)
		}
	}
	if got := withFix("ValueError: x", Spec{}); got != "ValueError: x" {
		t.Errorf("a fix for what has none: %q", got)
	}
}

func TestPathsOfThisMachineAreNoPartOfACause(t *testing.T) {
	for text, want := range map[string]string{
		"File \"/data/serving/groups/e_d-0123/wd/score.py\", line 1":                              "File \"score.py\", line 1",
		"Load /d/serving/groups/e_d-0123/inputs/var/azureml-app/azureml-models/m/1/a.onnx failed": "Load azureml-models/m/1/a.onnx failed",
		"/usr/lib/python3/x.py": "/usr/lib/python3/x.py",
	} {
		if got := inTask.ReplaceAllString(text, ""); got != want {
			t.Errorf("%q becomes %q, not %q", text, got, want)
		}
	}
}

func TestTheCauseOfAGroupsEndIsNotTheServersOwnWords(t *testing.T) {
	for _, c := range []struct {
		exit compute.Exit
		want string
	}{
		{compute.Exit{Code: 1, LastLine: "Killed by me\nlapis: a note"}, "Killed by me"},
		{compute.Exit{Code: 3, LastLine: "lapis: a note"}, "exit code 3"},
		{compute.Exit{OOM: true, LastLine: "x"}, "memory"},
		{compute.Exit{Lost: "machine restarted"}, "machine restarted"},
	} {
		if got := crashed(c.exit).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q", c.exit, got)
		}
	}
}

func deployment(t *testing.T, id string) resource.Resource {
	t.Helper()
	parsed, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/e/deployments/" + id)
	if err != nil {
		t.Fatal(err)
	}
	return resource.Resource{ID: parsed, Born: 7}
}

func TestOnlyWhatInstancesAreMadeOfMakesANewGeneration(t *testing.T) {
	r := deployment(t, "blue")
	s := Spec{Instance: Instance{Runtime: serving.Python, Script: "score.py", Concurrency: 1, Variables: map[string]string{"a": "1", "b": "2"}}}
	first := generation(r, s)
	s.Timeout = time.Minute
	s.ScoringPath = "/other"
	r.Tags = map[string]string{"x": "y"}
	if generation(r, s) != first {
		t.Error("a changed timeout starts new instances")
	}
	for what, change := range map[string]func(r *resource.Resource, s *Spec){
		"a variable":                  func(_ *resource.Resource, s *Spec) { s.Variables = map[string]string{"a": "2"} },
		"the concurrency":             func(_ *resource.Resource, s *Spec) { s.Concurrency = 2 },
		"the script":                  func(_ *resource.Resource, s *Spec) { s.Script = "other.py" },
		"the model":                   func(_ *resource.Resource, s *Spec) { s.Model = &Model{Name: "m", Version: "2"} },
		"a deployment made once more": func(r *resource.Resource, _ *Spec) { r.Born = 8 },
		"another deployment":          func(r *resource.Resource, _ *Spec) { *r = deployment(t, "green") },
	} {
		changedR, changedS := r, s
		change(&changedR, &changedS)
		if generation(changedR, changedS) == first {
			t.Errorf("%s does not start new instances", what)
		}
	}
}

func TestRequestsGoToInstancesThatAreReadyAndToOthersOnlyWhenNoneIs(t *testing.T) {
	g := &group{task: "w/e/blue/g1", deployment: deployment(t, "blue").ID, generation: "g1", spec: Spec{Instance: Instance{Runtime: serving.Python}}}
	in := func(n int, state string) serving.GroupInstance {
		return serving.GroupInstance{Number: n, Network: "unix", Address: "/s", State: state}
	}
	for _, c := range []struct {
		instances []serving.GroupInstance
		count     int
		want      string
	}{
		{[]serving.GroupInstance{in(1, serving.Ready), in(2, serving.Starting), in(3, serving.Ready)}, 3, "e/blue/g1/1 e/blue/g1/3"},
		{[]serving.GroupInstance{in(1, serving.Failed), in(2, serving.Stopping)}, 2, "e/blue/g1/1"},
		{[]serving.GroupInstance{in(1, serving.Ready), in(2, serving.Ready), in(3, serving.Ready)}, 1, "e/blue/g1/1"},
		{[]serving.GroupInstance{in(1, serving.Stopping), in(2, serving.Ready)}, 1, "e/blue/g1/2"},
		{nil, 1, ""},
	} {
		g.instances = c.instances
		var got []string
		for _, i := range reachable(g, c.count) {
			if got = append(got, i.ID); !i.Frames {
				t.Errorf("%s does not speak in frames", i.ID)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v of %d: requests go to %q, not %q", c.instances, c.count, got, c.want)
		}
	}
}

func TestWhatADeploymentSaysOfItsRequestsIsRead(t *testing.T) {
	var q Requests
	p := endpoint.Deployment{Requests: endpoint.Requests{Timeout: "PT7S", MaxQueueWait: "PT0.25S"}, ComputeType: "Kubernetes",
		Readiness:  endpoint.Probe{InitialDelay: "PT500S", Period: "PT1S", FailureThreshold: 10},
		Properties: map[string]string{propMin: "0", propIdle: "1.5"}}
	if err := q.read(p); err != nil {
		t.Fatal(err)
	}
	if q.Timeout != 7*time.Second || q.QueueWait != 250*time.Millisecond || q.Idle != 1500*time.Millisecond || q.MinInstances != 0 || q.Patience < 500*time.Second {
		t.Errorf("%+v", q)
	}
	if err := q.read(endpoint.Deployment{}); err != nil || q.Timeout != 5*time.Second || q.MinInstances != 1 {
		t.Errorf("by default: %+v, %v", q, err)
	}
	for name, value := range map[string]string{propMin: "-1", propIdle: "x"} {
		bad := endpoint.Deployment{Properties: map[string]string{propMin: "0"}}
		bad.Properties[name] = value
		if err := q.read(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s = %q: %v", name, value, err)
		}
	}
}

func TestWhatRunsADeploymentIsChosenByWhatItHas(t *testing.T) {
	code := &compute.Tree{Prefix: "c/"}
	mlflow := &Model{Name: "m", Version: "1", Type: "mlflow_model", URL: "https://example.com/m"} // elsewhere: not looked into
	routes := inferenceConfig{Scoring: &route{Port: 8080, Path: "predict"}, Liveness: &route{Port: 8080, Path: "/live"}}
	for _, c := range []struct {
		name       string
		spec       Spec
		properties map[string]string
		routes     inferenceConfig
		want       string // runtime and flavor, or what the refusal says
	}{
		{"a script", Spec{Instance: Instance{Code: code, Script: "score.py"}}, nil, inferenceConfig{}, "python script"},
		{"a script and an MLflow model", Spec{Instance: Instance{Code: code, Script: "score.py", Model: mlflow}}, nil, inferenceConfig{}, "python script"},
		{"an MLflow model", Spec{Instance: Instance{Model: mlflow}}, nil, inferenceConfig{}, "python mlflow"},
		{"a command", Spec{}, map[string]string{propCommand: "serve"}, routes, "program "},
		{"a command and python asked for", Spec{Instance: Instance{Model: mlflow}}, map[string]string{propCommand: "serve", propTier: "python"}, routes, "python mlflow"},
		{"an image alone", Spec{}, nil, routes, "container engine"},
		{"a container asked for", Spec{Instance: Instance{Code: code, Script: "score.py"}}, map[string]string{propTier: "container"}, inferenceConfig{}, "container engine"},
		{"native asked for without a model", Spec{}, map[string]string{propTier: "native"}, inferenceConfig{}, "no model"},
		{"a tier that is none", Spec{}, map[string]string{propTier: "cloud"}, inferenceConfig{}, `"cloud"`},
		{"nothing", Spec{}, nil, inferenceConfig{}, "nothing that answers"},
	} {
		d := New(Config{})
		w := wanted{deployment: endpoint.Deployment{Properties: c.properties}}
		err := d.choose(t.Context(), w, &c.spec, inference{Config: c.routes})
		got := c.spec.Runtime + " " + c.spec.Flavor
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
	s := Spec{}
	program(&s, "serve", routes)
	if s.Port != 8080 || s.ScoringPath != "/predict" || s.Probe != "/live" {
		t.Errorf("a program: %+v", s)
	}
}

func TestZerosHaveTheShapeThatAModelDeclares(t *testing.T) {
	for _, c := range []struct {
		inputs []declared
		want   string
	}{
		{[]declared{{"x", "FP32", []int64{-1, 2}}}, `{"inputs":[{"datatype":"FP32","name":"x","shape":[1,2],"data":[0,0]}]}`},
		{[]declared{{"a", "BYTES", []int64{1}}, {"b", "BOOL", nil}}, `{"inputs":[{"datatype":"BYTES","name":"a","shape":[1],"data":[""]},{"datatype":"BOOL","name":"b","shape":[],"data":[false]}]}`},
		{[]declared{{"x", "FP16", []int64{1}}}, ""},
		{[]declared{{"x", "FP32", []int64{1 << 40, 1 << 40}}}, ""},
		{[]declared{{"x", "FP32", []int64{1 << 15, 1 << 15}}}, ""},
		{[]declared{{"x", "FP32", []int64{1 << 20}}, {"y", "FP32", []int64{1}}}, ""},
	} {
		if got := string(zeroRequest(c.inputs)); got != c.want {
			t.Errorf("%+v: %s", c.inputs, got)
		}
	}
}

func TestTheLatestOfWhatWasReplacedIsKeptAndNoneWhereMemoryIsShort(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	free := int64(50)
	d := New(Config{Machine: Machine{Memory: 100}, Free: func() int64 { return free }, Now: func() time.Time { return now }})
	var all []replacement
	for n := range maxKept + 3 {
		all = append(all, replacement{task: strconv.Itoa(n), since: now.Add(time.Duration(n) * time.Second)})
	}
	got := d.kept(slices.Clone(all))
	if len(got) != maxKept || got[0].task != strconv.Itoa(maxKept+2) || got[maxKept-1].task != "3" {
		t.Errorf("%+v", got)
	}
	if free = 9; len(d.kept(all)) != 0 {
		t.Error("a tenth of the memory is not free, and groups are kept")
	}
}

func TestWhatWasReplacedIsKeptForAWhile(t *testing.T) {
	replaced := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := replaced
	d := New(Config{Now: func() time.Time { return now }})
	site := ml.Site{GUID: "w"}
	r := stored{deployment(t, "blue"), Status{Live: &Generation{ID: "two", At: replaced.Format(time.RFC3339)}, Previous: &Generation{ID: "one"}}}
	runs := map[string]compute.Observed{"w/e/blue/one": {Phase: compute.Running}}
	if p, ok := d.replacement(site, r, runs); !ok || p.task != "w/e/blue/one" || p.generation.ID != "one" {
		t.Errorf("%+v %v", p, ok)
	}
	if _, ok := d.replacement(site, r, map[string]compute.Observed{"w/e/blue/one": {Phase: compute.Exited}}); ok {
		t.Error("a group that has ended is kept")
	}
	now = replaced.Add(keepFor)
	if _, ok := d.replacement(site, r, runs); ok {
		t.Error("it is kept for ever")
	}
	now, r.status.Previous = replaced, nil
	if _, ok := d.replacement(site, r, runs); ok {
		t.Error("what never was is kept")
	}
}

func TestWorkOnADeploymentKeepsTheLoopAwayUntilTheLastOfItIsDone(t *testing.T) {
	d := New(Config{})
	id := deployment(t, "blue").ID
	first, second := d.occupy(id), d.occupy(id)
	first()
	d.background(t.Context(), id, func(context.Context) { t.Error("the loop works on what is being changed") })
	second()
	done := make(chan struct{})
	d.background(t.Context(), id, func(context.Context) { close(done) })
	<-done
	d.work.Wait()
	if len(d.busy) != 0 {
		t.Errorf("%v", d.busy)
	}
}

func TestAModelIsCalledByItsNameAndOneWithoutByItsFile(t *testing.T) {
	for want, m := range map[string]Model{
		"iris:3":   {Name: "iris", Version: "3", Base: "forest.onnx"},
		"forest:1": {Name: "0f3a", Version: "1", Base: "forest.onnx", Unnamed: true},
		"model:1":  {Name: "0f3a", Version: "1", Base: "model", Unnamed: true},
		"0f3a:1":   {Name: "0f3a", Version: "1", Base: ".onnx", Unnamed: true},
	} {
		if got := m.id(); got != want {
			t.Errorf("%+v is called %q", m, got)
		}
	}
}
