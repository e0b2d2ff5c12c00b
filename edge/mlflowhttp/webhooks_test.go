package mlflowhttp_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// receiver is an https server that takes webhooks. It answers with the statuses
// that it is told, then with 200.
type receiver struct {
	*httptest.Server
	got chan heard
}

type heard struct {
	id, at, signature, kind string
	body                    string
	event                   struct {
		Entity, Action, Timestamp string
		Data                      json.RawMessage
	}
}

func newReceiver(t *testing.T, statuses ...int) *receiver {
	r := &receiver{got: make(chan heard, 100)}
	answers := make(chan int, len(statuses))
	for _, s := range statuses {
		answers <- s
	}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		h := heard{id: q.Header.Get("X-MLflow-Delivery-Id"), at: q.Header.Get("X-MLflow-Timestamp"), signature: q.Header.Get("X-MLflow-Signature"),
			kind: q.Header.Get("Content-Type"), body: string(body)}
		if err := json.Unmarshal(body, &h.event); err != nil {
			t.Errorf("%v in %s", err, body)
		}
		r.got <- h
		select {
		case s := <-answers:
			w.WriteHeader(s)
		default:
			fmt.Fprint(w, "thanks")
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// next waits for a delivery.
func (r *receiver) next(t *testing.T) heard {
	t.Helper()
	select {
	case h := <-r.got:
		return h
	case <-time.After(time.Minute):
		t.Fatal("nothing was delivered")
		return heard{}
	}
}

func withReceiver(t *testing.T, r *receiver) *client {
	url, _, _ := serveSite(t, r.Certificate())
	return &client{t, url}
}

func (c *client) hook(url string, more string, events ...string) string {
	c.t.Helper()
	var list []string
	for _, e := range events {
		entity, action, _ := strings.Cut(e, ".")
		list = append(list, fmt.Sprintf(`{"entity":%q,"action":%q}`, strings.ToUpper(entity), strings.ToUpper(action)))
	}
	return at(c.post("webhooks", fmt.Sprintf(`{"name":"hook","url":%q,"events":[%s]%s}`, url, strings.Join(list, ","), more)), "webhook", "webhook_id").(string)
}

func TestWhatHappensInTheRegistryIsToldToThoseWhoAsked(t *testing.T) {
	r := newReceiver(t)
	c := withReceiver(t, r)
	run, source := c.upload()
	c.hook(r.URL+"/in", `,"secret":"s3cret"`, "registered_model.created", "model_version.created", "model_version_tag.set", "model_version_tag.deleted",
		"model_version_alias.created", "model_version_alias.deleted", "prompt.created", "prompt_version.created", "prompt_tag.set", "prompt_tag.deleted",
		"prompt_version_tag.set", "prompt_version_tag.deleted", "prompt_alias.created", "prompt_alias.deleted")
	c.hook(r.URL+"/off", `,"status":"DISABLED"`, "registered_model.created")
	const prompt = `{"key":"mlflow.prompt.is_prompt","value":"true"}`
	for _, x := range []struct{ method, path, body, event, data string }{
		{"POST", "registered-models/create", `{"name":"m","description":"d","tags":[{"key":"k","value":"v"}]}`,
			"registered_model.created", `{"name":"m","tags":{"k":"v"},"description":"d"}`},
		{"POST", "registered-models/set-tag", `{"name":"m","key":"a","value":"b"}`, "", ""}, // no event of MLflow's
		{"POST", "model-versions/create", fmt.Sprintf(`{"name":"m","source":%q,"run_id":%q}`, source, run),
			"model_version.created", fmt.Sprintf(`{"name":"m","version":"1","source":%q,"run_id":%q,"tags":{},"description":null}`, source, run)},
		{"POST", "model-versions/set-tag", `{"name":"m","version":"1","key":"a","value":"b"}`, "model_version_tag.set", `{"name":"m","version":"1","key":"a","value":"b"}`},
		{"DELETE", "model-versions/delete-tag", `{"name":"m","version":"1","key":"a"}`, "model_version_tag.deleted", `{"name":"m","version":"1","key":"a"}`},
		{"POST", "registered-models/alias", `{"name":"m","version":"1","alias":"best"}`, "model_version_alias.created", `{"name":"m","alias":"best","version":"1"}`},
		{"DELETE", "registered-models/alias", `{"name":"m","alias":"best"}`, "model_version_alias.deleted", `{"name":"m","alias":"best"}`},
		{"POST", "registered-models/create", `{"name":"p","tags":[` + prompt + `,{"key":"k","value":"v"}]}`, "prompt.created", `{"name":"p","tags":{"k":"v"},"description":""}`},
		{"POST", "registered-models/set-tag", `{"name":"p","key":"a","value":"b"}`, "prompt_tag.set", `{"name":"p","key":"a","value":"b"}`},
		{"DELETE", "registered-models/delete-tag", `{"name":"p","key":"a"}`, "prompt_tag.deleted", `{"name":"p","key":"a"}`},
		{"POST", "model-versions/create", `{"name":"p","source":"dummy-source","tags":[` + prompt + `,{"key":"mlflow.prompt.text","value":"Hi {{x}}"}]}`,
			"prompt_version.created", `{"name":"p","version":"1","template":"Hi {{x}}","tags":{},"description":null}`},
		{"POST", "model-versions/set-tag", `{"name":"p","version":"1","key":"a","value":"b"}`, "prompt_version_tag.set", `{"name":"p","version":"1","key":"a","value":"b"}`},
		{"DELETE", "model-versions/delete-tag", `{"name":"p","version":"1","key":"a"}`, "prompt_version_tag.deleted", `{"name":"p","version":"1","key":"a"}`},
		{"POST", "registered-models/alias", `{"name":"p","version":"1","alias":"best"}`, "prompt_alias.created", `{"name":"p","alias":"best","version":"1"}`},
		{"DELETE", "registered-models/alias", `{"name":"p","alias":"best"}`, "prompt_alias.deleted", `{"name":"p","alias":"best"}`},
	} {
		c.do(x.method, api+x.path, x.body, 200)
		if x.event == "" {
			continue
		}
		h := r.next(t)
		if e := h.event.Entity + "." + h.event.Action; e != x.event || string(h.event.Data) != x.data || h.kind != "application/json" {
			t.Errorf("%s %s told %s %s (%s), want %s %s", x.path, x.body, e, h.event.Data, h.kind, x.event, x.data)
		}
		if _, err := time.Parse("2006-01-02T15:04:05.000000-07:00", h.event.Timestamp); err != nil {
			t.Error(err)
		}
		mac := hmac.New(sha256.New, []byte("s3cret"))
		mac.Write([]byte(h.id + "." + h.at + "." + h.body))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.signature != want {
			t.Errorf("signed %s, want %s", h.signature, want)
		}
	}
	c.refused("POST", "registered-models/create", `{"name":"m"}`, "RESOURCE_ALREADY_EXISTS", "")
	select {
	case h := <-r.got:
		t.Errorf("%s was told of although nobody asked, or nothing happened", h.body)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestADeliveryIsTriedAgainUntilItIsTaken(t *testing.T) {
	r := newReceiver(t, 503, 500)
	c := withReceiver(t, r)
	c.hook(r.URL, "", "registered_model.created")
	c.post("registered-models/create", `{"name":"m"}`)
	first, second, third := r.next(t), r.next(t), r.next(t)
	if first.id == "" || first.id != second.id || first.id != third.id || first.body != third.body {
		t.Errorf("three attempts at one delivery: %+v, %+v, %+v", first, second, third)
	}
	if first.signature != "" {
		t.Errorf("signed without a secret: %s", first.signature)
	}
}

func TestWhatIsRefusedForGoodIsNotTriedAgain(t *testing.T) {
	r := newReceiver(t, 404)
	c := withReceiver(t, r)
	c.hook(r.URL, "", "registered_model.created")
	for _, name := range []string{"a", "b"} {
		c.post("registered-models/create", `{"name":"`+name+`"}`)
		if h := r.next(t); !strings.Contains(h.body, `"name":"`+name+`"`) {
			t.Errorf("%s was told of when %s was made", h.body, name)
		}
	}
}

func TestWebhooksAreMadeListedChangedAndDeleted(t *testing.T) {
	r := newReceiver(t)
	c := withReceiver(t, r)
	id := c.hook(r.URL, `,"description":"d","secret":"s"`, "registered_model.created")
	c.hook(r.URL, "", "model_version.created")
	all := c.get("webhooks")
	if list := at(all, "webhooks").([]any); len(list) != 2 || at(list, 1, "webhook_id") != id {
		t.Errorf("newest first: %v", list)
	}
	if s := fmt.Sprint(all); strings.Contains(s, "secret") {
		t.Errorf("a secret in %s", s)
	}
	page := c.get("webhooks?max_results=1")
	if rest := c.get("webhooks?max_results=1&page_token=" + at(page, "next_page_token").(string)); at(rest, "webhooks", 0, "webhook_id") != id || at(rest, "next_page_token") != nil {
		t.Errorf("the second page is %v", rest)
	}
	w := at(c.do("PATCH", api+"webhooks/"+id, `{"name":"other","description":"","status":"DISABLED","events":[{"entity":"PROMPT","action":"CREATED"}]}`, 200), "webhook")
	if at(w, "name") != "other" || at(w, "description") != nil || at(w, "status") != "DISABLED" || at(w, "events", 0, "entity") != "PROMPT" || at(w, "url") != r.URL {
		t.Errorf("changed to %v", w)
	}
	result := at(c.post("webhooks/"+id+"/test", `{}`), "result")
	if at(result, "success") != true || at(result, "response_status") != 200. || at(result, "response_body") != "thanks" {
		t.Errorf("tested: %v", result)
	}
	if h := r.next(t); h.event.Entity != "prompt" || !strings.Contains(h.body, "example_prompt") || h.signature == "" {
		t.Errorf("the test sent %+v", h)
	}
	result = at(c.post("webhooks/"+id+"/test", `{"event":{"entity":"MODEL_VERSION_ALIAS","action":"DELETED"}}`), "result")
	if h := r.next(t); h.event.Entity != "model_version_alias" || at(result, "success") != true {
		t.Errorf("the test sent %+v: %v", h, result)
	}
	r.Close()
	result = at(c.post("webhooks/"+id+"/test", `{}`), "result")
	if at(result, "success") != false || !strings.Contains(fmt.Sprint(at(result, "error_message")), "Failed to test webhook") {
		t.Errorf("tested without a receiver: %v", result)
	}
	c.do("DELETE", api+"webhooks/"+id, "", 200)
	for _, method := range []string{"GET", "DELETE", "PATCH"} {
		c.refused(method, "webhooks/"+id, "", "RESOURCE_DOES_NOT_EXIST", "Webhook with ID "+id+" not found.")
	}
}

func TestAWebhookThatIsWrongIsRefused(t *testing.T) {
	c := newClient(t)
	const ok = `"events":[{"entity":"PROMPT","action":"CREATED"}]`
	for _, x := range []struct{ body, message string }{
		{`{}`, "Missing value for required parameter 'name'."},
		{`{"name":"n"}`, "Missing value for required parameter 'url'."},
		{`{"name":"n","url":"https://127.0.0.1/"}`, "Missing value for required parameter 'events'."},
		{`{"name":"n","url":"https://127.0.0.1/","events":[]}`, "Webhook events must be a non-empty list"},
		{`{"name":"N n","url":"https://127.0.0.1/",` + ok + `}`, "Webhook name 'N n' is invalid."},
		{`{"name":"` + strings.Repeat("n", 64) + `","url":"https://127.0.0.1/",` + ok + `}`, "less than 63 characters long"},
		{`{"name":"n","url":"  ",` + ok + `}`, "Webhook URL cannot be empty or just whitespace"},
		{`{"name":"n","url":"http://127.0.0.1/",` + ok + `}`, "Invalid webhook URL scheme: 'http'. Allowed schemes are: https."},
		{`{"name":"n","url":"https:///x",` + ok + `}`, "Webhook URL must include a hostname"},
		{`{"name":"n","url":"https://127.0.0.1/` + strings.Repeat("x", 3000) + `",` + ok + `}`, "exceeds the maximum length"},
		{`{"name":"n","url":"https://127.0.0.1/","events":[{"entity":"REGISTERED_MODEL","action":"DELETED"}]}`,
			"Invalid action 'deleted' for entity 'registered_model'. Valid actions are: ['created']"},
		{`{"name":"n","url":"https://127.0.0.1/","events":[{"entity":"MODEL_VERSION_TAG","action":"CREATED"}]}`, "Valid actions are: ['deleted', 'set']"},
		{`{"name":"n","url":"https://127.0.0.1/","events":[{"entity":"NOPE","action":"CREATED"}]}`, "NOPE"},
		{`{"name":"n","url":"https://127.0.0.1/","events":[{}]}`, "Invalid entity"},
		{`{"name":"n","url":"https://127.0.0.1/","events":"x"}`, "Invalid value"},
		{`{"name":"n","url":"https://127.0.0.1/","status":"NOPE",` + ok + `}`, "NOPE"},
	} {
		c.refused("POST", "webhooks", x.body, "INVALID_PARAMETER_VALUE", x.message)
	}
	c.refused("GET", "webhooks?max_results=1001", "", "INVALID_PARAMETER_VALUE", "max_results must be between 1 and 1000.")
	c.refused("GET", "webhooks?page_token=!!", "", "INVALID_PARAMETER_VALUE", "token")
	for _, id := range []string{"nope", "%20", strings.Repeat("9", 300)} {
		c.refused("GET", "webhooks/"+id, "", "RESOURCE_DOES_NOT_EXIST", "not found")
	}
}
