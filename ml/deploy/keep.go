package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/serving"
	"lapis/pattern"
	"lapis/resource"
)

var reference = pattern.New(`\$\{\{\s*([^}]*?)\s*\}\}`)

// instanceID is the name by which the gateway knows an instance: that of the
// group, which stands in the task's, and its number.
func instanceID(g *group, number int) string {
	_, name, _ := strings.Cut(g.task, "/")
	return name + "/" + strconv.Itoa(number)
}

// Wake asks for a pass.
func (d *Deployer) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// tick is how long a lost wake can cost, and how often groups are looked at.
const tick = time.Second

// restPass is the least time between two passes.
const restPass = 20 * time.Millisecond

// Run keeps what was deployed until ctx ends.
func (d *Deployer) Run(ctx context.Context) error {
	defer d.work.Wait()
	d.work.Go(func() { d.listen(ctx) })
	clock := time.NewTicker(tick)
	defer clock.Stop()
	for {
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.Log.Error("look at deployments", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restPass):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-d.Runtime.Ended():
		case <-clock.C:
		}
	}
}

// adopt takes note of the groups that are there.
func (d *Deployer) adopt(ctx context.Context) error {
	all, err := d.deployments(ctx)
	if err != nil {
		return err
	}
	tasks, err := d.Runtime.List(ctx)
	if err != nil {
		return err
	}
	running := map[string]bool{}
	for _, t := range tasks {
		running[t.ID] = t.Phase == compute.Running
	}
	for _, r := range all {
		s := r.status
		if s.Live == nil {
			continue
		}
		site, err := ml.SiteOf(ctx, d.Resources, r.ID)
		if err != nil {
			d.Log.Error("find the workspace of a deployment", "deployment", r.ID.String(), "err", err)
			continue
		}
		g := d.known(taskID(site.GUID, r.ID, s.Live.ID), r.ID, s.Live.ID, s.Live.Spec)
		if !running[g.task] {
			continue
		}
		seen, err := d.look(ctx, g)
		if err != nil {
			d.Log.Warn("a group does not tell how it is", "group", g.task, "err", err)
			continue
		}
		d.mu.Lock()
		g.count = len(seen.Instances)
		d.mu.Unlock()
	}
	d.mu.Lock()
	d.ready = true
	d.mu.Unlock()
	return nil
}

// pass looks at how things are and does what is due.
func (d *Deployer) pass(ctx context.Context) error {
	d.mu.Lock()
	ready := d.ready
	moving := map[string]bool{} // as they were before anything was read
	for key := range d.busy {
		moving[key] = true
	}
	d.mu.Unlock()
	if !ready {
		if err := d.Route(ctx); err != nil { // adopts first
			return err
		}
	}
	all, err := d.deployments(ctx)
	if err != nil {
		return err
	}
	tasks, err := d.Runtime.List(ctx)
	if err != nil {
		return err
	}
	observed := map[string]compute.Observed{}
	for _, t := range tasks {
		observed[t.ID] = t
	}
	named := map[string]bool{}    // tasks that a status names
	changing := map[string]bool{} // beginnings of tasks of deployments that are about to change
	hashes := map[string]bool{}   // of environments
	stale := false                // the routes
	var replaced []replacement    // generations that may come back
	sites := map[string]ml.Site{} // by the key of their workspaces
	for _, r := range all {
		home := ml.Home(r.ID).Key()
		site, ok := sites[home]
		if !ok {
			if site, err = ml.SiteOf(ctx, d.Resources, r.ID); err != nil {
				continue // deleted, and perhaps restored later
			}
			sites[home] = site
		}
		s := r.status
		key := r.ID.Key()
		d.mu.Lock()
		busy := d.busy[key] > 0 || moving[key]
		d.mu.Unlock()
		if busy || s.State == resource.Creating || s.State == resource.Updating {
			changing[taskID(site.GUID, r.ID, "")] = true
		}
		if s.Live == nil {
			continue
		}
		hashes[s.Live.Spec.Recipe.Hash()] = true
		if s.Previous != nil {
			hashes[s.Previous.Spec.Recipe.Hash()] = true
		}
		task := taskID(site.GUID, r.ID, s.Live.ID)
		if !s.Asleep {
			named[task] = true
		}
		if busy || s.Asleep {
			continue
		}
		if p, ok := d.replacement(site, r, observed); ok {
			replaced = append(replaced, p)
		}
		g := d.known(task, r.ID, s.Live.ID, s.Live.Spec)
		if o := observed[task]; o.Phase != compute.Running {
			d.revive(ctx, r.Resource, g, s)
			continue
		}
		if d.tend(ctx, r.Resource, g, s) {
			stale = true
		}
	}
	d.mu.Lock()
	d.hashes = hashes
	d.mu.Unlock()
	if stale {
		if err := d.Route(ctx); err != nil {
			return err
		}
	}
	for _, p := range d.kept(replaced) {
		named[p.task] = true
		d.empty(ctx, p)
	}
	d.sweep(ctx, observed, named, changing)
	return d.rest(ctx, all)
}

