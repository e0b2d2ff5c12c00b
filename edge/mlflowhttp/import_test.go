package mlflowhttp_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const imports = "/api/lapis/import/"

func (c *client) bring(what, body string) map[string]any {
	c.t.Helper()
	return c.do("POST", imports+what, body, 200)
}

// notBrought wants a 4xx that says why.
func (c *client) notBrought(what, body, why string) {
	c.t.Helper()
	status, reply := c.raw("POST", imports+what, body, "application/json")
	if status < 400 || status >= 500 || !strings.Contains(reply, why) {
		c.t.Errorf("POST %s %s: got %d %s, want a 4xx with %q", what, body, status, reply, why)
	}
}

const foreign = `{"run":{"info":{"run_id":"%s","experiment_id":"%s","run_name":"theirs","user_id":"ann","status":"FAILED","start_time":1000,"end_time":2000},
	"data":{"params":[{"key":"lr","value":"0.1"}],"tags":[{"key":"a","value":"b"}]},
	"inputs":{"dataset_inputs":[{"tags":[{"key":"mlflow.data.context","value":"training"}],"dataset":{"name":"d","digest":"1","source_type":"local","source":"{}"}}]}},
	"mark":"%s"}`

func TestARunComesInWithItsIDAndOnce(t *testing.T) {
	c := newClient(t)
	e := c.bring("experiments", `{"experiment_id":"777","name":"theirs","creation_time":500,"last_update_time":600,"tags":[{"key":"k","value":"v"}]}`)
	if at(e, "made") != true || at(e, "experiment", "experiment_id") != "777" || fmt.Sprint(at(e, "experiment", "creation_time")) != "500" {
		t.Fatalf("the experiment: %v", e)
	}
	if e := c.bring("experiments", `{"experiment_id":"777","name":"theirs"}`); at(e, "made") != false {
		t.Errorf("the experiment came twice: %v", e)
	}
	if e := c.bring("experiments", `{"experiment_id":"777","name":"another"}`); at(e, "experiment", "experiment_id") == "777" {
		t.Errorf("an id that is taken was given again: %v", e)
	}
	const id = "0123456789abcdef0123456789abcdef"
	body := fmt.Sprintf(foreign, id, "777", "m1")
	if r := c.bring("runs", body); at(r, "state") != "new" || at(r, "artifact_uri") != "mlflow-artifacts:/777/"+id+"/artifacts" {
		t.Fatalf("the run: %v", r)
	}
	if r := c.bring("runs", body); at(r, "state") != "open" {
		t.Errorf("the run that was not finished: %v", r)
	}
	c.bring("runs/finish", `{"run_id":"`+id+`","status":"FAILED","end_time":2000,"mark":"m1"}`)
	if r := c.bring("runs", body); at(r, "state") != "done" {
		t.Errorf("the run that is here: %v", r)
	}
	run := c.get("runs/get?run_id=" + id)
	info, _ := json.Marshal(at(run, "run", "info"))
	for _, part := range []string{`"run_name":"theirs"`, `"user_id":"ann"`, `"status":"FAILED"`, `"start_time":1000`, `"end_time":2000`, `"experiment_id":"777"`} {
		if !strings.Contains(string(info), part) {
			t.Errorf("the run has no %s: %s", part, info)
		}
	}
	if got := at(run, "run", "inputs", "dataset_inputs"); len(got.([]any)) != 1 {
		t.Errorf("the inputs were doubled: %v", got)
	}
	if r := c.bring("runs", fmt.Sprintf(foreign, id, "777", "m2")); at(r, "state") != "open" {
		t.Errorf("the run that has changed since: %v", r)
	}
	c.bring("runs/finish", `{"run_id":"`+id+`","status":"FINISHED","end_time":3000,"deleted_time":4000,"mark":"m2"}`)
	if got := at(c.get("runs/get?run_id="+id), "run", "info", "lifecycle_stage"); got != "deleted" {
		t.Errorf("the run that its store deleted is %v", got)
	}
}

func TestARunThatWasNotImportedIsNotTouched(t *testing.T) {
	c := newClient(t)
	id := c.newRun(`{"experiment_id":"0","run_name":"ours","start_time":1}`)
	before := c.get("runs/get?run_id=" + id)
	if r := c.bring("runs", fmt.Sprintf(foreign, id, "0", "m")); at(r, "state") != "taken" {
		t.Errorf("a run of that id is here: %v", r)
	}
	c.notBrought("runs/finish", `{"run_id":"`+id+`","status":"FAILED","mark":"m"}`, "was not imported")
	if after := c.get("runs/get?run_id=" + id); !reflect.DeepEqual(before, after) {
		t.Errorf("the run was\n%v, and is\n%v", before, after)
	}
}

