// Package blob keeps bytes by key. A container belongs to a storage account;
// the pair is what a datastore names. Back ends live in backend/ and pass the
// suite in blobtest.
package blob

import (
	"context"
	"io"
	"time"
)

// Container names a container of blobs. Two accounts may each have a container
// of the same name.
type Container struct {
	Account string // storage account, lower case
	Name    string // container, lower case
}

// Info is what is known of a blob without reading it.
type Info struct {
	Key      string
	Size     int64     // bytes
	ETag     string    // opaque, quoted as HTTP wants it; changes with every write
	Modified time.Time // UTC, whole seconds on the wire
	Created  time.Time // UTC, when the key was first put
	Attributes
}

// Condition restricts a write or a read to a state of the blob. The zero value
// always holds. A write that it forbids is a fault: PreconditionFailed
// (ConditionNotMet), or Conflict (BlobAlreadyExists) for IfNoneMatch "*".
type Condition struct {
	IfMatch     string // an ETag, or "*": the blob must exist
	IfNoneMatch string // an ETag, or "*": the blob must not exist
}

// Attributes are set on a blob together with its bytes, kept as they are and
// given back.
type Attributes struct {
	ContentType        string // "application/octet-stream" if none was given
	ContentMD5         []byte // of the whole blob, as the client gave it, or nil
	ContentEncoding    string
	ContentLanguage    string
	ContentDisposition string
	CacheControl       string
	Metadata           map[string]string // keys in lower case
}

// Store keeps bytes by container and key. A key is 1 to 1,024 characters of
// valid UTF-8 without NUL and without "." or ".." segments; others are a fault
// (InvalidResourceName). A missing container is fault.Missing with code
// ContainerNotFound, a missing blob with code BlobNotFound. What a writing
// method has acknowledged survives a crash (bytes and folder entries fsynced).
type Store interface {
	// HasContainer tells whether the container is there.
	HasContainer(ctx context.Context, c Container) (bool, error)

	// CreateContainer makes the container if it is not there yet.
	CreateContainer(ctx context.Context, c Container) error

	// DeleteContainer removes the container and all in it. A missing one is no error.
	DeleteContainer(ctx context.Context, c Container) error

	// DeleteAccount removes all containers of the account.
	DeleteAccount(ctx context.Context, account string) error

	// Open reads length bytes from offset; length -1 means to the end. The
	// Info is that of the very bytes that are read. An offset at or past the
	// end of a blob that is not read whole is fault.RangeUnsatisfiable.
	Open(ctx context.Context, c Container, key string, offset, length int64) (io.ReadCloser, Info, error)

	// Put replaces the blob in one step: readers see the old bytes or the new
	// ones, never a mix. If size is not -1 and r ends before it, nothing changes.
	Put(ctx context.Context, c Container, key string, r io.Reader, size int64, a Attributes, cond Condition) (Info, error)

	// Stage keeps a block for a later CommitBlocks; a second one of the same
	// name replaces the first. Blocks that are not committed are swept after
	// seven days.
	Stage(ctx context.Context, c Container, key, block string, r io.Reader, size int64) error

	// Unstage drops the staged blocks of a key whose names begin with prefix.
	// A blob or blocks that are not there are no error.
	Unstage(ctx context.Context, c Container, key, prefix string) error

	// Blocks lists the staged blocks of a key, and those of the committed blob.
	Blocks(ctx context.Context, c Container, key string) (committed, staged []Block, err error)

	// CommitBlocks makes the blob of the named blocks, in order, in one step,
	// and drops the staged blocks that are not named. A block that is not there
	// is a fault (InvalidBlockList) and changes nothing.
	CommitBlocks(ctx context.Context, c Container, key string, blocks []BlockRef, a Attributes, cond Condition) (Info, error)

	// SetMetadata replaces the blob's metadata and leaves its bytes alone.
	SetMetadata(ctx context.Context, c Container, key string, metadata map[string]string, cond Condition) (Info, error)

	// SetHeaders replaces all attributes but the metadata, and leaves the bytes alone.
	SetHeaders(ctx context.Context, c Container, key string, a Attributes, cond Condition) (Info, error)

	// Stat returns what is known of the blob.
	Stat(ctx context.Context, c Container, key string) (Info, error)

	// List returns up to limit blobs with the prefix whose keys come after
	// "after", in byte order. With a delimiter, keys that hold it past the
	// prefix are rolled up into Prefixes. Next is "" on the last page.
	List(ctx context.Context, c Container, q Query) (Page, error)

	// Delete removes the blob.
	Delete(ctx context.Context, c Container, key string, cond Condition) error
}

// Block is one staged or committed block.
type Block struct {
	ID   string
	Size int64
}

// BlockRef names a block for CommitBlocks and says where to look for it.
type BlockRef struct {
	ID   string
	From BlockSource
}

// BlockSource is where CommitBlocks looks for a block.
type BlockSource int

// The sources of blocks.
const (
	Latest    BlockSource = iota // staged, else committed
	Committed                    // of the blob as it is
	Staged                       // since the last commit
)

// Query chooses the blobs that List returns.
type Query struct {
	Prefix    string
	Delimiter string
	After     string // the Next of the page before
	Limit     int    // 0 means 5,000
}

// Page is one page of a listing, in byte order of keys.
type Page struct {
	Blobs    []Info
	Prefixes []string
	Next     string
}
