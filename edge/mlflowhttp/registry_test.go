package mlflowhttp_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// upload puts a file where a run's model is, and returns the run and the source.
func (c *client) upload() (run, source string) {
	c.t.Helper()
	run = c.newRun(`{"experiment_id":"0"}`)
	path := "/0/" + run + "/artifacts/model"
	if status, reply := c.raw("PUT", "/api/2.0/mlflow-artifacts/artifacts"+path+"/MLmodel", "flavors:\n  python_function:\n    loader_module: m\n", ""); status != 200 {
		c.t.Fatal(status, reply)
	}
	return run, "mlflow-artifacts:" + path
}

func TestVersionsCountUpAndAreNeverUsedAgain(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	c.post("registered-models/create", `{"name":"n","description":"d","tags":[{"key":"k","value":"v"}]}`)
	c.refused("POST", "registered-models/create", `{"name":"n"}`, "RESOURCE_ALREADY_EXISTS", "Registered Model (name=n) already exists.")
	body := fmt.Sprintf(`{"name":"n","source":%q,"run_id":%q}`, source, run)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 8 {
		wg.Go(func() {
			v := at(c.post("model-versions/create", body), "model_version", "version").(string)
			mu.Lock()
			defer mu.Unlock()
			if seen[v] {
				t.Errorf("version %s was given twice", v)
			}
			seen[v] = true
		})
	}
	wg.Wait()
	c.do("DELETE", api+"model-versions/delete", `{"name":"n","version":"8"}`, 200)
	c.refused("GET", "model-versions/get?name=n&version=8", "", "RESOURCE_DOES_NOT_EXIST", "Model Version (name=n, version=8) not found")
	if v := at(c.post("model-versions/create", body), "model_version", "version"); v != "9" {
		t.Errorf("after the newest of 8 was deleted comes %v, want 9", v)
	}
	m := at(c.get("registered-models/get?name=n"), "registered_model")
	if at(m, "latest_versions", 0, "version") != "9" || at(m, "description") != "d" || pairs(at(m, "tags"))["k"] != "v" {
		t.Errorf("%v", m)
	}
	if uri := at(c.get("model-versions/get-download-uri?name=n&version=9"), "artifact_uri"); uri != source {
		t.Errorf("download from %v, want %s", uri, source)
	}
}

func TestASourceMustBelongToWhatTheRequestNames(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	other, _ := c.upload()
	c.post("registered-models/create", `{"name":"n"}`)
	const none, ipv = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"
	for _, x := range []struct{ source, more, code, message string }{
		{source, ``, ipv, "The run_id request parameter must identify the resource that contains the source."},
		{source, `,"run_id":"` + other + `"`, ipv, "must identify the resource"},
		{source + "/../../x", `,"run_id":"` + run + `"`, ipv, "Invalid model version source"},
		{source + "/%2e%2e/x", `,"run_id":"` + run + `"`, ipv, "Invalid model version source"},
		{"runs:/" + run + "/model", ``, ipv, "must identify the resource"},
		{"models:/m-0123", ``, ipv, "The model_id request parameter must identify"},
		{"models:/m-0123", `,"model_id":"m-0123"`, none, "m-0123"},
		{"models:/m-0123", `,"model_id":"m-9"`, ipv, "The model_id request parameter must identify"},
		{"models:/n", ``, ipv, "must identify the resource"},
		{"runs:/" + run + "/model", `,"run_id":"` + run + `","model_id":"m-1"`, ipv, "The model_id request parameter must identify"},
		{"s3://bucket", ``, ipv, "absolute path"},
		{"s3://bucket/a/./b", ``, ipv, "absolute path"},
		{"s3://bucket/a%00", ``, ipv, "absolute path"},
		{"dbfs:relative", ``, ipv, "absolute path"},
		{"mlflow-artifacts:/0/x", `,"run_id":"nobody"`, ipv, "The run_id request parameter must identify"},
		{"models:/nope/1", ``, none, "Registered Model with name=nope not found"},
		{"/etc/passwd", `,"run_id":"` + run + `"`, ipv, "local path"},
		{"file:///etc/passwd", ``, ipv, "local path"},
		{"https://example.org/m", ``, ipv, "cannot use the 'https' scheme"},
	} {
		c.refused("POST", "model-versions/create", fmt.Sprintf(`{"name":"n","source":%q%s}`, x.source, x.more), x.code, x.message)
	}
	if v := at(c.post("model-versions/create", fmt.Sprintf(`{"name":"n","source":"runs:/%s/model","run_id":%q}`, run, run)), "model_version", "version"); v != "1" {
		t.Errorf("version %v", v)
	}
	// MLflow does not look for the run of a source, nor does it here.
	if v := at(c.post("model-versions/create", `{"name":"n","source":"runs:/nobody/model","run_id":"nobody"}`), "model_version"); at(v, "version") != "2" {
		t.Errorf("version %v", v)
	}
	if uri := at(c.get("model-versions/get-download-uri?name=n&version=2"), "artifact_uri"); uri != "runs:/nobody/model" {
		t.Errorf("its bytes are at %v", uri)
	}
	c.post("registered-models/create", `{"name":"copy"}`)
	c.refused("POST", "model-versions/create", `{"name":"copy","source":"models:/n/1","run_id":"other"}`, ipv, "must match the referenced model version")
	v := at(c.post("model-versions/create", `{"name":"copy","source":"models:/n/1"}`), "model_version")
	if at(v, "run_id") != run || at(v, "source") != "models:/n/1" {
		t.Errorf("a copy is %v", v)
	}
	if uri := at(c.get("model-versions/get-download-uri?name=copy&version=1"), "artifact_uri"); uri != source {
		t.Errorf("a copy is read from %v, want %s", uri, source)
	}
}

