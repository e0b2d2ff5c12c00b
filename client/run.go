package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"lapis/client/spec"
	"lapis/fault"
)

// In is a client for another workspace of the same resource group.
func (c *Client) In(workspace string) *Client {
	there := &Client{Config: c.Config, http: c.http, Patience: c.Patience, Progress: c.Progress, Waiting: c.Waiting, Trace: c.Trace}
	c.mu.Lock()
	there.token, there.expires, there.reached = c.token, c.expires, c.reached
	c.mu.Unlock()
	there.Target = spec.Target{Subscription: c.Subscription, ResourceGroup: c.ResourceGroup, Workspace: workspace}
	return there
}

// Tag is a key and its value, as MLflow sends tags and params.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Experiment is an experiment of MLflow.
type Experiment struct {
	ID        string `json:"experiment_id"`
	Name      string `json:"name"`
	Artifact  string `json:"artifact_location"`
	Lifecycle string `json:"lifecycle_stage"`
	Created   int64  `json:"creation_time"`    // Unix ms
	Updated   int64  `json:"last_update_time"` // Unix ms
	Tags      []Tag  `json:"tags"`
}

// ExperimentSearch chooses experiments. View is ACTIVE_ONLY, DELETED_ONLY or
// ALL; Most 0 means all.
type ExperimentSearch struct {
	Filter string
	View   string
	Order  []string
	Most   int
}

// Experiments searches experiments.
func (c *Client) Experiments(ctx context.Context, q ExperimentSearch) ([]Experiment, error) {
	list := []Experiment{}
	for token := ""; ; {
		body := map[string]any{"max_results": 1000, "filter": q.Filter, "order_by": q.Order, "page_token": token}
		if q.View != "" {
			body["view_type"] = q.View
		}
		var page struct {
			Experiments []Experiment
			Next        string `json:"next_page_token"`
		}
		if err := c.MLflow(ctx, http.MethodPost, "2.0/mlflow/experiments/search", nil, body, &page); err != nil {
			return nil, err
		}
		list = append(list, page.Experiments...)
		if q.Most > 0 && len(list) >= q.Most {
			return list[:q.Most], nil
		}
		if token = page.Next; token == "" {
			return list, nil
		}
	}
}

// Experiment finds an experiment by its name, or else by its id.
func (c *Client) Experiment(ctx context.Context, name string) (Experiment, error) {
	var reply struct{ Experiment Experiment }
	err := c.MLflow(ctx, http.MethodGet, "2.0/mlflow/experiments/get-by-name", url.Values{"experiment_name": {name}}, nil, &reply)
	if !fault.Is(err, fault.Missing) {
		return reply.Experiment, err
	}
	if _, e := strconv.ParseInt(name, 10, 64); e == nil {
		if e := c.MLflow(ctx, http.MethodGet, "2.0/mlflow/experiments/get", url.Values{"experiment_id": {name}}, nil, &reply); !fault.Is(e, fault.Missing) {
			return reply.Experiment, e
		}
	}
	var names []string
	if all, e := c.Experiments(ctx, ExperimentSearch{Most: 1000}); e == nil {
		for _, x := range all {
			names = append(names, x.Name)
		}
	}
	if near := spec.Nearest(name, names); near != "" {
		return Experiment{}, fault.NotFound("There is no experiment %q in the workspace %q. Did you mean %q?", name, c.Workspace, near)
	}
	return Experiment{}, fault.NotFound("There is no experiment %q in the workspace %q. `lapis experiment list -o table` shows those that there are.", name, c.Workspace)
}

// RunSource is where runs of a table come from.
type RunSource struct {
	Workspace   string   `json:"workspace"`
	Experiments []string `json:"experiment_ids,omitempty"`
	Runs        []string `json:"run_ids,omitempty"`
}

// RunQuery chooses runs and what is shown of them. Most 0 means all.
type RunQuery struct {
	Sources []RunSource
	Columns []string
	Filter  string
	Order   []string
	View    string
	Most    int
}

// RunTable is runs with their values in chosen columns.
type RunTable struct {
	Columns []string
	Rows    [][]json.RawMessage
	Total   int // of the runs that the query finds, whether shown or not
}

