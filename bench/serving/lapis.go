package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lapis is a server of ours and what its commands need.
type lapis struct {
	command, folder string
	server          *process
	python          string // packages of the Python deployments, a conda file
}

func startLapis(ctx context.Context, command, folder string) (*lapis, error) {
	l := &lapis{command: command, folder: folder}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	l.server, err = start(ctx, folder, nil, command, "up", "--listen", fmt.Sprintf("localhost:%d", port), "--scoring-listen", "localhost:0", "--data", l.data())
	if err != nil {
		return nil, err
	}
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(l.server.log(), "is ready") {
			return l, nil
		}
		select {
		case <-l.server.done:
			return nil, fmt.Errorf("lapis up: %s", l.server.log())
		default:
		}
		if time.Since(begun) > time.Minute {
			l.stop()
			return nil, fmt.Errorf("lapis up is not ready: %s", l.server.log())
		}
	}
}

func (l *lapis) data() string { return filepath.Join(l.folder, "data") }

func (l *lapis) stop() {
	_, _ = l.run(context.Background(), "down", "--jobs")
	l.server.stop()
}

// run runs a command of ours and returns what it printed.
func (l *lapis) run(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.command, args...)
	cmd.Env = append(os.Environ(), "LAPIS_DATA="+l.data())
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("lapis %s: %w: %s%s", strings.Join(args, " "), err, said.Bytes(), out.Bytes())
	}
	return out.Bytes(), nil
}

// deploy makes an endpoint with one deployment, written as YAML without its
// name and endpoint, and returns how it is called.
func (l *lapis) deploy(ctx context.Context, name, yaml string) (target, error) {
	if _, err := l.run(ctx, "online-endpoint", "create", "--name", name, "--auth-mode", "key"); err != nil {
		return target{}, err
	}
	file := filepath.Join(l.folder, name+".yml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "name: blue\nendpoint_name: %s\ninstance_type: Standard_DS2_v2\n%s", name, yaml), 0o644); err != nil {
		return target{}, err
	}
	if _, err := l.run(ctx, "online-deployment", "create", "-f", file, "--all-traffic"); err != nil {
		return target{}, err
	}
	return l.target(ctx, name)
}

// target is how an endpoint is called.
func (l *lapis) target(ctx context.Context, name string) (target, error) {
	var endpoint struct {
		URI string `json:"scoring_uri"`
	}
	var keys struct {
		Primary string `json:"primaryKey"`
	}
	out, err := l.run(ctx, "online-endpoint", "show", "--name", name)
	if err == nil {
		err = json.Unmarshal(out, &endpoint)
	}
	if err != nil {
		return target{}, err
	}
	if out, err = l.run(ctx, "online-endpoint", "get-credentials", "--name", name); err == nil {
		err = json.Unmarshal(out, &keys)
	}
	if err != nil {
		return target{}, err
	}
	u, err := url.Parse(endpoint.URI)
	if err != nil || keys.Primary == "" {
		return target{}, fmt.Errorf("endpoint %s: %q, a key of %d characters", name, endpoint.URI, len(keys.Primary))
	}
	return target{address: u.Host, path: u.Path, header: "Authorization: Bearer " + keys.Primary + "\r\n"}, nil
}

// remove deletes an endpoint, so that its processes are gone before the next
// one is measured.
func (l *lapis) remove(ctx context.Context, name string) error {
	_, err := l.run(ctx, "online-endpoint", "delete", "--name", name, "--yes")
	return err
}

// script is the YAML of a deployment of a scoring script.
func (l *lapis) script(folder, model string, workers int) string {
	text := fmt.Sprintf("code_configuration:\n  code: %s\n  scoring_script: score.py\nenvironment:\n  image: library/python:latest\n", folder)
	if model != "" {
		text += fmt.Sprintf("  conda_file: %s\nmodel:\n  path: %s\n  type: custom_model\n", l.python, model)
	}
	return text + fmt.Sprintf("instance_count: 1\nrequest_settings:\n  request_timeout_ms: 60000\n  max_concurrent_requests_per_instance: %d\nenvironment_variables:\n  WORKER_COUNT: \"%d\"\n", workers, workers)
}
