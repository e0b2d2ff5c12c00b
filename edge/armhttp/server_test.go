package armhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/edge"
	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
)

const (
	group = "/subscriptions/s/resourceGroups/g"
	base  = group + "/providers/Microsoft.X/spaces/a"
)

// site is a server over a real store, as clients see it.
type site struct {
	t   testing.TB
	url string
}

func newSite(t testing.TB) *site {
	t.Helper()
	db, err := sqldb.Open(filepath.Join(t.TempDir(), "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan struct{}, 1)
	tasks := NewTasks()
	m := manager.New(resource.NewTypes(scope.Subscriptions(), scope.Groups(), tasks.DeploymentType(),
		&resource.Type{Name: "Microsoft.X/spaces/kettles", Title: "kettle", Async: true, Provision: func(ctx context.Context, _ resource.Resource) (json.RawMessage, error) {
			select {
			case <-slow:
				return json.RawMessage(`{"provisioningState":"Succeeded","boils":true}`), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}},
		&resource.Type{Name: "Microsoft.X/spaces", Title: "space"},
		&resource.Type{Name: "Microsoft.X/spaces/things", Title: "thing", Actions: map[string]resource.Action{
			"echo":  {Run: func(_ context.Context, c resource.Call) (any, error) { return c.Body, nil }},
			"quiet": {Run: func(context.Context, resource.Call) (any, error) { return nil, nil }},
			"start": {Accepted: true, Run: func(context.Context, resource.Call) (any, error) { return nil, nil }},
			"slow": {Async: true, Run: func(ctx context.Context, c resource.Call) (any, error) {
				<-slow
				return map[string]string{"did": c.ID.Name()}, nil
			}},
			"broken": {Async: true, Run: func(context.Context, resource.Call) (any, error) {
				return nil, fault.Conflicts("out of paper").With("NoPaper")
			}},
			"crash": {Run: func(context.Context, resource.Call) (any, error) { return nil, fmt.Errorf("password hunter2") }},
		}},
		&resource.Type{Name: "Microsoft.X/spaces/machines", Title: "machine", Async: true,
			Release: func(context.Context, resource.Resource) error { return nil }},
		&resource.Type{Name: provider + "/locations", Title: "location", Virtual: true},
		&resource.Type{Name: provider + "/locations/operationStatuses", Title: "operation", Virtual: true},
		&resource.Type{Name: provider + "/locations/operationResults", Title: "operation", Virtual: true},
	), sqldb.NewResources(db), rbac.Checker{}, nil, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { m.Run(ctx) })
	loop.Go(func() { tasks.Run(ctx) })
	var handler http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	origins, err := edge.NewOrigins(nil, port)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	none := func(resource.ID, resource.Document, resource.Document) (resource.ID, json.RawMessage, error) {
		return resource.ID{}, nil, nil
	}
	arm := New(m, origins, quiet, Deployments{Manager: m, Wanted: none, Provided: func(string) bool { return false }, Tasks: tasks, RepliesIn: 50 * time.Millisecond}.Routes()...)
	handler = edge.Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-release") != "" {
			slow <- struct{}{}
			return
		}
		arm.ServeHTTP(w, r.WithContext(identity.With(r.Context(), identity.Principal{ID: "1", Name: "eve", Kind: identity.User})))
	}), origins, quiet)
	t.Cleanup(func() {
		select {
		case slow <- struct{}{}:
		default:
		}
		server.Close()
		cancel()
		loop.Wait()
		db.Close()
	})
	s := &site{t: t, url: server.URL}
	s.want("PUT", "/subscriptions/s", `{}`, 201)
	s.want("PUT", group, `{"location":"local"}`, 201)
	s.want("PUT", base, `{}`, 201)
	return s
}

type answer struct {
	status int
	header http.Header
	text   string
	body   map[string]any
}

// at follows member names and indices down the answer's body.
func (a answer) at(path ...any) any {
	var v any = a.body
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

func (s *site) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	target := path
	if !strings.HasPrefix(path, "http") {
		target = s.url + path
		if !strings.Contains(path, "?") {
			target += "?api-version=2024-10-01"
		}
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, text: string(text)}
	if len(text) > 0 {
		_ = json.Unmarshal(text, &a.body) // which takes no number beyond a float
		if !json.Valid(text) {
			s.t.Errorf("%s %s: %q is no JSON", method, path, text)
		}
	}
	return a
}

