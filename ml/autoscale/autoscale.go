// Package autoscale decides how many instances online deployments have: by the
// rules and times of Azure Monitor's autoscale settings, and by the share of its
// places that a deployment wants taken (target utilisation).
package autoscale

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/deploy"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/ml/serving"
	"lapis/resource"
)

// Scaler brings a deployment to a number of instances. It returns when that is
// decided.
type Scaler interface {
	Scale(ctx context.Context, deployment resource.ID, count int, reason string) error
}

// Config is what an autoscaler works with.
type Config struct {
	Resources resource.Store
	Monitor   *monitor.Monitor
	Scaler    Scaler
	Log       *slog.Logger
	Now       func() time.Time
}

// Autoscaler makes a pass when the gateway was read, and each second.
type Autoscaler struct {
	Config
	wake chan struct{}

	mu    sync.Mutex
	state serving.State // as it was read last

	// Of the loop alone.
	changed     <-chan struct{}
	settings    []resource.Resource
	deployments map[string]resource.Resource
	tracks      map[string]*track
	scaled      map[string]time.Time // setting → when a rule last changed something, where that could not be stored
	said        map[string]string    // setting → why it waits, so that it is logged once
}

// New makes an autoscaler. It listens to the monitor, so it is made before that
// runs.
func New(c Config) *Autoscaler {
	a := &Autoscaler{Config: c, wake: make(chan struct{}, 1), tracks: map[string]*track{}, scaled: map[string]time.Time{}, said: map[string]string{}}
	c.Monitor.Follow(func(_ context.Context, s serving.State) {
		a.mu.Lock()
		a.state = s
		a.mu.Unlock()
		select {
		case a.wake <- struct{}{}:
		default:
		}
	})
	return a
}

// Run makes passes until ctx ends.
func (a *Autoscaler) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := a.pass(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("autoscale pass", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			tick.Reset(time.Second)
		case <-tick.C:
		}
	}
}

