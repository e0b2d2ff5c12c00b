package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/compute"
	"lapis/ml/dispatch"
	"lapis/ml/tracking"
	"lapis/resource"
)

func slots(n int) func(*dispatch.Config) { return func(c *dispatch.Config) { c.Slots = n } }

func TestJobsStartInTheOrderTheyCameAndSayWhyTheyWait(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(w.dir, "order")
	gate := filepath.Join(w.dir, "gate")
	w.run(slots(1))
	w.job("first", "until [ -e "+gate+" ]; do sleep 0.02; done; echo first >>"+file)
	w.becomes("first", tracking.Running)
	for _, name := range []string{"b", "a", "c"} {
		w.job(name, "echo "+name+" >>"+file)
	}
	for _, name := range []string{"b", "a", "c"} {
		if r := w.becomes(name, tracking.Queued); !strings.Contains(r.Reason, "waits for a slot of this machine: 1 of 1") {
			t.Errorf("%s: %q", name, r.Reason)
		}
	}
	touch(t, gate)
	for _, name := range []string{"first", "b", "a", "c"} {
		if r := w.end(name); r.Status != tracking.Completed || r.Reason != "" || r.Start == 0 || r.End < r.Start {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := read(t, file); got != "first\nb\na\nc\n" {
		t.Errorf("they ran as %q", got)
	}
}

func TestALogIsWholeWhenItsJobHasEnded(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	w.job("j", `for i in $(seq 500); do echo line $i; done; mkdir -p outputs; echo data >outputs/o.txt`)
	w.end("j")
	if got := w.log("j"); !strings.HasSuffix(got, "line 500\n") || strings.Count(got, "\n") < 500 {
		t.Errorf("%q", got)
	}
	if _, err := w.blobs.Stat(t.Context(), w.site.Artifacts(), ml.RunFolder("j")+"outputs/o.txt"); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfAJobSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.run(slots(4))
	w.store1(w.site.Blobs(), "there.txt", "x")
	for _, c := range []struct {
		name, command string
		more          []string
		status        tracking.Status
		code          string
		words         []string
	}{
		{"good", "true", nil, tracking.Completed, "", nil},
		{"code", "echo oh no >&2; exit 3", nil, tracking.Failed, "UserError", []string{"exited with status code 3", "oh no"}},
		{"signal", "kill -SEGV $$", nil, tracking.Failed, "UserError", []string{"SIGSEGV"}},
		{"nothing", "no-such-program-here", nil, tracking.Failed, "UserError", []string{"status code 127", "not found"}},
		{"late", "sleep 20", []string{`"limits":{"jobLimitsType":"Command","timeout":"PT1S"}`}, tracking.Failed, "UserError", []string{"time limit of PT1S"}},
		{"input", "cat ${{inputs.table}}", []string{`"inputs":{"table":{"jobInputType":"uri_file","uri":"azureml://datastores/workspaceblobstore/paths/gone.csv"}}`},
			tracking.Failed, "UserError", []string{"table", "gone.csv"}},
		{"input2", "cat ${{inputs.table}}", []string{`"inputs":{"table":{"jobInputType":"uri_file","uri":"azureml://datastores/workspaceblobstore/paths/there.txt"}}`},
			tracking.Completed, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.job(c.name, c.command, c.more...)
			r := w.end(c.name)
			if r.Status != c.status {
				t.Fatalf("it is %s: %+v", r.Status, r.Error)
			}
			if c.code == "" {
				if r.Error != nil {
					t.Errorf("it has an error: %+v", r.Error)
				}
				return
			}
			if r.Error == nil || r.Error.Code != c.code {
				t.Fatalf("%+v", r.Error)
			}
			for _, word := range c.words {
				if !strings.Contains(r.Error.Message, word) {
					t.Errorf("%q is not in %q", word, r.Error.Message)
				}
			}
		})
	}
}

func TestAFailedBuildFailsItsJobWithTheReason(t *testing.T) {
	w := newWorld(t)
	w.builder.ready, w.builder.fail = false, fault.Invalid("no version of nosuch fits: nosuch==99")
	w.run(nil)
	w.job("j", "true")
	r := w.end("j")
	if r.Status != tracking.Failed || r.Error.Code != "UserError" || !strings.Contains(r.Error.Message, "nosuch==99") {
		t.Errorf("%s %+v", r.Status, r.Error)
	}
	if _, err := w.blobs.Stat(t.Context(), w.site.Artifacts(), ml.RunFolder("j")+dispatch.BuildLog); err != nil {
		t.Errorf("the build's log: %v", err)
	}
}

func TestAJobWaitsForItsEnvironmentAndOthersGoOn(t *testing.T) {
	w := newWorld(t)
	w.builder.ready = false
	w.run(slots(1))
	w.job("j", "true")
	if r := w.end("j"); r.Status != tracking.Completed {
		t.Errorf("%s %+v", r.Status, r.Error)
	}
	if w.builder.built != 1 {
		t.Errorf("built %d times", w.builder.built)
	}
}

func TestANamedOutputIsRegisteredWhenItIsThere(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	w.job("j", "echo x >${{outputs.model}}/f", `"outputs":{"model":{"jobOutputType":"uri_folder"},"none":{"jobOutputType":"uri_file"}}`)
	r := w.end("j")
	if r.Status != tracking.Completed {
		t.Fatalf("%s %+v", r.Status, r.Error)
	}
	if _, there := r.Outputs["none"]; there || !strings.HasSuffix(r.Outputs["model"].AssetID, "/data/azureml_j_output_data_model/versions/1") {
		t.Errorf("%+v", r.Outputs)
	}
	if _, err := w.blobs.Stat(t.Context(), w.site.Blobs(), "azureml/j/model/f"); err != nil {
		t.Error(err)
	}
}

func TestAJobIsCancelledInEachOfItsPhases(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(w *world, c *dispatch.Config)
		when  tracking.Status
		end   []tracking.Status
	}{
		{"queued", func(_ *world, c *dispatch.Config) { c.Slots = 0 }, tracking.Queued, []tracking.Status{tracking.Canceled}},
		{"preparing", func(w *world, _ *dispatch.Config) { w.builder.ready, w.builder.block = false, true }, tracking.Preparing, []tracking.Status{tracking.Canceled}},
		{"starting", func(w *world, c *dispatch.Config) {
			c.Runtime = hooked{Runtime: w.runtime, before: func(ctx context.Context, step string) error {
				if step == "launch" {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}}
		}, tracking.Starting, []tracking.Status{tracking.Canceled}},
		{"running", func(*world, *dispatch.Config) {}, tracking.Running, []tracking.Status{tracking.Canceled}},
		{"finalizing", func(w *world, c *dispatch.Config) {
			c.Runtime = hooked{Runtime: w.runtime, before: func(ctx context.Context, step string) error {
				for step == "collect" {
					if r := w.read("finalizing"); r.Status == tracking.CancelRequested || ctx.Err() != nil {
						break
					}
					time.Sleep(5 * time.Millisecond)
				}
				return nil
			}}
		}, tracking.Finalizing, []tracking.Status{tracking.Completed, tracking.Canceled}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.run(func(conf *dispatch.Config) { c.setup(w, conf) })
			marker := filepath.Join(w.dir, "marker")
			command := "sleep 60; echo late >" + marker
			if c.name == "finalizing" {
				command = "true"
			}
			w.job(c.name, command)
			w.becomes(c.name, c.when)
			began := time.Now()
			w.cancel(c.name)
			r := w.end(c.name)
			right := false
			for _, s := range c.end {
				right = right || r.Status == s
			}
			if !right || r.Error != nil {
				t.Errorf("it is %s: %+v", r.Status, r.Error)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %s", took)
			}
			w.untilTasks(0)
			if _, err := os.Stat(marker); err == nil {
				t.Error("its command ran to the end")
			}
		})
	}
}