func TestWhatCannotComeInIsRefused(t *testing.T) {
	c := newClient(t)
	const info = `{"run":{"info":{"run_id":"%s","experiment_id":"0"%s},"data":{%s}},"mark":"m"}`
	for _, bad := range []struct{ id, more, data, why string }{
		{"", "", "", "run_id"},
		{"../x", "", "", "run_id"},
		{"a b", "", "", "run_id"},
		{strings.Repeat("a", 300), "", "", "run_id"},
		{"r1", `,"artifact_uri":"mlflow-artifacts:/0/other/artifacts"`, "", "artifact_uri"},
		{"r1", `,"artifact_uri":"http://elsewhere/x"`, "", "artifact_uri"},
		{"r1", `,"status":"SLEEPING"`, "", "status"},
		{"r1", "", `"params":[{"key":"../a","value":"b"}]`, "key"},
		{"r1", "", `"params":[{"value":"b"}]`, "key"},
		{"r1", "", `"tags":"none"`, "tags"},
	} {
		c.notBrought("runs", fmt.Sprintf(info, bad.id, bad.more, bad.data), bad.why)
	}
	c.notBrought("runs", `{"run":{"info":{"run_id":"r1","experiment_id":"0"}}}`, "mark")
	c.notBrought("runs", `{"run":{"info":{"run_id":"r1","experiment_id":"99"}},"mark":"m"}`, "99")
	c.notBrought("runs/finish", `{"run_id":"nothing","status":"FINISHED","mark":"m"}`, "nothing")
	c.notBrought("experiments", `{"experiment_id":"5"}`, "name")
	c.notBrought("logged-models", `{"model_id":"x","experiment_id":"0","name":"m"}`, "model_id")
	c.notBrought("logged-models", `{"model_id":"m-../x","experiment_id":"0","name":"m"}`, "model_id")
	if status, _ := c.raw("GET", api+"runs/get?run_id=r1", "", ""); status != 404 {
		t.Error("a run was made of a request that was refused")
	}
}

func TestALoggedModelComesInWithItsID(t *testing.T) {
	c := newClient(t)
	const id = "m-0123456789abcdef0123456789abcdef"
	body := `{"model_id":"` + id + `","experiment_id":"0","name":"net","status":"LOGGED_MODEL_READY","creation_timestamp_ms":1000,"last_updated_timestamp_ms":2000,"params":[{"key":"k","value":"v"}]}`
	if m := c.bring("logged-models", body); at(m, "made") != true {
		t.Fatalf("the model: %v", m)
	}
	if m := c.bring("logged-models", body); at(m, "made") != false {
		t.Errorf("the model came twice: %v", m)
	}
	m := at(c.get("logged-models/"+id), "model", "info")
	if at(m, "name") != "net" || at(m, "status") != "LOGGED_MODEL_READY" || fmt.Sprint(at(m, "creation_timestamp_ms")) != "1000" {
		t.Errorf("the model: %v", m)
	}
}

func TestAVersionComesInWithItsNumberAndDates(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	c.bring("registered-models", `{"name":"n","description":"d","creation_timestamp":1000,"last_updated_timestamp":2000,"tags":[{"key":"k","value":"v"}]}`)
	body := fmt.Sprintf(`{"name":"n","version":"7","source":%q,"run_id":%q,"current_stage":"Staging","creation_timestamp":1500,"last_updated_timestamp":1600,"description":"seven"}`, source, run)
	if v := c.bring("model-versions", body); at(v, "made") != true {
		t.Fatalf("the version: %v", v)
	}
	if v := c.bring("model-versions", body); at(v, "made") != false {
		t.Errorf("the version came twice: %v", v)
	}
	c.notBrought("model-versions", strings.Replace(body, "1500", "1501", 1), "Another version of that number")
	v := at(c.get("model-versions/get?name=n&version=7"), "model_version")
	if at(v, "current_stage") != "Staging" || fmt.Sprint(at(v, "creation_timestamp")) != "1500" || fmt.Sprint(at(v, "last_updated_timestamp")) != "1600" || at(v, "run_id") != run {
		t.Errorf("the version: %v", v)
	}
	m := at(c.get("registered-models/get?name=n"), "registered_model")
	if fmt.Sprint(at(m, "creation_timestamp")) != "1000" || fmt.Sprint(at(m, "last_updated_timestamp")) != "2000" || at(m, "description") != "d" {
		t.Errorf("the model: %v", m)
	}
	next := c.post("model-versions/create", fmt.Sprintf(`{"name":"n","source":%q,"run_id":%q}`, source, run))
	if got := at(next, "model_version", "version"); got != "8" {
		t.Errorf("after version 7 comes %v", got)
	}
	for _, bad := range []struct{ version, source string }{
		{"0", source}, {"x", source}, {"07", source}, {"9", ""}, {"9", "/etc"}, {"9", "file:///etc"}, {"9", "C:/x"},
		{"9", source + "/../.."}, {"9", source + "/%252e%252e/x"}, {"9", "http://elsewhere/x"},
	} {
		c.notBrought("model-versions", fmt.Sprintf(`{"name":"n","version":%q,"source":%q}`, bad.version, bad.source), "INVALID_PARAMETER_VALUE")
	}
}
