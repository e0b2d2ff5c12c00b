package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lapis/fault"
)

func newOrigins(t testing.TB, urls ...string) *Origins {
	o, err := NewOrigins(urls, "7443")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAbsoluteURLsNameTheServerAsTheRequestDid(t *testing.T) {
	o := newOrigins(t, "https://lapis.example.com", "https://Box:8443/")
	for _, c := range []struct {
		host  string
		https bool
		want  string
	}{
		{"localhost:7443", true, "https://localhost:7443"},
		{"LOCALHOST:7443", true, "https://localhost:7443"},
		{"localhost:7443", false, "http://localhost:7443"},
		{"[::1]:7443", false, "http://[::1]:7443"},
		{"lapis.example.com", true, "https://lapis.example.com"},
		{"lapis.example.com:443", true, "https://lapis.example.com"},
		{"lapis.example.com", false, "https://lapis.example.com"}, // a proxy in front ends TLS
		{"box:8443", true, "https://box:8443"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host, r.TLS = c.host, nil
		if c.https {
			r.TLS = &tls.ConnectionState{}
		}
		if err := o.Check(r); err != nil {
			t.Errorf("%s: %v", c.host, err)
		}
		if got := o.Base(r); got != c.want {
			t.Errorf("%s, https %v: got %s, want %s", c.host, c.https, got, c.want)
		}
	}
}

func TestRequestsForOtherServersAreRefused(t *testing.T) {
	o := newOrigins(t)
	for _, c := range []struct {
		name, host, origin string
		status             int
	}{
		{"our name", "localhost:7443", "", 0},
		{"a name that resolves here (DNS rebinding)", "evil.example:7443", "", 421},
		{"our name with another port", "localhost:80", "", 421},
		{"no name", "", "", 421},
		{"our own page", "localhost:7443", "https://localhost:7443", 0},
		{"a page of someone else's", "localhost:7443", "https://evil.example", 403},
		{"a page without an origin", "localhost:7443", "null", 403},
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		err := o.Check(r)
		f := fault.Find(err)
		switch {
		case c.status == 0 && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.status != 0 && (f == nil || Status(f.Kind) != c.status):
			t.Errorf("%s: %v, want %d", c.name, err, c.status)
		case c.status == 421 && !strings.Contains(f.Message, "--url"):
			t.Errorf("%s: the message names no remedy: %s", c.name, f.Message)
		}
	}
}

func TestAudiencesAreOurNamesAndThePublicOnes(t *testing.T) {
	o := newOrigins(t, "https://lapis.example.com")
	for aud, want := range map[string]bool{
		"https://localhost:7443": true, "https://localhost:7443/": true, "https://lapis.example.com": true,
		"https://127.0.0.1:7443": true, "http://localhost:7443": true,
		"https://ml.azure.com": true, "https://management.azure.com/": true, "https://storage.azure.com/": true,
		"https://ml.azure.lapis.localhost": true,
		"https://localhost":                false, "https://vault.azure.net": false, "": false,
		"localhost:7443": false, "ftp://localhost:7443": false, "https://localhost:7443/x": false, "https://ml.azure.com.evil.example": false,
	} {
		if got := o.Audience(aud); got != want {
			t.Errorf("Audience(%q) = %v", aud, got)
		}
	}
}

func TestAnAddressThatIsNoOriginIsRefused(t *testing.T) {
	for _, u := range []string{"localhost", "https://", "https://a/b", "https://u@a", "ftp://a", "https://a?x=1", "::"} {
		if _, err := NewOrigins([]string{u}, "7443"); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestEachProtocolGetsItsPaths(t *testing.T) {
	name := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, s+" "+r.URL.Path) })
	}
	router := &Router{Login: name("login"), Blob: name("blob")}
	router.Handle(name("arm"), "subscriptions", "providers")
	router.Handle(name("login"), "metadata", "adfs")
	router.Handle(name("mlflow"), "api", "mlflow")
	for _, c := range []struct{ target, version, want string }{
		{"/subscriptions", "", "arm /subscriptions"},
		{"/SUBSCRIPTIONS/x", "", "arm /SUBSCRIPTIONS/x"},
		{"//metadata/endpoints?api-version=2022-09-01", "", "login /metadata/endpoints"},
		{"/adfs/t/oauth2/v2.0/token", "", "login /adfs/t/oauth2/v2.0/token"},
		{"/t/.well-known/openid-configuration", "", "login /t/.well-known/openid-configuration"},
		{"/t/v2.0/.well-known/openid-configuration", "", "login /t/v2.0/.well-known/openid-configuration"},
		{"/t/oauth2/token", "", "login /t/oauth2/token"},
		{"/api/2.0/mlflow/runs/get", "", "mlflow /api/2.0/mlflow/runs/get"},
		{"/api/2.0/mlflow/runs/get?sig=1", "", "mlflow /api/2.0/mlflow/runs/get"},
		{"/box/a/b.txt?sv=1&sig=abc", "", "blob /box/a/b.txt"},
		{"/box/a/b.txt", "2021-08-06", "blob /box/a/b.txt"},
		{"/box/oauth2/token/x", "2021-08-06", "blob /box/oauth2/token/x"},
		{"/api/a/b.txt?sig=abc", "2021-08-06", "blob /api/a/b.txt"}, // a container named like a protocol
		{"/blob/account/box/a.txt", "", "blob /blob/account/box/a.txt"},
		{"/box/a/b.txt", "", "404"},
		{"/", "", "404"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		u := *r.URL
		u.Path, u.RawQuery, _ = strings.Cut(c.target, "?")
		r.URL = &u
		if c.version != "" {
			r.Header.Set("x-ms-version", c.version)
		}
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		got := w.Body.String()
		if w.Code == 404 {
			got = "404"
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.target, got, c.want)
		}
	}
	if !router.Reserved("Blob") || router.Reserved("box") || router.Reserved("api") {
		t.Error("Reserved does not know what a container cannot be named")
	}
}

