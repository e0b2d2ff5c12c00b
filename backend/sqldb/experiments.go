package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"lapis/fault"
	"lapis/ml/tracking"
)

const experimentColumns = `id, workspace, name, artifact, tags, created, updated, deleted`

func scanExperiment(row scanner) (tracking.Experiment, error) {
	var e tracking.Experiment
	var tags []byte
	if err := row.Scan(&e.ID, &e.Workspace, &e.Name, &e.Artifact, &tags, &e.Created, &e.Updated, &e.Deleted); err != nil {
		return e, err
	}
	if err := json.Unmarshal(tags, &e.Tags); err != nil {
		return e, fmt.Errorf("tags of experiment %s: %w", e.ID, err)
	}
	return e, nil
}

func experimentMissing(id string) error {
	return fault.NotFound("No Experiment with id=%s exists", id).With("RESOURCE_DOES_NOT_EXIST")
}

// EnsureExperiment implements tracking.Store.
func (t *Tracking) EnsureExperiment(ctx context.Context, workspace, name string) (id string, err error) {
	e, err := t.ExperimentNamed(ctx, workspace, name)
	if fault.Is(err, fault.Missing) {
		err = t.db.Write(ctx, func(tx *Tx) error {
			id, err = ensureExperiment(tx, workspace, name)
			return err
		})
		return id, err
	}
	if err == nil && e.Deleted != 0 {
		err = experimentDeleted(name)
	}
	return e.ID, err
}

func experimentDeleted(name string) error {
	return fault.Conflicts("the experiment %q is deleted: restore it, or choose another name", name)
}

// ensureExperiment is EnsureExperiment inside a transaction.
func ensureExperiment(tx *Tx, workspace, name string) (string, error) {
	e, err := scanExperiment(tx.QueryRow(`SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND name = ?`, workspace, name))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		e, err = insertExperiment(tx, tracking.Experiment{Workspace: workspace, Name: name}, nil)
		return e.ID, err
	case err != nil:
		return "", err
	case e.Deleted != 0:
		return "", experimentDeleted(name)
	}
	return e.ID, nil
}

