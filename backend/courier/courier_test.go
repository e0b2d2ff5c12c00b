package courier_test

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lapis/backend/courier"
	"lapis/fault"
	"lapis/ml/webhook"
)

func TestAddressesThatAreNotPublicAreRefused(t *testing.T) {
	c := courier.New(courier.Config{})
	for _, host := range []string{
		"127.0.0.1", "[::1]", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1",
		"198.18.0.1", "192.0.2.1", "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[2002:7f00:1::]", "[64:ff9b::a00:1]",
		"[64:ff9b:1::1]", "[2001:db8::1]", "[ff02::1]", "[::]", "localhost",
	} {
		err := c.Check(t.Context(), "https://"+host+"/in")
		if !fault.Is(err, fault.BadRequest) || !strings.Contains(err.Error(), "non-public") {
			t.Errorf("%s: %v", host, err)
		}
		if _, err := c.Send(t.Context(), webhook.Message{URL: "https://" + host + ":1/in"}); !fault.Is(err, fault.BadRequest) {
			t.Errorf("a message to %s: %v", host, err)
		}
	}
	for _, host := range []string{"8.8.8.8", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "[2002:808:808::]", "[64:ff9b::808:808]"} {
		if err := c.Check(t.Context(), "https://"+host+"/in"); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestOnlyHTTPSIsSpoken(t *testing.T) {
	c := courier.New(courier.Config{Private: true})
	for _, address := range []string{"http://127.0.0.1/", "ftp://127.0.0.1/", "127.0.0.1", "", " ", "https://", "https://h:99999/", "https://h:x/", "https://%zz/", "file:///etc/passwd", "\x00"} {
		if err := c.Check(t.Context(), address); !fault.Is(err, fault.BadRequest) {
			t.Errorf("%q: %v", address, err)
		}
	}
	if _, err := c.Send(t.Context(), webhook.Message{URL: "http://127.0.0.1:1/"}); !fault.Is(err, fault.BadRequest) {
		t.Error(err)
	}
}

func serve(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *courier.Courier) {
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, courier.New(courier.Config{Private: true, Roots: roots})
}

func TestTheAnswerTellsStatusBodyAndWhenToComeBack(t *testing.T) {
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, r.Method+" "+r.Header.Get("X"), strings.Repeat("x", 1<<20))
	})
	a, err := c.Send(t.Context(), webhook.Message{URL: s.URL, Header: map[string]string{"X": "y"}, Body: []byte("{}")})
	if err != nil || a.Status != 429 || a.RetryAfter != 7*time.Second || !strings.HasPrefix(a.Body, "POST y") || len(a.Body) != 64<<10 {
		t.Errorf("%v: %d after %v, %d bytes", err, a.Status, a.RetryAfter, len(a.Body))
	}
}

func TestARedirectLeadsToHTTPSAloneAndNotForever(t *testing.T) {
	s, c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/plain" {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
			return
		}
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	for _, path := range []string{"/plain", "/round"} {
		if a, err := c.Send(t.Context(), webhook.Message{URL: s.URL + path, Body: []byte("{}")}); err == nil {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

func TestACertificateThatNobodyTrustsIsRefused(t *testing.T) {
	s, _ := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the message was sent") })
	s.Config.ErrorLog = nil
	c := courier.New(courier.Config{Private: true, Roots: x509.NewCertPool()})
	if _, err := c.Send(t.Context(), webhook.Message{URL: s.URL, Body: []byte("{}")}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}
