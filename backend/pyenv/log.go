package pyenv

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"lapis/ml/environment"
	"lapis/pattern"
)

// Bounds of a build log: what is shown live, of one line, and of the tail in
// which the reason of a failure is looked for.
const (
	maxLive = 1 << 20 // bytes; the file has the rest
	maxLine = 8 << 10 // bytes
	maxTail = 400     // lines
)

// buildLog takes the lines of one build: into its file, and to all who follow.
type buildLog struct {
	path string

	mu      sync.Mutex
	file    *os.File
	live    []byte
	tail    []string
	closed  bool
	changed chan struct{} // closed and replaced with each line
}

func newBuildLog(path string) *buildLog {
	return &buildLog{path: path, changed: make(chan struct{})}
}

// open begins the file, in place of that of an earlier build.
func (l *buildLog) open() error {
	if err := os.Remove(l.path); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file = f
	return nil
}

// line adds one line, passwords masked.
func (l *buildLog) line(text string) {
	text = mask(strings.TrimRight(text, "\r\n"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return // the last words of a process that outlived its build
	}
	if l.file != nil {
		// A full disk must not hide why a build failed from those who watch it.
		_, _ = l.file.WriteString(text + "\n")
	}
	l.tail = append(l.tail, text)
	if len(l.tail) > maxTail {
		l.tail = l.tail[1:]
	}
	if len(l.live)+len(text) < maxLive {
		l.live = append(append(l.live, text...), '\n')
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *buildLog) stage(format string, args ...any) {
	l.line(environment.StageMark + fmt.Sprintf(format, args...))
}

func (l *buildLog) lastLines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.tail...)
}

func (l *buildLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
	}
	l.closed = true
	close(l.changed)
}

// follow copies the log to w from its beginning until it is closed, which is
// nil, or ctx ends. A writer that fails gets no more; its build goes on.
func (l *buildLog) follow(ctx context.Context, w io.Writer) error {
	for at := 0; ; {
		l.mu.Lock()
		news, closed, changed := l.live[at:], l.closed, l.changed
		l.mu.Unlock()
		if len(news) > 0 && w != nil {
			if _, err := w.Write(news); err != nil {
				w = nil
			}
		}
		at += len(news)
		if closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var userinfo = pattern.New(`(://)[^/@\s'"` + "`" + `]+@`)

// mask hides user and password of the URLs in a line.
func mask(line string) string {
	return userinfo.ReplaceAllString(line, "${1}****@")
}

// lineWriter cuts what a process prints into lines.
type lineWriter struct {
	take func(string)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 && len(w.rest) < maxLine {
			return len(p), nil
		}
		if i < 0 || i > maxLine {
			i = maxLine - 1
		}
		w.take(string(w.rest[:i]))
		next := i
		if w.rest[i] == '\n' {
			next++
		}
		w.rest = append(w.rest[:0], w.rest[next:]...)
	}
}

func (w *lineWriter) flush() {
	if len(w.rest) > 0 {
		w.take(string(w.rest))
		w.rest = nil
	}
}