// Uses tells whether a deployment uses the environment of that hash.
func (d *Deployer) Uses(hash string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hashes == nil || d.hashes[hash] {
		return true
	}
	for _, g := range d.groups {
		if g.spec.Recipe.Hash() == hash {
			return true
		}
	}
	return false
}

// tend looks at a group that runs, and tells whether the routes have to change.
func (d *Deployer) tend(ctx context.Context, r resource.Resource, g *group, s Status) bool {
	d.mu.Lock()
	before := reachable(g, s.capacity())
	d.mu.Unlock()
	seen, err := d.look(ctx, g)
	if err != nil {
		return false // it is just beginning, or just ending
	}
	d.mu.Lock()
	after := reachable(g, s.capacity())
	if len(after) > 0 && g.tries > 0 && allReady(seen, s.capacity()) {
		g.tries = 0
	}
	known := d.live[r.ID.Key()] == g.task
	wrong := g.count != s.capacity()
	d.mu.Unlock()
	if wrong {
		d.background(ctx, r.ID, func(ctx context.Context) {
			if err := d.settleCount(ctx, g, s.capacity()); err != nil && ctx.Err() == nil {
				d.Log.Error("change the number of instances", "deployment", r.ID.String(), "err", err)
			}
		})
	}
	return !known || !reflect.DeepEqual(before, after)
}

func allReady(seen serving.Group, count int) bool {
	n := 0
	for _, in := range seen.Instances {
		if in.State == serving.Ready {
			n++
		}
	}
	return n >= count
}

// background does work on a deployment beside the passes, one at a time.
func (d *Deployer) background(ctx context.Context, id resource.ID, work func(context.Context)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id.Key()] > 0 {
		return
	}
	d.busy[id.Key()]++
	d.work.Go(func() {
		defer d.Wake()
		defer d.release(id.Key())
		work(ctx)
	})
}

// maxBackoff bounds the time between two starts of a group that keeps dying.
const maxBackoff = 30 * time.Second

// revive starts a group again that is not there any more.
func (d *Deployer) revive(ctx context.Context, r resource.Resource, g *group, s Status) {
	d.mu.Lock()
	due := !d.Now().Before(g.next)
	g.instances = nil
	d.mu.Unlock()
	if !due {
		return
	}
	d.background(ctx, r.ID, func(ctx context.Context) {
		d.mu.Lock()
		if g.tries > 0 {
			g.next = d.Now().Add(min(time.Second<<min(g.tries-1, 10), maxBackoff))
		}
		g.tries++
		d.mu.Unlock()
		d.Log.Warn("start a group again", "deployment", r.ID.String(), "generation", g.generation)
		if err := d.restart(ctx, r, g, max(s.capacity(), 1)); err != nil && ctx.Err() == nil {
			d.Log.Error("start a group again", "deployment", r.ID.String(), "err", err)
			var c *crash
			if errors.As(err, &c) {
				d.keepLog(ctx, g)
				d.note(ctx, r, fault.New(fault.Conflict, "ResourceNotReady", "%s", withFix(inTask.ReplaceAllString(c.first, ""), g.spec)))
			}
		}
	})
}

// restart brings the group of a live generation up and into the routes.
func (d *Deployer) restart(ctx context.Context, r resource.Resource, g *group, count int) error {
	w, err := read(ctx, d.Resources, r)
	if err != nil {
		return err
	}
	log, err := d.startLog(r.ID)
	if err != nil {
		return err
	}
	defer log.Close()
	if o, ok := d.observe(ctx, g.task); ok && o.Phase == compute.Exited {
		d.keepLog(ctx, g)
	}
	if err := d.launch(ctx, r, w, g, count, log); err != nil {
		return err
	}
	if err := d.proven(ctx, g, 1, log); err != nil {
		return err
	}
	if err := d.write(ctx, r.ID, map[string]any{"stage": nil, "failure": nil}); err != nil {
		return err
	}
	return d.Route(ctx)
}

