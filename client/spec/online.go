package spec

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/pattern"
)

// The api-versions in which the SDK sends endpoints and deployments.
const (
	onlineEndpointVersion   = "2022-02-01-preview"
	onlineDeploymentVersion = "2023-04-01-preview"
)

// LocalProperty marks a local endpoint, with the value "true": one that asks
// its callers for no key.
const LocalProperty = "serving.local"

var endpointName = pattern.New(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

// servedName takes the name of an endpoint or of a deployment.
func servedName(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) > before {
		return
	}
	switch {
	case len(n.text) < 3 || len(n.text) > 32:
		c.wrong(n, path, "%q has %d characters; a name has 3 to 32.", n.text, len(n.text))
	case !endpointName.MatchString(n.text):
		c.wrong(n, path, "%q cannot be a name: it begins with a letter, goes on with letters, digits and hyphens, and ends with a letter or a digit.", n.text)
	}
}

var onlineIdentity = fields{
	{key: "type", shape: choice("system_assigned", "user_assigned", "none"), rule: required},
	{key: "user_assigned_identities", shape: func(c *checker, n *Node, path string) {
		listOf(func(c *checker, n *Node, path string) {
			mapOf(str)(c, n, path)
			if n.kind == mapping && n.str("resource_id") == "" {
				c.wrong(n, join(path, "resource_id"), "this field is required.")
			}
		})(c, n, path)
		if len(n.items) > 1 {
			c.wrong(n, path, "there are %d identities here; one is the most.", len(n.items))
		}
	}},
	{key: "principal_id", shape: str},
	{key: "tenant_id", shape: str},
}

// percents takes a mapping from deployments to shares of the requests.
func percents(most int64, what string) shape {
	return func(c *checker, n *Node, path string) {
		before := len(c.mistakes)
		mapOf(between(0, 100))(c, n, path)
		if len(c.mistakes) > before {
			return
		}
		var sum int64
		for _, v := range n.values {
			share, _ := v.whole()
			sum += share
		}
		if sum > most {
			c.wrong(n, path, "the shares sum to %d; %s %d at most.", sum, what, most)
		}
	}
}

var onlineEndpoint = resource.and(
	field{key: "id", shape: str},
	field{key: "name", shape: servedName, rule: required},
	field{key: "tags", shape: mapOf(anything)},
	field{key: "properties", shape: mapOf(anything)},
	field{key: "auth_mode", shape: choice("aml_token", "key", "aad_token")},
	field{key: "provisioning_state", shape: str},
	field{key: "scoring_uri", shape: str},
	field{key: "openapi_uri", shape: str},
	field{key: "location", shape: str},
	field{key: "identity", shape: onlineIdentity.check},
	field{key: "traffic", shape: percents(100, "traffic sums to")},
	field{key: "mirror_traffic", shape: func(c *checker, n *Node, path string) {
		percents(50, "at most half of the requests is mirrored:")(c, n, path)
		targets := 0
		for _, v := range n.values {
			if share, err := v.whole(); v.kind != integer || err != nil || share != 0 {
				targets++
			}
		}
		if targets > 1 {
			c.wrong(n, path, "requests are mirrored to one deployment, and %d are named here.", targets)
		}
	}},
	field{key: "kind", shape: present},
)

var enabled = choice("enabled", "disabled")

// onlineEndpoints are the two kinds of endpoints; one with a compute is a
// Kubernetes endpoint.
var onlineEndpoints = map[bool]fields{
	false: onlineEndpoint.and(field{key: "public_network_access", shape: enabled}),
	true: onlineEndpoint.and(field{key: "compute", shape: func(c *checker, n *Node, path string) {
		str(c, n, path)
		if n.kind == text && !strings.HasPrefix(n.text, "azureml:") {
			c.wrong(n, path, "%q is no reference. Write azureml:NAME; the compute is one of type kubernetes.", n.text)
		}
	}}),
}

func checkOnlineEndpoint(d *Document, _ Options) error {
	var c checker
	compute := d.Root.get("compute")
	onlineEndpoints[compute != nil && (compute.kind != text || compute.text != "")].check(&c, d.Root, "")
	return c.err()
}

