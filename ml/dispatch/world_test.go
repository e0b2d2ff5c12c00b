package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/backend/disk"
	"lapis/backend/process"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/ml/dispatch"
	"lapis/ml/environment"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
)

// TestMain lets the test binary be the supervisor of a task.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		syscall.Exit(process.Supervise())
	}
	os.Exit(m.Run())
}

// world is all that a dispatcher works with, as the server puts it together.
type world struct {
	t       testing.TB
	dir     string
	db      *sqldb.DB
	store   *sqldb.Resources
	runs    *sqldb.Tracking
	blobs   *disk.Store
	runtime *process.Runtime
	builder *builder
	jobs    *job.Service
	manager *manager.Manager
	site    ml.Site

	dispatcher *dispatch.Dispatcher
	stop       func() // ends the dispatcher and waits for it
}

var admin = identity.Principal{ID: "1", Name: "admin", Kind: identity.ServicePrincipal}

// newWorld makes one with a workspace and the environment e:1.
func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), builder: &builder{ready: true}, stop: func() {}}
	var err error
	if w.db, err = sqldb.Open(filepath.Join(w.dir, "lapis.db")); err != nil {
		t.Fatal(err)
	}
	w.store = sqldb.NewResources(w.db)
	if w.runs, err = sqldb.NewTracking(w.db); err != nil {
		t.Fatal(err)
	}
	if w.blobs, err = disk.New(filepath.Join(w.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	w.builder.dir = w.dir
	if err := os.Mkdir(filepath.Join(w.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.openRuntime()
	w.jobs = &job.Service{Resources: w.store, Runs: w.runs, Now: time.Now, Wake: func() { w.dispatcher.Wake() },
		Kinds: map[string]job.Kind{"command": job.Command{Resources: w.store}}}
	types := []*resource.Type{scope.Subscriptions(), scope.Groups(), w.jobs.Type(),
		(&workspace.Service{Resources: w.store, Blobs: w.blobs}).Type(),
		data.Datastores(w.store, w.blobs, nil, nil, time.Now)}
	types = append(types, compute.Types(w.store)...)
	for _, k := range []asset.Kind{data.Assets(w.store), environment.Environments(), asset.Code(w.store, w.blobs, nil, time.Now)} {
		types = append(types, k.Types(w.store)...)
	}
	w.manager = manager.New(resource.NewTypes(types...), w.store, rbac.Checker{}, nil, quiet)
	ctx, cancel := context.WithCancel(context.Background())
	var operations sync.WaitGroup
	operations.Go(func() { w.manager.Run(ctx) })
	t.Cleanup(func() {
		w.stop()
		cancel()
		operations.Wait()
		w.runtime.Close()
		w.db.Close()
	})
	for id, body := range map[string]string{"/subscriptions/s": `{}`} {
		w.put(id, body)
	}
	w.put("/subscriptions/s/resourceGroups/g", `{"location":"local"}`)
	w.put("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main", `{"location":"local"}`)
	id, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main")
	if err != nil {
		t.Fatal(err)
	}
	if w.site, err = ml.SiteOf(t.Context(), w.store, id); err != nil {
		t.Fatal(err)
	}
	w.put(w.id("environments/e/versions/1"), `{"properties":{"image":"python"}}`)
	return w
}

var quiet = slog.New(slog.DiscardHandler)

func (w *world) openRuntime() {
	exe, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	w.runtime, err = process.New(process.Config{Dir: filepath.Join(w.dir, "jobs"), Blobs: w.blobs, Supervisor: []string{exe, "supervise"}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() dispatch.Config {
	return dispatch.Config{
		Resources: w.store, Runs: w.runs, Blobs: w.blobs, Runtime: w.runtime, Builder: w.builder,
		Machine: dispatch.Machine{Cores: 2, Memory: 4 << 30}, Slots: 2, Log: quiet, Now: time.Now,
		Variables: func(ml.Site, tracking.Run, string) (map[string]string, []string, error) { return nil, nil, nil },
		Register: func(ctx context.Context, id resource.ID, properties any) error {
			body, err := json.Marshal(map[string]any{"properties": properties})
			if err != nil {
				return err
			}
			_, err = w.manager.Put(ctx, manager.Request{ID: id, Caller: admin, Body: body})
			return err
		},
	}
}

// run starts a dispatcher; what is set in c by change differs from the usual.
func (w *world) run(change func(c *dispatch.Config)) {
	c := w.config()
	if change != nil {
		change(&c)
	}
	d := dispatch.New(c)
	w.dispatcher = d
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

func (w *world) id(rest string) string {
	return "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/main/" + rest
}

func (w *world) put(id, body string) {
	w.t.Helper()
	parsed, err := resource.ParseID(id)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.manager.Put(context.Background(), manager.Request{ID: parsed, Caller: admin, Body: json.RawMessage(body)}); err != nil {
		w.t.Fatalf("PUT %s: %v", id, err)
	}
}

// job puts a job; more are members of its properties.
func (w *world) job(name, command string, more ...string) {
	w.t.Helper()
	quoted, _ := json.Marshal(command)
	body := fmt.Sprintf(`{"properties":{"jobType":"Command","command":%s,"environmentId":%q%s}}`, quoted, w.id("environments/e/versions/1"),
		strings.Join(append([]string{""}, more...), ","))
	w.put(w.id("jobs/"+name), body)
}

func (w *world) cluster(name string, least, most int, idle string) {
	w.t.Helper()
	w.put(w.id("computes/"+name), fmt.Sprintf(`{"location":"local","properties":{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS1_V2",
		"scaleSettings":{"minNodeCount":%d,"maxNodeCount":%d,"nodeIdleTimeBeforeScaleDown":%q}}}}`, least, most, idle))
}

func (w *world) cancel(name string) {
	w.t.Helper()
	id, _ := resource.ParseID(w.id("jobs/" + name))
	if _, err := w.manager.Act(context.Background(), manager.Request{ID: id, Action: "cancel", Caller: admin}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) tracking.Run {
	w.t.Helper()
	r, err := w.runs.Run(context.Background(), w.site.GUID, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// until waits until the job is as it should be.
func (w *world) until(name string, what string, as func(tracking.Run) bool) tracking.Run {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := w.read(name)
		if as(r) {
			return r
		}
		if r.Status.Terminal() || time.Now().After(deadline) {
			w.t.Fatalf("job %s never %s: it is %s (%s) %+v", name, what, r.Status, r.Reason, r.Error)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *world) end(name string) tracking.Run {
	w.t.Helper()
	return w.until(name, "ends", func(r tracking.Run) bool { return r.Status.Terminal() })
}

func (w *world) becomes(name string, s tracking.Status) tracking.Run {
	w.t.Helper()
	return w.until(name, "is "+string(s), func(r tracking.Run) bool { return r.Status == s })
}

// log is the log of a job, as it is stored.
func (w *world) log(name string) string {
	w.t.Helper()
	r, _, err := w.blobs.Open(context.Background(), w.site.Artifacts(), ml.RunFolder(name)+"user_logs/std_log.txt", 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) store1(container blob.Container, key, text string) {
	w.t.Helper()
	if _, err := w.blobs.Put(context.Background(), container, key, strings.NewReader(text), int64(len(text)), blob.Attributes{}, blob.Condition{}); err != nil {
		w.t.Fatal(err)
	}
}

// nodes are the nodes of a cluster, as its status has them.
func (w *world) nodes(name string) compute.Nodes {
	w.t.Helper()
	id, _ := resource.ParseID(w.id("computes/" + name))
	r, err := w.store.Get(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return compute.NodesOf(r)
}

func (w *world) untilNodes(name, what string, as func(compute.Nodes) bool) compute.Nodes {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		n := w.nodes(name)
		if as(n) {
			return n
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("cluster %s never has %s: %+v", name, what, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// builder makes environments of nothing.
type builder struct {
	mu    sync.Mutex
	dir   string
	ready bool
	fail  error
	block bool // a build waits until it is told to stop
	built int
}

func (b *builder) Find(context.Context, environment.Recipe) (environment.Built, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return environment.Built{Hash: "h", Dir: b.dir, Python: "3.11"}, b.ready
}

func (b *builder) Build(ctx context.Context, _ environment.Recipe, log io.Writer) (environment.Built, error) {
	fmt.Fprintln(log, "building")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.built++
	if b.block {
		b.mu.Unlock()
		<-ctx.Done()
		b.mu.Lock()
		return environment.Built{}, ctx.Err()
	}
	if b.fail != nil {
		return environment.Built{}, b.fail
	}
	b.ready = true
	return environment.Built{Hash: "h", Dir: b.dir, Python: "3.11"}, nil
}

// hooked is a runtime with something to do before a step and after it.
type hooked struct {
	compute.Runtime
	before, after func(ctx context.Context, step string) error
}

func (h hooked) step(ctx context.Context, step string, do func() error) error {
	if h.before != nil {
		if err := h.before(ctx, step); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if h.after != nil {
		return h.after(ctx, step)
	}
	return nil
}

func (h hooked) Launch(ctx context.Context, t compute.Task) error {
	return h.step(ctx, "launch", func() error { return h.Runtime.Launch(ctx, t) })
}

func (h hooked) Collect(ctx context.Context, id string) (sizes map[string]int64, err error) {
	err = h.step(ctx, "collect", func() error {
		sizes, err = h.Runtime.Collect(ctx, id)
		return err
	})
	return sizes, err
}

func (h hooked) Remove(ctx context.Context, id string) error {
	return h.step(ctx, "remove", func() error { return h.Runtime.Remove(ctx, id) })
}

var errNoRoom = fault.New(fault.StorageFull, "StorageFull", "no room")
