// Package rollout brings a new deployment into the traffic of its endpoint step
// by step, and takes it back by itself when it breaks an objective; it also tells
// how the answers of a shadow differ from the live ones.
package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/deploy"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/ml/serving"
	"lapis/resource"
)

// Router brings the gateway up to date with the endpoints that are stored.
type Router interface {
	Route(ctx context.Context) error
}

// Config is what a controller works with.
type Config struct {
	Resources resource.Store
	Monitor   *monitor.Monitor
	Gateway   serving.Gateway
	Router    Router
	Log       *slog.Logger
	Now       func() time.Time
}

// Controller looks at all rollouts after each reading of the gateway.
type Controller struct {
	Config
	states chan serving.State

	// Of the loop alone.
	changed   <-chan struct{}
	endpoints []resource.Resource
	evidence  map[string]*evidence // endpoint and rollout → what was seen
	said      map[string]string    // endpoint → what is wrong with its plan, so that it is logged once
	reroute   bool                 // the gateway has not got the last change yet
}

// New makes a controller. It listens to the monitor, so it is made before that
// runs.
func New(c Config) *Controller {
	r := &Controller{Config: c, states: make(chan serving.State, 1), evidence: map[string]*evidence{}, said: map[string]string{}}
	c.Monitor.Follow(func(_ context.Context, s serving.State) {
		select {
		case <-r.states: // one that was not looked at yet: counters only grow
		default:
		}
		r.states <- s
	})
	return r
}

// Run looks at rollouts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-c.states:
			if err := c.pass(ctx, s); err != nil && ctx.Err() == nil {
				c.Log.Error("rollouts", "err", err)
			}
		}
	}
}

