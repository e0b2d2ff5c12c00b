package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"lapis/fault"
)

func TestIDs(t *testing.T) {
	const ws = "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.ML/workspaces/W"
	for _, c := range []struct {
		text, kind, name, parent, parentKind string
	}{
		{"/subscriptions/S", SubscriptionType, "S", "", ""},
		{"/subscriptions/S/resourceGroups/Rg", GroupType, "Rg", "/subscriptions/S", SubscriptionType},
		{ws, "Microsoft.ML/workspaces", "W", "/subscriptions/S/resourceGroups/Rg", GroupType},
		{ws + "/jobs/j", "Microsoft.ML/workspaces/jobs", "j", ws, "Microsoft.ML/workspaces"},
		{ws + "/jobs/a b(1)é", "Microsoft.ML/workspaces/jobs", "a b(1)é", ws, "Microsoft.ML/workspaces"},
		{ws + "/environments/e/versions/1.0", "Microsoft.ML/workspaces/environments/versions", "1.0", ws + "/environments/e", "Microsoft.ML/workspaces/environments"},
		{ws + "/providers/Microsoft.Authorization/locks/l", "Microsoft.Authorization/locks", "l", ws, "Microsoft.ML/workspaces"},
		{"/subscriptions/S/providers/Microsoft.ML/locations/local/operationStatuses/1", "Microsoft.ML/locations/operationStatuses", "1",
			"/subscriptions/S/providers/Microsoft.ML/locations/local", "Microsoft.ML/locations"},
		{"/providers/Microsoft.Management/managementGroups/m", "Microsoft.Management/managementGroups", "m", "", ""},
		// Names that are words of the grammar.
		{"/subscriptions/subscriptions/resourceGroups/resourceGroups", GroupType, "resourceGroups", "/subscriptions/subscriptions", SubscriptionType},
		{ws + "/jobs/jobs", "Microsoft.ML/workspaces/jobs", "jobs", ws, "Microsoft.ML/workspaces"},
	} {
		id, err := ParseID(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if id.String() != c.text || id.Type() != c.kind || id.Name() != c.name || id.Parent().String() != c.parent || id.Parent().Type() != c.parentKind {
			t.Errorf("%s: type %s, name %s, parent %s of type %s", id, id.Type(), id.Name(), id.Parent(), id.Parent().Type())
		}
		if up, err := ParseID(strings.ToUpper(c.text)); err != nil || !up.Same(id) || !up.Is(c.kind) {
			t.Errorf("in upper case %s is another: %v", c.text, err)
		}
	}
}

func TestTheWordsOfTheTreeAreWrittenOneWay(t *testing.T) {
	id, err := ParseID("/SUBSCRIPTIONS/S/resourcegroups/Rg/PROVIDERS/Microsoft.ml/WorkSpaces/W")
	if want := "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.ml/WorkSpaces/W"; err != nil || id.String() != want {
		t.Errorf("%s, %v", id, err)
	}
}

func TestWhatIsNoIDIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "/", "x", "/subscriptions", "/resourceGroups/g", "/workspaces/w", "/subscriptions//resourceGroups/g", "/subscriptions/s/resourceGroups",
		"/subscriptions/../x", "/subscriptions/.", "/subscriptions/%2e%2e", "/subscriptions/a%2Fb", "/subscriptions/%zz", "/subscriptions/a%00",
		"/subscriptions/a\\b", "/subscriptions/a\x7f", "/subscriptions/%25", "/subscriptions/a%2541", "/subscriptions/\xff",
		"/subscriptions/" + strings.Repeat("n", 261), "/subscriptions/s" + strings.Repeat("/a/b", 600),
	} {
		id, err := ParseID(text)
		if !fault.Is(err, fault.BadRequest) || !id.Zero() {
			t.Errorf("%q: %q, %v", text, id, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct{ path, scope, tail, kind string }{
		{"/subscriptions", "", "subscriptions", SubscriptionType},
		{"/subscriptions/", "", "subscriptions", SubscriptionType},
		{"/subscriptions/s/resourceGroups", "/subscriptions/s", "resourceGroups", GroupType},
		{"/subscriptions/s/resourceGroups/g/providers/M.X/spaces", "/subscriptions/s/resourceGroups/g", "M.X/spaces", "M.X/spaces"},
		{"/subscriptions/s/providers/M.X/spaces", "/subscriptions/s", "M.X/spaces", "M.X/spaces"},
		{"/subscriptions/s/resourceGroups/g/providers/M.X/spaces/a/things", "/subscriptions/s/resourceGroups/g/providers/M.X/spaces/a", "things", "M.X/spaces/things"},
		{"/subscriptions/s/resourceGroups/g/providers/M.X/spaces/a/things/b/stop", "/subscriptions/s/resourceGroups/g/providers/M.X/spaces/a/things/b", "stop", "M.X/spaces/things/stop"},
		{"/providers/M.X/operations", "", "M.X/operations", "M.X/operations"},
		{"//subscriptions/s", "/subscriptions/s", "", ""},
		{"/subscriptions/a%20b", "/subscriptions/a b", "", ""},
	} {
		a, err := ParseAddress(c.path)
		if err != nil || a.Scope.String() != c.scope || a.Tail != c.tail || a.Type() != c.kind {
			t.Errorf("%s: scope %q, tail %q, type %q, %v", c.path, a.Scope, a.Tail, a.Type(), err)
		}
	}
}

func TestPartsOfAnID(t *testing.T) {
	id, err := ParseID("/subscriptions/S/resourceGroups/G/providers/M.X/spaces/a/things/b")
	if err != nil {
		t.Fatal(err)
	}
	if id.Subscription() != "S" || id.Group() != "G" || id.Segment("SPACES") != "a" || id.Segment("nothing") != "" || id.Segment("S") != "" {
		t.Errorf("%q %q %q", id.Subscription(), id.Group(), id.Segment("SPACES"))
	}
	if got := id.Ancestor("m.x/SPACES").Name(); got != "a" {
		t.Errorf("ancestor %q", got)
	}
	if !id.Ancestor("M.X/others").Zero() || !id.Ancestor(id.Type()).Same(id) {
		t.Error("ancestors")
	}
	if got := id.Child("parts", "p").String(); got != id.String()+"/parts/p" {
		t.Error(got)
	}
	if got := id.Child("M.Y/locks", "l"); got.String() != id.String()+"/providers/M.Y/locks/l" || got.Type() != "M.Y/locks" {
		t.Error(got)
	}
	for _, name := range []string{"", "..", "a/b", "a/b/c", "a%41", "a\nb"} {
		if got := id.Child("parts", name); !got.Zero() {
			t.Errorf("%q became %s", name, got)
		}
	}
	raw, err := json.Marshal(map[string]ID{"id": id})
	var back map[string]ID
	if err != nil || json.Unmarshal(raw, &back) != nil || back["id"] != id {
		t.Errorf("%s, %v", raw, err)
	}
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"/subscriptions/s", "/subscriptions/s/resourceGroups/g/providers/M.X/spaces/a/things/b", "/providers/a/b/c", "%2541", "/subscriptions/ſ/x/İ",
		"/subscriptions/s/providers/a", "/subscriptions/s/providers/providers/providers/providers"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			if fault.Find(err) == nil {
				t.Fatalf("%q: %v is no fault", text, err)
			}
			return
		}
		a.Type()
		id := a.Scope
		if id.Zero() {
			return
		}
		again, err := ParseID(id.String())
		if err != nil || again != id {
			t.Fatalf("%q is %+v, read again %+v, %v", text, id, again, err)
		}
		if lower, err := ParseID(id.Key()); err == nil && lower.Key() != id.Key() {
			t.Fatalf("%q: the key %q of the key %q", text, lower.Key(), id.Key())
		}
		for steps := 0; !id.Zero(); steps++ {
			if steps > 1100 {
				t.Fatalf("%q has no top", text)
			}
			up := id.Parent()
			if !up.Zero() && !strings.HasPrefix(id.Key(), up.Key()+"/") {
				t.Fatalf("%s lies in %s", id, up)
			}
			id = up
		}
	})
}
