package mlflowhttp_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// offered yields the routes of MLflow that are offered, with their variables.
func offered(yield func(method, path string) bool) {
	for line := range strings.Lines(mlflowsRoutes) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "-") {
			continue
		}
		method, path, _ := strings.Cut(line, " ")
		root := "/api/"
		if !strings.Contains(path, ".0/") {
			root = "/"
		}
		if !yield(method, root+path) {
			return
		}
	}
}

// decent fails unless a reply is MLflow's: a success, or a refusal in its form,
// and never the server's own fault.
func decent(t testing.TB, what string, status int, reply string) {
	t.Helper()
	if status < 400 {
		return
	}
	var v struct {
		Code    string `json:"error_code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	if err := json.Unmarshal([]byte(reply), &v); err != nil || v.Code == "" && v.Detail == nil || status >= 500 && status != 501 || status == 501 && v.Code != "NOT_IMPLEMENTED" {
		t.Errorf("%s: %d %.300s", what, status, reply)
	}
	if len(v.Message) > 8000 {
		t.Errorf("%s: a message of %d bytes", what, len(v.Message))
	}
}

// fields are those that requests of MLflow have, to send each with a value of
// each wrong type.
var fields = []string{"experiment_id", "experiment_ids", "experiment_name", "name", "new_name", "run_id", "run_ids", "run_uuid", "key", "value", "timestamp", "step",
	"metrics", "params", "tags", "filter", "filter_string", "order_by", "max_results", "page_token", "view_type", "run_view_type", "metric_key", "start_step", "end_step",
	"status", "end_time", "start_time", "datasets", "models", "model_id", "model_json", "version", "stage", "stages", "source", "alias", "path", "artifact_location",
	"events", "url", "secret", "description", "event", "records", "dataset_record_ids", "serialized_scorer", "trace", "trace_ids", "request_ids", "locations",
	"assessment", "update_mask", "info", "run", "query", "variables", "expiration", "num_parts", "parts", "archive_existing_versions", "default_artifact_root",
	"trace_archival_config", "input", "workspace_name", "dataset_id", "max_timestamp_millis", "max_traces"}

func TestNoBodyMakesTheServerFail(t *testing.T) {
	c := newClient(t)
	bodies := []string{"", "null", "[]", `"x"`, "1", "true", "{", `{"name":`, `{"name":"x"`, "name=foo", "\xff\xfe", `{"name":"` + "\xff" + `"}`, `{"name":"\ud800"}`, `{"name":"\u0000"}`,
		`{"run_id":"a","runId":"b"}`, `"{\"name\":\"x\"}"`, strings.Repeat("[", 5_000), strings.Repeat(`{"a":`, 5_000), `{"":""}`, `{"name":"x"} {"name":"y"}`}
	for _, v := range []string{"1", `"x"`, `""`, "true", "null", "[]", "[1]", `["x"]`, "[null]", "[[]]", "{}", `[{}]`, `[{"key":1}]`, `{"key":[]}`, "1.5", "-1", "1e999", "99999999999999999999", `"NaN"`, `"9"`} {
		var all []string
		for _, f := range fields {
			all = append(all, fmt.Sprintf("%q:%s", f, v))
		}
		bodies = append(bodies, "{"+strings.Join(all, ",")+"}")
	}
	for method, path := range offered {
		path = variable.ReplaceAllString(path, "x")
		for _, body := range bodies {
			status, reply := c.raw(method, path, body, "application/json")
			decent(t, fmt.Sprintf("%s %s %.100q", method, path, body), status, reply)
		}
	}
}

func TestAFieldOfAnyWrongTypeIsRefusedAlone(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	c.post("registered-models/create", `{"name":"n"}`)
	good := map[string]string{"run_id": `"` + run + `"`, "experiment_id": `"0"`, "experiment_ids": `["0"]`, "name": `"n"`, "key": `"k"`, "value": `"1"`, "timestamp": "1", "metric_key": `"m"`,
		"max_results": "5", "version": `"1"`, "stage": `"None"`, "source": `"s3://b/x"`, "alias": `"a"`}
	for method, path := range offered {
		if method == "GET" || strings.Contains(path, "{") || strings.Contains(path, "/delete") || !strings.Contains(path, "/2.0/mlflow/") {
			continue
		}
		for _, bad := range []string{"metrics", "params", "tags", "filter", "order_by", "max_results", "key", "value", "timestamp", "step", "status", "name", "run_id", "datasets", "models", "version"} {
			for _, v := range []string{`{"a":{}}`, `"\u0000"`, "true"} {
				var all []string
				for k, g := range good {
					if k != bad {
						all = append(all, fmt.Sprintf("%q:%s", k, g))
					}
				}
				slices.Sort(all)
				body := "{" + strings.Join(append(all, fmt.Sprintf("%q:%s", bad, v)), ",") + "}"
				status, reply := c.raw(method, path, body, "application/json")
				decent(t, method+" "+path+" "+body, status, reply)
			}
		}
	}
}

func TestNoPathAndNoQueryMakesTheServerFail(t *testing.T) {
	c := newClient(t)
	values := []string{"..", "..%2f..%2fx", "%00", "%ff%fe", "a%2fb", "%252e%252e%252f", strings.Repeat("x", 4000), "-1", "%20", "%23", "file:%2f%2f%2fetc%2fpasswd", "C:%5cx", "%e2%80%ae", "0", "'%3bDROP", "m-0", "tr-0", "latest"}
	var queries []string
	for _, v := range []string{"", "x", "%00", "%ff", "-1", "0", "99999999999999999999", "1.5", "true", "..%2f..", "%7b%7d", "%5b%5d", strings.Repeat("a", 3000)} {
		var all []string
		for _, f := range fields {
			all = append(all, f+"="+v, f+"="+v)
		}
		// A line of a request may have some KB.
		for len(all) > 0 {
			n := 0
			size := 0
			for n < len(all) && size < 6000 {
				size += len(all[n]) + 1
				n++
			}
			queries = append(queries, strings.Join(all[:n], "&"))
			all = all[n:]
		}
	}
	queries = append(queries, "%zz", "a;b", "&&&=", "run_id", "max_results=%", strings.Repeat("&", 1000))
	for method, path := range offered {
		if strings.Contains(path, "{") {
			for _, v := range values {
				p := variable.ReplaceAllString(path, v)
				status, reply := raw(t, c.url, method, p, "{}")
				decent(t, method+" "+p, status, reply)
			}
		}
		if method != "GET" {
			continue
		}
		path = variable.ReplaceAllString(path, "x")
		for _, q := range queries {
			status, reply := raw(t, c.url, method, path+"?"+q, "")
			decent(t, fmt.Sprintf("%s %s?%.200s", method, path, q), status, reply)
		}
	}
}

// raw sends a request whose path nobody has cleaned.
func raw(t testing.TB, url, method, target, body string) (int, string) {
	t.Helper()
	host := strings.TrimPrefix(url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, target, host, len(body), body)
	reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s %.100s: %v", method, target, err)
	}
	defer reply.Body.Close()
	var b strings.Builder
	if _, err := bufio.NewReader(reply.Body).WriteTo(&b); err != nil {
		t.Fatalf("%s %.100s: %v", method, target, err)
	}
	text := b.String()
	if strings.HasPrefix(reply.Header.Get("Content-Type"), "text/plain") && reply.StatusCode == 400 {
		text = `{"error_code":"of net/http"}` // it never reached us: the request line is no request
	}
	return reply.StatusCode, text
}

func TestABodyMustSayThatItIsJSON(t *testing.T) {
	c := newClient(t)
	const ok = `{"experiment_id":"0"}`
	for _, x := range []struct {
		kind, message string
	}{
		{"", "Bad Request. Content-Type header is missing."},
		{"text/plain", "Bad Request. Content-Type must be one of ['application/json']."},
		{"application/x-www-form-urlencoded", "Bad Request. Content-Type must be one of ['application/json']."},
		{"Application/JSON", "Bad Request. Content-Type must be one of ['application/json']."},
		{"application/json2", "Bad Request. Content-Type must be one of ['application/json']."},
		{"multipart/form-data; boundary=x", "Bad Request. Content-Type must be one of ['application/json']."},
	} {
		for _, path := range []string{"runs/create", "runs/log-batch", "runs/log-metric", "webhooks", "experiments/create"} {
			status, reply := c.raw("POST", api+path, ok, x.kind)
			if status != 400 || !strings.Contains(reply, x.message) || !strings.Contains(reply, "INVALID_PARAMETER_VALUE") {
				t.Errorf("%s as %q: %d %s", path, x.kind, status, reply)
			}
		}
	}
	for _, kind := range []string{"application/json", "application/json; charset=utf-8", "application/json ;x"} {
		if status, reply := c.raw("POST", api+"runs/create", ok, kind); status != 200 {
			t.Errorf("as %q: %d %s", kind, status, reply)
		}
	}
	// These two methods take any.
	c.post("registered-models/create", `{"name":"n"}`)
	for _, kind := range []string{"", "text/plain"} {
		if status, reply := c.raw("PATCH", api+"registered-models/update", `{"name":"n","description":"d"}`, kind); status != 200 {
			t.Errorf("PATCH as %q: %d %s", kind, status, reply)
		}
	}
}

func TestWhatIsTooLongIsRefusedAndNothingOfItStays(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	huge := strings.Repeat("k", 10<<20)
	big := huge[:1<<20]
	list := func(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	numbered := func(n int, format string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(format, i))
		}
		return strings.Join(all, ",")
	}
	const metric = `{"key":"m","value":1,"timestamp":1}`
	for _, x := range []struct{ path, body, message string }{
		{"runs/log-metric", `{"run_id":"` + run + `","key":"` + huge + `","value":1,"timestamp":1}`, "'Metric name' exceeds the maximum length of 250 characters"},
		{"runs/log-parameter", `{"run_id":"` + run + `","key":"` + big + `","value":"1"}`, "'Param key' exceeds the maximum length of 250 characters"},
		{"runs/set-tag", `{"run_id":"` + run + `","key":"` + big + `","value":"1"}`, "'key' exceeds the maximum length of 250 characters"},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + metric + `],"tags":[{"key":"` + big + `","value":"1"}]}`, "'tags[0].key' exceeds the maximum length of 250 characters"},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + metric + `,{"key":"` + big + `","value":1,"timestamp":1}]}`, "exceeds the maximum length of 250 characters"},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + list(1001, metric) + `]}`, "A batch logging request can contain at most 1000 metrics. Got 1001 metrics."},
		{"runs/log-batch", `{"run_id":"` + run + `","params":[` + numbered(101, `{"key":"p%d","value":"1"}`) + `]}`, "can contain at most 100 params. Got 101 params."},
		{"runs/log-batch", `{"run_id":"` + run + `","tags":[` + numbered(101, `{"key":"t%d","value":"1"}`) + `]}`, "can contain at most 100 tags. Got 101 tags."},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + list(1000, metric) + `],"tags":[{"key":"t","value":"1"}]}`, "can contain at most 1000 metrics, params, and tags. Got 1001 metrics, params, and tags."},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + metric + `],"params":[{"key":"a/../b","value":"1"}]}`, "key"},
		{"experiments/create", `{"name":"` + huge + `"}`, "exceeds the maximum length of 500 characters"},
		{"experiments/set-experiment-tag", `{"experiment_id":"0","key":"` + big + `","value":"x"}`, "exceeds the maximum length of 250 characters"},
		{"experiments/set-experiment-tag", `{"experiment_id":"0","key":"k","value":"` + big + `"}`, "exceeds the maximum length of 20000 characters"},
		{"experiments/search", `{"max_results":1,"filter":"` + big + `"}`, "filter"},
		{"runs/search", `{"experiment_ids":["0"],"filter":"` + huge + `"}`, "filter"},
		{"runs/search", `{"experiment_ids":["0"],"order_by":["` + big + `"]}`, ""},
		{"runs/search", `{"experiment_ids":["0"],"page_token":"` + big + `"}`, "token"},
		{"registered-models/create", `{"name":"` + big + `"}`, "name"},
		{"registered-models/create", `{"name":"n","tags":[{"key":"` + big + `","value":"v"}]}`, "exceeds the maximum length"},
		{"runs/create", `{"experiment_id":"` + big + `"}`, ""},
		{"runs/log-batch", `{"run_id":"` + run + `","metrics":[` + strings.Repeat(" ", 17<<20) + metric + `]}`, "larger than 16 MB"},
	} {
		status, reply := c.raw("POST", api+x.path, x.body, "application/json")
		decent(t, fmt.Sprintf("%s %.100s", x.path, x.body), status, reply)
		if status < 400 || !strings.Contains(reply, x.message) || !strings.Contains(reply, "INVALID_PARAMETER_VALUE") {
			t.Errorf("%s %.120s: %d %.300s, want %s", x.path, x.body, status, reply, x.message)
		}
	}
	d := at(c.get("runs/get?run_id="+run), "run", "data")
	if at(d, "metrics") != nil || at(d, "params") != nil || len(pairs(at(d, "tags"))) != 1 {
		t.Errorf("something stayed: %v", d)
	}
}

func TestABodyThatIsCutOffWritesNothing(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	host := strings.TrimPrefix(c.url, "http://")
	for _, path := range []string{"runs/log-batch", "runs/log-metric", "runs/set-tag", "registered-models/create", "webhooks"} {
		// All that the request needs is there, and yet it says that more comes.
		body := `{"run_id":"` + run + `","key":"cut","name":"cut","value":"1","timestamp":1,"tags":[{"key":"cut","value":"1"}],"metrics":[{"key":"cut","value":1,"timestamp":1}]}`
		for _, head := range []string{fmt.Sprintf("Content-Length: %d", len(body)+10), "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			sent := body
			if strings.HasPrefix(head, "Transfer") {
				sent = fmt.Sprintf("%x\r\n%s\r\n", len(body), body) // and no last chunk
			}
			fmt.Fprintf(conn, "POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%s\r\n\r\n%s", api, path, host, head, sent)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				if reply.StatusCode < 400 || reply.StatusCode >= 500 {
					t.Errorf("%s with %s: %d", path, head, reply.StatusCode)
				}
				reply.Body.Close()
			}
			conn.Close()
		}
	}
	d := at(c.get("runs/get?run_id="+run), "run", "data")
	if at(d, "metrics") != nil || pairs(at(d, "tags"))["cut"] != nil {
		t.Errorf("a part was taken for the whole: %v", d)
	}
	if m := at(c.get("registered-models/search"), "registered_models"); m != nil {
		t.Errorf("made: %v", m)
	}
}

func TestATokenThatIsNoneIsRefused(t *testing.T) {
	c := newClient(t)
	run := c.newRun(`{"experiment_id":"0"}`)
	c.post("runs/log-batch", `{"run_id":"`+run+`","metrics":[{"key":"m","value":1,"timestamp":1}]}`)
	for _, token := range []string{"!!", "abc", "eyJvZmZzZXQiOiAtMX0=", "eyJvZmZzZXQiOiAieCJ9", "bm9uc2Vuc2U=", "e30=", "W10=", "bnVsbA==", "%FF", strings.Repeat("A", 3000)} {
		for _, path := range []string{"experiments/search?max_results=1&", "registered-models/search?", "model-versions/search?", "webhooks?",
			"metrics/get-history?max_results=1&metric_key=m&run_id=" + run + "&"} {
			status, reply := c.raw("GET", api+path+"page_token="+token, "", "")
			decent(t, path+token, status, reply)
			if strings.HasPrefix(token, "!") && status != 400 {
				t.Errorf("%s%s: %d %s", path, token, status, reply)
			}
		}
		for _, body := range []string{`{"experiment_ids":["0"],"page_token":%q}`, `{"experiment_ids":["0"],"page_token":%q,"max_results":1}`} {
			for _, path := range []string{"runs/search", "logged-models/search"} {
				status, reply := c.raw("POST", api+path, fmt.Sprintf(body, token), "application/json")
				decent(t, path+" "+token, status, reply)
				if strings.HasPrefix(token, "!") && status != 400 {
					t.Errorf("%s %s: %d %s", path, token, status, reply)
				}
			}
		}
	}
}

// Any route, with any body, query and variables: MLflow's form of an answer.
func FuzzEveryRoute(f *testing.F) {
	url, _ := serve(f)
	c := &client{f, url}
	run := c.newRun(`{"experiment_id":"0"}`)
	var routes [][2]string
	for method, path := range offered {
		routes = append(routes, [2]string{method, path})
	}
	f.Add(0, `{"run_id":"`+run+`","key":"k","value":"v"}`, "run_id="+run+"&max_results=1", "x")
	f.Add(7, `{"experiment_ids":["0"],"filter":"tags.a = 'b'","events":[{"entity":"PROMPT","action":"CREATED"}]}`, "filter=name%20LIKE%20'%25'", "..")
	f.Add(50, `{"name":"n","tags":"{\"a\":1}","records":"[{}]","url":"https://127.0.0.1:1/"}`, "page_token=e30%3D", "tr-1")
	f.Add(90, `{"query":"{ test { output } }","variables":{"a":[1]}}`, "query={test{output}}", "m-1")
	f.Fuzz(func(t *testing.T, i int, body, query, variables string) {
		r := routes[(i%len(routes)+len(routes))%len(routes)]
		path := variable.ReplaceAllStringFunc(r[1], func(string) string { return neturl.PathEscape(variables) })
		if r[0] == "GET" {
			path += "?" + neturl.PathEscape(query)
		}
		q, err := http.NewRequest(r[0], url+path, strings.NewReader(body))
		if err != nil {
			t.Skip()
		}
		q.Header.Set("Content-Type", "application/json")
		reply, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Skip()
		}
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		decent(t, fmt.Sprintf("%s %s %q", r[0], path, body), reply.StatusCode, string(text))
	})
}
