package identity

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lapis/fault"
)

const (
	here   = "https://localhost:7443"
	tenant = "11111111-2222-4333-8444-555555555555"
)

func atHere(aud string) bool { return strings.TrimSuffix(aud, "/") == here }

func newKey(t testing.TB) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newIssuer(t testing.TB, change ...func(*IssuerConfig)) *Issuer {
	c := IssuerConfig{Key: newKey(t), Tenant: tenant, Trusted: func(iss string) bool { return strings.HasPrefix(iss, here+"/") }}
	for _, f := range change {
		f(&c)
	}
	return NewIssuer(c)
}

var anna = Principal{ID: "aaaaaaaa-0000-4000-8000-000000000001", Name: "anna", Kind: ServicePrincipal, Tenant: tenant, Client: "cccccccc-0000-4000-8000-000000000001"}

func issue(t testing.TB, i *Issuer, p Principal, aud string, ttl time.Duration) string {
	t.Helper()
	token, err := i.Issue(p, here+"/adfs", aud, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenTellsWhoseItIs(t *testing.T) {
	i := newIssuer(t)
	for _, aud := range []string{here, here + "/"} {
		for range 2 { // the second time from the cache
			got, err := i.Verify(issue(t, i, anna, aud, AccessTokenLife), atHere)
			if err != nil {
				t.Fatal(err)
			}
			if got != anna {
				t.Errorf("got %+v, want %+v", got, anna)
			}
		}
	}
}

func TestAToken(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	good := issue(t, i, anna, here, AccessTokenLife)
	parts := strings.Split(good, ".")

	signed := func(method jwt.SigningMethod, key any, change func(jwt.MapClaims)) string {
		now := time.Now()
		c := jwt.MapClaims{"iss": here + "/adfs", "aud": here, "oid": anna.ID, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		if change != nil {
			change(c)
		}
		s, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var body map[string]any
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	json.Unmarshal(raw, &body)
	body["oid"] = "someone else"
	raw, _ = json.Marshal(body)

	for _, c := range []struct{ name, token, code string }{
		{"signed by another server is refused", issue(t, other, anna, here, time.Hour), "InvalidAuthenticationToken"},
		{"with an altered body is refused", parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw) + "." + parts[2], "InvalidAuthenticationToken"},
		{"without a signature is refused", parts[0] + "." + parts[1] + ".", "InvalidAuthenticationToken"},
		{"with the algorithm none is refused", signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), "InvalidAuthenticationToken"},
		{"signed with the public key as a secret is refused", signed(jwt.SigningMethodHS256, i.key.PublicKey.N.Bytes(), nil), "InvalidAuthenticationToken"},
		{"for another audience is refused", issue(t, i, anna, "https://vault.example", time.Hour), "InvalidAuthenticationTokenAudience"},
		{"for a part of our name is refused", issue(t, i, anna, "https://localhost", time.Hour), "InvalidAuthenticationTokenAudience"},
		{"of another issuer is refused", signed(jwt.SigningMethodRS256, i.key, func(c jwt.MapClaims) { c["iss"] = "https://elsewhere/adfs" }), "InvalidAuthenticationToken"},
		{"without an end is refused", signed(jwt.SigningMethodRS256, i.key, func(c jwt.MapClaims) { delete(c, "exp") }), "InvalidAuthenticationToken"},
		{"that is no token is refused", "not-a-token", "InvalidAuthenticationToken"},
		{"that is empty is refused", "", "InvalidAuthenticationToken"},
		{"of a job is refused where no jobs are known", issue(t, i, Principal{ID: "j", Kind: Job, Job: "j"}, here, time.Hour), "InvalidAuthenticationToken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				_, err := i.Verify(c.token, atHere)
				f := fault.Find(err)
				if f == nil || f.Kind != fault.Unauthenticated || f.Code != c.code {
					t.Fatalf("got %v (%+v), want %s", err, f, c.code)
				}
				if c.token != "" && strings.Contains(f.Message, c.token) {
					t.Error("the message repeats the token")
				}
			}
		})
	}
}

func TestATokenEndsAfterItsTimeAndFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		token := issue(t, i, anna, here, time.Hour)
		for _, step := range []struct {
			wait time.Duration
			code string
		}{
			{0, ""}, {64 * time.Minute, ""}, {2 * time.Minute, "ExpiredAuthenticationToken"},
		} {
			time.Sleep(step.wait)
			_, err := i.Verify(token, atHere)
			if f := fault.Find(err); (step.code == "") != (err == nil) || f != nil && f.Code != step.code {
				t.Errorf("after %s more: %v, want code %q", step.wait, err, step.code)
			}
		}
	})
}

