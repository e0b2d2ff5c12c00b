package pyenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lapis/fault"
	"lapis/file"
	"lapis/ml/environment"
	"lapis/pattern"
)

// readyFile is written last; an environment without it does not exist.
const readyFile = ".ready"

// marker is the content of readyFile.
type marker struct {
	Python string    `json:"python"`
	Notes  []string  `json:"notes,omitempty"`
	Bytes  int64     `json:"bytes"` // on disk
	Made   time.Time `json:"made"`
	With   string    `json:"with"` // uv, pip, micromamba ...
}

// make builds the environment in dir, its final place: the scripts in a
// virtual environment know where they are.
func (b *Builder) make(ctx context.Context, hash, dir string, r environment.Recipe, log *buildLog) (environment.Built, error) {
	start := time.Now()
	m := marker{Notes: append([]string(nil), r.Notes...)}
	note := func(text string) {
		m.Notes = append(m.Notes, text)
		log.line("note: " + text)
	}
	vars := b.vars.forBuild(b.cfg.Fetch)

	var conda string
	if onlyConda(r.Conda) {
		conda = b.condaTool()
	}
	var lines []string
	var err error
	if conda != "" {
		lines = r.Pip
	} else {
		var notes []string
		if lines, notes, err = r.Requirements(); err != nil {
			return environment.Built{}, fault.Invalid("the environment could not be built: %v", err).With("EnvironmentBuildFailed").From(err)
		}
		for _, text := range notes {
			note(text)
		}
	}

	python, text, found := b.python(ctx, r.Python)
	wanted := python.Path
	if b.cfg.Fetch && conda == "" && (!found || text != "") && b.uv.find() != "" && r.Python != "" {
		wanted, found, text = r.Python, true, "" // uv gets it
	}
	if !found && conda == "" {
		return environment.Built{}, fault.New(fault.Unavailable, "PythonMissing",
			"the environment could not be built: there is no Python 3 on this machine; install one (such as the package python3) and put it on PATH")
	}
	if text != "" && conda == "" {
		note(text)
	}

	if vars["UV_TORCH_BACKEND"] == "" && asksForTorch(lines) && !hasGPU() {
		note("torch brings CUDA libraries of several GB along unless an index with its CPU build is named; UV_TORCH_BACKEND=cpu in the server's environment makes uv take that")
	}

	uv := b.uv.find()
	if uv == "" && len(lines) > 0 && found {
		if uv, err = b.uv.fetch(ctx, python, vars, log); err != nil {
			if ctx.Err() != nil {
				return environment.Built{}, err
			}
			log.line("note: " + err.Error() + "; pip builds the environment, which takes longer")
		}
	}

	inside := filepath.Join(dir, "bin", "python")
	steps := &installer{b: b, ctx: ctx, vars: vars, log: log}
	switch {
	case conda != "":
		m.With = filepath.Base(conda)
		log.stage("installing %d conda packages with %s", len(r.Conda), m.With)
		args := []string{conda, "create", "--yes", "--prefix", dir, "--override-channels"}
		channels := r.Channels
		if len(channels) == 0 {
			channels = []string{"conda-forge"}
		}
		for _, c := range channels {
			args = append(args, "--channel", c)
		}
		args = append(args, condaPython(r.Python))
		err = steps.run("", append(args, r.Conda...)...)
	case uv != "":
		m.With = "uv"
		log.stage("Python %s (%s)", wantedVersion(python, wanted), wanted)
		err = steps.run("", uv, "venv", "--quiet", "--no-project", "--python", wanted, dir)
		if err == nil && python.Wheels != "" && wanted == python.Path {
			// pip as the interpreter brings it along: needs no index, takes no time.
			err = steps.run("", append([]string{uv, "pip", "install", "--quiet", "--python", inside, "--no-index", "--find-links", python.Wheels, "pip"}, seeds(python)...)...)
		}
	default:
		m.With = "pip"
		log.stage("Python %s (%s)", python.Version, python.Path)
		if err = steps.run("", python.Path, "-m", "venv", dir); err != nil && ctx.Err() == nil && python.Wheels == "" {
			return environment.Built{}, fault.New(fault.Unavailable, "PythonMissing",
				"the environment could not be built: %s cannot make virtual environments; install its venv module (such as the package python3-venv), or uv", python.Path).From(err)
		}
	}
	if err != nil {
		return environment.Built{}, err
	}

	if len(lines) > 0 {
		count := 0
		for _, line := range lines {
			if !strings.HasPrefix(line, "-") {
				count++
			}
		}
		log.stage("resolving %s", packages(count))
		if uv != "" {
			args := []string{uv, "pip", "install", "--python", inside}
			file, more := forUV(lines)
			err = steps.run(file, append(append(args, more...), "-r", "-")...)
		} else {
			err = steps.run(strings.Join(lines, "\n")+"\n", inside, "-m", "pip", "install", "-r", "/dev/stdin")
		}
		if err != nil {
			return environment.Built{}, err
		}
	}

	if m.Python, err = b.versionOf(ctx, inside); err != nil {
		return environment.Built{}, err
	}
	if m.Bytes, err = size(dir); err != nil {
		return environment.Built{}, fmt.Errorf("measure the environment: %w", err)
	}
	m.Made = time.Now().UTC()
	if err := seal(dir, m); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return environment.Built{}, fault.New(fault.StorageFull, "StorageFull", "the environment could not be built, the disk is full").From(err)
		}
		return environment.Built{}, fmt.Errorf("mark the environment as ready: %w", err)
	}
	log.stage("ready in %.1f s", time.Since(start).Seconds())
	return environment.Built{Hash: hash, Dir: dir, Python: m.Python, Notes: m.Notes}, nil
}

