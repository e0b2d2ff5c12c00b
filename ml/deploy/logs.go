package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/serving"
	"lapis/resource"
)

// The containers whose logs are told.
const (
	InferenceServer    = "InferenceServer"
	StorageInitializer = "StorageInitializer"
)

// stdLog is the log of a group as the runtime keeps it.
const stdLog = "user_logs/std_log.txt"

// The bounds of logs: lines that are told, bytes that are read for them, and
// bytes that a group's log keeps.
const (
	maxLines = 5000
	maxTail  = 16 << 20
	logKeep  = 2 * maxTail
)

func (d *Deployer) logPath(id resource.ID) string  { return d.pathOf(id, "start.log") }
func (d *Deployer) lastPath(id resource.ID) string { return d.pathOf(id, "last.log") }

func (d *Deployer) pathOf(id resource.ID, name string) string {
	return filepath.Join(d.Dir, filepath.Base(d.socketDir(id.Key()))+"."+name)
}

// startLog begins the log of a start.
func (d *Deployer) startLog(id resource.ID) (io.WriteCloser, error) {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(d.logPath(id), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}

// keepLog keeps the end of a group's log for when the group is gone.
func (d *Deployer) keepLog(ctx context.Context, g *group) {
	text, err := d.groupLog(ctx, g.task, maxLines)
	if err == nil && text != "" {
		err = os.WriteFile(d.lastPath(g.deployment), []byte(text), 0o600)
	}
	if err != nil && !fault.Is(err, fault.Missing) {
		d.Log.Error("keep the log of a group", "group", g.task, "err", err)
	}
}

// groupLog is the end of a group's log.
func (d *Deployer) groupLog(ctx context.Context, task string, lines int) (string, error) {
	r, size, err := d.Runtime.OpenLog(ctx, task, stdLog, 0)
	if err != nil {
		return "", err
	}
	if size > maxTail {
		r.Close()
		if r, _, err = d.Runtime.OpenLog(ctx, task, stdLog, size-maxTail); err != nil {
			return "", err
		}
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return lastLines(string(text), lines), err
}

// lastLines are the last lines of a text, each with its end.
func lastLines(text string, n int) string {
	at := len(strings.TrimSuffix(text, "\n"))
	for ; n > 0 && at >= 0; n-- {
		at = strings.LastIndexByte(text[:at], '\n')
	}
	return text[at+1:]
}

// Logs implements endpoint.Deployer.
func (d *Deployer) Logs(ctx context.Context, r resource.Resource, container string, lines int) (string, error) {
	if lines <= 0 || lines > maxLines {
		lines = maxLines
	}
	switch {
	case strings.EqualFold(container, StorageInitializer):
		return readTail(d.logPath(r.ID), lines)
	case container != "" && !strings.EqualFold(container, InferenceServer):
		return "", fault.Invalid("'containerType' is %q; it must be %s or %s", fault.Clip(container), InferenceServer, StorageInitializer).With("ValidationError").At("containerType")
	}
	s := statusOf(r)
	if f := s.Failure; f != nil && s.State != resource.Creating && s.State != resource.Updating {
		first, _, _ := strings.Cut(f.Message, "\n")
		text, err := readTail(d.lastPath(r.ID), lines-1)
		if lines == 1 {
			text = ""
		}
		return first + "\n" + text, err
	}
	task := ""
	if s.Live != nil {
		site, err := ml.SiteOf(ctx, d.Resources, r.ID)
		if err != nil {
			return "", err
		}
		task = taskID(site.GUID, r.ID, s.Live.ID)
	} else {
		d.mu.Lock()
		for _, g := range d.groups {
			if g.deployment.Same(r.ID) && !g.retired {
				task = g.task
			}
		}
		d.mu.Unlock()
	}
	if why := d.killed(task); why != "" {
		if lines == 1 {
			return why + "\n", nil
		}
		text, err := d.groupLog(ctx, task, lines-1)
		return why + "\n" + text, err
	}
	text, err := d.groupLog(ctx, task, lines)
	if fault.Is(err, fault.Missing) {
		return readTail(d.lastPath(r.ID), lines)
	}
	return text, err
}

// tellKilled is how long the log of a deployment begins with why instances were
// killed.
const tellKilled = time.Hour

// killed says when and why an instance of a group was last killed for the
// memory it used; "" when none was lately.
func (d *Deployer) killed(task string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var last serving.GroupInstance
	if g := d.groups[task]; g != nil {
		for _, in := range g.instances {
			if in.Killed != "" && in.KilledAt.After(last.KilledAt) {
				last = in
			}
		}
	}
	if last.Killed == "" || d.Now().Sub(last.KilledAt) > tellKilled {
		return ""
	}
	return fmt.Sprintf("%s (instance %d, %s)", last.Killed, last.Number, last.KilledAt.Format(time.RFC3339))
}

func readTail(path string, lines int) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxTail {
		if _, err := f.Seek(st.Size()-maxTail, io.SeekStart); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(f)
	return lastLines(string(text), lines), err
}
