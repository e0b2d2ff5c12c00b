package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	parts "lapis/cage"
)

// cgroupRoot is where the kernel's control groups are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// cage holds a task to its limits by control groups. A nil cage holds nothing.
type cage struct {
	memory  string // folder of the group with the memory limit, or ""
	cpu     string // of the group with the CPU share; the same one in version 2
	unified bool   // version 2
	main    string // in version 2, of the group that the command enters

	// Where the task's parts have groups of their own: how. The task itself has
	// no limit then.
	parts []parts.Group
}

// mainGroup is the group of a command whose parts have groups beside it: in
// version 2 no group has both processes and limits for those below.
const mainGroup = "main"

// quotaPeriod is that of the kernel's limits of CPU, in microseconds.
const quotaPeriod = 100_000

// newCage makes groups for the task with the folder dir, or for its parts. The
// error says which limit cannot be had and why; the cage holds the others.
func newCage(dir string, memory int64, cpu float64, apart bool) (*cage, error) {
	// Servers of several data folders may share this machine.
	name := filepath.Base(shortcut(dir))
	own, err := ownGroups()
	if err != nil {
		return nil, err
	}
	if path, ok := own[""]; ok && exists(cgroupRoot, "cgroup.controllers") {
		return unifiedCage(path, name, memory, cpu, apart)
	}
	c := &cage{}
	var errs []error
	if memory > 0 {
		if c.memory, err = makeGroup("memory", own["memory"], name); err == nil {
			limits := []parts.Limit{limit("memory.limit_in_bytes", memory)}
			if exists(c.memory, "memory.memsw.limit_in_bytes") {
				limits = append(limits, limit("memory.memsw.limit_in_bytes", memory))
			}
			err = c.hold(parts.Group{Dir: c.memory, Limits: limits, Kills: "memory.oom_control"}, apart)
		}
		errs = append(errs, err)
	}
	if cpu > 0 {
		if c.cpu, err = makeGroup("cpu", own["cpu"], name); err == nil {
			share := limit("cpu.shares", max(2, int64(cpu*1024)))
			if apart {
				share = limit("cpu.cfs_quota_us", int64(cpu*quotaPeriod))
			}
			err = c.hold(parts.Group{Dir: c.cpu, Limits: []parts.Limit{share}}, apart)
		}
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

func limit(file string, v int64) parts.Limit {
	return parts.Limit{File: file, Value: strconv.FormatInt(v, 10)}
}

// hold sets the limits of a group, or keeps them for those of its parts.
func (c *cage) hold(g parts.Group, apart bool) error {
	if apart {
		c.parts = append(c.parts, g)
		return nil
	}
	for _, l := range g.Limits {
		if err := os.WriteFile(filepath.Join(g.Dir, l.File), []byte(l.Value), 0); err != nil {
			return err
		}
	}
	return nil
}

// ownGroups tells the group of this process by controller; "" is version 2.
func ownGroups() (map[string]string, error) {
	b, err := readAll("/proc/self/cgroup", 1<<20)
	if err != nil {
		return nil, fmt.Errorf("the kernel has no control groups: %w", err)
	}
	own := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, controller := range strings.Split(f[1], ",") {
			own[controller] = f[2]
		}
	}
	return own, nil
}

// makeGroup makes a version 1 group below our own, or at the top where our own
// is not to be seen, as in a container.
func makeGroup(controller, own, name string) (string, error) {
	var err error
	for _, parent := range []string{filepath.Join(cgroupRoot, controller, own), filepath.Join(cgroupRoot, controller)} {
		dir := filepath.Join(parent, name)
		if err = freshGroup(dir); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no %s group can be made: %w", controller, err)
}

// freshGroup makes the group, in place of one that a crash has left: that has
// counted kills of its own.
func freshGroup(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		if err = removeGroup(dir); err == nil {
			err = os.Mkdir(dir, 0o755)
		}
	}
	return err
}

// unifiedCage makes a version 2 group in the nearest group above us that lets
// us and that shares out memory and CPU. Groups with processes in them, such
// as our own, cannot.
func unifiedCage(own, name string, memory int64, cpu float64, apart bool) (*cage, error) {
	reason := errors.New("no control group above the server shares out memory; give its unit Delegate=yes, or start it as root")
	for parent := own; ; parent = filepath.Dir(parent) {
		shared, _ := readAll(filepath.Join(cgroupRoot, parent, "cgroup.subtree_control"), 4096)
		if strings.Contains(" "+strings.TrimSpace(string(shared))+" ", " memory ") {
			dir := filepath.Join(cgroupRoot, parent, name)
			err := freshGroup(dir)
			if err == nil {
				return unifiedLimits(dir, memory, cpu, apart)
			}
			reason = err
		}
		if parent == "/" || parent == "." {
			return nil, reason
		}
	}
}

// unifiedLimits holds the task in its version 2 group to its limits, or its
// parts to theirs.
func unifiedLimits(dir string, memory int64, cpu float64, apart bool) (*cage, error) {
	c := &cage{memory: dir, cpu: dir, main: dir, unified: true}
	var errs []error
	if apart {
		for controller, wanted := range map[string]bool{"+memory": memory > 0, "+cpu": cpu > 0} {
			if wanted {
				errs = append(errs, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controller), 0))
			}
		}
		c.main = filepath.Join(dir, mainGroup)
		if err := os.Mkdir(c.main, 0o755); err != nil {
			return nil, err
		}
	}
	var limits []parts.Limit
	if memory > 0 {
		limits = append(limits, limit("memory.max", memory))
		if exists(c.main, "memory.swap.max") {
			limits = append(limits, limit("memory.swap.max", 0))
		}
	}
	if cpu > 0 && exists(c.main, "cpu.weight") {
		share := limit("cpu.weight", min(10_000, max(1, int64(cpu*100))))
		if apart {
			share = parts.Limit{File: "cpu.max", Value: fmt.Sprintf("%d %d", int64(cpu*quotaPeriod), quotaPeriod)}
		}
		limits = append(limits, share)
	}
	kills := ""
	if memory > 0 {
		kills = "memory.events"
	}
	errs = append(errs, c.hold(parts.Group{Dir: dir, Limits: limits, Kills: kills}, apart))
	return c, errors.Join(errs...)
}

