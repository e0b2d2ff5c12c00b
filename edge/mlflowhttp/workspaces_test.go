package mlflowhttp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// in sends a request for a workspace.
func (c *client) in(workspace, method, path, body string) (int, map[string]any) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if workspace != "" {
		r.Header.Set("X-MLFLOW-WORKSPACE", workspace)
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var v map[string]any
	if len(text) > 0 && reply.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(text, &v); err != nil {
			c.t.Fatalf("%v in %s", err, text)
		}
	}
	return reply.StatusCode, v
}

const spaces = "/api/3.0/mlflow/workspaces"

func TestMLflowsWorkspacesAreOffUntilOneIsMade(t *testing.T) {
	c := newClient(t)
	on := func() any {
		_, v := c.in("anything", "GET", "/api/3.0/mlflow/server-info", "")
		return at(v, "workspaces_enabled")
	}
	if on() != false {
		t.Error("on from the beginning")
	}
	for _, name := range []string{"anything", "default"} {
		if status, v := c.in(name, "GET", api+"experiments/get?experiment_id=0", ""); status != 400 || at(v, "error_code") != "FEATURE_DISABLED" {
			t.Errorf("the header %q: %d %v", name, status, v)
		}
	}
	if status, v := c.in("", "GET", spaces, ""); status != 404 || at(v, "error_code") != "ENDPOINT_NOT_FOUND" {
		t.Errorf("%d %v", status, v)
	}
	if e := c.get("experiments/get?experiment_id=0"); at(e, "experiment", "artifact_location") != "mlflow-artifacts:/0" || at(e, "experiment", "workspace") != "default" {
		t.Errorf("%v", e)
	}
	status, v := c.in("", "POST", spaces, `{"name":"team-a","description":"d"}`)
	if w := at(v, "workspace"); status != 201 || at(w, "name") != "team-a" || at(w, "description") != "d" {
		t.Fatalf("%d %v", status, v)
	}
	if on() != true {
		t.Error("still off")
	}
	if status, v := c.in("", "GET", spaces, ""); status != 200 || at(v, "workspaces", 0, "name") != "default" || at(v, "workspaces", 1, "name") != "team-a" {
		t.Errorf("%d %v", status, v)
	}
	if status, _ := c.in("", "DELETE", spaces+"/team-a", ""); status != 204 {
		t.Errorf("deleted: %d", status)
	}
	if on() != false {
		t.Error("on without a workspace")
	}
}

