package job

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/pattern"
	"lapis/resource"
)

// Command is the kind of jobs that run one command.
type Command struct {
	Resources resource.Store
}

// Name is the jobType.
func (Command) Name() string { return "Command" }

var (
	reference = pattern.New(`\$\{\{\s*([^}]*?)\s*\}\}`)
	ioName    = pattern.New(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)
)

// The bounds of a job.
const (
	maxCommand = 100_000 // bytes
	maxInputs  = 1000
)

// inputKinds and outputKinds are the types of inputs and outputs, in lower case.
var (
	inputKinds  = map[string]bool{"literal": true, "uri_file": true, "uri_folder": true, "mltable": true, "custom_model": true, "mlflow_model": true, "triton_model": true}
	outputKinds = map[string]bool{"uri_file": true, "uri_folder": true, "mltable": true, "custom_model": true, "mlflow_model": true, "triton_model": true}
)

// inputModes and outputModes are how data comes and goes, in lower case. On one
// machine a mount, a download and an upload are the same copies.
var (
	inputModes  = map[string]bool{"": true, "readonlymount": true, "readwritemount": true, "download": true, "direct": true, "evalmount": true, "evaldownload": true}
	outputModes = map[string]bool{"": true, "readwritemount": true, "upload": true, "direct": true}
)

