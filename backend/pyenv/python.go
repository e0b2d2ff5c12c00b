package pyenv

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/pattern"
)

// interpreter is a Python on this machine.
type interpreter struct {
	Path    string // of the executable itself, not of a link or a virtual environment
	Version version
	Wheels  string // folder with the wheel of pip that comes with it, "" if none does
}

// version is a Python version; what is not given is -1.
type version [3]int

func (v version) String() string {
	var parts []string
	for _, n := range v {
		if n >= 0 {
			parts = append(parts, strconv.Itoa(n))
		}
	}
	return strings.Join(parts, ".")
}

// parseVersion reads "3", "3.10" or "3.10.4".
func parseVersion(s string) (version, bool) {
	v := version{-1, -1, -1}
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) > 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// compare compares as far as both are given.
func (v version) compare(w version) int {
	for i := range v {
		if v[i] < 0 || w[i] < 0 {
			return 0
		}
		if v[i] != w[i] {
			return v[i] - w[i]
		}
	}
	return 0
}

// choose picks the interpreter for the version asked for (Recipe.Python): that
// one, else the nearest, with a note that says so. The first of the list is
// the machine's own choice, taken when it is as good as any other.
func choose(list []interpreter, want string) (chosen interpreter, note string, ok bool) {
	usable := slices.DeleteFunc(slices.Clone(list), func(p interpreter) bool { return p.Version[0] != 3 || p.Version[1] < 6 })
	if len(usable) == 0 {
		return interpreter{}, "", false
	}
	if want == "" {
		if i := slices.IndexFunc(usable, func(p interpreter) bool { return p.Version[1] >= 8 }); i >= 0 {
			return usable[i], "", true
		}
		return usable[0], "", true
	}
	if exact, ok := parseVersion(want); ok {
		return nearest(usable, exact, want)
	}
	var fitting []interpreter
	for _, p := range usable {
		if fits(p.Version, want) {
			fitting = append(fitting, p)
		}
	}
	if len(fitting) == 0 {
		lowest := version{3, 11, -1}
		if m := regexp.MustCompile(`[=>~]\s*([0-9.]+)`).FindStringSubmatch(want); m != nil {
			if v, ok := parseVersion(strings.Trim(m[1], ".")); ok {
				lowest = v
			}
		}
		return nearest(usable, lowest, want)
	}
	if fits(usable[0].Version, want) {
		return usable[0], "", true
	}
	best := slices.MaxFunc(fitting, func(a, b interpreter) int { return a.Version.compare(b.Version) })
	return best, "", true
}

func nearest(list []interpreter, want version, text string) (interpreter, string, bool) {
	minor := want[1]
	if minor < 0 {
		return list[0], "", true
	}
	distance := func(p interpreter) int {
		d := p.Version[1] - minor
		switch {
		case want[0] < 3:
			return p.Version[1] // the oldest Python 3 is nearest to Python 2
		case d < 0:
			return -2*d + 1 // of two as near, the newer
		default:
			return 2 * d
		}
	}
	best := slices.MinFunc(list, func(a, b interpreter) int {
		if d := distance(a) - distance(b); d != 0 {
			return d
		}
		if a.Version.compare(want) == 0 != (b.Version.compare(want) == 0) {
			if a.Version.compare(want) == 0 {
				return -1
			}
			return 1
		}
		return b.Version.compare(a.Version)
	})
	if best.Version.compare(want) == 0 && want[0] == 3 {
		return best, "", true
	}
	return best, fmt.Sprintf("Python %s in place of %s, which is not on this machine", best.Version, text), true
}

// fits tells whether the version is in a range such as ">=3.8,<3.11".
func fits(v version, spec string) bool {
	for _, alternative := range strings.Split(spec, "|") {
		all := true
		for _, check := range strings.Split(alternative, ",") {
			check = strings.TrimSpace(check)
			op := check[:len(check)-len(strings.TrimLeft(check, "=<>!~"))]
			w, ok := parseVersion(strings.TrimSuffix(strings.TrimSpace(check[len(op):]), ".*"))
			if !ok {
				continue
			}
			switch c := v.compare(w); op {
			case ">=":
				all = all && c >= 0
			case ">":
				all = all && c > 0
			case "<=":
				all = all && c <= 0
			case "<":
				all = all && c < 0
			case "!=":
				all = all && c != 0
			case "~=":
				all = all && c >= 0 && v[0] == w[0] && (w[2] < 0 || v[1] == w[1])
			default:
				all = all && c == 0
			}
		}
		if all {
			return true
		}
	}
	return false
}

// pythons finds the interpreters of this machine and remembers them.
type pythons struct {
	vars variables

	mu    sync.Mutex
	known map[string]probed // by path
}

