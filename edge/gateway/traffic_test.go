package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
)

func says(text string) work {
	return func(frame.Request, <-chan struct{}, write) *frame.Reply { return answer(200, text) }
}

func TestTrafficIsSplitByTheShares(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 1), deploymentOf("green", 1), deploymentOf("grey", 1))
	e.Traffic = map[string]int{"blue": 89, "green": 10, "grey": 1}
	h.apply(e)
	rt := h.g.table.Load().named["e"]
	const requests = 100_000
	got := map[string]int{}
	for range requests {
		got[rt.choose(http.Header{}).name]++
	}
	for name, percent := range e.Traffic {
		p := float64(percent) / 100
		sigma := math.Sqrt(p * (1 - p) / requests)
		if share := float64(got[name]) / requests; math.Abs(share-p) > 5*sigma {
			t.Errorf("%s: %.4f for %d %%", name, share, percent)
		}
	}
	// A value of the sticky header always meets the same deployment, and the
	// shares are kept over all values.
	e.Sticky = "X-User"
	h.apply(e)
	rt = h.g.table.Load().named["e"]
	got = map[string]int{}
	for n := range requests {
		header := http.Header{"X-User": {fmt.Sprintf("user-%d", n)}}
		d := rt.choose(header)
		if rt.choose(header) != d {
			t.Fatal("not sticky")
		}
		got[d.name]++
	}
	for name, percent := range e.Traffic {
		if share := float64(got[name]) / requests; math.Abs(share-float64(percent)/100) > 0.01 {
			t.Errorf("sticky %s: %.4f for %d %%", name, share, percent)
		}
	}
}

func TestCopiesGoToTheMirrorAndNeverToTheCaller(t *testing.T) {
	h := open(t)
	stuck := make(chan struct{})
	defer close(stuck)
	blue := startProcess(t, says("blue"))
	green := startProcess(t, func(_ frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
		select {
		case <-stuck:
		case <-gone:
		}
		return answer(500, "green")
	})
	e := endpointOf(deploymentOf("blue", 4, blue), deploymentOf("green", 4, green))
	e.Mirror = map[string]int{"green": 100}
	h.apply(e)
	const requests = copiesAtOnce + 200
	for range requests { // far more than the queue holds, and none of the copies ends
		if r := h.score("{}"); r.status != 200 || r.body != "blue" || r.header.Get("azureml-model-deployment") != "blue" {
			t.Fatalf("%+v", r)
		}
	}
	d := h.deployment("green")
	if n := d.stats.dropped.Load(); n == 0 {
		t.Error("the queue has no end")
	}
	before := green.handled.Load() + d.stats.mirrored.Load()
	if r := h.score("{}", "azureml-model-deployment", "blue"); r.status != 200 {
		t.Fatal(r)
	}
	if n := green.handled.Load() + d.stats.mirrored.Load(); n != before {
		t.Error("a request that named its deployment was copied")
	}
}

func TestAnswersOfCopiesAreCompared(t *testing.T) {
	h := open(t)
	blue := startProcess(t, func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply { return answer(200, string(q.Body)) })
	green := startProcess(t, func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
		switch string(q.Body) {
		case `{"p":[1,2]}`:
			return answer(200, `{"p":[1.0,2.0000001]}`)
		case `{"p":[3,4]}`:
			return answer(200, `{"p":[3,5]}`)
		}
		return answer(500, `{"message":"no"}`)
	})
	e := endpointOf(deploymentOf("blue", 2, blue), deploymentOf("green", 1, green))
	e.Mirror = map[string]int{"green": 100}
	h.apply(e)
	for _, body := range []string{`{"p":[1,2]}`, `{"p":[3,4]}`, `{"p":"x"}`} {
		h.score(body)
	}
	until(t, "all are compared", func() bool { return h.g.Compared("e", "green").Pairs == 3 })
	c := h.g.Compared("E", "green")
	if c.Live != "blue" || c.Shadow != "green" || c.Equal != 1 || c.Failures != [2]int64{0, 1} || len(c.Examples) != 2 ||
		c.Fields["$.p[1]"] != 1 || c.Fields["status"] != 1 || c.P50[0] <= 0 || c.P99[1] <= 0 {
		t.Errorf("%+v", c)
	}
	s := h.g.State().Endpoints[0].Deployments[1]
	if s.Mirrored != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWhatIsEqualInAnAnswer(t *testing.T) {
	for _, c := range []struct {
		live, shadow string
		path         string // of the first difference
	}{
		{`{"a":1,"b":[1,2]}`, `{ "b":[1,2.0000000001], "a":1 }`, ""},
		{`1e9`, `1000000100`, ""},
		{`1e9`, `1000010000`, "$"},
		{`[NaN,Infinity]`, `[NaN, Infinity]`, ""},
		{`[NaN]`, `[1]`, "$[0]"},
		{`{"a":{"b":null}}`, `{"a":{"b":0}}`, "$.a.b"},
		{`{"a":1}`, `{"a":1,"c":2}`, "$.c"},
		{`[1,2]`, `[1]`, "$"},
		{`["a"]`, `[{"x":1}]`, "$[0]"},
		{`no json`, `no json`, ""},
		{`no json`, `none`, "$"},
		{`true`, `"true"`, "$"},
	} {
		got := ""
		if d := differences(answerOf{status: 200, body: []byte(c.live)}, answerOf{status: 200, body: []byte(c.shadow)}); len(d) > 0 {
			got = d[0].Path
		}
		if got != c.path {
			t.Errorf("%s and %s: %q, and should be %q", c.live, c.shadow, got, c.path)
		}
	}
}

