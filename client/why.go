package client

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"lapis/fault"
)

// Why is what stands behind an endpoint: which of its deployments answer, and
// what they are.
type Why struct {
	Name        string           `json:"name"`
	State       string           `json:"provisioning_state"`
	Auth        string           `json:"auth_mode"`
	Created     Made             `json:"created"`
	Changed     Made             `json:"changed"`
	Traffic     map[string]int   `json:"traffic"`
	Mirror      map[string]int   `json:"mirror_traffic,omitempty"`
	Deployments []*WhyDeployment `json:"deployments"`
}

// Made is who did something, and when.
type Made struct {
	By string `json:"by,omitempty"`
	At string `json:"at,omitempty"`
}

// WhyDeployment is what a deployment serves, who deployed it and when, and where
// that comes from.
type WhyDeployment struct {
	Name     string   `json:"name"`
	Endpoint string   `json:"endpoint_name"`
	State    string   `json:"provisioning_state"`
	Traffic  int      `json:"traffic"`
	Version  *Version `json:"version"`           // that serves; none: nothing does
	Before   *Version `json:"before,omitempty"`  // that a rollback brings back
	Failure  string   `json:"failure,omitempty"` // of the last change
	Model    *Origin  `json:"model,omitempty"`
}

// Version is one version of a deployment.
type Version struct {
	Generation  string `json:"generation"`
	Deployed    Made   `json:"deployed"`
	Runtime     string `json:"runtime,omitempty"`
	Flavor      string `json:"flavor,omitempty"`
	Model       string `json:"model,omitempty"`
	Environment string `json:"environment,omitempty"`
	Code        string `json:"code,omitempty"`
	Script      string `json:"scoring_script,omitempty"`
}

// Origin is where a version of a model comes from.
type Origin struct {
	Name       string  `json:"name"`
	Version    string  `json:"version"`
	Type       string  `json:"type,omitempty"`
	URI        string  `json:"uri,omitempty"`
	Registered Made    `json:"registered"`
	Gone       bool    `json:"gone,omitempty"` // deleted since
	Job        *Source `json:"job,omitempty"`  // that made it
}

