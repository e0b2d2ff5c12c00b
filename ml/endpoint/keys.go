package endpoint

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/serving"
	"lapis/resource"
)

// keyring is what an endpoint's callers prove themselves by. It is sealed.
type keyring struct {
	Primary   string `json:"primaryKey"`
	Secondary string `json:"secondaryKey"`
	Epoch     string `json:"epoch"` // of the tokens that are good
}

// keyringName names the sealed keyring of an endpoint.
const keyringName = "keys"

// Bounds of a key that the user chose, in bytes.
const (
	minKey = 8
	maxKey = 512
)

func newKeyring() keyring {
	return keyring{Primary: newKey(), Secondary: newKey(), Epoch: resource.NewGUID()}
}

func newKey() string {
	key := make([]byte, 32)
	rand.Read(key)
	return base64.StdEncoding.EncodeToString(key)
}

// hashes are the SHA-256 of the keys, in hex.
func (k keyring) hashes() []string {
	var hashes []string
	for _, key := range []string{k.Primary, k.Secondary} {
		sum := sha256.Sum256([]byte(key))
		hashes = append(hashes, hex.EncodeToString(sum[:]))
	}
	return hashes
}

// keyring reads the keyring of an endpoint.
func (s *Service) keyring(ctx context.Context, id resource.ID) (keyring, error) {
	var k keyring
	sealed, err := s.Resources.Secret(ctx, id, keyringName)
	if err != nil {
		return k, err
	}
	if sealed == nil {
		return k, fmt.Errorf("the endpoint %s has no keys", id)
	}
	opened, err := s.Sealer.Open(id.Key(), keyringName, sealed)
	if err != nil {
		return k, fmt.Errorf("open the keys of %s: %w", id, err)
	}
	return k, json.Unmarshal(opened, &k)
}

func (s *Service) sealed(id resource.ID, k keyring) resource.Sealed {
	raw, err := json.Marshal(k)
	if err != nil {
		panic("a keyring cannot be JSON: " + err.Error())
	}
	return resource.Sealed{Owner: id, Name: keyringName, Value: s.Sealer.Seal(id.Key(), keyringName, raw)}
}

// admitKeys makes the keys of a new endpoint, and takes those that a client
// sends: they are kept sealed and are no property for anyone to read.
func (s *Service) admitKeys(ctx context.Context, c *resource.Change, p resource.Document) error {
	var given struct {
		Primary   *string `json:"primaryKey"`
		Secondary *string `json:"secondaryKey"`
	}
	if raw, ok := p["keys"]; ok {
		if err := json.Unmarshal(raw, &given); err != nil {
			return resource.WrongJSON(err, "properties.keys")
		}
	}
	delete(p, "keys")
	k := newKeyring()
	if c.Old != nil {
		if given.Primary == nil && given.Secondary == nil {
			return nil
		}
		s.keys.Lock() // no key that is made meanwhile is lost
		defer s.keys.Unlock()
		var err error
		if k, err = s.keyring(ctx, c.Old.ID); err != nil {
			return err
		}
	}
	for _, one := range []struct {
		name  string
		given *string
		to    *string
	}{{"primaryKey", given.Primary, &k.Primary}, {"secondaryKey", given.Secondary, &k.Secondary}} {
		if one.given != nil && *one.given != "" {
			if err := checkKey(*one.given, "properties.keys."+one.name); err != nil {
				return err
			}
			*one.to = *one.given
		}
	}
	if k.Primary == k.Secondary {
		return sameKeys("properties.keys")
	}
	c.Batch.Rows = append(c.Batch.Rows, s.sealed(c.New.ID, k))
	return nil
}

// checkKey refuses a key that no header can carry. It does not repeat it.
func checkKey(key, at string) error {
	if len(key) < minKey || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fault.Invalid("'%s' is no key: it must have %d to %d printable characters without blanks", at, minKey, maxKey).With("ValidationError").At(at)
	}
	return nil
}

func sameKeys(at string) error {
	return fault.Invalid("'%s' makes both keys the same: neither could be replaced alone", at).With("ValidationError").At(at)
}

