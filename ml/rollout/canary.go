package rollout

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/serving"
)

// The properties of an endpoint that steer a canary.
const (
	propDeployment = "canary.deployment"
	propSteps      = "canary.steps"
	propSeconds    = "canary.step_seconds"
	propLeast      = "canary.min_requests"
	propRun        = "canary.run"
	propErrors     = "slo.error_rate"
	propLatency    = "slo.p99_ms"
)

// plan is what an endpoint's properties want.
type plan struct {
	deployment string
	steps      []int // percent; none: the traffic is the user's affair, and only guarded
	every      time.Duration
	least      int64   // requests that a step must have seen
	run        string  // a new one begins a new rollout
	errors     float64 // 0: none is given
	p99        time.Duration
}

// parsePlan reads the properties; false if they want none.
func parsePlan(p map[string]string) (plan, bool, error) {
	out := plan{deployment: strings.ToLower(p[propDeployment]), every: time.Minute, least: 10, run: p[propRun]}
	if out.deployment == "" {
		return out, false, nil
	}
	number := func(name string, least, most float64, to func(float64)) error {
		if p[name] == "" {
			return nil
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(p[name]), 64)
		if err != nil || !(v >= least && v <= most) {
			return fault.Invalid("'properties.properties[%q]' is %q; it must be a number from %v to %v", name, p[name], least, most).With("ValidationError").At("properties.properties")
		}
		to(v)
		return nil
	}
	for _, err := range []error{
		number(propSeconds, 1, 7*86400, func(v float64) { out.every = time.Duration(v * float64(time.Second)) }),
		number(propLeast, 1, 1e9, func(v float64) { out.least = int64(v) }),
		number(propErrors, 0, 0.5, func(v float64) { out.errors = max(v, 1e-4) }),
		number(propLatency, 0.001, 1e7, func(v float64) { out.p99 = time.Duration(v * float64(time.Millisecond)) }),
	} {
		if err != nil {
			return out, false, err
		}
	}
	for _, text := range strings.FieldsFunc(p[propSteps], func(r rune) bool { return r == ',' || r == ' ' || r == '/' }) {
		n, err := strconv.Atoi(strings.TrimSuffix(text, "%"))
		if err != nil || n < 1 || n > 100 || len(out.steps) > 0 && n <= out.steps[len(out.steps)-1] || len(out.steps) >= 50 {
			return out, false, fault.Invalid("'properties.properties[%q]' is %q; it must be percentages that grow, such as 5,25,50,100", propSteps, p[propSteps]).With("ValidationError").At("properties.properties")
		}
		out.steps = append(out.steps, n)
	}
	return out, true, nil
}

// The states of a rollout.
const (
	Running    = "Running"
	Watching   = "Watching" // the traffic is the user's affair: objectives alone are kept
	Promoted   = "Promoted"
	RolledBack = "RolledBack"
	Stopped    = "Stopped" // someone else changed the traffic
)

// Run is how a rollout goes. It stands in the endpoint's status.
type Run struct {
	Deployment string         `json:"deployment"`
	Generation string         `json:"generation"`
	Key        string         `json:"key"` // of the plan it goes by
	State      string         `json:"state"`
	Step       int            `json:"step"`    // index of the step
	Percent    int            `json:"percent"` // of the traffic
	Started    time.Time      `json:"started"`
	Since      time.Time      `json:"since"` // of the step
	Before     map[string]int `json:"before,omitempty"`
	Reason     string         `json:"reason,omitempty"`
	Requests   int64          `json:"requests"`
	Failures   int64          `json:"failures"`
}

func (r Run) open() bool { return r.State == Running || r.State == Watching }

// key names a plan: when it changes, another rollout begins.
func (p plan) key() string { return fmt.Sprint(p.steps, p.run) }

