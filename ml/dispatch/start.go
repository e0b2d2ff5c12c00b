package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/pattern"
)

// start prepares the environments of waiting jobs, starts those that the plan
// chooses and tells the others why they wait.
func (d *Dispatcher) start(ctx context.Context, waiting []demand) {
	var able []demand
	ready := map[string]bool{} // by hash of the recipe: many jobs share few environments
	for _, w := range waiting {
		ok, known := ready[w.hash]
		if !known {
			_, ok = d.Builder.Find(ctx, w.env.Recipe)
			ready[w.hash] = ok
		}
		if ok {
			able = append(able, w)
		} else {
			d.prepare(ctx, w)
		}
	}
	free := capacity{slots: d.Slots, total: d.Slots, gpus: d.Machine.GPUs, targets: map[string]*targetState{}}
	for key, c := range d.clusters.of {
		free.targets[key] = &targetState{target: c.target, gone: c.gone}
	}
	for _, w := range d.running {
		if !w.exited {
			free.slots--
		}
		if t := free.targets[w.compute.Key()]; t != nil {
			t.busy++
		}
	}
	for i, v := range plan(able, free) {
		w := able[i]
		switch {
		case v.fail != "":
			d.end(w.run, ending{status: tracking.Failed, code: "UserError", message: v.fail})
		case v.start:
			d.launch(ctx, w)
		case w.run.Reason != v.reason || w.run.Status != tracking.Queued:
			d.later(w.run, func(r *tracking.Run) error {
				if r.Status == tracking.CancelRequested || r.Status.Terminal() {
					return nil
				}
				r.Reason = v.reason
				return job.Move(r, tracking.Queued)
			})
		}
	}
}

// background runs one step of a job beside the passes. A cancellation of the job
// stops the step if it may be stopped. The lock is held.
func (d *Dispatcher) background(ctx context.Context, id string, stoppable bool, step func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	d.busy[id] = nil
	if stoppable {
		d.busy[id] = cancel
	}
	d.work.Add(1)
	go func() {
		defer d.work.Done()
		step(ctx)
		cancel()
		d.mu.Lock()
		delete(d.busy, id)
		d.mu.Unlock()
		d.Wake()
	}()
}

// rest keeps a step that could not be done, as on a full disk, from being tried
// again at once.
func rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(restStep):
	}
}

const restStep = time.Second

// prepare builds a job's environment. It takes no slot: others run meanwhile.
func (d *Dispatcher) prepare(ctx context.Context, w demand) {
	d.background(ctx, w.id, true, func(ctx context.Context) {
		if !d.change(ctx, w.run, func(r *tracking.Run) error {
			if r.Status == tracking.CancelRequested {
				return errCanceled
			}
			r.Reason = "is preparing its environment"
			return job.Move(r, tracking.Preparing)
		}) {
			rest(ctx)
			return
		}
		log := newBuildLog(ctx, d.Blobs, w.site.Artifacts(), ml.RunFolder(w.run.ID)+BuildLog)
		_, err := d.Builder.Build(ctx, w.env.Recipe, log)
		if closeErr := log.Close(); closeErr != nil && ctx.Err() == nil {
			d.Log.Error("keep a build log", "job", w.run.ID, "err", closeErr)
		}
		if err != nil && ctx.Err() == nil {
			if !d.settle(ctx, w.run, failure(err)) {
				rest(ctx)
			}
		}
	})
}

var errCanceled = errors.New("the job was cancelled")

// launch starts a job's task. The job holds its slot from now on.
func (d *Dispatcher) launch(ctx context.Context, w demand) {
	if c := d.clusters.of[w.compute.Key()]; c != nil && !w.compute.Zero() {
		w.node = c.take()
	}
	delete(d.ready, w.id)
	d.running[w.id] = w
	d.background(ctx, w.id, true, func(ctx context.Context) {
		err := d.run(ctx, w)
		if err == nil {
			return
		}
		d.free(w)
		if errors.Is(err, errCanceled) || ctx.Err() != nil {
			return // the next pass, or the next server, sees to it
		}
		if fault.Find(err) == nil {
			d.Log.Error("start a job", "job", w.run.ID, "err", err)
		}
		if !d.settle(context.WithoutCancel(ctx), w.run, failure(err)) {
			rest(ctx) // the next pass starts it again
		}
	})
}

