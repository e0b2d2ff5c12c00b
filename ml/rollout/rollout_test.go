package rollout

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/resource"
)

// house is a controller over a store with one endpoint and three deployments,
// under a clock of its own and with a gateway that is played.
type house struct {
	t       *testing.T
	now     time.Time
	store   *sqldb.Resources
	traffic *traffic
	routed  int
	blue    model
	green   model
	*Controller
}

const houseID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/house"

func (h *house) Route(context.Context) error { h.routed++; return nil }

func newHouse(t *testing.T) *house {
	t.Helper()
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{t: t, now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC), store: sqldb.NewResources(db), traffic: newTraffic(7),
		blue: model{0.001, 10 * time.Millisecond}, green: model{0.001, 10 * time.Millisecond}}
	clock := func() time.Time { return h.now }
	m, err := monitor.New(monitor.Config{Resources: h.store, Log: slog.New(slog.DiscardHandler), Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	h.Controller = New(Config{Resources: h.store, Monitor: m, Router: h, Log: slog.New(slog.DiscardHandler), Now: clock})
	h.put(houseID, `{"traffic":{"blue":100}}`, `{"provisioningState":"Succeeded"}`)
	for _, name := range []string{"blue", "green"} {
		h.put(houseID+"/deployments/"+name, `{}`, `{"provisioningState":"Succeeded","capacity":1,"live":{"generation":"g1"}}`)
	}
	return h
}

func (h *house) id(text string) resource.ID {
	h.t.Helper()
	id, err := resource.ParseID(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h *house) put(id, properties, status string) {
	h.t.Helper()
	r := resource.Resource{ID: h.id(id), Properties: json.RawMessage(properties), Status: json.RawMessage(status)}
	if _, err := h.store.Commit(h.t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Any}}}); err != nil {
		h.t.Fatal(err)
	}
}

// want changes the endpoint as a user does: its status stays.
func (h *house) want(properties string) {
	h.t.Helper()
	r := resource.Resource{ID: h.id(houseID), Properties: json.RawMessage(properties)}
	if _, err := h.store.Commit(h.t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Any, Keep: true}}}); err != nil {
		h.t.Fatal(err)
	}
}

// seconds lets some go by, with a hundred requests in each.
func (h *house) seconds(n int) {
	h.t.Helper()
	for range n {
		h.now = h.now.Add(time.Second)
		split, _ := h.stored()
		if err := h.pass(h.t.Context(), h.traffic.second(100, split["green"], h.blue, h.green)); err != nil {
			h.t.Fatal(err)
		}
	}
}

// stored is the traffic and the rollout as they are stored.
func (h *house) stored() (map[string]int, Run) {
	h.t.Helper()
	r, err := h.store.Get(h.t.Context(), h.id(houseID))
	if err != nil {
		h.t.Fatal(err)
	}
	var p endpoint.Endpoint
	if err := json.Unmarshal(r.Properties, &p); err != nil {
		h.t.Fatal(err)
	}
	run, _ := runOf(r)
	return p.Traffic, run
}

// is checks the traffic and the state.
func (h *house) is(when, state string, green int) {
	h.t.Helper()
	split, run := h.stored()
	if run.State != state || split["green"] != green || split["blue"] != 100-green {
		h.t.Errorf("%s: %s with %v, want %s with green=%d (%s)", when, run.State, split, state, green, run.Reason)
	}
}

func (h *house) reasons() string {
	h.t.Helper()
	list, err := h.store.Activities(h.t.Context(), h.id(houseID), h.now.Add(time.Hour), 100)
	if err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, a := range list {
		all = append(all, a.Reason)
	}
	return strings.Join(all, "\n")
}

const plan1 = `"properties":{"canary.deployment":"green","canary.steps":"10,50,100","canary.step_seconds":"20","slo.error_rate":"0.01"}`