func TestTheLogHoldsNoSecretAndTheReplyNamesTheRequest(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	h := Front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("out of cheese")
		}
		w.WriteHeader(201)
		io.WriteString(w, RequestID(r.Context()))
	}), newOrigins(t), log)

	r := httptest.NewRequest("PUT", "http://localhost:7443/box/a?sv=1&sig=TOPSECRET", nil)
	r.Header.Set("Authorization", "Bearer TOPSECRET")
	r.Header.Set("x-ms-client-request-id", "mine")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	id := w.Header().Get("x-ms-request-id")
	if id == "" || id != w.Body.String() || w.Header().Get("x-ms-client-request-id") != "mine" {
		t.Errorf("headers %v, the handler saw %q", w.Header(), w.Body)
	}
	if line := text.String(); strings.Contains(line, "TOPSECRET") || !strings.Contains(line, id) || !strings.Contains(line, "status=201") {
		t.Errorf("log: %s", line)
	}

	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost:7443/panic", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "cheese") || !strings.Contains(w.Body.String(), w.Header().Get("x-ms-request-id")) {
		t.Errorf("after a panic: %d %s", w.Code, w.Body)
	}
	if !strings.Contains(text.String(), "cheese") {
		t.Error("the log does not say why")
	}
}

func TestABodyOverTheLimitOrCutIsTheClientsFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		body   io.Reader
		length int64
		kind   fault.Kind
		want   string
	}{
		{"within the limit", strings.NewReader("12345678"), 8, 0, "12345678"},
		{"of unknown length within the limit", strings.NewReader("12345678"), -1, 0, "12345678"},
		{"empty", strings.NewReader(""), 0, 0, ""},
		{"said to be too long", strings.NewReader("123456789"), 9, fault.TooLarge, ""},
		{"too long without saying so", strings.NewReader("123456789"), -1, fault.TooLarge, ""},
		{"cut in the middle", io.MultiReader(strings.NewReader("123"), errReader{}), 8, fault.BadRequest, ""},
		{"shorter than said", strings.NewReader("123"), 8, fault.BadRequest, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("PUT", "/", nil)
			r.Body, r.ContentLength = io.NopCloser(c.body), c.length
			b, err := ReadBody(httptest.NewRecorder(), r, 8)
			if c.kind == 0 && (err != nil || string(b) != c.want) {
				t.Errorf("got %q, %v", b, err)
			}
			if c.kind != 0 && !fault.Is(err, c.kind) {
				t.Errorf("got %q, %v", b, err)
			}
		})
	}
}

func TestABodyThatNeverComesDoesNotHoldAConnection(t *testing.T) {
	old := bodyWithin
	bodyWithin = 50 * time.Millisecond
	defer func() { bodyWithin = old }()
	canceled := make(chan bool, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := ReadBody(w, r, 1<<20)
		if err != nil {
			WriteError(w, err)
			return
		}
		// The deadline is for the body, not for the work that follows.
		select {
		case <-r.Context().Done():
			canceled <- true
		case <-time.After(4 * bodyWithin):
			canceled <- false
		}
		w.Write(b)
	}))
	defer s.Close()
	dial := func(body string) string {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n%s", body)
		b, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := dial("123"); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "RequestTimeout") {
		t.Errorf("a body that stops: %s", got)
	}
	if got := dial("12345"); !strings.HasSuffix(got, "12345") || <-canceled {
		t.Errorf("a whole body: %s", got)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestOnlyFaultsAreShown(t *testing.T) {
	w := httptest.NewRecorder()
	WriteError(w, errors.New("password is hunter2"))
	if w.Code != 500 || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	WriteError(w, fault.Unknown("who\r\nare \"you\""))
	if h := w.Header().Get("WWW-Authenticate"); w.Code != 401 || !strings.HasPrefix(h, "Bearer ") || strings.ContainsAny(h, "\r\n") {
		t.Errorf("%d %q", w.Code, h)
	}
	for k := fault.Internal; k <= fault.StorageFull; k++ {
		if (Status(k) >= 500) != (k == fault.Internal || k == fault.NotImplemented || k == fault.Unavailable || k == fault.StorageFull) {
			t.Errorf("kind %d has status %d", k, Status(k))
		}
	}
	if RequestID(context.Background()) != "" {
		t.Error("a context without a request has an id")
	}
}

func TestAClientThatSendsAllFirstReadsTheRefusal(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := ReadBody(w, r, 8); err != nil {
			WriteError(w, err)
		}
	}))
	defer s.Close()
	const size = 8 << 20 // more than the socket's buffers hold
	for _, header := range []string{
		fmt.Sprintf("Content-Length: %d\r\n\r\n", size),
		fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", size),
	} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "PUT / HTTP/1.1\r\nHost: x\r\n"+header+strings.Repeat("x", size)+"\r\n0\r\n\r\n"); err != nil {
			t.Fatalf("the connection broke: %v", err)
		}
		reply, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if reply.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%q: %s", header[:10], reply.Status)
		}
	}
}
