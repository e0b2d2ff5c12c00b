package tracking

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
)

// indexed is a store that has an index and nothing else.
type indexed struct {
	Store
	index *Index
}

func (s indexed) Index(_ context.Context, _ string, _ []string, visit func(*Index) error) error {
	return visit(s.index)
}

func (s indexed) Details(context.Context, []int64) (map[int64]*Detail, error) { return nil, nil }

// BenchmarkFind measures a search in an index of 100,000 runs.
func BenchmarkFind(b *testing.B) {
	x := NewIndex()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		row, _ := x.Begin(&Run{Seq: int64(i + 1), ID: fmt.Sprintf("%032x", r.Uint64()), Name: fmt.Sprint("run-", i), Start: int64(i), Status: Completed})
		for k := range 3 {
			x.Metric(row, fmt.Appendf(nil, "k%d", k), r.Float64())
		}
		x.Param(row, []byte("lr"), fmt.Appendf(nil, "0.%d", i%10))
	}
	s := New(indexed{index: x})
	for _, q := range []RunSearch{
		{Filter: "metrics.k0 > 0.5", Order: []string{"metrics.k1 DESC"}},
		{Filter: "params.lr = '0.3'", Order: []string{"attributes.run_name"}},
		{Filter: "attributes.run_name LIKE '%77%'"},
		{},
	} {
		q.Experiments, q.Limit = []string{"1"}, 100
		b.Run(fmt.Sprintf("%s by %s", q.Filter, q.Order), func(b *testing.B) {
			for b.Loop() {
				if _, _, err := s.SearchRuns(b.Context(), "w", q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
