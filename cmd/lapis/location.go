package main

import (
	"net/http"

	"lapis/edge/armhttp"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/endpoint"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
)

// routes are the ARM paths that are no resource's.
func (v *server) routes() []armhttp.Route {
	routes := armhttp.Directory{Manager: v.manager, Tenant: v.who.Tenant, Location: v.who.Location}.Routes()
	routes = append(routes, armhttp.Deployments{Manager: v.manager, Wanted: workspace.FromTemplate, Provided: workspace.Provided, Tasks: v.templates}.Routes()...)
	routes = append(routes, armhttp.RegistryRoutes(v.shared, func(r *http.Request, registry resource.ID, view resource.View) error {
		_, err := v.manager.Get(r.Context(), identity.Of(r.Context()), registry, view)
		return err
	})...)
	for kind := range workspace.Parts {
		routes = append(routes, armhttp.Route{Method: http.MethodGet, Type: kind, Handle: v.part}, armhttp.Route{Method: http.MethodDelete, Type: kind, Handle: v.removePart})
	}
	return append(routes,
		armhttp.Route{Method: http.MethodGet, Type: endpoint.DeploymentType + "/skus", Handle: v.deploymentSKUs},
		armhttp.Route{Method: http.MethodGet, Type: ml.Provider + "/locations/vmSizes", Handle: v.vmSizes},
		armhttp.Route{Method: http.MethodGet, Type: ml.Provider + "/locations/usages", Handle: v.usages},
	)
}

// part shows what clients take for a resource of another provider and is a part
// of a workspace.
func (v *server) part(r *http.Request, a resource.Address, view resource.View) (int, any, error) {
	ctx, caller := r.Context(), identity.Of(r.Context())
	if _, err := v.manager.Get(ctx, caller, a.Scope.Ancestor(resource.GroupType), view); err != nil {
		return 0, nil, err
	}
	owner, err := v.workspaces.PartOf(ctx, a.Scope)
	if err == nil {
		owner, err = v.manager.Get(ctx, caller, owner.ID, view)
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"id": a.Scope.String(), "name": a.Scope.Name(), "type": a.Scope.Type(), "location": owner.Location,
		"managedBy": owner.ID.String(), "properties": map[string]string{"provisioningState": resource.Succeeded,
			"description": "A part of the workspace, made and deleted with it."}}, nil
}

// removePart removes nothing: a part goes with its workspace. Clients that delete
// a workspace with all that it depends on ask for this first.
func (v *server) removePart(r *http.Request, a resource.Address, view resource.View) (int, any, error) {
	if _, err := v.manager.Get(r.Context(), identity.Of(r.Context()), a.Scope.Ancestor(resource.GroupType), view); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

// deploymentSKUs tells how many instances a deployment may have.
func (v *server) deploymentSKUs(r *http.Request, a resource.Address, view resource.View) (int, any, error) {
	d, err := v.manager.Get(r.Context(), identity.Of(r.Context()), a.Scope, view)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, endpoint.SKUs(d), nil
}

// vmSizes lists the instance types of a location. All locations are this machine.
func (v *server) vmSizes(r *http.Request, a resource.Address, view resource.View) (int, any, error) {
	if _, err := v.manager.Get(r.Context(), identity.Of(r.Context()), a.Scope.Ancestor(resource.SubscriptionType), view); err != nil {
		return 0, nil, err
	}
	offers := compute.Offers(r.URL.Query().Get("computeType"))
	return http.StatusOK, map[string]any{"value": offers}, nil
}

// usages tells how much of the machine's slots, and of each kind of compute, is
// taken.
func (v *server) usages(r *http.Request, a resource.Address, view resource.View) (int, any, error) {
	ctx, caller := r.Context(), identity.Of(r.Context())
	subscription := a.Scope.Ancestor(resource.SubscriptionType)
	if _, err := v.manager.Get(ctx, caller, subscription, view); err != nil {
		return 0, nil, err
	}
	nodes, clusters, instances := 0, 0, 0
	q := resource.Query{Type: compute.Type, Scope: subscription, Limit: 1000}
	for {
		page, err := v.manager.Store().List(ctx, q)
		if err != nil {
			return 0, nil, err
		}
		for _, res := range page.Resources {
			t, err := compute.ParseTarget(res)
			if err != nil {
				continue
			}
			n := compute.NodesOf(res)
			nodes += len(n.Running) + len(n.Idle)
			switch t.Kind {
			case "AmlCompute":
				clusters++
			case "ComputeInstance":
				instances++
			}
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	items := []any{}
	for _, u := range []struct {
		name, title string
		now, limit  int
	}{
		{"totalDedicatedCores", "Jobs that run at once on this machine", nodes, v.settings.Slots},
		{"clusters", "Compute clusters", clusters, 10_000},
		{"instances", "Compute instances", instances, 10_000},
	} {
		kind := ml.Provider + "/usages"
		items = append(items, map[string]any{"id": a.Scope.String() + "/usages/" + u.name, "type": kind, "amlWorkspaceLocation": a.Scope.Name(),
			"unit": "Count", "currentValue": u.now, "limit": u.limit, "name": map[string]string{"value": u.name, "localizedValue": u.title}})
	}
	return http.StatusOK, map[string]any{"value": items}, nil
}

// later are the types that clients know and that are not offered yet.
func later() []*resource.Type {
	var types []*resource.Type
	for name, title := range map[string]string{
		"schedules":      "schedules",
		"batchEndpoints": "batch endpoints", "batchEndpoints/deployments": "batch deployments", "serverlessEndpoints": "serverless endpoints",
		"marketplaceSubscriptions": "marketplace subscriptions", "capabilityHosts": "capability hosts", "featuresets": "feature sets",
		"featurestoreEntities": "feature store entities", "outboundRules": "outbound rules", "privateEndpointConnections": "private endpoints",
	} {
		types = append(types, &resource.Type{Name: ml.Workspaces + "/" + name, Title: title,
			Refused: fault.New(fault.NotImplemented, "NotOffered", "Lapis does not offer %s yet.", title).At(ml.Workspaces + "/" + name)})
	}
	return types
}
