// Package loginhttp is where clients sign in: the metadata document that
// describes this cloud, OpenID discovery, the token endpoint, the signing keys,
// and the managed identity endpoint for code inside jobs. None of it asks for a
// token; all of it is read before a client has one.
package loginhttp

import (
	"context"
	"net/http"
	"strings"

	"lapis/edge"
	"lapis/fault"
	"lapis/resource/identity"
)

// Clients knows the service principals and their secrets.
type Clients interface {
	// Client returns the service principal whose client id and secret these
	// are. An unknown id is fault.Missing, a wrong secret fault.Unauthenticated.
	Client(ctx context.Context, id, secret string) (identity.Principal, error)
}

// Server answers sign-in requests. It belongs to the first path segments of
// Prefixes and to what edge.Router finds to be a sign-in below a tenant.
type Server struct {
	origins *edge.Origins
	issuer  *identity.Issuer
	clients Clients
}

// Prefixes are the first path segments that are the server's own.
var Prefixes = []string{"metadata", "adfs", "common", "organizations", "msi"}

// New returns a server that signs tokens with issuer.
func New(origins *edge.Origins, issuer *identity.Issuer, clients Clients) *Server {
	return &Server{origins: origins, issuer: issuer, clients: clients}
}

// The ends of the paths that stand below a tenant, in lower case.
const (
	discoveryPath   = "/.well-known/openid-configuration"
	discoveryV2Path = "/v2.0/.well-known/openid-configuration"
	tokenPath       = "/oauth2/token"
	tokenV2Path     = "/oauth2/v2.0/token"
	keysPath        = "/discovery/v2.0/keys"
)

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch lower := strings.ToLower(path); {
	case lower == "/metadata/endpoints":
		only(s.metadata, http.MethodGet)(w, r)
	case lower == "/msi/token":
		only(s.managedIdentity, http.MethodGet)(w, r)
	case strings.HasSuffix(lower, discoveryV2Path):
		only(s.discovery(path[:len(path)-len(discoveryV2Path)]), http.MethodGet)(w, r)
	case strings.HasSuffix(lower, discoveryPath):
		only(s.discovery(path[:len(path)-len(discoveryPath)]), http.MethodGet)(w, r)
	case strings.HasSuffix(lower, keysPath):
		only(s.keys, http.MethodGet)(w, r)
	case strings.HasSuffix(lower, tokenV2Path):
		only(s.token(path[:len(path)-len(tokenV2Path)], true), http.MethodPost)(w, r)
	case strings.HasSuffix(lower, tokenPath):
		only(s.token(path[:len(path)-len(tokenPath)], false), http.MethodPost)(w, r)
	default:
		edge.WriteError(w, fault.NotFound("There is no sign-in at %q. `lapis connect` prints the addresses that a client needs.", fault.Clip(r.URL.Path)))
	}
}

func only(h http.HandlerFunc, method string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", method)
			edge.WriteError(w, fault.New(fault.NotAllowed, "MethodNotAllowed", "%s is asked for with %s, not %s.", fault.Clip(r.URL.Path), method, fault.Clip(r.Method)))
			return
		}
		h(w, r)
	}
}

func (s *Server) keys(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Write(s.issuer.Keys())
}

// tenant checks the tenant that a sign-in path names: "/adfs", "/{tenant}" or
// "/adfs/{tenant}".
func (s *Server) tenant(prefix string) error {
	name := strings.Trim(prefix, "/")
	if rest, ok := strings.CutPrefix(strings.ToLower(name), "adfs"); ok && (rest == "" || rest[0] == '/') {
		name = strings.Trim(rest, "/")
	}
	switch name = strings.ToLower(name); name {
	case "", "adfs", "common", "organizations", strings.ToLower(s.issuer.Tenant()):
		return nil
	}
	return fault.Invalid("AADSTS90002: Tenant '%s' not found. The tenant of this server is '%s'; `lapis connect` sets AZURE_TENANT_ID.", fault.Clip(name), s.issuer.Tenant()).With("invalid_request")
}
