package asset

import (
	"context"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/pattern"
	"lapis/resource"
)

// The ways in which clients name a version of an asset. The segment is the
// second to last group but two: each has name, "versions" or "labels", and which.
var (
	byID        = pattern.New(`(?i)^(?:azureml:)?(/subscriptions/.+/(?:workspaces|registries)/[^/]+)/([a-z]+)/([^/]+)/(versions|labels)/([^/]+)$`)
	inWorkspace = pattern.New(`(?i)^azureml://locations/([^/]+)/workspaces/([^/]+)/([a-z]+)/([^/]+)/(versions|labels)/([^/]+)$`)
	inRegistry  = pattern.New(`(?i)^azureml://registries/([^/]+)/([a-z]+)/([^/]+)/(versions|labels)/([^/]+)$`)
	byName      = pattern.New(`^azureml:([^:/@]+)(?::([^:/@]+)|@([^:/@]+))$`)
)

// Refer finds the version that a property of a resource in the workspace names:
// by an ARM id of a version or a label, azureml:NAME:VERSION, azureml:NAME@LABEL,
// or an address in a registry. One that does not exist, lies in another
// workspace or is of another segment is a fault that names the field.
func Refer(ctx context.Context, store resource.Store, workspace resource.ID, segment, id, field string) (resource.Resource, error) {
	wrong := func(format string, args ...any) error {
		return fault.Invalid("'properties."+field+"' "+format, args...).With("ValidationError").At("properties." + field)
	}
	home, kind, name, how, version := workspace, segment, "", "versions", ""
	if m := byID.FindStringSubmatch(id); m != nil {
		parsed, err := resource.ParseID(m[1])
		if err != nil {
			return resource.Resource{}, wrong("is %q, which is no id: %v", fault.Clip(id), err)
		}
		home, kind, name, how, version = parsed, m[2], m[3], m[4], m[5]
	} else if m := inRegistry.FindStringSubmatch(id); m != nil {
		r, err := ml.FindRegistry(ctx, store, m[1])
		if err != nil {
			return resource.Resource{}, err
		}
		home, kind, name, how, version = r.ID, m[2], m[3], m[4], m[5]
	} else if m := inWorkspace.FindStringSubmatch(id); m != nil {
		site, err := ml.SiteOf(ctx, store, workspace)
		if err != nil {
			return resource.Resource{}, err
		}
		if !strings.EqualFold(site.GUID, m[2]) {
			return resource.Resource{}, wrong("lies in workspace '%s', not in '%s': share it through a registry", m[2], workspace.Name())
		}
		kind, name, how, version = m[3], m[4], m[5], m[6]
	} else if m := byName.FindStringSubmatch(id); m != nil {
		if name, version = m[1], m[2]; version == "" {
			how, version = "labels", m[3]
		}
	} else {
		return resource.Resource{}, wrong("is %q, which names no version of %s: use azureml:NAME:VERSION, azureml:NAME@LABEL or an id", fault.Clip(id), segment)
	}
	if !strings.EqualFold(kind, segment) {
		return resource.Resource{}, wrong("is %q, which lies among the %s; a version of %s is needed", fault.Clip(id), kind, segment)
	}
	if home.Is(ml.Workspaces) && !home.Same(workspace) {
		return resource.Resource{}, wrong("lies in workspace '%s', not in '%s': share it through a registry", home.Name(), workspace.Name())
	}
	if strings.EqualFold(how, "labels") {
		version = "@" + version
	}
	return Find(ctx, store, home, segment, strings.TrimPrefix(name, "azureml:"), version) // the SDK leaves the prefix in when it has looked up a label
}
