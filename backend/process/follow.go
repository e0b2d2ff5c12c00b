package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lapis/ml/compute"
)

// pollEvery is how often tasks are looked at although nothing has been heard
// of them.
const pollEvery = 5 * time.Second

// List returns all tasks that are not removed.
func (r *Runtime) List(ctx context.Context) ([]compute.Observed, error) {
	names, err := r.folders()
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	var all []compute.Observed
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		o, err := r.observe(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile, or not begun
		}
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", err)
		}
		all = append(all, o)
	}
	return all, nil
}

func (r *Runtime) folders() ([]string, error) {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// observe tells how far the task has come. It is os.ErrNotExist if there is
// nothing yet by which to know it.
func (r *Runtime) observe(name string) (compute.Observed, error) {
	r.mu.Lock()
	o, ok := r.finished[name]
	r.mu.Unlock()
	if ok {
		return o, nil
	}
	dir := r.dir(name)
	m, err := readRecord[manifest](dir, taskFile)
	if err != nil {
		return o, err
	}
	o = compute.Observed{ID: m.ID, Phase: compute.Staging}
	start, err := readRecord[startRecord](dir, startFile)
	switch {
	case err == nil:
		o.Phase, o.Started = compute.Running, start.Started
		r.settle(name)
	case !errors.Is(err, os.ErrNotExist):
		return o, err
	}
	end, err := readRecord[exitRecord](dir, exitFile)
	switch {
	case err == nil:
		o.Phase, o.Ended, o.Exit = compute.Exited, end.Ended, end.Exit
		r.mu.Lock()
		r.finished[name] = o
		r.mu.Unlock()
	case !errors.Is(err, os.ErrNotExist):
		return o, err
	}
	return o, nil
}

// settle ends a task whose supervisor is gone without a word, and tells
// whether the task is at its end.
func (r *Runtime) settle(name string) bool {
	dir := r.dir(name)
	if exists(dir, exitFile) {
		return true
	}
	if !exists(dir, startFile) {
		return false
	}
	lock, err := tryLock(dir)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer lock.Close()
	if exists(dir, exitFile) {
		return true
	}
	start, err := readRecord[startRecord](dir, startFile)
	if err != nil {
		r.cfg.Log.Error("read who supervised a task", "folder", dir, "err", err)
		return false
	}
	end := exitRecord{Ended: time.Now().UTC(), Exit: compute.Exit{Code: 128 + int(syscall.SIGKILL), Lost: "machine restarted"}}
	if start.Boot == r.boot {
		end.Exit.Lost = "its supervisor was killed"
		if err := killOrphans(dir, start); err != nil {
			r.cfg.Log.Error("end what a killed supervisor has left", "folder", dir, "err", err)
			return false
		}
	}
	removeShortcut(dir)
	if f, err := os.Open(filepath.Join(dir, artefacts, stdLog)); err == nil {
		end.Exit.LastLine = tail(f)
		f.Close()
	}
	if err := writeRecord(dir, exitFile, end, true); err != nil {
		r.cfg.Log.Error("write down the end of a task", "folder", dir, "err", err)
		return false
	}
	return true
}

// killOrphans ends the processes of a task that has lost its supervisor. The
// kernel has killed the command itself; what it had started is known by its
// session, by the mark in its environment, and by its control groups.
func killOrphans(dir string, start startRecord) error {
	me := os.Getpid()
	variable := []byte(mark + "=" + dir)
	for deadline := time.Now().Add(10 * time.Second); ; {
		left := 0
		for _, pid := range processes() {
			if pid == me || !ofTask(pid, start, variable) {
				continue
			}
			left++
			syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, g := range start.Cgroups {
			killGroup(g)
		}
		if left == 0 {
			for _, g := range start.Cgroups {
				_ = removeGroup(g)
			}
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes do not end, not even on SIGKILL", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func ofTask(pid int, start startRecord, variable []byte) bool {
	st, err := processStatus(pid)
	// What began before the supervisor is not of its task: a process id may
	// have been used before.
	if err != nil || st.zombie || st.ticks < start.Ticks {
		return false
	}
	if start.Command != 0 && st.session == start.Command {
		return true
	}
	env, err := readAll("/proc/"+strconv.Itoa(pid)+"/environ", 8<<20)
	if err != nil {
		return false
	}
	for v := range strings.SplitSeq(string(env), "\x00") {
		if v == string(variable) {
			return true
		}
	}
	return false
}

// adopt follows the tasks of an earlier server and deletes what it was about
// to delete.
func (r *Runtime) adopt() error {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), trash) {
			if err := sweep(r.dir(e.Name())); err != nil {
				r.cfg.Log.Error("delete a task's folder", "folder", e.Name(), "err", err)
			}
		}
	}
	names, err := r.folders()
	if err != nil {
		return err
	}
	for _, name := range names {
		if exists(r.dir(name), startFile) && !exists(r.dir(name), exitFile) {
			r.watch(name)
		}
	}
	return nil
}

// watch follows a supervisor that is no child of ours.
func (r *Runtime) watch(name string) {
	start, err := readRecord[startRecord](r.dir(name), startFile)
	if err != nil || start.Boot != r.boot {
		if r.settle(name) {
			r.signalEnded()
		}
		return
	}
	r.follow(name, start.PID, start.Ticks, nil)
}

// watchChild follows a supervisor that we have started.
func (r *Runtime) watchChild(name string, child *os.Process) {
	r.follow(name, child.Pid, 0, child)
}

// follow waits for the end of a process and settles its task. Where the kernel
// has no way to wait for it, the poll finds the end.
func (r *Runtime) follow(name string, pid int, ticks uint64, child *os.Process) {
	r.mu.Lock()
	known := r.watched[name]
	r.watched[name] = true
	r.mu.Unlock()
	if known || r.ctx.Err() != nil {
		return
	}
	handle, err := openProcess(pid)
	if st, e := processStatus(pid); e != nil || ticks != 0 && st.ticks != ticks {
		err = syscall.ESRCH // its id is another's by now
	}
	r.loops.Go(func() {
		switch {
		case err == nil:
			defer handle.Close()
			defer context.AfterFunc(r.ctx, func() { handle.Close() })()
			if !awaitEnd(handle) && r.ctx.Err() != nil {
				return
			}
		case errors.Is(err, syscall.ESRCH):
		default:
			r.cfg.Log.Warn("tasks are followed by polling alone", "err", err)
		}
		if child != nil && err == nil {
			child.Wait()
		} else if child != nil {
			go child.Wait() // only so that it does not stay a zombie
		}
		over := r.settle(name)
		r.mu.Lock()
		delete(r.watched, name)
		r.mu.Unlock()
		if over {
			r.signalEnded()
		}
	})
}

// openProcess opens a handle of the process that becomes readable at its end.
func openProcess(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "process "+strconv.Itoa(pid)), nil
}

