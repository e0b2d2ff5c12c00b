// Package promhttp tells what is measured in the text form that Prometheus
// reads: what the gateway counts, what instances use, and the server's own
// figures.
package promhttp

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/ml/serving"
)

// Config is what a server works with.
type Config struct {
	Gateway serving.Gateway // nil: there is none
	Monitor *monitor.Monitor
	Auth    *edge.Authenticator
	Version string
	Started time.Time
	Log     *slog.Logger

	// Figures are the server's own: name with labels → value, such as
	// `lapis_jobs_open` → 3.
	Figures func(ctx context.Context) (map[string]float64, error)
}

// Server answers /metrics.
type Server struct{ Config }

// New makes a server.
func New(c Config) *Server { return &Server{c} }

// gatewayFor bounds how long the gateway is waited for.
const gatewayFor = 3 * time.Second

// ServeHTTP answers one request: of this machine, or with a token.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		edge.WriteError(w, fault.New(fault.NotAllowed, "MethodNotAllowed", "/metrics is read with GET."))
		return
	}
	if !near(r) {
		if _, err := s.Auth.Principal(r); err != nil {
			if f := fault.Find(err); f != nil && f.Kind == fault.Unauthenticated {
				edge.Challenge(w, f)
			}
			edge.WriteError(w, err)
			return
		}
	}
	var b bytes.Buffer
	s.minute(&b, s.gateway(r.Context(), &b))
	s.own(r.Context(), &b)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(b.Bytes())
}

// near tells whether the request comes from this machine.
func near(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback() && r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == ""
}

// gateway tells what the gateway counts, and returns the names of that.
func (s *Server) gateway(ctx context.Context, b *bytes.Buffer) map[string]bool {
	up, told := 0, map[string]bool{}
	if s.Gateway != nil {
		asking, cancel := context.WithTimeout(ctx, gatewayFor)
		text, err := s.Gateway.Metrics(asking)
		cancel()
		if err == nil {
			up = 1
			b.Write(text)
			if len(text) > 0 && text[len(text)-1] != '\n' {
				b.WriteByte('\n')
			}
			for line := range strings.Lines(string(text)) {
				if words := strings.Fields(line); len(words) > 2 && words[0] == "#" && words[1] == "TYPE" {
					told[words[2]] = true
				}
			}
		}
	}
	family(b, "lapis_gateway_up", "gauge", "Whether the gateway answers")
	sample(b, "lapis_gateway_up", nil, float64(up))
	return told
}

// minute tells what the monitor has of the last minute, by the names of Azure
// Monitor: each name once, so not those that the gateway has told to the second.
func (s *Server) minute(b *bytes.Buffer, told map[string]bool) {
	if s.Monitor == nil {
		return
	}
	lines, about := map[string][]string{}, map[string]string{}
	for _, d := range monitor.Definitions {
		if (d.Scope == endpoint.EndpointType || d.Scope == endpoint.DeploymentType) && !told[d.Name] {
			about[d.Name] = d.About + ", in the last minute"
		}
	}
	s.Monitor.Latest(func(d monitor.Definition, resource string, dims map[string]string, v float64) {
		if told[d.Name] {
			return
		}
		parts := strings.Split(resource, "/")
		labels := []string{"endpoint", parts[len(parts)-1]}
		if strings.EqualFold(d.Scope, endpoint.DeploymentType) {
			if d.Kind == monitor.Sum || d.Kind == monitor.Latency || d.Name == monitor.Concurrent {
				return // told of the endpoint, with the deployment as a label
			}
			labels = []string{"endpoint", parts[len(parts)-3], "deployment", parts[len(parts)-1]}
		}
		for _, name := range slices.Sorted(maps.Keys(dims)) {
			labels = append(labels, name, dims[name])
		}
		var line bytes.Buffer
		sample(&line, d.Name, labels, v)
		lines[d.Name] = append(lines[d.Name], line.String())
	})
	for _, name := range slices.Sorted(maps.Keys(about)) {
		family(b, name, "gauge", about[name])
		slices.Sort(lines[name])
		b.WriteString(strings.Join(lines[name], ""))
	}
}

func (s *Server) own(ctx context.Context, b *bytes.Buffer) {
	family(b, "lapis_info", "gauge", "The server's version")
	sample(b, "lapis_info", []string{"version", s.Version, "go", runtime.Version()}, 1)
	family(b, "lapis_start_time_seconds", "gauge", "When the server was started, in Unix seconds")
	sample(b, "lapis_start_time_seconds", nil, float64(s.Started.Unix()))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	family(b, "lapis_heap_bytes", "gauge", "Memory that the server's objects take")
	sample(b, "lapis_heap_bytes", nil, float64(mem.HeapAlloc))
	family(b, "lapis_goroutines", "gauge", "Goroutines of the server")
	sample(b, "lapis_goroutines", nil, float64(runtime.NumGoroutine()))
	family(b, "lapis_requests_total", "counter", "Requests that the server has answered, by class of status")
	counts := edge.Served()
	for i := 1; i <= 5; i++ {
		class := fmt.Sprintf("%dxx", i)
		sample(b, "lapis_requests_total", []string{"code", class}, float64(counts[class]))
	}
	if s.Figures == nil {
		return
	}
	figures, err := s.Figures(ctx)
	if err != nil {
		s.Log.Warn("the server's figures are not known", "err", err)
		return
	}
	before := ""
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		if plain, _, _ := strings.Cut(name, "{"); plain != before {
			before = plain
			fmt.Fprintf(b, "# TYPE %s gauge\n", plain)
		}
		fmt.Fprintf(b, "%s %v\n", name, figures[name])
	}
}

func family(b *bytes.Buffer, name, kind, about string) {
	fmt.Fprintf(b, "# HELP %s %s.\n# TYPE %s %s\n", name, about, name, kind)
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func sample(b *bytes.Buffer, name string, labels []string, v float64) {
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sign := ","
		if i == 0 {
			sign = "{"
		}
		fmt.Fprintf(b, `%s%s="%s"`, sign, labels[i], escape.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	fmt.Fprintf(b, " %v\n", v)
}
