package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
)

// progress draws on a terminal what a command is doing: one line at the foot
// that is drawn over. Where there is no terminal it is silent.
type progress struct {
	w  io.Writer
	on bool

	mu    sync.Mutex
	drawn time.Time
	line  string // what stands at the foot
}

func newProgress(w io.Writer) *progress { return &progress{w: w, on: isTerminal(w)} }

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	return isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"
}

// bar shows how far a transfer is.
func (p *progress) bar(name string, done, total int64) {
	if !p.on {
		return
	}
	const width = 24
	filled := width
	if total > 0 {
		filled = int(done * width / total)
	}
	text := fmt.Sprintf("%s  [%s%s]  %s of %s", name, strings.Repeat("█", filled), strings.Repeat("·", width-filled), bytesText(done), bytesText(total))
	p.draw(text, done >= total)
}

// stage shows what goes on until something else does.
func (p *progress) stage(text string) { p.draw(text, true) }

// say prints a line that stays.
func (p *progress) say(format string, args ...any) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *progress) draw(text string, now bool) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == p.line || !now && time.Since(p.drawn) < 80*time.Millisecond {
		return
	}
	if r := []rune(text); len(r) > 110 {
		text = string(r[:109]) + "…"
	}
	fmt.Fprint(p.w, "\r\x1b[K"+text)
	p.line, p.drawn = text, time.Now()
}

// clear takes the line at the foot away.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if p.line != "" {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.line = ""
	}
}

// over gives a writer that clears the foot before it writes.
func (p *progress) over(w io.Writer) io.Writer {
	if !p.on {
		return w
	}
	return writerFunc(func(b []byte) (int, error) {
		p.clear()
		return w.Write(b)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f kB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// tally shows how many of a number of things are done, and more about them.
func (p *progress) tally(what string, done, total int, more string) {
	if !p.on {
		return
	}
	const width = 24
	filled := 0
	if total > 0 {
		filled = done * width / total
	}
	p.draw(fmt.Sprintf("%s  [%s%s]  %d of %d  (%s)", what, strings.Repeat("█", filled), strings.Repeat("·", width-filled), done, total, more), done >= total)
}
