// Package processors fits the processors that a process runs on to its work.
package processors

import (
	"context"
	"os"
	"runtime"
	"runtime/metrics"
	"syscall"
	"time"
)

const (
	every     = 200 * time.Millisecond
	queueFull = 8  // goroutines that wait for each processor
	quietFor  = 10 // looks in a row that find one too many
)

// Fit has the process run on as many processors as it fills, from one up, until
// ctx ends. It is for processes in which a request passes from goroutine to
// goroutine and hardly computes: on processors that are mostly idle, each step
// wakes a thread, which doubles what a request costs and takes. waited is the
// processor time spent so far on waiting, which fills none; nil means none. It
// leaves alone what the user has set with GOMAXPROCS.
func Fit(ctx context.Context, waited func() time.Duration) {
	most := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" || most == 1 {
		return
	}
	if waited == nil {
		waited = func() time.Duration { return 0 }
	}
	now := 1
	runtime.GOMAXPROCS(now)
	tick := time.NewTicker(every)
	defer tick.Stop()
	runnable := []metrics.Sample{{Name: "/sched/goroutines/runnable:goroutines"}}
	used, at, quiet := processorTime()-waited(), time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		usedNow, atNow := processorTime()-waited(), time.Now()
		share := float64(usedNow-used) / float64(atNow.Sub(at))
		// Where others have the processors, work waits though we use little.
		if metrics.Read(runnable); runnable[0].Value.Kind() == metrics.KindUint64 && runnable[0].Value.Uint64() >= uint64(queueFull*now) {
			share = max(share, float64(now))
		}
		used, at = usedNow, atNow
		next := fitting(now, most, share, &quiet)
		if next != now {
			now = next
			runtime.GOMAXPROCS(now)
		}
	}
}

// fitting is how many to run on, when now of at most most were busy for the
// share, 1 for each whole one. It grows at once and shrinks when it has been too
// much for a while.
func fitting(now, most int, share float64, quiet *int) int {
	switch {
	case share > 0.7*float64(now):
		*quiet = 0
		return min(2*now, most)
	case now > 1 && share < 0.5*float64(now-1):
		if *quiet++; *quiet >= quietFor {
			*quiet = 0
			return now - 1
		}
	default:
		*quiet = 0
	}
	return now
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