// Source is a job that made a model.
type Source struct {
	Name        string            `json:"name"`
	DisplayName string            `json:"display_name,omitempty"`
	Experiment  string            `json:"experiment_name,omitempty"`
	Status      string            `json:"status,omitempty"`
	Started     Made              `json:"started"`
	Command     string            `json:"command,omitempty"`
	Code        string            `json:"code,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Commit      string            `json:"git_commit,omitempty"`
	Inputs      map[string]string `json:"inputs,omitempty"` // its data and its settings, by name
	Gone        bool              `json:"gone,omitempty"`
}

type systemData struct {
	CreatedBy, CreatedAt, LastModifiedBy, LastModifiedAt string
}

func (s systemData) created() Made { return Made{s.CreatedBy, s.CreatedAt} }
func (s systemData) changed() Made { return Made{s.LastModifiedBy, s.LastModifiedAt} }

// WhyEndpoint tells what stands behind an endpoint.
func (c *Client) WhyEndpoint(ctx context.Context, name string) (*Why, error) {
	raw, err := c.Get(ctx, c.EndpointPath(name))
	if err != nil {
		return nil, err
	}
	var e struct {
		Endpoint
		SystemData systemData
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	p := e.Properties
	w := &Why{Name: e.Name, State: p.ProvisioningState, Auth: p.AuthMode, Created: e.SystemData.created(), Changed: e.SystemData.changed(),
		Traffic: p.Traffic, Mirror: p.MirrorTraffic, Deployments: []*WhyDeployment{}}
	for raw, err := range c.List(ctx, c.EndpointPath(name, "deployments"), nil) {
		if err != nil {
			return nil, err
		}
		d, err := c.whyDeployment(ctx, e.Name, raw, p.Traffic)
		if fault.Is(err, fault.Missing) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		w.Deployments = append(w.Deployments, d)
	}
	return w, nil
}

// WhyDeployment tells what a deployment serves, since when and by whom, and what
// that was made from.
func (c *Client) WhyDeployment(ctx context.Context, endpoint, name string) (*WhyDeployment, error) {
	e, err := c.Endpoint(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	raw, err := c.Get(ctx, c.DeploymentPath(endpoint, name))
	if err != nil {
		return nil, err
	}
	return c.whyDeployment(ctx, e.Name, raw, e.Properties.Traffic)
}

// whyDeployment tells it of a deployment as the server sends it.
func (c *Client) whyDeployment(ctx context.Context, endpoint string, raw json.RawMessage, traffic map[string]int) (*WhyDeployment, error) {
	var r struct {
		Name       string
		Properties struct{ ProvisioningState string }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read deployment: %w", err)
	}
	w := &WhyDeployment{Name: r.Name, Endpoint: endpoint, State: r.Properties.ProvisioningState, Traffic: traffic[r.Name]}
	raw, err := c.Post(ctx, c.DeploymentPath(endpoint, r.Name, "versions"), nil)
	if err != nil {
		return nil, err
	}
	type version struct {
		Generation, DeployedAt, DeployedBy, Runtime, Flavor, Model, EnvironmentID, CodeID, ScoringScript string
	}
	var v struct {
		Live, Previous *version
		Failure        *struct{ Message string }
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, fmt.Errorf("read versions: %w", err)
	}
	told := func(v *version) *Version {
		if v == nil {
			return nil
		}
		return &Version{Generation: v.Generation, Deployed: Made{v.DeployedBy, v.DeployedAt}, Runtime: v.Runtime, Flavor: v.Flavor,
			Model: inShort(v.Model), Environment: inShort(v.EnvironmentID), Code: inShort(v.CodeID), Script: v.ScoringScript}
	}
	w.Version, w.Before = told(v.Live), told(v.Previous)
	if v.Failure != nil {
		w.Failure, _, _ = strings.Cut(v.Failure.Message, "\n")
	}
	if v.Live != nil && v.Live.Model != "" {
		w.Model, err = c.origin(ctx, v.Live.Model)
	}
	return w, err
}

// inShort is an asset's id in short, such as iris:3.
func inShort(id string) string {
	if at := strings.LastIndex(id, "/versions/"); at >= 0 {
		return path.Base(id[:at]) + ":" + id[at+len("/versions/"):]
	}
	return id
}

// origin tells where a version of a model comes from.
func (c *Client) origin(ctx context.Context, id string) (*Origin, error) {
	name, version, _ := strings.Cut(inShort(id), ":")
	o := &Origin{Name: name, Version: version}
	if !strings.HasPrefix(id, "/") {
		return o, nil // in a registry: what made it is known where it was made
	}
	raw, err := c.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		o.Gone = true
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	var m struct {
		Properties struct{ ModelType, ModelURI, JobName string }
		SystemData systemData
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("read model: %w", err)
	}
	o.Type, o.URI, o.Registered = m.Properties.ModelType, m.Properties.ModelURI, m.SystemData.created()
	if m.Properties.JobName != "" {
		o.Job, err = c.source(ctx, m.Properties.JobName)
	}
	return o, err
}

// source tells what a job was made of.
func (c *Client) source(ctx context.Context, name string) (*Source, error) {
	s := &Source{Name: name}
	raw, err := c.Get(ctx, c.Path("jobs", name))
	if fault.Is(err, fault.Missing) {
		s.Gone = true
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var j struct {
		Properties struct {
			DisplayName, ExperimentName, Status, Command, CodeID, EnvironmentID string

			Properties map[string]string
			Inputs     map[string]struct{ URI, Value string }
		}
		SystemData systemData
	}
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	p := j.Properties
	s.DisplayName, s.Experiment, s.Status, s.Command, s.Started = p.DisplayName, p.ExperimentName, p.Status, p.Command, j.SystemData.created()
	if s.DisplayName == s.Name {
		s.DisplayName = ""
	}
	s.Code, s.Environment, s.Commit = inShort(p.CodeID), inShort(p.EnvironmentID), p.Properties["mlflow.source.git.commit"]
	if s.Commit == "" {
		s.Commit = p.Properties["azureml.git.commit"]
	}
	for name, in := range p.Inputs {
		if s.Inputs == nil {
			s.Inputs = map[string]string{}
		}
		if s.Inputs[name] = in.Value; in.URI != "" {
			s.Inputs[name] = inShort(in.URI)
		}
	}
	return s, nil
}
