package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"lapis/frame"
)

// echo answers with what the request was.
func echo(q frame.Request, _ <-chan struct{}, _ write) *frame.Reply {
	b, _ := json.Marshal(map[string]any{"method": q.Method, "target": q.Target, "headers": headersOf(q), "body": string(q.Body), "timeout": q.Timeout.Milliseconds()})
	return answer(200, string(b), "Content-Type", "application/json", "X-Ms-Run-Fn-Exec-Ms", "1.5")
}

type echoed struct {
	Method, Target, Body string
	Headers              http.Header
	Timeout              int
}

func (r reply) echoed(t *testing.T) echoed {
	t.Helper()
	var e echoed
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("%d %q: %v", r.status, r.body, err)
	}
	return e
}

func TestARequestWithAKeyIsScored(t *testing.T) {
	h := open(t)
	h.apply(endpointOf(deploymentOf("blue", 1, startProcess(t, echo))))
	for _, key := range []string{testKey, "secondary-key"} {
		r := h.score(`{"x":1}`, "Authorization", "Bearer "+key, "x-ms-client-request-id", "abc-1_2")
		if r.status != 200 {
			t.Fatalf("%+v", r)
		}
		e := r.echoed(t)
		if e.Method != "POST" || e.Target != "/score" || e.Body != `{"x":1}` || e.Timeout < 1000 || e.Timeout > 20000 {
			t.Errorf("the instance got %+v", e)
		}
		id := r.header.Get("x-request-id")
		if len(id) != 36 || e.Headers.Get("X-Request-Id") != id {
			t.Errorf("ids %q and %q", id, e.Headers.Get("X-Request-Id"))
		}
		for name, want := range map[string]string{"azureml-model-deployment": "blue", "x-ms-client-request-id": "abc-1_2",
			"x-ms-run-fn-exec-ms": "1.5", "content-type": "application/json"} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %q", name, got)
			}
		}
		if strings.Contains(r.body, key) {
			t.Error("the instance has seen the key")
		}
	}
}

func TestTheRoutesOnDiskAreEnoughAfterAKill(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, echo)
	h := openIn(t, dir)
	h.apply(endpointOf(deploymentOf("blue", 1, p)))
	again := openIn(t, dir) // the first is still there: a killed one would be less in the way
	if r := again.score("{}"); r.status != 200 {
		t.Fatalf("%+v", r)
	}
}
