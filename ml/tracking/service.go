package tracking

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Service has the rules of experiments and runs, in MLflow's words: what is
// checked, what follows from what, and the errors that clients know.
type Service struct {
	store Store
	now   func() time.Time

	// Root, if it is set, tells where artefacts of new experiments of a
	// workspace go, each in a folder of its id; "" is the server's own place.
	Root func(ctx context.Context, workspace string) (string, error)

	mu       sync.Mutex
	defaults map[string]string // workspace → id of its experiment "Default"
}

// New returns the service over a store.
func New(store Store) *Service {
	return &Service{store: store, now: time.Now, defaults: map[string]string{}}
}

func (s *Service) millis() int64 { return s.now().UnixMilli() }

// History returns up to limit points of a metric, by time, step and value;
// limit 0 means all. next is "" at the end.
func (s *Service) History(ctx context.Context, workspace, run, key string, limit int, page string) (points []Point, next string, err error) {
	t, err := parseToken(page)
	if err != nil {
		return nil, "", err
	}
	points, err = s.store.Series(ctx, workspace, run, key)
	if err != nil {
		return nil, "", err
	}
	byTime := func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Step, b.Step), cmp.Compare(number(a.Value), number(b.Value)))
	}
	if !slices.IsSortedFunc(points, byTime) {
		slices.SortStableFunc(points, byTime)
	}
	points = points[min(t.Offset, len(points)):]
	if limit > 0 && len(points) > limit {
		points = points[:limit]
		next = offsetToken{Offset: t.Offset + limit}.String()
	}
	return points, next, nil
}

// View chooses by lifecycle.
type View int

// The views.
const (
	ActiveOnly View = iota
	DeletedOnly
	All
)

func (v View) shows(deleted int64) bool {
	return v == All || (v == DeletedOnly) == (deleted != 0)
}
