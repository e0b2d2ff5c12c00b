package mlflow

import (
	"database/sql"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lapis/fault"
)

// old is a database that MLflow 2.14 made: it lacks tables and columns of later
// releases.
func old(t *testing.T) Store {
	t.Helper()
	script, err := os.ReadFile(filepath.Join("testdata", "release-2.14.sql"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mlflow.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(string(script)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), "sqlite:///"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestADatabaseOfRelease2IsRead(t *testing.T) {
	ctx, s := t.Context(), old(t)
	experiments := must(s.Experiments(ctx))(t)
	if len(experiments) != 2 || experiments[1].Name != "older" || experiments[1].Created == 0 {
		t.Fatalf("experiments %+v", experiments)
	}
	e := experiments[1]
	ids := must(s.Runs(ctx, e))(t)
	if len(ids) != 1 {
		t.Fatalf("runs %v", ids)
	}
	r := must(s.Run(ctx, e, ids[0]))(t)
	if r.Info.Name != "r2" || r.Info.Status != "FINISHED" || len(r.Data.Params) != 1 || r.Data.Params[0] != (Tag{"p", "1"}) {
		t.Errorf("run %+v", r)
	}
	if len(r.Inputs.Datasets) != 1 || r.Inputs.Datasets[0].Dataset.Name != "d" {
		t.Errorf("inputs %+v", r.Inputs)
	}
	points := map[string]int{}
	nan := false
	for page, err := range s.Metrics(ctx, r) {
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range page {
			points[p.Key]++
			nan = nan || p.Key == "odd" && math.IsNaN(float64(p.Value))
		}
	}
	if points["loss"] != 50 || points["odd"] != 1 || !nan {
		t.Errorf("points %v, NaN %v", points, nan)
	}
	models := must(s.Registered(ctx))(t)
	if len(models) != 1 || models[0].Aliases["best"] != "1" || len(models[0].Versions) != 1 || models[0].Versions[0].Tags[0] != (Tag{"t", "u"}) {
		t.Errorf("registered models %+v", models)
	}
	if logged := must(s.Models(ctx, e))(t); len(logged) != 0 {
		t.Errorf("logged models %+v, which release 2 has not", logged)
	}
	traces := must(s.Traces(ctx, e))(t)
	if len(traces) != 1 {
		t.Fatalf("traces %v", traces)
	}
	if tr := must(s.Trace(ctx, e, traces[0]))(t); tr.Tags["mlflow.traceName"] != "f" || tr.State != "IN_PROGRESS" || tr.Duration != "" {
		t.Errorf("trace %+v", tr)
	}
}

func TestARunThatGrewIsToldFromTheSameRun(t *testing.T) {
	ctx, s := t.Context(), old(t)
	e := must(s.Experiments(ctx))(t)[1]
	id := must(s.Runs(ctx, e))(t)[0]
	before := markOf(must(s.Run(ctx, e, id))(t), nil)
	if again := markOf(must(s.Run(ctx, e, id))(t), nil); again != before {
		t.Error("the same run has two marks")
	}
	db := s.(*database)
	if _, err := db.db.Exec(`INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('loss', 1, 1, ?, 99, 0)`, id); err == nil {
		t.Fatal("the store can be written to")
	}
	var path string
	if err := db.db.QueryRow(`SELECT file FROM pragma_database_list`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	w, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Exec(`INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('loss', 1, 1, ?, 99, 0)`, id); err != nil {
		t.Fatal(err)
	}
	if after := markOf(must(s.Run(ctx, e, id))(t), nil); after == before {
		t.Error("a run with a new point has the mark it had")
	}
}

func TestArtefactsAreLookedForWhereTheyMayHaveGone(t *testing.T) {
	here := t.TempDir()
	moved := filepath.Join(here, "moved")
	kept := filepath.Join(here, "store", "mlruns", "1", "run", "artifacts")
	for _, dir := range []string{kept, filepath.Join(moved, "2", "run2", "artifacts"), filepath.Join(here, "secret")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := must(newDisk(filepath.Join(here, "store"), moved, "mlruns"))(t)
	for _, c := range []struct{ why, uri, want string }{
		{"where the store says", kept, kept},
		{"a file's address", "file://" + kept, kept},
		{"a path from the store's folder", "./mlruns/1/run/artifacts", kept},
		{"beside the store", "/gone/mlruns/1/run/artifacts", kept},
		{"kept by the server", "mlflow-artifacts:/1/run/artifacts", kept},
		{"moved to where the user says", "/gone/2/run2/artifacts", filepath.Join(moved, "2", "run2", "artifacts")},
		{"nowhere", "/gone/3/run3/artifacts", ""},
		{"no folder of artefacts", filepath.Join(here, "secret"), ""},
		{"another service", "s3://bucket/1/run/artifacts", ""},
	} {
		if got := d.find(c.uri); got != c.want {
			t.Errorf("%s: %q is found at %q, want %q", c.why, c.uri, got, c.want)
		}
	}
	if _, err := d.folder("s3://bucket/1/run/artifacts"); !fault.Is(err, fault.Missing) {
		t.Errorf("artefacts elsewhere: %v", err)
	}
	if err := os.Symlink(filepath.Join(here, "secret"), filepath.Join(kept, "link")); err != nil {
		t.Fatal(err)
	}
	if list := must(files(kept))(t); len(list) != 0 {
		t.Errorf("a link was followed: %v", list)
	}
}

func TestSpansOfAllReleasesAreRead(t *testing.T) {
	want := span{
		Trace: "332fdd3ff363502e52bd639888d3c56c", ID: "b0b8b36bfc83282c", Parent: "0a7bec7c7e29aa8d", Name: "inner",
		Start: "1795277463863252167", End: "1795277463863568106", Status: spanStatus{Code: 1},
		Attributes: []pair{{"n", value{"intValue": "10"}}, {"text", value{"stringValue": "x"}}},
	}
	for release, text := range map[string]string{
		"3": `{"trace_id": "My/dP/NjUC5SvWOYiNPFbA==", "span_id": "sLiza/yDKCw=", "parent_span_id": "CnvsfH4pqo0=", "name": "inner",
			"start_time_unix_nano": 1795277463863252167, "end_time_unix_nano": 1795277463863568106, "events": [],
			"status": {"code": "STATUS_CODE_OK", "message": ""}, "attributes": {"n": "10", "text": "\"x\""}}`,
		"2": `{"context": {"trace_id": "0x332fdd3ff363502e52bd639888d3c56c", "span_id": "0xb0b8b36bfc83282c"}, "parent_id": "0xa7bec7c7e29aa8d", "name": "inner",
			"start_time": 1795277463863252167, "end_time": 1795277463863568106, "events": [], "status_code": "OK", "status_message": "",
			"attributes": {"n": "10", "text": "\"x\""}}`,
		"OpenTelemetry": `{"traceId": "332FDD3FF363502E52BD639888D3C56C", "spanId": "b0b8b36bfc83282c", "parentSpanId": "0a7bec7c7e29aa8d", "name": "inner",
			"startTimeUnixNano": "1795277463863252167", "endTimeUnixNano": "1795277463863568106", "status": {"code": 1},
			"attributes": [{"key": "n", "value": {"intValue": "10"}}, {"key": "text", "value": {"stringValue": "x"}}]}`,
		"protobuf in JSON": `{"trace_id": "My/dP/NjUC5SvWOYiNPFbA==", "span_id": "sLiza/yDKCw=", "parent_span_id": "CnvsfH4pqo0=", "name": "inner",
			"start_time_unix_nano": "1795277463863252167", "end_time_unix_nano": "1795277463863568106", "status": {"code": "STATUS_CODE_OK"},
			"attributes": [{"key": "n", "value": {"int_value": "10"}}, {"key": "text", "value": {"string_value": "x"}}]}`,
	} {
		got, err := parseSpan([]byte(text))
		if err != nil {
			t.Errorf("release %s: %v", release, err)
			continue
		}
		g, w := must(json.Marshal(got))(t), must(json.Marshal(want))(t)
		if string(g) != string(w) {
			t.Errorf("release %s:\ngot  %s\nwant %s", release, g, w)
		}
	}
	for _, bad := range []string{"", "[]", "{}", `{"trace_id": "x", "span_id": "y", "start_time": 1}`} {
		if _, err := parseSpan([]byte(bad)); fault.Find(err) == nil {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestPointsThatAreNoneAreNamedByFileAndLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "loss")
	for text, why := range map[string]string{
		"1 0.5 0\nx 0.5 1\n": "line 2", "1 abc 0\n": "not a number", "1\n": "line 1", "1 0.5 x\n": "not a step",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := points(file, func([]string, Metric) bool { return true })
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.WriteFile(file, []byte("1 nan\n2 inf 3\n3 -inf 4 data 1f\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var all []float64
	if err := points(file, func(_ []string, m Metric) bool { all = append(all, float64(m.Value)); return true }); err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || !math.IsNaN(all[0]) || !slices.Equal(all[1:], []float64{math.Inf(1), math.Inf(-1)}) {
		t.Errorf("values %v", all)
	}
}

func FuzzSpan(f *testing.F) {
	f.Add([]byte(`{"trace_id": "My/dP/NjUC5SvWOYiNPFbA==", "span_id": "sLiza/yDKCw=", "start_time_unix_nano": 1, "attributes": {"n": "[1, null]"}, "links": [{}], "events": [{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSpan(b)
		if err != nil {
			return
		}
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("%s is read as what cannot be sent: %v", b, err)
		}
	})
}