var authModes = map[string]string{"key": "Key", "aml_token": "AMLToken", "aad_token": "AADToken"}

func (b *builder) onlineEndpoint() (Result, error) {
	r := b.root
	p := map[string]any{
		"authMode":   "Key",
		"properties": plainOf(r.get("properties")),
		"traffic":    sharesOf(r.get("traffic")), "mirrorTraffic": sharesOf(r.get("mirror_traffic")),
	}
	if b.Local {
		p["properties"].(map[string]any)[LocalProperty] = "true"
	}
	put(p, "authMode", authModes[r.str("auth_mode")])
	put(p, "description", r.get("description"))
	put(p, "publicNetworkAccess", r.str("public_network_access"))
	if n := r.get("compute"); n != nil {
		id, err := b.computeID(n, "compute")
		if err != nil {
			return Result{}, err
		}
		p["compute"] = id
	}
	identity := map[string]any{"type": "SystemAssigned"}
	if n := r.get("identity"); n != nil {
		identity["type"] = pascal(n.str("type"))
		put(identity, "principalId", n.str("principal_id"))
		put(identity, "tenantId", n.str("tenant_id"))
		if list := n.get("user_assigned_identities"); list != nil && len(list.items) > 0 {
			ids := map[string]any{}
			for _, item := range list.items {
				ids[item.str("resource_id")] = map[string]any{}
			}
			identity["userAssignedIdentities"] = ids
		}
	}
	location, err := b.location()
	if err != nil {
		return Result{}, err
	}
	return b.send("PUT", b.Target.Path("onlineEndpoints", strings.ToLower(r.str("name"))), onlineEndpointVersion, map[string]any{
		"location": location, "tags": plainOf(r.get("tags")), "identity": identity, "properties": p,
	})
}

// location is where a new resource goes.
func (b *builder) location() (string, error) {
	if b.Location != "" {
		return b.Location, nil
	}
	return b.world.Location(b.ctx)
}

// sharesOf gives shares of the requests; a share of nothing is left out, and
// names are in lower case, as the server has them.
func sharesOf(n *Node) map[string]any {
	m := map[string]any{}
	if n == nil {
		return m
	}
	for i, k := range n.keys {
		if share, err := n.values[i].whole(); err == nil && share != 0 {
			m[strings.ToLower(k.text)] = share
		}
	}
	return m
}

// plainOf gives a mapping as it is written; none as an empty one.
func plainOf(n *Node) map[string]any {
	m := map[string]any{}
	if n == nil {
		return m
	}
	for i, k := range n.keys {
		m[k.text] = n.values[i].plain()
	}
	return m
}

// modelReference takes a reference, or a model in place.
func modelReference(c *checker, n *Node, path string) {
	if n.kind != mapping {
		assetReference(c, n, path)
		return
	}
	before := len(c.mistakes)
	anonymousModel.check(c, n, path)
	if v := n.get("version"); v != nil && n.get("name") == nil {
		c.wrong(v, join(path, "version"), "a model with a version needs a name. Add `name:`.")
	}
	if at := n.get("path"); len(c.mistakes) == before && n.get("name") == nil && remote(at.text) {
		c.wrong(at, join(path, "path"), "%q lies elsewhere already. Give the model a name to register it under, with `name:`, or refer to one with azureml:NAME:VERSION.", at.text)
	}
}

var anonymousModel = modelAsset.and(field{key: "name", shape: name})

func assetReference(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) == before && !strings.HasPrefix(n.text, "azureml:") {
		c.wrong(n, path, "%q is not a reference. To name an asset that exists write azureml:NAME:VERSION or azureml:NAME@latest.", n.text)
	}
}

var probe = fields{
	{key: "initial_delay", shape: whole(0)},
	{key: "period", shape: whole(0)},
	{key: "timeout", shape: whole(0)},
	{key: "success_threshold", shape: whole(0)},
	{key: "failure_threshold", shape: whole(0)},
}