// python returns the interpreter for the version, with a note if it is another.
func (b *Builder) python(ctx context.Context, want string) (interpreter, string, bool) {
	if want == "" {
		if first, ok := b.pythons.first(ctx); ok {
			return first, "", true
		}
	}
	return choose(b.pythons.all(ctx), want)
}

var torch = pattern.New(`^torch(vision|audio)?\s*($|[<>=!~;[(])`)

// asksForTorch tells whether the lines take torch from the default index.
func asksForTorch(lines []string) bool {
	found := false
	for _, line := range lines {
		if strings.HasPrefix(line, "--") && strings.Contains(line, "://") {
			return false
		}
		found = found || torch.MatchString(line)
	}
	return found
}

func hasGPU() bool {
	_, err := os.Stat("/dev/nvidiactl")
	return err == nil
}

func wantedVersion(p interpreter, wanted string) string {
	if wanted == p.Path {
		return p.Version.String()
	}
	return wanted
}

// seeds are what an environment of an older Python had besides pip, and old
// packages rely on without saying so.
func seeds(p interpreter) []string {
	if p.Version[1] < 12 {
		if found, _ := filepath.Glob(filepath.Join(p.Wheels, "setuptools-*.whl")); len(found) > 0 {
			return []string{"setuptools"}
		}
	}
	return nil
}

// forUV splits the lines into a file for uv and flags: uv takes some options
// on its command line only.
func forUV(lines []string) (file string, flags []string) {
	var text strings.Builder
	for _, line := range lines {
		name, value, _ := strings.Cut(line, " ")
		switch name {
		case "--pre":
			flags = append(flags, "--prerelease", "allow")
		case "--trusted-host":
			flags = append(flags, "--allow-insecure-host", value)
		default:
			text.WriteString(line + "\n")
		}
	}
	return text.String(), flags
}

// installer runs the steps of a build and turns their output into progress.
type installer struct {
	b    *Builder
	ctx  context.Context
	vars variables
	log  *buildLog

	sizes       map[string]float64 // MB announced, by package
	total, done float64
}

func (s *installer) run(stdin string, args ...string) error {
	err := run(s.ctx, args, s.b.cfg.Dir, s.vars, stdin, s.take)
	if err == nil {
		return nil
	}
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return failure(s.log.lastLines()).From(err)
}

var (
	resolved    = pattern.New(`^Resolved (\d+) packages?`)
	prepared    = pattern.New(`^Prepared (\d+) packages?`)
	downloading = pattern.New(`^\s*Downloading (\S+) \(([\d.]+)\s*([KMG])iB\)`)
	downloaded  = pattern.New(`^\s*Downloaded (\S+)`)
)

// take passes a line on, and after it what it says about the progress.
func (s *installer) take(line string) {
	s.log.line(line)
	if m := resolved.FindStringSubmatch(line); m != nil {
		n, _ := strconv.Atoi(m[1])
		s.log.stage("fetching and installing %s", packages(n))
	} else if m := prepared.FindStringSubmatch(line); m != nil {
		n, _ := strconv.Atoi(m[1])
		s.log.stage("installing %s", packages(n))
	} else if m := downloading.FindStringSubmatch(line); m != nil {
		mb, _ := strconv.ParseFloat(m[2], 64)
		mb *= map[string]float64{"K": 1.0 / 1024, "M": 1, "G": 1024}[m[3]]
		if s.sizes == nil {
			s.sizes = map[string]float64{}
		}
		s.sizes[m[1]] = mb
		s.total += mb
	} else if m := downloaded.FindStringSubmatch(line); m != nil && s.total > 0 {
		s.done += s.sizes[m[1]]
		s.log.stage("%.0f MB of %.0f MB", s.done, s.total)
	}
}

func packages(n int) string {
	if n == 1 {
		return "1 package"
	}
	return strconv.Itoa(n) + " packages"
}

// versionOf runs the finished interpreter: one that does not start is none.
func (b *Builder) versionOf(ctx context.Context, python string) (string, error) {
	var out []string
	err := run(ctx, []string{python, "-I", "-c", "import platform; print(platform.python_version())"}, b.cfg.Dir, b.vars.forBuild(false), "",
		func(line string) { out = append(out, line) })
	if err != nil || len(out) == 0 {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fault.New(fault.BadRequest, "EnvironmentBuildFailed", "the environment was built, but its Python does not start: %s", lastLine(out)).From(err)
	}
	return out[len(out)-1], nil
}

// seal writes the marker, once all that it vouches for is on the disk.
func seal(dir string, m marker) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return file.Replace(filepath.Join(dir, readyFile), append(text, '\n'), 0o644)
}

// size adds up what the files of dir take, in bytes.
func size(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	return sum, err
}
