package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/serving"
	"lapis/resource"
)

// The kinds of endpoints.
const (
	Managed    = "Managed"
	Kubernetes = "K8S"
)

// authModes and the other words that clients write in any case.
var (
	authModes = []string{serving.AuthKey, serving.AuthAMLToken, serving.AuthAADToken}
	access    = []string{"Enabled", "Disabled"}
)

// word is the one of several that a member is, in any case of letters; "" if the
// member is not there.
func word(p resource.Document, field, at string, words []string) (string, error) {
	raw, ok := p[field]
	if !ok {
		return "", nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", invalid(at, "must be one of %s", strings.Join(words, ", "))
	}
	for _, w := range words {
		if strings.EqualFold(w, text) || strings.EqualFold(w, strings.ReplaceAll(text, "_", "")) {
			p.Set(field, w)
			return w, nil
		}
	}
	return "", invalid(at, "is %q; it must be one of %s", fault.Clip(text), strings.Join(words, ", "))
}

// canonical gives members the names that this package knows them by, whatever
// case they were sent in.
func canonical(p resource.Document, names ...string) {
	for given, raw := range p {
		for _, name := range names {
			if given != name && strings.EqualFold(given, name) {
				delete(p, given)
				if _, both := p[name]; !both {
					p[name] = raw
				}
			}
		}
	}
}

// texts makes a member an object of strings: numbers and truth values become
// what they look like.
func texts(p resource.Document, field, at string) (map[string]string, error) {
	raw, ok := p[field]
	if !ok {
		p.Set(field, map[string]string{})
		return map[string]string{}, nil
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, invalid(at, "must be an object of strings")
	}
	found := map[string]string{}
	for name, value := range members {
		value = bytes.TrimSpace(value)
		switch {
		case name == "":
			return nil, invalid(at, "has a member without a name")
		case value[0] == '"':
			var text string
			if err := json.Unmarshal(value, &text); err != nil {
				return nil, invalid(at+"."+name, "must be a string")
			}
			found[name] = text
		case value[0] == '{' || value[0] == '[':
			return nil, invalid(at+"."+name, "must be a string")
		case string(value) == "null":
		default:
			found[name] = string(value)
		}
	}
	p.Set(field, found)
	return found, nil
}

// percents reads a map of deployments to percent.
func percents(p resource.Document, field string) (map[string]int, error) {
	members := map[string]any{}
	if raw, ok := p[field]; ok {
		if err := json.Unmarshal(raw, &members); err != nil {
			return nil, invalid(field, "must be an object of whole numbers by deployment, such as {\"blue\": 100}")
		}
	}
	found := map[string]int{}
	for name, value := range members {
		n, ok := value.(float64)
		if !ok || n != math.Trunc(n) || n < 0 || n > 100 {
			return nil, invalid(field+"."+name, "is %v; it must be a whole number from 0 to 100", value)
		}
		found[name] = int(n)
	}
	p.Set(field, found)
	return found, nil
}

func (s *Service) admitEndpoint(ctx context.Context, c *resource.Change) error {
	if err := busy("online endpoint", c.Old); err != nil {
		return err
	}
	site, err := ml.SiteOf(ctx, s.Resources, c.New.ID)
	if err != nil {
		return err
	}
	if c.Old == nil {
		if err := s.vacant(ctx, c.New.ID); err != nil {
			return err
		}
	}
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	canonical(p, "authMode", "description", "compute", "keys", "properties", "traffic", "mirrorTraffic", "publicNetworkAccess",
		"scoringUri", "swaggerUri", "provisioningState", "provisioningErrors")
	for _, name := range append([]string{"scoringUri", "swaggerUri"}, readOnly...) {
		delete(p, name)
	}
	old := resource.Document{}
	if c.Old != nil {
		if old, err = resource.ParseDocument(c.Old.Properties); err != nil {
			return err
		}
	}
	mode, err := word(p, "authMode", "authMode", authModes)
	if err != nil {
		return err
	}
	if mode == "" {
		return invalid("authMode", "is required: Key, AMLToken or AADToken")
	}
	if _, err := word(p, "publicNetworkAccess", "publicNetworkAccess", access); err != nil {
		return err
	}
	p.Default("publicNetworkAccess", "Enabled")
	if err := text(p, "description", "description"); err != nil {
		return err
	}
	if c.New.Kind, err = s.kind(ctx, c, p, old); err != nil {
		return err
	}
	if c.New.Kind == Kubernetes && mode == serving.AuthAADToken {
		return invalid("authMode", "is AADToken, which Kubernetes endpoints do not offer; use Key or AMLToken")
	}
	given, err := texts(p, "properties", "properties")
	if err != nil {
		return err
	}
	if err := s.keepProperties(c, p, old, given); err != nil {
		return err
	}
	if err := s.admitTraffic(ctx, c, p, old); err != nil {
		return err
	}
	if err := s.admitIdentity(c); err != nil {
		return err
	}
	if c.New.Location == "" {
		c.New.Location = site.Location
	}
	c.New.Lookup = strings.ToLower(c.New.ID.Name())
	if err := s.admitKeys(ctx, c, p); err != nil {
		return err
	}
	c.New.Properties = p.Raw()
	return nil
}