func (c *Controller) pass(ctx context.Context, s serving.State) error {
	if c.reroute {
		if err := c.Router.Route(ctx); err != nil {
			return err
		}
		c.reroute = false
	}
	select {
	case <-c.changed:
		c.changed = nil
	default:
	}
	if c.changed == nil {
		changed := c.Resources.Notify()
		all, err := monitor.Endpoints(ctx, c.Resources)
		if err != nil {
			return err
		}
		c.endpoints, c.changed = all, changed
	}
	var errs []error
	for _, r := range c.endpoints {
		if err := c.look(ctx, r, s); err != nil && !errors.Is(err, resource.ErrChanged) && !fault.Is(err, fault.Missing) {
			errs = append(errs, fmt.Errorf("%s: %w", r.ID.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// runOf is the rollout that an endpoint's status tells of.
func runOf(r resource.Resource) (Run, bool) {
	var s struct {
		Canary *Run `json:"canary"`
	}
	if json.Unmarshal(r.Status, &s) != nil || s.Canary == nil {
		return Run{}, false
	}
	return *s.Canary, true
}

// look is a pass over one endpoint.
func (c *Controller) look(ctx context.Context, r resource.Resource, s serving.State) error {
	var p endpoint.Endpoint
	if err := json.Unmarshal(r.Properties, &p); err != nil || endpoint.StateOf(r) == resource.Deleting {
		return nil
	}
	plan, wanted, err := parsePlan(p.Properties)
	if err != nil {
		if c.said[r.ID.Key()] != err.Error() {
			c.Log.Warn("a canary cannot begin", "endpoint", r.ID.String(), "err", err)
		}
		c.said[r.ID.Key()] = err.Error()
		return nil
	}
	run, begun := runOf(r)
	if !wanted {
		if begun && run.open() {
			return c.change(ctx, r, nil, ended(run, Stopped, "it was ended by hand"), "stop")
		}
		return nil
	}
	generation, ok, err := c.generation(ctx, r.ID.Child("deployments", plan.deployment))
	if err != nil || !ok {
		return err
	}
	if !begun || run.Deployment != plan.deployment || run.Generation != generation || run.Key != plan.key() {
		return c.begin(ctx, r, p, plan, generation)
	}
	if !run.open() {
		return nil
	}
	if run.State == Running && p.Traffic[run.Deployment] != run.Percent {
		return c.change(ctx, r, nil, ended(run, Stopped, fmt.Sprintf("the traffic was changed by hand: '%s' has %d %% and not %d %%", run.Deployment, p.Traffic[run.Deployment], run.Percent)), "stop")
	}
	k := r.ID.Key() + "|" + run.Started.String()
	e := c.evidence[k]
	if e == nil {
		maps.DeleteFunc(c.evidence, func(other string, _ *evidence) bool { return strings.HasPrefix(other, r.ID.Key()+"|") }) // of rollouts before
		e = newEvidence(plan)
		c.evidence[k] = e
	}
	e.observe(s, r.ID.Name(), run.Deployment)
	if run.State == Watching && p.Traffic[run.Deployment] == 0 {
		return nil
	}
	next, now := plan.next(c.Now(), run, e)
	if !now {
		return nil
	}
	run.Requests, run.Failures = e.all.n, e.all.failed
	run.Step, run.Percent, run.State, run.Reason, run.Since = next.index, next.percent, next.state, next.reason, c.Now()
	switch next.state {
	case RolledBack:
		traffic, err := c.without(ctx, r, p, run)
		if err != nil {
			return err
		}
		if traffic == nil {
			run.State, run.Reason = Stopped, next.reason+"; there is no other deployment that serves to go back to"
			run.Percent = p.Traffic[run.Deployment]
		}
		return c.change(ctx, r, traffic, run, "rollback")
	case Promoted:
		return c.change(ctx, r, nil, run, "promote")
	}
	e.step, e.stepBeside = tally{}, tally{}
	return c.change(ctx, r, split(run.Before, run.Deployment, run.Percent), run, "step")
}

// without is the split without the canary: that of before, or the one that there
// is with the others in its part. Nil if none of them serves.
func (c *Controller) without(ctx context.Context, r resource.Resource, p endpoint.Endpoint, run Run) (map[string]int, error) {
	before := run.Before
	if len(before) == 0 {
		before = p.Traffic
	}
	there := map[string]int{}
	for name, percent := range before {
		if name == run.Deployment {
			continue
		}
		_, ok, err := c.generation(ctx, r.ID.Child("deployments", name))
		if err != nil {
			return nil, err
		}
		if ok {
			there[name] = percent
		}
	}
	if len(there) == 0 {
		return nil, nil
	}
	out := split(there, run.Deployment, 0)
	for name := range p.Traffic {
		if _, ok := out[name]; !ok {
			out[name] = 0
		}
	}
	return out, nil
}

// generation is that which a deployment serves; false if it does not.
func (c *Controller) generation(ctx context.Context, id resource.ID) (string, bool, error) {
	if id.Zero() {
		return "", false, nil
	}
	r, err := c.Resources.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	var s deploy.Status
	if json.Unmarshal(r.Status, &s) != nil || s.Live == nil || s.State == resource.Deleting {
		return "", false, nil
	}
	return s.Live.ID, true, nil
}

// begin starts a rollout, where there is live traffic to begin with.
func (c *Controller) begin(ctx context.Context, r resource.Resource, p endpoint.Endpoint, plan plan, generation string) error {
	run := Run{Deployment: plan.deployment, Generation: generation, Key: plan.key(), Started: c.Now(), Since: c.Now(), Before: p.Traffic}
	if len(plan.steps) == 0 {
		run.State = Watching
		run.Before = nil
		return c.change(ctx, r, nil, run, "watch")
	}
	others := live(p.Traffic) - p.Traffic[plan.deployment]
	if others == 0 {
		return nil
	}
	if p.MirrorTraffic[plan.deployment] > 0 {
		return nil // it is a shadow still
	}
	run.Before = maps.Clone(p.Traffic)
	run.Before[plan.deployment] = 0
	run.Before = split(run.Before, plan.deployment, 0)
	run.State, run.Percent = Running, plan.steps[0]
	run.Reason = fmt.Sprintf("a canary of '%s' begins, in steps of %v %%", plan.deployment, plan.steps)
	return c.change(ctx, r, split(run.Before, plan.deployment, run.Percent), run, "step")
}

func ended(r Run, state, reason string) Run {
	r.State, r.Reason = state, reason
	return r
}

// live is the traffic that a split gives to anyone.
func live(traffic map[string]int) int {
	sum := 0
	for _, percent := range traffic {
		sum += percent
	}
	return sum
}

// change stores how a rollout goes, with the split that follows from it (nil: it
// stays), and tells the gateway.
func (c *Controller) change(ctx context.Context, r resource.Resource, traffic map[string]int, run Run, verb string) error {
	fresh, err := c.Resources.Get(ctx, r.ID)
	if err != nil {
		return err
	}
	if fresh.Etag != r.Etag {
		return resource.ErrChanged // it is looked at anew in the next pass
	}
	raw, err := json.Marshal(map[string]any{"canary": run})
	if err != nil {
		return err
	}
	b := resource.Batch{
		Statuses: []resource.StatusWrite{{ID: r.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
			if len(stored) == 0 {
				stored = json.RawMessage("{}")
			}
			return resource.Overlay(stored, raw), nil
		}}},
		Activities: []resource.Activity{{At: c.Now(), Caller: "Lapis", Action: endpoint.EndpointType + "/canary/" + verb + "/action", Resource: r.ID,
			Result: resource.Succeeded, Reason: fmt.Sprintf("%s of '%s': %s", run.State, run.Deployment, run.Reason)}},
	}
	if traffic != nil {
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		if mirror := p.Object("mirrorTraffic"); len(mirror) > 0 {
			for name, percent := range traffic {
				if percent > 0 {
					delete(mirror, name)
				}
			}
			p["mirrorTraffic"] = mirror.Raw()
		}
		p.Set("traffic", traffic)
		next := r
		next.Properties = p.Raw()
		b.Puts = []resource.Write{{Resource: next, Expect: r.Etag, Keep: true}}
	} else {
		b.Relies = []resource.Expectation{{ID: r.ID, Etag: r.Etag}}
	}
	if _, err := c.Resources.Commit(ctx, b); err != nil {
		return err
	}
	c.Log.Info("canary", "endpoint", r.ID.String(), "deployment", run.Deployment, "state", run.State, "percent", run.Percent, "because", run.Reason)
	if traffic == nil {
		return nil
	}
	if err := c.Router.Route(ctx); err != nil {
		c.reroute = true
		return err
	}
	return nil
}

// Actions are what endpoints can be asked for beside what they are.
func (c *Controller) Actions() map[string]resource.Action {
	return map[string]resource.Action{"shadowReport": {Run: c.shadow}}
}

// shadow tells how the answers of the deployment that gets copies differ from
// the live ones.
func (c *Controller) shadow(ctx context.Context, call resource.Call) (any, error) {
	var body struct {
		Deployment string `json:"deployment"`
	}
	if len(call.Body) > 0 {
		if err := json.Unmarshal(call.Body, &body); err != nil {
			return nil, resource.WrongJSON(err, "")
		}
	}
	var p endpoint.Endpoint
	if err := json.Unmarshal(call.Resource.Properties, &p); err != nil {
		return nil, err
	}
	name := strings.ToLower(body.Deployment)
	if name == "" {
		for _, mirrored := range slices.Sorted(maps.Keys(p.MirrorTraffic)) {
			if p.MirrorTraffic[mirrored] > 0 {
				name = mirrored
			}
		}
	}
	if name == "" {
		return nil, fault.Conflicts("No deployment of the endpoint '%s' gets copies of its requests. Name one that did, or give one copies: mirrorTraffic {\"green\": 10}.", call.ID.Name()).
			With("NoShadow").At(call.ID.String())
	}
	if _, err := c.Resources.Get(ctx, call.ID.Child("deployments", name)); err != nil {
		if fault.Is(err, fault.Missing) {
			return nil, fault.NotFound("The endpoint '%s' has no deployment '%s'.", call.ID.Name(), name).With("ResourceNotFound").At("deployment")
		}
		return nil, err
	}
	report, err := c.Gateway.Compared(ctx, strings.ToLower(call.ID.Name()), name)
	if err != nil {
		return nil, err
	}
	return report, nil
}
