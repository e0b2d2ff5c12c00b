package spec

import "slices"

// products are the connection types with fields of their own in place of
// target and credentials: which field is the target, which the key.
var products = map[string]struct{ target, kind string }{
	"azure_open_ai": {"azure_endpoint", ""}, "azure_ai_search": {"endpoint", ""}, "azure_ai_services": {"endpoint", ""},
	"azure_content_safety": {"endpoint", "Content Safety"}, "azure_speech_services": {"endpoint", "speech"},
	"api_key": {"api_base", ""}, "open_ai": {"", ""}, "serp": {"", ""}, "serverless": {"endpoint", ""}, "azure_blob": {"url", ""},
}

func checkConnection(d *Document, _ Options) error {
	var c checker
	f := connectionResource
	if t := d.Root.get("type"); t != nil && t.kind == text {
		for kind := range products {
			if fold(t.text) == fold(kind) {
				f = f.and(productConnection...)
			}
		}
	}
	f.check(&c, d.Root, "")
	if err := c.err(); err != nil {
		return err
	}
	kind := d.Root.str("type")
	if can, ok := signIns[kind]; ok {
		n := d.Root.get("credentials")
		switch {
		case n == nil && !slices.Contains(can, ""):
			return d.Root.fault("credentials", "this field is required for a connection of type %s; its type %s.", kind, oneOf(can))
		case n != nil && !slices.Contains(can, n.str("type")):
			return n.get("type").fault("credentials.type", "a connection of type %s cannot have %s; %s.", kind, n.str("type"), oneOf(slices.DeleteFunc(slices.Clone(can), func(s string) bool { return s == "" })))
		}
	}
	return nil
}

func (b *builder) connection() (Result, error) {
	r := b.root
	kind := r.str("type")
	metadata := tagsOf(r.get("metadata"))
	shared := true
	if n := r.get("is_shared"); n != nil {
		shared = n.truth()
	}
	p := map[string]any{"category": connections[kind], "isSharedToAll": shared, "metadata": metadata, "authType": "None"}
	put(p, "target", r.str("target"))
	product, special := products[kind]
	if special {
		put(p, "target", r.str(product.target))
		put(metadata, "Kind", product.kind)
		put(metadata, "ApiVersion", r.str("api_version"))
		if kind == "azure_open_ai" {
			metadata["ApiType"] = "Azure"
		}
		put(metadata, "ResourceId", r.str("open_ai_resource_id"))
		put(metadata, "ResourceId", r.str("ai_services_resource_id"))
		put(metadata, "AccountName", r.str("account_name"))
		put(metadata, "ContainerName", r.str("container_name"))
		p["authType"] = "AAD"
	}
	if kind == "azure_data_lake_gen2" {
		p["authType"] = "AAD"
	}
	switch n := r.get("credentials"); {
	case r.get("api_key") != nil:
		p["authType"], p["credentials"] = "ApiKey", map[string]any{"key": r.str("api_key")}
	case n != nil:
		s := secrets[n.str("type")]
		p["authType"] = s.authType
		if len(s.fields) > 0 {
			m := map[string]any{}
			for key, wire := range s.fields {
				put(m, wire, n.str(key))
			}
			p["credentials"] = m
		}
	}
	if !special && p["target"] == nil {
		return Result{}, r.fault("target", "this field is required for a connection of type %s.", kind)
	}
	if kind == "azure_open_ai" && p["target"] == nil {
		return Result{}, r.fault(product.target, "this field is required for a connection of type %s.", kind)
	}
	return b.send("PUT", b.Target.Path("connections", r.str("name")), "2024-04-01-preview", map[string]any{"properties": p})
}
