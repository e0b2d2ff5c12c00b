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
