package sqldb

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"lapis/ml/tracking"
)

// BenchmarkSearchedRuns measures what a searched experiment of 100,000 runs
// takes in memory, and a pass over it in time. Making the runs takes a minute.
func BenchmarkSearchedRuns(b *testing.B) {
	if testing.Short() {
		b.Skip("many runs take a while to make")
	}
	const n = 100_000
	s, e := manyRuns(b, n)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	if err := s.Index(b.Context(), testWorkspace, []string{e}, func(*tracking.Index) error { return nil }); err != nil {
		b.Fatal(err)
	}
	each := float64(heap()-before) / n
	service := tracking.New(s)
	for b.Loop() {
		runs, _, err := service.SearchRuns(b.Context(), testWorkspace, tracking.RunSearch{Experiments: []string{e},
			Filter: "metrics.`train/loss` > 50000", Order: []string{"metrics.`train/loss`"}, Limit: 100})
		if err != nil || len(runs) != 100 {
			b.Fatal(len(runs), err)
		}
	}
	b.ReportMetric(each, "bytes/run")
	b.ReportMetric(indexSize(s)/n, "bytes/run-estimated")
}

func indexSize(s *Tracking) (size float64) {
	for _, e := range s.cache.experiments {
		size += float64(e.size)
	}
	return size
}

func BenchmarkIndexLoad(b *testing.B) {
	s, e := manyRuns(b, 20_000)
	for b.Loop() {
		s.cache.forget(e)
		if err := s.Index(b.Context(), testWorkspace, []string{e}, func(*tracking.Index) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*20_000), "µs/run")
}

// manyRuns makes an experiment with runs that look like those of training.
func manyRuns(b *testing.B, n int) (*Tracking, string) {
	b.Helper()
	s := runWith(b, filepath.Join(b.TempDir(), "x.db"))
	e, err := s.EnsureExperiment(b.Context(), testWorkspace, "e")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for k := range 32 {
		wg.Go(func() {
			for i := k; i < n; i += 32 {
				id := fmt.Sprintf("%032x", i)
				_, err := s.CreateRun(b.Context(), tracking.Run{Workspace: testWorkspace, ID: id, Experiment: e, Status: tracking.Completed, User: "somebody",
					Name: "brave-otter-" + fmt.Sprint(i), Tags: map[string]string{"mlflow.user": "somebody", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"}})
				if err == nil {
					err = s.Log(b.Context(), testWorkspace, id, []tracking.Metric{{Key: "train/loss", Point: tracking.Point{Value: float64(i)}}, {Key: "val/loss"}, {Key: "val/acc"}},
						func(r *tracking.Record) error {
							r.Params = map[string]string{"lr": "0.001", "depth": "7", "optimizer": "adam", "seed": fmt.Sprint(i)}
							return nil
						})
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := s.FoldAll(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s, e
}
