package meter

import (
	"context"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/deploy"
	"lapis/resource"
)

// none is a store without the deployment: its instances have the whole machine.
type none struct{ resource.Store }

func (none) Get(context.Context, resource.ID) (resource.Resource, error) {
	return resource.Resource{}, fault.NotFound("there is none")
}

func TestABusyInstanceIsToldFromAnIdleOne(t *testing.T) {
	id, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/e/deployments/d")
	if err != nil {
		t.Fatal(err)
	}
	begin := func(script string) int {
		// The work is done by a child, as that of an instance is by its workers.
		cmd := exec.Command("bash", "-c", "("+script+"); true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
		return cmd.Process.Pid
	}
	busy, idle := begin("end=$((SECONDS+60)); while [ $SECONDS -lt $end ]; do :; done"), begin("sleep 60")
	m := New(Config{Cores: 1, Memory: 1 << 34, Disk: t.TempDir(), Resources: none{}, Processes: func() []deploy.Process {
		return []deploy.Process{{Deployment: id, Instance: "busy", PID: busy, Siblings: 1}, {Deployment: id, Instance: "idle", PID: idle, Siblings: 1}, {Deployment: id, Instance: "gone", PID: 1 << 30}}
	}})
	if first, err := m.Usage(t.Context()); err != nil || len(first) != 0 {
		t.Fatalf("%+v, %v at the first look, want nothing yet", first, err)
	}
	// On a machine that is busy otherwise it may take a while to use some time.
	for end := time.Now().Add(30 * time.Second); ; {
		time.Sleep(200 * time.Millisecond)
		got, err := m.Usage(t.Context())
		if err != nil || len(got) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		if got[1].CPU > 5 || got[0].Memory <= 0 || got[0].Disk["os"] <= 0 {
			t.Fatalf("%+v", got)
		}
		if got[0].CPU > 10 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("an instance that does nothing but work uses %v %%", got[0].CPU)
		}
	}
}
