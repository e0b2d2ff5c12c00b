package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// plane is where clients of registries ask.
const plane = "/mferp/managementfrontend"

// eventually waits until a GET answers 200, and returns the answer.
func (s *instance) eventually(t *testing.T, token, path string) map[string]any {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if status, m := s.call(t, token, "GET", path, ""); status == 200 {
			return m
		}
	}
	t.Fatalf("%s does not come", path)
	return nil
}

// upload puts a blob at the container of a reference with its signature.
func (s *instance) upload(t *testing.T, reference map[string]any, key, content string) int {
	t.Helper()
	sas, _ := at(reference, "blobReferenceForConsumption", "credential", "sasUri").(string)
	_, path, _ := strings.Cut(strings.TrimPrefix(sas, "https://"), "/")
	container, query, _ := strings.Cut(path, "?")
	r, err := http.NewRequest("PUT", s.info.Plain+"/"+container+"/"+key+"?"+query, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-ms-version", "2021-12-02")
	r.Header.Set("x-ms-blob-type", "BlockBlob")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestRegistriesShareWhatWorkspacesUse(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	ws := s.workspace(t)
	group := ws[:strings.Index(ws, "/workspaces/")]
	registry := group + "/registries/reg1"

	t.Run("every server has the curated environments, in a registry and in its workspaces", func(t *testing.T) {
		found := s.ask(t, token, "GET", "/registrymanagement/v1.0/registries/azureml/discovery", "", 200)
		if found["registryName"] != "azureml" || !strings.HasSuffix(found["primaryRegionResourceProviderUri"].(string), "/") {
			t.Error(found)
		}
		m := s.ask(t, token, "GET", plane+group+"/registries/azureml/environments/sklearn-1.5/versions/1", "", 200)
		if m["id"] != "azureml://registries/azureml/environments/sklearn-1.5/versions/1" || !strings.Contains(fmt.Sprint(m), "scikit-learn==1.5") {
			t.Error(m)
		}
		if got := names(s.ask(t, token, "GET", plane+group+"/registries/azureml/environments?listViewType=ListViewType.ACTIVE_ONLY", "", 200)); !strings.Contains(got, "sklearn-1.5") {
			t.Errorf("environments %q", got)
		}
		s.ask(t, token, "GET", ws+"/environments/AzureML-sklearn-1.5/versions/1", "", 200)
		s.ask(t, token, "DELETE", group+"/registries/azureml", "", 409)
	})
	t.Run("a registry's name is taken once on a server", func(t *testing.T) {
		s.ask(t, token, "PUT", registry, `{"location":"local","properties":{"regionDetails":[]}}`, 201)
		s.ask(t, token, "PUT", registry, `{"location":"local","properties":{"regionDetails":[]}}`, 201)
		sub, _, _ := strings.Cut(ws, "/resourceGroups/")
		s.ask(t, token, "PUT", sub+"/resourceGroups/other", `{"location":"local"}`, 201)
		m := s.ask(t, token, "PUT", sub+"/resourceGroups/other/providers/Microsoft.MachineLearningServices/registries/REG1", `{"location":"local","properties":{}}`, 409)
		if at(m, "error", "code") != "RegistryNameNotAvailable" {
			t.Error(m)
		}
		s.ask(t, token, "PUT", group+"/registries/x", `{"location":"local","properties":{}}`, 400)
		s.ask(t, token, "GET", "/registrymanagement/v1.0/registries/nothing/discovery", "", 404)
	})
	model := registry + "/models/m1/versions/1"
	t.Run("a version is put with its bytes, once", func(t *testing.T) {
		if got := names(s.ask(t, token, "GET", plane+registry+"/models/m1/versions", "", 200)); got != "" {
			t.Errorf("versions of a model that is not there: %q", got)
		}
		const body = `{"assetId":"azureml://registries/reg1/models/m1/versions/1","temporaryDataReferenceType":"TemporaryBlobReference"}`
		reference := s.ask(t, token, "PUT", plane+registry+"/tempdatarefs/m1/versions/1", body, 200)
		if status := s.upload(t, reference, "model/model.json", "{}"); status != 201 {
			t.Fatalf("upload: %d", status)
		}
		uri := at(reference, "blobReferenceForConsumption", "blobUri").(string) + "/model"
		put := fmt.Sprintf(`{"properties":{"modelType":"custom_model","modelUri":%q,"system_metadata":null}}`, uri)
		s.ask(t, token, "PUT", plane+model, put, 202)
		m := s.ask(t, token, "GET", plane+model, "", 200)
		if m["id"] != "azureml://registries/reg1/models/m1/versions/1" || at(m, "properties", "modelUri") != uri {
			t.Error(m)
		}
		s.ask(t, token, "PUT", plane+registry+"/tempdatarefs/m1/versions/1", body, 409)
		// What an SDK says of it is in tests/sdk.
		got := s.ask(t, token, "POST", plane+registry+"/datarefs/m1/versions/1", body, 200)
		if status := s.upload(t, got, "model/model.json", "changed"); status != 403 {
			t.Errorf("what reads may write: %d", status)
		}
		s.ask(t, token, "PUT", plane+registry+"/tempdatarefs/m1/versions/2", `{"assetId":"azureml://registries/azureml/models/m1/versions/2"}`, 400)
	})
	t.Run("a workspace's model is shared with its bytes", func(t *testing.T) {
		store := s.ask(t, token, "POST", ws+"/datastores/workspaceblobstore/listSecrets", `{"expirableSecret":true}`, 200)
		blobs := s.ask(t, token, "GET", ws+"/datastores/workspaceblobstore", "", 200)
		reference := map[string]any{"blobReferenceForConsumption": map[string]any{"credential": map[string]any{
			"sasUri": "https://x/" + at(blobs, "properties", "containerName").(string) + "?" + store["sasToken"].(string)}}}
		if status := s.upload(t, reference, "LocalUpload/a/model/weights.bin", "weights"); status != 201 {
			t.Fatalf("upload: %d", status)
		}
		s.ask(t, token, "PUT", ws+"/models/shared/versions/1", `{"properties":{"modelType":"custom_model","modelUri":"azureml://datastores/workspaceblobstore/paths/LocalUpload/a/model"}}`, 201)
		guid := at(s.ask(t, token, "GET", ws, "", 200), "properties", "workspaceId")
		share := func(name string) string {
			return fmt.Sprintf(`{"properties":{"referenceType":"Id","destinationName":"taken","destinationVersion":"7","sourceAssetId":"azureml://locations/local/workspaces/%s/models/%s/versions/1"}}`, guid, name)
		}
		s.ask(t, token, "POST", plane+registry+"/import", share("shared"), 202)
		m := s.eventually(t, token, plane+registry+"/models/taken/versions/7")
		if uri := fmt.Sprint(at(m, "properties", "modelUri")); !strings.Contains(uri, ".blob.core.lapis@") || !strings.HasSuffix(uri, "/model") {
			t.Errorf("modelUri %q", uri)
		}
		s.ask(t, token, "POST", plane+registry+"/import", share("nothing"), 202) // its operation fails
	})
	t.Run("a job uses what a registry holds", func(t *testing.T) {
		env := registry + "/environments/plain/versions/1"
		s.ask(t, token, "PUT", plane+env, `{"properties":{"image":"library/python:latest"}}`, 202)
		s.ask(t, token, "PUT", ws+"/jobs/j1", `{"properties":{"jobType":"Command","command":"grep -q weights ${{inputs.m}}/weights.bin","experimentName":"e",
			"environmentId":"azureml://registries/reg1/environments/plain/labels/latest",
			"inputs":{"m":{"jobInputType":"custom_model","uri":"azureml://registries/reg1/models/taken/versions/7"}}}}`, 201)
		if got := s.await(t, token, "j1", "Completed", "Failed"); got != "Completed" {
			t.Error(got)
		}
		s.ask(t, token, "PUT", ws+"/jobs/j2", `{"properties":{"jobType":"Command","command":"ls","environmentId":"azureml://registries/reg1/environments/nothing/versions/1"}}`, 404)
	})
	t.Run("a registry goes with what it holds", func(t *testing.T) {
		s.ask(t, token, "DELETE", registry, "", 202)
		s.gone(t, token, registry)
		s.ask(t, token, "GET", plane+model, "", 404)
	})
}

func TestOutputsWithANameBecomeVersions(t *testing.T) {
	s := start(t, t.TempDir())
	token := clientToken(t, s)
	ws := s.workspace(t)
	env := ws + "/environments/plain/versions/1"
	s.ask(t, token, "PUT", env, `{"properties":{"image":"library/python:latest"}}`, 201)
	put := func(name, command, rest string, want int) map[string]any {
		return s.ask(t, token, "PUT", ws+"/jobs/"+name, fmt.Sprintf(`{"properties":{"jobType":"Command","command":%q,"environmentId":%q,"experimentName":"e",%s}}`, command, env, rest), want)
	}
	const write = "echo hi > ${{outputs.o}}/f.txt"
	t.Run("the next version each time, though jobs end at once", func(t *testing.T) {
		for _, job := range []string{"a", "b", "c"} {
			put(job, write, `"outputs":{"o":{"jobOutputType":"uri_folder","assetName":"made"}}`, 201)
		}
		for _, job := range []string{"a", "b", "c"} {
			if got := s.await(t, token, job, "Completed", "Failed"); got != "Completed" {
				t.Fatal(job, got)
			}
		}
		if got := names(s.ask(t, token, "GET", ws+"/data/made/versions", "", 200)); got != "1 2 3" {
			t.Errorf("versions %q", got)
		}
	})
	t.Run("the version that the job asks for, as data and as a model", func(t *testing.T) {
		put("d", "echo w > ${{outputs.m}}/w; "+write, `"outputs":{"o":{"jobOutputType":"uri_folder","assetName":"made","assetVersion":"9"},"m":{"jobOutputType":"custom_model","assetName":"model"}}`, 201)
		if got := s.await(t, token, "d", "Completed", "Failed"); got != "Completed" {
			t.Fatal(got)
		}
		s.ask(t, token, "GET", ws+"/data/made/versions/9", "", 200)
		if m := s.ask(t, token, "GET", ws+"/models/model/versions/1", "", 200); at(m, "properties", "jobName") != "d" {
			t.Error(m)
		}
		m := put("e", write, `"outputs":{"o":{"jobOutputType":"uri_folder","assetName":"made","assetVersion":"9"}}`, 400)
		if at(m, "error", "target") != "properties.outputs.o.assetVersion" {
			t.Error(m)
		}
		put("e", write, `"outputs":{"o":{"jobOutputType":"uri_folder","assetVersion":"9"}}`, 400)
	})
	t.Run("every mode of an input gives the same", func(t *testing.T) {
		for _, mode := range []string{"ReadOnlyMount", "ReadWriteMount", "Download", "EvalMount", "EvalDownload"} {
			put("in"+mode, "grep -q hi ${{inputs.d}}/f.txt", `"inputs":{"d":{"jobInputType":"uri_folder","uri":"azureml:made:9","mode":"`+mode+`"}}`, 201)
		}
		put("direct", `test "$AZURE_ML_INPUT_d" = "${{inputs.d}}" && case "${{inputs.d}}" in azureml://subscriptions/*/paths/azureml/d/o/) ;; *) exit 1;; esac`,
			`"inputs":{"d":{"jobInputType":"uri_folder","uri":"azureml:made:9","mode":"Direct"}}`, 201)
		for _, job := range []string{"inReadOnlyMount", "inReadWriteMount", "inDownload", "inEvalMount", "inEvalDownload", "direct"} {
			if got := s.await(t, token, job, "Completed", "Failed"); got != "Completed" {
				t.Error(job, got)
			}
		}
		put("bad", "ls", `"inputs":{"d":{"jobInputType":"uri_folder","uri":"azureml:made:9","mode":"Teleport"}}`, 400)
		put("bad", "ls", `"outputs":{"d":{"jobOutputType":"uri_folder","mode":"Download"}}`, 400)
		put("bad", "ls", `"inputs":{"d":{"jobInputType":"uri_folder","uri":"ftp://example.com/folder"}}`, 400)
	})
	t.Run("what nobody named is left out of lists", func(t *testing.T) {
		if got := names(s.ask(t, token, "GET", ws+"/data", "", 200)); got != "made" {
			t.Errorf("data %q", got)
		}
		if got := names(s.ask(t, token, "GET", ws+"/data?listViewType=All", "", 200)); !strings.Contains(got, "azureml_d_output_data_o") {
			t.Errorf("all data %q", got)
		}
	})
}
