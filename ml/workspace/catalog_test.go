package workspace_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

func TestMLflowsWorkspacesStayOnWhateverOthersWrite(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/g"
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	blobs, err := disk.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	runs, err := sqldb.NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	store := sqldb.NewResources(db)
	eve := identity.Principal{ID: "1", Name: "eve", Kind: identity.User}
	m := manager.New(resource.NewTypes(scope.Subscriptions(), scope.Groups(), (&workspace.Service{Resources: store, Blobs: blobs}).Type()),
		store, rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	put := func(id, body string) {
		t.Helper()
		if _, err := m.Put(t.Context(), manager.Request{ID: storetest.ID(t, "%s", id), Caller: eve, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	put("/subscriptions/s", `{}`)
	put(group, `{"location":"local"}`)
	first := group + "/providers/" + ml.Workspaces + "/main"
	put(first, `{"location":"local"}`)
	service := tracking.New(runs)
	catalog := workspace.NewCatalog(m, service, storetest.ID(t, "%s", first))
	ctx := identity.With(t.Context(), eve)
	enabled := func(c *workspace.Catalog) bool {
		t.Helper()
		on, err := c.Enabled(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return on
	}
	// A member that a client of Azure ML sends is not how they are turned on.
	put(first, `{"location":"local","properties":{"mlflow":{},"MLflow":{}}}`)
	if enabled(workspace.NewCatalog(m, service, storetest.ID(t, "%s", first))) {
		t.Error("turned on by a property")
	}
	root := "s3://bucket/a"
	if _, err := catalog.Create(ctx, "team-a", workspace.Change{Root: &root}); err != nil {
		t.Fatal(err)
	}
	put(group+"/providers/"+ml.Workspaces+"/team-a", `{"location":"local","properties":{"description":"theirs"}}`)
	again := workspace.NewCatalog(m, service, storetest.ID(t, "%s", first))
	e, err := again.Get(ctx, "team-a")
	if !enabled(again) || err != nil || e.Description != "theirs" || e.Root != root {
		t.Errorf("%v: on %t, %+v", err, enabled(again), e)
	}
}
