package pyenv

import (
	"context"
	"os/exec"
	"strings"
	"time"
)

// Tools is what this machine has to build environments with.
type Tools struct {
	UV        string   // path of uv, "" if there is none
	UVVersion string   // "0.9.3"; "" if it does not run
	Conda     string   // path of micromamba, mamba or conda, "" if there is none
	Default   string   // version of the Python of the default environment, "" if there is none
	Pythons   []string // versions of all Pythons found, "3.11.7 (/usr/bin/python3.11)"
}

// Inspect looks for the tools as a Builder of the same Config does. It changes
// nothing on the machine.
func Inspect(ctx context.Context, cfg Config) Tools {
	vars := parseVariables(cfg.Env)
	b := &Builder{cfg: cfg, vars: vars, pythons: pythons{vars: vars}, uv: uvTool{path: cfg.UV, tools: cfg.Tools, vars: vars}}
	t := Tools{UV: b.uv.find(), Conda: b.condaTool()}
	if t.UV != "" {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		out, err := exec.CommandContext(ctx, t.UV, "--version").Output()
		cancel()
		if words := strings.Fields(string(out)); err == nil && len(words) > 1 {
			t.UVVersion = words[1]
		}
	}
	list := b.pythons.all(ctx)
	for _, p := range list {
		t.Pythons = append(t.Pythons, p.Version.String()+" ("+p.Path+")")
	}
	if p, _, ok := choose(list, ""); ok {
		t.Default = p.Version.String()
	}
	return t
}
