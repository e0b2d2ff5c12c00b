// Package sqldb keeps resources, runs, metrics and all other rows in one
// SQLite database. Writes go through one writer that commits them in groups;
// reads use a few connections of their own and never wait for a write.
package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"lapis/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

const (
	// groupWrites and groupTime bound one group commit, so that the first
	// writer of a group does not wait for a stream of later ones.
	groupWrites = 512
	groupTime   = 25 * time.Millisecond

	// queueWrites is how many writes may wait; further callers wait to queue.
	queueWrites = 1024

	// statementsKept bounds the writer's cache of prepared statements.
	statementsKept = 512
)

// DB is one open database. It is safe for use by many goroutines.
type DB struct {
	path   string
	pool   *sql.DB // holds the writer's one connection
	conn   *sql.Conn
	read   *sql.DB
	queue  chan *write
	closed chan struct{} // closed when Close begins
	done   chan struct{} // closed when the writer has ended
	once   sync.Once

	statements map[string]*sql.Stmt // of the writer's connection; the writer's own

	readStatements sync.Map // query → *sql.Stmt on the read pool

	tracking *Tracking // told of runs that other writes store; nil before NewTracking
}

// Open opens the database at path, which it makes if it is not there, and
// brings its tables up to date. A database written by a newer version is
// refused and left as it is.
func Open(path string) (*DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := &DB{
		path:       abs,
		queue:      make(chan *write, queueWrites),
		closed:     make(chan struct{}),
		done:       make(chan struct{}),
		statements: map[string]*sql.Stmt{},
	}
	// FULL: what is committed has reached the disk. A checkpoint every 4,000
	// pages (16 MB) keeps it rare without letting the log grow long.
	db.pool, err = sql.Open("sqlite", source(abs, "journal_mode(WAL)", "synchronous(FULL)",
		"busy_timeout(10000)", "foreign_keys(OFF)", "cache_size(-32768)", "temp_store(MEMORY)",
		"wal_autocheckpoint(4000)", "journal_size_limit(67108864)"))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.pool.SetMaxOpenConns(1)
	if err := migrate(db.pool, abs); err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.conn, err = db.pool.Conn(context.Background())
	if err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	// query_only comes last: the pragmas before it may write.
	db.read, err = sql.Open("sqlite", source(abs, "busy_timeout(10000)", "cache_size(-8192)",
		"temp_store(MEMORY)", "query_only(ON)"))
	if err != nil {
		db.pool.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	// Readers that outnumber the cores starve the writer.
	readers := max(2, min(8, runtime.NumCPU()))
	db.read.SetMaxOpenConns(readers)
	db.read.SetMaxIdleConns(readers)
	go db.writer()
	return db, nil
}

// source is the data source name of a file with pragmas. The path is escaped:
// it may hold any character that a file name may.
func source(path string, pragmas ...string) string {
	u := url.URL{Scheme: "file", Path: path}
	q := url.Values{}
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// migrate brings the tables up to date.
func migrate(pool *sql.DB, path string) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, pool, files, goose.WithAllowOutofOrder(true))
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	ctx := context.Background()
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the database's version: %w", err)
	}
	if have > want {
		return fault.Conflicts("the database is of version %d and this program knows versions up to %d: start a newer lapis, or restore a backup made with this one", have, want)
	}
	if 0 < have && have < want {
		if err := copyAside(ctx, pool, fmt.Sprintf("%s.version-%d", path, have)); err != nil {
			return err
		}
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate tables: %w", err)
	}
	return nil
}

// copyAside keeps the database as it is in a file beside it, before its tables
// change. One that is there already is of an attempt that did not end well: it
// is the older truth and stays.
func copyAside(ctx context.Context, pool *sql.DB, file string) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	half := file + ".tmp"
	if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy the database aside: %w", err)
	}
	if _, err := pool.ExecContext(ctx, "VACUUM INTO ?", half); err != nil {
		return Fault(fmt.Errorf("copy the database aside before its tables change: %w", err))
	}
	return os.Rename(half, file)
}

