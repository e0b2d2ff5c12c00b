package spec

import "os"

// defaultSize is the machine that a compute gets whose file names none.
const defaultSize = "STANDARD_DS3_V2"

func (b *builder) compute() (Result, error) {
	r := b.root
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
	p := map[string]any{}
	put(p, "description", r.str("description"))
	var err error
	switch r.str("type") {
	case "amlcompute":
		p["computeType"] = "AmlCompute"
		err = b.cluster(p)
	case "computeinstance":
		p["computeType"] = "ComputeInstance"
		err = b.instance(p)
	case "kubernetes":
		p["computeType"], p["computeLocation"] = "Kubernetes", location
		put(p, "resourceId", r.str("resource_id"))
		properties := map[string]any{}
		if n := r.get("properties"); n != nil {
			properties = n.plain().(map[string]any)
		}
		put(properties, "namespace", r.str("namespace"))
		p["properties"] = properties
	case "virtualmachine":
		p["computeType"] = "VirtualMachine"
		put(p, "resourceId", r.str("resource_id"))
		err = b.virtualMachine(p)
	case "synapsespark":
		p["computeType"] = "SynapseSpark"
		put(p, "resourceId", r.str("resource_id"))
	}
	if err != nil {
		return Result{}, err
	}
	body := map[string]any{"location": location, "properties": p}
	if n := r.get("identity"); n != nil {
		body["identity"] = computeIdentityOf(n)
	}
	if n := r.get("tags"); n != nil {
		body["tags"] = tagsOf(n)
	}
	return b.send("PUT", b.Target.Path("computes", r.str("name")), "2023-08-01-preview", body)
}

func (b *builder) cluster(p map[string]any) error {
	r := b.root
	low, high, idle := int64(0), int64(4), int64(120)
	for key, v := range map[string]*int64{"min_instances": &low, "max_instances": &high, "idle_time_before_scale_down": &idle} {
		if n := r.get(key); n != nil {
			*v, _ = n.whole()
		}
	}
	if n := r.get("min_instances"); n != nil && low > high {
		return n.fault("min_instances", "%d is more than max_instances, which is %d.", low, high)
	}
	scale := map[string]any{"minNodeCount": low, "maxNodeCount": high}
	if idle > 0 {
		scale["nodeIdleTimeBeforeScaleDown"] = period(idle)
	}
	q := map[string]any{
		"vmSize": defaultSize, "osType": "Linux", "scaleSettings": scale,
		"remoteLoginPortPublicAccess": "NotSpecified", "enableNodePublicIp": true,
	}
	put(q, "vmSize", r.str("size"))
	put(q, "vmPriority", pascal(r.str("tier")))
	if n := r.get("ssh_public_access_enabled"); n != nil {
		q["remoteLoginPortPublicAccess"] = map[bool]string{true: "Enabled", false: "Disabled"}[n.truth()]
	}
	if n := r.get("enable_node_public_ip"); n != nil {
		q["enableNodePublicIp"] = n.truth()
	}
	ssh := r.get("ssh_settings")
	if ssh != nil {
		account := map[string]any{}
		put(account, "adminUserName", ssh.str("admin_username"))
		put(account, "adminUserPassword", ssh.str("admin_password"))
		put(account, "adminUserSshPublicKey", ssh.str("ssh_key_value"))
		q["userAccountCredentials"] = account
	}
	p["disableLocalAuth"] = ssh == nil
	if err := b.subnet(q); err != nil {
		return err
	}
	p["properties"] = q
	return nil
}

func (b *builder) instance(p map[string]any) error {
	r := b.root
	q := map[string]any{
		"vmSize": defaultSize, "applicationSharingPolicy": "Shared", "computeInstanceAuthorizationType": "personal",
		"enableNodePublicIp": true, "enableSSO": true, "enableRootAccess": true, "releaseQuotaOnStop": false, "enableOSPatching": false,
	}
	put(q, "vmSize", r.str("size"))
	for key, wire := range map[string]string{
		"enable_node_public_ip": "enableNodePublicIp", "enable_sso": "enableSSO", "enable_root_access": "enableRootAccess",
		"release_quota_on_stop": "releaseQuotaOnStop", "enable_os_patching": "enableOSPatching",
	} {
		put(q, wire, r.get(key))
	}
	p["disableLocalAuth"] = true
	public, ssh := r.get("ssh_public_access_enabled"), r.get("ssh_settings")
	if public != nil || ssh != nil {
		open := public != nil && public.truth()
		settings := map[string]any{"sshPublicAccess": map[bool]string{true: "Enabled", false: "Disabled"}[open]}
		put(settings, "adminPublicKey", ssh.str("ssh_key_value"))
		q["sshSettings"] = settings
		p["disableLocalAuth"] = !open
	}
	if n := r.get("create_on_behalf_of"); n != nil {
		q["personalComputeInstanceSettings"] = map[string]any{"assignedUser": map[string]any{"objectId": n.str("user_object_id"), "tenantId": n.str("user_tenant_id")}}
	}
	if n := r.get("idle_time_before_shutdown_minutes"); n != nil {
		q["idleTimeBeforeShutdown"] = "PT" + n.literal() + "M"
	} else {
		put(q, "idleTimeBeforeShutdown", r.str("idle_time_before_shutdown"))
	}
	if n := r.get("schedules").get("compute_start_stop"); n != nil {
		list := []any{}
		for _, item := range n.items {
			list = append(list, startStop(item))
		}
		q["schedules"] = map[string]any{"computeStartStop": list}
	}
	if n := r.get("setup_scripts"); n != nil {
		scripts := map[string]any{}
		for _, key := range []string{"creation_script", "startup_script"} {
			if s := n.get(key); s != nil {
				m := map[string]any{"scriptSource": "workspaceStorage"}
				put(m, "scriptData", s.str("path"))
				put(m, "scriptArguments", s.str("command"))
				if t := s.get("timeout_minutes"); t != nil {
					m["timeout"] = t.literal() + "m"
				}
				scripts[camel(key)] = m
			}
		}
		q["setupScripts"] = map[string]any{"scripts": scripts}
	}
	if n := r.get("custom_applications"); n != nil {
		list := []any{}
		for _, item := range n.items {
			list = append(list, customApplication(item))
		}
		q["customServices"] = list
	}
	if err := b.subnet(q); err != nil {
		return err
	}
	p["properties"] = q
	return nil
}

