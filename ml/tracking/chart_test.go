package tracking

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// pieces hands points on in pieces, as a store does.
func pieces(t *rapid.T, points []Point, begin func(int), add func([]Point)) {
	begin(len(points))
	for len(points) > 0 {
		n := rapid.IntRange(1, len(points)).Draw(t, "piece")
		add(points[:n])
		points = points[n:]
	}
}

func somePoints(t *rapid.T) []Point {
	points := make([]Point, rapid.IntRange(0, 300).Draw(t, "points"))
	for i := range points {
		points[i] = Point{Step: int64(i), Value: rapid.OneOf(rapid.Float64Range(-9, 9), rapid.Just(math.NaN())).Draw(t, "value")}
	}
	return points
}

// The rule is that of NTILE: the first buckets are one longer.
func TestASampleHasTheFirstPointOfEachBucketAndTheLastOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points, limit := somePoints(t), rapid.IntRange(1, 40).Draw(t, "limit")
		k := sampler{limit: limit}
		pieces(t, points, k.begin, k.add)
		var want []int64
		if len(points) <= limit {
			for i := range points {
				want = append(want, int64(i))
			}
		} else {
			at := 0
			for b := range limit {
				want = append(want, int64(at))
				at += len(points) / limit
				if b < len(points)%limit {
					at++
				}
			}
			want[limit-1] = int64(len(points) - 1)
		}
		if len(k.kept) != len(want) {
			t.Fatalf("%d points, want %d", len(k.kept), len(want))
		}
		for i, p := range k.kept {
			if p.Step != want[i] {
				t.Fatalf("point %d is that of step %d, want %d", i, p.Step, want[i])
			}
		}
	})
}

func TestAChartKeepsTheLowestAndTheHighestOfEachBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points, buckets := somePoints(t), rapid.IntRange(1, 40).Draw(t, "buckets")
		k := thinner{buckets: buckets}
		pieces(t, points, k.begin, k.add)
		if len(k.kept) > 2*buckets+2 {
			t.Fatalf("%d points of %d buckets", len(k.kept), buckets)
		}
		for i := 1; i < len(k.kept); i++ {
			if k.kept[i].Step <= k.kept[i-1].Step {
				t.Fatalf("step %d after step %d", k.kept[i].Step, k.kept[i-1].Step)
			}
		}
		if len(points) == 0 {
			return
		}
		if k.kept[0].Step != 0 || k.kept[len(k.kept)-1].Step != int64(len(points)-1) {
			t.Fatal("the first or the last point is gone")
		}
		extremes := func(p []Point) (low, high float64) {
			low, high = math.NaN(), math.NaN()
			for _, x := range p {
				if !(x.Value >= low) && !math.IsNaN(x.Value) {
					low = x.Value
				}
				if !(x.Value <= high) && !math.IsNaN(x.Value) {
					high = x.Value
				}
			}
			return low, high
		}
		from := 0
		for b := range buckets {
			to := from + len(points)/buckets
			if b < len(points)%buckets {
				to++
			}
			var kept []Point
			for _, p := range k.kept {
				if int(p.Step) >= from && int(p.Step) < to {
					kept = append(kept, p)
				}
			}
			low, high := extremes(points[from:to])
			gotLow, gotHigh := extremes(kept)
			if to > from && (len(kept) == 0 || low != gotLow && !math.IsNaN(low) || high != gotHigh && !math.IsNaN(high)) {
				t.Fatalf("bucket %d has %v to %v, the chart %v to %v", b, low, high, gotLow, gotHigh)
			}
			from = to
		}
	})
}