// pass looks at all settings and at all deployments that scale themselves.
func (a *Autoscaler) pass(ctx context.Context) error {
	if err := a.look(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	state := a.state
	a.mu.Unlock()
	now := a.Now()
	set := map[string]bool{}
	for _, r := range a.settings {
		s, err := Parse(r.Properties)
		if err != nil {
			continue
		}
		if target, ok := a.deployments[strings.ToLower(s.Target)]; ok && s.enabled() {
			set[target.ID.Key()] = true
			a.apply(ctx, now, r, s, target)
		}
	}
	a.targets(ctx, now, state, set)
	return nil
}

// look reads settings and deployments again when something was committed.
func (a *Autoscaler) look(ctx context.Context) error {
	select {
	case <-a.changed:
	default:
		if a.changed != nil {
			return nil
		}
	}
	changed := a.Resources.Notify()
	settings, err := resource.All(ctx, a.Resources, resource.Query{Type: Type})
	if err != nil {
		return err
	}
	list, err := monitor.Deployments(ctx, a.Resources)
	if err != nil {
		return err
	}
	a.settings, a.deployments = settings, map[string]resource.Resource{}
	for _, d := range list {
		a.deployments[d.ID.Key()] = d
	}
	a.changed = changed
	return nil
}

// settingStatus is what is kept with a setting.
type settingStatus struct {
	LastScaled string   `json:"lastScaleActionTime,omitempty"`
	Pending    *pending `json:"pending,omitempty"` // decided and not known to be done: a crash came between
}

// pending is a change that was decided on.
type pending struct {
	From   int    `json:"from"`
	To     int    `json:"to"`
	Reason string `json:"reason"`
}

// serving tells how many instances a deployment has; false if it is not a time
// to change that.
func steady(d resource.Resource) (deploy.Status, int, bool) {
	var s deploy.Status
	if err := json.Unmarshal(d.Status, &s); err != nil || s.Live == nil || s.Asleep || s.Capacity == nil || s.State == resource.Deleting {
		return s, 0, false
	}
	return s, *s.Capacity, true
}

// scaledTo is how many instances a deployment was given when it was scaled last; -1
// if it never was.
func scaledTo(d resource.Resource) int {
	var s struct {
		Last *struct{ To int } `json:"lastScale"`
	}
	if err := json.Unmarshal(d.Status, &s); err != nil || s.Last == nil {
		return -1
	}
	return s.Last.To
}

// asked tells whether somebody asks the deployment now, or did in this minute or
// the one before: then it is no time to take its last instance away.
func (a *Autoscaler) asked(now time.Time, id resource.ID) bool {
	a.mu.Lock()
	state := a.state
	a.mu.Unlock()
	for _, e := range state.Endpoints {
		for _, d := range e.Deployments {
			if strings.EqualFold(e.Name, id.Parent().Name()) && strings.EqualFold(d.Name, id.Name()) && d.Running+d.Waiting > 0 {
				return true
			}
		}
	}
	minute := now.Truncate(time.Minute)
	_, points, _ := a.points(monitor.Query{Resource: id, Names: []string{monitor.RequestsPerMinute}, From: minute.Add(-time.Minute), To: minute.Add(time.Minute), Step: time.Minute})
	return slices.ContainsFunc(points, func(p monitor.Point) bool { return p.Total > 0 })
}

// apply goes by one setting.
func (a *Autoscaler) apply(ctx context.Context, now time.Time, r resource.Resource, s Setting, target resource.Resource) {
	status, current, ok := steady(target)
	if !ok && !(status.Asleep && scaledTo(target) == 0) { // what a setting took away, it may bring back
		return
	}
	var kept settingStatus
	_ = json.Unmarshal(r.Status, &kept) // none yet
	last, _ := time.Parse(time.RFC3339Nano, kept.LastScaled)
	if at := a.scaled[r.ID.Key()]; at.After(last) {
		last = at
	}
	if p := kept.Pending; p != nil {
		a.do(ctx, now, r, target, *p)
		return
	}
	d := s.decide(now, current, last, func(t Trigger) reading { return a.read(now, t, target.ID) })
	if d.waits != a.said[r.ID.Key()] {
		if a.said[r.ID.Key()] = d.waits; d.waits != "" && a.Log.Enabled(ctx, slog.LevelDebug) {
			a.Log.Debug("autoscale waits", "setting", r.ID.String(), "because", d.waits)
		}
	}
	if d.count == current || d.count == 0 && a.asked(now, target.ID) {
		return
	}
	// The decision and its time are kept first: after a crash it is done, and not
	// decided once more on what was measured before it.
	p := pending{From: current, To: d.count, Reason: d.reason}
	keep := settingStatus{Pending: &p}
	if !d.free {
		keep.LastScaled = now.Format(time.RFC3339Nano)
	}
	raw, _ := json.Marshal(keep)
	if _, err := a.Resources.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: r.ID, Change: overlay(raw)}}}); err != nil {
		if ctx.Err() == nil {
			a.Log.Error("keep a scale action", "setting", r.ID.String(), "err", err)
		}
		return
	}
	if !d.free {
		a.scaled[r.ID.Key()] = now
	}
	a.do(ctx, now, r, target, p)
}

// do brings the deployment to what was decided, and tells the log.
func (a *Autoscaler) do(ctx context.Context, at time.Time, r, target resource.Resource, p pending) {
	// What was begun is brought to its end, also when the server is told to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	action := Type + "/Scaleup/Action"
	if p.To < p.From {
		action = Type + "/Scaledown/Action"
	}
	entry := resource.Activity{At: a.Now(), Caller: "Lapis", Action: action, Resource: r.ID, Result: resource.Succeeded, Reason: p.Reason}
	if err := a.Scaler.Scale(ctx, target.ID, p.To, p.Reason); err != nil {
		entry.Result = resource.Failed
		if f := fault.Find(err); f != nil {
			entry.Reason += ": " + f.Message
		} else {
			a.Log.Error("scale", "deployment", target.ID.String(), "err", err)
		}
	}
	a.Log.Info("autoscale", "deployment", target.ID.String(), "from", p.From, "to", p.To, "result", entry.Result, "because", entry.Reason)
	b := resource.Batch{Activities: []resource.Activity{entry}, Statuses: []resource.StatusWrite{{ID: r.ID, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		s, err := resource.ParseDocument(stored)
		delete(s, "pending")
		return s.Raw(), err
	}}}}
	if entry.Result == resource.Succeeded {
		b.Statuses = append(b.Statuses, told(target.ID, at, p.From, decision{count: p.To, reason: p.Reason}))
	}
	if _, err := a.Resources.Commit(ctx, b); err != nil {
		a.Log.Error("record a scale action", "setting", r.ID.String(), "err", err)
	}
}

