// Package dispatch decides which queued job runs where, starts it, and follows
// it to the end.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/environment"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/resource"
)

// Machine is what there is to run jobs with.
type Machine struct {
	Cores  int
	Memory int64 // bytes
	GPUs   int
}

// Config is what a dispatcher works with.
type Config struct {
	Resources resource.Store
	Runs      tracking.Store
	Blobs     blob.Store
	Runtime   compute.Runtime
	Builder   environment.Builder
	Machine   Machine
	Slots     int // jobs that run at once

	// Variables are the environment variables of a job that only the server
	// knows: addresses and tokens. Secrets names those that are secret.
	Variables func(site ml.Site, r tracking.Run, experiment string) (vars map[string]string, secrets []string, err error)

	// Register stores an asset version on the one road of writes.
	Register func(ctx context.Context, id resource.ID, properties any) error

	Log *slog.Logger
	Now func() time.Time
}

// Dispatcher makes passes over the jobs that have not ended.
type Dispatcher struct {
	Config
	wake chan struct{}
	work sync.WaitGroup

	mu       sync.Mutex
	busy     map[string]context.CancelFunc // task id → stops the step that is under way; nil: it must end by itself
	edits    []edit                        // of runs, that the pass under way has decided on
	running  map[string]demand             // task id → what a started task holds
	ready    map[string]demand             // task id → a waiting job whose environment is ready
	sites    map[string]ml.Site            // workspace GUID → workspace
	clusters clusters
}

// New makes a dispatcher.
func New(c Config) *Dispatcher {
	return &Dispatcher{Config: c, wake: make(chan struct{}, 1), busy: map[string]context.CancelFunc{},
		running: map[string]demand{}, ready: map[string]demand{}, sites: map[string]ml.Site{}, clusters: clusters{of: map[string]*cluster{}}}
}

// Wake asks for a pass.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// restPass is the least time between two passes: many wakes become one.
const restPass = 10 * time.Millisecond

// tickPass is how long a lost wake can cost, and how finely idle nodes are
// counted.
const tickPass = time.Second

// Run makes passes until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(tickPass)
	defer tick.Stop()
	defer d.work.Wait()
	for {
		changed := d.Resources.Notify()
		began := time.Now()
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.Log.Error("dispatch pass", "err", err)
		}
		// With thousands of jobs in the queue a pass takes its time: the jobs that
		// run need some too.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(restPass, 2*time.Since(began))):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-changed:
		case <-d.Runtime.Ended():
		case <-tick.C:
		}
	}
}

// Open counts the jobs that have not ended, of one workspace or, for "", of all.
func (d *Dispatcher) Open(ctx context.Context, workspace string) (int, error) {
	runs, err := d.Runs.OpenJobs(ctx)
	if err != nil || workspace == "" {
		return len(runs), err
	}
	n := 0
	for _, r := range runs {
		if r.Workspace == workspace {
			n++
		}
	}
	return n, nil
}

// Uses tells whether a job that has not ended uses the environment of that
// hash.
func (d *Dispatcher) Uses(hash string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, jobs := range []map[string]demand{d.ready, d.running} {
		for _, w := range jobs {
			if w.hash == hash {
				return true
			}
		}
	}
	return false
}

// TaskID names the task of a job.
func TaskID(workspace, job string) string { return workspace + "/" + strings.ToLower(job) }

