package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"lapis/fault"
)

// Where Linux and BSD systems, and Homebrew, keep the authorities they trust.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
	"/opt/homebrew/etc/ca-certificates/cert.pem",
}

// bundle is a file with our authority and those that this shell trusted
// before, so that company certificates go on working. It is named by what is in
// it: shells with other authorities have files of their own.
func (f *folder) bundle(env environment) (string, error) {
	ours, err := os.ReadFile(f.path("keys", "ca.crt"))
	if err != nil {
		return "", fault.NotFound("The data folder %s has no certificate authority. Start a server on it with `lapis up`.", f.dir).From(err)
	}
	theirs, err := f.trusted(env)
	if err != nil {
		return "", err
	}
	content := slices.Concat([]byte("# Lapis local authority\n"), ours, []byte("\n# those that were trusted before\n"), theirs)
	if !bytes.HasSuffix(content, []byte("\n")) {
		content = append(content, '\n')
	}
	name := filepath.Join("ca", fmt.Sprintf("bundle-%.6x.pem", sha256.Sum256(content)))
	path := f.path(name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return path, nil
	}
	if err := os.MkdirAll(f.path("ca"), 0o755); err != nil {
		return "", err
	}
	return path, f.write(name, content, 0o644)
}

// trusted is the bundle that the environment named before, else the system's,
// else certifi's, else nothing.
func (f *folder) trusted(env environment) ([]byte, error) {
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"} {
		path, ok := env.before(name)
		if !ok || path == "" || strings.HasPrefix(path, f.path("ca")+string(filepath.Separator)) {
			continue
		}
		b, err := readBundle(path)
		if err != nil {
			return nil, fault.Invalid("%s names %s, which cannot be read: %v. Set it right or unset it, then connect again.", name, path, plain(err)).From(err)
		}
		return b, nil
	}
	for _, path := range systemBundles {
		if b, err := os.ReadFile(path); err == nil {
			return b, nil
		}
	}
	for _, python := range []string{"python3", "python"} {
		if where, err := exec.Command(python, "-m", "certifi").Output(); err == nil {
			if b, err := os.ReadFile(strings.TrimSpace(string(where))); err == nil {
				return b, nil
			}
		}
	}
	return nil, nil
}

// readBundle reads a file of certificates, or all of a folder of them.
func readBundle(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return os.ReadFile(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []byte
	seen := map[string]bool{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(path, e.Name()))
		if err != nil || !bytes.Contains(b, []byte("-----BEGIN CERTIFICATE-----")) || seen[string(b)] {
			continue // such a folder holds each certificate twice: by name, and as a link by its hash
		}
		seen[string(b)] = true
		all = append(append(all, b...), '\n')
	}
	return all, nil
}