// word takes true or false as a word: the field was a string before it was a
// boolean, and clients that are in use take nothing else.
func word(c *checker, n *Node, path string) {
	if n.kind == boolean && !n.typed {
		n.kind = text
	}
	if n.kind == boolean {
		c.wrong(n, path, "this is a boolean where a string is wanted. Put it in quotes: %q.", n.text)
		return
	}
	choice("true", "false")(c, n, path)
}

func share(c *checker, n *Node, path string) {
	if v, err := n.number(); err != nil || n.kind == boolean || !(v >= 0 && v <= 1) {
		c.wrong(n, path, "a number from 0 to 1 is wanted.")
	}
}

var dataCollector = fields{
	{key: "collections", rule: required, shape: mapOf(fields{
		{key: "enabled", shape: word, rule: required},
		{key: "client_id", shape: str},
		{key: "data", shape: fields{
			{key: "name", shape: name}, {key: "version", shape: name}, {key: "path", shape: str}, {key: "data_id", shape: str},
		}.check},
	}.check)},
	{key: "rolling_rate", shape: choice("minute", "day", "hour")},
	{key: "sampling_rate", shape: share},
	{key: "request_logging", shape: fields{{key: "capture_headers", shape: listOf(str)}}.check},
}

var containerResources = fields{
	{key: "cpu", shape: str}, {key: "memory", shape: str}, {key: "gpu", shape: str}, {key: "nvidia.com/gpu", shape: str},
}

var onlineDeployment = resource.and(
	field{key: "id", shape: str},
	field{key: "name", shape: servedName, rule: required},
	field{key: "endpoint_name", shape: servedName, rule: required},
	field{key: "type", shape: choice("managed", "kubernetes")},
	field{key: "tags", shape: mapOf(anything)},
	field{key: "properties", shape: mapOf(anything)},
	field{key: "provisioning_state", shape: str},
	field{key: "model", shape: modelReference},
	field{key: "model_mount_path", shape: str},
	field{key: "code_configuration", shape: fields{{key: "code", shape: str}, {key: "scoring_script", shape: str}}.check},
	field{key: "environment", shape: func(c *checker, n *Node, path string) {
		if n.kind != mapping {
			assetReference(c, n, path)
			return
		}
		anonymousEnvironment.check(c, n, path)
	}},
	field{key: "environment_variables", shape: mapOf(anything)},
	field{key: "app_insights_enabled", shape: flag},
	field{key: "scale_settings", shape: tagged(map[string]fields{
		"default": {},
		"target_utilization": {
			{key: "min_instances", shape: whole(0)}, {key: "max_instances", shape: whole(0)},
			{key: "polling_interval", shape: whole(0)}, {key: "target_utilization_percentage", shape: between(0, 100)},
		},
	})},
	field{key: "request_settings", shape: fields{
		{key: "request_timeout_ms", shape: whole(0)},
		{key: "max_concurrent_requests_per_instance", shape: whole(0)},
		{key: "max_queue_wait_ms", shape: whole(0)},
	}.check},
	field{key: "liveness_probe", shape: probe.check},
	field{key: "readiness_probe", shape: probe.check},
	field{key: "instance_count", shape: whole(0)},
	field{key: "instance_type", shape: str},
	field{key: "data_collector", shape: dataCollector.check},
)

var onlineDeployments = map[string]fields{
	"managed": onlineDeployment.and(
		field{key: "instance_type", shape: func(c *checker, n *Node, path string) {
			str(c, n, path)
			if n.kind == text && n.text == "" {
				c.wrong(n, path, "this field is required, as in `instance_type: Standard_DS3_v2`.")
			}
		}, rule: required},
		field{key: "egress_public_network_access", shape: enabled},
		field{key: "private_network_connection", shape: flag},
		field{key: "scale_settings", shape: func(c *checker, n *Node, path string) {
			onlineDeployment.shape("scale_settings")(c, n, path)
			if t := n.get("type"); t != nil && t.text == "target_utilization" {
				c.wrong(t, join(path, "type"), "a managed deployment scales by the default settings alone; rules of its own are Microsoft.Insights/autoscaleSettings.")
			}
		}},
	),
	"kubernetes": onlineDeployment.and(
		field{key: "resources", shape: fields{
			{key: "requests", shape: containerResources.check}, {key: "limits", shape: containerResources.check},
		}.check},
	),
}

