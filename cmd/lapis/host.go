package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lapis/host"
)

// hostProgram runs a group of copies of the user's own program until it is told
// to go. A deployment is its parent; ml/serving says what it is told.
func hostProgram() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg, err := host.FromEnvironment()
	if err == nil {
		var program *host.Program
		if program, err = host.ProgramFromEnvironment(); err == nil {
			cfg.Kind = program
			err = host.New(cfg).Run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lapis host:", err)
		return 1
	}
	return 0
}
