// Package storetest is the suite that every resource.Store passes.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// Store is a resource.Store that also gives back the secrets in it.
type Store interface {
	resource.Store
	Secret(ctx context.Context, owner resource.ID, name string) ([]byte, error)
}

// Subject is a fresh, empty store. Reopen closes it and opens it again, as a
// restart of the server does.
type Subject struct {
	Store  Store
	Reopen func() Store
}

// twice yields the store, and then what it is after a restart.
func (s *Subject) twice(yield func(Store) bool) {
	if yield(s.Store) {
		s.Store = s.Reopen()
		yield(s.Store)
	}
}

// Run tests the stores that make makes.
func Run(t *testing.T, make func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Subject)
	}{
		{"a resource comes back as it was stored", comesBack},
		{"ids match without regard to case and keep the case they were made in", ignoresCase},
		{"what is not there is missing", missing},
		{"a write goes through only if what it expects holds", expectations},
		{"a commit stands or falls as a whole", wholeCommits},
		{"a commit fails if what it relied on has changed", relies},
		{"a status leaves the user's half and its etag alone", statuses},
		{"status changes that happen at once are all kept", statusChanges},
		{"who made a resource is kept when it is replaced", createdKept},
		{"a commit that fails leaves its neighbours alone", neighbours},
		{"the etags of a resource are never the same again", etags},
		{"pages hold everything once, by name and newest first", paging},
		{"a page token that is none of the store's is refused", badTokens},
		{"parent is one level, scope is all levels, and siblings are neither", parentAndScope},
		{"lists choose by archive and lookup", filters},
		{"many are read at once", many},
		{"nobody reads what was before an acknowledged commit", fresh},
		{"a deep removal takes all below it and nothing beside it", deepRemoval},
		{"the feed tells what commits touched, in their order", feed},
		{"the feed never ends within a commit", wholeFeed},
		{"a commit wakes those who wait", notify},
		{"operations survive a restart until they end", operations},
		{"activities come newest first, of their scope", activities},
		{"secrets go with their owner", secrets},
		{"a row of a kind that nobody knows undoes the commit", unknownRow},
		{"the store behaves as a map of resources", likeAMap},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) { c.test(t, make(t)) })
	}
}

// ID parses an id.
func ID(t testing.TB, format string, args ...any) resource.ID {
	t.Helper()
	id, err := resource.ParseID(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const space = "/subscriptions/S1/resourceGroups/Rg/providers/Microsoft.X/spaces/main"

func thing(t testing.TB, name string) resource.Resource {
	return resource.Resource{ID: ID(t, "%s/things/%s", space, name), Properties: json.RawMessage(`{}`)}
}

func put(t testing.TB, s Store, r resource.Resource) resource.Resource {
	t.Helper()
	if _, err := s.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	return get(t, s, r.ID)
}

func get(t testing.TB, s Store, id resource.ID) resource.Resource {
	t.Helper()
	r, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func comesBack(t *testing.T, s Subject) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC)
	want := thing(t, "a")
	want.Location, want.Kind, want.Tags = "local", "odd", map[string]string{"a": "1", "é \"": ""}
	want.SKU, want.Identity = json.RawMessage(`{"name":"s"}`), json.RawMessage(`{"type":"None"}`)
	want.Properties, want.Status = json.RawMessage(`{"n":1.50,"deep":{"null":[null]},"z":"ü"}`), json.RawMessage(`{"provisioningState":"Creating"}`)
	want.Lookup, want.Archived = "hash", true
	want.Created, want.Updated = resource.Stamp{At: at, By: "eve", ByType: "User"}, resource.Stamp{At: at.Add(time.Hour), By: "bob", ByType: "Application"}
	put(t, s.Store, want)
	for store := range s.twice {
		got := get(t, store, want.ID)
		if got.Etag == "" || got.Born == 0 || got.Seq != got.Born {
			t.Errorf("etag %q, born %d, seq %d", got.Etag, got.Born, got.Seq)
		}
		want.Etag, want.Born, want.Seq = got.Etag, got.Born, got.Seq
		if a, b := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); a != b {
			t.Errorf("stored %s\nread   %s", a, b)
		}
	}
}

