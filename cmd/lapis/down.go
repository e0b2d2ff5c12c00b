package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lapis/edge/gateway"
	"lapis/fault"
)

func downCommand() *cobra.Command {
	var data string
	var jobs bool
	cmd := &cobra.Command{
		Use:     "down",
		Short:   "Stop the server",
		GroupID: groupServer,
		Long: `Stop the server of a data folder, and its online endpoints with it. Jobs that run
go on, and the next start finds them; with --jobs they are canceled first.`,
		Example: `  lapis down
  lapis down --jobs`,
		Args: noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return down(cmd.Context(), data, jobs, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "data folder of the server")
	cmd.Flags().BoolVar(&jobs, "jobs", false, "cancel the jobs that run, too")
	return cmd
}

const (
	cancelWithin = 60 * time.Second // what canceled jobs get to end
	downWithin   = stopWithin + 20*time.Second
)

func down(ctx context.Context, data string, jobs bool, out io.Writer) error {
	f, err := openFolder(data)
	if err != nil {
		return err
	}
	pid, err := f.serverPid()
	if err != nil {
		return err
	}
	if pid == 0 {
		if jobs {
			return fault.Conflicts("No server is running on %s, and without one no job can be canceled. Start it with `lapis up --data %s`, then run this again.", f.dir, quote(f.dir))
		}
		fmt.Fprintf(out, "No server is running on %s.\n", f.dir)
		return f.downGateway(ctx, out)
	}
	if jobs {
		n, err := f.cancelJobs(ctx, out)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "Canceled %d job(s).\n", n)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fault.Denied("The server with pid %d cannot be stopped: %v. Stop it as the user who started it.", pid, err).From(err)
	}
	for end := time.Now().Add(downWithin); time.Now().Before(end); {
		now, err := f.serverPid()
		if err != nil {
			return err
		}
		if now != pid {
			fmt.Fprintf(out, "Stopped the server with pid %d.\n", pid)
			return f.downGateway(ctx, out)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fault.New(fault.Unavailable, "StillRunning", "The server with pid %d has not stopped within %s. Its log is %s; `kill -9 %d` ends it at once and loses nothing that was acknowledged.", pid, downWithin, f.path("logs", "server.log"), pid)
}

// downGateway stops the gateway and what it asks, which may have outlived their
// server.
func (f *folder) downGateway(ctx context.Context, out io.Writer) error {
	pid, err := f.gatewayPid()
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := f.stopGateway(ctx, gateway.NewClient(f.gatewaySocket())); err != nil {
			return err
		}
		fmt.Fprintf(out, "Stopped the gateway of online endpoints with pid %d.\n", pid)
	}
	return f.downGroups(ctx, out)
}