// untilTasks waits until the runtime has n tasks.
func (w *world) untilTasks(n int) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		tasks, err := w.runtime.List(context.Background())
		if err != nil {
			w.t.Fatal(err)
		}
		if len(tasks) == n {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d tasks, want %d: %+v", len(tasks), n, tasks)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestACancelledJobStaysCancelled(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	w.job("j", "true")
	w.end("j")
	before := w.read("j")
	w.cancel("j")
	if r := w.read("j"); r.Status != before.Status || r.End != before.End {
		t.Errorf("a job that has ended became %s", r.Status)
	}
}

func TestAClusterGrowsWithItsJobsAndShrinksWhenIdle(t *testing.T) {
	w := newWorld(t)
	w.cluster("cpu", 0, 2, "PT1S")
	gate := filepath.Join(w.dir, "gate")
	w.run(slots(4))
	w.untilNodes("cpu", "no node", func(n compute.Nodes) bool { return len(n.Running)+len(n.Idle) == 0 })
	on := `"computeId":"` + w.id("computes/cpu") + `"`
	for i := range 4 {
		w.job(fmt.Sprint("j", i), "until [ -e "+gate+" ]; do sleep 0.02; done", on)
	}
	n := w.untilNodes("cpu", "two busy nodes", func(n compute.Nodes) bool { return len(n.Running) == 2 })
	if n.Running[0].ID == n.Running[1].ID || n.Running[0].Job == "" || n.Running[0].Job == n.Running[1].Job {
		t.Errorf("%+v", n)
	}
	if r := w.becomes("j2", tracking.Queued); !strings.Contains(r.Reason, "waits for a node of cpu: 2 of 2 are busy") {
		t.Errorf("%q", r.Reason)
	}
	touch(t, gate)
	for i := range 4 {
		if r := w.end(fmt.Sprint("j", i)); r.Status != tracking.Completed {
			t.Errorf("%s: %+v", r.ID, r.Error)
		}
	}
	ended := time.UnixMilli(max(w.read("j2").End, w.read("j3").End))
	w.untilNodes("cpu", "idle nodes", func(n compute.Nodes) bool { return len(n.Running) == 0 && len(n.Idle) > 0 })
	w.untilNodes("cpu", "no node", func(n compute.Nodes) bool { return len(n.Running)+len(n.Idle) == 0 })
	if took := time.Since(ended); took < time.Second || took > 4*time.Second {
		t.Errorf("the last node went %s after the last job; its idle time is 1 s", took)
	}
}