func (s *site) want(method, path, body string, status int, headers ...string) answer {
	s.t.Helper()
	a := s.do(method, path, body, headers...)
	if a.status != status {
		s.t.Errorf("%s %s %s: %d %s; want %d", method, path, headers, a.status, a.text, status)
	}
	return a
}

func TestTheLifeOfAResource(t *testing.T) {
	s := newSite(t)
	thing := base + "/things/T1"
	made := s.want("PUT", thing, `{"location":"local","tags":{"a":"b"},"properties":{"n":1.50,"unknown":{"kept":[null]},"none":null},"etag":"ignored","id":"ignored"}`, 201)
	for path, want := range map[string]any{"id": thing, "name": "T1", "type": "Microsoft.X/spaces/things", "location": "local"} {
		if made.at(path) != want {
			t.Errorf("%s is %v", path, made.at(path))
		}
	}
	if !strings.Contains(made.text, `"properties":{"n":1.50,"unknown":{"kept":[null]}}`) {
		t.Errorf("what was sent comes back as %s", made.text)
	}
	if made.at("systemData", "createdBy") != "eve" || made.at("systemData", "createdByType") != "User" || made.at("systemData", "createdAt") == "" {
		t.Errorf("systemData %v", made.at("systemData"))
	}
	etag := made.header.Get("ETag")
	if len(etag) < 3 || etag[0] != '"' {
		t.Errorf("ETag %s", etag)
	}
	got := s.want("GET", strings.ToUpper(thing), "", 200)
	if got.at("id") != thing || got.header.Get("ETag") != etag || got.header.Get("x-ms-request-id") == "" || got.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("%v %s", got.header, got.text)
	}
	if again := s.want("PUT", thing, `{"properties":{"n":2}}`, 200); again.header.Get("ETag") == etag || again.at("location") != "local" || again.at("systemData", "createdAt") != made.at("systemData", "createdAt") {
		t.Errorf("%v %s", again.header, again.text)
	}
	if p := s.want("PATCH", thing, `{"tags":{"x":"y"},"properties":{"m":3}}`, 200); p.at("tags", "x") != "y" || p.at("properties", "n") != 2.0 || p.at("properties", "m") != 3.0 {
		t.Error(p.text)
	}
	s.want("DELETE", thing, "", 200)
	s.want("DELETE", thing, "", 204)
	s.want("GET", thing, "", 404)
	s.want("PATCH", thing, `{}`, 404)
}

func TestConditionsAreMetOrRefused(t *testing.T) {
	s := newSite(t)
	thing := base + "/things/t"
	etag := s.want("PUT", thing, `{}`, 201).header.Get("ETag")
	n := 0
	for _, c := range []struct {
		method, path, header, value string
		status                      int
	}{
		{"PUT", base + "/things/none1", "If-Match", "*", 412},
		{"PUT", base + "/things/none2", "If-Match", `"x"`, 412},
		{"PUT", base + "/things/none3", "If-None-Match", "*", 201},
		{"PUT", thing, "If-None-Match", "*", 412},
		{"PUT", thing, "If-None-Match", "ETAG", 412},
		{"PUT", thing, "If-Match", `"x"`, 412},
		{"PUT", thing, "If-Match", "*", 200},
		{"PUT", thing, "If-Match", "ETAG", 200},
		{"PUT", thing, "If-Match", `"x", ETAG`, 200},
		{"PATCH", thing, "If-Match", `"x"`, 412},
		{"PATCH", thing, "If-Match", "ETAG", 200},
		{"PATCH", base + "/things/none4", "If-Match", "*", 404},
		{"GET", thing, "If-None-Match", "ETAG", 304},
		{"GET", thing, "If-None-Match", `"x"`, 200},
		{"DELETE", thing, "If-Match", `"x"`, 412},
		{"DELETE", base + "/things/none5", "If-Match", `"x"`, 204},
		{"DELETE", thing, "If-Match", "ETAG", 200},
	} {
		n++
		value := strings.ReplaceAll(c.value, "ETAG", etag)
		a := s.want(c.method, c.path, fmt.Sprintf(`{"properties":{"n":%d}}`, n), c.status, c.header, value)
		if a.status == 412 && a.at("error", "code") != "PreconditionFailed" {
			t.Errorf("%s: %s", c.method, a.text)
		}
		if e := a.header.Get("ETag"); c.path == thing && e != "" {
			etag = e
		}
	}
}

