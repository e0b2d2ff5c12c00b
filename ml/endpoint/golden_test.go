package endpoint_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
)

// corpus finds the folder of recorded requests, or skips the test.
func corpus(t *testing.T, inside string) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		found := filepath.Join(dir, "shared", "corpus", inside)
		if _, err := os.Stat(found); err == nil {
			return found
		}
		if dir == filepath.Dir(dir) {
			t.Skip("the corpus is not beside the repository")
		}
	}
}

// recorded are the requests that the SDK sends for one file.
type recorded struct {
	Kind     string `json:"kind"`
	Requests []struct {
		Method string          `json:"method"`
		Path   string          `json:"path"`
		Body   json.RawMessage `json:"body"`
	} `json:"requests"`
}

var (
	ofCorpus    = regexp.MustCompile(`(?i)/subscriptions/[0-9-]+/resourcegroups/rg1/providers/Microsoft.MachineLearningServices/workspaces/ws1`)
	longPath    = regexp.MustCompile(`(?i)azureml://subscriptions/[0-9-]+/resourcegroups/rg1/workspaces/ws1/`)
	placeholder = regexp.MustCompile(`<([a-z0-9]+):([0-9]+)>`)
	namedAsset  = regexp.MustCompile(`^` + main + `/(models|environments|codes)/([^/]+)/versions/([^/]+)$`)
	uploadedTo  = regexp.MustCompile(`/paths/(.*)$`)
)

// unwilling are what files of the corpus ask for that is refused, by what the
// refusal says.
var unwilling = []struct{ says, why string }{
	{"name a model", "the file's model is one of a registry that its script fills in"},
	{"registry '<REGISTRY_NAME>' could not be found", "the file's own placeholder"},
	{"no id of a user-assigned identity", "the file's own placeholder"},
}

// TestWhatTheSDKSendsForTheFilesOfTheCorpusIsTaken replays the recorded requests
// of all online endpoints and deployments where what they refer to exists.
func TestWhatTheSDKSendsForTheFilesOfTheCorpusIsTaken(t *testing.T) {
	root := corpus(t, "golden")
	h := newHouse(t)
	h.must(main+"/computes/inferencecompute", `{"location":"local","properties":{"computeType":"Kubernetes"}}`)
	taken, turned, files := map[string]int{}, map[string]int{}, 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var g recorded
		if err := json.Unmarshal(raw, &g); err != nil {
			return err
		}
		if !strings.Contains(g.Kind, "OnlineEndpoint") && !strings.Contains(g.Kind, "OnlineDeployment") || len(g.Requests) == 0 {
			return nil
		}
		files++
		err = h.replay(g, files)
		if err == nil {
			taken[g.Kind]++
			return nil
		}
		for _, u := range unwilling {
			if f := fault.Find(err); f != nil && f.Kind != fault.Internal && strings.Contains(f.Message, u.says) {
				turned[u.why]++
				return nil
			}
		}
		t.Errorf("%s: %v", path, err)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("taken: %v; refused: %v", taken, turned)
	for _, kind := range []string{"managedOnlineEndpoint", "kubernetesOnlineEndpoint", "managedOnlineDeployment", "kubernetesOnlineDeployment"} {
		if taken[kind] == 0 {
			t.Errorf("none of the kind %s was taken", kind)
		}
	}
}

// replay sends the requests of one file, each to a name of its own.
func (h *house) replay(g recorded, n int) error {
	last := len(g.Requests) - 1
	for i, q := range g.Requests {
		clean := func(text string) string {
			text = ofCorpus.ReplaceAllString(text, main)
			text = longPath.ReplaceAllString(text, "azureml://subscriptions/s/resourcegroups/g/workspaces/main/")
			text = strings.NewReplacer("<name>", fmt.Sprintf("made-%d", n), "<sha256>", strings.Repeat("ab", 32)).Replace(text)
			return placeholder.ReplaceAllStringFunc(text, func(p string) string {
				m := placeholder.FindStringSubmatch(p)
				return fmt.Sprintf("00000000-0000-4000-8%03d-%012x", n, m[1]+m[2])[:36]
			})
		}
		id, body := clean(q.Path), clean(string(q.Body))
		if i < last {
			if _, err := h.manager.Get(h.t.Context(), eve, h.request(id, "").ID, resource.View{}); err == nil {
				continue // another file brought it
			}
			if m := uploadedTo.FindStringSubmatch(textAt(body, "modelUri")); m != nil {
				h.upload(m[1] + "/f")
			}
			if err := h.put(id, body); err != nil {
				return err
			}
			continue
		}
		parts := strings.Split(strings.TrimPrefix(id, main+"/onlineEndpoints/"), "/")
		name := fmt.Sprintf("ep-%d", n)
		if len(parts) == 1 {
			return h.put(on(name), body)
		}
		kind := `{}`
		if strings.HasPrefix(g.Kind, "kubernetes") {
			kind = `{"compute":"azureml:k8s"}`
		}
		h.must(on(name), online(kind))
		h.refer(body)
		return h.put(on(name+"/deployments/"+parts[2]), body)
	}
	return nil
}

// refer makes what a deployment refers to and its file does not bring.
func (h *house) refer(body string) {
	h.t.Helper()
	for _, field := range []string{"model", "environmentId"} {
		m := namedAsset.FindStringSubmatch(textAt(body, field))
		if m == nil {
			continue
		}
		if _, err := h.manager.Get(h.t.Context(), eve, h.request(m[0], "").ID, resource.View{}); err == nil {
			continue
		}
		switch m[1] {
		case "models":
			h.must(m[0], `{"properties":{"modelUri":"azureml://datastores/workspaceblobstore/paths/models/m","modelType":"mlflow_model"}}`)
		case "environments":
			h.must(m[0], `{"properties":{"image":"x","inferenceConfig":{"scoringRoute":{"path":"/score","port":5001}}}}`)
		}
	}
}

// textAt is a member of the properties.
func textAt(body, field string) string {
	d, err := resource.ParseDocument(json.RawMessage(body))
	if err != nil {
		return ""
	}
	return d.Object("properties").Text(field)
}
