// Package job has jobs: what one is, which states it goes through, how it is
// cancelled. Sweeps and pipelines are kinds of jobs with packages of their own.
package job

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/pattern"
	"lapis/resource"
)

// Type is the type of jobs.
const Type = ml.Workspaces + "/jobs"

// Job is the view of a job's properties in the newest api-version.
type Job struct {
	JobType        string            `json:"jobType"`
	Command        string            `json:"command"`
	CodeID         string            `json:"codeId"`
	EnvironmentID  string            `json:"environmentId"`
	ComputeID      string            `json:"computeId"`
	ExperimentName string            `json:"experimentName"`
	DisplayName    string            `json:"displayName"`
	Description    string            `json:"description"`
	Environment    map[string]string `json:"environmentVariables"`
	Inputs         map[string]Input  `json:"inputs"`
	Outputs        map[string]Output `json:"outputs"`
	Resources      Resources         `json:"resources"`
	Limits         Limits            `json:"limits"`
	Distribution   *Distribution     `json:"distribution"`
	Tags           map[string]string `json:"tags"`
	Properties     map[string]string `json:"properties"`
	IsArchived     bool              `json:"isArchived"`
	ParentJob      string            `json:"parentJobName"`
}

// Input is one input: a literal value, or data at a URI.
type Input struct {
	Kind  string `json:"jobInputType"`
	Value any    `json:"value"`
	URI   string `json:"uri"`
	Mode  string `json:"mode"`
}

// Literal tells whether the input is a value that stands in the command.
func (in Input) Literal() bool { return strings.EqualFold(in.Kind, "literal") }

// File tells whether the input is one file.
func (in Input) File() bool { return strings.EqualFold(in.Kind, "uri_file") }

// WrittenBack tells whether what the job does to the input is done to its source.
func (in Input) WrittenBack() bool { return strings.EqualFold(in.Mode, "ReadWriteMount") }

// Direct tells whether the command gets the address of the data in place of a
// path.
func (in Input) Direct() bool { return strings.EqualFold(in.Mode, "Direct") }

// Output is one named output.
type Output struct {
	Kind         string `json:"jobOutputType"`
	URI          string `json:"uri"`
	Mode         string `json:"mode"`
	AssetName    string `json:"assetName"`
	AssetVersion string `json:"assetVersion"`
	Description  string `json:"description"`
}

// File tells whether the output is one file.
func (o Output) File() bool { return strings.EqualFold(o.Kind, "uri_file") }

// Direct tells whether the command gets the address of the output in place of a
// path, and writes there by itself.
func (o Output) Direct() bool { return strings.EqualFold(o.Mode, "Direct") }

// Resources are what the job asks for.
type Resources struct {
	InstanceCount int    `json:"instanceCount"`
	InstanceType  string `json:"instanceType"`
	ShmSize       string `json:"shmSize"`
}

// Limits bound the job.
type Limits struct {
	Kind    string `json:"jobLimitsType"`
	Timeout string `json:"timeout"`
}

// Distribution says how many processes a node runs.
type Distribution struct {
	Kind    string `json:"distributionType"`
	Per     int    `json:"processCountPerInstance"`
	PerNode int    `json:"processCountPerNode"`
	Workers int    `json:"workerCount"`
	Servers int    `json:"parameterServerCount"`
}

// Parse reads the properties of a job.
func Parse(properties json.RawMessage) (Job, error) {
	var j Job
	if err := json.Unmarshal(properties, &j); err != nil {
		return j, resource.WrongJSON(err, "properties")
	}
	return j, nil
}

// Kind is one kind of job: command, sweep, pipeline.
type Kind interface {
	// Name is the jobType.
	Name() string

	// Admit checks a new job and fills in defaults.
	Admit(ctx context.Context, c *resource.Change, j *Job, p resource.Document) error
}

// Service is what the type of jobs is made of.
type Service struct {
	Resources resource.Store
	Runs      tracking.Store
	Kinds     map[string]Kind // by lower-case jobType
	Wake      func()          // tells the dispatcher that there is something to do
	Now       func() time.Time
}