// free gives back what a job held.
func (d *Dispatcher) free(w demand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if held, ok := d.running[w.id]; ok {
		delete(d.running, w.id)
		d.clusters.release(held, d.Now())
	}
}

// run brings a job to Running. Each step may be repeated: launching an id twice
// is one launch.
func (d *Dispatcher) run(ctx context.Context, w demand) error {
	r, err := d.Runs.ChangeRun(ctx, w.run.Workspace, w.run.ID, func(r *tracking.Run) error {
		if r.Status == tracking.CancelRequested {
			return errCanceled
		}
		r.Reason = "is copying its code and inputs"
		return job.Move(r, tracking.Starting)
	})
	if err != nil {
		return err
	}
	t, err := d.task(ctx, w, r)
	if err != nil {
		return err
	}
	if err := d.Runtime.Launch(ctx, t); err != nil {
		return err
	}
	started := d.Now()
	_, err = d.Runs.ChangeRun(ctx, w.run.Workspace, w.run.ID, func(r *tracking.Run) error { return nowRunning(r, started) })
	if err != nil && ctx.Err() == nil {
		// The task runs: the next pass writes its state.
		d.Log.Error("write that a job runs", "job", w.run.ID, "err", err)
	}
	return nil
}

var ioReference = pattern.New(`\$\{\{\s*(inputs|outputs)\.([A-Za-z0-9_]+)\s*\}\}`)

// task says what the runtime is to run.
func (d *Dispatcher) task(ctx context.Context, w demand, r tracking.Run) (compute.Task, error) {
	site, j := w.site, w.job
	built, ok := d.Builder.Find(ctx, w.env.Recipe)
	if !ok {
		return compute.Task{}, fault.New(fault.Unavailable, "EnvironmentGone", "The job's environment was removed before it started; submit the job again.")
	}
	experiment, err := d.Runs.Experiment(ctx, r.Workspace, r.Experiment)
	if err != nil {
		return compute.Task{}, err
	}
	vars, secrets, err := d.Variables(site, r, experiment.Name)
	if err != nil {
		return compute.Task{}, err
	}
	// The user's variables come first: they cannot take the place of those by
	// which the job finds the server.
	env := map[string]string{}
	addresses, err := d.addresses(ctx, site, j)
	if err != nil {
		return compute.Task{}, err
	}
	literal := func(text string) string {
		return ioReference.ReplaceAllStringFunc(text, func(m string) string {
			found := ioReference.FindStringSubmatch(m)
			if address, ok := addresses[found[1]+"."+found[2]]; ok {
				return address
			}
			if in, ok := j.Inputs[found[2]]; ok && found[1] == "inputs" && in.Literal() {
				return job.LiteralText(in.Value)
			}
			return m
		})
	}
	for k, v := range j.Environment {
		env[k] = literal(v)
	}
	maps.Copy(env, vars)
	t := compute.Task{
		ID: w.id, Command: literal(j.Command), Env: env, Bin: built.Dir + "/bin", Secrets: secrets,
		Logs: compute.Tree{Container: site.Artifacts(), Prefix: ml.RunFolder(r.ID)},
	}
	t.Notes = d.grant(&t, w)
	if w.env.Image != "" {
		t.Notes = append(t.Notes, fmt.Sprintf(notePrefix+"no container engine runs jobs here: image %s is not pulled; the command runs with Python %s and no packages", w.env.Image, built.Python))
	}
	for _, n := range built.Notes {
		t.Notes = append(t.Notes, notePrefix+n)
	}
	if j.Limits.Timeout != "" {
		if t.Timeout, err = compute.ParseDuration(j.Limits.Timeout); err != nil {
			return t, err
		}
	}
	if j.CodeID != "" {
		code, err := d.code(ctx, site, j.CodeID)
		if err != nil {
			return t, err
		}
		t.Code = []compute.Tree{code}
	}
	if t.Inputs, err = d.inputs(ctx, site, j, env, addresses); err != nil {
		return t, err
	}
	t.Outputs, err = d.outputs(ctx, site, j, env, addresses)
	return t, err
}

// notePrefix marks the lines that the platform writes at the head of a job's log.
const notePrefix = "lapis: "