// settleCount brings a group to a number of instances. The routes already leave
// out those that go.
func (d *Deployer) settleCount(ctx context.Context, g *group, count int) error {
	d.mu.Lock()
	var going []string
	first := lowest(g.instances)
	for _, in := range g.instances {
		if in.Number >= first+count {
			going = append(going, instanceID(g, in.Number))
		}
	}
	timeout := g.spec.Timeout
	d.mu.Unlock()
	if len(going) > 0 {
		if err := d.Route(ctx); err != nil {
			return err
		}
		d.drained(ctx, going, timeout)
	}
	_, err := d.resize(ctx, g, count)
	return err
}

// drained waits until nothing works on requests in these instances, as long as
// a request may take.
func (d *Deployer) drained(ctx context.Context, instances []string, timeout time.Duration) {
	if len(instances) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+5*time.Second)
	defer cancel()
	if err := d.Gateway.Drained(ctx, instances); err != nil && ctx.Err() == nil {
		d.Log.Warn("wait for instances to end their requests", "err", err)
		if fault.Is(err, fault.Unavailable) { // it is away, and its callers with it
			return
		}
	}
}

// What an update has replaced stays for a while, so that it is there at once when
// it is wanted back: its group, which has loaded what its instances are made from,
// without an instance. One for each deployment, maxKept on the server, and none
// where less than a part minFree of the memory is free.
const (
	keepFor = 15 * time.Minute
	maxKept = 8
	minFree = 10
)

// replacement is a generation that was replaced and whose group runs.
type replacement struct {
	task       string
	deployment resource.ID
	generation Generation
	since      time.Time
}

// replacement is what a rollback of the deployment would bring back, if that is
// to be kept.
func (d *Deployer) replacement(site ml.Site, r stored, observed map[string]compute.Observed) (replacement, bool) {
	s := r.status
	if s.Previous == nil || s.Previous.ID == s.Live.ID {
		return replacement{}, false
	}
	p := replacement{task: taskID(site.GUID, r.ID, s.Previous.ID), deployment: r.ID, generation: *s.Previous}
	var err error
	if p.since, err = time.Parse(time.RFC3339, s.Live.At); err != nil || observed[p.task].Phase != compute.Running {
		return p, false
	}
	age := d.Now().Sub(p.since)
	return p, age < keepFor && age > -keepFor // the clock may have been set
}

// kept are those that there is room for, the latest first.
func (d *Deployer) kept(all []replacement) []replacement {
	if d.Free != nil && len(all) > 0 && d.Free() < d.Machine.Memory/minFree {
		return nil
	}
	slices.SortStableFunc(all, func(a, b replacement) int { return b.since.Compare(a.since) })
	return all[:min(len(all), maxKept)]
}

// empty takes the instances from a group that was replaced, once they have ended
// their requests.
func (d *Deployer) empty(ctx context.Context, p replacement) {
	d.mu.Lock()
	g := d.groups[p.task]
	if g == nil {
		g = &group{task: p.task, dir: d.socketDir(p.task), deployment: p.deployment, generation: p.generation.ID, spec: p.generation.Spec}
		d.groups[p.task] = g
	}
	due := !g.spare && d.busy[p.task] == 0 && d.busy[p.deployment.Key()] == 0 && d.live[p.deployment.Key()] != p.task
	if due {
		g.retired = true
		d.busy[p.task]++
	}
	d.mu.Unlock()
	if !due {
		return
	}
	d.work.Go(func() {
		defer d.release(p.task)
		if _, err := d.look(ctx, g); err != nil {
			return // it is just beginning, or just ending
		}
		ids, timeout := d.instancesOf(g)
		d.drained(ctx, ids, timeout)
		g.orders.Lock()
		defer g.orders.Unlock()
		d.mu.Lock()
		wanted := !g.retired // back, meanwhile
		d.mu.Unlock()
		if wanted || ctx.Err() != nil {
			return
		}
		seen, err := d.Groups.Resize(ctx, g.dir, 0)
		if err != nil {
			d.Log.Warn("empty a group that was replaced", "group", g.task, "err", err)
			return
		}
		d.mu.Lock()
		g.count, g.instances, g.spare = 0, seen.Instances, g.retired
		d.mu.Unlock()
	})
}

