package mlflowhttp_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const beyond = "/api/lapis/"

func TestWhatIsRemovedForGoodIsGoneWithItsArtefacts(t *testing.T) {
	url, _ := serve(t)
	c := &client{t, url}
	e := at(c.post("experiments/create", `{"name":"doomed"}`), "experiment_id").(string)
	run := c.newRun(fmt.Sprintf(`{"experiment_id":%q}`, e))
	neighbour := run + "a" // its folder begins like the run's
	file := func(run string) string {
		return "/api/2.0/mlflow-artifacts/artifacts/" + e + "/" + run + "/artifacts/f.txt"
	}
	for _, r := range []string{run, neighbour} {
		if status, reply := c.raw("PUT", file(r), "bytes", ""); status != 200 {
			t.Fatal(status, reply)
		}
	}
	other := c.newRun(fmt.Sprintf(`{"experiment_id":%q}`, e))
	c.post("runs/delete", fmt.Sprintf(`{"run_id":%q}`, other))
	trash := c.do("GET", beyond+"trash", "", 200)
	if items := at(trash, "items").([]any); len(items) != 1 || at(items[0], "run_id") != other || at(items[0], "experiment_name") != "doomed" || at(items[0], "purge_time") == nil {
		t.Errorf("trash: %v", trash)
	}
	c.do("DELETE", beyond+"runs/"+run, "", 200)
	c.refused("GET", "runs/get?run_id="+run, "", "RESOURCE_DOES_NOT_EXIST", run)
	if status, _ := c.raw("GET", file(run), "", ""); status != 404 {
		t.Errorf("the run's file: %d, want 404", status)
	}
	if status, _ := c.raw("GET", file(neighbour), "", ""); status != 200 {
		t.Errorf("another run's file: %d, want 200", status)
	}
	c.do("DELETE", beyond+"runs/"+run, "", 404)

	done := c.do("POST", beyond+"trash/empty", `{}`, 200)
	if at(done, "runs") != 1.0 || at(done, "experiments") != 0.0 {
		t.Errorf("emptied: %v", done)
	}
	c.do("DELETE", beyond+"experiments/"+e, "", 200)
	c.refused("GET", "experiments/get?experiment_id="+e, "", "RESOURCE_DOES_NOT_EXIST", e)
	c.do("DELETE", beyond+"experiments/0", "", 409)
	c.do("DELETE", beyond+"experiments/"+e, "", 404)
	c.do("DELETE", beyond+"experiments/x", "", 400)
}

func TestCountsAndChartsAndTablesOfRuns(t *testing.T) {
	url, _ := serve(t)
	c := &client{t, url}
	e := at(c.post("experiments/create", `{"name":"e"}`), "experiment_id").(string)
	var runs []string
	for i := range 3 {
		run := c.newRun(fmt.Sprintf(`{"experiment_id":%q,"run_name":"n%d","start_time":%d}`, e, i, i))
		c.post("runs/log-batch", fmt.Sprintf(`{"run_id":%q,"metrics":[{"key":"loss","value":%d,"timestamp":1,"step":0}],"params":[{"key":"p","value":"%d"}],"tags":[{"key":"team","value":"x"}]}`, run, i, i))
		runs = append(runs, run)
	}
	counts := c.do("GET", beyond+"counts?experiment_ids="+e, "", 200)
	if got := at(counts, "experiments", 0); at(got, "active_runs") != 3.0 || at(got, "metrics") != 3.0 || at(got, "points") != 3.0 {
		t.Errorf("counts: %v", counts)
	}
	c.do("GET", beyond+"counts?experiment_ids=999", "", 404)
	if got := c.do("GET", beyond+"runs/"+runs[0]+"/counts", "", 200); at(got, "points") != 1.0 || at(got, "metrics", 0, "key") != "loss" {
		t.Errorf("counts of a run: %v", got)
	}

	table := c.do("POST", beyond+"runs/table", fmt.Sprintf(`{"experiment_ids":[%q],"filter":"metrics.loss > 0","order_by":["metrics.loss DESC"],"columns":["run_name","metrics.*","params.p","tags.team","tags.none","workspace"]}`, e), 200)
	text, err := json.Marshal([]any{table["columns"], table["rows"], table["total"]})
	if err != nil {
		t.Fatal(err)
	}
	if want := `[["run_name","metrics.loss","params.p","tags.team","tags.none","workspace"],[["n2",2,"2","x",null,"main"],["n1",1,"1","x",null,"main"]],2]`; string(text) != want {
		t.Errorf("table:\n got %s\nwant %s", text, want)
	}
	table = c.do("POST", beyond+"runs/table", fmt.Sprintf(`{"sources":[{"run_ids":[%q,%q]}],"columns":["run_id"]}`, runs[0], runs[1]), 200)
	if at(table, "total") != 2.0 {
		t.Errorf("table of two runs: %v", table)
	}
	c.do("POST", beyond+"runs/table", `{"columns":["nope"]}`, 400)
	c.do("POST", beyond+"runs/table", `{"sources":[{"workspace":"elsewhere"}]}`, 400)

	var batch strings.Builder
	for i := range 1000 {
		v := 0
		switch i {
		case 500:
			v = 9
		case 700:
			v = -9
		}
		fmt.Fprintf(&batch, `,{"key":"peak","value":%d,"timestamp":1,"step":%d}`, v, i)
	}
	c.post("runs/log-batch", fmt.Sprintf(`{"run_id":%q,"metrics":[%s]}`, runs[0], batch.String()[1:]))
	chart := c.do("GET", beyond+"metrics/chart?run_id="+runs[0]+"&key=peak&key=none&buckets=20", "", 200)
	series := at(chart, "series").([]any)
	points := at(series[0], "points").([]any)
	if len(series) != 1 || at(series[0], "count") != 1000.0 || len(points) > 42 {
		t.Fatalf("chart: %d series, %d points", len(series), len(points))
	}
	var low, high bool
	for _, p := range points {
		low = low || at(p, 2) == -9.0
		high = high || at(p, 2) == 9.0
	}
	if !low || !high || at(points[0], 0) != 0.0 || at(points[len(points)-1], 0) != 999.0 {
		t.Errorf("a chart has lost its peaks or ends: %v", points)
	}
	c.do("GET", beyond+"metrics/chart?run_id=x&key=y&buckets=0", "", 400)
	c.do("GET", beyond+"metrics/chart?run_id=x", "", 400)
}
