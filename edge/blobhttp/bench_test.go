package blobhttp_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// BenchmarkGigabyte sends 1 GB up and down with the unmodified Python client,
// beside cp and sync of the same file, turn by turn. Reported are the speeds as
// a share of cp's (1 is as fast), the processor time that client and server
// spent on the whole way up and down, and the most memory that the server, which
// is this process, has had.
func BenchmarkGigabyte(b *testing.B) {
	bin := python(b)
	s := serve(b)
	dir := b.TempDir()
	source := filepath.Join(dir, "source")
	f, err := os.Create(source)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, 1<<30); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	f.Close()
	run := func(cmd *exec.Cmd) string {
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	var local, up, down, client, server float64
	for b.Loop() {
		start := time.Now()
		copied := filepath.Join(dir, "copied")
		run(exec.Command("cp", source, copied))
		run(exec.Command("sync", copied))
		local += time.Since(start).Seconds()
		os.Remove(copied)

		got := filepath.Join(dir, "downloaded")
		var u, d float64
		before := processorTime(b)
		cmd := s.pythonCommand(b, bin, "speed.py", source, got)
		if _, err := fmt.Sscan(run(cmd), &u, &d); err != nil {
			b.Fatal(err)
		}
		server += processorTime(b) - before
		client += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		up, down = up+u, down+d
		run(exec.Command("cmp", source, got))
		os.Remove(got)
	}
	n := float64(b.N)
	b.ReportMetric(local/n, "s/cp+sync")
	b.ReportMetric(up/n, "s/up")
	b.ReportMetric(down/n, "s/down")
	b.ReportMetric(local/up, "up-speed/cp")
	b.ReportMetric(local/down, "down-speed/cp")
	b.ReportMetric(client/n, "cpu-s/client")
	b.ReportMetric(server/n, "cpu-s/server")
	b.ReportMetric(peakMemory(b), "MB-server")
}

// processorTime is what this process has spent, in seconds.
func processorTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return (time.Duration(u.Utime.Nano()) + time.Duration(u.Stime.Nano())).Seconds()
}

// peakMemory is the most memory that this process has had, in MB.
func peakMemory(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Logf("no memory figure: %v", err)
		return 0
	}
	var kb float64
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
		fmt.Sscan(string(m[1]), &kb)
	}
	return kb / 1000
}
