package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"lapis/fault"
	"lapis/ml/blob"
)

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, c blob.Container, key string) (blob.Info, error) {
	if err := check(c, key); err != nil {
		return blob.Info{}, err
	}
	h, err := s.read(locate(c, key).header(), false)
	if err != nil {
		return blob.Info{}, err
	}
	if h == nil {
		return blob.Info{}, s.missing(ctx, c, key)
	}
	return h.info(), nil
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, c blob.Container, key string, offset, length int64) (io.ReadCloser, blob.Info, error) {
	var (
		r    io.ReadCloser
		info blob.Info
	)
	err := s.hold(ctx, c, key, func(at place, h *header, release func()) error {
		info = h.info()
		whole := offset == 0 && length < 0
		if offset < 0 || (offset >= h.Size && !whole) {
			release()
			return fault.New(fault.RangeUnsatisfiable, "InvalidRange", "The blob %q has %d bytes; byte %d is not among them.", fault.Clip(key), h.Size, offset)
		}
		n := length
		if rest := h.Size - offset; n < 0 || n > rest {
			n = rest
		}
		if h.Parts {
			r = s.openParts(at, h, offset, n, release)
			return nil
		}
		f, err := s.root.Open(at.data(h.Data, false))
		if err != nil {
			release()
			return err
		}
		r = &fileReader{SectionReader: io.NewSectionReader(f, offset, n), file: f, release: release}
		return nil
	})
	return r, info, err
}

// OpenFile opens the blob as one file, for readers on this machine that want to
// seek in it or have the kernel copy it. They must not write to it. The file
// stays what it is when the blob is replaced or deleted. A blob in parts is made
// one file the first time.
func (s *Store) OpenFile(ctx context.Context, c blob.Container, key string) (*os.File, blob.Info, error) {
	var (
		f    *os.File
		info blob.Info
	)
	err := s.hold(ctx, c, key, func(at place, h *header, release func()) (err error) {
		defer release()
		info = h.info()
		if h.Parts {
			f, err = s.join(ctx, c, at, h)
		} else {
			f, err = s.root.Open(at.data(h.Data, false))
		}
		return explain("open blob", err)
	})
	return f, info, err
}

// hold calls do with the blob's header and a lease on its bytes. If the blob is
// replaced before the lease is taken, so that do finds no bytes, do is called
// again with what has replaced it.
func (s *Store) hold(ctx context.Context, c blob.Container, key string, do func(at place, h *header, release func()) error) error {
	if err := check(c, key); err != nil {
		return err
	}
	at := locate(c, key)
	var last *header
	for {
		h, err := s.read(at.header(), true)
		if err != nil {
			return err
		}
		if h == nil {
			return s.missing(ctx, c, key)
		}
		release := s.leases.take(h.Data)
		if h.Parts {
			// Bytes are discarded after their header is gone. If it is still there
			// now, the discarding will see the lease.
			now, err := s.read(at.header(), false)
			if err != nil || now == nil || now.Data != h.Data {
				release()
				if err != nil {
					return err
				}
				continue
			}
		}
		err = do(at, h, release)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if last != nil && last.Data == h.Data {
			return fmt.Errorf("open blob: its bytes are gone from the data folder: %w", err)
		}
		last = h
	}
}

// join copies the parts of a blob into one file and makes that the blob's
// bytes, unless the blob has changed meanwhile. The caller holds a lease.
func (s *Store) join(ctx context.Context, c blob.Container, at place, h *header) (*os.File, error) {
	joined := *h
	joined.Data, joined.Parts = token(), false
	tmp := tmpDir(c) + "/" + joined.Data
	f, err := s.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer s.root.Remove(tmp)
	dir := at.data(h.Data, true)
	for _, b := range h.blocks {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = s.append(f, partFile(dir, b.Part))
		}
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.swap(c, at, h, &joined, tmp)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// append copies a file to the end of f; on Linux the kernel does it.
func (s *Store) append(f *os.File, file string) error {
	from, err := s.root.Open(file)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(f, from)
	return err
}

// swap gives a blob other files with the same bytes, if it is still as old says.
func (s *Store) swap(c blob.Container, at place, old, joined *header, tmp string) error {
	mu := s.key(c, old.Key)
	mu.Lock()
	defer mu.Unlock()
	now, err := s.read(at.header(), false)
	if err != nil || now == nil || now.ETag != old.ETag || now.Data != old.Data {
		return err
	}
	if err := s.install(c, at, joined, tmp); err != nil {
		return err
	}
	s.discard(c, at, old)
	return nil
}

type fileReader struct {
	*io.SectionReader
	file    *os.File
	release func()
}

func (r *fileReader) Close() error {
	defer r.release()
	return r.file.Close()
}

func (s *Store) openParts(at place, h *header, offset, length int64, release func()) io.ReadCloser {
	r := &partReader{store: s, dir: at.data(h.Data, true), rest: h.blocks, left: length, release: release}
	for len(r.rest) > 0 && offset >= r.rest[0].Size {
		offset -= r.rest[0].Size
		r.rest = r.rest[1:]
	}
	r.skip = offset
	return r
}

// partReader reads parts one after the other. Its lease keeps them in place.
type partReader struct {
	store   *Store
	dir     string
	rest    []block // the open part is rest[0]
	file    *os.File
	skip    int64 // bytes to leave out of the next part
	left    int64
	release func()
}

func (r *partReader) Read(p []byte) (int, error) {
	for {
		if r.left == 0 {
			return 0, io.EOF
		}
		if len(r.rest) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		if r.file == nil {
			f, err := r.store.root.Open(partFile(r.dir, r.rest[0].Part))
			if err != nil {
				return 0, err
			}
			if _, err := f.Seek(r.skip, io.SeekStart); err != nil {
				f.Close()
				return 0, err
			}
			r.file, r.skip = f, 0
		}
		n, err := r.file.Read(p[:min(int64(len(p)), r.left)])
		r.left -= int64(n)
		if err == io.EOF {
			r.file.Close()
			r.file, r.rest, err = nil, r.rest[1:], nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

func (r *partReader) Close() error {
	defer r.release()
	if r.file != nil {
		return r.file.Close()
	}
	return nil
}

// leases keep bytes on disk while somebody reads them, by token.
type leases struct {
	mu   sync.Mutex
	held map[string]*lease
}

type lease struct {
	readers int
	atEnd   func() // nil: the bytes stay
}

// take holds the bytes until the function that it returns is called; further
// calls of that do nothing.
func (l *leases) take(token string) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*lease{}
	}
	it := l.held[token]
	if it == nil {
		it = new(lease)
		l.held[token] = it
	}
	it.readers++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		it.readers--
		last := it.readers == 0
		if last {
			delete(l.held, token)
		}
		l.mu.Unlock()
		if last && it.atEnd != nil {
			it.atEnd()
		}
	})
}

// end calls f once nobody holds the token.
func (l *leases) end(token string, f func()) {
	l.mu.Lock()
	it := l.held[token]
	if it != nil {
		it.atEnd = f
	}
	l.mu.Unlock()
	if it == nil {
		f()
	}
}

// isHeld tells whether somebody reads the bytes.
func (l *leases) isHeld(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[token] != nil
}
