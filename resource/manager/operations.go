package manager

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// Wake tells the operation loop that there may be work.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// workers bounds how many operations run at once. Most of them wait: for a job
// to end, for a folder to be deleted.
const workers = 64

// Run does the work of operations until ctx ends: what a restart interrupted is
// done again from its start.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var (
		mu    sync.Mutex
		taken = map[string]bool{}
		group sync.WaitGroup
		slots = make(chan struct{}, workers)
	)
	defer group.Wait()
	for {
		began := time.Now()
		open, err := m.store.OpenOperations(ctx)
		if err != nil && ctx.Err() == nil {
			m.log.Error("read open operations", "err", err)
		}
		for _, op := range open {
			mu.Lock()
			busy := taken[op.ID] || taken[op.Resource.Key()]
			if !busy {
				taken[op.ID], taken[op.Resource.Key()] = true, true
			}
			mu.Unlock()
			if busy {
				continue
			}
			group.Add(1)
			go func() {
				defer group.Done()
				slots <- struct{}{}
				if !m.operate(ctx, op) {
					select { // its end could not be written: not at once again
					case <-ctx.Done():
					case <-time.After(time.Second):
					}
				}
				<-slots
				mu.Lock()
				delete(taken, op.ID)
				delete(taken, op.Resource.Key())
				mu.Unlock()
				m.Wake()
			}()
		}
		// Each operation that ends wakes the loop: with a thousand of them open,
		// reading them all again must not be all that is done.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Since(began)):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-tick.C:
		}
	}
}

// operate does one operation and records how it ended; false if it could not.
func (m *Manager) operate(ctx context.Context, op resource.Operation) bool {
	// It may have ended since the list of open ones was read, and a deletion
	// that is done twice could hit what was made anew.
	op, err := m.store.Operation(ctx, op.ID)
	if err != nil || op.Done() {
		return err == nil || fault.Is(err, fault.Missing) || ctx.Err() != nil
	}
	b, err := m.work(ctx, &op)
	if ctx.Err() != nil {
		return true // the next start does it again
	}
	op.Ended = m.now()
	if err != nil {
		b = resource.Batch{}
		op.State, op.Code, op.Message = resource.Failed, "InternalServerError", "The operation failed for a reason that the server's log tells."
		if f := fault.Find(err); f != nil {
			op.Code, op.Message = f.Code, f.Message
		} else {
			m.log.Error("operation", "id", op.ID, "verb", op.Verb, "resource", op.Resource.String(), "err", err)
		}
		if op.Verb == "put" || op.Verb == "delete" {
			b.Statuses = append(b.Statuses, failed(op))
		}
	} else {
		op.State = resource.Succeeded
	}
	b.Operations = append(b.Operations, op)
	if _, err := m.store.Commit(ctx, b); err != nil && ctx.Err() == nil {
		m.log.Error("record the end of an operation", "id", op.ID, "err", err)
		return false
	}
	return true
}

// work is what the operation is about; the batch is committed with its end.
func (m *Manager) work(ctx context.Context, op *resource.Operation) (resource.Batch, error) {
	var b resource.Batch
	t, err := m.types.Find(op.Resource.Type())
	if err != nil {
		return b, err
	}
	r, err := m.stored(ctx, t, op.Resource)
	if err != nil {
		return b, err
	}
	switch op.Verb {
	case "put":
		if r == nil {
			return b, fault.New(fault.Missing, "ResourceNotFound", "The %s '%s' was deleted meanwhile.", t.Title, op.Resource.Name())
		}
		status, err := t.Provision(ctx, *r)
		if err != nil {
			return b, err
		}
		done := resource.Overlay(stateJSON(resource.Succeeded), status)
		b.Statuses = append(b.Statuses, resource.StatusWrite{ID: r.ID, Change: unlessDeleting(done)})
	case "delete":
		if r == nil {
			r, err = m.gone(ctx, t, op.Resource) // a purge
		}
		if r == nil || err != nil {
			return b, err
		}
		if err := m.releaseBelow(ctx, r.ID); err != nil {
			return b, err
		}
		if t.Release != nil {
			if err := t.Release(ctx, *r); err != nil {
				return b, err
			}
		}
		b.Removals = append(b.Removals, resource.Removal{ID: r.ID, Expect: resource.Any, Deep: true})
	default:
		_, act, ok := findAction(t, op.Verb)
		if !ok {
			return b, fault.Invalid("a %s has no action %q", t.Title, op.Verb)
		}
		call := resource.Call{ID: op.Resource, Body: op.Input}
		if r != nil {
			call.Resource = *r
		} else if !act.Bare {
			return b, missing(t, op.Resource)
		}
		body, err := act.Run(ctx, call)
		if err != nil {
			return b, err
		}
		if body != nil {
			if op.Result, err = json.Marshal(body); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

// failed is the status of a resource whose operation failed.
func failed(op resource.Operation) resource.StatusWrite {
	raw, _ := json.Marshal(map[string]any{"provisioningState": resource.Failed,
		"provisioningErrors": []any{map[string]any{"error": map[string]string{"code": op.Code, "message": op.Message}}}})
	if op.Verb == "delete" {
		return resource.StatusWrite{ID: op.Resource, Change: overlaid(raw)}
	}
	return resource.StatusWrite{ID: op.Resource, Change: unlessDeleting(raw)}
}

// unlessDeleting lays members over the stored status of a resource that is not
// on its way out.
func unlessDeleting(top json.RawMessage) func(json.RawMessage) (json.RawMessage, error) {
	return func(stored json.RawMessage) (json.RawMessage, error) {
		var s resource.State
		if json.Unmarshal(orEmpty(stored), &s) == nil && s.ProvisioningState == resource.Deleting {
			return stored, nil
		}
		return resource.Overlay(orEmpty(stored), top), nil
	}
}
