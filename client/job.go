package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lapis/client/spec"
	"lapis/fault"
	"lapis/pattern"
)

// Run is what run history says about a job.
type Run struct {
	Status string
	// Reason is why the job waits, if it does.
	Reason   string            `json:"statusReason"`
	LogFiles map[string]string // name to address
	Error    *RunError
	Warnings []struct{ Message string }
	// Properties hold what the platform notes about the run.
	Properties map[string]string
}

// RunError is why a run failed.
type RunError struct {
	Error struct{ Code, Message string }
}

// Ended tells whether a job of that status goes no further.
func Ended(status string) bool {
	return slices.Contains([]string{"Completed", "Failed", "Canceled", "NotResponding", "Paused"}, status)
}

// Run reads a job's details from run history.
func (c *Client) Run(ctx context.Context, job string) (Run, error) {
	var r Run
	_, data, err := c.exchange(ctx, http.MethodGet, c.history("runs", job, "details"), nil)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read run: %w", err)
	}
	return r, nil
}

func (c *Client) history(parts ...string) string {
	u := url.URL{Path: "/history/v1.0" + c.Path() + "/" + strings.Join(parts, "/")}
	return c.URL + u.EscapedPath()
}

// Children gives the runs that a job or a script inside it has started, in the
// words of the YAML files: nested runs of MLflow are no jobs of their own.
func (c *Client) Children(ctx context.Context, job string) ([]map[string]any, error) {
	_, data, err := c.exchange(ctx, http.MethodGet, c.history("runs", job, "children"), nil)
	if err != nil {
		return nil, err
	}
	var page struct {
		Value []struct {
			ID          string `json:"runId"`
			Parent      string `json:"parentRunId"`
			Kind        string `json:"runType"`
			Status      string
			DisplayName string
			Hidden      bool
			Tags        map[string]string
			Created     string `json:"createdUtc"`
			CreatedBy   struct{ UserName string }
		}
	}
	if err := json.Unmarshal(data, &page); err != nil {
		return nil, fmt.Errorf("read children: %w", err)
	}
	list := make([]map[string]any, len(page.Value))
	for i, r := range page.Value {
		kind := strings.TrimSuffix(strings.TrimPrefix(r.Kind, "azureml."), "job")
		list[i] = map[string]any{
			"name": r.ID, "parent_job_name": r.Parent, "type": kind, "status": r.Status, "display_name": r.DisplayName, "tags": r.Tags,
			"is_archived": r.Hidden, "creation_context": map[string]any{"created_at": r.Created, "created_by": r.CreatedBy.UserName},
		}
	}
	return list, nil
}

// Explain adds to the view of a job why it waits or why it failed, which run
// history knows.
func (c *Client) Explain(ctx context.Context, job map[string]any) error {
	name, status := text(job["name"]), text(job["status"])
	if status == "Completed" || status == "Running" || name == "" {
		return nil
	}
	r, err := c.Run(ctx, name)
	if err != nil {
		return err
	}
	if r.Reason != "" {
		job["status_reason"] = r.Reason
	}
	if r.Error != nil && r.Error.Error.Message != "" {
		job["error"] = map[string]any{"code": r.Error.Error.Code, "message": r.Error.Error.Message}
	}
	return nil
}

// The logs that follow copies to the user: what the job printed, of one node
// or of each. The build log comes before.
var (
	userLog  = pattern.New(`^user_logs/std_log[^0-9]*0*(?:_ps)?\.txt$`)
	buildLog = "azureml-logs/20_image_build_log.txt"
)

// Follow is how a stream tells what happens.
type Follow struct {
	Out    io.Writer                   // what the job prints
	Build  func(line string)           // a line of the environment's build log
	Status func(status, reason string) // the status, or the reason to wait, changed
}

// Stream copies the log of a job as it is written, until the job has ended.
// It goes on where it was when the server is back after a restart.
func (c *Client) Stream(ctx context.Context, job string, f Follow) (Run, error) {
	logs := map[string]*tail{}
	pause := 200 * time.Millisecond
	var status, reason string
	for {
		r, err := c.Run(ctx, job)
		if err != nil {
			return r, err
		}
		why := r.Reason
		if why == "" && len(r.Warnings) > 0 && !Ended(r.Status) {
			why = r.Warnings[len(r.Warnings)-1].Message
		}
		if (r.Status != status || why != reason) && f.Status != nil {
			f.Status(r.Status, why)
		}
		status, reason = r.Status, why
		names := make([]string, 0, len(r.LogFiles))
		for name := range r.LogFiles {
			names = append(names, name)
		}
		slices.Sort(names)
		news := false
		for _, name := range names {
			to := f.Out
			switch {
			case name == buildLog && f.Build != nil:
				to = &lines{each: f.Build}
			case !userLog.MatchString(name):
				continue
			}
			t := logs[name]
			if t == nil {
				t = &tail{to: to}
				logs[name] = t
			}
			n, err := t.copy(ctx, c, r.LogFiles[name])
			if err != nil {
				return r, err
			}
			news = news || n > 0
		}
		if Ended(r.Status) {
			for _, t := range logs {
				if l, ok := t.to.(*lines); ok {
					l.flush()
				}
			}
			return r, nil
		}
		// A job that prints is asked often, one that is silent less so; never
		// so seldom that a line is late.
		if news {
			pause = 200 * time.Millisecond
		}
		if err := sleep(ctx, pause); err != nil {
			return r, err
		}
		most := 800 * time.Millisecond
		if r.Status == "Running" {
			most = 400 * time.Millisecond
		}
		pause = min(pause*3/2, most)
	}
}

