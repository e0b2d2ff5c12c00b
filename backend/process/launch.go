package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
)

// Limits of the kernel: one argument, and all arguments and variables together.
const (
	maxArgument = 128 << 10
	maxOrder    = 1 << 20
)

const defaultGrace = 10 * time.Second

// startWithin bounds the time from the start of a supervisor to its answer.
const startWithin = time.Minute

// checkpoint is called between the steps that a crash may fall between.
var checkpoint = func(step string) {}

var errStopped = errors.New("stopped before it began")

// order is what the server tells a supervisor. It goes through a pipe, because
// Env may hold secrets.
type order struct {
	Dir     string
	Bash    string
	Command string
	Env     []string
	Boot    string
	Timeout time.Duration
	Grace   time.Duration
	Memory  int64
	CPU     float64
	Apart   bool
	LogKeep int64
}

// Launch stages the task and starts it.
func (r *Runtime) Launch(ctx context.Context, t compute.Task) error {
	name := folder(t.ID)
	defer r.hold(name)()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.mu.Lock()
	r.staging[name] = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.staging, name)
		r.mu.Unlock()
	}()

	lock, err := r.claim(ctx, name, t)
	if lock == nil || err != nil {
		return err
	}
	defer lock.Close()
	dir := r.dir(name)

	o, err := r.prepare(ctx, name, t)
	if err == nil && exists(dir, stopFile) {
		err = errStopped
	}
	if err == nil {
		checkpoint("staged")
		err = r.start(name, o, lock)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errStopped) || context.Cause(ctx) == errStopped:
		return r.endUnstarted(dir)
	case exists(dir, startFile) || exists(dir, exitFile):
		// It did run, and how it ended is for List to say.
		r.cfg.Log.Warn("a supervisor ended at once", "task", t.ID, "err", err)
		lock.Close()
		r.settle(name)
		return nil
	}
	if e := r.discard(name); e != nil {
		r.cfg.Log.Error("delete what was staged", "task", t.ID, "err", e)
	}
	return err
}

