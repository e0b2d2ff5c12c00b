package process

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

var codeContainer = blob.Container{Account: "lapis", Name: "code"}

// seed puts the code of witness into the store.
func seed(blobs blob.Store) error {
	ctx := context.Background()
	if err := blobs.CreateContainer(ctx, codeContainer); err != nil {
		return err
	}
	for i := range 8 {
		if _, err := blobs.Put(ctx, codeContainer, fmt.Sprintf("c/%d.txt", i), strings.NewReader("text"), 4, blob.Attributes{}, blob.Condition{}); err != nil {
			return err
		}
	}
	return nil
}

// seeded is a store with the code of witness.
func seeded(t testing.TB) blob.Store {
	t.Helper()
	blobs := testStore(t)
	if err := seed(blobs); err != nil {
		t.Fatal(err)
	}
	return blobs
}

// witness is a task that leaves a line in the file each time it is run.
func witness(name, file string) compute.Task {
	return compute.Task{
		ID:      "ws/" + name,
		Command: "test $(cat *.txt | wc -c) = 32 || exit 1; echo ran >> " + file + "; echo ran; exit 3",
		Code:    []compute.Tree{{Container: codeContainer, Prefix: "c/"}},
		Logs:    compute.Tree{Container: codeContainer, Prefix: "logs/" + name + "/"},
	}
}

func runs(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Count(string(b), "ran\n")
}

