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