func TestAliasesStagesAndNamesMoveAtOnce(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	c.post("registered-models/create", `{"name":"n"}`)
	for range 2 {
		c.post("model-versions/create", fmt.Sprintf(`{"name":"n","source":%q,"run_id":%q}`, source, run))
	}
	const ipv = "INVALID_PARAMETER_VALUE"
	c.refused("GET", "registered-models/alias?name=n&alias=best", "", ipv, "Registered model alias best not found.")
	for _, x := range []struct{ alias, version, message string }{
		{"Latest", "1", "reserved"}, {"v1", "1", "Version alias name 'v1' is reserved."}, {"a b", "1", "Invalid alias name"}, {"ok", "x", "must be an integer"},
	} {
		c.refused("POST", "registered-models/alias", fmt.Sprintf(`{"name":"n","alias":%q,"version":%q}`, x.alias, x.version), ipv, x.message)
	}
	c.refused("POST", "registered-models/alias", `{"name":"n","alias":"best","version":"7"}`, "RESOURCE_DOES_NOT_EXIST", "version=7")
	for _, v := range []string{"1", "2"} {
		c.post("registered-models/alias", `{"name":"n","alias":"best","version":"`+v+`"}`)
		if got := at(c.get("registered-models/alias?name=n&alias=best"), "model_version", "version"); got != v {
			t.Errorf("best is %v, want %s", got, v)
		}
	}
	for _, v := range []string{"1", "2"} {
		c.post("model-versions/transition-stage", `{"name":"n","version":"`+v+`","stage":"production","archive_existing_versions":true}`)
	}
	stage := func(name, version string) any {
		return at(c.get("model-versions/get?name="+name+"&version="+version), "model_version", "current_stage")
	}
	if stage("n", "1") != "Archived" || stage("n", "2") != "Production" {
		t.Errorf("stages %v, %v", stage("n", "1"), stage("n", "2"))
	}
	c.refused("POST", "model-versions/transition-stage", `{"name":"n","version":"1","stage":"Nope"}`, ipv, "Invalid Model Version stage: Nope.")
	c.post("registered-models/rename", `{"name":"n","new_name":"m"}`)
	c.refused("GET", "registered-models/get?name=n", "", "RESOURCE_DOES_NOT_EXIST", "name=n not found")
	if stage("m", "2") != "Production" || at(c.get("registered-models/alias?name=m&alias=best"), "model_version", "name") != "m" {
		t.Error("a renamed model lost its stages or aliases")
	}
	c.do("DELETE", api+"model-versions/delete", `{"name":"m","version":"2"}`, 200)
	c.refused("GET", "registered-models/alias?name=m&alias=best", "", ipv, "not found")
	c.do("DELETE", api+"registered-models/alias", `{"name":"m","alias":"best"}`, 200)
	c.do("DELETE", api+"registered-models/delete", `{"name":"m"}`, 200)
	c.refused("GET", "model-versions/get?name=m&version=1", "", "RESOURCE_DOES_NOT_EXIST", "not found")
}

