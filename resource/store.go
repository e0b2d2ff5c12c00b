package resource

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// Store keeps resources. Ids are matched without regard to case. What Commit
// has acknowledged survives a crash. storetest has the suite.
type Store interface {
	// Get returns the resource, or fault.Missing. Its texts and tags are shared
	// with other readers: they are replaced, never changed in place.
	Get(ctx context.Context, id ID) (Resource, error)

	// GetMany returns those of the resources that exist, by Key.
	GetMany(ctx context.Context, ids []ID) (map[string]Resource, error)

	// List returns one page of the resources of a type below a scope.
	List(ctx context.Context, q Query) (Page, error)

	// Commit stores the batch in one transaction, or nothing of it, and returns
	// its sequence number: what it puts has that number's Etag. Commits are numbered in the order in which readers
	// see them. If what was expected does not hold, the fault is Changed.
	Commit(ctx context.Context, b Batch) (int64, error)

	// Changes returns what commits after "after" touched, oldest first: about
	// limit of them, and never a part of a commit.
	Changes(ctx context.Context, after int64, limit int) ([]Touched, error)

	// Notify returns a channel that is closed at the next commit.
	Notify() <-chan struct{}

	// Operation returns a long-running operation, or fault.Missing.
	Operation(ctx context.Context, id string) (Operation, error)

	// OpenOperations returns the operations that have not ended, oldest first.
	OpenOperations(ctx context.Context) ([]Operation, error)

	// Activities returns the newest entries first that lie below the scope.
	Activities(ctx context.Context, scope ID, before time.Time, limit int) ([]Activity, error)
}

// All returns all that the query is for, however many pages it takes.
func All(ctx context.Context, store Store, q Query) ([]Resource, error) {
	var all []Resource
	q.Limit = 1000
	for {
		page, err := store.List(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Resources...)
		if q.After = page.Next; q.After == "" {
			return all, nil
		}
	}
}

// Etag is the etag of what the commit of that sequence number has put.
func Etag(seq int64) string { return strconv.FormatInt(seq, 36) }

// Expectations of a Write beside an etag.
const (
	Any    = "*" // whatever is stored, or nothing
	Absent = "-" // nothing is stored
)

// Write stores one resource.
type Write struct {
	Resource Resource // Etag, Born and Seq are the store's; Created is kept when it exists
	Expect   string   // an etag, Any or Absent
	Keep     bool     // the status that is stored stays; Resource's is for a new one alone
}

// StatusWrite replaces the platform's half of a resource and leaves the user's
// half and its etag alone. A resource that is gone is passed over.
type StatusWrite struct {
	ID     ID
	Status json.RawMessage

	// Change, instead of Status, makes the new status of the one that is
	// stored; nobody writes in between. It must be quick. Its error undoes the
	// batch.
	Change func(stored json.RawMessage) (json.RawMessage, error)
}

// Removal deletes one resource, with all below it if Deep.
type Removal struct {
	ID     ID
	Expect string // an etag or Any
	Deep   bool
}

// Expectation is a resource that a change relied on when it was admitted.
type Expectation struct {
	ID   ID
	Etag string // or Absent
}

// Batch is what must stand or fall together.
type Batch struct {
	Puts       []Write
	Statuses   []StatusWrite
	Removals   []Removal
	Relies     []Expectation
	Activities []Activity
	Operations []Operation

	// Rows are writes to other tables of the same database that belong to this
	// batch; the back end knows their types (tracking.Run, tracking.Edit, …).
	Rows []any
}

// Query chooses what List returns.
type Query struct {
	Type   string
	Scope  ID // below it, at any depth; the zero ID is everything
	Parent ID // directly below it; instead of Scope

	Archived *bool  // nil: both
	Lookup   string // "" : any
	Newest   bool   // newest first; otherwise by name
	After    string // Page.Next of the page before
	Limit    int    // 0: 100
}

// Page is one page of resources.
type Page struct {
	Resources []Resource
	Next      string // "" on the last page
}

// Touched says that a commit touched a resource.
type Touched struct {
	Seq     int64
	ID      ID
	Deleted bool
}

// Operation is work that outlives its request.
type Operation struct {
	ID       string // GUID
	Verb     string // "put", "delete", or the name of an action
	Resource ID
	Caller   string
	State    string // Running, Succeeded, Failed, Canceled
	Code     string // of the error, when it failed
	Message  string
	Input    json.RawMessage // an action's body
	Result   json.RawMessage // an action's answer
	Started  time.Time
	Ended    time.Time
}

// Done tells whether the operation has ended.
func (o Operation) Done() bool { return o.State != OperationRunning }

// OperationRunning is the state of an operation that has not ended; the other
// states are the terminal provisioning states.
const OperationRunning = "Running"

// Activity is one entry of the log of what was done by whom.
type Activity struct {
	At          time.Time
	Caller      string // name of the principal
	CallerID    string
	Action      string // "Microsoft.MachineLearningServices/workspaces/jobs/write"
	Resource    ID
	Result      string // Succeeded, Started, Failed
	Correlation string // x-ms-correlation-request-id
	Reason      string // of what the server did by itself: why, and on what evidence; "" if someone asked for it
}

// ErrChanged is what Commit answers when something is not as the batch expects.
var ErrChanged = errors.New("the resource has changed since it was read")

// Sealed is a secret of a resource, encrypted. In a batch's Rows it is stored
// with the resource that it belongs to; it goes when that goes.
type Sealed struct {
	Owner ID
	Name  string
	Value []byte
}
