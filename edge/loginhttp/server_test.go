package loginhttp

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/resource/identity"
)

const (
	tenant = "11111111-2222-4333-8444-555555555555"
	client = "cccccccc-0000-4000-8000-000000000001"
	secret = "s3cret value+/="
)

var admin = identity.Principal{ID: "aaaaaaaa-0000-4000-8000-000000000001", Name: "admin", Kind: identity.ServicePrincipal, Tenant: tenant, Client: client}

type oneClient struct{}

func (oneClient) Client(_ context.Context, id, word string) (identity.Principal, error) {
	if id != client {
		return identity.Principal{}, fault.NotFound("no %s", id)
	}
	if word != secret {
		return identity.Principal{}, fault.Unknown("wrong")
	}
	return admin, nil
}

type site struct {
	*httptest.Server
	t       *testing.T
	issuer  *identity.Issuer
	origins *edge.Origins
}

func newSite(t *testing.T) *site {
	s := &site{t: t}
	var h http.Handler
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	u, _ := url.Parse(s.URL)
	origins, err := edge.NewOrigins(nil, u.Port())
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s.origins = origins
	s.issuer = identity.NewIssuer(identity.IssuerConfig{Key: key, Tenant: tenant, Trusted: origins.Issuer,
		Jobs: func(_, job string) (time.Time, error) {
			if job == "running" {
				return time.Time{}, nil
			}
			return time.Time{}, fault.NotFound("no job")
		}})
	login := New(origins, s.issuer, oneClient{})
	router := &edge.Router{Login: login}
	router.Handle(login, Prefixes...)
	h = edge.Front(router, origins, slog.New(slog.DiscardHandler))
	return s
}

func (s *site) do(method, path, body string, header ...string) (int, map[string]any) {
	s.t.Helper()
	r, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	var m map[string]any
	if len(b) > 0 && b[0] == '[' {
		var list []map[string]any
		json.Unmarshal(b, &list)
		m = map[string]any{"list": len(list), "first": list[0]}
	} else if err := json.Unmarshal(b, &m); err != nil {
		s.t.Fatalf("%s %s: %s", method, path, b)
	}
	return resp.StatusCode, m
}

func form(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

func TestTheMetadataDocumentHasTheShapeThatEachClientTakes(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		path string
		list bool
	}{
		{"/metadata/endpoints", true},
		{"/metadata/endpoints?api-version=2019-05-01", true},
		{"//metadata/endpoints?api-version=2019-05-01", true},
		{"/metadata/endpoints?api-version=2022-09-01", false},
		{"//metadata/endpoints?api-version=2022-09-01", false},
	} {
		status, m := s.do("GET", c.path, "")
		if _, list := m["list"]; status != 200 || list != c.list {
			t.Errorf("%s: %d, list %v", c.path, status, list)
			continue
		}
		if c.list {
			m = m["first"].(map[string]any)
		}
		host := strings.TrimPrefix(s.URL, "https://")
		if m["resourceManager"] != s.URL+"/" || m["suffixes"].(map[string]any)["storage"] != "core.lapis@"+host ||
			m["authentication"].(map[string]any)["loginEndpoint"] != s.URL+"/adfs" {
			t.Errorf("%s: %v", c.path, m)
		}
	}
}

func TestDiscoveryNamesTheTokenEndpointBelowTheSameAuthority(t *testing.T) {
	s := newSite(t)
	for _, prefix := range []string{"/adfs", "/adfs/" + tenant, "/" + tenant, "/common"} {
		for _, tail := range []string{"/.well-known/openid-configuration", "/v2.0/.well-known/openid-configuration"} {
			status, m := s.do("GET", prefix+tail, "")
			if status != 200 || m["token_endpoint"] != s.URL+prefix+"/oauth2/v2.0/token" || m["issuer"] != s.URL+prefix {
				t.Errorf("%s: %d %v", prefix+tail, status, m)
			}
			keys, _ := strings.CutPrefix(m["jwks_uri"].(string), s.URL)
			if status, m := s.do("GET", keys, ""); status != 200 || len(m["keys"].([]any)) != 1 {
				t.Errorf("%s: %d %v", keys, status, m)
			}
		}
	}
	if status, m := s.do("GET", "/00000000-0000-4000-8000-000000000000/.well-known/openid-configuration", ""); status != 400 || !strings.Contains(m["error_description"].(string), "AADSTS90002") {
		t.Errorf("an unknown tenant: %d %v", status, m)
	}
}

