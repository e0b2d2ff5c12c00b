package manager_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/scope"
	"lapis/resource/storetest"
)

// road notes what is asked on the way of a write.
type road struct {
	mu    sync.Mutex
	steps []string
	deny  string // an action that nobody may do
	rule  error  // what policy says
	off   atomic.Bool
}

func (r *road) note(format string, args ...any) {
	if r.off.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, fmt.Sprintf(format, args...))
}

func (r *road) taken() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := strings.Join(r.steps, ", ")
	r.steps = nil
	return s
}

func (r *road) Check(_ context.Context, p identity.Principal, action string, id resource.ID) error {
	r.note("may %s %s", p.Name, strings.TrimPrefix(action, "Microsoft.X/spaces"))
	if action == r.deny {
		return fault.Denied("no")
	}
	return nil
}

func (r *road) Apply(_ context.Context, c *resource.Change) error {
	r.note("policy")
	return r.rule
}

type house struct {
	t       testing.TB
	path    string
	db      *sqldb.DB
	store   *sqldb.Resources
	road    *road
	things  *resource.Type
	manager *manager.Manager
}

var eve = identity.Principal{ID: "1", Name: "eve", Kind: identity.User}

// newHouse makes a manager of one type, things, below a space.
func newHouse(t testing.TB, things *resource.Type) *house {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "lapis.db"), road: &road{}, things: things}
	things.Name, things.Title = "Microsoft.X/spaces/things", "thing"
	h.open()
	t.Cleanup(func() { h.db.Close() })
	for _, id := range []string{"/subscriptions/s", "/subscriptions/s/resourceGroups/g", space} {
		h.must(h.manager.Put(t.Context(), h.request(id, `{"location":"local"}`)))
	}
	h.road.taken()
	return h
}

const space = "/subscriptions/s/resourceGroups/g/providers/Microsoft.X/spaces/a"

func (h *house) open() {
	var err error
	if h.db, err = sqldb.Open(h.path); err != nil {
		h.t.Fatal(err)
	}
	h.store = sqldb.NewResources(h.db)
	h.manager = manager.New(resource.NewTypes(scope.Subscriptions(), scope.Groups(), &resource.Type{Name: "Microsoft.X/spaces", Title: "space"}, h.things),
		h.store, h.road, h.road, slog.New(slog.DiscardHandler))
}

func (h *house) request(id, body string) manager.Request {
	return manager.Request{ID: storetest.ID(h.t, "%s", id), Caller: eve, Body: json.RawMessage(body), Correlation: "corr"}
}

func (h *house) thing(name, body string) manager.Request {
	return h.request(space+"/things/"+name, body)
}

func (h *house) must(r manager.Reply, err error) manager.Reply {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func (h *house) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { h.manager.Run(ctx) })
	return func() { cancel(); group.Wait() }
}

func (h *house) operation(id string) resource.Operation {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		op, err := h.store.Operation(h.t.Context(), id)
		if err != nil {
			h.t.Fatal(err)
		}
		if op.Done() {
			return op
		}
		if time.Now().After(end) {
			h.t.Fatalf("operation %s %s does not end", op.Verb, id)
		}
	}
}

func (h *house) activities() (list []string) {
	h.t.Helper()
	all, err := h.store.Activities(h.t.Context(), storetest.ID(h.t, space), time.Now().Add(time.Hour), 100)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range all {
		if a.Resource.Type() == "Microsoft.X/spaces/things" {
			list = append(list, strings.TrimPrefix(a.Action, "Microsoft.X/spaces/things/")+" "+a.Result+" by "+a.Caller+" "+a.Correlation)
		}
	}
	return list
}

