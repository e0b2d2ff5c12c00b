package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lapis/ml/serving"
)

// deployment admits requests and hands them instances. It stays from one table
// to the next.
type deployment struct {
	g              *Gateway
	endpoint, name string

	mu        sync.Mutex
	cfg       serving.Deployment
	closed    bool // out of the routes: serves who waits, admits nobody
	instances []*instance
	waiting   []*waiter // first come, first served; [0] is the oldest
	woken     time.Time // when the last wake event went out
	refused   time.Time // the last event of a refusal

	retries atomic.Int64 // attempts under way that the budget counts
	active  atomic.Int64 // requests that have an instance

	stats  stats
	mirror mirror
}

func newDeployment(g *Gateway, endpoint, name string) *deployment {
	d := &deployment{g: g, endpoint: endpoint, name: name}
	d.mirror.init(d)
	return d
}

// waiter is a request that waits for an instance.
type waiter struct {
	ready chan *instance // one is sent, or it is closed: there will be none
}

// heldAtMost bounds the requests that wait for the first instance of a
// deployment that has none.
const heldAtMost = 1000

// update makes the deployment as the routes say, and returns the instances that
// are out of them now.
func (d *deployment) update(c serving.Deployment) (left []*instance) {
	d.mu.Lock()
	known := map[serving.Instance]*instance{}
	for _, i := range d.instances {
		known[i.Instance] = i
	}
	if d.cfg.Generation != c.Generation {
		d.mirror.report.reset() // a report is about one version
	}
	d.cfg, d.closed = c, false
	d.instances = make([]*instance, 0, len(c.Instances))
	for _, ci := range c.Instances {
		i := known[ci]
		if i == nil {
			i = newInstance(d, ci)
		}
		delete(known, ci)
		d.instances = append(d.instances, i)
	}
	for _, i := range known {
		i.retire()
		left = append(left, i)
	}
	d.dispatch()
	d.mu.Unlock()
	return left
}

// close takes the deployment out of the routes. Who waits for an instance is
// still served.
func (d *deployment) close() []*instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	left := d.instances
	if len(d.waiting) == 0 {
		d.instances = nil
		for _, i := range left {
			i.retire()
		}
	}
	return left
}

// config is how the deployment is set up now.
func (d *deployment) config() serving.Deployment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// full tells whether a request that came now would be refused. It is asked
// before a body is read.
func (d *deployment) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) < d.room() || d.pick() != nil {
		return false
	}
	d.tell(&d.refused, serving.EventRefused, "")
	return true
}

// room is how many requests may wait. The caller holds mu.
func (d *deployment) room() int {
	n := max(d.cfg.Capacity, 1) * max(d.cfg.Concurrency, 1)
	if len(d.instances) == 0 && d.cfg.Wake {
		return max(n, heldAtMost)
	}
	return n
}

// pick returns the least busy instance that takes a request, nil if none does.
// The caller holds mu.
func (d *deployment) pick() *instance {
	n := len(d.instances)
	if n == 0 {
		return nil
	}
	out := 0
	for _, i := range d.instances {
		if i.ejected {
			out++
		}
	}
	panicking := out*2 > n // more than half: then it is not the instances
	most := max(d.cfg.Concurrency, 1)
	var best *instance
	at := 0
	if n > 1 {
		at = rand.IntN(n) // so that of equals none comes first
	}
	for range n {
		i := d.instances[at]
		if at++; at == n {
			at = 0
		}
		if i.running < most && !i.down && (!i.ejected || panicking) && (best == nil || i.running < best.running) {
			best = i
		}
	}
	return best
}

// take makes the request one that the instance works on. The caller holds mu.
func (d *deployment) take(i *instance) {
	i.running++
	d.active.Add(1)
}

