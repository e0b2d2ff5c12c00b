package serving

import (
	"context"
	"time"
)

// Gateway is the process that answers the callers, as the control plane sees
// it. It may be away: methods then return fault.Unavailable, and the next
// Apply brings it up to date.
type Gateway interface {
	// Apply replaces the routes. When it returns nil every request that comes
	// from then on goes by them, and they are on disk.
	Apply(ctx context.Context, r Routes) error

	// Drained waits until none of the instances works on a request, at most
	// until ctx ends. Instances must be out of the routes already.
	Drained(ctx context.Context, instances []string) error

	// State is what goes on at this moment, and the counters since the gateway
	// was started.
	State(ctx context.Context) (State, error)

	// Events returns what happened after the event of that number; it waits
	// until there is something, or ctx ends. 0 asks for all that are kept.
	Events(ctx context.Context, after int64) ([]Event, error)

	// Metrics is the state as Prometheus text.
	Metrics(ctx context.Context) ([]byte, error)

	// Compared tells how the mirrored answers of a deployment differ from those
	// that callers got. A zero since is all that is kept.
	Compared(ctx context.Context, endpoint, deployment string) (Comparison, error)
}

// Event is something that the control plane wants to know at once.
type Event struct {
	Number     int64     `json:"number"` // 1, 2, ...; a restarted gateway goes on from the last
	Time       time.Time `json:"time"`
	Kind       string    `json:"kind"`
	Endpoint   string    `json:"endpoint"`
	Deployment string    `json:"deployment"`
	Instance   string    `json:"instance,omitempty"`
	Reason     string    `json:"reason,omitempty"`
}

// The kinds of events.
const (
	EventWake    = "wake"    // a request waits for an instance of a deployment that has none
	EventEject   = "eject"   // an instance fails and gets no requests for a while
	EventReadmit = "readmit" // it is back
	EventRefused = "refused" // requests were refused because the deployment is full; at most one event a second
)

// State is what the gateway does now, by endpoint and deployment.
type State struct {
	Started   time.Time       `json:"started"` // of the gateway: counters begin there
	Time      time.Time       `json:"time"`    // of this reading
	Version   int64           `json:"version"` // of the routes it goes by
	Endpoints []EndpointState `json:"endpoints"`
}

// EndpointState is the state of an endpoint.
type EndpointState struct {
	Name        string            `json:"name"`
	Connections int64             `json:"connections"` // open now
	Connected   int64             `json:"connected"`   // ever
	BytesIn     int64             `json:"bytesIn"`     // request bodies
	BytesOut    int64             `json:"bytesOut"`    // reply bodies
	Unrouted    map[string]int64  `json:"unrouted"`    // status → requests that reached no deployment (401, 404, 429)
	Deployments []DeploymentState `json:"deployments"`
}

// DeploymentState is the state of a deployment. Counters never shrink while
// the gateway runs.
type DeploymentState struct {
	Name      string           `json:"name"`
	Running   int64            `json:"running"` // requests that instances work on now
	Waiting   int64            `json:"waiting"` // requests in the queue now
	Busy      time.Duration    `json:"busy"`    // time that requests were worked on, summed over all of them
	Requests  []RequestCount   `json:"requests"`
	Latency   Histogram        `json:"latency"`   // of requests that were answered, from their arrival
	Mirrored  int64            `json:"mirrored"`  // requests that were sent as copies
	Collected map[string]int64 `json:"collected"` // collection → events written
	Lost      map[string]int64 `json:"lost"`      // collection → events that could not be
	Instances []InstanceState  `json:"instances"`
}

// RequestCount counts requests that ended alike.
type RequestCount struct {
	Status int   `json:"status"`      // what the caller got
	Model  int   `json:"modelStatus"` // what the instance answered; 0 if it did not
	Count  int64 `json:"count"`
}

// Histogram counts durations: Counts[i] are those of at most Bounds(i).
type Histogram struct {
	Counts []int64       `json:"counts"`
	Sum    time.Duration `json:"sum"`
	Count  int64         `json:"count"`
}

// InstanceState is the state of an instance.
type InstanceState struct {
	ID      string `json:"id"`
	Running int64  `json:"running"`
	Ejected bool   `json:"ejected"`
	Served  int64  `json:"served"`
	Failed  int64  `json:"failed"`
}

// Comparison is a shadow report.
type Comparison struct {
	Live     string           `json:"live"`     // the deployments that answered, joined by commas
	Shadow   string           `json:"shadow"`   // the deployment that got copies
	Pairs    int64            `json:"pairs"`    // answers compared
	Equal    int64            `json:"equal"`    // of those, bodies that say the same
	Failures [2]int64         `json:"failures"` // answers that were not 2xx, live and shadow
	P50      [2]float64       `json:"p50Ms"`
	P99      [2]float64       `json:"p99Ms"`
	Fields   map[string]int64 `json:"fields"`   // JSON path → answers that differ there
	Examples []Difference     `json:"examples"` // at most 20
}

// Difference is one pair of answers that differ.
type Difference struct {
	RequestID string `json:"requestId"`
	Path      string `json:"path"` // of the first difference, such as "$.predictions[0]"
	Live      string `json:"live"` // what stands there, at most 200 bytes
	Shadow    string `json:"shadow"`
}
