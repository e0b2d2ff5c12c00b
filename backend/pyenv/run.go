package pyenv

import (
	"context"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// run runs a program to its end, its output line by line to take. When ctx
// ends, or this process does, the program and all it started end too.
func run(ctx context.Context, args []string, dir string, vars variables, stdin string, take func(string)) error {
	// The kernel sends the parent-death signal when the thread that started
	// the child ends, so that thread must stay ours until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, vars.list()
	cmd.Stdin = strings.NewReader(stdin)
	out := &lineWriter{take: take}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	out.flush()
	return err
}
