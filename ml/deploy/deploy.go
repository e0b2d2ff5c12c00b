// Package deploy makes deployments serve: it looks up what they name, has their
// environment built, starts the group of their instances, sees them answer and
// then tells the gateway. It keeps what it has started, through a crash too.
package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/endpoint"
	"lapis/ml/environment"
	"lapis/ml/serving"
	"lapis/resource"
)

// Config is what a deployer works with.
type Config struct {
	Resources resource.Store
	Blobs     blob.Store
	Runtime   compute.Runtime // of groups alone
	Builder   environment.Builder
	Groups    serving.Groups
	Gateway   serving.Gateway
	Machine   Machine

	// Containers runs images; nil: nothing does.
	Containers serving.Containers

	// Dir keeps what is told of deployments that no longer run: the logs of
	// starts. Sockets holds the sockets of groups: its path has at most 80
	// bytes. Spool is where collected events wait; "" collects none.
	Dir, Sockets, Spool string

	// Slots are the instances that may run at once.
	Slots int

	// Free is the memory that nobody uses, in bytes; nil where that is not known.
	Free func() int64

	// Endpoints are the endpoints that are stored now, without their deployments.
	Endpoints func(ctx context.Context) ([]serving.Endpoint, error)
	Trust     serving.Trust

	// Host tells how a group is run; progress goes to log.
	Host func(ctx context.Context, s Spec, env environment.Built, log io.Writer) (Host, error)

	// Secret is the value that a reference stands for: "azureml://connections/...".
	Secret func(ctx context.Context, from resource.ID, reference string) (string, error)

	Log *slog.Logger
	Now func() time.Time
}

// Machine is what there is to run instances with.
type Machine struct {
	Cores  int
	Memory int64 // bytes
}

// Host is how a group of one runtime is run.
type Host struct {
	Command string            // for the shell
	Env     map[string]string // beside those of package serving
	Bin     string            // folder put first on PATH; "" for none
	Secrets []string          // names in Env
}

// Deployer makes deployments serve, and keeps them.
type Deployer struct {
	Config
	wake chan struct{}
	work sync.WaitGroup

	routing sync.Mutex // one change of the routes at a time
	version int64      // of the routes that were sent last

	mu     sync.Mutex
	groups map[string]*group // task id → what is known of it
	live   map[string]string // deployment's key → task id that the routes name
	busy   map[string]int    // key of a deployment, or task of a group → how many are at work on it
	seen   map[string]*use   // deployment's key → when it was last used
	gone   map[string]int64  // deployment's key → Born of one that was withdrawn, and is about to be removed
	hashes map[string]bool   // of the environments that deployments name
	ready  bool              // what runs has been adopted: routes may be sent
}

var _ endpoint.Deployer = (*Deployer)(nil)

// group is a group of instances as it was last seen.
type group struct {
	task       string
	dir        string // of its sockets
	deployment resource.ID
	generation string
	spec       Spec
	instances  []serving.GroupInstance
	count      int       // wanted
	retired    bool      // out of the routes; it ends, or is empty, when its requests have
	spare      bool      // it has no instances and is kept to have some again
	ending     bool      // it is being stopped
	tries      int       // starts since it was last well
	next       time.Time // not to be started again before

	orders sync.Mutex // one order at a time says how many instances to keep
}

// use is when a deployment was last asked something.
type use struct {
	requests int64
	at       time.Time
}

// New makes a deployer.
func New(c Config) *Deployer {
	return &Deployer{Config: c, wake: make(chan struct{}, 1), groups: map[string]*group{}, live: map[string]string{},
		busy: map[string]int{}, seen: map[string]*use{}, gone: map[string]int64{}}
}

// Generation is one state of a deployment that served or was to serve.
type Generation struct {
	ID   string          `json:"generation"`
	Spec Spec            `json:"spec"`
	At   string          `json:"at"`
	By   string          `json:"by,omitempty"`   // who asked for it
	Body json.RawMessage `json:"body,omitempty"` // what a PUT of it would send
}

// body is what a PUT of a deployment as it is would send.
func body(r resource.Resource) json.RawMessage {
	d := resource.Document{"properties": r.Properties}
	if len(r.SKU) > 0 {
		d["sku"] = r.SKU
	}
	if len(r.Identity) > 0 {
		d["identity"] = r.Identity
	}
	d.Set("location", r.Location)
	d.Set("tags", r.Tags)
	return d.Raw()
}

