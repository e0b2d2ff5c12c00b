package mlflowhttp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"lapis/ml/tracking"
)

// client sends requests and wants a status.
type client struct {
	t   testing.TB
	url string
}

func (c *client) do(method, path, body string, want int) map[string]any {
	c.t.Helper()
	status, reply := c.raw(method, path, body, "application/json")
	if status != want {
		c.t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, status, reply, want)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(reply), &v); err != nil {
		c.t.Fatalf("%s %s: %v in %s", method, path, err, reply)
	}
	return v
}

func (c *client) raw(method, path, body, kind string) (int, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reply.Body.Close()
	b, err := io.ReadAll(reply.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply.StatusCode, string(b)
}

const api = "/api/2.0/mlflow/"

func (c *client) post(path, body string) map[string]any {
	c.t.Helper()
	return c.do("POST", api+path, body, 200)
}
func (c *client) get(path string) map[string]any { c.t.Helper(); return c.do("GET", api+path, "", 200) }

// refused wants a 4xx with the code and a part of the message.
func (c *client) refused(method, path, body, code, message string) {
	c.t.Helper()
	status, reply := c.raw(method, api+path, body, "application/json")
	var v struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(reply), &v); err != nil {
		c.t.Fatalf("%s %s: %v in %s", method, path, err, reply)
	}
	if status < 400 || status >= 500 || v.Code != code || !strings.Contains(v.Message, message) {
		c.t.Errorf("%s %s %s:\n got %d %s %s\nwant %s … %s", method, path, body, status, v.Code, v.Message, code, message)
	}
}

// at follows keys and indexes into a reply.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (c *client) newRun(body string) string {
	c.t.Helper()
	return at(c.post("runs/create", body), "run", "info", "run_id").(string)
}

func newClient(t testing.TB) *client {
	url, _ := serve(t)
	return &client{t, url}
}

func pairs(v any) map[string]any {
	m := map[string]any{}
	list, _ := v.([]any)
	for _, e := range list {
		m[at(e, "key").(string)] = at(e, "value")
	}
	return m
}

func TestTheLatestMetricIsTheHighestStepThenTimeThenValue(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	log := func(key string, value any, ms, step int) {
		c.post("runs/log-metric", fmt.Sprintf(`{"run_id":%q,"key":%q,"value":%v,"timestamp":%d,"step":%d}`, run, key, value, ms, step))
	}
	log("m", 1, 5, 10)
	log("m", 2, 9, 5)
	log("t", 1, 9, 0)
	log("t", 2, 5, 0)
	log("v", 3, 1, 1)
	log("v", 2, 1, 1)
	log("n", `"NaN"`, 1, 1)
	log("n", -1, 1, 1)
	log("inf", `"-Infinity"`, 1, 1)
	for range 3 {
		log("again", 7, 1, 1)
	}
	metrics := pairs(at(c.get("runs/get?run_id="+run), "run", "data", "metrics"))
	want := map[string]any{"m": 1., "t": 1., "v": 3., "n": "NaN", "inf": -math.MaxFloat64, "again": 7.}
	for k, v := range want {
		if metrics[k] != v {
			t.Errorf("latest %s is %v, want %v", k, metrics[k], v)
		}
	}
	if n := len(at(c.get("metrics/get-history?metric_key=again&run_id="+run), "metrics").([]any)); n != 1 {
		t.Errorf("a point logged three times is there %d times", n)
	}
}

func TestAParamCannotBeChanged(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	c.post("runs/log-parameter", `{"run_id":"`+run+`","key":"k","value":"a"}`)
	c.post("runs/log-parameter", `{"run_id":"`+run+`","key":"k","value":"a"}`)
	c.refused("POST", "runs/log-parameter", `{"run_id":"`+run+`","key":"k","value":"b"}`, "INVALID_PARAMETER_VALUE",
		"Changing param values is not allowed. Param with key='k' was already logged with value='a' for run ID='"+run+"'. Attempted logging new value 'b'.")
	c.refused("POST", "runs/log-batch", `{"run_id":"`+run+`","params":[{"key":"k","value":"b"},{"key":"new","value":"1"}],"tags":[{"key":"t","value":"1"}],"metrics":[{"key":"m","value":1,"timestamp":1}]}`,
		"INVALID_PARAMETER_VALUE", "[{'key': 'k', 'old_value': 'a', 'new_value': 'b'}]")
	c.refused("POST", "runs/log-batch", `{"run_id":"`+run+`","params":[{"key":"x","value":"1"},{"key":"x","value":"1"}]}`,
		"INVALID_PARAMETER_VALUE", "Duplicate parameter keys have been submitted: ['x']")
	data := at(c.get("runs/get?run_id="+run), "run", "data")
	if p := pairs(at(data, "params")); len(p) != 1 || p["k"] != "a" {
		t.Errorf("params %v, want k=a alone", p)
	}
	if at(data, "metrics") != nil || pairs(at(data, "tags"))["t"] != nil {
		t.Errorf("a refused batch left something: %v", data)
	}
}

