package process

import (
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"lapis/ml/compute"
)

// real makes a Runtime whose supervisors are the program that users have.
func real(b *testing.B) *Runtime {
	b.Helper()
	exe := filepath.Join(b.TempDir(), "lapis")
	if out, err := exec.Command("go", "build", "-o", exe, "lapis/cmd/lapis").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	r, err := New(Config{Dir: filepath.Join(b.TempDir(), "jobs"), Blobs: seeded(b), Supervisor: []string{exe, "supervise"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	return r
}

func cpu() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		syscall.Getrusage(who, &u)
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// BenchmarkLaunch tells how long it takes from the order to a running command.
func BenchmarkLaunch(b *testing.B) {
	r := real(b)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		if err := r.Launch(b.Context(), compute.Task{ID: "ws/" + time.Now().String(), Command: "true"}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkNoop tells how many tasks that do nothing go through in a second,
// four at once, and what CPU time of all processes one costs.
func BenchmarkNoop(b *testing.B) {
	for _, limits := range []struct {
		name   string
		memory int64
	}{{"free", 0}, {"limited", 512 << 20}} {
		b.Run(limits.name, func(b *testing.B) {
			r := real(b)
			before, began := cpu(), time.Now()
			ids := make(chan string)
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for id := range ids {
						t := witness("", "/dev/null")
						t.ID, t.Command, t.Memory, t.CPU = id, "true", limits.memory, min(1, float64(limits.memory))
						if err := r.Launch(b.Context(), t); err != nil {
							b.Error(err)
						}
						for !r.settle(folder(id)) {
							time.Sleep(time.Millisecond)
						}
						if _, err := r.Collect(b.Context(), id); err != nil {
							b.Error(err)
						}
						if err := r.Remove(b.Context(), id); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for b.Loop() {
				ids <- "ws/" + time.Now().String()
			}
			close(ids)
			workers.Wait()
			b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "tasks/s")
			b.ReportMetric(float64((cpu()-before).Microseconds())/1000/float64(b.N), "cpu-ms/task")
		})
	}
}
