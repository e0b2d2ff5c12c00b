package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lapis/cage"
	"lapis/ml/serving"
)

// Program is a Kind: copies of a program of the user, each with a port of its
// own in PORT.
type Program struct {
	Command string // for bash
	Port    int    // that the routes name; a program that knows nothing of PORT listens there; 0 for none
	Probe   string // path that answers 2xx when the program is ready; "" asks for an open port
	After   string // for bash, when a copy has ended; a line that it prints says why that was

	mu    sync.Mutex
	holds int // instance that listens on Port whatever PORT says; 0 for none
}

// ProgramFromEnvironment reads what ml/serving says of programs.
func ProgramFromEnvironment() (*Program, error) {
	p := &Program{Command: os.Getenv(serving.GroupCommand), Probe: os.Getenv(serving.GroupProbe), After: os.Getenv(serving.GroupAfter)}
	if strings.TrimSpace(p.Command) == "" {
		return nil, fmt.Errorf("%s must be the command of the program, and is empty", serving.GroupCommand)
	}
	if s := os.Getenv(serving.GroupPort); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%s must be a port, and is %q", serving.GroupPort, s)
		}
		p.Port = n
	}
	if p.Probe != "" && !strings.HasPrefix(p.Probe, "/") {
		p.Probe = "/" + p.Probe
	}
	return p, nil
}

// Prepare picks a free port for the instance.
func (p *Program) Prepare(n int) (Start, error) {
	p.mu.Lock()
	holder := p.holds
	if holder == n {
		p.holds = 0 // it died; what it does now will be seen
	}
	p.mu.Unlock()
	if holder != 0 && holder != n {
		return Start{}, p.single()
	}
	port, err := freePort()
	if err != nil {
		return Start{}, err
	}
	cmd := exec.Command("bash", "-c", p.Command)
	cmd.Env = append(withoutGroup(os.Environ()), "PORT="+strconv.Itoa(port), serving.InstanceNumber+"="+strconv.Itoa(n))
	var why atomic.Pointer[string]
	start := Start{
		Cmd: cmd, Network: "tcp", Address: local(port),
		Await: func(ctx context.Context, pid int) (string, string, error) { return p.await(ctx, n, pid, port, &why) },
		Waiting: func() string {
			if text := why.Load(); text != nil {
				return *text
			}
			return ""
		},
	}
	if p.After != "" {
		start.After = func() string { return p.after(cmd.Env) }
	}
	return start, nil
}

// afterWithin bounds what is done after the end of a copy.
const afterWithin = 30 * time.Second

// after does what is to be done when a copy has ended, and returns what that
// says of the end.
func (p *Program) after(env []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), afterWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", p.After)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	said, err := cmd.Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clear up after an instance:", err)
	}
	return firstLine(strings.TrimSpace(string(said)))
}

func (p *Program) single() error {
	return &FatalError{fmt.Sprintf("the program listens on port %d whatever the variable PORT says, so there can be only one instance of it; "+
		"let the command listen on $PORT, or set instance_count to 1", p.Port)}
}

// withoutGroup leaves out what only the group needs to know.
func withoutGroup(env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, pair := range env {
		if !strings.HasPrefix(pair, "LAPIS_GROUP") && !strings.HasPrefix(pair, cage.Variable+"=") && !strings.HasPrefix(pair, "PORT=") {
			out = append(out, pair)
		}
	}
	return out
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePort is a TCP port that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// How the probes of a program go.
const (
	probeEvery   = 50 * time.Millisecond
	probeTimeout = 2 * time.Second
	sayEvery     = 10 * time.Second // why it is not ready yet, in the log
)

// await probes the program until it is ready. It waits as long as the process
// lives: who deployed it decides how long is too long.
func (p *Program) await(ctx context.Context, n, pid, port int, why *atomic.Pointer[string]) (string, string, error) {
	client := &http.Client{
		Timeout:   probeTimeout,
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	said := time.Now()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		err := p.probe(ctx, client, port)
		if err == nil {
			return "tcp", local(port), nil
		}
		if p.Port != 0 && p.Port != port && ctx.Err() == nil && listens(pid, p.Port) {
			p.mu.Lock()
			holder := p.holds
			if holder == 0 {
				p.holds = n
			}
			p.mu.Unlock()
			if holder != 0 && holder != n {
				return "", "", p.single()
			}
			if err = p.probe(ctx, client, p.Port); err == nil {
				return "tcp", local(p.Port), nil
			}
		}
		text := err.Error()
		why.Store(&text)
		if time.Since(said) > sayEvery {
			said = time.Now()
			fmt.Fprintf(os.Stderr, "Instance %d is not ready yet: %v\n", n, err)
		}
		select {
		case <-ctx.Done():
			return "", "", ctx.Err()
		case <-tick.C:
		}
	}
}

func (p *Program) probe(ctx context.Context, client *http.Client, port int) error {
	if p.Probe == "" {
		conn, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "tcp", local(port))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(port)+p.Probe, nil)
	if err != nil {
		return err
	}
	a, err := client.Do(q)
	if err != nil {
		if takesCalls(ctx, port, p.Probe) {
			return nil
		}
		return err
	}
	_ = a.Body.Close() // only the status is asked for
	if a.StatusCode < 200 || a.StatusCode > 299 {
		return fmt.Errorf("GET %s answers %s", p.Probe, a.Status)
	}
	return nil
}

// takesCalls tells whether the program speaks gRPC, and so perhaps nothing else:
// such a server answers a call that it does not know, too.
func takesCalls(ctx context.Context, port int, path string) bool {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+local(port)+path, http.NoBody)
	if err != nil {
		return false
	}
	q.Header.Set("Content-Type", "application/grpc")
	q.Header.Set("Te", "trailers")
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, Proxy: nil}
	defer transport.CloseIdleConnections()
	a, err := (&http.Client{Timeout: probeTimeout, Transport: transport}).Do(q)
	if err != nil {
		return false
	}
	_ = a.Body.Close()
	return strings.HasPrefix(a.Header.Get("Content-Type"), "application/grpc")
}

// listens tells whether a process of the group of pid listens on the port. The
// port may also be held by somebody else's server.
func listens(pid, port int) bool {
	inodes := map[string]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			_, hex, ok := strings.Cut(f[1], ":")
			if at, err := strconv.ParseUint(hex, 16, 16); ok && err == nil && int(at) == port {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return false
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	for _, entry := range all {
		if _, err := strconv.Atoi(entry.Name()); err == nil && inGroup(entry.Name(), pid) && holds(entry.Name(), inodes) {
			return true
		}
	}
	return false
}

// inGroup tells whether the process belongs to the process group.
func inGroup(proc string, group int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", proc, "stat"))
	if err != nil {
		return false
	}
	// pid (name) state ppid pgrp; the name may hold anything.
	_, rest, ok := strings.Cut(string(b[max(strings.LastIndexByte(string(b), ')'), 0):]), " ")
	f := strings.Fields(rest)
	return ok && len(f) > 2 && f[2] == strconv.Itoa(group)
}

func holds(proc string, inodes map[string]bool) bool {
	folder := filepath.Join("/proc", proc, "fd")
	fds, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(folder, fd.Name())); err == nil && inodes[to] {
			return true
		}
	}
	return false
}