// evidence is what was seen of a rollout since it began, or since the server did.
type evidence struct {
	errors *excess // of the canary, against the objective; nil without one
	worse  worse   // failures, side by side
	slow   *excess // the same of its time
	slower worse

	tail             time.Duration     // what counts as slow where no objective says; 0 while it is not known
	past             serving.Histogram // of those beside it, until that is known
	all, beside      tally             // since it began, of the canary and of the others
	step, stepBeside tally             // since the step began
	last             map[string]serving.DeploymentState
	started          time.Time // of the gateway whose counters these are
}

// tally counts requests: how many, how many failed, of those whose time counts
// how many were slow, and how many found no place.
type tally struct{ n, failed, timed, slow, refused int64 }

func (t *tally) add(o tally) {
	t.n, t.failed, t.timed, t.slow, t.refused = t.n+o.n, t.failed+o.failed, t.timed+o.timed, t.slow+o.slow, t.refused+o.refused
}

func newEvidence(p plan) *evidence {
	e := &evidence{last: map[string]serving.DeploymentState{}, tail: p.p99}
	if p.errors > 0 {
		e.errors = newExcess(p.errors)
	}
	if p.p99 > 0 {
		e.slow = newExcess(0.01)
	}
	return e
}

// Without an objective, slow is what takes this much longer than 99 of 100
// requests did beside it, over as many as that takes to know.
const (
	slowness  = 1.25
	knownTail = 1000

	// One refused request of so many is what a deployment may have that gets more.
	fullest = 100

	// How long the first requests of new instances took says nothing of the model.
	warmUp = 30
)

// observe takes in a reading of the gateway.
func (e *evidence) observe(s serving.State, endpoint, canary string) {
	var it, beside tally
	fresh := !e.started.Equal(s.Started)
	e.started = s.Started
	// The first requests of new instances find caches cold.
	warm := e.all.n >= warmUp && e.tail > 0
	for _, ep := range s.Endpoints {
		if !strings.EqualFold(ep.Name, endpoint) {
			continue
		}
		for _, d := range ep.Deployments {
			was, seen := e.last[d.Name]
			e.last[d.Name] = d
			if !seen || fresh {
				continue
			}
			answers := d.Latency.Minus(was.Latency)
			var t tally
			if t.n, t.failed, t.refused = since(d.Requests, was.Requests); t.n < 0 || answers.Count < 0 {
				continue
			}
			if warm {
				t.timed, t.slow = t.n, above(answers, e.tail)
			}
			if strings.EqualFold(d.Name, canary) {
				it.add(t)
				continue
			}
			beside.add(t)
			if e.tail == 0 {
				e.learn(answers)
			}
		}
	}
	for _, sum := range []*tally{&e.all, &e.step} {
		sum.add(it)
	}
	for _, sum := range []*tally{&e.beside, &e.stepBeside} {
		sum.add(beside)
	}
	if e.errors != nil {
		e.errors.add(it.n, it.failed)
	}
	if e.slow != nil {
		e.slow.add(it.timed, it.slow)
	}
	e.worse.add(it.n, it.failed, beside.n, beside.failed)
	e.slower.add(it.timed, it.slow, beside.timed, beside.slow)
}

// learn finds out what is slow.
func (e *evidence) learn(h serving.Histogram) {
	if len(e.past.Counts) < len(h.Counts) {
		e.past.Counts = append(e.past.Counts, make([]int64, len(h.Counts)-len(e.past.Counts))...)
	}
	for i, c := range h.Counts {
		e.past.Counts[i] += c
	}
	e.past.Count += h.Count
	if e.past.Count >= knownTail {
		e.tail = time.Duration(slowness * float64(e.past.Percentile(0.99)))
	}
}

// since counts the requests that ended between two readings, those of them that
// failed (what a caller got for an error of the model or of its instances), and
// those that were refused because all places were taken: that says nothing of
// the model, only of the number of instances.
func since(now, before []serving.RequestCount) (total, failed, refused int64) {
	for _, r := range now {
		n := r.Count
		for _, b := range before {
			if b.Status == r.Status && b.Model == r.Model {
				n -= b.Count
			}
		}
		switch {
		case r.Status == 429 && r.Model != 429:
			refused += n
			continue
		case r.Status >= 500 || r.Status == 424 || r.Status == 408 || r.Status == 429:
			failed += n
		}
		total += n
	}
	return total, failed, refused
}