// shape is that of a key which the table has.
func (f fields) shape(key string) shape {
	return f[slices.IndexFunc(f, func(x field) bool { return x.key == key })].shape
}

func kubernetes(root *Node) bool { return fold(root.str("type")) == "kubernetes" }

func checkOnlineDeployment(d *Document, _ Options) error {
	var c checker
	kind := "managed"
	if kubernetes(d.Root) {
		kind = "kubernetes"
	}
	onlineDeployments[kind].check(&c, d.Root, "")
	if kind == "kubernetes" {
		for _, key := range []string{"model", "environment", "code_configuration.code"} {
			n := d.Root
			for step := range strings.SplitSeq(key, ".") {
				n = n.get(step)
			}
			if n != nil && n.kind == text && strings.HasPrefix(n.text, "azureml://registries/") {
				c.wrong(n, key, "a deployment on Kubernetes takes nothing from a registry. Copy it to the workspace, as in `lapis model share`.")
			}
		}
	}
	return c.err()
}

func (b *builder) onlineDeployment() (Result, error) {
	r := b.root
	name, endpoint := strings.ToLower(r.str("name")), r.str("endpoint_name")
	p := map[string]any{
		"endpointComputeType":  "Managed",
		"properties":           plainOf(r.get("properties")),
		"environmentVariables": plainOf(r.get("environment_variables")),
		"appInsightsEnabled":   r.get("app_insights_enabled") != nil && r.get("app_insights_enabled").truth(),
	}
	if kubernetes(r) {
		p["endpointComputeType"] = "Kubernetes"
	}
	for _, key := range []string{"description", "instance_type", "model_mount_path"} {
		put(p, camel(key), r.get(key))
	}
	put(p, "egressPublicNetworkAccess", r.str("egress_public_network_access"))
	if n := r.get("private_network_connection"); n != nil && n.truth() {
		p["properties"].(map[string]any)["private-network-connection"] = true
	}
	if n := r.get("request_settings"); n != nil {
		m := map[string]any{}
		put(m, "maxConcurrentRequestsPerInstance", n.get("max_concurrent_requests_per_instance"))
		put(m, "requestTimeout", milliseconds(n.get("request_timeout_ms")))
		put(m, "maxQueueWait", milliseconds(n.get("max_queue_wait_ms")))
		p["requestSettings"] = m
	}
	for _, key := range []string{"liveness_probe", "readiness_probe"} {
		n := r.get(key)
		if n == nil {
			continue
		}
		m := map[string]any{}
		put(m, "failureThreshold", n.get("failure_threshold"))
		put(m, "successThreshold", n.get("success_threshold"))
		for _, key := range []string{"timeout", "period", "initial_delay"} {
			put(m, camel(key), wholeSeconds(n.get(key)))
		}
		p[camel(key)] = m
	}
	if n := r.get("scale_settings"); n != nil {
		m := map[string]any{"scaleType": pascal(n.str("type"))}
		for _, key := range []string{"min_instances", "max_instances", "target_utilization_percentage"} {
			put(m, camel(key), n.get(key))
		}
		put(m, "pollingInterval", wholeSeconds(n.get("polling_interval")))
		p["scaleSettings"] = m
	}
	if n := r.get("resources"); n != nil {
		m := map[string]any{}
		for key, wire := range map[string]string{"requests": "containerResourceRequests", "limits": "containerResourceLimits"} {
			if part := n.get(key); part != nil {
				amounts := map[string]any{}
				put(amounts, "gpu", part.get("nvidia.com/gpu"))
				for _, key := range []string{"cpu", "memory", "gpu"} {
					put(amounts, key, part.get(key))
				}
				m[wire] = amounts
			}
		}
		p["containerResourceRequirements"] = m
	}
	sku := map[string]any{"name": "Default"}
	put(sku, "capacity", r.get("instance_count"))

	script, err := b.scoringScript()
	if err != nil {
		return Result{}, err
	}
	location, err := b.location()
	if err != nil {
		return Result{}, err
	}
	if n := r.get("data_collector"); n != nil {
		if p["dataCollector"], err = b.dataCollector(n, endpoint, name); err != nil {
			return Result{}, err
		}
	}
	if script != nil {
		p["codeConfiguration"] = script
	}
	if n := r.get("environment"); n != nil {
		if p["environmentId"], err = b.servedEnvironment(n); err != nil {
			return Result{}, err
		}
	}
	if n := r.get("model"); n != nil {
		if p["model"], err = b.servedModel(n); err != nil {
			return Result{}, err
		}
	}
	return b.send("PUT", b.Target.Path("onlineEndpoints", strings.ToLower(endpoint), "deployments", name), onlineDeploymentVersion, map[string]any{
		"location": location, "tags": plainOf(r.get("tags")), "sku": sku, "properties": p,
	})
}

