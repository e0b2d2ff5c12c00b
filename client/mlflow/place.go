package mlflow

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lapis/fault"
)

// disk finds artefact folders on this machine.
type disk struct {
	base  string   // what relative addresses are relative to
	roots []string // folders that artefacts may have been moved to
}

// newDisk looks in the folder that the user names, then beside the store.
func newDisk(base, artifacts string, beside ...string) (disk, error) {
	d := disk{base: base}
	if artifacts != "" {
		info, err := os.Stat(artifacts)
		if err != nil || !info.IsDir() {
			return d, fault.Invalid("--artifacts %s is not a folder.", artifacts)
		}
		d.roots = append(d.roots, artifacts)
	}
	for _, name := range beside {
		d.roots = append(d.roots, filepath.Join(base, name))
	}
	return d, nil
}

// elsewhere tells an address that is no folder of a disk.
func elsewhere(uri string) bool {
	scheme, _, ok := strings.Cut(uri, ":")
	return ok && len(scheme) > 1 && scheme != "file" && scheme != "mlflow-artifacts"
}

// find gives the folder of an address, "" if there is none. What is read is
// always a folder of artefacts, wherever the store points.
func (d disk) find(uri string) string {
	if elsewhere(uri) {
		return ""
	}
	path := uri
	if u, err := url.Parse(uri); err == nil && (u.Scheme == "file" || u.Scheme == "mlflow-artifacts") {
		path = u.Path
		if u.Path == "" {
			path = u.Opaque
		}
	}
	local := filepath.FromSlash(path)
	if filepath.Base(local) != "artifacts" && !slices.Contains(strings.Split(filepath.ToSlash(local), "/"), "artifacts") {
		return ""
	}
	var tries []string
	if !strings.HasPrefix(uri, "mlflow-artifacts:") {
		if !filepath.IsAbs(local) {
			local = filepath.Join(d.base, local)
		}
		tries = append(tries, local)
	}
	// What moved has kept the end of its path: EXPERIMENT/RUN/artifacts.
	parts := strings.Split(strings.Trim(filepath.ToSlash(path), "/"), "/")
	for _, root := range d.roots {
		for from := max(0, len(parts)-8); from < len(parts)-1; from++ {
			tries = append(tries, filepath.Join(root, filepath.Join(parts[from:]...)))
		}
	}
	for _, t := range tries {
		if info, err := os.Stat(t); err == nil && info.IsDir() {
			return t
		}
	}
	return ""
}

// files lists a folder. Links are not followed: they may lead anywhere.
func files(dir string) ([]File, error) {
	var list []File
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		list = append(list, File{Path: filepath.ToSlash(below), Size: info.Size(), Open: func(context.Context) (io.ReadCloser, error) { return os.Open(path) }})
		return nil
	})
	return list, err
}

// folder gives the files of an address; none are found where there is nothing.
func (d disk) folder(uri string) ([]File, error) {
	if elsewhere(uri) {
		return nil, fault.NotFound("they lie at %s, which is no folder of this machine", uri)
	}
	dir := d.find(uri)
	if dir == "" {
		return nil, nil
	}
	return files(dir)
}
