package gateway

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lapis/frame"
	"lapis/ml/serving"
)

func TestAWrongKeyIsAnsweredLikeNone(t *testing.T) {
	h := open(t)
	p := startProcess(t, echo)
	other := endpointOf()
	other.Name, other.Keys = "other", []string{hash("other-key")}
	h.apply(endpointOf(deploymentOf("blue", 1, p)), other)
	bodies := map[string]bool{}
	for _, header := range []string{"", "Bearer wrong", "Bearer other-key", "Bearer", "Basic " + testKey, testKey, "Bearer " + testKey + "x"} {
		r := h.score("{}", "Authorization", header)
		if r.status != 401 || r.reason() != "unauthorized" || r.code() == "" || r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %+v", header, r)
		}
		bodies[r.body] = true
	}
	if len(bodies) != 1 {
		t.Errorf("%d different bodies", len(bodies))
	}
	if p.handled.Load() != 0 {
		t.Error("an instance was asked")
	}
	if n := h.g.State().Endpoints[0].Unrouted["401"]; n != 7 {
		t.Errorf("%d are counted", n)
	}
}

func TestTokensOpenTheirEndpointUntilTheyExpire(t *testing.T) {
	h := open(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := rsa.GenerateKey(rand.Reader, 2048)
	public, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	h.routes.Trust = serving.Trust{Key: public, Tenant: "tenant"}
	sign := func(by *rsa.PrivateKey, c jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(jwt.SigningMethodRS256, c).SignedString(by)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	claims := func(more ...any) jwt.MapClaims {
		c := jwt.MapClaims{"aud": "https://ml.azure.com", "exp": time.Now().Add(time.Hour).Unix(), "tid": "tenant"}
		for n := 0; n+1 < len(more); n += 2 {
			c[more[n].(string)] = more[n+1]
		}
		return c
	}
	past := time.Now().Add(-time.Minute).Unix()
	e := endpointOf(deploymentOf("blue", 1, startProcess(t, echo)))
	e.Epoch = "7"
	id := strings.ToLower(e.ID)
	for _, c := range []struct {
		what, auth string
		by         *rsa.PrivateKey
		claims     jwt.MapClaims
		want       int
	}{
		{"a token of the endpoint", serving.AuthAMLToken, key, claims("lapis_endpoint", id, "lapis_epoch", "7"), 200},
		{"of another endpoint", serving.AuthAMLToken, key, claims("lapis_endpoint", id+"2", "lapis_epoch", "7"), 401},
		{"of an epoch that is over", serving.AuthAMLToken, key, claims("lapis_endpoint", id, "lapis_epoch", "6"), 401},
		{"expired", serving.AuthAMLToken, key, claims("lapis_endpoint", id, "lapis_epoch", "7", "exp", past), 401},
		{"signed by someone else", serving.AuthAMLToken, stranger, claims("lapis_endpoint", id, "lapis_epoch", "7"), 401},
		{"of a user, where endpoint tokens are asked for", serving.AuthAMLToken, key, claims("lapis_kind", "User"), 401},
		{"of a user", serving.AuthAADToken, key, claims("lapis_kind", "User"), 200},
		{"of a program, with a slash", serving.AuthAADToken, key, claims("lapis_kind", "ServicePrincipal", "aud", "https://ml.azure.com/"), 200},
		{"for another audience", serving.AuthAADToken, key, claims("lapis_kind", "User", "aud", "https://example.com"), 401},
		{"of another tenant", serving.AuthAADToken, key, claims("lapis_kind", "User", "tid", "other"), 401},
		{"of a job", serving.AuthAADToken, key, claims("lapis_kind", "Job"), 401},
		{"of an endpoint, where users are asked for", serving.AuthAADToken, key, claims("lapis_endpoint", id, "lapis_epoch", "7", "lapis_kind", "User"), 401},
		{"without an end", serving.AuthAADToken, key, jwt.MapClaims{"aud": "https://ml.azure.com", "tid": "tenant", "lapis_kind": "User"}, 401},
	} {
		e.Auth = c.auth
		h.apply(e)
		token := sign(c.by, c.claims)
		for range 2 { // the second time it is remembered
			if r := h.score("{}", "Authorization", "Bearer "+token); r.status != c.want {
				t.Errorf("%s: %d %s", c.what, r.status, r.body)
			}
		}
	}
	none, _ := jwt.NewWithClaims(jwt.SigningMethodNone, claims("lapis_kind", "User")).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if r := h.score("{}", "Authorization", "Bearer "+none); r.status != 401 {
		t.Errorf("without a signature: %d", r.status)
	}
	soon := sign(key, claims("lapis_kind", "User", "exp", float64(time.Now().Add(1500*time.Millisecond).UnixMilli())/1000))
	e.Auth = serving.AuthAADToken
	h.apply(e)
	if r := h.score("{}", "Authorization", "Bearer "+soon); r.status != 200 {
		t.Errorf("a token that is about to expire: %d", r.status)
	}
	until(t, "the remembered token expires", func() bool { return h.score("{}", "Authorization", "Bearer "+soon).status == 401 })

	// A server with another key: what was remembered is worth nothing.
	token := sign(key, claims("lapis_kind", "User"))
	if r := h.score("{}", "Authorization", "Bearer "+token); r.status != 200 {
		t.Fatal(r.status)
	}
	h.routes.Trust.Key, _ = x509.MarshalPKIXPublicKey(&stranger.PublicKey)
	h.apply(e)
	if r := h.score("{}", "Authorization", "Bearer "+token); r.status != 401 {
		t.Errorf("signed by a key that is not trusted any more: %d", r.status)
	}
}

func TestWhatIsNotThereIs404(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 1, startProcess(t, echo)))
	h.apply(e)
	auth := "Bearer " + testKey
	for _, c := range []struct {
		path, header string
		code         string
	}{
		{"/endpoints/nope/score", "", "EndpointNotFound"},
		{"/", "", "EndpointNotFound"},
		{"/score", "", "EndpointNotFound"},
		{"/endpoints/e/score", "green", "DeploymentNotFound"},
	} {
		r := h.call("POST", c.path, "{}", "Authorization", auth, "azureml-model-deployment", c.header)
		if r.status != 404 || r.code() != c.code || r.reason() == "" {
			t.Errorf("%s %s: %+v", c.path, c.header, r)
		}
	}
	e.Traffic = map[string]int{"blue": 0}
	h.apply(e)
	if r := h.score("{}"); r.status != 404 || r.code() != "NoTraffic" {
		t.Errorf("no traffic: %+v", r)
	}
	if r := h.score("{}", "azureml-model-deployment", "BLUE"); r.status != 200 {
		t.Errorf("named in the header: %+v", r)
	}
}

