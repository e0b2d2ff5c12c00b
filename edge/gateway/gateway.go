// Package gateway answers the callers of online endpoints: it knows who calls,
// picks the deployment and its least busy instance, admits no more than the
// deployment can work on, and speaks with instances in frames (package frame) or
// HTTP/1.1. It goes by the routes it was given last, which it keeps on disk; the
// control plane speaks with it through a socket of its own (Control, Client).
package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"lapis/file"
	"lapis/ml/serving"
	"lapis/socket"
)

// Config is what a Gateway needs to know.
type Config struct {
	// Dir is the gateway's folder, 0700: routes.json, events.json, collect/.
	Dir string
	Log *slog.Logger
}

// Gateway routes requests to instances. It is an http.Handler for the callers.
type Gateway struct {
	cfg     Config
	started time.Time
	table   atomic.Pointer[table]
	events  *events
	drained *signal // fires when an instance that left the routes has nothing to do
	checks  *tokens
	calls   *http.Transport // of gRPC, to programs
	collect *collector

	applying  sync.Mutex // one Apply at a time; guards what follows
	endpoints map[string]*endpoint
	retired   []*instance // out of the routes, perhaps still at work

	look    socket.Look
	held    atomic.Int64 // bytes of large bodies
	callers sync.Map     // net.Conn → *caller

	watchers atomic.Int64 // control planes that are there
	left     atomic.Int64 // when the last one went, unix nanoseconds

	sampling sync.Mutex
	samples  []serving.State // of the last minute, the oldest first

	ends context.Context // ends when the gateway is closed
	end  context.CancelFunc
	work sync.WaitGroup // what goes on beside the requests
}

const routesFile = "routes.json"

// Open returns a gateway that goes by the routes on disk, if there are any.
func Open(cfg Config) (*Gateway, error) {
	g := &Gateway{cfg: cfg, started: time.Now(), drained: newSignal(), checks: newTokens(), calls: newCalls(), endpoints: map[string]*endpoint{}}
	g.ends, g.end = context.WithCancel(context.Background())
	g.left.Store(g.started.UnixNano())
	var err error
	if g.events, err = openEvents(filepath.Join(cfg.Dir, eventsFile)); err != nil {
		return nil, err
	}
	if g.collect, err = openCollector(filepath.Join(cfg.Dir, serving.SpoolFolder), cfg.Log); err != nil {
		return nil, err
	}
	var routes serving.Routes
	b, err := os.ReadFile(filepath.Join(cfg.Dir, routesFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(b, &routes); err != nil {
			// Files are replaced whole: this one was damaged by someone else. The
			// control plane brings the routes again.
			cfg.Log.Error("routes on disk", "err", err)
			routes = serving.Routes{}
		}
	}
	g.applying.Lock()
	defer g.applying.Unlock()
	g.install(routes)
	g.work.Go(g.sample)
	return g, nil
}

// Close writes down what is collected and lets go of the instances. Requests
// must have ended.
func (g *Gateway) Close() error {
	g.end()
	g.work.Wait()
	g.applying.Lock()
	defer g.applying.Unlock()
	g.install(serving.Routes{})
	g.calls.CloseIdleConnections()
	return g.collect.close()
}

// Apply replaces the routes; see serving.Gateway.
func (g *Gateway) Apply(r serving.Routes) error {
	g.applying.Lock()
	defer g.applying.Unlock()
	if now := g.table.Load(); r.Version < now.routes.Version {
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := file.Replace(filepath.Join(g.cfg.Dir, routesFile), b, 0o600); err != nil {
		return fmt.Errorf("keep the routes: %w", err)
	}
	g.install(r)
	return nil
}

// Idle tells since when the gateway has had neither deployments nor a control
// plane; ok is false while it has one of them.
func (g *Gateway) Idle() (since time.Time, ok bool) {
	if g.watchers.Load() > 0 {
		return time.Time{}, false
	}
	for _, e := range g.table.Load().routes.Endpoints {
		if len(e.Deployments) > 0 {
			return time.Time{}, false
		}
	}
	return time.Unix(0, g.left.Load()), true
}

// caller is an open connection of a caller. It counts for the endpoint that it
// spoke with first.
type caller struct {
	endpoint atomic.Pointer[endpoint]
	guard    *guardedConn // nil: nobody looks
}

// Looked is the processor time spent so far on looking for answers: there was
// nothing else to do in it.
func (g *Gateway) Looked() time.Duration { return g.look.Took() }

type contextKey int

const callerKey contextKey = iota

// ConnContext and ConnState are those of the http.Server whose Handler the
// gateway is: they count connections.
func (g *Gateway) ConnContext(ctx context.Context, c net.Conn) context.Context {
	k := &caller{}
	k.guard, _ = c.(*guardedConn)
	g.callers.Store(c, k)
	return context.WithValue(ctx, callerKey, k)
}

// ConnState is told how a connection fares; see ConnContext.
func (g *Gateway) ConnState(c net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	if k, ok := g.callers.LoadAndDelete(c); ok {
		if e := k.(*caller).endpoint.Load(); e != nil {
			e.connections.Add(-1)
		}
	}
}

// meet counts the connection for the endpoint if it is the first.
func (e *endpoint) meet(ctx context.Context) {
	k, _ := ctx.Value(callerKey).(*caller)
	if k != nil && k.endpoint.Load() == nil && k.endpoint.CompareAndSwap(nil, e) {
		e.connections.Add(1)
		e.connected.Add(1)
	}
}

// signal wakes all who wait for something to change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

// next is closed when the signal fires the next time.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