func TestWrongRequestsAreToldWhatIsWrong(t *testing.T) {
	s := newSite(t)
	s.want("PUT", base+"/things/t", `{}`, 201)
	v := "?api-version=2024-10-01"
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", base + "?", "", 400, "InvalidApiVersionParameter"},
		{"GET", base + "?api-version=", "", 400, "InvalidApiVersionParameter"},
		{"GET", base + "?api-version=latest", "", 400, "InvalidApiVersionParameter"},
		{"GET", base + "?api-version=2024-1-1", "", 400, "InvalidApiVersionParameter"},
		{"PUT", base + "/things/u?api-version=2024-10-01;", `{}`, 400, "InvalidApiVersionParameter"},
		{"PUT", base + "/things/u" + v, `{`, 400, "InvalidRequestContent"},
		{"PUT", base + "/things/u" + v, `{"properties":1}`, 400, "InvalidRequestContent"},
		{"PUT", base + "/things/u" + v, `{"tags":"x"}`, 400, "ValidationError"},
		{"PUT", base + "/things/u" + v, ``, 400, "InvalidRequestContent"},
		{"PUT", base + "/things/u" + v, "{}{}", 400, "InvalidRequestContent"},
		{"PUT", base + "/things/u" + v, "\xff", 400, "InvalidRequestContent"},
		{"PUT", base + "/things" + v, `{}`, 405, "MethodNotAllowed"},
		{"POST", base + "/things/t" + v, `{}`, 405, "MethodNotAllowed"},
		{"POST", base + "/things/t/nothing" + v, `{}`, 404, "InvalidResourceType"},
		{"OPTIONS", base + "/things/t" + v, ``, 405, "MethodNotAllowed"},
		{"GET", base + "/nothings/t" + v, "", 404, "InvalidResourceType"},
		{"GET", base + "/nothings" + v, "", 404, "InvalidResourceType"},
		{"GET", "/subscriptions/none/resourceGroups/g" + v, "", 404, "SubscriptionNotFound"},
		{"GET", "/subscriptions/s/resourceGroups/none/providers/Microsoft.X/spaces/a" + v, "", 404, "ResourceGroupNotFound"},
		{"GET", base + "x/things" + v, "", 404, "ResourceNotFound"},
		{"PUT", base + "x/things/t" + v, `{}`, 404, "ResourceNotFound"},
		{"GET", base + "/things/..%2fx" + v, "", 400, "InvalidResourceId"},
		{"GET", base + "/things/%252e" + v, "", 400, "InvalidResourceId"},
		{"GET", base + "/things/a%00b" + v, "", 400, "InvalidResourceId"},
		{"GET", base + "/things/" + strings.Repeat("n", 300) + v, "", 400, "InvalidResourceName"},
		{"GET", base + "/things" + v + "&listViewType=Nonsense", "", 400, "InvalidListViewType"},
		{"GET", base + "/things" + v + "&$top=-1", "", 400, "InvalidQueryParameterValue"},
		{"GET", base + "/things" + v + "&$skip=%21", "", 400, "InvalidContinuationToken"},
		{"PUT", "/subscriptions/s/resourceGroups/ends.in.dot." + v, `{"location":"l"}`, 400, "InvalidResourceGroupName"},
		{"PUT", "/subscriptions/s/resourceGroups/new" + v, `{}`, 400, "LocationRequired"},
	} {
		a := s.want(c.method, c.path, c.body, c.status)
		if a.at("error", "code") != c.code || a.at("error", "message") == "" || a.at("error", "details") == nil {
			t.Errorf("%s %s: %s; want %s", c.method, c.path, a.text, c.code)
		}
	}
	s.want("GET", base+"/things/u", "", 404)
	big := `{"properties":{"x":"` + strings.Repeat("a", maxBody) + `"}}`
	if a := s.want("PUT", base+"/things/u", big, 413); a.at("error", "code") != "RequestBodyTooLarge" {
		t.Error(a.text)
	}
	s.want("GET", base+"/things/u", "", 404)
	fits := `{"properties":{"x":"` + strings.Repeat("a", maxBody-40) + `"}}`
	s.want("PUT", base+"/things/u", fits, 201)
}

