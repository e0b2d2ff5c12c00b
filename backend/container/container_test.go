package container

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lapis/fault"
	"lapis/ml/serving"
)

func TestTheReasonIsWhatTheEngineSaysWithoutItsNoise(t *testing.T) {
	for said, want := range map[string]string{
		"Trying to pull a/b:1...\nError: initializing source docker://a/b:1: no such host\n":                       "initializing source docker://a/b:1: no such host",
		"docker: Error response from daemon: pull access denied for x.\n\nSee 'docker run --help'.\n":              "pull access denied for x.",
		"time=\"2026-01-01T00:00:00Z\" level=error msg=\"Error: manifest unknown\"\n":                              "manifest unknown",
		"time=\"2026-01-01T00:00:00Z\" level=fatal msg=\"failed to resolve reference \\\"x\\\"\"\nexit status 1\n": `failed to resolve reference \"x\"`,
		"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n":      "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
		"": "exit status 7",
	} {
		if got := reason(said, errors.New("exit status 7")); got != want {
			t.Errorf("of %q the reason is %q, not %q", said, got, want)
		}
	}
}

func TestAShortNameIsOneOfDockerHub(t *testing.T) {
	for name, want := range map[string]string{
		"nginx": "docker.io/library/nginx", "nginx:1@sha256:0": "docker.io/library/nginx:1@sha256:0", "tensorflow/serving:2": "docker.io/tensorflow/serving:2",
		"mcr.microsoft.com/a/b:1": "mcr.microsoft.com/a/b:1", "localhost/a:1": "localhost/a:1", "host:5000/a": "host:5000/a",
	} {
		if got := qualified(name); got != want {
			t.Errorf("%q is %q, not %q", name, got, want)
		}
	}
}

// engine is a command that notes its arguments and variables instead of running
// containers: what is tested is what a shell makes of the words.
func engine(t *testing.T, script string) *Engine {
	t.Helper()
	path := filepath.Join(t.TempDir(), "podman")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return New(Config{Engine: path, Env: []string{"PATH=" + os.Getenv("PATH"), "DOCKER_HOST=unix:///it's", "SECRET=no"}})
}

func TestWhatAContainerGetsSurvivesTheShell(t *testing.T) {
	e := engine(t, `[ "$1" = info ] && exit 0; for a in "$@"; do printf '%s\0' "$a"; done; printf 'HOST=%s\0ODD=%s\0PATH=%s\0' "$DOCKER_HOST" "$ODD" "$PATH"`)
	if name, err := e.Engine(t.Context()); err != nil || name != "podman" {
		t.Fatalf("the engine is %q, %v", name, err)
	}
	odd := "a b'c\"$HOME`\nd"
	command, after, env := e.Command(serving.Container{
		Group: "/s p'a/g", Image: "localhost/x:1", Port: 8501, Variables: map[string]string{"ODD": odd, "PATH": "/nowhere", "PORT": "1"},
		Mounts: []serving.Mount{{From: `"$LAPIS_TASK_DIR"/wd`, To: "/var/azureml-app", ReadOnly: true}}, Memory: 1 << 30, CPU: 1.5, OOM: "too much",
	})
	if env["ODD"] != odd || len(env) != 1 {
		t.Errorf("the command wants %v", env)
	}
	sh := exec.Command("bash", "-c", command)
	sh.Env = []string{"PATH=/usr/bin:/bin", "PORT=4711", "LAPIS_INSTANCE=3", "LAPIS_TASK_DIR=/t a'sk", "ODD=" + odd}
	out, err := sh.Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	for _, want := range []string{
		"lapis.group=/s p'a/g", "127.0.0.1:4711:8501", "type=bind,source=/t a'sk/wd,target=/var/azureml-app,readonly",
		"ODD", "PATH=/nowhere", "PORT=1", "1073741824", "1.5", "HOST=unix:///it's", "ODD=" + odd, "PATH=" + os.Getenv("PATH"),
	} {
		if !slices.Contains(words, want) {
			t.Errorf("%q is not among %q", want, words)
		}
	}
	if i := slices.Index(words, "--name"); i < 0 || !strings.HasSuffix(words[i+1], "-3") || !strings.Contains(after, "rm --force") {
		t.Errorf("the name is in %q, and after it %q", words, after)
	}
}

func TestAMachineWithoutAnEngineSaysWhy(t *testing.T) {
	for why, e := range map[string]*Engine{
		"none":                New(Config{Engine: None}),
		"no such command":     New(Config{Engine: "/nowhere/docker"}),
		"is the daemon there": engine(t, "echo 'Error: is the daemon there' >&2; exit 1"),
	} {
		_, err := e.Engine(t.Context())
		if f := fault.Find(err); f == nil || f.Kind != fault.NotImplemented || !strings.Contains(f.Message, why) || !strings.HasPrefix(f.Message, "needs a container engine") {
			t.Errorf("%s: %v", why, err)
		}
	}
}

func TestAnImageThatCannotBePulledIsNamedWithTheReason(t *testing.T) {
	e := engine(t, `case "$1" in info) exit 0;; image) exit 1;; esac; echo "Error: no route to $2"; exit 125`)
	var log strings.Builder
	_, err := e.Pull(t.Context(), "example.com/a:1", &log)
	if err == nil || !strings.Contains(err.Error(), "The image example.com/a:1 cannot be pulled: no route to example.com/a:1") || !strings.Contains(log.String(), "no route") {
		t.Errorf("%v, and in the log %q", err, log.String())
	}
	for _, name := range []string{"", "-v", "--help", "a b", "a\nb", "a;b", strings.Repeat("x", 600)} {
		if _, err := e.Pull(t.Context(), name, io.Discard); !fault.Is(err, fault.BadRequest) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestAPullEndsWithItsContext(t *testing.T) {
	e := engine(t, `case "$1" in info) exit 0;; image) exit 1;; esac; echo pulling; sleep 600`)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := e.Pull(ctx, "example.com/a:1", w)
		done <- err
	}()
	if _, err := r.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, r)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a pull that is interrupted: %v", err)
	}
}
