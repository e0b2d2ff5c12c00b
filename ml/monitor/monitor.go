// Package monitor keeps what is measured of online endpoints and deployments:
// it reads the gateway's counters twice a second, adds up minutes and hours, keeps
// them over restarts, and answers what a metric was.
package monitor

import (
	"context"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/endpoint"
	"lapis/ml/serving"
	"lapis/resource"
)

// Config is what a monitor works with.
type Config struct {
	Gateway   serving.Gateway // nil: there is none
	Resources resource.Store
	Meter     Meter  // nil: nothing is known of what instances use
	Dir       string // where values are kept; "": they are not
	Log       *slog.Logger
	Now       func() time.Time
}

// Meter tells what the instances of all deployments use.
type Meter interface {
	Usage(ctx context.Context) ([]Usage, error)
}

// Usage is what one instance uses, of what it has; in percent.
type Usage struct {
	Deployment resource.ID
	Instance   string
	CPU        float64
	Memory     float64
	Disk       map[string]float64 // disk → percent
}

// How often the gateway is read, so that what follows from it is decided within
// a second, and how often the instances are looked at.
const (
	readEvery  = 500 * time.Millisecond
	usageEvery = 5 * time.Second
)

// Monitor keeps metrics.
type Monitor struct {
	Config
	journal journal
	follow  []func(context.Context, serving.State)

	mu       sync.Mutex
	series   *series
	minute   int64        // that is being added up; 0 before the first reading
	open     map[key]cell // of that minute
	last     *serving.State
	names    map[string]resource.ID // endpoint → its id
	away     bool                   // the gateway did not answer; said once
	measured time.Time              // when the instances were looked at

	deploys deploys
}

// New makes a monitor over what an earlier one has kept.
func New(c Config) (*Monitor, error) {
	m := &Monitor{Config: c, series: newSeries(), open: map[key]cell{}, names: map[string]resource.ID{}}
	m.deploys.waits = map[string]resource.ID{}
	if c.Dir == "" {
		return m, nil
	}
	return m, m.load()
}

// Follow hands each reading of the gateway on. It must be called before Run.
func (m *Monitor) Follow(f func(context.Context, serving.State)) { m.follow = append(m.follow, f) }

// Run reads until ctx ends, and keeps what it has then.
func (m *Monitor) Run(ctx context.Context) error {
	tick := time.NewTicker(readEvery)
	defer tick.Stop()
	for {
		m.read(ctx)
		select {
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			if err := m.keep(nil); err != nil {
				m.Log.Error("keep metrics", "err", err)
			}
			return nil
		case <-tick.C:
		}
	}
}

