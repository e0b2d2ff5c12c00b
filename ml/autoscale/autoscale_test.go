package autoscale

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/ml/monitor"
	"lapis/ml/serving"
	"lapis/resource"
)

// busy is a machine on which each instance of a deployment uses so much.
type busy struct {
	id  resource.ID
	cpu float64
}

func (b busy) Usage(context.Context) ([]monitor.Usage, error) {
	return []monitor.Usage{{Deployment: b.id, Instance: "1", CPU: b.cpu}, {Deployment: b.id, Instance: "2", CPU: b.cpu}}, nil
}

// idle is a gateway that nobody asks anything.
type idle struct{ serving.Gateway }

func (idle) State(context.Context) (serving.State, error) {
	return serving.State{Started: time.Now().Add(-time.Hour), Time: time.Now()}, nil
}

// scaler does as the deployer: it keeps the number in the deployment's status.
type scaler struct {
	store resource.Store
	mu    sync.Mutex
	calls []string
}

func (s *scaler) Scale(ctx context.Context, id resource.ID, count int, reason string) error {
	s.mu.Lock()
	s.calls = append(s.calls, fmt.Sprint(count))
	s.mu.Unlock()
	raw := json.RawMessage(fmt.Sprintf(`{"provisioningState":"Succeeded","live":{"generation":"g"},"capacity":%d}`, count))
	_, err := s.store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: id, Change: overlay(raw)}}})
	return err
}

func (s *scaler) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.calls, " ")
}

func TestABusyDeploymentIsScaledOutOnceAndTheLogTellsWhy(t *testing.T) {
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	store := sqldb.NewResources(db)
	deployment, err := resource.ParseID(target1)
	if err != nil {
		t.Fatal(err)
	}
	settingID, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/" + Type + "/scale")
	if err != nil {
		t.Fatal(err)
	}
	properties := fmt.Sprintf(`{"targetResourceUri":%q,"profiles":[%s]}`, target1,
		profile("default", 2, 2, 5, "", rule(monitor.CPU, "GreaterThan", 70, "Increase", "ChangeCount", 2, "PT5M")))
	for _, r := range []resource.Resource{
		{ID: deployment, Properties: json.RawMessage(`{}`), Status: json.RawMessage(`{"provisioningState":"Succeeded","live":{"generation":"g"},"capacity":1}`)},
		{ID: settingID, Properties: json.RawMessage(properties)},
	} {
		if _, err := store.Commit(t.Context(), resource.Batch{Puts: []resource.Write{{Resource: r, Expect: resource.Absent}}}); err != nil {
			t.Fatal(err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	m, err := monitor.New(monitor.Config{Gateway: idle{}, Resources: store, Meter: busy{deployment, 90}, Log: quiet, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	scale := &scaler{store: store}
	config := Config{Resources: store, Monitor: m, Scaler: scale, Log: quiet, Now: time.Now}
	a := New(config)
	ctx, stop := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { m.Run(ctx) })
	loops.Go(func() { a.Run(ctx) })
	for end := time.Now().Add(time.Minute); scale.said() != "2 4" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	loops.Wait()
	// The profile's minimum first, which begins no cooldown, and then the rule.
	if scale.said() != "2 4" {
		t.Fatalf("scaled to %q, want 2 and then 4", scale.said())
	}
	log, err := store.Activities(t.Context(), settingID, time.Now().Add(time.Hour), 10)
	if err != nil || len(log) != 2 || !strings.Contains(log[0].Reason, "CpuUtilizationPercentage is 90") || !strings.Contains(log[0].Reason, "raises 2 to 4") {
		t.Errorf("%+v, %v: the log must tell why", log, err)
	}
	// The cooldown is kept over a restart.
	if err := New(config).pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if scale.said() != "2 4" {
		t.Errorf("scaled to %q after a restart, within the cooldown", scale.said())
	}

	// A server that was killed between deciding and doing does what it decided.
	half := json.RawMessage(fmt.Sprintf(`{"lastScaleActionTime":%q,"pending":{"from":4,"to":5,"reason":"because"}}`, time.Now().Format(time.RFC3339Nano)))
	if _, err := store.Commit(t.Context(), resource.Batch{Statuses: []resource.StatusWrite{{ID: settingID, Status: half}}}); err != nil {
		t.Fatal(err)
	}
	again := New(config)
	for range 3 {
		if err := again.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if scale.said() != "2 4 5" {
		t.Errorf("scaled to %q after a kill between deciding and doing, want 5 once more", scale.said())
	}
}
