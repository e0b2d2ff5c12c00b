package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	parts "lapis/cage"
	"lapis/ml/compute"
)

// mark is the variable by which processes of a task are known, however far
// they have gone from their parents. Its value is the task's folder.
const mark = "LAPIS_TASK_DIR"

// Files that a supervisor inherits, beside 0 for its order and 1 and 2 for its log.
const (
	lockFD   = 3
	answerFD = 4
)

// running is the answer of a supervisor whose command runs. Any other is the
// reason why it does not.
const running = "running\n"

// Supervise is the whole of a supervisor process: it reads its order from
// standard input, runs the command to its end and writes down how it ended. It
// returns the exit code of the process.
func Supervise() int {
	// The command is to die with this thread, which is therefore kept.
	runtime.LockOSThread()
	syscall.CloseOnExec(lockFD)
	syscall.CloseOnExec(answerFD)
	answer := os.NewFile(answerFD, "answer")
	if st, err := os.Stdin.Stat(); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		fmt.Fprintln(os.Stderr, "Error: lapis supervise is started by the server, not by hand; to run a job, use lapis job create")
		return 2
	}
	var s supervisor
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 16<<20)).Decode(&s.order); err != nil {
		// The server was killed before it had given the whole order: it, or
		// the next one, will start over.
		fmt.Fprintln(os.Stderr, "read the order:", err)
		return 1
	}
	checkpoint("supervisor: order read")
	if err := s.begin(answer); err != nil {
		fmt.Fprint(answer, err)
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	answer.Close()
	s.finish(s.follow())
	return 0
}

type supervisor struct {
	order
	cage    *cage
	signals chan os.Signal
	command int // process, group and session
	reaped  chan reaped
	oom     int // processes of the machine that the kernel had killed for memory before
}

// reaped tells of a child that has ended; pid 0 means that there is none left.
type reaped struct {
	pid    int
	status syscall.WaitStatus
}

func (s *supervisor) begin(answer *os.File) error {
	// Signals are caught, not ignored: the command would inherit that.
	s.signals = make(chan os.Signal, 8)
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of the command's children: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(s.Dir, artefacts, stdLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if s.Memory > 0 || s.CPU > 0 {
		if s.cage, err = newCage(s.Dir, s.Memory, s.CPU, s.Apart); err != nil {
			fmt.Fprintf(log, "lapis: the %s's limits of memory and CPU are not enforced on this machine: %v\n", s.what(), err)
		}
		if s.cage != nil && len(s.cage.parts) > 0 {
			text, err := json.Marshal(s.cage.parts)
			if err != nil {
				return err
			}
			s.Env = append(s.Env, parts.Variable+"="+string(text))
		}
	}
	me, err := processStatus(os.Getpid())
	if err != nil {
		return err
	}
	rec := startRecord{PID: os.Getpid(), Ticks: me.ticks, Boot: s.Boot, Cgroups: s.cage.folders(), Started: time.Now().UTC()}
	if err := writeRecord(s.Dir, startFile, rec, true); err != nil {
		return err
	}
	checkpoint("supervisor: start written")
	// Stop writes its file before it looks for whom to signal, and we have
	// told who we are before we look for the file: one of us sees the other.
	if exists(s.Dir, stopFile) {
		s.finish(compute.Exit{Stopped: true, Code: 128 + int(syscall.SIGTERM)})
		io.WriteString(answer, running)
		os.Exit(0)
	}
	attr := &syscall.ProcAttr{
		Dir:   filepath.Join(s.Dir, workDir),
		Env:   s.Env,
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	leave, err := s.cage.enter(attr.Sys)
	if err != nil {
		fmt.Fprintf(log, "lapis: the %s's limits of memory and CPU are not enforced on this machine: %v\n", s.what(), err)
	}
	s.oom = machineOOM()
	s.command, err = syscall.ForkExec(s.Bash, []string{"bash", "-c", s.Command}, attr)
	leave()
	if err != nil {
		// Nothing has run, so the task may be launched again.
		s.cage.remove()
		os.Remove(filepath.Join(s.Dir, startFile))
		return fmt.Errorf("start bash: %w", err)
	}
	checkpoint("supervisor: command started")
	rec.Command = s.command
	if err := writeRecord(s.Dir, startFile, rec, false); err != nil {
		fmt.Fprintln(os.Stderr, "write down the command's process:", err)
	}
	s.reaped = make(chan reaped)
	go s.reap()
	io.WriteString(answer, running)
	return nil
}

