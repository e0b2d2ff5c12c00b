package pyenv

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/environment"
)

// Wheel is a package at one version, as the package index has it for one
// platform and Python, known by the hashes of its files.
type Wheel struct {
	Name     string
	Version  string
	SHA256   string
	Python   string // "3.12": whose wheel is taken, whatever runs here
	Platform string // in uv's words, such as "x86_64-manylinux_2_28"
}

// Fetch puts the files of a package into a folder: what comes with it, not what
// it needs. It goes to the package index that builds of environments use, and
// what comes is checked by its hash. Progress goes to w line by line.
func (b *Builder) Fetch(ctx context.Context, wheel Wheel, dir string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	vars := b.vars.forBuild(b.cfg.Fetch)
	var last []string
	say := func(line string) {
		line = mask(strings.TrimRight(line, "\r\n"))
		if last = append(last, line); len(last) > maxTail {
			last = last[1:]
		}
		_, _ = io.WriteString(w, line+"\n") // whoever watches may have gone
	}
	say(fmt.Sprintf("%sfetching %s %s from the package index", environment.StageMark, wheel.Name, wheel.Version))
	python, ok := b.pythons.first(ctx)
	if !ok {
		return fault.New(fault.Unavailable, "PythonMissing", "%s could not be fetched: there is no Python on this machine that uv could fetch it with; install Python 3", wheel.Name)
	}
	uv := b.uv.find()
	if uv == "" {
		l := newBuildLog("")
		var err error
		if uv, err = b.uv.fetch(ctx, python, vars, l); err != nil {
			return fault.New(fault.Unavailable, "PackageIndexUnavailable", "%s could not be fetched: there is no uv, and it could not be fetched either: %v", wheel.Name, err).From(err)
		}
	}
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", wheel.Name, wheel.Version, wheel.SHA256)
	start := time.Now()
	err := run(ctx, []string{uv, "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", python.Path, "--python-version", wheel.Python,
		"--python-platform", wheel.Platform, "--target", dir, "-r", "-"}, b.cfg.Dir, vars, line, say)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why := reason(last)
		return fault.New(fault.Unavailable, "PackageIndexUnavailable",
			"%s %s could not be fetched from the package index: %s. Check that the index can be reached from this machine (UV_INDEX_URL, PIP_INDEX_URL, HTTPS_PROXY) and try again", wheel.Name, wheel.Version, strings.TrimSuffix(why, ".")).From(err)
	}
	say(fmt.Sprintf("%sfetched %s %s in %.1f s", environment.StageMark, wheel.Name, wheel.Version, time.Since(start).Seconds()))
	return nil
}
