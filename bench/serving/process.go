package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server that was started for the measurement.
type process struct {
	cmd    *exec.Cmd
	folder string
	done   chan struct{}
}

// freePort is a port that nobody listens on now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// start starts a server in a folder, its output in the file log.txt.
func start(ctx context.Context, folder string, environ []string, command string, args ...string) (*process, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	said, err := os.Create(filepath.Join(folder, "log.txt"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = said.Close() }()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, append(os.Environ(), environ...), said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd, folder, make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.done) }()
	return p, nil
}

func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// log is what the server printed.
func (p *process) log() string {
	text, _ := os.ReadFile(filepath.Join(p.folder, "log.txt"))
	return string(text)
}

// last is the end of that.
func (p *process) last() string {
	text := p.log()
	return strings.ToValidUTF8(text[max(0, len(text)-300):], "")
}

// answers waits until a request is answered well.
func (p *process) answers(t target) error {
	request, said := t.request(), "no answer"
	for begun := time.Now(); time.Since(begun) < 3*time.Minute; time.Sleep(20 * time.Millisecond) {
		c := client{address: t.address}
		status, err := c.do(request)
		if err == nil {
			said = fmt.Sprintf("%d %.200s", status, c.body)
		}
		c.close()
		if err == nil && status < 300 {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended; its last words: %s", p.last())
		default:
		}
	}
	return fmt.Errorf("no good answer in three minutes, but %s; its last words: %s", said, p.last())
}

// spent is the processor time that processes have used.
func spent(pids []int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		for _, n := range []int{11, 12} { // utime, stime
			v, _ := strconv.ParseInt(string(fields[n]), 10, 64)
			ticks += v
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// family is a process and all that descend from it.
func family(pid int) []int {
	found := []int{pid}
	entries, _ := os.ReadDir("/proc")
	parents := map[int]int{}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		parents[n], _ = strconv.Atoi(string(fields[1]))
	}
	for grown := true; grown; {
		grown = false
		for child, parent := range parents {
			if slices.Contains(found, parent) && !slices.Contains(found, child) {
				found, grown = append(found, child), true
			}
		}
	}
	return found
}

// running finds the processes whose command line has all of some words.
func running(words ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue
		}
		line := strings.ReplaceAll(string(text), "\x00", " ")
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			pids = append(pids, n)
		}
	}
	return pids
}