// tail copies a growing blob.
type tail struct {
	to io.Writer
	at int64
}

func (t *tail) copy(ctx context.Context, c *Client, address string) (int, error) {
	data, err := c.rangeFrom(ctx, address, t.at)
	if fault.Is(err, fault.Missing) {
		return 0, nil // it is listed before its first line is there
	}
	if err != nil {
		return 0, err
	}
	t.at += int64(len(data))
	_, err = t.to.Write(data)
	return len(data), err
}

// lines calls each for every whole line written.
type lines struct {
	each func(string)
	rest string
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(p), nil
		}
		l.each(strings.TrimRight(line, "\r"))
		l.rest = rest
	}
}

func (l *lines) flush() {
	if l.rest != "" {
		l.each(l.rest)
		l.rest = ""
	}
}

// Cancel asks a job to end and returns when the request is taken.
func (c *Client) Cancel(ctx context.Context, job string) error {
	_, err := c.Post(ctx, c.Path("jobs", job, "cancel"), nil)
	return err
}

// The fields of a run that may be changed after it was made.
type RunChange struct {
	Hidden      *bool              `json:"hidden,omitempty"`
	DisplayName *string            `json:"displayName,omitempty"`
	Description *string            `json:"description,omitempty"`
	Tags        map[string]*string `json:"tags,omitempty"` // nil removes one; those not named stay
}

