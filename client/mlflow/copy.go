package mlflow

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"lapis/client"
	"lapis/fault"
)

// Tally counts things of one kind.
type Tally struct {
	Found    int `json:"found"`
	Imported int `json:"imported"`
	Present  int `json:"present"` // were here already, as the store has them
	Skipped  int `json:"skipped"`
}

// Skip is a thing that was not imported.
type Skip struct {
	Kind   string `json:"kind"`
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Report is what an import did.
type Report struct {
	Experiments Tally `json:"experiments"`
	Runs        Tally `json:"runs"`
	Points      int64 `json:"metric_points"` // sent; those that were here are kept once
	Artifacts   Tally `json:"artifacts"`
	Bytes       int64 `json:"artifact_bytes"`
	Models      Tally `json:"logged_models"`
	Registered  Tally `json:"registered_models"`
	Versions    Tally `json:"model_versions"`
	Traces      Tally `json:"traces"`

	// Renumbered are the experiments that have another id here, because theirs
	// was taken: the store's id and ours.
	Renumbered map[string]string `json:"renumbered,omitempty"`
	// Left counts what is not imported.
	Left map[string]int `json:"not_imported,omitempty"`
	// Skipped has the first of what was skipped; the tallies have all.
	Skipped []Skip `json:"skipped,omitempty"`
}

// mostSkips bounds the skipped things that a report names.
const mostSkips = 1000

// Import copies a store to the workspace of a client.
type Import struct {
	Store Store
	To    *client.Client

	// Experiments chooses by name or id; none chooses all.
	Experiments []string

	// Again copies runs that were copied before, too, and sends files anew.
	Again bool

	// NoArtifacts leaves the files where they are.
	NoArtifacts bool

	// Progress, if set, is told how far the import is. It may be called from
	// several goroutines, one at a time.
	Progress func(what string, done, total int, r *Report)

	mu     sync.Mutex
	report Report
	ids    map[string]string   // experiment → its id here
	roots  map[string]root     // run or logged model → where its artefacts are
	models map[string][]Metric // points of logged models whose runs are to come, by run
}

// root is where artefacts were and are.
type root struct{ from, to string }

// workers is how many runs are copied at a time.
const workers = 8

// Run imports all that is not here yet. It may be called again at any time,
// also after it was cut off; the report is of this call alone.
func (i *Import) Run(ctx context.Context) (*Report, error) {
	i.ids, i.roots, i.models = map[string]string{}, map[string]root{}, map[string][]Metric{}
	err := i.run(ctx)
	return &i.report, err
}

func (i *Import) run(ctx context.Context) error {
	all, err := i.Store.Experiments(ctx)
	if err != nil {
		return err
	}
	chosen, err := i.choose(all)
	if err != nil {
		return err
	}
	i.report.Experiments.Found = len(chosen)
	var deleted []Experiment
	for n, e := range chosen {
		i.tell("Experiment "+e.Name, n, len(chosen))
		gone, err := i.experiment(ctx, e)
		if err != nil {
			return err
		}
		if gone {
			deleted = append(deleted, e)
		}
	}
	// Models that runs of other experiments have measured.
	for _, run := range sorted(i.models) {
		for points := range slices.Chunk(i.models[run], pieces) {
			if err := i.log(ctx, run, points); err != nil {
				if err := i.skip(ctx, "metrics of logged models", run, err, modelsOf); err != nil {
					return err
				}
				break
			}
		}
	}
	if len(i.Experiments) == 0 {
		if err := i.registry(ctx); err != nil {
			return err
		}
		if i.report.Left, err = i.Store.Left(ctx); err != nil {
			return err
		}
	}
	for _, e := range deleted {
		if err := i.To.MLflow(ctx, http.MethodPost, "2.0/mlflow/experiments/delete", nil, map[string]any{"experiment_id": i.ids[e.ID]}, nil); err != nil && !fault.Is(err, fault.Missing) {
			return err
		}
	}
	return nil
}

func (i *Import) choose(all []Experiment) ([]Experiment, error) {
	if len(i.Experiments) == 0 {
		return all, nil
	}
	var chosen []Experiment
	for _, want := range i.Experiments {
		at := slices.IndexFunc(all, func(e Experiment) bool { return e.Name == want })
		if at < 0 {
			at = slices.IndexFunc(all, func(e Experiment) bool { return e.ID == want })
		}
		if at < 0 {
			names := make([]string, 0, len(all))
			for _, e := range all[:min(20, len(all))] {
				names = append(names, e.Name)
			}
			return nil, fault.NotFound("The store has no experiment %q. It has: %s.", want, strings.Join(names, ", "))
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

// tell reports progress.
func (i *Import) tell(what string, done, total int) {
	if i.Progress == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.Progress(what, done, total, &i.report)
}

// count changes the report.
func (i *Import) count(change func(r *Report)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(&i.report)
}

// skip notes that something is left out. An error that all the rest would
// meet, too, comes back.
func (i *Import) skip(ctx context.Context, kind, id string, err error, of func(r *Report) *Tally) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, k := range []fault.Kind{fault.Unavailable, fault.Unauthenticated, fault.Forbidden, fault.StorageFull, fault.Misdirected} {
		if fault.Is(err, k) {
			return err
		}
	}
	reason := err.Error()
	i.count(func(r *Report) {
		of(r).Skipped++
		if len(r.Skipped) < mostSkips {
			r.Skipped = append(r.Skipped, Skip{kind, id, reason})
		}
	})
	return nil
}

func experimentsOf(r *Report) *Tally { return &r.Experiments }
func runsOf(r *Report) *Tally        { return &r.Runs }
func filesOf(r *Report) *Tally       { return &r.Artifacts }
func modelsOf(r *Report) *Tally      { return &r.Models }
func registeredOf(r *Report) *Tally  { return &r.Registered }
func versionsOf(r *Report) *Tally    { return &r.Versions }
func tracesOf(r *Report) *Tally      { return &r.Traces }

func (i *Import) post(ctx context.Context, what string, body, reply any) error {
	return i.To.MLflow(ctx, http.MethodPost, "lapis/import/"+what, nil, body, reply)
}

// experiment imports an experiment with its logged models, runs and traces. It
// is true for one that is to be deleted in the end, as the store has it.
func (i *Import) experiment(ctx context.Context, e Experiment) (gone bool, err error) {
	sent := e
	sent.Artifact = "" // artefacts lie with this server
	var reply struct {
		Made       bool
		Experiment struct {
			ID        string `json:"experiment_id"`
			Lifecycle string `json:"lifecycle_stage"`
			Created   int64  `json:"creation_time"`
		}
	}
	if err := i.post(ctx, "experiments", sent, &reply); err != nil {
		return false, i.skip(ctx, "experiment", e.Name, err, experimentsOf)
	}
	here := reply.Experiment
	i.ids[e.ID] = here.ID
	i.count(func(r *Report) {
		if reply.Made {
			r.Experiments.Imported++
		} else {
			r.Experiments.Present++
		}
		if here.ID != e.ID {
			if r.Renumbered == nil {
				r.Renumbered = map[string]string{}
			}
			r.Renumbered[e.ID] = here.ID
		}
	})
	models, err := i.Store.Models(ctx, e)
	if err != nil {
		return false, err
	}
	for _, m := range models {
		for _, p := range m.Metrics {
			i.models[p.Run] = append(i.models[p.Run], p)
		}
		if err := i.model(ctx, m); err != nil {
			return false, err
		}
	}
	ids, err := i.Store.Runs(ctx, e)
	if err != nil {
		return false, err
	}
	i.count(func(r *Report) { r.Runs.Found += len(ids) })
	err = i.each(ctx, ids, "Runs of "+e.Name, func(ctx context.Context, id string) error {
		i.mu.Lock()
		more := i.models[id]
		delete(i.models, id)
		i.mu.Unlock()
		if err := i.one(ctx, e, id, more); err != nil {
			return i.skip(ctx, "run", id, err, runsOf)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if err := i.traces(ctx, e); err != nil {
		return false, err
	}
	// One that was here before is not ours to delete.
	ours := reply.Made || here.Created == e.Created && e.Created != 0
	return e.Lifecycle == "deleted" && here.Lifecycle != "deleted" && ours, nil
}

// each works on the list, several at a time. The first error ends it.
func (i *Import) each(ctx context.Context, list []string, what string, work func(ctx context.Context, id string) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	next := make(chan string)
	var group sync.WaitGroup
	var done int
	var mu sync.Mutex
	for range min(workers, len(list)) {
		group.Go(func() {
			for id := range next {
				if err := work(ctx, id); err != nil {
					stop(err)
					return
				}
				mu.Lock()
				done++
				n := done
				mu.Unlock()
				i.tell(what, n, len(list))
			}
		})
	}
	for _, id := range list {
		if ctx.Err() != nil {
			break
		}
		select {
		case next <- id:
		case <-ctx.Done():
		}
	}
	close(next)
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// markOf tells what the store has of a run.
func markOf(r Run, more []Metric) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	_ = e.Encode(r)
	_ = e.Encode(r.State)
	_ = e.Encode(more)
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// one imports a run. more are its points that belong to logged models, too.
func (i *Import) one(ctx context.Context, e Experiment, id string, more []Metric) error {
	r, err := i.Store.Run(ctx, e, id)
	if err != nil {
		return err
	}
	mark := markOf(r, more)
	have := mark
	if i.Again {
		have += "-again" // nothing here is as good as that
	}
	from := Folder{URI: r.Info.Artifact, Run: r.Info.ID, dir: r.dir}
	files, fileErr := i.files(ctx, from)
	sent := r
	sent.Info.Experiment, sent.Info.Artifact = i.ids[e.ID], ""
	if fault.Is(fileErr, fault.Missing) && elsewhere(r.Info.Artifact) {
		sent.Info.Artifact = r.Info.Artifact // clients read them there
	}
	begin := map[string]any{"run": sent, "mark": have}
	var reply struct {
		State    string
		Artifact string `json:"artifact_uri"`
	}
	if err := i.post(ctx, "runs", begin, &reply); err != nil {
		return err
	}
	i.count(func(*Report) { i.roots[id] = root{r.Info.Artifact, reply.Artifact} })
	switch {
	case reply.State == "taken":
		return fault.Conflicts("a run of this id is here already that was not imported")
	case reply.State == "done":
		i.count(func(r *Report) { r.Runs.Present++ })
		return nil
	}
	type place struct {
		key        string
		step, time int64
	}
	none := map[place]bool{} // where the value is no number
	for points, err := range i.Store.Metrics(ctx, r) {
		if err != nil {
			return err
		}
		for _, p := range points {
			if p.Value != p.Value {
				none[place{p.Key, p.Step, p.Time}] = true
			}
		}
		if err := i.log(ctx, id, points); err != nil {
			return err
		}
	}
	for n, p := range more {
		// MLflow's table of models' metrics has zero for them.
		if p.Value == 0 && none[place{p.Key, p.Step, p.Time}] {
			more[n].Value = notANumber
		}
	}
	for points := range slices.Chunk(more, pieces) {
		if err := i.log(ctx, id, points); err != nil {
			return err
		}
	}
	if fileErr != nil {
		if err := i.skip(ctx, "artifacts", id, fileErr, filesOf); err != nil {
			return err
		}
	} else if err := i.send(ctx, files, reply.Artifact, reply.State != "new"); err != nil {
		return err
	}
	finish := map[string]any{"run_id": id, "status": r.Info.Status, "end_time": r.Info.End, "mark": mark}
	if at := deletedAt(e, r); at != 0 {
		finish["deleted_time"] = at
	}
	if err := i.post(ctx, "runs/finish", finish, nil); err != nil {
		return err
	}
	i.count(func(r *Report) { r.Runs.Imported++ })
	return nil
}

// deletedAt is when a run was deleted, in Unix ms; 0 for one that was not, or
// that went with its experiment.
func deletedAt(e Experiment, r Run) int64 {
	if r.Info.Lifecycle != "deleted" {
		return 0
	}
	if e.Lifecycle == "deleted" && (r.Info.Deleted == 0 || r.Info.Deleted >= e.Updated) {
		return 0
	}
	return max(r.Info.Deleted, r.Info.End, r.Info.Start, 1)
}

func (i *Import) log(ctx context.Context, run string, points []Metric) error {
	if len(points) == 0 {
		return nil
	}
	for n := range points {
		points[n].Run = "" // the request names it
	}
	body := map[string]any{"run_id": run, "metrics": points}
	if err := i.To.MLflow(ctx, http.MethodPost, "2.0/mlflow/runs/log-batch", nil, body, nil); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	i.count(func(r *Report) { r.Points += int64(len(points)) })
	return nil
}

// files lists an artefact folder, if files are wanted.
func (i *Import) files(ctx context.Context, f Folder) ([]File, error) {
	if i.NoArtifacts {
		return nil, nil
	}
	return i.Store.Files(ctx, f)
}

// send uploads files to an artefact root of this server. With look, those that
// are there are left.
func (i *Import) send(ctx context.Context, files []File, to string, look bool) error {
	if len(files) == 0 {
		return nil
	}
	i.count(func(r *Report) { r.Artifacts.Found += len(files) })
	base, ok := client.ProxyPath(to)
	if !ok {
		return fault.Conflicts("its artefacts are at %s here, which this server does not keep", to)
	}
	var there map[string]int64
	if look && !i.Again {
		var err error
		if there, err = i.To.ArtifactsBelow(ctx, base); err != nil {
			return err
		}
	}
	for _, f := range files {
		if size, ok := there[f.Path]; ok && size == f.Size {
			i.count(func(r *Report) { r.Artifacts.Present++ })
			continue
		}
		var sent int64
		open := func() (io.ReadCloser, error) {
			r, err := f.Open(ctx)
			sent = 0
			return counted{r, &sent}, err
		}
		err := i.To.PutArtifact(ctx, base+"/"+f.Path, f.Size, open)
		if err != nil && strings.ContainsAny(f.Path, "#%") {
			err = fault.Invalid("MLflow's protocol has no way to name a file with '#' or '%%' in its path: %v", err)
		}
		if err != nil {
			if err := i.skip(ctx, "artifact", base+"/"+f.Path, err, filesOf); err != nil {
				return err
			}
			continue
		}
		i.count(func(r *Report) {
			r.Artifacts.Imported++
			r.Bytes += sent
		})
	}
	return nil
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	*c.n += int64(n)
	return n, err
}

// model imports a logged model with its files; its metrics come with the runs.
func (i *Import) model(ctx context.Context, m LoggedModel) error {
	i.count(func(r *Report) { r.Models.Found++ })
	files, fileErr := i.files(ctx, Folder{URI: m.Artifact, Model: m.ID, dir: m.dir})
	sent := m
	sent.Experiment, sent.Artifact = i.ids[m.Experiment], ""
	if fault.Is(fileErr, fault.Missing) && elsewhere(m.Artifact) {
		sent.Artifact = m.Artifact
	}
	var reply struct {
		Made     bool
		Artifact string `json:"artifact_uri"`
	}
	if err := i.post(ctx, "logged-models", sent, &reply); err != nil {
		return i.skip(ctx, "logged model", m.ID, err, modelsOf)
	}
	i.count(func(r *Report) {
		i.roots[m.ID] = root{m.Artifact, reply.Artifact}
		if reply.Made {
			r.Models.Imported++
		} else {
			r.Models.Present++
		}
	})
	if fileErr != nil {
		return i.skip(ctx, "artifacts", m.ID, fileErr, filesOf)
	}
	if err := i.send(ctx, files, reply.Artifact, !reply.Made); err != nil {
		return i.skip(ctx, "artifacts", m.ID, err, filesOf)
	}
	return nil
}

// registry imports the registered models.
func (i *Import) registry(ctx context.Context) error {
	list, err := i.Store.Registered(ctx)
	if err != nil {
		return err
	}
	i.count(func(r *Report) { r.Registered.Found = len(list) })
	for n, m := range list {
		i.tell("Registered models", n, len(list))
		if err := i.registered(ctx, m); err != nil {
			if err := i.skip(ctx, "registered model", m.Name, err, registeredOf); err != nil {
				return err
			}
		}
	}
	return nil
}

type made struct{ Made bool }

func (i *Import) registered(ctx context.Context, m RegisteredModel) error {
	var model made
	if err := i.post(ctx, "registered-models", m, &model); err != nil {
		return err
	}
	var last int64
	for _, v := range m.Versions {
		i.count(func(r *Report) { r.Versions.Found++ })
		if n, err := strconv.ParseInt(v.Number, 10, 64); err == nil {
			last = max(last, n)
		}
		if err := i.version(ctx, v); err != nil {
			if err := i.skip(ctx, "model version", v.Name+"/"+v.Number, err, versionsOf); err != nil {
				return err
			}
		}
	}
	if model.Made && m.Last > last {
		// Numbers of versions that were deleted are not given again.
		number := strconv.FormatInt(m.Last, 10)
		if err := i.post(ctx, "model-versions", ModelVersion{Name: m.Name, Number: number, Source: "models:/" + m.Name + "/" + number}, nil); err != nil {
			return err
		}
		// As a resource: MLflow's own call would date the model anew.
		if err := i.To.Delete(ctx, i.To.Path("models", m.Name, "versions", number), nil); err != nil {
			return err
		}
	}
	if err := i.aliases(ctx, m); err != nil {
		return err
	}
	i.count(func(r *Report) {
		if model.Made {
			r.Registered.Imported++
		} else {
			r.Registered.Present++
		}
	})
	return nil
}

// aliases sets those that nobody has set here.
func (i *Import) aliases(ctx context.Context, m RegisteredModel) error {
	if len(m.Aliases) == 0 {
		return nil
	}
	var reply struct {
		Model struct {
			Aliases []struct{ Alias string }
		} `json:"registered_model"`
	}
	if err := i.To.MLflow(ctx, http.MethodGet, "2.0/mlflow/registered-models/get", url.Values{"name": {m.Name}}, nil, &reply); err != nil {
		return err
	}
	for _, alias := range sorted(m.Aliases) {
		if slices.ContainsFunc(reply.Model.Aliases, func(a struct{ Alias string }) bool { return a.Alias == alias }) {
			continue
		}
		body := map[string]string{"name": m.Name, "alias": alias, "version": m.Aliases[alias]}
		if err := i.To.MLflow(ctx, http.MethodPost, "2.0/mlflow/registered-models/alias", nil, body, nil); err != nil {
			return err
		}
	}
	return nil
}

func (i *Import) version(ctx context.Context, v ModelVersion) error {
	source, err := i.source(ctx, v)
	if err != nil {
		return err
	}
	v.Source = source
	if id, ok := strings.CutPrefix(source, "models:/m-"); ok && v.Model == "" {
		id, _, _ = strings.Cut(id, "/")
		v.Model = "m-" + id
	}
	var reply made
	if err := i.post(ctx, "model-versions", v, &reply); err != nil {
		return err
	}
	i.count(func(r *Report) {
		if reply.Made {
			r.Versions.Imported++
		} else {
			r.Versions.Present++
		}
	})
	return nil
}

const promptTag = "mlflow.prompt.is_prompt"

var idInPath = regexp.MustCompile(`/(m-[0-9a-f]{32}|[0-9a-f]{32})/artifacts(?:/|$)`)

// source is where the files of a version are here.
func (i *Import) source(ctx context.Context, v ModelVersion) (string, error) {
	prompt := slices.ContainsFunc(v.Tags, func(t Tag) bool { return t.Key == promptTag })
	if prompt || strings.HasPrefix(v.Source, "models:/") || strings.HasPrefix(v.Source, "runs:/") {
		return v.Source, nil
	}
	owners := []string{v.Run, v.Model}
	if m := idInPath.FindStringSubmatch(v.Source); m != nil {
		owners = append(owners, m[1])
	}
	for _, id := range owners {
		at, ok := i.roots[id]
		if !ok {
			continue
		}
		if below, ok := strings.CutPrefix(plainPath(v.Source), strings.TrimSuffix(plainPath(at.from), "/")); ok && at.from != "" && (below == "" || below[0] == '/') {
			return strings.TrimSuffix(at.to, "/") + below, nil
		}
		if m := idInPath.FindStringSubmatchIndex(v.Source); m != nil && v.Source[m[2]:m[3]] == id {
			return strings.TrimSuffix(at.to, "/") + strings.TrimSuffix("/"+strings.Trim(v.Source[m[1]:], "/"), "/"), nil
		}
	}
	if elsewhere(v.Source) {
		return v.Source, nil
	}
	// A folder of its own: it is kept with the imported ones.
	files, err := i.files(ctx, Folder{URI: v.Source})
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fault.NotFound("its files are not found at %s", v.Source)
	}
	name := v.Name
	if !safeName.MatchString(name) {
		name = fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:32]
	}
	to := "mlflow-artifacts:/imported/" + name + "/" + v.Number
	return to, i.send(ctx, files, to, true)
}

var safeName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// plainPath is an address without the scheme of files.
func plainPath(s string) string {
	if u, err := url.Parse(s); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return s
}

// lookFor is how many traces are looked for at a time.
const lookFor = 100

// traces imports the traces of an experiment. The spans come first: a trace
// whose last word is said is whole.
func (i *Import) traces(ctx context.Context, e Experiment) error {
	ids, err := i.Store.Traces(ctx, e)
	if err != nil {
		return err
	}
	i.count(func(r *Report) { r.Traces.Found += len(ids) })
	var missing []string
	for some := range slices.Chunk(ids, lookFor) {
		var reply struct {
			Infos []struct {
				ID       string            `json:"trace_id"`
				Metadata map[string]string `json:"trace_metadata"`
			} `json:"trace_infos"`
		}
		if err := i.To.MLflow(ctx, http.MethodPost, "3.0/mlflow/traces/batchGetInfos", nil, map[string]any{"trace_ids": some}, &reply); err != nil {
			return err
		}
		whole := map[string]bool{}
		for _, t := range reply.Infos {
			whole[t.ID] = t.Metadata["mlflow.trace.infoFinalized"] == "true"
		}
		for _, id := range some {
			if whole[id] {
				i.count(func(r *Report) { r.Traces.Present++ })
			} else {
				missing = append(missing, id)
			}
		}
	}
	return i.each(ctx, missing, "Traces of "+e.Name, func(ctx context.Context, id string) error {
		if err := i.trace(ctx, e, id); err != nil {
			return i.skip(ctx, "trace", id, err, tracesOf)
		}
		i.count(func(r *Report) { r.Traces.Imported++ })
		return nil
	})
}

// spansAtOnce is how many spans go in one request.
const spansAtOnce = 200

func (i *Import) trace(ctx context.Context, e Experiment, id string) error {
	t, err := i.Store.Trace(ctx, e, id)
	if err != nil {
		return err
	}
	here := i.ids[e.ID]
	t.own()
	for some := range slices.Chunk(t.Spans, spansAtOnce) {
		body := map[string]any{"resourceSpans": []any{map[string]any{"scopeSpans": []any{map[string]any{"spans": some}}}}}
		if err := i.To.LogSpans(ctx, here, body); err != nil {
			return fmt.Errorf("spans: %w", err)
		}
	}
	t.Location = inExperiment(here)
	if t.State == "" {
		t.State = "STATE_UNSPECIFIED"
	}
	if err := i.To.MLflow(ctx, http.MethodPost, "3.0/mlflow/traces", nil, map[string]any{"trace": map[string]any{"trace_info": t}}, nil); err != nil {
		return err
	}
	for _, run := range t.Runs {
		err := i.To.MLflow(ctx, http.MethodPost, "2.0/mlflow/traces/link-to-run", nil, map[string]any{"trace_ids": []string{id}, "run_id": run}, nil)
		if err != nil && !errors.Is(err, context.Canceled) && fault.Find(err) == nil {
			return err
		}
	}
	return nil
}
