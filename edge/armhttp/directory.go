package armhttp

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// Directory is what clients look up before they name a resource: tenants,
// locations, providers, and the lists of all resources.
type Directory struct {
	Manager  *manager.Manager
	Tenant   string // GUID
	Location string // the one location there is
}

// Routes are the directory's paths.
func (d Directory) Routes() []Route {
	const subscription, group = resource.SubscriptionType, resource.GroupType
	return []Route{
		{http.MethodGet, "Microsoft.Resources/tenants", d.tenants},
		{http.MethodGet, subscription + "/locations", d.locations},
		{http.MethodGet, subscription + "/providers", d.providers},
		{http.MethodPost, "*/register", d.provider},
		{http.MethodPost, "*/unregister", d.provider},
		{http.MethodGet, subscription + "/resources", d.resources},
		{http.MethodGet, group + "/resources", d.resources},
	}
}

func (d Directory) tenants(*http.Request, resource.Address, resource.View) (int, any, error) {
	return http.StatusOK, listOf([]any{map[string]any{"id": "/tenants/" + d.Tenant, "tenantId": d.Tenant, "displayName": "Lapis",
		"tenantCategory": "Home", "defaultDomain": "lapis.localhost", "countryCode": "", "domains": []string{"lapis.localhost"}, "tenantType": "AAD"}}), nil
}

// scoped makes sure that the subscription or group of an address is there and
// may be read.
func (d Directory) scoped(r *http.Request, scope resource.ID, v resource.View) error {
	_, err := d.Manager.Get(r.Context(), identity.Of(r.Context()), scope, v)
	return err
}

func (d Directory) locations(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if err := d.scoped(r, a.Scope, v); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, listOf([]any{map[string]any{"id": a.Scope.String() + "/locations/" + d.Location, "name": d.Location, "type": "Region",
		"displayName": d.Location, "regionalDisplayName": d.Location,
		"metadata": map[string]any{"regionType": "Physical", "regionCategory": "Recommended", "geographyGroup": "", "longitude": "0", "latitude": "0", "physicalLocation": "", "pairedRegion": []any{}}}}), nil
}

// versions are the api-versions that a provider names: any is taken.
var versions = []string{"2025-12-01", "2025-09-01", "2024-10-01-preview", "2024-10-01", "2024-04-01", "2023-10-01", "2023-04-01", "2022-10-01", "2022-05-01", "2016-09-01"}

// providers answers with all providers, or with the one that the path names.
func (d Directory) providers(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if a.Tail != "" {
		if err := d.scoped(r, a.Scope, v); err != nil {
			return 0, nil, err
		}
		all := []any{}
		for _, name := range d.namespaces() {
			all = append(all, d.show(a.Scope.String(), name))
		}
		return http.StatusOK, listOf(all), nil
	}
	return d.one(a.Scope.String()[:strings.Index(strings.ToLower(a.Scope.String()), "/providers/")], a.Scope.Name())
}

// provider answers to a registration: all providers are registered.
func (d Directory) provider(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	if err := d.scoped(r, a.Scope, v); err != nil {
		return 0, nil, err
	}
	name, _, _ := strings.Cut(a.Tail, "/")
	return d.one(a.Scope.String(), name)
}

func (d Directory) one(subscription, name string) (int, any, error) {
	for _, known := range d.namespaces() {
		if strings.EqualFold(known, name) {
			return http.StatusOK, d.show(subscription, known), nil
		}
	}
	return 0, nil, fault.New(fault.Missing, "InvalidResourceNamespace", "The resource namespace '%s' is not known here.", name).At(name)
}