func TestARequestThatTakesTooLongIsCanceled(t *testing.T) {
	for kind, want := range map[string]int{"Managed": 408, "K8S": 504} {
		h := open(t)
		freed := make(chan bool, 1)
		p := startProcess(t, func(q frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
			if string(q.Body) == "fast" {
				return answer(200, "ok")
			}
			<-gone // the gateway ends the connection
			freed <- true
			return nil
		})
		d := deploymentOf("blue", 1, p)
		d.Timeout = 150 * time.Millisecond
		e := endpointOf(d)
		e.Kind = kind
		h.apply(e)
		began := time.Now()
		r := h.score("slow")
		if took := time.Since(began); r.status != want || r.reason() != "request_timeout" || took < d.Timeout {
			t.Errorf("%s: %+v after %s", kind, r, took)
		}
		if want == 408 && !strings.Contains(r.body, "upstream request timeout") {
			t.Errorf("%s", r.body)
		}
		<-freed
		if r := h.score("fast"); r.status != 200 {
			t.Errorf("afterwards: %+v", r)
		}
	}
}

func TestABodyOverTheLimitIsRefused(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 1, startProcess(t, echo)))
	e.Limits.MaxBody = 1000
	h.apply(e)
	if r := h.score(strings.Repeat("x", 1000)); r.status != 200 {
		t.Errorf("at the limit: %d", r.status)
	}
	if r := h.score(strings.Repeat("x", 1001)); r.status != 413 || r.reason() != "body_too_large" {
		t.Errorf("%+v", r)
	}
	// Without a length it is read until it is too long.
	q, _ := http.NewRequest("POST", h.url+"/endpoints/e/score", struct{ *strings.Reader }{strings.NewReader(strings.Repeat("x", 5000))})
	q.ContentLength = -1
	q.Header.Set("Authorization", "Bearer "+testKey)
	resp, err := patient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("chunked: %d", resp.StatusCode)
	}
}