// DefaultExperiment implements tracking.Store.
func (t *Tracking) DefaultExperiment(ctx context.Context, workspace string) (id string, err error) {
	e, err := t.ExperimentNamed(ctx, workspace, tracking.DefaultName)
	if err == nil || !fault.Is(err, fault.Missing) {
		return e.ID, err
	}
	err = t.db.Write(ctx, func(tx *Tx) error {
		e, err := scanExperiment(tx.QueryRow(`SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND name = ?`, workspace, tracking.DefaultName))
		if !errors.Is(err, sql.ErrNoRows) {
			id = e.ID
			return err
		}
		var first any // NULL: the next id
		var taken bool
		if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM experiments WHERE id = 0)`).Scan(&taken); err != nil {
			return err
		}
		if !taken {
			first = 0
		}
		e, err = insertExperiment(tx, tracking.Experiment{Workspace: workspace, Name: tracking.DefaultName}, first)
		id = e.ID
		return err
	})
	return id, err
}

// insertExperiment makes the row; id nil takes the next one.
func insertExperiment(tx *Tx, e tracking.Experiment, id any) (tracking.Experiment, error) {
	if e.Created == 0 {
		e.Created = time.Now().UnixMilli()
	}
	if e.Updated == 0 {
		e.Updated = e.Created
	}
	tags, err := encodeMap(e.Tags)
	if err != nil {
		return e, err
	}
	var n int64
	err = tx.QueryRow(`INSERT INTO experiments (id, workspace, name, artifact, tags, created, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id`, id, e.Workspace, e.Name, e.Artifact, tags, e.Created, e.Updated).Scan(&n)
	if err != nil {
		return e, fmt.Errorf("store experiment %q: %w", e.Name, err)
	}
	e.ID = strconv.FormatInt(n, 10)
	if e.Artifact == "" {
		e.Artifact = cmp.Or(e.Root, "mlflow-artifacts:") + "/" + e.ID
		if _, err := tx.Exec(`UPDATE experiments SET artifact = ? WHERE id = ?`, e.Artifact, n); err != nil {
			return e, err
		}
	}
	return e, nil
}

// CreateExperiment implements tracking.Store.
func (t *Tracking) CreateExperiment(ctx context.Context, e tracking.Experiment) (tracking.Experiment, error) {
	err := t.db.Write(ctx, func(tx *Tx) (err error) {
		if err := nameFree(tx, e.Workspace, e.Name); err != nil {
			return err
		}
		id, err := freeExperiment(tx, e.ID)
		if err != nil {
			return err
		}
		e, err = insertExperiment(tx, e, id)
		return err
	})
	return e, err
}

// freeExperiment is the id to store an experiment under that wants this one:
// nil, the next, if it is taken or "".
func freeExperiment(tx *Tx, wanted string) (any, error) {
	n, err := strconv.ParseInt(wanted, 10, 64)
	if err != nil || n < 0 {
		return nil, nil
	}
	var taken bool
	if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM experiments WHERE id = ?)`, n).Scan(&taken); err != nil || taken {
		return nil, err
	}
	return n, nil
}

func nameFree(tx *Tx, workspace, name string) error {
	var deleted int64
	err := tx.QueryRow(`SELECT deleted FROM experiments WHERE workspace = ? AND name = ?`, workspace, name).Scan(&deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	state := "active"
	if deleted != 0 {
		state = "deleted"
	}
	return fault.Invalid("Experiment(name=%s) already exists. Error: an experiment of that name is there in the %s state.", name, state).With("RESOURCE_ALREADY_EXISTS")
}

// Experiment implements tracking.Store.
func (t *Tracking) Experiment(ctx context.Context, workspace, id string) (tracking.Experiment, error) {
	s, err := t.db.prepared(ctx, `SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND id = ?`)
	if err != nil {
		return tracking.Experiment{}, err
	}
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return tracking.Experiment{}, experimentMissing(id)
	}
	e, err := scanExperiment(s.QueryRowContext(ctx, workspace, n))
	if errors.Is(err, sql.ErrNoRows) {
		return e, experimentMissing(id)
	}
	return e, err
}

// ExperimentNamed implements tracking.Store.
func (t *Tracking) ExperimentNamed(ctx context.Context, workspace, name string) (tracking.Experiment, error) {
	s, err := t.db.prepared(ctx, `SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND name = ?`)
	if err != nil {
		return tracking.Experiment{}, err
	}
	e, err := scanExperiment(s.QueryRowContext(ctx, workspace, name))
	if errors.Is(err, sql.ErrNoRows) {
		return e, fault.NotFound("Could not find experiment with name '%s'", name).With("RESOURCE_DOES_NOT_EXIST")
	}
	return e, err
}

// Experiments implements tracking.Store.
func (t *Tracking) Experiments(ctx context.Context, workspace string) ([]tracking.Experiment, error) {
	rows, err := t.db.query(ctx, `SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? ORDER BY id`, workspace)
	return all(rows, err, scanExperiment)
}

// ChangeExperiment implements tracking.Store.
func (t *Tracking) ChangeExperiment(ctx context.Context, workspace, id string, change func(*tracking.Experiment) error) (tracking.Experiment, error) {
	var e tracking.Experiment
	err := t.db.Write(ctx, func(tx *Tx) (err error) {
		n, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return experimentMissing(id)
		}
		e, err = scanExperiment(tx.QueryRow(`SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND id = ?`, workspace, n))
		if errors.Is(err, sql.ErrNoRows) {
			return experimentMissing(id)
		}
		if err != nil {
			return err
		}
		old := e
		if err := change(&e); err != nil {
			return err
		}
		if e.Deleted != 0 && old.Deleted == 0 {
			// Runs that go with the experiment bear its time, and no run that
			// was deleted before does.
			var last int64
			if err := tx.QueryRow(`SELECT coalesce(max(deleted), 0) FROM runs WHERE experiment = ?`, n).Scan(&last); err != nil {
				return err
			}
			e.Deleted = max(e.Deleted, last+1)
		}
		if e.Name != old.Name {
			if err := nameFree(tx, workspace, e.Name); err != nil {
				return err
			}
		}
		tags, err := encodeMap(e.Tags)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE experiments SET name = ?, artifact = ?, tags = ?, updated = ?, deleted = ? WHERE id = ?`,
			e.Name, e.Artifact, tags, e.Updated, e.Deleted, n); err != nil {
			return err
		}
		if (e.Deleted == 0) == (old.Deleted == 0) {
			return nil
		}
		query, args := `UPDATE runs SET deleted = ? WHERE experiment = ? AND deleted = 0`, []any{e.Deleted, n}
		if e.Deleted == 0 {
			query, args = `UPDATE runs SET deleted = 0 WHERE experiment = ? AND deleted = ?`, []any{n, old.Deleted}
		}
		if _, err := tx.Exec(query, args...); err != nil {
			return err
		}
		clear(t.live)
		tx.after(func(committed bool) {
			if committed {
				t.cache.forget(e.ID)
			}
		})
		return nil
	})
	return e, err
}
