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
