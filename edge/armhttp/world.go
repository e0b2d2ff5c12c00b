package armhttp

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/template"
)

// world is what a template may ask, for one caller.
type world struct {
	d           Deployments
	ctx         context.Context // of the deployment
	caller      identity.Principal
	view        resource.View
	correlation string
	preview     bool
	kept        func()                    // is called once the deployment is kept
	secrets     map[string]map[string]any // outputs of the templates in it that are not shown, by key
	passed      map[string]map[string]any // what was passed over, as the template has it
}

func (w *world) manager() *manager.Manager { return w.d.Manager }

// sketch is the same world, in which nothing is made.
func (w *world) sketch() *world {
	other := *w
	other.preview = true
	return &other
}

func (w *world) Preview() bool { return w.preview }

func (w *world) Get(id resource.ID) (map[string]any, error) {
	if found, ok := w.passed[id.Key()]; ok {
		return maps.Clone(found), nil
	}
	if w.preview && w.d.Provided(id.Type()) {
		return nil, template.ErrLater
	}
	r, err := w.manager().Get(w.ctx, w.caller, id, w.view)
	if err != nil {
		return nil, err
	}
	return asObject(show(r))
}

// asObject is what a client sees, as a template takes it.
func asObject(v any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	made, err := template.Decode(raw)
	if err != nil {
		return nil, err
	}
	object, ok := made.(map[string]any)
	if !ok {
		return nil, fault.Conflicts("what is asked for is no object").With("InvalidTemplate")
	}
	return object, nil
}

func (w *world) List(id resource.ID, action string, body json.RawMessage) (any, error) {
	if w.preview { // it may be a secret, and may have effects
		return nil, template.ErrLater
	}
	if id.Is(deployments) && strings.EqualFold(action, "listOutputsWithSecureValues") {
		return w.outputs(id)
	}
	reply, err := w.manager().Act(w.ctx, manager.Request{ID: id, Caller: w.caller, Correlation: w.correlation, View: w.view, Action: action, Body: body})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(reply.Body)
	if err != nil {
		return nil, err
	}
	return template.Decode(raw)
}

// outputs are those of a deployment of this one, with their secrets.
func (w *world) outputs(id resource.ID) (any, error) {
	found, err := w.Get(id)
	if err != nil {
		return nil, err
	}
	props, _ := found["properties"].(map[string]any)
	all, _ := props["outputs"].(map[string]any)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, w.secrets[id.Key()])
	return all, nil
}

// pass keeps what is made anyway, for those who refer to it.
func (w *world) pass(id resource.ID, body json.RawMessage) error {
	made, err := template.Decode(body)
	if err != nil {
		return err
	}
	shown, _ := made.(map[string]any)
	props, _ := shown["properties"].(map[string]any)
	if props == nil {
		props = map[string]any{}
	}
	props["provisioningState"] = resource.Succeeded
	shown["properties"], shown["id"], shown["name"], shown["type"] = props, id.String(), id.Name(), id.Type()
	w.passed[id.Key()] = shown
	return nil
}

func (w *world) Site(group resource.ID, deployment string) (template.Site, error) {
	site := template.Site{Group: group}
	found, err := w.manager().Get(w.ctx, w.caller, group, w.view)
	if err != nil {
		return site, err
	}
	if site.ResourceGroup, err = asObject(show(found)); err != nil {
		return site, err
	}
	site.Group = found.ID
	id := found.ID.Ancestor(resource.SubscriptionType)
	site.Subscription = map[string]any{"id": id.String(), "subscriptionId": id.Name(), "displayName": id.Name()}
	if found, err := w.manager().Get(w.ctx, w.caller, id, w.view); err == nil {
		shown := show(found)
		site.Subscription["tenantId"], site.Subscription["displayName"] = shown.TenantID, shown.DisplayName
	}
	tenant, _ := site.Subscription["tenantId"].(string)
	site.Tenant = map[string]any{"tenantId": tenant, "displayName": "Lapis", "countryCode": ""}
	_, host, _ := strings.Cut(w.view.Origin, "://")
	site.Environment = map[string]any{"name": "Lapis", "resourceManager": w.view.Origin + "/", "graph": w.view.Origin + "/graph", "gallery": w.view.Origin + "/", "portal": w.view.Origin,
		"authentication": map[string]any{"loginEndpoint": w.view.Origin + "/adfs", "audiences": []any{w.view.Origin + "/", w.view.Origin}, "tenant": tenant, "identityProvider": "AAD"},
		"suffixes":       map[string]any{"storage": "core.lapis@" + host, "keyvaultDns": ".vault.lapis.localhost", "acrLoginServer": ".azurecr.lapis.localhost"}}
	site.Deployment = map[string]any{"name": deployment, "properties": map[string]any{"mode": "Incremental", "provisioningState": "Accepted", "parameters": map[string]any{}, "template": map[string]any{}}}
	site.Deployer = map[string]any{"objectId": w.caller.ID, "tenantId": tenant, "userPrincipalName": w.caller.Name}
	return site, nil
}
