package endpoint

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/serving"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
)

// Store keeps endpoints and what is sealed of them.
type Store interface {
	resource.Store

	// Secret returns a sealed value, or nil if there is none.
	Secret(ctx context.Context, owner resource.ID, name string) ([]byte, error)
}

// Sealer seals values that must not lie in clear on the disk.
type Sealer interface {
	Seal(owner, name string, value []byte) []byte
	Open(owner, name string, sealed []byte) ([]byte, error)
}

// Issuer signs tokens.
type Issuer interface {
	// Issue signs an access token for an audience.
	Issue(p identity.Principal, issuer, audience string, ttl time.Duration) (string, error)

	// IssueScoring signs a token that scores at one endpoint.
	IssueScoring(p identity.Principal, issuer, endpoint, epoch string, ttl time.Duration) (string, error)
}

// Service has online endpoints and their deployments.
type Service struct {
	Resources Store
	Sealer    Sealer
	Issuer    Issuer
	Tenant    string // GUID

	// Deployer makes deployments serve. Without one they are stored and no more.
	Deployer Deployer

	// Write puts a deployment on the road that all writes take, for the caller of
	// an action.
	Write func(ctx context.Context, call resource.Call, body json.RawMessage) error

	// Base is the address of the gateway, "http://host:port", for one who reached
	// the server at origin.
	Base func(origin string) string

	Limits Limits
	Log    *slog.Logger // nil: none
	Now    func() time.Time

	keys sync.Mutex // over the change of keys, which reads them first
}

// Limits bound how much there may be; 0 is no limit.
type Limits struct {
	Endpoints   int // of a subscription
	Deployments int // of an endpoint
}

// MaxInstances bounds the instances of a deployment.
const MaxInstances = 50

// Types makes the types of online endpoints and their deployments.
func (s *Service) Types() []*resource.Type {
	return []*resource.Type{
		{
			Name: EndpointType, Title: "online endpoint", Async: true, Tracked: true,
			Check: func(name string) error { return checkName("online endpoint", name) },
			Admit: s.admitEndpoint, AdmitDelete: s.admitEndpointDelete, Provision: s.provisionEndpoint, Release: s.releaseEndpoint,
			View: s.viewEndpoints, List: s.list,
			Actions: map[string]resource.Action{
				"listKeys":       {Run: s.listKeys},
				"regenerateKeys": {Begin: s.regenerateKeys, Run: s.rekeyed, Async: true, Secret: true},
				"token":          {Run: s.token},
				"rollback":       {Run: s.rollback},
			},
		},
		{
			Name: DeploymentType, Title: "online deployment", Async: true, Tracked: true,
			Check: func(name string) error { return checkName("online deployment", name) },
			Admit: s.admitDeployment, AdmitDelete: s.admitDeploymentDelete,
			Provision: s.provisionDeployment, Release: s.releaseDeployment,
			View: s.viewDeployments, List: s.list,
			Actions: map[string]resource.Action{
				"getLogs":  {Run: s.getLogs},
				"versions": {Run: s.versions},
				"rollback": {Begin: s.beginRestore, Run: s.restored, Async: true},
			},
		},
	}
}

var onlineName = pattern.New(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)

func checkName(title, name string) error {
	if len(name) < 3 || len(name) > 32 || !onlineName.MatchString(name) {
		return fault.Invalid("%q is no name for an %s: 3 to 32 letters, digits and '-', beginning with a letter and not ending in '-'", name, title).With("ValidationError").At("name")
	}
	return nil
}

func invalid(field, format string, args ...any) *fault.Error {
	return fault.Invalid("'properties."+field+"' "+format, args...).With("ValidationError").At("properties." + field)
}

// busy refuses a second write while the first is still being done.
func busy(title string, old *resource.Resource) error {
	if old == nil {
		return nil
	}
	switch state := StateOf(*old); state {
	case resource.Creating, resource.Updating:
		return fault.Conflicts("The %s '%s' is being changed (%s); wait until that has ended, then try again.", title, old.ID.Name(), state).
			With("AnotherOperationInProgress").At(old.ID.String())
	}
	return nil
}

