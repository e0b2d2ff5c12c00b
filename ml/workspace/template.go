package workspace

import (
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/resource"
)

// FromTemplate tells which workspace the template of Azure ML's clients is to
// make in a group. The template is not evaluated: its parameters say it all,
// and what it would make beside the workspace is made with every workspace. The
// zero id is that of any other template.
func FromTemplate(group resource.ID, template, parameters resource.Document) (resource.ID, json.RawMessage, error) {
	if !forWorkspace(template) {
		return resource.ID{}, nil, nil
	}
	value := func(name string) json.RawMessage { return parameters.Object(name)["value"] }
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(value(name), &s)
		return s
	}
	name := text("workspaceName")
	if name == "" {
		return resource.ID{}, nil, fault.Invalid("The template's parameter 'workspaceName' is required: the name of the workspace.").With("InvalidTemplate").At("properties.parameters.workspaceName")
	}
	kind, err := kindOf(text("kind"))
	if err != nil {
		return resource.ID{}, nil, fault.Find(err).With("InvalidTemplate").At("properties.parameters.kind")
	}
	for _, later := range []struct{ kind, parameter, unset, what string }{
		{kindFeatureStore, "online_store_resource_id", "", "online stores of feature stores"},
		{kindFeatureStore, "offlineStoreStorageAccountOption", "new", "offline stores of feature stores"},
		{kindFeatureStore, "materializationIdentityOption", "new", "identities that materialize features"},
		{kindHub, "endpoint_resource_id", "null", "hubs that are made with another service's endpoint"},
	} {
		given := text(later.parameter)
		if kind == later.kind && given != "" && given != later.unset && given != "none" {
			return resource.ID{}, nil, fault.Invalid("Lapis does not offer %s yet; leave that out.", later.what).With("InvalidTemplate").At("properties.parameters." + later.parameter)
		}
	}
	id := group.Child(ml.Workspaces, name)
	if id.Zero() {
		return resource.ID{}, nil, fault.Invalid("%q is no name for a workspace", name).With("InvalidTemplate").At("properties.parameters.workspaceName")
	}
	props := resource.Document{}
	for from, to := range map[string]string{"friendlyName": "friendlyName", "description": "description", "publicNetworkAccess": "publicNetworkAccess",
		"imageBuildCompute": "imageBuildCompute", "workspace_hub": "hubResourceId", "primaryUserAssignedIdentity": "primaryUserAssignedIdentity", "systemDatastoresAuthMode": "systemDatastoresAuthMode"} {
		if s := text(from); s != "" {
			props.Set(to, s)
		}
	}
	props.Set("hbiWorkspace", strings.EqualFold(text("confidential_data"), "true"))
	if strings.EqualFold(text("allow_recover_softdeleted_workspace"), "true") {
		props.Set("allowRecoverSoftDeletedWorkspace", true)
	}
	props.Set("enableDataIsolation", strings.EqualFold(text("enable_data_isolation"), "true"))
	for from, to := range map[string]string{"managedNetwork": "managedNetwork", "serverless_compute_settings": "serverlessComputeSettings", "workspace_hub_config": "workspaceHubConfig"} {
		if object := parameters.Object(from).Object("value"); len(object) > 0 {
			props[to] = object.Raw()
		}
	}
	if spark := text("spark_runtime_version"); kind == kindFeatureStore && spark != "" {
		props.Set("featureStoreSettings", map[string]any{"computeRuntime": map[string]string{"sparkRuntimeVersion": spark}})
	}
	body := resource.Document{"properties": props.Raw()}
	body.Set("location", text("location"))
	body.Set("kind", kind)
	if tags := parameters.Object("tagValues").Object("value"); len(tags) > 0 {
		body["tags"] = tags.Raw()
	}
	if who := parameters.Object("identity").Object("value"); len(who) > 0 {
		body["identity"] = who.Raw()
	}
	return id, body.Raw(), nil
}

// forWorkspace tells whether a template makes a workspace out of the
// parameters that Azure ML's clients send.
func forWorkspace(template resource.Document) bool {
	_, named := template.Object("parameters")["workspaceName"]
	return named && strings.Contains(strings.ToLower(string(template["resources"])), `"`+strings.ToLower(ml.Workspaces)+`"`)
}
