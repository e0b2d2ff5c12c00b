package dispatch

import (
	"fmt"

	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/environment"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/resource"
)

// demand is a job and what it needs to run.
type demand struct {
	id      string // of its task
	site    ml.Site
	run     tracking.Run
	job     job.Job
	env     environment.Wanted
	hash    string      // of env's recipe
	compute resource.ID // zero: this machine as it is
	size    compute.Size
	node    string // of a started task: the node it holds
	exited  bool   // a started task has ended: it holds its node, and no slot any more
	flaw    error  // a fault: why it can never start; nil if it can
}

// capacity is what is free.
type capacity struct {
	slots   int
	total   int                     // slots in all
	gpus    int                     // of the machine
	targets map[string]*targetState // compute key → its nodes
}

// targetState is a compute target as the plan sees it.
type targetState struct {
	target compute.Target
	busy   int  // nodes that run a job
	gone   bool // it was deleted
}

// verdict is what the plan says of one waiting job.
type verdict struct {
	start  bool
	reason string // why it waits, when it does
	fail   string // why it can never run
}

// plan decides which jobs start now, oldest first. A job that waits for its
// compute does not keep back one that waits for another; within one compute,
// nobody is overtaken. Jobs wait for a slot, never for a size: an instance type
// larger than the machine is given the whole machine.
func plan(waiting []demand, c capacity) []verdict {
	verdicts := make([]verdict, len(waiting))
	for i, w := range waiting {
		size := w.size
		var t *targetState
		if !w.compute.Zero() {
			t = c.targets[w.compute.Key()]
			if t == nil || t.gone {
				verdicts[i].fail = fmt.Sprintf("The compute '%s' was deleted while the job waited for it. Submit the job again on another.", w.compute.Name())
				continue
			}
			if size.Name == "" {
				size, _ = compute.ParseSize(t.target.Size)
			}
		}
		switch {
		case size.GPUs > 0 && c.gpus == 0:
			verdicts[i].reason = fmt.Sprintf("waits for a GPU: %s has %d, this machine has none", size.Name, size.GPUs)
		case t != nil && t.target.Stopped:
			verdicts[i].reason = fmt.Sprintf("waits for the compute instance %s, which is stopped: start it with `lapis compute start --name %s`", t.target.Name, t.target.Name)
		case t != nil && t.target.MaxNodes == 0:
			verdicts[i].reason = fmt.Sprintf("waits for a node of %s, which may have none now (max_instances is 0)", t.target.Name)
		case t != nil && t.busy >= t.target.MaxNodes:
			verdicts[i].reason = fmt.Sprintf("waits for a node of %s: %d of %d are busy", t.target.Name, t.busy, t.target.MaxNodes)
		case c.slots <= 0:
			verdicts[i].reason = fmt.Sprintf("waits for a slot of this machine: %d of %d are taken", c.total, c.total)
		default:
			verdicts[i].start = true
			c.slots--
			if t != nil {
				t.busy++
			}
		}
	}
	return verdicts
}