func ignoresCase(t *testing.T, s Subject) {
	first := put(t, s.Store, thing(t, "MixedCase"))
	other := ID(t, "%s", strings.ToUpper(first.ID.String()))
	if got := get(t, s.Store, other); got.ID.String() != first.ID.String() {
		t.Errorf("read as %s", got.ID)
	}
	r := thing(t, "MIXEDCASE")
	r.Kind = "second"
	if got := put(t, s.Store, r); got.ID.String() != first.ID.String() || got.Kind != "second" || got.Born != first.Born {
		t.Errorf("%s of kind %q born in %d; it should be the first, born in %d, replaced", got.ID, got.Kind, got.Born, first.Born)
	}
	for _, q := range []resource.Query{
		{Type: strings.ToUpper(first.ID.Type()), Parent: ID(t, "%s", strings.ToUpper(space))},
		{Type: strings.ToLower(first.ID.Type()), Scope: ID(t, "/SUBSCRIPTIONS/s1")},
	} {
		if page, err := s.Store.List(t.Context(), q); err != nil || len(page.Resources) != 1 {
			t.Errorf("%+v: %d found, %v", q, len(page.Resources), err)
		}
	}
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: other, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.Get(t.Context(), first.ID); !fault.Is(err, fault.Missing) {
		t.Errorf("after its removal by another case: %v", err)
	}
}

func missing(t *testing.T, s Subject) {
	id := thing(t, "nobody").ID
	if _, err := s.Store.Get(t.Context(), id); !fault.Is(err, fault.Missing) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Store.Operation(t.Context(), "nobody"); !fault.Is(err, fault.Missing) {
		t.Errorf("operation: %v", err)
	}
	for _, b := range []resource.Batch{
		{Removals: []resource.Removal{{ID: id, Expect: resource.Any, Deep: true}}},
		{Statuses: []resource.StatusWrite{{ID: id, Status: json.RawMessage(`{}`)}}},
		{Statuses: []resource.StatusWrite{{ID: id, Change: func(json.RawMessage) (json.RawMessage, error) { return nil, errors.New("called for nothing") }}}},
	} {
		if _, err := s.Store.Commit(t.Context(), b); err != nil {
			t.Errorf("%+v: %v; what is gone is passed over", b, err)
		}
	}
	if _, err := s.Store.Get(t.Context(), id); !fault.Is(err, fault.Missing) {
		t.Errorf("a status has made a resource: %v", err)
	}
}

func expectations(t *testing.T, s Subject) {
	r := thing(t, "a")
	try := func(name, expect string, want error) {
		t.Helper()
		_, err := s.Store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: expect}}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	try("an etag of what is not there", "x", resource.ErrChanged)
	try("absent, and it is", resource.Absent, nil)
	try("absent, and it is there", resource.Absent, resource.ErrChanged)
	first := get(t, s.Store, r.ID).Etag
	try("its etag", first, nil)
	try("its etag of before", first, resource.ErrChanged)
	try("anything", resource.Any, nil)
	remove := func(name, expect string, want error) {
		t.Helper()
		_, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: r.ID, Expect: expect}}})
		if !errors.Is(err, want) {
			t.Errorf("removal with %s: %v, want %v", name, err, want)
		}
	}
	remove("an old etag", first, resource.ErrChanged)
	remove("its etag", get(t, s.Store, r.ID).Etag, nil)
	remove("the etag of what is gone", first, resource.ErrChanged)
	remove("anything", resource.Any, nil)
}

