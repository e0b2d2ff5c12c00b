package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// figure prints one line that stays as it is, for whoever compares figures.
func figure(name, format string, args ...any) {
	fmt.Printf("figure: %-24s %s\n", name, fmt.Sprintf(format, args...))
}

// bench is a server under load, as clients over the network have it.
type bench struct {
	b     *testing.B
	s     *instance
	token string
	http  *http.Client
	space string
}

func newBench(b *testing.B, args ...string) *bench {
	s := start(b, b.TempDir(), args...)
	n := &bench{b: b, s: s, token: clientToken(b, s), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	w := s.who(b)
	n.space = w.group() + "/providers/Microsoft.MachineLearningServices/workspaces/" + w.Workspace
	return n
}

// who is the identity that the server has given itself.
func (s *instance) who(t testing.TB) who {
	t.Helper()
	w, err := (&folder{dir: s.dir}).loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// do makes one request of the workspace and returns its answer.
func (n *bench) do(method, path, body string) (int, []byte, error) {
	req, err := http.NewRequest(method, n.s.info.Plain+n.space+path+"?api-version=2024-10-01", strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+n.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, err = io.Copy(&text, resp.Body)
	return resp.StatusCode, text.Bytes(), err
}

func (n *bench) must(method, path, body string) []byte {
	n.b.Helper()
	status, text, err := n.do(method, path, body)
	if err != nil || status >= 300 {
		n.b.Fatalf("%s %s: %d %s %v", method, path, status, text, err)
	}
	return text
}

// clients is how many of them there are at once.
const clients = 16

// load has all clients make requests, and tells how many a second were answered
// and how long they took.
func (n *bench) load(name string, target float64, one func(i int64) error) {
	var next atomic.Int64
	var mu sync.Mutex
	var took []time.Duration
	n.b.SetParallelism(clients / runtime.GOMAXPROCS(0))
	began := time.Now()
	before, _ := n.s.cpu(n.b)
	n.b.ResetTimer()
	n.b.RunParallel(func(pb *testing.PB) {
		var mine []time.Duration
		for pb.Next() {
			t := time.Now()
			if err := one(next.Add(1)); err != nil {
				n.b.Error(err)
				return
			}
			mine = append(mine, time.Since(t))
		}
		mu.Lock()
		took = append(took, mine...)
		mu.Unlock()
	})
	rate := float64(n.b.N) / time.Since(began).Seconds()
	after, _ := n.s.cpu(n.b)
	slices.Sort(took)
	n.b.ReportMetric(rate, "req/s")
	if n.b.N > 1000 {
		figure(name, "%.0f/s with %d clients, p50 %.1f ms, p99 %.1f ms, %.2f ms of the server's CPU each (target %.0f/s)",
			rate, clients, ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(after-before)/float64(n.b.N), target)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const benchData = `{"properties":{"dataType":"uri_file","dataUri":"https://example.org/data.csv","description":"a table","tags":{"team":"blue"},"properties":{}}}`

func BenchmarkARMGet(b *testing.B) {
	n := newBench(b)
	n.must("PUT", "/data/table/versions/1", benchData)
	n.load("arm get", 3000, func(int64) error {
		status, text, err := n.do("GET", "/data/table/versions/1", "")
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
}

func BenchmarkARMGetJob(b *testing.B) {
	n := newBench(b, "--slots", "1")
	n.environment()
	n.must("PUT", "/jobs/j", n.job("true"))
	n.load("arm get job", 3000, func(int64) error {
		status, text, err := n.do("GET", "/jobs/j", "")
		if err == nil && status != 200 {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
}

func BenchmarkARMPut(b *testing.B) {
	n := newBench(b)
	n.load("arm put, durable", 2000, func(i int64) error {
		status, text, err := n.do("PUT", fmt.Sprintf("/data/d%d/versions/%d", i%100, i), benchData)
		if err == nil && status != 201 && status != 200 {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
}

// environment makes the environment whose name is all that a job says: the
// nearest Python without packages.
func (n *bench) environment() {
	n.must("PUT", "/environments/plain/versions/1", `{"properties":{"image":"python:3"}}`)
}

func (n *bench) job(command string) string {
	quoted, err := json.Marshal(command)
	if err != nil {
		n.b.Fatal(err)
	}
	return fmt.Sprintf(`{"properties":{"jobType":"Command","command":%s,"environmentId":"%s/environments/plain/versions/1","experimentName":"bench"}}`, quoted, n.space)
}

func (n *bench) status(job string) (status string, reply map[string]any) {
	var doc struct{ Properties map[string]any }
	if err := json.Unmarshal(n.must("GET", "/jobs/"+job, ""), &doc); err != nil {
		n.b.Fatal(err)
	}
	status, _ = doc.Properties["status"].(string)
	return status, doc.Properties
}

// end waits until the job has ended.
func (n *bench) end(job string) {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		switch status, reply := n.status(job); status {
		case "Completed":
			return
		case "Failed", "Canceled":
			n.b.Fatalf("job %s: %v", job, reply)
		}
		if time.Now().After(deadline) {
			n.b.Fatalf("job %s does not end", job)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// BenchmarkSubmit tells how long it takes from the receipt of a job to the
// start of its process, when its environment is there: the process itself
// writes down when it started.
func BenchmarkSubmit(b *testing.B) {
	n := newBench(b)
	n.environment()
	n.must("PUT", "/jobs/warm", n.job("true"))
	n.end("warm")
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		stamp := fmt.Sprintf("%s/started%d", b.TempDir(), i)
		name := fmt.Sprint("s", i)
		began := time.Now()
		n.must("PUT", "/jobs/"+name, n.job("date +%s.%N >"+stamp))
		n.end(name)
		text, err := os.ReadFile(stamp)
		if err != nil {
			b.Fatal(err)
		}
		var sec, nsec int64
		if _, err := fmt.Sscanf(string(text), "%d.%09d", &sec, &nsec); err != nil {
			b.Fatalf("%q: %v", text, err)
		}
		took = append(took, time.Unix(sec, nsec).Sub(began))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	b.ReportMetric(ms(p50), "p50-ms")
	b.ReportMetric(ms(p99), "p99-ms")
	if len(took) > 20 {
		figure("submit to start", "p50 %.0f ms, p99 %.0f ms of %d (target 100 and 500 ms)", ms(p50), ms(p99), len(took))
	}
}

// BenchmarkQueue puts a thousand jobs that do nothing to four slots and tells
// how many a second come to their end, logs and states kept.
func BenchmarkQueue(b *testing.B) {
	const jobs = 1000
	for b.Loop() {
		n := newBench(b, "--slots", "4")
		n.environment()
		n.must("PUT", "/jobs/warm", n.job("true"))
		n.end("warm")
		began := time.Now()
		ownBefore, childrenBefore := n.s.cpu(b)
		var group sync.WaitGroup
		for c := range clients {
			group.Go(func() {
				for i := c; i < jobs; i += clients {
					if status, text, err := n.do("PUT", fmt.Sprint("/jobs/q", i), n.job(fmt.Sprint("echo job ", i))); err != nil || status != 201 {
						b.Errorf("%d %s %v", status, text, err)
					}
				}
			})
		}
		group.Wait()
		queued := time.Since(began)
		for i := jobs - 1; i >= 0; i-- { // the last first, so that few questions are asked
			n.end(fmt.Sprint("q", i))
		}
		total := time.Since(began)
		own, children := n.s.cpu(b)
		for i := range jobs {
			if _, reply := n.status(fmt.Sprint("q", i)); reply["status"] != "Completed" {
				b.Fatal(reply)
			}
		}
		rate := float64(jobs) / total.Seconds()
		b.ReportMetric(rate, "jobs/s")
		figure("queue of 1000", "%.1f jobs/s on 4 slots, all submitted after %.1f s; a job costs the server %.1f ms and its own processes %.1f ms of CPU (target 30 jobs/s)",
			rate, queued.Seconds(), ms(own-ownBefore)/jobs, ms(children-childrenBefore)/jobs)
	}
}

// cpu is the processor time that the server, and those of its processes that
// have ended, have used.
func (s *instance) cpu(t testing.TB) (own, children time.Duration) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := func(i int) time.Duration {
		n, err := strconv.ParseInt(fields[i-3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(n) * 10 * time.Millisecond
	}
	return ticks(14) + ticks(15), ticks(16) + ticks(17)
}
