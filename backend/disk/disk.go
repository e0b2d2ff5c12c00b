// Package disk keeps blobs in a folder of the local file system.
//
// A container is a folder of three:
//
//	ACCOUNT/CONTAINER/tree/    headers and bytes, in folders that follow the keys
//	ACCOUNT/CONTAINER/staged/  blocks that wait for a commit, one folder per key
//	ACCOUNT/CONTAINER/tmp/     what is being written
//
// A blob is a header, a small file that says which bytes are the blob's, and
// the bytes: one file, or one folder of numbered parts when the blob was made
// of blocks. Every write makes bytes under a new random name, fsyncs them, and
// then renames a new header over the old one. That rename is the commit: before
// it readers find the old header with the old bytes, after it the new one with
// the new bytes, and so does a server that starts after a crash at any moment.
// Bytes that no header names are what a crash has left; Sweep removes them.
//
// Blocks become parts by hard links, so no byte is copied by a commit.
package disk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
)

// Store is a blob.Store in a folder. It is safe for concurrent use. One process
// at a time may use a folder.
type Store struct {
	root   *os.Root // no path given to it leads out of the folder
	seed   maphash.Seed
	keys   [256]sync.Mutex  // by key: one writer at a time decides and commits
	trees  [64]sync.RWMutex // by container: held shared to put files in folders, alone to make and remove folders
	leases leases
	now    func() time.Time
}

var _ blob.Store = (*Store)(nil)

const trash = ".trash" // no account has a dot in its name

// New opens the folder and makes it if need be. What an interrupted server left
// half-written is removed.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("blob folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("blob folder: %w", err)
	}
	s := &Store{root: root, seed: maphash.MakeSeed(), now: time.Now}
	if err := s.tidy(); err != nil {
		root.Close()
		return nil, fmt.Errorf("blob folder: %w", err)
	}
	return s, nil
}

// Close lets go of the folder.
func (s *Store) Close() error { return s.root.Close() }

func (s *Store) tidy() error {
	if err := s.root.RemoveAll(trash); err != nil {
		return err
	}
	if err := s.root.Mkdir(trash, 0o700); err != nil {
		return err
	}
	containers, err := s.containers()
	if err != nil {
		return err
	}
	for _, c := range containers {
		names, err := s.names(tmpDir(c))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a crash cut its making short; the next CreateContainer goes on
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := s.root.RemoveAll(path.Join(tmpDir(c), n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) containers() ([]blob.Container, error) {
	accounts, err := s.names(".")
	if err != nil {
		return nil, err
	}
	var found []blob.Container
	for _, a := range accounts {
		if a == trash {
			continue
		}
		names, err := s.names(a)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if c := (blob.Container{Account: a, Name: n}); c.Check() == nil {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

func containerDir(c blob.Container) string { return path.Join(c.Account, c.Name) }
func treeDir(c blob.Container) string      { return containerDir(c) + "/tree" }
func tmpDir(c blob.Container) string       { return containerDir(c) + "/tmp" }
func stagedDir(c blob.Container) string    { return containerDir(c) + "/staged" }

// HasContainer implements blob.Store.
func (s *Store) HasContainer(ctx context.Context, c blob.Container) (bool, error) {
	if err := c.Check(); err != nil {
		return false, err
	}
	_, err := s.root.Lstat(treeDir(c))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// CreateContainer implements blob.Store.
func (s *Store) CreateContainer(ctx context.Context, c blob.Container) error {
	if ok, err := s.HasContainer(ctx, c); ok || err != nil {
		return err
	}
	tree := s.tree(c)
	tree.Lock()
	defer tree.Unlock()
	for _, dir := range []string{c.Account, containerDir(c), tmpDir(c), stagedDir(c), treeDir(c)} { // the tree last: it is what makes the container
		if err := s.makeDir(dir); err != nil {
			return explain("create container", err)
		}
	}
	return nil
}

// DeleteContainer implements blob.Store.
func (s *Store) DeleteContainer(ctx context.Context, c blob.Container) error {
	if err := c.Check(); err != nil {
		return err
	}
	away := trash + "/" + token()
	tree := s.tree(c)
	tree.Lock()
	err := s.root.Rename(containerDir(c), away)
	if err == nil {
		err = syncDir(s.root, c.Account)
	}
	tree.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete container: %w", err)
	}
	return s.root.RemoveAll(away)
}

// DeleteAccount implements blob.Store.
func (s *Store) DeleteAccount(ctx context.Context, account string) error {
	if err := (blob.Container{Account: account, Name: "any"}).Check(); err != nil {
		return err
	}
	names, err := s.names(account)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	for _, name := range names {
		c := blob.Container{Account: account, Name: name}
		if c.Check() != nil {
			continue
		}
		if err := s.DeleteContainer(ctx, c); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) tree(c blob.Container) *sync.RWMutex {
	return &s.trees[s.hash(c, "")%uint64(len(s.trees))]
}

func (s *Store) key(c blob.Container, key string) *sync.Mutex {
	return &s.keys[s.hash(c, key)%uint64(len(s.keys))]
}

func (s *Store) hash(c blob.Container, key string) uint64 {
	return maphash.Comparable(s.seed, [3]string{c.Account, c.Name, key})
}

// check is what every call with a key begins with.
func check(c blob.Container, key string) error {
	if err := c.Check(); err != nil {
		return err
	}
	return blob.CheckKey(key)
}

func noContainer(c blob.Container) error {
	return fault.NotFound("The container %q does not exist.", c.Name).With("ContainerNotFound").At("container")
}

// missing is the fault for a blob that was not found.
func (s *Store) missing(ctx context.Context, c blob.Container, key string) error {
	switch ok, err := s.HasContainer(ctx, c); {
	case err != nil:
		return err
	case !ok:
		return noContainer(c)
	}
	return fault.NotFound("The blob %q does not exist in container %q.", fault.Clip(key), c.Name).With("BlobNotFound").At("blob")
}

// makeDir makes a folder whose parent exists, for good. The caller keeps others
// from using it until this returns.
func (s *Store) makeDir(dir string) error {
	if err := s.root.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return syncDir(s.root, path.Dir(dir))
}

// syncDir makes the entries of a folder survive a crash.
func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// names lists a folder, in no order.
func (s *Store) names(dir string) ([]string, error) { return names(s.root, dir) }

func names(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// explain turns "no space left" into a fault and names the step of other errors.
func explain(step string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.New(fault.StorageFull, "InsufficientStorage",
			"No room is left on the device that holds the server's data folder. Nothing was changed. Free some space and try again.").From(err)
	case fault.Find(err) != nil:
		return err
	}
	return fmt.Errorf("%s: %w", step, err)
}

// token is a name that was never used before.
func token() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
