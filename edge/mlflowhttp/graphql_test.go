package mlflowhttp_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// ask sends a GraphQL query and returns data and errors.
func (c *client) ask(query string, variables any) (data any, errs []any) {
	c.t.Helper()
	body, err := json.Marshal(map[string]any{"query": query, "variables": variables})
	if err != nil {
		c.t.Fatal(err)
	}
	reply := c.do("POST", "/graphql", string(body), 200)
	errs, _ = reply["errors"].([]any)
	return reply["data"], errs
}

func TestGraphQLAnswersWhatRESTDoes(t *testing.T) {
	c := newClient(t)
	run, source := c.upload()
	c.post("runs/log-batch", `{"run_id":"`+run+`","metrics":[{"key":"m","value":1.5,"timestamp":9007199254740993,"step":3},{"key":"nan","value":"NaN","timestamp":1}],"params":[{"key":"p","value":"v"}]}`)
	c.post("runs/log-inputs", `{"run_id":"`+run+`","datasets":[{"dataset":{"name":"d","digest":"x","source_type":"t","source":"s"},"tags":[{"key":"mlflow.data.context","value":"training"}]}]}`)
	c.post("registered-models/create", `{"name":"n"}`)
	c.post("model-versions/create", fmt.Sprintf(`{"name":"n","source":%q,"run_id":%q}`, source, run))

	data, errs := c.ask(`query GetRun($data: MlflowGetRunInput!) @component(name: "MLflow.X") {
		mlflowGetRun(input: $data) {
			apiError { helpUrl code message }
			run { ...Info experiment { experimentId name tags { key value } lifecycleStage } modelVersions { name version status source } data { metrics { key value step timestamp } params { key value } } inputs { datasetInputs { dataset { name digest } tags { key value } } } outputs { modelOutputs { modelId } } }
		}
	}
	fragment Info on MlflowRunExtension { info { runName status runUuid runId endTime startTime artifactUri experimentId lifecycleStage userId } __typename }`,
		map[string]any{"data": map[string]any{"runId": run}})
	if errs != nil {
		t.Fatal(errs)
	}
	if at(data, "mlflowGetRun", "apiError") != nil {
		t.Errorf("%v", data)
	}
	r := at(data, "mlflowGetRun", "run")
	metrics := pairs(at(r, "data", "metrics"))
	for name, x := range map[string][2]any{
		"id":       {at(r, "info", "runUuid"), run},
		"status":   {at(r, "info", "status"), "RUNNING"},
		"end":      {at(r, "info", "endTime"), "0"},
		"type":     {at(r, "__typename"), "MlflowRunExtension"},
		"metric":   {metrics["m"], 1.5},
		"NaN":      {metrics["nan"], nil},
		"long":     {at(r, "data", "metrics", 0, "timestamp"), "9007199254740993"},
		"param":    {at(r, "data", "params", 0, "value"), "v"},
		"dataset":  {at(r, "inputs", "datasetInputs", 0, "dataset", "name"), "d"},
		"outputs":  {fmt.Sprint(at(r, "outputs", "modelOutputs")), "[]"},
		"exp":      {at(r, "experiment", "name"), "Default"},
		"no tags":  {fmt.Sprint(at(r, "experiment", "tags")), "[]"},
		"version":  {at(r, "modelVersions", 0, "version"), "1"},
		"v status": {at(r, "modelVersions", 0, "status"), "READY"},
	} {
		if x[0] != x[1] {
			t.Errorf("%s: %v, want %v", name, x[0], x[1])
		}
	}

	data, errs = c.ask(`mutation S($in: MlflowSearchRunsInput!, $no: Boolean = false) {
		found: mlflowSearchRuns(input: $in) { runs { info { runId runName @include(if: $no) } } nextPageToken }
		mlflowSearchDatasets(input: {experimentIds: ["0"]}) { datasetSummaries { experimentId name digest context } }
	}`, map[string]any{"in": map[string]any{"experimentIds": []string{"0"}, "filter": "metrics.m > 1", "maxResults": 5, "runViewType": "ACTIVE_ONLY"}})
	if info := at(data, "found", "runs", 0, "info"); errs != nil || at(info, "runId") != run || len(info.(map[string]any)) != 1 {
		t.Errorf("%v %v", errs, data)
	}
	if d := at(data, "mlflowSearchDatasets", "datasetSummaries", 0); at(d, "name") != "d" || at(d, "context") != "training" || at(d, "experimentId") != "0" {
		t.Errorf("%v", data)
	}

	data, errs = c.ask(`{
		mlflowGetExperiment(input: {experimentId: "0"}) { experiment { name creationTime } }
		mlflowListArtifacts(input: {runId: "`+run+`"}) { rootUri files { path isDir fileSize } }
		mlflowGetMetricHistoryBulkInterval(input: {runIds: ["`+run+`"], metricKey: "m", maxResults: 10}) { metrics { runId key step value timestamp } }
		mlflowSearchModelVersions(input: {filter: "name='n'", maxResults: 3}) { modelVersions { name aliases tags { key } } }
		test(inputString: "hi") { output }
	}`, nil)
	for name, x := range map[string][2]any{
		"experiment": {at(data, "mlflowGetExperiment", "experiment", "name"), "Default"},
		"folder":     {at(data, "mlflowListArtifacts", "files", 0, "path"), "model"},
		"dir":        {at(data, "mlflowListArtifacts", "files", 0, "isDir"), true},
		"point":      {at(data, "mlflowGetMetricHistoryBulkInterval", "metrics", 0, "step"), "3"},
		"model":      {at(data, "mlflowSearchModelVersions", "modelVersions", 0, "name"), "n"},
		"echo":       {at(data, "test", "output"), "hi"},
	} {
		if errs != nil || x[0] != x[1] {
			t.Errorf("%s: %v, want %v (%v)", name, x[0], x[1], errs)
		}
	}
}

