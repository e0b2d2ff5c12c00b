// Package share has Azure ML's registries: assets that several workspaces share
// (MLflow's registry of models is package registry). A registry holds what a workspace does, by the same rules; its bytes lie in a
// container for each version.
package share

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/pattern"
	"lapis/resource"
)

// Own is the registry that every server has, with the curated environments.
const Own = "azureml"

// Service is what registries are made of.
type Service struct {
	Resources resource.Store
	Blobs     blob.Store
	Grants    asset.Grants

	// Register stores a version on the one road of writes.
	Register func(ctx context.Context, id resource.ID, properties any) error

	Now func() time.Time
}

var registryName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]{1,32}$`)

// Types makes the type of registries, and those of the assets in them out of
// the kinds of a workspace.
func (s *Service) Types(kinds ...asset.Kind) []*resource.Type {
	types := []*resource.Type{{
		Name: ml.Registries, Title: "registry", Tracked: true, Async: true,
		Check: func(name string) error {
			if !registryName.MatchString(name) {
				return fault.Invalid("%q is no name for a registry: 2 to 33 letters, digits, '-' and '_', beginning with a letter or a digit", name).With("ValidationError").At("registryName")
			}
			return nil
		},
		Admit:       s.admit,
		AdmitDelete: admitDelete,
		Release:     s.release,
		View:        view,
		Actions: map[string]resource.Action{"import": {Async: true, Run: func(ctx context.Context, call resource.Call) (any, error) {
			return nil, s.take(ctx, call)
		}}},
	}}
	for _, k := range kinds {
		k.Home, k.Async = ml.Registries, true
		if own, ok := located[k.Segment]; ok {
			k.View = s.viewLocated(own, k.View)
		}
		types = append(types, k.Types(s.Resources)...)
	}
	return types
}

// status is the platform's half of a registry.
type status struct {
	ProvisioningState string `json:"provisioningState"`
	RegistryID        string `json:"registryId"`
	Account           string `json:"storageAccountName"`
}

func (s *Service) admit(ctx context.Context, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	for _, name := range []string{"provisioningState", "registryId", "discoveryUrl", "mlFlowRegistryUri", "storageAccountName"} {
		delete(p, name)
	}
	p.Default("publicNetworkAccess", "Enabled")
	p.Default("regionDetails", []any{})
	c.New.Properties = p.Raw()
	if c.New.Location == "" {
		c.New.Location = "local"
	}
	if len(c.New.Identity) == 0 {
		c.New.Identity = json.RawMessage(`{"type":"SystemAssigned"}`)
	}
	if c.Old != nil {
		return nil
	}
	c.New.Lookup = strings.ToLower(c.New.ID.Name())
	other, err := ml.FindRegistry(ctx, s.Resources, c.New.ID.Name())
	if err == nil {
		return fault.Conflicts("The name '%s' is taken by the registry '%s'; names of registries are unique. Choose another.", c.New.ID.Name(), other.ID).With("RegistryNameNotAvailable").At("registryName")
	}
	if !fault.Is(err, fault.Missing) {
		return err
	}
	guid := resource.NewGUID()
	c.New.Status, err = json.Marshal(status{ProvisioningState: resource.Succeeded, RegistryID: guid, Account: ml.AccountOf(guid)})
	return err
}

func admitDelete(_ context.Context, c *resource.Change) error {
	if strings.EqualFold(c.Old.ID.Name(), Own) {
		return fault.Conflicts("The registry '%s' belongs to the server, with the environments that every workspace may use; it cannot be deleted.", Own).With("UserError")
	}
	return nil
}

// release removes the bytes of the registry's versions.
func (s *Service) release(ctx context.Context, r resource.Resource) error {
	site, err := ml.SiteFrom(r)
	if err != nil {
		return nil
	}
	for segment := range located {
		q := resource.Query{Type: ml.Registries + "/" + segment + "/versions", Scope: r.ID, Limit: 1000}
		for {
			page, err := s.Resources.List(ctx, q)
			if err != nil {
				return err
			}
			for _, v := range page.Resources {
				if err := s.Blobs.DeleteContainer(ctx, container(site, segment, v.ID.Parent().Name(), v.ID.Name())); err != nil {
					return err
				}
			}
			if q.After = page.Next; q.After == "" {
				break
			}
		}
	}
	return nil
}

// view adds the addresses, which are made as the reply is.
func view(_ context.Context, v resource.View, rs []resource.Resource) error {
	for i := range rs {
		r := &rs[i]
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		p.Set("discoveryUrl", v.Origin+"/registrymanagement/v1.0/registries/"+r.ID.Name()+"/discovery")
		p.Set("mlFlowRegistryUri", "azureml://"+strings.TrimPrefix(strings.TrimPrefix(v.Origin, "https://"), "http://")+"/mlflow/v1.0"+r.ID.String())
		r.Properties = p.Raw()
		if s, err := resource.ParseDocument(r.Status); err == nil {
			delete(s, "storageAccountName")
			r.Status = s.Raw()
		}
	}
	return nil
}

// located are the kinds of assets that have bytes, with the member that says
// where they lie.
var located = map[string]string{"codes": "codeUri", "data": "dataUri", "models": "modelUri", "environments": "build"}

// container is where the bytes of a version lie.
func container(site ml.Site, segment, name, version string) blob.Container {
	sum := sha256.Sum256([]byte(strings.ToLower(segment + "\x00" + name + "\x00" + version)))
	return blob.Container{Account: site.Account, Name: "reg-" + hex.EncodeToString(sum[:16])}
}

// address is the URL of a container in the form that clients take apart, with a
// host of the storage account's.
func address(origin string, c blob.Container) string {
	host := origin
	if u, err := url.Parse(origin); err == nil {
		host = u.Host
	}
	return "https://" + c.Account + ".blob.core.lapis@" + host + "/" + c.Name
}

// addressed finds the address of a version's bytes: where it stands, and its
// name there.
func addressed(p resource.Document, member string) (at resource.Document, name string) {
	if member == "build" {
		return p.Object("build"), "contextUri"
	}
	return p, member
}

// viewLocated makes the addresses of bytes anew for whoever reads them: what was
// stored names the server as the writer called it.
func (s *Service) viewLocated(member string, next func(context.Context, resource.View, []resource.Resource) error) func(context.Context, resource.View, []resource.Resource) error {
	return func(ctx context.Context, v resource.View, rs []resource.Resource) error {
		for i := range rs {
			p, err := resource.ParseDocument(rs[i].Properties)
			if err != nil {
				return err
			}
			at, name := addressed(p, member)
			uri := at.Text(name)
			if !strings.HasPrefix(uri, "https://") && !strings.HasPrefix(uri, "http://") {
				continue
			}
			l, err := data.Locate(ctx, s.Resources, rs[i].ID, uri)
			if err != nil || l.URL != "" {
				continue
			}
			at.Set(name, address(v.Origin, l.Container)+"/"+l.Path)
			if member == "build" {
				p["build"] = at.Raw()
			}
			rs[i].Properties = p.Raw()
		}
		if next != nil {
			return next(ctx, v, rs)
		}
		return nil
	}
}

// accessFor is how long an upload or a download may take.
const accessFor = 24 * time.Hour

var assetID = pattern.New(`(?i)^azureml://registries/([^/]+)/([a-z]+)/([^/]+)/versions/([^/]+)$`)

