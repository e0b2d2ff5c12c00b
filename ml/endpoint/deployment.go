package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/resource"
)

func (s *Service) admitDeployment(ctx context.Context, c *resource.Change) error {
	if err := busy("online deployment", c.Old); err != nil {
		return err
	}
	endpoint, err := s.Resources.Get(ctx, c.New.ID.Parent())
	if err != nil {
		return err
	}
	if StateOf(endpoint) == resource.Deleting {
		return fault.Conflicts("The online endpoint '%s' is being deleted.", endpoint.ID.Name()).With("AnotherOperationInProgress").At(endpoint.ID.String())
	}
	if c.Old == nil {
		if err := s.room(ctx, c.New.ID, endpoint); err != nil {
			return err
		}
	}
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	if err := s.members(ctx, c, p, endpoint); err != nil {
		return err
	}
	if err := admitSKU(c, p); err != nil {
		return err
	}
	if c.New.Location == "" {
		c.New.Location = endpoint.Location
	}
	c.New.Properties = p.Raw()
	var d Deployment
	if err := json.Unmarshal(c.New.Properties, &d); err != nil {
		return resource.WrongJSON(err, "properties")
	}
	if c.Old != nil {
		scaling := c.Old.Location == c.New.Location && resource.EqualJSON(c.Old.Properties, c.New.Properties) && !resource.EqualJSON(c.Old.SKU, c.New.SKU)
		c.Batch.Statuses = append(c.Batch.Statuses, resource.StatusWrite{ID: c.New.ID, Change: laid(map[string]bool{"scaling": scaling})})
	}
	return nil
}

// room refuses a deployment that is one too many, or whose name is too long
// together with its endpoint's.
func (s *Service) room(ctx context.Context, id resource.ID, endpoint resource.Resource) error {
	const most = 62
	if n := len(id.Name()) + len(endpoint.ID.Name()); endpoint.Kind == Kubernetes && n > most {
		return fault.Invalid("the names '%s' and '%s' have %d characters together; of a Kubernetes endpoint and its deployment they may have %d", endpoint.ID.Name(), id.Name(), n, most).With("ValidationError").At("name")
	}
	if s.Limits.Deployments < 1 {
		return nil
	}
	there, err := s.deployments(ctx, endpoint.ID)
	if err == nil && len(there) >= s.Limits.Deployments {
		return fault.Conflicts("The online endpoint '%s' has %d deployments, and at most %d are allowed; delete one that is not needed.", endpoint.ID.Name(), len(there), s.Limits.Deployments).With("OutOfQuota")
	}
	return err
}

// members checks the properties one by one and fills in what is not given.
func (s *Service) members(ctx context.Context, c *resource.Change, p resource.Document, endpoint resource.Resource) error {
	canonical(p, "endpointComputeType", "model", "modelMountPath", "codeConfiguration", "environmentId", "environmentVariables", "description",
		"properties", "instanceType", "appInsightsEnabled", "egressPublicNetworkAccess", "requestSettings", "livenessProbe", "readinessProbe",
		"scaleSettings", "dataCollector", "privateNetworkConnection", "containerResourceRequirements", "provisioningState", "provisioningErrors")
	for _, name := range readOnly {
		delete(p, name)
	}
	for _, field := range []string{"model", "modelMountPath", "environmentId", "description", "instanceType"} {
		if err := text(p, field, field); err != nil {
			return err
		}
	}
	kind, err := word(p, "endpointComputeType", "endpointComputeType", computeTypes)
	if err != nil {
		return err
	}
	own := "Managed"
	if endpoint.Kind == Kubernetes {
		own = "Kubernetes"
	}
	if kind == "" {
		p.Set("endpointComputeType", own)
	} else if kind != own {
		return invalid("endpointComputeType", "is %s, but the endpoint '%s' is %s: a deployment is of its endpoint's kind", kind, endpoint.ID.Name(), map[string]string{"Managed": "managed", "Kubernetes": "on Kubernetes"}[own])
	}
	given, err := texts(p, "properties", "properties")
	if err != nil {
		return err
	}
	s.takeShown(c, p, given)
	if err := s.content(ctx, c, p); err != nil {
		return err
	}
	if err := s.variables(ctx, c, p); err != nil {
		return err
	}
	for _, field := range []string{"appInsightsEnabled", "privateNetworkConnection"} {
		var b bool
		if raw, ok := p[field]; ok && json.Unmarshal(raw, &b) != nil {
			return invalid(field, "must be true or false")
		}
	}
	p.Default("appInsightsEnabled", false)
	if _, err := word(p, "egressPublicNetworkAccess", "egressPublicNetworkAccess", access); err != nil {
		return err
	}
	p.Default("egressPublicNetworkAccess", "Enabled")
	if err := instanceType(p, own); err != nil {
		return err
	}
	if err := requests(p, own, given); err != nil {
		return err
	}
	for _, field := range []string{"livenessProbe", "readinessProbe"} {
		if err := probe(p, field); err != nil {
			return err
		}
	}
	if err := scaling(p, own, given); err != nil {
		return err
	}
	if err := collector(p); err != nil {
		return err
	}
	return requirements(p, own)
}