func TestAClockMayBeFiveMinutesBehind(t *testing.T) {
	now := time.Now()
	clock := now
	i := newIssuer(t, func(c *IssuerConfig) { c.Now = func() time.Time { return clock } })
	token := issue(t, i, anna, here, time.Hour)
	clock = now.Add(-4 * time.Minute)
	if _, err := i.Verify(token, atHere); err != nil {
		t.Error(err)
	}
	clock = now.Add(-6 * time.Minute)
	if _, err := i.Verify(token, atHere); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestAJobsTokenOutlivesTheJobByTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended time.Time
		gone := false
		i := newIssuer(t, func(c *IssuerConfig) {
			c.Jobs = func(workspace, job string) (time.Time, error) {
				if gone || workspace != "/w" || job != "train" {
					return time.Time{}, fault.NotFound("no job %s", job)
				}
				return ended, nil
			}
		})
		job := Principal{ID: "j1", Name: "train", Kind: Job, Tenant: tenant, Workspace: "/w", Job: "train"}
		token := issue(t, i, job, here, time.Minute)
		works := func(want bool, when string) {
			t.Helper()
			p, err := i.Verify(token, atHere)
			if (err == nil) != want {
				t.Errorf("%s: %v", when, err)
			}
			if err == nil && p != job {
				t.Errorf("%s: got %+v", when, p)
			}
		}
		works(true, "at the start")
		time.Sleep(20 * 24 * time.Hour)
		works(true, "after twenty days")
		ended = time.Now()
		time.Sleep(9 * time.Minute)
		works(true, "nine minutes after the end")
		time.Sleep(2 * time.Minute)
		works(false, "eleven minutes after the end")
		ended, gone = time.Time{}, true
		works(false, "when the job is deleted")
	})
}

type memoryTokens map[string]LongToken

func (m memoryTokens) Find(id string) (LongToken, error) {
	if t, ok := m[id]; ok {
		return t, nil
	}
	return LongToken{}, fault.NotFound("no token")
}

func TestALongTokenWorksUntilItIsRevokedOrExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := memoryTokens{}
		i := newIssuer(t, func(c *IssuerConfig) { c.Long = tokens })
		word, stored := NewLongToken(anna, "test", time.Now())
		if strings.Contains(fmt.Sprintf("%+v", stored), word) {
			t.Fatal("what is stored holds the token")
		}
		tokens[stored.ID] = stored
		if p, err := i.Verify(word, atHere); err != nil || p != anna {
			t.Fatal(p, err)
		}
		if _, err := i.Verify(stored.ID, atHere); err == nil {
			t.Error("what is stored works as a token")
		}
		if _, err := i.Verify(longTokenPrefix+stored.ID, atHere); err == nil {
			t.Error("what is stored works as a token")
		}
		delete(tokens, stored.ID)
		if _, err := i.Verify(word, atHere); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("after it is revoked: %v", err)
		}
		tokens[stored.ID] = stored
		time.Sleep(LongTokenLife + time.Second)
		if _, err := i.Verify(word, atHere); fault.Find(err) == nil || fault.Find(err).Code != "ExpiredAuthenticationToken" {
			t.Errorf("after thirty days: %v", err)
		}
	})
}

func TestThePublishedKeyVerifiesATokenWithoutOurCode(t *testing.T) {
	i := newIssuer(t)
	var set struct {
		Keys []struct{ Kid, N, E, Kty, Alg string }
	}
	if err := json.Unmarshal(i.Keys(), &set); err != nil {
		t.Fatal(err)
	}
	n, _ := base64.RawURLEncoding.DecodeString(set.Keys[0].N)
	e, _ := base64.RawURLEncoding.DecodeString(set.Keys[0].E)
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	token, err := jwt.Parse(issue(t, i, anna, here, time.Hour), func(token *jwt.Token) (any, error) {
		if token.Header["kid"] != set.Keys[0].Kid {
			t.Errorf("kid %v, published %v", token.Header["kid"], set.Keys[0].Kid)
		}
		return public, nil
	})
	if err != nil || !token.Valid {
		t.Fatal(err)
	}
}

func TestManyTokensDoNotFillTheMemory(t *testing.T) {
	i := newIssuer(t)
	i.limit = 3
	first := issue(t, i, anna, here, time.Hour)
	for n := range 10 {
		if _, err := i.Verify(issue(t, i, anna, here, time.Hour+time.Duration(n)*time.Second), atHere); err != nil {
			t.Fatal(err)
		}
		if _, err := i.Verify(first, atHere); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.cache) != 3 || i.recent.Len() != 3 {
		t.Errorf("%d tokens by hash, %d in order, want 3", len(i.cache), i.recent.Len())
	}
}

func BenchmarkVerify(b *testing.B) {
	i := newIssuer(b)
	token := issue(b, i, anna, here, time.Hour)
	b.Run("seen before", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := i.Verify(token, atHere); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			clear(i.cache)
			i.recent.Init()
			if _, err := i.Verify(token, atHere); err != nil {
				b.Error(err)
			}
		}
	})
}

func TestTheOneAudienceOfATokenStandsByItself(t *testing.T) {
	i := newIssuer(t)
	part := strings.Split(issue(t, i, Principal{ID: "o", Kind: User}, here, time.Hour), ".")[1]
	raw, err := base64.RawURLEncoding.DecodeString(part)
	var body map[string]any
	if err != nil || json.Unmarshal(raw, &body) != nil || body["aud"] != here {
		t.Errorf("%s: %v", raw, err)
	}
}