func TestAClientGetsATokenForTheScopeItAskedFor(t *testing.T) {
	s := newSite(t)
	for _, scope := range []string{s.URL, s.URL + "/", "https://ml.azure.com", "https://management.azure.com", "https://storage.azure.com", edge.MLAudience} {
		status, m := s.do("POST", "/adfs/"+tenant+"/oauth2/v2.0/token", form("grant_type", "client_credentials", "client_id", client, "client_secret", secret, "scope", scope+"/.default", "client_info", "1"))
		if status != 200 || m["token_type"] != "Bearer" {
			t.Fatalf("%s: %d %v", scope, status, m)
		}
		p, err := s.issuer.Verify(m["access_token"].(string), func(aud string) bool { return aud == scope })
		if err != nil || p != admin {
			t.Errorf("%s: %+v %v", scope, p, err)
		}
	}
	status, m := s.do("POST", "/"+tenant+"/oauth2/token", form("grant_type", "client_credentials", "client_id", client, "client_secret", secret, "resource", s.URL))
	if status != 200 || m["resource"] != s.URL || m["expires_on"] == nil {
		t.Errorf("v1: %d %v", status, m)
	}
}

func TestASignInThatIsWrongSaysWhy(t *testing.T) {
	s := newSite(t)
	good := []string{"grant_type", "client_credentials", "client_id", client, "client_secret", secret, "scope", s.URL + "/.default"}
	with := func(name, value string) string {
		p := append([]string{}, good...)
		return form(append(p, name, value)...)
	}
	job, _ := s.issuer.Issue(identity.Principal{ID: "j", Kind: identity.Job, Job: "gone"}, s.URL+"/adfs", s.URL, time.Hour)
	for _, c := range []struct {
		name, path, body string
		status           int
		code, aadsts     string
	}{
		{"a wrong secret", "/adfs", with("client_secret", "no"), 401, "invalid_client", "AADSTS7000215"},
		{"no secret", "/adfs", with("client_secret", ""), 401, "invalid_client", "AADSTS7000218"},
		{"an unknown client", "/adfs", with("client_id", "x"), 400, "unauthorized_client", "AADSTS700016"},
		{"no client", "/adfs", with("client_id", ""), 400, "invalid_request", "AADSTS900144"},
		{"no grant type", "/adfs", with("grant_type", ""), 400, "invalid_request", "AADSTS900144"},
		{"another grant type", "/adfs", with("grant_type", "password"), 400, "unsupported_grant_type", "AADSTS70003"},
		{"no scope", "/adfs", with("scope", ""), 400, "invalid_request", "AADSTS900144"},
		{"a scope that is no default", "/adfs", with("scope", s.URL+"/read"), 400, "invalid_scope", "AADSTS1002012"},
		{"a resource elsewhere", "/adfs", with("scope", "https://vault.azure.net/.default"), 400, "invalid_resource", "AADSTS500011"},
		{"another tenant", "/00000000-0000-4000-8000-000000000000", with("x", "y"), 400, "invalid_request", "AADSTS90002"},
		{"a form that is none", "/adfs", "%zz", 400, "invalid_request", "AADSTS900144"},
		{"a body over the limit", "/adfs", strings.Repeat("a", formLimit+1), 413, "invalid_request", ""},
		{"an assertion that is forged", "/adfs", with("client_assertion_type", jwtBearer) + "&client_assertion=x.y.z", 401, "invalid_client", "AADSTS700027"},
		{"an assertion of a job that is gone", "/adfs", with("client_assertion_type", jwtBearer) + "&client_assertion=" + job, 401, "invalid_client", "AADSTS700027"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, m := s.do("POST", c.path+"/oauth2/v2.0/token", c.body)
			text, _ := m["error_description"].(string)
			if status != c.status || m["error"] != c.code || !strings.Contains(text, c.aadsts) {
				t.Errorf("%d %v", status, m)
			}
			if strings.Contains(text, secret) {
				t.Error("the answer repeats the secret")
			}
		})
	}
	if status, _ := s.do("GET", "/adfs/oauth2/v2.0/token", ""); status != 405 {
		t.Errorf("GET of the token endpoint: %d", status)
	}
	if status, _ := s.do("GET", "/adfs/nothing", ""); status != 404 {
		t.Errorf("a path that is none: %d", status)
	}
}