func wholeCommits(t *testing.T, s Subject) {
	put(t, s.Store, thing(t, "taken"))
	before := get(t, s.Store, thing(t, "taken").ID)
	free := thing(t, "free")
	op := resource.Operation{ID: "op", Verb: "put", Resource: free.ID, State: resource.OperationRunning, Started: time.Now()}
	_, err := s.Store.Commit(t.Context(), resource.Batch{
		Puts:       []resource.Write{{Resource: free, Expect: resource.Absent}, {Resource: thing(t, "taken"), Expect: resource.Absent}},
		Statuses:   []resource.StatusWrite{{ID: before.ID, Status: json.RawMessage(`{"a":1}`)}},
		Operations: []resource.Operation{op},
		Activities: []resource.Activity{{At: time.Now(), Resource: free.ID, Action: "x"}},
		Rows:       []any{resource.Sealed{Owner: free.ID, Name: "n", Value: []byte("v")}},
	})
	if !errors.Is(err, resource.ErrChanged) {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Store.Get(t.Context(), free.ID); !fault.Is(err, fault.Missing) {
		t.Errorf("its resource is there: %v", err)
	}
	if got := get(t, s.Store, before.ID); got.Seq != before.Seq || len(got.Status) != 0 {
		t.Error("its status is there")
	}
	if _, err := s.Store.Operation(t.Context(), "op"); !fault.Is(err, fault.Missing) {
		t.Errorf("its operation is there: %v", err)
	}
	if list, _ := s.Store.Activities(t.Context(), resource.ID{}, time.Now().Add(time.Hour), 10); len(list) != 0 {
		t.Errorf("its activity is there: %v", list)
	}
	if v, _ := s.Store.Secret(t.Context(), free.ID, "n"); v != nil {
		t.Error("its secret is there")
	}
}

func relies(t *testing.T, s Subject) {
	base := put(t, s.Store, thing(t, "base"))
	try := func(name string, e resource.Expectation, want error) {
		t.Helper()
		r := thing(t, "r"+fmt.Sprint(len(name)))
		_, err := s.Store.Commit(t.Context(), resource.Batch{Relies: []resource.Expectation{e}, Puts: []resource.Write{{Resource: r, Expect: resource.Any}}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	try("on what is", resource.Expectation{ID: base.ID, Etag: base.Etag}, nil)
	try("on the absence of what is absent", resource.Expectation{ID: thing(t, "none").ID, Etag: resource.Absent}, nil)
	try("on the absence of what is there", resource.Expectation{ID: base.ID, Etag: resource.Absent}, resource.ErrChanged)
	try("on what is not there", resource.Expectation{ID: thing(t, "none").ID, Etag: base.Etag}, resource.ErrChanged)
	put(t, s.Store, thing(t, "base"))
	try("on what was", resource.Expectation{ID: base.ID, Etag: base.Etag}, resource.ErrChanged)
}

func statuses(t *testing.T, s Subject) {
	r := thing(t, "a")
	r.Properties = json.RawMessage(`{"mine":1}`)
	first := put(t, s.Store, r)
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Statuses: []resource.StatusWrite{{ID: r.ID, Status: json.RawMessage(`{"state":"Ready"}`)}}}); err != nil {
		t.Fatal(err)
	}
	got := get(t, s.Store, r.ID)
	if got.Etag != first.Etag || string(got.Properties) != `{"mine":1}` || string(got.Status) != `{"state":"Ready"}` {
		t.Errorf("etag %s (was %s), properties %s, status %s", got.Etag, first.Etag, got.Properties, got.Status)
	}
	if got.Seq <= first.Seq {
		t.Error("the feed does not tell of it")
	}
	// A user's write that keeps the status, beside a new resource that asks for the same.
	r.Properties, r.Status = json.RawMessage(`{"mine":2}`), json.RawMessage(`{"state":"old"}`)
	fresh := thing(t, "fresh")
	fresh.Status = json.RawMessage(`{"state":"new"}`)
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{
		{Resource: r, Expect: got.Etag, Keep: true}, {Resource: fresh, Expect: resource.Absent, Keep: true}}}); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s.Store, r.ID); string(got.Status) != `{"state":"Ready"}` || string(got.Properties) != `{"mine":2}` {
		t.Errorf("after a write that keeps it: %s, %s", got.Status, got.Properties)
	}
	if got := get(t, s.Store, fresh.ID); string(got.Status) != `{"state":"new"}` {
		t.Errorf("of a new one: %s", got.Status)
	}
	r.Status = nil
	if got := put(t, s.Store, r); got.Status != nil {
		t.Errorf("after a write that takes it away: %s", got.Status)
	}
}