func TestAWriteTakesTheRoadInItsOrder(t *testing.T) {
	var h *house
	h = newHouse(t, &resource.Type{
		Check: func(string) error { h.road.note("name"); return nil },
		Admit: func(context.Context, *resource.Change) error { h.road.note("admit"); return nil },
		AdmitDelete: func(context.Context, *resource.Change) error {
			h.road.note("admit the deletion")
			return nil
		},
		View: func(context.Context, resource.View, []resource.Resource) error { h.road.note("view"); return nil },
		Actions: map[string]resource.Action{"ping": {Run: func(_ context.Context, c resource.Call) (any, error) {
			h.road.note("ping %s", c.Body)
			return "pong", nil
		}}},
	})
	ctx := t.Context()
	for _, c := range []struct {
		what string
		do   func() (manager.Reply, error)
		want string
	}{
		{"new", func() (manager.Reply, error) { return h.manager.Put(ctx, h.thing("t", `{"properties":{"a":1}}`)) }, "may eve /things/write, name, policy, admit, view"},
		{"changed", func() (manager.Reply, error) { return h.manager.Put(ctx, h.thing("t", `{"properties":{"a":2}}`)) }, "may eve /things/write, policy, admit, view"},
		{"patched", func() (manager.Reply, error) {
			return h.manager.Patch(ctx, h.thing("t", `{"properties":{"b":1}}`))
		}, "may eve /things/write, policy, admit, view"},
		{"acted on", func() (manager.Reply, error) {
			req := h.thing("t", `{"x":1}`)
			req.Action = "PING"
			return h.manager.Act(ctx, req)
		}, `may eve /things/ping/action, ping {"x":1}`},
		{"deleted", func() (manager.Reply, error) { return h.manager.Delete(ctx, h.thing("t", "")) }, "may eve /things/delete, policy, admit the deletion"},
		{"deleted again", func() (manager.Reply, error) { return h.manager.Delete(ctx, h.thing("t", "")) }, "may eve /things/delete"},
	} {
		h.must(c.do())
		if got := h.road.taken(); got != c.want {
			t.Errorf("%s: %s; want %s", c.what, got, c.want)
		}
	}
	want := "[delete Succeeded by eve corr ping/action Succeeded by eve corr write Succeeded by eve corr write Succeeded by eve corr write Succeeded by eve corr]"
	if got := fmt.Sprint(h.activities()); got != want {
		t.Errorf("the log says %s", got)
	}
}

func TestARefusalOnTheRoadStoresNothing(t *testing.T) {
	sad := fault.Invalid("no")
	var admit error
	h := newHouse(t, &resource.Type{
		Check: func(name string) error {
			if name == "bad" {
				return sad
			}
			return nil
		},
		Admit: func(context.Context, *resource.Change) error { return admit },
	})
	ctx := t.Context()
	for _, c := range []struct {
		what string
		req  manager.Request
		set  func()
		kind fault.Kind
	}{
		{"access", h.thing("t", `{}`), func() { h.road.deny = "Microsoft.X/spaces/things/write" }, fault.Forbidden},
		{"policy", h.thing("t", `{}`), func() { h.road.rule = fault.Denied("no") }, fault.Forbidden},
		{"admit", h.thing("t", `{}`), func() { admit = sad }, fault.BadRequest},
		{"its name", h.thing("bad", `{}`), nil, fault.BadRequest},
		{"no body", h.thing("t", ``), nil, fault.BadRequest},
		{"a list for properties", h.thing("t", `{"properties":[]}`), nil, fault.BadRequest},
		{"tags that are no strings", h.thing("t", `{"tags":{"a":1}}`), nil, fault.BadRequest},
		{"no such space", h.request(space+"b/things/t", `{}`), nil, fault.Missing},
		{"no such group", h.request("/subscriptions/s/resourceGroups/none/providers/Microsoft.X/spaces/a/things/t", `{}`), nil, fault.Missing},
		{"no such subscription", h.request("/subscriptions/none/resourceGroups/g", `{"location":"local"}`), nil, fault.Missing},
		{"no such type", h.request(space+"/others/t", `{}`), nil, fault.Missing},
	} {
		h.road.deny, h.road.rule, admit = "", nil, nil
		if c.set != nil {
			c.set()
		}
		before := len(h.activities())
		_, err := h.manager.Put(ctx, c.req)
		if !fault.Is(err, c.kind) {
			t.Errorf("%s: %v", c.what, err)
		}
		if _, err := h.store.Get(ctx, c.req.ID); !fault.Is(err, fault.Missing) {
			t.Errorf("%s: it is stored, %v", c.what, err)
		}
		if n := len(h.activities()); n != before {
			t.Errorf("%s: the log has %d entries more", c.what, n-before)
		}
	}
}