// listKeys gives the keys to those who may have them.
func (s *Service) listKeys(ctx context.Context, call resource.Call) (any, error) {
	k, err := s.keyring(ctx, call.ID)
	if err != nil {
		return nil, err
	}
	return map[string]string{"primaryKey": k.Primary, "secondaryKey": k.Secondary}, nil
}

// regenerateKeys replaces one key. A value that is the key's present one asks
// for a new one, as clients do that send back what they read; another value is
// the new key.
func (s *Service) regenerateKeys(ctx context.Context, call resource.Call) error {
	var body struct {
		Type  string `json:"keyType"`
		Value string `json:"keyValue"`
	}
	if len(call.Body) > 0 {
		if err := json.Unmarshal(call.Body, &body); err != nil {
			return resource.WrongJSON(err, "")
		}
	}
	s.keys.Lock()
	defer s.keys.Unlock()
	k, err := s.keyring(ctx, call.ID)
	if err != nil {
		return err
	}
	key, other := &k.Primary, k.Secondary
	switch strings.ToLower(body.Type) {
	case "primary":
	case "secondary":
		key, other = &k.Secondary, k.Primary
	default:
		return fault.Invalid("'keyType' is %q; it must be Primary or Secondary", fault.Clip(body.Type)).With("ValidationError").At("keyType")
	}
	switch body.Value {
	case "", *key:
		*key = newKey()
	case other:
		return sameKeys("keyValue")
	default:
		if err := checkKey(body.Value, "keyValue"); err != nil {
			return err
		}
		*key = body.Value
	}
	k.Epoch = resource.NewGUID() // tokens of before go with the key
	if _, err := s.Resources.Commit(ctx, resource.Batch{Rows: []any{s.sealed(call.ID, k)}}); err != nil {
		return err
	}
	if s.Deployer != nil {
		// At once if the gateway is there; the operation waits for it if not.
		_ = s.Deployer.Route(ctx)
	}
	return nil
}

// rekeyed waits until the gateway goes by the new keys.
func (s *Service) rekeyed(ctx context.Context, _ resource.Call) (any, error) {
	if s.Deployer == nil {
		return nil, nil
	}
	return nil, s.Deployer.Route(ctx)
}

// How long tokens for scoring are good, and when clients should ask anew.
const (
	tokenLife    = 12 * time.Hour
	tokenRefresh = 6 * time.Hour
	aadTokenLife = time.Hour
)

// scoringAudience is whom tokens are for that score.
const scoringAudience = "https://ml.azure.com"

// token gives a token to score with: of the endpoint's own, or, where it asks for
// those of the platform, one of the caller's.
func (s *Service) token(ctx context.Context, call resource.Call) (any, error) {
	var p Endpoint
	if err := json.Unmarshal(call.Resource.Properties, &p); err != nil {
		return nil, err
	}
	now, issuer := s.Now(), call.View.Origin+"/adfs"
	life, refresh := tokenLife, tokenRefresh
	var token string
	var err error
	switch p.AuthMode {
	case serving.AuthAMLToken:
		var k keyring
		if k, err = s.keyring(ctx, call.ID); err == nil {
			token, err = s.Issuer.IssueScoring(call.Caller, issuer, call.ID.String(), k.Epoch, life)
		}
	case serving.AuthAADToken:
		life, refresh = aadTokenLife, aadTokenLife/2
		token, err = s.Issuer.Issue(call.Caller, issuer, scoringAudience, life)
	default:
		return nil, fault.Invalid("The endpoint '%s' is called with a key, not with a token: use listKeys.", call.ID.Name()).With("UserError").At(call.ID.String())
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"accessToken": token, "tokenType": "Bearer", "expiryTimeUtc": now.Add(life).Unix(), "refreshAfterTimeUtc": now.Add(refresh).Unix()}, nil
}

// changed turns a commit that found other ground into a fault.
func changed(err error) error {
	if errors.Is(err, resource.ErrChanged) {
		return fault.Conflicts("It was changed by others at the same time; try again.").From(err)
	}
	return err
}
