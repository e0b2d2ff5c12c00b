// Package container runs images with the container engine of this machine:
// docker, podman or nerdctl, by their command lines, which are alike in all
// that is used here.
package container

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/serving"
	"lapis/pattern"
)

// Config says which engine is used.
type Config struct {
	// Engine is the name or path of the engine's command; "" takes the first
	// that answers, None none.
	Engine string

	Blobs blob.Store // with the contexts of Dockerfiles
	Env   []string   // that the engine's command goes by; nil: our own
}

// None as the engine of a Config: containers are not run.
const None = "none"

// Engine implements serving.Containers.
type Engine struct {
	cfg Config

	mu    sync.Mutex
	found string // path of the command; "" for none
	why   string // there is none
	until time.Time
}

var _ serving.Containers = (*Engine)(nil)

// New looks for no engine yet: that is done when one is needed.
func New(c Config) *Engine {
	if c.Env == nil {
		c.Env = os.Environ()
	}
	return &Engine{cfg: c}
}

// How long an engine gets to say that it is there, and how long that holds.
const (
	infoWithin = 20 * time.Second
	holds      = 5 * time.Minute
	holdsNot   = 10 * time.Second // an engine may be started to help
)

// Engine implements serving.Containers.
func (e *Engine) Engine(ctx context.Context) (string, error) {
	path, err := e.path(ctx)
	return filepath.Base(path), err
}

func (e *Engine) path(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().After(e.until) {
		if err := e.look(ctx); err != nil {
			return "", err
		}
	}
	if e.found == "" {
		return "", fault.New(fault.NotImplemented, "BadArgument", "needs a container engine, which this machine does not have (%s)", e.why)
	}
	return e.found, nil
}

// look finds the engine; the caller holds e.mu.
func (e *Engine) look(ctx context.Context) error {
	names := []string{"docker", "podman", "nerdctl"}
	if e.cfg.Engine != "" {
		names = []string{e.cfg.Engine}
	}
	e.found, e.why = "", ""
	var silent []string
	for _, name := range names {
		if name == None {
			e.why, e.until = "it is told to use none", time.Now().Add(holds)
			return nil
		}
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, infoWithin)
		said, err := e.output(within, path, "info")
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			e.found, e.until = path, time.Now().Add(holds)
			return nil
		}
		silent = append(silent, name+" does not answer: "+reason(said, err))
	}
	e.why, e.until = strings.Join(names, ", ")+": no such command", time.Now().Add(holdsNot)
	if len(silent) > 0 {
		e.why = strings.Join(silent, "; ")
	}
	return nil
}

// command is a call of the engine that ends with ctx, with all it has started.
func (e *Engine) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = e.cfg.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// maxOutput bounds what is kept of the words of an engine, in bytes.
const maxOutput = 1 << 20

// output calls the engine; what it prints is returned also when it fails.
func (e *Engine) output(ctx context.Context, path string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := e.command(ctx, path, args...)
	w := &bounded{&out, maxOutput}
	cmd.Stdout, cmd.Stderr = w, w
	err := cmd.Run()
	return out.String(), err
}

// bounded drops what is too much.
type bounded struct {
	to   *bytes.Buffer
	room int
}

func (b *bounded) Write(p []byte) (int, error) {
	part := p[:min(len(p), b.room)]
	b.room -= len(part)
	b.to.Write(part)
	return len(p), nil
}

// told calls the engine with its words going to log, and returns their end.
func (e *Engine) told(ctx context.Context, log io.Writer, path string, args ...string) (string, error) {
	cmd := e.command(ctx, path, args...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var last []string
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxOutput)
		for lines.Scan() {
			line := strings.TrimRight(lines.Text(), " \r")
			if line == "" {
				continue
			}
			fmt.Fprintln(log, line)
			if last = append(last, line); len(last) > 40 {
				last = last[1:]
			}
		}
		_, _ = io.Copy(io.Discard, r) // a line that is too long
	})
	err := cmd.Run()
	w.Close()
	reading.Wait()
	return strings.Join(last, "\n"), err
}

// noise is what engines put before what they have to say.
var noise = pattern.New(`^(?:time="[^"]*" level=\w+ msg="(.*)"|(?i:error|fatal): |(?:docker: )?Error response from daemon: |(?:level=\w+ )?FATA\[\d+\] )`)

// reason is the line of an engine's words that says what is wrong.
func reason(said string, err error) string {
	text := ""
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if text == "" || !strings.HasPrefix(line, "See '") && !strings.HasPrefix(line, "exit status") {
			text = line
		}
	}
	for {
		at := noise.FindStringSubmatchIndex(text)
		if at == nil {
			break
		}
		if at[2] >= 0 {
			text = text[at[2]:at[3]]
		} else {
			text = text[at[1]:]
		}
	}
	if text == "" {
		return err.Error()
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	return text
}

const maxReason = 600 // bytes

