// Package meter tells what the instances of online deployments use of this
// machine, as the kernel knows it.
package meter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lapis/ml/compute"
	"lapis/ml/deploy"
	"lapis/ml/endpoint"
	"lapis/ml/monitor"
	"lapis/resource"
)

// Config is what a meter works with.
type Config struct {
	Processes func() []deploy.Process
	Resources resource.Store
	Cores     int   // of the machine
	Memory    int64 // of the machine, in bytes
	Disk      string
}

// Meter implements monitor.Meter.
type Meter struct {
	Config
	last map[string]reading // instance → what it had used at the last look
}

var _ monitor.Meter = (*Meter)(nil)

// reading is the time on the processors that an instance had used at a moment.
type reading struct {
	at   time.Time
	used time.Duration
}

// New makes a meter.
func New(c Config) *Meter { return &Meter{Config: c, last: map[string]reading{}} }

// Usage implements monitor.Meter. Of an instance that is seen for the first time
// the use of processors is not known yet.
func (m *Meter) Usage(ctx context.Context) ([]monitor.Usage, error) {
	processes := m.Processes()
	last := m.last
	m.last = map[string]reading{}
	if len(processes) == 0 {
		return nil, nil
	}
	tree, err := readTree()
	if err != nil {
		return nil, err
	}
	sizes := map[string]size{}
	var all []monitor.Usage
	for _, p := range processes {
		if !tree.has(p.PID) {
			continue
		}
		s, ok := sizes[p.Deployment.Key()]
		if !ok {
			s = m.size(ctx, p.Deployment)
			sizes[p.Deployment.Key()] = s
		}
		now := time.Now()
		used := tree.used(p.PID)
		m.last[p.Instance] = reading{now, used}
		before, known := last[p.Instance]
		if !known || used < before.used {
			continue
		}
		// Instances share the machine's cores: none has more than its part.
		cores := min(s.cores, max(1, float64(m.Cores)/float64(max(p.Siblings, 1))))
		u := monitor.Usage{Deployment: p.Deployment, Instance: p.Instance,
			CPU:    percent(float64(used-before.used), float64(now.Sub(before.at))*cores),
			Memory: percent(float64(tree.memory(p.PID)), float64(s.memory))}
		if v, ok := filled(m.Disk); ok {
			u.Disk = map[string]float64{"os": v}
		}
		all = append(all, u)
	}
	return all, nil
}

func percent(part, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return min(max(100*part/of, 0), 100)
}

// size is what an instance has.
type size struct {
	cores  float64
	memory int64
}

func (m *Meter) size(ctx context.Context, id resource.ID) size {
	s := size{cores: float64(m.Cores), memory: m.Memory}
	r, err := m.Resources.Get(ctx, id)
	if err != nil {
		return s
	}
	var p endpoint.Deployment
	if json.Unmarshal(r.Properties, &p) != nil {
		return s
	}
	if of, ok := compute.ParseSize(p.InstanceType); ok {
		s.cores = min(s.cores, float64(of.VCPUs))
		s.memory = min(s.memory, int64(of.MemoryGB*(1<<30)))
	}
	return s
}

// tick is the unit that the kernel counts time on processors in: it tells
// programs hundredths of a second whatever its own clock is.
const tick = 10 * time.Millisecond

// tree is all processes of the machine: what each has used, and its children.
type tree struct {
	ticks    map[int]uint64
	children map[int][]int
}

func readTree() (tree, error) {
	t := tree{ticks: map[int]uint64{}, children: map[int][]int{}}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return t, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, ticks, err := stat(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		t.ticks[pid] = ticks
		t.children[parent] = append(t.children[parent], pid)
	}
	return t, nil
}

// stat reads a process's parent and the time that it and its ended children
// have used.
func stat(pid int) (parent int, ticks uint64, err error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the program's name in parentheses, and may hold any character.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	parent, err = strconv.Atoi(fields[1])
	for _, at := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
		if n, wrong := strconv.ParseInt(fields[at], 10, 64); wrong == nil && n > 0 {
			ticks += uint64(n)
		}
	}
	return parent, ticks, err
}

func (t tree) has(pid int) bool { _, ok := t.ticks[pid]; return ok }

// each visits a process and all below it.
func (t tree) each(pid int, visit func(int)) {
	visit(pid)
	for _, child := range t.children[pid] {
		t.each(child, visit)
	}
}

func (t tree) used(pid int) time.Duration {
	var sum uint64
	t.each(pid, func(p int) { sum += t.ticks[p] })
	return time.Duration(sum) * tick
}

// memory is what the processes take in bytes; what they share counts in parts.
func (t tree) memory(pid int) int64 {
	var sum int64
	t.each(pid, func(p int) { sum += share(p) })
	return sum
}

func share(pid int) int64 {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			fields := strings.Fields(rest)
			if len(fields) == 0 {
				return 0
			}
			kb, _ := strconv.ParseInt(fields[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// filled is how full the disk is that a folder lies on, in percent.
func filled(dir string) (float64, bool) {
	var s syscall.Statfs_t
	if dir == "" || syscall.Statfs(dir, &s) != nil || s.Blocks == 0 {
		return 0, false
	}
	used := s.Blocks - s.Bfree
	return percent(float64(used), float64(used+s.Bavail)), true
}