// takeShown takes out of what a client sends back what it was shown and never set.
func (s *Service) takeShown(c *resource.Change, p resource.Document, given map[string]string) {
	if c.Old == nil {
		return
	}
	old, err := resource.ParseDocument(c.Old.Properties)
	if err != nil {
		return
	}
	was := map[string]string{}
	_ = json.Unmarshal(old["properties"], &was)
	shown := StatusOf(*c.Old).Shown
	for name, value := range given {
		_, own := was[name]
		if !own && (shown[name] == value || strings.EqualFold(name, operationProperty)) {
			delete(given, name)
		}
	}
	p.Set("properties", given)
}

// object is the member as an object of which names are known; an empty one if it
// is not there.
func object(p resource.Document, field string, names ...string) (resource.Document, error) {
	d, err := resource.ParseDocument(p[field])
	if err != nil {
		return nil, invalid(field, "must be an object")
	}
	canonical(d, names...)
	return d, nil
}

// admitSKU checks the number of instances. One alone may be 0 that may sleep.
func admitSKU(c *resource.Change, p resource.Document) error {
	d, err := resource.ParseDocument(c.New.SKU)
	if err != nil {
		return fault.Invalid("'sku' must be an object").With("ValidationError").At("sku")
	}
	canonical(d, "name", "capacity", "tier", "size", "family")
	var name string
	d.Default("name", "Default")
	if json.Unmarshal(d["name"], &name) != nil || name != "" && !strings.EqualFold(name, "Default") {
		return fault.Invalid("'sku.name' is %s; it must be Default", fault.Clip(string(d["name"]))).With("ValidationError").At("sku.name")
	}
	d.Set("name", "Default")
	scale := p.Object("scaleSettings")
	least, most, otherwise := 1, MaxInstances, 1
	var view Scale
	if json.Unmarshal(scale.Raw(), &view) == nil && view.Type == "TargetUtilization" {
		least, otherwise = view.MinInstances, max(view.MinInstances, 1)
	}
	var properties map[string]string
	_ = json.Unmarshal(p["properties"], &properties)
	if properties[MinInstancesProperty] == "0" {
		least = 0
	}
	d.Default("capacity", otherwise)
	var capacity int
	if json.Unmarshal(d["capacity"], &capacity) != nil {
		return fault.Invalid("'sku.capacity' is %s; it must be a whole number of instances", fault.Clip(string(d["capacity"]))).With("ValidationError").At("sku.capacity")
	}
	if least = min(least, 1); capacity < least || capacity > most {
		return fault.Invalid("'sku.capacity' is %d; a deployment has from %d to %d instances", capacity, least, most).With("ValidationError").At("sku.capacity")
	}
	c.New.SKU = d.Raw()
	return nil
}

// admitDeploymentDelete refuses to take a deployment away that callers are sent to.
func (s *Service) admitDeploymentDelete(ctx context.Context, c *resource.Change) error {
	if !c.Root.Zero() {
		return nil // its endpoint goes, too
	}
	endpoint, err := s.Resources.Get(ctx, c.Old.ID.Parent())
	if err != nil {
		return err
	}
	p, err := resource.ParseDocument(endpoint.Properties)
	if err != nil {
		return err
	}
	name, named := c.Old.ID.Name(), false
	for _, field := range []string{"traffic", "mirrorTraffic"} {
		split, err := percents(p, field)
		if err != nil {
			return err
		}
		if split[name] > 0 {
			what := map[string]string{"traffic": "of the traffic", "mirrorTraffic": "of the requests as copies"}[field]
			return fault.Conflicts("The deployment '%s' gets %d %% %s of the endpoint '%s'; set that to 0 first.", name, split[name], what, endpoint.ID.Name()).With("DeploymentHasTraffic").At(c.Old.ID.String())
		}
		if _, ok := split[name]; ok {
			named = true
			delete(split, name)
			p.Set(field, split)
		}
	}
	if !named {
		c.Rely(endpoint)
		return nil
	}
	next := endpoint
	next.Properties = p.Raw()
	c.Batch.Puts = append(c.Batch.Puts, resource.Write{Resource: next, Expect: endpoint.Etag, Keep: true})
	return nil
}