type probed struct {
	at    time.Time // the file's modification
	found interpreter
	ok    bool
}

var pythonName = pattern.New(`^python(3(\.[0-9]+)?)?$`)

// first returns the Python that PATH leads to.
func (p *pythons) first(ctx context.Context) (interpreter, bool) {
	for _, dir := range p.path() {
		for _, name := range []string{"python3", "python"} {
			if found, ok := p.probe(ctx, filepath.Join(dir, name)); ok && found.Version[0] == 3 && found.Version[1] >= 8 {
				return found, true
			}
		}
	}
	return interpreter{}, false
}

// all returns every Python found, the one that PATH leads to first.
func (p *pythons) all(ctx context.Context) []interpreter {
	var list []interpreter
	add := func(found interpreter) {
		if !slices.ContainsFunc(list, func(o interpreter) bool { return o.Path == found.Path }) {
			list = append(list, found)
		}
	}
	if found, ok := p.first(ctx); ok {
		add(found)
	}
	home := p.vars["HOME"]
	or := func(name, fallback string) string {
		if v := p.vars[name]; v != "" {
			return v
		}
		return fallback
	}
	dirs := p.path()
	dirs = append(dirs, "/usr/local/bin", "/usr/bin", filepath.Join(home, ".local", "bin"))
	for _, pattern := range []string{
		filepath.Join(or("PYENV_ROOT", filepath.Join(home, ".pyenv")), "versions", "*", "bin"),
		filepath.Join(or("UV_PYTHON_INSTALL_DIR", filepath.Join(or("XDG_DATA_HOME", filepath.Join(home, ".local", "share")), "uv", "python")), "*", "bin"),
		"/opt/python*/bin", "/opt/python/*/bin",
	} {
		more, _ := filepath.Glob(pattern) // the patterns are well-formed
		dirs = append(dirs, more...)
	}
	var files []string
	seen := map[string]bool{}
	for _, dir := range dirs {
		if filepath.Base(dir) == "shims" {
			continue // they lead to the versions looked at below
		}
		names, _ := filepath.Glob(filepath.Join(dir, "python*"))
		for _, file := range names {
			real, err := filepath.EvalSymlinks(file)
			if err != nil || seen[real] || !pythonName.MatchString(filepath.Base(file)) {
				continue
			}
			seen[real] = true
			files = append(files, file)
		}
	}
	found := make([]interpreter, len(files))
	ok := make([]bool, len(files))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	for i, file := range files {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i], ok[i] = p.probe(ctx, file)
		})
	}
	wg.Wait()
	for i := range found {
		if ok[i] {
			add(found[i])
		}
	}
	return list
}

func (p *pythons) path() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(p.vars["PATH"]) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// probeScript tells what an interpreter is. It runs on every Python 3.
const probeScript = `import sys, os, json, platform
wheels = os.path.join(os.path.dirname(os.__file__), "ensurepip", "_bundled")
has = os.path.isdir(wheels) and any(n.startswith("pip-") for n in os.listdir(wheels))
base = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({"Path": os.path.realpath(base), "Version": list(sys.version_info[:3]), "Wheels": wheels if has else "",
  "Kind": platform.python_implementation(), "Free": not getattr(sys, "_is_gil_enabled", lambda: True)()}))`

// probe asks the file what Python it is. The answer holds until the file changes.
func (p *pythons) probe(ctx context.Context, file string) (interpreter, bool) {
	info, err := os.Stat(file)
	if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return interpreter{}, false
	}
	p.mu.Lock()
	k, ok := p.known[file]
	p.mu.Unlock()
	shim := filepath.Base(filepath.Dir(file)) == "shims" // where it leads may change at any time
	if ok && k.at.Equal(info.ModTime()) && !shim {
		return k.found, k.ok
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, file, "-I", "-c", probeScript)
	cmd.Env = p.vars.forProbe()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var said struct {
		interpreter
		Kind string
		Free bool
	}
	good := err == nil && json.Unmarshal(out, &said) == nil && said.Kind == "CPython" && !said.Free && said.Path != ""
	if ctx.Err() != nil {
		return interpreter{}, false // not the interpreter's fault: ask again
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]probed{}
	}
	p.known[file] = probed{at: info.ModTime(), found: said.interpreter, ok: good}
	return said.interpreter, good
}

// forProbe leaves what a version manager needs to find its way.
func (v variables) forProbe() []string {
	out := variables{}
	for _, name := range []string{"PATH", "HOME", "LANG", "PYENV_ROOT", "PYENV_VERSION", "LD_LIBRARY_PATH"} {
		if value := v[name]; value != "" {
			out[name] = value
		}
	}
	return out.list()
}