// text refuses a member that is there and no string.
func text(p resource.Document, field, at string) error {
	var t string
	if raw, ok := p[field]; ok && json.Unmarshal(raw, &t) != nil {
		return invalid(at, "must be a string")
	}
	return nil
}

// vacant refuses a name that another endpoint of the server has: it is a part of
// the address that callers use.
func (s *Service) vacant(ctx context.Context, id resource.ID) error {
	taken, err := resource.All(ctx, s.Resources, resource.Query{Type: EndpointType, Lookup: strings.ToLower(id.Name())})
	if err != nil {
		return err
	}
	for _, r := range taken {
		if r.ID.Same(id) {
			continue
		}
		if _, err := ml.SiteOf(ctx, s.Resources, r.ID); fault.Is(err, fault.Missing) {
			continue // its workspace was deleted
		} else if err != nil {
			return err
		}
		return fault.Conflicts("The name '%s' is taken by an online endpoint of workspace '%s'; names are unique on a server, since they are a part of the scoring address. Choose another.",
			id.Name(), r.ID.Parent().Name()).With("EndpointNameNotAvailable").At("name")
	}
	if s.Limits.Endpoints > 0 {
		all, err := resource.All(ctx, s.Resources, resource.Query{Type: EndpointType, Scope: id.Ancestor(resource.SubscriptionType)})
		if err != nil {
			return err
		}
		if len(all) >= s.Limits.Endpoints {
			return fault.Conflicts("There are %d online endpoints, and at most %d are allowed; delete one that is not needed.", len(all), s.Limits.Endpoints).With("OutOfQuota")
		}
	}
	return nil
}

// kind is the kind of the endpoint, as its compute says.
func (s *Service) kind(ctx context.Context, c *resource.Change, p, old resource.Document) (string, error) {
	if err := text(p, "compute", "compute"); err != nil {
		return "", err
	}
	given := p.Text("compute")
	if c.Old != nil && !strings.EqualFold(given, old.Text("compute")) {
		if given == "" && old.Text("compute") != "" {
			return "", invalid("compute", "cannot be taken away: '%s' is a Kubernetes endpoint on %q and stays one", c.New.ID.Name(), old.Text("compute"))
		}
		if old.Text("compute") == "" {
			return "", invalid("compute", "cannot be given to '%s', which is a managed endpoint and stays one", c.New.ID.Name())
		}
	}
	if given == "" {
		delete(p, "compute")
		return Managed, nil
	}
	workspace := c.New.ID.Parent()
	id, err := resource.ParseID(strings.TrimPrefix(given, "azureml:"))
	if err != nil || !id.Is(compute.Type) {
		id = workspace.Child("computes", strings.TrimPrefix(given, "azureml:"))
		if id.Zero() || strings.Contains(given, "/") {
			return "", invalid("compute", "is %q, which is no id of a compute", fault.Clip(given))
		}
	}
	if !id.Parent().Same(workspace) {
		return "", invalid("compute", "lies in workspace '%s', not in '%s'", id.Parent().Name(), workspace.Name())
	}
	r, err := s.Resources.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return "", fault.NotFound("The compute '%s' could not be found in workspace '%s'. A Kubernetes endpoint needs an attached Kubernetes compute; leave the compute out for a managed endpoint.", id.Name(), workspace.Name()).With("ComputeNotFound").At("properties.compute")
	}
	if err != nil {
		return "", err
	}
	t, err := compute.ParseTarget(r)
	if err != nil {
		return "", err
	}
	if t.Kind != "Kubernetes" && t.Kind != "AKS" {
		return "", invalid("compute", "names '%s' of the type %s; an endpoint is on an attached Kubernetes compute, or managed: leave the compute out", t.Name, t.Kind)
	}
	c.Rely(r)
	p.Set("compute", r.ID.String())
	return Kubernetes, nil
}

