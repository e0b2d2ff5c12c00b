package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"lapis/ml/blob"
)

// Sweep removes staged blocks that were not committed and bytes that a crash
// left without a header, if they are older than olderThan. Reads and writes go
// on meanwhile.
func (s *Store) Sweep(ctx context.Context, olderThan time.Duration) error {
	containers, err := s.containers()
	if err != nil {
		return fmt.Errorf("sweep blobs: %w", err)
	}
	for _, c := range containers {
		if err := s.sweep(ctx, c, olderThan); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep blobs of %s: %w", c.Name, err)
		}
	}
	return nil
}

func (s *Store) sweep(ctx context.Context, c blob.Container, olderThan time.Duration) error {
	keys, err := s.names(stagedDir(c))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := path.Join(stagedDir(c), k)
		if err := s.sweepFiles(dir, olderThan); err != nil {
			return err
		}
		s.root.Remove(dir) // if it is empty; Stage makes it anew
	}
	if err := s.sweepFiles(tmpDir(c), olderThan); err != nil {
		return err
	}
	return s.sweepTree(ctx, c, treeDir(c), olderThan)
}

func (s *Store) sweepFiles(dir string, olderThan time.Duration) error {
	names, err := s.names(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		file := dir + "/" + n
		if st, err := s.root.Lstat(file); err == nil && s.age(st) >= olderThan {
			if err := s.root.RemoveAll(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepTree looks for bytes without a header. A blob with one set of bytes is
// sound, as a header is never committed without its bytes; only where there
// are more, or no header, the header is read, with all writers kept out.
func (s *Store) sweepTree(ctx context.Context, c blob.Container, dir string, olderThan time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := s.names(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	headers, bytes := map[string]bool{}, map[string][]string{}
	for _, n := range names {
		switch base, _, end := kindOf(n); end {
		case folderEnd, longEnd:
			if err := s.sweepTree(ctx, c, dir+"/"+n, olderThan); err != nil {
				return err
			}
		case headerEnd:
			headers[base] = true
		case fileEnd, partsEnd:
			bytes[base] = append(bytes[base], n)
		}
	}
	for base, files := range bytes {
		if len(files) > 1 || !headers[base] {
			if err := s.sweepBlob(c, dir, base, files, olderThan); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) sweepBlob(c blob.Container, dir, base string, files []string, olderThan time.Duration) error {
	tree := s.tree(c)
	tree.Lock()
	defer tree.Unlock()
	h, err := s.read(dir+"/"+base+headerEnd, false)
	if err != nil {
		return err
	}
	for _, n := range files {
		_, token, _ := kindOf(n)
		if (h != nil && h.Data == token) || s.leases.isHeld(token) {
			continue
		}
		st, err := s.root.Lstat(dir + "/" + n)
		if err != nil || s.age(st) < olderThan {
			continue
		}
		if err := s.root.RemoveAll(dir + "/" + n); err != nil {
			return err
		}
	}
	return nil
}
