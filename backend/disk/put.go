package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
)

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, c blob.Container, key string, r io.Reader, size int64, a blob.Attributes, cond blob.Condition) (blob.Info, error) {
	if err := s.mayWrite(ctx, c, key, cond); err != nil {
		return blob.Info{}, err
	}
	h := &header{Data: token(), Set: a}
	tmp := tmpDir(c) + "/" + h.Data
	defer s.root.Remove(tmp) // if it is still there
	var err error
	if h.Size, err = s.receive(ctx, c, tmp, r, size); err != nil {
		return blob.Info{}, err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	info, err := s.commit(ctx, c, key, cond, func(*header) (*header, string, error) { return h, tmp, nil })
	if err == nil {
		s.unstage(c, key)
	}
	return info, err
}

// SetMetadata implements blob.Store.
func (s *Store) SetMetadata(ctx context.Context, c blob.Container, key string, metadata map[string]string, cond blob.Condition) (blob.Info, error) {
	return s.describe(ctx, c, key, cond, func(a *blob.Attributes) { a.Metadata = metadata })
}

// SetHeaders implements blob.Store.
func (s *Store) SetHeaders(ctx context.Context, c blob.Container, key string, a blob.Attributes, cond blob.Condition) (blob.Info, error) {
	return s.describe(ctx, c, key, cond, func(old *blob.Attributes) {
		a.Metadata = old.Metadata
		*old = a
	})
}

func (s *Store) describe(ctx context.Context, c blob.Container, key string, cond blob.Condition, change func(*blob.Attributes)) (blob.Info, error) {
	if err := check(c, key); err != nil {
		return blob.Info{}, err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	return s.commit(ctx, c, key, cond, func(old *header) (*header, string, error) {
		if old == nil {
			return nil, "", s.missing(ctx, c, key)
		}
		h := *old
		change(&h.Set)
		return &h, "", nil
	})
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, c blob.Container, key string, cond blob.Condition) error {
	if err := check(c, key); err != nil {
		return err
	}
	mu := s.key(c, key)
	mu.Lock()
	defer mu.Unlock()
	at := locate(c, key)
	old, err := s.read(at.header(), false)
	if err != nil {
		return err
	}
	if old == nil {
		return s.missing(ctx, c, key)
	}
	if err := cond.Check(key, old.ETag); err != nil {
		return err
	}
	tree := s.tree(c)
	tree.RLock()
	err = s.root.Remove(at.header())
	if err == nil {
		err = syncDir(s.root, at.dir())
	}
	tree.RUnlock()
	if err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	s.unstage(c, key)
	s.discard(c, at, old)
	return nil
}

// mayWrite refuses, before any byte is received, what commit would refuse.
func (s *Store) mayWrite(ctx context.Context, c blob.Container, key string, cond blob.Condition) error {
	if err := check(c, key); err != nil {
		return err
	}
	if ok, err := s.HasContainer(ctx, c); err != nil {
		return err
	} else if !ok {
		return noContainer(c)
	}
	if cond == (blob.Condition{}) {
		return nil
	}
	etag := ""
	old, err := s.read(locate(c, key).header(), false)
	if err != nil {
		return err
	}
	if old != nil {
		etag = old.ETag
	}
	return cond.Check(key, etag)
}

// commit makes the header that build returns the header of key. build is given
// the header as it is, nil if there is none, and returns also where new bytes
// wait, "" if the bytes stay. The caller holds the key's lock.
func (s *Store) commit(ctx context.Context, c blob.Container, key string, cond blob.Condition, build func(old *header) (*header, string, error)) (blob.Info, error) {
	at := locate(c, key)
	old, err := s.read(at.header(), true)
	if err != nil {
		return blob.Info{}, err
	}
	etag := ""
	if old != nil {
		etag = old.ETag
	}
	if err := cond.Check(key, etag); err != nil {
		return blob.Info{}, err
	}
	h, bytes, err := build(old)
	if err != nil {
		return blob.Info{}, err
	}
	h.Key, h.ETag, h.Modified = key, `"0x`+token()+`"`, s.now().UTC().Round(0)
	h.Created = h.Modified
	if old != nil {
		h.Created = old.Created
	}
	if err := s.install(c, at, h, bytes); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return blob.Info{}, s.missing(ctx, c, key)
		}
		return blob.Info{}, explain("commit blob", err)
	}
	if old != nil && old.Data != h.Data {
		s.discard(c, at, old)
	}
	return h.info(), nil
}