// grant gives the task its share of the machine and says when that is not what
// the instance type promises.
func (d *Dispatcher) grant(t *compute.Task, w demand) (notes []string) {
	size := w.size
	if size.Name == "" && !w.compute.Zero() {
		d.mu.Lock()
		if c := d.clusters.of[w.compute.Key()]; c != nil {
			size, _ = compute.ParseSize(c.target.Size)
		}
		d.mu.Unlock()
	}
	if size.Name == "" {
		return nil
	}
	wanted := int64(size.MemoryGB * (1 << 30))
	t.Memory = min(wanted, d.Machine.Memory)
	t.CPU = float64(min(size.VCPUs, d.Machine.Cores))
	if wanted > d.Machine.Memory || size.VCPUs > d.Machine.Cores {
		notes = append(notes, fmt.Sprintf(notePrefix+"%s has %d cores and %g GB; this machine has %d cores and %.1f GB, and the job is given all of it",
			size.Name, size.VCPUs, size.MemoryGB, d.Machine.Cores, float64(d.Machine.Memory)/(1<<30)))
	}
	return notes
}

// code is where a code version lies.
func (d *Dispatcher) code(ctx context.Context, site ml.Site, codeID string) (compute.Tree, error) {
	at, err := data.LocateCode(ctx, d.Resources, site.ID, codeID)
	return compute.Tree{Container: at.Container, Prefix: blob.Folder(at.Path)}, err
}

// addresses are where the inputs and outputs lie that the command wants to
// reach by itself, by "inputs.name" and "outputs.name".
func (d *Dispatcher) addresses(ctx context.Context, site ml.Site, j job.Job) (map[string]string, error) {
	found := map[string]string{}
	find := func(key, uri string) error {
		at, err := data.Locate(ctx, d.Resources, site.ID, uri)
		if err != nil {
			return err
		}
		if found[key] = uri; at.Datastore != "" {
			found[key] = site.DatastoreURI(at.Datastore, at.Path)
		}
		return nil
	}
	for name, in := range j.Inputs {
		if in.Direct() && !in.Literal() {
			if err := find("inputs."+name, in.URI); err != nil {
				return nil, err
			}
		}
	}
	for name, out := range j.Outputs {
		if out.Direct() {
			if err := find("outputs."+name, out.URI); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// inputs are the inputs that have to be copied; literals stand in the command,
// and in variables of their own.
func (d *Dispatcher) inputs(ctx context.Context, site ml.Site, j job.Job, env, addresses map[string]string) ([]compute.Input, error) {
	var inputs []compute.Input
	for _, name := range sorted(j.Inputs) {
		in := j.Inputs[name]
		if in.Literal() {
			env["AZURE_ML_INPUT_"+name] = job.LiteralText(in.Value)
			continue
		}
		at, err := data.Locate(ctx, d.Resources, site.ID, in.URI)
		if err != nil {
			return nil, err
		}
		if in.Direct() {
			env["AZURE_ML_INPUT_"+name] = addresses["inputs."+name]
			continue
		}
		input := compute.Input{Name: name, Path: "inputs/" + name, File: in.File(), Back: in.WrittenBack(), URL: at.URL, From: compute.Tree{Container: at.Container, Prefix: at.Path}}
		if file := base(at); input.File && file != "" {
			input.Path += "/" + file
		}
		if !input.File && at.URL == "" {
			input.From.Prefix = blob.Folder(at.Path)
		}
		inputs = append(inputs, input)
	}
	return inputs, nil
}

// base is the file name that a location ends in.
func base(at data.Location) string {
	path := at.Path
	if at.URL != "" {
		path, _, _ = strings.Cut(strings.SplitN(at.URL, "?", 2)[0], "#")
		if strings.Count(path, "/") < 3 {
			return "file"
		}
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}

func (d *Dispatcher) outputs(ctx context.Context, site ml.Site, j job.Job, env, addresses map[string]string) ([]compute.Output, error) {
	var outputs []compute.Output
	for _, name := range sorted(j.Outputs) {
		out := j.Outputs[name]
		if out.Direct() {
			env["AZURE_ML_OUTPUT_"+name] = addresses["outputs."+name]
			continue
		}
		at, err := data.Locate(ctx, d.Resources, site.ID, out.URI)
		if err != nil {
			return nil, err
		}
		output := compute.Output{Name: name, Path: "outputs/" + name, File: out.File(), To: compute.Tree{Container: at.Container, Prefix: blob.Folder(at.Path)}}
		if output.File {
			output.To.Prefix = strings.TrimSuffix(at.Path, "/")
			output.Path += "/" + output.To.Prefix[strings.LastIndexByte(output.To.Prefix, '/')+1:]
		}
		outputs = append(outputs, output)
	}
	return outputs, nil
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