func overlay(top json.RawMessage) func(json.RawMessage) (json.RawMessage, error) {
	return func(stored json.RawMessage) (json.RawMessage, error) {
		if len(stored) == 0 {
			stored = json.RawMessage("{}")
		}
		return resource.Overlay(stored, top), nil
	}
}

// told keeps with the deployment why it has as many instances as it has.
func told(id resource.ID, now time.Time, from int, d decision) resource.StatusWrite {
	raw, _ := json.Marshal(map[string]any{"lastScale": map[string]any{"at": now.Format(time.RFC3339Nano), "from": from, "to": d.count, "reason": d.reason}})
	return resource.StatusWrite{ID: id, Change: overlay(raw)}
}

// read is what the metric of a trigger is now.
func (a *Autoscaler) read(now time.Time, t Trigger, target resource.ID) reading {
	id := target
	if t.Resource != "" {
		parsed, err := resource.ParseID(t.Resource)
		if err != nil {
			return reading{}
		}
		id = parsed
	}
	grain, window := t.times()
	q := monitor.Query{Top: 1000, Resource: id, Names: []string{t.Metric}, From: now.Add(-window).Truncate(time.Minute).Add(time.Minute), To: now.Truncate(time.Minute).Add(time.Minute), Step: grain}
	for _, d := range t.Dimensions {
		q.Terms = append(q.Terms, monitor.Term{Name: d.Name, Values: d.Values, Not: strings.EqualFold(d.Operator, "NotEquals")})
	}
	kind, points, ok := a.points(q)
	if ok && kind == monitor.Sum {
		// The minute that runs is not whole, and its count says too little.
		q.From, q.To = now.Add(-window).Truncate(time.Minute), now.Truncate(time.Minute)
		if _, whole, ok := a.points(q); ok && len(whole) > 0 {
			points = whole
		}
	}
	if !ok || len(points) == 0 {
		return reading{}
	}
	var values []float64
	for _, p := range points {
		values = append(values, statistic(t.Statistic, p))
	}
	return reading{value: aggregate(t.Aggregation, values, points), known: true, kind: kind}
}

// points are the steps of a metric of which something is known. One that is told
// by itself for each value of a dimension is put together.
func (a *Autoscaler) points(q monitor.Query) (monitor.Kind, []monitor.Point, bool) {
	found, err := a.Monitor.Query(q)
	if err != nil || len(found) == 0 {
		return 0, nil, false
	}
	byTime := map[time.Time]*monitor.Point{}
	var order []time.Time
	for _, l := range found[0].Lines {
		for _, p := range l.Points {
			if p.Empty {
				continue
			}
			sum := byTime[p.At]
			if sum == nil {
				byTime[p.At] = &p
				order = append(order, p.At)
				continue
			}
			if found[0].Kind == monitor.Sum || found[0].Kind == monitor.Level {
				sum.Average += p.Average
				sum.Minimum += p.Minimum
				sum.Maximum += p.Maximum
				sum.Total += p.Total
				continue
			}
			sum.Average = (sum.Average*sum.Count + p.Average*p.Count) / max(sum.Count+p.Count, 1)
			sum.Minimum, sum.Maximum = min(sum.Minimum, p.Minimum), max(sum.Maximum, p.Maximum)
			sum.Total += p.Total
			sum.Count += p.Count
		}
	}
	points := make([]monitor.Point, 0, len(order))
	for _, at := range order {
		points = append(points, *byTime[at])
	}
	return found[0].Kind, points, true
}

