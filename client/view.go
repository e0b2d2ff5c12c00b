package client

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"lapis/pattern"
)

// View gives a resource in the words of the YAML files, as `show` and `list`
// print it: what a file says under `display_name` is `display_name` here.
func View(noun string, raw json.RawMessage) (map[string]any, error) {
	var r map[string]any
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read a %s: %w", noun, err)
	}
	p, _ := r["properties"].(map[string]any)
	if p == nil {
		p = map[string]any{}
	}
	v := map[string]any{"name": r["name"], "id": r["id"]}
	id, _ := r["id"].(string)
	if m := groupOf.FindStringSubmatch(id); m != nil {
		v["resourceGroup"] = m[1]
	}
	if s, ok := r["systemData"].(map[string]any); ok {
		v["creation_context"] = SnakeKeys(s)
	}
	if t, ok := first(p["tags"], r["tags"]).(map[string]any); ok {
		v["tags"] = t
	}
	copyKeys(v, p, "description")
	versioned(v, p, id)
	if show, ok := views[noun]; ok {
		show(v, r, p)
	}
	if strings.HasPrefix(noun, "online-") && v["tags"] == nil {
		v["tags"] = map[string]any{}
	}
	for key, value := range v {
		if value == nil {
			delete(v, key)
		}
	}
	return v, nil
}

var groupOf = pattern.New(`(?i)/resourceGroups/([^/]+)`)

// versioned tells a version, whose name is the asset's, from an asset, whose
// own name stands.
func versioned(v, p map[string]any, id string) {
	parts := strings.Split(id, "/")
	if n := len(parts); n > 3 && strings.EqualFold(parts[n-2], "versions") {
		v["name"], v["version"] = parts[n-3], parts[n-1]
	}
	copyKeys(v, p, "latestVersion", "isArchived")
	delete(v, "is_archived")
	if archived, _ := p["isArchived"].(bool); archived {
		v["is_archived"] = true
	}
}

