// Command lapis-runner serves a deployment of a native model: as the group that
// keeps the instances up, and, with the argument "instance", as one of them.
// What it is told stands in ml/serving. It is a program of its own because it
// loads libraries, which the server must not.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"lapis/host"
)

// stamp is the version, set by the linker.
var stamp = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var code int
	switch {
	case len(os.Args) > 1 && os.Args[1] == "instance":
		code = instance(ctx)
	default:
		code = group(ctx)
	}
	stop()
	os.Exit(code)
}

// group keeps instances of this program up.
func group(ctx context.Context) int {
	cfg, err := host.FromEnvironment()
	if err == nil {
		cfg.Kind, err = newRunners(cfg)
	}
	if err == nil {
		err = host.New(cfg).Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lapis-runner:", err)
		return 1
	}
	return 0
}