func TestCodeInAJobGetsTokensByItsManagedIdentity(t *testing.T) {
	s := newSite(t)
	job := identity.Principal{ID: "jjjj", Name: "running", Kind: identity.Job, Tenant: tenant, Workspace: "/w", Job: "running"}
	word, err := s.issuer.Issue(job, s.URL+"/adfs", s.URL, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ask := "/msi/token?api-version=2019-08-01&resource=" + url.QueryEscape(s.URL)
	for _, header := range []string{"X-IDENTITY-HEADER", "secret"} {
		status, m := s.do("GET", ask, "", header, word)
		if status != 200 || m["token_type"] != "Bearer" || m["resource"] != s.URL {
			t.Fatalf("%s: %d %v", header, status, m)
		}
		if p, err := s.issuer.Verify(m["access_token"].(string), s.origins.Audience); err != nil || p != job {
			t.Errorf("%+v %v", p, err)
		}
		if _, isText := m["expires_on"].(string); !isText {
			t.Errorf("expires_on is %T; MSAL takes text", m["expires_on"])
		}
	}
	gone, _ := s.issuer.Issue(identity.Principal{ID: "g", Kind: identity.Job, Job: "gone"}, s.URL+"/adfs", s.URL, time.Hour)
	for _, c := range []struct {
		name, path, word string
		status           int
	}{
		{"without the header", ask, "", 400},
		{"with a word that is no token", ask, "guess", 401},
		{"of a job that is gone", ask, gone, 401},
		{"without a resource", "/msi/token?api-version=2019-08-01", word, 400},
		{"for a resource elsewhere", "/msi/token?resource=https://vault.azure.net", word, 400},
	} {
		var header []string
		if c.word != "" {
			header = []string{"X-IDENTITY-HEADER", c.word}
		}
		if status, m := s.do("GET", c.path, "", header...); status != c.status || m["error"] == nil {
			t.Errorf("%s: %d %v", c.name, status, m)
		}
	}
}

func TestAJobsTokenIsAnAssertionOfItsIdentity(t *testing.T) {
	s := newSite(t)
	job := identity.Principal{ID: "jjjj", Name: "running", Kind: identity.Job, Tenant: tenant, Workspace: "/w", Job: "running"}
	word, _ := s.issuer.Issue(job, s.URL+"/adfs", exchangeAudience, time.Hour)
	status, m := s.do("POST", "/adfs/"+tenant+"/oauth2/v2.0/token", form("grant_type", "client_credentials", "client_id", "any",
		"client_assertion_type", jwtBearer, "client_assertion", word, "scope", s.URL+"/.default"))
	if status != 200 {
		t.Fatal(status, m)
	}
	if p, err := s.issuer.Verify(m["access_token"].(string), s.origins.Audience); err != nil || p != job {
		t.Errorf("%+v %v", p, err)
	}
}

func FuzzToken(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	origins, err := edge.NewOrigins(nil, "7443")
	if err != nil {
		f.Fatal(err)
	}
	login := New(origins, identity.NewIssuer(identity.IssuerConfig{Key: key, Tenant: tenant, Trusted: origins.Issuer}), oneClient{})
	f.Add("/adfs/oauth2/v2.0/token", form("grant_type", "client_credentials"), "")
	f.Add("/msi/token", "", "x.y.z")
	f.Fuzz(func(t *testing.T, path, body, word string) {
		r := httptest.NewRequest("POST", "https://localhost:7443/", strings.NewReader(body))
		r.URL.Path = path
		r.Header.Set("X-IDENTITY-HEADER", word)
		w := httptest.NewRecorder()
		login.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code == 200 && strings.Contains(w.Body.String(), "access_token") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