func TestEachWorkspaceHasItsOwn(t *testing.T) {
	c := newClient(t)
	for _, name := range []string{"aa", "bb"} {
		if status, v := c.in("", "POST", spaces, fmt.Sprintf(`{"name":%q}`, name)); status != 201 {
			t.Fatal(status, v)
		}
	}
	ids := map[string]string{}
	for _, name := range []string{"", "aa", "bb"} {
		status, v := c.in(name, "POST", api+"experiments/create", `{"name":"e"}`)
		if status != 200 {
			t.Fatal(status, v)
		}
		id := at(v, "experiment_id").(string)
		ids[name] = id
		_, v = c.in(name, "GET", api+"experiments/get?experiment_id="+id, "")
		if name == "" {
			name = "default"
		}
		if e := at(v, "experiment"); at(e, "artifact_location") != "mlflow-artifacts:/workspaces/"+name+"/"+id || at(e, "workspace") != name {
			t.Errorf("in %s: %v", name, e)
		}
		if status, v := c.in(name, "POST", api+"registered-models/create", `{"name":"m"}`); status != 200 {
			t.Errorf("in %s: %d %v", name, status, v)
		}
	}
	for _, name := range []string{"default", "bb"} {
		if status, v := c.in(name, "GET", api+"experiments/get?experiment_id="+ids["aa"], ""); status != 404 || at(v, "error_code") != "RESOURCE_DOES_NOT_EXIST" {
			t.Errorf("the experiment of aa seen from %s: %d %v", name, status, v)
		}
	}
	_, v := c.in("aa", "POST", api+"runs/create", `{"experiment_id":"`+ids["aa"]+`"}`)
	run := at(v, "run", "info", "run_id").(string)
	uri := at(v, "run", "info", "artifact_uri").(string)
	if want := "mlflow-artifacts:/workspaces/aa/" + ids["aa"] + "/" + run + "/artifacts"; uri != want {
		t.Errorf("artefacts go to %s, want %s", uri, want)
	}
	file := "/api/2.0/mlflow-artifacts/artifacts" + strings.TrimPrefix(uri, "mlflow-artifacts:") + "/f.txt"
	if status, v := c.in("aa", "PUT", file, "hello"); status != 200 {
		t.Fatal(status, v)
	}
	if status, v := c.in("aa", "GET", api+"artifacts/list?run_id="+run, ""); status != 200 || at(v, "files", 0, "path") != "f.txt" {
		t.Errorf("%d %v", status, v)
	}
	if status, _ := c.in("aa", "GET", file, ""); status != 200 {
		t.Errorf("read: %d", status)
	}
	for _, other := range []string{"bb", "default", ""} {
		if status, v := c.in(other, "GET", file, ""); status != 400 || !strings.Contains(fmt.Sprint(at(v, "message")), "targets workspace 'aa'") {
			t.Errorf("the artefact of aa through %q: %d %v", other, status, v)
		}
		if status, _ := c.in(other, "GET", api+"metrics/get-history?metric_key=k&run_id="+run, ""); status != 404 {
			t.Errorf("the history of aa's run through %q: %d", other, status)
		}
		if status, _ := c.in(other, "GET", api+"metrics/get-history-bulk-interval?metric_key=k&run_ids="+run, ""); status != 404 {
			t.Errorf("the chart of aa's run through %q: %d", other, status)
		}
	}
	for _, x := range []struct {
		workspace, method, path, body, code string
		status                              int
	}{
		{"aa", "POST", api + "experiments/create", `{"name":"x","artifact_location":"s3://b"}`, "INVALID_PARAMETER_VALUE", 400},
		{"cc", "GET", api + "experiments/get?experiment_id=0", "", "RESOURCE_DOES_NOT_EXIST", 404},
		{"A", "GET", api + "experiments/get?experiment_id=0", "", "INVALID_PARAMETER_VALUE", 400},
		{"../x", "GET", api + "experiments/get?experiment_id=0", "", "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"aa"}`, "RESOURCE_ALREADY_EXISTS", 400},
		{"", "POST", spaces, `{"name":"default"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"workspaces"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"A"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"-a-"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"` + strings.Repeat("a", 64) + `"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "POST", spaces, `{"name":"dd","default_artifact_root":"relative/path"}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "PATCH", spaces + "/aa", `{}`, "INVALID_PARAMETER_VALUE", 400},
		{"", "PATCH", spaces + "/cc", `{"description":"x"}`, "RESOURCE_DOES_NOT_EXIST", 404},
		{"", "GET", spaces + "/cc", "", "RESOURCE_DOES_NOT_EXIST", 404},
		{"", "DELETE", spaces + "/cc", "", "RESOURCE_DOES_NOT_EXIST", 404},
		{"", "DELETE", spaces + "/default", "", "INVALID_PARAMETER_VALUE", 400},
		{"", "DELETE", spaces + "/aa?mode=NOPE", "", "INVALID_PARAMETER_VALUE", 400},
		{"", "DELETE", spaces + "/aa", "", "INVALID_STATE", 400},
	} {
		if status, v := c.in(x.workspace, x.method, x.path, x.body); status != x.status || at(v, "error_code") != x.code {
			t.Errorf("%s %s %s in %q: %d %v, want %d %s", x.method, x.path, x.body, x.workspace, status, v, x.status, x.code)
		}
	}
	if status, v := c.in("", "PATCH", spaces+"/aa", `{"description":"new","default_artifact_root":"s3://bucket/x/"}`); status != 200 || at(v, "workspace", "description") != "new" || at(v, "workspace", "default_artifact_root") != "s3://bucket/x" {
		t.Errorf("%d %v", status, v)
	}
	_, v = c.in("aa", "POST", api+"experiments/create", `{"name":"f"}`)
	id := fmt.Sprint(at(v, "experiment_id"))
	if _, v = c.in("aa", "GET", api+"experiments/get?experiment_id="+id, ""); at(v, "experiment", "artifact_location") != "s3://bucket/x/"+id {
		t.Errorf("%v", v)
	}
	if status, v := c.in("", "DELETE", spaces+"/aa?mode=CASCADE", ""); status != 204 {
		t.Errorf("%d %v", status, v)
	}
	if status, v := c.in("", "POST", spaces, `{"name":"aa"}`); status != 201 {
		t.Errorf("the name cannot be used again: %d %v", status, v)
	}
	if status, v := c.in("aa", "GET", api+"registered-models/get?name=m", ""); status != 404 {
		t.Errorf("what the old one held is in the new one: %d %v", status, v)
	}
}