func (s *Service) provisionDeployment(ctx context.Context, r resource.Resource) (json.RawMessage, error) {
	var status json.RawMessage
	if s.Deployer != nil {
		var err error
		if status, err = s.Deployer.Deploy(ctx, r); err != nil {
			return nil, err
		}
	}
	now, err := s.Resources.Get(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	live := StatusOf(now).Live
	if err := s.score(ctx, r.ID.Parent(), live); err != nil {
		return nil, err
	}
	shown, err := s.origin(ctx, r)
	if err != nil {
		return nil, err
	}
	done, err := resource.ParseDocument(status)
	if err != nil {
		return nil, err
	}
	if live != nil && live.Spec.Runtime != "" {
		shown["serving.runtime"] = live.Spec.Runtime
	}
	done.Set("shown", shown)
	return done.Raw(), nil
}

// origin tells where what is served comes from: the model's version, and the job
// that made it.
func (s *Service) origin(ctx context.Context, r resource.Resource) (map[string]string, error) {
	shown := map[string]string{}
	var d Deployment
	if err := json.Unmarshal(r.Properties, &d); err != nil || d.Model == "" {
		return shown, err
	}
	m, err := asset.Refer(ctx, s.Resources, ml.Home(r.ID), "models", d.Model, "model")
	if fault.Is(err, fault.Missing) {
		return shown, nil // deleted since; what was copied serves
	}
	if err != nil {
		return nil, err
	}
	shown["azureml.modelName"], shown["azureml.modelVersion"] = m.ID.Parent().Name(), m.ID.Name()
	p, err := resource.ParseDocument(m.Properties)
	if err != nil {
		return nil, err
	}
	if job := p.Text("jobName"); job != "" {
		shown["azureml.modelJobName"] = job
	}
	return shown, nil
}

// defaultPath is where models score.
const defaultPath = "/score"

// score writes into the endpoint where what serves now scores.
func (s *Service) score(ctx context.Context, id resource.ID, live *Live) error {
	at := defaultPath
	if live != nil && strings.HasPrefix(live.Spec.ScoringPath, "/") {
		at = live.Spec.ScoringPath
	}
	endpoint, err := s.Resources.Get(ctx, id)
	if err != nil {
		return err
	}
	if was := StatusOf(endpoint).Path; was == at || was == "" && at == defaultPath {
		return nil
	}
	_, err = s.Resources.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: endpoint.ID, Change: laid(map[string]string{"scoringPath": at})}}})
	return err
}

func (s *Service) releaseDeployment(ctx context.Context, r resource.Resource) error {
	if s.Deployer == nil {
		return nil
	}
	return s.Deployer.Withdraw(ctx, r)
}

func (s *Service) viewDeployments(_ context.Context, _ resource.View, rs []resource.Resource) error {
	for i := range rs {
		r := &rs[i]
		status := StatusOf(*r)
		err := show(r, func(_, shown resource.Document) {
			for name, value := range status.Shown {
				shown.Set(name, value)
			}
		})
		if err != nil {
			return err
		}
		if status.Scaled != nil && status.Scaled.To == status.Capacity && status.ProvisioningState == resource.Succeeded {
			sku, err := resource.ParseDocument(r.SKU)
			if err != nil {
				return fmt.Errorf("%s: %w", r.ID, err)
			}
			sku.Set("capacity", status.Capacity)
			r.SKU = sku.Raw()
		}
		if status.Scaling && status.ProvisioningState == resource.Updating {
			d, err := resource.ParseDocument(r.Status)
			if err != nil {
				return err
			}
			d.Set("provisioningState", "Scaling")
			r.Status = d.Raw()
		}
	}
	return nil
}

// The containers whose logs there are, and how many lines are given at most.
const (
	inferenceServer    = "InferenceServer"
	storageInitializer = "StorageInitializer"
	maxLogLines        = 5000
)

// getLogs gives the last lines that a container of the deployment wrote.
func (s *Service) getLogs(ctx context.Context, call resource.Call) (any, error) {
	var body struct {
		Container *string `json:"containerType"`
		Tail      *int    `json:"tail"`
	}
	if len(call.Body) > 0 {
		if err := json.Unmarshal(call.Body, &body); err != nil {
			return nil, resource.WrongJSON(err, "")
		}
	}
	container := inferenceServer
	if body.Container != nil && *body.Container != "" {
		given := strings.ReplaceAll(*body.Container, "-", "")
		switch {
		case strings.EqualFold(given, inferenceServer):
		case strings.EqualFold(given, storageInitializer):
			container = storageInitializer
		default:
			return nil, fault.Invalid("'containerType' is %q; it must be %s or %s", fault.Clip(*body.Container), inferenceServer, storageInitializer).With("ValidationError").At("containerType")
		}
	}
	lines := maxLogLines
	if body.Tail != nil {
		if lines = *body.Tail; lines < 1 || lines > maxLogLines {
			return nil, fault.Invalid("'tail' is %d; it must be from 1 to %d lines", lines, maxLogLines).With("ValidationError").At("tail")
		}
	}
	if s.Deployer == nil {
		return map[string]string{"content": ""}, nil
	}
	content, err := s.Deployer.Logs(ctx, call.Resource, container, lines)
	return map[string]string{"content": content}, err
}

// SKUs are the numbers of instances that a deployment may have, in the form that
// autoscale asks for.
func SKUs(deployment resource.Resource) map[string]any {
	var sku Sku
	_ = json.Unmarshal(deployment.SKU, &sku)
	return map[string]any{"value": []any{map[string]any{
		"resourceType": DeploymentType, "sku": map[string]any{"name": "Default", "tier": nil},
		"capacity": map[string]any{"minimum": 1, "maximum": MaxInstances, "default": max(sku.Capacity, 1), "scaleType": "Automatic"},
	}}}
}