// RunTable reads chosen columns of runs.
func (c *Client) RunTable(ctx context.Context, q RunQuery) (RunTable, error) {
	const pageOf = 5000
	type page struct {
		Columns []string
		Rows    [][]json.RawMessage
		Total   int
		Next    string `json:"next_page_token"`
	}
	var pages []page
	var t RunTable
	at := map[string]int{} // pages may differ in the columns that "*" stands for
	for token, left := "", q.Most; ; {
		n := pageOf
		if q.Most > 0 {
			n = min(n, left)
		}
		body := map[string]any{"sources": q.Sources, "columns": q.Columns, "filter": q.Filter, "order_by": q.Order, "max_results": n, "page_token": token}
		if q.View != "" {
			body["run_view_type"] = q.View
		}
		var p page
		if err := c.MLflow(ctx, http.MethodPost, "lapis/runs/table", nil, body, &p); err != nil {
			return t, err
		}
		for _, name := range p.Columns {
			if _, ok := at[name]; !ok {
				at[name] = len(t.Columns)
				t.Columns = append(t.Columns, name)
			}
		}
		t.Total = p.Total
		pages = append(pages, p)
		left -= len(p.Rows)
		if token = p.Next; token == "" || q.Most > 0 && left <= 0 {
			break
		}
	}
	for _, p := range pages {
		for _, row := range p.Rows {
			values := make([]json.RawMessage, len(t.Columns))
			for i, v := range row {
				values[at[p.Columns[i]]] = v
			}
			t.Rows = append(t.Rows, values)
		}
	}
	return t, nil
}

// RunArtifacts lists the files that a run logged, below path ("" = all), by
// their path from the root of its artefacts, with their sizes in bytes.
func (c *Client) RunArtifacts(ctx context.Context, run, path string) ([]Artifact, error) {
	base, err := c.runRoot(ctx, run)
	if err != nil {
		return nil, err
	}
	path = strings.Trim(path, "/")
	found, err := c.ArtifactsBelow(ctx, strings.Trim(base+"/"+path, "/"))
	if err != nil {
		return nil, err
	}
	list := []Artifact{}
	for name, size := range found {
		list = append(list, Artifact{strings.Trim(path+"/"+name, "/"), size})
	}
	if len(list) == 0 && path != "" {
		// It may be a file.
		folder, name := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			folder, name = path[:i], path[i+1:]
		}
		if found, err = c.ArtifactsBelow(ctx, strings.Trim(base+"/"+folder, "/")); err != nil {
			return nil, err
		}
		if size, ok := found[name]; ok {
			list = append(list, Artifact{path, size})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list, nil
}

// runRoot is where a run's artefacts are, below "mlflow-artifacts:/".
func (c *Client) runRoot(ctx context.Context, run string) (string, error) {
	var reply struct {
		Run struct {
			Info struct {
				Artifact string `json:"artifact_uri"`
			}
		}
	}
	if err := c.MLflow(ctx, http.MethodGet, "2.0/mlflow/runs/get", url.Values{"run_id": {run}}, nil, &reply); err != nil {
		return "", err
	}
	base, ok := ProxyPath(reply.Run.Info.Artifact)
	if !ok {
		return "", fault.Invalid("The artefacts of the run %s lie at %s, which this server does not keep. MLflow's client reads them there.", run, reply.Run.Info.Artifact)
	}
	return base, nil
}

// DownloadRun brings the artefacts of a run, or those below path, into dir,
// under their own paths. It gives their number and size in bytes.
func (c *Client) DownloadRun(ctx context.Context, run, path, dir string) (int, int64, error) {
	list, err := c.RunArtifacts(ctx, run, path)
	if err != nil {
		return 0, 0, err
	}
	base, err := c.runRoot(ctx, run)
	if err != nil {
		return 0, 0, err
	}
	if path != "" && len(list) == 0 {
		return 0, 0, fault.NotFound("The run %s has no artefact at %q. `lapis run files -n %s` lists what it has.", run, path, run)
	}
	var total int64
	for _, a := range list {
		total += a.Size
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var done atomic.Int64
	var group sync.WaitGroup
	next := make(chan Artifact)
	for range min(files, len(list)) {
		group.Go(func() {
			for a := range next {
				to := filepath.Join(dir, filepath.FromSlash(a.Path))
				if !filepath.IsLocal(filepath.FromSlash(a.Path)) {
					stop(fault.Invalid("%q would lie outside of %s.", a.Path, dir))
					return
				}
				n, err := c.GetArtifact(ctx, base+"/"+a.Path, to)
				if err != nil {
					stop(err)
					return
				}
				if sum := done.Add(n); c.Progress != nil {
					c.Progress(run, sum, total)
				}
			}
		})
	}
	for _, a := range list {
		select {
		case next <- a:
		case <-ctx.Done():
		}
	}
	close(next)
	group.Wait()
	return len(list), done.Load(), context.Cause(ctx)
}

// ZipRun brings the artefacts of a run, or those in the folder path, as one
// zip file. It gives its size in bytes.
func (c *Client) ZipRun(ctx context.Context, run, path, file string) (int64, error) {
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return 0, fault.Invalid("%s is a folder; name the zip file to write.", file)
	}
	q := url.Values{"run_id": {run}}
	if path != "" {
		q.Set("path", path)
	}
	return c.fetch(ctx, c.mlflow("lapis/artifacts/zip", q), file)
}