// statistic is what the instances are together at one step of time.
func statistic(name string, p monitor.Point) float64 {
	switch strings.ToLower(name) {
	case "min":
		return p.Minimum
	case "max":
		return p.Maximum
	case "sum":
		return p.Total
	case "count":
		return p.Count
	}
	return p.Average
}

// aggregate puts the steps together.
func aggregate(name string, values []float64, points []monitor.Point) float64 {
	total, least, most := 0.0, values[0], values[0]
	for _, v := range values {
		total += v
		least, most = min(least, v), max(most, v)
	}
	switch strings.ToLower(name) {
	case "minimum":
		return least
	case "maximum":
		return most
	case "total":
		return total
	case "count":
		n := 0.0
		for _, p := range points {
			n += p.Count
		}
		return n
	case "last":
		return values[len(values)-1]
	}
	return total / float64(len(values))
}

// targets goes by the scale settings of the deployments themselves. One that an
// autoscale setting scales is left to that.
func (a *Autoscaler) targets(ctx context.Context, now time.Time, state serving.State, set map[string]bool) {
	fresh := !state.Time.IsZero() && now.Sub(state.Time) < 5*time.Second
	live := map[string]bool{}
	for _, e := range state.Endpoints {
		for _, d := range e.Deployments {
			r, ok := a.find(e.Name, d.Name)
			if !ok || !fresh || set[r.ID.Key()] {
				continue
			}
			status, current, ok := steady(r)
			g, wanted := targetOf(r, status)
			if !ok || !wanted {
				continue
			}
			live[r.ID.Key()] = true
			t := a.tracks[r.ID.Key()]
			if t == nil {
				t = &track{}
				a.tracks[r.ID.Key()] = t
			}
			if !state.Time.After(t.seenAt) {
				continue // nothing new is known
			}
			t.observe(state.Time, d)
			if decided := t.decide(now, current, g); decided.count != current {
				a.rescale(ctx, now, r.ID, current, decided)
			}
		}
	}
	for k := range a.tracks {
		if !live[k] && fresh {
			delete(a.tracks, k)
		}
	}
}

func (a *Autoscaler) rescale(ctx context.Context, now time.Time, id resource.ID, current int, d decision) {
	if err := a.Scaler.Scale(ctx, id, d.count, d.reason); err != nil {
		if ctx.Err() == nil {
			a.Log.Error("scale", "deployment", id.String(), "to", d.count, "err", err)
		}
		return
	}
	a.Log.Info("autoscale", "deployment", id.String(), "from", current, "to", d.count, "because", d.reason)
	if _, err := a.Resources.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{told(id, now, current, d)}}); err != nil && ctx.Err() == nil {
		a.Log.Error("record a scale action", "deployment", id.String(), "err", err)
	}
}

// find is the deployment by the names that the gateway knows it by.
func (a *Autoscaler) find(endpointName, name string) (resource.Resource, bool) {
	tail := "/onlineendpoints/" + strings.ToLower(endpointName) + "/deployments/" + strings.ToLower(name)
	for k, r := range a.deployments {
		if strings.HasSuffix(k, tail) {
			return r, true
		}
	}
	return resource.Resource{}, false
}

// targetOf reads a deployment's scale settings; false if it does not scale
// itself.
func targetOf(r resource.Resource, s deploy.Status) (target, bool) {
	var p endpoint.Deployment
	if err := json.Unmarshal(r.Properties, &p); err != nil || !strings.EqualFold(p.Scale.Type, "TargetUtilization") || s.Live == nil {
		return target{}, false
	}
	g := target{least: max(p.Scale.MinInstances, 1), most: max(p.Scale.MaxInstances, p.Scale.MinInstances, 1), concurrency: max(s.Live.Spec.Concurrency, 1),
		utilization: float64(p.Scale.TargetUtilization)}
	if g.utilization <= 0 || g.utilization > 100 {
		g.utilization = 70
	}
	if d, err := compute.ParseDuration(p.Scale.PollingInterval); err == nil && d > time.Second {
		g.every = d - d/10 // readings do not come to the moment
	}
	return g, true
}
