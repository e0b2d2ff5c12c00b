// Package data has datastores, where bytes lie, and data assets, which name
// bytes by version.
package data

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/pattern"
	"lapis/resource"
)

// DatastoreType is the type of datastores.
const DatastoreType = ml.Workspaces + "/datastores"

// Sealer seals values that must not lie in clear on the disk.
type Sealer interface {
	Seal(owner, name string, value []byte) []byte
}

// Datastore is the view of a datastore's properties that this package needs.
type Datastore struct {
	Kind      string `json:"datastoreType"`
	Account   string `json:"accountName"`
	Container string `json:"containerName"`
	FileShare string `json:"fileShareName"`
	System    string `json:"filesystem"`
	IsDefault bool   `json:"isDefault"`

	Credentials struct {
		Kind string `json:"credentialsType"`
	} `json:"credentials"`
}

// Blobs is the container of ours behind an AzureBlob datastore.
func (d Datastore) Blobs() blob.Container {
	return blob.Container{Account: strings.ToLower(d.Account), Name: strings.ToLower(d.Container)}
}

// kinds are the datastore types, by lower-case name, with the properties that
// each must have.
var kinds = map[string]struct {
	name     string
	required []string
}{
	"azureblob":         {"AzureBlob", []string{"accountName", "containerName"}},
	"azurefile":         {"AzureFile", []string{"accountName", "fileShareName"}},
	"azuredatalakegen1": {"AzureDataLakeGen1", []string{"storeName"}},
	"azuredatalakegen2": {"AzureDataLakeGen2", []string{"accountName", "filesystem"}},
	"onelake":           {"OneLake", []string{"oneLakeWorkspaceName", "artifact"}},
	"hdfs":              {"Hdfs", []string{"nameNodeAddress"}},
}

var datastoreName = pattern.New(`^[A-Za-z0-9_]{1,255}$`)

// Datastores makes the type of datastores.
func Datastores(store resource.Store, blobs blob.Store, grants asset.Grants, sealer Sealer, now func() time.Time) *resource.Type {
	return &resource.Type{
		Name: DatastoreType, Title: "datastore",
		Check: func(name string) error {
			if !datastoreName.MatchString(name) {
				return fault.Invalid("%q is no name for a datastore: 1 to 255 letters, digits and '_'", name).With("ValidationError").At("name")
			}
			return nil
		},
		Admit: func(ctx context.Context, c *resource.Change) error { return admitDatastore(ctx, blobs, sealer, c) },
		List: func(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
			page, err := store.List(ctx, q)
			if err != nil || !strings.EqualFold(o["isdefault"], "true") {
				return page, err
			}
			return onlyDefault(ctx, store, q)
		},
		Actions: map[string]resource.Action{"listSecrets": {Run: func(ctx context.Context, call resource.Call) (any, error) {
			return listSecrets(grants, call, now())
		}}},
		AdmitDelete: func(_ context.Context, c *resource.Change) error {
			var d Datastore
			if err := json.Unmarshal(c.Old.Properties, &d); err == nil && d.IsDefault {
				return fault.Conflicts("The datastore '%s' is the workspace's default and cannot be deleted; make another one the default first.", c.Old.ID.Name()).With("UserError")
			}
			return nil
		},
	}
}

// onlyDefault finds the default datastore among all.
func onlyDefault(ctx context.Context, store resource.Store, q resource.Query) (resource.Page, error) {
	q.After, q.Limit = "", 1000
	for {
		page, err := store.List(ctx, q)
		if err != nil {
			return page, err
		}
		for _, r := range page.Resources {
			var d Datastore
			if err := json.Unmarshal(r.Properties, &d); err == nil && d.IsDefault {
				return resource.Page{Resources: []resource.Resource{r}}, nil
			}
		}
		if page.Next == "" {
			return resource.Page{}, nil
		}
		q.After = page.Next
	}
}

// secretNames are the members of credentials that hold secrets, by the type of
// the credentials in lower case.
var secretNames = map[string]string{
	"accountkey": "key", "sas": "sasToken", "serviceprincipal": "clientSecret", "certificate": "certificate",
	"kerberoskeytab": "kerberosKeytab", "kerberospassword": "kerberosPassword",
}