// Status is an endpoint's or a deployment's status. What a Deployer returns is
// laid over what is stored; members it does not name stay.
type Status struct {
	ProvisioningState string `json:"provisioningState,omitempty"`

	// Live is there when the deployment serves, though its last change may have
	// failed. A Deployer writes it.
	Live *Live `json:"live,omitempty"`

	// Shown is laid over properties.properties for those who read the
	// deployment: where its model is from, and what was chosen for it.
	Shown map[string]string `json:"shown,omitempty"`

	Scaling  bool          `json:"scaling,omitempty"`       // of a deployment: its capacity alone was changed
	Capacity int           `json:"capacity,omitempty"`      // of a deployment: the instances that are kept
	Scaled   *Scaled       `json:"lastScale,omitempty"`     // of a deployment that was scaled by itself
	Path     string        `json:"scoringPath,omitempty"`   // of an endpoint: where its model scores, "/score" if ""
	Splits   []pastTraffic `json:"trafficBefore,omitempty"` // of an endpoint, the last first
}

// Scaled is the last time that rules or load, and nobody who asked for it,
// changed how many instances there are.
type Scaled struct {
	To int `json:"to"`
}

// Live is the part of what serves that its readers are told of.
type Live struct {
	Spec struct {
		Runtime     string `json:"runtime"`
		ScoringPath string `json:"scoringPath"`
	} `json:"spec"`
}

// internal are the members of a status that readers do not see, and readOnly
// those that they may send back.
var (
	internal = []string{"live", "previous", "capacity", "asleep", "sleeps", "failure", "shown", "scaling", "scoringPath", "trafficBefore"}
	readOnly = []string{"provisioningState", "provisioningErrors", "stage", "lastScale", "canary"}
)

// laid lays members over a stored status.
func laid(members any) func(json.RawMessage) (json.RawMessage, error) {
	return func(stored json.RawMessage) (json.RawMessage, error) {
		top, err := json.Marshal(members)
		if len(stored) == 0 {
			stored = json.RawMessage("{}")
		}
		return resource.Overlay(stored, top), err
	}
}

// StatusOf reads the status of an endpoint or a deployment.
func StatusOf(r resource.Resource) Status {
	var s Status
	if len(r.Status) > 0 {
		_ = json.Unmarshal(r.Status, &s) // the server's own: one that does not fit says nothing
	}
	return s
}

// StateOf is the provisioning state of a resource.
func StateOf(r resource.Resource) string { return StatusOf(r).ProvisioningState }

// serves tells whether requests may be sent to a deployment.
func serves(r resource.Resource) bool {
	s := StatusOf(r)
	switch s.ProvisioningState {
	case resource.Creating, resource.Deleting:
		return false
	case resource.Failed, resource.Canceled:
		return s.Live != nil
	}
	return true
}

// showStatus takes out of a status what is the server's own.
func showStatus(r *resource.Resource) error {
	s, err := resource.ParseDocument(r.Status)
	if err != nil {
		return err
	}
	for _, name := range internal {
		delete(s, name)
	}
	s.Default("provisioningState", resource.Succeeded)
	if s.Text("provisioningState") != resource.Failed {
		delete(s, "provisioningErrors") // of an earlier attempt
	}
	r.Status = s.Raw()
	return nil
}

// deployments are those of an endpoint.
func (s *Service) deployments(ctx context.Context, id resource.ID) ([]resource.Resource, error) {
	return resource.All(ctx, s.Resources, resource.Query{Type: DeploymentType, Parent: id})
}

// list keeps those that a client's filters name: name, computeType, and tags
// and properties as "a,b=c".
func (s *Service) list(ctx context.Context, q resource.Query, o resource.Options) (resource.Page, error) {
	if o["name"] == "" && o["computetype"] == "" && o["tags"] == "" && o["properties"] == "" {
		return s.Resources.List(ctx, q)
	}
	found, err := resource.All(ctx, s.Resources, resource.Query{Type: q.Type, Scope: q.Scope, Parent: q.Parent, Archived: q.Archived, Newest: q.Newest})
	if err != nil {
		return resource.Page{}, err
	}
	var page resource.Page
	for _, r := range found {
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return page, err
		}
		kind := r.Kind
		if kind == "K8S" {
			kind = "Kubernetes"
		}
		properties := map[string]string{}
		_ = json.Unmarshal(p["properties"], &properties)
		if (o["name"] == "" || strings.EqualFold(r.ID.Name(), o["name"])) && (o["computetype"] == "" || strings.EqualFold(kind, o["computetype"])) &&
			labelled(r.Tags, o["tags"]) && labelled(properties, o["properties"]) {
			page.Resources = append(page.Resources, r)
		}
	}
	return page, nil
}