// ChangeRun changes a job's display name, description, tags or visibility.
func (c *Client) ChangeRun(ctx context.Context, job string, change RunChange) error {
	data, err := c.Get(ctx, c.Path("jobs", job))
	if err != nil {
		return err
	}
	var r struct {
		Properties struct {
			ExperimentName string
			Tags           map[string]*string
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if change.Tags != nil { // the server takes them for all that there are
		all := map[string]*string{}
		maps.Copy(all, r.Properties.Tags)
		maps.Copy(all, change.Tags)
		change.Tags = all
	}
	experiment := r.Properties.ExperimentName
	if experiment == "" {
		experiment = "Default"
	}
	_, _, err = c.exchange(ctx, http.MethodPatch, c.history("experiments", experiment, "runs", job)+"?api-version=v1.0", change)
	return err
}

// Download brings the outputs of a job into dir: the named one, the default
// one ("default": logs and ./outputs), or all. Each named output lies in
// named-outputs/NAME, the default one in artifacts. It gives the number of files.
func (c *Client) Download(ctx context.Context, job, output string, all bool, dir string) (int, error) {
	data, err := c.Get(ctx, c.Path("jobs", job))
	if err != nil {
		return 0, err
	}
	var j struct {
		Properties struct {
			Status  string
			Outputs map[string]struct{ JobOutputType, URI string }
		}
	}
	if err := json.Unmarshal(data, &j); err != nil {
		return 0, err
	}
	if !Ended(j.Properties.Status) {
		return 0, fault.Conflicts("The job %q is %s; its outputs can be downloaded when it has ended. `lapis job stream --name %s` waits for that.", job, j.Properties.Status, job)
	}
	count := 0
	if all || output == "" || output == "default" {
		k, _, err := c.datastore(ctx, "workspaceartifactstore")
		if err != nil {
			return 0, err
		}
		n, err := c.downloadTo(ctx, k, "ExperimentRun/dcid."+job+"/", filepath.Join(dir, "artifacts"), job)
		if err != nil {
			return count, err
		}
		count += n
		if !all {
			return count, nil
		}
	}
	found, err := c.outputs(ctx, job)
	if err != nil {
		return count, err
	}
	if !all && found[output] == "" {
		names := []string{"default"}
		for name := range j.Properties.Outputs {
			if name != "default" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return count, fault.NotFound("The job %q has no output %q. It has: %s.", job, output, strings.Join(names, ", "))
	}
	for name, uri := range found {
		if !all && name != output || name == "default" {
			continue
		}
		n, err := c.downloadURI(ctx, uri, filepath.Join(dir, "named-outputs", name), name)
		if err != nil {
			return count, err
		}
		count += n
	}
	return count, nil
}

// outputs gives where a job's named outputs lie.
func (c *Client) outputs(ctx context.Context, job string) (map[string]string, error) {
	_, data, err := c.exchange(ctx, http.MethodPost, c.history("rundata"), map[string]any{"runId": job, "selectRunMetadata": true, "selectRunDefinition": true, "selectJobSpecification": true})
	if err != nil {
		return nil, err
	}
	var r struct {
		RunMetadata struct {
			Outputs map[string]struct{ AssetID, Type string }
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, o := range r.RunMetadata.Outputs {
		if strings.HasPrefix(o.AssetID, "azureml://") && strings.Contains(o.AssetID, "/datastores/") {
			out[name] = o.AssetID
			continue
		}
		kind, service := "data", "/data/v1.0"+c.Path()+"/dataversion/batchGetResolvedUris"
		if strings.Contains(o.AssetID, "/models/") {
			kind, service = "models", "/modelregistry/v1.0"+c.Path()+"/models/batchGetResolvedUris"
		}
		u := url.URL{Path: service}
		_, data, err := c.exchange(ctx, http.MethodPost, c.URL+u.EscapedPath(), map[string]any{"values": []string{o.AssetID}})
		if err != nil {
			return nil, fmt.Errorf("resolve %s %s: %w", kind, o.AssetID, err)
		}
		var resolved struct {
			Values map[string]struct{ URI, Path string }
		}
		if err := json.Unmarshal(data, &resolved); err != nil {
			return nil, err
		}
		for _, v := range resolved.Values {
			if out[name] = v.URI; v.URI == "" {
				out[name] = v.Path
			}
		}
	}
	return out, nil
}

var datastoreURI = pattern.New(`^azureml://(?:subscriptions/[^/]+/resource[gG]roups/[^/]+/(?:providers/Microsoft.MachineLearningServices/)?workspaces/[^/]+/)?datastores/([^/]+)/paths/(.*)$`)

// downloadURI brings what lies at a datastore address into dir.
func (c *Client) downloadURI(ctx context.Context, uri, dir, label string) (int, error) {
	m := datastoreURI.FindStringSubmatch(uri)
	if m == nil {
		return 0, fault.Invalid("%s is not the address of a datastore, so it cannot be downloaded.", uri)
	}
	k, _, err := c.datastore(ctx, m[1])
	if err != nil {
		return 0, err
	}
	return c.downloadTo(ctx, k, m[2], dir, label)
}

// DownloadModel brings a model's files into dir/NAME.
func (c *Client) DownloadModel(ctx context.Context, name, version, dir string) (int, error) {
	data, err := c.Get(ctx, c.Path("models", name, "versions", version))
	if err != nil {
		return 0, err
	}
	var m struct {
		Properties struct{ ModelURI string }
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return 0, err
	}
	dir = filepath.Join(dir, name)
	if c.Registry != "" {
		k, base, err := c.registryDownload(ctx, spec.Asset{Collection: "models", Name: name, Version: version}, m.Properties.ModelURI)
		if err != nil {
			return 0, err
		}
		return c.downloadModel(ctx, k, strings.TrimPrefix(strings.TrimPrefix(m.Properties.ModelURI, base), "/"), dir, name)
	}
	at := datastoreURI.FindStringSubmatch(m.Properties.ModelURI)
	if at == nil {
		return 0, fault.Invalid("The model lies at %s, which is no datastore, so it cannot be downloaded.", m.Properties.ModelURI)
	}
	k, _, err := c.datastore(ctx, at[1])
	if err != nil {
		return 0, err
	}
	return c.downloadModel(ctx, k, at[2], dir, name)
}

// downloadModel brings what lies at prefix. A folder keeps its name below the
// model's; a file lies there itself.
func (c *Client) downloadModel(ctx context.Context, k container, prefix, dir, name string) (int, error) {
	prefix = strings.TrimSuffix(prefix, "/")
	list, err := c.blobs(ctx, k, prefix)
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(list, func(b Blob) bool { return b.Name == prefix }) {
		dir = filepath.Join(dir, path.Base(prefix))
		prefix += "/"
	}
	n, err := c.downloadTo(ctx, k, prefix, dir, name)
	if err == nil && n == 0 {
		err = fault.NotFound("The model %q has no files.", name)
	}
	return n, err
}

// Artifact is a file that a job logged.
type Artifact struct {
	Path string
	Size int64
}

// Artifacts lists what a job wrote: its logs and ./outputs.
func (c *Client) Artifacts(ctx context.Context, job string) ([]Artifact, error) {
	k, _, err := c.datastore(ctx, "workspaceartifactstore")
	if err != nil {
		return nil, err
	}
	prefix := "ExperimentRun/dcid." + job + "/"
	list, err := c.blobs(ctx, k, prefix)
	if err != nil {
		return nil, err
	}
	var out []Artifact
	for _, b := range list {
		out = append(out, Artifact{strings.TrimPrefix(b.Name, prefix), b.Size})
	}
	return out, nil
}

// Metrics gives the latest value of each metric of a job.
func (c *Client) Metrics(ctx context.Context, job string) (map[string]float64, error) {
	u := url.URL{Path: "/mlflow/v2.0" + c.Path() + "/api/2.0/mlflow/runs/get"}
	_, data, err := c.exchange(ctx, http.MethodGet, c.URL+u.EscapedPath()+"?run_id="+url.QueryEscape(job), nil)
	if err != nil {
		return nil, err
	}
	var r struct {
		Run struct {
			Data struct {
				Metrics []struct {
					Key   string
					Value float64
				}
			}
		}
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, m := range r.Run.Data.Metrics {
		out[m.Key] = m.Value
	}
	return out, nil
}
