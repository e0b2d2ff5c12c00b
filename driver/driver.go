// Package driver is the program that serves scoring scripts and MLflow models:
// a group (see serving.Group) of Python processes. It is written in Python,
// needs nothing but the standard library of 3.8 or newer, and speaks package
// frame.
package driver

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed *.py shims/azureml_inference_server_http/*.py shims/azureml_inference_server_http/api/*.py
var files embed.FS

// Hash tells one version of the program from another.
func Hash() string {
	h := sha256.New()
	_ = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Unpack writes the program to a folder of its own below dir, once for each
// version, and returns that folder.
func Unpack(dir string) (string, error) {
	to := filepath.Join(dir, "driver-"+Hash())
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack the Python driver: %w", err)
	}
	half, err := os.MkdirTemp(dir, "half-")
	if err != nil {
		return "", fmt.Errorf("unpack the Python driver: %w", err)
	}
	defer os.RemoveAll(half)
	if err := os.Chmod(half, 0o755); err != nil {
		return "", fmt.Errorf("unpack the Python driver: %w", err)
	}
	if err := os.CopyFS(half, files); err != nil {
		return "", fmt.Errorf("unpack the Python driver: %w", err)
	}
	// Another process may have been faster: its folder is the same.
	if err := os.Rename(half, to); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, found := os.Stat(to); found != nil {
			return "", fmt.Errorf("unpack the Python driver: %w", err)
		}
	}
	return to, nil
}

// Command is the shell command of a group: the Python interpreter of the
// user's environment runs the program in folder, which Unpack returned. What
// the group is to do stands in its environment (ml/serving, GroupFolder ff.,
// and the variables of the Azure inference server).
func Command(python, folder string) string {
	return "exec " + quote(python) + " -u " + quote(filepath.Join(folder, "lapis_group.py"))
}

// PlatformPackages names the variable with a folder of packages that a script
// may need and its environment may lack: it comes last on sys.path.
const PlatformPackages = "LAPIS_PLATFORM_PACKAGES"

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