func TestWhatIsMissingAboveIsNamed(t *testing.T) {
	h := newHouse(t, &resource.Type{})
	for id, want := range map[string]string{
		"/subscriptions/none/resourceGroups/g/providers/Microsoft.X/spaces/a":   "SubscriptionNotFound",
		"/subscriptions/s/resourceGroups/none/providers/Microsoft.X/spaces/a":   "ResourceGroupNotFound",
		"/subscriptions/none/resourceGroups/g":                                  "SubscriptionNotFound",
		"/subscriptions/s/resourceGroups/none":                                  "ResourceGroupNotFound",
		space + "2/things/t":                                                    "ResourceNotFound",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.X/spaces/nobody": "ResourceNotFound",
		space + "/nothings/t":                                                   "InvalidResourceType",
	} {
		_, err := h.manager.Get(t.Context(), eve, storetest.ID(t, "%s", id), resource.View{})
		if f := fault.Find(err); f == nil || f.Kind != fault.Missing || f.Code != want {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
}

func TestTheRoadIsTakenAgainWhenItsGroundMoves(t *testing.T) {
	var h *house
	var passes atomic.Int32
	moves := int32(1)
	h = newHouse(t, &resource.Type{Admit: func(ctx context.Context, c *resource.Change) error {
		n := passes.Add(1)
		base, err := h.store.Get(ctx, storetest.ID(t, space))
		if err != nil {
			return err
		}
		c.Rely(base)
		if n <= moves { // someone else is faster
			base.Kind = fmt.Sprint("moved ", time.Now().UnixNano())
			_, err = h.store.Commit(ctx, resource.Batch{Puts: []resource.Write{{Resource: base, Expect: resource.Any}}})
		}
		return err
	}})
	h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	if passes.Load() != 2 {
		t.Errorf("%d passes", passes.Load())
	}
	// A condition holds as long as the resource itself is as it was.
	passes.Store(0)
	req := h.thing("t", `{"kind":"new"}`)
	req.IfMatch = "*"
	if r := h.must(h.manager.Put(t.Context(), req)); passes.Load() != 2 || r.Resource.Kind != "new" {
		t.Errorf("%d passes, %+v", passes.Load(), r.Resource)
	}
	moves = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h.manager.Put(ctx, h.thing("u", `{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("if it never stands still, and the caller leaves: %v", err)
	}
}

func TestAConditionThatSomeoneElseBreaksIsToldAsSuch(t *testing.T) {
	var h *house
	h = newHouse(t, &resource.Type{Admit: func(ctx context.Context, c *resource.Change) error {
		if c.Old != nil && c.New.Kind == "mine" {
			other := *c.Old
			other.Kind = fmt.Sprint("theirs ", time.Now().UnixNano())
			_, err := h.store.Commit(ctx, resource.Batch{Puts: []resource.Write{{Resource: other, Expect: resource.Any}}})
			return err
		}
		return nil
	}})
	etag := h.must(h.manager.Put(t.Context(), h.thing("t", `{}`))).Resource.Etag
	req := h.thing("t", `{"kind":"mine"}`)
	req.IfMatch = `"` + etag + `"`
	if _, err := h.manager.Put(t.Context(), req); !fault.Is(err, fault.PreconditionFailed) {
		t.Error(err)
	}
}

func TestAPutThatChangesNothingLeavesTheResourceAlone(t *testing.T) {
	h := newHouse(t, &resource.Type{})
	const body = `{"location":"l","tags":{"a":"b"},"sku":{"name":"s"},"properties":{"x":1,"y":{"z":null,"w":[1]}}}`
	first := h.must(h.manager.Put(t.Context(), h.thing("t", body)))
	again := h.must(h.manager.Put(t.Context(), h.thing("t", `{"properties":{"y":{"w":[1]},"x":1},"sku":{"name":"s"},"tags":{"a":"b"},"location":"l"}`)))
	if !first.Created || again.Created || again.Resource.Etag != first.Resource.Etag || again.Resource.Seq != first.Resource.Seq {
		t.Errorf("%+v, then %+v", first, again)
	}
	stored, err := h.store.Get(t.Context(), first.Resource.ID)
	if err != nil || stored.Etag != first.Resource.Etag || !stored.Updated.At.Equal(again.Resource.Updated.At) {
		t.Errorf("%+v, %v", stored, err)
	}
	if n := len(h.activities()); n != 2 {
		t.Errorf("%d activities of 2 writes", n)
	}
}

func TestTheReplyIsWhatIsStored(t *testing.T) {
	h := newHouse(t, &resource.Type{Admit: func(_ context.Context, c *resource.Change) error {
		c.New.Status = json.RawMessage(`{"provisioningState":"Succeeded"}`)
		c.New.Lookup = "hash"
		return nil
	}})
	check := func(r manager.Reply) {
		t.Helper()
		stored, err := h.store.Get(t.Context(), r.Resource.ID)
		if err != nil {
			t.Fatal(err)
		}
		stored.Created.At, r.Resource.Created.At = stored.Created.At.UTC(), r.Resource.Created.At.UTC()
		if a, b := fmt.Sprintf("%+v", r.Resource), fmt.Sprintf("%+v", stored); a != b {
			t.Errorf("replied %s\nstored  %s", a, b)
		}
	}
	check(h.must(h.manager.Put(t.Context(), h.thing("T", `{"properties":{"a":1},"tags":{"x":"y"}}`))))
	check(h.must(h.manager.Put(t.Context(), h.thing("t", `{"properties":{"a":2}}`))))
	check(h.must(h.manager.Patch(t.Context(), h.thing("t", `{"properties":{"b":2},"tags":{"z":"y"}}`))))
	check(h.must(h.manager.Put(t.Context(), h.thing("t", `{"properties":{"a":2,"b":2},"tags":{"z":"y"}}`))))
}

func TestAStatusThatALoopWritesMeanwhileIsKept(t *testing.T) {
	var h *house
	h = newHouse(t, &resource.Type{Admit: func(ctx context.Context, c *resource.Change) error {
		if c.Old == nil {
			return nil
		}
		_, err := h.store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: c.New.ID, Status: json.RawMessage(`{"nodes":3}`)}}})
		return err
	}})
	h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	r := h.must(h.manager.Put(t.Context(), h.thing("t", `{"properties":{"a":1}}`)))
	if stored, err := h.store.Get(t.Context(), r.Resource.ID); err != nil || string(stored.Status) != `{"nodes":3}` || string(stored.Properties) != `{"a":1}` {
		t.Errorf("%s %s, %v", stored.Properties, stored.Status, err)
	}
}

func TestPatch(t *testing.T) {
	h := newHouse(t, &resource.Type{})
	h.must(h.manager.Put(t.Context(), h.thing("t", `{"location":"l","kind":"k","tags":{"a":"1","b":"2"},"sku":{"name":"s","tier":"x"},"properties":{"p":1,"q":{"r":2}}}`)))
	r := h.must(h.manager.Patch(t.Context(), h.thing("t", `{"tags":{"c":"3"},"sku":{"tier":null},"properties":{"p":null,"q":{"s":3}}}`))).Resource
	if r.Location != "l" || r.Kind != "k" || fmt.Sprint(r.Tags) != "map[c:3]" || string(r.SKU) != `{"name":"s"}` || string(r.Properties) != `{"q":{"r":2,"s":3}}` {
		t.Errorf("%+v", r)
	}
	for _, body := range []string{``, `[]`, `{"tags":[]}`, `{"properties":[]}`, `{"properties":"x"}`} {
		if _, err := h.manager.Patch(t.Context(), h.thing("t", body)); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if _, err := h.manager.Patch(t.Context(), h.thing("none", `{}`)); !fault.Is(err, fault.Missing) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestWhatTakesLongIsAnOperation(t *testing.T) {
	var provision, release atomic.Pointer[error]
	none := error(nil)
	provision.Store(&none)
	release.Store(&none)
	h := newHouse(t, &resource.Type{Async: true,
		Provision: func(context.Context, resource.Resource) (json.RawMessage, error) {
			return json.RawMessage(`{"made":true}`), *provision.Load()
		},
		Release: func(context.Context, resource.Resource) error { return *release.Load() },
	})
	defer h.run()()
	status := func(name string) string {
		r, err := h.store.Get(t.Context(), h.thing(name, "").ID)
		if err != nil {
			return fault.Find(err).Code
		}
		return string(r.Status)
	}
	r := h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	if r.Operation == "" || !strings.Contains(string(r.Resource.Status), "Creating") {
		t.Errorf("%+v", r)
	}
	if op := h.operation(r.Operation); op.State != resource.Succeeded || op.Ended.IsZero() {
		t.Errorf("%+v", op)
	}
	if got := status("t"); got != `{"made":true,"provisioningState":"Succeeded"}` {
		t.Error(got)
	}
	sad := error(fault.Conflicts("the machine says no").With("NoRoom"))
	provision.Store(&sad)
	r = h.must(h.manager.Put(t.Context(), h.thing("t", `{"properties":{"a":1}}`)))
	if op := h.operation(r.Operation); op.State != resource.Failed || op.Code != "NoRoom" || op.Message != "the machine says no" {
		t.Errorf("%+v", op)
	}
	if got := status("t"); !strings.Contains(got, `"provisioningState":"Failed"`) || !strings.Contains(got, "the machine says no") || !strings.Contains(got, `"made":true`) {
		t.Error(got)
	}
	hidden := errors.New("password hunter2")
	release.Store(&hidden)
	r = h.must(h.manager.Delete(t.Context(), h.thing("t", "")))
	if op := h.operation(r.Operation); op.State != resource.Failed || strings.Contains(op.Message, "hunter2") || op.Code != "InternalServerError" {
		t.Errorf("%+v", op)
	}
	if got := status("t"); !strings.Contains(got, `"provisioningState":"Failed"`) {
		t.Error(got)
	}
	release.Store(&none)
	r = h.must(h.manager.Delete(t.Context(), h.thing("t", "")))
	if op := h.operation(r.Operation); op.State != resource.Succeeded {
		t.Errorf("%+v", op)
	}
	if got := status("t"); got != "ResourceNotFound" {
		t.Error(got)
	}
}

func TestWhatIsBeingDeletedIsNotWritten(t *testing.T) {
	gate := make(chan struct{})
	h := newHouse(t, &resource.Type{Release: func(context.Context, resource.Resource) error { <-gate; return nil }})
	defer h.run()()
	h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	r := h.must(h.manager.Delete(t.Context(), h.thing("t", "")))
	for _, write := range []func(context.Context, manager.Request) (manager.Reply, error){h.manager.Put, h.manager.Patch} {
		if _, err := write(t.Context(), h.thing("t", `{"kind":"x"}`)); !fault.Is(err, fault.Conflict) {
			t.Error(err)
		}
	}
	second := h.must(h.manager.Delete(t.Context(), h.thing("t", "")))
	close(gate)
	h.operation(r.Operation)
	if op := h.operation(second.Operation); op.State != resource.Succeeded {
		t.Errorf("a second deletion: %+v", op)
	}
	h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	time.Sleep(50 * time.Millisecond)
	if _, err := h.store.Get(t.Context(), h.thing("t", "").ID); err != nil {
		t.Errorf("made anew, and gone: %v", err)
	}
}

func TestOperationsThatARestartInterruptsAreDoneAgain(t *testing.T) {
	var calls atomic.Int32
	h := newHouse(t, &resource.Type{
		Provision: func(ctx context.Context, _ resource.Resource) (json.RawMessage, error) {
			if calls.Add(1) == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		},
		Async: true,
		Actions: map[string]resource.Action{"work": {Async: true, Run: func(_ context.Context, c resource.Call) (any, error) {
			return map[string]json.RawMessage{"did": c.Body}, nil
		}}},
	})
	stop := h.run()
	r := h.must(h.manager.Put(t.Context(), h.thing("t", `{}`)))
	for calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	act := h.thing("t", `{"n":1}`)
	act.Action = "work"
	work := h.must(h.manager.Act(t.Context(), act))
	stop()
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	h.open()
	defer h.run()()
	if op := h.operation(r.Operation); op.State != resource.Succeeded || calls.Load() != 2 {
		t.Errorf("%+v after %d calls", op, calls.Load())
	}
	if op := h.operation(work.Operation); op.State != resource.Succeeded || string(op.Result) != `{"did":{"n":1}}` {
		t.Errorf("%+v", op)
	}
}

func TestActions(t *testing.T) {
	h := newHouse(t, &resource.Type{Actions: map[string]resource.Action{
		"bare":  {Bare: true, Run: func(_ context.Context, c resource.Call) (any, error) { return c.ID.Name(), nil }},
		"needs": {Run: func(context.Context, resource.Call) (any, error) { return nil, nil }},
	}})
	act := func(id, action string) (manager.Reply, error) {
		req := h.request(id, "")
		req.Action = action
		return h.manager.Act(t.Context(), req)
	}
	if r, err := act(space+"/things/none", "bare"); err != nil || r.Body != "none" {
		t.Errorf("%+v, %v", r, err)
	}
	for id, action := range map[string]string{space + "/things/none": "needs", space + "/things/t": "nothing", space + "x/things/t": "bare"} {
		if _, err := act(id, action); !fault.Is(err, fault.Missing) {
			t.Errorf("%s of %s: %v", action, id, err)
		}
	}
}

// BenchmarkPut is the road alone, without a protocol: new things from many
// callers at once, each durable when it is answered.
func BenchmarkPut(b *testing.B) {
	h := newHouse(b, &resource.Type{})
	h.road.off.Store(true)
	var n atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req := h.thing(fmt.Sprint("t", n.Add(1)), `{"properties":{"dataType":"uri_file","dataUri":"https://example.org/data.csv","description":"a table","tags":{"team":"blue"}}}`)
			if _, err := h.manager.Put(b.Context(), req); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