// install puts new bytes, if there are any, and the header in their place.
func (s *Store) install(c blob.Container, at place, h *header, bytes string) error {
	tmp := tmpDir(c) + "/" + token()
	defer s.root.Remove(tmp)
	if err := s.write(tmp, h); err != nil {
		return err
	}
	return s.inFolder(c, at, func(dir string) error {
		if bytes != "" {
			if err := s.root.Rename(bytes, at.data(h.Data, h.Parts)); err != nil {
				return err
			}
		}
		if err := s.root.Rename(tmp, at.header()); err != nil {
			if bytes != "" {
				s.root.RemoveAll(at.data(h.Data, h.Parts))
			}
			return err
		}
		return syncDir(s.root, dir)
	})
}

// inFolder calls do while the folder of a place exists and will not go away.
func (s *Store) inFolder(c blob.Container, at place, do func(dir string) error) error {
	tree, dir := s.tree(c), at.dir()
	for {
		tree.RLock()
		_, err := s.root.Lstat(dir)
		if err == nil {
			err = do(dir)
			tree.RUnlock()
			return err
		}
		tree.RUnlock()
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.makeFolders(tree, at); err != nil {
			return err
		}
	}
}

func (s *Store) makeFolders(tree *sync.RWMutex, at place) error {
	tree.Lock()
	defer tree.Unlock()
	dir, err := s.root.OpenRoot(at.tree)
	if err != nil {
		return err // the container is gone
	}
	for _, f := range at.folders {
		err := dir.Mkdir(f, 0o700)
		if err == nil {
			err = syncDir(dir, ".")
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			dir.Close()
			return err
		}
		next, err := dir.OpenRoot(f)
		dir.Close()
		if err != nil {
			return err
		}
		dir = next
	}
	return dir.Close()
}

// discard removes the bytes of a header that is no more, as soon as nobody
// reads them, and the folders that become empty.
func (s *Store) discard(c blob.Container, at place, h *header) {
	s.leases.end(h.Data, func() {
		s.root.RemoveAll(at.data(h.Data, h.Parts))
		s.prune(c, at)
	})
}

func (s *Store) prune(c blob.Container, at place) {
	if len(at.folders) == 0 {
		return
	}
	if _, err := s.root.Lstat(at.header()); err == nil {
		return
	}
	tree := s.tree(c)
	tree.Lock()
	defer tree.Unlock()
	for n := len(at.folders); n > 0; n-- {
		if s.root.Remove((place{tree: at.tree, folders: at.folders[:n]}).dir()) != nil {
			return // not empty
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// flushEvery is how many bytes are received before the disk is told to begin
// with them, so that the fsync at the end has little left to do.
const flushEvery = 8 << 20

// receive writes what r has into a new file and fsyncs it. On an error the file
// is removed.
func (s *Store) receive(ctx context.Context, c blob.Container, file string, r io.Reader, size int64) (n int64, err error) {
	f, err := s.root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, noContainer(c)
	}
	if err != nil {
		return 0, explain("receive blob", err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = explain("receive blob", e)
		}
		if err != nil {
			s.root.Remove(file)
		}
	}()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	flushed := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		got, readErr := fill(r, *buf)
		if n += int64(got); size >= 0 && n > size {
			return n, fault.Invalid("The body is longer than the %d bytes that were announced.", size).With("InvalidInput")
		}
		if _, err := f.Write((*buf)[:got]); err != nil {
			return n, explain("receive blob", err)
		}
		if readErr == io.EOF {
			break
		}
		if readErr != nil {
			return n, readErr
		}
		if n-flushed >= flushEvery {
			startFlush(f, flushed, n-flushed)
			flushed = n
		}
	}
	if size >= 0 && n < size {
		return n, fault.Invalid("The body ended after %d of %d bytes. Nothing was kept; send it again.", n, size).With("IncompleteBody")
	}
	return n, explain("receive blob", f.Sync())
}

// fill reads until b is full or r ends.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var got int
		got, err = r.Read(b[n:])
		n += got
	}
	return n, err
}

// age tells how long ago something was written.
func (s *Store) age(i fs.FileInfo) time.Duration { return s.now().Sub(i.ModTime()) }
