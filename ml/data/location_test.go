package data_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/ml/environment"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

const main = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main"

type house struct {
	t       *testing.T
	store   *sqldb.Resources
	blobs   blob.Store
	manager *manager.Manager
	site    ml.Site
}

// grants make links that tell what they allow.
type grants struct{}

func (grants) Container(origin string, c blob.Container, permissions string, until time.Time, who string) (plain, signed string) {
	plain = origin + "/blob/" + c.Account + "/" + c.Name
	return plain, plain + "?sp=" + permissions + "&who=" + who + "&until=" + until.UTC().Format(time.RFC3339)
}

// sealer marks what it seals.
type sealer struct{}

func (sealer) Seal(_, _ string, value []byte) []byte { return append([]byte("sealed "), value...) }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newHouse(t *testing.T) *house {
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := disk.New(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: sqldb.NewResources(db), blobs: blobs}
	now := func() time.Time { return noon }
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(),
		(&workspace.Service{Resources: h.store, Blobs: blobs}).Type(),
		data.Datastores(h.store, blobs, grants{}, sealer{}, now),
		{Name: ml.Workspaces + "/jobs", Title: "job"}}
	for _, k := range []asset.Kind{data.Assets(h.store), environment.Environments(), asset.Code(h.store, blobs, grants{}, now),
		{Segment: "models", Title: "model", Fixed: []string{"modelUri"}}} {
		types = append(types, k.Types(h.store)...)
	}
	h.manager = manager.New(resource.NewTypes(types...), h.store, rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	h.must("/subscriptions/s", `{}`)
	h.must("/subscriptions/s/resourceGroups/g", `{"location":"local"}`)
	h.must(main, `{"location":"local"}`)
	h.must(main+"2", `{"location":"local"}`)
	if h.site, err = ml.SiteOf(t.Context(), h.store, storetest.ID(t, main)); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) request(id, body string) manager.Request {
	return manager.Request{ID: storetest.ID(h.t, "%s", id), Caller: identity.Principal{ID: "1", Name: "eve", Kind: identity.User},
		Body: json.RawMessage(body), View: resource.View{Origin: "https://o"}}
}

func (h *house) put(id, body string) (manager.Reply, error) {
	return h.manager.Put(h.t.Context(), h.request(id, body))
}

func (h *house) must(id, body string) manager.Reply {
	h.t.Helper()
	r, err := h.put(id, body)
	if err != nil {
		h.t.Fatalf("PUT %s: %v", id, err)
	}
	return r
}

func (h *house) act(id, action, body string) (string, error) {
	req := h.request(id, body)
	req.Action = action
	r, err := h.manager.Act(h.t.Context(), req)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(r.Body)
	return string(raw), err
}