// Close waits for the writes under way, refuses later ones and closes the
// database.
func (db *DB) Close() error {
	db.once.Do(func() { close(db.closed) })
	<-db.done
	for _, s := range db.statements {
		s.Close()
	}
	return errors.Join(db.read.Close(), db.conn.Close(), db.pool.Close())
}

// Read is a bounded pool of connections that cannot write. Each query sees the
// last commit before it began.
func (db *DB) Read() *sql.DB { return db.read }

// prepared returns a statement on the read pool, compiled once per connection.
// It is for queries whose text is fixed: they are kept for the database's life.
func (db *DB) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := db.readStatements.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := db.read.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if old, loaded := db.readStatements.LoadOrStore(query, s); loaded {
		s.Close()
		return old.(*sql.Stmt), nil
	}
	return s, nil
}

// query asks a prepared statement.
func (db *DB) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := db.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args...)
}

// write is one call of Write on its way through the writer.
type write struct {
	fn    func(*Tx) error
	bare  bool        // without a savepoint
	took  atomic.Bool // by the writer, or by a caller who gave up
	err   error
	done  chan struct{}
	after []func(committed bool)
}

// Write runs fn in the writer's current group commit, in a savepoint of its
// own, and returns when the group is durable. An error of fn (or a panic) rolls
// back only its own savepoint and is returned. Once fn has begun, an end of ctx
// does not stop it. A full disk is fault.StorageFull. fn runs on the writer's
// goroutine: it must be short and must not call Write.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	return db.write(ctx, &write{fn: fn, done: make(chan struct{})})
}

// writeOne is Write for functions that run no more than one statement that
// writes, as their last: a statement that fails undoes itself, so they need no
// savepoint. They must not panic after it.
func (db *DB) writeOne(ctx context.Context, fn func(tx *Tx) error) error {
	return db.write(ctx, &write{fn: fn, bare: true, done: make(chan struct{})})
}

func (db *DB) write(ctx context.Context, w *write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-db.closed:
		return errClosed()
	default:
	}
	select {
	case db.queue <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closed:
		return errClosed()
	}
	select {
	case <-w.done:
		return w.err
	case <-db.done:
		// The writer ended. It may have done this one before.
		if w.took.CompareAndSwap(false, true) {
			return errClosed()
		}
		<-w.done
		return w.err
	case <-ctx.Done():
		if w.took.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-w.done
		return w.err
	}
}

func errClosed() error {
	return fault.New(fault.Unavailable, "ServerStopping", "the server is stopping: try again when it is back")
}

// writer takes what is queued, commits it as one group, and so on until the
// database closes.
func (db *DB) writer() {
	defer close(db.done)
	for {
		select {
		case w := <-db.queue:
			db.group(w)
		case <-db.closed:
			for {
				select {
				case w := <-db.queue:
					db.group(w)
				default:
					return
				}
			}
		}
	}
}

// group commits first and whatever else is queued.
func (db *DB) group(first *write) {
	var ran []*write
	began := false
	start := time.Now()
	lost := error(nil) // set when the transaction as a whole is gone
	for w := first; w != nil; w = db.next(len(ran), start) {
		if !w.took.CompareAndSwap(false, true) {
			continue // its caller has left
		}
		ran = append(ran, w)
		if !began {
			if err := db.exec("BEGIN IMMEDIATE"); err != nil {
				lost = err
				break
			}
			began = true
		}
		if w.err, lost = db.savepoint(w); lost != nil {
			break
		}
	}
	if began && lost == nil {
		lost = db.exec("COMMIT")
	}
	if began && lost != nil {
		// SQLite may have rolled back already; then this is refused, which is fine.
		_ = db.exec("ROLLBACK")
	}
	for _, w := range ran {
		if lost != nil && w.err == nil {
			w.err = Fault(fmt.Errorf("commit: %w", lost))
		}
		for _, f := range w.after {
			f(lost == nil)
		}
		close(w.done)
	}
}

