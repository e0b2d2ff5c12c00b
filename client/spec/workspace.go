package spec

import "strings"

// checkWorkspace lets the name be given with --workspace.
func checkWorkspace(d *Document, o Options) error {
	f := workspaceResource
	if o.Workspace == "" {
		f = f.and(field{key: "name", shape: name, rule: required})
	}
	var c checker
	f.check(&c, d.Root, "")
	return c.err()
}

// workspace makes the deployment that creates a workspace, or the PATCH that
// changes one that is there.
func (b *builder) workspace() (Result, error) {
	r := b.root
	named := r.str("name")
	t := b.Target
	if t.Workspace = named; named == "" {
		t.Workspace = b.Workspace
	}
	if group := r.str("resource_group"); group != "" {
		t.ResourceGroup = group
	}
	exists := named == ""
	if !exists {
		var err error
		if exists, err = b.world.Exists(b.ctx, t.Workspace); err != nil {
			return Result{}, err
		}
	}
	if exists {
		return b.send("PATCH", t.Path(), "2024-10-01-preview", workspacePatch(r))
	}
	location := r.str("location")
	if location == "" {
		location = b.Location
	}
	if location == "" {
		var err error
		if location, err = b.world.Location(b.ctx); err != nil {
			return Result{}, err
		}
	}
	tail := random(8)
	values := deployment(r, t, location, tail)
	parameters := map[string]any{}
	for k, v := range values {
		parameters[k] = map[string]any{"value": v}
	}
	path := "/subscriptions/" + t.Subscription + "/resourcegroups/" + t.ResourceGroup +
		"/providers/Microsoft.Resources/deployments/" + t.Workspace + "-" + tail
	res, err := b.send("PUT", path, "2020-06-01", map[string]any{"properties": map[string]any{
		"mode": "incremental", "template": "workspace", "parameters": parameters,
	}})
	res.Path = t.Path()
	return res, err
}

func workspacePatch(r *Node) map[string]any {
	p := map[string]any{}
	put(p, "friendlyName", r.str("display_name"))
	put(p, "description", r.str("description"))
	put(p, "imageBuildCompute", r.str("image_build_compute"))
	put(p, "publicNetworkAccess", r.str("public_network_access"))
	put(p, "applicationInsights", r.str("application_insights"))
	put(p, "containerRegistry", r.str("container_registry"))
	put(p, "primaryUserAssignedIdentity", r.str("primary_user_assigned_identity"))
	put(p, "enableDataIsolation", r.get("enable_data_isolation"))
	if n := r.get("managed_network"); n != nil {
		p["managedNetwork"] = managedNetwork(n)
	}
	if n := r.get("serverless_compute"); n != nil {
		p["serverlessComputeSettings"] = serverless(n)
	}
	body := map[string]any{"tags": tagsOf(r.get("tags")), "properties": p}
	if n := r.get("identity"); n != nil {
		body["identity"] = workspaceIdentity(n)
	}
	return body
}

func workspaceIdentity(n *Node) map[string]any {
	m := map[string]any{"type": identityType(n.str("type"))}
	if u := n.get("user_assigned_identities"); u != nil {
		ids := map[string]any{}
		for i, k := range u.keys {
			id := map[string]any{}
			put(id, "principalId", u.values[i].str("principal_id"))
			put(id, "clientId", u.values[i].str("client_id"))
			ids[k.text] = id
		}
		m["userAssignedIdentities"] = ids
	}
	return m
}

func managedNetwork(n *Node) map[string]any {
	m := map[string]any{"isolationMode": pascal(n.str("isolation_mode")), "firewallSku": "Standard"}
	put(m, "firewallSku", pascal(n.str("firewall_sku")))
	rules := map[string]any{}
	if list := n.get("outbound_rules"); list != nil {
		for _, rule := range list.items {
			d := rule.get("destination")
			out := map[string]any{"category": "UserDefined"}
			switch rule.str("type") {
			case "fqdn":
				out["type"], out["destination"] = "FQDN", d.text
			case "private_endpoint":
				out["type"] = "PrivateEndpoint"
				out["destination"] = map[string]any{"serviceResourceId": d.str("service_resource_id"), "subresourceTarget": d.str("subresource_target"), "sparkEnabled": d.get("spark_enabled").truth()}
				put(out, "fqdns", rule.get("fqdns"))
			case "service_tag":
				out["type"] = "ServiceTag"
				tag := map[string]any{"serviceTag": d.str("service_tag"), "protocol": d.str("protocol"), "portRanges": d.get("port_ranges").literal()}
				put(tag, "addressPrefixes", d.get("address_prefixes"))
				out["destination"] = tag
			}
			rules[rule.str("name")] = out
		}
		m["outboundRules"] = rules
	}
	return m
}

func serverless(n *Node) map[string]any {
	m := map[string]any{"serverlessComputeNoPublicIP": n.get("no_public_ip") != nil && n.get("no_public_ip").truth()}
	put(m, "serverlessComputeCustomSubnet", n.str("custom_subnet"))
	return m
}

