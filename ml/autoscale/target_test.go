package autoscale

import (
	"testing"
	"time"

	"lapis/ml/serving"
)

// clock drives a track second by second: load is what runs and what waits.
type clock struct {
	t       *testing.T
	now     time.Time
	track   track
	goal    target
	current int
}

func newClock(t *testing.T, least, most, current int) *clock {
	return &clock{t: t, now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC), current: current,
		goal: target{least: least, most: most, concurrency: 1, utilization: 70, every: 800 * time.Millisecond}}
}

// run lets seconds go by under a load and returns after how many of them the
// count was changed for the first time; 0 if not.
func (c *clock) run(seconds, running, waiting int) int {
	first := 0
	for i := range seconds {
		c.now = c.now.Add(time.Second)
		c.track.observe(c.now, serving.DeploymentState{Running: int64(running), Waiting: int64(waiting)})
		if d := c.track.decide(c.now, c.current, c.goal); d.count != c.current {
			if d.reason == "" {
				c.t.Error("a change without a reason")
			}
			c.current = d.count
			if first == 0 {
				first = i + 1
			}
		}
	}
	return first
}

func TestWhatWaitsBringsInstancesWithinASecond(t *testing.T) {
	c := newClock(t, 1, 10, 1)
	c.run(300, 0, 0)
	if after := c.run(1, 1, 1); after != 1 || c.current != 3 {
		t.Errorf("two requests at once make %d instances after %d s, want 3 at once", c.current, after)
	}
}

func TestARushBringsInstancesAlthoughTheMinuteWasCalm(t *testing.T) {
	c := newClock(t, 1, 20, 4)
	c.run(120, 2, 0)
	if c.current != 3 {
		t.Errorf("%d instances for two requests at a time, want 3", c.current)
	}
	if after := c.run(6, 8, 0); after == 0 || c.current < 6 {
		t.Errorf("%d instances within a rush of 8 requests at a time, want more than 6", c.current)
	}
}

func TestFewerInstancesComeAfterACalmMinuteAndByHalves(t *testing.T) {
	c := newClock(t, 1, 10, 8)
	if after := c.run(59, 0, 0); after != 0 {
		t.Errorf("lowered after %d s", after)
	}
	c.run(1, 0, 0)
	c.run(1, 0, 0)
	if c.current > 4 || c.current < 1 {
		t.Errorf("%d instances after a calm minute, want at most half of 8", c.current)
	}
	c.run(120, 0, 0)
	if c.current != 1 {
		t.Errorf("%d instances at last, want the least, 1", c.current)
	}
}

func TestASteadyLoadKeepsItsInstances(t *testing.T) {
	c := newClock(t, 1, 10, 3)
	if after := c.run(600, 2, 0); after != 0 {
		t.Errorf("two requests at a time on 3 instances (ceil 2/0.7): changed to %d after %d s", c.current, after)
	}
}

func TestTheBoundsHoldAtOnce(t *testing.T) {
	c := newClock(t, 2, 4, 1)
	if c.run(1, 0, 0); c.current != 2 {
		t.Errorf("%d instances, want the least, 2", c.current)
	}
	if c.run(10, 50, 50); c.current != 4 {
		t.Errorf("%d instances under load, want the most, 4", c.current)
	}
}