// Upload tells a client where the bytes of a new version go. A version that is
// there keeps its bytes: Conflict.
func (s *Service) Upload(ctx context.Context, registry resource.ID, id, origin, who string) (any, error) {
	site, segment, name, version, err := s.parse(ctx, registry, id)
	if err != nil {
		return nil, err
	}
	if target := registry.Child(segment, name).Child("versions", version); !target.Zero() {
		if _, err := s.Resources.Get(ctx, target); err == nil {
			return nil, fault.Conflicts("The version '%s:%s' exists in registry '%s'; its content does not change. Choose another version.", name, version, registry.Name()).With("VersionAlreadyExists").At(id)
		} else if !fault.Is(err, fault.Missing) {
			return nil, err
		}
	}
	c := container(site, segment, name, version)
	if err := s.Blobs.CreateContainer(ctx, c); err != nil {
		return nil, err
	}
	return s.reference(site, c, origin, "racwdl", who), nil
}

// shut is a container that is never there: its name is what a client that
// uploads to it tells its user.
const shut = "this-version-exists-in-the-registry--choose-another-version"

// Taken leads a client that wants to upload a version which exists to a container
// that is not there.
func (s *Service) Taken(ctx context.Context, registry resource.ID, id, origin, who string) (any, error) {
	site, _, _, _, err := s.parse(ctx, registry, id)
	if err != nil {
		return nil, err
	}
	return s.reference(site, blob.Container{Account: site.Account, Name: shut}, origin, "racwdl", who), nil
}

// Download gives a client access to the bytes of a version.
func (s *Service) Download(ctx context.Context, registry resource.ID, id, origin, who string) (any, error) {
	site, segment, name, version, err := s.parse(ctx, registry, id)
	if err != nil {
		return nil, err
	}
	r, err := asset.Find(ctx, s.Resources, registry, segment, name, version)
	if err != nil {
		return nil, err
	}
	l, err := s.bytesOf(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.reference(site, l.Container, origin, "rl", who), nil
}

// parse reads an asset's id and the registry it must lie in.
func (s *Service) parse(ctx context.Context, registry resource.ID, id string) (site ml.Site, segment, name, version string, err error) {
	m := assetID.FindStringSubmatch(id)
	if m == nil || !strings.EqualFold(m[1], registry.Name()) {
		return site, "", "", "", fault.Invalid("'assetId' is %q; it must be azureml://registries/%s/TYPE/NAME/versions/VERSION", id, registry.Name()).With("ValidationError").At("assetId")
	}
	if site, err = ml.SiteOf(ctx, s.Resources, registry); err != nil {
		return site, "", "", "", err
	}
	return site, strings.ToLower(m[2]), m[3], m[4], nil
}

// bytesOf is where the bytes of a version lie.
func (s *Service) bytesOf(ctx context.Context, r resource.Resource) (data.Location, error) {
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return data.Location{}, err
	}
	uri := p.Text("modelUri") + p.Text("dataUri") + p.Text("codeUri") + p.Object("build").Text("contextUri")
	if uri == "" {
		return data.Location{}, fault.Invalid("'%s' has no files.", r.ID.Parent().Name()+":"+r.ID.Name()).With("UserError")
	}
	return data.Locate(ctx, s.Resources, r.ID, uri)
}

// reference is a container with a signature, as clients take it.
func (s *Service) reference(site ml.Site, c blob.Container, origin, permissions, who string) any {
	_, signed := s.Grants.Container(origin, c, permissions, s.Now().Add(accessFor), who)
	_, query, _ := strings.Cut(signed, "?")
	at := address(origin, c)
	return map[string]any{
		"blobReferenceForConsumption": map[string]any{
			"blobUri":             at,
			"storageAccountArmId": fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s", site.ID.Subscription(), site.ID.Group(), site.Account),
			"credential":          map[string]any{"credentialType": "SAS", "sasUri": at + "?" + query},
		},
		"temporaryDataReferenceId":   c.Name,
		"temporaryDataReferenceType": "TemporaryBlobReference",
		"pendingUploadId":            c.Name,
		"pendingUploadType":          "TemporaryBlobReference",
	}
}
