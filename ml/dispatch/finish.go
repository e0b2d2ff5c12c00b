package dispatch

import (
	"context"
	"fmt"
	"strings"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/job"
	"lapis/ml/tracking"
)

// ending is how a job ends.
type ending struct {
	status  tracking.Status
	code    string // of the error, when it failed
	message string
}

// settle writes the last word on a job. The log is final before it.
func (d *Dispatcher) settle(ctx context.Context, r tracking.Run, e ending) bool {
	return d.change(ctx, r, func(r *tracking.Run) error { return settled(r, e, tracking.Millis(d.Now())) })
}

// settled moves a run to its end.
func settled(r *tracking.Run, e ending, now int64) error {
	if r.Status.Terminal() {
		return nil
	}
	r.Reason = ""
	r.End = now
	if e.status == tracking.Failed {
		r.Error = &tracking.RunError{Code: e.code, Message: e.message}
	}
	return job.Move(r, e.status)
}

// finish collects what an ended task left and writes the last word. The lock is
// held.
func (d *Dispatcher) finish(ctx context.Context, r tracking.Run, task compute.Observed) {
	w, known := d.running[task.ID]
	if !known {
		var ok bool
		if w, ok = d.demand(ctx, r); !ok {
			return
		}
		delete(d.ready, task.ID)
	} else {
		// The next job may start while this one's outputs are stored.
		w.exited = true
		d.running[task.ID] = w
	}
	w.run = r
	d.background(ctx, task.ID, false, func(ctx context.Context) {
		if err := d.conclude(ctx, w, task); err != nil && ctx.Err() == nil {
			d.Log.Error("finish a job", "job", r.ID, "err", err)
			rest(ctx)
			return // the next pass tries again
		}
		d.free(w)
	})
}

func (d *Dispatcher) conclude(ctx context.Context, w demand, task compute.Observed) error {
	r := w.run
	if _, err := d.Runs.ChangeRun(ctx, r.Workspace, r.ID, func(r *tracking.Run) error {
		if r.Status == tracking.CancelRequested || r.Status == tracking.Finalizing {
			return nil
		}
		r.Reason = "is storing its logs and outputs"
		return job.Move(r, tracking.Finalizing)
	}); err != nil {
		return err
	}
	e := verdictOf(w, task.Exit)
	sizes, err := d.Runtime.Collect(ctx, task.ID)
	if err != nil {
		f := fault.Find(err)
		if f == nil || f.Kind == fault.StorageFull || f.Kind == fault.Unavailable {
			return err // not the job's fault: tried again
		}
		e = ending{status: tracking.Failed, code: "UserError", message: "The job's outputs could not be stored: " + f.Message}
	}
	outputs, err := d.register(ctx, w, sizes)
	if err != nil {
		if fault.Find(err) == nil {
			return err
		}
		e = failure(err)
	}
	now := tracking.Millis(d.Now())
	if !task.Ended.IsZero() {
		now = tracking.Millis(task.Ended)
	}
	if _, err := d.Runs.ChangeRun(ctx, r.Workspace, r.ID, func(r *tracking.Run) error {
		r.Outputs = outputs
		if !task.Started.IsZero() {
			r.Start = tracking.Millis(task.Started)
		}
		return settled(r, e, now)
	}); err != nil {
		return err
	}
	return d.Runtime.Remove(ctx, task.ID)
}

// verdictOf tells from a task's exit how its job ended, in the words that the
// user sees everywhere.
func verdictOf(w demand, x compute.Exit) ending {
	log := "See user_logs/std_log.txt for what it printed."
	last := ""
	if words := lastWords(x.LastLine); words != "" {
		last = " Its last words: " + words
	}
	switch {
	case x.Stopped:
		return ending{status: tracking.Canceled}
	case x.Lost != "":
		return ending{status: tracking.Failed, code: "SystemError", message: "The job was lost: " + x.Lost + ". Submit it again."}
	case x.TimedOut:
		return ending{status: tracking.Failed, code: "UserError", message: fmt.Sprintf("The job exceeded its time limit of %s (limits.timeout) and was stopped.%s", w.job.Limits.Timeout, last)}
	case x.OOM:
		return ending{status: tracking.Failed, code: "UserError", message: "The job was killed because it used more memory than its limit: choose a larger instance type, or make it use less." + last}
	case x.Signal != "":
		return ending{status: tracking.Failed, code: "UserError", message: fmt.Sprintf("Execution failed. The user process was killed by %s.%s %s", x.Signal, last, log)}
	case x.Code != 0:
		return ending{status: tracking.Failed, code: "UserError", message: fmt.Sprintf("Execution failed. User process exited with status code %d.%s %s", x.Code, last, log)}
	}
	return ending{status: tracking.Completed}
}

// lastWords is the last line that the command printed; what the platform wrote
// at the head of the log is not the command's.
func lastWords(lines string) string {
	line := strings.TrimSpace(lines[strings.LastIndexByte(strings.TrimSpace(lines), '\n')+1:])
	if strings.HasPrefix(line, notePrefix) {
		return ""
	}
	return line
}