// milliseconds writes milliseconds as an ISO 8601 duration: 3500 is PT3.5S.
// None, and 0, are "".
func milliseconds(n *Node) string {
	if n == nil {
		return ""
	}
	ms, err := n.whole()
	if err != nil || ms == 0 {
		return ""
	}
	if ms%1000 == 0 {
		return period(ms / 1000)
	}
	fraction := strings.TrimRight(strconv.FormatInt(ms%1000+1000, 10)[1:], "0")
	whole := period(ms / 1000)
	switch seconds := ms / 1000 % 60; {
	case seconds > 0:
		return strings.TrimSuffix(whole, "S") + "." + fraction + "S"
	case ms < 1000:
		return "PT0." + fraction + "S"
	case strings.Contains(whole, "T"):
		return whole + "0." + fraction + "S"
	}
	return whole + "T0." + fraction + "S"
}

// wholeSeconds writes seconds as an ISO 8601 duration. None, and 0, are "".
func wholeSeconds(n *Node) string {
	if n == nil {
		return ""
	}
	if s, err := n.whole(); err == nil && s != 0 {
		return period(s)
	}
	return ""
}

// scoringScript gives the code configuration, whose code is sent; nil if
// there is no code.
func (b *builder) scoringScript() (map[string]any, error) {
	n := b.root.get("code_configuration")
	code, script := n.get("code"), n.get("scoring_script")
	switch {
	case code == nil && script == nil:
		return nil, nil
	case script == nil || script.text == "":
		return nil, code.fault("code_configuration.scoring_script", "this field is required beside the code. Name the file that has init() and run().")
	case code == nil:
		return nil, script.fault("code_configuration.code", "this field is required beside the script. Name the folder that %q lies in.", script.text)
	}
	if !strings.HasPrefix(code.text, "azureml:") {
		c, err := b.local(code, "code_configuration.code")
		if err != nil {
			return nil, err
		}
		if err := b.checkScript(c, code, script); err != nil {
			return nil, err
		}
	}
	id, err := b.codeOf(code, "code_configuration.code")
	if err != nil {
		return nil, err
	}
	return map[string]any{"codeId": id, "scoringScript": script.text}, nil
}

// checkScript checks that the script is in the code, and what it says.
func (b *builder) checkScript(c *Content, code, script *Node) error {
	if entries, err := os.ReadDir(c.Path); b.SkipScript || b.DryRun && err == nil && len(entries) == 0 {
		return nil
	}
	const at = "code_configuration.scoring_script"
	file := filepath.Join(c.Path, filepath.FromSlash(script.text))
	if info, err := os.Stat(file); err != nil || info.IsDir() {
		return script.fault(at, "there is no file %q in %q. Paths start at the folder that `code` names.", script.text, code.text)
	}
	if b.Script != nil {
		if err := b.Script(b.ctx, file); err != nil {
			return script.fault(at, "%v", err)
		}
	}
	return nil
}

// servedEnvironment gives the environment of a deployment. One written in
// place with a name is registered under it.
func (b *builder) servedEnvironment(n *Node) (string, error) {
	if n.kind == mapping && n.str("name") != "" {
		v, auto, err := b.versionOf(n, "environments")
		if err != nil {
			return "", err
		}
		asset := Asset{"environments", n.str("name"), v}
		p, err := b.environmentProperties(n, "environment", asset)
		if err != nil {
			return "", err
		}
		p["isAnonymous"] = false
		return b.sendAsset(n, "environment", asset, "2023-04-01-preview", p, auto)
	}
	return b.environmentID(n, "environment")
}

