package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"
)

// row is one measure of a server.
type row struct {
	load, unit string
	value      float64
	note       string
	less       bool // the smaller the better
}

func (r row) String() string {
	digits := 0
	if r.value < 10 {
		digits = 2
	} else if r.value < 100 {
		digits = 1
	}
	text := strconv.FormatFloat(r.value, 'f', digits, 64)
	if digits == 0 {
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
	}
	if r.note != "" {
		text += " (" + r.note + ")"
	}
	return text
}

type results struct {
	name string
	rows []row
}

func (r *results) find(load string) (row, bool) {
	for _, x := range r.rows {
		if x.load == load {
			return x, true
		}
	}
	return row{}, false
}

func (r *results) add(x row) {
	log.Printf("%-12s %-55s %12s %s", r.name, x.load, x, x.unit)
	r.rows = append(r.rows, x)
}

// client is one connection.
type client struct {
	http  *http.Client
	url   string
	token string
}

func (v *server) client() *client {
	return &client{&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}, Timeout: 10 * time.Minute}, v.url, v.token}
}

// send makes a request and returns the answer's body.
func (c *client) send(method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	r, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, r.Status, b)
	}
	return b, err
}

const api = "/api/2.0/mlflow/"

func (c *client) post(path, body string) ([]byte, error) {
	return c.send("POST", api+path, []byte(body))
}

func (c *client) createRun(experiment string, n int) (string, error) {
	b, err := c.post("runs/create", fmt.Sprintf(`{"experiment_id":%q,"start_time":%d,"run_name":"run-%d","tags":[{"key":"mlflow.user","value":"ann"}]}`,
		experiment, 1_700_000_000_000+n, n))
	if err != nil {
		return "", err
	}
	var reply struct {
		Run struct {
			Info struct {
				ID string `json:"run_id"`
			} `json:"info"`
		} `json:"run"`
	}
	err = json.Unmarshal(b, &reply)
	return reply.Run.Info.ID, err
}

func (c *client) createExperiment(name string) (string, error) {
	b, err := c.post("experiments/create", fmt.Sprintf(`{"name":%q}`, name))
	var reply struct {
		ID string `json:"experiment_id"`
	}
	if err == nil {
		err = json.Unmarshal(b, &reply)
	}
	return reply.ID, err
}

// batch is a body whose points get new time stamps before each request.
type batch struct {
	body  []byte
	times []int // where the digits of the time stamps are
	next  int64
}

// value is one of the series that benchmarks log: nine of ten values have four
// digits, the tenth is any double.
func value(r *rand.Rand) float64 {
	v := r.Float64()
	if r.IntN(10) > 0 {
		v = math.Round(v*1e4) / 1e4
	}
	return v
}

// newBatch has n points of ten keys (of one key for a history).
func newBatch(run string, n, keys int, seed uint64) *batch {
	r := rand.New(rand.NewPCG(seed, 7))
	b := &batch{next: 1_700_000_000_000}
	b.body = fmt.Appendf(nil, `{"run_id":%q,"metrics":[`, run)
	for i := range n {
		if i > 0 {
			b.body = append(b.body, ',')
		}
		b.body = fmt.Appendf(b.body, `{"key":"k%d","value":%v,"timestamp":`, i%keys, value(r))
		b.times = append(b.times, len(b.body))
		b.body = fmt.Appendf(b.body, `%d,"step":%d}`, b.next, i)
	}
	b.body = append(b.body, "]}"...)
	return b
}

// stamp gives every point a time that none had before.
func (b *batch) stamp() []byte {
	b.next++
	var text [13]byte
	digits := strconv.AppendInt(text[:0], b.next, 10)
	for _, at := range b.times {
		copy(b.body[at:], digits)
	}
	return b.body
}

