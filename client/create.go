package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"lapis/client/spec"
	"lapis/fault"
)

// Create makes what the document describes, on the server. A job that exists is
// sent again, so that a script that is run again does no harm: what describes it
// changes, and it does not run a second time. Existed says so.
func (c *Client) Create(ctx context.Context, d *spec.Document, noun string, o spec.Options) (spec.Result, error) {
	o.Target = c.Target
	existed := false
	if name := d.Name(); noun == "job" && name != "" {
		_, err := c.Get(ctx, c.Path("jobs", name))
		if err != nil && !fault.Is(err, fault.Missing) {
			return spec.Result{}, err
		}
		existed = err == nil
	}
	r, err := spec.Create(ctx, d, noun, o, &world{c})
	r.Existed = existed
	return r, err
}

// world is a spec.World whose answers are the server's.
type world struct{ c *Client }

// Code implements spec.World: a snapshot that the workspace has is used
// again.
func (w *world) Code(ctx context.Context, content *spec.Content) (string, error) {
	c := w.c
	sum, err := content.Snapshot()
	if err != nil {
		return "", err
	}
	name := newGUID()
	if c.Registry != "" {
		return w.registryCode(ctx, content, name, sum)
	}
	for found, err := range c.List(ctx, c.Path("codes", name, "versions"), url.Values{"hash": {sum}, "hashVersion": {"202208"}}) {
		if fault.Is(err, fault.Missing) {
			break
		}
		if err != nil {
			return "", err
		}
		var r struct{ ID string }
		if err := json.Unmarshal(found, &r); err != nil {
			return "", err
		}
		return r.ID, nil
	}
	k, uri, err := c.pendingUpload(ctx, c.Path("codes", name, "versions", "1"))
	if err != nil {
		return "", err
	}
	if err := c.upload(ctx, k, "", content, name, "1"); err != nil {
		return "", err
	}
	r := spec.CodeVersion(c.Target, name, uri, content, sum)
	if _, err := c.Request(ctx, r.Method, r.Path, r.APIVersion, nil, r.Body); err != nil {
		return "", err
	}
	return r.Path, nil
}

// pendingUpload asks for a container of the asset's own.
func (c *Client) pendingUpload(ctx context.Context, asset string) (container, string, error) {
	data, err := c.Post(ctx, asset+"/startPendingUpload", map[string]any{"pendingUploadType": "TemporaryBlobReference"})
	if err != nil {
		return container{}, "", err
	}
	return c.reference(data)
}

func newGUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// registryCode stores a snapshot in a registry.
func (w *world) registryCode(ctx context.Context, content *spec.Content, name, sum string) (string, error) {
	asset := spec.Asset{Collection: "codes", Name: name, Version: "1"}
	k, uri, err := w.c.registryUpload(ctx, asset)
	if err != nil {
		return "", err
	}
	if err := w.c.upload(ctx, k, "", content, name, "1"); err != nil {
		return "", err
	}
	r := spec.CodeVersion(w.c.Target, name, uri, content, sum)
	if _, err := w.c.Request(ctx, r.Method, r.Path, registryVersion, nil, r.Body); err != nil {
		return "", err
	}
	return asset.URI(w.c.Registry), nil
}

// registryUpload asks where the bytes of a new version in the registry go.
func (c *Client) registryUpload(ctx context.Context, asset spec.Asset) (container, string, error) {
	data, err := c.Request(ctx, http.MethodPut, c.Path("tempdatarefs", asset.Name, "versions", asset.Version), registryVersion, nil,
		map[string]any{"assetId": asset.URI(c.Registry), "temporaryDataReferenceType": "TemporaryBlobReference"})
	if err != nil {
		return container{}, "", err
	}
	return c.reference(data)
}

// registryDownload asks for the bytes of a version in the registry.
func (c *Client) registryDownload(ctx context.Context, asset spec.Asset, uri string) (container, string, error) {
	data, err := c.Request(ctx, http.MethodPost, c.Path("datarefs", asset.Name, "versions", asset.Version), registryVersion, nil,
		map[string]any{"assetId": asset.URI(c.Registry), "blobUri": uri})
	if err != nil {
		return container{}, "", err
	}
	return c.reference(data)
}

