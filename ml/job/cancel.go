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

// cancel asks a job to end and waits until it has. A job that has ended
// already cannot be cancelled, and that is no error: the wish is fulfilled.
func (s *Service) cancel(ctx context.Context, call resource.Call) (any, error) {
	site, err := ml.SiteOf(ctx, s.Resources, call.ID)
	if err != nil {
		return nil, err
	}
	run, err := s.Runs.ChangeRun(ctx, site.GUID, call.ID.Name(), func(r *tracking.Run) error {
		if r.Status.Terminal() {
			return nil
		}
		r.Reason = "is being cancelled"
		return Move(r, tracking.CancelRequested)
	})
	if err != nil {
		return nil, err
	}
	s.Wake()
	deadline := time.Now().Add(cancelWait)
	for pause := 20 * time.Millisecond; !run.Status.Terminal() && time.Now().Before(deadline); pause = min(2*pause, time.Second) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		if run, err = s.Runs.Run(ctx, site.GUID, call.ID.Name()); err != nil {
			if fault.Is(err, fault.Missing) {
				return nil, nil
			}
			return nil, err
		}
	}
	return nil, nil
}