func TestTheRunsNameAndItsTagAreOne(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0","tags":[{"key":"mlflow.runName","value":"one"}]}`)
	name := func() (string, any) {
		r := c.get("runs/get?run_id=" + run)
		return at(r, "run", "info", "run_name").(string), pairs(at(r, "run", "data", "tags"))["mlflow.runName"]
	}
	for _, step := range []struct{ path, body, want string }{
		{"", "", "one"},
		{"runs/update", `{"run_id":"` + run + `","run_name":"two"}`, "two"},
		{"runs/set-tag", `{"run_id":"` + run + `","key":"mlflow.runName","value":"three"}`, "three"},
		{"runs/log-batch", `{"run_id":"` + run + `","tags":[{"key":"mlflow.runName","value":"four"}]}`, "four"},
		{"runs/update", `{"run_id":"` + run + `","run_name":""}`, "four"},
	} {
		if step.path != "" {
			c.post(step.path, step.body)
		}
		if n, tag := name(); n != step.want || tag != step.want {
			t.Errorf("after %s %s: name %q, tag %q, want %q", step.path, step.body, n, tag, step.want)
		}
	}
	c.refused("POST", "runs/create", `{"experiment_id":"0","run_name":"a","tags":[{"key":"mlflow.runName","value":"b"}]}`, "INVALID_PARAMETER_VALUE", "different values")
}

func TestADeletedRunTakesNoWritesAndComesBack(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	c.post("runs/delete", `{"run_id":"`+run+`"}`)
	c.post("runs/delete", `{"run_id":"`+run+`"}`)
	gone := "The run " + run + " must be in the 'active' state. Current state is deleted."
	c.refused("POST", "runs/log-metric", `{"run_id":"`+run+`","key":"m","value":1,"timestamp":1}`, "INVALID_PARAMETER_VALUE", gone)
	c.refused("POST", "runs/set-tag", `{"run_id":"`+run+`","key":"m","value":"1"}`, "INVALID_PARAMETER_VALUE", gone)
	c.refused("POST", "runs/update", `{"run_id":"`+run+`","run_name":"m"}`, "INVALID_PARAMETER_VALUE", gone)
	if s := at(c.get("runs/get?run_id="+run), "run", "info", "lifecycle_stage"); s != "deleted" {
		t.Errorf("stage %v", s)
	}
	if at(c.post("runs/search", `{"experiment_ids":["0"]}`), "runs") != nil {
		t.Error("a search shows the deleted run")
	}
	if at(c.post("runs/search", `{"experiment_ids":["0"],"run_view_type":"DELETED_ONLY"}`), "runs", 0) == nil {
		t.Error("a search for deleted runs does not show it")
	}
	c.post("runs/restore", `{"run_id":"`+run+`"}`)
	c.post("runs/log-metric", `{"run_id":"`+run+`","key":"m","value":1,"timestamp":1}`)
}