func TestWhatTheModelAnswersIsPassedOnOrIs424(t *testing.T) {
	h := open(t)
	p := startProcess(t, func(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
		var status int
		fmt.Sscan(string(q.Body), &status)
		return answer(status, fmt.Sprintf(`{"message":"%d"}`, status), "Content-Type", "application/json", "X-Ms-Run-Function-Failed", "True")
	})
	for _, c := range []struct {
		kind        string
		model, want int
	}{
		{"Managed", 200, 200}, {"Managed", 201, 201}, {"Managed", 202, 202}, {"Managed", 206, 206}, {"Managed", 307, 307},
		{"Managed", 400, 424}, {"Managed", 404, 424}, {"Managed", 418, 424}, {"Managed", 500, 424}, {"Managed", 503, 424},
		{"K8S", 200, 200}, {"K8S", 201, 201}, {"K8S", 400, 400}, {"K8S", 500, 502}, {"K8S", 503, 502},
	} {
		e := endpointOf(deploymentOf("blue", 1, p))
		e.Kind = c.kind
		h.apply(e)
		r := h.score(fmt.Sprint(c.model))
		if r.status != c.want || r.body != fmt.Sprintf(`{"message":"%d"}`, c.model) || r.header.Get("x-ms-run-function-failed") != "True" {
			t.Errorf("%+v: %+v", c, r)
		}
		code, why := r.header.Get("ms-azureml-model-error-statuscode"), r.header.Get("ms-azureml-model-error-reason")
		if c.model >= 400 && (code != fmt.Sprint(c.model) || why != http.StatusText(c.model)) || c.model < 400 && code != "" {
			t.Errorf("%+v: model error %q %q", c, code, why)
		}
	}
	if r := h.score("204"); r.status != 204 || r.body != "" {
		t.Errorf("%+v", r)
	}
}

func TestAnInstanceThatEndsAtWorkIs424(t *testing.T) {
	for kind, want := range map[string]int{"Managed": 424, "K8S": 502} {
		h := open(t)
		var p *process
		p = startProcess(t, func(q frame.Request, _ <-chan struct{}, out write) *frame.Reply {
			switch string(q.Body) {
			case "die":
				p.conns.Range(func(c, _ any) bool { c.(interface{ Close() error }).Close(); return true })
			case "nonsense":
				out('?', []byte("nonsense"))
			case "broken":
				out(frame.KindBroken, []byte("worker killed"))
			}
			return nil
		})
		e := endpointOf(deploymentOf("blue", 1, p))
		e.Kind = kind
		h.apply(e)
		for _, body := range []string{"die", "nonsense", "broken"} {
			r := h.score(body)
			if r.status != want || r.code() == "" || kind == "Managed" && r.header.Get("ms-azureml-model-error-statuscode") != "502" {
				t.Errorf("%s %s: %+v", kind, body, r)
			}
		}
	}
}