func statusChanges(t *testing.T, s Subject) {
	r := put(t, s.Store, thing(t, "a"))
	const n = 50
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			_, err := s.Store.Commit(t.Context(), resource.Batch{Statuses: []resource.StatusWrite{{ID: r.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
				var n int
				if len(stored) > 0 {
					if err := json.Unmarshal(stored, &n); err != nil {
						return nil, err
					}
				}
				return json.Marshal(n + 1)
			}}}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if got := get(t, s.Store, r.ID); string(got.Status) != fmt.Sprint(n) || got.Etag != r.Etag {
		t.Errorf("counted to %s, want %d", got.Status, n)
	}
	sad := errors.New("no")
	_, err := s.Store.Commit(t.Context(), resource.Batch{
		Puts:     []resource.Write{{Resource: thing(t, "b"), Expect: resource.Absent}},
		Statuses: []resource.StatusWrite{{ID: r.ID, Change: func(json.RawMessage) (json.RawMessage, error) { return nil, sad }}}})
	if !errors.Is(err, sad) {
		t.Errorf("got %v, want the error of the change", err)
	}
	if _, err := s.Store.Get(t.Context(), thing(t, "b").ID); !fault.Is(err, fault.Missing) {
		t.Error("its error does not undo the commit")
	}
}

func createdKept(t *testing.T, s Subject) {
	r := thing(t, "a")
	r.Created = resource.Stamp{At: time.UnixMilli(1000).UTC(), By: "first", ByType: "User"}
	first := put(t, s.Store, r)
	r.Created, r.Updated = resource.Stamp{}, resource.Stamp{At: time.UnixMilli(2000).UTC(), By: "second", ByType: "User"}
	if got := put(t, s.Store, r); got.Created != first.Created || got.Updated.By != "second" || got.Born != first.Born {
		t.Errorf("created %+v in %d, updated %+v", got.Created, got.Born, got.Updated)
	}
}

func neighbours(t *testing.T, s Subject) {
	put(t, s.Store, thing(t, "taken"))
	var group sync.WaitGroup
	for i := range 90 {
		group.Go(func() {
			r, want := thing(t, fmt.Sprint("n", i)), error(nil)
			b := resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Absent}}}
			if i%3 == 0 {
				b.Puts = append(b.Puts, resource.Write{Resource: thing(t, "taken"), Expect: resource.Absent})
				want = resource.ErrChanged
			}
			if _, err := s.Store.Commit(t.Context(), b); !errors.Is(err, want) {
				t.Errorf("%d: %v, want %v", i, err, want)
			}
		})
	}
	group.Wait()
	page, err := s.Store.List(t.Context(), resource.Query{Type: "Microsoft.X/spaces/things"})
	if err != nil || len(page.Resources) != 61 {
		t.Errorf("%d resources, want the 60 of good commits and the one before; %v", len(page.Resources), err)
	}
}

