package autoscale

import (
	"fmt"
	"math"
	"time"

	"lapis/ml/serving"
)

// The two windows over which concurrency is averaged: a calm one, and one that
// notices a rush.
const (
	calmFor = 60 * time.Second
	rushFor = 6 * time.Second
)

// target is what a deployment scales itself by: the share of its places that
// requests are to take.
type target struct {
	least, most int
	concurrency int           // requests that an instance works on at once
	utilization float64       // percent
	every       time.Duration // between two decisions; 0: with each reading
}

// track is what was seen of one deployment.
type track struct {
	samples []sample
	begun   time.Time // of the first sample
	last    serving.DeploymentState
	seenAt  time.Time

	rushUntil time.Time
	rushMost  int
	raised    time.Time // when it was last decided that there be more
	decided   time.Time
}

// sample is how many requests were worked on or waited at a moment.
type sample struct {
	at      time.Time
	load    float64
	waiting bool
}

// observe takes a reading in. Between two readings the time that was worked on
// requests says more than the moment of the reading does.
func (t *track) observe(at time.Time, d serving.DeploymentState) {
	load := float64(d.Running + d.Waiting)
	if gap := at.Sub(t.seenAt); !t.seenAt.IsZero() && gap > 0 && gap < 10*time.Second && d.Busy >= t.last.Busy {
		load = max(load, float64(d.Busy-t.last.Busy)/float64(gap)+float64(d.Waiting))
	}
	t.last, t.seenAt = d, at
	if t.begun.IsZero() {
		t.begun = at
	}
	t.samples = append(t.samples, sample{at, load, d.Waiting > 0})
	for len(t.samples) > 0 && at.Sub(t.samples[0].at) > calmFor {
		t.samples = t.samples[1:]
	}
}

func (t *track) average(now time.Time, window time.Duration) float64 {
	sum, n := 0.0, 0
	for _, s := range t.samples {
		if now.Sub(s.at) < window {
			sum += s.load
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// decide says how many instances there shall be: as many as bring the requests
// that there are to the target's share of the places. What waits is answered at
// once, a rush within its window, and fewer there are only after a calm minute,
// at most half as few.
func (t *track) decide(now time.Time, current int, g target) decision {
	stay := decision{count: current}
	if len(t.samples) == 0 || now.Sub(t.decided) < g.every {
		return stay
	}
	t.decided = now
	switch {
	case current < g.least:
		return decision{count: g.least, reason: fmt.Sprintf("scale settings hold %d to %d instances; there were %d", g.least, g.most, current)}
	case current > g.most:
		return decision{count: g.most, reason: fmt.Sprintf("scale settings hold %d to %d instances; there were %d", g.least, g.most, current)}
	}
	ready := float64(max(current, 1))
	each := max(float64(g.concurrency), 1) * g.utilization / 100
	bounded := func(load float64) int {
		return int(min(max(math.Ceil(load/each-1e-9), math.Floor(ready/2)), 1000*ready))
	}
	calm, rush := t.average(now, calmFor), t.average(now, rushFor)
	wanted, why := bounded(calm), fmt.Sprintf("%s requests at a time over the last minute", short(calm))
	if fast := bounded(rush); float64(fast)/ready >= 2 || now.Before(t.rushUntil) {
		if float64(fast)/ready >= 2 {
			t.rushUntil = now.Add(calmFor)
		}
		t.rushMost = max(t.rushMost, fast, current)
		if t.rushMost > wanted {
			wanted, why = t.rushMost, fmt.Sprintf("%s requests at a time over the last %s", short(rush), rushFor)
		}
	} else {
		t.rushMost = 0
	}
	if s := t.samples[len(t.samples)-1]; s.waiting {
		if at := bounded(s.load); at > wanted {
			wanted, why = at, fmt.Sprintf("%s requests at once, %d of them waiting", short(s.load), t.last.Waiting)
		}
	}
	wanted = min(max(wanted, g.least), g.most)
	switch {
	case wanted > current:
		t.raised = now
		return decision{count: wanted, reason: fmt.Sprintf("%s; the target is %s for each instance (%s%% of %d); raised from %d to %d instances",
			why, short(each), short(g.utilization), g.concurrency, current, wanted)}
	case wanted < current && now.Sub(t.begun) >= calmFor && now.Sub(t.raised) >= calmFor:
		return decision{count: wanted, reason: fmt.Sprintf("%s; the target is %s for each instance (%s%% of %d); lowered from %d to %d instances",
			why, short(each), short(g.utilization), g.concurrency, current, wanted)}
	}
	return stay
}