// reference reads a container and its signature. The addresses carry the
// storage account as the user part; here they are taken without.
func (c *Client) reference(data json.RawMessage) (container, string, error) {
	var reply struct {
		Blob struct {
			BlobURI    string
			Credential struct{ SasURI string }
		} `json:"blobReferenceForConsumption"`
	}
	if err := json.Unmarshal(data, &reply); err != nil {
		return container{}, "", fmt.Errorf("read blob reference: %w", err)
	}
	k := containerAt(reply.Blob.Credential.SasURI)
	if u, err := url.Parse(k.base); err == nil && u.User != nil {
		u.User = nil
		k.base = u.String()
	}
	return k, reply.Blob.BlobURI, nil
}

// Upload implements spec.World. The path holds the content's hash, so what is
// there is not sent again.
func (w *world) Upload(ctx context.Context, content *spec.Content, datastore string, asset spec.Asset) (spec.Place, error) {
	c := w.c
	if c.Registry != "" {
		k, uri, err := c.registryUpload(ctx, asset)
		if err != nil {
			return spec.Place{}, err
		}
		if err := c.upload(ctx, k, "", content, asset.Name, asset.Version); err != nil {
			return spec.Place{}, err
		}
		return spec.Place{URL: strings.TrimSuffix(uri, "/") + "/" + content.Name}, nil
	}
	sum, err := content.Upload()
	if err != nil {
		return spec.Place{}, err
	}
	if datastore == "" {
		datastore = spec.DefaultDatastore
	}
	k, url, err := c.datastore(ctx, datastore)
	if err != nil {
		return spec.Place{}, err
	}
	prefix := "LocalUpload/" + sum + "/"
	if err := c.upload(ctx, k, prefix, content, newGUID(), "1"); err != nil {
		return spec.Place{}, err
	}
	return spec.Place{Datastore: datastore, Path: prefix + content.Name, URL: url + "/" + prefix + content.Name}, nil
}