func etags(t *testing.T, s Subject) {
	seen := map[string]bool{}
	for range 5 {
		r := put(t, s.Store, thing(t, "a"))
		if seen[r.Etag] {
			t.Fatalf("the etag %s comes twice", r.Etag)
		}
		seen[r.Etag] = true
		if _, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: r.ID, Expect: r.Etag}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func paging(t *testing.T, s Subject) {
	var made []string
	for i := range 23 {
		name := fmt.Sprintf("n%02d", (i*7)%23)
		made = append(made, name)
		b := resource.Batch{Puts: []resource.Write{{Resource: thing(t, name), Expect: resource.Absent}}}
		if i%5 == 4 { // two in one commit, so born at once
			twin := "t" + name
			made = append(made, twin)
			b.Puts = append(b.Puts, resource.Write{Resource: thing(t, twin), Expect: resource.Absent})
		}
		if _, err := s.Store.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	byName := slices.Sorted(slices.Values(made))
	for _, c := range []struct {
		q     resource.Query
		check func(got []string) bool
	}{
		{resource.Query{Parent: ID(t, space)}, func(got []string) bool { return slices.Equal(got, byName) }},
		{resource.Query{Scope: ID(t, "/subscriptions/s1")}, func(got []string) bool { return slices.Equal(got, byName) }},
		{resource.Query{}, func(got []string) bool { return slices.Equal(got, byName) }},
		{resource.Query{Parent: ID(t, space), Newest: true}, func(got []string) bool {
			return got[0] == made[len(made)-1] && got[len(got)-1] == made[0] && slices.Equal(slices.Sorted(slices.Values(got)), byName)
		}},
	} {
		for _, limit := range []int{1, 2, 7, len(made) - 1, len(made), len(made) + 1, 0} {
			q := c.q
			q.Type, q.Limit = "Microsoft.X/spaces/things", limit
			var got []string
			for {
				page, err := s.Store.List(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if limit > 0 && len(page.Resources) > limit {
					t.Fatalf("%d on a page of %d", len(page.Resources), limit)
				}
				for _, r := range page.Resources {
					got = append(got, r.ID.Name())
				}
				if page.Next == "" {
					break
				}
				if len(page.Resources) == 0 {
					t.Fatal("an empty page with a next one")
				}
				q.After = page.Next
			}
			if !c.check(got) {
				t.Errorf("%+v: %v", q, got)
			}
		}
	}
}

func badTokens(t *testing.T, s Subject) {
	for _, token := range []string{"x", "12", "x y", " ", "1' OR 1=1 --"} {
		_, err := s.Store.List(t.Context(), resource.Query{Type: "Microsoft.X/spaces/things", Newest: true, After: token})
		if !fault.Is(err, fault.BadRequest) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func parentAndScope(t *testing.T, s Subject) {
	for _, id := range []string{
		space + "/things/a", space + "/things/a/parts/p", space + "/boxes/b/things/inner",
		strings.Replace(space, "main", "main2", 1) + "/things/a",
		strings.Replace(space, "main", "main-x", 1) + "/things/a",
		"/subscriptions/S10/resourceGroups/Rg/providers/Microsoft.X/spaces/main/things/a",
	} {
		put(t, s.Store, resource.Resource{ID: ID(t, "%s", id), Properties: json.RawMessage(`{}`)})
	}
	for _, c := range []struct {
		q    resource.Query
		want int
	}{
		{resource.Query{Type: "Microsoft.X/spaces/things"}, 4},
		{resource.Query{Type: "Microsoft.X/spaces/things", Parent: ID(t, space)}, 1},
		{resource.Query{Type: "Microsoft.X/spaces/things", Parent: ID(t, space), Newest: true}, 1},
		{resource.Query{Type: "Microsoft.X/spaces/things", Scope: ID(t, space)}, 1},
		{resource.Query{Type: "Microsoft.X/spaces/things", Scope: ID(t, "/subscriptions/S1")}, 3},
		{resource.Query{Type: "Microsoft.X/spaces/things", Scope: ID(t, "/subscriptions/S1"), Newest: true}, 3},
		{resource.Query{Type: "Microsoft.X/spaces/things", Parent: ID(t, "/subscriptions/S1")}, 0},
		{resource.Query{Type: "Microsoft.X/spaces/things/parts", Scope: ID(t, space)}, 1},
		{resource.Query{Type: "Microsoft.X/spaces/things/parts", Parent: ID(t, space)}, 0},
		{resource.Query{Type: "Microsoft.X/spaces/boxes/things", Scope: ID(t, space)}, 1},
	} {
		if page, err := s.Store.List(t.Context(), c.q); err != nil || len(page.Resources) != c.want {
			t.Errorf("%+v: %d, want %d; %v", c.q, len(page.Resources), c.want, err)
		}
	}
}

func filters(t *testing.T, s Subject) {
	for i := range 12 {
		r := thing(t, fmt.Sprint("n", i))
		r.Archived = i%3 == 0
		if i%4 == 0 {
			r.Lookup = "even"
		}
		put(t, s.Store, r)
	}
	yes, no := true, false
	for _, c := range []struct {
		q    resource.Query
		want int
	}{
		{resource.Query{Archived: &yes}, 4}, {resource.Query{Archived: &no}, 8}, {resource.Query{}, 12},
		{resource.Query{Lookup: "even"}, 3}, {resource.Query{Lookup: "even", Archived: &yes}, 1}, {resource.Query{Lookup: "odd"}, 0},
		{resource.Query{Lookup: "even", Scope: ID(t, space)}, 3}, {resource.Query{Lookup: "even", Scope: ID(t, space+"2")}, 0},
	} {
		c.q.Type = "Microsoft.X/spaces/things"
		if page, err := s.Store.List(t.Context(), c.q); err != nil || len(page.Resources) != c.want {
			t.Errorf("%+v: %d, want %d; %v", c.q, len(page.Resources), c.want, err)
		}
	}
}

func many(t *testing.T, s Subject) {
	var ids []resource.ID
	b := resource.Batch{}
	for i := range 1200 {
		r := thing(t, fmt.Sprint("n", i))
		if ids = append(ids, r.ID); i%2 == 0 {
			b.Puts = append(b.Puts, resource.Write{Resource: r, Expect: resource.Absent})
		}
	}
	if _, err := s.Store.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	found, err := s.Store.GetMany(t.Context(), ids)
	if err != nil || len(found) != 600 {
		t.Fatalf("%d found, %v", len(found), err)
	}
	for i, id := range ids {
		if r, ok := found[id.Key()]; ok != (i%2 == 0) || ok && !r.ID.Same(id) {
			t.Fatalf("%s: found %v as %s", id, ok, r.ID)
		}
	}
	if found, err := s.Store.GetMany(t.Context(), nil); err != nil || len(found) != 0 {
		t.Errorf("of none: %v, %v", found, err)
	}
}

func fresh(t *testing.T, s Subject) {
	ctx := t.Context()
	var group sync.WaitGroup
	for n := range 2 {
		r := thing(t, fmt.Sprint("n", n))
		inner := resource.Resource{ID: r.ID.Child("parts", "p"), Properties: json.RawMessage(`{}`)}
		stop := make(chan struct{})
		for range 2 { // those who read all the time
			group.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						s.Store.Get(ctx, r.ID)
						s.Store.GetMany(ctx, []resource.ID{r.ID, inner.ID})
						time.Sleep(50 * time.Microsecond)
					}
				}
			})
		}
		group.Go(func() {
			defer close(stop)
			for i := range 30 {
				r.Properties = json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))
				seq, err := s.Store.Commit(ctx, resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Any}, {Resource: inner, Expect: resource.Any}}})
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := s.Store.Get(ctx, r.ID); err != nil || string(got.Properties) != string(r.Properties) || got.Etag != resource.Etag(seq) {
					t.Errorf("put %s with the etag %s, read %s with %s, %v", r.Properties, resource.Etag(seq), got.Properties, got.Etag, err)
				}
				status := fmt.Sprintf(`{"s":%d}`, i)
				if _, err := s.Store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: r.ID, Status: json.RawMessage(status)}}}); err != nil {
					t.Error(err)
				}
				if found, err := s.Store.GetMany(ctx, []resource.ID{r.ID}); err != nil || string(found[r.ID.Key()].Status) != status {
					t.Errorf("wrote the status %s, read %s, %v", status, found[r.ID.Key()].Status, err)
				}
				if i%5 == 0 {
					if _, err := s.Store.Commit(ctx, resource.Batch{Removals: []resource.Removal{{ID: r.ID, Expect: resource.Any, Deep: i%2 == 0}, {ID: inner.ID, Expect: resource.Any}}}); err != nil {
						t.Error(err)
					}
					for _, id := range []resource.ID{r.ID, inner.ID} {
						if _, err := s.Store.Get(ctx, id); !fault.Is(err, fault.Missing) {
							t.Errorf("%s was removed: %v", id, err)
						}
					}
				}
			}
		})
	}
	group.Wait()
}

