package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/serving"
)

// The bounds of the context of a Dockerfile.
const (
	maxFiles = 100_000
	maxBytes = 16 << 30
)

// Build implements serving.Containers.
func (e *Engine) Build(ctx context.Context, from serving.Build, log io.Writer) (string, error) {
	engine, err := e.path(ctx)
	if err != nil {
		return "", err
	}
	files, err := e.files(ctx, from)
	if err != nil {
		return "", err
	}
	dockerfile := path.Clean("/" + from.Dockerfile)[1:]
	if dockerfile == "" {
		dockerfile = "Dockerfile"
	}
	prefix := blob.Folder(from.Prefix)
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", dockerfile)
	found := false
	for _, f := range files {
		name := strings.TrimPrefix(f.Key, prefix)
		found = found || name == dockerfile
		fmt.Fprintf(sum, "%q %s %d\n", name, f.ETag, f.Size)
	}
	if !found {
		return "", fault.Invalid("There is no file %q in the build context of the environment.", dockerfile).With("ImageBuildFailure").At("properties.environmentId")
	}
	image := "localhost/lapis/environment:" + hex.EncodeToString(sum.Sum(nil)[:12])
	if _, err := e.output(ctx, engine, "image", "inspect", image); err == nil {
		fmt.Fprintf(log, "The image of this Dockerfile is here: %s\n", image)
		return image, nil
	}
	dir, err := os.MkdirTemp("", "lapis-build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := e.stage(ctx, from, files, dir); err != nil {
		return "", err
	}
	said, err := e.told(ctx, log, engine, "build", "--tag", image, "--file", filepath.Join(dir, dockerfile), dir)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fault.New(fault.Conflict, "ImageBuildFailure", "The environment's Dockerfile cannot be built: %s", reason(said, err)).At("properties.environmentId").From(err)
	}
	return image, nil
}

// files are the files of the context.
func (e *Engine) files(ctx context.Context, from serving.Build) ([]blob.Info, error) {
	var all []blob.Info
	size := int64(0)
	for after := ""; ; {
		page, err := e.cfg.Blobs.List(ctx, blob.Container{Account: from.Account, Name: from.Container}, blob.Query{Prefix: blob.Folder(from.Prefix), After: after})
		if err != nil {
			return nil, err
		}
		for _, b := range page.Blobs {
			if strings.HasSuffix(b.Key, "/") || b.Size == 0 && b.Metadata["hdi_isfolder"] == "true" {
				continue
			}
			size += b.Size
			all = append(all, b)
		}
		if len(all) > maxFiles || size > maxBytes {
			return nil, fault.New(fault.TooLarge, "ImageBuildFailure", "The build context of the environment has more than %d files or %d GiB.", maxFiles, maxBytes>>30).At("properties.environmentId")
		}
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

// stage copies the context into the folder.
func (e *Engine) stage(ctx context.Context, from serving.Build, files []blob.Info, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		name := strings.TrimPrefix(f.Key, blob.Folder(from.Prefix))
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return fault.Invalid("%q in the build context of the environment is no name of a file on this machine; rename it.", name).With("ImageBuildFailure").At("properties.environmentId")
		}
		if err := e.copy(ctx, from, f.Key, root, name); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) copy(ctx context.Context, from serving.Build, key string, root *os.Root, name string) error {
	r, _, err := e.cfg.Blobs.Open(ctx, blob.Container{Account: from.Account, Name: from.Container}, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	w, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755) // as all code may be run
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}
