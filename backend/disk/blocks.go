package disk

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
)

// stage is the folder of a key's staged blocks: one file each, named after the
// block.
func stage(c blob.Container, key string) string {
	sum := sha256.Sum256([]byte(key))
	return stagedDir(c) + "/" + hex.EncodeToString(sum[:])
}

func blockFile(dir, id string) string {
	return dir + "/" + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// Stage implements blob.Store.
func (s *Store) Stage(ctx context.Context, c blob.Container, key, id string, r io.Reader, size int64) error {
	if err := blob.CheckBlock(id); err != nil {
		return err
	}
	if err := s.mayWrite(ctx, c, key, blob.Condition{}); err != nil {
		return err
	}
	tmp := tmpDir(c) + "/" + token()
	if _, err := s.receive(ctx, c, tmp, r, size); err != nil {
		return err
	}
	folder, err := s.keep(c, key, id, tmp)
	if err != nil {
		s.root.Remove(tmp)
		if errors.Is(err, fs.ErrNotExist) {
			return noContainer(c)
		}
		return explain("stage block", err)
	}
	defer folder.Close()
	return explain("stage block", folder.Sync())
}

// keep makes a received file the staged block and returns its folder, which the
// caller fsyncs: outside of the lock, so that parallel uploads of one blob do
// not wait for each other.
func (s *Store) keep(c blob.Container, key, id, tmp string) (*os.File, error) {
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	dir := stage(c, key)
	for try := 0; ; try++ {
		if err := s.makeDir(dir); err != nil {
			return nil, err
		}
		err := s.root.Rename(tmp, blockFile(dir, id))
		if err == nil {
			return s.root.Open(dir)
		}
		// Sweep may have removed the folder, empty as it was.
		if try == 3 || !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// Unstage implements blob.Store.
func (s *Store) Unstage(ctx context.Context, c blob.Container, key, prefix string) error {
	if err := s.mayWrite(ctx, c, key, blob.Condition{}); err != nil {
		return err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	dir := stage(c, key)
	names, err := s.names(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unstage blocks: %w", err)
	}
	for _, n := range names {
		id, err := base64.RawURLEncoding.DecodeString(n)
		if err != nil || !strings.HasPrefix(string(id), prefix) {
			continue
		}
		if err := s.root.Remove(dir + "/" + n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unstage blocks: %w", err)
		}
	}
	return nil
}

// unstage drops the staged blocks of a key. What cannot be removed is swept
// later. The caller holds the key's lock.
func (s *Store) unstage(c blob.Container, key string) { s.root.RemoveAll(stage(c, key)) }

// Blocks implements blob.Store.
func (s *Store) Blocks(ctx context.Context, c blob.Container, key string) (committed, staged []blob.Block, err error) {
	if err := check(c, key); err != nil {
		return nil, nil, err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	h, err := s.read(locate(c, key).header(), true)
	if err != nil {
		return nil, nil, err
	}
	dir := stage(c, key)
	names, err := s.names(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("staged blocks: %w", err)
	}
	if h == nil && len(names) == 0 {
		return nil, nil, s.missing(ctx, c, key)
	}
	if h != nil {
		for _, b := range h.blocks {
			committed = append(committed, blob.Block{ID: b.ID, Size: b.Size})
		}
	}
	for _, n := range names {
		id, err := base64.RawURLEncoding.DecodeString(n)
		if err != nil {
			continue
		}
		st, err := s.root.Lstat(dir + "/" + n)
		if err != nil {
			return nil, nil, fmt.Errorf("staged blocks: %w", err)
		}
		staged = append(staged, blob.Block{ID: string(id), Size: st.Size()})
	}
	slices.SortFunc(staged, func(a, b blob.Block) int { return strings.Compare(a.ID, b.ID) })
	return committed, staged, nil
}

// source is where the bytes of a block are before a commit.
type source struct {
	file   string
	offset int64
	size   int64
	whole  bool // the file is the block, so it can be linked
}

// CommitBlocks implements blob.Store.
func (s *Store) CommitBlocks(ctx context.Context, c blob.Container, key string, refs []blob.BlockRef, a blob.Attributes, cond blob.Condition) (blob.Info, error) {
	if len(refs) > blob.MaxBlocks {
		return blob.Info{}, fault.Invalid("A blob has at most %d blocks, the list names %d.", blob.MaxBlocks, len(refs)).With("BlockCountExceedsLimit")
	}
	if err := s.mayWrite(ctx, c, key, cond); err != nil {
		return blob.Info{}, err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	var tmp string
	info, err := s.commit(ctx, c, key, cond, func(old *header) (*header, string, error) {
		h, sources, err := s.assemble(c, key, refs, old)
		if err != nil {
			return nil, "", err
		}
		h.Set = a
		tmp = tmpDir(c) + "/" + h.Data
		return h, tmp, s.gather(ctx, tmp, h.Parts, sources)
	})
	if tmp != "" && err != nil {
		s.root.RemoveAll(tmp)
	}
	if err == nil {
		s.unstage(c, key)
	}
	return info, err
}

// assemble finds the blocks that are named and makes the header of the blob
// that they form. sources[i] is part i.
func (s *Store) assemble(c blob.Container, key string, refs []blob.BlockRef, old *header) (h *header, sources []source, err error) {
	committed := map[string]source{}
	if old != nil {
		at, offset := locate(c, key).data(old.Data, old.Parts), int64(0)
		for _, b := range old.blocks {
			src := source{file: at, offset: offset, size: b.Size, whole: len(old.blocks) == 1}
			if old.Parts {
				src = source{file: partFile(at, b.Part), size: b.Size, whole: true}
			}
			committed[b.ID] = src
			offset += b.Size
		}
	}
	h = &header{Data: token(), Parts: len(refs) > 1, blocks: make([]block, 0, len(refs))}
	dir, parts := stage(c, key), map[source]int{}
	for _, ref := range refs {
		src, ok := source{}, false
		if ref.From != blob.Committed && blob.CheckBlock(ref.ID) == nil {
			file := blockFile(dir, ref.ID)
			st, err := s.root.Lstat(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, nil, fmt.Errorf("commit blocks: %w", err)
			}
			if ok = err == nil; ok {
				src = source{file: file, size: st.Size(), whole: true}
			}
		}
		if !ok && ref.From != blob.Staged {
			src, ok = committed[ref.ID]
		}
		if !ok {
			return nil, nil, fault.Invalid("The block list names the block %q, which was not uploaded. Upload it and send the list again.", ref.ID).With("InvalidBlockList")
		}
		part, known := parts[src]
		if !known {
			part = len(sources)
			parts[src] = part
			sources = append(sources, src)
		}
		h.blocks = append(h.blocks, block{ID: ref.ID, Size: src.size, Part: part})
		h.Size += src.size
	}
	return h, sources, nil
}

func partFile(dir string, n int) string { return dir + "/" + fmt.Sprintf(partNameForm, n) }

// gather makes the bytes of a blob from its sources: a folder of parts, or one
// file of one source or none.
func (s *Store) gather(ctx context.Context, to string, parts bool, sources []source) error {
	if !parts {
		if len(sources) == 1 {
			return explain("commit blocks", s.take(sources[0], to))
		}
		f, err := s.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return explain("commit blocks", err)
		}
		return explain("commit blocks", errors.Join(f.Sync(), f.Close()))
	}
	if err := s.root.Mkdir(to, 0o700); err != nil {
		return explain("commit blocks", err)
	}
	for i, src := range sources {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.take(src, partFile(to, i)); err != nil {
			return explain("commit blocks", err)
		}
	}
	return explain("commit blocks", syncDir(s.root, to))
}

// take makes a file of a source's bytes, which are on disk already: a link if
// possible.
func (s *Store) take(src source, to string) error {
	if src.whole && s.root.Link(src.file, to) == nil {
		return nil
	}
	from, err := s.root.Open(src.file)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := from.Seek(src.offset, io.SeekStart); err != nil {
		return err
	}
	f, err := s.root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, from, src.size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
