package serving

import (
	"math"
	"time"
)

// The buckets of a Histogram grow by 5 %, from 10 µs to over 300 s: a
// percentile read from them is off by less than 3 %.
const (
	firstBound = 10 * time.Microsecond
	growth     = 1.05
	buckets    = 354
)

var bounds = func() []time.Duration {
	b := make([]time.Duration, buckets)
	for i := range b {
		b[i] = time.Duration(float64(firstBound) * math.Pow(growth, float64(i)))
	}
	return b
}()

// Bound is the upper end of bucket i.
func Bound(i int) time.Duration { return bounds[i] }

// Buckets is how many buckets a Histogram has; the last takes all that is longer.
func Buckets() int { return buckets }

// Bucket is the bucket that a duration counts in.
func Bucket(d time.Duration) int {
	if d <= firstBound {
		return 0
	}
	i := int(math.Ceil(math.Log(float64(d)/float64(firstBound)) / math.Log(growth)))
	return min(max(i, 0), buckets-1)
}

// Percentile is the duration that the share q (0 to 1) of the counted ones does
// not exceed; 0 if there are none.
func (h Histogram) Percentile(q float64) time.Duration {
	if h.Count == 0 {
		return 0
	}
	want := int64(math.Ceil(q * float64(h.Count)))
	var sum int64
	i := 0
	for i = range h.Counts {
		if sum += h.Counts[i]; sum >= max(want, 1) {
			break
		}
	}
	if i == 0 || i >= buckets {
		return bounds[0]
	}
	return time.Duration(math.Sqrt(float64(bounds[i]) * float64(bounds[i-1])))
}

// Minus is what was counted since an earlier reading of the same gateway.
func (h Histogram) Minus(before Histogram) Histogram {
	d := Histogram{Counts: make([]int64, len(h.Counts)), Sum: h.Sum - before.Sum, Count: h.Count - before.Count}
	copy(d.Counts, h.Counts)
	for i := range min(len(d.Counts), len(before.Counts)) {
		d.Counts[i] -= before.Counts[i]
	}
	return d
}