func TestACanaryThatDoesWellGetsAllOfTheTraffic(t *testing.T) {
	h := newHouse(t)
	h.seconds(2)
	h.is("without a plan", "", 0)
	h.want(`{"traffic":{"blue":100},` + plan1 + `}`)
	h.seconds(1)
	h.is("at first", Running, 10)
	h.seconds(19)
	h.is("before the step is over", Running, 10)
	h.seconds(2)
	h.is("then", Running, 50)
	h.seconds(21)
	h.is("at last", Running, 100)
	h.seconds(21)
	h.is("in the end", Promoted, 100)
	if h.routed != 3 {
		t.Errorf("the gateway was told %d times, want 3", h.routed)
	}
	h.seconds(60)
	h.is("and stays", Promoted, 100)
	if got := h.reasons(); !strings.Contains(got, "nothing speaks against it") {
		t.Errorf("the log does not tell why:\n%s", got)
	}
}

func TestACanaryThatBreaksAnObjectiveIsTakenBack(t *testing.T) {
	h := newHouse(t)
	h.green.errors = 0.2
	h.want(`{"traffic":{"blue":100},"mirrorTraffic":{},` + plan1 + `}`)
	h.seconds(30)
	h.is("with one error in five", RolledBack, 0)
	if got := h.reasons(); !strings.Contains(got, "the error rate is above the objective of 1 %") {
		t.Errorf("the log does not tell why:\n%s", got)
	}
	h.green.errors = 0
	h.seconds(60)
	h.is("and is not tried again", RolledBack, 0)

	// A new version of it is.
	h.put(houseID+"/deployments/green", `{}`, `{"provisioningState":"Succeeded","capacity":1,"live":{"generation":"g2"}}`)
	h.seconds(2)
	h.is("a new version", Running, 10)
}

func TestARestartOfTheServerGoesOnWithACanary(t *testing.T) {
	h := newHouse(t)
	h.want(`{"traffic":{"blue":100},` + plan1 + `}`)
	h.seconds(30)
	h.is("before", Running, 50)
	h.Controller = New(h.Controller.Config)
	h.seconds(21)
	h.is("after", Running, 100)
}

func TestWhoChangesTheTrafficByHandEndsACanary(t *testing.T) {
	h := newHouse(t)
	h.want(`{"traffic":{"blue":100},` + plan1 + `}`)
	h.seconds(5)
	h.want(`{"traffic":{"blue":70,"green":30},` + plan1 + `}`)
	h.seconds(60)
	h.is("changed by hand", Stopped, 30)
	h.want(`{"traffic":{"blue":70,"green":30},` + strings.Replace(plan1, `"green"`, `"green","canary.run":"2"`, 1) + `}`)
	h.seconds(2)
	h.is("begun again", Running, 10)
	h.want(`{"traffic":{"blue":90,"green":10},"properties":{"canary.deployment":""}}`)
	h.seconds(60)
	h.is("ended by hand", Stopped, 10)
}

func TestWithoutStepsTheObjectivesAreWatched(t *testing.T) {
	h := newHouse(t)
	h.want(`{"traffic":{"blue":80,"green":20},"properties":{"canary.deployment":"green","slo.error_rate":"0.01"}}`)
	h.seconds(40)
	h.is("while it does well", Watching, 20)
	h.green.errors = 0.3
	h.seconds(20)
	h.is("when it does not", RolledBack, 0)
}

func TestACanaryWithNobodyToGoBackToStays(t *testing.T) {
	h := newHouse(t)
	h.want(`{"traffic":{"green":100},"properties":{"canary.deployment":"green","slo.error_rate":"0.01"}}`)
	h.green.errors = 0.5
	h.seconds(30)
	split, run := h.stored()
	if run.State != Stopped || !maps.Equal(split, map[string]int{"green": 100}) || !strings.Contains(run.Reason, "no other deployment") {
		t.Errorf("%+v with %v", run, split)
	}
}

func TestAPlanThatIsWrongBeginsNothing(t *testing.T) {
	h := newHouse(t)
	h.want(`{"traffic":{"blue":100},"properties":{"canary.deployment":"green","canary.steps":"50,10"}}`)
	h.seconds(5)
	h.is("with steps that shrink", "", 0)
	h.want(`{"traffic":{"blue":100},"properties":{"canary.deployment":"red","canary.steps":"10,50"}}`)
	h.seconds(5)
	h.is("of a deployment that is not there", "", 0)
}