// Status is what the deployer keeps in a deployment's status.
type Status struct {
	State    string      `json:"provisioningState,omitempty"`
	Stage    string      `json:"stage,omitempty"` // what is being done, for people
	Live     *Generation `json:"live,omitempty"`
	Previous *Generation `json:"previous,omitempty"`
	Capacity *int        `json:"capacity,omitempty"` // instances to keep
	Asleep   bool        `json:"asleep,omitempty"`   // none is kept until a request comes
	Sleeps   bool        `json:"sleeps,omitempty"`   // rules took all instances away once: a request that finds none waits for one
	Failure  *Failure    `json:"failure,omitempty"`  // of the last attempt
}

// Failure is why the last attempt to bring a deployment up ended.
type Failure struct {
	Generation string `json:"generation,omitempty"`
	Code       string `json:"code"`
	Message    string `json:"message"`
	At         string `json:"at"`
}

func statusOf(r resource.Resource) Status {
	var s Status
	if len(r.Status) > 0 {
		_ = json.Unmarshal(r.Status, &s) // other members are others' affair
	}
	return s
}

func (s Status) capacity() int {
	if s.Capacity == nil {
		return 1
	}
	return *s.Capacity
}

// write lays members over a deployment's stored status.
func (d *Deployer) write(ctx context.Context, id resource.ID, members map[string]any, done ...resource.Activity) error {
	_, err := d.Resources.Commit(ctx, resource.Batch{Activities: done, Statuses: []resource.StatusWrite{{ID: id, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		s, err := resource.ParseDocument(stored)
		if err != nil {
			return nil, err
		}
		for name, value := range members {
			if value == nil {
				delete(s, name)
			} else {
				s.Set(name, value)
			}
		}
		return s.Raw(), nil
	}}}})
	return err
}

// taskID names the task of a generation; the folder of the task is named after
// what follows the first "/".
func taskID(guid string, deployment resource.ID, generation string) string {
	return guid + "/" + groupName(deployment, generation)
}

// groupName is the name by which the gateway and people know a group.
func groupName(deployment resource.ID, generation string) string {
	return strings.ToLower(deployment.Parent().Name()+"/"+deployment.Name()) + "/" + generation
}

// Deploy implements endpoint.Deployer.
func (d *Deployer) Deploy(ctx context.Context, r resource.Resource) (json.RawMessage, error) {
	defer d.occupy(r.ID)()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.work.Go(func() { d.overtaken(ctx, r, cancel) })
	status, err := d.deploy(ctx, r)
	if err == nil {
		return status, nil
	}
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && fault.Find(cause) != nil {
		err = cause
	}
	if f := fault.Find(err); f != nil && ctx.Err() == nil {
		d.note(ctx, r, f)
	}
	return nil, err
}

// occupy keeps the loop away from a deployment while it is changed.
func (d *Deployer) occupy(id resource.ID) func() {
	d.mu.Lock()
	d.busy[id.Key()]++
	d.mu.Unlock()
	return func() { d.release(id.Key()); d.Wake() }
}

// release ends one piece of work on a deployment or a group.
func (d *Deployer) release(key string) {
	d.mu.Lock()
	if d.busy[key]--; d.busy[key] == 0 {
		delete(d.busy, key)
	}
	d.mu.Unlock()
}