// namespaces are the providers' names, sorted.
func (d Directory) namespaces() []string {
	var names []string
	for _, t := range d.Manager.Types().All() {
		if name, _, _ := strings.Cut(t.Name, "/"); len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return names
}

func (d Directory) show(subscription, namespace string) any {
	types := []any{}
	for _, t := range d.Manager.Types().All() {
		name, kind, _ := strings.Cut(t.Name, "/")
		if name != namespace || t.Refused != nil {
			continue
		}
		types = append(types, map[string]any{"resourceType": kind, "locations": []string{d.Location}, "apiVersions": versions,
			"defaultApiVersion": versions[1], "capabilities": "None"})
	}
	return map[string]any{"id": subscription + "/providers/" + namespace, "namespace": namespace,
		"registrationState": "Registered", "registrationPolicy": "RegistrationFree", "resourceTypes": types}
}

// resources lists what is tracked, of a group or a subscription.
func (d Directory) resources(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	query := r.URL.Query()
	keep, err := parseFilter(query.Get("$filter"))
	if err != nil {
		return 0, nil, err
	}
	scope := a.Scope
	if keep.group != "" && scope.Is(resource.SubscriptionType) {
		scope = scope.Child("resourceGroups", keep.group)
	}
	limit := 100
	if top := query.Get("$top"); top != "" {
		if limit, err = strconv.Atoi(top); err != nil || limit < 1 {
			return 0, nil, fault.Invalid("$top is %q; it must be a whole number from 1", top).With("InvalidQueryParameterValue").At("$top")
		}
		limit = min(limit, 1000)
	}
	after, err := base64.RawURLEncoding.DecodeString(query.Get("$skiptoken"))
	if err != nil {
		return 0, nil, fault.Invalid("the continuation token in $skiptoken is not one of this server's; start the list again").With("InvalidContinuationToken").At("$skiptoken")
	}
	page, err := d.Manager.Tracked(r.Context(), identity.Of(r.Context()), scope, string(after), limit, v)
	if err != nil {
		return 0, nil, err
	}
	expand := strings.Split(strings.ToLower(query.Get("$expand")), ",")
	body := listOf([]any{})
	list := []any{}
	for _, res := range page.Resources {
		if !keep.matches(res) {
			continue
		}
		s := show(res)
		item := map[string]any{"id": s.ID, "name": s.Name, "type": s.Type, "location": s.Location}
		if s.Kind != "" {
			item["kind"] = s.Kind
		}
		if s.Tags != nil {
			item["tags"] = s.Tags
		}
		if s.SKU != nil {
			item["sku"] = s.SKU
		}
		if s.Identity != nil {
			item["identity"] = s.Identity
		}
		for _, name := range expand {
			switch name {
			case "createdtime":
				item["createdTime"] = stampTime(res.Created.At)
			case "changedtime":
				item["changedTime"] = stampTime(res.Updated.At)
			case "provisioningstate":
				item["provisioningState"] = resource.Succeeded
				if p, err := resource.ParseDocument(s.Properties); err == nil && p.Text("provisioningState") != "" {
					item["provisioningState"] = p.Text("provisioningState")
				}
			}
		}
		list = append(list, item)
	}
	body["value"] = list
	if page.Next != "" {
		query.Set("$skiptoken", base64.RawURLEncoding.EncodeToString([]byte(page.Next)))
		body["nextLink"] = v.Origin + (&url.URL{Path: r.URL.Path}).EscapedPath() + "?" + query.Encode()
	}
	return http.StatusOK, body, nil
}

func listOf(items []any) map[string]any { return map[string]any{"value": items} }

// filter is a $filter of a list of resources: terms that all must hold.
type filter struct {
	group string
	terms []term
}

type term struct{ field, verb, value string }

// parseFilter reads terms "field eq 'value'", "field ne 'value'" and
// "substringof('value', field)", joined by "and".
func parseFilter(text string) (filter, error) {
	var f filter
	bad := fault.Invalid("$filter is %q; it must be terms like resourceGroup eq 'g', resourceType eq 'T', name eq 'n', tagName eq 't', tagValue eq 'v' or substringof('x', name), joined by 'and'", text).With("InvalidFilterInQueryString").At("$filter")
	words, ok := filterWords(text)
	if !ok {
		return f, bad
	}
	for len(words) > 0 {
		var t term
		switch {
		case len(words) >= 6 && strings.EqualFold(words[0], "substringof") && words[1] == "(" && words[3] == "," && words[5] == ")":
			t, words = term{words[4], "has", words[2]}, words[6:]
		case len(words) >= 3 && (strings.EqualFold(words[1], "eq") || strings.EqualFold(words[1], "ne")):
			t, words = term{words[0], strings.ToLower(words[1]), words[2]}, words[3:]
		default:
			return f, bad
		}
		t.field, t.value = strings.ToLower(t.field), strings.Trim(t.value, "'")
		if !slices.Contains([]string{"resourcegroup", "resourcetype", "name", "location", "tagname", "tagvalue", "kind"}, t.field) {
			return f, bad
		}
		if t.field == "resourcegroup" && t.verb == "eq" {
			f.group = t.value
		}
		f.terms = append(f.terms, t)
		if len(words) > 0 {
			if !strings.EqualFold(words[0], "and") || len(words) == 1 {
				return f, bad
			}
			words = words[1:]
		}
	}
	return f, nil
}

// filterWords cuts a filter into words, quoted texts and signs.
func filterWords(text string) ([]string, bool) {
	var words []string
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		n := 1
		switch text[0] {
		case '(', ')', ',':
		case '\'':
			end := strings.IndexByte(text[1:], '\'')
			if end < 0 {
				return nil, false
			}
			n = end + 2
		default:
			if n = strings.IndexAny(text, " (),'"); n < 0 {
				n = len(text)
			}
		}
		words, text = append(words, text[:n]), text[n:]
	}
	return words, true
}

func (f filter) matches(r resource.Resource) bool {
	var tagName, tagValue *string
	for _, t := range f.terms {
		var have string
		switch t.field {
		case "resourcegroup":
			have = r.ID.Group()
		case "resourcetype":
			have = r.ID.Type()
		case "name":
			have = r.ID.Name()
		case "location":
			have = r.Location
		case "kind":
			have = r.Kind
		case "tagname":
			tagName = &t.value
			continue
		case "tagvalue":
			tagValue = &t.value
			continue
		}
		same := strings.EqualFold(have, t.value)
		switch {
		case t.verb == "has" && !strings.Contains(strings.ToLower(have), strings.ToLower(t.value)),
			t.verb == "eq" && !same, t.verb == "ne" && same:
			return false
		}
	}
	if tagName == nil && tagValue == nil {
		return true
	}
	for name, value := range r.Tags {
		if (tagName == nil || strings.EqualFold(name, *tagName)) && (tagValue == nil || value == *tagValue) {
			return true
		}
	}
	return false
}
