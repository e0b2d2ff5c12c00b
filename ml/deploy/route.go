package deploy

import (
	"context"
	"time"

	"lapis/fault"
	"lapis/ml/endpoint"
	"lapis/ml/serving"
	"lapis/resource"
)

// awayFor is how long a change waits for a gateway that is just started again.
const awayFor = 15 * time.Second

// hold is how long a request waits for a deployment to wake.
const hold = 60 * time.Second

// Route implements endpoint.Deployer.
func (d *Deployer) Route(ctx context.Context) error {
	d.mu.Lock()
	ready := d.ready
	d.mu.Unlock()
	if !ready {
		// The gateway goes by what it has: what runs is not known yet.
		if err := d.adopt(ctx); err != nil {
			return err
		}
	}
	d.routing.Lock()
	defer d.routing.Unlock()
	routes, live, err := d.routes(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, awayFor)
	defer cancel()
	if d.version == 0 {
		// The clock may have been set back since the gateway was told last.
		if now, err := d.Gateway.State(ctx); err == nil {
			d.version = now.Version
		}
	}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		routes.Version = max(d.version+1, d.Now().UnixMicro())
		if err = d.Gateway.Apply(ctx, routes); err == nil {
			d.version = routes.Version
			d.mu.Lock()
			d.live = live
			d.mu.Unlock()
			return nil
		}
		if !fault.Is(err, fault.Unavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// routes are all routes as they should be now.
func (d *Deployer) routes(ctx context.Context) (serving.Routes, map[string]string, error) {
	r := serving.Routes{Trust: d.Trust}
	live := map[string]string{}
	var err error
	if r.Endpoints, err = d.Endpoints(ctx); err != nil {
		return r, nil, err
	}
	byEndpoint := map[string]int{}
	for i, e := range r.Endpoints {
		id, err := resource.ParseID(e.ID)
		if err != nil {
			return r, nil, err
		}
		byEndpoint[id.Key()] = i
		r.Endpoints[i].Deployments = nil
	}
	all, err := d.deployments(ctx)
	if err != nil {
		return r, nil, err
	}
	for _, one := range all {
		i, ok := byEndpoint[one.ID.Parent().Key()]
		if !ok || one.status.Live == nil {
			continue
		}
		e := &r.Endpoints[i]
		out, task := d.route(one.Resource, one.status)
		if task != "" {
			live[one.ID.Key()] = task
		}
		e.Deployments = append(e.Deployments, out)
	}
	return r, live, nil
}

// stored is a deployment as it is stored, with its status read.
type stored struct {
	resource.Resource
	status Status
}

// deployments are all that are there to stay: neither they nor their endpoints
// are on their way out.
func (d *Deployer) deployments(ctx context.Context) ([]stored, error) {
	endpoints, err := resource.All(ctx, d.Resources, resource.Query{Type: endpoint.EndpointType})
	if err != nil {
		return nil, err
	}
	stays := map[string]bool{}
	for _, e := range endpoints {
		stays[e.ID.Key()] = statusOf(e).State != resource.Deleting
	}
	all, err := resource.All(ctx, d.Resources, resource.Query{Type: endpoint.DeploymentType})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var staying []stored
	there := map[string]bool{}
	for _, r := range all {
		key := r.ID.Key()
		born, withdrawn := d.gone[key]
		there[key] = withdrawn && born == r.Born
		if s := statusOf(r); !there[key] && stays[r.ID.Parent().Key()] && s.State != resource.Deleting {
			staying = append(staying, stored{r, s})
		}
	}
	for key := range d.gone {
		if !there[key] {
			delete(d.gone, key)
		}
	}
	return staying, nil
}

// route is one deployment for the gateway.
func (d *Deployer) route(r resource.Resource, s Status) (serving.Deployment, string) {
	spec := s.Live.Spec
	runtime := spec.Runtime
	if ownServer(runtime) {
		runtime = serving.Program
	}
	out := serving.Deployment{Name: r.ID.Name(), ID: r.ID.String(), Generation: s.Live.ID, Runtime: runtime,
		ScoringPath: spec.ScoringPath, Timeout: spec.Timeout, Concurrency: spec.Concurrency, QueueWait: spec.QueueWait,
		Batch: spec.Batch, Collect: spec.Collect, Capacity: max(s.capacity(), 1), Instances: []serving.Instance{}}
	if spec.MinInstances == 0 || s.Sleeps {
		out.Wake, out.Hold = true, hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.groups {
		if g.deployment.Same(r.ID) && g.generation == s.Live.ID && !g.retired {
			if s.Asleep {
				return out, ""
			}
			out.Instances = reachable(g, s.capacity())
			return out, g.task
		}
	}
	return out, ""
}

// reachable are the instances of a group that requests may go to. When none is
// ready those that are coming back are better than none.
func reachable(g *group, count int) []serving.Instance {
	pick := func(fits func(serving.GroupInstance) bool) []serving.Instance {
		out := []serving.Instance{}
		for _, in := range g.instances {
			if fits(in) && in.Number < count+lowest(g.instances) {
				out = append(out, instance(g, in))
			}
		}
		return out
	}
	if ready := pick(func(in serving.GroupInstance) bool { return in.State == serving.Ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(in serving.GroupInstance) bool { return in.State != serving.Stopping && !in.Fatal })
}

// lowest is the number of the first instance of a group that is to stay.
func lowest(instances []serving.GroupInstance) int {
	n := 0
	for _, in := range instances {
		if in.State != serving.Stopping && (n == 0 || in.Number < n) {
			n = in.Number
		}
	}
	return n
}

func instance(g *group, in serving.GroupInstance) serving.Instance {
	return serving.Instance{ID: instanceID(g, in.Number), Network: in.Network, Address: in.Address, Frames: !ownServer(g.spec.Runtime)}
}
