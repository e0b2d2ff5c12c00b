package lock

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
)

type open struct{}

func (open) Check(context.Context, identity.Principal, string, resource.ID) error { return nil }

func TestLocksHoldForTheirScopeAndAllBelow(t *testing.T) {
	const group = "/subscriptions/s/resourceGroups/g"
	const workspace = group + "/providers/Microsoft.ML/workspaces/w"
	for _, c := range []struct {
		name, at, level, action, id string
		held                        bool
	}{
		{"deleting what is locked", workspace, CanNotDelete, "x/delete", workspace, true},
		{"deleting below it", group, CanNotDelete, "x/delete", workspace + "/jobs/j", true},
		{"deleting above it", workspace, CanNotDelete, "x/delete", group, true},
		{"in another case of letters", workspace, CanNotDelete, "x/delete", "/subscriptions/S/resourcegroups/G", true},
		{"deleting beside it", workspace, CanNotDelete, "x/delete", workspace + "2", false},
		{"writing where only deletion is locked", workspace, CanNotDelete, "x/write", workspace, false},
		{"writing what is read-only", workspace, ReadOnly, "x/write", workspace, true},
		{"writing below it", workspace, ReadOnly, "x/write", workspace + "/jobs/j", true},
		{"an action on it", workspace, ReadOnly, "x/listKeys/action", workspace, true},
		{"writing above it", workspace, ReadOnly, "x/write", group, false},
		{"deleting above it", workspace, ReadOnly, "x/delete", group, true},
		{"reading it", workspace, ReadOnly, "x/read", workspace, false},
		{"taking the lock away", workspace, ReadOnly, "x/delete", workspace + "/providers/" + TypeName + "/l", false},
	} {
		t.Run(c.level+" "+c.name, func(t *testing.T) {
			db, err := sqldb.Open(filepath.Join(t.TempDir(), "db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			store := sqldb.NewResources(db)
			put(t, store, c.at, c.level)
			id, err := resource.ParseID(c.id)
			if err != nil {
				t.Fatal(err)
			}
			err = Guard{Access: open{}, Store: store}.Check(t.Context(), identity.Principal{}, c.action, id)
			if held := fault.Is(err, fault.Conflict) && fault.Find(err).Code == "ScopeLocked"; held != c.held {
				t.Errorf("held: %v (%v), want %v", held, err, c.held)
			}
		})
	}
}

func put(t *testing.T, store resource.Store, at, level string) {
	t.Helper()
	id, err := resource.ParseID(at + "/providers/" + TypeName + "/l")
	if err != nil {
		t.Fatal(err)
	}
	props, _ := json.Marshal(map[string]string{"level": level})
	_, err = store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Expect: resource.Absent, Resource: resource.Resource{ID: id, Properties: props}}}})
	if err != nil {
		t.Fatal(err)
	}
}
