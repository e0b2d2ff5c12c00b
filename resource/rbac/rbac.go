// Package rbac answers whether a principal may do something. For now there are
// two kinds of principals: administrators, and jobs, which work in their own
// workspace.
package rbac

import (
	"context"
	"strings"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
)

// Checker checks access.
type Checker struct{}

// jobVerbs are what code inside a job may do in its workspace: read all, and
// write assets and what it tracks; never computes, access or the workspace.
var jobWrites = []string{
	"codes", "data", "models", "environments", "components", "experiments", "metadata",
	"datasets", "jobs", "datastores/listsecrets",
}

// Check refuses what the principal may not do to the resource, with the action
// and the scope in the message.
func (Checker) Check(_ context.Context, p identity.Principal, action string, id resource.ID) error {
	switch p.Kind {
	case identity.User, identity.ServicePrincipal:
		return nil
	case identity.Job:
		if mayJob(p, action, id) {
			return nil
		}
	}
	if p.ID == "" {
		return fault.Unknown("The request carries no token; send one in the Authorization header.").With("AuthenticationFailed")
	}
	return fault.Denied("The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s'.", p.Name, p.ID, action, id)
}

func mayJob(p identity.Principal, action string, id resource.ID) bool {
	workspace := strings.ToLower(p.Workspace)
	if workspace == "" {
		return false
	}
	inside := id.Key() == workspace || strings.HasPrefix(id.Key(), workspace+"/")
	above := strings.HasPrefix(workspace, id.Key()+"/")
	read := strings.HasSuffix(action, "/read")
	if above {
		return read // its subscription and group
	}
	if !inside {
		return false
	}
	if read {
		return true
	}
	const prefix = "microsoft.machinelearningservices/workspaces/"
	rest, ok := strings.CutPrefix(strings.ToLower(action), prefix)
	if !ok {
		return false
	}
	for _, w := range jobWrites {
		if strings.HasPrefix(rest, w+"/") {
			return true
		}
	}
	return false
}