func TestNTimesCRunAsManyWaitAndTheRestIs429(t *testing.T) {
	for kind, want := range map[string]int{"Managed": 429, "K8S": 503} {
		const concurrency, count, extra = 3, 2, 7
		h := open(t)
		release := make(chan struct{})
		var most, now atomic.Int64
		work := func(q frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			defer now.Add(-1)
			select {
			case <-release:
			case <-gone:
			}
			return answer(200, "ok")
		}
		one, two := startProcess(t, work), startProcess(t, work)
		blue := deploymentOf("blue", concurrency, one, two)
		blue.Collect = &serving.Collect{Request: true, Response: true, Rate: 1}
		e := endpointOf(blue)
		e.Kind = kind
		h.apply(e)
		d := h.deployment("blue")
		codes := make(chan reply, 100)
		var callers sync.WaitGroup
		for range 2*concurrency*count + extra {
			callers.Go(func() { codes <- h.score("{}") })
		}
		refused := 0
		for range extra {
			r := <-codes
			if r.status != want || r.reason() != "too_many_concurrent_requests" || r.header.Get("Retry-After") == "" {
				t.Errorf("%+v", r)
			}
			refused++
		}
		until(t, "all that may are in", func() bool {
			running, waiting := d.counts()
			return running == concurrency*count && waiting == concurrency*count && now.Load() == concurrency*count
		})
		for _, p := range []*process{one, two} {
			if n := p.open.Load(); n != concurrency {
				t.Errorf("%d connections to an instance", n)
			}
		}
		close(release)
		for range 2 * concurrency * count {
			if r := <-codes; r.status != 200 {
				t.Errorf("%+v", r)
			}
		}
		callers.Wait()
		if n := most.Load(); n != concurrency*count {
			t.Errorf("%d at once", n)
		}
		events := h.events()
		if events[0].Kind != serving.EventRefused || events[0].Deployment != "blue" {
			t.Errorf("%+v", events)
		}
		// What no instance was given is not collected.
		until(t, "what was answered is collected", func() bool {
			c := d.state().Collected
			return c["request"] >= 2*concurrency*count && c["response"] >= 2*concurrency*count && len(h.g.collect.queue) == 0
		})
		if c := d.state(); c.Collected["request"] != 2*concurrency*count || c.Collected["response"] != 2*concurrency*count || c.Lost["request"] != 0 {
			t.Errorf("%v and %v lost", c.Collected, c.Lost)
		}
	}
}

func TestWhoWaitsIsServedInOrder(t *testing.T) {
	h := open(t)
	turn := make(chan struct{})
	var mu sync.Mutex
	var order []string
	p := startProcess(t, func(q frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
		mu.Lock()
		order = append(order, string(q.Body))
		mu.Unlock()
		<-turn
		return answer(200, "ok")
	})
	d := deploymentOf("blue", 1, p)
	d.Capacity = 8 // the queue is longer than the one instance asks for
	h.apply(endpointOf(d))
	state := h.deployment("blue")
	var callers sync.WaitGroup
	for n := range 6 {
		callers.Go(func() { h.score(fmt.Sprint(n)) })
		until(t, "it is in", func() bool { running, waiting := state.counts(); return running+waiting == n+1 })
	}
	close(turn)
	callers.Wait()
	if got := strings.Join(order, ""); got != "012345" {
		t.Errorf("order %s", got)
	}
}

