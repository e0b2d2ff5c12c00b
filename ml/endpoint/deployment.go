package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/compute"
	"lapis/ml/connection"
	"lapis/pattern"
	"lapis/resource"
)

// The bounds of a deployment's settings.
const (
	maxTimeout     = 180 * time.Second // of a request
	maxLongTimeout = 300 * time.Second // of a Kubernetes deployment's, and a prompt flow's
	maxConcurrent  = 100_000
	maxProbe       = 24 * time.Hour
	maxAttempts    = 10_000
	maxVariables   = 1000
	maxCollections = 5
)

var (
	rollingRates = []string{"Minute", "Hour", "Day", "Month", "Year"}
	scaleTypes   = []string{"Default", "TargetUtilization"}
	computeTypes = []string{"Managed", "Kubernetes"}
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

// content checks what is served: model, code and environment.
func (s *Service) content(ctx context.Context, c *resource.Change, p resource.Document) error {
	workspace := ml.Home(c.New.ID)
	if p.Text("model") == "" {
		delete(p, "model")
	} else if _, err := s.pin(ctx, workspace, "models", p, "model", "model"); err != nil {
		return err
	}
	code, err := object(p, "codeConfiguration", "codeId", "scoringScript")
	if err != nil {
		return err
	}
	for _, field := range []string{"codeId", "scoringScript"} {
		if err := text(code, field, "codeConfiguration."+field); err != nil {
			return err
		}
	}
	if len(code) > 0 {
		if code.Text("codeId") == "" {
			delete(code, "codeId") // the script is in the image or the model
		} else if _, err := s.pin(ctx, workspace, "codes", code, "codeId", "codeConfiguration.codeId"); err != nil {
			return err
		}
		if err := script(code.Text("scoringScript")); err != nil {
			return err
		}
		p["codeConfiguration"] = code.Raw()
	} else {
		delete(p, "codeConfiguration")
	}
	own := false // the environment brings its own server
	if p.Text("environmentId") == "" {
		delete(p, "environmentId")
	} else {
		r, err := s.pin(ctx, workspace, "environments", p, "environmentId", "environmentId")
		if err != nil {
			return err
		}
		e, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		own = len(e.Object("inferenceConfig")) > 0
	}
	if mount := p.Text("modelMountPath"); mount != "" && (!path.IsAbs(mount) || slices.Contains(strings.Split(mount, "/"), "..") || len(mount) > 1024) {
		return invalid("modelMountPath", "is %q; it must be an absolute path without '..'", fault.Clip(mount))
	}
	if p["model"] == nil && len(code) == 0 && !own {
		return invalid("model", "is missing, and so are a scoring script and an environment with an inference_config: name a model, give 'codeConfiguration', or an environment that brings its own server")
	}
	if len(code) > 0 && p["environmentId"] == nil {
		return invalid("environmentId", "is required: a scoring script runs in an environment; name one")
	}
	return nil
}

// exact is a reference to one version, which means the same for ever.
var exact = pattern.New(`(?i)^(?:/subscriptions/|azureml://registries/).+/versions/[^/]+$`)

// pin finds the version that a member names. A label or a short name is replaced
// by the version that it stands for now: what is deployed does not change by itself.
func (s *Service) pin(ctx context.Context, workspace resource.ID, segment string, d resource.Document, field, at string) (resource.Resource, error) {
	given := d.Text(field)
	r, err := asset.Refer(ctx, s.Resources, workspace, segment, given, at)
	if err != nil || exact.MatchString(given) && !strings.Contains(given, "/azureml:") {
		return r, err
	}
	if home := ml.Home(r.ID); home.Is(ml.Registries) {
		d.Set(field, "azureml://registries/"+home.Name()+"/"+segment+"/"+r.ID.Parent().Name()+"/versions/"+r.ID.Name())
	} else {
		d.Set(field, r.ID.String())
	}
	return r, nil
}

// script refuses a scoring script that lies outside the code.
func script(name string) error {
	const field = "codeConfiguration.scoringScript"
	switch {
	case name == "":
		return invalid(field, "is required: the script with init() and run(), as a path in the code")
	case len(name) > 1024 || strings.ContainsAny(name, "\x00\n\r\\"):
		return invalid(field, "is %q, which is no path of a script", fault.Clip(name))
	case path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), ".."):
		return invalid(field, "is %q; it must be a path inside the code", fault.Clip(name))
	}
	return nil
}

var (
	variableName = pattern.New(`^[^=\x00-\x1f]{1,1000}$`)
	reference    = pattern.New(`\$\{\{\s*([^}]*?)\s*\}\}`)
	inConnection = pattern.New(`(?i)^azureml://connections/([^/]+)/(?:credentials/[^/]+|target|metadata/[^/]+|type)$`)
)

