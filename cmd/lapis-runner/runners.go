package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"lapis/host"
	"lapis/native"
)

// runners are instances that each are a process of this program.
type runners struct {
	exe string
	cfg host.Config
}

func newRunners(cfg host.Config) (*runners, error) {
	exe, err := os.Executable()
	return &runners{exe, cfg}, err
}

// number tells an instance which one it is.
const number = "LAPIS_GROUP_INSTANCE"

// word is what an instance says of itself, once, on the pipe that it gets as
// file 3: nothing when it is ready.
type word struct {
	Error string `json:"error,omitempty"`
	Fatal bool   `json:"fatal,omitempty"`
}

// Prepare makes the command of an instance.
func (k *runners) Prepare(n int) (host.Start, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return host.Start{}, err
	}
	cmd := exec.Command(k.exe, "instance")
	cmd.Env = append(os.Environ(), number+"="+strconv.Itoa(n))
	cmd.ExtraFiles = []*os.File{w}
	socket := native.Socket(k.cfg.Folder, n)
	return host.Start{Cmd: cmd, Network: "unix", Address: socket, Await: func(ctx context.Context, _ int) (string, string, error) {
		stop := context.AfterFunc(ctx, func() { _ = r.Close() })
		defer stop()
		defer r.Close()
		b, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if ctx.Err() != nil && len(b) == 0 {
			return "", "", ctx.Err()
		}
		if err == nil && len(b) == 0 {
			return "", "", io.EOF
		}
		var said word
		if e := json.Unmarshal(b, &said); e != nil {
			return "", "", fmt.Errorf("the instance speaks otherwise than expected: %w", e)
		}
		switch {
		case said.Fatal:
			return "", "", &host.FatalError{Reason: said.Error}
		case said.Error != "":
			return "", "", fmt.Errorf("%s", said.Error)
		}
		return "unix", socket, nil
	}}, nil
}