// Admit checks that all the job names exists, and fills in where its outputs go.
func (k Command) Admit(ctx context.Context, c *resource.Change, j *Job, p resource.Document) error {
	workspace := c.New.ID.Parent()
	if strings.TrimSpace(j.Command) == "" {
		return invalid("command", "is required: the command line to run")
	}
	if len(j.Command) > maxCommand {
		return invalid("command", "is longer than %d bytes", maxCommand)
	}
	if j.CodeID != "" {
		if err := k.exists(ctx, workspace, strings.TrimPrefix(j.CodeID, "azureml:"), "codes", "codeId"); err != nil {
			return err
		}
	}
	if j.EnvironmentID == "" {
		return invalid("environmentId", "is required: the environment to run in")
	}
	if _, err := FindEnvironment(ctx, k.Resources, workspace, j.EnvironmentID); err != nil {
		return err
	}
	if err := k.compute(ctx, c, j); err != nil {
		return err
	}
	if err := k.inputs(ctx, workspace, j); err != nil {
		return err
	}
	if err := k.outputs(ctx, c.New.ID, j, p); err != nil {
		return err
	}
	if err := references(j); err != nil {
		return err
	}
	if j.Limits.Timeout != "" {
		d, err := compute.ParseDuration(j.Limits.Timeout)
		if err != nil {
			return invalid("limits.timeout", "%v", err)
		}
		if d <= 0 {
			return invalid("limits.timeout", "is %q; it must be longer than nothing", j.Limits.Timeout)
		}
	}
	if len(j.Limits.Kind) > 0 && !strings.EqualFold(j.Limits.Kind, "Command") {
		return invalid("limits.jobLimitsType", "is %q; it must be Command", j.Limits.Kind)
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return fault.Invalid("'properties."+field+"' "+format, args...).With("ValidationError").At("properties." + field)
}

// exists refuses an ARM id of an asset that is not in the workspace.
func (k Command) exists(ctx context.Context, workspace resource.ID, id, segment, field string) error {
	parsed, err := resource.ParseID(id)
	if err != nil || !parsed.Is(ml.Workspaces+"/"+segment+"/versions") {
		return invalid(field, "is %q, which is no id of a version of %s", fault.Clip(id), segment)
	}
	if !parsed.Ancestor(ml.Workspaces).Same(workspace) {
		return invalid(field, "lies in workspace '%s', not in '%s': an asset of another workspace cannot be used; share it through a registry", parsed.Ancestor(ml.Workspaces).Name(), workspace.Name())
	}
	_, err = asset.Find(ctx, k.Resources, workspace, segment, parsed.Parent().Name(), parsed.Name())
	return err
}

var labelled = pattern.New(`(?i)^(?:azureml:)?(/subscriptions/.+/workspaces/[^/]+)/environments/([^/]+)/(versions|labels)/([^/]+)$`)
var registered = pattern.New(`(?i)^azureml://registries/([^/]+)/environments/([^/]+)/(versions|labels)/([^/]+)$`)
var shortEnvironment = pattern.New(`^azureml:([^:/@]+)(?::([^:/@]+)|@([^:/@]+))$`)

// FindEnvironment finds the environment version that a job names: an ARM id of
// a version or a label, or azureml:NAME:VERSION.
func FindEnvironment(ctx context.Context, store resource.Store, workspace resource.ID, id string) (resource.Resource, error) {
	if m := labelled.FindStringSubmatch(id); m != nil {
		parsed, err := resource.ParseID(m[1])
		if err != nil {
			return resource.Resource{}, err
		}
		if !parsed.Same(workspace) {
			return resource.Resource{}, invalid("environmentId", "lies in workspace '%s', not in '%s': share it through a registry", parsed.Name(), workspace.Name())
		}
		version := m[4]
		if strings.EqualFold(m[3], "labels") {
			version = "@" + version
		}
		return asset.Find(ctx, store, workspace, "environments", strings.TrimPrefix(m[2], "azureml:"), version) // the SDK leaves the prefix in when it has looked up a label
	}
	if m := shortEnvironment.FindStringSubmatch(id); m != nil {
		version := m[2]
		if version == "" {
			version = "@" + m[3]
		}
		return asset.Find(ctx, store, workspace, "environments", m[1], version)
	}
	if m := registered.FindStringSubmatch(id); m != nil {
		r, err := ml.FindRegistry(ctx, store, m[1])
		if err != nil {
			return resource.Resource{}, err
		}
		version := m[4]
		if strings.EqualFold(m[3], "labels") {
			version = "@" + version
		}
		return asset.Find(ctx, store, r.ID, "environments", m[2], version)
	}
	return resource.Resource{}, invalid("environmentId", "is %q, which is no id of an environment version", fault.Clip(id))
}

// Serverless tells whether a job names no compute target of its workspace: it
// then runs on this machine as it is.
func Serverless(computeID string) bool {
	name := computeID[strings.LastIndexByte(computeID, '/')+1:]
	name = strings.TrimPrefix(strings.ToLower(name), "azureml:")
	return name == "" || name == "local" || name == "serverless"
}

func (k Command) compute(ctx context.Context, c *resource.Change, j *Job) error {
	if n := j.Resources.InstanceCount; n < 0 {
		return invalid("resources.instanceCount", "is %d; it cannot be negative", n)
	} else if n > 1 {
		return invalid("resources.instanceCount", "is %d; jobs of several nodes are not offered yet", n)
	}
	if d := j.Distribution; d != nil && (d.Per > 1 || d.PerNode > 1 || d.Workers > 1 || d.Servers > 0) {
		return invalid("distribution", "asks for several processes, which are not offered yet")
	}
	if t := j.Resources.InstanceType; t != "" {
		if _, ok := compute.ParseSize(t); !ok {
			return invalid("resources.instanceType", "is %q, which is no instance type; see `lapis compute list-sizes`", fault.Clip(t))
		}
	}
	if Serverless(j.ComputeID) {
		return nil
	}
	id, err := resource.ParseID(strings.TrimPrefix(j.ComputeID, "azureml:"))
	if err != nil || !id.Is(compute.Type) {
		id = c.New.ID.Parent().Child("computes", strings.TrimPrefix(j.ComputeID, "azureml:"))
		if id.Zero() {
			return invalid("computeId", "is %q, which is no id of a compute", fault.Clip(j.ComputeID))
		}
	}
	workspace := c.New.ID.Parent()
	if !id.Parent().Same(workspace) {
		return invalid("computeId", "lies in workspace '%s', not in '%s'", id.Parent().Name(), workspace.Name())
	}
	r, err := k.Resources.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return fault.NotFound("The compute '%s' could not be found in workspace '%s'. Make it with `lapis compute create -n %s --type AmlCompute`, or leave the compute out to run on this machine.", id.Name(), workspace.Name(), id.Name()).With("ComputeNotFound").At("properties.computeId")
	}
	if err != nil {
		return err
	}
	c.Rely(r)
	t, err := compute.ParseTarget(r)
	if err != nil {
		return err
	}
	if t.Kind != "AmlCompute" && t.Kind != "ComputeInstance" {
		return invalid("computeId", "names '%s' of the type %s, on which jobs cannot run yet", t.Name, t.Kind)
	}
	if t.MaxNodes < 1 {
		return invalid("computeId", "names '%s', which may have no nodes (maxNodeCount is 0)", t.Name)
	}
	return nil
}