func TestWhoseTurnDoesNotComeInTimeIs408(t *testing.T) {
	h := open(t)
	p := startProcess(t, func(q frame.Request, gone <-chan struct{}, _ write) *frame.Reply {
		<-gone
		return nil
	})
	d := deploymentOf("blue", 1, p)
	d.Timeout = 200 * time.Millisecond
	h.apply(endpointOf(d))
	var callers sync.WaitGroup
	for range 2 {
		callers.Go(func() {
			if r := h.score("{}"); r.status != 408 {
				t.Errorf("%+v", r)
			}
		})
	}
	callers.Wait()

	e := endpointOf(d)
	e.Kind = "K8S"
	e.Deployments[0].Timeout, e.Deployments[0].QueueWait = 10*time.Second, 50*time.Millisecond
	h.apply(e)
	ctx, leave := context.WithCancel(context.Background())
	callers.Go(func() {
		h.callWith(ctx, "POST", "/endpoints/e/score", "{}", "Authorization", "Bearer "+testKey)
	})
	until(t, "the first runs", func() bool { running, _ := h.deployment("blue").counts(); return running == 1 })
	if r := h.score("{}"); r.status != 503 || r.reason() != "max_queue_wait" {
		t.Errorf("%+v", r)
	}
	// The caller leaves: the work is canceled.
	leave()
	callers.Wait()
	until(t, "the instance is free", func() bool { running, _ := h.deployment("blue").counts(); return running == 0 && p.open.Load() == 0 })
}

func TestARateIsKeptForEachKey(t *testing.T) {
	h := open(t)
	e := endpointOf(deploymentOf("blue", 1, startProcess(t, echo)))
	e.Limits = serving.Limits{RequestsPerSecond: 0.001, Burst: 3}
	h.apply(e)
	for n := range 5 {
		r := h.score("{}")
		if n < 3 && r.status != 200 || n >= 3 && (r.status != 429 || r.reason() != "request_rate_limit" || r.header.Get("Retry-After") == "") {
			t.Errorf("request %d: %+v", n, r)
		}
	}
	if r := h.score("{}", "Authorization", "Bearer secondary-key"); r.status != 200 {
		t.Errorf("another key: %+v", r)
	}
}

func TestASleepingDeploymentIsWoken(t *testing.T) {
	h := open(t)
	d := deploymentOf("blue", 2)
	d.Wake, d.Hold, d.Timeout = true, time.Minute, time.Minute
	h.apply(endpointOf(d))
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if r := h.score("{}"); r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	events := h.events()
	if len(events) == 0 || events[0].Kind != serving.EventWake || events[0].Endpoint != "e" || events[0].Deployment != "blue" {
		t.Fatalf("%+v", events)
	}
	until(t, "they wait", func() bool { _, waiting := h.deployment("blue").counts(); return waiting == 50 })
	woken := deploymentOf("blue", 2, startProcess(t, echo))
	woken.Wake, woken.Hold, woken.Timeout = true, time.Minute, time.Minute
	h.apply(endpointOf(woken))
	callers.Wait()

	d.Hold = 50 * time.Millisecond
	h.apply(endpointOf(d))
	if r := h.score("{}"); r.status != 503 || r.reason() != "cold_start" || r.header.Get("Retry-After") == "" {
		t.Errorf("nobody came: %+v", r)
	}
	d.Wake = false
	h.apply(endpointOf(d))
	if r := h.score("{}"); r.status != 503 || r.reason() != "no_instance" {
		t.Errorf("no instance: %+v", r)
	}
}

func TestIdsAreMadeHarmless(t *testing.T) {
	h := open(t)
	h.apply(endpointOf(deploymentOf("blue", 1, startProcess(t, echo))))
	long := strings.Repeat("a", 200)
	for given, want := range map[string]string{"abc": "abc", "a b<c>/d\"e": "abcde", long: long[:40], "ü": ""} {
		r := h.score("{}", "x-ms-client-request-id", given, "x-request-id", "mine")
		e := r.echoed(t)
		if got := r.header.Get("x-ms-client-request-id"); got != want || e.Headers.Get("X-Ms-Client-Request-Id") != want {
			t.Errorf("%.20q became %q and %q", given, got, e.Headers.Get("X-Ms-Client-Request-Id"))
		}
		if id := r.header.Get("x-request-id"); id == "mine" || e.Headers.Get("X-Request-Id") != id {
			t.Errorf("x-request-id %q", id)
		}
	}
}