func TestAClusterHasItsLeastNodesWithoutAJob(t *testing.T) {
	w := newWorld(t)
	w.run(nil)
	w.cluster("cpu", 2, 3, "PT1S")
	n := w.untilNodes("cpu", "two idle nodes", func(n compute.Nodes) bool { return len(n.Idle) == 2 })
	w.job("j", "sleep 1", `"computeId":"`+w.id("computes/cpu")+`"`)
	busy := w.untilNodes("cpu", "a busy node", func(n compute.Nodes) bool { return len(n.Running) == 1 })
	if id := busy.Running[0].ID; id != n.Idle[0].ID && id != n.Idle[1].ID {
		t.Errorf("the job got the node %s, and %v were idle", id, n.Idle)
	}
	w.cluster("cpu", 0, 3, "PT1S")
	w.end("j")
	w.untilNodes("cpu", "no node", func(n compute.Nodes) bool { return len(n.Running)+len(n.Idle) == 0 })
}

func TestNodesAreTrueAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.cluster("cpu", 0, 2, "PT2S")
	on := `"computeId":"` + w.id("computes/cpu") + `"`
	gate := filepath.Join(w.dir, "gate")
	w.run(nil)
	w.job("long", "until [ -e "+gate+" ]; do sleep 0.02; done", on)
	w.job("short", "true", on)
	w.end("short")
	before := w.untilNodes("cpu", "one busy, one idle", func(n compute.Nodes) bool { return len(n.Running) == 1 && len(n.Idle) == 1 })
	w.stop()
	w.runtime.Close()
	w.openRuntime()
	w.run(nil)
	n := w.untilNodes("cpu", "the idle node gone", func(n compute.Nodes) bool { return len(n.Idle) == 0 })
	if len(n.Running) != 1 || n.Running[0] != before.Running[0] {
		t.Errorf("the job's node was %+v and is %+v", before.Running, n.Running)
	}
	touch(t, gate)
	w.end("long")
	w.untilNodes("cpu", "no node", func(n compute.Nodes) bool { return len(n.Running)+len(n.Idle) == 0 })
}

func TestAJobWhoseComputeGoesAwayFails(t *testing.T) {
	w := newWorld(t)
	w.cluster("cpu", 0, 1, "PT1S")
	w.run(slots(0))
	w.job("j", "true", `"computeId":"`+w.id("computes/cpu")+`"`)
	w.becomes("j", tracking.Queued)
	id, _ := resource.ParseID(w.id("computes/cpu"))
	if _, err := w.store.Commit(t.Context(), resource.Batch{Removals: []resource.Removal{{ID: id, Expect: resource.Any}}}); err != nil {
		t.Fatal(err)
	}
	if r := w.end("j"); r.Status != tracking.Failed || !strings.Contains(r.Error.Message, "'cpu' was deleted") {
		t.Errorf("%s %+v", r.Status, r.Error)
	}
}