func (k Command) inputs(ctx context.Context, workspace resource.ID, j *Job) error {
	if len(j.Inputs) > maxInputs {
		return invalid("inputs", "are %d; at most %d are allowed", len(j.Inputs), maxInputs)
	}
	for name, in := range j.Inputs {
		field := "inputs." + name
		if !ioName.MatchString(name) {
			return invalid(field, "has a name that is no identifier (letters, digits, '_')")
		}
		if !inputKinds[strings.ToLower(in.Kind)] {
			return invalid(field+".jobInputType", "is %q; it must be literal, uri_file, uri_folder, mltable or a kind of model", in.Kind)
		}
		if !inputModes[strings.ToLower(in.Mode)] {
			return invalid(field+".mode", "is %q; it must be ReadOnlyMount, ReadWriteMount, Download, Direct, EvalMount or EvalDownload", in.Mode)
		}
		if in.Literal() {
			if in.Value == nil {
				return invalid(field+".value", "is required")
			}
			continue
		}
		if in.URI == "" {
			return invalid(field+".uri", "is required: where the data lies")
		}
		at, err := data.Locate(ctx, k.Resources, workspace, in.URI)
		switch {
		case err != nil:
		case at.URL != "" && !in.File() && !in.Direct() && strings.HasSuffix(pathOf(at.URL), "/"):
			return invalid(field+".uri", "is %q; a web address has one file: name it, since what a folder on the web holds cannot be told", fault.Clip(in.URI))
		case in.WrittenBack() && at.URL != "":
			return invalid(field+".mode", "is ReadWriteMount, but %q is an address that cannot be written to; use ReadOnlyMount or Download", fault.Clip(in.URI))
		case in.WrittenBack() && at.Shared:
			return invalid(field+".mode", "is ReadWriteMount, but %q lies in a registry, whose content does not change; use ReadOnlyMount or Download", fault.Clip(in.URI))
		}
		if err != nil {
			if f := fault.Find(err); f != nil {
				f.Message = fmt.Sprintf("Input '%s': %s", name, f.Message)
				f.Target = "properties." + field
			}
			return err
		}
	}
	return nil
}

// pathOf is the path of an address, without what follows it.
func pathOf(address string) string {
	address, _, _ = strings.Cut(address, "#")
	address, _, _ = strings.Cut(address, "?")
	if strings.Count(address, "/") < 3 {
		return "/" // the host alone
	}
	return address
}