// variables checks the environment variables, and that the connections exist
// whose secrets they ask for.
func (s *Service) variables(ctx context.Context, c *resource.Change, p resource.Document) error {
	const field = "environmentVariables"
	variables, err := texts(p, field, field)
	if err != nil {
		return err
	}
	if len(variables) > maxVariables {
		return invalid(field, "are %d; at most %d are allowed", len(variables), maxVariables)
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if !variableName.MatchString(name) || strings.ContainsRune(variables[name], 0) {
			return invalid(field, "has %q, which is no name of a variable, or a value that cannot be one", fault.Clip(name))
		}
		for _, m := range reference.FindAllStringSubmatch(variables[name], -1) {
			found := inConnection.FindStringSubmatch(m[1])
			if found == nil {
				return invalid(field+"."+name, "refers to ${{%s}}; what is offered is ${{azureml://connections/NAME/credentials/KEY}}, …/target and …/metadata/NAME", fault.Clip(m[1]))
			}
			id := ml.Home(c.New.ID).Child("connections", found[1])
			if id.Zero() {
				return invalid(field+"."+name, "refers to the connection %q, which is no name of one", fault.Clip(found[1]))
			}
			if _, err := s.Resources.Get(ctx, id); fault.Is(err, fault.Missing) {
				return invalid(field+"."+name, "refers to the connection '%s', which workspace '%s' does not have (%s)", found[1], ml.Home(c.New.ID).Name(), connection.Type)
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// defaultInstance is the instance type of a managed deployment that names none.
const defaultInstance = "Standard_F4s_v2"

// instanceType refuses an instance type that there is none of. Those of a
// Kubernetes cluster are named by its owner.
func instanceType(p resource.Document, kind string) error {
	name := p.Text("instanceType")
	if kind != "Managed" {
		return nil
	}
	if name == "" {
		p.Set("instanceType", defaultInstance)
		return nil
	}
	if _, ok := compute.ParseSize(name); !ok {
		return invalid("instanceType", "is %q, which is no instance type; near ones are %s; see `lapis compute list-sizes`", fault.Clip(name), strings.Join(compute.Near(name, 3), ", ")).With("InvalidVmSize")
	}
	return nil
}

// span checks a duration and writes the default where there is none.
func span(d resource.Document, at, field, otherwise string, least, most time.Duration) error {
	d.Default(field, otherwise)
	var given string
	if err := json.Unmarshal(d[field], &given); err != nil {
		return invalid(at+"."+field, "must be a duration in ISO 8601's form, such as %s", otherwise)
	}
	got, err := compute.ParseDuration(given)
	if err != nil {
		return invalid(at+"."+field, "is wrong: %v", err)
	}
	if got < least || got > most {
		return invalid(at+"."+field, "is %s; it must be from %s to %s", fault.Clip(given), least, most)
	}
	return nil
}

// number checks a whole number and writes the default where there is none.
func number(d resource.Document, at, field string, otherwise, least, most int) (int, error) {
	d.Default(field, otherwise)
	var n int
	if err := json.Unmarshal(d[field], &n); err != nil {
		return 0, invalid(at+"."+field, "must be a whole number from %d", least)
	}
	if n < least || n > most {
		return 0, invalid(at+"."+field, "is %d; it must be from %d to %d", n, least, most)
	}
	return n, nil
}

func requests(p resource.Document, kind string, properties map[string]string) error {
	const at = "requestSettings"
	d, err := object(p, at, "requestTimeout", "maxConcurrentRequestsPerInstance", "maxQueueWait")
	if err != nil {
		return err
	}
	most := maxTimeout
	if kind != "Managed" || flow(p, properties) {
		most = maxLongTimeout
	}
	if err := span(d, at, "requestTimeout", "PT5S", time.Millisecond, most); err != nil {
		return err
	}
	if _, err := number(d, at, "maxConcurrentRequestsPerInstance", 1, 1, maxConcurrent); err != nil {
		return err
	}
	if err := span(d, at, "maxQueueWait", "PT0.5S", 0, maxLongTimeout); err != nil {
		return err
	}
	p[at] = d.Raw()
	return nil
}

// flow tells whether a prompt flow is served, which may take longer.
func flow(p resource.Document, properties map[string]string) bool {
	for name := range properties {
		if strings.HasPrefix(strings.ToLower(name), "azureml.promptflow") {
			return true
		}
	}
	variables := p.Object("environmentVariables")
	for name := range variables {
		if strings.HasPrefix(name, "PROMPTFLOW_") || name == "PRT_CONFIG_OVERRIDE" {
			return true
		}
	}
	return false
}

func probe(p resource.Document, at string) error {
	d, err := object(p, at, "initialDelay", "period", "timeout", "successThreshold", "failureThreshold")
	if err != nil {
		return err
	}
	for field, otherwise := range map[string]string{"initialDelay": "PT10S", "period": "PT10S", "timeout": "PT2S"} {
		if err := span(d, at, field, otherwise, time.Second, maxProbe); err != nil {
			return err
		}
	}
	most := maxAttempts
	if at == "livenessProbe" {
		most = 1
	}
	if _, err := number(d, at, "successThreshold", 1, 1, most); err != nil {
		return err
	}
	if _, err := number(d, at, "failureThreshold", 30, 1, maxAttempts); err != nil {
		return err
	}
	p[at] = d.Raw()
	return nil
}

// MinInstancesProperty, of a deployment, says how few instances it may have; 0
// lets it go to sleep when nobody calls.
const MinInstancesProperty = "serving.min_instances"

// scaling checks the scale settings. Target utilisation is Kubernetes' in Azure;
// here managed deployments have it as well.
func scaling(p resource.Document, kind string, properties map[string]string) error {
	const at = "scaleSettings"
	d, err := object(p, at, "scaleType", "minInstances", "maxInstances", "pollingInterval", "targetUtilizationPercentage")
	if err != nil {
		return err
	}
	how, err := word(d, "scaleType", at+".scaleType", scaleTypes)
	if err != nil {
		return err
	}
	if how == "" {
		if how = "Default"; kind != "Managed" || d["maxInstances"] != nil || d["targetUtilizationPercentage"] != nil {
			how = "TargetUtilization"
		}
		d.Set("scaleType", how)
	}
	if how == "TargetUtilization" {
		least, err := number(d, at, "minInstances", 1, 0, MaxInstances)
		if err != nil {
			return err
		}
		if _, err := number(d, at, "maxInstances", max(1, least), max(1, least), MaxInstances); err != nil {
			return err
		}
		if err := span(d, at, "pollingInterval", "PT1S", time.Second, time.Hour); err != nil {
			return err
		}
		if _, err := number(d, at, "targetUtilizationPercentage", 70, 1, 100); err != nil {
			return err
		}
	}
	p[at] = d.Raw()
	if v := properties[MinInstancesProperty]; v != "" {
		if n, err := strconv.Atoi(v); err != nil || n < 0 || n > MaxInstances {
			return invalid("properties."+MinInstancesProperty, "is %q; it must be a whole number from 0 to %d", fault.Clip(v), MaxInstances)
		}
	}
	return nil
}

// collector checks what is collected. An older shape had one collection of
// requests and answers; it is kept as it came.
func collector(p resource.Document) error {
	const at = "dataCollector"
	if _, ok := p[at]; !ok {
		return nil
	}
	d, err := object(p, at, "collections", "rollingRate", "samplingRate", "requestLogging", "enabled", "destination", "samplingStrategy")
	if err != nil {
		return err
	}
	if _, err := word(d, "rollingRate", at+".rollingRate", rollingRates); err != nil {
		return err
	}
	d.Default("rollingRate", "Hour")
	if err := share(d, at+".samplingRate"); err != nil {
		return err
	}
	collections, err := resource.ParseDocument(d["collections"])
	if err != nil {
		return invalid(at+".collections", "must be an object of collections by name")
	}
	if old, ok := d["enabled"]; ok && len(collections) == 0 {
		if err := olderCollector(d, collections, old); err != nil {
			return err
		}
	}
	if len(collections) > maxCollections {
		return invalid(at+".collections", "are %d; at most %d are allowed", len(collections), maxCollections)
	}
	for _, name := range collections.Names() {
		where := at + ".collections." + name
		if !collectionName.MatchString(name) {
			return invalid(at+".collections", "has %q, which is no name of a collection (letters, digits, '_', '-')", fault.Clip(name))
		}
		one, err := resource.ParseDocument(collections[name])
		if err != nil {
			return invalid(where, "must be an object")
		}
		canonical(one, "dataCollectionMode", "dataId", "clientId", "samplingRate")
		if _, err := word(one, "dataCollectionMode", where+".dataCollectionMode", access); err != nil {
			return err
		}
		one.Default("dataCollectionMode", "Enabled")
		for _, field := range []string{"dataId", "clientId"} {
			if err := text(one, field, where+"."+field); err != nil {
				return err
			}
		}
		if err := share(one, where+".samplingRate"); err != nil {
			return err
		}
		if d["samplingRate"] == nil && one["samplingRate"] == nil {
			one.Set("samplingRate", 1.0)
		}
		collections[name] = one.Raw()
	}
	d["collections"] = collections.Raw()
	logging, err := resource.ParseDocument(d["requestLogging"])
	if err != nil {
		return invalid(at+".requestLogging", "must be an object")
	}
	canonical(logging, "captureHeaders")
	var headers []string
	if raw, ok := logging["captureHeaders"]; ok && json.Unmarshal(raw, &headers) != nil {
		return invalid(at+".requestLogging.captureHeaders", "must be a list of names of headers")
	}
	if len(logging) > 0 {
		d["requestLogging"] = logging.Raw()
	}
	p[at] = d.Raw()
	return nil
}

var collectionName = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,254}$`)

// olderCollector turns the older shape, {"enabled": true, "samplingStrategy":
// {"rate"}}, into the collections "request" and "response".
func olderCollector(d, collections resource.Document, enabled json.RawMessage) error {
	var on any
	_ = json.Unmarshal(enabled, &on)
	mode := "Disabled"
	if on == true || strings.EqualFold(fmt.Sprint(on), "true") {
		mode = "Enabled"
	}
	for _, name := range []string{"request", "response"} {
		collections.Set(name, map[string]string{"dataCollectionMode": mode})
	}
	strategy := d.Object("samplingStrategy")
	canonical(strategy, "rate")
	if raw, ok := strategy["rate"]; ok && d["samplingRate"] == nil {
		d["samplingRate"] = raw
	}
	delete(d, "enabled")
	delete(d, "samplingStrategy")
	return share(d, "dataCollector.samplingStrategy.rate")
}

// share checks a share of requests, from 0 to 1.
func share(d resource.Document, at string) error {
	var rate float64
	raw, ok := d["samplingRate"]
	if ok && (json.Unmarshal(raw, &rate) != nil || rate < 0 || rate > 1) {
		return invalid(at, "is %s; it must be a number from 0 to 1", fault.Clip(string(raw)))
	}
	return nil
}

var quantity = pattern.New(`^(\d+(?:\.\d+)?)(m|[kKMGTPE]i?|)$`)

// requirements checks what the containers of a Kubernetes deployment ask for. The
// SDK cannot read one that asks for nothing, but one with an empty object.
func requirements(p resource.Document, kind string) error {
	const at = "containerResourceRequirements"
	if _, ok := p[at]; !ok {
		if kind == "Kubernetes" {
			p.Set(at, map[string]any{})
		}
		return nil
	}
	d, err := object(p, at, "containerResourceLimits", "containerResourceRequests")
	if err != nil {
		return err
	}
	amounts := map[string]map[string]float64{}
	for _, side := range []string{"containerResourceLimits", "containerResourceRequests"} {
		amounts[side] = map[string]float64{}
		if _, ok := d[side]; !ok {
			continue
		}
		given, err := resource.ParseDocument(d[side])
		if err != nil {
			return invalid(at+"."+side, "must be an object")
		}
		canonical(given, "cpu", "memory", "gpu")
		for _, name := range []string{"cpu", "memory", "gpu"} {
			raw, ok := given[name]
			if !ok {
				continue
			}
			value := strings.Trim(string(raw), `"`)
			m := quantity.FindStringSubmatch(value)
			if m == nil {
				return invalid(at+"."+side+"."+name, "is %s, which is no amount, such as 0.5, 500m or 2Gi", fault.Clip(string(raw)))
			}
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				return invalid(at+"."+side+"."+name, "is %s, which is no amount", fault.Clip(string(raw)))
			}
			amounts[side][name] = n * unit(m[2])
			given.Set(name, value)
		}
		d[side] = given.Raw()
	}
	for name, limit := range amounts["containerResourceLimits"] {
		if asked, ok := amounts["containerResourceRequests"][name]; ok && asked > limit {
			return invalid(at+".containerResourceRequests."+name, "is more than the limit: a container cannot ask for more than it may have").With("BadArgument")
		}
	}
	p[at] = d.Raw()
	return nil
}

// unit is what a suffix of a quantity multiplies by.
func unit(suffix string) float64 {
	if suffix == "" {
		return 1
	}
	if suffix == "m" {
		return 1e-3
	}
	base := 1000.0
	if strings.HasSuffix(suffix, "i") {
		base = 1024
	}
	n := 1.0
	for range strings.Index("KMGTPE", strings.ToUpper(suffix[:1])) + 1 {
		n *= base
	}
	return n
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