// acquire waits for an instance until the deadline, or as long as a sleeping
// deployment holds requests. Requests that come again (after an instance that
// did not take them) go first.
// held tells that the deployment was asleep: the time until now is not the
// request's.
func (d *deployment) acquire(ctx context.Context, deadline time.Time, again bool) (_ *instance, held bool, _ *refusal) {
	d.mu.Lock()
	if i := d.pick(); i != nil && (len(d.waiting) == 0 || again) {
		d.take(i)
		d.mu.Unlock()
		return i, false, nil
	}
	asleep := len(d.instances) == 0
	switch {
	case asleep && (!d.cfg.Wake || d.closed):
		d.mu.Unlock()
		return nil, false, noInstance
	case !again && len(d.waiting) >= d.room():
		d.tell(&d.refused, serving.EventRefused, "")
		d.mu.Unlock()
		return nil, false, busy
	}
	until, verdict := deadline, late
	if asleep {
		d.tell(&d.woken, serving.EventWake, "")
		until, verdict = time.Now().Add(d.cfg.Hold), notWoken
	} else if d.cfg.QueueWait > 0 {
		if end := time.Now().Add(d.cfg.QueueWait); end.Before(deadline) {
			until, verdict = end, waitedLong
		}
	}
	w := &waiter{ready: make(chan *instance, 1)}
	if again {
		d.waiting = slices.Insert(d.waiting, 0, w)
	} else {
		d.waiting = append(d.waiting, w)
	}
	d.mu.Unlock()

	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case i, ok := <-w.ready:
		if !ok {
			return nil, false, noInstance
		}
		return i, asleep, nil
	case <-timer.C:
	case <-ctx.Done():
		verdict = callerLeft
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case i, ok := <-w.ready: // it came at the last moment
		if ok {
			d.free(i)
		}
		return nil, false, verdict
	default:
	}
	if at := slices.Index(d.waiting, w); at >= 0 {
		d.waiting = slices.Delete(d.waiting, at, at+1)
	}
	d.settle()
	if verdict == late && len(d.instances) > 0 && !slices.ContainsFunc(d.instances, func(i *instance) bool { return !i.down }) {
		verdict = unreachable // it did not take long, it was not there
	}
	return nil, false, verdict
}

// tell emits an event, at most one a second. The caller holds mu.
func (d *deployment) tell(last *time.Time, kind, reason string) {
	if now := time.Now(); now.Sub(*last) >= time.Second {
		*last = now
		d.g.events.add(serving.Event{Kind: kind, Endpoint: d.endpoint, Deployment: d.name, Reason: reason})
	}
}

// release ends the work of a request on an instance.
func (d *deployment) release(i *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free(i)
}

// free is release for who holds mu.
func (d *deployment) free(i *instance) {
	i.running--
	d.active.Add(-1)
	d.dispatch()
	if i.running == 0 && i.retired {
		d.g.drained.fire()
	}
}

// dispatch hands instances to those who wait. The caller holds mu.
func (d *deployment) dispatch() {
	n := 0
	for n < len(d.waiting) {
		i := d.pick()
		if i == nil {
			break
		}
		d.take(i)
		d.waiting[n].ready <- i
		n++
	}
	if n > 0 {
		d.waiting = slices.Delete(d.waiting, 0, n)
	}
	if len(d.instances) == 0 && len(d.waiting) > 0 && (!d.cfg.Wake || d.closed) {
		for _, w := range d.waiting {
			close(w.ready)
		}
		d.waiting = nil
	}
	d.settle()
}

// settle lets go of the instances of a closed deployment when nobody waits for
// them any more. The caller holds mu.
func (d *deployment) settle() {
	if !d.closed || len(d.waiting) > 0 || len(d.instances) == 0 {
		return
	}
	for _, i := range d.instances {
		i.retire()
	}
	d.instances = nil
	d.g.drained.fire()
}

// Of the attempts under way, how many may be third ones or later: a share of
// all, and some in any case. A second one is free: it follows a kept connection
// that turned out to be closed.
const (
	retryShare = 0.2
	retryFloor = 3
)

// retry asks whether one more attempt fits the budget; if so, retries goes down
// again when it has ended.
func (d *deployment) retry() bool {
	if n := d.retries.Add(1); n > retryFloor && float64(n) > retryShare*float64(d.active.Load()) {
		d.retries.Add(-1)
		return false
	}
	return true
}