var views = map[string]func(v, r, p map[string]any){
	"job": func(v, r, p map[string]any) {
		copyKeys(v, p, "displayName", "experimentName", "status", "command", "environmentVariables", "properties", "parentJobName")
		v["type"] = strings.ToLower(text(p["jobType"]))
		v["compute"] = shortID(text(p["computeId"]))
		v["environment"] = shortID(text(p["environmentId"]))
		v["code"] = prefixed(text(p["codeId"]))
		v["inputs"] = ports(p["inputs"])
		v["outputs"] = ports(p["outputs"])
		for _, key := range []string{"resources", "identity", "queueSettings", "distribution", "limits"} {
			if m, ok := p[key].(map[string]any); ok {
				v[snake(key)] = settings(m)
			}
		}
		services := map[string]any{}
		if m, ok := p["services"].(map[string]any); ok {
			for name, s := range m {
				if s, ok := s.(map[string]any); ok {
					services[name] = settings(s)
				}
			}
		}
		v["services"] = services
	},
	"data": func(v, r, p map[string]any) {
		v["path"], v["type"] = p["dataUri"], p["dataType"]
		copyKeys(v, p, "properties")
	},
	"model": func(v, r, p map[string]any) {
		v["path"], v["type"] = p["modelUri"], p["modelType"]
		copyKeys(v, p, "properties", "stage", "jobName")
		if f, ok := p["flavors"].(map[string]any); ok && len(f) > 0 {
			flavors := map[string]any{}
			for name, data := range f {
				if m, ok := data.(map[string]any); ok {
					flavors[name] = m["data"]
				}
			}
			v["flavors"] = flavors
		}
	},
	"environment": func(v, r, p map[string]any) {
		copyKeys(v, p, "image", "properties")
		if s := text(p["osType"]); s != "" {
			v["os_type"] = strings.ToLower(s)
		}
		if s := text(p["condaFile"]); s != "" {
			var conda map[string]any
			if yaml.Unmarshal([]byte(s), &conda) == nil {
				v["conda_file"] = conda
			} else {
				v["conda_file"] = s
			}
		}
		if b, ok := p["build"].(map[string]any); ok {
			v["build"] = map[string]any{"path": b["contextUri"], "dockerfile_path": b["dockerfilePath"]}
		}
		if c, ok := p["inferenceConfig"].(map[string]any); ok {
			v["inference_config"] = SnakeKeys(c)
		}
	},
	"component": func(v, r, p map[string]any) {
		if spec, ok := p["componentSpec"].(map[string]any); ok {
			for key, value := range spec {
				if !strings.HasPrefix(key, "_") && key != "name" && key != "version" {
					v[key] = value
				}
			}
		}
	},
	"datastore": func(v, r, p map[string]any) {
		v["type"] = camelToSnake(text(p["datastoreType"]))
		copyKeys(v, p, "accountName", "containerName", "fileShareName", "filesystem", "storeName", "endpoint", "protocol", "isDefault", "oneLakeWorkspaceName")
		v["credentials"] = map[string]any{}
	},
	"compute": func(v, r, p map[string]any) {
		v["location"] = r["location"]
		v["type"] = strings.ToLower(text(p["computeType"]))
		copyKeys(v, p, "provisioningState", "createdOn", "resourceId")
		q, _ := p["properties"].(map[string]any)
		if q == nil {
			return
		}
		v["size"] = q["vmSize"]
		copyKeys(v, q, "state", "enableNodePublicIp", "currentNodeCount", "targetNodeCount", "allocationState", "idleTimeBeforeShutdown", "sshSettings")
		if s := text(q["vmPriority"]); s != "" {
			v["tier"] = camelToSnake(s)
		}
		if counts, ok := q["nodeStateCounts"].(map[string]any); ok {
			v["node_state_counts"] = SnakeKeys(counts)
		}
		if s, ok := q["scaleSettings"].(map[string]any); ok {
			v["min_instances"], v["max_instances"] = s["minNodeCount"], s["maxNodeCount"]
			if n, ok := seconds(text(s["nodeIdleTimeBeforeScaleDown"])); ok {
				v["idle_time_before_scale_down"] = n
			}
		}
		if id, ok := r["identity"].(map[string]any); ok {
			v["identity"] = id
		}
	},
	"workspace": func(v, r, p map[string]any) {
		v["location"] = r["location"]
		v["resource_group"] = v["resourceGroup"]
		v["display_name"], v["mlflow_tracking_uri"] = p["friendlyName"], p["mlFlowTrackingUri"]
		copyKeys(v, p, "discoveryUrl", "workspaceId", "provisioningState", "storageAccount", "keyVault", "applicationInsights", "containerRegistry", "imageBuildCompute", "publicNetworkAccess", "hbiWorkspace")
		if id, ok := r["identity"].(map[string]any); ok {
			v["identity"] = id
		}
	},
	"connection": func(v, r, p map[string]any) {
		v["type"] = camelToSnake(text(p["category"]))
		v["is_shared"] = p["isSharedToAll"]
		copyKeys(v, p, "target", "metadata")
		if c, ok := p["credentials"].(map[string]any); ok && len(c) > 0 {
			v["credentials"] = SnakeKeys(c)
		} else if s := text(p["authType"]); s != "" {
			v["credentials"] = map[string]any{"type": camelToSnake(s)}
		}
	},
	"online-endpoint": func(v, r, p map[string]any) {
		v["location"], v["kind"] = r["location"], r["kind"]
		v["auth_mode"] = camelToSnake(text(p["authMode"]))
		v["openapi_uri"], v["scoring_uri"] = p["swaggerUri"], p["scoringUri"]
		v["traffic"], v["mirror_traffic"] = map[string]any{}, map[string]any{}
		copyKeys(v, p, "traffic", "mirrorTraffic", "properties", "provisioningState")
		v["compute"] = prefixed(text(p["compute"]))
		if s := text(p["publicNetworkAccess"]); s != "" && p["compute"] == nil {
			v["public_network_access"] = strings.ToLower(s)
		}
		if id, ok := r["identity"].(map[string]any); ok {
			v["identity"] = identity(id)
		}
	},
	"online-deployment": func(v, r, p map[string]any) {
		if m := endpointOf.FindStringSubmatch(text(r["id"])); m != nil {
			v["endpoint_name"] = m[1]
		}
		v["type"] = strings.ToLower(text(p["endpointComputeType"]))
		copyKeys(v, p, "environmentVariables", "properties", "provisioningState", "appInsightsEnabled", "instanceType", "modelMountPath")
		v["model"], v["environment"] = prefixed(text(p["model"])), prefixed(text(p["environmentId"]))
		if c, ok := p["codeConfiguration"].(map[string]any); ok {
			v["code_configuration"] = map[string]any{"code": prefixed(text(c["codeId"])), "scoring_script": c["scoringScript"]}
		}
		if s, ok := r["sku"].(map[string]any); ok {
			v["instance_count"] = s["capacity"]
		}
		if s := text(p["egressPublicNetworkAccess"]); s != "" {
			v["egress_public_network_access"] = strings.ToLower(s)
		}
		if private, _ := p["privateNetworkConnection"].(bool); private {
			v["private_network_connection"] = true
		}
		if s, ok := p["requestSettings"].(map[string]any); ok {
			v["request_settings"] = compact(map[string]any{
				"max_concurrent_requests_per_instance": s["maxConcurrentRequestsPerInstance"],
				"request_timeout_ms":                   thousandths(s["requestTimeout"]), "max_queue_wait_ms": thousandths(s["maxQueueWait"]),
			})
		}
		for _, key := range []string{"livenessProbe", "readinessProbe"} {
			if s, ok := p[key].(map[string]any); ok {
				v[snake(key)] = compact(map[string]any{
					"failure_threshold": s["failureThreshold"], "success_threshold": s["successThreshold"],
					"timeout": wholeSeconds(s["timeout"]), "period": wholeSeconds(s["period"]), "initial_delay": wholeSeconds(s["initialDelay"]),
				})
			}
		}
		if s, ok := p["scaleSettings"].(map[string]any); ok {
			v["scale_settings"] = compact(map[string]any{
				"type": camelToSnake(text(s["scaleType"])), "min_instances": s["minInstances"], "max_instances": s["maxInstances"],
				"target_utilization_percentage": s["targetUtilizationPercentage"], "polling_interval": wholeSeconds(s["pollingInterval"]),
			})
		}
		if s, ok := p["containerResourceRequirements"].(map[string]any); ok {
			v["resources"] = compact(map[string]any{"requests": s["containerResourceRequests"], "limits": s["containerResourceLimits"]})
		}
		if s, ok := p["dataCollector"].(map[string]any); ok {
			v["data_collector"] = collector(s)
		}
	},
	"registry": func(v, r, p map[string]any) {
		v["location"] = r["location"]
		v["mlflow_registry_uri"] = p["mlFlowRegistryUri"]
		copyKeys(v, p, "discoveryUrl", "publicNetworkAccess")
	},
}

