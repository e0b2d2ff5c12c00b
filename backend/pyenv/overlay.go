package pyenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"lapis/pattern"
)

// maxScript bounds what is looked at as a script of an environment, in bytes.
const maxScript = 64 << 10

// Overlay makes a virtual environment in dir that sees the packages of the
// shared one whose bin folder is given, and returns its own bin folder. What a
// job installs ("pip install x && python train.py") goes there, as it goes
// into the job's own container elsewhere, and the shared one stays as it is.
// It runs no process and takes a millisecond or two. Doing it again is harmless.
func Overlay(bin, dir string) (string, error) {
	shared := filepath.Dir(bin)
	site, err := sitePackages(shared)
	if err != nil {
		return "", fmt.Errorf("overlay of %s: %w", shared, err)
	}
	if err := overlay(shared, site, dir); err != nil {
		return "", fmt.Errorf("overlay of %s: %w", shared, err)
	}
	return filepath.Join(dir, "bin"), nil
}

// sitePackages finds the folder of packages, relative to the environment.
func sitePackages(shared string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(shared, "lib"))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		site := filepath.Join("lib", e.Name(), "site-packages")
		if info, err := os.Stat(filepath.Join(shared, site)); err == nil && info.IsDir() && strings.HasPrefix(e.Name(), "python3") {
			return site, nil
		}
	}
	return "", errors.New("it has no folder of packages")
}

func overlay(shared, site, dir string) error {
	target, own := filepath.Join(dir, site), filepath.Join(dir, "bin")
	for _, folder := range []string{target, own} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// site-packages of the shared environment come after the overlay's own,
	// and the path files in them are read too.
	packages := filepath.Join(shared, site)
	link := fmt.Sprintf("import site; site.addsitedir(%s)\n", quote(packages))
	if err := os.WriteFile(filepath.Join(target, "_shared.pth"), []byte(link), 0o644); err != nil {
		return err
	}

	python, err := os.Readlink(filepath.Join(shared, "bin", "python"))
	config, missing := os.ReadFile(filepath.Join(shared, "pyvenv.cfg"))
	if err != nil || missing != nil || !filepath.IsAbs(python) {
		// Not a virtual environment but a whole installation, as conda makes them.
		python = filepath.Join(shared, "bin", "python")
		config = []byte("home = " + filepath.Join(shared, "bin") + "\ninclude-system-site-packages = false\n")
	}
	if err := os.WriteFile(filepath.Join(dir, "pyvenv.cfg"), config, 0o644); err != nil {
		return err
	}
	names := []string{"python", "python3", filepath.Base(filepath.Dir(site))}
	for _, name := range names {
		if err := symlink(python, filepath.Join(own, name)); err != nil {
			return err
		}
	}
	return overlayScripts(shared, own)
}

// overlayScripts puts the shared environment's scripts beside the overlay's
// Python, so that they see what the job installed. PATH leads to nothing else
// of the shared environment, so programs are linked.
func overlayScripts(shared, own string) error {
	entries, err := os.ReadDir(filepath.Join(shared, "bin"))
	if err != nil {
		return err
	}
	header := shebang(filepath.Join(own, "python"))
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "python") || strings.HasPrefix(name, "activate") || strings.HasPrefix(name, "Activate") {
			continue
		}
		from, to := filepath.Join(shared, "bin", name), filepath.Join(own, name)
		head, err := readHead(from)
		if err != nil {
			return err
		}
		body, ok := withoutShebang(head, filepath.Join(shared, "bin", "python"))
		if !ok {
			if err := symlink(from, to); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(to, append([]byte(header), body...), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// withoutShebang returns what follows the lines that hand a script to the
// Python given, and whether there are such lines and the whole script is here.
func withoutShebang(script []byte, python string) ([]byte, bool) {
	first, rest, _ := bytes.Cut(script, []byte("\n"))
	if len(script) >= maxScript || !bytes.HasPrefix(first, []byte("#!")) {
		return nil, false
	}
	if bytes.HasPrefix(first[2:], []byte(python)) {
		return rest, true
	}
	second, rest, _ := bytes.Cut(rest, []byte("\n"))
	if !bytes.HasPrefix(second, []byte("'''exec' ")) || !bytes.Contains(second, []byte(python)) {
		return nil, false
	}
	_, rest, found := bytes.Cut(rest, []byte("\n")) // the line that ends the string
	return rest, found
}

// plainPath matches what the kernel takes in a shebang line.
var plainPath = pattern.New(`^[A-Za-z0-9_./@:+,-]{1,120}$`)

// shebang returns the lines that hand a script to this Python, by way of the
// shell where the kernel would not find it: a Python string that is a command.
func shebang(python string) string {
	if plainPath.MatchString(python) {
		return "#!" + python + "\n"
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(python)
	return "#!/bin/sh\n'''exec' \"" + quoted + "\" \"$0\" \"$@\"\n' '''\n"
}

// readHead reads at most maxScript bytes; what is no file reads as empty.
func readHead(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil // a dangling link or a folder is linked as it is
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	magic := make([]byte, 2)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "#!" {
		return nil, nil
	}
	rest, err := io.ReadAll(io.LimitReader(f, maxScript-2))
	return append(magic, rest...), err
}

// symlink makes the link, or leaves the one that is there.
func symlink(to, at string) error {
	if err := os.Symlink(to, at); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// quote writes a path as a Python string.
func quote(path string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`).Replace(path) + "'"
}