// outputs fills in where each output goes, so that everyone who reads the job
// later finds it.
func (k Command) outputs(ctx context.Context, id resource.ID, j *Job, p resource.Document) error {
	if len(j.Outputs) > maxInputs {
		return invalid("outputs", "are %d; at most %d are allowed", len(j.Outputs), maxInputs)
	}
	outputs := p.Object("outputs")
	for name, out := range j.Outputs {
		field := "outputs." + name
		if !ioName.MatchString(name) {
			return invalid(field, "has a name that is no identifier (letters, digits, '_')")
		}
		if strings.EqualFold(name, "default") {
			delete(outputs, name)
			continue
		}
		if !outputKinds[strings.ToLower(out.Kind)] {
			return invalid(field+".jobOutputType", "is %q; it must be uri_file, uri_folder, mltable or a kind of model", out.Kind)
		}
		if !outputModes[strings.ToLower(out.Mode)] {
			return invalid(field+".mode", "is %q; it must be ReadWriteMount, Upload or Direct", out.Mode)
		}
		if err := k.assetOf(ctx, id, field, out); err != nil {
			return err
		}
		o := outputs.Object(name)
		uri := strings.NewReplacer("${{name}}", id.Name(), "${{output_name}}", name).Replace(out.URI)
		if uri == "" {
			uri = "azureml://datastores/" + ml.BlobStore + "/paths/azureml/" + id.Name() + "/" + name + "/"
			if out.File() {
				uri += name
			}
		}
		at, err := data.Locate(ctx, k.Resources, id, uri)
		if err != nil {
			return err
		}
		if at.URL != "" {
			return invalid(field+".uri", "is %q; an output goes to a datastore", fault.Clip(uri))
		}
		o.Set("uri", uri)
		outputs[name] = o.Raw()
	}
	p["outputs"] = outputs.Raw()
	return nil
}

// assetOf refuses an output that cannot become the version it names.
func (k Command) assetOf(ctx context.Context, id resource.ID, field string, out Output) error {
	if out.AssetName == "" {
		if out.AssetVersion != "" {
			return invalid(field+".assetVersion", "is %q, but the output has no 'assetName'; give both, or the name alone", out.AssetVersion)
		}
		return nil
	}
	segment := "data"
	if strings.HasSuffix(strings.ToLower(out.Kind), "_model") {
		segment = "models"
	}
	container := id.Parent().Child(segment, out.AssetName)
	if container.Zero() || strings.ContainsAny(out.AssetName, "/:@") {
		return invalid(field+".assetName", "is %q, which is no name of an asset", fault.Clip(out.AssetName))
	}
	if out.AssetVersion == "" {
		return nil
	}
	version := container.Child("versions", out.AssetVersion)
	if version.Zero() {
		return invalid(field+".assetVersion", "is %q, which is no version of an asset", fault.Clip(out.AssetVersion))
	}
	_, err := k.Resources.Get(ctx, version)
	if err == nil {
		return invalid(field+".assetVersion", "is %q, but '%s:%s' exists; leave the version out to make the next one", out.AssetVersion, out.AssetName, out.AssetVersion)
	}
	if fault.Is(err, fault.Missing) {
		return nil
	}
	return err
}

// references refuses a command that refers to what the job does not have.
func references(j *Job) error {
	texts := []struct{ field, text string }{{"command", j.Command}}
	names := make([]string, 0, len(j.Environment))
	for name := range j.Environment {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		texts = append(texts, struct{ field, text string }{"environmentVariables." + name, j.Environment[name]})
	}
	for _, t := range texts {
		for _, m := range reference.FindAllStringSubmatch(t.text, -1) {
			scope, name, _ := strings.Cut(m[1], ".")
			switch scope {
			case "inputs":
				if _, ok := j.Inputs[name]; !ok {
					return invalid(t.field, "refers to ${{%s}}, but the job has no input '%s'", m[1], name)
				}
			case "outputs":
				if _, ok := j.Outputs[name]; !ok && name != "default" {
					return invalid(t.field, "refers to ${{%s}}, but the job has no output '%s'", m[1], name)
				}
			default:
				return invalid(t.field, "refers to ${{%s}}; only ${{inputs.NAME}} and ${{outputs.NAME}} mean something here", fault.Clip(m[1]))
			}
		}
	}
	return nil
}

// LiteralText is a literal input as it stands in a command.
func LiteralText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64, bool, json.Number:
		raw, _ := json.Marshal(v)
		return string(raw)
	}
	raw, _ := json.Marshal(v)
	return string(raw)
}
