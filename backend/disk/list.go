package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"lapis/ml/blob"
)

const defaultLimit = 5000

// List implements blob.Store. Folders are read in the order of the keys below
// them, and those without an answer are not read.
func (s *Store) List(ctx context.Context, c blob.Container, q blob.Query) (blob.Page, error) {
	if ok, err := s.HasContainer(ctx, c); err != nil {
		return blob.Page{}, err
	} else if !ok {
		return blob.Page{}, noContainer(c)
	}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	w := walk{ctx: ctx, q: q}
	err := w.folder(s.root, treeDir(c), "")
	if err != nil && err != errDone {
		return blob.Page{}, fmt.Errorf("list blobs: %w", err)
	}
	return w.page, nil
}

// errDone ends a walk whose page is full or that is past all answers.
var errDone = errors.New("done")

type walk struct {
	ctx   context.Context
	q     blob.Query
	page  blob.Page
	count int
	last  string // of what was listed
}

// entry is a name in a folder: a blob, or a folder of keys that begin with key.
type entry struct {
	key  string // from the container on
	file string
	blob bool
}

// folder lists the keys below a folder, which begin with stem. Paths are
// relative to the folder, so that its depth costs nothing.
func (w *walk) folder(parent *os.Root, file, stem string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	dir, err := parent.OpenRoot(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed just now
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := names(dir, ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed after it was opened
	}
	if err != nil {
		return err
	}
	entries := make([]entry, 0, len(names))
	for _, n := range names {
		base, _, end := kindOf(n)
		switch end {
		case headerEnd:
			entries = append(entries, entry{key: stem + base, file: n, blob: true})
		case folderEnd:
			entries = append(entries, entry{key: stem + base + "/", file: n})
		case longEnd:
			entries = append(entries, entry{key: stem + base, file: n})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	for _, e := range entries {
		if e.key > w.q.Prefix && !strings.HasPrefix(e.key, w.q.Prefix) {
			return errDone
		}
		if err := w.entry(dir, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(dir *os.Root, e entry) error {
	if w.rolledUp(e.key) {
		return nil
	}
	if !e.blob {
		inside := strings.HasPrefix(e.key, w.q.Prefix) || strings.HasPrefix(w.q.Prefix, e.key)
		over := e.key < w.q.After && !strings.HasPrefix(w.q.After, e.key)
		if !inside || over {
			return nil
		}
		return w.folder(dir, e.file, e.key)
	}
	if !strings.HasPrefix(e.key, w.q.Prefix) || e.key <= w.q.After {
		return nil
	}
	prefix, isPrefix := w.prefixOf(e.key)
	if isPrefix && prefix <= w.q.After {
		return nil
	}
	h, err := readHeader(dir, e.file, false)
	if err != nil || h == nil {
		return err // nil, nil: deleted just now
	}
	if w.count == w.q.Limit {
		w.page.Next = w.last
		return errDone
	}
	w.count++
	if isPrefix {
		w.page.Prefixes = append(w.page.Prefixes, prefix)
		w.last = prefix
		return nil
	}
	w.page.Blobs = append(w.page.Blobs, h.info())
	w.last = e.key
	return nil
}

// prefixOf is what a key is rolled up into, if it is.
func (w *walk) prefixOf(key string) (string, bool) {
	if w.q.Delimiter == "" {
		return "", false
	}
	rest := key[len(w.q.Prefix):]
	i := strings.Index(rest, w.q.Delimiter)
	if i < 0 {
		return "", false
	}
	return key[:len(w.q.Prefix)+i+len(w.q.Delimiter)], true
}

// rolledUp tells whether a key, or all keys that begin with it, are part of the
// last prefix that was listed, on this page or as the end of the one before.
func (w *walk) rolledUp(key string) bool {
	if w.q.Delimiter == "" {
		return false
	}
	if n := len(w.page.Prefixes); n > 0 && strings.HasPrefix(key, w.page.Prefixes[n-1]) {
		return true
	}
	after := w.q.After
	if len(after) <= len(w.q.Prefix) || !strings.HasPrefix(after, w.q.Prefix) || !strings.HasPrefix(key, after) {
		return false
	}
	prefix, ok := w.prefixOf(after)
	return ok && prefix == after
}