// above counts what took longer.
func above(h serving.Histogram, limit time.Duration) int64 {
	var n int64
	for i := len(h.Counts) - 1; i > 0 && serving.Bound(i-1) >= limit; i-- {
		n += h.Counts[i]
	}
	return n
}

// verdict tells why the canary is to be taken back; "" if nothing speaks
// against it. What the deployments beside it suffer from too is not its fault:
// it must be worse than they are, or than they were while they were asked.
func (e *evidence) verdict(p plan) string {
	rate := func(k, n int64) string {
		return fmt.Sprintf("%d of %d requests (%s %%)", k, n, strconv.FormatFloat(100*float64(k)/float64(max(n, 1)), 'f', 2, 64))
	}
	others := fmt.Sprintf("; beside it %s failed", rate(e.beside.failed, e.beside.n))
	broken := func(it *excess, w *worse, n, k, otherN, otherK int64) bool {
		switch {
		case it == nil:
			return false
		case e.stepBeside.n > 0:
			return it.odds() >= likely && w.odds() >= beside
		}
		return it.odds() >= surely && chance(n, k, otherN, otherK) < 1/doubt
	}
	switch {
	case broken(e.errors, &e.worse, e.step.n, e.step.failed, e.beside.n, e.beside.failed):
		return fmt.Sprintf("the error rate is above the objective of %s %%: %s failed%s", strconv.FormatFloat(100*p.errors, 'f', -1, 64), rate(e.all.failed, e.all.n), others)
	case e.errors == nil && e.worse.odds() >= surely:
		return fmt.Sprintf("it fails more often than what is live: %s failed%s", rate(e.all.failed, e.all.n), others)
	case broken(e.slow, &e.slower, e.step.timed, e.step.slow, e.beside.timed, e.beside.slow):
		return fmt.Sprintf("more than 1 %% of its answers take longer than the objective of %v", p.p99)
	case e.slow == nil && e.slower.odds() >= surely:
		return fmt.Sprintf("it is slower than what is live: answers of more than %v, %v times what 99 %% of the live ones take, are too many", e.tail.Round(10*time.Microsecond), slowness)
	}
	return ""
}

// split gives the canary its percent and the others the rest, as they shared it
// before.
func split(before map[string]int, canary string, percent int) map[string]int {
	out := map[string]int{canary: percent}
	sum := 0
	var names []string
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if !strings.EqualFold(name, canary) {
			names = append(names, name)
			sum += before[name]
		}
	}
	rest, left := 100-percent, 100-percent
	if sum == 0 {
		if len(names) == 0 || percent == 100 {
			out[canary] = 100
			return out
		}
		out[names[0]] = rest
		return out
	}
	for _, name := range names {
		out[name] = rest * before[name] / sum
		left -= out[name]
	}
	// What rounding has left goes to those who have most.
	slices.SortStableFunc(names, func(a, b string) int { return before[b] - before[a] })
	for i := 0; left > 0; i, left = i+1, left-1 {
		out[names[i%len(names)]]++
	}
	return out
}

// step is what a rollout does next.
type step struct {
	state   string
	index   int
	percent int
	reason  string
}

// next decides, from what a rollout has come to and what was seen.
func (p plan) next(now time.Time, r Run, e *evidence) (step, bool) {
	if why := e.verdict(p); why != "" {
		return step{RolledBack, r.Step, 0, why}, true
	}
	if r.State == Watching || now.Sub(r.Since) < p.every || e.step.n < p.least {
		return step{}, false
	}
	if e.step.refused*fullest > e.step.n && r.Step+1 < len(p.steps) {
		return step{}, false // it has too few instances for more
	}
	well := fmt.Sprintf("%d requests at %d %%, of which nothing speaks against it", e.step.n, r.Percent)
	if r.Step+1 >= len(p.steps) {
		return step{Promoted, r.Step, r.Percent, well}, true
	}
	return step{Running, r.Step + 1, p.steps[r.Step+1], well}, true
}
