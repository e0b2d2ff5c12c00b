package armhttp

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"lapis/fault"
	"lapis/resource"
)

// errCancelled is why a deployment ends that its user cancelled.
var errCancelled = errors.New("cancelled")

// Tasks are the deployments that are being made, some of them after their
// request was answered.
type Tasks struct {
	mu      sync.Mutex
	live    map[string]context.CancelCauseFunc // by key; nil for one within another
	ctx     context.Context
	stop    context.CancelFunc
	stopped bool
	wait    sync.WaitGroup
}

// NewTasks makes the set of the deployments; Run ends them.
func NewTasks() *Tasks {
	t := &Tasks{live: map[string]context.CancelCauseFunc{}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// Run waits until ctx ends, and then for the deployments, which end too.
func (t *Tasks) Run(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.stop()
	t.wait.Wait()
	return nil
}

// begin starts a deployment, and closes the channel when it has ended. Values are
// those of ctx, which may end before.
func (t *Tasks) begin(ctx context.Context, id resource.ID, do func(ctx context.Context)) (<-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, fault.New(fault.Unavailable, "ServiceUnavailable", "The server is stopping; try again when it is back.")
	}
	if _, ok := t.live[id.Key()]; ok {
		return nil, fault.Conflicts("Unable to edit or replace the deployment '%s': it is still being made. Wait until it has ended, or cancel it.", id.Name()).With("DeploymentActive").At(id.String())
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	release := context.AfterFunc(t.ctx, func() { cancel(context.Canceled) })
	t.live[id.Key()] = cancel
	done := make(chan struct{})
	t.wait.Go(func() {
		defer close(done)
		defer cancel(nil)
		defer release()
		do(ctx)
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.live, id.Key())
	})
	return done, nil
}

// enter notes a deployment within one, until what it returns is called.
func (t *Tasks) enter(id resource.ID) func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.live[id.Key()]; ok {
		return func() {}
	}
	t.live[id.Key()] = nil
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.live, id.Key())
	}
}

// cancel ends a deployment; false if it is not being made.
func (t *Tasks) cancel(id resource.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	cancel := t.live[id.Key()]
	if cancel != nil {
		cancel(errCancelled)
	}
	return cancel != nil
}

// DeploymentType is the type that deployments are kept as. One that was being
// made when the server ended is shown as failed.
func (t *Tasks) DeploymentType() *resource.Type {
	return &resource.Type{Name: deployments, Title: "deployment", View: func(_ context.Context, _ resource.View, rs []resource.Resource) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for i := range rs {
			props, err := resource.ParseDocument(rs[i].Properties)
			if err != nil || props.Text("provisioningState") != "Running" {
				continue
			}
			if _, ok := t.live[rs[i].ID.Key()]; ok {
				continue
			}
			props.Set("provisioningState", resource.Failed)
			props.Set("error", map[string]any{"code": "DeploymentFailed", "target": rs[i].ID.String(), "details": []any{},
				"message": "The server ended while the deployment was being made. Deploy it again: what is there already stays."})
			rs[i].Properties = json.RawMessage(props.Raw())
		}
		return nil
	}}
}