func startStop(n *Node) map[string]any {
	m := map[string]any{"action": n.str("action"), "status": "Enabled"}
	put(m, "status", pascal(n.str("state")))
	t := n.get("trigger")
	if t == nil {
		return m
	}
	when := map[string]any{"triggerType": pascal(t.str("type"))}
	for _, key := range []string{"start_time", "time_zone", "expression"} {
		put(when, camel(key), t.str(key))
	}
	m["triggerType"] = pascal(t.str("type"))
	if t.str("type") == "cron" {
		m["cron"] = when
		return m
	}
	delete(when, "triggerType")
	put(when, "frequency", t.str("frequency"))
	put(when, "interval", t.get("interval"))
	if s := t.get("schedule"); s != nil {
		pattern := map[string]any{}
		for _, key := range []string{"hours", "minutes", "week_days"} {
			put(pattern, camel(key), s.get(key))
		}
		when["schedule"] = pattern
	}
	m["recurrence"] = when
	return m
}

func customApplication(n *Node) map[string]any {
	m := map[string]any{"name": n.str("name"), "type": "docker", "docker": map[string]any{"privileged": true}}
	if i := n.get("image"); i != nil {
		m["image"] = map[string]any{"type": "docker", "reference": i.str("reference")}
	}
	if e := n.get("endpoints"); e != nil {
		list := []any{}
		for _, item := range e.items {
			endpoint := map[string]any{"name": "connect", "protocol": "http"}
			put(endpoint, "target", item.get("target"))
			put(endpoint, "published", item.get("published"))
			list = append(list, endpoint)
		}
		m["endpoints"] = list
	}
	if e := n.get("environment_variables"); e != nil {
		vars := map[string]any{}
		for i, k := range e.keys {
			vars[k.text] = map[string]any{"type": "local", "value": e.values[i].literal()}
		}
		m["environmentVariables"] = vars
	}
	if v := n.get("bind_mounts"); v != nil {
		list := []any{}
		for _, item := range v.items {
			list = append(list, map[string]any{"type": "bind", "readOnly": false, "source": item.str("source"), "target": item.str("target")})
		}
		m["volumes"] = list
	}
	return m
}

func (b *builder) virtualMachine(p map[string]any) error {
	ssh := b.root.get("ssh_settings")
	account := map[string]any{}
	q := map[string]any{"sshPort": 22, "administratorAccount": account}
	put(q, "sshPort", ssh.get("ssh_port"))
	put(account, "username", ssh.str("admin_username"))
	put(account, "password", ssh.str("admin_password"))
	if key := ssh.get("ssh_private_key_file"); key != nil {
		c, err := b.local(key, "ssh_settings.ssh_private_key_file")
		if err != nil {
			return err
		}
		if c.Folder || c.Size > 64<<10 {
			return key.fault("ssh_settings.ssh_private_key_file", "%q is not a key file.", key.text)
		}
		data, err := os.ReadFile(c.Path)
		if err != nil {
			return key.fault("ssh_settings.ssh_private_key_file", "%q cannot be read: %v.", key.text, err)
		}
		account["privateKeyData"] = string(data)
	}
	p["properties"] = q
	return nil
}

// subnet writes the network of a compute as a resource id.
func (b *builder) subnet(q map[string]any) error {
	n := b.root.get("network_settings")
	if n == nil {
		return nil
	}
	vnet, subnet := n.str("vnet_name"), n.str("subnet")
	switch {
	case subnet == "" && vnet != "":
		return n.fault("network_settings.subnet", "a vnet_name needs a subnet.")
	case subnet == "":
		return nil
	case !resourceID.MatchString(subnet):
		subnet = b.Target.Group() + "/providers/Microsoft.Network/virtualNetworks/" + vnet + "/subnets/" + subnet
	}
	q["subnet"] = map[string]any{"id": subnet}
	return nil
}

func computeIdentityOf(n *Node) map[string]any {
	m := map[string]any{}
	put(m, "type", identityType(n.str("type")))
	if u := n.get("user_assigned_identities"); u != nil {
		ids := map[string]any{}
		for _, item := range u.items {
			ids[item.str("resource_id")] = map[string]any{}
		}
		m["userAssignedIdentities"] = ids
	}
	return m
}

func identityType(s string) string {
	if s == "system_assigned,user_assigned" {
		return "Systemassigned,Userassigned" // as other clients spell it; the wire ignores case
	}
	return pascal(s)
}

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