// next returns another queued write for the group, or nil.
func (db *DB) next(ran int, start time.Time) *write {
	if ran >= groupWrites || time.Since(start) > groupTime {
		return nil
	}
	select {
	case w := <-db.queue:
		return w
	default:
		return nil
	}
}

// savepoint runs one write. lost is set when the whole transaction is gone, as
// SQLite does on a full disk.
func (db *DB) savepoint(w *write) (err, lost error) {
	if w.bare {
		if err := db.run(w); err != nil {
			for _, f := range w.after {
				f(false)
			}
			w.after = nil
			if full := Fault(err); fault.Is(full, fault.StorageFull) {
				return full, err // SQLite may have rolled all back
			}
			return err, nil
		}
		return nil, nil
	}
	if err := db.exec("SAVEPOINT w"); err != nil {
		return nil, err
	}
	if err := db.run(w); err != nil {
		for _, f := range w.after {
			f(false)
		}
		w.after = nil
		// With no rows changed this costs next to nothing.
		if lost := db.exec("ROLLBACK TO w"); lost != nil {
			return Fault(err), errors.Join(err, lost)
		}
		return Fault(err), db.exec("RELEASE w")
	}
	return nil, db.exec("RELEASE w")
}

// run calls fn and turns a panic into an error.
func (db *DB) run(w *write) (err error) {
	tx := &Tx{db: db, write: w}
	defer func() {
		tx.db = nil
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a write: %v\n%s", p, debug.Stack())
		}
	}()
	return w.fn(tx)
}

func (db *DB) exec(query string) error {
	s, err := db.statement(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background())
	return err
}

// statement returns query compiled on the writer's connection.
func (db *DB) statement(query string) (*sql.Stmt, error) {
	if s, ok := db.statements[query]; ok {
		return s, nil
	}
	s, err := db.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	if len(db.statements) >= statementsKept {
		for q, old := range db.statements {
			old.Close()
			delete(db.statements, q)
			break
		}
	}
	db.statements[query] = s
	return s, nil
}

// Tx is the transaction that a Write's function works in. It may be used only
// until that function returns, and by its goroutine alone.
type Tx struct {
	db    *DB
	write *write
}

// after has f called on the writer's goroutine once it is known whether this
// write was committed, and before Write returns. When the function fails, f
// is called before the next write of the group begins.
func (tx *Tx) after(f func(committed bool)) { tx.write.after = append(tx.write.after, f) }

var errTxOver = errors.New("transaction used after its function returned")

// Exec runs a statement that returns no rows.
func (tx *Tx) Exec(query string, args ...any) (sql.Result, error) {
	if tx.db == nil {
		return nil, errTxOver
	}
	s, err := tx.db.statement(query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(context.Background(), args...)
}

// Query runs a statement that returns rows. They must be closed before the
// function returns.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	if tx.db == nil {
		return nil, errTxOver
	}
	s, err := tx.db.statement(query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(context.Background(), args...)
}

// Row is the result of QueryRow.
type Row struct {
	row *sql.Row
	err error
}

// Scan copies the row's columns. Without a row it is sql.ErrNoRows.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	return r.row.Scan(dest...)
}

// QueryRow runs a statement that returns at most one row.
func (tx *Tx) QueryRow(query string, args ...any) *Row {
	if tx.db == nil {
		return &Row{err: errTxOver}
	}
	s, err := tx.db.statement(query)
	if err != nil {
		return &Row{err: err}
	}
	return &Row{row: s.QueryRowContext(context.Background(), args...)}
}

// Fault gives SQLite's full disk the fault that it is; other errors come back
// as they are.
func Fault(err error) error {
	var e *sqlite.Error
	if fault.Find(err) == nil && errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL {
		return fault.New(fault.StorageFull, "StorageFull", "no room is left on the disk that holds the database: free some space and try again").From(err)
	}
	return err
}

type scanner interface{ Scan(...any) error }

// all reads what a query has found; each is called for one row after the other.
func all[T any](rows *sql.Rows, err error, each func(scanner) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		v, err := each(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
