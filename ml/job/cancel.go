package job

import (
	"context"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/resource"
)

// cancelWait bounds how long the operation of a cancellation follows the job:
// the grace before it is killed, and some time to collect what it left.
const cancelWait = 2 * time.Minute

// beginCancel asks a job to end. A job that has ended already cannot be
// cancelled, and that is no error: the wish is fulfilled.
func (s *Service) beginCancel(ctx context.Context, call resource.Call) error {
	site, err := ml.SiteOf(ctx, s.Resources, call.ID)
	if err != nil {
		return err
	}
	_, err = s.Runs.ChangeRun(ctx, site.GUID, call.ID.Name(), func(r *tracking.Run) error {
		if r.Status.Terminal() {
			return nil
		}
		r.Reason = "is being cancelled"
		return Move(r, tracking.CancelRequested)
	})
	s.Wake()
	return err
}

// cancel waits until a job that was asked to end has ended.
func (s *Service) cancel(ctx context.Context, call resource.Call) (any, error) {
	site, err := ml.SiteOf(ctx, s.Resources, call.ID)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(cancelWait)
	for pause := 20 * time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, time.Second) {
		run, err := s.Runs.Run(ctx, site.GUID, call.ID.Name())
		if fault.Is(err, fault.Missing) || err == nil && run.Status.Terminal() {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	return nil, nil
}
