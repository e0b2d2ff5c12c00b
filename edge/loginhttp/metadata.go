package loginhttp

import (
	"net/http"
	"strings"

	"lapis/edge"
)

// metadataDocument describes this cloud to the Azure clients.
type metadataDocument struct {
	Name           string         `json:"name"`
	Portal         string         `json:"portal"`
	Authentication authentication `json:"authentication"`
	ResourceMgr    string         `json:"resourceManager"`
	Suffixes       suffixes       `json:"suffixes"`
	GraphAudience  string         `json:"graphAudience"`
	Graph          string         `json:"graph"`
	MSGraph        string         `json:"microsoftGraphResourceId"`
	Media          string         `json:"media"`
	Batch          string         `json:"batch"`
	Gallery        string         `json:"gallery"`
	SQLManagement  string         `json:"sqlManagement"`
	ImageAliases   string         `json:"vmImageAliasDoc"`
}

type authentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant"`
	IdentityProvider string   `json:"identityProvider"`
}

type suffixes struct {
	Storage  string `json:"storage"`
	KeyVault string `json:"keyVaultDns"`
	Registry string `json:"acrLoginServer"`
}

// CloudName is the name of this cloud, for AZUREML_CURRENT_CLOUD.
const CloudName = "Lapis"

// Clients from before this version of the metadata expect a list with one document.
const bareDocumentSince = "2022-09-01"

// metadata is asked for hundreds of times in one script's life.
func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	base := s.origins.Base(r)
	_, host, _ := strings.Cut(base, "://")
	doc := metadataDocument{
		Name:        CloudName,
		Portal:      edge.PortalURL,
		ResourceMgr: base + "/",
		Authentication: authentication{
			// MSAL asks login.microsoftonline.com about every authority but
			// those whose path begins with adfs.
			LoginEndpoint:    base + "/adfs",
			Audiences:        []string{base + "/", base},
			Tenant:           s.issuer.Tenant(),
			IdentityProvider: "AAD",
		},
		Suffixes: suffixes{
			// Clients build https://{account}.blob.{suffix}/…: all before the @
			// is userinfo, so that the connection comes to us.
			Storage:  "core.lapis@" + host,
			KeyVault: ".vault.lapis.localhost",
			Registry: ".azurecr.lapis.localhost",
		},
		GraphAudience: base + "/",
		Graph:         base + "/graph",
		MSGraph:       base + "/",
	}
	w.Header().Set("Cache-Control", "no-cache")
	if v := r.URL.Query().Get("api-version"); v >= bareDocumentSince {
		edge.WriteJSON(w, http.StatusOK, doc)
		return
	}
	edge.WriteJSON(w, http.StatusOK, []metadataDocument{doc})
}

// discovery is the OpenID configuration at any of the prefixes that clients
// take for an authority.
func (s *Server) discovery(prefix string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := s.tenant(prefix); err != nil {
			replyError(w, err)
			return
		}
		at := s.origins.Base(r) + "/" + strings.Trim(prefix, "/")
		edge.WriteJSON(w, http.StatusOK, map[string]any{
			"issuer":                                at,
			"authorization_endpoint":                at + "/oauth2/v2.0/authorize",
			"token_endpoint":                        at + tokenV2Path,
			"device_authorization_endpoint":         at + "/oauth2/v2.0/devicecode",
			"jwks_uri":                              at + keysPath,
			"grant_types_supported":                 []string{"client_credentials"},
			"response_types_supported":              []string{"token"},
			"subject_types_supported":               []string{"pairwise"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
			"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "private_key_jwt"},
		})
	}
}
