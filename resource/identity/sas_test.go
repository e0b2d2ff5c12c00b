package identity

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"lapis/fault"
)

var (
	sasKey = []byte("0123456789abcdef0123456789abcdef")
	noon   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func query(t *testing.T, s string) url.Values {
	t.Helper()
	q, err := url.ParseQuery(s)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestASignatureCarriesItsWholeGrant(t *testing.T) {
	s := NewSAS(sasKey)
	for _, g := range []Grant{
		{Account: "a", Container: "c", Permissions: "racwdl", Expires: noon.Add(time.Hour)},
		{Account: "store", Container: "c-1", Prefix: "ExperimentRun/dcid.job 1/ü&=", Permissions: "r", Starts: noon, Expires: noon.Add(time.Second), Principal: "guid"},
		{Account: "store", Container: "c-1", Prefix: "logs/std log.txt", Blob: true, Permissions: "rl", Expires: noon.Add(time.Hour)},
		{Account: "store", Container: "c-1", Prefix: "folder/", Blob: true, Permissions: "r", Expires: noon.Add(time.Hour)},
	} {
		signed := s.Sign(g)
		got, err := s.Verify(query(t, signed+"&comp=list&prefix=x"), noon)
		if err != nil || got != g {
			t.Errorf("%s\ngives %+v, %v\nwant  %+v", signed, got, err, g)
		}
		for k := range query(t, signed) {
			if !strings.Contains(" sv ss sr sp st se spr sip si sig ", " "+k+" ") {
				t.Errorf("%q is no key of a SAS: clients would take the query for an account key", k)
			}
		}
	}
}

func TestASignatureIsRefused(t *testing.T) {
	s := NewSAS(sasKey)
	good := s.Sign(Grant{Account: "a", Container: "c", Permissions: "r", Starts: noon, Expires: noon.Add(time.Hour)})
	change := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in %q", from, good)
		}
		return strings.Replace(good, from, to, 1)
	}
	for _, x := range []struct {
		name, query string
		now         time.Time
	}{
		{"at its expiry", good, noon.Add(time.Hour)},
		{"long before its start", good, noon.Add(-sasSkew - time.Second)},
		{"with more permissions", change("sp=r", "sp=rw"), noon},
		{"with fewer permissions", change("sp=r", "sp="), noon},
		{"for another scope", change("sr=c", "sr=b"), noon},
		{"with a later expiry", change("se=2026", "se=2027"), noon},
		{"without its start", change("&st=2026-11-21T12%3A00%3A00Z", ""), noon},
		{"of another version", change("sv=2021", "sv=2022"), noon},
		{"with a key twice", good + "&sp=rw", noon},
		{"without a signature", good[:strings.Index(good, "&sig=")], noon},
		{"with an empty signature", good[:strings.Index(good, "&sig=")] + "&sig=", noon},
		{"with a stub", "sv=2021-12-02&sr=c&sp=racwdl&se=2030-01-01T00%3A00%3A00Z&sig=c3R1Yg==", noon},
		{"of another key", NewSAS([]byte("another key of 16 or more")).Sign(Grant{Account: "a", Container: "c", Permissions: "r", Expires: noon.Add(time.Hour)}), noon},
	} {
		g, err := s.Verify(query(t, x.query), x.now)
		f := fault.Find(err)
		if f == nil || f.Kind != fault.Forbidden || f.Code != "AuthenticationFailed" || g != (Grant{}) {
			t.Errorf("%s: %+v, %v", x.name, g, err)
		}
	}
	if _, err := s.Verify(query(t, good), noon.Add(-sasSkew)); err != nil {
		t.Errorf("a clock that is five minutes behind: %v", err)
	}
	sig := query(t, good).Get("sig")
	for i := range sig {
		other := byte('A')
		if sig[i] == other {
			other = 'B'
		}
		q := query(t, good)
		q.Set("sig", sig[:i]+string(other)+sig[i+1:])
		if g, err := s.Verify(q, noon); err == nil {
			t.Errorf("with character %d of the signature changed it gives %+v", i, g)
		}
	}
}

func TestAGrantCoversItsFolderAndNoNeighbour(t *testing.T) {
	for _, x := range []struct {
		grant Grant
		key   string
		want  bool
	}{
		{Grant{}, "any/key", true},
		{Grant{Prefix: "a/b"}, "a/b", true},
		{Grant{Prefix: "a/b"}, "a/b/c", true},
		{Grant{Prefix: "a/b"}, "a/bc", false},
		{Grant{Prefix: "a/b"}, "a", false},
		{Grant{Prefix: "a/b", Blob: true}, "a/b", true},
		{Grant{Prefix: "a/b", Blob: true}, "a/b/c", false},
		{Grant{Blob: true}, "a", false},
	} {
		if got := x.grant.Covers(x.key); got != x.want {
			t.Errorf("%+v covers %q: %v", x.grant, x.key, got)
		}
	}
}

// What verifies was signed: signing the grant again gives the same query.
func FuzzVerify(f *testing.F) {
	s := NewSAS(sasKey)
	f.Add(s.Sign(Grant{Account: "a", Container: "c", Prefix: "p", Permissions: "racwdl", Expires: noon.Add(time.Hour)}))
	f.Add(s.Sign(Grant{Account: "a", Container: "c", Prefix: "p", Blob: true, Permissions: "r", Starts: noon, Expires: noon.Add(time.Hour), Principal: "x"}))
	f.Add("sv=2021-12-02&sr=c&sp=r&se=2030-01-01T00%3A00%3A00Z&sig=c3R1Yg")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		g, err := s.Verify(q, noon)
		if err != nil {
			if fault.Find(err) == nil {
				t.Fatalf("not a fault: %v", err)
			}
			return
		}
		again := query(t, s.Sign(g))
		for k := range again {
			if k != "sig" && again.Get(k) != q.Get(k) {
				t.Fatalf("%q verifies, and its grant is signed as %q", raw, again.Encode())
			}
		}
	})
}

func FuzzSign(f *testing.F) {
	s := NewSAS(sasKey)
	f.Add("a", "c", "p/q", "guid", true)
	f.Add("", "", "", "", false)
	f.Fuzz(func(t *testing.T, account, container, prefix, principal string, one bool) {
		g := Grant{Account: account, Container: container, Prefix: prefix, Principal: principal, Blob: one, Permissions: "rl", Expires: noon.Add(time.Minute)}
		got, err := s.Verify(query(t, s.Sign(g)), noon)
		if !one {
			g.Prefix = strings.TrimSuffix(g.Prefix, "/")
		}
		if err != nil || got != g {
			t.Fatalf("%+v became %+v, %v", g, got, err)
		}
	})
}