// claim makes the task's folder and locks it. It returns nil when there is
// nothing to do, because the task has been started already.
func (r *Runtime) claim(ctx context.Context, name string, t compute.Task) (*os.File, error) {
	dir := r.dir(name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, roomLeft(err)
	}
	deadline := time.Now().Add(startWithin)
	for {
		lock, err := tryLock(dir)
		started := exists(dir, startFile) || exists(dir, exitFile)
		switch {
		case err == nil && started:
			lock.Close()
			r.settle(name)
			return nil, nil
		case err == nil:
			return lock, nil
		case !errors.Is(err, errLocked):
			return nil, err
		case started:
			r.watch(name)
			return nil, nil
		case time.Now().After(deadline):
			return nil, fault.New(fault.Unavailable, "TaskLocked", "the folder %s is held by another process; is a second server using it?", dir)
		}
		// A server before this one was killed while the supervisor began: it
		// is about to run the command, or to give up.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// validName tells whether name may be that of an input or output.
func validName(name string) bool {
	return name != "" && len(name) <= 255 && name[0] != '-' && name[0] != '.' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == ""
}

// prepare makes the folder ready, whatever was in it, and the order to go with it.
func (r *Runtime) prepare(ctx context.Context, name string, t compute.Task) (order, error) {
	dir := r.dir(name)
	o := order{Dir: dir, Bash: r.bash, Boot: r.boot, Timeout: t.Timeout, Grace: t.Grace, Memory: t.Memory, CPU: t.CPU, Apart: t.Apart, LogKeep: t.LogKeep}
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}

	// Names and sizes first: a mistake costs no copying.
	paths := map[string]string{}
	env := map[string]string{
		"PATH":             os.Getenv("PATH"),
		"HOME":             os.Getenv("HOME"),
		"LANG":             "C.UTF-8",
		"TMPDIR":           tempDir(dir),
		"PYTHONUNBUFFERED": "1",
		mark:               dir,
	}
	if env["HOME"] == "" { // as for a service of the system
		delete(env, "HOME")
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	if t.Bin != "" {
		if st, err := os.Stat(t.Bin); err != nil || !st.IsDir() {
			return o, fault.Conflicts("the environment's folder %s is not there; submit the job again to have it built", t.Bin).At("environment")
		}
	}
	declare := func(what, name, p string) error {
		if !validName(name) {
			return fault.Invalid("%q is no name for an %s: letters, digits, _, - and . are", name, what).At(what + "s")
		}
		clean, err := taskPath(what, name, p)
		if err != nil {
			return err
		}
		if _, twice := paths[what+"s."+name]; twice {
			return fault.Invalid("there are two %ss of the name %q; rename one", what, name).At(what + "s." + name)
		}
		abs := filepath.Join(dir, clean)
		paths[what+"s."+name] = abs
		env["AZURE_ML_"+strings.ToUpper(what)+"_"+name] = abs
		return nil
	}
	for _, in := range t.Inputs {
		if err := declare("input", in.Name, in.Path); err != nil {
			return o, err
		}
	}
	for _, out := range t.Outputs {
		if err := declare("output", out.Name, out.Path); err != nil {
			return o, err
		}
	}
	var err error
	if o.Command, err = expand(t.Command, paths, true); err != nil {
		return o, err
	}
	size := len(o.Command)
	if size >= maxArgument {
		return o, fault.New(fault.TooLarge, "CommandTooLong", "the command is %d bytes long, and a command may have %d; put it into a script", size, maxArgument-1).At("command")
	}
	for k, v := range t.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(v, "\x00") {
			return o, fault.Invalid("%q is no environment variable: a name has no = and nothing in it is NUL", k).At("environmentVariables")
		}
		if env[k], err = expand(v, paths, false); err != nil {
			return o, err
		}
	}
	env[mark] = dir
	bin := t.Bin
	if bin != "" && r.cfg.Overlay != nil {
		bin = filepath.Join(dir, ownEnv, "bin")
		env["VIRTUAL_ENV"] = filepath.Join(dir, ownEnv)
	}
	if bin != "" {
		env["PATH"] = bin + ":" + env["PATH"]
	}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		kv := k + "=" + env[k]
		if size += len(kv); len(kv) >= maxArgument || size > maxOrder {
			return o, fault.New(fault.TooLarge, "EnvironmentTooLarge", "the environment variable %s is too long: one may have %d bytes, and all together %d", k, maxArgument-1, maxOrder).At("environmentVariables")
		}
		o.Env = append(o.Env, kv)
	}
	if strings.Contains(o.Command, "\x00") {
		return o, fault.Invalid("the command holds a NUL character").At("command")
	}

	// What a crash has left half-staged goes.
	for _, part := range []string{workDir, "inputs", "outputs", artefacts, tmpDir, ownEnv, taskFile} {
		if err := sweep(filepath.Join(dir, part)); err != nil {
			return o, err
		}
	}
	if err := writeRecord(dir, taskFile, manifest{t.ID, t.Outputs, written(t.Inputs), time.Now(), t.Logs}, false); err != nil {
		return o, roomLeft(err)
	}
	for _, part := range []string{workDir, "inputs", "outputs", artefacts, tmpDir, artefacts + "/" + filepath.Dir(stdLog)} {
		if err := os.Mkdir(filepath.Join(dir, part), 0o755); err != nil {
			return o, roomLeft(err)
		}
	}
	var head strings.Builder
	for _, line := range t.Notes {
		head.WriteString(strings.ReplaceAll(line, "\n", " ") + "\n")
	}
	if err := os.WriteFile(filepath.Join(dir, artefacts, stdLog), []byte(head.String()), 0o644); err != nil {
		return o, roomLeft(err)
	}
	checkpoint("claimed")
	if bin != t.Bin {
		if err := r.cfg.Overlay(t.Bin, filepath.Join(dir, ownEnv)); err != nil {
			return o, roomLeft(err)
		}
	}

	root, err := os.OpenRoot(dir)
	if err != nil {
		return o, err
	}
	defer root.Close()
	s := &stager{r, root}
	if err := s.code(ctx, t.Code); err != nil {
		return o, err
	}
	checkpoint("code staged")
	for _, in := range t.Inputs {
		if err := s.input(ctx, in); err != nil {
			return o, err
		}
	}
	for _, out := range t.Outputs {
		p := strings.TrimPrefix(paths["outputs."+out.Name], dir+"/")
		if out.File {
			p = filepath.Dir(p)
		}
		if err := root.MkdirAll(p, 0o755); err != nil {
			return o, s.writing(out.Path, err)
		}
	}
	// Azure ML promises these two. A file of the code may have taken the name.
	for _, d := range collected {
		if err := root.Mkdir(workDir+"/"+d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return o, roomLeft(err)
		}
	}
	return o, ctx.Err()
}

// written are the inputs that are written back.
func written(inputs []compute.Input) []compute.Input {
	var back []compute.Input
	for _, in := range inputs {
		if in.Back && in.URL == "" {
			back = append(back, in)
		}
	}
	return back
}

// start hands the task, with its lock, to a supervisor of its own and returns
// when the command runs.
func (r *Runtime) start(name string, o order, lock *os.File) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(o.Dir, ownLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return roomLeft(err)
	}
	defer log.Close()
	orderOut, orderIn, err := os.Pipe()
	if err != nil {
		return err
	}
	defer orderIn.Close()
	defer orderOut.Close()
	answerOut, answerIn, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answerOut.Close()
	defer answerIn.Close()

	child, err := os.StartProcess(r.cfg.Supervisor[0], r.cfg.Supervisor, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=64MiB", "GOTRACEBACK=single"},
		Files: []*os.File{orderOut, log, log, lock, answerIn},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	checkpoint("supervisor started")
	orderOut.Close()
	answerIn.Close()
	if _, err = orderIn.Write(text); err == nil {
		err = orderIn.Close()
	}
	checkpoint("order given")
	var said []byte
	if err == nil {
		answerOut.SetReadDeadline(time.Now().Add(startWithin))
		said, err = io.ReadAll(io.LimitReader(answerOut, 64<<10))
	}
	if err == nil && bytes.Equal(said, []byte(running)) {
		r.watchChild(name, child)
		return nil
	}
	child.Kill()
	child.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("the supervisor: %w", err)
	case len(said) == 0:
		words, _ := readAll(log.Name(), maxRecord)
		return fmt.Errorf("the supervisor said nothing and ended: %s", lastLines(words))
	}
	return fmt.Errorf("the supervisor: %s", said)
}