var endpointOf = pattern.New(`(?i)/onlineEndpoints/([^/]+)/`)

// identity gives the identity of a resource as a file has it.
func identity(m map[string]any) map[string]any {
	v := compact(map[string]any{"type": camelToSnake(text(m["type"])), "principal_id": m["principalId"], "tenant_id": m["tenantId"]})
	if ids, ok := m["userAssignedIdentities"].(map[string]any); ok && len(ids) > 0 {
		list := []any{}
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			item := map[string]any{"resource_id": id}
			if m, ok := ids[id].(map[string]any); ok {
				for wire, key := range map[string]string{"clientId": "client_id", "principalId": "principal_id"} {
					if s := text(m[wire]); s != "" {
						item[key] = s
					}
				}
			}
			list = append(list, item)
		}
		v["user_assigned_identities"] = list
	}
	return v
}

// collector gives the data collector of a deployment as a file has it.
func collector(m map[string]any) map[string]any {
	collections := map[string]any{}
	v := map[string]any{"collections": collections}
	if s := text(m["rollingRate"]); s != "" {
		v["rolling_rate"] = strings.ToLower(s)
	}
	if logging, ok := m["requestLogging"].(map[string]any); ok {
		v["request_logging"] = compact(map[string]any{"capture_headers": logging["captureHeaders"]})
	}
	all, _ := m["collections"].(map[string]any)
	for name, c := range all {
		c, ok := c.(map[string]any)
		if !ok {
			continue
		}
		view := map[string]any{"enabled": strconv.FormatBool(strings.EqualFold(text(c["dataCollectionMode"]), "enabled"))}
		if s := text(c["clientId"]); s != "" {
			view["client_id"] = s
		}
		if id := text(c["dataId"]); id != "" {
			view["data"] = map[string]any{"data_id": id}
			if m := shortForm.FindStringSubmatch(id); m != nil && m[3] != "" {
				view["data"] = map[string]any{"data_id": id, "name": m[2], "version": m[3]}
			}
		}
		if rate, ok := c["samplingRate"]; ok && rate != nil {
			v["sampling_rate"] = rate
		}
		collections[name] = view
	}
	return v
}

// compact takes away what has no value.
func compact(m map[string]any) map[string]any {
	for key, value := range m {
		if value == nil || value == "" {
			delete(m, key)
		}
	}
	return m
}

// thousandths reads an ISO 8601 duration in milliseconds; nil if it is none.
func thousandths(v any) any {
	s := text(v)
	whole, rest, fraction := strings.Cut(s, ".")
	if fraction {
		digits := strings.TrimSuffix(rest, "S")
		ms, err := strconv.Atoi((digits + "000")[:3])
		n, ok := seconds(whole + "S")
		if err != nil || !ok {
			return nil
		}
		return n*1000 + int64(ms)
	}
	if n, ok := seconds(s); ok {
		return n * 1000
	}
	return nil
}