func TestEveryWellFormedVersionIsTaken(t *testing.T) {
	s := newSite(t)
	for _, v := range []string{"2020-09-01-dataplanepreview", "2022-05-01", "2022-10-01-preview", "2026-05-15-preview", "2099-12-31"} {
		s.want("GET", base+"?api-version="+v, "", 200)
	}
}

func TestHead(t *testing.T) {
	s := newSite(t)
	if a := s.want("HEAD", base, "", 204); a.text != "" {
		t.Error(a.text)
	}
	if a := s.want("HEAD", base+"x", "", 404); a.text != "" {
		t.Error(a.text)
	}
}

func TestAnErrorOfOursIsNotShown(t *testing.T) {
	s := newSite(t)
	s.want("PUT", base+"/things/t", `{}`, 201)
	a := s.want("POST", base+"/things/t/crash", "", 500)
	if strings.Contains(a.text, "hunter2") || !strings.Contains(a.text, a.header.Get("x-ms-request-id")) {
		t.Error(a.text)
	}
}

func TestListsAreFollowedToTheirEnd(t *testing.T) {
	s := newSite(t)
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("n%02d", i)
		want = append(want, name)
		s.want("PUT", base+"/things/"+name, `{}`, 201)
	}
	follow := func(query string) (names []string, pages int) {
		next := base + "/things?api-version=2024-10-01" + query
		for next != "" {
			a := s.want("GET", next, "", 200)
			for i := range len(a.at("value").([]any)) {
				names = append(names, a.at("value", i, "name").(string))
			}
			next, _ = a.at("nextLink").(string)
			if next != "" && !strings.HasPrefix(next, s.url+base) {
				t.Fatalf("nextLink %s", next)
			}
			if pages++; pages > 50 {
				t.Fatal("it has no end")
			}
		}
		return names, pages
	}
	for _, query := range []string{"", "&pageSize=7", "&count=25", "&pageSize=24", "&listViewType=All&pageSize=10"} {
		if got, _ := follow(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v", query, got)
		}
	}
	slices.Reverse(want)
	if got, pages := follow("&$orderBy=createdtime+desc&pageSize=10"); !slices.Equal(got, want) || pages != 3 {
		t.Errorf("newest first: %v on %d pages", got, pages)
	}
	a := s.want("GET", base+"/things?api-version=2024-10-01&$orderBy=createdtime+desc&$top=1", "", 200)
	if len(a.at("value").([]any)) != 1 || a.at("value", 0, "name") != "n24" || a.at("nextLink") != nil {
		t.Error(a.text)
	}
	a = s.want("GET", "/subscriptions/s/providers/Microsoft.X/spaces", "", 200)
	if len(a.at("value").([]any)) != 1 {
		t.Errorf("all spaces of a subscription: %s", a.text)
	}
	if !strings.Contains(s.want("GET", base+"/machines", "", 200).text, `"value":[]`) {
		t.Error("an empty list is no list")
	}
}

func TestOperationsArePolled(t *testing.T) {
	s := newSite(t)
	a := s.want("PUT", base+"/machines/m", `{"location":"local"}`, 201)
	poll := a.header.Get("Azure-AsyncOperation")
	if poll == "" || a.header.Get("Location") == "" || a.header.Get("Retry-After") != "1" || !strings.HasPrefix(poll, s.url) {
		t.Errorf("%v", a.header)
	}
	if p := s.want("GET", poll, "", 200); p.at("status") != "Succeeded" || p.at("endTime") == nil || p.at("percentComplete") != 100.0 {
		t.Error(p.text)
	}
	a = s.want("PUT", base+"/machines/m", `{"location":"local","tags":{"a":"b"}}`, 201)
	if a.header.Get("Azure-AsyncOperation") == "" {
		t.Error("an update of what is asynchronous has nothing to poll")
	}
	a = s.want("DELETE", base+"/machines/m", "", 202)
	s.ended(a.header.Get("Azure-AsyncOperation"), "Succeeded")
	s.want("GET", a.header.Get("Location"), "", 204)
	s.want("GET", base+"/machines/m", "", 404)

	s.want("PUT", base+"/things/t", `{}`, 201)
	a = s.want("POST", base+"/things/t/slow", "", 202)
	poll, result := a.header.Get("Azure-AsyncOperation"), a.header.Get("Location")
	if p := s.want("GET", poll, "", 200); p.at("status") != "InProgress" || p.header.Get("Retry-After") != "1" {
		t.Errorf("%v %s", p.header, p.text)
	}
	if p := s.want("GET", result, "", 202); p.header.Get("Location") != result || p.header.Get("Retry-After") != "1" {
		t.Errorf("%v", p.header)
	}
	s.want("GET", base, "", 200, "x-release", "1")
	s.ended(poll, "Succeeded")
	if p := s.want("GET", result, "", 200); p.at("did") != "t" {
		t.Error(p.text)
	}
	a = s.want("POST", base+"/things/t/broken", "", 202)
	if p := s.ended(a.header.Get("Azure-AsyncOperation"), "Failed"); p.at("error", "code") != "NoPaper" || p.at("error", "message") != "out of paper" {
		t.Error(p.text)
	}
	if p := s.want("GET", a.header.Get("Location"), "", 409); p.at("error", "code") != "NoPaper" {
		t.Error(p.text)
	}
	s.want("GET", "/subscriptions/s/providers/"+provider+"/locations/local/operationStatuses/none", "", 404)
}

