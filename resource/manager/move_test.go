package manager_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/manager"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

// newFamily is a house whose things have parts.
func newFamily(t *testing.T, parts *resource.Type) *house {
	h := newHouse(t, &resource.Type{})
	parts.Name, parts.Title = "Microsoft.X/spaces/things/parts", "part"
	h.manager = manager.New(resource.NewTypes(scope.Subscriptions(), scope.Groups(), &resource.Type{Name: "Microsoft.X/spaces", Title: "space"}, h.things, parts),
		h.store, h.road, h.road, slog.New(slog.DiscardHandler))
	for _, name := range []string{"a", "a/parts/1", "a/parts/2", "ab", "ab/parts/1", "c"} {
		h.must(h.manager.Put(t.Context(), h.thing(name, fmt.Sprintf(`{"properties":{"name":%q}}`, name))))
	}
	h.road.taken()
	return h
}

func (h *house) names() string {
	h.t.Helper()
	var names []string
	for _, kind := range []string{"Microsoft.X/spaces/things", "Microsoft.X/spaces/things/parts"} {
		page, err := h.store.List(h.t.Context(), resource.Query{Type: kind, Scope: storetest.ID(h.t, space)})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, r := range page.Resources {
			names = append(names, strings.TrimPrefix(r.ID.String(), space+"/things/"))
		}
	}
	return strings.Join(names, " ")
}

func TestAMoveTakesAllBelowAndTheWholeRoad(t *testing.T) {
	h := newFamily(t, &resource.Type{})
	to := storetest.ID(t, "%s/things/b", space)
	old, err := h.manager.Get(t.Context(), eve, storetest.ID(t, "%s/things/a/parts/2", space), resource.View{})
	if err != nil {
		t.Fatal(err)
	}
	h.road.taken()
	reply := h.must(h.manager.Move(t.Context(), h.thing("a", ""), to))
	if got, want := h.road.taken(), "may eve /things/delete, may eve /things/write, policy"; got != want {
		t.Errorf("the road was %s, want %s", got, want)
	}
	if got, want := h.names(), "ab b c ab/parts/1 b/parts/1 b/parts/2"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	if reply.Resource.ID.String() != to.String() {
		t.Errorf("the reply speaks of %s", reply.Resource.ID)
	}
	part, err := h.manager.Get(t.Context(), eve, storetest.ID(t, "%s/things/b/parts/2", space), resource.View{})
	if err != nil || string(part.Properties) != string(old.Properties) || !part.Created.At.Equal(old.Created.At) {
		t.Errorf("%v: %s made at %v, was %s made at %v", err, part.Properties, part.Created.At, old.Properties, old.Created.At)
	}
	entries, err := h.store.Activities(t.Context(), storetest.ID(t, "%s/things/a", space), part.Updated.At.AddDate(1, 0, 0), 1)
	if err != nil || len(entries) != 1 || entries[0].Action != "Microsoft.X/spaces/things/move" {
		t.Errorf("%v: logged %+v", err, entries)
	}
}

func TestARefusedMoveLeavesAllWhereItWas(t *testing.T) {
	h := newFamily(t, &resource.Type{})
	was := h.names()
	for _, c := range []struct {
		name, from, to string
		kind           fault.Kind
		deny           string
	}{
		{"to a name that is taken", "a", "things/c", fault.Conflict, ""},
		{"to what it is called already, in another case", "a", "things/A", fault.Conflict, ""},
		{"of what is not there", "nothing", "things/x", fault.Missing, ""},
		{"below itself", "a", "things/a/parts/3", fault.BadRequest, ""},
		{"by one who may not delete", "a", "things/x", fault.Forbidden, "Microsoft.X/spaces/things/delete"},
		{"by one who may not write", "a", "things/x", fault.Forbidden, "Microsoft.X/spaces/things/write"},
	} {
		h.road.deny = c.deny
		_, err := h.manager.Move(t.Context(), h.thing(c.from, ""), storetest.ID(t, "%s/%s", space, c.to))
		if !fault.Is(err, c.kind) {
			t.Errorf("a move %s: %v", c.name, err)
		}
		if got := h.names(); got != was {
			t.Errorf("a move %s left %s", c.name, got)
		}
	}
}

func TestWhatHasSomethingOutsideIsNotMoved(t *testing.T) {
	h := newFamily(t, &resource.Type{Release: func(context.Context, resource.Resource) error { return nil }})
	_, err := h.manager.Move(t.Context(), h.thing("a", ""), storetest.ID(t, "%s/things/b", space))
	if !fault.Is(err, fault.NotAllowed) {
		t.Errorf("%v", err)
	}
}

func TestWhatIsAddedBelowDuringAMoveIsNotLost(t *testing.T) {
	// A part counts itself in the status of its thing, as versions do.
	n := 0
	parts := &resource.Type{}
	parts.Admit = func(_ context.Context, c *resource.Change) error {
		n++
		status := json.RawMessage(fmt.Sprintf(`{"parts":%d}`, n))
		c.Batch.Statuses = append(c.Batch.Statuses, resource.StatusWrite{ID: c.New.ID.Parent(), Status: status})
		return nil
	}
	h := newFamily(t, parts)
	added := false
	h.manager = manager.New(h.manager.Types(), addsLate{h.store, func() {
		if added {
			return
		}
		added = true
		if _, err := h.manager.Put(t.Context(), h.thing("a/parts/3", `{"properties":{}}`)); err != nil {
			t.Error(err)
		}
	}}, h.road, nil, slog.New(slog.DiscardHandler))
	h.must(h.manager.Move(t.Context(), h.thing("a", ""), storetest.ID(t, "%s/things/b", space)))
	if got, want := h.names(), "ab b c ab/parts/1 b/parts/1 b/parts/2 b/parts/3"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
}

// addsLate calls add just before the commit of a removal.
type addsLate struct {
	resource.Store
	add func()
}

func (s addsLate) Commit(ctx context.Context, b resource.Batch) (int64, error) {
	if len(b.Removals) > 0 {
		s.add()
	}
	return s.Store.Commit(ctx, b)
}
