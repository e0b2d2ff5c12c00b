package historyhttp

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/edge"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/tracking"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/rbac"
	"lapis/resource/storetest"
)

const main = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main"

// links tell what they are for.
type links struct{}

func (links) Blob(origin string, c blob.Container, key string, until time.Time, who string) string {
	return origin + "/blob/" + c.Account + "/" + c.Name + "/" + key + "?who=" + who
}

// site is a server over real stores with a workspace.
type site struct {
	t     *testing.T
	url   string
	runs  *sqldb.Tracking
	store *sqldb.Resources
	blobs *disk.Store
	ml    ml.Site
	who   identity.Principal
}

func newSite(t *testing.T) *site {
	t.Helper()
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, store: sqldb.NewResources(db), who: identity.Principal{ID: "1", Name: "eve", Kind: identity.User}}
	if s.runs, err = sqldb.NewTracking(db); err != nil {
		t.Fatal(err)
	}
	if s.blobs, err = disk.New(filepath.Join(t.TempDir(), "blobs")); err != nil {
		t.Fatal(err)
	}
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(func() {
		server.Close()
		db.Close()
	})
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	origins, err := edge.NewOrigins(nil, port)
	if err != nil {
		t.Fatal(err)
	}
	history := New(Config{Resources: s.store, Runs: s.runs, Blobs: s.blobs, Access: rbac.Checker{}, Links: links{}, Origins: origins, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/discovery") {
			history.Discovery(w, r)
			return
		}
		history.ServeHTTP(w, r.WithContext(identity.With(r.Context(), s.who)))
	})
	s.url = server.URL
	guid := "11111111-2222-3333-4444-555555555555"
	s.put(main, `{}`, fmt.Sprintf(`{"workspaceId":%q,"storageAccountName":%q}`, guid, ml.AccountOf(guid)))
	if s.ml, err = ml.SiteOf(t.Context(), s.store, storetest.ID(t, main)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []blob.Container{s.ml.Blobs(), s.ml.Artifacts()} {
		if err := s.blobs.CreateContainer(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	s.put(main+"/datastores/workspaceblobstore", fmt.Sprintf(`{"datastoreType":"AzureBlob","accountName":%q,"containerName":%q}`, s.ml.Account, s.ml.Blobs().Name), "")
	return s
}

func (s *site) put(id, properties, status string) {
	s.t.Helper()
	r := resource.Resource{ID: storetest.ID(s.t, "%s", id), Properties: json.RawMessage(properties), Status: json.RawMessage(status)}
	if _, err := s.store.Commit(s.t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Any}}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) run(r tracking.Run) {
	s.t.Helper()
	e, err := s.runs.DefaultExperiment(s.t.Context(), s.ml.GUID)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Workspace, r.Experiment = s.ml.GUID, e
	if _, err := s.runs.CreateRun(s.t.Context(), r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) ask(client, method, path, body string, status int) (text string, doc map[string]any) {
	s.t.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("User-Agent", client)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != status {
		s.t.Errorf("%s %s: %d %s; want %d", method, path, resp.StatusCode, raw, status)
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		s.t.Errorf("%s %s: %q is no JSON", method, path, raw)
	}
	return string(raw), doc
}

const (
	newest = "azure-ai-ml/1.35.2 azsdk-python-mgmt-machinelearningservices/0.1.0 Python/3.11.2"
	older  = "azure-ai-ml/1.15.0 azsdk-python-mgmt-machinelearningservices/0.1.0 Python/3.11.2"
)

func TestDiscoveryNamesTheServerItself(t *testing.T) {
	s := newSite(t)
	_, doc := s.ask("", "GET", "/discovery", "", 200)
	if doc["api"] != s.url || doc["history"] != s.url {
		t.Errorf("%v", doc)
	}
}

func TestTypesAreSpelledAsTheClientReadsThem(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Completed, Outputs: map[string]tracking.Asset{
		"f": {Type: "uri_file", AssetID: "a"}, "d": {Type: "uri_folder", AssetID: "b"}, "t": {Type: "mltable", AssetID: "c"}, "m": {Type: "mlflow_model", AssetID: "d"}}})
	for client, want := range map[string]string{
		newest: "uri_file uri_folder mltable uri_folder", "azure-ai-ml/2.0.0": "uri_file uri_folder mltable uri_folder", "curl/8": "uri_file uri_folder mltable uri_folder",
		older: "UriFile UriFolder MLTable UriFolder", "azure-ai-ml/1.34.9": "UriFile UriFolder MLTable UriFolder",
	} {
		_, doc := s.ask(client, "POST", "/history/v1.0"+main+"/rundata?api-version=v1.0", `{"runId":"J","selectRunMetadata":true}`, 200)
		outputs, _ := doc["runMetadata"].(map[string]any)["outputs"].(map[string]any)
		var got []string
		for _, name := range []string{"f", "d", "t", "m"} {
			got = append(got, fmt.Sprint(outputs[name].(map[string]any)["type"]))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", client, got, want)
		}
	}
}