// awaitEnd waits for the end of the process, or for Close of its handle. It
// costs no thread while it waits.
func awaitEnd(handle *os.File) bool {
	raw, err := handle.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		ended = err == nil && n > 0
		return ended
	})
	return ended
}

// poll is there for ends that were missed.
func (r *Runtime) poll() {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		names, err := r.folders()
		if err != nil {
			r.cfg.Log.Error("look at tasks", "err", err)
			continue
		}
		for _, name := range names {
			r.mu.Lock()
			_, known := r.finished[name]
			r.mu.Unlock()
			if !known && r.settle(name) {
				r.signalEnded()
			}
		}
	}
}

// Stop asks the task to end.
func (r *Runtime) Stop(ctx context.Context, id string) error {
	name := folder(id)
	dir := r.dir(name)
	// The request is written down first, for a supervisor that is just
	// starting; then whoever is at work is told.
	f, err := os.OpenFile(filepath.Join(dir, stopFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return roomLeft(fmt.Errorf("stop job %s: %w", id, err))
	}
	r.mu.Lock()
	cancel := r.staging[name]
	r.mu.Unlock()
	if cancel != nil {
		cancel(errStopped)
	}
	if exists(dir, exitFile) {
		return nil
	}
	start, err := readRecord[startRecord](dir, startFile)
	if errors.Is(err, os.ErrNotExist) {
		if cancel == nil && exists(dir, taskFile) {
			return r.stopHalfStaged(dir)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if start.Boot != r.boot {
		r.settle(name)
		return nil
	}
	handle, err := openProcess(start.PID)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop job %s: %w", id, err)
	}
	defer handle.Close()
	// Now that the handle holds on to one process, see that it is the right one.
	if st, err := processStatus(start.PID); err != nil || st.ticks != start.Ticks {
		return nil
	}
	err = unix.PidfdSendSignal(int(handle.Fd()), unix.SIGTERM, nil, 0)
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop job %s: %w", id, err)
	}
	return nil
}

// stopHalfStaged ends a task that a server before this one was staging when it
// died. If someone is at work on the task after all, they see the stop file.
func (r *Runtime) stopHalfStaged(dir string) error {
	lock, err := tryLock(dir)
	if errors.Is(err, errLocked) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if exists(dir, startFile) || exists(dir, exitFile) {
		return nil
	}
	return r.endUnstarted(dir)
}

// endUnstarted writes down that the task was stopped before its command ran.
func (r *Runtime) endUnstarted(dir string) error {
	removeShortcut(dir)
	e := exitRecord{Ended: time.Now().UTC(), Exit: compute.Exit{Stopped: true, Code: 128 + int(syscall.SIGTERM)}}
	if err := writeRecord(dir, exitFile, e, true); err != nil {
		return roomLeft(err)
	}
	r.signalEnded()
	return nil
}
