package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/serving"
	"lapis/pattern"
)

// patientStarts is how often an instance may fail to start, without a word that
// starting it again cannot help, until the deployment has failed.
const patientStarts = 3

// proven waits until that many instances are ready and one has scored the
// sample that comes with the model.
func (d *Deployer) proven(ctx context.Context, g *group, count int, log io.Writer) error {
	began := d.Now()
	lastLook := time.Time{}
	for pause := 2 * time.Millisecond; ; pause = min(pause*5/4, 50*time.Millisecond) {
		seen, err := d.look(ctx, g)
		if err == nil {
			if err := failedStart(seen); err != nil {
				return err
			}
			if allReady(seen, count) {
				return d.score(ctx, g, seen, log)
			}
		}
		if err != nil || time.Since(lastLook) > 250*time.Millisecond {
			if o, ok := d.observe(ctx, g.task); ok && o.Phase == compute.Exited {
				return crashed(o.Exit)
			}
			lastLook = time.Now()
		}
		if waited := d.Now().Sub(began); waited > g.spec.Patience {
			if why := waiting(g.spec, seen); why != "" {
				return &crash{first: fmt.Sprintf("The instances are not ready after %s: %s; raise the readiness probe's initial_delay if they need longer", waited.Round(time.Second), why)}
			}
			return &crash{first: fmt.Sprintf("The instances are not ready after %s: init() has not returned, or the model is still being loaded; raise the readiness probe's initial_delay if it needs longer", waited.Round(time.Second))}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// waiting is why a server of the user's own is not ready yet, as far as that is
// known.
func waiting(s Spec, seen serving.Group) string {
	for _, in := range seen.Instances {
		if in.State != serving.Starting || in.Error == "" || !ownServer(s.Runtime) {
			continue
		}
		if strings.HasPrefix(in.Error, "GET ") || s.Runtime != serving.Image {
			return in.Error
		}
		return fmt.Sprintf("nobody answers GET %s at port %d of the container, which the routes of the environment name", s.Probe, s.Port)
	}
	return ""
}

// crash is why instances do not come up: the first line is the root cause, rest
// what they said.
type crash struct{ first, rest string }

func (c *crash) Error() string { return c.first }

func failedStart(seen serving.Group) error {
	for _, in := range seen.Instances {
		if in.State == serving.Failed && (in.Fatal || in.Restarts >= patientStarts) {
			first, rest, _ := strings.Cut(in.Error, "\n")
			if first == "" {
				first = "An instance ended as soon as it was started"
			}
			return &crash{first, rest}
		}
	}
	return nil
}

// crashed is the crash of a whole group.
func crashed(e compute.Exit) error {
	first := ""
	for line := range strings.SplitSeq(strings.TrimSpace(e.LastLine), "\n") {
		if !strings.HasPrefix(line, "lapis: ") {
			first = line
		}
	}
	switch {
	case e.OOM:
		first = "The instances were killed because they used more memory than there is; use a larger instance type or a smaller model"
	case e.Lost != "":
		first = "The instances ended: " + e.Lost
	case first == "":
		first = fmt.Sprintf("The instances ended with exit code %d and said nothing", e.Code)
	}
	return &crash{first, e.LastLine}
}

// sampleWithin bounds the scoring of a sample where requests may take shorter: a
// first request is slow.
const sampleWithin = 60 * time.Second

// score has one instance score the sample that came with the model.
func (d *Deployer) score(ctx context.Context, g *group, seen serving.Group, log io.Writer) error {
	in, ok := oneReady(g, seen)
	if g.spec.Sample == nil || !ok {
		return nil
	}
	d.stage(ctx, g.deployment, log, "Scoring the model's sample")
	a, err := d.ask(ctx, g, in, *g.spec.Sample)
	if err != nil {
		return unanswered(ctx, "the input example that came with the model", err)
	}
	if a.Status >= 400 {
		return &crash{"The model does not score the input example that came with it: " + said(a.Body), string(a.Body)}
	}
	return nil
}

// oneReady is an instance that answers.
func oneReady(g *group, seen serving.Group) (serving.Instance, bool) {
	for _, in := range seen.Instances {
		if in.State == serving.Ready {
			return instance(g, in), true
		}
	}
	return serving.Instance{}, false
}

// ask has an instance score a sample.
func (d *Deployer) ask(ctx context.Context, g *group, in serving.Instance, s Sample) (serving.Answer, error) {
	return d.Groups.Ask(ctx, in, serving.Question{Method: "POST", Target: s.Target,
		Headers: map[string]string{"Content-Type": "application/json"}, Body: s.Body, Timeout: max(g.spec.Timeout, sampleWithin)})
}

// unanswered is why a sample got no answer.
func unanswered(ctx context.Context, sample string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &crash{fmt.Sprintf("The instance died when it scored %s, or took longer than a request may: %v", sample, err), ""}
}

// said is the message in the body of an error.
func said(body []byte) string {
	var m struct {
		Message string `json:"message"`
		Error   any    `json:"error"`
	}
	text := string(body)
	if json.Unmarshal(body, &m) == nil {
		if m.Message != "" {
			text = m.Message
		} else if s, ok := m.Error.(string); ok {
			text = s
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return fault.Clip(first)
}

// inTask is where the files of a group lie on this machine, which tells the user
// nothing.
var inTask = pattern.New(`[^\s"']*/serving/groups/[^/\s"']+/(?:wd/|inputs(?:/var/azureml-app)?/)`)

var noModule = pattern.New(`ModuleNotFoundError: No module named '([^']+)'`)

// withFix is a root cause with what to do about it.
func withFix(first string, s Spec) string {
	m := noModule.FindStringSubmatch(first)
	if m == nil || strings.Contains(first, "; ") {
		return first
	}
	name, _, _ := strings.Cut(m[1], ".")
	where := "the environment's conda file"
	if s.Flavor == "mlflow" {
		where = "the model's requirements (pip_requirements when it is logged)"
	}
	return first + "; add the package that has " + name + " to " + where
}

// abandon ends an attempt: its instances go, what they said is kept, and the
// fault begins with the root cause.
func (d *Deployer) abandon(ctx context.Context, g *group, was Status, err error) error {
	// What the server's own end has interrupted is done again by the next one.
	if ctx.Err() != nil && fault.Find(context.Cause(ctx)) == nil {
		return err
	}
	last := context.WithoutCancel(ctx)
	d.keepLog(last, g)
	if was.Live == nil || was.Live.ID != g.generation {
		d.mu.Lock()
		g.retired = true
		d.mu.Unlock()
		d.end(last, g)
	}
	c, ok := err.(*crash)
	if !ok {
		return err
	}
	first := withFix(inTask.ReplaceAllString(c.first, ""), g.spec)
	message := first + "\nInstance status:\nSystemSetup: Succeeded\nUserContainerImagePull: Succeeded\nModelDownload: Succeeded\nUserContainerStart: Failed"
	if was.Live != nil {
		message += "\nThe version before still serves."
	}
	if rest := strings.TrimSpace(inTask.ReplaceAllString(c.rest, "")); rest != "" {
		message += "\nContainer log:\n" + tailOf(rest, 30)
	}
	return fault.New(fault.Conflict, "ResourceNotReady", "%s", message).From(err)
}

// tailOf is the last lines of a text.
func tailOf(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
