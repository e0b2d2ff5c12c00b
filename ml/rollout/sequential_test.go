package rollout

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"lapis/ml/serving"
)

// model is how a deployment answers: so many fail, and it takes so long (half of
// the requests take less than the median; 99 of 100 less than 3.2 times that).
type model struct {
	errors float64
	median time.Duration
}

// traffic is a gateway between two models.
type traffic struct {
	rng   *rand.Rand
	state serving.State
}

func newTraffic(seed uint64) *traffic {
	empty := func(name string) serving.DeploymentState {
		return serving.DeploymentState{Name: name, Requests: []serving.RequestCount{{Status: 200, Model: 200}, {Status: 424, Model: 500}}, Latency: serving.Histogram{Counts: make([]int64, serving.Buckets())}}
	}
	return &traffic{rng: rand.New(rand.NewPCG(seed, 1)), state: serving.State{Endpoints: []serving.EndpointState{{Name: "house", Deployments: []serving.DeploymentState{empty("blue"), empty("green")}}}}}
}

// second lets requests come, of which the canary gets so many percent.
func (tr *traffic) second(rate, percent int, blue, green model) serving.State {
	next := tr.state
	next.Endpoints = []serving.EndpointState{{Name: "house"}}
	for i, d := range tr.state.Endpoints[0].Deployments {
		d.Requests = append([]serving.RequestCount(nil), d.Requests...)
		d.Latency.Counts = append([]int64(nil), d.Latency.Counts...)
		m := []model{blue, green}[i]
		for range rate {
			if (tr.rng.IntN(100) < percent) != (i == 1) {
				continue
			}
			if tr.rng.Float64() < m.errors {
				d.Requests[1].Count++
			} else {
				d.Requests[0].Count++
			}
			took := time.Duration(float64(m.median) * math.Exp(0.5*tr.rng.NormFloat64()))
			d.Latency.Counts[serving.Bucket(took)]++
			d.Latency.Count++
			d.Latency.Sum += took
		}
		next.Endpoints[0].Deployments = append(next.Endpoints[0].Deployments, d)
	}
	tr.state = next
	return next
}

// simulate runs a rollout to its end and tells how it ended, after how many
// seconds, and with how many bad answers of the canary.
func simulate(t *testing.T, seed uint64, p plan, rate int, blue, green model) (Run, int, int64) {
	t.Helper()
	tr := newTraffic(seed)
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	r := Run{Deployment: "green", State: Running, Percent: p.steps[0], Since: now}
	e := newEvidence(p)
	e.observe(tr.state, "house", "green")
	for second := 1; second <= 3600; second++ {
		now = now.Add(time.Second)
		e.observe(tr.second(rate, r.Percent, blue, green), "house", "green")
		if next, ok := p.next(now, r, e); ok {
			r.State, r.Step, r.Percent, r.Reason, r.Since = next.state, next.index, next.percent, next.reason, now
			e.step, e.stepBeside = tally{}, tally{}
			if r.State != Running {
				return r, second, e.all.failed
			}
		}
	}
	t.Fatal("a rollout of an hour has not ended")
	return r, 0, 0
}

// p99 is what 99 of 100 requests of a model take at most.
func (m model) p99() time.Duration { return time.Duration(float64(m.median) * math.Exp(0.5*2.3263)) }

func TestADeploymentThatIsAsGoodIsTakenBackInLessThanOneRolloutOfAHundred(t *testing.T) {
	steps := []int{5, 25, 50, 100}
	good := model{0.005, 10 * time.Millisecond}
	for _, c := range []struct {
		name string
		runs int
		plan plan
		m    model
	}{
		{"within both objectives", 1000, plan{errors: 0.01, p99: good.p99() * 11 / 10}, good},
		{"without objectives", 300, plan{}, model{0.02, 10 * time.Millisecond}},
		{"at both objectives", 300, plan{errors: 0.01, p99: good.p99()}, model{0.01, good.median}},
		{"where the live one breaks them too", 300, plan{errors: 0.01, p99: good.p99()}, model{0.03, 2 * good.median}},
	} {
		c.plan.steps, c.plan.every, c.plan.least = steps, 10*time.Second, 10
		back := 0
		for seed := range c.runs {
			if r, _, _ := simulate(t, uint64(seed), c.plan, 25, c.m, c.m); r.State == RolledBack {
				back++
			}
		}
		if back*100 > c.runs {
			t.Errorf("%s: %d of %d were taken back, want at most 1 %%", c.name, back, c.runs)
		}
		t.Logf("%s: %d of %d taken back", c.name, back, c.runs)
	}
}

func TestADeploymentThatIsWorseIsTakenBackBeforeItDoesMuchHarm(t *testing.T) {
	good := model{0.001, 10 * time.Millisecond}
	for _, c := range []struct {
		name  string
		plan  plan
		green model
		most  int // seconds, of nine rollouts of ten
	}{
		{"errors, with an objective", plan{errors: 0.01}, model{0.05, good.median}, 30},
		{"errors, without one", plan{}, model{0.05, good.median}, 30},
		{"latency, with an objective", plan{p99: good.p99() * 11 / 10}, model{good.errors, good.median * 3 / 2}, 30},
		{"latency, without one", plan{}, model{good.errors, good.median * 3 / 2}, 60},
		{"all fail", plan{errors: 0.01}, model{1, good.median}, 3},
	} {
		c.plan.steps, c.plan.every, c.plan.least = []int{10, 50, 100}, 5*time.Minute, 10
		late, bad := 0, 0
		for seed := range 200 {
			r, seconds, failed := simulate(t, uint64(seed), c.plan, 200, good, c.green)
			if r.State != RolledBack {
				t.Errorf("%s: %s", c.name, r.State)
			}
			if seconds > c.most {
				late++
			}
			if failed > 50 {
				bad++
			}
		}
		if late > 20 || bad > 20 {
			t.Errorf("%s: of 200 rollouts %d were taken back after more than %d s, %d with more than 50 failures", c.name, late, c.most, bad)
		}
	}
}
