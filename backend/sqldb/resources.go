package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"lapis/fault"
	"lapis/resource"
)

// Resources is the resource.Store of a database.
type Resources struct {
	db    *DB
	shelf *shelf

	mu     sync.Mutex
	notify chan struct{} // closed at the next commit
}

// NewResources makes the resource store of a database.
func NewResources(db *DB) *Resources {
	return &Resources{db: db, shelf: newShelf(), notify: make(chan struct{})}
}

var _ resource.Store = (*Resources)(nil)

// envelope is what a resource holds beside its properties and status.
type envelope struct {
	Location string            `json:"location,omitempty"`
	Kind     string            `json:"kind,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	SKU      json.RawMessage   `json:"sku,omitempty"`
	Identity json.RawMessage   `json:"identity,omitempty"`
	Created  resource.Stamp    `json:"created"`
	Updated  resource.Stamp    `json:"updated"`
}

const resourceColumns = "text, etag, born, seq, lookup, archived, envelope, properties, status"

func scanResource(row scanner) (resource.Resource, error) {
	var (
		r         resource.Resource
		text, env string
		props     string
		status    sql.NullString
	)
	if err := row.Scan(&text, &r.Etag, &r.Born, &r.Seq, &r.Lookup, &r.Archived, &env, &props, &status); err != nil {
		return r, err
	}
	id, err := resource.ParseID(text)
	if err != nil {
		return r, fmt.Errorf("stored id: %w", err)
	}
	var e envelope
	if err := json.Unmarshal([]byte(env), &e); err != nil {
		return r, fmt.Errorf("stored envelope of %s: %w", text, err)
	}
	r.ID = id
	r.Location, r.Kind, r.Tags, r.SKU, r.Identity = e.Location, e.Kind, e.Tags, e.SKU, e.Identity
	r.Created, r.Updated = e.Created, e.Updated
	r.Properties = json.RawMessage(props)
	if status.Valid {
		r.Status = json.RawMessage(status.String)
	}
	return r, nil
}

// Get implements resource.Store.
func (s *Resources) Get(ctx context.Context, id resource.ID) (resource.Resource, error) {
	r, turn, ok := s.shelf.get(id.Key())
	if ok {
		return r, ctx.Err()
	}
	// One row is read so fast that it need not be stopped; to watch for that
	// would cost as much again.
	ctx = context.WithoutCancel(ctx)
	stmt, err := s.db.prepared(ctx, "SELECT "+resourceColumns+" FROM resources WHERE key = ?")
	if err != nil {
		return resource.Resource{}, err
	}
	r, err = scanResource(stmt.QueryRowContext(ctx, id.Key()))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fault.NotFound("The resource '%s' could not be found.", id).At(id.String())
	}
	if err == nil {
		s.shelf.put(id.Key(), r, turn)
	}
	return r, err
}

// GetMany implements resource.Store.
func (s *Resources) GetMany(ctx context.Context, ids []resource.ID) (map[string]resource.Resource, error) {
	found := make(map[string]resource.Resource, len(ids))
	var unread []resource.ID
	for _, id := range ids {
		if r, _, ok := s.shelf.get(id.Key()); ok {
			found[id.Key()] = r
		} else {
			unread = append(unread, id)
		}
	}
	ids = unread
	const most = 500 // of placeholders in one query
	for len(ids) > 0 {
		n := min(most, len(ids))
		args := make([]any, n)
		for i, id := range ids[:n] {
			args[i] = id.Key()
		}
		rows, err := s.db.Read().QueryContext(ctx, "SELECT "+resourceColumns+" FROM resources WHERE key IN (?"+strings.Repeat(",?", n-1)+")", args...)
		if err != nil {
			return nil, err
		}
		if err := eachResource(rows, func(r resource.Resource) { found[r.ID.Key()] = r }); err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	return found, nil
}

func eachResource(rows *sql.Rows, each func(resource.Resource)) error {
	defer rows.Close()
	for rows.Next() {
		r, err := scanResource(rows)
		if err != nil {
			return err
		}
		each(r)
	}
	return rows.Err()
}

// List implements resource.Store.
func (s *Resources) List(ctx context.Context, q resource.Query) (resource.Page, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	query, args, err := listQuery(q, limit)
	if err != nil {
		return resource.Page{}, err
	}
	stmt, err := s.db.prepared(ctx, query)
	if err != nil {
		return resource.Page{}, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return resource.Page{}, err
	}
	var page resource.Page
	err = eachResource(rows, func(r resource.Resource) { page.Resources = append(page.Resources, r) })
	if len(page.Resources) > limit {
		page.Resources = page.Resources[:limit]
		last := page.Resources[limit-1]
		page.Next = last.ID.Key()
		if q.Newest {
			page.Next = strconv.FormatInt(last.Born, 10) + " " + last.ID.Key()
		}
	}
	return page, err
}

// listQuery is the statement for one page and the first resource after it. The
// texts it makes are few.
func listQuery(q resource.Query, limit int) (query string, args []any, err error) {
	where := "type = ?"
	args = []any{strings.ToLower(q.Type)}
	add := func(cond string, values ...any) {
		where += " AND " + cond
		args = append(args, values...)
	}
	// Named, so that a page costs what is on it: the index has the order too.
	index := "resources_type"
	within := func(above resource.ID) { add("key > ? AND key < ?", above.Key()+"/", above.Key()+"0") } // "0" follows "/"
	switch {
	case !q.Parent.Zero():
		add("parent = ?", q.Parent.Key())
		if q.Newest {
			index = "resources_parent"
		} else {
			within(q.Parent)
		}
	case !q.Scope.Zero():
		within(q.Scope)
	}
	if q.Archived != nil {
		add("archived = ?", *q.Archived)
	}
	if q.Lookup != "" {
		add("lookup = ? AND lookup <> ''", q.Lookup) // the second part is what the index is made with
		index = "resources_lookup"
	}
	order := "key"
	if q.Newest {
		order = "born DESC, key DESC"
		if q.After != "" {
			n, key, ok := strings.Cut(q.After, " ")
			born, err := strconv.ParseInt(n, 10, 64)
			if !ok || err != nil {
				return "", nil, badToken()
			}
			add("(born, key) < (?, ?)", born, key)
		}
	} else if q.After != "" {
		add("key > ?", q.After)
	}
	return "SELECT " + resourceColumns + " FROM resources INDEXED BY " + index + " WHERE " + where +
		" ORDER BY " + order + " LIMIT ?", append(args, limit+1), nil
}

func badToken() error {
	return fault.Invalid("the continuation token is not one of this server's; start the list again").With("InvalidContinuationToken").At("$skipToken")
}

// Commit implements resource.Store.
func (s *Resources) Commit(ctx context.Context, b resource.Batch) (int64, error) {
	var seq int64
	err := s.db.Write(ctx, func(tx *Tx) error {
		s.shelf.hold(b)
		tx.after(func(bool) { s.shelf.release(b) })
		if err := relied(tx, b.Relies); err != nil {
			return err
		}
		if err := tx.QueryRow("UPDATE sequence SET n = n + 1 RETURNING n").Scan(&seq); err != nil {
			return err
		}
		for _, w := range b.Puts {
			if err := putResource(tx, seq, w); err != nil {
				return err
			}
		}
		for _, w := range b.Statuses {
			if err := putStatus(tx, seq, w); err != nil {
				return err
			}
		}
		for _, r := range b.Removals {
			if err := removeResource(tx, seq, r); err != nil {
				return err
			}
		}
		for _, op := range b.Operations {
			if err := putOperation(tx, op); err != nil {
				return err
			}
		}
		for _, a := range b.Activities {
			if err := addActivity(tx, a); err != nil {
				return err
			}
		}
		for _, row := range b.Rows {
			if err := s.db.putRow(tx, row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	close(s.notify)
	s.notify = make(chan struct{})
	s.mu.Unlock()
	return seq, nil
}

// relied checks that what a change was admitted on still holds.
func relied(tx *Tx, relies []resource.Expectation) error {
	for _, e := range relies {
		if err := expect(tx, e.ID, e.Etag); err != nil {
			return err
		}
	}
	return nil
}

// expect compares the stored etag with an expectation.
func expect(tx *Tx, id resource.ID, want string) error {
	if want == resource.Any {
		return nil
	}
	etag := resource.Absent
	err := tx.QueryRow("SELECT etag FROM resources WHERE key = ?", id.Key()).Scan(&etag)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if etag != want {
		return fmt.Errorf("%s: %w", id, resource.ErrChanged)
	}
	return nil
}

func putStatus(tx *Tx, seq int64, w resource.StatusWrite) error {
	status := w.Status
	if w.Change != nil {
		var stored sql.NullString
		err := tx.QueryRow("SELECT status FROM resources WHERE key = ?", w.ID.Key()).Scan(&stored)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if stored.Valid {
			status = json.RawMessage(stored.String)
		}
		if status, err = w.Change(status); err != nil {
			return err
		}
	}
	_, err := tx.Exec("UPDATE resources SET status = ?, seq = ? WHERE key = ?", textOrNull(status), seq, w.ID.Key())
	return err
}

func putResource(tx *Tx, seq int64, w resource.Write) error {
	r := w.Resource
	if w.Expect != resource.Absent {
		if err := expect(tx, r.ID, w.Expect); err != nil {
			return err
		}
		var text string
		err := tx.QueryRow("SELECT envelope FROM resources WHERE key = ?", r.ID.Key()).Scan(&text)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err == nil {
			var e envelope
			if err := json.Unmarshal([]byte(text), &e); err != nil {
				return fmt.Errorf("stored envelope of %s: %w", r.ID, err)
			}
			r.Created = e.Created
		}
	}
	env, err := json.Marshal(envelope{Location: r.Location, Kind: r.Kind, Tags: r.Tags, SKU: r.SKU,
		Identity: r.Identity, Created: r.Created, Updated: r.Updated})
	if err != nil {
		return err
	}
	var status any
	if len(r.Status) > 0 {
		status = string(r.Status)
	}
	parent := ""
	if up := r.ID.Parent(); !up.Zero() {
		parent = up.Key()
	}
	const insert = `INSERT INTO resources (key, text, type, parent, etag, born, seq, lookup, archived, envelope, properties, status)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (key) DO `
	args := []any{r.ID.Key(), r.ID.String(), strings.ToLower(r.ID.Type()), parent, resource.Etag(seq),
		seq, seq, r.Lookup, r.Archived, string(env), string(r.Properties), status}
	if w.Expect == resource.Absent {
		done, err := tx.Exec(insert+"NOTHING", args...)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return cmp.Or(err, fmt.Errorf("%s: %w", r.ID, resource.ErrChanged))
		}
		return nil
	}
	_, err = tx.Exec(insert+`UPDATE SET etag = excluded.etag, seq = excluded.seq, lookup = excluded.lookup,
		archived = excluded.archived, envelope = excluded.envelope, properties = excluded.properties,
		status = CASE WHEN ? THEN status ELSE excluded.status END`, append(args, w.Keep)...)
	return err
}

func removeResource(tx *Tx, seq int64, r resource.Removal) error {
	if err := expect(tx, r.ID, r.Expect); err != nil {
		return err
	}
	key := r.ID.Key()
	cond, args := "key = ?", []any{key}
	if r.Deep {
		cond, args = "key = ? OR (key > ? AND key < ?)", []any{key, key + "/", key + "0"}
	}
	if _, err := tx.Exec("INSERT INTO removed (seq, text) SELECT ?, text FROM resources WHERE "+cond, append([]any{seq}, args...)...); err != nil {
		return err
	}
	if _, err := tx.Exec("DELETE FROM resources WHERE "+cond, args...); err != nil {
		return err
	}
	owner, args := "owner = ?", []any{key}
	if r.Deep {
		owner, args = "owner = ? OR (owner > ? AND owner < ?)", []any{key, key + "/", key + "0"}
	}
	_, err := tx.Exec("DELETE FROM secrets WHERE "+owner, args...)
	return err
}

// Changes implements resource.Store.
func (s *Resources) Changes(ctx context.Context, after int64, limit int) ([]resource.Touched, error) {
	// A reader that goes on after the last number has seen the whole commit: the
	// answer ends with the commit in which the limit is reached.
	bound, err := s.db.prepared(ctx, `SELECT coalesce(max(seq), 0) FROM (
		SELECT seq FROM (SELECT seq FROM resources WHERE seq > ?1 ORDER BY seq LIMIT ?2)
		UNION ALL SELECT seq FROM (SELECT seq FROM removed WHERE seq > ?1 ORDER BY seq LIMIT ?2)
		ORDER BY seq LIMIT ?2)`)
	if err != nil {
		return nil, err
	}
	var last int64
	if err := bound.QueryRowContext(ctx, after, max(limit, 1)).Scan(&last); err != nil {
		return nil, err
	}
	rows, err := s.db.query(ctx, `SELECT seq, text, 0 AS gone FROM resources WHERE seq > ?1 AND seq <= ?2
		UNION ALL SELECT seq, text, 1 FROM removed WHERE seq > ?1 AND seq <= ?2 ORDER BY seq, gone DESC`, after, last)
	return all(rows, err, func(row scanner) (resource.Touched, error) {
		var t resource.Touched
		var text string
		if err := row.Scan(&t.Seq, &text, &t.Deleted); err != nil {
			return t, err
		}
		var err error
		if t.ID, err = resource.ParseID(text); err != nil {
			return t, fmt.Errorf("stored id: %w", err)
		}
		return t, nil
	})
}

// Notify implements resource.Store.
func (s *Resources) Notify() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notify
}
