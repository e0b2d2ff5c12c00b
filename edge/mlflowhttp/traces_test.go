package mlflowhttp_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

const traces3 = "/api/3.0/mlflow/traces"

// export sends spans as OTLP's JSON and wants a status.
func (c *client) export(body string, want int, headers ...string) string {
	c.t.Helper()
	r, err := http.NewRequest("POST", c.url+"/v1/traces", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("x-mlflow-experiment-id", "0")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer reply.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(reply.Body); err != nil {
		c.t.Fatal(err)
	}
	if reply.StatusCode != want {
		c.t.Fatalf("%s: %d %s, want %d", body, reply.StatusCode, &b, want)
	}
	return b.String()
}

// spanOf is a span in OTLP's JSON. Times are in ms after an epoch.
func spanOf(trace, id, parent, name string, start, end int, more string) string {
	if parent != "" {
		parent = `"parentSpanId":"` + parent + `",`
	}
	return fmt.Sprintf(`{"traceId":%q,"spanId":%q,%s"name":%q,"startTimeUnixNano":"17000000%05d000000","endTimeUnixNano":"17000000%05d000000"%s}`,
		trace, id, parent, name, start, end, more)
}

func spansOf(spans ...string) string {
	return `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}},{"key":"telemetry.sdk.name","value":{"stringValue":"x"}}]},
		"scopeSpans":[{"spans":[` + strings.Join(spans, ",") + `]}]}]}`
}

func attributesOf(pairs ...string) string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, fmt.Sprintf(`{"key":%q,"value":{"stringValue":%q}}`, pairs[i], pairs[i+1]))
	}
	return `,"attributes":[` + strings.Join(all, ",") + `]`
}

func hexID(n int) string { return fmt.Sprintf("%032x", n) }