func TestDetailsNameTheLogs(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Failed, Start: 1000, End: 2000, Reason: "", Error: &tracking.RunError{Code: "UserError", Message: "out of luck"}, Warnings: []string{"careful"}})
	for _, key := range []string{"user_logs/std_log.txt", "logs/a/b.txt", "outputs/model.pkl"} {
		if _, err := s.blobs.Put(t.Context(), s.ml.Artifacts(), ml.RunFolder("j")+key, strings.NewReader("x"), 1, blob.Attributes{}, blob.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	_, doc := s.ask("", "GET", "/history/v1.0"+main+"/runs/j/details", "", 200)
	logs := doc["logFiles"].(map[string]any)
	if len(logs) != 2 || !strings.HasPrefix(fmt.Sprint(logs["user_logs/std_log.txt"]), s.url+"/blob/"+s.ml.Account+"/") || logs["logs/a/b.txt"] == nil {
		t.Errorf("%v", logs)
	}
	if doc["status"] != "Failed" || doc["error"].(map[string]any)["error"].(map[string]any)["message"] != "out of luck" || doc["warnings"].([]any)[0].(map[string]any)["message"] != "careful" || doc["startTimeUtc"] == nil {
		t.Errorf("%v", doc)
	}
}

func TestTheSDKHearsOfAJobInProgressBeforeItsEnd(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Completed})
	status := func(client string) string {
		_, doc := s.ask(client, "GET", "/history/v1.0"+main+"/runs/j/details", "", 200)
		return doc["status"].(string)
	}
	for round := range 2 {
		if a, b := status(newest), status(newest); a != "Finalizing" || b != "Completed" {
			t.Errorf("round %d: %s, then %s", round, a, b)
		}
	}
	if got := status("curl/8"); got != "Completed" {
		t.Errorf("another client: %s", got)
	}
}

func TestPatchChangesWhatDescribesARun(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Running, Name: "one", Tags: map[string]string{"a": "1"}})
	path := "/history/v1.0" + main + "/experiments/Default/runs/j?api-version=v1.0"
	if _, doc := s.ask(newest, "PATCH", path, `{"hidden":true}`, 200); doc["hidden"] != true || doc["displayName"] != "one" || doc["runId"] != "j" {
		t.Errorf("%v", doc)
	}
	_, doc := s.ask(newest, "PATCH", path, `{"displayName":"two","description":"d","tags":{"b":"2","c":null},"properties":{"p":"q"}}`, 200)
	if doc["displayName"] != "two" || doc["description"] != "d" || fmt.Sprint(doc["tags"]) != "map[b:2]" || fmt.Sprint(doc["properties"]) != "map[p:q]" || doc["hidden"] != true || doc["status"] != "Running" {
		t.Errorf("%v", doc)
	}
	for _, body := range []string{``, `{`, `[]`, `{"hidden":"yes"}`, `{"displayName":""}`, `{"displayName":"` + strings.Repeat("x", 256) + `"}`} {
		s.ask(newest, "PATCH", path, body, 400)
	}
	r, err := s.runs.Run(t.Context(), s.ml.GUID, "j")
	if err != nil || r.Name != "two" || !r.Hidden || r.Status != tracking.Running {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestChildrenComeInTheirOrder(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "p", Job: true, Status: tracking.Running})
	for i := range 3 {
		s.run(tracking.Run{ID: fmt.Sprint("c", i), Parent: "p", Status: tracking.Completed})
	}
	_, doc := s.ask("", "GET", "/history/v1.0"+main+"/runs/P/children", "", 200)
	list := doc["value"].([]any)
	if len(list) != 3 {
		t.Fatalf("%v", list)
	}
	for i, v := range list {
		child := v.(map[string]any)
		if child["runId"] != fmt.Sprint("c", i) || child["parentRunId"] != "p" || child["rootRunId"] != "p" || child["runType"] != "mlflow" {
			t.Errorf("%v", child)
		}
	}
	if text, _ := s.ask("", "GET", "/history/v1.0"+main+"/runs/c0/children", "", 200); !strings.Contains(text, `"value":[]`) {
		t.Error(text)
	}
}

