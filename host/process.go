package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is the process of one start.
type process struct {
	pid  int
	gone chan struct{} // closed when it has ended

	mu    sync.Mutex
	state error // what Wait said; after gone
	out   lines
	err   lines
}

// launch starts the command in a process group of its own. It dies with us.
func launch(cmd *exec.Cmd, out, errs io.Writer) (*process, error) {
	p := &process{gone: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &tee{to: out, lines: &p.out, mu: &p.mu}, &tee{to: errs, lines: &p.err, mu: &p.mu}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// What the instance left behind may hold its output open.
	cmd.WaitDelay = 2 * time.Second
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the thread that started
		// the child ends, so that thread must stay ours until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		for _, f := range cmd.ExtraFiles {
			_ = f.Close() // the child has its own
		}
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nothing of it stays; often there is nothing
		p.mu.Lock()
		p.state = err
		p.mu.Unlock()
		close(p.gone)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// end tells the process to go, kills it after grace, and returns when it has
// gone.
func (p *process) end(grace time.Duration) {
	_ = syscall.Kill(-p.pid, syscall.SIGTERM) // it may be gone already
	select {
	case <-p.gone:
		return
	case <-time.After(grace):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	<-p.gone
}

// reason says why the process ended, after it has.
func (p *process) reason() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	how := "ended by itself, with exit status 0"
	var fatal bool
	var exit *exec.ExitError
	if errors.As(p.state, &exit) {
		status, _ := exit.Sys().(syscall.WaitStatus)
		switch {
		case status.Signaled():
			how = fmt.Sprintf("was killed by signal %d (%s)", status.Signal(), status.Signal())
		default:
			how = fmt.Sprintf("ended with exit status %d", status.ExitStatus())
			// What the shell says when there is no such command.
			fatal = status.ExitStatus() == 126 || status.ExitStatus() == 127
		}
	}
	last := p.err.last()
	if last == "" {
		last = p.out.last()
	}
	text := "the process " + how
	if last != "" {
		text = last + " (" + text + ")"
	}
	if fatal {
		return &FatalError{text}
	}
	return errors.New(text)
}

// tail is the end of what the process printed.
func (p *process) tail() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(append([]string(nil), p.out.kept...), p.err.kept...)
}

// lines are the last lines of a stream.
type lines struct {
	kept []string
	part []byte
}

// How much of a log is kept for the error of an instance.
const (
	keptLines  = 40
	lineLength = 1000 // bytes
)

func (l *lines) take(b []byte) {
	for len(b) > 0 {
		at := bytes.IndexByte(b, '\n')
		piece := b
		if at >= 0 {
			piece = b[:at]
		}
		if room := lineLength - len(l.part); room > 0 {
			l.part = append(l.part, piece[:min(len(piece), room)]...)
		}
		if at < 0 {
			return
		}
		l.close()
		b = b[at+1:]
	}
}

func (l *lines) close() {
	text := strings.TrimRight(strings.ToValidUTF8(string(l.part), "\uFFFD"), " \t\r")
	l.part = l.part[:0]
	if text == "" {
		return
	}
	if len(l.kept) == keptLines {
		l.kept = append(l.kept[:0], l.kept[1:]...)
	}
	l.kept = append(l.kept, text)
}

func (l *lines) last() string {
	if len(l.part) > 0 {
		l.close()
	}
	if len(l.kept) == 0 {
		return ""
	}
	return strings.TrimSpace(l.kept[len(l.kept)-1])
}

// tee passes a stream on and keeps its last lines.
type tee struct {
	to    io.Writer
	lines *lines
	mu    *sync.Mutex
}

func (t *tee) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.lines.take(b)
	t.mu.Unlock()
	// An instance must not die of a log that nobody takes.
	_, _ = t.to.Write(b)
	return len(b), nil
}