// overtaken ends an attempt whose deployment has been deleted or written anew.
func (d *Deployer) overtaken(ctx context.Context, r resource.Resource, cancel context.CancelCauseFunc) {
	for {
		changed := d.Resources.Notify()
		now, err := d.Resources.Get(ctx, r.ID)
		switch {
		case fault.Is(err, fault.Missing), err == nil && now.Born != r.Born, err == nil && statusOf(now).State == resource.Deleting:
			cancel(fault.Conflicts("The deployment '%s' was deleted before it was up.", r.ID.Name()).With("OperationCanceled"))
			return
		case err == nil && now.Etag != r.Etag:
			cancel(fault.Conflicts("The deployment '%s' was updated again before it was up.", r.ID.Name()).With("OperationCanceled"))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// note keeps why an attempt failed.
func (d *Deployer) note(ctx context.Context, r resource.Resource, f *fault.Error) {
	err := d.write(ctx, r.ID, map[string]any{"stage": nil, "failure": Failure{Code: f.Code, Message: f.Message, At: d.Now().Format(time.RFC3339)}})
	if err != nil && ctx.Err() == nil {
		d.Log.Error("note why a deployment failed", "deployment", r.ID.String(), "err", err)
	}
}

// say writes a line of the log of a start.
func (d *Deployer) say(log io.Writer, text string) {
	fmt.Fprintf(log, "%s I %s\n", d.Now().Format("2006-01-02 15:04:05,000"), text)
}

// stage tells people what is being done.
func (d *Deployer) stage(ctx context.Context, id resource.ID, log io.Writer, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	d.say(log, text)
	if err := d.write(ctx, id, map[string]any{"stage": text}); err != nil && ctx.Err() == nil {
		d.Log.Error("write a deployment's stage", "deployment", id.String(), "err", err)
	}
}

func (d *Deployer) deploy(ctx context.Context, r resource.Resource) (json.RawMessage, error) {
	began := d.Now()
	w, err := read(ctx, d.Resources, r)
	if err != nil {
		return nil, err
	}
	spec, err := d.resolve(ctx, w)
	if err != nil {
		return nil, err
	}
	was := statusOf(r)
	count := max(w.sku.Capacity, spec.MinInstances, 1) // one has to prove that it answers
	if strings.EqualFold(w.deployment.Scale.Type, "TargetUtilization") && was.Live != nil {
		count = min(max(was.capacity(), spec.MinInstances), max(w.deployment.Scale.MaxInstances, 1))
	}
	if err := d.room(ctx, r, count); err != nil {
		return nil, err
	}
	gen := generation(r, spec)
	task := taskID(w.site.GUID, r.ID, gen)
	g := d.known(task, r.ID, gen, spec)

	log, err := d.startLog(r.ID)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if was.Live == nil || was.Live.ID != gen || !d.runs(ctx, task) {
		if err := d.launch(ctx, r, w, g, count, log); err != nil {
			return nil, d.abandon(ctx, g, was, err)
		}
	} else if err := d.rescale(ctx, r, g, count); err != nil {
		return nil, err
	}
	d.stage(ctx, r.ID, log, "Starting %s", plural(count, "instance"))
	if err := d.proven(ctx, g, count, log); err != nil {
		return nil, d.abandon(ctx, g, was, err)
	}
	if was.Live == nil || was.Live.ID != gen {
		if err := d.try(ctx, g, log); err != nil {
			return nil, d.abandon(ctx, g, was, err)
		}
	}
	d.stage(ctx, r.ID, log, "Switching requests to the new instances")

	// From here on the new generation is the deployment.
	status := map[string]any{"live": Generation{ID: gen, Spec: spec, At: d.Now().Format(time.RFC3339), By: r.Updated.By, Body: body(r)}, "capacity": count,
		"stage": nil, "failure": nil, "asleep": nil}
	if was.Live != nil && was.Live.ID != gen {
		status["previous"] = was.Live
	}
	if err := d.write(ctx, r.ID, status); err != nil {
		return nil, err
	}
	if err := d.Route(ctx); err != nil {
		return nil, err
	}
	d.say(log, fmt.Sprintf("Deployed in %.1f s", d.Now().Sub(began).Seconds()))
	return json.Marshal(map[string]any{"shown": shown(spec)})
}

// rescale brings the instances of what serves to another number. Those that go
// get no requests before they do.
func (d *Deployer) rescale(ctx context.Context, r resource.Resource, g *group, count int) error {
	if _, err := d.look(ctx, g); err != nil {
		return err
	}
	d.mu.Lock()
	fewer := len(g.instances) > count
	d.mu.Unlock()
	if fewer {
		if err := d.write(ctx, r.ID, map[string]any{"capacity": count}); err != nil {
			return err
		}
	}
	return d.settleCount(ctx, g, count)
}

// shown is what was chosen for the deployment, for those who read it.
func shown(s Spec) map[string]string {
	m := map[string]string{"serving.runtime": s.Runtime}
	if s.Flavor != "" {
		m["serving.flavor"] = s.Flavor
	}
	return m
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// maxInstances of one deployment, as in Azure ML.
const maxInstances = 50

// room refuses what this machine cannot hold.
func (d *Deployer) room(ctx context.Context, r resource.Resource, count int) error {
	if count > maxInstances {
		return fault.Invalid("The deployment asks for %d instances; a deployment may have %d.", count, maxInstances).With("OutOfQuota").At("sku.capacity")
	}
	all, err := resource.All(ctx, d.Resources, resource.Query{Type: endpoint.DeploymentType})
	if err != nil {
		return err
	}
	taken := 0
	for _, o := range all {
		if s := statusOf(o); !o.ID.Same(r.ID) && s.Live != nil && !s.Asleep {
			taken += s.capacity()
		}
	}
	if taken+count > d.Slots {
		return fault.New(fault.Conflict, "OutOfQuota", "No slot is free for %s: other deployments have %d of the %d that this server runs at once. Scale one of them in, ask for fewer, or start the server with a larger --instances.",
			plural(count, "instance"), taken, d.Slots).At("sku.capacity")
	}
	return nil
}

// known is the group of a task, new or seen before.
func (d *Deployer) known(task string, deployment resource.ID, gen string, spec Spec) *group {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.groups[task]
	if g == nil {
		g = &group{task: task, dir: d.socketDir(task)}
		d.groups[task] = g
	}
	g.deployment, g.generation, g.spec = deployment, gen, spec
	g.retired, g.spare = false, false
	return g
}

// socketDir is the folder of a group's sockets.
func (d *Deployer) socketDir(task string) string {
	sum := sha256.Sum256([]byte(task))
	return filepath.Join(d.Sockets, strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:5])))
}

// runs tells whether the task's command runs.
func (d *Deployer) runs(ctx context.Context, task string) bool {
	o, ok := d.observe(ctx, task)
	return ok && o.Phase == compute.Running
}

func (d *Deployer) observe(ctx context.Context, task string) (compute.Observed, bool) {
	all, err := d.Runtime.List(ctx)
	if err != nil {
		d.Log.Error("look at groups", "err", err)
		return compute.Observed{}, false
	}
	i := slices.IndexFunc(all, func(o compute.Observed) bool { return o.ID == task })
	if i < 0 {
		return compute.Observed{}, false
	}
	return all[i], true
}

// launch starts a group, unless it runs.
func (d *Deployer) launch(ctx context.Context, r resource.Resource, w wanted, g *group, count int, log io.Writer) error {
	if err := d.ended(ctx, g); err != nil {
		return err
	}
	if o, ok := d.observe(ctx, g.task); ok && o.Phase == compute.Exited {
		if err := d.Runtime.Remove(ctx, g.task); err != nil {
			return err
		}
	} else if ok && o.Phase == compute.Running {
		_, err := d.resize(ctx, g, count)
		if err == nil || !fault.Is(err, fault.Unavailable) {
			return err
		}
		return nil // it is just beginning
	}
	var built environment.Built
	if g.spec.Runtime == serving.Python || g.spec.Runtime == serving.Program && !empty(g.spec.Recipe) {
		d.stage(ctx, r.ID, log, "Preparing the environment")
		var err error
		if built, err = d.Builder.Build(ctx, g.spec.Recipe, log); err != nil {
			if f := fault.Find(err); f != nil {
				return (&fault.Error{Kind: f.Kind, Code: "ImageBuildFailure", Message: f.Message, Target: "properties.environmentId"}).From(err)
			}
			return err
		}
	}
	image, err := d.fetchImage(ctx, g, func(format string, args ...any) { d.stage(ctx, r.ID, log, format, args...) }, log)
	if err != nil {
		return err
	}
	host, err := d.Host(ctx, g.spec, built, log)
	if err != nil {
		return err
	}
	t, err := d.task(ctx, r, w, g, host, built, count)
	if err != nil {
		return err
	}
	if g.spec.Runtime == serving.Image {
		d.contain(&t, w, g, image)
	}
	for _, note := range t.Notes {
		fmt.Fprintln(log, note)
	}
	d.stage(ctx, r.ID, log, "Copying code and model")
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return err
	}
	if err := d.Runtime.Launch(ctx, t); err != nil {
		return err
	}
	d.mu.Lock()
	g.count, g.instances = count, nil
	d.mu.Unlock()
	return nil
}

