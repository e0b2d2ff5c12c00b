package spec

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"lapis/pattern"
)

// Nouns are the words that name what a file describes, as in `lapis NOUN
// create`.
var Nouns = []string{"workspace", "compute", "datastore", "data", "environment", "model", "component", "job", "connection", "registry", "online-endpoint", "online-deployment"}

// schemas maps the file name in `$schema`, folded, to its noun.
var schemas = map[string]string{
	"workspace": "workspace", "hub": "workspace", "project": "workspace",
	"amlcompute": "compute", "computeinstance": "compute", "virtualmachinecompute": "compute", "kubernetescompute": "compute", "synapsesparkcompute": "compute",
	"azureblob": "datastore", "azurefile": "datastore", "azuredatalakegen1": "datastore", "azuredatalakegen2": "datastore", "onelake": "datastore",
	"data": "data", "environment": "environment", "model": "model",
	"commandcomponent": "component", "commandjob": "job",
	"connection": "connection", "workspaceconnection": "connection", "registry": "registry",
	"onlineendpoint": "online-endpoint", "managedonlineendpoint": "online-endpoint", "kubernetesonlineendpoint": "online-endpoint",
	"onlinedeployment": "online-deployment", "managedonlinedeployment": "online-deployment", "kubernetesonlinedeployment": "online-deployment",
}

// later maps the kinds that are known and not offered yet, by `type` or by
// the file name in `$schema`, folded, to what they are called.
var later = map[string]string{
	"pipeline": "pipelines", "pipelinejob": "pipelines", "pipelinecomponent": "pipeline components",
	"sweep": "sweeps", "sweepjob": "sweeps",
	"automl": "AutoML", "automljob": "AutoML",
	"spark": "Spark", "sparkjob": "Spark", "sparkcomponent": "Spark",
	"parallel": "parallel steps", "parallelcomponent": "parallel steps", "paralleljob": "parallel steps",
	"import": "data imports", "importjob": "data imports", "importcomponent": "data imports", "dataimport": "data imports",
	"datatransfer": "data transfers", "datatransferjob": "data transfers", "datatransfercomponent": "data transfers",
	"finetuning": "fine-tuning", "azureopenaifinetuning": "fine-tuning", "custommodelfinetuning": "fine-tuning", "distillation": "distillation",
	"schedule": "schedules", "monitorschedule": "schedules", "importschedule": "schedules",
	"batchendpoint": "batch endpoints", "batchdeployment": "batch deployments", "modelbatchdeployment": "batch deployments", "pipelinecomponentbatchdeployment": "batch deployments",
	"featureset": "feature stores", "featurestore": "feature stores", "featurestoreentity": "feature stores", "modelpackage": "model packages", "package": "model packages",
}

