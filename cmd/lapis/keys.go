package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/resource/identity"
	"lapis/resource/secret"
)

// keys are the secrets a server lives by.
type keys struct {
	signing *rsa.PrivateKey // tokens
	sas     []byte          // shared access signatures
	sealer  *secret.Sealer  // secrets at rest
}

const sasKeySize = 64 // bytes

// loadKeys reads the keys and makes those that are missing.
func (f *folder) loadKeys() (*keys, error) {
	k := &keys{}
	signing, err := f.keyFile("signing.key", func() ([]byte, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	})
	if err != nil {
		return nil, err
	}
	parsed, err := parsePrivate(signing)
	if err == nil {
		var ok bool
		if k.signing, ok = parsed.(*rsa.PrivateKey); !ok {
			err = errors.New("not an RSA key")
		}
	}
	if err != nil {
		return nil, damaged(f.path("keys", "signing.key"), err)
	}
	if k.sas, err = f.keyFile("sas.key", randomKey(sasKeySize)); err != nil {
		return nil, err
	}
	if k.sealer, err = f.sealer(); err != nil {
		return nil, err
	}
	return k, nil
}

func (f *folder) sealer() (*secret.Sealer, error) {
	seal, err := f.keyFile("seal.key", randomKey(secret.KeySize))
	if err != nil {
		return nil, err
	}
	s, err := secret.NewSealer(seal)
	if err != nil {
		return nil, damaged(f.path("keys", "seal.key"), err)
	}
	return s, nil
}

func randomKey(size int) func() ([]byte, error) {
	return func() ([]byte, error) {
		b := make([]byte, size)
		_, err := rand.Read(b)
		return b, err
	}
}

func damaged(path string, cause error) error {
	return fault.Conflicts("The key %s cannot be read: %v. Restore it from a backup (`lapis restore`).", path, cause).From(cause)
}

// keyFile reads a file in keys/; the first time it makes it.
func (f *folder) keyFile(name string, create func() ([]byte, error)) ([]byte, error) {
	b, err := os.ReadFile(f.path("keys", name))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = create(); err != nil {
		return nil, err
	}
	return b, f.write(filepath.Join("keys", name), b, 0o600)
}

