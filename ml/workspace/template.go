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
// and what it would make beside the workspace is made with every workspace.
func FromTemplate(group resource.ID, template, parameters resource.Document) (resource.ID, json.RawMessage, error) {
	if !forWorkspace(template) {
		return resource.ID{}, nil, fault.Invalid("Templates are not evaluated here: of the template that makes a workspace the parameters are read, others are refused. Make each resource by itself.").With("InvalidTemplate").At("properties.template")
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
	if kind := text("kind"); kind != "" && !strings.EqualFold(kind, "default") {
		return resource.ID{}, nil, fault.Invalid("Workspaces of the kind '%s' are not offered yet; leave the kind out.", kind).With("InvalidTemplate").At("properties.parameters.kind")
	}
	id := group.Child(ml.Workspaces, name)
	if id.Zero() {
		return resource.ID{}, nil, fault.Invalid("%q is no name for a workspace", name).With("InvalidTemplate").At("properties.parameters.workspaceName")
	}
	props := resource.Document{}
	for from, to := range map[string]string{"friendlyName": "friendlyName", "description": "description", "publicNetworkAccess": "publicNetworkAccess",
		"imageBuildCompute": "imageBuildCompute", "primaryUserAssignedIdentity": "primaryUserAssignedIdentity", "systemDatastoresAuthMode": "systemDatastoresAuthMode"} {
		if s := text(from); s != "" {
			props.Set(to, s)
		}
	}
	props.Set("hbiWorkspace", strings.EqualFold(text("confidential_data"), "true"))
	if strings.EqualFold(text("allow_recover_softdeleted_workspace"), "true") {
		props.Set("allowRecoverSoftDeletedWorkspace", true)
	}
	props.Set("enableDataIsolation", strings.EqualFold(text("enable_data_isolation"), "true"))
	for from, to := range map[string]string{"managedNetwork": "managedNetwork", "serverless_compute_settings": "serverlessComputeSettings"} {
		if object := parameters.Object(from).Object("value"); len(object) > 0 {
			props[to] = object.Raw()
		}
	}
	body := resource.Document{"properties": props.Raw()}
	body.Set("location", text("location"))
	body.Set("kind", "Default")
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
