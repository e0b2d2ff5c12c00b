package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "modernc.org/sqlite"
)

// starter is a server that can be started.
type starter struct {
	name    string
	command string
	start   func(ctx context.Context, command, folder string, port int) (*exec.Cmd, error)

	database string // its SQLite file, in the folder
}

// server is one that runs.
type server struct {
	database         string // its SQLite file
	name, url, token string
	took             time.Duration // until it answered
	folder           string
	cmd              *exec.Cmd
}

func startLapis(ctx context.Context, command, folder string, port int) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, command, "up", "--listen", "localhost:"+strconv.Itoa(port), "--data", filepath.Join(folder, "data"))
	return c, nil
}

func startMLflow(ctx context.Context, command, folder string, port int) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, command, "server", "--host", "127.0.0.1", "--port", strconv.Itoa(port),
		"--backend-store-uri", "sqlite:///"+filepath.Join(folder, "mlflow.db"), "--artifacts-destination", filepath.Join(folder, "artifacts"))
	c.Env = append(os.Environ(), "MLFLOW_DISABLE_TELEMETRY=true")
	return c, nil
}

func startFastTrackML(ctx context.Context, command, folder string, port int) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, command, "server", "--listen-address", "127.0.0.1:"+strconv.Itoa(port),
		"--database-uri", "sqlite://"+filepath.Join(folder, "fml.db"), "--default-artifact-root", filepath.Join(folder, "artifacts"))
	return c, nil
}

// run starts the server and waits until it answers.
func (s starter) run(ctx context.Context) (*server, error) {
	folder, err := os.MkdirTemp("", "bench-tracking-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	cmd, err := s.start(ctx, s.command, folder, port)
	if err != nil {
		return nil, err
	}
	said, err := os.Create(filepath.Join(folder, "log.txt"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr, cmd.Dir = said, said, folder
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	v := &server{name: s.name, url: fmt.Sprintf("http://127.0.0.1:%d", port), folder: folder, cmd: cmd, database: filepath.Join(folder, s.database)}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for {
		r, err := http.Get(v.url + "/version")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode < 500 {
				break
			}
		}
		if time.Since(begun) > 5*time.Minute {
			v.stop()
			text, _ := os.ReadFile(said.Name())
			return nil, fmt.Errorf("no answer in five minutes: %s", text)
		}
		time.Sleep(5 * time.Millisecond)
	}
	v.took = time.Since(begun)
	if s.name == "Lapis" {
		out, err := exec.CommandContext(ctx, s.command, "connect", "--data", filepath.Join(folder, "data")).Output()
		if err != nil {
			return nil, fmt.Errorf("lapis connect: %w", err)
		}
		_, rest, _ := bytes.Cut(out, []byte("MLFLOW_TRACKING_TOKEN='"))
		token, _, _ := bytes.Cut(rest, []byte("'"))
		v.token = string(token)
	}
	return v, nil
}

func (v *server) stop() {
	_ = syscall.Kill(-v.cmd.Process.Pid, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = v.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = syscall.Kill(-v.cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
	_ = os.RemoveAll(v.folder)
}

// used is how many bytes of the database hold something: pages that are free
// are left out.
func (v *server) used() (float64, error) {
	db, err := sql.Open("sqlite", "file:"+v.database+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	var pages, free, size float64
	err = db.QueryRow(`SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size`).Scan(&pages, &free, &size)
	return (pages - free) * size, err
}

// settled waits until the database has stopped changing, for what a server does
// after it has answered, and returns what it uses; 0 if that cannot be read.
func (v *server) settled() float64 {
	last, since := -1.0, time.Now()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		used, err := v.used()
		if err != nil {
			return 0
		}
		if used != last {
			last, since = used, time.Now()
		} else if time.Since(since) > 5*time.Second {
			break
		}
	}
	return max(last, 0)
}

// memory is what the server's processes hold, in MB.
func (v *server) memory() float64 {
	pages := 0
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) > 21 && f[2] == strconv.Itoa(v.cmd.Process.Pid) { // its process group
			n, _ := strconv.Atoi(f[21])
			pages += n
		}
	}
	return float64(pages*os.Getpagesize()) / 1e6
}