// wholeSeconds reads an ISO 8601 duration; nil if it is none.
func wholeSeconds(v any) any {
	if n, ok := seconds(text(v)); ok {
		return n
	}
	return nil
}

// ports gives inputs or outputs as a file has them.
func ports(v any) map[string]any {
	out := map[string]any{}
	m, _ := v.(map[string]any)
	for name, port := range m {
		port, ok := port.(map[string]any)
		if !ok {
			continue
		}
		kind := text(first(port["jobInputType"], port["jobOutputType"]))
		if kind == "literal" {
			out[name] = text(port["value"])
			continue
		}
		view := map[string]any{"type": kind}
		if uri := text(port["uri"]); uri != "" {
			view["path"] = shortID(uri)
		}
		if mode := text(port["mode"]); mode != "" {
			view["mode"] = modes[mode]
		}
		for wire, key := range map[string]string{"assetName": "name", "assetVersion": "version", "description": "description"} {
			if s := text(port[wire]); s != "" {
				view[key] = s
			}
		}
		out[name] = view
	}
	return out
}

var modes = map[string]string{
	"ReadOnlyMount": "ro_mount", "ReadWriteMount": "rw_mount", "Download": "download", "Upload": "upload", "Direct": "direct",
	"EvalMount": "eval_mount", "EvalDownload": "eval_download",
}

// settings gives a small object as a file has it.
func settings(m map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range m {
		switch key {
		case "jobLimitsType", "nodes":
		case "timeout":
			if n, ok := seconds(text(value)); ok {
				out[key] = n
			}
		case "jobServiceType", "identityType", "distributionType":
			out["type"] = camelToSnake(text(value))
		case "properties":
			out[key] = value
		default:
			if value != nil {
				out[snake(key)] = value
			}
		}
	}
	return out
}

var shortForm = pattern.New(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.MachineLearningServices/workspaces/[^/]+/([a-z]+)/([^/]+)(?:/versions/([^/]+))?$`)

// shortID writes a resource id as azureml:NAME or azureml:NAME:VERSION.
func shortID(id string) any {
	if id == "" {
		return nil
	}
	m := shortForm.FindStringSubmatch(id)
	switch {
	case m == nil:
		return id
	case m[3] == "":
		return "azureml:" + m[2]
	}
	return "azureml:" + m[2] + ":" + m[3]
}

func prefixed(id string) any {
	switch {
	case id == "":
		return nil
	case strings.HasPrefix(id, "/"):
		return "azureml:" + id
	}
	return id
}

var durationForm = pattern.New(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?$`)

// seconds reads an ISO 8601 duration.
func seconds(s string) (int64, bool) {
	m := durationForm.FindStringSubmatch(s)
	if m == nil || s == "P" {
		return 0, false
	}
	var total int64
	for i, unit := range []int64{86400, 3600, 60, 1} {
		if m[i+1] != "" {
			n, err := strconv.ParseInt(m[i+1], 10, 32)
			if err != nil {
				return 0, false
			}
			total += n * unit
		}
	}
	return total, true
}

func copyKeys(to, from map[string]any, keys ...string) {
	for _, key := range keys {
		if value, ok := from[key]; ok && value != nil {
			to[snake(key)] = value
		}
	}
}

// SnakeKeys writes the keys of an object, and of those in it, as YAML files do:
// provisioningState becomes provisioning_state.
func SnakeKeys(m map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range m {
		if inner, ok := value.(map[string]any); ok {
			value = SnakeKeys(inner)
		}
		if value != nil {
			out[snake(key)] = value
		}
	}
	return out
}

var hump = pattern.New(`([a-z0-9])([A-Z])`)

func snake(s string) string { return strings.ToLower(hump.ReplaceAllString(s, "${1}_${2}")) }

var words = map[string]string{
	"VSCode": "vs_code", "SSH": "ssh", "AMLToken": "aml_token", "PyTorch": "pytorch", "TensorFlow": "tensorflow", "Mpi": "mpi",
	"AzureDataLakeGen1": "azure_data_lake_gen1", "AzureDataLakeGen2": "azure_data_lake_gen2", "CustomKeys": "custom", "ADLSGen2": "azure_data_lake_gen2",
	"AzureOpenAI": "azure_open_ai", "OpenAI": "open_ai", "AADToken": "aad_token", "PAT": "pat", "SAS": "sas", "AAD": "aad",
}

func camelToSnake(s string) string {
	if w, ok := words[s]; ok {
		return w
	}
	return snake(s)
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	return fmt.Sprint(v)
}

func first(values ...any) any {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}