// deployment gives the parameters of the deployment that makes a workspace.
// Those that name stores beside the workspace are sent because the template
// takes them; a server that keeps all in one place does not read them.
func deployment(r *Node, t Target, location, tail string) map[string]any {
	short := func(what string) string {
		letters := strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return -1
		}, strings.ToLower(t.Workspace))
		return letters[:min(8, len(letters))] + what + tail
	}
	group := t.ResourceGroup
	analytics := short("logalyti")
	tagValues := tagsOf(r.get("tags"))
	tagValues["createdByToolkit"] = "sdk-v2-lapis"
	v := map[string]any{
		"workspaceName": t.Workspace, "resourceGroupName": group, "location": location, "kind": "default",
		"friendlyName": t.Workspace, "description": t.Workspace, "tagValues": tagValues,
		"keyVaultOption": "new", "keyVaultName": short("keyvault"), "keyVaultResourceGroupName": group,
		"storageAccountOption": "new", "storageAccountName": short("storage"), "storageAccountResourceGroupName": group, "storageAccountSubscriptionId": t.Subscription,
		"applicationInsightsOption": "new", "applicationInsightsName": short("insights"), "applicationInsightsResourceGroupName": group,
		"logAnalyticsName":        analytics,
		"logAnalyticsArmId":       t.Group() + "/providers/Microsoft.OperationalInsights/workspaces/" + analytics,
		"containerRegistryOption": "none", "containerRegistryName": "name", "containerRegistryResourceGroupName": "",
		"encryption_status": "Disabled", "cmk_keyvault": "", "resource_cmk_uri": "",
		"encryption_cosmosdb_resourceid": "", "encryption_storage_resourceid": "", "encryption_search_resourceid": "",
		"privateEndpointName": "name", "privateEndpointType": "none", "privateEndpointResourceGroupName": "name",
		"subnetOption": "existing", "subnetName": "default", "vnetOption": "existing", "vnetName": "name", "vnetResourceGroupName": "name",
		"confidential_data": "false", "imageBuildCompute": "", "publicNetworkAccess": "Enabled", "associatedResourcePNA": "Enabled",
		"soft_delete_enabled": "false", "allow_recover_softdeleted_workspace": "false",
		"identity": map[string]any{"type": "SystemAssigned"}, "primaryUserAssignedIdentity": "",
		"managedNetwork": map[string]any{"isolationMode": "Disabled", "outboundRules": map[string]any{}}, "provisionNetworkNow": "false",
		"grant_materialization_permissions": "true", "workspace_hub_config": map[string]any{}, "existing_workspaces": []any{}, "workspace_hub": "",
		"enable_data_isolation": "false", "allowRoleAssignmentOnRG": "true", "serverless_compute_settings": map[string]any{}, "systemDatastoresAuthMode": "",
		"endpoint_resource_id": "null", "endpoint_kind": "AIServices", "endpoint_option": "new",
	}
	for _, key := range []string{
		"spark_runtime_version", "offlineStoreStorageAccountOption", "offline_store_storage_account_name", "offline_store_container_name",
		"offline_store_resource_group_name", "offline_store_subscription_id", "offline_store_connection_name", "online_store_resource_id",
		"online_store_resource_group_name", "online_store_subscription_id", "online_store_connection_name", "materializationIdentityOption",
		"materialization_identity_name", "materialization_identity_resource_group_name", "materialization_identity_subscription_id",
	} {
		v[key] = nil
	}
	put(v, "friendlyName", r.str("display_name"))
	put(v, "description", r.str("description"))
	put(v, "imageBuildCompute", r.str("image_build_compute"))
	put(v, "systemDatastoresAuthMode", r.str("system_datastores_auth_mode"))
	put(v, "primaryUserAssignedIdentity", r.str("primary_user_assigned_identity"))
	put(v, "workspace_hub", r.str("workspace_hub"))
	if s := r.str("public_network_access"); s != "" {
		v["publicNetworkAccess"], v["associatedResourcePNA"] = s, s
	}
	for key, parameter := range map[string]string{"hbi_workspace": "confidential_data", "provision_network_now": "provisionNetworkNow", "enable_data_isolation": "enable_data_isolation"} {
		if n := r.get(key); n != nil && n.truth() {
			v[parameter] = "true"
		}
	}
	if n := r.get("allow_roleassignment_on_rg"); n != nil && !n.truth() {
		v["allowRoleAssignmentOnRG"] = "false"
	}
	for key, prefix := range map[string]string{"key_vault": "keyVault", "storage_account": "storageAccount", "application_insights": "applicationInsights", "container_registry": "containerRegistry"} {
		if id := r.str(key); id != "" {
			parts := strings.Split(id, "/")
			v[prefix+"Option"], v[prefix+"Name"], v[prefix+"ResourceGroupName"] = "existing", parts[len(parts)-1], parts[4]
			switch key {
			case "storage_account":
				v["storageAccountSubscriptionId"] = parts[2]
			case "application_insights":
				v["logAnalyticsName"], v["logAnalyticsArmId"] = "none", ""
			}
		}
	}
	if n := r.get("customer_managed_key"); n != nil {
		v["encryption_status"] = "Enabled"
		put(v, "cmk_keyvault", n.str("key_vault"))
		put(v, "resource_cmk_uri", n.str("key_uri"))
		put(v, "encryption_cosmosdb_resourceid", n.str("cosmosdb_id"))
		put(v, "encryption_storage_resourceid", n.str("storage_id"))
		put(v, "encryption_search_resourceid", n.str("search_id"))
	}
	if n := r.get("identity"); n != nil {
		v["identity"] = workspaceIdentity(n)
	}
	if n := r.get("managed_network"); n != nil {
		m := managedNetwork(n)
		v["managedNetwork"] = m
		if m["isolationMode"] != "Disabled" {
			v["associatedResourcePNA"] = "Disabled"
		}
	}
	if n := r.get("serverless_compute"); n != nil {
		v["serverless_compute_settings"] = serverless(n)
	}
	return v
}

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
