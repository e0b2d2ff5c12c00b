package webhook

import (
	"encoding/json"
	"slices"
	"strings"
)

// Event is one kind of thing that happens: "model_version", "created".
type Event struct {
	Entity string `json:"entity"`
	Action string `json:"action"`
}

// String is the event as MLflow writes it: "model_version.created".
func (e Event) String() string { return e.Entity + "." + e.Action }

// Entities and Actions by the number that they have in MLflow's protocol; ""
// stands where there is none.
var (
	Entities = []string{"", "registered_model", "model_version", "model_version_tag", "model_version_alias", "prompt", "prompt_version",
		"prompt_tag", "prompt_version_tag", "prompt_alias", "budget_policy"}
	Actions = []string{"", "created", "updated", "deleted", "set", "exceeded"}
)

// Check refuses an event that never happens.
func (e Event) Check() error {
	if _, ok := examples[e.String()]; ok {
		return nil
	}
	var known []string
	for _, action := range slices.Sorted(slices.Values(Actions)) {
		if _, ok := examples[e.Entity+"."+action]; ok {
			known = append(known, "'"+action+"'")
		}
	}
	if known == nil {
		return invalid("Invalid entity '%s'. Valid entities are: ['%s']", e.Entity, strings.Join(Entities[1:], "', '"))
	}
	return invalid("Invalid action '%s' for entity '%s'. Valid actions are: [%s]", e.Action, e.Entity, strings.Join(known, ", "))
}

// examples are all events, with what a test of one sends.
var examples = map[string]string{
	"registered_model.created":    `{"name":"example_model","tags":{"example_key":"example_value"},"description":"An example registered model"}`,
	"model_version.created":       `{"name":"example_model","version":"1","source":"models:/123","run_id":"abcd1234abcd5678","tags":{"example_key":"example_value"},"description":"An example model version"}`,
	"model_version_tag.set":       `{"name":"example_model","version":"1","key":"example_key","value":"example_value"}`,
	"model_version_tag.deleted":   `{"name":"example_model","version":"1","key":"example_key"}`,
	"model_version_alias.created": `{"name":"example_model","alias":"example_alias","version":"1"}`,
	"model_version_alias.deleted": `{"name":"example_model","alias":"example_alias"}`,
	"prompt.created":              `{"name":"example_prompt","tags":{"example_key":"example_value"},"description":"An example prompt"}`,
	"prompt_version.created":      `{"name":"example_prompt","version":"1","template":"Hello {{name}}!","tags":{"example_key":"example_value"},"description":"An example prompt version"}`,
	"prompt_tag.set":              `{"name":"example_prompt","key":"example_key","value":"example_value"}`,
	"prompt_tag.deleted":          `{"name":"example_prompt","key":"example_key"}`,
	"prompt_version_tag.set":      `{"name":"example_prompt","version":"1","key":"example_key","value":"example_value"}`,
	"prompt_version_tag.deleted":  `{"name":"example_prompt","version":"1","key":"example_key"}`,
	"prompt_alias.created":        `{"name":"example_prompt","alias":"example_alias","version":"1"}`,
	"prompt_alias.deleted":        `{"name":"example_prompt","alias":"example_alias"}`,
	// There is no AI gateway here whose budget could be exceeded: this one can
	// be asked for and tested, and never happens.
	"budget_policy.exceeded": `{"budget_policy_id":"bp-abc123","budget_unit":"USD","budget_amount":100.0,"current_spend":105.5,"duration_unit":"MONTHS","duration_value":1,"target_scope":"ENDPOINT","workspace":"default","target_value":"ep-abc123","window_start":1704067200000}`,
}

// Text is what an event tells of one member: a text, or null.
type Text string

// MarshalJSON implements json.Marshaler: an empty text is null.
func (t Text) MarshalJSON() ([]byte, error) {
	if t == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(t))
}