// what the task is called when its limits are spoken of.
func (s *supervisor) what() string {
	if s.Apart {
		return "instance"
	}
	return "job"
}

// reap collects children, the command's orphans among them, until none is left.
func (s *supervisor) reap() {
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			s.reaped <- reaped{}
			return
		default:
			s.reaped <- reaped{pid, st}
		}
	}
}

// goneEvery is how often a supervisor looks whether its folder is still there.
const goneEvery = 2 * time.Second

// follow waits until nothing of the task runs any more.
func (s *supervisor) follow() compute.Exit {
	var exit compute.Exit
	var timeout, grace, again <-chan time.Time
	var giveUp time.Time
	over := false // the command itself has ended
	var trim <-chan time.Time
	if s.LogKeep > 0 {
		ticker := time.NewTicker(trimEvery)
		defer ticker.Stop()
		trim = ticker.C
	}
	gone := time.NewTicker(goneEvery)
	defer gone.Stop()
	if s.Timeout > 0 {
		timeout = time.After(s.Timeout)
	}
	end := func() {
		if grace != nil || over {
			return
		}
		s.signalAll(syscall.SIGTERM)
		grace = time.After(s.Grace)
	}
	kill := func() {
		if giveUp.IsZero() {
			giveUp = time.Now().Add(30 * time.Second)
		}
		s.signalAll(syscall.SIGKILL)
		s.cage.kill()
		again = time.After(20 * time.Millisecond)
	}
	for {
		select {
		case c := <-s.reaped:
			switch c.pid {
			case 0:
				return exit
			case s.command:
				over = true
				exit.Code = c.status.ExitStatus()
				if c.status.Signaled() {
					exit.Code = 128 + int(c.status.Signal())
					exit.Signal = unix.SignalName(c.status.Signal())
				}
				// As in a container, what the command has left behind ends
				// with it. Usually there is nothing, and the reaper says so
				// before this fires. But a shell that was told to end is gone
				// at once, while the program that it ran may still save its
				// work: that has the grace.
				if grace == nil {
					again = time.After(time.Millisecond)
				}
			}
		case sig := <-s.signals:
			if sig != syscall.SIGTERM || grace != nil || over {
				break
			}
			if exists(s.Dir, stopFile) {
				exit.Stopped = true
			} else {
				exit.Lost = "its supervisor was told to end (SIGTERM), as when the machine is shut down"
			}
			end()
		case <-trim:
			s.trimLog()
		case <-timeout:
			if grace == nil && !over {
				exit.TimedOut = true
				end()
			}
		case <-gone.C:
			// Whose folder was deleted can be found by nobody any more.
			if _, err := os.Stat(s.Dir); errors.Is(err, os.ErrNotExist) {
				end()
			}
		case <-grace:
			kill()
		case <-again:
			if !giveUp.IsZero() && time.Now().After(giveUp) {
				fmt.Fprintln(os.Stderr, "processes of the task do not end, not even on SIGKILL")
				return exit
			}
			kill()
		}
	}
}

// trimEvery is how often a supervisor looks at the length of a log that it keeps
// short.
const trimEvery = 10 * time.Second

