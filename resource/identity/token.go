package identity

import (
	"container/list"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lapis/fault"
)

// How long tokens are good for.
const (
	AccessTokenLife = time.Hour           // of a client credential's token
	JobTokenGrace   = 10 * time.Minute    // a job's token outlives the job by this
	LongTokenLife   = 30 * 24 * time.Hour // of a token that `lapis connect` hands out

	// ClockSkew is how far a clock may be off before tokens stop working.
	ClockSkew = 5 * time.Minute

	// A job's token carries a far end only so that it has one; what ends it is
	// the end of the job.
	jobTokenLife = 366 * 24 * time.Hour

	cachedTokens  = 8192
	jobCheckedFor = 2 * time.Second
)

// JobState tells whether a job's token still works: ended is the time the job
// became terminal, zero while it has not. A job that is not known is fault.Missing.
type JobState func(workspace, job string) (ended time.Time, err error)

// Issuer signs tokens (JWT, RS256) and checks them. It is safe for use by many
// goroutines at once.
type Issuer struct {
	key     *rsa.PrivateKey
	kid     string
	tenant  string
	trusted func(issuer string) bool
	jobs    JobState
	long    LongTokens
	now     func() time.Time

	limit  int // of verified tokens that are remembered
	mu     sync.Mutex
	cache  map[[sha256.Size]byte]*list.Element
	recent *list.List // of *checked, the newest in front
	alive  map[string]time.Time
}

// checked is a token whose signature has been verified.
type checked struct {
	hash   [sha256.Size]byte
	claims claims
}

// IssuerConfig is what an Issuer needs to know.
type IssuerConfig struct {
	Key    *rsa.PrivateKey
	Tenant string // GUID

	// Trusted tells whether a token's "iss" is a name of this server.
	Trusted func(issuer string) bool

	Jobs JobState         // nil: no job's token is accepted
	Long LongTokens       // nil: no long token is accepted
	Now  func() time.Time // nil: time.Now
}

// NewIssuer returns an Issuer that signs with the key.
func NewIssuer(c IssuerConfig) *Issuer {
	if c.Now == nil {
		c.Now = time.Now
	}
	sum := sha256.Sum256(x509.MarshalPKCS1PublicKey(&c.Key.PublicKey))
	return &Issuer{
		key:     c.Key,
		kid:     base64.RawURLEncoding.EncodeToString(sum[:12]),
		tenant:  c.Tenant,
		trusted: c.Trusted,
		jobs:    c.Jobs,
		long:    c.Long,
		now:     c.Now,
		limit:   cachedTokens,
		cache:   map[[sha256.Size]byte]*list.Element{},
		recent:  list.New(),
		alive:   map[string]time.Time{},
	}
}

// claims are what a token says. Workspace and Job are ours, the rest is as the
// Microsoft identity platform has it.
type claims struct {
	jwt.RegisteredClaims
	Audience  audiences `json:"aud"` // in place of the registered one
	Tenant    string    `json:"tid,omitempty"`
	Object    string    `json:"oid,omitempty"`
	App       string    `json:"appid,omitempty"`
	Authn     string    `json:"appidacr,omitempty"` // "1": proven by a secret
	IDType    string    `json:"idtyp,omitempty"`
	Version   string    `json:"ver,omitempty"`
	Name      string    `json:"name,omitempty"`
	Kind      Kind      `json:"lapis_kind,omitempty"`
	Workspace string    `json:"lapis_workspace,omitempty"`
	Job       string    `json:"lapis_job,omitempty"`

	// Of a token that scores at one endpoint and does nothing else.
	Endpoint string `json:"lapis_endpoint,omitempty"` // resource id, lower case
	Epoch    string `json:"lapis_epoch,omitempty"`
}

// audiences are whom a token is for. One stands by itself, as the Microsoft
// identity platform writes it: the SDK compares it with a string before it sends
// a job on behalf of a user, and refuses a list.
type audiences []string

func (a audiences) MarshalJSON() ([]byte, error) {
	if len(a) == 1 {
		return json.Marshal(a[0])
	}
	return json.Marshal([]string(a))
}

func (a *audiences) UnmarshalJSON(raw []byte) error {
	var several jwt.ClaimStrings
	if err := several.UnmarshalJSON(raw); err != nil {
		return err
	}
	*a = audiences(several)
	return nil
}

func (c *claims) principal() Principal {
	return Principal{
		ID: c.Object, Name: c.Name, Kind: c.Kind, Tenant: c.Tenant, Client: c.App,
		Workspace: c.Workspace, Job: c.Job,
	}
}

// Issue signs a token for the principal. The issuer is the address under which
// the token was asked for; the audience stands in it exactly as asked. A job's
// token ignores ttl: it is good until ten minutes after the job has ended.
func (i *Issuer) Issue(p Principal, issuer, audience string, ttl time.Duration) (string, error) {
	now := i.now()
	if p.Job != "" {
		ttl = jobTokenLife
	}
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Subject:   p.ID,
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Audience: audiences{audience}, Tenant: i.tenant, Object: p.ID, App: p.Client, Authn: "1", Version: "1.0",
		Name: p.Name, Kind: p.Kind, Workspace: p.Workspace, Job: p.Job,
	}
	if p.Kind != User {
		c.IDType = "app"
	}
	return i.sign(c)
}

// scoringAudience is whom tokens that score are for, whatever this server's names.
const scoringAudience = "https://ml.azure.com"