func TestAssetsBecomePlaces(t *testing.T) {
	s := newSite(t)
	s.put(main+"/data/d/versions/1", `{"dataType":"uri_folder","dataUri":"azureml://datastores/workspaceblobstore/paths/a/"}`, "")
	id := "azureml://locations/local/workspaces/" + s.ml.GUID + "/data/d/versions/1"
	_, doc := s.ask(newest, "POST", "/data/v1.0"+main+"/dataversion/batchGetResolvedUris?api-version=1.5.0", fmt.Sprintf(`{"values":[%q]}`, id), 200)
	v := doc["values"].(map[string]any)[id].(map[string]any)
	if want := "azureml://subscriptions/s/resourcegroups/g/workspaces/main/datastores/workspaceblobstore/paths/a/"; v["uri"] != want {
		t.Errorf("%v, want %s", v, want)
	}
	s.ask(newest, "POST", "/data/v1.0"+main+"/dataversion/batchGetResolvedUris", `{"values":["azureml:none:1"]}`, 404)
	s.ask(newest, "POST", "/data/v1.0"+main+"/dataversion/batchGetResolvedUris", `{"values":"x"}`, 400)
	var many []string
	for range 1001 {
		many = append(many, id)
	}
	raw, _ := json.Marshal(map[string]any{"values": many})
	s.ask(newest, "POST", "/data/v1.0"+main+"/dataversion/batchGetResolvedUris", string(raw), 400)
}

func TestWrongCallsAreTheCallersFault(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Running})
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/history/v1.0" + main + "/runs/none", "", 404},
		{"GET", "/history/v1.0" + main + "/runs/none/details", "", 404},
		{"GET", "/history/v1.0" + main + "/runs/none/children", "", 404},
		{"PATCH", "/history/v1.0" + main + "/runs/none", `{"hidden":true}`, 404},
		{"GET", "/history/v1.0" + main + "2/runs/j", "", 404},
		{"GET", "/history/v1.0" + main + "/nothing", "", 404},
		{"GET", "/history/v1.0/runs/j", "", 404},
		{"DELETE", "/history/v1.0" + main + "/runs/j", "", 405},
		{"POST", "/history/v1.0" + main + "/rundata", `{}`, 400},
		{"POST", "/history/v1.0" + main + "/rundata", `{`, 400},
	} {
		if _, doc := s.ask(newest, c.method, c.path, c.body, c.status); doc["error"] == nil {
			t.Errorf("%s %s: %v", c.method, c.path, doc)
		}
	}
	s.ask(newest, "GET", "/history/v1.0"+strings.ToLower(main)+"/RUNS/J", "", 200)
	s.ask(newest, "GET", "/history/v1.0"+main+"/runs/j/serviceinstances/0", "", 200)
}

func TestAJobReadsAndWritesInItsOwnWorkspaceAlone(t *testing.T) {
	s := newSite(t)
	s.run(tracking.Run{ID: "j", Job: true, Status: tracking.Running})
	s.who = identity.Principal{ID: "job-1", Name: "job j", Kind: identity.Job, Workspace: main, Job: "j"}
	s.ask("", "GET", "/history/v1.0"+main+"/runs/j", "", 200)
	s.ask("", "PATCH", "/history/v1.0"+main+"/runs/j", `{"tags":{"a":"b"}}`, 200)
	s.who.Workspace = main + "2"
	s.ask("", "GET", "/history/v1.0"+main+"/runs/j", "", 403)
	s.who = identity.Principal{}
	s.ask("", "GET", "/history/v1.0"+main+"/runs/j", "", 401)
}
