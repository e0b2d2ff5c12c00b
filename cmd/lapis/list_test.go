package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lapis/backend/sqldb"
	"lapis/ml/tracking"
	"lapis/resource"
)

// fillJobs makes count jobs more beside the job `first` of a stopped server's
// workspace: the same document, with the run of one that has completed. Every
// hundredth has a parent, every tenth is archived. They go the way of every job
// from the store on.
func fillJobs(t testing.TB, dir string, count int) {
	t.Helper()
	f := &folder{dir: dir}
	w, err := f.loadIdentity()
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqldb.Open(f.path("lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	resources := sqldb.NewResources(db)
	runs, err := sqldb.NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	workspace, err := resource.ParseID(w.group() + "/providers/Microsoft.MachineLearningServices/workspaces/" + w.Workspace)
	if err != nil {
		t.Fatal(err)
	}
	job, err := resources.Get(t.Context(), workspace.Child("jobs", "first"))
	if err != nil {
		t.Fatal(err)
	}
	ws, err := resources.Get(t.Context(), workspace)
	if err != nil {
		t.Fatal(err)
	}
	var status struct{ WorkspaceID string }
	if err := json.Unmarshal(ws.Status, &status); err != nil || status.WorkspaceID == "" {
		t.Fatalf("%s: %v", ws.Status, err)
	}
	run, err := runs.Run(t.Context(), status.WorkspaceID, "first")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < count; {
		var b resource.Batch
		for ; i < count && len(b.Puts) < 1000; i++ {
			j, r := job, run
			r.ID = fmt.Sprintf("quiet_grass_%06d", i)
			r.Name, r.Seq, r.Hidden, r.Parent = r.ID, 0, i%10 == 9, ""
			if i%100 == 50 {
				r.Parent = "first"
			}
			j.ID = workspace.Child("jobs", r.ID)
			b.Puts = append(b.Puts, resource.Write{Resource: j, Expect: resource.Absent})
			b.Rows = append(b.Rows, tracking.JobRun{Run: r, Experiment: "many-" + strconv.Itoa(i%50)})
		}
		if _, err := resources.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// manyJobs is a server with count jobs that have ended.
func manyJobs(b *testing.B, count int) *bench {
	n := newBench(b)
	n.environment()
	n.must("PUT", "/jobs/first", n.job("true"))
	n.end("first")
	dir := n.s.dir
	n.s.stop(os.Interrupt)
	fillJobs(b, dir, count)
	n.s = start(b, dir)
	n.token = clientToken(b, n.s)
	return n
}

// BenchmarkJobList is `lapis job list` where there are 100,000 jobs, from start
// to end of the command.
func BenchmarkJobList(b *testing.B) {
	const jobs = 100_000
	n := manyJobs(b, jobs)
	for _, x := range []struct {
		name string
		args []string
	}{
		{"by default", nil},
		{"a table of 50", []string{"--max-results", "50", "-o", "table"}},
		{"1,000", []string{"--max-results", "1000"}},
		{"archived too", []string{"--include-archived"}},
		{"archived alone", []string{"--archived-only"}},
		{"children", []string{"--parent-job-name", "first"}},
		{"a query", []string{"--query", "[?status=='Failed'].name"}},
	} {
		b.Run(x.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				cmd := exec.Command(n.s.bin, append([]string{"job", "list"}, x.args...)...)
				cmd.Env = append(os.Environ(), "LAPIS_DATA="+n.s.dir)
				cmd.Dir = filepath.Dir(n.s.dir)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
			if len(took) >= 10 {
				figure("list, "+x.name, "p50 %.0f ms, p99 %.0f ms of %d commands over %d jobs (target 200 ms)", ms(took[len(took)/2]), ms(took[len(took)*99/100]), len(took), jobs)
			}
		})
	}
	b.Run("the SDK", func(b *testing.B) {
		python := os.Getenv("LAPIS_TEST_PYTHON")
		if python == "" {
			b.Skip("LAPIS_TEST_PYTHON names no Python with the SDK")
		}
		script, err := filepath.Abs(filepath.Join("testdata", "joblist.py"))
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("bash", "-c", `eval "$("$0" connect)"; exec "$1" "$2"`, n.s.bin, python, script)
		cmd.Env = append(os.Environ(), "LAPIS_DATA="+n.s.dir)
		out, err := cmd.Output()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		var took []int
		for _, word := range strings.Fields(string(out))[1:] { // the first signs in as well
			one, err := strconv.Atoi(word)
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, one)
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2]), "p50-ms")
		figure("list, the SDK", "p50 %d ms, most %d ms of %d times 50 of %d jobs (target 200 ms)", took[len(took)/2], took[len(took)-1], len(took), jobs)
	})
}
