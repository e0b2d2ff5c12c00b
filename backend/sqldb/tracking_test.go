package sqldb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lapis/ml/tracking"
	"lapis/ml/tracking/trackingtest"
)

func TestTrackingKeepsTheStoresPromises(t *testing.T) {
	trackingtest.Run(t, func(t *testing.T) (tracking.Store, func() error) {
		s, err := NewTracking(open(t))
		if err != nil {
			t.Fatal(err)
		}
		return s, func() error { return s.FoldAll(t.Context()) }
	})
}

const testWorkspace = "10000000-0000-4000-8000-000000000001"

// runWith makes a store with one run.
func runWith(t testing.TB, path string) *Tracking {
	t.Helper()
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s, err := NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.EnsureExperiment(t.Context(), testWorkspace, "e")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateRun(t.Context(), tracking.Run{Workspace: testWorkspace, ID: "r", Experiment: e}); err != nil {
		t.Fatal(err)
	}
	return s
}

// series is what a training run logs: a loss, with noise; each tenth value is
// random in all its bits.
func series(n int) []tracking.Metric {
	rng := rand.New(rand.NewPCG(1, 1))
	points := make([]tracking.Metric, n)
	ms := int64(1_700_000_000_000)
	for i := range points {
		ms += 40 + rng.Int64N(20)
		v := math.Round(1e4/(1+float64(i)/100)+rng.Float64()*10) / 1e4
		if i%10 == 9 {
			v = rng.NormFloat64()
		}
		points[i] = tracking.Metric{Key: "train/loss", Point: tracking.Point{Step: int64(i), Time: ms, Value: v}}
	}
	return points
}

func TestAFoldedPointTakesLessThanEightBytes(t *testing.T) {
	s := runWith(t, filepath.Join(t.TempDir(), "x.db"))
	points := series(60_000)
	used := func() (bytes int64) {
		t.Helper()
		if err := s.db.read.QueryRow(`SELECT (p.page_count - f.freelist_count) * s.page_size
			FROM pragma_page_count() p, pragma_freelist_count() f, pragma_page_size() s`).Scan(&bytes); err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	before := used()
	for i := 0; i < len(points); i += 1000 {
		if err := s.Log(t.Context(), testWorkspace, "r", points[i:i+1000], nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.FoldAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	each := float64(used()-before) / float64(len(points))
	t.Logf("%.2f bytes a point", each)
	if each >= 8 {
		t.Errorf("%.2f bytes a point, want less than 8", each)
	}
}

func TestPointsSurviveAReopenBeforeTheyAreFolded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := runWith(t, path)
	if err := s.Log(t.Context(), testWorkspace, "r", series(100), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if s, err = NewTracking(db); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		points, err := s.Series(t.Context(), testWorkspace, "r", "train/loss")
		if err != nil || len(points) != 100 {
			t.Fatalf("%d points, %v", len(points), err)
		}
		if err := s.FoldAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.unfolded.due(time.Time{}, true)); n != 0 {
			t.Errorf("%d runs are left to fold", n)
		}
	}
}

func TestTheFirstSearchAfterAStartFindsItsIndexMade(t *testing.T) {
	s := runWith(t, filepath.Join(t.TempDir(), "x.db"))
	if err := s.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := s.cache.experiments["1"]
	if e == nil || e.index == nil || e.index.Len() != 1 {
		t.Fatalf("%+v", e)
	}
	ready := e.index
	if err := s.Log(t.Context(), testWorkspace, "r", series(3), nil); err != nil {
		t.Fatal(err)
	}
	found, _, err := tracking.New(s).SearchRuns(t.Context(), testWorkspace, tracking.RunSearch{Experiments: []string{"1"}, Filter: "metrics.`train/loss` != 9", Limit: 9})
	if err != nil || len(found) != 1 {
		t.Errorf("%d runs, %v", len(found), err)
	}
	if s.cache.experiments["1"].index != ready {
		t.Error("the index was made anew for one run that changed")
	}
}

func FuzzPacked(f *testing.F) {
	f.Add([]byte("\x01m\x02\x02\x00........"), true)
	f.Add(packLog(series(5)), true)
	points := make([]tracking.Point, 5)
	f.Add(packChunk(points), false)
	f.Fuzz(func(t *testing.T, b []byte, log bool) {
		if log {
			_ = eachLogged(b, func([]byte, tracking.Point) {})
			return
		}
		_, _ = unpackChunk(b, nil)
	})
}

func BenchmarkLog(b *testing.B) {
	for _, x := range []struct{ clients, points int }{{1, 1}, {16, 1}, {1, 1000}, {16, 1000}} {
		b.Run(fmt.Sprintf("clients=%d/points=%d", x.clients, x.points), func(b *testing.B) {
			s := runWith(b, filepath.Join(b.TempDir(), "x.db"))
			batch := series(x.points)
			work := make(chan int)
			var wg sync.WaitGroup
			for range x.clients {
				wg.Go(func() {
					for range work {
						if err := s.Log(b.Context(), testWorkspace, "r", batch, nil); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N*x.points)/b.Elapsed().Seconds(), "points/s")
		})
	}
}

func BenchmarkSeries(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := runWith(b, filepath.Join(b.TempDir(), "x.db"))
			points := series(n)
			for i := 0; i < n; i += 1000 {
				if err := s.Log(b.Context(), testWorkspace, "r", points[i:i+1000], nil); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.FoldAll(b.Context()); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if p, err := s.Series(b.Context(), testWorkspace, "r", "train/loss"); err != nil || len(p) != n {
					b.Fatal(len(p), err)
				}
			}
		})
	}
}