func TestLocate(t *testing.T) {
	h := newHouse(t)
	h.must(main+"/datastores/mine", `{"properties":{"datastoreType":"AzureBlob","accountName":"Acc1","containerName":"box"}}`)
	h.must(main+"/datastores/files", `{"properties":{"datastoreType":"AzureFile","accountName":"a","fileShareName":"f"}}`)
	h.must(main+"/data/d/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"azureml://datastores/mine/paths/old.csv"}}`)
	h.must(main+"/data/d/versions/2", `{"properties":{"dataType":"uri_folder","dataUri":"azureml://datastores/mine/paths/new/"}}`)
	h.must(main+"/data/web/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"https://example.org/x.csv"}}`)
	h.must(main+"/models/m/versions/1", `{"properties":{"modelType":"mlflow_model","modelUri":"azureml://datastores/mine/paths/model"}}`)
	h.must(main+"/jobs/j", `{"properties":{"outputs":{"o":{"uri":"azureml://datastores/mine/paths/out/"},"p":{}}}}`)
	mine, blobs, artifacts := blob.Container{Account: "acc1", Name: "box"}, h.site.Blobs(), h.site.Artifacts()
	long := "azureml://subscriptions/s/resourcegroups/g/workspaces/main/datastores/"
	for _, c := range []struct {
		uri  string
		at   blob.Container
		path string
		kind string
		url  string
	}{
		{uri: "azureml://datastores/mine/paths/a/b.csv", at: mine, path: "a/b.csv"},
		{uri: "azureml:datastores/mine/paths/a", at: mine, path: "a"},
		{uri: "azureml://datastores/MINE/paths/", at: mine},
		{uri: "azureml://datastores/mine/paths//a", at: mine, path: "a"},
		{uri: "azureml://datastores/workspaceblobstore/paths/LocalUpload/x/", at: blobs, path: "LocalUpload/x/"},
		{uri: "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.j/", at: artifacts, path: "ExperimentRun/dcid.j/"},
		{uri: long + "mine/paths/a b/ü.csv", at: mine, path: "a b/ü.csv"},
		{uri: strings.ToUpper(long[:10]) + long[10:] + "mine/paths/a", at: mine, path: "a"},
		{uri: "azureml://subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main/datastores/mine/paths/a", at: mine, path: "a"},
		{uri: "azureml:d:1", at: mine, path: "old.csv", kind: "uri_file"},
		{uri: "azureml:d:2", at: mine, path: "new/", kind: "uri_folder"},
		{uri: "azureml:d@latest", at: mine, path: "new/", kind: "uri_folder"},
		{uri: main + "/data/d/versions/1", at: mine, path: "old.csv", kind: "uri_file"},
		{uri: "azureml:" + main + "/data/d/versions/1", at: mine, path: "old.csv", kind: "uri_file"},
		{uri: strings.ToLower(main) + "/data/D/versions/1", at: mine, path: "old.csv", kind: "uri_file"},
		{uri: main + "/data/d/labels/latest", at: mine, path: "new/", kind: "uri_folder"},
		{uri: main + "/models/m/versions/1", at: mine, path: "model", kind: "mlflow_model"},
		{uri: "azureml://locations/local/workspaces/" + h.site.GUID + "/data/d/versions/1", at: mine, path: "old.csv", kind: "uri_file"},
		{uri: "azureml://locations/local/workspaces/" + h.site.GUID + "/models/m/versions/1", at: mine, path: "model", kind: "mlflow_model"},
		{uri: "azureml:web:1", url: "https://example.org/x.csv", kind: "uri_file"},
		{uri: "https://example.org/x.csv?a=b", url: "https://example.org/x.csv?a=b"},
		{uri: "azureml://jobs/j/outputs/o", at: mine, path: "out/"},
		{uri: "azureml://jobs/J/outputs/o/paths/sub/f", at: mine, path: "out/sub/f"},
		{uri: "azureml://jobs/j/outputs/p", at: blobs, path: "azureml/j/p/"},
		{uri: "azureml://jobs/j/outputs/artifacts/paths/model/", at: artifacts, path: "ExperimentRun/dcid.j/model/"},
		{uri: "azureml://jobs/j/outputs/default", at: artifacts, path: "ExperimentRun/dcid.j/"},
		{uri: "runs:/j/model", at: artifacts, path: "ExperimentRun/dcid.j/model"},
		{uri: "wasbs://box@acc1.blob.core.windows.net/a/b", at: mine, path: "a/b"},
		{uri: "wasbs://acc1.blob.core.windows.net/box/a/b", at: mine, path: "a/b"},
		{uri: "abfss://box@acc1.dfs.core.windows.net/a", at: mine, path: "a"},
		{uri: "https://acc1.blob.core.windows.net/box/a/b.csv?sv=1", at: mine, path: "a/b.csv"},
		{uri: "wasbs://" + blobs.Name + "@" + blobs.Account + ".blob.core.lapis/a/b", at: blobs, path: "a/b"},
		{uri: "abfss://" + blobs.Name + "@" + blobs.Account + ".dfs.core.windows.net/a/b/", at: blobs, path: "a/b/"},
		{uri: "wasbs://" + artifacts.Name + "@" + artifacts.Account + ".blob.core.windows.net/x", at: artifacts, path: "x"},
		{uri: "wasbs://open@public.blob.core.windows.net/a b/c.csv", url: "https://public.blob.core.windows.net/open/a%20b/c.csv"},
		{uri: "abfss://open@public.dfs.core.windows.net/a/", url: "https://public.blob.core.windows.net/open/a/"},
		{uri: "https://public.blob.core.windows.net/open/a.csv?sig=1", url: "https://public.blob.core.windows.net/open/a.csv?sig=1"},
		{uri: "https://localhost:7443/blob/acc1/box/a/b.csv", at: mine, path: "a/b.csv"},
		{uri: "https://acc1.blob.core.lapis@localhost:7443/box/a/b.csv", at: mine, path: "a/b.csv"},
	} {
		l, err := data.Locate(t.Context(), h.store, h.site.ID, c.uri)
		if err != nil || l.Container != c.at || l.Path != c.path || l.Type != c.kind || l.URL != c.url {
			t.Errorf("%s: %+v, %v", c.uri, l, err)
		}
	}
	for _, c := range []struct {
		uri  string
		kind fault.Kind
		word string
	}{
		{"", fault.BadRequest, ""},
		{"a.csv", fault.BadRequest, "a.csv"},
		{"/etc/passwd", fault.BadRequest, "/etc/passwd"},
		{"file:///etc/passwd", fault.BadRequest, "file:"},
		{"azureml:d", fault.BadRequest, "azureml:d"},
		{"azureml:none:1", fault.Missing, "none"},
		{"azureml:d:9", fault.Missing, "9"},
		{"azureml:d@production", fault.Missing, "production"},
		{"azureml://datastores/none/paths/a", fault.Missing, "none"},
		{"azureml://datastores/files/paths/a", fault.BadRequest, "AzureFile"},
		{"azureml://datastores/mine/paths/../a", fault.BadRequest, ".."},
		{"azureml://datastores/mine/paths/a/../../b", fault.BadRequest, ".."},
		{"azureml://datastores/mine/paths/..", fault.BadRequest, ".."},
		{"azureml://jobs/j/outputs/o/paths/../../x", fault.BadRequest, ".."},
		{"azureml://jobs/none/outputs/o", fault.Missing, "none"},
		{"azureml://jobs/j/outputs/none", fault.Missing, "none"},
		{"runs:/j/../../y", fault.BadRequest, ".."},
		{"wasbs://box@acc1.blob.core.windows.net/../x", fault.BadRequest, ".."},
		{"https://localhost:7443/blob/acc1/box/../other/x", fault.BadRequest, ".."},
		{main + "2/data/d/versions/1", fault.BadRequest, "main2"},
		{strings.Replace(long, "/main/", "/main2/", 1) + "mine/paths/a", fault.BadRequest, "main2"},
		{strings.Replace(long, "subscriptions/s/", "subscriptions/t/", 1) + "mine/paths/a", fault.BadRequest, "main"},
		{"azureml://locations/local/workspaces/00000000-0000-0000-0000-000000000000/data/d/versions/1", fault.BadRequest, "00000000"},
		{"azureml:d:1%2f..", fault.BadRequest, ""},
	} {
		l, err := data.Locate(t.Context(), h.store, h.site.ID, c.uri)
		f := fault.Find(err)
		if f == nil || f.Kind != c.kind || !strings.Contains(f.Message, c.word) {
			t.Errorf("%s: %+v, %v", c.uri, l, err)
		}
	}
}

func TestDataAssets(t *testing.T) {
	h := newHouse(t)
	for what, body := range map[string]string{
		"no type":          `{"dataUri":"https://x/y"}`,
		"a type of none":   `{"dataType":"csv","dataUri":"https://x/y"}`,
		"no place":         `{"dataType":"uri_file"}`,
		"a place of none":  `{"dataType":"uri_file","dataUri":"a.csv"}`,
		"tags of a list":   `{"dataType":"uri_file","dataUri":"https://x/y","tags":[1]}`,
		"archived by word": `{"dataType":"uri_file","dataUri":"https://x/y","isArchived":"yes"}`,
	} {
		if _, err := h.put(main+"/data/d/versions/1", `{"properties":`+body+`}`); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := h.put(main+"/data/bad name/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"https://x/y"}}`); !fault.Is(err, fault.BadRequest) {
		t.Errorf("a bad name: %v", err)
	}
	if page, err := h.store.List(t.Context(), resource.Query{Type: ml.Workspaces + "/data"}); err != nil || len(page.Resources) != 0 {
		t.Errorf("%d containers are left of what was refused, %v", len(page.Resources), err)
	}
}

func (h *house) counts(container string) string {
	h.t.Helper()
	r, err := h.store.Get(h.t.Context(), storetest.ID(h.t, "%s", main+container))
	if err != nil {
		h.t.Fatal(err)
	}
	var s struct{ LatestVersion, NextVersion string }
	if err := json.Unmarshal(r.Status, &s); err != nil {
		h.t.Fatal(err)
	}
	return s.LatestVersion + " " + s.NextVersion
}

func TestVersionsAreCounted(t *testing.T) {
	h := newHouse(t)
	const body = `{"properties":{"dataType":"uri_file","dataUri":"https://x/y"}}`
	for _, c := range []struct{ version, want string }{
		{"1", "1 2"}, {"2", "2 3"}, {"7", "7 8"}, {"5", "5 8"}, {"beta", "beta 8"}, {"8", "8 9"}, {"007", "007 9"}, {"99999999999999999999", "99999999999999999999 9"},
	} {
		h.must(main+"/data/d/versions/"+c.version, body)
		if got := h.counts("/data/d"); got != c.want {
			t.Errorf("after %s: latest and next are %s, want %s", c.version, got, c.want)
		}
	}
	// A new PUT of the container keeps the count, whatever the client sends back.
	h.must(main+"/data/d", `{"properties":{"isArchived":true,"latestVersion":"1","nextVersion":"1","tags":{"a":"b"}}}`)
	if got := h.counts("/data/d"); got != "99999999999999999999 9" {
		t.Error(got)
	}
	h.must(main+"/data/e", `{"properties":{}}`)
	h.must(main+"/data/e/versions/1", body)
	if got := h.counts("/data/e"); got != "1 2" {
		t.Error(got)
	}
}

func TestVersionsMadeAtOnceAllGetThrough(t *testing.T) {
	h := newHouse(t)
	const n = 16
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if _, err := h.put(fmt.Sprintf("%s/data/d/versions/%d", main, i+1), `{"properties":{"dataType":"uri_file","dataUri":"https://x/y"}}`); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	page, err := h.store.List(t.Context(), resource.Query{Type: ml.Workspaces + "/data/versions", Parent: storetest.ID(t, main+"/data/d")})
	if err != nil || len(page.Resources) != n {
		t.Errorf("%d versions, %v", len(page.Resources), err)
	}
	if got := h.counts("/data/d"); !strings.HasSuffix(got, fmt.Sprint(" ", n+1)) {
		t.Error(got)
	}
}

func TestWhatAVersionPointsToNeverChanges(t *testing.T) {
	h := newHouse(t)
	first := h.must(main+"/data/d/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"https://x/y","description":"a"}}`)
	if again := h.must(main+"/data/d/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"https://x/y","description":"a"}}`); again.Resource.Etag != first.Resource.Etag || again.Created {
		t.Errorf("the same again: %+v", again)
	}
	if r := h.must(main+"/data/d/versions/1", `{"properties":{"dataType":"uri_file","dataUri":"https://x/y","description":"b","tags":{"t":"1"},"isArchived":true}}`); !r.Resource.Archived {
		t.Errorf("%+v", r)
	}
	for _, body := range []string{`{"dataType":"uri_file","dataUri":"https://x/z"}`, `{"dataType":"uri_folder","dataUri":"https://x/y"}`} {
		_, err := h.put(main+"/data/d/versions/1", `{"properties":`+body+`}`)
		if f := fault.Find(err); f == nil || f.Kind != fault.BadRequest || f.Code != "UserError" || !strings.Contains(f.Message, "Asset paths cannot be updated") {
			t.Errorf("%s: %v", body, err)
		}
	}
	// Of an environment it is a conflict: the SDK then goes on to the next version.
	h.must(main+"/environments/e/versions/1", `{"properties":{"image":"a"}}`)
	h.must(main+"/environments/e/versions/1", `{"properties":{"image":"a","description":"d"}}`)
	if _, err := h.put(main+"/environments/e/versions/1", `{"properties":{"image":"b"}}`); !fault.Is(err, fault.Conflict) {
		t.Errorf("another image: %v", err)
	}
	if got := h.counts("/environments/e"); got != "1 2" {
		t.Error(got)
	}
}

func TestCodeIsFoundByItsHash(t *testing.T) {
	h := newHouse(t)
	body := func(hash string) string {
		return `{"properties":{"codeUri":"https://o/blob/acc/box","properties":{"hash_sha256":"` + hash + `","hash_version":"202208"}}}`
	}
	h.must(main+"/codes/c1/versions/1", body("ABC"))
	h.must(main+"/codes/c2/versions/1", body("def"))
	h.must(main+"2/codes/c3/versions/1", body("fff"))
	find := func(hash string) (names []string) {
		page, err := h.manager.List(t.Context(), identity.Principal{ID: "1", Kind: identity.User}, resource.Query{Type: ml.Workspaces + "/codes/versions", Parent: storetest.ID(t, main+"/codes/fresh-name")},
			resource.Options{"hash": hash}, resource.View{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Resources {
			names = append(names, r.ID.Parent().Name())
		}
		return names
	}
	if a, b, c := fmt.Sprint(find("abc")), fmt.Sprint(find("DEF")), fmt.Sprint(find("fff")); a != "[c1]" || b != "[c2]" || c != "[]" {
		t.Error(a, b, c)
	}
	if _, err := h.put(main+"/codes/c4/versions/1", `{"properties":{}}`); !fault.Is(err, fault.BadRequest) {
		t.Errorf("code without a place: %v", err)
	}
	got, err := h.act(main+"/codes/3f5e/versions/1", "startPendingUpload", `{}`)
	if err != nil || !strings.Contains(got, "sp=racwdl") || !strings.Contains(got, "2026-01-03T12:00:00Z") || !strings.Contains(got, "/blob/"+h.site.Account+"/3f5e") {
		t.Errorf("%s, %v", got, err)
	}
}

func TestDatastores(t *testing.T) {
	h := newHouse(t)
	for what, body := range map[string]string{
		"no type":           `{}`,
		"a type of none":    `{"datastoreType":"Floppy"}`,
		"no account":        `{"datastoreType":"AzureBlob","containerName":"c"}`,
		"no container":      `{"datastoreType":"AzureBlob","accountName":"a"}`,
		"a bad container":   `{"datastoreType":"AzureBlob","accountName":"acc","containerName":"../x"}`,
		"bad credentials":   `{"datastoreType":"AzureFile","accountName":"a","fileShareName":"f","credentials":{}}`,
		"a share that is 1": `{"datastoreType":"AzureFile","accountName":"a"}`,
	} {
		if _, err := h.put(main+"/datastores/d", `{"properties":`+body+`}`); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r := h.must(main+"/datastores/mine", `{"properties":{"datastoreType":"azureblob","accountName":"acc1","containerName":"box","credentials":{"credentialsType":"AccountKey","secrets":{"secretsType":"AccountKey","key":"TOPSECRET"}}}}`)
	if text := string(r.Resource.Properties); strings.Contains(text, "TOPSECRET") || !strings.Contains(text, `"datastoreType":"AzureBlob"`) {
		t.Error(text)
	}
	if sealed, err := h.store.Secret(t.Context(), r.Resource.ID, "key"); err != nil || string(sealed) != "sealed TOPSECRET" {
		t.Errorf("%q, %v", sealed, err)
	}
	if _, err := h.blobs.List(t.Context(), blob.Container{Account: "acc1", Name: "box"}, blob.Query{}); err != nil {
		t.Errorf("its container: %v", err)
	}
	got, err := h.act(main+"/datastores/mine", "listSecrets", `{"expirableSecret":true,"expireAfterHours":1}`)
	if err != nil || !strings.Contains(got, `"secretsType":"Sas"`) || !strings.Contains(got, "2026-01-02T13:00:00Z") || strings.Contains(got, "TOPSECRET") {
		t.Errorf("%s, %v", got, err)
	}
	for _, body := range []string{`{"expireAfterHours":0}`, `{"expireAfterHours":169}`, `{"expireAfterHours":"x"}`} {
		if _, err := h.act(main+"/datastores/mine", "listSecrets", body); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%s: %v", body, err)
		}
	}
	page, err := h.manager.List(t.Context(), identity.Principal{ID: "1", Kind: identity.User}, resource.Query{Type: data.DatastoreType, Parent: h.site.ID}, resource.Options{"isdefault": "true"}, resource.View{})
	if err != nil || len(page.Resources) != 1 || page.Resources[0].ID.Name() != ml.BlobStore {
		t.Errorf("%+v, %v", page, err)
	}
	if _, err := h.manager.Delete(t.Context(), h.request(main+"/datastores/"+ml.BlobStore, "")); !fault.Is(err, fault.Conflict) {
		t.Errorf("the default is deleted: %v", err)
	}
	if _, err := h.manager.Delete(t.Context(), h.request(main+"/datastores/mine", "")); err != nil {
		t.Error(err)
	}
	list, err := h.store.Activities(t.Context(), storetest.ID(t, main+"/datastores/mine"), time.Now().Add(time.Hour), 10)
	if err != nil || len(list) != 3 || list[0].Action != data.DatastoreType+"/delete" || list[1].Action != data.DatastoreType+"/listSecrets/action" || list[2].Action != data.DatastoreType+"/write" {
		t.Errorf("the log: %+v, %v", list, err)
	}
}
