package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

// plainCaller sends the same request over one connection, as cheaply as can be:
// what is measured is the gateway.
type plainCaller struct {
	c net.Conn
	r *bufio.Reader
	q []byte
}

func newPlainCaller(t testing.TB, address, path, body string) *plainCaller {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	q := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, testKey, len(body), body)
	return &plainCaller{c: c, r: bufio.NewReader(c), q: []byte(q)}
}

func (p *plainCaller) call() error {
	if _, err := p.c.Write(p.q); err != nil {
		return err
	}
	length := 0
	for first := true; ; first = false {
		line, err := p.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(string(line), "HTTP/1.1 200") {
			return fmt.Errorf("%s", line)
		}
		if n, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			fmt.Sscan(n, &length)
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := p.r.Discard(length)
	return err
}

func benchmark(b *testing.B, address, path string, callers int) {
	took := make([][]time.Duration, callers)
	var all sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for n := range callers {
		p := newPlainCaller(b, address, path, `{"input_data": [[5.1, 3.5, 1.4, 0.2]]}`)
		defer p.c.Close()
		all.Go(func() {
			for range b.N / callers {
				start := time.Now()
				if err := p.call(); err != nil {
					b.Error(err)
					return
				}
				took[n] = append(took[n], time.Since(start))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	sorted := slices.Concat(took...)
	slices.Sort(sorted)
	if len(sorted) > 0 {
		b.ReportMetric(float64(sorted[len(sorted)/2])/1e3, "p50-µs")
		b.ReportMetric(float64(sorted[len(sorted)*99/100])/1e3, "p99-µs")
	}
}

// fixed is an instance that answers at once, without the goroutines of the
// tests' one.
func fixed(b *testing.B) *process {
	p := startProcess(b, nil)
	return p
}

func BenchmarkFrames(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			h := open(b)
			h.apply(endpointOf(deploymentOf("blue", 32, fixed(b), fixed(b))))
			benchmark(b, h.srv.Listener.Addr().String(), "/endpoints/e/score", callers)
		})
	}
}

func BenchmarkProgram(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go fixedProgram(l)
			h := open(b)
			d := deploymentOf("blue", 64)
			d.Runtime, d.Capacity, d.Instances = serving.Program, 1, []serving.Instance{{ID: "i", Network: "tcp", Address: l.Addr().String()}}
			h.apply(endpointOf(d))
			b.Run("through", func(b *testing.B) {
				benchmark(b, h.srv.Listener.Addr().String(), "/endpoints/e/score", callers)
			})
			b.Run("direct", func(b *testing.B) { benchmark(b, l.Addr().String(), "/score", callers) })
		})
	}
}

// fixedProgram answers every request the same, without parsing more than it must.
func fixedProgram(l net.Listener) {
	const reply = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n[1, 2, 3, 45]"
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				q, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.Copy(io.Discard, q.Body)
				if _, err := io.WriteString(c, reply); err != nil {
					return
				}
			}
		}()
	}
}

// serveFixed answers frames on one goroutine.
func serveFixed(c net.Conn) {
	r := frame.NewReader(c, 0)
	b, _ := frame.AppendReply(nil, frame.KindReply, *answer(200, "[1, 2, 3, 45]", "Content-Type", "application/json", "X-Ms-Run-Fn-Exec-Ms", "0.1"))
	for {
		if _, _, err := r.Next(); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
