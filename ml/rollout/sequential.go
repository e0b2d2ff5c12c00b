package rollout

import "math"

// surely is the evidence that a verdict needs: the odds of a false one, over the
// whole rollout and however often one looks, are below one to so much.
const surely = 400

// An objective that is broken needs both: that it is, likely, and that those
// beside it are better off. While nobody is asked beside it, it must surely be,
// and that those were no better before must be a rare chance, one in so many.
const (
	likely = 50
	beside = 250
	doubt  = 2000.0
)

// excess is evidence, gathered request by request, that a share is above a
// bound: the likelihood of larger shares against that of the bound, mixed over
// several of them. While the share is at most the bound it is a fair or a losing
// bet, so that it ever reaches N has a chance below 1/N (Ville's inequality).
type excess struct {
	bound float64
	logs  [7]float64 // by alternative
}

// times are the alternatives: how much larger than the bound a share may be.
var times = [7]float64{1.5, 2, 3, 5, 10, 20, 50}

func newExcess(bound float64) *excess { return &excess{bound: min(max(bound, 1e-4), 0.5)} }

// add takes in n requests, of which k count against the bound.
func (e *excess) add(n, k int64) {
	if n <= 0 {
		return
	}
	k = min(max(k, 0), n)
	for i, t := range times {
		p := min(e.bound*t, (1+e.bound)/2)
		e.logs[i] += float64(k)*math.Log(p/e.bound) + float64(n-k)*math.Log((1-p)/(1-e.bound))
	}
}

// odds are those that the share is above the bound.
func (e *excess) odds() float64 { return mean(e.logs[:]) }

// worse is evidence that of two that are asked side by side the first fails more
// often: if both did alike, a failure would be the first's as often as requests
// are.
type worse struct{ logs [5]float64 }

// ratios are the alternatives: how many times as often the first fails.
var ratios = [5]float64{1.5, 2, 4, 10, 40}

// add takes in what both were asked meanwhile, and how often they failed.
func (w *worse) add(n, k, otherN, otherK int64) {
	if n <= 0 || otherN <= 0 || k+otherK == 0 {
		return
	}
	share := float64(n) / float64(n+otherN)
	for i, r := range ratios {
		p := r * share / (r*share + 1 - share)
		w.logs[i] += float64(k)*math.Log(p/share) + float64(otherK)*math.Log((1-p)/(1-share))
	}
}

func (w *worse) odds() float64 { return mean(w.logs[:]) }

// mean is the mean of what the logarithms stand for; it stays a number.
func mean(logs []float64) float64 {
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(min(l, 300))
	}
	return sum / float64(len(logs))
}

// chance is how likely it is that of n requests k or more fail, if they fail as
// often as those of otherN of which otherK did. With none of those it is 0.
func chance(n, k, otherN, otherK int64) float64 {
	if otherN == 0 {
		return 0
	}
	total := k + otherK
	share := float64(n) / float64(n+otherN)
	if n == 0 || total == 0 {
		return 1
	}
	sum := 0.0
	for i := k; i <= total; i++ {
		a, _ := math.Lgamma(float64(total + 1))
		b, _ := math.Lgamma(float64(i + 1))
		c, _ := math.Lgamma(float64(total - i + 1))
		p := math.Exp(a - b - c + float64(i)*math.Log(share) + float64(total-i)*math.Log1p(-share))
		if sum += p; p < sum*1e-9 && i > k+int64(share*float64(total)) {
			break
		}
	}
	return min(sum, 1)
}
