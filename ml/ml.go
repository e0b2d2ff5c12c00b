// Package ml holds what all nouns of machine learning share: the provider's
// name, and how a noun knows its workspace without importing it.
package ml

import (
	"context"
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/resource"
)

// The provider, and the types that contain all others.
const (
	Provider   = "Microsoft.MachineLearningServices"
	Workspaces = Provider + "/workspaces"
	Registries = Provider + "/registries"
)

// Home is the workspace or registry that an id lies in; the zero ID if none.
func Home(id resource.ID) resource.ID {
	if strings.Contains(id.Key(), "/registries/") {
		return id.Ancestor(Registries)
	}
	return id.Ancestor(Workspaces)
}

// Site is what a noun needs to know of the workspace, or the registry, it lies in.
type Site struct {
	ID       resource.ID
	GUID     string // never changes; runs, blobs and asset ids go by it
	Account  string // storage account of its default datastores
	Location string
}

// AccountOf is the storage account of the workspace with that GUID.
func AccountOf(guid string) string { return "st" + strings.ReplaceAll(guid, "-", "")[:22] }

// siteStatus is the part of a workspace's status that a Site is made of.
type siteStatus struct {
	WorkspaceID string `json:"workspaceId"`
	RegistryID  string `json:"registryId"`
	Deleted     string `json:"softDeletedAt"`
	Account     string `json:"storageAccountName"`
}

// SiteOf returns the workspace or registry that id lies in.
func SiteOf(ctx context.Context, store resource.Store, id resource.ID) (Site, error) {
	w := Home(id)
	if w.Zero() {
		return Site{}, fault.Invalid("'%s' lies in no workspace and no registry", id).At(id.String())
	}
	r, err := store.Get(ctx, w)
	if err != nil {
		if fault.Is(err, fault.Missing) {
			return Site{}, fault.NotFound("The "+homeTitle(w)+" '%s' could not be found in resource group '%s'.", w.Name(), w.Group()).At(w.String())
		}
		return Site{}, err
	}
	return SiteFrom(r)
}

func homeTitle(id resource.ID) string {
	if id.Is(Registries) {
		return "registry"
	}
	return "workspace"
}

// SiteFrom reads a workspace's or a registry's resource.
func SiteFrom(r resource.Resource) (Site, error) {
	var s siteStatus
	err := json.Unmarshal(r.Status, &s)
	if s.WorkspaceID == "" {
		s.WorkspaceID = s.RegistryID
	}
	if s.Deleted != "" {
		return Site{}, fault.NotFound("The "+homeTitle(r.ID)+" '%s' was deleted on %s.", r.ID.Name(), s.Deleted).At(r.ID.String())
	}
	if err != nil || s.WorkspaceID == "" {
		return Site{}, fault.Conflicts("The "+homeTitle(r.ID)+" '%s' is not ready yet; wait until its provisioningState is Succeeded.", r.ID.Name()).With("WorkspaceNotReady")
	}
	return Site{ID: r.ID, GUID: s.WorkspaceID, Account: s.Account, Location: r.Location}, nil
}

// FindRegistry returns the registry of that name. Names of registries are
// unique on a server.
func FindRegistry(ctx context.Context, store resource.Store, name string) (resource.Resource, error) {
	page, err := store.List(ctx, resource.Query{Type: Registries, Lookup: strings.ToLower(name), Limit: 1})
	if err != nil {
		return resource.Resource{}, err
	}
	if len(page.Resources) == 0 {
		return resource.Resource{}, fault.NotFound("The registry '%s' could not be found.", name).With("RegistryNotFound").At(name)
	}
	return page.Resources[0], nil
}

// The default datastores of a workspace. Clients know their names by heart.
const (
	BlobStore     = "workspaceblobstore"
	ArtifactStore = "workspaceartifactstore"
)

// Blobs is the container behind the default datastore.
func (s Site) Blobs() blob.Container {
	return blob.Container{Account: s.Account, Name: "azureml-blobstore-" + s.GUID}
}

// Artifacts is the container of logs and artefacts of runs.
func (s Site) Artifacts() blob.Container {
	return blob.Container{Account: s.Account, Name: "azureml-" + s.GUID}
}

// RunFolder is the folder in Artifacts that holds a run's logs and outputs.
// Clients build this path themselves.
func RunFolder(run string) string { return "ExperimentRun/dcid." + run + "/" }

// DatastoreURI is the long form of a path in a datastore of the workspace.
func (s Site) DatastoreURI(datastore, path string) string {
	return "azureml://subscriptions/" + s.ID.Subscription() + "/resourcegroups/" + s.ID.Group() +
		"/workspaces/" + s.ID.Name() + "/datastores/" + datastore + "/paths/" + strings.TrimPrefix(path, "/")
}
