package webhook_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lapis/backend/courier"
	"lapis/backend/sqldb"
	"lapis/ml"
	"lapis/ml/webhook"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
	"lapis/resource/secret"
	"lapis/resource/storetest"
)

const home = "/subscriptions/s/resourceGroups/g/providers/" + ml.Workspaces + "/a"

var eve = identity.Principal{ID: "1", Name: "eve", Kind: identity.User}

// world is a database with one workspace, and what brings messages.
type world struct {
	t       *testing.T
	path    string
	sealer  *secret.Sealer
	courier webhook.Courier
	now     func() time.Time

	db     *sqldb.DB
	store  *sqldb.Resources
	hooks  *webhook.Service
	site   ml.Site
	failed chan string
}

func newWorld(t *testing.T, c webhook.Courier) *world {
	sealer, err := secret.NewSealer(secret.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, path: filepath.Join(t.TempDir(), "lapis.db"), sealer: sealer, courier: c, failed: make(chan string, 100)}
	w.open()
	w.site = ml.Site{ID: storetest.ID(t, home)}
	for _, id := range []string{"/subscriptions/s", "/subscriptions/s/resourceGroups/g", home} {
		if _, err := w.hooks.Manager.Put(t.Context(), manager.Request{ID: storetest.ID(t, "%s", id), Caller: eve, Body: []byte(`{"location":"local"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { w.db.Close() })
	return w
}

func (w *world) open() {
	var err error
	if w.db, err = sqldb.Open(w.path); err != nil {
		w.t.Fatal(err)
	}
	w.store = sqldb.NewResources(w.db)
	m := manager.New(resource.NewTypes(scope.Subscriptions(), scope.Groups(), &resource.Type{Name: ml.Workspaces, Title: "workspace"},
		webhook.Webhooks(w.sealer, w.courier)), w.store, rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	w.hooks = webhook.New(webhook.Config{Manager: m, Store: w.store, Outbox: sqldb.NewOutbox(w.db), Sealer: w.sealer, Courier: w.courier, Now: w.now,
		Failed: func(_ webhook.Delivery, why string) { w.failed <- why }})
}

// run makes deliveries until stop is called.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := w.hooks.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	return func() { cancel(); group.Wait() }
}

func (w *world) ctx() context.Context { return identity.With(w.t.Context(), eve) }

var made = webhook.Event{Entity: "registered_model", Action: "created"}

func (w *world) create(url string) webhook.Webhook {
	w.t.Helper()
	name, key := "hook", "s3cret"
	h, err := w.hooks.Create(w.ctx(), w.site, webhook.Edit{Name: &name, URL: &url, Secret: &key, Events: []webhook.Event{made}})
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// happen stores that n things happened.
func (w *world) happen(names ...string) {
	w.t.Helper()
	for _, name := range names {
		rows, err := w.hooks.Rows(w.ctx(), w.site, made, map[string]string{"name": name})
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.store.Commit(w.t.Context(), resource.Batch{Rows: rows}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.hooks.Wake()
}

// empty waits until nothing is left to deliver.
func (w *world) empty() {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		next, err := w.hooks.Outbox.Next(w.t.Context())
		if err != nil || time.Now().After(end) {
			w.t.Fatal("the outbox is never empty", err)
		}
		if next.IsZero() {
			return
		}
	}
}

// listener is a real receiver.
func listener(t *testing.T) (url string, c *courier.Courier, got chan string) {
	got = make(chan string, 1000)
	s := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, rest, _ := strings.Cut(string(body), `"data":{"name":"`)
		name, _, _ := strings.Cut(rest, `"`)
		got <- name
	}))
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.URL, courier.New(courier.Config{Private: true, Roots: roots}), got
}

func await(t *testing.T, got chan string, want ...string) {
	t.Helper()
	for _, name := range want {
		select {
		case g := <-got:
			if g != name {
				t.Errorf("%q was told, want %q", g, name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q was never told", name)
		}
	}
}

func TestWhatWasNotToldBeforeAStopIsToldAfterIt(t *testing.T) {
	url, c, got := listener(t)
	w := newWorld(t, c)
	w.create(url)
	w.happen("a", "b", "c") // nobody delivers yet
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	stop := w.run()
	await(t, got, "a", "b", "c")
	w.empty()
	stop()
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	stop = w.run()
	w.happen("d")
	await(t, got, "d") // and none of the others again
	stop()
}

func TestACommitThatFailsTellsNobody(t *testing.T) {
	url, c, got := listener(t)
	w := newWorld(t, c)
	w.create(url)
	rows, err := w.hooks.Rows(w.ctx(), w.site, made, nil)
	if err != nil || len(rows) != 1 {
		t.Fatal(len(rows), err)
	}
	batch := resource.Batch{Rows: rows, Relies: []resource.Expectation{{ID: w.site.ID, Etag: "other"}}}
	if _, err := w.store.Commit(t.Context(), batch); err == nil {
		t.Fatal("the commit went through")
	}
	stop := w.run()
	defer stop()
	w.happen("a")
	await(t, got, "a")
}

func TestASecretIsSealedAndNeverShown(t *testing.T) {
	url, c, _ := listener(t)
	w := newWorld(t, c)
	h := w.create(url)
	id := w.site.ID.Child("webhooks", h.ID)
	r, err := w.store.Get(t.Context(), id)
	if err != nil || strings.Contains(string(r.Properties), "s3cret") {
		t.Errorf("%v: %s", err, r.Properties)
	}
	sealed, err := w.store.Secret(t.Context(), id, "secret")
	if err != nil || len(sealed) == 0 || strings.Contains(string(sealed), "s3cret") {
		t.Errorf("%v: sealed as %q", err, sealed)
	}
	if err := w.hooks.Delete(w.ctx(), w.site, h.ID); err != nil {
		t.Fatal(err)
	}
	if sealed, err := w.store.Secret(t.Context(), id, "secret"); err != nil || sealed != nil {
		t.Errorf("%v: %d bytes outlive their webhook", err, len(sealed))
	}
}

// deaf is a courier whose receivers never take anything; it stands in for days
// that a test cannot wait.
type deaf struct {
	mu    sync.Mutex
	at    []time.Time
	heals time.Duration // since the first attempt; 0: never
}

func (*deaf) Check(context.Context, string) error { return nil }

func (d *deaf) Send(context.Context, webhook.Message) (webhook.Answer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, time.Now())
	if d.heals > 0 && time.Since(d.at[0]) > d.heals {
		return webhook.Answer{Status: 204}, nil
	}
	return webhook.Answer{}, fmt.Errorf("nobody is there")
}

// box is an outbox in memory, for a bubble of time that a database does not fit in.
type box struct {
	mu  sync.Mutex
	all []webhook.Delivery
}

func (b *box) Waiting(_ context.Context, at time.Time) ([]resource.ID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.all {
		if !d.Next.After(at) {
			return []resource.ID{d.Webhook}, nil
		}
	}
	return nil, nil
}

func (b *box) Due(_ context.Context, _ resource.ID, at time.Time, _ int) (due []webhook.Delivery, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.all {
		if !d.Next.After(at) {
			due = append(due, d)
		}
	}
	return due, nil
}

func (b *box) Delay(_ context.Context, d webhook.Delivery) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.all {
		if b.all[i].ID == d.ID {
			b.all[i] = d
		}
	}
	return nil
}

func (b *box) Drop(_ context.Context, d webhook.Delivery) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.all {
		if b.all[i].ID == d.ID {
			b.all = append(b.all[:i], b.all[i+1:]...)
			break
		}
	}
	return nil
}

func (b *box) Next(context.Context) (next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.all {
		if next.IsZero() || d.Next.Before(next) {
			next = d.Next
		}
	}
	return next, nil
}

// shelf holds one webhook.
type shelf struct {
	webhook.Store
	one resource.Resource
}

func (s shelf) Get(context.Context, resource.ID) (resource.Resource, error) { return s.one, nil }
func (s shelf) Secret(context.Context, resource.ID, string) ([]byte, error) { return nil, nil }

func playDays(t *testing.T, heals time.Duration) (attempts []time.Time, failed []string, left int) {
	synctest.Test(t, func(t *testing.T) {
		id := storetest.ID(t, home+"/webhooks/00000000-0000-4000-8000-000000000001")
		courier, outbox := &deaf{heals: heals}, &box{all: []webhook.Delivery{{ID: "1", Webhook: id, Made: time.Now(), Next: time.Now()}}}
		hooks := webhook.New(webhook.Config{Outbox: outbox, Courier: courier,
			Store:  shelf{one: resource.Resource{ID: id, Properties: []byte(`{"url":"https://h/","events":[{}],"status":"ACTIVE"}`)}},
			Failed: func(_ webhook.Delivery, why string) { failed = append(failed, why) }})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if err := hooks.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(80 * time.Hour)
		cancel()
		group.Wait()
		attempts, left = courier.at, len(outbox.all)
	})
	return attempts, failed, left
}

func TestThePauseAfterAFailureGrowsAndItIsGivenUpAfterDays(t *testing.T) {
	attempts, failed, left := playDays(t, 0)
	if len(failed) != 1 || !strings.Contains(failed[0], "nobody is there") || left != 0 {
		t.Errorf("given up %d times (%v), %d left", len(failed), failed, left)
	}
	if n := len(attempts); n < 300 || n > 500 {
		t.Errorf("%d attempts in three days", n)
	}
	for i := 1; i < len(attempts); i++ {
		pause := attempts[i].Sub(attempts[i-1])
		least := min(time.Second<<min(i-1, 20), 10*time.Minute)
		if pause < least || pause > least+2*time.Second {
			t.Fatalf("%v before attempt %d, want %v and up to a second", pause, i+1, least)
		}
	}
	if last := attempts[len(attempts)-1].Sub(attempts[0]); last < 72*time.Hour || last > 73*time.Hour {
		t.Errorf("the last attempt came after %v", last)
	}
}

func TestAReceiverThatComesBackIsTold(t *testing.T) {
	attempts, failed, left := playDays(t, 5*time.Hour)
	if len(failed) != 0 || left != 0 {
		t.Errorf("given up %v, %d left", failed, left)
	}
	if last := attempts[len(attempts)-1].Sub(attempts[0]); last > 5*time.Hour+11*time.Minute {
		t.Errorf("told after %v, though it was back after 5 h", last)
	}
}