// What the server writes among an endpoint's properties, for its readers.
const (
	endpointIDProperty = "azureml.onlineendpointid"
	operationProperty  = "AzureAsyncOperationUri"
)

// keepProperties leaves properties that a PUT does not name: they can be added
// and changed. A PATCH alone takes them away.
func (s *Service) keepProperties(c *resource.Change, p, old resource.Document, given map[string]string) error {
	was := map[string]string{}
	_ = json.Unmarshal(old["properties"], &was)
	for _, name := range []string{endpointIDProperty, operationProperty} {
		maps.DeleteFunc(given, func(key, _ string) bool { return strings.EqualFold(key, name) })
		delete(was, name)
	}
	if !c.Patch {
		for name, value := range was {
			if _, there := given[name]; !there {
				given[name] = value
			}
		}
	}
	if _, err := parseSettings(given); err != nil {
		return err
	}
	p.Set("properties", given)
	return nil
}

// settings are what an endpoint's properties say to the gateway.
type settings struct {
	local   bool // everyone is let in
	sticky  string
	origins []string
	limits  serving.Limits
}

// The properties of an endpoint that mean something here.
const (
	localProperty   = "serving.local"
	stickyProperty  = "serving.sticky_header"
	originsProperty = "serving.cors"
	rateProperty    = "serving.requests_per_second"
	bodyProperty    = "serving.max_body_bytes"
)

const maxBody = 4 << 30 // bytes

func parseSettings(p map[string]string) (settings, error) {
	var s settings
	switch v := p[localProperty]; v {
	case "", "false":
	case "true":
		s.local = true
	default:
		return s, invalid("properties."+localProperty, "is %q; it can be true or false", fault.Clip(v))
	}
	if v := p[stickyProperty]; v != "" {
		if len(v) > 100 || strings.ContainsFunc(v, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return s, invalid("properties."+stickyProperty, "is %q, which is no name of a header", fault.Clip(v))
		}
		s.sticky = v
	}
	for one := range strings.SplitSeq(p[originsProperty], ",") {
		if one = strings.TrimSpace(one); one != "" {
			s.origins = append(s.origins, one)
		}
	}
	if v := p[rateProperty]; v != "" {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || n < 0 || n > 1e9 || math.IsNaN(n) {
			return s, invalid("properties."+rateProperty, "is %q; it must be a number from 0 (no limit)", fault.Clip(v))
		}
		s.limits.RequestsPerSecond = n
		s.limits.Burst = int(max(1, math.Ceil(n)))
		if n == 0 {
			s.limits.Burst = 0
		}
	}
	if v := p[bodyProperty]; v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 || n > maxBody {
			return s, invalid("properties."+bodyProperty, "is %q; it must be a number of bytes from 1 to %d", fault.Clip(v), int64(maxBody))
		}
		s.limits.MaxBody = n
	}
	return s, nil
}

// identityKinds are the ways in which an endpoint may have identities.
var identityKinds = []string{"SystemAssigned", "UserAssigned", "SystemAssigned,UserAssigned", "None"}

// admitIdentity gives the identities that are asked for their ids, which stay.
func (s *Service) admitIdentity(c *resource.Change) error {
	wrong := func(format string, args ...any) error {
		return fault.Invalid("'identity' "+format, args...).With("ValidationError").At("identity")
	}
	given, err := resource.ParseDocument(c.New.Identity)
	if err != nil {
		return wrong("must be an object")
	}
	was := resource.Document{}
	if c.Old != nil {
		if was, err = resource.ParseDocument(c.Old.Identity); err != nil {
			return err
		}
	}
	if len(given) == 0 {
		given = was
	}
	given.Default("type", "SystemAssigned")
	kind := strings.ReplaceAll(strings.ReplaceAll(given.Text("type"), " ", ""), "_", "")
	if strings.EqualFold(kind, "SystemAssignedUserAssigned") {
		kind = identityKinds[2]
	}
	at := slices.IndexFunc(identityKinds, func(k string) bool { return strings.EqualFold(k, kind) })
	if at < 0 {
		return fault.Invalid("'identity.type' is %q; it must be SystemAssigned, UserAssigned or None", fault.Clip(given.Text("type"))).With("ValidationError").At("identity.type")
	}
	kind = identityKinds[at]
	made := resource.Document{}
	made.Set("type", kind)
	if strings.HasPrefix(kind, "SystemAssigned") {
		made["principalId"] = was["principalId"]
		if len(made["principalId"]) == 0 {
			made.Set("principalId", resource.NewGUID())
		}
		made.Set("tenantId", s.Tenant)
	}
	if strings.HasSuffix(kind, "UserAssigned") {
		var users map[string]json.RawMessage
		if raw, ok := given["userAssignedIdentities"]; ok && json.Unmarshal(raw, &users) != nil {
			return wrong("has 'userAssignedIdentities' that are no object of ids")
		}
		if len(users) == 0 {
			return wrong("is of the type %s and names no 'userAssignedIdentities'", kind)
		}
		before := was.Object("userAssignedIdentities")
		shown := resource.Document{}
		for id := range users {
			parsed, err := resource.ParseID(id)
			if err != nil || !strings.EqualFold(parsed.Type(), "Microsoft.ManagedIdentity/userAssignedIdentities") {
				return wrong("names %q, which is no id of a user-assigned identity (/subscriptions/…/providers/Microsoft.ManagedIdentity/userAssignedIdentities/NAME)", fault.Clip(id))
			}
			if shown[id] = before[id]; len(shown[id]) == 0 {
				shown.Set(id, map[string]string{"principalId": resource.NewGUID(), "clientId": resource.NewGUID()})
			}
		}
		made["userAssignedIdentities"] = shown.Raw()
	}
	c.New.Identity = made.Raw()
	return nil
}

