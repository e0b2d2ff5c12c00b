package job

import (
	"fmt"

	"lapis/ml/tracking"
)

// moves is the table of legal moves between the states of a job (JOB-07). A
// state may always be written again as it is.
var moves = map[tracking.Status][]tracking.Status{
	tracking.NotStarted:      {tracking.Queued, tracking.Provisioning, tracking.Preparing, tracking.Starting, tracking.CancelRequested, tracking.Canceled, tracking.Failed},
	tracking.Queued:          {tracking.Provisioning, tracking.Preparing, tracking.Starting, tracking.CancelRequested, tracking.Canceled, tracking.Failed},
	tracking.Provisioning:    {tracking.Queued, tracking.Preparing, tracking.Starting, tracking.CancelRequested, tracking.Canceled, tracking.Failed},
	tracking.Preparing:       {tracking.Queued, tracking.Starting, tracking.CancelRequested, tracking.Canceled, tracking.Failed},
	tracking.Starting:        {tracking.Queued, tracking.Preparing, tracking.Running, tracking.Finalizing, tracking.CancelRequested, tracking.Canceled, tracking.Failed},
	tracking.Running:         {tracking.Finalizing, tracking.NotResponding, tracking.CancelRequested, tracking.Completed, tracking.Failed, tracking.Canceled},
	tracking.NotResponding:   {tracking.Running, tracking.Finalizing, tracking.CancelRequested, tracking.Failed, tracking.Canceled},
	tracking.Finalizing:      {tracking.CancelRequested, tracking.Completed, tracking.Failed, tracking.Canceled},
	tracking.CancelRequested: {tracking.Canceled, tracking.Completed, tracking.Failed},
	tracking.Completed:       nil,
	tracking.Failed:          nil,
	tracking.Canceled:        nil,
}

// Move changes a run's state, if the table allows it.
func Move(r *tracking.Run, to tracking.Status) error {
	if r.Status == to {
		return nil
	}
	for _, next := range moves[r.Status] {
		if next == to {
			r.Status = to
			return nil
		}
	}
	return fmt.Errorf("job %s cannot go from %s to %s", r.ID, r.Status, to)
}
