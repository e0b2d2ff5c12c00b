// Package connection has connections: how a workspace reaches services outside,
// such as a Git server or a package feed, with the secrets to do so.
package connection

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/pattern"
	"lapis/resource"
)

// Type is the type of connections.
const Type = ml.Workspaces + "/connections"

// Sealer seals values that must not lie in clear on the disk.
type Sealer interface {
	Seal(owner, name string, value []byte) []byte
	Open(owner, name string, sealed []byte) ([]byte, error)
}

// Store keeps connections and what is sealed of them.
type Store interface {
	resource.Store

	// Secret returns a sealed value, or nil if there is none.
	Secret(ctx context.Context, owner resource.ID, name string) ([]byte, error)
}

// credentials are the members that the credentials of each way to sign in must
// have, by the way's name in lower case.
var credentials = map[string]struct {
	name     string
	required []string
}{
	"pat":                    {"PAT", []string{"pat"}},
	"sas":                    {"SAS", []string{"sas"}},
	"usernamepassword":       {"UsernamePassword", []string{"username"}},
	"managedidentity":        {"ManagedIdentity", nil},
	"serviceprincipal":       {"ServicePrincipal", []string{"clientId", "clientSecret", "tenantId"}},
	"accesskey":              {"AccessKey", []string{"accessKeyId", "secretAccessKey"}},
	"accountkey":             {"AccountKey", []string{"key"}},
	"apikey":                 {"ApiKey", []string{"key"}},
	"customkeys":             {"CustomKeys", []string{"keys"}},
	"oauth2":                 {"OAuth2", nil},
	"aad":                    {"AAD", nil},
	"accountmanagedidentity": {"AccountManagedIdentity", nil},
	"none":                   {"None", nil},
}

var connectionName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]{1,254}$`)

// secretName names the sealed credentials of a connection.
const secretName = "credentials"

// Connections makes the type of connections. Their credentials are sealed and
// given out by listSecrets alone.
func Connections(store Store, sealer Sealer) *resource.Type {
	give := resource.Action{Run: func(ctx context.Context, call resource.Call) (any, error) {
		return withSecrets(ctx, store, sealer, call)
	}}
	return &resource.Type{
		Name: Type, Title: "connection",
		Check: func(name string) error {
			if !connectionName.MatchString(name) {
				return fault.Invalid("%q is no name for a connection: 2 to 255 letters, digits, '-' and '_', beginning with a letter or a digit", name).With("ValidationError").At("connectionName")
			}
			return nil
		},
		List: func(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
			page, err := store.List(ctx, q)
			if category := o["category"]; category != "" && err == nil {
				page.Resources = slices.DeleteFunc(page.Resources, func(r resource.Resource) bool {
					p, err := resource.ParseDocument(r.Properties)
					return err == nil && !strings.EqualFold(p.Text("category"), category)
				})
			}
			return page, err
		},
		Admit:   func(_ context.Context, c *resource.Change) error { return admit(sealer, c) },
		Actions: map[string]resource.Action{"listSecrets": give},
	}
}

func admit(sealer Sealer, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	for _, name := range []string{"authType", "category", "target"} {
		if p.Text(name) == "" {
			return fault.Invalid("'properties.%s' is required", name).With("ValidationError").At("properties." + name)
		}
	}
	how, ok := credentials[strings.ToLower(p.Text("authType"))]
	if !ok {
		return fault.Invalid("'properties.authType' is %q; it must be PAT, SAS, UsernamePassword, ManagedIdentity, ServicePrincipal, AccessKey, AccountKey, ApiKey, CustomKeys, OAuth2, AAD or None", p.Text("authType")).With("ValidationError").At("properties.authType")
	}
	p.Set("authType", how.name)
	p.Default("metadata", map[string]string{})
	p.Default("isSharedToAll", false)
	p.Default("sharedUserList", []any{})
	given := p.Object(secretName)
	delete(p, secretName)
	was := ""
	if c.Old != nil {
		if old, err := resource.ParseDocument(c.Old.Properties); err == nil {
			was = old.Text("authType")
		}
	}
	// A client that sends back what it read has no credentials to send: those
	// that are there stay.
	if len(given) > 0 || was != how.name {
		for _, name := range how.required {
			if _, there := given[name]; !there {
				return fault.Invalid("'properties.credentials.%s' is required to sign in by %s", name, how.name).With("ValidationError").At("properties.credentials." + name)
			}
		}
		c.Batch.Rows = append(c.Batch.Rows, resource.Sealed{Owner: c.New.ID, Name: secretName, Value: sealer.Seal(c.New.ID.Key(), secretName, given.Raw())})
	}
	c.New.Properties = p.Raw()
	return nil
}

// withSecrets is the connection with its credentials.
func withSecrets(ctx context.Context, store Store, sealer Sealer, call resource.Call) (any, error) {
	p, err := resource.ParseDocument(call.Resource.Properties)
	if err != nil {
		return nil, err
	}
	sealed, err := store.Secret(ctx, call.ID, secretName)
	if err != nil {
		return nil, err
	}
	if sealed != nil {
		opened, err := sealer.Open(call.ID.Key(), secretName, sealed)
		if err != nil {
			return nil, fmt.Errorf("open the credentials of %s: %w", call.ID, err)
		}
		if string(opened) != "{}" {
			p[secretName] = json.RawMessage(opened)
		}
	}
	return map[string]any{"id": call.ID.String(), "name": call.ID.Name(), "type": Type, "properties": p}, nil
}
