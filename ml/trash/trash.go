// Package trash removes for good what was deleted: runs and experiments, with
// what they logged and their artefacts, when somebody says so or when it has
// lain in the trash for long enough.
package trash

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/ml/tracking"
	"lapis/resource"
	"lapis/resource/identity"
)

// Trash is what was deleted and can be restored until it is removed for good.
type Trash struct {
	Runs      tracking.Store
	Blobs     blob.Store
	Resources resource.Store

	// DeleteJob deletes a job and with it its run.
	DeleteJob func(ctx context.Context, caller identity.Principal, site ml.Site, name string) error

	// Keep is how long what was deleted stays; 0 means until somebody removes it.
	Keep time.Duration

	// Platform is who empties the trash when its time has come.
	Platform identity.Principal

	Log *slog.Logger
	Now func() time.Time
}

// page is how many things are handled at once.
const page = 500

// DeleteRun removes a run for good, whether it was in the trash or not. A job's
// run goes with its job.
func (t *Trash) DeleteRun(ctx context.Context, caller identity.Principal, site ml.Site, id string, keepArtifacts bool) error {
	r, err := t.Runs.Run(ctx, site.GUID, id)
	if err != nil {
		return err
	}
	if err := t.purgeRun(ctx, caller, site, r, keepArtifacts); err != nil {
		return err
	}
	return t.clear(ctx, &site)
}