func TestAnExperimentTakesItsRunsAlongAndBack(t *testing.T) {
	c := newClient(t)
	e := at(c.post("experiments/create", `{"name":"e"}`), "experiment_id").(string)
	a, b := c.newRun(`{"experiment_id":"`+e+`"}`), c.newRun(`{"experiment_id":"`+e+`"}`)
	c.post("runs/delete", `{"run_id":"`+b+`"}`)
	c.post("experiments/delete", `{"experiment_id":"`+e+`"}`)
	c.refused("POST", "experiments/delete", `{"experiment_id":"`+e+`"}`, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id="+e+" exists")
	c.refused("POST", "experiments/create", `{"name":"e"}`, "RESOURCE_ALREADY_EXISTS", "Experiment(name=e) already exists.")
	c.refused("POST", "runs/create", `{"experiment_id":"`+e+`"}`, "INVALID_PARAMETER_VALUE", "must be in the 'active' state")
	c.refused("POST", "experiments/update", `{"experiment_id":"`+e+`","new_name":"f"}`, "INVALID_PARAMETER_VALUE", "Cannot rename a non-active experiment.")
	stage := func(run string) any { return at(c.get("runs/get?run_id="+run), "run", "info", "lifecycle_stage") }
	if stage(a) != "deleted" {
		t.Error("an active run stayed active")
	}
	c.post("experiments/restore", `{"experiment_id":"`+e+`"}`)
	if stage(a) != "active" || stage(b) != "deleted" {
		t.Errorf("after the restore: %v, %v; want active, deleted", stage(a), stage(b))
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	long := strings.Repeat("k", 251)
	many := func(n int, field string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,{"key":"k%d","value":"1","timestamp":1}`, i)
		}
		return `{"run_id":"` + run + `","` + field + `":[` + b.String()[1:] + `]}`
	}
	const ipv, none = "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"
	for _, x := range []struct{ method, path, body, code, message string }{
		{"POST", "runs/log-metric", `{}`, ipv, "Missing value for required parameter 'run_id'. See the API docs"},
		{"POST", "runs/log-metric", `{"run_id":"` + run, ipv, "Missing value for required parameter 'run_id'"},
		{"POST", "runs/log-metric", "\xff{}", ipv, "Missing value for required parameter 'run_id'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","runId":"x","key":"m","value":1,"timestamp":1}`, ipv, "Request specifies both 'run_id' and 'runId'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":true,"timestamp":1}`, ipv, "Value was of type 'bool'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":1,"timestamp":1.5}`, ipv, "'timestamp'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":1,"timestamp":9223372036854775808}`, ipv, "'timestamp'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"m","value":1,"timestamp":-1}`, ipv, "Timestamp must be a nonnegative long"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"a//b","value":1,"timestamp":1}`, ipv, "This name would resolve to 'a/b'"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"a?","value":1,"timestamp":1}`, ipv, "Names may only contain"},
		{"POST", "runs/log-metric", `{"run_id":"` + run + `","key":"` + long + `","value":1,"timestamp":1}`, ipv, "'Metric name' exceeds the maximum length of 250 characters"},
		{"POST", "runs/log-parameter", `{"run_id":"` + run + `","key":"` + long + `","value":"1"}`, ipv, "'Param key' exceeds"},
		{"POST", "runs/set-tag", `{"run_id":"` + run + `","key":"` + long + `","value":"1"}`, ipv, "'key' exceeds"},
		{"POST", "runs/set-tag", `{"run_id":"` + run + `","key":12,"value":"1"}`, ipv, "Invalid value 12 for parameter 'key' supplied:  Hint: Value was of type 'int'."},
		{"POST", "runs/log-batch", `{"run_id":"` + run + `","metrics":[{"key":"a","value":1,"timestamp":1},{"key":"../b","value":1,"timestamp":1}]}`, ipv, "'metrics[1].name'"},
		{"POST", "runs/log-batch", `{"run_id":"` + run + `","metrics":[{"key":"a","timestamp":1}]}`, ipv, "Missing value for required parameter 'metrics[0].value'"},
		{"POST", "runs/log-batch", many(1001, "metrics"), ipv, "can contain at most 1000 metrics. Got 1001 metrics. Please split up metrics"},
		{"POST", "runs/log-batch", many(101, "params"), ipv, "can contain at most 100 params. Got 101 params."},
		{"POST", "runs/log-metric", `{"run_id":"nope","key":"m","value":1,"timestamp":1}`, none, "Run with id=nope not found"},
		{"GET", "runs/get?run_id=../x", ``, none, "Run with id=../x not found"},
		{"POST", "runs/delete-tag", `{"run_id":"` + run + `","key":"nope"}`, none, "No tag with name: nope in run with id " + run},
		{"GET", "experiments/get?experiment_id=77", ``, none, "No Experiment with id=77 exists"},
		{"GET", "experiments/get?experiment_id=abc", ``, ipv, "Invalid experiment ID 'abc'"},
		{"GET", "experiments/get-by-name?experiment_name=nope", ``, none, "Could not find experiment with name 'nope'"},
		{"POST", "experiments/create", `{"name":""}`, ipv, "Missing value for required parameter 'name'"},
		{"POST", "experiments/create", `{"name":"x","artifact_location":"runs:/a/b"}`, ipv, "Artifact location cannot be a runs:/ URI"},
		{"POST", "experiments/create", `{"name":"x","artifact_location":"https://evil/"}`, ipv, "'artifact_location' cannot use the 'https' scheme"},
		{"POST", "experiments/search", `{}`, ipv, "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"page_token":"abc"}`, ipv, "could not base64-decode"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"metrics.a > 'x'"}`, ipv, "Expected numeric value type for metric"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"params.a = 1"}`, ipv, "Expected a quoted string value for parameter"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"bogus.a = 1"}`, ipv, "Invalid entity type 'bogus'"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"attribute.nope = 'a'"}`, ipv, "Invalid attribute key 'nope' specified"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"filter":"metrics.a LIKE 1"}`, ipv, "Invalid comparator 'LIKE'"},
		{"POST", "runs/search", `{"experiment_ids":["0"],"order_by":["metrics.a SIDEWAYS"]}`, ipv, "Invalid ordering key"},
		{"GET", "metrics/get-history?run_id=" + run + "&metric_key=a&max_results=0", ``, ipv, "It must be a positive integer."},
		{"GET", "metrics/get-history-bulk-interval?run_ids=" + run + "&metric_key=a&start_step=1", ``, ipv, "both must be specified"},
		{"GET", "artifacts/list?run_id=" + run + "&path=../x", ``, ipv, "Invalid path"},
		{"PUT", "runs/get", ``, "ENDPOINT_NOT_FOUND", "does not take PUT"},
		{"POST", "nope", `{}`, "ENDPOINT_NOT_FOUND", "nothing at"},
		{"GET", "registered-models/get?name=nope", ``, none, "Registered Model with name=nope not found"},
		{"GET", "model-versions/get?name=nope&version=x", ``, ipv, "must be an integer"},
		{"POST", "model-versions/create", `{"name":"nope","source":"/etc"}`, ipv, "Invalid model version source"},
	} {
		c.refused(x.method, x.path, x.body, x.code, x.message)
	}
	for kind, want := range map[string]string{"": "Content-Type header is missing", "text/plain": "must be one of ['application/json']"} {
		if status, reply := c.raw("POST", api+"runs/search", `{}`, kind); status != 400 || !strings.Contains(reply, want) {
			t.Errorf("Content-Type %q: %d %s", kind, status, reply)
		}
	}
}

func TestSearchFiltersOrdersAndPages(t *testing.T) {
	c := newClient(t)
	names := map[string]string{}
	for i, x := range []struct{ name, metric, param, tag string }{
		{"a", "0.1", "adam", "red"}, {"b", "0.9", "sgd", ""}, {"c", `"NaN"`, "Adam", "blue"}, {"d", "", "", "green"},
	} {
		run := c.newRun(fmt.Sprintf(`{"experiment_id":"0","run_name":%q,"start_time":%d}`, x.name, 1000+i))
		names[run] = x.name
		if x.metric != "" {
			c.post("runs/log-metric", `{"run_id":"`+run+`","key":"m/x","value":`+x.metric+`,"timestamp":1}`)
		}
		if x.param != "" {
			c.post("runs/log-parameter", `{"run_id":"`+run+`","key":"opt","value":"`+x.param+`"}`)
		}
		if x.tag != "" {
			c.post("runs/set-tag", `{"run_id":"`+run+`","key":"color","value":"`+x.tag+`"}`)
		}
	}
	search := func(filter, order string, limit int) string {
		t.Helper()
		var found strings.Builder
		token := ""
		for {
			o := "[]"
			if order != "" {
				o = fmt.Sprintf("[%q]", order)
			}
			r := c.post("runs/search", fmt.Sprintf(`{"experiment_ids":["0"],"filter":%q,"order_by":%s,"max_results":%d,"page_token":%q}`, filter, o, limit, token))
			list, _ := at(r, "runs").([]any)
			for _, x := range list {
				found.WriteString(at(x, "info", "run_name").(string))
			}
			if token, _ = at(r, "next_page_token").(string); token == "" {
				return found.String()
			}
		}
	}
	for _, x := range []struct{ filter, order, want string }{
		{"", "", "dcba"},
		{"", "attributes.start_time ASC", "abcd"},
		{"", "metrics.`m/x`", "abcd"},
		{"", "metrics.`m/x` DESC", "bacd"},
		{"", "tags.color", "cdab"},
		{"metrics.`m/x` > 0.5", "", "b"},
		{"metrics.`m/x` != 5", "", "cba"},
		{"params.opt LIKE 'a%'", "", "a"},
		{"params.opt ILIKE 'a%'", "", "ca"},
		{"params.opt ILIKE '_d_m' AND tags.color = 'red'", "", "a"},
		{"tags.color IS NULL", "", "b"},
		{"tags.color IS NOT NULL and params.opt is null", "", "d"},
		{"tags.color != 'red'", "", "dc"},
		{"run_name = 'a'", "", "a"},
		{"attributes.`run name` LIKE '%'", "created", "abcd"},
		{"attributes.status = 'RUNNING'", "run_name DESC", "dcba"},
		{"start_time >= 1001 and start_time < 1003", "", "cb"},
		{"run_id IN ('nope')", "", ""},
	} {
		for _, limit := range []int{1, 3, 100} {
			if got := search(x.filter, x.order, limit); got != x.want {
				t.Errorf("filter %q order %q in pages of %d: %q, want %q", x.filter, x.order, limit, got, x.want)
			}
		}
	}
}

func TestArtefactsAreStreamedListedAndRanged(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	const proxy = "/api/2.0/mlflow-artifacts/artifacts"
	base := "/0/" + run + "/artifacts/"
	put := func(name, body string) {
		t.Helper()
		if status, reply := c.raw("PUT", proxy+base+name, body, ""); status != 200 || reply != "" {
			t.Fatalf("put %s: %d %s", name, status, reply)
		}
	}
	put("a.txt", "0123456789")
	put("d/e/b%20c.bin", "x")
	put("d/z", "")
	list := func(path string) string {
		var names []string
		files, _ := at(c.get("artifacts/list?run_id="+run+"&path="+path), "files").([]any)
		for _, f := range files {
			names = append(names, fmt.Sprint(at(f, "path"), at(f, "is_dir"), at(f, "file_size")))
		}
		return strings.Join(names, " ")
	}
	if got, want := list(""), "a.txtfalse 10 dtrue <nil>"; got != want {
		t.Errorf("root: %q, want %q", got, want)
	}
	if got, want := list("d"), "d/etrue <nil> d/zfalse 0"; got != want {
		t.Errorf("d: %q, want %q", got, want)
	}
	if got := list("a.txt"); got != "" {
		t.Errorf("a file has the files %q", got)
	}
	for _, x := range []struct {
		ask, body, part string
		status          int
	}{
		{"", "0123456789", "", 200},
		{"bytes=2-4", "234", "bytes 2-4/10", 206},
		{"bytes=7-", "789", "bytes 7-9/10", 206},
		{"bytes=-2", "89", "bytes 8-9/10", 206},
		{"bytes=0-99", "0123456789", "bytes 0-9/10", 206},
		{"bytes=10-", "", "bytes */10", 416},
		{"nonsense", "0123456789", "", 200},
	} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", c.url+proxy+base+"a.txt", nil)
		if x.ask != "" {
			r.Header.Set("Range", x.ask)
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(reply.Body)
		reply.Body.Close()
		if reply.StatusCode != x.status || reply.Header.Get("Content-Range") != x.part || x.status < 400 && string(b) != x.body {
			t.Errorf("Range %q: %d %q %q, want %d %q %q", x.ask, reply.StatusCode, reply.Header.Get("Content-Range"), b, x.status, x.part, x.body)
		}
	}
	for _, bad := range []string{"..%2fx", "%252e%252e/x", "a/%2e%2e/b", "file:x", "C:x", "a%23b"} {
		if status, reply := c.raw("PUT", proxy+base+bad, "x", ""); status != 400 && status != 200 || strings.Contains(bad, "2e") && status != 400 {
			t.Errorf("put %s: %d %s", bad, status, reply)
		}
	}
	if status, reply := c.raw("GET", proxy+base+"d", "", ""); status != 404 || !strings.Contains(reply, "No such artifact") {
		t.Errorf("a folder: %d %s", status, reply)
	}
	for range 2 {
		if status, reply := c.raw("DELETE", proxy+base+"d", "", ""); status != 200 || reply != "{}" {
			t.Errorf("delete: %d %s", status, reply)
		}
	}
	if got := list("d"); got != "" {
		t.Errorf("after the delete: %q", got)
	}
}

func FuzzBodies(f *testing.F) {
	url, _ := serve(f)
	c := &client{f, url}
	run := c.newRun(`{"experiment_id":"0"}`)
	paths := []string{"runs/log-batch", "runs/log-metric", "runs/create", "runs/search", "runs/log-inputs", "experiments/create", "logged-models", "logged-models/search", "runs/set-tag", "registered-models/create", "model-versions/create"}
	for i := range paths {
		f.Add(i, `{"run_id":"`+run+`","metrics":[{"key":"a","value":"NaN","timestamp":"1","step":-1}],"params":[{"key":"a"}]}`)
		f.Add(i, `{"runId":[1],"experiment_ids":["0",{}],"filter":"metrics.a > 1 and tags.'x","order_by":["a b c"],"max_results":1e3}`)
		f.Add(i, `"{\"name\":\"x\",\"key\":null}"`)
	}
	f.Fuzz(func(t *testing.T, i int, body string) {
		c := &client{t, url}
		path := paths[(i%len(paths)+len(paths))%len(paths)]
		status, reply := c.raw("POST", api+path, body, "application/json")
		if status >= 500 || !json.Valid([]byte(reply)) {
			t.Errorf("%s %q: %d %s", path, body, status, reply)
		}
	})
}

func TestAScriptInAJobDoesNotEndTheJob(t *testing.T) {
	url, runs, site := serveSite(t)
	c := &client{t, url}
	e, err := runs.EnsureExperiment(t.Context(), site, "jobs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runs.CreateRun(t.Context(), tracking.Run{Workspace: site, ID: "My_Job", Experiment: e, Job: true, Status: tracking.Preparing, Name: "shown"}); err != nil {
		t.Fatal(err)
	}
	status := func() any {
		t.Helper()
		return at(c.get("runs/get?run_id=my_job"), "run", "info", "status")
	}
	for st, want := range map[tracking.Status]string{
		tracking.NotStarted: "SCHEDULED", tracking.Queued: "SCHEDULED", tracking.Preparing: "SCHEDULED", tracking.Provisioning: "SCHEDULED",
		tracking.Starting: "SCHEDULED", tracking.Running: "RUNNING", tracking.Finalizing: "RUNNING", tracking.CancelRequested: "RUNNING",
		tracking.Completed: "FINISHED", tracking.Failed: "FAILED", tracking.Canceled: "KILLED",
	} {
		if _, err := runs.ChangeRun(t.Context(), site, "My_Job", func(r *tracking.Run) error { r.Status = st; return nil }); err != nil {
			t.Fatal(err)
		}
		if got := status(); got != want {
			t.Errorf("%s is shown as %v, want %s", st, got, want)
		}
		c.post("runs/update", `{"run_id":"My_Job","status":"FINISHED","end_time":5,"run_name":"by the script"}`)
		r, err := runs.Run(t.Context(), site, "my_job")
		if err != nil || r.Status != st || r.End != 0 || r.Name != "by the script" {
			t.Errorf("after the script's end: %+v, %v; want %s", r, err, st)
		}
	}
	c.post("runs/set-tag", `{"run_id":"My_Job","key":"mlflow.note.content","value":"what it is"}`)
	c.post("runs/set-tag", `{"run_id":"My_Job","key":"team","value":"blue"}`)
	r, err := runs.Run(t.Context(), site, "my_job")
	if err != nil || r.Description != "what it is" || r.Tags["team"] != "blue" || len(r.Tags) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if status, reply := c.raw("PUT", "/api/2.0/mlflow-artifacts/artifacts/"+e+"/My_Job/artifacts/m/a.txt", "x", ""); status != 200 {
		t.Fatal(status, reply)
	}
	if f := at(c.get("artifacts/list?run_id=My_Job&path=m"), "files", 0, "path"); f != "m/a.txt" {
		t.Errorf("the job's artefacts: %v", f)
	}
}