// instancesOf are the ids of a group's instances, and how long they may work on
// what they have.
func (d *Deployer) instancesOf(g *group) ([]string, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for _, in := range g.instances {
		ids = append(ids, instanceID(g, in.Number))
	}
	return ids, max(g.spec.Timeout, 5*time.Second)
}

// sweep ends the groups that no deployment names.
func (d *Deployer) sweep(ctx context.Context, observed map[string]compute.Observed, named, changing map[string]bool) {
	for task, o := range observed {
		if named[task] {
			continue
		}
		owner := task[:strings.LastIndexByte(task, '/')+1]
		if changing[owner] {
			continue
		}
		d.mu.Lock()
		g := d.groups[task]
		if g == nil {
			g = &group{task: task, dir: d.socketDir(task), generation: task[len(owner):]}
			d.groups[task] = g
		}
		ends := d.busy[task] == 0 && d.busy[g.deployment.Key()] == 0 && !slices.Contains(slices.Collect(maps.Values(d.live)), task)
		if ends {
			g.retired, g.ending = true, true
			d.busy[task]++
		}
		unseen := len(g.instances) == 0
		d.mu.Unlock()
		if !ends {
			continue
		}
		d.work.Go(func() {
			defer d.release(task)
			if o.Phase == compute.Running && unseen {
				_, _ = d.look(ctx, g) // one that does not tell has nothing to end
			}
			d.end(ctx, g)
			d.mu.Lock()
			g.ending = false
			d.mu.Unlock()
		})
	}
}

// end lets a group that is out of the routes end its requests, stops it and
// forgets it. What is interrupted, the next pass does again.
func (d *Deployer) end(ctx context.Context, g *group) {
	ids, timeout := d.instancesOf(g)
	d.drained(ctx, ids, timeout)
	if err := d.stop(ctx, g); err != nil {
		if ctx.Err() == nil {
			d.Log.Error("stop a group", "group", g.task, "err", err)
		}
		return
	}
	d.mu.Lock()
	if d.groups[g.task] == g && g.retired {
		delete(d.groups, g.task)
	}
	d.mu.Unlock()
}

// stop ends a group, which lets its instances end first, and removes what is left
// of it.
func (d *Deployer) stop(ctx context.Context, g *group) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		o, ok := d.observe(ctx, g.task)
		if !ok {
			break
		}
		if o.Phase == compute.Exited {
			if err := d.Runtime.Remove(ctx, g.task); err != nil {
				return err
			}
			break
		}
		if err := d.Runtime.Stop(ctx, g.task); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	if err := d.removeContainers(ctx, g); err != nil {
		return err
	}
	return os.RemoveAll(g.dir)
}

