package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/ml/endpoint"
	"lapis/ml/serving"
	"lapis/resource"
)

const (
	workspaceID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
	endpointID  = workspaceID + "/onlineEndpoints/house"
	blueID      = endpointID + "/deployments/blue"
)

// counters is a gateway whose state is set by hand.
type counters struct {
	serving.Gateway
	state serving.State
}

func (c *counters) State(context.Context) (serving.State, error) {
	raw, err := json.Marshal(c.state)
	if err != nil {
		return serving.State{}, err
	}
	var s serving.State
	return s, json.Unmarshal(raw, &s)
}

// house is a monitor over a store with one endpoint, under a clock of its own.
type house struct {
	t       *testing.T
	dir     string
	now     time.Time
	gateway *counters
	store   *sqldb.Resources
	*Monitor
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	db, err := sqldb.Open(filepath.Join(dir, "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, dir: filepath.Join(dir, "metrics"), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), store: sqldb.NewResources(db),
		gateway: &counters{state: serving.State{Started: time.Date(2026, 3, 1, 11, 59, 0, 0, time.UTC)}}}
	for _, r := range []resource.Resource{{ID: id(t, endpointID)}, {ID: id(t, blueID)}} {
		r.Properties = json.RawMessage("{}")
		if _, err := h.store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Absent}}}); err != nil {
			t.Fatal(err)
		}
	}
	h.gateway.state.Endpoints = []serving.EndpointState{{Name: "house", Unrouted: map[string]int64{}, Deployments: []serving.DeploymentState{{Name: "blue",
		Latency: serving.Histogram{Counts: make([]int64, serving.Buckets())}}}}}
	h.restart()
	return h
}

func id(t *testing.T, text string) resource.ID {
	t.Helper()
	parsed, err := resource.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// restart is a new monitor over what the old one has left.
func (h *house) restart() {
	h.t.Helper()
	m, err := New(Config{Gateway: h.gateway, Resources: h.store, Dir: h.dir, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return h.now }})
	if err != nil {
		h.t.Fatal(err)
	}
	h.Monitor = m
}

// pass lets a second go by and reads.
func (h *house) pass(d time.Duration) {
	h.now = h.now.Add(d)
	h.gateway.state.Time = h.now
	h.read(h.t.Context())
}

// answer counts requests that took so long.
func (h *house) answer(status, n int, took time.Duration) {
	d := &h.gateway.state.Endpoints[0].Deployments[0]
	found := false
	for i := range d.Requests {
		if d.Requests[i].Status == status {
			d.Requests[i].Count += int64(n)
			found = true
		}
	}
	if !found {
		d.Requests = append(d.Requests, serving.RequestCount{Status: status, Model: status, Count: int64(n)})
	}
	d.Latency.Counts[serving.Bucket(took)] += int64(n)
	d.Latency.Count += int64(n)
	d.Latency.Sum += time.Duration(n) * took
}

// ask reads one metric over the last hour, as one value.
func (h *house) ask(resourceID, metric, filter string) []Line {
	h.t.Helper()
	terms, err := ParseFilter(filter)
	if err != nil {
		h.t.Fatal(err)
	}
	found, err := h.Query(Query{Resource: id(h.t, resourceID), Names: []string{metric}, From: h.now.Add(-time.Hour), To: h.now, Terms: terms})
	if err != nil {
		h.t.Fatal(err)
	}
	return found[0].Lines
}

func (h *house) total(resourceID, metric, filter string) float64 {
	h.t.Helper()
	lines := h.ask(resourceID, metric, filter)
	if len(lines) == 0 {
		return 0
	}
	return lines[0].Points[0].Total
}