// IssueScoring signs a token with which the principal may score at one endpoint,
// for as long as the endpoint is of that epoch. Verify takes no such token.
func (i *Issuer) IssueScoring(p Principal, issuer, endpoint, epoch string, ttl time.Duration) (string, error) {
	now := i.now()
	return i.sign(claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Subject:   p.ID,
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Audience: audiences{scoringAudience}, Tenant: i.tenant, Object: p.ID, App: p.Client, Version: "1.0",
		Name: p.Name, Kind: p.Kind, Endpoint: strings.ToLower(endpoint), Epoch: epoch,
	})
}

func (i *Issuer) sign(c claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	t.Header["kid"] = i.kid
	return t.SignedString(i.key)
}

// Verify returns the principal whose token it is. Errors are faults of kind
// Unauthenticated with one of the codes InvalidAuthenticationToken,
// ExpiredAuthenticationToken, InvalidAuthenticationTokenAudience.
func (i *Issuer) Verify(token string, audience func(string) bool) (Principal, error) {
	if strings.HasPrefix(token, longTokenPrefix) {
		return i.verifyLong(token)
	}
	c, err := i.parse(token)
	if err != nil {
		return Principal{}, err
	}
	now := i.now()
	if now.After(c.ExpiresAt.Add(ClockSkew)) {
		return Principal{}, expired("The access token expired on %s. Ask for a new one.", c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if now.Before(c.NotBefore.Add(-ClockSkew)) {
		return Principal{}, fault.Unknown("The access token is not valid before %s; this server's clock says %s. Set the clock right.",
			c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if !slices.ContainsFunc(c.Audience, audience) {
		return Principal{}, fault.Unknown("The access token is for the audience %q, which is not this server. Ask for a token with the scope that `lapis connect` names.",
			strings.Join(c.Audience, " ")).With("InvalidAuthenticationTokenAudience")
	}
	if !i.trusted(c.Issuer) {
		return Principal{}, fault.Unknown("The access token was issued by %q, which is not a name of this server. Sign in again.", c.Issuer)
	}
	if c.Endpoint != "" {
		return Principal{}, fault.Unknown("The access token scores at the endpoint %q and does nothing else. Sign in for a token of your own.", c.Endpoint[strings.LastIndexByte(c.Endpoint, '/')+1:])
	}
	if c.Job != "" {
		if err := i.jobAlive(c.Workspace, c.Job, now); err != nil {
			return Principal{}, err
		}
	}
	return c.principal(), nil
}

func expired(format string, args ...any) *fault.Error {
	return fault.Unknown(format, args...).With("ExpiredAuthenticationToken")
}

// parse checks the signature, once for each token: verifying RSA costs more
// than the rest of a small request.
func (i *Issuer) parse(token string) (*claims, error) {
	hash := sha256.Sum256([]byte(token))
	i.mu.Lock()
	if e, ok := i.cache[hash]; ok {
		i.recent.MoveToFront(e)
		c := &e.Value.(*checked).claims
		i.mu.Unlock()
		return c, nil
	}
	i.mu.Unlock()

	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return &i.key.PublicKey, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}),
		jwt.WithoutClaimsValidation(), // the times are checked at every use, see Verify
	)
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, fault.Unknown("The access token is not a well-formed JWT.").From(err)
	case err != nil:
		return nil, fault.Unknown("The access token was not signed by this server. Sign in again: tokens of another server, or from before its data folder was made anew, do not work here.").From(err)
	case c.ExpiresAt == nil || c.NotBefore == nil || c.Object == "":
		return nil, fault.Unknown("The access token lacks one of the claims exp, nbf, oid.")
	}

	i.mu.Lock()
	defer i.mu.Unlock()
	if e, ok := i.cache[hash]; ok { // someone else was faster
		return &e.Value.(*checked).claims, nil
	}
	entry := &checked{hash: hash, claims: c}
	i.cache[hash] = i.recent.PushFront(entry)
	if i.recent.Len() > i.limit {
		oldest := i.recent.Remove(i.recent.Back()).(*checked)
		delete(i.cache, oldest.hash)
	}
	return &entry.claims, nil
}

// jobAlive says whether a job's token still works. The answer is kept for two
// seconds, so a script that logs fast does not ask the store each time.
func (i *Issuer) jobAlive(workspace, job string, now time.Time) error {
	if i.jobs == nil {
		return fault.Unknown("This server knows no jobs.")
	}
	key := workspace + "\x00" + job
	i.mu.Lock()
	at, ok := i.alive[key]
	i.mu.Unlock()
	if ok && now.Sub(at) < jobCheckedFor {
		return nil
	}
	ended, err := i.jobs(workspace, job)
	switch {
	case fault.Is(err, fault.Missing):
		return fault.Unknown("The access token belongs to the job %q, which does not exist any more.", job).From(err)
	case err != nil:
		return err
	case !ended.IsZero() && now.After(ended.Add(JobTokenGrace)):
		return expired("The access token belongs to the job %q, which ended on %s.", job, ended.UTC().Format(time.RFC3339))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.alive) >= cachedTokens {
		clear(i.alive)
	}
	i.alive[key] = now
	return nil
}

// Keys returns the public keys as a JWK set (RFC 7517).
func (i *Issuer) Keys() []byte {
	pub := &i.key.PublicKey
	set := map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": i.kid,
		"n": base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()),
	}}}
	out, _ := json.Marshal(set)
	return out
}

// Tenant is the GUID of the tenant whose tokens these are.
func (i *Issuer) Tenant() string { return i.tenant }