// listen waits for what the gateway wants the control plane to know.
func (d *Deployer) listen(ctx context.Context) {
	after := int64(0)
	for ctx.Err() == nil {
		events, err := d.Gateway.Events(ctx, after)
		if err != nil || len(events) == 0 {
			if err != nil && ctx.Err() == nil && !fault.Is(err, fault.Unavailable) && !errors.Is(err, context.DeadlineExceeded) {
				d.Log.Error("listen to the gateway", "err", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		for _, e := range events {
			after = max(after, e.Number)
			if e.Kind == serving.EventWake {
				d.rouse(ctx, e)
			}
		}
	}
}

// rouse starts the instances of a deployment that sleeps.
func (d *Deployer) rouse(ctx context.Context, e serving.Event) {
	all, err := d.deployments(ctx)
	if err != nil {
		d.Log.Error("wake a deployment", "err", err)
		return
	}
	for _, r := range all {
		if !strings.EqualFold(r.ID.Name(), e.Deployment) || !strings.EqualFold(r.ID.Parent().Name(), e.Endpoint) {
			continue
		}
		s := r.status
		if s.Live == nil || !s.Asleep {
			return
		}
		site, err := ml.SiteOf(ctx, d.Resources, r.ID)
		if err != nil {
			return
		}
		d.background(ctx, r.ID, func(ctx context.Context) {
			g := d.known(taskID(site.GUID, r.ID, s.Live.ID), r.ID, s.Live.ID, s.Live.Spec)
			err := d.write(ctx, r.ID, map[string]any{"asleep": nil, "capacity": 1}, d.activity(r.ID, "wake", "a request came"))
			if err == nil {
				d.used(r.ID)
				err = d.restart(ctx, r.Resource, g, 1)
			}
			if err != nil && ctx.Err() == nil {
				d.Log.Error("wake a deployment", "deployment", r.ID.String(), "err", err)
			}
		})
		return
	}
}

func (d *Deployer) used(id resource.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[id.Key()] = &use{requests: -1, at: d.Now()}
}

// rest stops the instances of deployments that may have none and that nobody
// asks.
func (d *Deployer) rest(ctx context.Context, all []stored) error {
	var sleepers []stored
	for _, r := range all {
		if s := r.status; s.Live != nil && s.Live.Spec.Idle > 0 && !s.Asleep && s.State != resource.Updating {
			sleepers = append(sleepers, r)
		}
	}
	if len(sleepers) == 0 {
		return nil
	}
	state, err := d.Gateway.State(ctx)
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			return nil
		}
		return err
	}
	for _, r := range sleepers {
		s := r.status
		requests, active := asked(state, r.ID)
		d.mu.Lock()
		u := d.seen[r.ID.Key()]
		if u == nil || u.requests != requests || active {
			u = &use{requests: requests, at: d.Now()}
			d.seen[r.ID.Key()] = u
		}
		idle := d.Now().Sub(u.at) >= s.Live.Spec.Idle
		d.mu.Unlock()
		if !idle {
			continue
		}
		d.background(ctx, r.ID, func(ctx context.Context) {
			reason := fmt.Sprintf("no request for %s", s.Live.Spec.Idle)
			if err := d.write(ctx, r.ID, map[string]any{"asleep": true, "capacity": 0}, d.activity(r.ID, "sleep", reason)); err != nil {
				d.Log.Error("let a deployment sleep", "deployment", r.ID.String(), "err", err)
				return
			}
			if err := d.Route(ctx); err != nil && ctx.Err() == nil {
				d.Log.Error("let a deployment sleep", "deployment", r.ID.String(), "err", err)
			}
		})
	}
	return nil
}

// asked counts the requests that a deployment was asked since the gateway was
// started, and tells whether it works on some.
func asked(state serving.State, id resource.ID) (int64, bool) {
	for _, e := range state.Endpoints {
		if !strings.EqualFold(e.Name, id.Parent().Name()) {
			continue
		}
		for _, dep := range e.Deployments {
			if !strings.EqualFold(dep.Name, id.Name()) {
				continue
			}
			n := dep.Mirrored
			for _, c := range dep.Requests {
				n += c.Count
			}
			return n, dep.Running+dep.Waiting > 0
		}
	}
	return 0, false
}

// activity is an entry of the log of what was done by whom.
func (d *Deployer) activity(id resource.ID, verb, reason string) resource.Activity {
	return resource.Activity{At: d.Now(), Caller: "Lapis", Action: id.Type() + "/" + verb + "/action", Resource: id, Result: "Succeeded", Reason: reason}
}

// Scale brings a deployment to a number of instances, for a reason that the
// activity log shows. It returns when that is decided; the instances follow.
func (d *Deployer) Scale(ctx context.Context, id resource.ID, count int, reason string) error {
	if count < 0 || count > maxInstances {
		return fault.Invalid("a deployment may have 0 to %d instances, not %d", maxInstances, count).With("OutOfQuota").At("sku.capacity")
	}
	r, err := d.Resources.Get(ctx, id)
	if err != nil {
		return err
	}
	s := statusOf(r)
	if s.Live == nil {
		return fault.Conflicts("The deployment '%s' does not serve, so it cannot be scaled.", id.Name()).With("ResourceNotReady")
	}
	if count == s.capacity() && s.Asleep == (count == 0) {
		return nil
	}
	if err := d.room(ctx, r, count); err != nil {
		return err
	}
	members := map[string]any{"capacity": count, "asleep": nil}
	if count == 0 {
		members["asleep"], members["sleeps"] = true, true
	}
	err = d.write(ctx, id, members, d.activity(id, "scale", fmt.Sprintf("%d to %d: %s", s.capacity(), count, reason)))
	if err != nil {
		return err
	}
	if count == 0 {
		return d.Route(ctx)
	}
	d.Wake()
	return nil
}