func TestErrorsOfGraphQLAreTexts(t *testing.T) {
	c := newClient(t)
	deep := strings.Repeat("experiment { ", 12) + "name" + strings.Repeat(" }", 12)
	for _, x := range []struct{ query, message string }{
		{`{ mlflowGetRun(input: {runId: "0123456789abcdef0123456789abcdef"}) { run { info { runId } } } }`, "Run with id=0123456789abcdef0123456789abcdef not found"},
		{`{ mlflowGetRun(input: {runId: ""}) { run { info { runId } } } }`, "run_id"},
		{`{ mlflowGetRun { run { info { runId } } } }`, "input"},
		{`{ nope }`, "Cannot query field 'nope' on type 'Query'."},
		{`{ mlflowGetRun(input: {nope: 1}) { run { info { runId } } } }`, "nope"},
		{`{ mlflowGetRun(input: {runId: 1}) { run { info { runId } } } }`, "String"},
		{`{ mlflowGetRun(input: {}) }`, "mlflowGetRun"},
		{`query A { test { output } } query B { test { output } }`, "Must provide operation name"},
		{`subscription { x }`, ""},
		{`{`, "Syntax Error"},
		{`nonsense`, "Syntax Error"},
		{`{ __schema { types { name } } }`, "schema"},
		{`{ mlflowGetRun(input: {runId: "x"}) { run { ` + deep + ` } } }`, "Query exceeds maximum depth of 10"},
		{`{ ` + strings.Repeat("test { output } ", 11) + `}`, "at most 10 root fields"},
		{`{ test { ` + strings.Repeat("output ", 1001) + `} }`, "maximum total selections"},
		{`{ test { a: output b: output c: output d: output e: output f: output g: output h: output i: output j: output k: output } }`, "at most 10 aliases"},
		{`fragment A on Test { ...B } fragment B on Test { ...A } { test { ...A } }`, ""},
		{`query($v: MlflowGetRunInput!) { mlflowGetRun(input: $v) { run { info { runId } } } }`, "v"},
		{strings.Repeat("{", 30_000), "Syntax Error"},
	} {
		data, errs := c.ask(x.query, nil)
		if len(errs) == 0 || !strings.Contains(fmt.Sprint(errs...), x.message) {
			t.Errorf("%.100s: %v %v, want %q", x.query, data, errs, x.message)
		}
		for _, e := range errs {
			if _, ok := e.(string); !ok {
				t.Errorf("%.100s: the error %v is no text", x.query, e)
			}
		}
	}
	for _, body := range []string{``, `{}`, `{"query":null}`, `{"query":1}`, `{"query":["x"]}`, `[]`, `null`, "\xff"} {
		if status, reply := c.raw("POST", "/graphql", body, "application/json"); status != 400 || !strings.Contains(reply, "INVALID_PARAMETER_VALUE") {
			t.Errorf("%q: %d %s", body, status, reply)
		}
	}
}
