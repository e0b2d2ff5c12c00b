package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

// stager copies code and inputs into a task's folder. It writes through root,
// so nothing it is given can lead it outside.
type stager struct {
	*Runtime
	root *os.Root
}

// taskPath checks a path of an input or output and returns it clean.
func taskPath(what, name, p string) (string, error) {
	clean := path.Clean(p)
	first, rest, _ := strings.Cut(clean, "/")
	if !filepath.IsLocal(p) || rest == "" || first != "inputs" && first != "outputs" && first != workDir {
		return "", fault.Invalid("%s %q is to be at %q; its path must lie below inputs/, outputs/ or wd/ of the job's folder", what, name, p).
			At(what + "s." + name)
	}
	return clean, nil
}

func (s *stager) code(ctx context.Context, trees []compute.Tree) error {
	for _, t := range trees {
		// Azure ML gives all code the right to be run, whatever it had on the user's disk.
		n, err := s.tree(ctx, t, workDir, staged{mode: 0o755})
		if err != nil {
			return fmt.Errorf("code: %w", err)
		}
		if n == 0 {
			return fault.NotFound("the code of the job is not there: container %q holds nothing below %q; upload it again", t.Container.Name, t.Prefix).At("code")
		}
	}
	return nil
}

func (s *stager) input(ctx context.Context, in compute.Input) error {
	at := "inputs." + in.Name
	to, err := taskPath("input", in.Name, in.Path)
	if err != nil {
		return err
	}
	err = s.fetch(ctx, in, to)
	switch {
	case err == nil:
		return nil
	case in.URL == "" && fault.Is(err, fault.Missing):
		return fault.NotFound("input %q is not there: container %q holds no %q; check the path, or upload the data again",
			in.Name, in.From.Container.Name, in.From.Prefix).At(at).From(err)
	case fault.Find(err) != nil:
		f := *fault.Find(err)
		f.Message = fmt.Sprintf("input %q: %s", in.Name, f.Message)
		return f.At(at).From(err)
	}
	return fmt.Errorf("input %q: %w", in.Name, err)
}

func (s *stager) fetch(ctx context.Context, in compute.Input, to string) error {
	if in.URL != "" {
		if !in.File {
			to = path.Join(to, lastSegment(in.URL))
		}
		return s.download(ctx, in, to)
	}
	if !in.File {
		if err := s.root.MkdirAll(to, 0o755); err != nil {
			return roomLeft(err)
		}
		n, err := s.tree(ctx, in.From, to, staged{mode: 0o644, dated: in.Back})
		if err == nil && n == 0 && !in.Back {
			err = fault.NotFound("nothing there")
		}
		return err
	}
	return s.blob(ctx, in.From.Container, in.From.Prefix, to, staged{mode: 0o644, dated: in.Back})
}

// lastSegment is the name of the file that an address ends in; "file" if it
// ends in none.
func lastSegment(address string) string {
	if u, err := url.Parse(address); err == nil {
		if name := path.Base(u.Path); name != "." && name != "/" && filepath.IsLocal(name) {
			return name
		}
	}
	return "file"
}

// staged says how the copy of a blob is to look.
type staged struct {
	mode  os.FileMode
	dated bool // with the blob's time of modification, so that a change shows
}

