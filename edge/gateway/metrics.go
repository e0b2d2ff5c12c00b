package gateway

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/ml/serving"
)

// azure writes what the gateway alone sees of the metrics that Azure Monitor has,
// over the last minute to the second. Latencies are in milliseconds.
func (g *Gateway) azure(b *bytes.Buffer, s, before serving.State) {
	label := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace
	was := map[string]serving.EndpointState{}
	wasDeployment := map[[2]string]serving.DeploymentState{}
	for _, e := range before.Endpoints {
		was[e.Name] = e
		for _, d := range e.Deployments {
			wasDeployment[[2]string{e.Name, d.Name}] = d
		}
	}
	family := func(name, help string, write func(e serving.EndpointState, put func(labels string, value float64))) {
		fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		for _, e := range s.Endpoints {
			write(e, func(labels string, value float64) {
				fmt.Fprintf(b, "%s{endpoint=\"%s\"%s} %g\n", name, label(e.Name), labels, value)
			})
		}
	}
	deployments := func(name, help string, value func(d, was serving.DeploymentState) float64) {
		family(name, help, func(e serving.EndpointState, put func(string, float64)) {
			for _, d := range e.Deployments {
				put(fmt.Sprintf(`,deployment="%s"`, label(d.Name)), value(d, wasDeployment[[2]string{e.Name, d.Name}]))
			}
		})
	}
	family("ConnectionsActive", "Connections that are open.", func(e serving.EndpointState, put func(string, float64)) {
		put("", float64(e.Connections))
	})
	seconds := max(s.Time.Sub(before.Time).Seconds(), 1)
	family("NewConnectionsPerSecond", "Connections opened in a second, over the last minute.", func(e serving.EndpointState, put func(string, float64)) {
		put("", float64(e.Connected-was[e.Name].Connected)/seconds)
	})
	family("NetworkBytes", "Bytes of bodies in a second, over the last minute.", func(e serving.EndpointState, put func(string, float64)) {
		put("", float64(e.BytesIn+e.BytesOut-was[e.Name].BytesIn-was[e.Name].BytesOut)/seconds)
	})
	family("RequestsPerMinute", "Requests in the last minute.", func(e serving.EndpointState, put func(string, float64)) {
		one := func(deployment string, status, model string, n int64) {
			put(fmt.Sprintf(`,deployment="%s",statusCode="%s",statusCodeClass="%cxx",modelStatusCode="%s"`, label(deployment), status, status[0], model), float64(n))
		}
		for _, status := range slices.Sorted(maps.Keys(e.Unrouted)) {
			one("", status, "", e.Unrouted[status]-was[e.Name].Unrouted[status])
		}
		for _, d := range e.Deployments {
			counted := map[[2]int]int64{}
			for _, r := range wasDeployment[[2]string{e.Name, d.Name}].Requests {
				counted[[2]int{r.Status, r.Model}] = r.Count
			}
			for _, r := range d.Requests {
				model := ""
				if r.Model != 0 {
					model = strconv.Itoa(r.Model)
				}
				one(d.Name, strconv.Itoa(r.Status), model, r.Count-counted[[2]int{r.Status, r.Model}])
			}
		}
	})
	deployments("RequestLatency", "Milliseconds until a request was answered, on average over the last minute.", func(d, was serving.DeploymentState) float64 {
		h := d.Latency.Minus(was.Latency)
		return milliseconds(h.Sum) / float64(max(h.Count, 1))
	})
	for _, q := range []struct {
		name string
		q    float64
	}{{"P50", .5}, {"P90", .9}, {"P95", .95}, {"P99", .99}} {
		deployments("RequestLatency_"+q.name, "Milliseconds until a request was answered, a percentile of the last minute.", func(d, was serving.DeploymentState) float64 {
			return milliseconds(d.Latency.Minus(was.Latency).Percentile(q.q))
		})
	}
}

// The last minute is told from states that are remembered this often.
const (
	sampleEvery = 5 * time.Second
	lastMinute  = time.Minute
)

// sample remembers states until the gateway ends.
func (g *Gateway) sample() {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-g.ends.Done():
			return
		case <-tick.C:
		}
		s := g.State()
		g.sampling.Lock()
		g.samples = append(g.samples, s)
		for len(g.samples) > 1 && s.Time.Sub(g.samples[1].Time) >= lastMinute {
			g.samples = g.samples[1:]
		}
		g.sampling.Unlock()
	}
}

// before is the state of a minute ago, or the first.
func (g *Gateway) before() serving.State {
	g.sampling.Lock()
	defer g.sampling.Unlock()
	if len(g.samples) == 0 || time.Since(g.started) < lastMinute {
		return serving.State{Time: g.started}
	}
	return g.samples[0]
}

// Metrics is the state as Prometheus text: what Azure Monitor shows of requests and
// connections, under its names and for the last minute, and counters for those who
// compute rates themselves.
func (g *Gateway) Metrics() []byte {
	var b bytes.Buffer
	s := g.State()
	g.azure(&b, s, g.before())
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
	perEndpoint("lapis_online_connections_active", "gauge", "Connections that are open.", func(e serving.EndpointState) int64 { return e.Connections })
	perEndpoint("lapis_online_connections_total", "counter", "Connections that were opened.", func(e serving.EndpointState) int64 { return e.Connected })
	head("lapis_online_network_bytes_total", "counter", "Bodies of requests and replies.")
	for _, e := range s.Endpoints {
		fmt.Fprintf(&b, "lapis_online_network_bytes_total{endpoint=\"%s\",direction=\"in\"} %d\n", label(e.Name), e.BytesIn)
		fmt.Fprintf(&b, "lapis_online_network_bytes_total{endpoint=\"%s\",direction=\"out\"} %d\n", label(e.Name), e.BytesOut)
	}
	head("lapis_online_requests_total", "counter", "Requests by status.")
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
	head("lapis_online_request_latency_seconds", "histogram", "From the arrival of a request to its answer.")
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
	collected("lapis_online_data_collection_events_total", "Events that were written.", func(d serving.DeploymentState) map[string]int64 { return d.Collected })
	collected("lapis_online_data_collection_errors_total", "Events that could not be.", func(d serving.DeploymentState) map[string]int64 { return d.Lost })
	return b.Bytes()
}
