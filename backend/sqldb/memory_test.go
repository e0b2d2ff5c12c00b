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
	s := runWith(b, filepath.Join(b.TempDir(), "x.db"))
	e, err := s.EnsureExperiment(b.Context(), testWorkspace, "e")
	if err != nil {
		b.Fatal(err)
	}
	const n = 100_000
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
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	count := func() (found int) {
		if err := s.Scan(b.Context(), testWorkspace, []string{e}, func(*tracking.Detail) bool { found++; return true }); err != nil {
			b.Fatal(err)
		}
		return found
	}
	if got := count(); got != n+1 {
		b.Fatal(got)
	}
	each := float64(heap()-before) / n
	for b.Loop() {
		count()
	}
	b.ReportMetric(each, "bytes/run")
}