func deepRemoval(t *testing.T, s Subject) {
	for _, id := range []string{
		space, space + "/things/a", space + "/things/a/parts/p",
		space + "2", space + "-x/things/a", space + ".y", space + "0/things/z",
	} {
		put(t, s.Store, resource.Resource{ID: ID(t, "%s", id), Properties: json.RawMessage(`{}`)})
	}
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: ID(t, "%s", strings.ToUpper(space)), Expect: resource.Any, Deep: true}}}); err != nil {
		t.Fatal(err)
	}
	for id, there := range map[string]bool{
		space: false, space + "/things/a": false, space + "/things/a/parts/p": false,
		space + "2": true, space + "-x/things/a": true, space + ".y": true, space + "0/things/z": true,
	} {
		if _, err := s.Store.Get(t.Context(), ID(t, "%s", id)); (err == nil) != there {
			t.Errorf("%s: %v", id, err)
		}
	}
	put(t, s.Store, thing(t, "a"))
	put(t, s.Store, resource.Resource{ID: ID(t, "%s/things/a/parts/p", space), Properties: json.RawMessage(`{}`)})
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: thing(t, "a").ID, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	get(t, s.Store, ID(t, "%s/things/a/parts/p", space)) // a shallow one leaves it
}

func feed(t *testing.T, s Subject) {
	a, b := put(t, s.Store, thing(t, "a")), put(t, s.Store, thing(t, "b"))
	seq, err := s.Store.Commit(t.Context(), resource.Batch{Statuses: []resource.StatusWrite{{ID: a.ID, Status: json.RawMessage(`{}`)}}})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: b.ID, Expect: resource.Any}}})
	if err != nil {
		t.Fatal(err)
	}
	if seq <= b.Seq || gone <= seq {
		t.Errorf("commits are numbered %d, %d, %d, %d", a.Seq, b.Seq, seq, gone)
	}
	for store := range s.twice {
		got, err := store.Changes(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		want := []resource.Touched{{Seq: seq, ID: a.ID}, {Seq: gone, ID: b.ID, Deleted: true}}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if got, _ := store.Changes(t.Context(), gone, 100); len(got) != 0 {
			t.Errorf("after the last: %v", got)
		}
	}
	// Made anew in the commit that removes it: it is there.
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: a.ID, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	again := put(t, s.Store, thing(t, "a"))
	got, err := s.Store.Changes(t.Context(), gone, 100)
	if err != nil || len(got) != 2 || !got[0].Deleted || got[1].Deleted || got[1].Seq != again.Seq {
		t.Errorf("removed and made again: %v, %v", got, err)
	}
}

