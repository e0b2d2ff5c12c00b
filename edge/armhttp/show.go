package armhttp

import (
	"encoding/json"
	"time"

	"lapis/resource"
)

// shown is a resource in ARM's JSON.
type shown struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	Tags       map[string]string `json:"tags,omitzero"`
	SKU        json.RawMessage   `json:"sku,omitempty"`
	Identity   json.RawMessage   `json:"identity,omitempty"`
	Properties json.RawMessage   `json:"properties,omitempty"`
	SystemData *systemData       `json:"systemData,omitempty"`

	// Of a subscription, whose properties stand at the top.
	SubscriptionID string `json:"subscriptionId,omitempty"`
	DisplayName    string `json:"displayName,omitempty"`
	State          string `json:"state,omitempty"`
	TenantID       string `json:"tenantId,omitempty"`
}

type systemData struct {
	CreatedAt          string `json:"createdAt"`
	CreatedBy          string `json:"createdBy"`
	CreatedByType      string `json:"createdByType"`
	LastModifiedAt     string `json:"lastModifiedAt"`
	LastModifiedBy     string `json:"lastModifiedBy"`
	LastModifiedByType string `json:"lastModifiedByType"`
}

// show puts the two halves of a resource together.
func show(r resource.Resource) shown {
	s := shown{ID: r.ID.String(), Name: r.ID.Name(), Type: r.ID.Type(), Location: r.Location, Kind: r.Kind,
		Tags: r.Tags, SKU: r.SKU, Identity: r.Identity, Properties: resource.Overlay(r.Properties, r.Status)}
	switch {
	case r.ID.Is(resource.SubscriptionType):
		var p struct{ DisplayName, State, TenantID string }
		if err := json.Unmarshal(s.Properties, &p); err == nil {
			s.SubscriptionID, s.DisplayName, s.State, s.TenantID = r.ID.Name(), p.DisplayName, p.State, p.TenantID
		}
		s.Properties = nil
		return s
	case r.ID.Is(resource.GroupType):
		s.Type = "Microsoft.Resources/resourceGroups"
		return s
	}
	if !r.Created.At.IsZero() {
		s.SystemData = &systemData{
			CreatedAt: stampTime(r.Created.At), CreatedBy: r.Created.By, CreatedByType: r.Created.ByType,
			LastModifiedAt: stampTime(r.Updated.At), LastModifiedBy: r.Updated.By, LastModifiedByType: r.Updated.ByType,
		}
	}
	return s
}

// stampTime is a time as ARM writes it.
func stampTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
