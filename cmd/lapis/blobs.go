package main

import (
	"context"
	"net/http"
	"strings"

	"lapis/edge/blobhttp"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/rbac"
)

// newBlobs serves the Blob dialect. A signature decides alone; a token is asked
// whose it is.
func (v *server) newBlobs(resources resource.Store, blobs blob.Store, sas *identity.SAS) http.Handler {
	return blobhttp.New(blobs, sas, blobhttp.Config{
		Authenticate: v.auth.Principal,
		Authorize: func(ctx context.Context, p identity.Principal, account, _ string, write bool) error {
			action := data.DatastoreType + "/read"
			if write {
				action = data.DatastoreType + "/write"
			}
			if p.Workspace == "" {
				return rbac.Checker{}.Check(ctx, p, action, resource.ID{})
			}
			// Code inside a job works with the stores of its workspace alone.
			id, err := resource.ParseID(p.Workspace)
			if err != nil {
				return err
			}
			site, err := ml.SiteOf(ctx, resources, id)
			if err != nil {
				return err
			}
			if !strings.EqualFold(site.Account, account) {
				return fault.Denied("The client '%s' works in workspace '%s' alone; the storage account '%s' is not of it.", p.Name, id.Name(), account)
			}
			return nil
		},
		Account: func(_ context.Context, container string) (string, error) {
			if m := ownContainer.FindStringSubmatch(container); m != nil {
				return ml.AccountOf(m[1]), nil
			}
			return "", fault.NotFound("The container '%s' could not be found; name its storage account in the address: /blob/ACCOUNT/CONTAINER.", container).With("ContainerNotFound")
		},
		Reserved: v.router.Reserved,
		Log:      v.log,
		Now:      now,
	})
}

// ownContainer is the name of a workspace's own container.
var ownContainer = pattern.New(`^azureml-(?:blobstore-)?([0-9a-f]{8}-[0-9a-f-]{27})$`)
