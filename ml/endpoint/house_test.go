package endpoint_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
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
	"lapis/ml/compute"
	"lapis/ml/connection"
	"lapis/ml/data"
	"lapis/ml/endpoint"
	"lapis/ml/environment"
	"lapis/ml/model"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/secret"
	"lapis/resource/storetest"
)

const main = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main"

var eve = identity.Principal{ID: "1", Name: "eve", Kind: identity.User}

// house is the road with the nouns of serving on it, and a Deployer that does
// what the test says.
type house struct {
	t        testing.TB
	store    *sqldb.Resources
	blobs    blob.Store
	service  *endpoint.Service
	issuer   *identity.Issuer
	deployer *deployer
	manager  *manager.Manager

	operations []string // of actions
}

// deployer brings deployments up at once, unless its gate is set.
type deployer struct {
	mu        sync.Mutex
	store     resource.Store
	gate      chan struct{} // Deploy waits for it
	err       error         // of Deploy
	routed    int
	withdrawn []string
}

func (d *deployer) Deploy(ctx context.Context, r resource.Resource) (json.RawMessage, error) {
	d.mu.Lock()
	gate, err := d.gate, d.err
	d.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	_, err = d.store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: r.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		return resource.Overlay(stored, json.RawMessage(`{"live":{"generation":"g1","spec":{"runtime":"python","scoringPath":"/score"}},"capacity":1}`)), nil
	}}}})
	return nil, err
}

func (d *deployer) Withdraw(_ context.Context, r resource.Resource) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.withdrawn = append(d.withdrawn, r.ID.Name())
	return nil
}

func (d *deployer) Route(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.routed++
	return nil
}

func (d *deployer) Logs(_ context.Context, r resource.Resource, container string, lines int) (string, error) {
	return fmt.Sprintf("%s %s %d\n", r.ID.Name(), container, lines), nil
}

func (d *deployer) set(gate chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gate, d.err = gate, err
}

var signing = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newHouse(t testing.TB) *house {
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: sqldb.NewResources(db)}
	blobs, err := disk.New(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	h.blobs = blobs
	sealer, err := secret.NewSealer(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	h.issuer = identity.NewIssuer(identity.IssuerConfig{Key: signing(), Tenant: "t", Trusted: func(string) bool { return true }})
	h.deployer = &deployer{store: h.store}
	h.service = &endpoint.Service{Resources: h.store, Sealer: sealer, Issuer: h.issuer, Tenant: "t", Deployer: h.deployer,
		Base: func(string) string { return "http://localhost:7444" }, Now: time.Now}
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(),
		(&workspace.Service{Resources: h.store, Blobs: blobs}).Type(),
		data.Datastores(h.store, blobs, nil, nil, time.Now), connection.Connections(h.store, sealer)}
	types = append(types, compute.Types(h.store)...)
	types = append(types, h.service.Types()...)
	for _, k := range []asset.Kind{data.Assets(h.store), environment.Environments(), asset.Code(h.store, blobs, nil, time.Now), model.Models(h.store, blobs)} {
		types = append(types, k.Types(h.store)...)
	}
	h.manager = manager.New(resource.NewTypes(types...), h.store, rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { h.manager.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		loop.Wait()
		db.Close()
	})
	h.must("/subscriptions/s", `{}`)
	h.must("/subscriptions/s/resourceGroups/g", `{"location":"local"}`)
	for _, w := range []string{main, main + "2"} {
		h.must(w, `{"location":"local"}`)
	}
	for _, w := range []string{main, main + "2"} {
		h.must(w+"/environments/e/versions/1", `{"properties":{"image":"python"}}`)
	}
	h.must(main+"/environments/own/versions/1", `{"properties":{"image":"python","inferenceConfig":{"livenessRoute":{"path":"/live","port":8000},"readinessRoute":{"path":"/ready","port":8000},"scoringRoute":{"path":"/predict","port":8000}}}}`)
	h.must(main+"/codes/c/versions/1", `{"properties":{"codeUri":"https://a/b"}}`)
	h.upload("models/m/model.onnx")
	h.must(main+"/models/m/versions/1", `{"properties":{"modelUri":"azureml://datastores/workspaceblobstore/paths/models/m","modelType":"custom_model"}}`)
	h.must(main+"/computes/cpu", `{"location":"local","properties":{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS1_V2"}}}`)
	h.must(main+"/computes/k8s", `{"location":"local","properties":{"computeType":"Kubernetes"}}`)
	h.must(main+"/connections/con", `{"properties":{"authType":"ApiKey","category":"ApiKey","target":"https://x","credentials":{"key":"k"}}}`)
	return h
}

