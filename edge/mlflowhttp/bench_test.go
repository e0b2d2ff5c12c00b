package mlflowhttp_test

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// load sends n requests from some clients and reports how many went through.
func load(b *testing.B, clients, each int, unit string, request func(client, i int) (method, url, body string)) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	hc := &http.Client{Transport: transport}
	work := make(chan int)
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for i := range work {
				method, url, body := request(k, i)
				r, err := http.NewRequest(method, url, strings.NewReader(body))
				if err != nil {
					b.Error(err)
					continue
				}
				r.Header.Set("Content-Type", "application/json")
				reply, err := hc.Do(r)
				if err != nil {
					b.Error(err)
					continue
				}
				if _, err := io.Copy(io.Discard, reply.Body); err != nil || reply.StatusCode != 200 {
					b.Errorf("%d %v", reply.StatusCode, err)
				}
				reply.Body.Close()
			}
		})
	}
	b.ResetTimer()
	for i := range b.N {
		work <- i
	}
	close(work)
	wg.Wait()
	b.ReportMetric(float64(b.N*each)/b.Elapsed().Seconds(), unit)
}

func BenchmarkMLflow(b *testing.B) {
	url, runs := serve(b)
	c := &client{b, url}
	var ids []string
	for range 16 {
		ids = append(ids, c.newRun(`{"experiment_id":"0"}`))
	}
	var points strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&points, `,{"key":"metric_%d","value":%g,"timestamp":%d,"step":%d}`, i%10, 1/float64(i+1), 1700000000000+i, i/10)
	}
	batches := make([]string, 16)
	for k := range batches {
		batches[k] = `{"run_id":"` + ids[k] + `","metrics":[` + points.String()[1:] + `]}`
	}
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("log-metric/clients=%d", clients), func(b *testing.B) {
			load(b, clients, 1, "req/s", func(k, i int) (string, string, string) {
				return "POST", url + api + "runs/log-metric", fmt.Sprintf(`{"run_id":%q,"key":"m","value":%d,"timestamp":%d,"step":%d}`, ids[k], i, i, i)
			})
		})
		b.Run(fmt.Sprintf("log-batch-1000/clients=%d", clients), func(b *testing.B) {
			load(b, clients, 1000, "points/s", func(k, _ int) (string, string, string) {
				return "POST", url + api + "runs/log-batch", batches[k]
			})
		})
	}
	if err := runs.FoldAll(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSearch(b *testing.B) {
	url, _ := serve(b)
	c := &client{b, url}
	for _, n := range []int{2_000, 100_000} {
		if n > 2_000 && testing.Short() {
			b.Skip("many runs take a minute to make")
		}
		e := at(c.post("experiments/create", fmt.Sprintf(`{"name":"search-%d"}`, n)), "experiment_id").(string)
		var wg sync.WaitGroup
		per := n / 16
		for k := range 16 {
			wg.Go(func() {
				for i := range per {
					run := c.newRun(fmt.Sprintf(`{"experiment_id":%q,"start_time":%d,"tags":[{"key":"a","value":"b"},{"key":"mlflow.user","value":"me"}]}`, e, k*per+i))
					c.post("runs/log-batch", fmt.Sprintf(`{"run_id":%q,"metrics":[{"key":"k0","value":%g,"timestamp":1},{"key":"k1","value":1,"timestamp":1},{"key":"k2","value":2,"timestamp":1}],"params":[{"key":"p0","value":"a"},{"key":"p1","value":"b"}]}`,
						run, float64((i*7919)%per)/float64(per)))
				}
			})
		}
		wg.Wait()
		body := fmt.Sprintf(`{"experiment_ids":[%q],"filter":"metrics.k0 > 0.5","order_by":["metrics.k0 DESC"],"max_results":100}`, e)
		for _, clients := range []int{1, 4} {
			b.Run(fmt.Sprintf("search-%d/clients=%d", n, clients), func(b *testing.B) {
				load(b, clients, 1, "req/s", func(int, int) (string, string, string) { return "POST", url + api + "runs/search", body })
			})
		}
	}
}

func BenchmarkHistory(b *testing.B) {
	url, runs := serve(b)
	c := &client{b, url}
	long := func(n int) string {
		run := c.newRun(`{"experiment_id":"0"}`)
		r := rand.New(rand.NewPCG(uint64(n), 3))
		for from := 0; from < n; from += 1000 {
			var points strings.Builder
			for i := range 1000 {
				v := r.Float64()
				if i%10 > 0 {
					v = math.Round(v*1e4) / 1e4
				}
				fmt.Fprintf(&points, `,{"key":"loss","value":%v,"timestamp":%d,"step":%d}`, v, 1_700_000_000_000+int64(from+i)*50, from+i)
			}
			c.post("runs/log-batch", `{"run_id":"`+run+`","metrics":[`+points.String()[1:]+`]}`)
		}
		return run
	}
	for _, n := range []int{100_000, 1_000_000} {
		if n > 100_000 && testing.Short() {
			b.Skip("a million points take a while to log")
		}
		run := long(n)
		if err := runs.FoldAll(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("history-%d", n), func(b *testing.B) {
			load(b, 1, n, "points/s", func(int, int) (string, string, string) {
				return "GET", url + api + "metrics/get-history?run_id=" + run + "&metric_key=loss", ""
			})
		})
	}
	var ids []string
	for range 10 {
		ids = append(ids, long(100_000))
	}
	if err := runs.FoldAll(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run("chart of 10 runs, 320 of 100,000 points each", func(b *testing.B) {
		load(b, 1, 1, "req/s", func(int, int) (string, string, string) {
			return "GET", url + api + "metrics/get-history-bulk-interval?metric_key=loss&max_results=320&run_ids=" + strings.Join(ids, "&run_ids="), ""
		})
	})
	b.Run("thinned chart of 10 runs", func(b *testing.B) {
		load(b, 1, 1, "req/s", func(int, int) (string, string, string) {
			return "GET", url + "/api/lapis/metrics/chart?key=loss&buckets=320&run_id=" + strings.Join(ids, "&run_id="), ""
		})
	})
}