func admitDatastore(ctx context.Context, blobs blob.Store, sealer Sealer, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	kind, ok := kinds[strings.ToLower(p.Text("datastoreType"))]
	if !ok {
		return fault.Invalid("'properties.datastoreType' is %q; it must be AzureBlob, AzureFile, AzureDataLakeGen1, AzureDataLakeGen2, OneLake or Hdfs", p.Text("datastoreType")).With("ValidationError").At("properties.datastoreType")
	}
	p.Set("datastoreType", kind.name)
	for _, name := range kind.required {
		if _, there := p[name]; !there {
			return fault.Invalid("'properties.%s' is required for a datastore of the type %s", name, kind.name).With("ValidationError").At("properties." + name)
		}
	}
	for name, value := range map[string]any{"isDefault": false, "tags": map[string]string{}, "properties": map[string]string{},
		"serviceDataAccessAuthIdentity": "None", "credentials": map[string]string{"credentialsType": "None"}} {
		p.Default(name, value)
	}
	if kind.name == "AzureBlob" {
		p.Default("protocol", "https")
		p.Default("endpoint", "core.windows.net")
		d := Datastore{Account: p.Text("accountName"), Container: p.Text("containerName")}
		if err := d.Blobs().Check(); err != nil {
			return err
		}
		// A container of ours stands for each account's; it is empty at first.
		if err := blobs.CreateContainer(ctx, d.Blobs()); err != nil {
			return err
		}
	}
	if err := sealCredentials(sealer, c, p); err != nil {
		return err
	}
	c.New.Properties = p.Raw()
	return nil
}

// sealCredentials takes the secrets out of the credentials.
func sealCredentials(sealer Sealer, c *resource.Change, p resource.Document) error {
	cred := p.Object("credentials")
	kind := strings.ToLower(cred.Text("credentialsType"))
	if kind == "" {
		return fault.Invalid("'properties.credentials.credentialsType' is required").With("ValidationError").At("properties.credentials.credentialsType")
	}
	secrets := cred.Object("secrets")
	delete(cred, "secrets")
	name := secretNames[kind]
	value := secrets.Text(name)
	if value == "" {
		value = cred.Text(name)
	}
	delete(cred, name)
	p["credentials"] = cred.Raw()
	if value == "" {
		return nil
	}
	sealed := sealer.Seal(c.New.ID.Key(), name, []byte(value))
	c.Batch.Rows = append(c.Batch.Rows, resource.Sealed{Owner: c.New.ID, Name: name, Value: sealed})
	return nil
}

// listSecrets answers with a signature for the container: what every client
// takes, and what ends by itself. The sealed secret of the datastore is never
// given out; our blob store has no use for it.
func listSecrets(grants asset.Grants, call resource.Call, now time.Time) (any, error) {
	var d Datastore
	if err := json.Unmarshal(call.Resource.Properties, &d); err != nil {
		return nil, err
	}
	if d.Kind != "AzureBlob" {
		return map[string]any{"secretsType": "None"}, nil
	}
	hours := 24
	var body struct {
		ExpireAfterHours *int `json:"expireAfterHours"`
		Expirable        bool `json:"expirableSecret"`
	}
	if len(call.Body) > 0 {
		if err := json.Unmarshal(call.Body, &body); err != nil {
			return nil, fault.Invalid("'expireAfterHours' must be a whole number of hours").With("InvalidRequestContent").At("expireAfterHours")
		}
	}
	if body.ExpireAfterHours != nil {
		hours = *body.ExpireAfterHours
		if hours < 1 || hours > 24*7 {
			return nil, fault.Invalid("'expireAfterHours' is %d; it must be from 1 to 168", hours).With("ValidationError").At("expireAfterHours")
		}
	}
	_, signed := grants.Container(call.View.Origin, d.Blobs(), "racwdl", now.Add(time.Duration(hours)*time.Hour), call.Caller.Name)
	_, query, _ := strings.Cut(signed, "?")
	if !body.Expirable && strings.EqualFold(d.Credentials.Kind, "AccountKey") {
		// SDKs before 1.19 look for a key where the datastore has one. Storage
		// clients tell a signature from a key by its looks.
		return map[string]any{"secretsType": "AccountKey", "key": query}, nil
	}
	return map[string]any{"secretsType": "Sas", "sasToken": query}, nil
}