// upload puts a blob into the default datastore.
func (h *house) upload(key string) {
	h.t.Helper()
	site, err := ml.SiteOf(h.t.Context(), h.store, storetest.ID(h.t, main))
	if err == nil {
		_, err = h.blobs.Put(h.t.Context(), site.Blobs(), key, bytes.NewReader([]byte("x")), 1, blob.Attributes{}, blob.Condition{})
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) request(id, body string) manager.Request {
	return manager.Request{ID: storetest.ID(h.t, "%s", id), Caller: eve, Body: json.RawMessage(body), View: resource.View{Origin: "https://o"}}
}

// must puts a resource and waits until it is done.
func (h *house) must(id, body string) resource.Resource {
	h.t.Helper()
	r, err := h.manager.Put(h.t.Context(), h.request(id, body))
	if err != nil {
		h.t.Fatalf("PUT %s: %v", id, err)
	}
	if err := h.ended(r); err != nil {
		h.t.Fatalf("PUT %s: %v", id, err)
	}
	return h.get(id)
}

func (h *house) patch(id, body string) error {
	r, err := h.manager.Patch(h.t.Context(), h.request(id, body))
	if err != nil {
		return err
	}
	return h.ended(r)
}

func (h *house) put(id, body string) error {
	r, err := h.manager.Put(h.t.Context(), h.request(id, body))
	if err != nil {
		return err
	}
	return h.ended(r)
}

func (h *house) delete(id string) error {
	r, err := h.manager.Delete(h.t.Context(), h.request(id, ""))
	if err != nil {
		return err
	}
	return h.ended(r)
}

func (h *house) act(id, action, body string) (map[string]any, error) {
	req := h.request(id, body)
	req.Action = action
	r, err := h.manager.Act(h.t.Context(), req)
	if err != nil {
		return nil, err
	}
	if r.Operation != "" {
		h.operations = append(h.operations, r.Operation)
	}
	if err := h.ended(r); err != nil {
		return nil, err
	}
	raw, _ := json.Marshal(r.Body)
	m := map[string]any{}
	return m, json.Unmarshal(raw, &m)
}

// ended waits for the end of the operation.
func (h *house) ended(r manager.Reply) error {
	h.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for r.Operation != "" {
		op, err := h.store.Operation(h.t.Context(), r.Operation)
		if err != nil {
			h.t.Fatal(err)
		}
		if op.Done() {
			if op.State == resource.Failed {
				return fault.New(fault.Conflict, op.Code, "%s", op.Message)
			}
			break
		}
		if time.Now().After(deadline) {
			h.t.Fatal("the operation does not end")
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func (h *house) get(id string) resource.Resource {
	h.t.Helper()
	r, err := h.manager.Get(h.t.Context(), eve, storetest.ID(h.t, "%s", id), resource.View{Origin: "https://o"})
	if err != nil {
		h.t.Fatalf("GET %s: %v", id, err)
	}
	return r
}

// shown is what a reader finds in the properties of a resource.
func (h *house) shown(id string) map[string]any {
	h.t.Helper()
	r := h.get(id)
	m := map[string]any{}
	if err := json.Unmarshal(resource.Overlay(r.Properties, r.Status), &m); err != nil {
		h.t.Fatal(err)
	}
	return m
}

// refused checks that the error is the client's, of that kind, and says so.
func refused(t testing.TB, err error, kind fault.Kind, text string) {
	t.Helper()
	f := fault.Find(err)
	if f == nil || f.Kind != kind || !strings.Contains(f.Message, text) {
		t.Errorf("got %v (%+v); wanted a refusal of kind %d with %q", err, f, kind, text)
	}
}
