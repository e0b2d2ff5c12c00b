package spec

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// Target is where the resources of a file go.
type Target struct {
	Subscription  string
	ResourceGroup string
	Workspace     string

	// Registry is set for assets that go to a registry in place of a
	// workspace.
	Registry string
}

// Group is the path of the resource group.
func (t Target) Group() string {
	return "/subscriptions/" + t.Subscription + "/resourceGroups/" + t.ResourceGroup
}

// Path is the resource id of the workspace, or registry, or of what the parts
// name in it.
func (t Target) Path(parts ...string) string {
	home := "/workspaces/" + t.Workspace
	if t.Registry != "" {
		home = "/registries/" + t.Registry
	}
	return strings.Join(append([]string{t.Group() + "/providers/Microsoft.MachineLearningServices" + home}, parts...), "/")
}

// Asset names a version: of `models`, `iris`, `1`.
type Asset struct{ Collection, Name, Version string }

// URI is the asset's address in a registry.
func (a Asset) URI(registry string) string {
	return "azureml://registries/" + registry + "/" + a.Collection + "/" + a.Name + "/versions/" + a.Version
}

// Request is one request, as a dry run prints it. The path is not escaped.
type Request struct {
	Method     string            `json:"method"`
	Path       string            `json:"path"`
	APIVersion string            `json:"api-version"`
	Query      map[string]string `json:"query,omitempty"`
	Body       map[string]any    `json:"body"`

	// Automatic says that the version in the path is not the user's but the
	// World's: of an environment, another may be taken if this one exists and
	// differs.
	Automatic bool `json:"-"`
}

// Place is where an upload lies.
type Place struct {
	Datastore string
	Path      string // in the datastore: LocalUpload/HASH/NAME
	URL       string // the blob's address
}

// World answers what a file does not say, and takes the requests.
type World interface {
	// Code stores a snapshot and gives the resource id of its code version.
	Code(ctx context.Context, c *Content) (string, error)

	// Upload stores content in a datastore, the default one if it is "". In a
	// registry, which has no datastores, it is stored with the asset.
	Upload(ctx context.Context, c *Content, datastore string, asset Asset) (Place, error)

	// NextVersion is the version for a new asset, such as `data` named
	// `iris`, whose file names none.
	NextVersion(ctx context.Context, collection, name string) (string, error)

	// Labelled gives the resource id of the version that has the label.
	Labelled(ctx context.Context, collection, name, label string) (string, error)

	// Location is the workspace's.
	Location(ctx context.Context) (string, error)

	// Exists tells whether there is a workspace of that name.
	Exists(ctx context.Context, workspace string) (bool, error)

	// Send sends a request and gives the reply's body.
	Send(ctx context.Context, r Request) (json.RawMessage, error)
}

// DryRun is a World without a server: it uploads nothing and keeps the
// requests.
type DryRun struct {
	Target   Target
	At       string // the location that new resources get
	Storage  string // the URL of the container that uploads would go to
	Requests []Request

	codes map[string]string
}

// Code implements World. The same folder is the same code.
func (d *DryRun) Code(ctx context.Context, c *Content) (string, error) {
	sum, err := c.Snapshot()
	if err != nil {
		return "", err
	}
	key := c.Path + "\x00" + sum
	if id, ok := d.codes[key]; ok {
		return id, nil
	}
	h := sha256.Sum256([]byte(key))
	guid := fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
	account, _, _ := strings.Cut(strings.TrimPrefix(d.Storage, "https://"), "/")
	r := CodeVersion(d.Target, guid, "https://"+account+"/"+guid, c, sum)
	d.Requests = append(d.Requests, r)
	if d.codes == nil {
		d.codes = map[string]string{}
	}
	id := r.Path
	if d.Target.Registry != "" {
		id = Asset{"codes", guid, "1"}.URI(d.Target.Registry)
	}
	d.codes[key] = id
	return id, nil
}

// CodeVersion is the request for the code whose files lie in the container:
// a folder below its name, a single file at the top.
func CodeVersion(t Target, name, container string, c *Content, hash string) Request {
	uri := strings.TrimSuffix(container, "/") + "/"
	if c.Folder {
		uri += c.Name
	}
	return Request{Method: "PUT", Path: t.Path("codes", name, "versions", "1"), APIVersion: "2023-04-01", Body: map[string]any{
		"properties": map[string]any{
			"codeUri": uri, "isAnonymous": true,
			"properties": map[string]any{"hash_sha256": hash, "hash_version": 202208},
		},
	}}
}

// Upload implements World.
func (d *DryRun) Upload(ctx context.Context, c *Content, datastore string, asset Asset) (Place, error) {
	if d.Target.Registry != "" {
		return Place{URL: strings.TrimSuffix(d.Storage, "/") + "/" + c.Name}, nil
	}
	sum, err := c.Upload()
	if err != nil {
		return Place{}, err
	}
	if datastore == "" {
		datastore = DefaultDatastore
	}
	path := "LocalUpload/" + sum + "/" + c.Name
	return Place{Datastore: datastore, Path: path, URL: strings.TrimSuffix(d.Storage, "/") + "/" + path}, nil
}

// DefaultDatastore is where uploads go when a file names none.
const DefaultDatastore = "workspaceblobstore"

// NextVersion implements World: a new asset begins with 1.
func (d *DryRun) NextVersion(context.Context, string, string) (string, error) { return "1", nil }

// Labelled implements World: the label stays.
func (d *DryRun) Labelled(_ context.Context, collection, name, label string) (string, error) {
	return d.Target.Path(collection, name, "labels", label), nil
}

// Location implements World.
func (d *DryRun) Location(context.Context) (string, error) { return d.At, nil }

// Exists implements World. A name that no new workspace may have, such as a
// placeholder, can only mean one that is there.
func (d *DryRun) Exists(_ context.Context, workspace string) (bool, error) {
	return strings.ContainsAny(workspace, "<> "), nil
}

// Send implements World.
func (d *DryRun) Send(_ context.Context, r Request) (json.RawMessage, error) {
	r.Body = maps.Clone(r.Body)
	d.Requests = append(d.Requests, r)
	return nil, nil
}