// spread runs work on some clients at once for a while and returns how often it
// was done a second, and the 50th and 99th percentile of how long it took.
func (v *server) spread(clients int, each time.Duration, prepare func(c *client, n int) (func() error, error)) (rate float64, note string, err error) {
	works := make([]func() error, clients)
	for i := range works {
		if works[i], err = prepare(v.client(), i); err != nil {
			return 0, "", err
		}
		if err := works[i](); err != nil { // connects
			return 0, "", err
		}
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	var took []time.Duration
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), each)
	defer cancel()
	for _, work := range works {
		wait.Go(func() {
			var mine []time.Duration
			for ctx.Err() == nil {
				start := time.Now()
				if e := work(); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	wait.Wait()
	all := time.Since(begun)
	if err != nil {
		return 0, "", err
	}
	slices.Sort(took)
	ms := func(p float64) float64 { return float64(took[int(p*float64(len(took)-1))].Microseconds()) / 1000 }
	return float64(len(took)) / all.Seconds(), fmt.Sprintf("p50 %.3g, p99 %.3g ms", ms(.5), ms(.99)), nil
}

// median is the middle of how long some calls took, in ms.
func median(n int, work func() error) (float64, error) {
	var took []float64
	for range n {
		start := time.Now()
		if err := work(); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// fill creates runs with three metrics and a param each.
func (v *server) fill(experiment string, runs int) error {
	var wait sync.WaitGroup
	errs := make([]error, 16)
	for w := range errs {
		wait.Go(func() {
			c := v.client()
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for n := w; n < runs && errs[w] == nil; n += len(errs) {
				var id string
				if id, errs[w] = c.createRun(experiment, n); errs[w] == nil {
					_, errs[w] = c.post("runs/log-batch", fmt.Sprintf(`{"run_id":%q,"metrics":[{"key":"k0","value":%v,"timestamp":1,"step":0},{"key":"k1","value":%v,"timestamp":1,"step":0},{"key":"k2","value":%v,"timestamp":1,"step":0}],"params":[{"key":"lr","value":"0.%d"}]}`,
						id, value(r), value(r), value(r), n%10))
				}
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// history logs points of one metric to a new run.
func (v *server) history(experiment string, points int) (run string, err error) {
	c := v.client()
	if run, err = c.createRun(experiment, 0); err != nil {
		return "", err
	}
	for n := 0; n < points; n += 1000 {
		b := fmt.Appendf(nil, `{"run_id":%q,"metrics":[`, run)
		r := rand.New(rand.NewPCG(uint64(n), 3))
		for i := range 1000 {
			if i > 0 {
				b = append(b, ',')
			}
			b = fmt.Appendf(b, `{"key":"loss","value":%v,"timestamp":%d,"step":%d}`, value(r), 1_700_000_000_000+int64(n+i)*50, n+i)
		}
		if _, err = c.send("POST", api+"runs/log-batch", append(b, "]}"...)); err != nil {
			return "", err
		}
	}
	return run, nil
}

// measure runs the whole program against one server.
func measure(ctx context.Context, s starter, each time.Duration, large bool) (*results, error) {
	res := &results{name: s.name}
	v, err := s.run(ctx)
	if err != nil {
		return nil, err
	}
	defer v.stop()
	res.add(row{"start until the first answer", "s", v.took.Seconds(), "", true})
	time.Sleep(3 * time.Second)
	res.add(row{"memory, idle", "MB", v.memory(), "", true})
	c := v.client()
	experiment, err := c.createExperiment("bench")
	if err != nil {
		return nil, err
	}

	for _, clients := range []int{1, 16} {
		rate, note, err := v.spread(clients, each, func(c *client, n int) (func() error, error) {
			run, err := c.createRun(experiment, n)
			b := fmt.Appendf(nil, `{"run_id":%q,"key":"loss","value":0.5,"step":1,"timestamp":`, run)
			at, t := len(b), int64(1_700_000_000_000)
			return func() error {
				t++
				body := append(strconv.AppendInt(b[:at], t, 10), '}')
				_, err := c.send("POST", api+"runs/log-metric", body)
				return err
			}, err
		})
		if err != nil {
			return nil, err
		}
		res.add(row{fmt.Sprintf("log-metric, %d clients", clients), "requests/s", rate, note, false})
	}
	for _, size := range []int{10, 100, 1000} {
		for _, clients := range []int{1, 16} {
			rate, note, err := v.spread(clients, each, func(c *client, n int) (func() error, error) {
				run, err := c.createRun(experiment, n)
				b := newBatch(run, size, 10, uint64(n))
				return func() error {
					_, err := c.send("POST", api+"runs/log-batch", b.stamp())
					return err
				}, err
			})
			if err != nil {
				return nil, err
			}
			res.add(row{fmt.Sprintf("log-batch of %d, %d clients", size, clients), "points/s", rate * float64(size), note, false})
		}
	}
	for _, clients := range []int{1, 16} {
		rate, note, err := v.spread(clients, each, func(c *client, n int) (func() error, error) {
			return func() error {
				_, err := c.createRun(experiment, n)
				return err
			}, nil
		})
		if err != nil {
			return nil, err
		}
		res.add(row{fmt.Sprintf("create a run, %d clients", clients), "requests/s", rate, note, false})
		rate, note, err = v.spread(clients, each, func(c *client, n int) (func() error, error) {
			run, err := c.createRun(experiment, n)
			if err == nil {
				_, err = c.send("POST", api+"runs/log-batch", newBatch(run, 10, 10, 1).stamp())
			}
			return func() error {
				_, err := c.send("GET", api+"runs/get?run_id="+run, nil)
				return err
			}, err
		})
		if err != nil {
			return nil, err
		}
		res.add(row{fmt.Sprintf("get a run, %d clients", clients), "requests/s", rate, note, false})
	}
	sizes := []int{2000}
	if large {
		sizes = append(sizes, 100_000)
	}
	for _, size := range sizes {
		searched, err := c.createExperiment(fmt.Sprintf("search-%d", size))
		if err != nil {
			return nil, err
		}
		if err := v.fill(searched, size); err != nil {
			return nil, err
		}
		body := fmt.Appendf(nil, `{"experiment_ids":[%q],"filter":"metrics.k0 > 0.5","order_by":["metrics.k1 DESC"],"max_results":100}`, searched)
		for _, clients := range []int{1, 16} {
			rate, note, err := v.spread(clients, each, func(c *client, _ int) (func() error, error) {
				return func() error {
					_, err := c.send("POST", api+"runs/search", body)
					return err
				}, nil
			})
			if err != nil {
				return nil, err
			}
			res.add(row{fmt.Sprintf("search %d runs (metric filter and order, 100 rows), %d clients", size, clients), "requests/s", rate, note, false})
		}
	}
	lengths := []int{100_000}
	if large {
		lengths = append(lengths, 1_000_000)
	}
	for _, points := range lengths {
		run, err := v.history(experiment, points)
		if err != nil {
			return nil, err
		}
		ms, err := median(5, func() error {
			_, err := c.send("GET", api+"metrics/get-history?run_id="+run+"&metric_key=loss", nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		res.add(row{fmt.Sprintf("history of %d points", points), "ms", ms, "", true})
		ms, err = median(5, func() error {
			_, err := c.send("GET", api+"metrics/get-history-bulk-interval?run_ids="+run+"&metric_key=loss&max_results=320", nil)
			return err
		})
		if err == nil { // FastTrackML has no such call
			res.add(row{fmt.Sprintf("320 of %d points for a chart", points), "ms", ms, "", true})
		}
	}
	if large {
		q := url.Values{"metric_key": {"loss"}, "max_results": {"320"}}
		for range 10 {
			run, err := v.history(experiment, 100_000)
			if err != nil {
				return nil, err
			}
			q.Add("run_ids", run)
		}
		ms, err := median(9, func() error {
			_, err := c.send("GET", api+"metrics/get-history-bulk-interval?"+q.Encode(), nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		res.add(row{"chart of 10 runs, 320 of 100000 points each", "ms", ms, "", true})
	}
	res.add(row{"memory, after all this", "MB", v.memory(), "", true})
	return res, nil
}
