package spec

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
	p := map[string]any{"publicNetworkAccess": "Enabled"}
	put(p, "publicNetworkAccess", r.str("public_network_access"))
	if n := r.get("managed_resource_group_tags"); n != nil {
		p["managedResourceGroupTags"] = tagsOf(n)
	}
	if n := r.get("intellectual_property"); n != nil {
		put(p, "intellectualPropertyPublisher", n.str("publisher"))
	}
	regions := []any{}
	if n := r.get("replication_locations"); n != nil {
		for _, item := range n.items {
			regions = append(regions, region(item.str("location")))
		}
	}
	if len(regions) == 0 {
		regions = append(regions, region(location))
	}
	p["regionDetails"] = regions
	body := map[string]any{"location": location, "identity": map[string]any{"type": "SystemAssigned"}, "properties": p, "tags": tagsOf(r.get("tags"))}
	put(p, "description", r.str("description"))
	return b.send("PUT", b.Target.Group()+"/providers/Microsoft.MachineLearningServices/registries/"+r.str("name"), "2022-10-01-preview", body)
}

func region(location string) map[string]any {
	return map[string]any{
		"location":   location,
		"acrDetails": []any{map[string]any{"systemCreatedAcrAccount": map[string]any{"acrAccountSku": "Premium"}}},
		"storageAccountDetails": []any{map[string]any{"systemCreatedStorageAccount": map[string]any{
			"storageAccountType": "Standard_LRS", "storageAccountHnsEnabled": false,
		}}},
	}
}
