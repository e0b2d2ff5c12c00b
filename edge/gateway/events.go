package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"lapis/file"
	"lapis/ml/serving"
)

const (
	eventsFile = "events.json"
	keptEvents = 1000

	// Numbers are taken from the file this many at a time, so that no event
	// waits for the disk and a gateway that was killed goes on beyond its last.
	numbersAtOnce = 1000
)

// events are what the control plane wants to know at once, the last ones.
type events struct {
	path string
	news *signal

	mu       sync.Mutex
	list     []serving.Event
	last     int64 // number of the last event
	reserved int64 // numbers up to this one are ours, the file says
}

func openEvents(path string) (*events, error) {
	e := &events{path: path, news: newSignal()}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var kept struct{ Reserved int64 }
	if err == nil {
		_ = json.Unmarshal(b, &kept) // a damaged one: numbers begin anew, and readers that are ahead ask from 0
	}
	e.last, e.reserved = kept.Reserved, kept.Reserved
	return e, nil
}

func (e *events) add(v serving.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last == e.reserved {
		e.reserved += numbersAtOnce
		b, _ := json.Marshal(struct{ Reserved int64 }{e.reserved})
		if err := file.Replace(e.path, b, 0o600); err != nil {
			// The numbers of this run are still in order.
			e.reserved = e.last + numbersAtOnce
		}
	}
	e.last++
	v.Number, v.Time = e.last, time.Now().UTC()
	if len(e.list) >= keptEvents {
		e.list = append(e.list[:0], e.list[1:]...)
	}
	e.list = append(e.list, v)
	e.news.fire()
}

// after returns the events that come after the one of that number; it waits
// for the first until ctx ends.
func (e *events) after(ctx context.Context, number int64) []serving.Event {
	for {
		next := e.news.next()
		e.mu.Lock()
		if number > e.last {
			number = 0 // of another life: all that are kept
		}
		var out []serving.Event
		for _, v := range e.list {
			if v.Number > number {
				out = append(out, v)
			}
		}
		e.mu.Unlock()
		if len(out) > 0 {
			return out
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}