func (t *Trash) purgeRun(ctx context.Context, caller identity.Principal, site ml.Site, r tracking.Run, keepArtifacts bool) error {
	if r.Job {
		if t.DeleteJob == nil {
			return tracking.OfJob(r.ID)
		}
		if err := t.DeleteJob(ctx, caller, site, r.ID); err != nil || keepArtifacts {
			return err
		}
		return t.Runs.Discard(ctx, site.GUID, r.Artifact)
	}
	if r.Deleted == 0 {
		if _, err := t.Runs.ChangeRun(ctx, site.GUID, r.ID, func(r *tracking.Run) error {
			if r.Deleted == 0 {
				r.Deleted = t.Now().UnixMilli()
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return t.Runs.PurgeRun(ctx, site.GUID, r.ID, keepArtifacts)
}

// DeleteExperiment removes an experiment and all in it for good, whether it was
// in the trash or not. The workspace's default experiment stays.
func (t *Trash) DeleteExperiment(ctx context.Context, caller identity.Principal, site ml.Site, id string, keepArtifacts bool) error {
	e, err := t.Runs.Experiment(ctx, site.GUID, id)
	if err != nil {
		return err
	}
	if e.Name == tracking.DefaultName {
		return fault.Conflicts("The experiment %q is the workspace's default one and stays; remove its runs.", e.Name).With("RESOURCE_CONFLICT")
	}
	if e.Deleted == 0 {
		if _, err := t.Runs.ChangeExperiment(ctx, site.GUID, id, func(e *tracking.Experiment) error {
			if e.Deleted == 0 {
				e.Deleted = t.Now().UnixMilli()
				e.Updated = e.Deleted
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := t.purgeExperiment(ctx, caller, site, id, keepArtifacts); err != nil {
		return err
	}
	return t.clear(ctx, &site)
}

// purgeExperiment removes the jobs of an experiment and then the rest.
func (t *Trash) purgeExperiment(ctx context.Context, caller identity.Principal, site ml.Site, id string, keepArtifacts bool) error {
	for before := int64(0); ; {
		jobs, err := t.Runs.ListJobs(ctx, site.GUID, tracking.JobFilter{Experiment: id}, before, page)
		if err != nil {
			return err
		}
		for _, r := range jobs {
			if err := t.purgeRun(ctx, caller, site, r, keepArtifacts); err != nil {
				return err
			}
			before = r.Seq
		}
		if len(jobs) < page {
			break
		}
	}
	e, err := t.Runs.Experiment(ctx, site.GUID, id)
	if err != nil {
		return err
	}
	if err := t.Runs.PurgeExperiment(ctx, site.GUID, id, keepArtifacts); err != nil {
		return err
	}
	// An experiment that was given a place may share it; its own it does not.
	if own := "mlflow-artifacts:/" + id; e.Artifact == own && !keepArtifacts {
		return t.Runs.Discard(ctx, site.GUID, own)
	}
	return nil
}

// Entry is a run or an experiment in the trash.
type Entry struct {
	Experiment tracking.Experiment
	Run        *tracking.Run // nil: the experiment itself was deleted
	Deleted    time.Time
	Purged     time.Time // when it will be removed for good; zero = never by itself
}

// position is a page token.
type position struct {
	Deleted int64 `json:"d"`
	Seq     int64 `json:"s"`
}

// List returns what is in a workspace's trash: first the experiments, then up
// to limit runs, those deleted last first.
func (t *Trash) List(ctx context.Context, workspace string, limit int, token string) (list []Entry, next string, err error) {
	var from position
	if token != "" {
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			err = json.Unmarshal(b, &from)
		}
		if err != nil || from.Deleted <= 0 {
			return nil, "", fault.Invalid("The page token %q is none that this server gave.", token).With("INVALID_PARAMETER_VALUE")
		}
	}
	experiments, err := t.Runs.Experiments(ctx, workspace)
	if err != nil {
		return nil, "", err
	}
	byID := make(map[string]tracking.Experiment, len(experiments))
	for _, e := range experiments {
		byID[e.ID] = e
		if e.Deleted != 0 && token == "" {
			list = append(list, t.entry(e, nil, e.Deleted))
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int { return b.Deleted.Compare(a.Deleted) })
	runs, err := t.Runs.DeletedRuns(ctx, tracking.DeletedRuns{Workspace: workspace, Deleted: from.Deleted, Seq: from.Seq, Limit: limit + 1})
	if err != nil {
		return nil, "", err
	}
	if len(runs) > limit {
		runs = runs[:limit]
		last := runs[limit-1]
		b, err := json.Marshal(position{last.Deleted, last.Seq})
		if err != nil {
			return nil, "", err
		}
		next = base64.RawURLEncoding.EncodeToString(b)
	}
	for i := range runs {
		list = append(list, t.entry(byID[runs[i].Experiment], &runs[i], runs[i].Deleted))
	}
	return list, next, nil
}

func (t *Trash) entry(e tracking.Experiment, r *tracking.Run, deleted int64) Entry {
	x := Entry{Experiment: e, Run: r, Deleted: time.UnixMilli(deleted).UTC()}
	if t.Keep > 0 {
		x.Purged = x.Deleted.Add(t.Keep)
	}
	return x
}

// Emptied is what Empty removed.
type Emptied struct{ Experiments, Runs int }

// Empty removes for good what was deleted in the workspace at a time or before.
func (t *Trash) Empty(ctx context.Context, caller identity.Principal, site ml.Site, until time.Time) (done Emptied, err error) {
	experiments, err := t.Runs.Experiments(ctx, site.GUID)
	if err != nil {
		return done, err
	}
	limit := until.UnixMilli()
	for _, e := range experiments {
		if e.Deleted == 0 || e.Deleted > limit || e.Name == tracking.DefaultName {
			continue
		}
		if err := t.purgeExperiment(ctx, caller, site, e.ID, false); err != nil && !fault.Is(err, fault.Missing) {
			return done, err
		}
		done.Experiments++
	}
	q := tracking.DeletedRuns{Workspace: site.GUID, Until: limit, Limit: page}
	for {
		runs, err := t.Runs.DeletedRuns(ctx, q)
		if err != nil {
			return done, err
		}
		for _, r := range runs {
			if err := t.purgeRun(ctx, caller, site, r, false); err != nil && !fault.Is(err, fault.Missing) {
				return done, err
			}
			done.Runs++
			q.Deleted, q.Seq = r.Deleted, r.Seq
		}
		if len(runs) < page {
			break
		}
	}
	return done, t.clear(ctx, &site)
}

// sweepEvery is how often the trash is looked through.
const sweepEvery = time.Hour

// Run empties the trash of what has lain there long enough, and ends what a
// crash interrupted, until ctx ends.
func (t *Trash) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := t.sweep(ctx); err != nil && ctx.Err() == nil {
			t.Log.Error("empty the trash", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (t *Trash) sweep(ctx context.Context) error {
	if err := t.clear(ctx, nil); err != nil {
		return err
	}
	if t.Keep <= 0 {
		return nil
	}
	sites, err := t.sites(ctx)
	if err != nil {
		return err
	}
	for _, site := range sites {
		done, err := t.Empty(ctx, t.Platform, site, t.Now().Add(-t.Keep))
		if err != nil {
			// The other workspaces' trash is emptied all the same.
			t.Log.Error("empty the trash", "workspace", site.ID.Name(), "err", err)
		}
		if done != (Emptied{}) {
			t.Log.Info("trash emptied", "workspace", site.ID.Name(), "experiments", done.Experiments, "runs", done.Runs)
		}
	}
	return nil
}

// sites are the workspaces that are there, by name.
func (t *Trash) sites(ctx context.Context) ([]ml.Site, error) {
	var sites []ml.Site
	q := resource.Query{Type: ml.Workspaces, Limit: page}
	for {
		found, err := t.Resources.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range found.Resources {
			if site, err := ml.SiteFrom(r); err == nil {
				sites = append(sites, site)
			}
		}
		if found.Next == "" {
			break
		}
		q.After = found.Next
	}
	slices.SortFunc(sites, func(a, b ml.Site) int { return cmp.Compare(a.ID.Key(), b.ID.Key()) })
	return sites, nil
}

// clear removes what waste names: of one workspace, or of all.
func (t *Trash) clear(ctx context.Context, of *ml.Site) error {
	known := map[string]ml.Site{}
	workspace := ""
	if of != nil {
		workspace = of.GUID
		known[workspace] = *of
	}
	asked := of != nil
	for after := int64(0); ; {
		list, err := t.Runs.Waste(ctx, workspace, after, page)
		if err != nil {
			return err
		}
		for _, w := range list {
			after = w.ID
			site, ok := known[w.Workspace]
			if !ok && !asked {
				asked = true
				sites, err := t.sites(ctx)
				if err != nil {
					return err
				}
				for _, s := range sites {
					known[s.GUID] = s
				}
				site, ok = known[w.Workspace]
			}
			// Of a workspace that is gone the bytes are gone too. One that can
			// be restored keeps its waste.
			if !ok {
				continue
			}
			if err := t.remove(ctx, site, w); err != nil {
				return err
			}
		}
		if len(list) < page {
			return nil
		}
	}
}

func (t *Trash) remove(ctx context.Context, site ml.Site, w tracking.Waste) error {
	switch w.Kind {
	case tracking.WasteExperiment, tracking.WasteRows:
		err := t.purgeExperiment(ctx, t.Platform, site, w.Ref, w.Kind == tracking.WasteRows)
		if err != nil && !fault.Is(err, fault.Missing) && !fault.Is(err, fault.Conflict) {
			return err
		}
	case tracking.WasteArtifacts:
		if err := t.removeFolder(ctx, site, w.Ref); err != nil {
			return err
		}
	}
	return t.Runs.Cleared(ctx, w.ID)
}

// removeFolder removes the blobs below an artefact URI. What another server
// keeps is left alone.
func (t *Trash) removeFolder(ctx context.Context, site ml.Site, uri string) error {
	rest, ok := strings.CutPrefix(uri, "mlflow-artifacts:")
	if !ok || strings.HasPrefix(rest, "//") {
		return nil
	}
	store, path := tracking.StorePath(strings.Trim(rest, "/"))
	at := site.Artifacts()
	if store != ml.ArtifactStore {
		found, err := data.Locate(ctx, t.Resources, site.ID, "azureml://datastores/"+store+"/paths/"+path)
		if fault.Is(err, fault.Missing) {
			return nil
		}
		if err != nil {
			return err
		}
		at, path = found.Container, found.Path
	}
	path = strings.Trim(path, "/")
	if path == "" || path == "mlflow" {
		return nil // never a whole store
	}
	q := blob.Query{Prefix: path + "/"}
	for {
		list, err := t.Blobs.List(ctx, at, q)
		if fault.Is(err, fault.Missing) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, b := range list.Blobs {
			if err := t.Blobs.Delete(ctx, at, b.Key, blob.Condition{}); err != nil && !fault.Is(err, fault.Missing) {
				return err
			}
		}
		if list.Next == "" {
			return nil
		}
		q.After = list.Next
	}
}