func TestARequestGoesElsewhereWhenAnInstanceDidNotTakeIt(t *testing.T) {
	h := open(t)
	one, two := startProcess(t, says("one")), startProcess(t, says("two"))
	h.apply(endpointOf(deploymentOf("blue", 4, one, two)))
	seen := map[string]int{}
	for range 40 {
		seen[h.score("{}").body]++
	}
	if seen["one"] == 0 || seen["two"] == 0 {
		t.Errorf("%v", seen)
	}
	one.die()
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 25 {
				if r := h.score("{}"); r.status != 200 || r.body != "two" {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	callers.Wait()
	one.listen(t, says("one"))
	until(t, "it is back", func() bool { return h.score("{}").body == "one" })
}

func TestALoneInstanceThatIsAwayIsWaitedFor(t *testing.T) {
	h := open(t)
	p := startProcess(t, says("ok"))
	h.apply(endpointOf(deploymentOf("blue", 4, p)))
	h.score("{}")
	p.die()
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			if r := h.score("{}"); r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	until(t, "they wait", func() bool { _, waiting := h.deployment("blue").counts(); return waiting == 4 })
	p.listen(t, says("ok"))
	callers.Wait()
}

func TestAnInstanceThatStaysAwayIsToldFromASlowOne(t *testing.T) {
	for kind, want := range map[string]int{"Managed": 424, "K8S": 503} {
		h := open(t)
		p := startProcess(t, says("ok"))
		p.die()
		d := deploymentOf("blue", 4, p)
		d.Timeout = 100 * time.Millisecond
		e := endpointOf(d)
		e.Kind = kind
		h.apply(e)
		if r := h.score("{}"); r.status != want || r.reason() != "instance_unreachable" {
			t.Errorf("%+v", r)
		}
	}
}

func TestAnInstanceThatFailsIsLeftOutForAWhile(t *testing.T) {
	for how, fail := range map[string]func(gone <-chan struct{}) *frame.Reply{
		"it answers 500": func(<-chan struct{}) *frame.Reply { return answer(500, "bad") },
		"it never answers": func(gone <-chan struct{}) *frame.Reply {
			<-gone
			return nil
		},
	} {
		h := open(t)
		var sick atomic.Bool
		sick.Store(true)
		bad := startProcess(t, func(_ frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
			if sick.Load() {
				return fail(gone)
			}
			return answer(200, "better")
		})
		d := deploymentOf("blue", 1, bad, startProcess(t, says("good")), startProcess(t, says("good")))
		d.Timeout = 300 * time.Millisecond
		h.apply(endpointOf(d))
		until(t, "it is ejected: "+how, func() bool {
			h.score("{}")
			for _, e := range h.g.events.list {
				if e.Kind == serving.EventEject {
					return true
				}
			}
			return false
		})
		if e := h.events()[0]; e.Instance != bad.ID || e.Reason == "" {
			t.Errorf("%s: %+v", how, e)
		}
		sick.Store(false)
		until(t, "it is back", func() bool { return h.score("{}").body == "better" })
	}
}

func TestRequestsThatFailEverywhereCostNoInstance(t *testing.T) {
	h := open(t)
	picky := func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
		if string(q.Body) == "bad" {
			return answer(500, "no")
		}
		return answer(200, "yes")
	}
	h.apply(endpointOf(deploymentOf("blue", 1, startProcess(t, picky), startProcess(t, picky), startProcess(t, picky))))
	for n := range 400 {
		body := "bad"
		if n%10 == 0 {
			body = "good"
		}
		h.score(body)
	}
	for _, e := range h.g.events.list {
		if e.Kind == serving.EventEject {
			t.Fatalf("callers whose requests fail took an instance from the others: %+v", e)
		}
	}
}

func TestIfMostFailNoneIsLeftOut(t *testing.T) {
	h := open(t)
	one, two := startProcess(t, says("x")), startProcess(t, says("x"))
	h.apply(endpointOf(deploymentOf("blue", 1, one, two)))
	d := h.deployment("blue")
	for n := range 2 {
		d.instances[n].ejected = true
	}
	if r := h.score("{}"); r.status != 200 {
		t.Errorf("%+v", r)
	}
}

func TestRequestsAreHandedToNewInstancesWithoutAFailure(t *testing.T) {
	h := open(t)
	current := startProcess(t, says("1"))
	h.apply(endpointOf(deploymentOf("blue", 4, current)))
	ctx, stop := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	var sent atomic.Int64
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				if r := h.score("{}"); r.status != 200 {
					t.Errorf("%+v", r)
					return
				}
				sent.Add(1)
			}
		})
	}
	for n := range 20 {
		next := startProcess(t, says(fmt.Sprint(n)))
		at := sent.Load()
		until(t, "requests are sent", func() bool { return sent.Load() > at+10 })
		h.apply(endpointOf(deploymentOf("blue", 4, next)))
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		if err := h.g.Drained(wait, []string{current.ID}); err != nil {
			t.Fatal(err)
		}
		cancel()
		current.die()
		current = next
	}
	stop()
	callers.Wait()
}