// servedModel gives the model of a deployment: one that exists, or one
// written in place. One without a name gets the hash of its content.
func (b *builder) servedModel(n *Node) (string, error) {
	if n.kind != mapping {
		return b.reference(n, "model", "models")
	}
	asset := Asset{"models", n.str("name"), "1"}
	auto, anonymous := false, asset.Name == ""
	if !anonymous {
		var err error
		if asset.Version, auto, err = b.versionOf(n, "models"); err != nil {
			return "", err
		}
	}
	at := n.get("path")
	uri := at.text
	if !remote(uri) {
		c, err := b.local(at, "model.path")
		if err != nil {
			return "", err
		}
		place, err := b.world.Upload(b.ctx, c, n.str("datastore"), asset)
		if err != nil {
			return "", err
		}
		if anonymous {
			asset.Name, _, _ = strings.Cut(strings.TrimPrefix(place.Path, "LocalUpload/"), "/")
		}
		uri = b.uploaded(place)
	} else if strings.HasPrefix(uri, "azureml:") && !strings.HasPrefix(uri, "azureml://") {
		return "", at.fault("model.path", "%q is an asset. Write `model: %s` in place of the mapping.", uri, uri)
	}
	p := b.modelProperties(n, uri)
	p["isAnonymous"] = anonymous
	return b.sendAsset(n, "model", asset, "2023-08-01-preview", p, auto)
}

// sendAsset sends a version that stands in place in a file and gives its id.
func (b *builder) sendAsset(n *Node, at string, asset Asset, version string, p map[string]any, auto bool) (string, error) {
	r := Request{Method: "PUT", Path: b.Target.Path(asset.Collection, asset.Name, "versions", asset.Version), APIVersion: version, Body: map[string]any{"properties": p}, Automatic: auto}
	reply, err := b.world.Send(b.ctx, r)
	if err != nil {
		return "", n.placed(at, err)
	}
	return idOf(reply, r.Path), nil
}

// collected is where the collections of a deployment are kept when the file
// says nothing else.
const collected = "azureml://datastores/workspaceblobstore/paths/modelDataCollector/"

// dataCollector registers the data asset of each collection.
func (b *builder) dataCollector(n *Node, endpoint, deployment string) (map[string]any, error) {
	list := n.get("collections")
	collections := map[string]any{}
	for i, k := range list.keys {
		v, key := list.values[i], k.text
		m := map[string]any{"dataCollectionMode": map[bool]string{true: "enabled", false: "disabled"}[v.str("enabled") == "true"]}
		put(m, "clientId", v.get("client_id"))
		if rate := n.get("sampling_rate"); rate != nil {
			m["samplingRate"], _ = rate.number()
		}
		asset := Asset{"data", endpoint + "-" + deployment + "-" + key, "1"}
		uri := collected + endpoint + "/" + deployment + "/" + key
		if data := v.get("data"); data != nil {
			for to, key := range map[*string]string{&asset.Name: "name", &asset.Version: "version", &uri: "path"} {
				if s := data.str(key); s != "" {
					*to = s
				}
			}
		}
		p := map[string]any{
			"dataType": "uri_folder", "dataUri": uri, "isAnonymous": false, "isArchived": false,
			"tags": map[string]any{}, "properties": map[string]any{},
		}
		id, err := b.sendAsset(v, "data_collector.collections."+key, asset, "2023-04-01-preview", p, false)
		if fault.Is(err, fault.Conflict) { // it is there from an earlier deployment
			id, err = b.Target.Path("data", asset.Name, "versions", asset.Version), nil
		}
		if err != nil {
			return nil, err
		}
		m["dataId"] = id
		collections[key] = m
	}
	out := map[string]any{"collections": collections}
	put(out, "rollingRate", n.str("rolling_rate"))
	if logging := n.get("request_logging"); logging != nil {
		m := map[string]any{}
		put(m, "captureHeaders", logging.get("capture_headers"))
		out["requestLogging"] = m
	}
	return out, nil
}
