package gateway

import (
	"container/list"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lapis/edge"
	"lapis/ml/serving"
	"lapis/resource/identity"
)

// admit tells who calls: the hash of the key or token that the request carries.
func (t *table) admit(rt *route, r *http.Request, checks *tokens) (keyHash, *refusal) {
	var none keyHash
	if rt.Auth == "" {
		return none, nil
	}
	word := bearer(r.Header)
	if word == "" {
		return none, unauthorized
	}
	h := keyHash(sha256.Sum256([]byte(word)))
	switch rt.Auth {
	case serving.AuthKey:
		if rt.knows(h) {
			return h, nil
		}
	case serving.AuthAMLToken, serving.AuthAADToken:
		c := checks.find(h, t.trust)
		if c == nil {
			if c = t.trust.parse(word); c == nil {
				return none, unauthorized
			}
			checks.put(h, t.trust, c)
		}
		if c.good(rt, t.trust, time.Now()) {
			return h, nil
		}
	}
	return none, unauthorized
}

// bearer is the word that the Authorization header carries.
func bearer(h http.Header) string {
	v := h["Authorization"]
	if len(v) != 1 {
		return ""
	}
	scheme, word, _ := strings.Cut(v[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(word)
}

// trust is how tokens are checked.
type trust struct {
	serving.Trust
	key crypto.PublicKey // nil: no token is good
}

func newTrust(t serving.Trust) *trust {
	out := &trust{Trust: t}
	if key, err := x509.ParsePKIXPublicKey(t.Key); err == nil {
		out.key = key
	}
	return out
}

// claims are what is read of a token.
type claims struct {
	jwt.RegisteredClaims
	Tenant   string        `json:"tid"`
	Kind     identity.Kind `json:"lapis_kind"`
	Endpoint string        `json:"lapis_endpoint"`
	Epoch    string        `json:"lapis_epoch"`
}

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// parse returns what a token of ours says, nil if it is none.
func (t *trust) parse(token string) *claims {
	if t.key == nil || len(token) > maxToken {
		return nil
	}
	var c claims
	// Times are looked at with each request: what is remembered grows old.
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.key, nil }); err != nil {
		return nil
	}
	if c.ExpiresAt == nil {
		return nil
	}
	return &c
}

// good tells whether a token of ours opens the endpoint now.
func (c *claims) good(rt *route, t *trust, now time.Time) bool {
	if !now.Before(c.ExpiresAt.Time) || c.NotBefore != nil && now.Before(c.NotBefore.Add(-identity.ClockSkew)) {
		return false
	}
	if rt.Auth == serving.AuthAMLToken {
		return c.Endpoint != "" && strings.EqualFold(c.Endpoint, rt.ID) && c.Epoch == rt.Epoch
	}
	return c.Endpoint == "" && c.Tenant == t.Tenant &&
		(c.Kind == identity.User || c.Kind == identity.ServicePrincipal) &&
		slices.ContainsFunc(c.Audience, t.audience)
}

// audience tells whether a token for it may be used here.
func (t *trust) audience(aud string) bool {
	aud = strings.TrimSuffix(aud, "/")
	return aud == "https://ml.azure.com" || aud == edge.MLAudience || slices.Contains(t.Audiences, aud)
}

// tokens remembers what tokens say whose signature was verified, those that
// were used last.
type tokens struct {
	mu     sync.Mutex
	by     map[keyHash]*list.Element
	recent *list.List // of *checkedToken, the newest in front
}

type checkedToken struct {
	hash   keyHash
	trust  string // the key that verified it
	claims *claims
}

const cachedTokens = 4096

func newTokens() *tokens { return &tokens{by: map[keyHash]*list.Element{}, recent: list.New()} }

func (s *tokens) find(h keyHash, t *trust) *claims {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.by[h]
	if e == nil || e.Value.(*checkedToken).trust != string(t.Key) {
		return nil
	}
	s.recent.MoveToFront(e)
	return e.Value.(*checkedToken).claims
}

func (s *tokens) put(h keyHash, t *trust, c *claims) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.by[h]; e != nil {
		s.recent.Remove(e)
	}
	s.by[h] = s.recent.PushFront(&checkedToken{h, string(t.Key), c})
	if s.recent.Len() > cachedTokens {
		last := s.recent.Remove(s.recent.Back()).(*checkedToken)
		delete(s.by, last.hash)
	}
}