// tree copies all blobs of the tree into the folder "to" and counts them.
func (s *stager) tree(ctx context.Context, t compute.Tree, to string, how staged) (int, error) {
	prefix := blob.Folder(t.Prefix)
	n := 0
	for after := ""; ; {
		page, err := s.cfg.Blobs.List(ctx, t.Container, blob.Query{Prefix: prefix, After: after})
		if err != nil {
			return n, err
		}
		for _, b := range page.Blobs {
			if n++; n > s.cfg.MaxFiles {
				return n, fault.New(fault.TooLarge, "TooManyFiles", "%q in container %q holds more than %d files", prefix, t.Container.Name, s.cfg.MaxFiles)
			}
			rel := strings.TrimPrefix(b.Key, prefix)
			folder := strings.HasSuffix(rel, "/") || rel == "" || b.Size == 0 && b.Metadata["hdi_isfolder"] == "true"
			rel = strings.TrimSuffix(rel, "/")
			if rel == "" {
				continue // the folder itself
			}
			if !filepath.IsLocal(rel) || path.Clean(rel) != rel {
				return n, fault.Invalid("%q in container %q is no name of a file on this machine; rename it", b.Key, t.Container.Name)
			}
			if folder {
				if err := s.root.MkdirAll(path.Join(to, rel), 0o755); err != nil {
					return n, s.writing(b.Key, err)
				}
				continue
			}
			if err := s.blob(ctx, t.Container, b.Key, path.Join(to, rel), how); err != nil {
				if fault.Is(err, fault.Missing) { // deleted since it was listed
					return n, fault.Conflicts("%q in container %q was deleted while it was copied; submit the job again", b.Key, t.Container.Name)
				}
				return n, err
			}
		}
		if page.Next == "" {
			return n, nil
		}
		after = page.Next
	}
}

func (s *stager) blob(ctx context.Context, c blob.Container, key, to string, how staged) error {
	var from io.ReadCloser
	var info blob.Info
	var err error
	if files, ok := s.cfg.Blobs.(filer); ok {
		from, info, err = files.OpenFile(ctx, c, key)
	} else {
		from, info, err = s.cfg.Blobs.Open(ctx, c, key, 0, -1)
	}
	if err != nil {
		return err
	}
	defer from.Close()
	err = s.file(ctx, from, to, how.mode)
	if err == nil && how.dated {
		err = s.root.Chtimes(to, info.Modified, info.Modified)
	}
	return s.writing(key, err)
}

// filer is a blob.Store whose blobs are files: the kernel copies those, and
// shares their bytes where the file system can.
type filer interface {
	OpenFile(ctx context.Context, c blob.Container, key string) (*os.File, blob.Info, error)
}

// file writes what r gives to a new file.
func (s *stager) file(ctx context.Context, r io.Reader, to string, mode os.FileMode) error {
	if err := s.root.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	// Trees are laid over one another in order: the later file stands.
	if err := s.root.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := s.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	for n := int64(1); n > 0 && err == nil; {
		// In pieces, so that a stop is heeded between them.
		if n, err = io.Copy(f, io.LimitReader(r, 64<<20)); err == nil {
			err = ctx.Err()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// writing explains errors of the file system that the names or the sizes of
// the user's files have caused.
func (s *stager) writing(key string, err error) error {
	switch {
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL):
		return fault.Invalid("%q is no name of a file on this machine; rename it", key).From(err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, os.ErrExist):
		return fault.Invalid("%q is both a file and a folder; rename one of them", key).From(err)
	}
	return roomLeft(err)
}

func roomLeft(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.StorageFull, "InsufficientStorage", "the disk with the jobs' folders is full; make room on it and submit the job again").From(err)
	}
	return err
}

func (s *stager) download(ctx context.Context, in compute.Input, to string) error {
	u, err := url.Parse(in.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fault.Invalid("its address must begin with https:// or http://")
	}
	// What follows the path may be a signature, and does not go into messages.
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.URL, nil)
	if err != nil {
		return fault.Invalid("%s is no web address", shown)
	}
	res, err := s.cfg.HTTP.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fault.Invalid("%s cannot be reached from the server: %v", shown, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fault.NotFound("%s answers %d %s", shown, res.StatusCode, http.StatusText(res.StatusCode))
	}
	body := &counted{r: res.Body, left: s.cfg.MaxURL}
	err = s.file(ctx, body, to, 0o644)
	switch {
	case body.over:
		return fault.New(fault.TooLarge, "InputTooLarge", "%s is larger than %d bytes", shown, s.cfg.MaxURL)
	case body.err != nil && ctx.Err() == nil:
		return fault.Invalid("reading %s broke off: %v", shown, body.err)
	}
	return s.writing(to, err)
}

// counted reads at most left bytes and keeps why it ended.
type counted struct {
	r    io.Reader
	left int64
	over bool
	err  error
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if c.left -= int64(n); c.left < 0 {
		c.over = true
		return 0, errors.New("too large")
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