func (s *Service) provisionEndpoint(ctx context.Context, r resource.Resource) (json.RawMessage, error) {
	if err := s.first(ctx, r); err != nil {
		return nil, err
	}
	if s.Deployer == nil {
		return nil, nil
	}
	return nil, s.Deployer.Route(ctx)
}

// first refuses the later of two endpoints that were made at once under one name.
func (s *Service) first(ctx context.Context, r resource.Resource) error {
	same, err := resource.All(ctx, s.Resources, resource.Query{Type: EndpointType, Lookup: strings.ToLower(r.ID.Name())})
	if err != nil {
		return err
	}
	for _, other := range same {
		if other.ID.Same(r.ID) || other.Born > r.Born || StateOf(other) == resource.Deleting {
			continue
		}
		if _, err := ml.SiteOf(ctx, s.Resources, other.ID); err == nil {
			return fault.Conflicts("The name '%s' is taken by an online endpoint of workspace '%s'; delete this one and choose another.", r.ID.Name(), other.ID.Parent().Name()).With("EndpointNameNotAvailable")
		}
	}
	return nil
}

// admitEndpointDelete tells the deployments that they go, too: what is under way
// to bring one up ends, and nobody starts it again.
func (s *Service) admitEndpointDelete(ctx context.Context, c *resource.Change) error {
	if !c.Root.Zero() {
		return nil // a workspace's endpoints stay until it is removed for good
	}
	there, err := s.deployments(ctx, c.Old.ID)
	for _, d := range there {
		c.Batch.Statuses = append(c.Batch.Statuses, resource.StatusWrite{ID: d.ID, Change: laid(resource.State{ProvisioningState: resource.Deleting})})
	}
	return err
}

func (s *Service) releaseEndpoint(ctx context.Context, _ resource.Resource) error {
	if s.Deployer == nil {
		return nil
	}
	return s.Deployer.Route(ctx)
}

// Address is where the endpoint of that name is called, for one who reached the
// server at origin; what follows it goes to the model.
func (s *Service) Address(origin, name string) string {
	base := origin
	if s.Base != nil {
		base = s.Base(origin)
	}
	return base + "/endpoints/" + strings.ToLower(name)
}

func (s *Service) viewEndpoints(_ context.Context, v resource.View, rs []resource.Resource) error {
	for i := range rs {
		r := &rs[i]
		at := s.Address(v.Origin, r.ID.Name())
		path := StatusOf(*r).Path
		if path == "" {
			path = defaultPath
		}
		err := show(r, func(p, shown resource.Document) {
			p.Set("scoringUri", at+path)
			p.Set("swaggerUri", at+"/swagger.json")
			shown.Set(endpointIDProperty, r.ID.String())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// show makes of a resource what its readers see: add puts into its properties, and
// into those that lie in them, what is not stored there.
func show(r *resource.Resource, add func(p, shown resource.Document)) error {
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return fmt.Errorf("%s: %w", r.ID, err)
	}
	shown := p.Object("properties")
	add(p, shown)
	p["properties"] = shown.Raw()
	r.Properties = p.Raw()
	if r.Tags == nil {
		r.Tags = map[string]string{}
	}
	return showStatus(r)
}