func TestRequestsAreCountedByHowTheyEnded(t *testing.T) {
	h := newHouse(t)
	h.pass(time.Second)
	h.answer(200, 90, time.Millisecond)
	h.answer(424, 10, 3*time.Millisecond)
	h.gateway.state.Endpoints[0].Unrouted["401"] = 5
	h.pass(time.Second)
	h.pass(time.Minute)
	h.answer(200, 20, time.Millisecond)
	h.pass(time.Second)
	for _, c := range []struct {
		id, filter string
		want       float64
	}{
		{endpointID, "", 125},
		{endpointID, "deployment eq 'blue'", 120},
		{endpointID, "deployment eq 'blue' and statusCode eq '200'", 110},
		{endpointID, "statusCodeClass eq '4xx'", 15},
		{endpointID, "statusCodeClass ne '4xx'", 110},
		{endpointID, "modelStatusCode eq '424'", 10},
		{blueID, "", 120},
		{blueID, "statusCode eq '500'", 0},
	} {
		lines := h.ask(c.id, RequestsPerMinute, c.filter)
		if len(lines) == 0 || lines[0].Points[0].Total != c.want {
			t.Errorf("%s %q: %+v, want %v", c.id, c.filter, lines, c.want)
		}
	}
	if split := h.ask(endpointID, RequestsPerMinute, "statusCode eq '*'"); len(split) != 3 {
		t.Errorf("split by status: %d lines, want 3: %+v", len(split), split)
	}
	// Two minutes: 105 and 20.
	p := h.ask(endpointID, RequestsPerMinute, "")[0].Points[0]
	if p.Minimum != 20 || p.Maximum != 105 || p.Average != 62.5 {
		t.Errorf("%+v, want 20 to 105 in a minute, 62.5 on average", p)
	}
}

func TestPercentilesAreThoseOfAllRequestsAndNotOfMinutes(t *testing.T) {
	h := newHouse(t)
	h.pass(time.Second)
	h.answer(200, 980, 10*time.Millisecond)
	h.pass(time.Second)
	h.pass(time.Minute)
	h.answer(200, 20, time.Second)
	h.pass(time.Second)
	for metric, want := range map[string]float64{"RequestLatency": 29.8, "RequestLatency_P50": 10, "RequestLatency_P95": 10, "RequestLatency_P99": 1000} {
		if got := h.ask(endpointID, metric, "")[0].Points[0].Average; math.Abs(got-want) > 0.05*want {
			t.Errorf("%s is %v ms, want %v", metric, got, want)
		}
	}
}

func TestARestartKeepsWhatWasCountedAndCountsNothingTwice(t *testing.T) {
	h := newHouse(t)
	h.pass(time.Second)
	h.answer(200, 10, time.Millisecond)
	h.pass(time.Second)
	h.pass(time.Minute) // the first minute is over and kept
	h.answer(200, 7, time.Millisecond)
	h.pass(time.Second)

	h.restart()                        // killed: nothing was said good-bye to
	h.answer(200, 3, time.Millisecond) // while nobody looked
	h.pass(time.Second)
	if got := h.total(endpointID, RequestsPerMinute, ""); got != 20 {
		t.Errorf("%v requests after a kill, want 20", got)
	}

	done, end := context.WithCancel(t.Context())
	end()
	if err := h.Run(done); err != nil { // an orderly end
		t.Fatal(err)
	}
	h.restart()
	h.pass(time.Second)
	if got := h.total(endpointID, RequestsPerMinute, ""); got != 20 {
		t.Errorf("%v requests after a restart, want 20", got)
	}

	// A gateway that was started anew counts from 0.
	h.gateway.state.Started = h.now
	d := &h.gateway.state.Endpoints[0].Deployments[0]
	d.Requests, d.Latency = nil, serving.Histogram{Counts: make([]int64, serving.Buckets())}
	h.answer(200, 4, time.Millisecond)
	h.pass(time.Second)
	if got := h.total(blueID, RequestsPerMinute, ""); got != 24 {
		t.Errorf("%v requests after the gateway was started anew, want 24", got)
	}
}

