package mlflowhttp_test

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"lapis/backend/courier"
	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/edge/blobhttp"
	"lapis/edge/mlflowhttp"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/evaluation"
	"lapis/ml/model"
	"lapis/ml/registry"
	"lapis/ml/trace"
	"lapis/ml/tracking"
	"lapis/ml/trash"
	"lapis/ml/webhook"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/secret"
)

const (
	group = "/subscriptions/5f1b7a2e-0000-4000-8000-000000000001/resourceGroups/g"
	main  = group + "/providers/" + ml.Workspaces + "/main"
)

var admin = identity.Principal{ID: "6f1b7a2e-0000-4000-8000-000000000002", Name: "admin", Kind: identity.User}

// serve starts a server with one workspace over a fresh database and folder.
func serve(t testing.TB) (url string, runs *sqldb.Tracking) {
	t.Helper()
	url, runs, _ = serveSite(t)
	return url, runs
}

// serveSite is serve that tells the workspace's GUID too. The authorities are
// those that the receivers of webhooks have their certificates from.
func serveSite(t testing.TB, authorities ...*x509.Certificate) (address string, runs *sqldb.Tracking, guid string) {
	t.Helper()
	dir := t.TempDir()
	roots := x509.NewCertPool()
	for _, a := range authorities {
		roots.AddCert(a)
	}
	post := courier.New(courier.Config{Private: true, Roots: roots})
	sealer, err := secret.NewSealer(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqldb.Open(filepath.Join(dir, "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if runs, err = sqldb.NewTracking(db); err != nil {
		t.Fatal(err)
	}
	blobs, err := disk.New(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	resources := sqldb.NewResources(db)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(),
		(&workspace.Service{Resources: resources, Blobs: blobs}).Type()}
	types = append(types, model.Models(resources, blobs).Types(resources)...)
	types = append(types, webhook.Webhooks(sealer, post))
	m := manager.New(resource.NewTypes(types...), resources, rbac.Checker{}, nil, log)
	ctx, cancel := context.WithCancel(context.Background())
	hooks := webhook.New(webhook.Config{Manager: m, Store: resources, Outbox: sqldb.NewOutbox(db), Sealer: sealer, Courier: post})
	loops := make(chan error, 3)
	go func() { loops <- hooks.Run(ctx) }()
	go func() { loops <- runs.Fold(ctx) }()
	go func() { loops <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 3 {
			if err := <-loops; err != nil {
				t.Error(err)
			}
		}
	})
	for _, r := range []struct{ id, body string }{
		{group[:len("/subscriptions/")+36], `{"properties":{}}`},
		{group, `{"location":"local"}`},
		{main, `{"location":"local","properties":{}}`},
	} {
		if _, err := m.Put(t.Context(), manager.Request{ID: mustID(t, r.id), Caller: admin, Body: []byte(r.body)}); err != nil {
			t.Fatal(err)
		}
	}
	site, err := ml.SiteOf(t.Context(), resources, mustID(t, main))
	for i := 0; err != nil && i < 100; i++ {
		time.Sleep(20 * time.Millisecond) // the workspace is made by the operations loop
		site, err = ml.SiteOf(t.Context(), resources, mustID(t, main))
	}
	if err != nil {
		t.Fatal(err)
	}
	service := tracking.New(runs)
	catalog := workspace.NewCatalog(m, service, mustID(t, main))
	sas := identity.NewSAS([]byte("a key of the tests"))
	mux := http.NewServeMux()
	mux.Handle("/blob/", blobhttp.New(blobs, sas, blobhttp.Config{Log: log}))
	mux.Handle("/", mlflowhttp.New(mlflowhttp.Config{
		Tracking: service, Registry: registry.New(m, service, hooks), Traces: trace.New(sqldb.NewTraces(db), service),
		Evaluation: evaluation.New(sqldb.NewEvaluation(db), service), Webhooks: hooks, Workspaces: catalog, Resources: resources, Blobs: blobs,
		Trash:   &trash.Trash{Runs: runs, Blobs: blobs, Resources: resources, Keep: time.Hour, Log: log, Now: time.Now},
		Resolve: func(r *http.Request) (ml.Site, string, error) { return site, r.URL.Path, nil },
		Authenticate: func(next http.Handler, _ func(http.ResponseWriter, *http.Request, error)) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				next.ServeHTTP(w, r.WithContext(identity.With(r.Context(), admin)))
			})
		},
		Access: rbac.Checker{}, Log: log,
		Link: func(r *http.Request, c blob.Container, key, permissions string, lasting time.Duration) string {
			u := url.URL{Scheme: "http", Host: r.Host, Path: "/blob/" + c.Account + "/" + c.Name + "/" + key, RawQuery: sas.Sign(identity.Grant{
				Account: c.Account, Container: c.Name, Prefix: key, Blob: true, Permissions: permissions, Expires: time.Now().Add(lasting)})}
			return u.String()
		},
	}))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, runs, site.GUID
}

func mustID(t testing.TB, text string) resource.ID {
	t.Helper()
	id, err := resource.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
