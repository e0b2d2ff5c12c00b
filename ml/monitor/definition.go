package monitor

import (
	"slices"
	"strings"

	"lapis/ml"
	"lapis/ml/endpoint"
)

// Kind says what the values of a metric are, and so how values of several
// minutes, and of several instances or deployments, become one.
type Kind int

// The kinds of metrics.
const (
	Sum     Kind = iota // counts of what happened in a minute; they add up, and a minute without any is 0
	Level               // how much there is at a moment; that of the parts adds up
	Share               // a percentage; parts are averaged
	Latency             // durations, kept as a histogram
)

// Definition is one metric that is kept.
type Definition struct {
	Scope      string // type of the resource
	Name       string
	About      string
	Unit       string // Azure Monitor's word: Count, Percent, Milliseconds, ...
	Primary    string // the aggregation that is meant when none is asked for
	Kind       Kind
	Dimensions []string

	of       string  // the metric whose histogram it is read from; "" for itself
	quantile float64 // of a histogram; 0: the values themselves
}

// source is the name that its values are kept by.
func (d Definition) source() string {
	if d.of != "" {
		return d.of
	}
	return d.Name
}

// The names that others ask for.
const (
	RequestsPerMinute = "RequestsPerMinute"
	RequestLatency    = "RequestLatency"
	CPU               = "CpuUtilizationPercentage"
	Memory            = "CpuMemoryUtilizationPercentage"
	Disk              = "DiskUtilization"
	Capacity          = "DeploymentCapacity"
	Concurrent        = "ConcurrentRequests"
)

const (
	connections    = "ConnectionsActive"
	newConnections = "NewConnectionsPerSecond"
	networkBytes   = "NetworkBytes"
	collected      = "DataCollectionEventsPerMinute"
	notCollected   = "DataCollectionErrorsPerMinute"
	deployStarted  = "Model Deploy Started"
	deployDone     = "Model Deploy Succeeded"
	deployFailed   = "Model Deploy Failed"
	registered     = "Model Register Succeeded"
)

// Definitions are all metrics, by scope and in the order in which they are told.
var Definitions = func() []Definition {
	var all []Definition
	deployment, instance := []string{"deployment"}, []string{"instanceId"}
	for _, scope := range []string{endpoint.EndpointType, endpoint.DeploymentType} {
		dims, by := deployment, deployment
		if scope == endpoint.DeploymentType {
			dims, by = nil, instance
		}
		with := func(dims []string, more ...string) []string { return append(slices.Clone(dims), more...) }
		all = append(all,
			Definition{Scope: scope, Name: RequestsPerMinute, About: "The number of requests within a minute", Unit: "Count", Primary: "Average", Kind: Sum,
				Dimensions: with(dims, "statusCode", "statusCodeClass", "modelStatusCode")},
			Definition{Scope: scope, Name: RequestLatency, About: "The time from a request's arrival to its answer", Unit: "Milliseconds", Primary: "Average", Kind: Latency, Dimensions: dims})
		for _, p := range []struct {
			name string
			q    float64
		}{{"P50", 0.5}, {"P90", 0.9}, {"P95", 0.95}, {"P99", 0.99}} {
			all = append(all, Definition{Scope: scope, Name: RequestLatency + "_" + p.name, About: "The " + p.name + " of the time that requests take", Unit: "Milliseconds",
				Primary: "Average", Kind: Latency, Dimensions: dims, of: RequestLatency, quantile: p.q})
		}
		all = append(all,
			Definition{Scope: scope, Name: collected, About: "Events of data collection within a minute", Unit: "Count", Primary: "Minimum", Kind: Sum, Dimensions: with(by, "type")},
			Definition{Scope: scope, Name: notCollected, About: "Events of data collection that were lost, within a minute", Unit: "Count", Primary: "Minimum", Kind: Sum, Dimensions: with(by, "reason", "type")},
			Definition{Scope: scope, Name: Concurrent, About: "Requests that are worked on or wait", Unit: "Count", Primary: "Average", Kind: Level, Dimensions: dims})
	}
	all = append(all,
		Definition{Scope: endpoint.EndpointType, Name: connections, About: "Connections of clients that are open", Unit: "Count", Primary: "Average", Kind: Level},
		Definition{Scope: endpoint.EndpointType, Name: newConnections, About: "New connections a second", Unit: "CountPerSecond", Primary: "Average", Kind: Level},
		Definition{Scope: endpoint.EndpointType, Name: networkBytes, About: "Bytes of requests and answers a second", Unit: "BytesPerSecond", Primary: "Average", Kind: Level})
	for _, m := range []struct{ name, about string }{
		{CPU, "Use of the cores that an instance has"},
		{Memory, "Use of the memory that an instance has"},
		{"GpuUtilizationPercentage", "Use of the GPUs that an instance has"},
		{"GpuMemoryUtilizationPercentage", "Use of the memory of the GPUs that an instance has"},
	} {
		all = append(all, Definition{Scope: endpoint.DeploymentType, Name: m.name, About: m.about, Unit: "Percent", Primary: "Average", Kind: Share, Dimensions: instance})
	}
	all = append(all,
		Definition{Scope: endpoint.DeploymentType, Name: "MemoryUtilizationPercentage", About: "Use of the memory that an instance has", Unit: "Percent", Primary: "Average",
			Kind: Share, Dimensions: instance, of: Memory},
		Definition{Scope: endpoint.DeploymentType, Name: "GpuEnergyJoules", About: "Energy that GPUs have taken", Unit: "Count", Primary: "Total", Kind: Sum, Dimensions: instance},
		Definition{Scope: endpoint.DeploymentType, Name: Disk, About: "Use of the disk that an instance writes to", Unit: "Percent", Primary: "Maximum", Kind: Share, Dimensions: []string{"instanceId", "disk"}},
		Definition{Scope: endpoint.DeploymentType, Name: Capacity, About: "Instances", Unit: "Count", Primary: "Average", Kind: Level, Dimensions: []string{"instanceId", "State"}})
	for _, m := range []struct{ name, about string }{
		{deployStarted, "Deployments that were started"}, {deployDone, "Deployments that succeeded"}, {deployFailed, "Deployments that failed"}, {registered, "Models that were registered"},
	} {
		all = append(all, Definition{Scope: ml.Workspaces, Name: m.name, About: m.about, Unit: "Count", Primary: "Total", Kind: Sum, Dimensions: []string{"Scenario"}})
	}
	return all
}()

// Of are the metrics of a type of resource.
func Of(scope string) []Definition {
	var of []Definition
	for _, d := range Definitions {
		if strings.EqualFold(d.Scope, scope) {
			of = append(of, d)
		}
	}
	return of
}

// find returns the metric of that name, in any case of letters.
func find(scope, name string) (Definition, bool) {
	for _, d := range Of(scope) {
		if strings.EqualFold(d.Name, strings.TrimSpace(name)) {
			return d, true
		}
	}
	return Definition{}, false
}
