// Package serving has what the parts that serve models agree on: the routes that
// the gateway goes by, the groups of instances that answer, and how the control
// plane speaks with both. It holds no rule of its own.
//
// A deployment is served by a group: one task of the runtime that holds all of
// its instances (forks of one Python parent, runners of native models, copies of
// the user's own program). The group keeps as many instances up as it was told,
// starts one that died again by itself, and outlives the server. The gateway
// speaks with the instances directly.
package serving

import "time"

// Routes are all that the gateway needs to know. It keeps the last ones on disk
// and can serve from them alone.
type Routes struct {
	Version   int64      `json:"version"` // grows with each change; an older one is passed over
	Trust     Trust      `json:"trust"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Trust is how the gateway checks tokens without asking.
type Trust struct {
	Key    []byte `json:"key"`    // public key that signs tokens, PKIX, DER
	Tenant string `json:"tenant"` // GUID

	// Audiences of tokens that are good here, beside the public one of Azure ML;
	// without a slash at the end.
	Audiences []string `json:"audiences,omitempty"`
}

// The ways a caller proves who it is.
const (
	AuthKey      = "Key"
	AuthAMLToken = "AMLToken"
	AuthAADToken = "AADToken"
)

// Endpoint is one online endpoint.
type Endpoint struct {
	Name     string `json:"name"` // lower case, unique on the server
	ID       string `json:"id"`   // ARM id
	Location string `json:"location"`
	Kind     string `json:"kind"` // "Managed" or "K8S": decides between the two sets of status codes
	Auth     string `json:"auth"` // AuthKey, AuthAMLToken, AuthAADToken; "" lets everyone in (local endpoints)

	// Keys are the SHA-256 of the primary and the secondary key, in hex.
	Keys []string `json:"keys,omitempty"`

	// Epoch is in every AMLToken of the endpoint; one of another epoch is refused.
	Epoch string `json:"epoch,omitempty"`

	Traffic     map[string]int `json:"traffic,omitempty"` // deployment → percent; sums to 0 or 100
	Mirror      map[string]int `json:"mirror,omitempty"`  // at most one
	Sticky      string         `json:"sticky,omitempty"`  // header whose value decides the deployment; "" for none
	CORS        []string       `json:"cors,omitempty"`    // origins; "*" is all
	Limits      Limits         `json:"limits,omitzero"`
	Deployments []Deployment   `json:"deployments"`
}

// Limits of an endpoint; 0 is none.
type Limits struct {
	RequestsPerSecond float64 `json:"requestsPerSecond,omitempty"` // of each key or caller
	Burst             int     `json:"burst,omitempty"`
	MaxBody           int64   `json:"maxBody,omitempty"` // bytes; 0 is DefaultMaxBody
}

// DefaultMaxBody bounds a request, in bytes.
const DefaultMaxBody = 100 << 20

// The runtimes.
const (
	Native  = "native"  // our runner: ONNX, LightGBM, XGBoost
	Python  = "python"  // our driver in the user's environment
	Program = "program" // the user's own server, spoken to over HTTP

	// Image is a server that an image brings, in a container; to the gateway it is a Program.
	Image = "container"
)

// Deployment is one deployment of an endpoint.
type Deployment struct {
	Name        string        `json:"name"`
	ID          string        `json:"id"`
	Generation  string        `json:"generation"` // a new one for each change that starts new instances
	Runtime     string        `json:"runtime"`    // Native, Python, Program
	ScoringPath string        `json:"scoringPath"`
	Timeout     time.Duration `json:"timeout"` // of a request, queue included
	Concurrency int           `json:"concurrency"`
	QueueWait   time.Duration `json:"queueWait,omitempty"` // of kubernetes deployments; 0: the timeout alone
	Batch       *Batch        `json:"batch,omitempty"`
	Collect     *Collect      `json:"collect,omitempty"`

	// Capacity is the number of instances that count for admission:
	// Capacity×Concurrency run, as many again wait, the rest is 429.
	Capacity  int        `json:"capacity"`
	Instances []Instance `json:"instances"`

	// Wake: a request that finds no instance waits for one and is told of as an
	// event, for at most Hold. Without it such a request fails at once.
	Wake bool          `json:"wake,omitempty"`
	Hold time.Duration `json:"hold,omitempty"`
}

// Batch asks the gateway to put requests together, along the first axis.
type Batch struct {
	MaxSize  int           `json:"maxSize"`  // rows
	MaxDelay time.Duration `json:"maxDelay"` // the longest that a request waits for others
}

// Collect says which payloads are kept.
type Collect struct {
	Request  bool     `json:"request,omitempty"`
	Response bool     `json:"response,omitempty"`
	Rate     float64  `json:"rate"`    // share of the requests, 0 to 1
	Rolling  string   `json:"rolling"` // Minute, Hour, Day, Month, Year
	Headers  []string `json:"headers,omitempty"`
}

// Instance is where one instance listens.
type Instance struct {
	ID      string `json:"id"`      // unique on the server: "{group}/{n}"
	Network string `json:"network"` // "unix" or "tcp"
	Address string `json:"address"` // path of the socket, or host:port
	Frames  bool   `json:"frames"`  // speaks package frame; else HTTP/1.1
}
