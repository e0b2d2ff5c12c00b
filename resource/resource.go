package resource

import (
	"encoding/json"
	"strings"
	"time"
)

// Resource is one resource. Properties are the user's and are kept as the JSON
// they came as; Status is the platform's. A PUT replaces the first, loops write
// the second, and the edge shows them merged.
type Resource struct {
	ID       ID
	Etag     string // of the user's half; opaque, without quotes
	Location string
	Kind     string
	Tags     map[string]string
	SKU      json.RawMessage
	Identity json.RawMessage

	Properties json.RawMessage // an object
	Status     json.RawMessage // an object, or nil

	// Lookup is a word of the noun's choice to find the resource by, such as a
	// hash; Archived hides it from ordinary lists.
	Lookup   string
	Archived bool

	Created Stamp
	Updated Stamp
	Born    int64 // sequence number of the commit that made it
	Seq     int64 // sequence number of the commit that last touched it
}

// Stamp says who did something, and when.
type Stamp struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	ByType string    `json:"byType"` // User, Application
}

// State is the part of a status that every resource may have.
type State struct {
	ProvisioningState string `json:"provisioningState,omitempty"`
}

// The provisioning states.
const (
	Creating  = "Creating"
	Updating  = "Updating"
	Deleting  = "Deleting"
	Succeeded = "Succeeded"
	Failed    = "Failed"
	Canceled  = "Canceled"
)

// MatchesEtag tells whether the etag is in a list as If-Match has it: `"a", "b"`
// or *.
func MatchesEtag(list, etag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.Trim(strings.TrimPrefix(strings.TrimSpace(one), "W/"), `"`)
		if one == "*" || one == etag {
			return true
		}
	}
	return false
}