// trimLog gives back the room of the log's head. What is written meanwhile is
// appended as ever, and no offset changes.
func (s *supervisor) trimLog() {
	log, err := os.OpenFile(filepath.Join(s.Dir, artefacts, stdLog), os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer log.Close()
	st, err := log.Stat()
	if err != nil || st.Size() < 2*s.LogKeep || st.Sys().(*syscall.Stat_t).Blocks*512 < 2*s.LogKeep {
		return
	}
	if err := unix.Fallocate(int(log.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, st.Size()-s.LogKeep); err != nil {
		fmt.Fprintln(os.Stderr, "give back the room of a log's head:", err)
	}
}

// signalAll sends the signal once to each process of the task that runs. As
// the reaper of orphans, a supervisor has all that its command has started
// below it.
func (s *supervisor) signalAll(sig syscall.Signal) {
	group := 0 // that is signalled as one, so that it cannot outrun us
	children := map[int][]int{}
	groups := map[int]int{}
	for _, p := range processes() {
		if st, err := processStatus(p); err == nil {
			children[st.parent] = append(children[st.parent], p)
			groups[p] = st.group
		}
	}
	var below []int
	for next := children[os.Getpid()]; len(next) > 0; next = next[1:] {
		below = append(below, next[0])
		next = append(next, children[next[0]]...)
		if groups[next[0]] == s.command {
			group = s.command
		}
	}
	if group != 0 {
		syscall.Kill(-group, sig)
	}
	for _, pid := range below {
		if groups[pid] != group {
			syscall.Kill(pid, sig)
		}
	}
}

// finish writes down how the task ended.
func (s *supervisor) finish(exit compute.Exit) {
	switch {
	case exit.Code != 0 && s.cage.oomKills() > 0:
		exit.OOM = true
		s.say("lapis: the job was killed because it used more memory than its limit of %s", bytesOf(s.Memory))
	case exit.Code == 128+int(syscall.SIGKILL) && !exit.Stopped && !exit.TimedOut && machineOOM() > s.oom:
		exit.OOM = true
		s.say("lapis: the job was killed while the machine ran out of memory")
	}
	if exit.TimedOut {
		s.say("lapis: the job was ended because it ran longer than its timeout of %s", s.Timeout)
	}
	s.cage.remove()
	removeShortcut(s.Dir)
	// The log is on the disk before the record that says it is whole.
	if f, err := os.OpenFile(filepath.Join(s.Dir, artefacts, stdLog), os.O_RDWR, 0); err == nil {
		exit.LastLine = tail(f)
		f.Close()
	}
	checkpoint("supervisor: command ended")
	rec := exitRecord{Ended: time.Now().UTC(), Exit: exit}
	// A full disk is given time to be cleared.
	for try := range 600 {
		err := writeRecord(s.Dir, exitFile, rec, true)
		if err == nil {
			break
		}
		if try == 0 {
			fmt.Fprintln(os.Stderr, "write down the end:", err)
		}
		if exists(s.Dir, exitFile) || !exists(s.Dir, lockFile) { // written after all, or removed by hand
			break
		}
		time.Sleep(time.Second)
	}
	checkpoint("supervisor: end written")
}

func (s *supervisor) say(format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(s.Dir, artefacts, stdLog), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

func bytesOf(n int64) string {
	if n >= 1<<20 {
		return strconv.FormatInt(n>>20, 10) + " MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// tail reads the last lines of a file.
func tail(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	const enough = 64 << 10 // after the text there may be blank lines
	b := make([]byte, min(st.Size(), enough))
	if _, err := f.ReadAt(b, st.Size()-int64(len(b))); err != nil && err != io.EOF {
		return ""
	}
	return lastLines(b)
}

// lastLines returns the last lines that are not blank, as many whole ones as
// fit, or the end of the last one.
func lastLines(b []byte) string {
	var lines []string
	size := 0
	for len(b) > 0 {
		i := bytes.LastIndexByte(b, '\n')
		line := strings.TrimSpace(strings.ToValidUTF8(string(b[i+1:]), "\uFFFD"))
		if i < 0 {
			i = 0
		}
		b = b[:i]
		if line == "" {
			continue
		}
		if size+len(line)+1 > maxLastLog {
			if lines == nil {
				line = line[len(line)-maxLastLog:]
				lines = []string{strings.ToValidUTF8(line, "")}
			}
			break
		}
		size += len(line) + 1
		if lines = append(lines, line); len(lines) == 10 {
			break
		}
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}