// An image's name: letters, digits and what separates host, path, tag and
// digest. It never looks like an option.
var imageName = pattern.New(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,499}$`)

// Pull implements serving.Containers.
func (e *Engine) Pull(ctx context.Context, image string, log io.Writer) (string, error) {
	if !imageName.MatchString(image) {
		return "", fault.Invalid("%q is no name of an image; one is HOST/PATH:TAG.", image).With("BadArgument").At("properties.environmentId")
	}
	path, err := e.path(ctx)
	if err != nil {
		return "", err
	}
	name := qualified(image)
	for _, known := range []string{image, name} {
		if _, err := e.output(ctx, path, "image", "inspect", known); err == nil {
			fmt.Fprintf(log, "The image %s is here\n", known)
			return known, nil
		}
	}
	if said, err := e.told(ctx, log, path, "pull", name); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fault.New(fault.Conflict, "BadArgument", "The image %s cannot be pulled: %s", image, reason(said, err)).At("properties.environmentId").From(err)
	}
	return name, nil
}

// qualified is the name of an image with its host: short names are those of
// Docker Hub, which not every engine takes for granted.
func qualified(image string) string {
	host, rest, more := strings.Cut(image, "/")
	if more && (strings.ContainsAny(host, ".:") || host == "localhost") && rest != "" {
		return image
	}
	if !more {
		image = "library/" + image
	}
	return "docker.io/" + image
}

// label marks the containers of a group.
const label = "lapis.group"

// own are the variables that the engine's command itself goes by, and bash.
// What a container gets under these names is told by value.
var own = pattern.New(`^(PATH|HOME|TMPDIR|PORT|LD_.*|BASH.*|ENV|SHELLOPTS|IFS|DOCKER_.*|BUILDKIT_.*|CONTAINER.*|NERDCTL_.*|XDG_.*|DBUS_.*|LAPIS_.*)$`)

// passed are those that the engine needs of the server's own.
var passed = pattern.New(`^(PATH|HOME|DOCKER_.*|CONTAINER.*|NERDCTL_.*|XDG_.*|DBUS_.*)$`)

// instanceName is the name of the container of instance $LAPIS_INSTANCE, for the
// shell.
func instanceName(group string) string {
	sum := sha256.Sum256([]byte(group))
	return `"lapis-` + hex.EncodeToString(sum[:6]) + `-$` + serving.InstanceNumber + `"`
}

// Command implements serving.Containers.
func (e *Engine) Command(c serving.Container) (command, after string, env map[string]string) {
	e.mu.Lock()
	path := e.found
	e.mu.Unlock()
	engine := "env"
	for _, pair := range e.cfg.Env {
		if name, _, _ := strings.Cut(pair, "="); passed.MatchString(name) {
			engine += " " + quote(pair)
		}
	}
	engine += " " + quote(path)
	name := instanceName(c.Group)

	words := []string{"exec", engine, "run", "--name", name, "--label", quote(label + "=" + c.Group),
		"--publish", `127.0.0.1:"$PORT":` + strconv.Itoa(c.Port), "--security-opt", "label=disable"}
	if c.Memory > 0 {
		// As much swap as memory is no swap.
		words = append(words, "--memory", strconv.FormatInt(c.Memory, 10), "--memory-swap", strconv.FormatInt(c.Memory, 10))
	}
	if c.CPU > 0 {
		words = append(words, "--cpus", strconv.FormatFloat(c.CPU, 'g', -1, 64))
	}
	env = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Variables)) {
		if own.MatchString(name) {
			words = append(words, "--env", quote(name+"="+c.Variables[name]))
		} else {
			words, env[name] = append(words, "--env", quote(name)), c.Variables[name]
		}
	}
	for _, m := range c.Mounts {
		mount := "type=bind,source=" + m.From + quote(",target="+m.To)
		if m.ReadOnly {
			mount += ",readonly"
		}
		words = append(words, "--mount", mount)
	}
	words = append(words, quote(c.Image))

	after = engine + " inspect --format " + quote("{{if .State.OOMKilled}}"+c.OOM+"{{end}}") + " " + name + " 2>/dev/null\n" +
		engine + " rm --force --volumes " + name + " >/dev/null 2>&1"
	return strings.Join(words, " "), after, env
}

// quote makes one word of the text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// removeWithin bounds the removal of the containers of a group.
const removeWithin = time.Minute

// Remove implements serving.Containers.
func (e *Engine) Remove(ctx context.Context, group string) error {
	path, err := e.path(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removeWithin)
	defer cancel()
	said, err := e.output(ctx, path, "ps", "--all", "--quiet", "--filter", "label="+label+"="+group)
	if err != nil {
		return fmt.Errorf("list the containers of %s: %s", group, reason(said, err))
	}
	var ids []string
	for line := range strings.Lines(said) {
		if id := strings.TrimSpace(line); containerID.MatchString(id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	// What does not run any more cannot be killed, which is no matter.
	_, _ = e.output(ctx, path, append([]string{"kill"}, ids...)...)
	if said, err := e.output(ctx, path, append([]string{"rm", "--force", "--volumes"}, ids...)...); err != nil {
		return fmt.Errorf("remove the containers of %s: %s", group, reason(said, err))
	}
	return nil
}

var containerID = pattern.New(`^[0-9a-f]{12,64}$`)
