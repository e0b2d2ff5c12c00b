package armhttp

import (
	"net/http"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/autoscale"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
)

// ActivityLog answers what was done to the resources of a subscription, by whom,
// and, of what the server did by itself, why.
type ActivityLog struct {
	Manager *manager.Manager
	Now     func() time.Time
}

// Routes are the log's paths.
func (l ActivityLog) Routes() []Route {
	return []Route{{http.MethodGet, insights + "/eventtypes/values", l.events}}
}

// The log tells of so many events at most, of so many days.
const (
	maxEvents = 1000
	eventsFor = 90 * 24 * time.Hour
)

var eventTerm = pattern.New(`(?i)^\s*(\w+)\s+(eq|ge|gt|le|lt)\s+'?([^']*?)'?\s*$`) // az writes times without quotes

func (l ActivityLog) events(r *http.Request, a resource.Address, v resource.View) (int, any, error) {
	subscription := a.Scope.Ancestor(resource.SubscriptionType)
	if _, err := l.Manager.Get(r.Context(), identity.Of(r.Context()), subscription, v); err != nil {
		return 0, nil, err
	}
	scope, from, to := subscription, l.Now().Add(-eventsFor), l.Now().Add(time.Second)
	correlation, caller, status := "", "", ""
	for _, text := range splitAnd(r.URL.Query().Get("$filter")) {
		m := eventTerm.FindStringSubmatch(text)
		if m == nil {
			return 0, nil, fault.Invalid("The $filter %q is not understood; it is of the form: eventTimestamp ge '2026-01-02T03:04:05Z' and resourceGroupName eq 'lapis'", fault.Clip(text)).With("BadRequest").At("$filter")
		}
		switch name := strings.ToLower(m[1]); name {
		case "eventtimestamp":
			at, err := moment(m[3])
			if err != nil {
				return 0, nil, fault.Invalid("eventTimestamp is compared with %q, which is no time", fault.Clip(m[3])).With("BadRequest").At("$filter")
			}
			if strings.HasPrefix(strings.ToLower(m[2]), "g") {
				from = at
			} else {
				to = at.Add(time.Millisecond)
			}
		case "resourcegroupname":
			if scope = subscription.Child("resourceGroups", m[3]); scope.Zero() {
				return 0, nil, fault.Invalid("%q is no name of a resource group", fault.Clip(m[3])).With("BadRequest").At("$filter")
			}
		case "resourceuri", "resourceid":
			id, err := resource.ParseID(m[3])
			if err != nil {
				return 0, nil, err
			}
			if !id.Ancestor(resource.SubscriptionType).Same(subscription) {
				return 0, nil, fault.Invalid("'%s' does not lie in the subscription '%s'", fault.Clip(m[3]), subscription.Name()).With("BadRequest").At("$filter")
			}
			scope = id
		case "correlationid":
			correlation = m[3]
		case "caller":
			caller = m[3]
		case "status":
			status = m[3]
		case "resourceprovider", "levels", "eventchannels":
		default:
			return 0, nil, fault.Invalid("The $filter names %q, which events cannot be found by", fault.Clip(m[1])).With("BadRequest").At("$filter")
		}
	}
	entries, err := l.Manager.Store().Activities(r.Context(), scope, to, maxEvents)
	if err != nil {
		return 0, nil, err
	}
	list := []any{}
	for _, e := range entries {
		if e.At.Before(from) || correlation != "" && !strings.EqualFold(e.Correlation, correlation) ||
			caller != "" && !strings.EqualFold(e.Caller, caller) || status != "" && !strings.EqualFold(e.Result, status) {
			continue
		}
		list = append(list, shownEvent(e, subscription))
	}
	return http.StatusOK, map[string]any{"value": list}, nil
}

// splitAnd cuts a filter at its ands, which are none within quotes.
func splitAnd(text string) []string {
	var parts []string
	quoted, start := false, 0
	lower := strings.ToLower(text)
	for i := 0; i < len(text); i++ {
		if text[i] == '\'' {
			quoted = !quoted
		}
		if !quoted && strings.HasPrefix(lower[i:], " and ") {
			parts = append(parts, text[start:i])
			start = i + len(" and ")
			i = start - 1
		}
	}
	if strings.TrimSpace(text[start:]) != "" {
		parts = append(parts, text[start:])
	}
	return parts
}

func shownEvent(e resource.Activity, subscription resource.ID) map[string]any {
	category := "Administrative"
	properties := map[string]string{}
	if e.Reason != "" {
		properties["reason"] = e.Reason
	}
	if e.Resource.Is(autoscale.Type) && e.Reason != "" {
		category = "Autoscale"
	}
	provider := e.Resource.Type()
	if at := strings.IndexByte(provider, '/'); at > 0 {
		provider = provider[:at]
	}
	stamp := stampTime(e.At)
	return map[string]any{
		"authorization": map[string]string{"action": e.Action, "scope": e.Resource.String()}, "caller": e.Caller, "correlationId": e.Correlation,
		"description": e.Reason, "eventDataId": "", "id": e.Resource.String() + "/events/" + strings.ReplaceAll(stamp, ":", "."), "level": "Informational",
		"eventName": local("EndRequest"), "category": local(category), "operationName": local(e.Action), "operationId": e.Correlation,
		"resourceId": e.Resource.String(), "resourceGroupName": e.Resource.Group(), "resourceProviderName": local(provider), "resourceType": local(e.Resource.Type()),
		"status": local(e.Result), "subStatus": local(""), "eventTimestamp": stamp, "submissionTimestamp": stamp,
		"subscriptionId": subscription.Name(), "properties": properties,
	}
}