func TestATraceIsMadeOfItsSpans(t *testing.T) {
	c := newClient(t)
	id := hexID(1)
	run := c.newRun(`{"experiment_id":"0"}`)
	// The child comes first, in a request of its own.
	c.export(spansOf(spanOf(id, "02", "01", "call", 20, 90, attributesOf("mlflow.chat.tokenUsage", `{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}`))), 200)
	info := at(c.do("GET", traces3+"/tr-"+id, "", 200), "trace", "trace_info")
	if at(info, "state") != "IN_PROGRESS" || at(info, "execution_duration") != "0.070s" || at(info, "tags", "service.name") != "shop" || at(info, "tags", "telemetry.sdk.name") != nil {
		t.Errorf("before its root: %v", info)
	}
	c.export(spansOf(spanOf(id, "01", "", "root", 0, 100, attributesOf("session.id", "s1", "user.id", "u1", "mlflow.spanInputs",
		`{"messages": [{"role": "user", "content": "hello"}]}`, "mlflow.spanOutputs", `"bye"`, "mlflow.traceTag.color", "red",
		"mlflow.chat.tokenUsage", `{"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}`)+`,"status":{"code":2,"message":"no"}`)), 200, "x-mlflow-run-id", run)
	trace := at(c.do("GET", traces3+"/get?trace_id=tr-"+id, "", 200), "trace")
	info = at(trace, "trace_info")
	for path, want := range map[string]any{
		"state": "ERROR", "execution_duration": "0.100s", "request_time": "2023-11-14T22:13:20Z", "request_preview": "hello", "response_preview": `"bye"`,
	} {
		if got := at(info, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if at(info, "tags", "color") != "red" || at(info, "trace_metadata", "mlflow.trace.session") != "s1" || at(info, "trace_metadata", "mlflow.trace.user") != "u1" {
		t.Errorf("%v", info)
	}
	// The root counts for its child.
	if got := at(info, "trace_metadata", "mlflow.trace.tokenUsage"); got != `{"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}` {
		t.Errorf("the trace used %v", got)
	}
	if at(trace, "spans", 0, "name") != "root" || at(trace, "spans", 1, "name") != "call" {
		t.Errorf("spans are %v", at(trace, "spans"))
	}
	// Sent again, a span is replaced.
	c.export(spansOf(spanOf(id, "02", "01", "called", 20, 90, "")), 200)
	spans, _ := at(c.do("GET", traces3+"/get?trace_id=tr-"+id, "", 200), "trace", "spans").([]any)
	if len(spans) != 2 || at(spans, 1, "name") != "called" {
		t.Errorf("after a span came again: %v", spans)
	}
	found := c.do("POST", traces3+"/search", `{"locations":[{"mlflow_experiment":{"experiment_id":"0"}}],"filter":"run_id = '`+run+`'"}`, 200)
	if at(found, "traces", 0, "trace_id") != "tr-"+id {
		t.Errorf("the run has %v", found)
	}
	status, file := c.raw("GET", "/ajax-api/2.0/mlflow/get-trace-artifact?request_id=tr-"+id, "", "")
	var kept struct {
		Spans []struct {
			Name       string            `json:"name"`
			Attributes map[string]string `json:"attributes"`
		} `json:"spans"`
	}
	if err := json.Unmarshal([]byte(file), &kept); err != nil || status != 200 || len(kept.Spans) != 2 || kept.Spans[0].Attributes["session.id"] != `"s1"` {
		t.Errorf("%d %s %v", status, file, err)
	}
}

func TestSpansOfOtherConventionsAreTranslated(t *testing.T) {
	c := newClient(t)
	c.export(`{"resourceSpans":[{"scopeSpans":[{"spans":[`+
		spanOf(hexID(1), "01", "", "chat", 0, 1, `,"attributes":[{"key":"gen_ai.operation.name","value":{"stringValue":"chat"}},{"key":"gen_ai.request.model","value":{"stringValue":"m1"}},
		{"key":"gen_ai.provider.name","value":{"stringValue":"p"}},{"key":"gen_ai.usage.input_tokens","value":{"intValue":"3"}},{"key":"gen_ai.usage.output_tokens","value":{"intValue":4}}]`)+","+
		spanOf(hexID(2), "01", "", "chain", 0, 1, attributesOf("openinference.span.kind", "CHAIN", "input.value", "what?", "output.value", `{"a": 1}`, "llm.token_count.total", "9"))+`]}]}]}`, 200)
	attribute := func(trace int, key string) any {
		attributes, _ := at(c.do("GET", traces3+"/get?trace_id=tr-"+hexID(trace), "", 200), "trace", "spans", 0, "attributes").([]any)
		for _, a := range attributes {
			if at(a, "key") == key {
				return at(a, "value", "string_value")
			}
		}
		return nil
	}
	if attribute(1, "mlflow.spanType") != "CHAT_MODEL" || attribute(1, "mlflow.llm.model") != "m1" || attribute(1, "mlflow.llm.provider") != "p" ||
		attribute(2, "mlflow.spanType") != "CHAIN" || attribute(2, "mlflow.spanInputs") != "what?" {
		t.Error("attributes are not translated")
	}
	for trace, want := range map[int]string{1: `{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}`, 2: `{"input_tokens": 0, "output_tokens": 0, "total_tokens": 9}`} {
		if got := at(c.do("GET", traces3+"/tr-"+hexID(trace), "", 200), "trace", "trace_info", "trace_metadata", "mlflow.trace.tokenUsage"); got != want {
			t.Errorf("trace %d used %v, want %s", trace, got, want)
		}
	}
}

func TestSpansThatAreWrongAreRefusedWhole(t *testing.T) {
	c := newClient(t)
	good := spanOf(hexID(7), "01", "", "a", 0, 1, "")
	var gz, zl bytes.Buffer
	w, z := gzip.NewWriter(&gz), zlib.NewWriter(&zl)
	for _, w := range []interface {
		Write([]byte) (int, error)
		Close() error
	}{w, z} {
		if _, err := w.Write([]byte(spansOf(good))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		body    string
		status  int
		says    string
		headers []string
	}{
		{"{", 400, "Invalid OpenTelemetry format", nil},
		{"[]", 400, "Invalid OpenTelemetry format", nil},
		{`{"resourceSpans":[]}`, 400, "no spans found", nil},
		{`{"resourceSpans":[{"scopeSpans":[]}]}`, 200, "", nil},
		{spansOf(good, spanOf("", "01", "", "b", 0, 1, "")), 422, "Cannot convert", nil},
		{spansOf(good, spanOf(strings.Repeat("01", 17), "01", "", "b", 0, 1, "")), 422, "Cannot convert", nil},
		{spansOf(good, spanOf("zz", "01", "", "b", 0, 1, "")), 400, "Invalid OpenTelemetry format", nil},
		{spansOf(good, spanOf(hexID(8), "02", "", "b", 0, 1, attributesOf("session.id", strings.Repeat("s", 251)))), 400, "Session ID", nil},
		{spansOf(good), 404, "No Experiment with id=999", []string{"x-mlflow-experiment-id", "999"}},
		{spansOf(good), 400, "Invalid experiment ID", []string{"x-mlflow-experiment-id", "abc"}},
		{spansOf(good), 422, "Field required", []string{"x-mlflow-experiment-id", ""}},
		{spansOf(good), 400, "Invalid Content-Type", []string{"Content-Type", "text/plain"}},
		{spansOf(good), 400, "Invalid OpenTelemetry format", []string{"Content-Type", "application/x-protobuf"}},
		{"\x0a\x05\x12\x03\x12\x01\xff", 400, "Invalid OpenTelemetry format", []string{"Content-Type", "application/x-protobuf"}},
		{gz.String()[:40], 400, "Failed to decompress gzip", []string{"Content-Encoding", "gzip"}},
		{spansOf(good), 400, "Failed to decompress deflate", []string{"Content-Encoding", "deflate"}},
		{spansOf(good), 400, "Unsupported Content-Encoding: br", []string{"Content-Encoding", "br"}},
	} {
		if got := c.export(x.body, x.status, x.headers...); !strings.Contains(got, x.says) {
			t.Errorf("%.60q %v: %s, want %q", x.body, x.headers, got, x.says)
		}
	}
	if status, reply := c.raw("GET", traces3+"/tr-"+hexID(7), "", ""); status != 404 {
		t.Errorf("of a refused request something is stored: %s", reply)
	}
	c.export(gz.String(), 200, "Content-Encoding", "GZIP")
	c.export(zl.String(), 200, "Content-Encoding", "deflate")
	c.do("GET", traces3+"/tr-"+hexID(7), "", 200)
}

func TestSpansOfOneTraceFromManyClientsAreAllThere(t *testing.T) {
	c := newClient(t)
	const clients, each = 8, 12
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for i := range each {
				n := k*each + i + 1
				body := spansOf(spanOf(hexID(1), fmt.Sprintf("%016x", n+1), "01", "s", n, n+1, ""), spanOf(hexID(100+n), "01", "", "own", 0, 1, ""))
				r, err := http.NewRequest("POST", c.url+"/v1/traces", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("x-mlflow-experiment-id", "0")
				reply, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				reply.Body.Close()
				if reply.StatusCode != 200 {
					t.Errorf("status %d", reply.StatusCode)
				}
			}
		})
	}
	wg.Wait()
	spans, _ := at(c.do("GET", traces3+"/get?trace_id=tr-"+hexID(1), "", 200), "trace", "spans").([]any)
	if len(spans) != clients*each {
		t.Errorf("%d spans are there, want %d", len(spans), clients*each)
	}
	n, page := 0, ""
	for {
		found := c.do("POST", traces3+"/search", `{"locations":[{"mlflow_experiment":{"experiment_id":"0"}}],"max_results":10`+page+`}`, 200)
		list, _ := found["traces"].([]any)
		n += len(list)
		next, _ := found["next_page_token"].(string)
		if next == "" {
			break
		}
		page = `,"page_token":"` + next + `"`
	}
	if n != clients*each+1 {
		t.Errorf("pages have %d traces, want %d", n, clients*each+1)
	}
}

// started makes a trace with what is known of it.
func (c *client) started(n int, more string) string {
	c.t.Helper()
	id := "tr-" + hexID(n)
	c.do("POST", traces3, fmt.Sprintf(`{"trace":{"trace_info":{"trace_id":%q,"trace_location":{"mlflow_experiment":{"experiment_id":"0"}},"request_time":"2023-11-14T22:13:2%dZ"%s}}}`, id, n, more), 200)
	return id
}

func TestTracesAreFoundByWhateverIsKnownOfThem(t *testing.T) {
	c := newClient(t)
	a := c.started(1, `,"state":"OK","execution_duration":"1.5s","client_request_id":"c1","tags":{"color":"red","mlflow.traceName":"one"},"trace_metadata":{"mlflow.trace.session":"s","m":"x"}`)
	b := c.started(2, `,"state":"ERROR","execution_duration":"2s","tags":{"color":"blue","mlflow.traceName":"two"},"trace_metadata":{"mlflow.trace.session":"s"}`)
	d := c.started(3, `,"state":"IN_PROGRESS"`)
	names := map[string]string{a: "a", b: "b", d: "d"}
	c.export(spansOf(spanOf(hexID(1), "01", "", "root", 1000, 2500, attributesOf("mlflow.spanType", "LLM", "k", "val")),
		spanOf(hexID(1), "02", "01", "kid", 1000, 2000, attributesOf("mlflow.spanType", "TOOL")+`,"status":{"code":2,"message":"oops"}`)), 200)
	assess := func(trace, more string) {
		c.do("POST", traces3+"/"+trace+"/assessments", `{"assessment":{"source":{"source_type":"HUMAN","source_id":"me"},`+more+`}}`, 200)
	}
	assess(a, `"assessment_name":"q","feedback":{"value":0.5}`)
	assess(b, `"assessment_name":"ok","feedback":{"value":"yes"},"metadata":{"mlflow.trace.session":"s"}`)
	assess(d, `"assessment_name":"want","expectation":{"value":"this"}`)
	c.post("traces/link-prompts", `{"trace_id":"`+a+`","prompt_versions":[{"name":"p","version":"1"}]}`)
	search := func(filter, order string) string {
		body, _ := json.Marshal(map[string]any{"filter": filter, "order_by": slices.DeleteFunc([]string{order}, func(s string) bool { return s == "" }),
			"locations": []any{map[string]any{"mlflow_experiment": map[string]any{"experiment_id": "0"}}}})
		found, _ := c.do("POST", traces3+"/search", string(body), 200)["traces"].([]any)
		var list []string
		for _, x := range found {
			list = append(list, names[at(x, "trace_id").(string)])
		}
		return strings.Join(list, "")
	}
	for filter, want := range map[string]string{
		"":                                            "dba",
		"status = 'OK'":                               "a",
		"status IN ('OK', 'ERROR')":                   "ba",
		"trace.status != 'OK'":                        "db",
		"status RLIKE '^(OK|ERR)'":                    "ba",
		"name LIKE 'o%'":                              "a",
		"name IS NULL":                                "d",
		"tags.color ILIKE 'BL%'":                      "b",
		"tags.color IS NOT NULL":                      "ba",
		"metadata.m = 'x'":                            "a",
		"client_request_id = 'c1'":                    "a",
		"request_id NOT IN ('" + a + "')":             "db",
		"execution_time > 1600":                       "b",
		"execution_time_ms != 1":                      "ba",
		"timestamp_ms >= 1700000002000":               "db",
		"end_time > 0":                                "dba",
		"span.name = 'root'":                          "a",
		"span.name = 'root' AND span.type = 'TOOL'":   "", // one span must be both
		"span.name = 'kid' AND span.status = 'ERROR'": "a",
		"span.type NOT IN ('LLM')":                    "a",
		"span.attributes.k LIKE '%val%'":              "a",
		"span.attributes.k RLIKE '^v.l$'":             "a",
		"span.content LIKE '%oops%'":                  "a",
		"trace.text ILIKE '%OOPS%'":                   "a",
		"feedback.q > 0.4":                            "a",
		"feedback.q = '0.5'":                          "a",
		"feedback.q IS NULL":                          "db",
		"feedback.ok = 'yes'":                         "ba", // it is of the session that both are part of
		"expectation.want LIKE '%thi%'":               "d",
		"prompt = 'p/1'":                              "a",
		"run_id = 'nope'":                             "",
	} {
		if got := search(filter, ""); got != want {
			t.Errorf("%s finds %q, want %q", filter, got, want)
		}
	}
	for order, want := range map[string]string{
		"timestamp ASC": "abd", "execution_time": "abd", "execution_time DESC": "bad", "name DESC": "bad", "tags.color": "bad",
		"metadata.m": "adb", "status": "bda", "request_id DESC": "dba",
	} {
		if got := search("", order); got != want {
			t.Errorf("%s gives %q, want %q", order, got, want)
		}
	}
	for filter, says := range map[string]string{
		"nope = 'x'":                  "Invalid attribute key 'nope'",
		"nope.x = 'y'":                "Invalid entity type 'nope'",
		"status":                      "Invalid clause(s) in filter string: 'status'",
		"status > 'x'":                "Invalid comparator '>'",
		"name IN ('x')":               "Invalid comparator 'IN'",
		"tags.color = red":            "Parameter value is either not quoted",
		"span.content = 'x'":          "span.content comparator '='",
		"span.nope = 'x'":             "Invalid span attribute 'nope'",
		"feedback.q > 'x'":            "Expected a numeric value for feedback",
		"prompt = 'p'":                "Invalid prompts filter value 'p'",
		"timestamp_ms = 'x'":          "Expected numeric value",
		"tags.color RLIKE '['":        "Invalid regular expression",
		"issue.x = 'y'":               "Invalid issue attribute 'x'",
		"status = 'OK' OR name = 'a'": "Invalid clause(s) in filter string: 'OR'",
	} {
		body, _ := json.Marshal(map[string]any{"filter": filter, "locations": []any{map[string]any{"mlflow_experiment": map[string]any{"experiment_id": "0"}}}})
		if status, reply := c.raw("POST", traces3+"/search", string(body), "application/json"); status != 400 || !strings.Contains(reply, says) {
			t.Errorf("%s: %d %s, want %s", filter, status, reply, says)
		}
	}
	figures := func(body string) string {
		points, _ := c.do("POST", traces3+"/metrics", `{"experiment_ids":["0"],`+body+`}`, 200)["data_points"].([]any)
		var list []string
		for _, p := range points {
			x, _ := json.Marshal(map[string]any{"d": at(p, "dimensions"), "v": at(p, "values")})
			list = append(list, string(x))
		}
		return strings.Join(list, " ")
	}
	for body, want := range map[string]string{
		`"view_type":"TRACES","metric_name":"trace_count","aggregations":[{"aggregation_type":"COUNT"}]`:                                                                   `{"d":null,"v":{"COUNT":3}}`,
		`"view_type":"TRACES","metric_name":"session_count","aggregations":[{"aggregation_type":"COUNT"}]`:                                                                 `{"d":null,"v":{"COUNT":1}}`,
		`"view_type":"TRACES","metric_name":"latency","aggregations":[{"aggregation_type":"AVG"},{"aggregation_type":"PERCENTILE","percentile_value":50}]`:                 `{"d":null,"v":{"AVG":1750,"P50.0":1750}}`,
		`"view_type":"TRACES","metric_name":"trace_count","aggregations":[{"aggregation_type":"COUNT"}],"dimensions":["trace_name"],"filters":["trace.tag.color = 'red'"]`: `{"d":{"trace_name":"one"},"v":{"COUNT":1}}`,
		`"view_type":"SPANS","metric_name":"span_count","aggregations":[{"aggregation_type":"COUNT"}],"dimensions":["span_status"]`:                                        `{"d":{"span_status":"ERROR"},"v":{"COUNT":1}} {"d":{"span_status":"UNSET"},"v":{"COUNT":1}}`,
		`"view_type":"ASSESSMENTS","metric_name":"assessment_value","aggregations":[{"aggregation_type":"MAX"}],"dimensions":["assessment_name"]`:                          `{"d":{"assessment_name":"ok"},"v":{"MAX":1}} {"d":{"assessment_name":"q"},"v":{"MAX":0.5}}`,
	} {
		if got := figures(body); got != want {
			t.Errorf("%s\n gives %s\n want %s", body, got, want)
		}
	}
	r := c.do("POST", traces3+"/calculate-filter-correlation", `{"experiment_ids":["0"],"filter_string1":"status = 'OK'","filter_string2":"tags.color = 'red'"}`, 200)
	if fmt.Sprint(r["npmi"], r["filter1_count"], r["joint_count"], r["total_count"]) != "1 1 1 3" {
		t.Errorf("correlation is %v", r)
	}
}

func TestAnAssessmentTakesThePlaceOfAnother(t *testing.T) {
	c := newClient(t)
	id := c.started(1, `,"state":"OK"`)
	path := traces3 + "/" + id + "/assessments"
	add := func(more string) string {
		return at(c.do("POST", path, `{"assessment":{"assessment_name":"q","source":{"source_type":"HUMAN","source_id":"me"},`+more+`}}`, 200), "assessment", "assessment_id").(string)
	}
	first := add(`"feedback":{"value":1},"metadata":{"a":"b"}`)
	second := add(`"feedback":{"value":2},"overrides":"` + first + `"`)
	valid := func(id string) any { return at(c.do("GET", path+"/"+id, "", 200), "assessment", "valid") }
	if valid(first) != false || valid(second) != true {
		t.Error("the first is still valid")
	}
	changed := c.do("PATCH", path+"/"+second, `{"assessment":{"feedback":{"value":"new"},"metadata":{"c":"d"},"rationale":"since"},"update_mask":"feedback,metadata"}`, 200)
	if at(changed, "assessment", "feedback", "value") != "new" || at(changed, "assessment", "metadata", "c") != "d" || at(changed, "assessment", "rationale") != nil {
		t.Errorf("changed to %v", changed)
	}
	c.do("DELETE", path+"/"+second, "{}", 200)
	c.do("DELETE", path+"/"+second, "{}", 200)
	if valid(first) != true {
		t.Error("the first is not valid again")
	}
	for body, says := range map[string]string{
		`{}`:                                     "Missing value for required parameter 'assessment'",
		`{"assessment":{"assessment_name":"x"}}`: "Unknown assessment type",
		`{"assessment":{"assessment_name":"x","expectation":{}}}`:                                 "`value` field must be specified",
		`{"assessment":{"assessment_name":"x","expectation":{"serialized_value":{"value":"1"}}}}`: "Unknown serialization format",
		`{"assessment":{"assessment_name":"x","feedback":{"value":1},"overrides":"a-none"}}`:      "not found for trace",
		`{"assessment":{"assessment_name":"x","feedback":{"value":1},"create_time":"yesterday"}}`: "create_time",
	} {
		if status, reply := c.raw("POST", path, body, "application/json"); status/100 != 4 || !strings.Contains(reply, says) {
			t.Errorf("%s: %d %s", body, status, reply)
		}
	}
}

func TestTracesOfVersionTwoAreTheSameTraces(t *testing.T) {
	c := newClient(t)
	made := c.post("traces", `{"experiment_id":"0","timestamp_ms":5,"request_metadata":[{"key":"a","value":"b"}],"tags":[{"key":"mlflow.traceName","value":"n"}]}`)
	id := at(made, "trace_info", "request_id").(string)
	if at(made, "trace_info", "status") != "IN_PROGRESS" {
		t.Errorf("%v", made)
	}
	ended := c.do("PATCH", api+"traces/"+id, `{"request_id":"`+id+`","timestamp_ms":25,"status":"OK","tags":[{"key":"t","value":"v"}]}`, 200)
	if fmt.Sprint(at(ended, "trace_info", "execution_time_ms")) != "20" {
		t.Errorf("%v", ended)
	}
	if got := at(c.do("GET", traces3+"/"+id, "", 200), "trace", "trace_info", "tags", "t"); got != "v" {
		t.Errorf("version 3 sees the tag %v", got)
	}
	if got := at(c.get("traces?experiment_ids=0&filter=tags.t+=+'v'"), "traces", 0, "request_id"); got != id {
		t.Errorf("found %v", got)
	}
	n := c.do("POST", traces3+"/delete-traces", `{"experiment_id":"0","max_timestamp_millis":5,"max_traces":10}`, 200)
	if fmt.Sprint(n["traces_deleted"]) != "1" {
		t.Errorf("%v", n)
	}
	c.refused("GET", "traces/"+id+"/info", "", "RESOURCE_DOES_NOT_EXIST", "not found")
	for body, says := range map[string]string{
		`{"experiment_id":"0"}`: "Either `max_timestamp_millis` or `trace_ids`",
		`{"experiment_id":"0","max_timestamp_millis":1,"request_ids":["a"]}`: "Only one of",
		`{"experiment_id":"0","max_traces":1,"request_ids":["a"]}`:           "`max_traces` can't be specified",
		`{"experiment_id":"0","max_timestamp_millis":1,"max_traces":0}`:      "must be a positive integer",
	} {
		if status, reply := c.raw("POST", traces3+"/delete-traces", body, "application/json"); status != 400 || !strings.Contains(reply, says) {
			t.Errorf("%s: %d %s", body, status, reply)
		}
	}
}