func parsePrivate(pemBytes []byte) (any, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New("not in PEM form")
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

// who names the one tenant, subscription and administrator of a server. They
// are made at first start and never change.
type who struct {
	Tenant       string `json:"tenant"`
	Subscription string `json:"subscription"`
	Group        string `json:"resourceGroup"`
	Workspace    string `json:"workspace"`
	Location     string `json:"location"`
	Admin        struct {
		Name   string `json:"name"`
		Object string `json:"objectId"`
		Client string `json:"clientId"`
	} `json:"admin"`
}

// loadIdentity reads identity.json; the first time it makes it, and the
// administrator's secret.
func (f *folder) loadIdentity() (who, error) {
	var w who
	b, err := os.ReadFile(f.path("identity.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if err := f.makeAdminSecret(); err != nil {
			return w, err
		}
		w = who{Tenant: edge.NewID(), Subscription: edge.NewID(), Group: "lapis", Workspace: "main", Location: "local"}
		w.Admin.Name, w.Admin.Object, w.Admin.Client = "admin", edge.NewID(), edge.NewID()
		b, _ := json.MarshalIndent(w, "", "  ")
		return w, f.write("identity.json", append(b, '\n'), 0o644)
	}
	if err != nil {
		return w, err
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return w, damaged(f.path("identity.json"), err)
	}
	return w, nil
}

// admin is the administrator as a principal.
func (w who) admin() identity.Principal {
	return identity.Principal{ID: w.Admin.Object, Name: w.Admin.Name, Kind: identity.ServicePrincipal, Tenant: w.Tenant, Client: w.Admin.Client}
}

// group is the id of the resource group that the first start makes.
func (w who) group() string { return "/subscriptions/" + w.Subscription + "/resourceGroups/" + w.Group }

// platform is the server itself, when it writes what a job has made.
func (w who) platform() identity.Principal {
	return identity.Principal{ID: w.Tenant, Name: "Lapis", Kind: identity.ServicePrincipal, Tenant: w.Tenant}
}

// The administrator's secret is sealed as if it belonged to a resource.
const adminSecretFile, adminSecretName = "admin.sealed", "clientSecret"

func (f *folder) makeAdminSecret() error {
	sealer, err := f.sealer()
	if err != nil {
		return err
	}
	b := make([]byte, 32)
	rand.Read(b)
	word := base64.RawURLEncoding.EncodeToString(b)
	return f.write(filepath.Join("keys", adminSecretFile), sealer.Seal("/admin", adminSecretName, []byte(word)), 0o600)
}

func (f *folder) adminSecret() (string, error) {
	sealer, err := f.sealer()
	if err != nil {
		return "", err
	}
	path := f.path("keys", adminSecretFile)
	sealed, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	word, err := sealer.Open("/admin", adminSecretName, sealed)
	if err != nil {
		return "", damaged(path, err)
	}
	return string(word), nil
}

// principals are the service principals that may sign in: for now the one.
type principals struct {
	who    who
	secret string
}

func (p *principals) Client(_ context.Context, id, secret string) (identity.Principal, error) {
	if !strings.EqualFold(id, p.who.Admin.Client) {
		return identity.Principal{}, fault.NotFound("There is no service principal %q.", id)
	}
	if subtle.ConstantTimeCompare([]byte(secret), []byte(p.secret)) != 1 {
		return identity.Principal{}, fault.Unknown("The secret of %q is wrong.", id)
	}
	return p.who.admin(), nil
}

// tokenFiles keeps long tokens in keys/tokens, one file each, named by the
// token's hash: to revoke one is to delete its file.
type tokenFiles struct{ f *folder }

const tokenDir = "tokens"

func (t tokenFiles) Find(id string) (identity.LongToken, error) {
	var out identity.LongToken
	b, err := os.ReadFile(t.f.path("keys", tokenDir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return out, fault.NotFound("There is no token %.12s.", id)
	}
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(b, &out)
}

// heldTokens are the token files as the server reads them: each once. That a
// file is still there, and the same, is looked up at most lookAgain later, so that
// a token that another process revokes ends with that.
type heldTokens struct {
	tokenFiles
	held sync.Map // id → heldToken
}

type heldToken struct {
	identity.LongToken
	written, looked time.Time
}

// lookAgain is for how long a server takes a token that is revoked.
const lookAgain = 50 * time.Millisecond

func (t *heldTokens) Find(id string) (identity.LongToken, error) {
	now := time.Now()
	held, known := t.held.Load(id)
	h, _ := held.(heldToken)
	if known && now.Sub(h.looked) < lookAgain {
		return h.LongToken, nil
	}
	st, err := os.Stat(t.f.path("keys", tokenDir, id))
	if err != nil {
		t.held.Delete(id)
		return t.tokenFiles.Find(id) // says what is wrong
	}
	if !known || !h.written.Equal(st.ModTime()) {
		if h.LongToken, err = t.tokenFiles.Find(id); err != nil {
			return h.LongToken, err
		}
	}
	t.held.Store(id, heldToken{h.LongToken, st.ModTime(), now})
	return h.LongToken, nil
}

func (t tokenFiles) put(token identity.LongToken) error {
	if err := os.MkdirAll(t.f.path("keys", tokenDir), 0o700); err != nil {
		return err
	}
	b, _ := json.Marshal(token)
	return t.f.write(filepath.Join("keys", tokenDir, token.ID), b, 0o600)
}

func (t tokenFiles) revoke(id string) error {
	err := os.Remove(t.f.path("keys", tokenDir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return fault.NotFound("There is no token %.12s.", id)
	}
	return err
}

// all lists the tokens; those that have expired are removed on the way.
func (t tokenFiles) all(now time.Time) ([]identity.LongToken, error) {
	entries, err := os.ReadDir(t.f.path("keys", tokenDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []identity.LongToken
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		token, err := t.Find(e.Name())
		if fault.Is(err, fault.Missing) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("token %s: %w", e.Name(), err)
		}
		if now.After(token.Expires) {
			if err := t.revoke(token.ID); err != nil && !fault.Is(err, fault.Missing) {
				return nil, err
			}
			continue
		}
		out = append(out, token)
	}
	return out, nil
}