// ended waits for the end of a group that is being stopped.
func (d *Deployer) ended(ctx context.Context, g *group) error {
	for {
		d.mu.Lock()
		ending := g.ending
		d.mu.Unlock()
		if !ending {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func empty(r environment.Recipe) bool {
	return r.Python == "" && len(r.Conda) == 0 && len(r.Pip) == 0
}

// grace is how long instances have to end what they work on.
const grace = 10 * time.Second

// task says what the runtime is to run. Paths inside of its folder are known
// there alone, by the variable LAPIS_TASK_DIR.
func (d *Deployer) task(ctx context.Context, r resource.Resource, w wanted, g *group, host Host, built environment.Built, count int) (compute.Task, error) {
	s := g.spec
	env := map[string]string{}
	var secrets []string
	for name, value := range s.Variables {
		resolved, secret, err := d.reveal(ctx, r.ID, name, value)
		if err != nil {
			return compute.Task{}, err
		}
		if env[name] = resolved; secret {
			secrets = append(secrets, name)
		}
	}
	for name, value := range map[string]string{
		"SERVICE_NAME": r.ID.Parent().Name(), "AZUREML_MODEL_ENDPOINT": r.ID.Parent().Name(), "AZUREML_DEPLOYMENT_NAME": r.ID.Name(),
	} {
		if _, own := env[name]; !own {
			env[name] = value
		}
	}
	maps.Copy(env, host.Env)
	secrets = append(secrets, host.Secrets...)
	env[serving.GroupFolder] = g.dir
	env[serving.GroupName] = groupName(r.ID, g.generation)
	env[serving.GroupCount] = strconv.Itoa(count)
	env[serving.GroupWorkers] = strconv.Itoa(s.Concurrency)
	env[serving.GroupGrace] = strconv.FormatInt((grace + s.Timeout).Milliseconds(), 10)
	env[serving.GroupFlavor] = s.Flavor
	env[serving.GroupSource] = r.ID.String()
	if d.Spool != "" && w.deployment.Collector != nil {
		spool := filepath.Join(d.Spool, strings.ToLower(r.ID.Parent().Name()), strings.ToLower(r.ID.Name()))
		if err := os.MkdirAll(spool, 0o700); err != nil {
			return compute.Task{}, err
		}
		env[serving.GroupSpool] = spool
		if len(s.Kept) > 0 {
			shares, err := json.Marshal(s.Kept)
			if err != nil {
				return compute.Task{}, err
			}
			env[serving.GroupKept] = string(shares)
		}
	}
	if s.Batch != nil {
		env[serving.GroupBatchSize] = strconv.Itoa(s.Batch.MaxSize)
		env[serving.GroupBatchDelay] = strconv.FormatInt(s.Batch.MaxDelay.Microseconds(), 10)
	}
	if s.Runtime == serving.Program {
		env[serving.GroupCommand] = s.Command
		env[serving.GroupPort] = strconv.Itoa(s.Port)
		env[serving.GroupProbe] = s.Probe
	}
	if s.Script != "" {
		env["AZUREML_ENTRY_SCRIPT"] = s.Script
	}
	t := compute.Task{ID: g.task, Env: env, Bin: host.Bin, Secrets: secrets, Grace: grace + s.Timeout + 2*time.Second, LogKeep: logKeep,
		Logs: compute.Tree{Container: w.site.Artifacts(), Prefix: "serving/" + groupName(r.ID, g.generation) + "/"}}
	if t.Bin == "" && built.Dir != "" {
		t.Bin = built.Dir + "/bin"
	}
	if size, ok := compute.ParseSize(w.deployment.InstanceType); ok {
		t.Memory, t.CPU = d.limits(size)
		t.Apart = true
		env[serving.GroupMemory] = outOfMemory(size)
	}
	t.Notes = d.notes(w, s, built)

	const inTask = `"$LAPIS_TASK_DIR"`
	var lines []string
	export := func(name, below string) {
		if s.Runtime == serving.Image {
			return // a container has them where Azure's have
		}
		lines = append(lines, "export "+name+"="+inTask+quote(below))
	}
	if s.Code != nil {
		t.Code = []compute.Tree{*s.Code}
	}
	if _, own := env["AML_APP_ROOT"]; !own {
		export("AML_APP_ROOT", "/wd")
	}
	if m := s.Model; m != nil {
		in := compute.Input{Name: "model", Path: "inputs/" + m.Mount + "/" + m.Base, File: m.File, URL: m.URL, From: m.Tree}
		t.Inputs = []compute.Input{in}
		env[serving.GroupModelID] = m.id()
		export("AZUREML_MODEL_DIR", "/inputs/"+m.Mount)
		export(serving.GroupModel, "/"+in.Path)
		// Paths that people write as they are in Azure's containers lead to the same files.
		root := "/" + strings.TrimSuffix(m.Mount, "/"+m.Name+"/"+m.Version)
		if s.Runtime == serving.Program {
			env[serving.GroupCommand] = strings.ReplaceAll(s.Command, root+"/", "$LAPIS_TASK_DIR/inputs"+root+"/")
		}
		for _, name := range slices.Sorted(maps.Keys(s.Variables)) {
			if rest, ok := strings.CutPrefix(env[name], root+"/"); ok && s.Runtime != serving.Image {
				export(name, "/inputs"+root+"/"+rest)
				delete(env, name)
			}
		}
	} else {
		env[serving.GroupModel] = ""
	}
	lines = append(lines, host.Command)
	t.Command = strings.Join(lines, "\n")
	return t, nil
}

// limits are the memory, in bytes, and the cores that an instance of that size
// has; 0 where this machine has no more.
func (d *Deployer) limits(size compute.Size) (memory int64, cpu float64) {
	if memory = int64(size.MemoryGB * (1 << 30)); memory >= d.Machine.Memory {
		memory = 0
	}
	if size.VCPUs < d.Machine.Cores {
		cpu = float64(size.VCPUs)
	}
	return memory, cpu
}

// outOfMemory says that an instance needed more memory than its type has.
func outOfMemory(size compute.Size) string {
	return fmt.Sprintf("The instance used more than the %g GiB of memory of %s, and was killed; use a larger instance_type, or less memory", size.MemoryGB, size.Name)
}

// quote makes one word of the text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// notes are what differs from what was asked for.
func (d *Deployer) notes(w wanted, s Spec, built environment.Built) []string {
	var notes []string
	if s.Image != "" && s.Runtime != serving.Native && s.Runtime != serving.Image {
		notes = append(notes, fmt.Sprintf("lapis: no container engine is used here: image %s is not pulled", s.Image))
	}
	for _, n := range built.Notes {
		notes = append(notes, "lapis: "+n)
	}
	if size, ok := compute.ParseSize(w.deployment.InstanceType); ok {
		if int64(size.MemoryGB*(1<<30)) > d.Machine.Memory || size.VCPUs > d.Machine.Cores {
			notes = append(notes, fmt.Sprintf("lapis: %s has %d cores and %g GB; this machine has %d cores and %.1f GB, and the deployment is given all of it",
				size.Name, size.VCPUs, size.MemoryGB, d.Machine.Cores, float64(d.Machine.Memory)/(1<<30)))
		}
	}
	return notes
}

// reveal is the value of a variable, with the secrets it refers to.
func (d *Deployer) reveal(ctx context.Context, from resource.ID, name, value string) (string, bool, error) {
	if !strings.Contains(value, "${{") {
		return value, false, nil
	}
	var failed error
	secret := false
	out := reference.ReplaceAllStringFunc(value, func(m string) string {
		what := strings.TrimSpace(reference.FindStringSubmatch(m)[1])
		if failed != nil {
			return m
		}
		if d.Secret == nil || !strings.Contains(what, "://") && !strings.HasPrefix(what, "keyvault:") {
			return m
		}
		text, err := d.Secret(ctx, from, what)
		if err != nil {
			if f := fault.Find(err); f != nil {
				err = (&fault.Error{Kind: f.Kind, Code: "SecretsInjectionError", Message: fmt.Sprintf("The variable '%s': %s", name, f.Message), Target: "properties.environmentVariables." + name}).From(err)
			}
			failed = err
			return m
		}
		secret = true
		return text
	})
	return out, secret, failed
}

// resize tells a group how many instances to keep.
func (d *Deployer) resize(ctx context.Context, g *group, count int) (serving.Group, error) {
	g.orders.Lock()
	defer g.orders.Unlock()
	seen, err := d.Groups.Resize(ctx, g.dir, count)
	if err == nil {
		d.mu.Lock()
		g.count, g.instances = count, seen.Instances
		d.mu.Unlock()
	}
	return seen, err
}

// look asks a group how it is.
func (d *Deployer) look(ctx context.Context, g *group) (serving.Group, error) {
	seen, err := d.Groups.Look(ctx, g.dir)
	if err == nil {
		d.mu.Lock()
		g.instances = seen.Instances
		d.mu.Unlock()
	}
	return seen, err
}

// Withdraw implements endpoint.Deployer.
func (d *Deployer) Withdraw(ctx context.Context, r resource.Resource) error {
	defer d.occupy(r.ID)()
	d.mu.Lock()
	var groups []*group
	for _, g := range d.groups {
		if g.deployment.Same(r.ID) {
			g.retired = true
			groups = append(groups, g)
		}
	}
	delete(d.seen, r.ID.Key())
	d.gone[r.ID.Key()] = r.Born
	d.mu.Unlock()
	if err := d.Route(ctx); err != nil {
		return err
	}
	for _, g := range groups {
		d.end(ctx, g)
	}
	os.Remove(d.logPath(r.ID))
	os.Remove(d.lastPath(r.ID))
	return ctx.Err()
}
