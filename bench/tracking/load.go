package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	"syscall"
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

// miss notes that a server has no figure for a load.
func (r *results) miss(load string, err error) {
	log.Printf("%-12s %-55s            – %.150v", r.name, load, err)
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
	header := http.Header{}
	if body != nil {
		header.Set("Content-Type", "application/json")
	}
	return c.sendAs(method, path, body, header)
}

// sendAs sends a request with headers; once more if the server has closed the
// connection that was idle, as some do after some seconds.
func (c *client) sendAs(method, path string, body []byte, header http.Header) ([]byte, error) {
	b, err := c.once(method, path, body, header)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		b, err = c.once(method, path, body, header)
	}
	return b, err
}

func (c *client) once(method, path string, body []byte, header http.Header) ([]byte, error) {
	req, err := http.NewRequest(method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
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

// errLate says that a server was not done within what it was given.
var errLate = errors.New("not in the time that it was given")

// late tells whether what began then will not be done in time, a part of it
// being done. It is asked from ten seconds on.
func late(begun time.Time, done float64, within time.Duration) bool {
	took := time.Since(begun)
	return took > within || took > 10*time.Second && took.Seconds() > 1.5*done*within.Seconds()
}

// fill creates runs with three metrics and a param each.
func (v *server) fill(experiment string, runs int, within time.Duration) error {
	var wait sync.WaitGroup
	errs := make([]error, 16)
	begun := time.Now()
	for w := range errs {
		wait.Go(func() {
			c := v.client()
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for n := w; n < runs && errs[w] == nil; n += len(errs) {
				if late(begun, float64(n)/float64(runs), within) {
					errs[w] = errLate
					return
				}
				var id string
				if id, errs[w] = c.createRun(experiment, n); errs[w] == nil {
					_, errs[w] = c.post("runs/log-batch", fmt.Sprintf(`{"run_id":%q,"metrics":[{"key":"k0","value":%v,"timestamp":1,"step":0},{"key":"k1","value":%v,"timestamp":1,"step":0},{"key":"k2","value":%v,"timestamp":1,"step":0}],"params":[{"key":"lr","value":"0.%d"}]}`,
						id, value(r), value(r), value(r), n%10))
				}
			}
		})
	}
	wait.Wait()
	return cmp.Or(errs...)
}

// history logs points of one metric to a new run.
func (v *server) history(experiment string, points int, within time.Duration) (run string, err error) {
	c, begun := v.client(), time.Now()
	if run, err = c.createRun(experiment, 0); err != nil {
		return "", err
	}
	for n := 0; n < points; n += 1000 {
		if late(begun, float64(n)/float64(points), within) {
			return "", errLate
		}
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

// program is what is put on each server.
type program struct {
	each    time.Duration // how long a load lasts
	within  time.Duration // how long a server may take to be filled for one measure
	runs    []int         // how many to search
	points  []int         // how long histories are
	charted int           // points in each of ten runs
	bytes   int64         // of the artefact
}

var whole = program{5 * time.Second, 3 * time.Minute, []int{2000, 100_000}, []int{100_000, 1_000_000}, 100_000, 1 << 30}

// quick is for a look while working on a server.
var quick = program{time.Second, 20 * time.Second, []int{2000}, []int{100_000}, 10_000, 100 << 20}

// measure runs the program against one server. What a server cannot do, or not
// in time, has no row.
func (p program) measure(ctx context.Context, s starter) (*results, error) {
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
	rates := func(load, unit string, size int, prepare func(c *client, n int) (func() error, error)) {
		for _, clients := range []int{1, 16} {
			rate, note, err := v.spread(clients, p.each, prepare)
			name := fmt.Sprintf("%s, %d clients", load, clients)
			if err != nil {
				res.miss(name, err)
				return
			}
			res.add(row{name, unit, rate * float64(size), note, false})
		}
	}

	rates("log-metric", "requests/s", 1, func(c *client, n int) (func() error, error) {
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
	for _, size := range []int{10, 100, 1000} {
		rates(fmt.Sprintf("log-batch of %d", size), "points/s", size, func(c *client, n int) (func() error, error) {
			run, err := c.createRun(experiment, n)
			b := newBatch(run, size, 10, uint64(n))
			return func() error {
				_, err := c.send("POST", api+"runs/log-batch", b.stamp())
				return err
			}, err
		})
	}
	rates("create a run", "requests/s", 1, func(c *client, n int) (func() error, error) {
		return func() error {
			_, err := c.createRun(experiment, n)
			return err
		}, nil
	})
	rates("get a run", "requests/s", 1, func(c *client, n int) (func() error, error) {
		run, err := c.createRun(experiment, n)
		if err == nil {
			_, err = c.send("POST", api+"runs/log-batch", newBatch(run, 10, 10, 1).stamp())
		}
		return func() error {
			_, err := c.send("GET", api+"runs/get?run_id="+run, nil)
			return err
		}, err
	})
	p.search(v, res, rates)
	p.histories(v, res, experiment)
	p.spans(v, rates, experiment)
	p.artefact(ctx, v, res)
	res.add(row{"memory, after all this", "MB", v.memory(), "", true})
	return res, nil
}

type rater = func(load, unit string, size int, prepare func(c *client, n int) (func() error, error))

func (p program) search(v *server, res *results, rates rater) {
	for _, size := range p.runs {
		load := fmt.Sprintf("search %d runs (metric filter and order, 100 rows)", size)
		searched, err := v.client().createExperiment(fmt.Sprintf("search-%d", size))
		if err == nil {
			err = v.fill(searched, size, p.within)
		}
		if err != nil {
			res.miss(load, err)
			return
		}
		body := fmt.Appendf(nil, `{"experiment_ids":[%q],"filter":"metrics.k0 > 0.5","order_by":["metrics.k1 DESC"],"max_results":100}`, searched)
		rates(load, "requests/s", 1, func(c *client, _ int) (func() error, error) {
			return func() error {
				_, err := c.send("POST", api+"runs/search", body)
				return err
			}, nil
		})
	}
}

// histories measures how long series of points are kept and read.
func (p program) histories(v *server, res *results, experiment string) {
	c := v.client()
	timed := func(load string, n int, path string) {
		ms, err := median(n, func() error {
			_, err := c.send("GET", api+path, nil)
			return err
		})
		if err != nil {
			res.miss(load, err)
			return
		}
		res.add(row{load, "ms", ms, "", true})
	}
	for i, points := range p.points {
		before := v.settled()
		run, err := v.history(experiment, points, p.within)
		if err != nil {
			res.miss(fmt.Sprintf("history of %d points", points), err)
			return
		}
		timed(fmt.Sprintf("history of %d points", points), 5, "metrics/get-history?run_id="+run+"&metric_key=loss")
		timed(fmt.Sprintf("320 of %d points for a chart", points), 5, "metrics/get-history-bulk-interval?run_ids="+run+"&metric_key=loss&max_results=320")
		if i == 0 && before > 0 {
			res.add(row{"bytes on disk for a point", "bytes", (v.settled() - before) / float64(points), "", true})
		}
	}
	load := fmt.Sprintf("chart of 10 runs, 320 of %d points each", p.charted)
	q := url.Values{"metric_key": {"loss"}, "max_results": {"320"}}
	for range 10 {
		run, err := v.history(experiment, p.charted, p.within/10)
		if err != nil {
			res.miss(load, err)
			return
		}
		q.Add("run_ids", run)
	}
	timed(load, 9, "metrics/get-history-bulk-interval?"+q.Encode())
}