func TestATaskThatNobodyWaitsForIsStopped(t *testing.T) {
	w := newWorld(t)
	if err := w.runtime.Launch(t.Context(), compute.Task{ID: w.site.GUID + "/stray", Command: "sleep 100",
		Logs: compute.Tree{Container: w.site.Artifacts(), Prefix: "x/"}}); err != nil {
		t.Fatal(err)
	}
	w.run(nil)
	w.untilTasks(0)
}

func TestAFullDiskEndsNoJob(t *testing.T) {
	w := newWorld(t)
	var full atomic.Bool
	var tries atomic.Int32
	full.Store(true)
	w.run(func(c *dispatch.Config) {
		c.Runtime = hooked{Runtime: w.runtime, before: func(_ context.Context, step string) error {
			if step == "collect" && full.Load() {
				tries.Add(1)
				return errNoRoom
			}
			return nil
		}}
	})
	w.job("j", "true")
	w.becomes("j", tracking.Finalizing)
	time.Sleep(1500 * time.Millisecond)
	if r := w.read("j"); r.Status != tracking.Finalizing {
		t.Fatalf("it is %s: %+v", r.Status, r.Error)
	}
	if n := tries.Load(); n < 1 || n > 4 {
		t.Errorf("tried %d times in 1.5 s", n)
	}
	full.Store(false)
	if r := w.end("j"); r.Status != tracking.Completed {
		t.Errorf("%s %+v", r.Status, r.Error)
	}
}

// mortal is a dispatcher's world that ends at the nth of the steps that leave a
// trace: the server is gone before the step, or right after it.
type mortal struct {
	mu    sync.Mutex
	n     int
	after bool
	kill  context.CancelFunc
	trace []string
}

var errGone = errors.New("the server is gone")

func (m *mortal) before(_ context.Context, step string) error { return m.at(step, false) }
func (m *mortal) done(_ context.Context, step string) error   { return m.at(step, true) }

func (m *mortal) at(step string, after bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n < 0 {
		return errGone
	}
	if after != m.after {
		return nil
	}
	m.trace = append(m.trace, step)
	if m.n--; m.n == 0 {
		m.n = -1
		m.kill()
		return errGone
	}
	return nil
}

// lives tells whether the server has steps left.
func (m *mortal) lives() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n > 0
}

// steps are those it has come to.
func (m *mortal) steps() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.trace)
}

// mortalRuns are runs that a server which may be gone writes.
type mortalRuns struct {
	tracking.Store
	*mortal
}

func (m mortalRuns) ChangeRun(ctx context.Context, workspace, id string, change func(*tracking.Run) error) (tracking.Run, error) {
	if err := m.at("write the run", false); err != nil {
		return tracking.Run{}, err
	}
	r, err := m.Store.ChangeRun(context.WithoutCancel(ctx), workspace, id, change)
	if err == nil {
		err = m.at("write the run", true)
	}
	return r, err
}

func TestAJobRunsOnceWhereverTheServerIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	for _, after := range []bool{false, true} {
		for n := 1; n < 20; n++ {
			m := &mortal{n: n, after: after}
			w := newWorld(t)
			w.builder.ready = false
			file := filepath.Join(w.dir, "ran")
			gone := make(chan struct{})
			m.kill = sync.OnceFunc(func() { close(gone) })
			w.run(func(c *dispatch.Config) {
				c.Runtime = hooked{Runtime: w.runtime, before: m.before, after: m.done}
				c.Runs = mortalRuns{w.runs, m}
			})
			w.job("j", "echo ran >>"+file+"; echo from the log; mkdir -p outputs; echo o >outputs/o")
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for r := w.read("j"); !r.Status.Terminal(); r = w.read("j") {
					time.Sleep(5 * time.Millisecond)
				}
			}()
			over := false
			select {
			case <-gone:
			case <-ended:
				over = m.lives() // no step was left to die at
			}
			w.stop()
			w.runtime.Close()
			w.openRuntime()
			w.run(nil)
			what := fmt.Sprintf("killed at step %d (after it: %v) of %v", n, after, m.steps())
			if r := w.end("j"); r.Status != tracking.Completed {
				t.Errorf("%s: %s %+v", what, r.Status, r.Error)
			}
			w.untilTasks(0)
			if got := read(t, file); got != "ran\n" {
				t.Errorf("%s: it ran as %q", what, got)
			}
			if got := w.log("j"); !strings.Contains(got, "from the log") {
				t.Errorf("%s: its log is %q", what, got)
			}
			<-ended
			w.stop()
			if over {
				if n < 6 {
					t.Errorf("only %d steps: %v", n, m.steps())
				}
				break
			}
		}
	}
}

func touch(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}