// serveAndDie is a server that is killed at the step of its work.
func serveAndDie(dir, step string, supervisor []string) {
	exe, _ := os.Executable()
	blobs, err := store(filepath.Join(dir, "blobs"))
	if err == nil {
		err = seed(blobs)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	r, err := New(Config{Dir: filepath.Join(dir, "jobs"), Blobs: blobs, Supervisor: append([]string{exe, "supervise"}, supervisor...)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	dieAt(step)
	for i := range 3 {
		name := fmt.Sprint("w", i)
		if err := r.Launch(context.Background(), witness(name, filepath.Join(dir, name))); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

func deadServer(t *testing.T, dir, step string, supervisor ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, append([]string{"serve-and-die", dir, step}, supervisor...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func end(t *testing.T, r *Runtime, id string) compute.Observed {
	t.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); {
		all, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if o.ID == id && o.Phase == compute.Exited {
				return o
			}
		}
		select {
		case <-r.Ended():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("%s has not ended", id)
	panic("unreachable")
}

func TestTaskRunsOnceWhereverTheServerIsKilled(t *testing.T) {
	for _, step := range []string{"claimed", "code staged", "staged", "supervisor started", "order given"} {
		for _, supervisor := range []string{"", "slow at supervisor: order read", "slow at supervisor: start written"} {
			t.Run(step+", "+supervisor, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				err := deadServer(t, dir, step, supervisor).Run()
				if ee, ok := err.(*exec.ExitError); !ok || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the server was not killed at the step: %v", err)
				}
				r := open(t, filepath.Join(dir, "jobs"), seeded(t))
				file := filepath.Join(dir, "w0")
				if err := r.Launch(t.Context(), witness("w0", file)); err != nil {
					t.Fatal(err)
				}
				o := end(t, r, "ws/w0")
				if o.Exit != (compute.Exit{Code: 3, LastLine: "ran"}) {
					t.Errorf("%+v", o.Exit)
				}
				if n := runs(t, file); n != 1 {
					t.Errorf("the command ran %d times", n)
				}
			})
		}
	}
}

func TestTasksRunOnceUnderRandomKillsOfTheServer(t *testing.T) {
	rounds := 15
	if n, err := strconv.Atoi(os.Getenv("LAPIS_CRASHES")); err == nil {
		rounds = n
	}
	start := uint64(time.Now().UnixNano())
	t.Logf("seed %d", start)
	rnd := rand.New(rand.NewPCG(start, 0))
	for range rounds {
		dir := t.TempDir()
		for range 3 {
			cmd := deadServer(t, dir, "never")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rnd.IntN(100_000)) * time.Microsecond)
			cmd.Process.Kill()
			cmd.Wait()
		}
		r := open(t, filepath.Join(dir, "jobs"), seeded(t))
		for i := range 3 {
			name := fmt.Sprint("w", i)
			file := filepath.Join(dir, name)
			if err := r.Launch(t.Context(), witness(name, file)); err != nil {
				t.Fatal(err)
			}
			o := end(t, r, "ws/"+name)
			if n := runs(t, file); n != 1 || o.Exit.Code != 3 || o.Exit.Lost != "" {
				t.Errorf("the command ran %d times and ended %+v", n, o.Exit)
			}
		}
		r.Close()
	}
}

func TestTaskNeverRunsTwiceWhereverItsSupervisorIsKilled(t *testing.T) {
	for _, c := range []struct {
		step     string
		launches bool
		min, max int // runs
		exit     compute.Exit
	}{
		{"supervisor: order read", false, 0, 0, compute.Exit{}},
		{"supervisor: start written", true, 0, 0, compute.Exit{Code: 137, Lost: "its supervisor was killed"}},
		{"supervisor: command started", true, 0, 1, compute.Exit{Code: 137, Lost: "its supervisor was killed"}},
		{"supervisor: command ended", true, 1, 1, compute.Exit{Code: 137, Lost: "its supervisor was killed", LastLine: "ran"}},
		{"supervisor: end written", true, 1, 1, compute.Exit{Code: 3, LastLine: "ran"}},
	} {
		t.Run(c.step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			jobs, file := filepath.Join(dir, "jobs"), filepath.Join(dir, "w")
			r := open(t, jobs, seeded(t), c.step)
			err := r.Launch(t.Context(), witness("w", file))
			if (err == nil) != c.launches {
				t.Fatalf("launched: %v", err)
			}
			// A later server launches it again, as it would.
			again := open(t, jobs, seeded(t))
			if err := again.Launch(t.Context(), witness("w", file)); err != nil {
				t.Fatal(err)
			}
			o := end(t, again, "ws/w")
			if !c.launches {
				c.min, c.max, c.exit = 1, 1, compute.Exit{Code: 3, LastLine: "ran"}
			}
			if o.Exit.LastLine == "ran" && c.max == 1 {
				c.exit.LastLine = "ran"
			}
			if o.Exit != c.exit {
				t.Errorf("got %+v, want %+v", o.Exit, c.exit)
			}
			if n := runs(t, file); n < c.min || n > c.max {
				t.Errorf("the command ran %d times", n)
			}
		})
	}
}

// stubbornFamily has a child, one in a session of its own and one in a session
// of its own without the mark's process as parent; none heeds TERM.
const stubbornFamily = `trap '' TERM
beat() { while :; do echo x >> outputs/beats; sleep 0.02; done; }
export -f beat
beat & setsid bash -c beat & (setsid bash -c beat &)
until [ -s outputs/beats ]; do sleep 0.01; done; echo on; wait`

func TestKilledSupervisorTakesItsTaskWithIt(t *testing.T) {
	r := open(t, t.TempDir(), seeded(t))
	task := witness("family", "/dev/null")
	task.Command = stubbornFamily
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	dir := r.dir(folder(task.ID))
	beats := filepath.Join(dir, workDir, "outputs/beats")
	for !strings.Contains(read(t, filepath.Join(dir, artefacts, stdLog)), "on") {
		time.Sleep(5 * time.Millisecond)
	}
	start, err := readRecord[startRecord](dir, startFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(start.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	o := end(t, r, task.ID)
	if o.Exit.Code != 137 || o.Exit.Lost != "its supervisor was killed" || !strings.HasPrefix(o.Exit.LastLine, "on") {
		t.Errorf("%+v", o.Exit)
	}
	before := read(t, beats)
	time.Sleep(200 * time.Millisecond)
	if after := read(t, beats); after != before {
		t.Error("someone of the task still writes")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// abandoned makes the folder of a task as a crash may leave it.
func abandoned(t *testing.T, r *Runtime, id string, start startRecord) {
	t.Helper()
	dir := r.dir(folder(id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, v := range map[string]any{taskFile: manifest{ID: id}, startFile: start} {
		if err := writeRecord(dir, file, v, false); err != nil {
			t.Fatal(err)
		}
	}
}

// bystander is a process that has nothing to do with any task.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func alive(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if st, err := processStatus(cmd.Process.Pid); err != nil || st.zombie {
		t.Error("a process that is not of the task was ended")
	}
}

func TestStopEndsWhatADeadServerWasStaging(t *testing.T) {
	for _, step := range []string{"claimed", "code staged", "staged", "supervisor started", "order given"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if deadServer(t, dir, step, "very slow at supervisor: order read").Run() == nil {
				t.Fatal("the server was not killed")
			}
			r := open(t, filepath.Join(dir, "jobs"), seeded(t))
			if err := r.Stop(t.Context(), "ws/w0"); err != nil {
				t.Fatal(err)
			}
			if step == "supervisor started" {
				// The supervisor may have held the lock until it saw that its
				// order is not whole: the caller asks again, as it would.
				time.Sleep(time.Second)
				if err := r.Stop(t.Context(), "ws/w0"); err != nil {
					t.Fatal(err)
				}
			}
			if o := end(t, r, "ws/w0"); !o.Exit.Stopped || o.Exit.Lost != "" {
				t.Errorf("%+v", o.Exit)
			}
			if n := runs(t, filepath.Join(dir, "w0")); n != 0 {
				t.Errorf("the command ran %d times", n)
			}
		})
	}
}

func TestRestartOfTheMachineLosesTheTaskAndHarmsNobody(t *testing.T) {
	by := bystander(t)
	st, err := processStatus(by.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, t.TempDir(), seeded(t))
	abandoned(t, r, "ws/old", startRecord{PID: by.Process.Pid, Ticks: st.ticks, Command: by.Process.Pid, Boot: "an earlier one", Started: time.Now()})
	if err := r.Stop(t.Context(), "ws/old"); err != nil {
		t.Fatal(err)
	}
	if o := end(t, r, "ws/old"); o.Exit.Lost != "machine restarted" {
		t.Errorf("%+v", o)
	}
	alive(t, by)
}

func TestProcessIDThatIsUsedAgainIsNotTakenForTheTask(t *testing.T) {
	by := bystander(t)
	r := open(t, t.TempDir(), seeded(t))
	// The start of the bystander lies before that of the supervisor.
	st, err := processStatus(by.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	abandoned(t, r, "ws/reused", startRecord{PID: by.Process.Pid, Ticks: st.ticks + 100, Command: by.Process.Pid, Boot: r.boot, Started: time.Now()})
	if err := r.Stop(t.Context(), "ws/reused"); err != nil {
		t.Fatal(err)
	}
	if o := end(t, r, "ws/reused"); o.Exit.Lost != "its supervisor was killed" {
		t.Errorf("%+v", o)
	}
	alive(t, by)
}

func TestTermWithoutStopIsNotTakenForACancel(t *testing.T) {
	r := open(t, t.TempDir(), seeded(t))
	task := witness("term", "/dev/null")
	task.Command = "echo on; sleep 100"
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	start, err := readRecord[startRecord](r.dir(folder(task.ID)), startFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		syscall.Kill(start.PID, sig)
	}
	if o := end(t, r, task.ID); o.Exit.Stopped || !strings.Contains(o.Exit.Lost, "SIGTERM") {
		t.Errorf("%+v", o.Exit)
	}
}

func TestSecretsAreNowhereOnTheDisk(t *testing.T) {
	root := t.TempDir()
	var log strings.Builder
	r := open(t, root, seeded(t))
	r.cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	task := witness("secret", "/dev/null")
	task.Command = `[ "$TOKEN" = hush-hush ] && echo right`
	task.Env = map[string]string{"TOKEN": "hush-hush"}
	task.Secrets = []string{"TOKEN"}
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if o := end(t, r, task.ID); o.Exit.LastLine != "right" {
		t.Fatalf("%+v", o.Exit)
	}
	files := 0
	filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
			if strings.Contains(read(t, path), "hush-hush") {
				t.Errorf("the secret is in %s", path)
			}
		}
		return nil
	})
	if files < 5 || strings.Contains(log.String(), "hush-hush") {
		t.Errorf("%d files, log %s", files, log.String())
	}
}

func TestMemoryLimitEndsTheTaskAndSaysSo(t *testing.T) {
	r := open(t, t.TempDir(), seeded(t))
	task := witness("oom", "/dev/null")
	task.Memory, task.CPU = 64<<20, 1
	task.Command = `echo begin; x=$(head -c 300000000 /dev/zero | tr '\0' x); echo ${#x}`
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	o := end(t, r, task.ID)
	text := read(t, filepath.Join(r.dir(folder(task.ID)), artefacts, stdLog))
	if strings.Contains(text, "not enforced") {
		t.Skip("no control groups can be made here: ", text)
	}
	if !o.Exit.OOM || o.Exit.Code == 0 || !strings.Contains(text, "limit of 64 MiB") {
		t.Errorf("%+v\n%s", o.Exit, text)
	}
	task = witness("fits", filepath.Join(t.TempDir(), "f"))
	task.Memory, task.CPU = 64<<20, 0.5
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if o := end(t, r, task.ID); o.Exit.OOM || o.Exit.Code != 3 {
		t.Errorf("%+v", o.Exit)
	}
	for _, id := range []string{"ws/oom", "ws/fits"} {
		start, err := readRecord[startRecord](r.dir(folder(id)), startFile)
		if err != nil || len(start.Cgroups) == 0 {
			t.Fatal(err, start)
		}
		for _, g := range start.Cgroups {
			if exists(g, "") {
				t.Errorf("the group %s is left", g)
			}
		}
	}
}

func TestPartsOfATaskHaveLimitsOfTheirOwn(t *testing.T) {
	r := open(t, t.TempDir(), seeded(t))
	task := witness("parts", filepath.Join(t.TempDir(), "f"))
	task.Memory, task.Apart = 64<<20, true
	// The task itself may use more; a part that is killed is not the task's end.
	task.Command = `x=$(head -c 100000000 /dev/zero | tr '\0' x); echo ${#x}
[ -n "$LAPIS_CAGE" ] || exit 9
dir=$(echo "$LAPIS_CAGE" | sed 's/.*"dir":"\([^"]*\)".*/\1/')/1
mkdir "$dir" && for limit in memory.limit_in_bytes memory.max; do [ -e "$dir/$limit" ] && echo 67108864 >"$dir/$limit"; done
bash -c 'echo 0 >"$1/cgroup.procs" && x=$(head -c 300000000 /dev/zero | tr "\0" x); echo ${#x}' part "$dir" | grep 300000000 || echo killed`
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	o := end(t, r, task.ID)
	text := read(t, filepath.Join(r.dir(folder(task.ID)), artefacts, stdLog))
	if strings.Contains(text, "not enforced") {
		t.Skip("no control groups can be made here: ", text)
	}
	if o.Exit.Code != 0 || o.Exit.OOM || !strings.Contains(text, "100000000") || !strings.Contains(text, "killed") {
		t.Errorf("%+v\n%s", o.Exit, text)
	}
	start, err := readRecord[startRecord](r.dir(folder(task.ID)), startFile)
	if err != nil || len(start.Cgroups) == 0 {
		t.Fatal(err, start)
	}
	for _, g := range start.Cgroups {
		if exists(g, "") {
			t.Errorf("the group %s is left", g)
		}
	}
}

func TestFullDiskIsTheUsersToClearAndLosesNoEnd(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no file system can be mounted here: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	r := open(t, dir, seeded(t))
	task := witness("full", "/dev/null")
	task.Command = `echo on; echo > outputs/y; head -c 2000000 /dev/zero > outputs/x; head -c 2000000 /dev/zero >> outputs/y; exit 9`
	if err := r.Launch(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	var disk syscall.Statfs_t
	for disk.Blocks == 0 || disk.Bavail > 0 {
		if err := syscall.Statfs(dir, &disk); err != nil {
			t.Fatal(err)
		}
	}
	other := witness("second", "/dev/null")
	if err := r.Launch(t.Context(), other); !fault.Is(err, fault.StorageFull) {
		t.Errorf("a launch on a full disk: %v", err)
	}
	// The end cannot be written down until the command's files are gone.
	time.Sleep(200 * time.Millisecond)
	for !exists(r.dir(folder(task.ID)), exitFile) {
		for _, file := range []string{"x", "y"} {
			if err := os.Truncate(filepath.Join(r.dir(folder(task.ID)), workDir, "outputs", file), 0); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	if o := end(t, r, task.ID); o.Exit.Code != 9 || o.Exit.Lost != "" {
		t.Errorf("%+v", o.Exit)
	}
	if err := r.Launch(t.Context(), other); err != nil {
		t.Error(err)
	}
	end(t, r, other.ID)
}
