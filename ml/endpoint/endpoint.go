// Package endpoint has online endpoints and their deployments: what they are
// made of, the rules they keep, their keys and tokens. What makes them serve is
// a Deployer.
package endpoint

import (
	"context"
	"encoding/json"

	"lapis/ml"
	"lapis/resource"
)

// The types.
const (
	EndpointType   = ml.Workspaces + "/onlineEndpoints"
	DeploymentType = EndpointType + "/deployments"
)

// Deployer makes deployments serve. Its methods may be called again after a
// crash, and are then the same work.
type Deployer interface {
	// Deploy brings the instances of a deployment up as its properties say and
	// returns its status. It returns when they have answered, or with a fault
	// whose message begins with the root cause; what served before still does.
	Deploy(ctx context.Context, deployment resource.Resource) (json.RawMessage, error)

	// Withdraw takes a deployment out of the routes, lets what it works on end,
	// and stops its instances.
	Withdraw(ctx context.Context, deployment resource.Resource) error

	// Route brings the gateway up to date with the endpoints that are stored
	// now. When it returns nil, requests go by them.
	Route(ctx context.Context) error

	// Logs are the last lines of a container's log ("InferenceServer" or
	// "StorageInitializer"), oldest first.
	Logs(ctx context.Context, deployment resource.Resource, container string, lines int) (string, error)
}

// Endpoint is the view of an endpoint's properties.
type Endpoint struct {
	AuthMode      string            `json:"authMode"` // Key, AMLToken, AADToken
	Description   string            `json:"description"`
	Compute       string            `json:"compute"` // ARM id of a Kubernetes compute; "" for a managed endpoint
	Traffic       map[string]int    `json:"traffic"`
	MirrorTraffic map[string]int    `json:"mirrorTraffic"`
	PublicNetwork string            `json:"publicNetworkAccess"`
	Properties    map[string]string `json:"properties"`
}

// Deployment is the view of a deployment's properties. Durations are ISO 8601.
type Deployment struct {
	ComputeType       string            `json:"endpointComputeType"` // Managed or Kubernetes
	Model             string            `json:"model"`               // id of a model version; "" for none
	ModelMountPath    string            `json:"modelMountPath"`
	CodeConfiguration *Code             `json:"codeConfiguration"`
	EnvironmentID     string            `json:"environmentId"`
	Variables         map[string]string `json:"environmentVariables"`
	Description       string            `json:"description"`
	Properties        map[string]string `json:"properties"`
	InstanceType      string            `json:"instanceType"`
	AppInsights       bool              `json:"appInsightsEnabled"`
	Requests          Requests          `json:"requestSettings"`
	Liveness          Probe             `json:"livenessProbe"`
	Readiness         Probe             `json:"readinessProbe"`
	Scale             Scale             `json:"scaleSettings"`
	Collector         *Collector        `json:"dataCollector"`
}

// Code is the scoring script and what lies beside it.
type Code struct {
	CodeID        string `json:"codeId"` // id of a code version
	ScoringScript string `json:"scoringScript"`
}

// Requests are the settings of a request.
type Requests struct {
	Timeout       string `json:"requestTimeout"`                   // PT5S
	MaxConcurrent int    `json:"maxConcurrentRequestsPerInstance"` // 1
	MaxQueueWait  string `json:"maxQueueWait"`                     // PT0.5S
}

// Probe are the settings of a probe.
type Probe struct {
	InitialDelay     string `json:"initialDelay"` // PT10S
	Period           string `json:"period"`       // PT10S
	Timeout          string `json:"timeout"`      // PT2S
	SuccessThreshold int    `json:"successThreshold"`
	FailureThreshold int    `json:"failureThreshold"`
}

// Scale are the scale settings.
type Scale struct {
	Type              string `json:"scaleType"` // Default, TargetUtilization
	MinInstances      int    `json:"minInstances"`
	MaxInstances      int    `json:"maxInstances"`
	PollingInterval   string `json:"pollingInterval"`
	TargetUtilization int    `json:"targetUtilizationPercentage"`
}

// Collector says what is collected.
type Collector struct {
	SamplingRate   float64               `json:"samplingRate"` // 1
	RollingRate    string                `json:"rollingRate"`  // Hour
	Collections    map[string]Collection `json:"collections"`
	RequestLogging struct {
		CaptureHeaders []string `json:"captureHeaders"`
	} `json:"requestLogging"`
}

// Collection is one collection; "request" and "response" are the payloads.
type Collection struct {
	DataCollectionMode string  `json:"dataCollectionMode"` // Enabled, Disabled
	DataID             string  `json:"dataId"`
	ClientID           string  `json:"clientId"`
	SamplingRate       float64 `json:"samplingRate"`
}

// Sku is the sku of a deployment: Capacity is its number of instances.
type Sku struct {
	Name     string `json:"name"`
	Capacity int    `json:"capacity"`
}
