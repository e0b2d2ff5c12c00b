package gateway

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"lapis/ml/serving"
)

// Metrics is the state as Prometheus text, under the names that Azure Monitor
// gives them.
func (g *Gateway) Metrics() []byte {
	var b bytes.Buffer
	s := g.State()
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	label := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace
	each := func(write func(e serving.EndpointState, d serving.DeploymentState, labels string)) {
		for _, e := range s.Endpoints {
			for _, d := range e.Deployments {
				write(e, d, fmt.Sprintf(`endpoint="%s",deployment="%s"`, label(e.Name), label(d.Name)))
			}
		}
	}
	perEndpoint := func(name, kind, help string, value func(serving.EndpointState) int64) {
		head(name, kind, help)
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "%s{endpoint=\"%s\"} %d\n", name, label(e.Name), value(e))
		}
	}
	perEndpoint("lapis_online_connections_active", "gauge", "ConnectionsActive: connections that are open.", func(e serving.EndpointState) int64 { return e.Connections })
	perEndpoint("lapis_online_connections_total", "counter", "NewConnectionsPerSecond: connections that were opened.", func(e serving.EndpointState) int64 { return e.Connected })
	head("lapis_online_network_bytes_total", "counter", "NetworkBytes: bodies of requests and replies.")
	for _, e := range s.Endpoints {
		fmt.Fprintf(&b, "lapis_online_network_bytes_total{endpoint=\"%s\",direction=\"in\"} %d\n", label(e.Name), e.BytesIn)
		fmt.Fprintf(&b, "lapis_online_network_bytes_total{endpoint=\"%s\",direction=\"out\"} %d\n", label(e.Name), e.BytesOut)
	}
	head("lapis_online_requests_total", "counter", "RequestsPerMinute: requests by status.")
	for _, e := range s.Endpoints {
		for status, n := range e.Unrouted {
			fmt.Fprintf(&b, "lapis_online_requests_total{endpoint=\"%s\",deployment=\"\",statusCode=\"%s\",statusCodeClass=\"%cxx\",modelStatusCode=\"\"} %d\n", label(e.Name), status, status[0], n)
		}
	}
	each(func(_ serving.EndpointState, d serving.DeploymentState, labels string) {
		for _, r := range d.Requests {
			model := ""
			if r.Model != 0 {
				model = strconv.Itoa(r.Model)
			}
			fmt.Fprintf(&b, "lapis_online_requests_total{%s,statusCode=\"%d\",statusCodeClass=\"%dxx\",modelStatusCode=\"%s\"} %d\n", labels, r.Status, r.Status/100, model, r.Count)
		}
	})
	head("lapis_online_request_latency_seconds", "histogram", "RequestLatency: from the arrival of a request to its answer.")
	each(func(_ serving.EndpointState, d serving.DeploymentState, labels string) {
		sum := int64(0)
		for i, n := range d.Latency.Counts {
			if sum += n; i%7 == 0 && i < len(d.Latency.Counts)-1 { // each bucket 40 % wider than the one before
				fmt.Fprintf(&b, "lapis_online_request_latency_seconds_bucket{%s,le=\"%g\"} %d\n", labels, serving.Bound(i).Seconds(), sum)
			}
		}
		fmt.Fprintf(&b, "lapis_online_request_latency_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, d.Latency.Count)
		fmt.Fprintf(&b, "lapis_online_request_latency_seconds_sum{%s} %g\n", labels, d.Latency.Sum.Seconds())
		fmt.Fprintf(&b, "lapis_online_request_latency_seconds_count{%s} %d\n", labels, d.Latency.Count)
	})
	for _, q := range []struct {
		name string
		q    float64
	}{{"P50", .5}, {"P90", .9}, {"P95", .95}, {"P99", .99}} {
		name := "lapis_online_request_latency_" + strings.ToLower(q.name) + "_seconds"
		head(name, "gauge", "RequestLatency_"+q.name+" since the gateway was started.")
		each(func(_ serving.EndpointState, d serving.DeploymentState, labels string) {
			fmt.Fprintf(&b, "%s{%s} %g\n", name, labels, d.Latency.Percentile(q.q).Seconds())
		})
	}
	perDeployment := func(name, kind, help string, value func(serving.DeploymentState) float64) {
		head(name, kind, help)
		each(func(_ serving.EndpointState, d serving.DeploymentState, labels string) {
			fmt.Fprintf(&b, "%s{%s} %g\n", name, labels, value(d))
		})
	}
	perDeployment("lapis_online_requests_running", "gauge", "Requests that instances work on.", func(d serving.DeploymentState) float64 { return float64(d.Running) })
	perDeployment("lapis_online_requests_waiting", "gauge", "Requests that wait for an instance.", func(d serving.DeploymentState) float64 { return float64(d.Waiting) })
	perDeployment("lapis_online_busy_seconds_total", "counter", "Time that requests were worked on.", func(d serving.DeploymentState) float64 { return d.Busy.Seconds() })
	perDeployment("lapis_online_requests_mirrored_total", "counter", "Requests that were sent as copies.", func(d serving.DeploymentState) float64 { return float64(d.Mirrored) })
	perDeployment("lapis_online_deployment_capacity", "gauge", "DeploymentCapacity: instances that take requests.", func(d serving.DeploymentState) float64 {
		n := 0
		for _, i := range d.Instances {
			if !i.Ejected {
				n++
			}
		}
		return float64(n)
	})
	collected := func(name, help string, of func(serving.DeploymentState) map[string]int64) {
		head(name, "counter", help)
		each(func(_ serving.EndpointState, d serving.DeploymentState, labels string) {
			for _, c := range []string{collectRequest, collectResponse} {
				if n, ok := of(d)[c]; ok {
					fmt.Fprintf(&b, "%s{%s,type=\"%s\"} %d\n", name, labels, c, n)
				}
			}
		})
	}
	collected("lapis_online_data_collection_events_total", "DataCollectionEventsPerMinute: events that were written.", func(d serving.DeploymentState) map[string]int64 { return d.Collected })
	collected("lapis_online_data_collection_errors_total", "DataCollectionErrorsPerMinute: events that could not be.", func(d serving.DeploymentState) map[string]int64 { return d.Lost })
	return b.Bytes()
}
