package pyenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockEvery is how often a lock held by another build is tried again.
const lockEvery = 100 * time.Millisecond

// tryLock takes the lock of an environment if it is free. The lock goes with
// its process, however that ends. Lock files are never removed: a lock on a
// removed file keeps nobody out.
func (b *Builder) tryLock(hash string) (unlock func(), ok bool, err error) {
	return tryLock(filepath.Join(b.cfg.Dir, ".locks", hash))
}

func tryLock(path string) (unlock func(), ok bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return func() { _ = f.Close() }, true, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("lock %s: %w", path, err)
}

// lock waits for the lock; busy is called once if it has to.
func (b *Builder) lock(ctx context.Context, hash string, busy func()) (unlock func(), err error) {
	return lock(ctx, filepath.Join(b.cfg.Dir, ".locks", hash), busy)
}

func lock(ctx context.Context, path string, busy func()) (unlock func(), err error) {
	for first := true; ; first = false {
		unlock, ok, err := tryLock(path)
		if err != nil || ok {
			return unlock, err
		}
		if first {
			busy()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockEvery):
		}
	}
}
