package onnx

import (
	"sync"
	"time"
)

// watch ends runs at their deadlines. A timer for each run would cost more than
// most runs do, so one goroutine looks at those under way, as long as there are
// any.
type watch struct {
	lib *Library

	mu    sync.Mutex
	runs  map[*limited]struct{}
	free  []uintptr // options of runs that ended in time
	looks bool
}

// limited is a run with a deadline.
type limited struct {
	options uintptr
	ends    time.Time
	ended   bool // it was told to end
}

const (
	lookEvery = 15 * time.Millisecond
	idleLooks = 100 // looks without a run, after which the goroutine ends
	keptFree  = 64
)

// begin makes the options of a run; nil and no options for one without a
// deadline.
func (w *watch) begin(ends time.Time) (*limited, uintptr, error) {
	if ends.IsZero() {
		return nil, 0, nil
	}
	r := &limited{ends: ends}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.free); n > 0 {
		r.options, w.free = w.free[n-1], w.free[:n-1]
	} else {
		out := borrow(1)
		defer give(out)
		if err := w.lib.call(fnCreateRunOptions, out.at(0)); err != nil {
			return nil, 0, err
		}
		r.options = out.words[0]
	}
	if w.runs == nil {
		w.runs = map[*limited]struct{}{}
	}
	w.runs[r] = struct{}{}
	if !w.looks {
		w.looks = true
		go w.look()
	}
	return r, r.options, nil
}

// end forgets a run.
func (w *watch) end(r *limited) {
	if r == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.runs, r)
	if r.ended || len(w.free) >= keptFree {
		w.lib.release(fnReleaseRunOptions, r.options)
		return
	}
	w.free = append(w.free, r.options)
}

func (w *watch) look() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	idle := 0
	for now := range tick.C {
		w.mu.Lock()
		if idle++; len(w.runs) > 0 {
			idle = 0
		}
		for r := range w.runs {
			if !r.ended && !now.Before(r.ends) {
				r.ended = true
				_ = w.lib.call(fnTerminate, r.options) // it cannot fail, and nobody could be told
			}
		}
		if idle > idleLooks {
			w.looks = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}
