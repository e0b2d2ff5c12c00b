package spec

import "strings"

func (b *builder) registry() (Result, error) {
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
	put(p, "publicNetworkAccess", r.str("public_network_access"))
	if n := r.get("intellectual_property"); n != nil {
		put(p, "intellectualPropertyPublisher", n.str("publisher"))
	}
	acr := registryAccount(r.get("container_registry"))
	regions := []any{}
	if n := r.get("replication_locations"); n != nil {
		for _, item := range n.items {
			regions = append(regions, region(item.str("location"), acr, item.get("storage_config")))
		}
	}
	if len(regions) == 0 {
		regions = append(regions, region(location, acr, nil))
	}
	p["regionDetails"] = regions
	tags := tagsOf(r.get("tags"))
	p["managedResourceGroupTags"] = tags
	body := map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"}, "properties": p, "tags": tags}
	put(p, "description", r.str("description"))
	return b.send("PUT", b.Target.Group()+"/providers/Microsoft.MachineLearningServices/registries/"+r.str("name"), "2022-10-01-preview", body)
}

// registryAccount is the container registry that every region has: one that
// is there, named by its id, or a new one.
func registryAccount(n *Node) map[string]any {
	if n != nil && n.kind == text {
		return map[string]any{"userCreatedAcrAccount": resourceAt(n)}
	}
	return map[string]any{"systemCreatedAcrAccount": map[string]any{"acrAccountSku": "Premium"}}
}

func resourceAt(n *Node) map[string]any {
	return map[string]any{"armResourceId": map[string]any{"resourceId": n.text}}
}

// region is one of the places that a registry keeps its assets in. Storage is
// a list of accounts that are there, or says what new ones are like.
func region(location string, acr map[string]any, storage *Node) map[string]any {
	accounts := []any{}
	if storage != nil && storage.kind == sequence {
		for _, n := range storage.items {
			accounts = append(accounts, map[string]any{"userCreatedStorageAccount": resourceAt(n)})
		}
	} else {
		kind, levels, copies := "standard_lrs", false, int64(1)
		if storage != nil {
			if n := storage.get("storage_account_type"); n != nil {
				kind = n.text
			}
			if n := storage.get("storage_account_hns"); n != nil {
				levels = n.truth()
			}
			if n := storage.get("replication_count"); n != nil {
				copies, _ = n.whole()
			}
		}
		for range copies {
			accounts = append(accounts, map[string]any{"systemCreatedStorageAccount": map[string]any{"storageAccountType": kind, "storageAccountHnsEnabled": levels}})
		}
	}
	return map[string]any{"location": location, "acrDetails": []any{acr}, "storageAccountDetails": accounts}
}

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
