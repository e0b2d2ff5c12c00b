package tracking

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// atOnce is how many series of one request are read at the same time.
var atOnce = min(4, runtime.GOMAXPROCS(0))

// each does n pieces of work, a few at a time.
func each(n int, work func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return work(i) })
	}
	return g.Wait()
}

// Samples is Sampled for several runs, in their order.
func (s *Service) Samples(ctx context.Context, workspace string, runs []string, key string, from, to *int64, limit int) ([][]Point, error) {
	all := make([][]Point, len(runs))
	err := each(len(runs), func(i int) (err error) {
		all[i], err = s.Sampled(ctx, workspace, runs[i], key, from, to, limit)
		return err
	})
	return all, err
}

// Sampled returns at most limit points of a metric between two steps
// (inclusive; nil = all), evenly chosen, by step. The last point is always
// among them.
func (s *Service) Sampled(ctx context.Context, workspace, run, key string, from, to *int64, limit int) ([]Point, error) {
	if from == nil && to == nil {
		k := sampler{limit: limit}
		err := s.store.Points(ctx, workspace, run, key, k.begin, k.add)
		return k.kept, err
	}
	var points []Point
	err := s.store.Points(ctx, workspace, run, key, func(int) {}, func(piece []Point) {
		if from != nil {
			lo, _ := slices.BinarySearchFunc(piece, *from, func(p Point, step int64) int { return cmp.Compare(p.Step, step) })
			piece = piece[lo:]
		}
		if to != nil {
			hi, _ := slices.BinarySearchFunc(piece, *to, func(p Point, step int64) int {
				if p.Step <= step {
					return -1
				}
				return 1
			})
			piece = piece[:hi]
		}
		points = append(points, piece...)
	})
	if err != nil {
		return nil, err
	}
	k := sampler{limit: limit}
	k.begin(len(points))
	k.add(points)
	return k.kept, nil
}

// sampler keeps the first point of each of some buckets, and in place of the
// last bucket's first the last of all. The first buckets are one longer when
// the points do not divide evenly.
type sampler struct {
	limit int // buckets
	kept  []Point

	count, seen  int
	size, longer int
	next         int // index of the next to keep
}

func (k *sampler) begin(n int) {
	k.count = n
	k.kept = make([]Point, 0, min(n, k.limit))
	k.size, k.longer = n/k.limit, n%k.limit
}

func (k *sampler) add(piece []Point) {
	if k.count <= k.limit {
		k.kept = append(k.kept, piece...)
		return
	}
	for len(k.kept) < k.limit && k.next < k.seen+len(piece) {
		k.kept = append(k.kept, piece[k.next-k.seen])
		k.next += k.size
		if len(k.kept) <= k.longer {
			k.next++
		}
	}
	if k.seen += len(piece); k.seen == k.count && len(piece) > 0 {
		k.kept[k.limit-1] = piece[len(piece)-1]
	}
}

// Chart is one metric of a run as a chart shows it.
type Chart struct {
	Run    string
	Key    string
	Count  int // points that the metric has
	Points []Point
}

// Charts returns each metric of each run, thinned to some buckets each: of every
// bucket of points that follow each other, the lowest and the highest stay, and
// of all the first and the last, so that no peak is lost. There are at most
// twice as many points as buckets, and two. A metric that is not there is left
// out.
func (s *Service) Charts(ctx context.Context, workspace string, runs, keys []string, buckets int) ([]Chart, error) {
	all := make([]Chart, len(runs)*len(keys))
	err := each(len(all), func(i int) error {
		k := thinner{buckets: buckets}
		run, key := runs[i/len(keys)], keys[i%len(keys)]
		if err := s.store.Points(ctx, workspace, run, key, k.begin, k.add); err != nil {
			return err
		}
		all[i] = Chart{Run: run, Key: key, Count: k.count, Points: k.kept}
		return nil
	})
	return slices.DeleteFunc(all, func(c Chart) bool { return c.Count == 0 }), err
}

// thinner keeps the lowest and the highest point of each of some buckets, and
// the first and the last of all. NaN is neither low nor high; a bucket that has
// nothing else keeps one.
type thinner struct {
	buckets int
	kept    []Point

	count, seen  int
	size, longer int
	bucket       int // the one that is open
	end          int // index after its last
	low, high    placed
	last         int // index of the last point that is kept, -1 = none
}

// placed is a point and its index.
type placed struct {
	Point
	at int
}

func (k *thinner) begin(n int) {
	k.count, k.last = n, -1
	k.kept = make([]Point, 0, min(n, 2*k.buckets+2))
	k.size, k.longer = n/k.buckets, n%k.buckets
	k.end = k.size
	if k.longer > 0 {
		k.end++
	}
	k.low.at, k.high.at = -1, -1
}

func (k *thinner) keep(p placed) {
	if p.at > k.last {
		k.kept = append(k.kept, p.Point)
		k.last = p.at
	}
}

func (k *thinner) add(piece []Point) {
	if k.count <= 2*k.buckets+2 {
		k.kept = append(k.kept, piece...)
		return
	}
	for i, p := range piece {
		at := k.seen + i
		if at == 0 {
			k.keep(placed{p, 0})
		}
		if k.low.at < 0 || p.Value < k.low.Value || math.IsNaN(k.low.Value) {
			k.low = placed{p, at}
		}
		if k.high.at < 0 || p.Value > k.high.Value || math.IsNaN(k.high.Value) {
			k.high = placed{p, at}
		}
		if at+1 == k.end {
			first, second := k.low, k.high
			if first.at > second.at {
				first, second = second, first
			}
			k.keep(first)
			k.keep(second)
			k.bucket++
			k.end += k.size
			if k.bucket < k.longer {
				k.end++
			}
			k.low.at, k.high.at = -1, -1
		}
		if at+1 == k.count {
			k.keep(placed{p, at})
		}
	}
	k.seen += len(piece)
}
