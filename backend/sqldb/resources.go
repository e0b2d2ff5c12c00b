package sqldb

import (
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
	db *DB

	mu     sync.Mutex
	notify chan struct{} // closed at the next commit
}

// NewResources makes the resource store of a database.
func NewResources(db *DB) *Resources {
	return &Resources{db: db, notify: make(chan struct{})}
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

type scanner interface{ Scan(...any) error }

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
	stmt, err := s.db.prepared(ctx, "SELECT "+resourceColumns+" FROM resources WHERE key = ?")
	if err != nil {
		return resource.Resource{}, err
	}
	r, err := scanResource(stmt.QueryRowContext(ctx, id.Key()))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fault.NotFound("The resource '%s' could not be found.", id).At(id.String())
	}
	return r, err
}

// GetMany implements resource.Store.
func (s *Resources) GetMany(ctx context.Context, ids []resource.ID) (map[string]resource.Resource, error) {
	found := make(map[string]resource.Resource, len(ids))
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
	where := []string{"type = ?"}
	args := []any{strings.ToLower(q.Type)}
	add := func(cond string, values ...any) {
		where = append(where, cond)
		args = append(args, values...)
	}
	if !q.Parent.Zero() {
		add("parent = ?", q.Parent.Key())
	} else if !q.Scope.Zero() {
		add("key > ? AND key < ?", q.Scope.Key()+"/", q.Scope.Key()+"0") // "0" follows "/"
	}
	if q.Archived != nil {
		add("archived = ?", *q.Archived)
	}
	if q.Lookup != "" {
		add("lookup = ?", q.Lookup)
	}
	order := "key"
	if q.Newest {
		order = "born DESC, key DESC"
		if q.After != "" {
			n, key, ok := strings.Cut(q.After, " ")
			born, err := strconv.ParseInt(n, 10, 64)
			if !ok || err != nil {
				return resource.Page{}, badToken()
			}
			add("(born < ? OR (born = ? AND key < ?))", born, born, key)
		}
	} else if q.After != "" {
		add("key > ?", q.After)
	}
	args = append(args, limit+1)
	rows, err := s.db.Read().QueryContext(ctx, "SELECT "+resourceColumns+" FROM resources WHERE "+
		strings.Join(where, " AND ")+" ORDER BY "+order+" LIMIT ?", args...)
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

func badToken() error {
	return fault.Invalid("the continuation token is not one of this server's; start the list again").With("InvalidContinuationToken").At("$skipToken")
}

// Commit implements resource.Store.
func (s *Resources) Commit(ctx context.Context, b resource.Batch) (int64, error) {
	var seq int64
	err := s.db.Write(ctx, func(tx *Tx) error {
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
			if _, err := tx.Exec("UPDATE resources SET status = ?, seq = ? WHERE key = ?", string(w.Status), seq, w.ID.Key()); err != nil {
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

func putResource(tx *Tx, seq int64, w resource.Write) error {
	r := w.Resource
	if err := expect(tx, r.ID, w.Expect); err != nil {
		return err
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
	_, err = tx.Exec(`INSERT INTO resources (key, text, type, parent, etag, born, seq, lookup, archived, envelope, properties, status)
		VALUES (?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT (key) DO UPDATE SET etag = excluded.etag, seq = excluded.seq, lookup = excluded.lookup,
		archived = excluded.archived, envelope = excluded.envelope, properties = excluded.properties,
		status = CASE WHEN ? THEN status ELSE excluded.status END`,
		r.ID.Key(), r.ID.String(), strings.ToLower(r.ID.Type()), parent, strconv.FormatInt(seq, 36),
		seq, seq, r.Lookup, r.Archived, string(env), string(r.Properties), status, w.Keep)
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
	rows, err := s.db.Read().QueryContext(ctx, `SELECT seq, text, gone FROM (
		SELECT seq, text, 0 AS gone FROM resources WHERE seq > ?
		UNION ALL SELECT seq, text, 1 FROM removed WHERE seq > ?) ORDER BY seq LIMIT ?`, after, after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var touched []resource.Touched
	for rows.Next() {
		var t resource.Touched
		var text string
		if err := rows.Scan(&t.Seq, &text, &t.Deleted); err != nil {
			return nil, err
		}
		if t.ID, err = resource.ParseID(text); err != nil {
			return nil, fmt.Errorf("stored id: %w", err)
		}
		touched = append(touched, t)
	}
	return touched, rows.Err()
}

// Notify implements resource.Store.
func (s *Resources) Notify() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notify
}
