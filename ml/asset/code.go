package asset

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/resource"
)

// Grants makes links to blobs that carry their own permission.
type Grants interface {
	// Container returns the URL of a container at origin, and the same with a
	// signature that allows what permissions name (of "racwdl") until then.
	Container(origin string, c blob.Container, permissions string, until time.Time, who string) (plain, signed string)
}

// pendingFor is how long an upload may take.
const pendingFor = 24 * time.Hour

// Code is the kind of code snapshots. Each lies in a container of its own.
func Code(store resource.Store, blobs blob.Store, grants Grants, now func() time.Time) Kind {
	k := Kind{Segment: "codes", Title: "code", Fixed: []string{"codeUri"}}
	k.Admit = func(_ context.Context, c *resource.Change, p resource.Document) error {
		if p.Text("codeUri") == "" {
			return fault.Invalid("'properties.codeUri' is required: the URL of the uploaded code").With("ValidationError").At("properties.codeUri")
		}
		props := p.Object("properties")
		if hash := props.Text("hash_sha256"); hash != "" {
			c.New.Lookup = strings.ToLower(hash)
		}
		return nil
	}
	// The name in a look-up by hash is a fresh one: all code of the workspace
	// is searched, or nothing would ever be found again.
	k.List = func(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
		if hash := o["hash"]; hash != "" {
			q.Lookup, q.Scope, q.Parent, q.Archived = strings.ToLower(hash), ml.Home(q.Parent), resource.ID{}, nil
		}
		return store.List(ctx, q)
	}
	k.Actions = map[string]resource.Action{"startPendingUpload": {Bare: true, Run: func(ctx context.Context, call resource.Call) (any, error) {
		site, err := ml.SiteOf(ctx, store, call.ID)
		if err != nil {
			return nil, err
		}
		c := blob.Container{Account: site.Account, Name: strings.ToLower(call.ID.Parent().Name())}
		if c.Check() != nil {
			return nil, fault.Invalid("%q cannot be the name of a container for the upload: name the code asset with a GUID", c.Name).With("ValidationError").At("name")
		}
		if err := blobs.CreateContainer(ctx, c); err != nil {
			return nil, err
		}
		return PendingUpload(grants, call, site, c, now()), nil
	}}}
	return k
}

// PendingUpload tells a client where to upload to.
func PendingUpload(grants Grants, call resource.Call, site ml.Site, c blob.Container, now time.Time) any {
	plain, signed := grants.Container(call.View.Origin, c, "racwdl", now.Add(pendingFor), call.Caller.Name)
	return map[string]any{
		"pendingUploadId":   c.Name,
		"pendingUploadType": "TemporaryBlobReference",
		"blobReferenceForConsumption": map[string]any{
			"blobUri": plain,
			"storageAccountArmId": fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Storage/storageAccounts/%s",
				site.ID.Subscription(), site.ID.Group(), c.Account),
			"credential": map[string]any{"credentialType": "SAS", "sasUri": signed},
		},
	}
}
