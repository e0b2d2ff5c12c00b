package pyenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// uvTool finds uv, and fetches it from the user's package index if it may.
type uvTool struct {
	path  string // given by the operator
	tools string
	vars  variables

	mu     sync.Mutex
	failed time.Time // of the last try to fetch it
	why    error
}

// fetchAgain is how long a failure to fetch uv keeps builds on pip.
const fetchAgain = 10 * time.Minute

// find returns uv's path, or "".
func (u *uvTool) find() string {
	candidates := []string{u.path}
	if u.path == "" {
		candidates = nil
		for _, dir := range filepath.SplitList(u.vars["PATH"]) {
			if filepath.IsAbs(dir) {
				candidates = append(candidates, filepath.Join(dir, "uv"))
			}
		}
		if home := u.vars["HOME"]; home != "" {
			candidates = append(candidates, filepath.Join(home, ".local", "bin", "uv"), filepath.Join(home, ".cargo", "bin", "uv"))
		}
		if u.tools != "" {
			candidates = append(candidates, filepath.Join(u.tools, "uv"))
		}
	}
	for _, file := range candidates {
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	return ""
}

// fetch installs uv into the tools folder with pip and returns its path.
func (u *uvTool) fetch(ctx context.Context, python interpreter, vars variables, log *buildLog) (string, error) {
	if u.path != "" {
		return "", fmt.Errorf("there is no program at %s, which is named as uv", u.path)
	}
	if u.tools == "" {
		return "", fmt.Errorf("uv is not on PATH")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if found := u.find(); found != "" {
		return found, nil
	}
	if u.why != nil && time.Since(u.failed) < fetchAgain {
		return "", u.why
	}
	path, err := u.install(ctx, python, vars, log)
	if err != nil {
		u.failed, u.why = time.Now(), err
		return "", err
	}
	return path, nil
}

func (u *uvTool) install(ctx context.Context, python interpreter, vars variables, log *buildLog) (string, error) {
	if err := os.MkdirAll(u.tools, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(u.tools, ".uv.lock"), func() {})
	if err != nil {
		return "", err
	}
	defer unlock()
	if found := u.find(); found != "" {
		return found, nil
	}
	log.stage("fetching uv, which builds environments (once)")
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	half := filepath.Join(u.tools, ".uv.half")
	if err := os.RemoveAll(half); err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(half) }() // removed at the next try otherwise
	for _, args := range [][]string{
		{python.Path, "-m", "venv", half},
		{filepath.Join(half, "bin", "python"), "-m", "pip", "install", "--quiet", "uv"},
	} {
		if err := run(ctx, args, u.tools, vars, "", log.line); err != nil {
			return "", fmt.Errorf("uv could not be fetched: %w", err)
		}
	}
	path := filepath.Join(u.tools, "uv")
	if out, err := exec.CommandContext(ctx, filepath.Join(half, "bin", "uv"), "--version").CombinedOutput(); err != nil {
		return "", fmt.Errorf("the uv that was fetched does not run: %w: %s", err, out)
	}
	return path, os.Rename(filepath.Join(half, "bin", "uv"), path)
}
