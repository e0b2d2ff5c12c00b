package gateway

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lapis/ml/serving"
)

// stats count what a deployment has done since the gateway was started.
type stats struct {
	busy     atomic.Int64 // nanoseconds
	requests counts
	sum      atomic.Int64 // nanoseconds
	latency  [400]atomic.Int64
	mirrored atomic.Int64
	dropped  atomic.Int64 // copies that found the queue full
}

// add counts a request that has ended. Those that were answered count in the
// latency.
func (s *stats) add(status, model int, took time.Duration) {
	s.requests.add(status, model)
	if status < 500 && status != 429 && status != 408 && status != 499 && model != 0 {
		s.latency[serving.Bucket(took)].Add(1)
		s.sum.Add(int64(took))
	}
}

func (s *stats) histogram() serving.Histogram {
	h := serving.Histogram{Counts: make([]int64, serving.Buckets()), Sum: time.Duration(s.sum.Load())}
	for i := range h.Counts {
		h.Counts[i] = s.latency[i].Load()
		h.Count += h.Counts[i]
	}
	return h
}

// counts count requests by their end.
type counts struct{ by sync.Map } // [2]int{status, model} → *atomic.Int64

func (c *counts) add(status, model int) {
	key := [2]int{status, model}
	n, ok := c.by.Load(key)
	if !ok {
		n, _ = c.by.LoadOrStore(key, &atomic.Int64{})
	}
	n.(*atomic.Int64).Add(1)
}

func (c *counts) list() []serving.RequestCount {
	out := []serving.RequestCount{}
	c.by.Range(func(k, n any) bool {
		key := k.([2]int)
		out = append(out, serving.RequestCount{Status: key[0], Model: key[1], Count: n.(*atomic.Int64).Load()})
		return true
	})
	slices.SortFunc(out, func(a, b serving.RequestCount) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Model, b.Model))
	})
	return out
}

// State is what goes on now; see serving.Gateway.
func (g *Gateway) State() serving.State {
	t := g.table.Load()
	s := serving.State{Started: g.started, Time: time.Now(), Version: t.routes.Version, Endpoints: []serving.EndpointState{}}
	for _, e := range t.routes.Endpoints {
		rt := t.named[e.Name]
		es := serving.EndpointState{
			Name:        e.Name,
			Connections: rt.state.connections.Load(), Connected: rt.state.connected.Load(),
			BytesIn: rt.state.bytesIn.Load(), BytesOut: rt.state.bytesOut.Load(),
			Unrouted: map[string]int64{}, Deployments: []serving.DeploymentState{},
		}
		for _, c := range rt.state.unrouted.list() {
			es.Unrouted[strconv.Itoa(c.Status)] += c.Count
		}
		names := make([]*deployment, 0, len(rt.deployments))
		for _, d := range rt.deployments {
			names = append(names, d)
		}
		slices.SortFunc(names, func(a, b *deployment) int { return cmp.Compare(a.name, b.name) })
		for _, d := range names {
			es.Deployments = append(es.Deployments, d.state())
		}
		s.Endpoints = append(s.Endpoints, es)
	}
	return s
}

func (d *deployment) state() serving.DeploymentState {
	s := serving.DeploymentState{
		Name: d.name, Busy: time.Duration(d.stats.busy.Load()), Requests: d.stats.requests.list(),
		Latency: d.stats.histogram(), Mirrored: d.stats.mirrored.Load(), Instances: []serving.InstanceState{},
	}
	s.Collected, s.Lost = d.g.collect.counts(d.endpoint, d.name)
	d.mu.Lock()
	defer d.mu.Unlock()
	s.Waiting = int64(len(d.waiting))
	for _, i := range d.instances {
		s.Running += int64(i.running)
		s.Instances = append(s.Instances, serving.InstanceState{ID: i.ID, Running: int64(i.running), Ejected: i.ejected || i.down, Served: i.served, Failed: i.failed})
	}
	return s
}