// read is one pass.
func (m *Monitor) read(ctx context.Context) {
	state, err := m.ask(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil && !m.away && m.Gateway != nil {
		m.Log.Warn("the gateway does not tell its state", "err", err)
	}
	m.away = err != nil
	var usage []Usage
	if m.Meter != nil && m.Now().Sub(m.measured) >= usageEvery {
		m.measured = m.Now()
		var wrong error
		if usage, wrong = m.Meter.Usage(ctx); wrong != nil && ctx.Err() == nil {
			m.Log.Warn("what instances use is not known", "err", wrong)
		}
	}
	if err == nil {
		if unknown := m.unknown(state); unknown {
			if wrong := m.findNames(ctx); wrong != nil && ctx.Err() == nil {
				m.Log.Warn("read endpoints", "err", wrong)
			}
		}
	}
	events := m.watchDeploys(ctx)
	m.mu.Lock()
	m.turn()
	for _, u := range usage {
		m.add(u.Deployment, CPU, encode("instanceId", u.Instance), u.CPU)
		m.add(u.Deployment, Memory, encode("instanceId", u.Instance), u.Memory)
		for disk, v := range u.Disk {
			m.add(u.Deployment, Disk, encode("instanceId", u.Instance, "disk", disk), v)
		}
	}
	for _, e := range events {
		m.add(e.workspace, e.metric, encode("Scenario", e.scenario), 1)
	}
	if err == nil {
		m.count(state)
	}
	m.mu.Unlock()
	if err == nil {
		for _, f := range m.follow {
			f(ctx, state)
		}
	}
}

// ask reads the gateway.
func (m *Monitor) ask(ctx context.Context) (serving.State, error) {
	if m.Gateway == nil {
		return serving.State{}, fault.New(fault.Unavailable, "GatewayAway", "There is no gateway.")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return m.Gateway.State(ctx)
}

// unknown tells whether the state names endpoints whose ids are not known.
func (m *Monitor) unknown(s serving.State) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range s.Endpoints {
		if _, ok := m.names[e.Name]; !ok {
			return true
		}
	}
	return false
}

// findNames looks up the ids of all endpoints.
func (m *Monitor) findNames(ctx context.Context) error {
	found, err := Endpoints(ctx, m.Resources)
	if err != nil {
		return err
	}
	ids := map[string]resource.ID{}
	for _, r := range found {
		ids[strings.ToLower(r.ID.Name())] = r.ID
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.names = ids
	return nil
}

// Endpoints are all online endpoints.
func Endpoints(ctx context.Context, store resource.Store) ([]resource.Resource, error) {
	return resource.All(ctx, store, resource.Query{Type: endpoint.EndpointType})
}

// Deployments are all online deployments.
func Deployments(ctx context.Context, store resource.Store) ([]resource.Resource, error) {
	return resource.All(ctx, store, resource.Query{Type: endpoint.DeploymentType})
}

// turn closes the minute that has passed.
func (m *Monitor) turn() {
	now := minuteOf(m.Now())
	if m.minute == now {
		return
	}
	if m.minute != 0 {
		closed := m.open
		m.open = map[key]cell{}
		hour := m.minute - m.minute%60
		var folded map[key]cell
		if now >= hour+60 {
			folded = m.series.fold(hour)
			for k, c := range folded {
				l := m.series.line(k)
				l.hours = put(l.hours, c)
			}
			m.series.trim(now)
		}
		minute := m.minute
		m.minute = now
		if err := m.keep(&kept{Minute: minute, Cells: closed, Hour: hour, Hours: folded}); err != nil {
			m.Log.Error("keep metrics", "err", err)
		}
	}
	m.minute = now
}

// add takes a value into the open minute.
func (m *Monitor) add(id resource.ID, metric, dims string, v float64) {
	m.merge(id, metric, dims, cell{Min: v, Max: v, Sum: v, Count: 1})
}

// merge takes values into the open minute. It stands in the series at once, so
// that what looks at the last minute sees it.
func (m *Monitor) merge(id resource.ID, metric, dims string, c cell) {
	if c.Count == 0 {
		return
	}
	k := key{id.Key(), metric, dims}
	sum := m.open[k]
	sum.merge(c)
	m.open[k] = sum
	c.At = m.minute
	l := m.series.line(k)
	l.minutes = put(l.minutes, c)
	m.series.seen(k.Resource, c.At)
}

// level takes a value of a moment in; one of 0 is kept only where there was more.
func (m *Monitor) level(id resource.ID, metric, dims string, v float64) {
	if _, ok := m.open[key{id.Key(), metric, dims}]; v != 0 || ok {
		m.add(id, metric, dims, v)
	}
}

// count adds what has happened since the last reading.
func (m *Monitor) count(s serving.State) {
	before := serving.State{}
	gap := readEvery
	if m.last != nil && m.last.Started.Equal(s.Started) {
		before = *m.last
		gap = max(s.Time.Sub(before.Time), time.Millisecond)
	} else if m.last != nil || !s.Started.IsZero() {
		gap = max(s.Time.Sub(s.Started), time.Millisecond)
	}
	old := map[string]serving.EndpointState{}
	for _, e := range before.Endpoints {
		old[e.Name] = e
	}
	for _, e := range s.Endpoints {
		id, ok := m.names[e.Name]
		if !ok {
			continue
		}
		m.series.seen(id.Key(), m.minute)
		was := old[e.Name]
		m.level(id, connections, "", float64(e.Connections))
		m.level(id, newConnections, "", float64(grown(e.Connected, was.Connected))/gap.Seconds())
		m.level(id, networkBytes, "", float64(grown(e.BytesIn+e.BytesOut, was.BytesIn+was.BytesOut))/gap.Seconds())
		for status, n := range e.Unrouted {
			if n := grown(n, was.Unrouted[status]); n > 0 {
				code, _ := strconv.Atoi(status)
				m.add(id, RequestsPerMinute, encode(requestDims("", code, 0)...), float64(n))
			}
		}
		wasDeployment := map[string]serving.DeploymentState{}
		for _, d := range was.Deployments {
			wasDeployment[d.Name] = d
		}
		for _, d := range e.Deployments {
			m.countDeployment(id, d, wasDeployment[d.Name])
		}
	}
	m.last = &s
}

func (m *Monitor) countDeployment(e resource.ID, d, was serving.DeploymentState) {
	id := e.Child("deployments", d.Name)
	if id.Zero() {
		return
	}
	m.series.seen(id.Key(), m.minute)
	both := func(metric string, c cell, pairs ...string) {
		m.merge(id, metric, encode(pairs...), c)
		m.merge(e, metric, encode(append([]string{"deployment", d.Name}, pairs...)...), c)
	}
	// The gateway collects, for all instances.
	kept := func(metric string, c cell, pairs ...string) {
		m.merge(id, metric, encode(append([]string{"instanceId", "gateway"}, pairs...)...), c)
		m.merge(e, metric, encode(append([]string{"deployment", d.Name}, pairs...)...), c)
	}
	one := func(n int64) cell { return cell{Min: float64(n), Max: float64(n), Sum: float64(n), Count: 1} }
	type outcome struct{ status, model int }
	ended := map[outcome]int64{}
	for _, r := range was.Requests {
		ended[outcome{r.Status, r.Model}] += r.Count
	}
	for _, r := range d.Requests {
		if n := grown(r.Count, ended[outcome{r.Status, r.Model}]); n > 0 {
			both(RequestsPerMinute, one(n), requestDims(d.Name, r.Status, r.Model)[2:]...)
		}
	}
	latency := d.Latency
	if was.Latency.Count <= latency.Count {
		latency = latency.Minus(was.Latency)
	}
	both(RequestLatency, cellOf(latency))
	for name, n := range d.Collected {
		if n := grown(n, was.Collected[name]); n > 0 {
			kept(collected, one(n), "type", name)
		}
	}
	for name, n := range d.Lost {
		if n := grown(n, was.Lost[name]); n > 0 {
			kept(notCollected, one(n), "type", name, "reason", "Dropped")
		}
	}
	if flying := d.Running + d.Waiting; flying > 0 || m.open[key{id.Key(), Concurrent, ""}].Count > 0 {
		both(Concurrent, one(flying))
	}
	for _, i := range d.Instances {
		state := "InUse"
		if i.Ejected {
			state = "Unhealthy"
		}
		m.add(id, Capacity, encode("instanceId", i.ID, "State", state), 1)
	}
}

// requestDims are the dimensions of a request that ended so.
func requestDims(deployment string, status, model int) []string {
	answered := ""
	if model != 0 {
		answered = strconv.Itoa(model)
	}
	return []string{"deployment", deployment, "statusCode", strconv.Itoa(status), "statusCodeClass", strconv.Itoa(status/100) + "xx", "modelStatusCode", answered}
}

// grown is by how much a counter has grown; one that is less than before began anew.
func grown(now, before int64) int64 {
	if now < before {
		return now
	}
	return now - before
}

// Latest tells each line of each metric of endpoints and deployments as it was in
// the last minute that is over; of what began since, as it is now. The resource's
// id is in lower case.
func (m *Monitor) Latest(tell func(d Definition, resource string, dims map[string]string, value float64)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range Definitions {
		kind := strings.ToLower("/" + d.Scope[strings.LastIndexByte(d.Scope, '/')+1:] + "/")
		for resource, metrics := range m.series.lines {
			parts := strings.Split(resource, "/")
			if len(parts) < 3 || kind != "/"+parts[len(parts)-2]+"/" || d.Scope == ml.Workspaces {
				continue
			}
			for _, l := range metrics[d.source()] {
				var seen cell
				for _, c := range since(l.minutes, m.minute-1) {
					if seen = c; c.At == m.minute-1 {
						break
					}
				}
				if seen.Count == 0 {
					continue
				}
				value := seen.Sum / float64(seen.Count)
				switch {
				case d.Kind == Sum:
					value = seen.Sum
				case d.quantile > 0:
					value = ms(seen.histogram().Percentile(d.quantile))
				}
				tell(d, resource, maps.Clone(l.dims), value)
			}
		}
	}
}

// deploys follows deployments from their start to their end.
type deploys struct {
	begun   bool
	changed <-chan struct{}        // something was committed since the last pass
	seen    map[string]bool        // entries of the last minute
	waits   map[string]resource.ID // key → a deployment that is under way
}

type event struct {
	workspace        resource.ID
	metric, scenario string
}

// watchDeploys finds what was started and what has ended since the last pass:
// starts stand in the log of activities, ends in the state of the deployment.
func (m *Monitor) watchDeploys(ctx context.Context) []event {
	var events []event
	d := &m.deploys
	select {
	case <-d.changed:
	default:
		if d.begun {
			return nil
		}
	}
	d.changed = m.Resources.Notify()
	from := m.Now().Add(-time.Minute)
	entries, err := m.Resources.Activities(ctx, resource.ID{}, m.Now().Add(time.Hour), 300)
	if err != nil {
		return nil
	}
	if !d.begun {
		// What was under way when the server started.
		found, err := Deployments(ctx, m.Resources)
		if err != nil {
			return nil
		}
		for _, r := range found {
			if s := state(r); s == resource.Creating || s == resource.Updating {
				d.waits[r.ID.Key()] = r.ID
			}
		}
	}
	seen := map[string]bool{}
	for _, a := range entries {
		if a.At.Before(from) {
			break
		}
		id := strconv.FormatInt(a.At.UnixMilli(), 36) + a.Action + a.Resource.Key() + a.Correlation
		seen[id] = true
		if !d.begun || d.seen[id] {
			continue
		}
		switch {
		case strings.EqualFold(a.Action, endpoint.DeploymentType+"/write") && a.Reason == "":
			events = append(events, event{ml.Home(a.Resource), deployStarted, "OnlineEndpoint"})
			d.waits[a.Resource.Key()] = a.Resource
		case strings.EqualFold(a.Action, ml.Workspaces+"/models/versions/write") && a.Result == resource.Succeeded:
			events = append(events, event{ml.Home(a.Resource), registered, "Model"})
		}
	}
	d.seen, d.begun = seen, true
	for k, id := range d.waits {
		r, err := m.Resources.Get(ctx, id)
		if fault.Is(err, fault.Missing) {
			delete(d.waits, k)
			continue
		}
		if err != nil {
			continue
		}
		switch state(r) {
		case resource.Succeeded:
			events = append(events, event{ml.Home(id), deployDone, "OnlineEndpoint"})
		case resource.Failed, resource.Canceled:
			events = append(events, event{ml.Home(id), deployFailed, "OnlineEndpoint"})
		default:
			continue
		}
		delete(d.waits, k)
	}
	return events
}

func state(r resource.Resource) string {
	s, err := resource.ParseDocument(r.Status)
	if err != nil {
		return ""
	}
	return s.Text("provisioningState")
}
