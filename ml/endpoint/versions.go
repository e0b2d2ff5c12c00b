package endpoint

import (
	"context"
	"encoding/json"

	"lapis/resource"
)

// version is what one version of a deployment was made of, for those who ask why
// it answers as it does.
type version struct {
	Generation  string `json:"generation"`
	At          string `json:"deployedAt"`
	By          string `json:"deployedBy,omitempty"`
	Runtime     string `json:"runtime,omitempty"`
	Flavor      string `json:"flavor,omitempty"`
	Model       string `json:"model,omitempty"` // as it was written: an id or a reference
	Environment string `json:"environmentId,omitempty"`
	Code        string `json:"codeId,omitempty"`
	Script      string `json:"scoringScript,omitempty"`
}

// versions tells what serves, what served before, and why the last change failed
// if it did. The properties say what was asked for last, which may be something else.
func (s *Service) versions(_ context.Context, call resource.Call) (any, error) {
	type generation struct {
		ID   string `json:"generation"`
		At   string `json:"at"`
		By   string `json:"by"`
		Spec struct {
			Runtime string `json:"runtime"`
			Flavor  string `json:"flavor"`
		} `json:"spec"`
		Body struct {
			Properties Deployment `json:"properties"`
		} `json:"body"`
	}
	var stored struct {
		Live     *generation     `json:"live"`
		Previous *generation     `json:"previous"`
		Failure  json.RawMessage `json:"failure"`
	}
	if len(call.Resource.Status) > 0 {
		if err := json.Unmarshal(call.Resource.Status, &stored); err != nil {
			return nil, err
		}
	}
	told := func(g *generation) *version {
		if g == nil {
			return nil
		}
		p := g.Body.Properties
		v := &version{Generation: g.ID, At: g.At, By: g.By, Runtime: g.Spec.Runtime, Flavor: g.Spec.Flavor, Model: p.Model, Environment: p.EnvironmentID}
		if c := p.CodeConfiguration; c != nil {
			v.Code, v.Script = c.CodeID, c.ScoringScript
		}
		return v
	}
	reply := map[string]any{}
	if v := told(stored.Live); v != nil {
		reply["live"] = v
	}
	if v := told(stored.Previous); v != nil {
		reply["previous"] = v
	}
	if len(stored.Failure) > 0 {
		reply["failure"] = stored.Failure
	}
	return reply, nil
}
