package autoscale

import (
	"fmt"
	"math"
	"strings"
	"time"

	"lapis/ml/monitor"
)

// operators compare a value with a threshold.
var operators = map[string]func(v, threshold float64) bool{
	"equals":             func(v, t float64) bool { return v == t },
	"notequals":          func(v, t float64) bool { return v != t },
	"greaterthan":        func(v, t float64) bool { return v > t },
	"greaterthanorequal": func(v, t float64) bool { return v >= t },
	"lessthan":           func(v, t float64) bool { return v < t },
	"lessthanorequal":    func(v, t float64) bool { return v <= t },
}

// reading is what a trigger's metric is now.
type reading struct {
	value float64
	known bool
	kind  monitor.Kind
}

// decision is what is to be done.
type decision struct {
	count  int  // instances there shall be
	free   bool // no rule asks for it, but the profile's bounds: no cooldown begins
	reason string
	waits  string // why nothing is done although a rule says so; "" otherwise
}

// decide is the whole engine: what holds now, what the metrics are, how many
// instances there are and when a rule last changed that, to how many there shall
// be. Any rule that scales out does; those that scale in all must agree; and no
// scaling in that would make a rule scale out again at once.
func (s Setting) decide(now time.Time, current int, last time.Time, read func(Trigger) reading) decision {
	stay := decision{count: current}
	if !s.enabled() {
		return stay
	}
	p, ok := s.profile(now)
	if !ok {
		return stay
	}
	least, most, fallback := int(p.Capacity.Minimum), int(p.Capacity.Maximum), int(p.Capacity.Default)
	held := fmt.Sprintf("profile %q holds %d to %d instances", p.Name, least, most)
	if current < least {
		return decision{count: least, free: true, reason: fmt.Sprintf("%s; there were %d", held, current)}
	}
	if current > most {
		return decision{count: most, free: true, reason: fmt.Sprintf("%s; there were %d", held, current)}
	}
	if current == 0 {
		return stay // there is nothing to measure, and a request wakes it
	}
	values := make([]reading, len(p.Rules))
	anyKnown := len(p.Rules) == 0
	for i, r := range p.Rules {
		values[i] = read(r.Trigger)
		if r.Trigger.PerInstance && current > 0 {
			values[i].value /= float64(current)
		}
		anyKnown = anyKnown || values[i].known
	}
	if !anyKnown {
		if current < fallback {
			return decision{count: fallback, free: true, reason: fmt.Sprintf("no metric of profile %q is known, and its default is %d instances; there were %d", p.Name, fallback, current)}
		}
		return stay
	}
	if out, fired := s.scaleOut(p, now, current, last, values); fired {
		return out
	}
	return s.scaleIn(p, now, current, last, values)
}

func (s Setting) scaleOut(p Profile, now time.Time, current int, last time.Time, values []reading) (best decision, fired bool) {
	best = decision{count: current}
	for i, r := range p.Rules {
		if !r.out() || !values[i].known || !r.holds(values[i].value) {
			continue
		}
		fired = true
		to := min(r.Action.apply(current), int(p.Capacity.Maximum))
		if wait := r.Action.cooldown() - now.Sub(last); !last.IsZero() && wait > 0 {
			if to > current && best.waits == "" {
				best.waits = fmt.Sprintf("%s, but the last change was %s ago and the cooldown is %s", r.said(values[i].value), now.Sub(last).Round(time.Second), r.Action.Cooldown)
			}
			continue
		}
		if to > best.count {
			best = decision{count: to, reason: fmt.Sprintf("%s; profile %q raises %d to %d instances", r.said(values[i].value), p.Name, current, to)}
		}
	}
	return best, fired
}

func (s Setting) scaleIn(p Profile, now time.Time, current int, last time.Time, values []reading) decision {
	stay := decision{count: current}
	to, rules := -1, 0
	var said []string
	for i, r := range p.Rules {
		if r.out() {
			continue
		}
		rules++
		if !values[i].known || !r.holds(values[i].value) {
			return stay
		}
		if wait := r.Action.cooldown() - now.Sub(last); !last.IsZero() && wait > 0 {
			stay.waits = fmt.Sprintf("%s, but the last change was %s ago and the cooldown is %s", r.said(values[i].value), now.Sub(last).Round(time.Second), r.Action.Cooldown)
			return stay
		}
		to = max(to, r.Action.apply(current)) // the most careful of them
		said = append(said, r.said(values[i].value))
	}
	to = max(to, int(p.Capacity.Minimum))
	if rules == 0 || to >= current {
		return stay
	}
	// As many fewer as do not make it scale out again.
	for ; to < current; to++ {
		if !s.flaps(p, current, to, values) {
			return decision{count: to, reason: fmt.Sprintf("%s; profile %q lowers %d to %d instances", strings.Join(said, ", "), p.Name, current, to)}
		}
	}
	stay.waits = strings.Join(said, ", ") + ", but with fewer instances it would scale out again at once"
	return stay
}

// flaps tells whether a rule would scale out if there were to instances: what
// they share out is then more for each.
func (s Setting) flaps(p Profile, current, to int, values []reading) bool {
	for i, r := range p.Rules {
		if !r.out() || !values[i].known {
			continue
		}
		shared := r.Trigger.PerInstance || values[i].kind == monitor.Share || values[i].kind == monitor.Latency
		if !shared {
			continue
		}
		if to == 0 {
			if values[i].value > 0 {
				return true
			}
			continue
		}
		if r.holds(values[i].value * float64(current) / float64(to)) {
			return true
		}
	}
	return false
}

// out tells whether the rule scales out.
func (r Rule) out() bool { return strings.EqualFold(r.Action.Direction, "Increase") }

func (r Rule) holds(v float64) bool {
	return operators[strings.ToLower(r.Trigger.Operator)](v, r.Trigger.Threshold)
}

// said is the evidence for people.
func (r Rule) said(v float64) string {
	t := r.Trigger
	_, window := t.times()
	aggregation := t.Aggregation
	if aggregation == "" {
		aggregation = "Average"
	}
	return fmt.Sprintf("%s is %s, %s %s (%s over %s)", t.Metric, short(v), t.Operator, short(t.Threshold), aggregation, strings.TrimSuffix(window.String(), "0s"))
}

func short(v float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// apply is how many instances the action makes of so many.
func (a Action) apply(current int) int {
	n, sign := int(a.Value), 1
	if strings.EqualFold(a.Direction, "Decrease") {
		sign = -1
	}
	switch strings.ToLower(a.Type) {
	case "exactcount":
		// An exact count never goes against the rule's direction.
		if sign > 0 {
			return max(current, n)
		}
		return min(current, n)
	case "percentchangecount":
		step := float64(current) * float64(n) / 100
		if sign > 0 {
			return current + int(math.Ceil(step))
		}
		return max(0, current-max(int(step), min(n, 1)))
	case "serviceallowednextvalue":
		n = 1
	}
	return max(0, current+sign*n)
}
