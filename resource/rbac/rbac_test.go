package rbac

import (
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
)

func TestWhatEachMayDo(t *testing.T) {
	const (
		group = "/subscriptions/s/resourceGroups/g"
		ml    = "Microsoft.MachineLearningServices/workspaces"
		main  = group + "/providers/" + ml + "/main"
	)
	user := identity.Principal{ID: "1", Name: "eve", Kind: identity.User}
	service := identity.Principal{ID: "2", Name: "ci", Kind: identity.ServicePrincipal}
	job := identity.Principal{ID: "3", Name: "job j", Kind: identity.Job, Workspace: main, Job: "j"}
	for _, c := range []struct {
		who    identity.Principal
		action string
		id     string
		want   bool
	}{
		{user, ml + "/delete", main, true},
		{service, ml + "/computes/write", main + "/computes/c", true},

		{job, ml + "/read", main, true},
		{job, ml + "/jobs/read", strings.ToUpper(main) + "/jobs/j", true},
		{job, "Microsoft.Resources/subscriptions/read", "/subscriptions/s", true},
		{job, "Microsoft.Resources/subscriptions/resourceGroups/read", group, true},
		{job, ml + "/models/versions/write", main + "/models/m/versions/1", true},
		{job, ml + "/data/versions/write", main + "/data/d/versions/1", true},
		{job, ml + "/datastores/listSecrets/action", main + "/datastores/d", true},
		{job, ml + "/jobs/write", main + "/jobs/k", true},

		{job, ml + "/write", main, false},
		{job, ml + "/delete", main, false},
		{job, ml + "/listKeys/action", main, false},
		{job, ml + "/computes/write", main + "/computes/c", false},
		{job, ml + "/computes/delete", main + "/computes/c", false},
		{job, ml + "/datastores/write", main + "/datastores/d", false},
		{job, ml + "/datastores/delete", main + "/datastores/d", false},
		{job, "Microsoft.Resources/subscriptions/resourceGroups/write", group, false},
		{job, "Microsoft.Resources/subscriptions/resourceGroups/delete", group, false},
		{job, ml + "/read", main + "2", false},
		{job, ml + "/jobs/read", main + "2/jobs/j", false},
		{job, ml + "/models/versions/write", main + "2/models/m/versions/1", false},
		{job, "Microsoft.Resources/subscriptions/read", "/subscriptions/s2", false},
		{job, "Microsoft.Resources/subscriptions/resourceGroups/read", group + "2", false},
	} {
		id, err := resource.ParseID(c.id)
		if err != nil {
			t.Fatal(err)
		}
		err = Checker{}.Check(t.Context(), c.who, c.action, id)
		if (err == nil) != c.want {
			t.Errorf("%s, %s over %s: %v", c.who.Name, c.action, c.id, err)
		}
		if err != nil && (!fault.Is(err, fault.Forbidden) || !strings.Contains(err.Error(), c.action) || !strings.Contains(err.Error(), c.id)) {
			t.Errorf("the refusal does not name what it is about: %v", err)
		}
	}
	id, _ := resource.ParseID(main)
	for _, nobody := range []identity.Principal{{}, {Kind: "Guest"}} {
		if err := (Checker{}).Check(t.Context(), nobody, ml+"/read", id); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%+v: %v", nobody, err)
		}
	}
	if err := (Checker{}).Check(t.Context(), identity.Principal{ID: "9", Kind: identity.Job}, ml+"/read", id); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a job of no workspace: %v", err)
	}
}