// schemaName is the kind that `$schema` names, folded: "commandjob".
func schemaName(root *Node) string {
	s := root.str("$schema")
	if s == "" {
		return ""
	}
	base := path.Base(strings.ReplaceAll(s, `\`, "/"))
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".json"), ".schema")
	return fold(base)
}

// identify checks that the document may be of the noun, and refuses what
// belongs to another or comes later.
func identify(d *Document, noun string) error {
	root := d.Root
	if root.kind != mapping {
		return root.fault("", "the file has to be a mapping of fields, and this is %s.", root.kind)
	}
	named := schemaName(root)
	if what, ok := later[named]; ok {
		return root.fault("$schema", "%s are not offered yet.", what)
	}
	if owner, ok := schemas[named]; ok && owner != noun {
		return root.get("$schema").fault("$schema", "this is a file for `lapis %s`. Use `lapis %s create --file %s`.", owner, owner, d.File)
	}
	if noun == "job" || noun == "component" {
		if t := root.get("type"); t != nil && t.kind == text {
			if what, ok := later[fold(t.text)]; ok {
				return t.fault("type", "%s are not offered yet; command %ss are.", what, noun)
			}
		}
		// A file with neither `type` nor `$schema` tells its kind by its fields.
		for key, what := range map[string]string{"jobs": "pipelines", "trial": "sweeps", "search_space": "sweeps", "trigger": "schedules", "create_job": "schedules"} {
			if root.get("type") == nil && root.get("command") == nil && root.find(key) != nil {
				return root.find(key).fault(key, "%s are not offered yet; command %ss are.", what, noun)
			}
		}
	}
	if noun == "data" && root.find("source") != nil && root.find("type") == nil {
		return root.find("source").fault("source", "data imports are not offered yet.")
	}
	if !slices.Contains(Nouns, noun) {
		return root.fault("", "%s: there is no such kind of file.", noun)
	}
	return nil
}

// The tables. They hold what Azure ML's own schemas hold.

var schemaField = field{key: "$schema", shape: str}

// resource is what most files begin with.
var resource = fields{
	schemaField,
	{key: "id", rule: readOnly},
	{key: "name", shape: name},
	{key: "description", shape: str},
	{key: "tags", shape: tags},
	{key: "creation_context", rule: readOnly},
	{key: "provisioning_state", rule: readOnly},
}

var asset = resource.and(
	field{key: "version", shape: version},
	field{key: "latest_version", rule: readOnly},
	field{key: "auto_delete_setting", shape: fields{
		{key: "condition", shape: choice("created_greater_than", "last_accessed_greater_than")},
		{key: "value", shape: scalar},
	}.check},
)

var dataTypes = []string{"uri_file", "uri_folder", "mltable"}
var modelTypes = []string{"custom_model", "mlflow_model", "triton_model"}

var dataAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "path", shape: str, rule: required},
	field{key: "type", shape: choice(dataTypes...)},
	field{key: "datastore", shape: str},
	field{key: "properties", rule: readOnly},
)

var modelAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "path", shape: str, rule: required},
	field{key: "type", shape: choice(modelTypes...)},
	field{key: "datastore", shape: str},
	field{key: "properties", shape: mapOf(nullable(scalar))},
	field{key: "flavors", shape: mapOf(anything)},
	field{key: "stage", shape: str},
	field{key: "system_metadata", shape: mapOf(anything)},
	field{key: "job_name", rule: readOnly},
	field{key: "intellectual_property", rule: readOnly},
	field{key: "default_deployment_template", shape: anything},
	field{key: "allowed_deployment_templates", shape: anything},
)

var route = fields{
	{key: "port", shape: whole(0), rule: required},
	{key: "path", shape: str, rule: required},
}

var environmentAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "image", shape: str},
	field{key: "conda_file", shape: present},
	field{key: "build", shape: fields{
		{key: "path", shape: str, rule: required},
		{key: "dockerfile_path", shape: str},
	}.check},
	field{key: "inference_config", shape: fields{
		{key: "liveness_route", shape: route.check, rule: required},
		{key: "readiness_route", shape: route.check, rule: required},
		{key: "scoring_route", shape: route.check, rule: required},
	}.check},
	field{key: "os_type", shape: choice("linux", "windows")},
	field{key: "datastore", shape: str},
	field{key: "properties", shape: mapOf(nullable(scalar))},
	field{key: "intellectual_property", rule: readOnly},
)

var anonymousEnvironment = environmentAsset.and(
	field{key: "name", shape: str},
	field{key: "version", shape: version},
)

// environmentReference takes a reference, a file, or an environment in place.
func environmentReference(c *checker, n *Node, path string) {
	if n.kind != mapping {
		str(c, n, path)
		return
	}
	anonymousEnvironment.check(c, n, path)
}

var jobResources = fields{
	{key: "instance_count", shape: whole(1)},
	{key: "max_instance_count", shape: whole(1)},
	{key: "instance_type", shape: str},
	{key: "locations", shape: listOf(str)},
	{key: "shm_size", shape: str},
	{key: "docker_args", shape: func(c *checker, n *Node, path string) {
		if n.kind == sequence {
			listOf(str)(c, n, path)
		} else {
			str(c, n, path)
		}
	}},
	{key: "properties", shape: mapOf(anything)},
}

var distributions = map[string]fields{
	"mpi":        {{key: "process_count_per_instance", shape: whole(1)}},
	"pytorch":    {{key: "process_count_per_instance", shape: whole(1)}},
	"tensorflow": {{key: "parameter_server_count", shape: whole(0)}, {key: "worker_count", shape: whole(0)}},
	"ray": {
		{key: "port", shape: whole(1)}, {key: "address", shape: str}, {key: "include_dashboard", shape: flag}, {key: "dashboard_port", shape: whole(1)},
		{key: "head_node_additional_args", shape: str}, {key: "worker_node_additional_args", shape: str},
	},
}

// tagged takes a mapping whose `type` picks its table.
func tagged(kinds map[string]fields) shape {
	words := make([]string, 0, len(kinds))
	for k := range kinds {
		words = append(words, k)
	}
	slices.Sort(words)
	return func(c *checker, n *Node, path string) {
		if n.kind != mapping {
			c.wrong(n, path, "this is %s where a mapping with a type is wanted.", n.kind)
			return
		}
		t := n.find("type")
		if t == nil {
			c.wrong(n, join(path, "type"), "this field is required; %s.", oneOf(words))
			return
		}
		before := len(c.mistakes)
		choice(words...)(c, t, join(path, "type"))
		if len(c.mistakes) > before {
			return
		}
		kinds[t.text].and(field{key: "type", shape: anything}).check(c, n, path)
	}
}

var service = fields{
	{key: "port", shape: whole(0)},
	{key: "nodes", shape: nullable(choice("all"))},
	{key: "properties", shape: mapOf(anything)},
	{key: "endpoint", rule: readOnly},
	{key: "status", rule: readOnly},
	{key: "error_message", rule: readOnly},
}

var services = map[string]fields{
	"jupyter_lab":  service,
	"vs_code":      service,
	"ssh":          service.and(field{key: "ssh_public_keys", shape: str}),
	"tensor_board": service.and(field{key: "log_dir", shape: str}),
	"custom":       service, "Tracking": service, "Studio": service, "RayDashboard": service,
}

var jobIdentity = tagged(map[string]fields{
	"managed":          {{key: "client_id", shape: str}, {key: "object_id", shape: str}, {key: "msi_resource_id", shape: str}},
	"managed_identity": {{key: "client_id", shape: str}, {key: "object_id", shape: str}, {key: "msi_resource_id", shape: str}},
	"aml_token":        {},
	"user_identity":    {},
})

var inputModes = []string{"download", "ro_mount", "direct", "eval_mount", "eval_download"}

// input takes a literal, or a mapping with the path of data or a model.
func input(c *checker, n *Node, path string) {
	if n.kind != mapping {
		scalar(c, n, path)
		return
	}
	if n.find("value") != nil {
		fields{{key: "value", shape: scalar, rule: required}}.check(c, n, path)
		return
	}
	fields{
		{key: "type", shape: choice(slices.Concat(dataTypes, modelTypes)...)},
		{key: "path", shape: str, rule: required},
		{key: "path_on_compute", shape: str},
		{key: "mode", shape: choice(inputModes...)},
		{key: "datastore", shape: str},
	}.check(c, n, path)
}

var output = fields{
	{key: "type", shape: choice(slices.Concat(dataTypes, modelTypes)...)},
	{key: "path", shape: str},
	{key: "mode", shape: choice("mount", "rw_mount", "upload", "direct")},
	{key: "name", shape: name},
	{key: "version", shape: version},
	{key: "description", shape: str},
}

var command = fields{
	{key: "command", shape: str, rule: required},
	{key: "code", shape: str},
	{key: "environment", shape: environmentReference, rule: required},
	{key: "resources", shape: jobResources.check},
	{key: "distribution", shape: tagged(distributions)},
	{key: "queue_settings", shape: fields{
		{key: "job_tier", shape: func(c *checker, n *Node, path string) {
			present(c, n, path)
			nullable(choice("spot", "basic", "standard", "premium", "null"))(c, n, path)
		}},
		{key: "priority", shape: choice("low", "medium", "high")},
	}.check},
}

var commandJob = resource.and(command...).and(
	field{key: "tags", shape: mapOf(nullable(str))},
	field{key: "type", shape: choice("command")},
	field{key: "display_name", shape: str},
	field{key: "experiment_name", shape: name},
	field{key: "compute", shape: str},
	field{key: "properties", shape: mapOf(nullable(str))},
	field{key: "environment_variables", shape: mapOf(scalar)},
	field{key: "identity", shape: jobIdentity},
	field{key: "services", shape: mapOf(tagged(services))},
	field{key: "limits", shape: fields{{key: "timeout", shape: whole(1)}}.check},
	field{key: "inputs", shape: mapOf(input)},
	field{key: "outputs", shape: mapOf(nullable(func(c *checker, n *Node, path string) {
		output.check(c, n, path)
		if v := n.get("version"); v != nil && n.get("name") == nil {
			c.wrong(v, join(path, "version"), "an output with a version needs a name. Add `name:`.")
		}
	}))},
	field{key: "parent_job_name", shape: name},
	field{key: "status", rule: readOnly},
	field{key: "log_files", rule: readOnly},
	field{key: "parameters", rule: readOnly},
)

var portTypes = slices.Concat([]string{"path"}, dataTypes, modelTypes)
var parameterTypes = []string{"string", "integer", "number", "boolean"}
var portModes = []string{"download", "ro_mount", "rw_mount", "mount", "upload", "direct", "eval_mount", "eval_download", "link"}

// parameter takes a value that a parameter of that type can have: `2`, and "2"
// too, for a number.
func parameter(kind string) shape {
	return func(c *checker, n *Node, path string) {
		before := len(c.mistakes)
		scalar(c, n, path)
		if len(c.mistakes) > before {
			return
		}
		var err error
		switch kind {
		case "integer":
			if n.kind != float {
				_, err = strconv.ParseInt(strings.ReplaceAll(n.text, "_", ""), 0, 64)
			}
		case "number":
			_, err = n.number()
		case "boolean":
			if n.kind != boolean {
				_, err = strconv.ParseBool(n.text)
			}
		}
		if err != nil || kind != "boolean" && kind != "string" && n.kind == boolean {
			c.wrong(n, path, "%q is no value of the type %s.", n.text, kind)
		}
	}
}

// componentInput takes a parameter or a port.
func componentInput(c *checker, n *Node, path string) {
	f := fields{
		{key: "type", shape: choice(slices.Concat(parameterTypes, portTypes)...), rule: required},
		{key: "description", shape: str},
		{key: "optional", shape: flag},
		{key: "default", shape: scalar},
	}
	if kind := strings.ToLower(n.str("type")); n.kind == mapping && slices.Contains(parameterTypes, kind) {
		bound := scalar
		if kind != "string" {
			bound = parameter("number")
		}
		f = f.and(field{key: "default", shape: parameter(kind)}, field{key: "min", shape: bound}, field{key: "max", shape: bound}, field{key: "enum", shape: listOf(str)})
	} else {
		f = f.and(field{key: "mode", shape: choice(portModes...)})
	}
	f.check(c, n, path)
}

var commandComponent = asset.and(command...).and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "name", shape: name, rule: required},
	field{key: "type", shape: choice("command")},
	field{key: "display_name", shape: str},
	field{key: "is_deterministic", shape: flag},
	field{key: "inputs", shape: mapOf(componentInput)},
	field{key: "outputs", shape: mapOf(fields{
		{key: "type", shape: choice(slices.Concat(portTypes, parameterTypes)...), rule: required},
		{key: "description", shape: str},
		{key: "mode", shape: choice(portModes...)},
		{key: "early_available", shape: flag},
	}.check)},
	field{key: "properties", shape: mapOf(anything)},
	field{key: "additional_includes", shape: listOf(str)},
	field{key: "intellectual_property", rule: readOnly},
)

var computeIdentity = fields{
	{key: "type", shape: choice("system_assigned", "user_assigned", "none", "system_assigned,user_assigned"), rule: required},
	{key: "user_assigned_identities", shape: listOf(fields{
		{key: "resource_id", shape: str},
		{key: "client_id", rule: readOnly}, {key: "principal_id", rule: readOnly}, {key: "tenant_id", rule: readOnly},
	}.check)},
	{key: "principal_id", rule: readOnly},
	{key: "tenant_id", rule: readOnly},
}

var networkSettings = fields{
	{key: "vnet_name", shape: str},
	{key: "subnet", shape: str},
	{key: "public_ip_address", rule: readOnly},
	{key: "private_ip_address", rule: readOnly},
}

var computeResource = resource.and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "name", shape: name, rule: required},
	field{key: "type", shape: str, rule: required},
	field{key: "location", shape: str},
	field{key: "resource_id", shape: str},
	field{key: "provisioning_errors", rule: readOnly},
	field{key: "created_on", rule: readOnly},
)

var script = fields{
	{key: "path", shape: str},
	{key: "command", shape: str},
	{key: "timeout_minutes", shape: whole(1)},
}

var trigger = tagged(map[string]fields{
	"cron": {{key: "expression", shape: str, rule: required}, {key: "start_time", shape: str}, {key: "time_zone", shape: str}},
	"recurrence": {
		{key: "frequency", shape: choice("minute", "hour", "day", "week", "month"), rule: required},
		{key: "interval", shape: whole(1), rule: required},
		{key: "start_time", shape: str}, {key: "time_zone", shape: str},
		{key: "schedule", shape: fields{
			{key: "week_days", shape: listOf(choice("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"))},
			{key: "hours", shape: listOf(between(0, 23)), rule: required},
			{key: "minutes", shape: listOf(between(0, 59)), rule: required},
		}.check},
	},
})

var computes = map[string]fields{
	"amlcompute": computeResource.and(
		field{key: "size", shape: str},
		field{key: "tier", shape: choice("low_priority", "dedicated")},
		field{key: "min_instances", shape: whole(0)},
		field{key: "max_instances", shape: whole(0)},
		field{key: "idle_time_before_scale_down", shape: whole(0)},
		field{key: "ssh_public_access_enabled", shape: flag},
		field{key: "ssh_settings", shape: fields{
			{key: "admin_username", shape: str, rule: required},
			{key: "admin_password", shape: str},
			{key: "ssh_key_value", shape: str},
		}.check},
		field{key: "network_settings", shape: networkSettings.check},
		field{key: "identity", shape: computeIdentity.check},
		field{key: "enable_node_public_ip", shape: flag},
	),
	"computeinstance": computeResource.and(
		field{key: "size", shape: str},
		field{key: "network_settings", shape: networkSettings.check},
		field{key: "create_on_behalf_of", shape: fields{
			{key: "user_tenant_id", shape: str, rule: required},
			{key: "user_object_id", shape: str, rule: required},
		}.check},
		field{key: "ssh_settings", shape: fields{
			{key: "ssh_key_value", shape: str},
			{key: "admin_username", rule: readOnly}, {key: "ssh_port", rule: readOnly},
		}.check},
		field{key: "ssh_public_access_enabled", shape: flag},
		field{key: "schedules", shape: fields{
			{key: "compute_start_stop", shape: listOf(fields{
				{key: "trigger", shape: trigger},
				{key: "action", shape: choice("start", "stop"), rule: required},
				{key: "state", shape: choice("enabled", "disabled")},
				{key: "schedule_id", rule: readOnly}, {key: "provisioning_state", rule: readOnly},
			}.check)},
		}.check},
		field{key: "identity", shape: computeIdentity.check},
		field{key: "idle_time_before_shutdown", shape: str},
		field{key: "idle_time_before_shutdown_minutes", shape: whole(0)},
		field{key: "custom_applications", shape: listOf(fields{
			{key: "name", shape: str, rule: required},
			{key: "type", shape: choice("docker")},
			{key: "image", shape: fields{{key: "reference", shape: str, rule: required}}.check, rule: required},
			{key: "endpoints", shape: listOf(fields{{key: "target", shape: port, rule: required}, {key: "published", shape: port, rule: required}}.check), rule: required},
			{key: "environment_variables", shape: mapOf(scalar)},
			{key: "bind_mounts", shape: listOf(fields{{key: "source", shape: str, rule: required}, {key: "target", shape: str, rule: required}}.check)},
		}.check)},
		field{key: "setup_scripts", shape: fields{
			{key: "creation_script", shape: script.check},
			{key: "startup_script", shape: script.check},
		}.check},
		field{key: "enable_node_public_ip", shape: flag},
		field{key: "enable_sso", shape: flag},
		field{key: "enable_root_access", shape: flag},
		field{key: "release_quota_on_stop", shape: flag},
		field{key: "enable_os_patching", shape: flag},
		field{key: "state", rule: readOnly},
		field{key: "last_operation", rule: readOnly},
		field{key: "services", rule: readOnly},
		field{key: "os_image_metadata", rule: readOnly},
	),
	"kubernetes": computeResource.and(
		field{key: "resource_id", shape: str, rule: required},
		field{key: "namespace", shape: str},
		field{key: "properties", shape: mapOf(anything)},
		field{key: "identity", shape: computeIdentity.check},
	),
	"virtualmachine": computeResource.and(
		field{key: "resource_id", shape: str, rule: required},
		field{key: "compute_location", rule: readOnly},
		field{key: "ssh_settings", shape: fields{
			{key: "admin_username", shape: str, rule: required},
			{key: "admin_password", shape: str},
			{key: "ssh_port", shape: whole(1)},
			{key: "ssh_private_key_file", shape: str},
		}.check},
	),
	"synapsespark": computeResource.and(
		field{key: "resource_id", shape: str, rule: required},
		field{key: "identity", shape: computeIdentity.check},
		field{key: "node_family", rule: readOnly}, field{key: "node_size", rule: readOnly}, field{key: "node_count", rule: readOnly}, field{key: "spark_version", rule: readOnly},
		field{key: "scale_settings", rule: readOnly}, field{key: "auto_pause_settings", rule: readOnly},
	),
}

var (
	accountKey = fields{{key: "account_key", shape: str, rule: required}}
	sasToken   = fields{{key: "sas_token", shape: str, rule: required}}
	tenant     = fields{
		{key: "tenant_id", shape: str, rule: required},
		{key: "client_id", shape: str, rule: required},
		{key: "authority_url", shape: str},
		{key: "authority_uri", shape: str},
		{key: "resource_url", shape: str},
	}
	clientSecret = tenant.and(field{key: "client_secret", shape: str, rule: required})
	certificate  = tenant.and(field{key: "thumbprint", shape: str, rule: required}, field{key: "certificate", shape: str})
	noSecret     = fields{}
)

var datastoreResource = resource.and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "name", shape: name, rule: required},
	field{key: "type", shape: str, rule: required},
)

var storageAccount = datastoreResource.and(
	field{key: "account_name", shape: str, rule: required},
	field{key: "endpoint", shape: str},
	field{key: "protocol", shape: str},
)

var datastores = map[string]fields{
	"azure_blob": storageAccount.and(
		field{key: "container_name", shape: str, rule: required},
		field{key: "credentials", shape: variant(noSecret, accountKey, sasToken)},
	),
	"azure_file": storageAccount.and(
		field{key: "file_share_name", shape: str, rule: required},
		field{key: "credentials", shape: variant(noSecret, accountKey, sasToken)},
	),
	"azure_data_lake_gen2": storageAccount.and(
		field{key: "filesystem", shape: str, rule: required},
		field{key: "credentials", shape: variant(noSecret, clientSecret, certificate)},
	),
	"azure_data_lake_gen1": datastoreResource.and(
		field{key: "store_name", shape: str, rule: required},
		field{key: "credentials", shape: variant(noSecret, clientSecret, certificate)},
	),
	"one_lake": datastoreResource.and(
		field{key: "one_lake_workspace_name", shape: str, rule: required},
		field{key: "endpoint", shape: str, rule: required},
		field{key: "artifact", rule: required, shape: fields{{key: "name", shape: str, rule: required}, {key: "type", shape: choice("lake_house")}}.check},
		field{key: "credentials", shape: variant(noSecret, clientSecret)},
	),
}

// secrets are the credentials of a connection, by type, with the name that
// the wire has for the type and for each field.
var secrets = map[string]struct {
	authType string
	fields   map[string]string
	optional bool // of the fields
}{
	"pat":               {"PAT", map[string]string{"pat": "pat"}, false},
	"sas":               {"SAS", map[string]string{"sas_token": "sas"}, false},
	"username_password": {"UsernamePassword", map[string]string{"username": "username", "password": "password"}, false},
	"managed_identity":  {"ManagedIdentity", map[string]string{"client_id": "clientId", "resource_id": "resourceId"}, true},
	"service_principal": {"ServicePrincipal", map[string]string{"client_id": "clientId", "client_secret": "clientSecret", "tenant_id": "tenantId"}, false},
	"access_key":        {"AccessKey", map[string]string{"access_key_id": "accessKeyId", "secret_access_key": "secretAccessKey"}, false},
	"api_key":           {"ApiKey", map[string]string{"key": "key"}, false},
	"account_key":       {"SAS", map[string]string{"account_key": "sas"}, false},
	"aad":               {"AAD", nil, true},
	"none":              {"None", nil, true},
}

func connectionCredentials(c *checker, n *Node, path string) {
	tables := map[string]fields{}
	for kind, s := range secrets {
		f := fields{}
		for key := range s.fields {
			needed := required
			if s.optional {
				needed = optional
			}
			f = append(f, field{key: key, shape: str, rule: needed})
		}
		tables[kind] = f
	}
	tagged(tables)(c, n, path)
}

// signIns are the types of credentials that a connection of a type can have,
// where not all can be; "" is none.
var signIns = map[string][]string{
	"git":                  {"pat", "username_password", "none", ""},
	"python_feed":          {"username_password", "pat", "none", ""},
	"container_registry":   {"managed_identity", "username_password"},
	"azure_data_lake_gen2": {"service_principal", "aad", "managed_identity", "none", ""},
}

// connections maps a connection's type to its category on the wire.
var connections = map[string]string{
	"git": "Git", "container_registry": "ContainerRegistry", "python_feed": "PythonFeed", "s3": "S3", "snowflake": "Snowflake",
	"azure_sql_db": "AzureSqlDb", "azure_synapse_analytics": "AzureSynapseAnalytics", "azure_my_sql_db": "AzureMySqlDb", "azure_postgres_db": "AzurePostgresDb",
	"custom": "CustomKeys", "azure_data_lake_gen2": "ADLSGen2",
	"azure_open_ai": "AzureOpenAI", "azure_ai_search": "CognitiveSearch", "azure_ai_services": "AIServices",
	"azure_content_safety": "CognitiveService", "azure_speech_services": "CognitiveService",
	"api_key": "ApiKey", "open_ai": "OpenAI", "serp": "Serp", "serverless": "Serverless", "azure_blob": "AzureBlob",
}

var connectionResource = resource.and(
	field{key: "name", shape: name, rule: required},
	field{key: "type", shape: choice(words(connections)...), rule: required},
	field{key: "target", shape: str},
	field{key: "credentials", shape: connectionCredentials},
	field{key: "is_shared", shape: flag},
	field{key: "metadata", shape: mapOf(nullable(scalar))},
)

// The fields that the connections to one product have in place of target and
// credentials.
var productConnection = []field{
	{key: "api_key", shape: nullable(str)},
	{key: "api_base", shape: nullable(str)},
	{key: "api_version", shape: nullable(str)},
	{key: "endpoint", shape: nullable(str)},
	{key: "azure_endpoint", shape: nullable(str)},
	{key: "open_ai_resource_id", shape: nullable(str)},
	{key: "ai_services_resource_id", shape: nullable(str)},
	{key: "url", shape: nullable(str)},
	{key: "account_name", shape: nullable(str)},
	{key: "container_name", shape: nullable(str)},
}

func words[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// arm takes the id of an Azure resource, such as a storage account.
func arm(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) == before && !resourceID.MatchString(n.text) {
		c.wrong(n, path, "%q is not a resource id. It reads /subscriptions/ID/resourceGroups/NAME/providers/PROVIDER/TYPE/NAME.", n.text)
	}
}

// armID takes the id of a resource in a subscription that Azure may have: its
// own id is a GUID.
func armID(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	arm(c, n, path)
	if len(c.mistakes) == before && !inSubscription.MatchString(n.text) {
		c.wrong(n, path, "%q is not a resource id: the subscription's id is a GUID, as in 12345678-0123-0123-0123-0123456789ab.", n.text)
	}
}

var inSubscription = pattern.New(`(?i)^/subscriptions/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}/resourceGroups/[^/]+/providers/.`)

var outboundRule = fields{
	{key: "name", shape: name, rule: required},
	{key: "parent_rule_names", rule: readOnly},
	{key: "category", rule: readOnly},
	{key: "status", rule: readOnly},
	{key: "fqdns", shape: listOf(str)},
}

var outboundRules = tagged(map[string]fields{
	"fqdn": outboundRule.and(field{key: "destination", shape: str, rule: required}),
	"private_endpoint": outboundRule.and(field{key: "destination", rule: required, shape: fields{
		{key: "service_resource_id", shape: str, rule: required},
		{key: "subresource_target", shape: str, rule: required},
		{key: "spark_enabled", shape: flag, rule: required},
	}.check}),
	"service_tag": outboundRule.and(field{key: "destination", rule: required, shape: fields{
		{key: "service_tag", shape: str, rule: required},
		{key: "protocol", shape: str, rule: required},
		{key: "port_ranges", shape: str, rule: required},
		{key: "address_prefixes", shape: listOf(str)},
	}.check}),
})

var workspaceResource = resource.and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "location", shape: str},
	field{key: "resource_group", shape: str},
	field{key: "display_name", shape: str},
	field{key: "discovery_url", rule: readOnly},
	field{key: "mlflow_tracking_uri", rule: readOnly},
	field{key: "workspace_id", rule: readOnly},
	field{key: "kind", rule: readOnly},
	field{key: "hbi_workspace", shape: flag},
	field{key: "storage_account", shape: armID},
	field{key: "container_registry", shape: armID},
	field{key: "key_vault", shape: armID},
	field{key: "application_insights", shape: armID},
	field{key: "customer_managed_key", shape: fields{
		{key: "key_vault", shape: str},
		{key: "key_uri", shape: webAddress},
		{key: "cosmosdb_id", shape: str}, {key: "storage_id", shape: str}, {key: "search_id", shape: str},
	}.check},
	field{key: "image_build_compute", shape: str},
	field{key: "public_network_access", shape: choice("Enabled", "Disabled")},
	field{key: "network_acls", shape: anything},
	field{key: "system_datastores_auth_mode", shape: str},
	field{key: "identity", shape: fields{
		{key: "type", shape: choice("system_assigned", "user_assigned", "none", "system_assigned,user_assigned"), rule: required},
		{key: "user_assigned_identities", shape: nullable(mapOf(nullable(fields{
			{key: "principal_id", shape: str}, {key: "client_id", shape: str}, {key: "resource_id", shape: str},
		}.check)))},
		{key: "principal_id", rule: readOnly}, {key: "tenant_id", rule: readOnly},
	}.check},
	field{key: "primary_user_assigned_identity", shape: str},
	field{key: "workspace_hub", shape: armID},
	field{key: "managed_network", shape: fields{
		{key: "isolation_mode", shape: choice("disabled", "allow_internet_outbound", "allow_only_approved_outbound"), rule: required},
		{key: "outbound_rules", shape: nullable(listOf(outboundRules))},
		{key: "firewall_sku", shape: choice("standard", "basic")},
		{key: "network_id", rule: readOnly}, {key: "status", rule: readOnly},
	}.check},
	field{key: "provision_network_now", shape: flag},
	field{key: "enable_data_isolation", shape: flag},
	field{key: "allow_roleassignment_on_rg", shape: flag},
	field{key: "serverless_compute", shape: fields{
		{key: "custom_subnet", shape: nullable(func(c *checker, n *Node, path string) {
			if n.text != "None" { // the word that takes one away
				armID(c, n, path)
			}
		})},
		{key: "no_public_ip", shape: flag},
	}.check},
	field{key: "private_endpoints", shape: anything},
)

func webAddress(c *checker, n *Node, path string) {
	before := len(c.mistakes)
	str(c, n, path)
	if len(c.mistakes) == before && (!remote(n.text) || strings.ContainsAny(n.text, "<> ")) {
		c.wrong(n, path, "%q is not a web address. It begins with https://.", n.text)
	}
}

// registryStorage takes ids of storage accounts, or what new ones are like.
func registryStorage(c *checker, n *Node, path string) {
	if n.kind == sequence {
		listOf(arm)(c, n, path)
		return
	}
	fields{
		{key: "storage_account_hns", shape: flag},
		{key: "storage_account_type", shape: choice("standard_lrs", "standard_grs", "standard_ragrs", "standard_zrs", "standard_gzrs", "standard_ragzrs", "premium_lrs", "premium_zrs")},
		{key: "replication_count", shape: between(1, 100)},
		{key: "arm_resource_id", rule: readOnly}, {key: "replicated_ids", rule: readOnly},
	}.check(c, n, path)
}

var registryResource = resource.and(
	field{key: "tags", shape: mapOf(str)},
	field{key: "name", shape: name, rule: required},
	field{key: "location", shape: str},
	field{key: "public_network_access", shape: choice("Enabled", "Disabled")},
	field{key: "intellectual_property", shape: fields{{key: "publisher", shape: str}}.check},
	field{key: "managed_resource_group", rule: readOnly},
	field{key: "mlflow_registry_uri", rule: readOnly},
	field{key: "discovery_url", rule: readOnly},
	field{key: "identity", rule: readOnly}, field{key: "kind", rule: readOnly}, field{key: "sku", rule: readOnly},
	field{key: "container_registry", shape: func(c *checker, n *Node, path string) {
		if n.kind == mapping {
			fields{{key: "acr_account_sku", shape: choice("premium")}, {key: "arm_resource_id", rule: readOnly}}.check(c, n, path)
		} else {
			arm(c, n, path)
		}
	}},
	field{key: "replication_locations", shape: listOf(fields{
		{key: "location", shape: str, rule: required},
		{key: "storage_config", shape: registryStorage},
	}.check)},
)