func TestSearchesOfTheRegistryFilterAndLeaveOutPrompts(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	for _, name := range []string{"alpha", "beta", "Beta2"} {
		c.post("registered-models/create", `{"name":"`+name+`","tags":[{"key":"first","value":"`+name[:1]+`"}]}`)
		c.post("model-versions/create", fmt.Sprintf(`{"name":%q,"source":%q,"run_id":%q}`, name, source, run))
	}
	c.post("registered-models/create", `{"name":"greet","tags":[{"key":"mlflow.prompt.is_prompt","value":"true"}]}`)
	c.post("model-versions/create", `{"name":"greet","source":"prompt-template","tags":[{"key":"mlflow.prompt.is_prompt","value":"true"},{"key":"mlflow.prompt.text","value":"hi"}]}`)
	search := func(what, filter, order string) string {
		t.Helper()
		query := strings.NewReplacer(" ", "%20", "%", "%25", "'", "%27").Replace(filter)
		list, key := what+"/search?filter="+query, "registered_models"
		if what == "model-versions" {
			key = "model_versions"
		}
		if order != "" {
			list += "&order_by=" + strings.ReplaceAll(order, " ", "%20")
		}
		var names []string
		found, _ := at(c.get(list), key).([]any)
		for _, m := range found {
			names = append(names, at(m, "name").(string))
		}
		return strings.Join(names, " ")
	}
	for _, x := range []struct{ what, filter, order, want string }{
		{"registered-models", "", "", "Beta2 alpha beta"},
		{"registered-models", "", "name DESC", "beta alpha Beta2"},
		{"registered-models", "name LIKE 'b%'", "", "beta"},
		{"registered-models", "name ILIKE 'b%'", "", "Beta2 beta"},
		{"registered-models", "name = 'alpha'", "", "alpha"},
		{"registered-models", "tags.first = 'a'", "", "alpha"},
		{"registered-models", "tags.`mlflow.prompt.is_prompt` = 'true'", "", "greet"},
		{"model-versions", "", "", "Beta2 beta alpha"},
		{"model-versions", "name = 'beta'", "", "beta"},
		{"model-versions", "name = 'nope'", "", ""},
		{"model-versions", "run_id = '" + run + "'", "name DESC", "beta alpha Beta2"},
		{"model-versions", "version_number > 1", "", ""},
		{"model-versions", "tags.`mlflow.prompt.is_prompt` = 'true'", "", "greet"},
	} {
		if got := search(x.what, x.filter, x.order); got != x.want {
			t.Errorf("%s filter %q order %q: %q, want %q", x.what, x.filter, x.order, got, x.want)
		}
	}
}

func TestALoggedModelKnowsItsVersions(t *testing.T) {
	c := newClient(t)
	m := at(c.post("logged-models", `{"experiment_id":"0","name":"l"}`), "model", "info", "model_id").(string)
	c.do("PATCH", api+"logged-models/"+m, `{"model_id":"`+m+`","status":"LOGGED_MODEL_READY"}`, 200)
	c.post("registered-models/create", `{"name":"n"}`)
	for range 2 {
		c.post("model-versions/create", fmt.Sprintf(`{"name":"n","source":"models:/%s","model_id":%q}`, m, m))
	}
	tags := pairs(at(c.get("logged-models/"+m), "model", "info", "tags"))
	if want := `[{"name": "n", "version": 1}, {"name": "n", "version": 2}]`; tags["mlflow.modelVersions"] != want {
		t.Errorf("tagged %v, want %s", tags, want)
	}
}
