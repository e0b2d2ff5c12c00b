package tracking

import (
	"context"
	"math"
)

// Chart is one metric of a run as a chart shows it.
type Chart struct {
	Key    string
	Count  int // points that the metric has
	Points []Point
}

// Charts returns metrics of a run, thinned to some buckets each: of every
// bucket of points that follow each other, the lowest and the highest stay, and
// of all the first and the last, so that no peak is lost. There are at most
// twice as many points as buckets, and two. A metric that is not there has none.
func (s *Service) Charts(ctx context.Context, workspace, run string, keys []string, buckets int) ([]Chart, error) {
	charts := make([]Chart, 0, len(keys))
	for _, key := range keys {
		points, err := s.store.Series(ctx, workspace, run, key)
		if err != nil {
			return nil, err
		}
		charts = append(charts, Chart{Key: key, Count: len(points), Points: Thin(points, buckets)})
	}
	return charts, nil
}

// Thin keeps of points, which are in order, the lowest and the highest of each
// of n buckets, and the first and the last of all. NaN is neither low nor high;
// a bucket that has nothing else keeps one.
func Thin(points []Point, n int) []Point {
	if n < 1 || len(points) <= 2*n+2 {
		return points
	}
	kept := make([]Point, 0, 2*n+2)
	add := func(i int) { kept = append(kept, points[i]) }
	size, longer := len(points)/n, len(points)%n
	last := -1 // the highest index that is kept
	for from, b := 0, 0; b < n; b++ {
		to := from + size
		if b < longer {
			to++
		}
		low, high := from, from
		for i := from; i < to; i++ {
			v := points[i].Value
			if math.IsNaN(points[low].Value) || v < points[low].Value {
				low = i
			}
			if math.IsNaN(points[high].Value) || v > points[high].Value {
				high = i
			}
		}
		if b == 0 {
			add(0)
			last = 0
		}
		for _, i := range []int{min(low, high), max(low, high)} {
			if i > last {
				add(i)
				last = i
			}
		}
		from = to
	}
	if last < len(points)-1 {
		add(len(points) - 1)
	}
	return kept
}
