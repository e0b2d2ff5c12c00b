// Package runtimes keeps what models are scored with outside of the server: the
// runner of native models, which the binary carries along, and ONNX Runtime,
// which comes from a package index at its first use.
package runtimes

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lapis/fault"
	"lapis/file"
)

// Package is one wheel of the package index, known by its hash.
type Package struct {
	Name, Version, SHA256, Python, Platform string
}

// Config tells where runtimes are kept and how they come.
type Config struct {
	Dir string // such as DATA/runtimes

	// Fetch puts the files of a package into a folder and checks its hash.
	Fetch func(ctx context.Context, p Package, dir string, progress io.Writer) error

	// Runner is a lapis-runner to use in place of the one carried along; "" for
	// none.
	Runner string
}

// Runtimes finds, unpacks and fetches runtimes.
type Runtimes struct {
	cfg Config
	mu  sync.Mutex
}

// New returns runtimes that are kept in the folder.
func New(cfg Config) *Runtimes { return &Runtimes{cfg: cfg} }

// onnxruntime is the release that goes with this one of ours, by GOARCH.
const onnxVersion = "1.31.1"

var onnxruntime = map[string]struct{ wheel, library, platform string }{
	"amd64": {"1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536", "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3", "x86_64-manylinux_2_28"},
	"arm64": {"0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc", "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467", "aarch64-manylinux_2_28"},
}

//go:embed all:embedded
var embedded embed.FS

// Native returns the runner of native models and the folder with ONNX Runtime.
// The first call unpacks and fetches them; progress gets a line for each step.
// Without a package index it returns fault.Unavailable. Several may call it at
// once, also from several servers on one folder.
func (r *Runtimes) Native(ctx context.Context, progress io.Writer) (runner, library string, err error) {
	if runner, err = r.Runner(); err != nil {
		return "", "", err
	}
	library, err = r.library(ctx, progress)
	return runner, library, err
}

// Runner returns the runner of native models. Tree models need no more.
func (r *Runtimes) Runner() (string, error) {
	if r.cfg.Runner != "" {
		return r.cfg.Runner, nil
	}
	packed, err := embedded.ReadFile("embedded/lapis-runner.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return beside()
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(packed)
	path := filepath.Join(r.cfg.Dir, "runner-"+hex.EncodeToString(sum[:8]), "lapis-runner")
	r.mu.Lock()
	defer r.mu.Unlock()
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", stored("the runner of native models", err)
	}
	in, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	err = file.Whole(path, 0o755, func(f *os.File) error {
		_, err := io.Copy(f, in)
		return errors.Join(err, f.Sync())
	})
	if err != nil {
		return "", stored("the runner of native models", err)
	}
	return path, nil
}

// beside finds the runner in the folder of this program.
func beside() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(exe), "lapis-runner")
	if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
		return path, nil
	}
	return "", fault.New(fault.NotImplemented, "RuntimeMissing",
		"this lapis was built without the runner of native models, and there is no %s; build lapis with `make`, or put lapis-runner there", path)
}

func stored(what string, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return fault.New(fault.StorageFull, "StorageFull", "%s could not be put into the data folder, the disk is full", what).From(err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// library returns the folder with ONNX Runtime.
func (r *Runtimes) library(ctx context.Context, progress io.Writer) (string, error) {
	want, ok := onnxruntime[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return "", fault.New(fault.NotImplemented, "RuntimeMissing", "ONNX models are served natively on Linux for x86-64 and ARM64, and this is %s/%s; set the property serving.tier to python", runtime.GOOS, runtime.GOARCH)
	}
	dir := filepath.Join(r.cfg.Dir, "onnxruntime-"+onnxVersion+"-"+runtime.GOARCH)
	r.mu.Lock()
	defer r.mu.Unlock()
	file := filepath.Join(dir, "libonnxruntime.so")
	if sum, err := sum(file); err == nil && sum == want.library {
		return dir, nil
	}
	if err := os.MkdirAll(r.cfg.Dir, 0o755); err != nil {
		return "", stored("ONNX Runtime", err)
	}
	half, err := os.MkdirTemp(r.cfg.Dir, ".half-")
	if err != nil {
		return "", stored("ONNX Runtime", err)
	}
	defer os.RemoveAll(half) // a folder of ours that nobody uses
	if err := r.cfg.Fetch(ctx, Package{"onnxruntime", onnxVersion, want.wheel, "3.12", want.platform}, filepath.Join(half, "wheel"), progress); err != nil {
		return "", err
	}
	got := filepath.Join(half, "wheel", "onnxruntime", "capi", "libonnxruntime.so."+onnxVersion)
	if have, err := sum(got); err != nil || have != want.library {
		return "", fault.New(fault.Unavailable, "RuntimeMissing", "the package index gave an ONNX Runtime %s that is not the known one: the hash of its library differs", onnxVersion).From(err)
	}
	out := filepath.Join(half, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return "", stored("ONNX Runtime", err)
	}
	if err := os.Rename(got, filepath.Join(out, "libonnxruntime.so")); err != nil {
		return "", err
	}
	for _, name := range []string{"LICENSE", "ThirdPartyNotices.txt"} {
		if err := os.Rename(filepath.Join(half, "wheel", "onnxruntime", name), filepath.Join(out, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	// Another server on this folder may have been faster.
	if sum, err := sum(file); err == nil && sum == want.library {
		return dir, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Rename(out, dir); err != nil {
		return "", stored("ONNX Runtime", err)
	}
	return dir, nil
}

// sum is the SHA-256 of a file, in hex.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return strings.ToLower(hex.EncodeToString(h.Sum(nil))), nil
}