var jobName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9_-]{0,254}$`)

// Type makes the resource type.
func (s *Service) Type() *resource.Type {
	return &resource.Type{
		Name: Type, Title: "job",
		Check: func(name string) error {
			if !jobName.MatchString(name) {
				return fault.Invalid("%q is no name for a job: 1 to 255 letters, digits, '-' and '_', beginning with a letter or a digit", name).With("ValidationError").At("name")
			}
			return nil
		},
		Admit:       s.admit,
		AdmitDelete: s.admitDelete,
		View:        s.view,
		List:        s.list,
		Actions:     map[string]resource.Action{"cancel": {Begin: s.beginCancel, Run: s.cancel, Async: true}},
	}
}

// kept are the properties that live in the run's row alone.
var kept = []string{"status", "displayName", "description", "tags", "properties", "experimentName", "isArchived", "services"}

func (s *Service) admit(ctx context.Context, c *resource.Change) error {
	j, err := Parse(c.New.Properties)
	if err != nil {
		return err
	}
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	site, err := ml.SiteOf(ctx, s.Resources, c.New.ID)
	if err != nil {
		return err
	}
	if len(j.DisplayName) > maxDisplayName {
		return fault.Invalid("'displayName' is longer than %d characters", maxDisplayName).With("ValidationError").At("properties.displayName")
	}
	given := make(map[string]bool, len(p))
	for name := range p {
		given[name] = true
	}
	if c.Old != nil {
		return s.admitAgain(c, j, p, given, site)
	}
	kind, ok := s.Kinds[strings.ToLower(j.JobType)]
	if !ok {
		return unknownKind(j.JobType)
	}
	p.Set("jobType", kind.Name())
	if err := kind.Admit(ctx, c, &j, p); err != nil {
		return err
	}
	if j.ExperimentName == "" {
		j.ExperimentName = "Default"
	}
	if err := checkExperiment(j.ExperimentName); err != nil {
		return err
	}
	if j.DisplayName == "" {
		j.DisplayName = c.New.ID.Name()
	}
	for _, name := range kept {
		delete(p, name)
	}
	c.New.Properties = p.Raw()
	c.New.Archived = false // the run's row knows
	c.Batch.Rows = append(c.Batch.Rows, tracking.JobRun{Experiment: j.ExperimentName, Run: tracking.Run{
		Workspace: site.GUID, ID: c.New.ID.Name(), Parent: j.ParentJob, Job: true,
		Name: j.DisplayName, Description: j.Description, User: c.Caller.Name, Tags: orEmpty(j.Tags), Properties: orEmpty(j.Properties),
		Status: tracking.NotStarted, Hidden: j.IsArchived, Created: tracking.Millis(s.Now()),
	}})
	return nil
}

const maxDisplayName = 255

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func checkExperiment(name string) error {
	const most = 255
	if len(name) > most || strings.TrimSpace(name) == "" || strings.ContainsAny(name, "\x00\n\r") {
		return fault.Invalid("%q is no name for an experiment: 1 to %d characters on one line", fault.Clip(name), most).With("ValidationError").At("properties.experimentName")
	}
	return nil
}

// later are the kinds of jobs that the protocol knows and that are not here yet.
var later = map[string]string{"sweep": "Sweep", "pipeline": "Pipeline", "automl": "AutoML", "spark": "Spark", "finetuning": "FineTuning", "labeling": "Labeling", "base": "Base"}

func unknownKind(name string) error {
	if known, ok := later[strings.ToLower(name)]; ok {
		return fault.Invalid("jobs of the type %s are not offered yet; submit a command job", known).With("UserError").At("properties.jobType")
	}
	return fault.Invalid("'properties.jobType' is %q; it must be Command", name).With("ValidationError").At("properties.jobType")
}

// admitAgain takes the PUT of a job that exists: what describes it may change,
// what it does may not, and it never runs again.
func (s *Service) admitAgain(c *resource.Change, j Job, p resource.Document, given map[string]bool, site ml.Site) error {
	old, err := resource.ParseDocument(c.Old.Properties)
	if err != nil {
		return err
	}
	for _, name := range []string{"jobType", "command"} {
		same := p.Text(name) == old.Text(name) || name == "jobType" && strings.EqualFold(p.Text(name), old.Text(name))
		if given[name] && !same {
			return fault.Invalid("(UserError) The job '%s' exists with another '%s', and a job runs once; choose another name.", c.New.ID.Name(), name).With("UserError").At("properties." + name)
		}
	}
	c.New.Properties, c.New.Tags = c.Old.Properties, c.Old.Tags
	experiment := ""
	if given["experimentName"] {
		if err := checkExperiment(j.ExperimentName); err != nil {
			return err
		}
		experiment = j.ExperimentName
	}
	c.Batch.Rows = append(c.Batch.Rows, tracking.RunEdit{Workspace: site.GUID, ID: c.New.ID.Name(), Experiment: experiment, Change: func(r *tracking.Run) error {
		if given["displayName"] && j.DisplayName != "" {
			r.Name = j.DisplayName
		}
		if given["description"] {
			r.Description = j.Description
		}
		if given["tags"] {
			r.Tags = orEmpty(j.Tags)
		}
		if given["properties"] {
			r.Properties = orEmpty(j.Properties)
		}
		if given["isArchived"] {
			r.Hidden = j.IsArchived
		}
		return nil
	}})
	return nil
}

func (s *Service) admitDelete(ctx context.Context, c *resource.Change) error {
	site, err := ml.SiteOf(ctx, s.Resources, c.Old.ID)
	if err != nil {
		return err
	}
	run, err := s.Runs.Run(ctx, site.GUID, c.Old.ID.Name())
	if err != nil && !fault.Is(err, fault.Missing) {
		return err
	}
	if err == nil && !run.Status.Terminal() {
		return fault.Conflicts("The job '%s' is %s; cancel it before it is deleted.", c.Old.ID.Name(), run.Status).With("UserError")
	}
	c.Batch.Rows = append(c.Batch.Rows, tracking.RunGone{Workspace: site.GUID, ID: c.Old.ID.Name()})
	return nil
}

// view puts the run's row and the addresses of the job's services over the
// stored properties.
func (s *Service) view(ctx context.Context, v resource.View, rs []resource.Resource) error {
	site, err := ml.SiteOf(ctx, s.Resources, rs[0].ID)
	if err != nil {
		return err
	}
	ids := make([]string, len(rs))
	for i, r := range rs {
		ids[i] = r.ID.Name()
	}
	runs, err := s.runsOf(ctx, site.GUID, ids)
	if err != nil {
		return err
	}
	names := map[string]string{}
	for i := range rs {
		run, ok := runs[strings.ToLower(rs[i].ID.Name())]
		if !ok {
			continue
		}
		name, known := names[run.Experiment]
		if !known {
			e, err := s.Runs.Experiment(ctx, site.GUID, run.Experiment)
			if err != nil && !fault.Is(err, fault.Missing) {
				return err
			}
			name = e.Name
			names[run.Experiment] = name
		}
		p, err := resource.ParseDocument(rs[i].Properties)
		if err != nil {
			return err
		}
		p.Set("status", run.Status)
		p.Set("displayName", run.Name)
		if run.Description != "" {
			p.Set("description", run.Description)
		}
		p.Set("tags", orEmpty(run.Tags))
		p.Set("properties", orEmpty(run.Properties))
		p.Set("experimentName", name)
		p.Set("isArchived", run.Hidden)
		services := map[string]any{"Tracking": map[string]any{"jobServiceType": "Tracking", "endpoint": v.Origin + "/mlflow/v1.0" + site.ID.String()}}
		// For each job of a list that has this one, the SDK asks for the cloud's
		// metadata anew, over a connection of its own: seconds for a page.
		if !v.List {
			services["Studio"] = map[string]any{"jobServiceType": "Studio", "endpoint": v.Origin + "/studio/runs/" + rs[i].ID.Name() + "?wsid=" + site.ID.String()}
		}
		p.Set("services", services)
		rs[i].Properties = p.Raw()
	}
	return nil
}

// runsOf are the runs of jobs by lower-case name.
func (s *Service) runsOf(ctx context.Context, workspace string, names []string) (map[string]tracking.Run, error) {
	if len(names) != 1 {
		return s.Runs.Runs(ctx, workspace, names)
	}
	r, err := s.Runs.Run(ctx, workspace, names[0])
	if fault.Is(err, fault.Missing) {
		return nil, nil
	}
	return map[string]tracking.Run{strings.ToLower(names[0]): r}, err
}
