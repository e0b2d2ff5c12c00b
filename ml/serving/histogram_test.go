package serving

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestAPercentileIsOffByLessThanThreePercent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, scale := range []time.Duration{50 * time.Microsecond, time.Millisecond, 300 * time.Millisecond, 20 * time.Second} {
		h := Histogram{Counts: make([]int64, Buckets())}
		var all []time.Duration
		for range 20_000 {
			d := time.Duration(float64(scale) * math.Exp(r.NormFloat64()/2))
			all = append(all, d)
			h.Counts[Bucket(d)]++
			h.Count++
			h.Sum += d
		}
		slices.Sort(all)
		for _, q := range []float64{0.5, 0.9, 0.95, 0.99} {
			want := all[int(math.Ceil(q*float64(len(all))))-1]
			if got := h.Percentile(q); math.Abs(float64(got-want)) > 0.03*float64(want) {
				t.Errorf("p%g of durations around %v is told as %v and is %v", 100*q, scale, got, want)
			}
		}
	}
}

func TestADurationLiesWithinItsBucket(t *testing.T) {
	for d := time.Microsecond; d < 400*time.Second; d = d*21/20 + 1 {
		i := Bucket(d)
		if i < Buckets()-1 && d > Bound(i)+1 || i > 0 && d+1 < Bound(i-1) {
			t.Fatalf("%v counts in bucket %d, which ends at %v", d, i, Bound(i))
		}
	}
}

func TestWhatWasCountedSince(t *testing.T) {
	before := Histogram{Counts: make([]int64, Buckets())}
	before.Counts[3], before.Count, before.Sum = 5, 5, time.Second
	now := Histogram{Counts: slices.Clone(before.Counts), Count: 7, Sum: 3 * time.Second}
	now.Counts[9] = 2
	d := now.Minus(before)
	if d.Count != 2 || d.Sum != 2*time.Second || d.Counts[3] != 0 || d.Counts[9] != 2 {
		t.Errorf("%+v", d)
	}
	if got := (Histogram{}).Percentile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}