// datastore gives the container of a Blob datastore, with the right to it,
// and its address as other clients write it.
func (c *Client) datastore(ctx context.Context, name string) (container, string, error) {
	data, err := c.Get(ctx, c.Path("datastores", name))
	if err != nil {
		return container{}, "", err
	}
	var d struct {
		Properties struct {
			DatastoreType, AccountName, ContainerName, Endpoint, Protocol string
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return container{}, "", fmt.Errorf("read datastore: %w", err)
	}
	p := d.Properties
	if p.DatastoreType != "AzureBlob" {
		return container{}, "", fault.Invalid("The datastore %q is of type %s; files can be moved to and from AzureBlob alone.", name, p.DatastoreType)
	}
	data, err = c.Post(ctx, c.Path("datastores", name, "listSecrets"), map[string]any{"expirableSecret": true, "expireAfterHours": 1})
	if err != nil {
		return container{}, "", err
	}
	var s struct{ SasToken string }
	if err := json.Unmarshal(data, &s); err != nil {
		return container{}, "", fmt.Errorf("read secrets: %w", err)
	}
	address := "https://" + p.AccountName + ".blob." + p.Endpoint + "/" + p.ContainerName
	return container{c.URL + "/" + url.PathEscape(p.ContainerName), strings.TrimPrefix(s.SasToken, "?")}, address, nil
}

// NextVersion implements spec.World.
func (w *world) NextVersion(ctx context.Context, collection, name string) (string, error) {
	data, err := w.c.Get(ctx, w.c.Path(collection, name))
	if fault.Is(err, fault.Missing) {
		return "1", nil
	}
	if err != nil {
		return "", err
	}
	var r struct {
		Properties struct{ NextVersion, LatestVersion string }
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return "", err
	}
	if collection == "environments" && r.Properties.LatestVersion != "" {
		// An environment that has not changed keeps its version; Send takes
		// the next one if it has.
		return r.Properties.LatestVersion, nil
	}
	return r.Properties.NextVersion, nil
}

// Labelled implements spec.World.
func (w *world) Labelled(ctx context.Context, collection, name, label string) (string, error) {
	version, err := w.c.Version(ctx, collection, name, label)
	if err != nil {
		return "", err
	}
	return w.c.Path(collection, name, "versions", version), nil
}

// Version gives the version that has a label. The label `latest` is on the
// version created last.
func (c *Client) Version(ctx context.Context, collection, name, label string) (string, error) {
	if label != "latest" && c.Registry == "" {
		return c.labelled(ctx, collection, name, label)
	}
	if label != "latest" {
		data, err := c.Get(ctx, c.Path(collection, name, "labels", label))
		if err != nil {
			return "", err
		}
		var r struct{ Name string }
		err = json.Unmarshal(data, &r)
		return r.Name, err
	}
	q := url.Values{"$orderBy": {"createdtime desc"}, "$top": {"1"}}
	for v, err := range c.List(ctx, c.Path(collection, name, "versions"), q) {
		if fault.Is(err, fault.Missing) {
			break
		}
		if err != nil {
			return "", err
		}
		var r struct{ Name string }
		err = json.Unmarshal(v, &r)
		return r.Name, err
	}
	noun := strings.TrimSuffix(collection, "s")
	return "", fault.NotFound("The %s %q could not be found in workspace %q. `lapis %s list` shows what there is.", noun, name, c.Workspace, noun)
}

// labelled reads the labels of an asset in a workspace, which its container
// holds. An alias that MLflow gives to a model is one too.
func (c *Client) labelled(ctx context.Context, collection, name, label string) (string, error) {
	data, err := c.Get(ctx, c.Path(collection, name))
	if err != nil {
		return "", err
	}
	var r struct {
		Properties struct {
			Labels map[string]any
			MLflow struct{ Aliases map[string]any }
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return "", fmt.Errorf("read labels: %w", err)
	}
	names := []string{"latest"}
	for _, from := range []map[string]any{r.Properties.Labels, r.Properties.MLflow.Aliases} {
		for known, version := range from {
			if names = append(names, known); known == label {
				return text(version), nil
			}
		}
	}
	slices.Sort(names)
	return "", fault.NotFound("%q has no label %q; its labels are: %s.", name, label, strings.Join(slices.Compact(names), ", "))
}

// Location implements spec.World.
func (w *world) Location(ctx context.Context) (string, error) {
	data, err := w.c.Get(ctx, w.c.Path())
	if fault.Is(err, fault.Missing) {
		if data, err = w.c.Get(ctx, w.c.Group()); err != nil {
			return "", err
		}
	}
	if err != nil {
		return "", err
	}
	var r struct{ Location string }
	err = json.Unmarshal(data, &r)
	return r.Location, err
}

// Exists implements spec.World.
func (w *world) Exists(ctx context.Context, workspace string) (bool, error) {
	t := w.c.Target
	t.Workspace = workspace
	_, err := w.c.Get(ctx, t.Path())
	if fault.Is(err, fault.Missing) {
		return false, nil
	}
	return err == nil, err
}

// StorageSuffix is what follows ACCOUNT.blob. in blob addresses.
func (w *world) StorageSuffix() string {
	host := strings.TrimPrefix(strings.TrimPrefix(w.c.URL, "https://"), "http://")
	return "core.lapis@" + host
}

// deployedWorkspace turns the deployment that creates a workspace into the PUT
// of the workspace. A deployment is for the stores beside it, which a server
// that keeps all in one place has none of.
func deployedWorkspace(r spec.Request) (spec.Request, bool) {
	at := strings.Index(r.Path, "/providers/Microsoft.Resources/deployments/")
	if at < 0 {
		return r, false
	}
	properties, _ := r.Body["properties"].(map[string]any)
	parameters, _ := properties["parameters"].(map[string]any)
	value := func(name string) any {
		p, _ := parameters[name].(map[string]any)
		return p["value"]
	}
	given := map[string]any{}
	for parameter, key := range map[string]string{
		"friendlyName": "friendlyName", "description": "description", "imageBuildCompute": "imageBuildCompute", "publicNetworkAccess": "publicNetworkAccess",
		"primaryUserAssignedIdentity": "primaryUserAssignedIdentity", "systemDatastoresAuthMode": "systemDatastoresAuthMode", "managedNetwork": "managedNetwork",
	} {
		if v := value(parameter); v != nil && v != "" {
			given[key] = v
		}
	}
	if value("confidential_data") == "true" {
		given["hbiWorkspace"] = true
	}
	tags, _ := value("tagValues").(map[string]any)
	delete(tags, "createdByToolkit")
	return spec.Request{
		Method: http.MethodPut, Path: r.Path[:at] + "/providers/Microsoft.MachineLearningServices/workspaces/" + fmt.Sprint(value("workspaceName")), APIVersion: apiVersion,
		Body: map[string]any{"location": value("location"), "tags": tags, "identity": value("identity"), "properties": given},
	}, true
}

// Send implements spec.World.
func (w *world) Send(ctx context.Context, r spec.Request) (json.RawMessage, error) {
	r, _ = deployedWorkspace(r)
	if w.c.Registry != "" {
		r.APIVersion = registryVersion
	}
	q := url.Values{}
	for k, v := range r.Query {
		q.Set(k, v)
	}
	for try := 0; ; try++ {
		reply, err := w.c.Request(ctx, r.Method, r.Path, r.APIVersion, q, r.Body)
		if !r.Automatic || try >= 5 || !fault.Is(err, fault.Conflict) {
			return reply, err
		}
		// Someone took this version, or it holds something else.
		at := strings.LastIndex(r.Path, "/versions/")
		data, getErr := w.c.Get(ctx, r.Path[:at])
		if getErr != nil {
			return reply, err
		}
		var c struct {
			Properties struct{ NextVersion string }
		}
		if json.Unmarshal(data, &c) != nil || c.Properties.NextVersion == "" {
			return reply, err
		}
		r.Path = r.Path[:at] + "/versions/" + c.Properties.NextVersion
	}
}

// Archive archives or restores a version, or a whole asset if version is "".
func (c *Client) Archive(ctx context.Context, collection, name, version string, archived bool) error {
	path := c.Path(collection, name)
	if version != "" {
		path = c.Path(collection, name, "versions", version)
	}
	data, err := c.Get(ctx, path)
	if err != nil {
		return err
	}
	var r struct {
		Properties map[string]any `json:"properties"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	r.Properties["isArchived"] = archived
	_, err = c.Request(ctx, http.MethodPut, path, "", nil, map[string]any{"properties": r.Properties})
	return err
}

// Share copies a version of the workspace to a registry, under another name
// and version if they are given.
func (c *Client) Share(ctx context.Context, asset spec.Asset, registry, name, version string) error {
	raw, err := c.Get(ctx, c.Path())
	if err != nil {
		return err
	}
	var w struct {
		Location   string
		Properties struct{ WorkspaceID string }
	}
	if err := json.Unmarshal(raw, &w); err != nil {
		return err
	}
	there, err := c.InRegistry(ctx, registry)
	if err != nil {
		return err
	}
	if name == "" {
		name = asset.Name
	}
	if version == "" {
		version = asset.Version
	}
	_, err = there.Request(ctx, http.MethodPost, there.Path("import"), registryVersion, nil, map[string]any{"properties": map[string]any{
		"referenceType": "Id", "destinationName": name, "destinationVersion": version,
		"sourceAssetId": fmt.Sprintf("azureml://locations/%s/workspaces/%s/%s/%s/versions/%s", w.Location, w.Properties.WorkspaceID, asset.Collection, asset.Name, asset.Version),
	}})
	return err
}

// InRegistry is a client whose assets are those of a registry.
func (c *Client) InRegistry(ctx context.Context, name string) (*Client, error) {
	_, data, err := c.exchange(ctx, http.MethodGet, c.URL+"/registrymanagement/v1.0/registries/"+url.PathEscape(name)+"/discovery", nil)
	if err != nil {
		return nil, err
	}
	var r struct{ SubscriptionID, ResourceGroup, RegistryName string }
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read discovery: %w", err)
	}
	there := &Client{Config: c.Config, http: c.http, Patience: c.Patience, Progress: c.Progress, Waiting: c.Waiting, Trace: c.Trace, reached: true}
	c.mu.Lock()
	there.token, there.expires = c.token, c.expires
	c.mu.Unlock()
	there.Target = spec.Target{Subscription: r.SubscriptionID, ResourceGroup: r.ResourceGroup, Workspace: c.Workspace, Registry: r.RegistryName}
	return there, nil
}
