package armhttp

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"lapis/edge"
	"lapis/fault"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
)

const registries = provider + "/registries"

// dataPlane is where clients find the assets of registries: ARM's protocol
// below a prefix, with ids and some statuses of its own.
const dataPlane = "/mferp/managementfrontend"

// DataPlane answers what clients of registries ask below their prefix.
func (s *Server) DataPlane() http.Handler {
	plane := *s
	plane.prefix = dataPlane
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		escaped := r.URL.EscapedPath()
		if len(escaped) <= len(dataPlane) || !strings.EqualFold(escaped[:len(dataPlane)], dataPlane) || escaped[len(dataPlane)] != '/' {
			edge.WriteError(w, fault.NotFound("There is nothing at this address; registries are below %s.", dataPlane))
			return
		}
		u := *r.URL
		u.RawPath = escaped[len(dataPlane):]
		path, err := url.PathUnescape(u.RawPath)
		if err != nil {
			edge.WriteError(w, fault.Invalid("the path has a broken percent-encoding").With("InvalidResourceId"))
			return
		}
		u.Path = path
		below := *r
		below.URL = &u
		plane.ServeHTTP(w, &below)
	})
}

// show is a resource as this plane shows it: on the data plane, versions in a
// registry have ids of their own.
func (s *Server) show(r resource.Resource) shown {
	out := show(r)
	if s.prefix == "" || !r.ID.Parent().Parent().Is(registries) {
		return out
	}
	kind := r.ID.Parent().Type()
	out.ID = "azureml://registries/" + r.ID.Segment("registries") + "/" + kind[strings.LastIndexByte(kind, '/')+1:] + "/" + r.ID.Parent().Name() + "/versions/" + r.ID.Name()
	return out
}

// Shared is what the paths of registries that are no resources need.
type Shared interface {
	// Upload tells where the bytes of a new version of a registry go, and
	// Download where those of a version are.
	Upload(ctx context.Context, registry resource.ID, assetID, origin, who string) (any, error)
	Download(ctx context.Context, registry resource.ID, assetID, origin, who string) (any, error)

	// Taken leads a client to a place that takes no upload and says that the
	// version exists.
	Taken(ctx context.Context, registry resource.ID, assetID, origin, who string) (any, error)
}

// RegistryRoutes are the paths of registries that are no resources.
func RegistryRoutes(shared Shared, allowed func(r *http.Request, registry resource.ID, v resource.View) error) []Route {
	give := func(find func(context.Context, resource.ID, string, string, string) (any, error)) func(*http.Request, resource.Address, resource.View) (int, any, error) {
		return func(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
			registry := a.Scope.Ancestor(registries)
			if err := allowed(r, registry, v); err != nil {
				return 0, nil, err
			}
			var body struct {
				AssetID string `json:"assetId"`
			}
			raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
			if err == nil {
				err = json.Unmarshal(raw, &body)
			}
			if err != nil {
				return 0, nil, fault.Invalid("The request content was invalid and could not be deserialized: '%v'.", err).With("InvalidRequestContent")
			}
			who := identity.Of(r.Context()).Name
			answer, err := find(r.Context(), registry, body.AssetID, v.Origin, who)
			if fault.Is(err, fault.Conflict) && uploads.MatchString(body.AssetID) && pythonSDK.MatchString(r.UserAgent()) {
				answer, err = shared.Taken(r.Context(), registry, body.AssetID, v.Origin, who)
			}
			return http.StatusOK, answer, err
		}
	}
	return []Route{
		{http.MethodPut, registries + "/tempdatarefs/versions", give(shared.Upload)},
		{http.MethodPost, registries + "/tempdatarefs/versions", give(shared.Upload)},
		{http.MethodPost, registries + "/datarefs/versions", give(shared.Download)},
		{http.MethodPut, registries + "/datarefs/versions", give(shared.Download)},
	}
}

// uploads are the assets of which the SDK takes a 409 for "upload elsewhere", and
// then fails in itself; of others it takes it for "there is nothing to upload".
// What it says of an upload that fails, its user reads.
var uploads = pattern.New(`(?i)/(models|data)/[^/]+/versions/[^/]+$`)

// pythonSDK is how the SDK calls itself, of all ages.
var pythonSDK = pattern.New(`azsdk-python|azure-ai-ml/`)

var discovery = pattern.New(`^/registrymanagement/v1\.0/registries/([^/]+)/discovery/?$`)

// Discovery tells clients of a registry, which know its name alone, where it is.
func (s *Server) Discovery(find func(ctx context.Context, name string) (resource.Resource, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := discovery.FindStringSubmatch(r.URL.Path)
		if m == nil {
			edge.WriteError(w, fault.NotFound("There is nothing at this address; registries are found at /registrymanagement/v1.0/registries/NAME/discovery."))
			return
		}
		res, err := find(r.Context(), m[1])
		if err == nil {
			_, err = s.manager.Get(r.Context(), identity.Of(r.Context()), res.ID, resource.View{Origin: s.origins.Base(r)})
		}
		if err != nil {
			edge.WriteError(w, err)
			return
		}
		edge.WriteJSON(w, http.StatusOK, map[string]any{"registryName": res.ID.Name(), "primaryRegion": res.Location,
			"primaryRegionResourceProviderUri": s.origins.Base(r) + "/", "resourceGroup": res.ID.Group(), "subscriptionId": res.ID.Subscription(),
			"additionalRegions": []any{}})
	})
}