func setLimit(dir, file string, v int64) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(v, 10)), 0)
}

func (c *cage) folders() []string {
	var all []string
	if c != nil && c.memory != "" {
		all = append(all, c.memory)
	}
	if c != nil && c.cpu != "" && c.cpu != c.memory {
		all = append(all, c.cpu)
	}
	return all
}

// enter makes the next process that is started begin inside the cage, and
// returns what undoes that for this one.
func (c *cage) enter(sys *syscall.SysProcAttr) (leave func(), err error) {
	leave = func() {}
	if c == nil {
		return leave, nil
	}
	if c.unified {
		f, err := os.Open(c.main)
		if err != nil {
			return leave, err
		}
		sys.UseCgroupFD, sys.CgroupFD = true, int(f.Fd())
		return func() { f.Close() }, nil
	}
	// In version 1 a process starts in its parent's groups, so we go in and
	// come back.
	own, err := ownGroups()
	if err != nil {
		return leave, err
	}
	var back []string
	for _, g := range []struct{ controller, dir string }{{"memory", c.memory}, {"cpu", c.cpu}} {
		if g.dir == "" {
			continue
		}
		home := filepath.Join(cgroupRoot, g.controller, own[g.controller])
		if _, e := os.Stat(home); e != nil {
			home = filepath.Join(cgroupRoot, g.controller)
		}
		if e := setLimit(g.dir, "cgroup.procs", int64(os.Getpid())); e != nil {
			err = errors.Join(err, e)
			continue
		}
		back = append(back, home)
	}
	return func() {
		for _, home := range back {
			if e := setLimit(home, "cgroup.procs", int64(os.Getpid())); e != nil {
				fmt.Fprintln(os.Stderr, "leave the task's control group:", e)
			}
		}
	}, err
}

// oomKills counts the processes that were killed for the cage's memory limit.
func (c *cage) oomKills() int {
	if c == nil || c.memory == "" {
		return 0
	}
	file := "memory.oom_control"
	if c.unified {
		file = "memory.events"
	}
	return parts.OOMKills(filepath.Join(c.memory, file))
}

// machineOOM counts the processes that were killed for memory since the
// machine started.
func machineOOM() int { return parts.OOMKills("/proc/vmstat") }

// kill ends all that is in the cage.
func (c *cage) kill() {
	for _, dir := range c.folders() {
		killGroup(dir)
	}
}

// below are the groups of a task's parts.
func below(dir string) []string {
	all, _ := os.ReadDir(dir)
	var dirs []string
	for _, entry := range all {
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join(dir, entry.Name()))
		}
	}
	return dirs
}

// removeGroup removes a group and those of its parts, in which nothing runs any
// more.
func removeGroup(dir string) error {
	for _, part := range below(dir) {
		_ = os.Remove(part) // then dir is not removed either
	}
	return os.Remove(dir)
}

func killGroup(dir string) {
	for _, part := range below(dir) {
		killGroup(part)
	}
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	b, _ := readAll(filepath.Join(dir, "cgroup.procs"), 1<<20)
	for line := range strings.Lines(string(b)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid != os.Getpid() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (c *cage) remove() {
	for _, dir := range c.folders() {
		_ = removeGroup(dir)
	}
}