func TestADeploymentThatIsTakenAwayFinishesItsWork(t *testing.T) {
	h := open(t)
	turn := make(chan struct{})
	p := startProcess(t, func(frame.Request, <-chan struct{}, write) *frame.Reply { <-turn; return answer(200, "ok") })
	h.apply(endpointOf(deploymentOf("blue", 1, p)))
	d := h.deployment("blue")
	var callers sync.WaitGroup
	for range 2 { // one runs, one waits
		callers.Go(func() {
			if r := h.score("{}"); r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	until(t, "both are in", func() bool { running, waiting := d.counts(); return running+waiting == 2 })
	h.apply(endpointOf())
	if r := h.score("{}"); r.status != 404 {
		t.Errorf("new ones: %+v", r)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	if err := h.g.Drained(short, []string{p.ID}); err == nil {
		t.Error("drained while it works")
	}
	cancel()
	close(turn)
	long, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := h.g.Drained(long, []string{p.ID}); err != nil {
		t.Error(err)
	}
	callers.Wait()
	until(t, "its connections are closed", func() bool { return p.open.Load() == 0 })
}

func TestPayloadsAreCollectedAndNoneIsLostAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	func() {
		h := &house{t: t}
		t.Run("requests", func(t *testing.T) {
			h = openIn(t, dir)
			d := deploymentOf("blue", 4, startProcess(t, func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
				return answer(200, string(q.Body)+"\xff", "Content-Type", "application/octet-stream")
			}))
			d.Collect = &serving.Collect{Request: true, Response: true, Rate: 1, Headers: []string{"X-Team", "Authorization"}}
			h.apply(endpointOf(d))
			for n := range 50 {
				h.score(fmt.Sprintf("{\n\"n\": %d}", n), "X-Team", "a", "x-ms-client-request-id", fmt.Sprint(n))
			}
		}) // the gateway is closed here
	}()
	read := func(collection string) (all []map[string]any) {
		files, _ := filepath.Glob(filepath.Join(dir, serving.SpoolFolder, "e", "blue", collection, "*"))
		for _, f := range files {
			if !strings.HasSuffix(f, serving.SpoolEnding) {
				t.Errorf("left behind: %s", f)
			}
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				var e map[string]any
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				all = append(all, e)
			}
		}
		return all
	}
	requests, responses := read("request"), read("response")
	if len(requests) != 50 || len(responses) != 50 {
		t.Fatalf("%d and %d events", len(requests), len(responses))
	}
	e := requests[7]
	if e["specversion"] != "1.0" || e["type"] != "azureml.inference.request" || e["path"] != "/score" || e["method"] != "POST" || e["correlationid"] != "7" ||
		e["data"].(map[string]any)["n"] != 7.0 || e["source"] != "/subscriptions/s/onlineEndpoints/e/deployments/blue" || e["datacontenttype"] != "application/json" {
		t.Errorf("%v", e)
	}
	if h := e["headers"].(map[string]any); h["x-team"] != "a" || len(h) != 1 {
		t.Errorf("%v", h)
	}
	if responses[7]["xrequestid"] != e["xrequestid"] || responses[7]["data_base64"] == nil {
		t.Errorf("%v", responses[7])
	}
}

func TestCollectedEventsOfAKilledGatewayAreFinished(t *testing.T) {
	dir := t.TempDir()
	spool := filepath.Join(dir, serving.SpoolFolder, "e", "blue", "request")
	os.MkdirAll(spool, 0o700)
	os.WriteFile(filepath.Join(spool, "a.part"), []byte("{}\n{}\n{\"cut"), 0o600)
	os.WriteFile(filepath.Join(spool, "b.part"), []byte("{\"cut"), 0o600)
	openIn(t, dir)
	b, err := os.ReadFile(filepath.Join(spool, "a.jsonl"))
	if err != nil || string(b) != "{}\n{}\n" {
		t.Errorf("%q %v", b, err)
	}
	if left, _ := os.ReadDir(spool); len(left) != 1 {
		t.Errorf("%v", left)
	}
}

func TestASampleIsCollected(t *testing.T) {
	h := open(t)
	d := deploymentOf("blue", 4, startProcess(t, says("{}")))
	d.Collect = &serving.Collect{Request: true, Rate: 0.5}
	h.apply(endpointOf(d))
	const requests = 2000
	for range requests {
		h.score("{}")
	}
	state := func() serving.DeploymentState { return h.g.State().Endpoints[0].Deployments[0] }
	var n int64
	until(t, "they are written", func() bool {
		before := n
		n = state().Collected["request"]
		return n > 0 && n == before && len(h.g.collect.queue) == 0
	})
	if share := float64(n) / requests; math.Abs(share-0.5) > 0.06 { // over five sigma
		t.Errorf("%.3f", share)
	}
	if s := state(); s.Lost["request"] != 0 || s.Collected["response"] != 0 {
		t.Errorf("%+v", s)
	}
}

func TestARequestThatWaitedInVainIsNotCollected(t *testing.T) {
	h := open(t)
	release := make(chan struct{})
	d := deploymentOf("blue", 1, startProcess(t, func(_ frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
		select {
		case <-release:
		case <-gone:
		}
		return answer(200, "{}")
	}))
	d.QueueWait = 20 * time.Millisecond
	d.Collect = &serving.Collect{Request: true, Response: true, Rate: 1}
	h.apply(endpointOf(d))
	first := make(chan reply, 1)
	go func() { first <- h.score(`"first"`) }()
	until(t, "the first one is worked on", func() bool { running, _ := h.deployment("blue").counts(); return running == 1 })
	if r := h.score(`"in vain"`); r.status == 200 {
		t.Errorf("%+v", r)
	}
	close(release)
	if r := <-first; r.status != 200 {
		t.Errorf("%+v", r)
	}
	state := func() serving.DeploymentState { return h.g.State().Endpoints[0].Deployments[0] }
	until(t, "the answer is collected", func() bool { return state().Collected["response"] > 0 && len(h.g.collect.queue) == 0 })
	if s := state(); s.Collected["request"] != 1 || s.Collected["response"] != 1 {
		t.Errorf("%v", s.Collected)
	}
}

func TestTheControlSocketSpeaksForTheGateway(t *testing.T) {
	h := open(t)
	stopped := make(chan bool, 1)
	srv := httptest.NewUnstartedServer(h.g.Control(Info{Protocol: Protocol, PID: 7}, func() { stopped <- true }))
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	srv.Listener.Close()
	if srv.Listener, err = listenUnix(socket); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer srv.Close()
	c := NewClient(socket)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if i, err := c.Info(ctx); err != nil || i.PID != 7 {
		t.Errorf("%+v %v", i, err)
	}
	if _, idle := h.g.Idle(); !idle {
		t.Error("nobody is there")
	}
	watching, leave := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- c.Watch(watching) }()
	until(t, "the control plane is there", func() bool { _, idle := h.g.Idle(); return !idle })
	routes := serving.Routes{Version: 5, Endpoints: []serving.Endpoint{endpointOf(deploymentOf("blue", 1, startProcess(t, echo)))}}
	if err := c.Apply(ctx, routes); err != nil {
		t.Fatal(err)
	}
	if r := h.score("{}"); r.status != 200 {
		t.Errorf("%+v", r)
	}
	leave()
	<-watched
	old := serving.Routes{Version: 4}
	if err := c.Apply(ctx, old); err != nil {
		t.Fatal(err)
	}
	s, err := c.State(ctx)
	if err != nil || s.Version != 5 || len(s.Endpoints) != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	d := s.Endpoints[0].Deployments[0]
	if s.Endpoints[0].Connected != 1 || s.Endpoints[0].Connections != 1 || s.Endpoints[0].BytesIn != 2 || s.Endpoints[0].BytesOut == 0 ||
		len(d.Requests) != 1 || d.Requests[0] != (serving.RequestCount{Status: 200, Model: 200, Count: 1}) || d.Latency.Count != 1 || d.Busy <= 0 ||
		len(d.Instances) != 1 || d.Instances[0].Served != 1 {
		t.Errorf("%+v", s.Endpoints[0])
	}
	text, err := c.Metrics(ctx)
	for _, want := range []string{
		`lapis_online_requests_total{endpoint="e",deployment="blue",statusCode="200",statusCodeClass="2xx",modelStatusCode="200"} 1`,
		`lapis_online_request_latency_seconds_count{endpoint="e",deployment="blue"} 1`,
		`lapis_online_connections_active{endpoint="e"} 1`,
		`ConnectionsActive{endpoint="e"} 1`,
		`RequestsPerMinute{endpoint="e",deployment="blue",statusCode="200",statusCodeClass="2xx",modelStatusCode="200"} 1`,
	} {
		if err != nil || !strings.Contains(string(text), want+"\n") {
			t.Errorf("no %s in\n%s %v", want, text, err)
		}
	}
	for _, name := range []string{"NewConnectionsPerSecond", "NetworkBytes", "RequestLatency", "RequestLatency_P50", "RequestLatency_P90", "RequestLatency_P95", "RequestLatency_P99"} {
		if !strings.Contains(string(text), "\n# TYPE "+name+" gauge\n") {
			t.Errorf("no %s", name)
		}
	}
	h.deployment("blue").tell(&time.Time{}, serving.EventWake, "")
	if list, err := c.Events(ctx, 0); err != nil || len(list) != 1 || list[0].Number != 1 {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := c.Compared(ctx, "e", "blue"); err != nil {
		t.Error(err)
	}
	if err := c.Drained(ctx, []string{"nobody"}); err != nil {
		t.Error(err)
	}
	if err := c.Stop(ctx); err != nil || !<-stopped {
		t.Error(err)
	}
}

func TestEventsAreNumberedOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), eventsFile)
	last := int64(0)
	for range 3 {
		e, err := openEvents(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			e.add(serving.Event{Kind: serving.EventWake})
		}
		list := e.after(context.Background(), last)
		if len(list) != 3 || list[0].Number <= last {
			t.Fatalf("after %d: %+v", last, list)
		}
		last = list[2].Number
		if list := e.after(context.Background(), last+1_000_000); len(list) != 3 {
			t.Errorf("one that has read another gateway's: %+v", list)
		}
	}
}

func TestARestartedInstanceCostsNoRequestThatComesLater(t *testing.T) {
	h := open(t)
	const count = 16
	p := startProcess(t, says("ok"))
	h.apply(endpointOf(deploymentOf("blue", count, p)))
	all := func() {
		var callers sync.WaitGroup
		for range count {
			callers.Go(func() {
				if r := h.score("{}"); r.status != 200 {
					t.Errorf("%+v", r)
				}
			})
		}
		callers.Wait()
	}
	for range 20 {
		all() // many connections are kept
		p.die()
		p.listen(t, says("ok"))
		all()
	}
}