// ended polls until the operation is at its end.
func (s *site) ended(poll, status string) answer {
	s.t.Helper()
	for range 500 {
		a := s.want("GET", poll, "", 200)
		if a.at("status") != "InProgress" {
			if a.at("status") != status {
				s.t.Errorf("%s; want %s", a.text, status)
			}
			return a
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatal("the operation does not end")
	return answer{}
}

func TestActionsAnswerInTheirWay(t *testing.T) {
	s := newSite(t)
	s.want("PUT", base+"/things/t", `{}`, 201)
	if a := s.want("POST", strings.ToUpper(base)+"/THINGS/T/ECHO", `{"x":1.0}`, 200); a.text != `{"x":1.0}` {
		t.Error(a.text)
	}
	s.want("POST", base+"/things/t/quiet", "", 200)
	s.want("POST", base+"/things/t/start", "", 202)
	s.want("POST", base+"/things/none/echo", "{}", 404)
	s.want("POST", base+"/things/t/echo", "{", 400)
}

func TestGroupsAndSubscriptionsLookAsTheirClientsExpect(t *testing.T) {
	s := newSite(t)
	s.want("PUT", "/subscriptions/t", `{"properties":{"displayName":"Mine","state":"Enabled","tenantId":"x"}}`, 201)
	if a := s.want("GET", "/subscriptions/t", "", 200); a.at("subscriptionId") != "t" || a.at("displayName") != "Mine" || a.at("state") != "Enabled" || a.at("tenantId") != "x" || a.at("properties") != nil {
		t.Error(a.text)
	}
	if a := s.want("GET", strings.Replace(group, "resourceGroups", "resourcegroups", 1), "", 200); a.at("type") != "Microsoft.Resources/resourceGroups" || a.at("properties", "provisioningState") != "Succeeded" {
		t.Error(a.text)
	}
	a := s.want("DELETE", group, "", 202)
	s.ended(a.header.Get("Azure-AsyncOperation"), "Succeeded")
	s.want("GET", base, "", 404)
}

func FuzzBodies(f *testing.F) {
	for _, body := range []string{`{}`, `{"properties":{"a":null,"b":[{"c":1e400}]},"tags":{"a":"b"}}`, `{"sku":[],"identity":1,"location":null}`, `null`, `[]`, `"x"`, `{"properties":"x"}`, "{\"a\":\"\xff\"}", `{"properties":{"":{"":""}}}`} {
		f.Add(body)
	}
	s := newSite(f)
	s.want("PUT", base+"/things/t", `{"properties":{"deep":{"a":[1,2]}}}`, 201)
	f.Fuzz(func(t *testing.T, body string) {
		one := &site{t: t, url: s.url}
		for _, method := range []string{"PUT", "PATCH"} {
			a := one.do(method, base+"/things/t", body)
			if a.status != 200 && a.status != 400 && a.status != 413 {
				t.Fatalf("%s of %q: %d %s", method, body, a.status, a.text)
			}
			if a.status == 200 && (!json.Valid([]byte(a.text)) || one.do("GET", base+"/things/t", "").status != 200) {
				t.Fatalf("%s of %q: %s", method, body, a.text)
			}
		}
	})
}