func TestHoursOutliveMinutes(t *testing.T) {
	h := newHouse(t)
	h.pass(time.Second)
	for range 120 {
		h.answer(200, 5, 10*time.Millisecond)
		h.pass(time.Minute)
	}
	h.restart()
	h.pass(48 * time.Hour)
	found, err := h.Query(Query{Resource: id(t, endpointID), Names: []string{RequestsPerMinute, "RequestLatency_P90"}, From: h.now.Add(-72 * time.Hour).Truncate(time.Hour),
		To: h.now.Add(-40 * time.Hour), Step: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	total, slow := 0.0, 0.0
	for i, p := range found[0].Lines[0].Points {
		total += p.Total
		slow = max(slow, found[1].Lines[0].Points[i].Average)
	}
	if total < 590 || total > 600 || slow < 9 || slow > 11 {
		t.Errorf("%v requests with a P90 of %v ms after two days, want 600 and 10", total, slow)
	}
}

func TestDeploysAreCounted(t *testing.T) {
	h := newHouse(t)
	h.pass(time.Second)
	blue := id(t, blueID)
	status := func(state string) {
		if _, err := h.store.Commit(t.Context(), resource.Batch{Statuses: []resource.StatusWrite{{ID: blue, Status: json.RawMessage(`{"provisioningState":"` + state + `"}`)}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, end := range []string{resource.Succeeded, resource.Failed, resource.Succeeded} {
		status(resource.Creating)
		started := resource.Activity{At: h.now.Add(time.Duration(i) * time.Millisecond), Action: endpoint.DeploymentType + "/write", Resource: blue, Result: "Started"}
		if _, err := h.store.Commit(t.Context(), resource.Batch{Activities: []resource.Activity{started}}); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Second)
		status(end)
		h.pass(time.Second)
	}
	for metric, want := range map[string]float64{deployStarted: 3, deployDone: 2, deployFailed: 1} {
		if got := h.total(workspaceID, metric, ""); got != want {
			t.Errorf("%s: %v, want %v", metric, got, want)
		}
	}
}

func TestFiltersAreReadAsAzureMonitorDoes(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[]"},
		{"deployment eq 'blue'", "[{deployment [blue] false}]"},
		{"(deployment eq 'it''s') and (statusCode ne '200')", "[{deployment [it's] false} {statusCode [200] true}]"},
		{"a eq 'x' or a eq 'y' and b eq '*'", "[{a [x y] false} {b [*] false}]"},
		{"a eq 'x' or b eq 'y'", ""},
		{"a eq x", ""},
		{"a eq 'x", ""},
		{"a gt 'x'", ""},
		{"a eq 'x' and", ""},
		{"'a' eq 'x'", ""},
	} {
		terms, err := ParseFilter(c.text)
		if c.want == "" {
			if err == nil {
				t.Errorf("%q is taken: %v", c.text, terms)
			}
			continue
		}
		got := strings.TrimSpace(fmt.Sprint(terms))
		if err != nil || got != c.want {
			t.Errorf("%q: %s, %v; want %s", c.text, got, err, c.want)
		}
	}
}

func TestTheMetricsOfAzureMonitorHaveItsDimensions(t *testing.T) {
	requests := []string{"deployment", "statusCode", "statusCodeClass", "modelStatusCode"}
	instance := []string{"instanceId"}
	for scope, metrics := range map[string]map[string][]string{
		endpoint.EndpointType: {
			"ConnectionsActive": nil, "NewConnectionsPerSecond": nil, "NetworkBytes": nil, "RequestsPerMinute": requests,
			"RequestLatency": requests[:1], "RequestLatency_P50": requests[:1], "RequestLatency_P90": requests[:1], "RequestLatency_P95": requests[:1], "RequestLatency_P99": requests[:1],
			"DataCollectionEventsPerMinute": {"deployment", "type"}, "DataCollectionErrorsPerMinute": {"deployment", "reason", "type"},
		},
		endpoint.DeploymentType: {
			"CpuUtilizationPercentage": instance, "CpuMemoryUtilizationPercentage": instance, "GpuUtilizationPercentage": instance, "GpuMemoryUtilizationPercentage": instance,
			"GpuEnergyJoules": instance, "DiskUtilization": {"instanceId", "disk"}, "DeploymentCapacity": {"instanceId", "State"},
			"DataCollectionEventsPerMinute": {"instanceId", "type"}, "DataCollectionErrorsPerMinute": {"instanceId", "reason", "type"},
		},
	} {
		for name, want := range metrics {
			if d, ok := find(scope, name); !ok || !slices.Equal(d.Dimensions, want) {
				t.Errorf("%s of %s has the dimensions %v (%v), want %v", name, scope, d.Dimensions, ok, want)
			}
		}
	}
}
