// Package workspace has the container of everything: a workspace with its
// stores and what clients must know to reach them.
package workspace

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/pattern"
	"lapis/resource"
)

var workspaceName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]{1,32}$`)

// Seed is what lies in a workspace from the beginning, beside its datastores.
type Seed func(workspace resource.ID, stamp resource.Stamp) ([]resource.Write, error)

// Service is what workspaces are made of.
type Service struct {
	Resources resource.Store
	Blobs     blob.Store

	// OpenJobs counts the jobs of a workspace, by its GUID, that have not ended.
	// Nil: none.
	OpenJobs func(ctx context.Context, workspace string) (int, error)

	// Purge removes what others keep of a workspace that goes for good: its runs.
	// It may be called again after a crash. Nil: nothing.
	Purge func(ctx context.Context, workspace string) error

	Seeds []Seed
}

// Type makes the type of workspaces.
func (s *Service) Type() *resource.Type {
	return &resource.Type{
		Name: ml.Workspaces, Title: "workspace", Tracked: true, Async: true, Own: []string{own},
		Check: func(name string) error {
			if !workspaceName.MatchString(name) {
				return fault.Invalid("%q is no name for a workspace: 2 to 33 letters, digits, '-' and '_', beginning with a letter or a digit", name).With("ValidationError").At("workspaceName")
			}
			return nil
		},
		Gone:        Deleted,
		Admit:       s.admit,
		AdmitDelete: s.admitDelete,
		Release: func(ctx context.Context, r resource.Resource) error {
			site, err := ml.SiteFrom(revived(r))
			if err != nil {
				return nil // never became ready
			}
			if s.Purge != nil {
				if err := s.Purge(ctx, site.GUID); err != nil {
					return err
				}
			}
			return s.Blobs.DeleteAccount(ctx, site.Account)
		},
		View: s.view,
		List: s.list,
		Actions: map[string]resource.Action{
			"listKeys": {Run: listKeys},
			"diagnose": {Run: func(context.Context, resource.Call) (any, error) {
				return map[string]any{"value": healthy()}, nil
			}},
			// There are no keys of other accounts to take over anew.
			"resyncKeys":             {Run: func(context.Context, resource.Call) (any, error) { return nil, nil }},
			"listNotebookKeys":       {Run: func(context.Context, resource.Call) (any, error) { return map[string]any{}, nil }},
			"listStorageAccountKeys": {Run: func(context.Context, resource.Call) (any, error) { return map[string]any{}, nil }},
		},
	}
}

func (s *Service) admitDelete(ctx context.Context, c *resource.Change) error {
	site, err := ml.SiteFrom(*c.Old)
	if err != nil {
		return nil // never became ready
	}
	if err := s.noProjects(ctx, c); err != nil {
		return err
	}
	if !c.Purge {
		c.Kept = deleted(now())
	}
	if s.OpenJobs == nil {
		return nil
	}
	n, err := s.OpenJobs(ctx, site.GUID)
	if err == nil && n > 0 {
		return fault.Conflicts("The workspace '%s' has %d jobs that have not ended; cancel them first.", c.Old.ID.Name(), n).With("UserError")
	}
	return err
}

// healthy is the diagnosis of a workspace: it depends on nothing outside the
// server that could be set up wrong.
func healthy() map[string][]any {
	found := map[string][]any{}
	for _, of := range []string{"userDefinedRoute", "networkSecurityRule", "resourceLock", "dnsResolution", "storageAccount", "keyVault", "containerRegistry", "applicationInsights", "other"} {
		found[of+"Results"] = []any{}
	}
	return found
}

// listKeys names the stores. There are no account keys: clients get signatures
// that end by themselves (listSecrets of a datastore).
func listKeys(_ context.Context, call resource.Call) (any, error) {
	site, err := ml.SiteFrom(call.Resource)
	if err != nil {
		return nil, err
	}
	// Older clients know the id of the account by another name.
	return map[string]any{"userStorageResourceId": storageID(site), "userStorageArmId": storageID(site)}, nil
}

// status is the platform's half of a workspace.
type status struct {
	ProvisioningState string `json:"provisioningState"`
	WorkspaceID       string `json:"workspaceId"`
	Account           string `json:"storageAccountName"`
}

func (s *Service) admit(ctx context.Context, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	// What a client sends back as it read it is made up anew by view.
	for _, name := range []string{"provisioningState", "workspaceId", "discoveryUrl", "mlFlowTrackingUri", "storageAccountName",
		"storageAccount", "keyVault", "applicationInsights", "containerRegistry", "notebookInfo", "tenantId", "associatedWorkspaces"} {
		delete(p, name)
	}
	wanted := string(p["allowRecoverSoftDeletedWorkspace"]) == "true"
	delete(p, "allowRecoverSoftDeletedWorkspace")
	if c.Gone != nil {
		if err := restore(c, p, wanted); err != nil {
			return err
		}
	}
	if err := s.admitKind(ctx, c, p); err != nil {
		return err
	}
	p.Default("friendlyName", c.New.ID.Name())
	p.Default("description", "")
	p.Default("hbiWorkspace", false)
	p.Default("publicNetworkAccess", "Enabled")
	c.New.Properties = p.Raw()
	if c.New.Location == "" {
		c.New.Location = "local"
	}
	if len(c.New.Identity) == 0 {
		c.New.Identity = json.RawMessage(`{"type":"SystemAssigned"}`)
	}
	if len(c.New.SKU) == 0 {
		c.New.SKU = json.RawMessage(`{"name":"Basic","tier":"Basic"}`)
	}
	if c.Old != nil || c.Gone != nil {
		return nil
	}
	guid := resource.NewGUID()
	st := status{ProvisioningState: resource.Succeeded, WorkspaceID: guid, Account: ml.AccountOf(guid)}
	if c.New.Status, err = json.Marshal(st); err != nil {
		return err
	}
	site := ml.Site{ID: c.New.ID, GUID: guid, Account: st.Account}
	for _, container := range []blob.Container{site.Blobs(), site.Artifacts()} {
		if err := s.Blobs.CreateContainer(ctx, container); err != nil {
			return err
		}
	}
	c.Batch.Puts = append(c.Batch.Puts, datastores(site, c.New.Created)...)
	for _, seed := range s.Seeds {
		more, err := seed(c.New.ID, c.New.Created)
		if err != nil {
			return err
		}
		c.Batch.Puts = append(c.Batch.Puts, more...)
	}
	return nil
}

// datastores are those that clients expect every workspace to have.
func datastores(site ml.Site, stamp resource.Stamp) []resource.Write {
	var writes []resource.Write
	for _, d := range []struct {
		name, kind, container string
		isDefault             bool
	}{
		{ml.BlobStore, "AzureBlob", site.Blobs().Name, true},
		{ml.ArtifactStore, "AzureBlob", site.Artifacts().Name, false},
		{"workspacefilestore", "AzureFile", "azureml-filestore-" + site.GUID, false},
		{"workspaceworkingdirectory", "AzureFile", "code-" + site.GUID, false},
	} {
		p := resource.Document{}
		p.Set("datastoreType", d.kind)
		p.Set("accountName", site.Account)
		if d.kind == "AzureFile" {
			p.Set("fileShareName", d.container)
		} else {
			p.Set("containerName", d.container)
		}
		p.Set("endpoint", "core.lapis")
		p.Set("protocol", "https")
		p.Set("isDefault", d.isDefault)
		p.Set("credentials", map[string]string{"credentialsType": "Sas"})
		p.Set("serviceDataAccessAuthIdentity", "None")
		p.Set("tags", map[string]string{})
		p.Set("properties", map[string]string{})
		writes = append(writes, resource.Write{Expect: resource.Absent, Resource: resource.Resource{
			ID: site.ID.Child("datastores", d.name), Properties: p.Raw(), Created: stamp, Updated: stamp}})
	}
	return writes
}

func storageID(site ml.Site) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s", site.ID.Subscription(), site.ID.Group(), site.Account)
}

// Parts are the types of what other providers would keep for a workspace, with
// the beginning of the name that each has. They are parts of the workspace here:
// they come with it and go with it.
var Parts = map[string]string{
	"Microsoft.Storage/storageAccounts": "st",
	"Microsoft.Keyvault/vaults":         "kv",
	"Microsoft.insights/components":     "ai",
}

// Provided tells whether a type, or one that lies in it, is of what a workspace
// needs in Azure and has here anyway, so that nobody need make it.
func Provided(kind string) bool {
	kind = strings.ToLower(kind)
	of := func(what string) bool { return kind == what || strings.HasPrefix(kind, what+"/") }
	for part := range Parts {
		if of(strings.ToLower(part)) {
			return true
		}
	}
	return of("microsoft.containerregistry/registries") || of("microsoft.operationalinsights/workspaces")
}

// PartOf finds the workspace that has the part.
func (s *Service) PartOf(ctx context.Context, part resource.ID) (resource.Resource, error) {
	q := resource.Query{Type: ml.Workspaces, Parent: part.Ancestor(resource.GroupType), Limit: 1000}
	for {
		page, err := s.Resources.List(ctx, q)
		if err != nil {
			return resource.Resource{}, err
		}
		for _, r := range page.Resources {
			site, err := ml.SiteFrom(r)
			if err == nil && len(part.Name()) > 2 && strings.EqualFold(part.Name()[2:], site.Account[2:]) {
				return r, nil
			}
		}
		if q.After = page.Next; q.After == "" {
			return resource.Resource{}, fault.NotFound("The resource '%s' could not be found: what is not a part of a workspace is not kept here.", part.Name()).At(part.String())
		}
	}
}

// view adds the addresses, which are made as the reply is.
func (s *Service) view(ctx context.Context, v resource.View, rs []resource.Resource) error {
	for i := range rs {
		r := &rs[i]
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
		site, err := ml.SiteFrom(*r)
		if err != nil {
			continue // shown as it is, with its provisioning state
		}
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		scope := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/", site.ID.Subscription(), site.ID.Group())
		p.Set("discoveryUrl", v.Origin+"/discovery")
		p.Set("mlFlowTrackingUri", v.Origin+"/mlflow/v1.0"+site.ID.String())
		p.Set("storageAccount", storageID(site))
		p.Set("keyVault", scope+"Microsoft.Keyvault/vaults/kv"+site.Account[2:])
		p.Set("applicationInsights", scope+"Microsoft.insights/components/ai"+site.Account[2:])
		if r.Kind == kindHub {
			if err := s.viewHub(ctx, r.ID, p); err != nil {
				return err
			}
		}
		r.Properties = p.Raw()
	}
	return nil
}
