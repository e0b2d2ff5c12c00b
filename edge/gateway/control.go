package gateway

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml/serving"
)

// Info is what a gateway tells of itself to who adopts it.
type Info struct {
	Protocol int    `json:"protocol"`
	PID      int    `json:"pid"`
	Version  string `json:"version"` // of the program
	Listen   string `json:"listen"`  // HOST:PORT that callers use
}

// Protocol is that of the control socket.
const Protocol = 1

// maxRoutes bounds the routes, in bytes.
const maxRoutes = 256 << 20

// Control is what the control plane talks to, over a socket that nobody else
// can reach. stop is called once, when the gateway is asked to end.
func (g *Gateway) Control(info Info, stop func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) { edge.WriteJSON(w, http.StatusOK, info) })
	mux.HandleFunc("PUT /routes", func(w http.ResponseWriter, r *http.Request) {
		var routes serving.Routes
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRoutes)).Decode(&routes); err != nil {
			edge.WriteError(w, fault.Invalid("The routes cannot be read: %v.", err))
			return
		}
		if err := g.Apply(routes); err != nil {
			g.cfg.Log.Error("apply", "err", err)
			edge.WriteError(w, fault.New(fault.Unavailable, "RoutesNotKept", "The gateway cannot keep the routes: %v.", err))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /drained", func(w http.ResponseWriter, r *http.Request) {
		var ids []string
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRoutes)).Decode(&ids); err != nil {
			edge.WriteError(w, fault.Invalid("The instances cannot be read: %v.", err))
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // from here on the server sees when the caller leaves
		if g.Drained(r.Context(), ids) == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { edge.WriteJSON(w, http.StatusOK, g.State()) })
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		after, _ := strconv.ParseInt(r.FormValue("after"), 10, 64)
		ctx, cancel := context.WithTimeout(r.Context(), eventsAnew)
		defer cancel()
		list := g.events.after(ctx, after)
		if list == nil {
			list = []serving.Event{}
		}
		edge.WriteJSON(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(g.Metrics())
	})
	mux.HandleFunc("GET /compared", func(w http.ResponseWriter, r *http.Request) {
		edge.WriteJSON(w, http.StatusOK, g.Compared(r.FormValue("endpoint"), r.FormValue("deployment")))
	})
	mux.HandleFunc("GET /watch", g.watch)
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		stop()
	})
	return mux
}

// eventsAnew is after how long a call for events that do not come ends.
const eventsAnew = 30 * time.Second

// watch holds the request as long as the control plane is there, or we are.
func (g *Gateway) watch(w http.ResponseWriter, r *http.Request) {
	g.watchers.Add(1)
	defer func() {
		g.left.Store(time.Now().UnixNano())
		g.watchers.Add(-1)
	}()
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-g.ends.Done():
	}
}

// Drained waits until none of the instances works on a request; see
// serving.Gateway.
func (g *Gateway) Drained(ctx context.Context, ids []string) error {
	for {
		next := g.drained.next()
		g.applying.Lock()
		g.retired = slices.DeleteFunc(g.retired, func(i *instance) bool { return !i.working() })
		busy := slices.ContainsFunc(g.retired, func(i *instance) bool { return slices.Contains(ids, i.ID) })
		g.applying.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