// labelled tells whether all that the filter names is there: "a,b=c".
func labelled(have map[string]string, filter string) bool {
	for one := range strings.SplitSeq(filter, ",") {
		name, value, valued := strings.Cut(strings.TrimSpace(one), "=")
		if name == "" {
			continue
		}
		if got, ok := have[name]; !ok || valued && got != value {
			return false
		}
	}
	return true
}

// Routes are the endpoints as the gateway must know them, but for what their
// deployments are made of: of each its name and id alone. Those on their way
// out, or in a workspace that was deleted, are left out.
func (s *Service) Routes(ctx context.Context) ([]serving.Endpoint, error) {
	endpoints, err := resource.All(ctx, s.Resources, resource.Query{Type: EndpointType})
	if err != nil {
		return nil, err
	}
	deployments, err := resource.All(ctx, s.Resources, resource.Query{Type: DeploymentType})
	if err != nil {
		return nil, err
	}
	below := map[string][]resource.Resource{}
	for _, d := range deployments {
		key := d.ID.Parent().Key()
		below[key] = append(below[key], d)
	}
	routes := []serving.Endpoint{}
	first := map[string]int64{}
	for _, e := range endpoints {
		if StateOf(e) == resource.Deleting {
			continue
		}
		if _, err := ml.SiteOf(ctx, s.Resources, e.ID); fault.Is(err, fault.Missing) {
			continue
		} else if err != nil {
			return nil, err
		}
		route, err := s.route(ctx, e, below[e.ID.Key()])
		if err != nil {
			return nil, err
		}
		// Of two that were made at once the first has the name.
		if born, twice := first[route.Name]; twice {
			if born < e.Born {
				continue
			}
			routes = deleteNamed(routes, route.Name)
		}
		first[route.Name] = e.Born
		routes = append(routes, route)
	}
	return routes, nil
}

func deleteNamed(routes []serving.Endpoint, name string) []serving.Endpoint {
	for i := range routes {
		if routes[i].Name == name {
			return append(routes[:i], routes[i+1:]...)
		}
	}
	return routes
}

// route is one endpoint as the gateway must know it.
func (s *Service) route(ctx context.Context, e resource.Resource, deployments []resource.Resource) (serving.Endpoint, error) {
	r := serving.Endpoint{Name: strings.ToLower(e.ID.Name()), ID: e.ID.String(), Location: e.Location, Kind: e.Kind,
		Traffic: map[string]int{}, Mirror: map[string]int{}, Deployments: []serving.Deployment{}}
	var p Endpoint
	if err := json.Unmarshal(e.Properties, &p); err != nil {
		return r, err
	}
	r.Auth, r.Epoch, r.Keys = p.AuthMode, resource.NewGUID(), []string{}
	if k, err := s.keyring(ctx, e.ID); err == nil {
		r.Epoch, r.Keys = k.Epoch, k.hashes()
	} else if ctx.Err() != nil {
		return r, err
	} else if s.Log != nil {
		// Nobody has a key of this one; the others serve.
		s.Log.Error("read the keys of an endpoint", "endpoint", e.ID.String(), "err", err)
	}
	there := map[string]bool{}
	for _, d := range deployments {
		if StateOf(d) != resource.Deleting {
			there[d.ID.Name()] = true
			r.Deployments = append(r.Deployments, serving.Deployment{Name: d.ID.Name(), ID: d.ID.String()})
		}
	}
	for name, percent := range p.Traffic {
		if there[name] && percent > 0 {
			r.Traffic[name] = percent
		}
	}
	for name, percent := range p.MirrorTraffic {
		if there[name] && percent > 0 {
			r.Mirror[name] = percent
		}
	}
	settings, err := parseSettings(p.Properties)
	if err != nil {
		return r, err
	}
	r.Sticky, r.CORS, r.Limits = settings.sticky, settings.origins, settings.limits
	if settings.local {
		r.Auth = ""
	}
	return r, nil
}