// pass looks at how things are and does what is due.
func (d *Dispatcher) pass(ctx context.Context) error {
	// What is done beside the passes may change a job while it is looked at: such
	// a job has to wait for the next pass, which sees it as it is.
	d.mu.Lock()
	moving := make(map[string]bool, len(d.busy))
	for id := range d.busy {
		moving[id] = true
	}
	d.mu.Unlock()
	open, err := d.Runs.OpenJobs(ctx)
	if err != nil {
		return err
	}
	observed, err := d.Runtime.List(ctx)
	if err != nil {
		return err
	}
	tasks := make(map[string]compute.Observed, len(observed))
	for _, o := range observed {
		tasks[o.ID] = o
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer d.flush(ctx)
	var waiting []demand
	alive := make(map[string]bool, len(open))
	for _, r := range open {
		id := TaskID(r.Workspace, r.ID)
		alive[id] = true
		task, launched := tasks[id]
		_, busy := d.busy[id]
		switch {
		case r.Status == tracking.CancelRequested && busy:
			if stop := d.busy[id]; stop != nil {
				stop() // a start that is under way ends
				if launched && task.Phase != compute.Exited {
					d.stop(ctx, id)
				}
			}
		case busy || moving[id]:
		case launched && task.Phase == compute.Exited:
			d.finish(ctx, r, task)
		case r.Status == tracking.CancelRequested && launched && task.Phase == compute.Staging:
			// Half-staged, and nobody is at it: it never runs.
			if err := d.Runtime.Remove(ctx, id); err != nil {
				d.Log.Error("remove a half-staged task", "task", id, "err", err)
				continue
			}
			d.end(r, ending{status: tracking.Canceled})
		case r.Status == tracking.CancelRequested && launched:
			d.stop(ctx, id)
		case r.Status == tracking.CancelRequested:
			d.end(r, ending{status: tracking.Canceled})
		case launched && task.Phase == compute.Running:
			d.adopt(ctx, r, task)
		case r.Status == tracking.Running || r.Status == tracking.Finalizing || r.Status == tracking.NotResponding:
			d.end(r, ending{status: tracking.Failed, code: "SystemError", message: "The job's process is gone, and nothing is known of how it ended. Submit the job again."})
		default:
			if w, ok := d.demand(ctx, r); !ok {
				continue // perhaps the next pass can read it
			} else if w.flaw != nil {
				d.end(r, failure(w.flaw))
			} else {
				waiting = append(waiting, w)
			}
		}
	}
	for id := range moving {
		alive[id] = true // it may have become open, or ended, since
	}
	d.sweep(ctx, alive, tasks)
	if err := d.clusters.known(ctx, d.Resources); err != nil {
		return err
	}
	if err := d.clusters.refresh(ctx, d.Resources, waiting, d.running); err != nil {
		return err
	}
	d.start(ctx, waiting)
	return d.clusters.settle(ctx, d.Resources, d.running, d.Now())
}

// stop asks the runtime to end a task.
func (d *Dispatcher) stop(ctx context.Context, id string) {
	if err := d.Runtime.Stop(ctx, id); err != nil {
		d.Log.Error("stop a task", "task", id, "err", err)
	}
}

// sweep forgets what belongs to jobs that have ended: tasks that a crash left
// between the last word on a job and the removal of its folder.
func (d *Dispatcher) sweep(ctx context.Context, alive map[string]bool, tasks map[string]compute.Observed) {
	for id := range d.ready {
		if !alive[id] {
			delete(d.ready, id)
		}
	}
	for id := range d.running {
		if _, busy := d.busy[id]; !alive[id] && !busy {
			delete(d.running, id)
		}
	}
	for id, task := range tasks {
		if _, busy := d.busy[id]; alive[id] || busy {
			continue
		}
		workspace, name, _ := strings.Cut(id, "/")
		r, err := d.Runs.Run(ctx, workspace, name)
		if err == nil && !r.Status.Terminal() || err != nil && !fault.Is(err, fault.Missing) {
			continue // it was made after the list of open jobs was read, or who knows
		}
		if task.Phase == compute.Running {
			d.stop(ctx, id) // nobody waits for it any more
			continue
		}
		if err := d.Runtime.Remove(ctx, id); err != nil {
			d.Log.Error("remove an ended task", "task", id, "err", err)
		}
	}
}

// adopt takes note of a task that runs, also of one that an earlier server
// launched.
func (d *Dispatcher) adopt(ctx context.Context, r tracking.Run, task compute.Observed) {
	id := TaskID(r.Workspace, r.ID)
	if _, known := d.running[id]; !known {
		w, ok := d.demand(ctx, r)
		if !ok {
			return
		}
		delete(d.ready, id)
		d.running[id] = w
	}
	if r.Status != tracking.Running {
		d.later(r, func(r *tracking.Run) error { return nowRunning(r, task.Started) })
	}
}

// nowRunning moves a run to Running.
func nowRunning(r *tracking.Run, started time.Time) error {
	if r.Status == tracking.CancelRequested {
		return nil
	}
	r.Reason = ""
	if r.Start == 0 {
		r.Start = tracking.Millis(started)
	}
	return job.Move(r, tracking.Running)
}

// change writes a run's row and logs what went wrong with it.
func (d *Dispatcher) change(ctx context.Context, r tracking.Run, change func(*tracking.Run) error) bool {
	_, err := d.Runs.ChangeRun(ctx, r.Workspace, r.ID, change)
	if err != nil && ctx.Err() == nil && !errors.Is(err, errCanceled) {
		d.Log.Error("write the state of a job", "job", r.ID, "err", err)
	}
	return err == nil
}

// edit is a change of a run that a pass has decided on.
type edit struct {
	run    tracking.Run
	change func(*tracking.Run) error
}

// later writes a run's row when the pass is over. The lock is held.
func (d *Dispatcher) later(r tracking.Run, change func(*tracking.Run) error) {
	d.edits = append(d.edits, edit{r, change})
}

// end writes the last word on a job when the pass is over. The lock is held.
func (d *Dispatcher) end(r tracking.Run, e ending) {
	now := tracking.Millis(d.Now())
	d.later(r, func(r *tracking.Run) error { return settled(r, e, now) })
}

// atOnce is how many runs are written at once: the store makes one commit of
// them.
const atOnce = 64

// flush writes what the pass has decided on.
func (d *Dispatcher) flush(ctx context.Context) {
	edits := d.edits
	d.edits = nil
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, e := range edits {
		group.Go(func() error {
			d.change(ctx, e.run, e.change)
			return nil
		})
	}
	group.Wait()
}

// site returns the workspace of a run.
func (d *Dispatcher) site(ctx context.Context, workspace string) (ml.Site, error) {
	if s, ok := d.sites[workspace]; ok {
		return s, nil
	}
	after := ""
	for {
		page, err := d.Resources.List(ctx, resource.Query{Type: ml.Workspaces, Limit: 1000, After: after})
		if err != nil {
			return ml.Site{}, err
		}
		for _, r := range page.Resources {
			if s, err := ml.SiteFrom(r); err == nil {
				d.sites[s.GUID] = s
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if s, ok := d.sites[workspace]; ok {
		return s, nil
	}
	return ml.Site{}, fault.NotFound("the job's workspace is gone")
}

// demand reads what a job needs; false if it cannot be read now.
func (d *Dispatcher) demand(ctx context.Context, r tracking.Run) (demand, bool) {
	id := TaskID(r.Workspace, r.ID)
	if w, ok := d.ready[id]; ok {
		w.run = r
		return w, true
	}
	w, err := d.read(ctx, r)
	if err != nil {
		if ctx.Err() == nil {
			d.Log.Error("read a job", "job", r.ID, "err", err)
		}
		return demand{}, false
	}
	d.ready[id] = w
	return w, true
}

// read reads what a job needs. What keeps it from ever starting is its flaw: one
// that runs already can do without.
func (d *Dispatcher) read(ctx context.Context, r tracking.Run) (demand, error) {
	w := demand{id: TaskID(r.Workspace, r.ID), run: r}
	flawed := func(err error) (demand, error) {
		if fault.Find(err) == nil {
			return w, err
		}
		w.flaw = err
		return w, nil
	}
	site, err := d.site(ctx, r.Workspace)
	if err != nil {
		return flawed(err)
	}
	w.site = site
	res, err := d.Resources.Get(ctx, site.ID.Child("jobs", r.ID))
	if err != nil {
		return flawed(err)
	}
	j, err := job.Parse(res.Properties)
	if err != nil {
		return flawed(err)
	}
	w.job = j
	if !job.Serverless(j.ComputeID) {
		id, err := resource.ParseID(strings.TrimPrefix(j.ComputeID, "azureml:"))
		if err != nil {
			id = site.ID.Child("computes", strings.TrimPrefix(j.ComputeID, "azureml:"))
		}
		w.compute = id
	}
	if t := j.Resources.InstanceType; t != "" {
		w.size, _ = compute.ParseSize(t)
	}
	env, err := job.FindEnvironment(ctx, d.Resources, site.ID, j.EnvironmentID)
	if err != nil {
		return flawed(err)
	}
	if w.env, err = environment.Want(env.Properties); err != nil {
		return flawed(err)
	}
	w.hash = w.env.Recipe.Hash()
	if w.env.Container != "" {
		return flawed(fault.Invalid("The environment '%s:%s' cannot be made here: %s.", env.ID.Parent().Name(), env.ID.Name(), w.env.Container).With("UserError"))
	}
	return w, nil
}

// failure is how a fault ends a job.
func failure(err error) ending {
	e := ending{status: tracking.Failed, code: "SystemError", message: "The job could not be started for a reason that the server's log tells."}
	if f := fault.Find(err); f != nil {
		e.message = f.Message
		if f.Kind != fault.Internal && f.Kind != fault.Unavailable && f.Kind != fault.StorageFull {
			e.code = "UserError"
		}
	}
	return e
}
