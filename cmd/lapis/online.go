package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
	"lapis/pattern"
)

// onlineFlags are what the verbs of endpoints and of deployments share.
type onlineFlags struct {
	endpoint string // of deployments
	local    bool
}

func (o *onlineFlags) register(n *noun) {
	fl := n.cmd.PersistentFlags()
	fl.BoolVar(&o.local, "local", false, "work on local endpoints: they ask for no key, and are listed apart")
	// az takes the beginning of a flag for the flag; these are in use.
	n.cmd.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "endpoint", "deployment":
			name += "-name"
		}
		return pflag.NormalizedName(name)
	})
}

// truths lets flags that are there or not be followed by a word, as with az:
// --local true. It is called when all flags of the command are known.
func truths(cmd *cobra.Command) {
	others := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		var rest []string
		for _, a := range args {
			value, err := strconv.ParseBool(strings.ToLower(a))
			var given *pflag.Flag
			cmd.Flags().Visit(func(f *pflag.Flag) {
				if f.Value.Type() == "bool" && f.Name != "yes" && f.Name != "no-wait" {
					given = f
				}
			})
			if err != nil || given == nil {
				rest = append(rest, a)
				continue
			}
			_ = given.Value.Set(strconv.FormatBool(value))
		}
		if others != nil {
			return others(cmd, rest)
		}
		return noWords(cmd, rest)
	}
}

// isLocal tells whether a resource, as the wire has it, is a local endpoint.
func isLocal(raw json.RawMessage) bool {
	var e client.Endpoint
	return json.Unmarshal(raw, &e) == nil && localEndpoint(&e)
}

func localEndpoint(e *client.Endpoint) bool {
	return e.Properties.Properties[spec.LocalProperty] == "true"
}

// checkEndpoint reads the endpoint that a verb works on. A local one is only
// there with --local, and the others only without.
func (o *onlineFlags) checkEndpoint(ctx context.Context, s *session, name string) (*client.Endpoint, error) {
	e, err := s.Endpoint(ctx, name)
	if err != nil {
		return nil, err
	}
	return e, o.same(e)
}

func (o *onlineFlags) same(e *client.Endpoint) error {
	switch is := localEndpoint(e); {
	case is && !o.local:
		return fault.NotFound("The endpoint %q is a local one. Say so with --local.", e.Name)
	case !is && o.local:
		return fault.NotFound("There is no local endpoint %q; the endpoint of that name is not a local one. Leave --local out.", e.Name)
	}
	return nil
}

// shares reads `blue=90 green=10`; commas do as well as blanks.
func shares(flag, s string) (map[string]any, error) {
	m := map[string]any{}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		name, value, ok := strings.Cut(part, "=")
		share, err := strconv.Atoi(strings.TrimSuffix(value, "%"))
		if !ok || name == "" || err != nil {
			return nil, fault.Invalid("%s %q: write it as %s \"blue=90 green=10\".", flag, s, flag)
		}
		if _, twice := m[strings.ToLower(name)]; twice {
			return nil, fault.Invalid("%s %q: %s is named twice.", flag, s, name)
		}
		m[strings.ToLower(name)] = share
	}
	if len(m) == 0 {
		return nil, fault.Invalid("%s %q: write it as %s \"blue=90 green=10\".", flag, s, flag)
	}
	return m, nil
}

// put writes shares into a document.
func putShares(d *spec.Document, flag, field, s string) error {
	if s == "" {
		return nil
	}
	m, err := shares(flag, s)
	if err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return d.Put(flag, field, string(text))
}

// asFile gives a resource as the file that would describe it, so that it is
// changed and checked as a file is.
func asFile(noun string, raw json.RawMessage, dir string, removed []string) (*spec.Document, error) {
	v, err := client.View(noun, raw)
	if err != nil {
		return nil, err
	}
	for _, field := range removed {
		if !without(v, field) {
			return nil, fault.NotFound("--remove %s: there is none.", field)
		}
	}
	for _, key := range []string{"resourceGroup", "creation_context", "id", "provisioning_state"} {
		delete(v, key)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return spec.Parse(fmt.Sprintf("the %s %v", strings.TrimPrefix(noun, "online-"), v["name"]), dir, text)
}

// without removes the field at a path, and tells whether it was there. A key
// may hold points.
func without(m map[string]any, path string) bool {
	if _, ok := m[path]; ok {
		delete(m, path)
		return true
	}
	for i, r := range path {
		if inner, ok := m[path[:i]].(map[string]any); r == '.' && ok && without(inner, path[i+1:]) {
			return true
		}
	}
	return false
}

// pythonScript says what is wrong with the syntax of a Python file, as the
// first Python on the PATH sees it. Without one nothing is said.
func pythonScript(ctx context.Context, file string) error {
	python, err := exec.LookPath("python3")
	if err != nil || !strings.EqualFold(filepath.Ext(file), ".py") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	const program = `import ast, sys
try:
    with open(sys.argv[1], "rb") as f:
        ast.parse(f.read(), sys.argv[1])
except (SyntaxError, ValueError) as e:
    where = f"line {e.lineno}: {(e.text or '').strip()}: " if getattr(e, "lineno", None) else ""
    print(where + (getattr(e, "msg", None) or str(e)))
    sys.exit(9)`
	out, err := exec.CommandContext(ctx, python, "-I", "-c", program, file).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		return nil
	}
	return fault.Invalid("%q is not Python: %s. Correct it, or send it as it is with --skip-script-validation.", filepath.Base(file), strings.TrimSpace(string(out)))
}

// withLog adds the end of a deployment's log to the error that it failed
// with, where the server has not: the root cause stands first, the log below it.
func withLog(ctx context.Context, s *session, endpoint, deployment string, err error) error {
	f := fault.Find(err)
	if f == nil || f.Kind != fault.Conflict || strings.Contains(f.Message, "\nContainer log:") {
		return err
	}
	const lines = 30
	text, logErr := s.DeploymentLogs(ctx, endpoint, deployment, client.InferenceServer, lines)
	if text = strings.TrimSpace(text); logErr != nil || text == "" {
		return err
	}
	whole := *f
	whole.Details = append(slices.Clone(f.Details), fault.Conflicts("The end of its log:\n    %s", strings.ReplaceAll(text, "\n", "\n    ")))
	return &whole
}

// follow shows how far a deployment is until the function that it returns is
// called. Without a terminal it asks for nothing.
func follow(ctx context.Context, s *session, endpoint, deployment string) (stop func()) {
	s.progress.stage("Deploying " + deployment + " …")
	if !s.progress.on {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		stage := ""
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if text, err := s.DeploymentLogs(ctx, endpoint, deployment, client.StorageInitializer, 40); err == nil {
				stage = stageOf(text)
			}
			if ctx.Err() == nil {
				s.progress.stage(fmt.Sprintf("Deploying %s (%d s)%s", deployment, int(time.Since(began).Seconds()), stage))
			}
		}
	}()
	return func() {
		cancel()
		<-done
		s.progress.clear()
	}
}

// stageOf is what a deployment is at, by the log of what prepares it: its
// last line that has a time, and what a build said since.
func stageOf(log string) string {
	stage, detail := "", ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if at := stageLine.FindStringSubmatch(line); at != nil {
			stage, detail = at[1], ""
		} else if line != "" {
			detail = strings.TrimPrefix(line, "==> ")
		}
	}
	switch {
	case stage == "" && detail == "":
		return ""
	case stage == "" || detail == "":
		return ": " + stage + detail
	}
	return ": " + stage + ": " + detail
}

var stageLine = pattern.New(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z] (.+)$`)
