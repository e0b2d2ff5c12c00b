package spec

import "strings"

// The words for a type and its own fields on the wire.
var datastoreWire = map[string]struct {
	datastoreType string
	fields        []string
	azure         bool // its endpoint is Azure's unless the file says another
}{
	"azure_blob":           {"AzureBlob", []string{"account_name", "container_name"}, false},
	"azure_file":           {"AzureFile", []string{"account_name", "file_share_name"}, true},
	"azure_data_lake_gen2": {"AzureDataLakeGen2", []string{"account_name", "filesystem"}, true},
	"azure_data_lake_gen1": {"AzureDataLakeGen1", []string{"store_name"}, false},
	"one_lake":             {"OneLake", []string{"one_lake_workspace_name", "endpoint"}, false},
}

func (b *builder) datastore() (Result, error) {
	r := b.root
	kind := r.str("type")
	wire := datastoreWire[kind]
	p := map[string]any{"datastoreType": wire.datastoreType, "tags": tagsOf(r.get("tags")), "credentials": datastoreCredentials(r.get("credentials"))}
	put(p, "description", r.str("description"))
	for _, key := range wire.fields {
		put(p, camel(key), r.str(key))
	}
	if kind != "azure_data_lake_gen1" && kind != "one_lake" {
		p["protocol"] = "https"
		put(p, "protocol", r.str("protocol"))
		p["endpoint"] = "core.windows.net"
		if suffix := b.storageSuffix(); !wire.azure && suffix != "" {
			p["endpoint"] = suffix
		}
		put(p, "endpoint", r.str("endpoint"))
	}
	if a := r.get("artifact"); a != nil {
		p["artifact"] = map[string]any{"artifactName": a.str("name"), "artifactType": "LakeHouse"}
	}
	return b.sendRequest(Request{
		Method: "PUT", Path: b.Target.Path("datastores", r.str("name")), APIVersion: "2024-10-01-preview",
		Query: map[string]string{"skipValidation": "true"}, Body: map[string]any{"properties": p},
	})
}

// storageSuffix is what follows `ACCOUNT.blob.` in the addresses of uploads.
func (b *builder) storageSuffix() string {
	w, ok := b.world.(interface{ StorageSuffix() string })
	if !ok {
		return ""
	}
	return w.StorageSuffix()
}

// StorageSuffix is what follows `ACCOUNT.blob.` in the storage URL.
func (d *DryRun) StorageSuffix() string {
	host, _, _ := strings.Cut(strings.TrimPrefix(d.Storage, "https://"), "/")
	_, suffix, _ := strings.Cut(host, ".blob.")
	return suffix
}

func datastoreCredentials(n *Node) map[string]any {
	switch {
	case n.get("account_key") != nil:
		return map[string]any{"credentialsType": "AccountKey", "secrets": map[string]any{"secretsType": "AccountKey", "key": n.str("account_key")}}
	case n.get("sas_token") != nil:
		return map[string]any{"credentialsType": "Sas", "secrets": map[string]any{"secretsType": "Sas", "sasToken": n.str("sas_token")}}
	case n.get("client_secret") != nil, n.get("thumbprint") != nil:
		m := map[string]any{"authorityUrl": "https://login.microsoftonline.com", "tenantId": n.str("tenant_id"), "clientId": n.str("client_id")}
		put(m, "authorityUrl", n.str("authority_uri"))
		put(m, "authorityUrl", n.str("authority_url"))
		put(m, "resourceUrl", n.str("resource_url"))
		if n.get("client_secret") != nil {
			m["credentialsType"] = "ServicePrincipal"
			m["secrets"] = map[string]any{"secretsType": "ServicePrincipal", "clientSecret": n.str("client_secret")}
			return m
		}
		m["credentialsType"], m["thumbprint"] = "Certificate", n.str("thumbprint")
		secret := map[string]any{"secretsType": "Certificate"}
		put(secret, "certificate", n.str("certificate"))
		m["secrets"] = secret
		return m
	}
	return map[string]any{"credentialsType": "None"}
}

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