func wholeFeed(t *testing.T, s Subject) {
	for commit := range 4 {
		b := resource.Batch{}
		for i := range 5 {
			b.Puts = append(b.Puts, resource.Write{Resource: thing(t, fmt.Sprintf("c%d-%d", commit, i)), Expect: resource.Absent})
		}
		if _, err := s.Store.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for limit := 1; limit < 22; limit++ {
		after, seen := int64(0), 0
		for {
			got, err := s.Store.Changes(t.Context(), after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				break
			}
			if len(got)%5 != 0 || len(got) >= limit+5 {
				t.Fatalf("%d of commits of five, with the limit %d", len(got), limit)
			}
			seen += len(got)
			after = got[len(got)-1].Seq
		}
		if seen != 20 {
			t.Errorf("with the limit %d: %d seen of 20", limit, seen)
		}
	}
}

func notify(t *testing.T, s Subject) {
	ch := s.Store.Notify()
	select {
	case <-ch:
		t.Fatal("woken without a commit")
	default:
	}
	put(t, s.Store, thing(t, "a"))
	select {
	case <-ch:
	case <-time.After(5 * time.Second):
		t.Fatal("not woken by a commit")
	}
	if s.Store.Notify() == ch {
		t.Error("the channel of before is given out again")
	}
}

func operations(t *testing.T, s Subject) {
	id := thing(t, "a").ID
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var want []string
	for i := range 5 {
		op := resource.Operation{ID: fmt.Sprint("op", i), Verb: "put", Resource: id, Caller: "eve", State: resource.OperationRunning,
			Started: began.Add(time.Duration(-i) * time.Second), Input: json.RawMessage(`{"a":1}`)}
		if _, err := s.Store.Commit(t.Context(), resource.Batch{Operations: []resource.Operation{op}}); err != nil {
			t.Fatal(err)
		}
		want = append([]string{op.ID}, want...)
	}
	end := resource.Operation{ID: "op2", Verb: "put", Resource: id, Caller: "eve", State: resource.Failed, Code: "c", Message: "m",
		Started: began, Ended: began.Add(time.Minute), Result: json.RawMessage(`[1]`)}
	if _, err := s.Store.Commit(t.Context(), resource.Batch{Operations: []resource.Operation{end}}); err != nil {
		t.Fatal(err)
	}
	want = slices.DeleteFunc(want, func(s string) bool { return s == "op2" })
	for store := range s.twice {
		open, err := store.OpenOperations(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, op := range open {
			got = append(got, op.ID)
			if op.Done() || !op.Resource.Same(id) || string(op.Input) != `{"a":1}` || !op.Ended.IsZero() || op.Caller != "eve" {
				t.Errorf("%+v", op)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("open are %v, want %v: oldest first", got, want)
		}
		if got, err := store.Operation(t.Context(), "op2"); err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", end) {
			t.Errorf("%+v, %v; want %+v", got, err, end)
		}
	}
}

func activities(t *testing.T, s Subject) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, name := range []string{"a", "b", "a", "c"} {
		entry := resource.Activity{At: at.Add(time.Duration(i/2) * time.Second), Caller: "eve", CallerID: "id", Action: fmt.Sprint("do", i),
			Resource: thing(t, name).ID, Result: "Succeeded", Correlation: "corr", Reason: "because"}
		if _, err := s.Store.Commit(t.Context(), resource.Batch{Activities: []resource.Activity{entry}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		scope  resource.ID
		before time.Time
		limit  int
		want   string
	}{
		{resource.ID{}, at.Add(time.Hour), 10, "do3 do2 do1 do0"},
		{resource.ID{}, at.Add(time.Hour), 3, "do3 do2 do1"},
		{resource.ID{}, at.Add(time.Second), 10, "do1 do0"},
		{ID(t, "%s", strings.ToUpper(space)), at.Add(time.Hour), 10, "do3 do2 do1 do0"},
		{thing(t, "A").ID, at.Add(time.Hour), 10, "do2 do0"},
		{ID(t, "%s2", space), at.Add(time.Hour), 10, ""},
	} {
		list, err := s.Store.Activities(t.Context(), c.scope, c.before, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range list {
			got = append(got, a.Action)
			if a.Caller != "eve" || a.CallerID != "id" || a.Result != "Succeeded" || a.Correlation != "corr" || a.Reason != "because" || a.At.IsZero() {
				t.Errorf("%+v", a)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("of %q before %s: %v, want %s", c.scope, c.before, got, c.want)
		}
	}
}

func secrets(t *testing.T, s Subject) {
	ctx := t.Context()
	owner, below, beside := thing(t, "a").ID, ID(t, "%s/things/a/parts/p", space), thing(t, "ab").ID
	b := resource.Batch{}
	for _, id := range []resource.ID{owner, below, beside} {
		b.Puts = append(b.Puts, resource.Write{Resource: resource.Resource{ID: id, Properties: json.RawMessage(`{}`)}, Expect: resource.Absent})
		b.Rows = append(b.Rows, resource.Sealed{Owner: id, Name: "key", Value: []byte("1")}, resource.Sealed{Owner: id, Name: "key", Value: []byte{0, 2}})
	}
	if _, err := s.Store.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	s.Store = s.Reopen()
	if v, err := s.Store.Secret(ctx, ID(t, "%s", strings.ToUpper(owner.String())), "key"); err != nil || string(v) != "\x00\x02" {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := s.Store.Secret(ctx, owner, "other"); err != nil || v != nil {
		t.Errorf("one that is not there: %q, %v", v, err)
	}
	if _, err := s.Store.Commit(ctx, resource.Batch{Removals: []resource.Removal{{ID: owner, Expect: resource.Any, Deep: true}}}); err != nil {
		t.Fatal(err)
	}
	for id, there := range map[resource.ID]bool{owner: false, below: false, beside: true} {
		if v, err := s.Store.Secret(ctx, id, "key"); err != nil || (v != nil) != there {
			t.Errorf("%s: %q, %v", id, v, err)
		}
	}
}

func unknownRow(t *testing.T, s Subject) {
	r := thing(t, "a")
	_, err := s.Store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Absent}}, Rows: []any{struct{ X int }{1}}})
	if err == nil || fault.Find(err) != nil {
		t.Errorf("got %v, want an error that is no fault", err)
	}
	if _, err := s.Store.Get(t.Context(), r.ID); !fault.Is(err, fault.Missing) {
		t.Errorf("the resource is there: %v", err)
	}
}
