package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lapis/ml/tracking"
)

// purgeRows is how many runs one transaction removes: few enough that writers
// do not wait for it.
const purgeRows = 200

// foldWaiting folds what waits now, once.
func (t *Tracking) foldWaiting(ctx context.Context) error {
	for _, run := range t.unfolded.due(time.Time{}, true) {
		if err := t.foldRun(ctx, run); err != nil {
			return err
		}
	}
	return nil
}

// Tallies implements tracking.Bin.
func (t *Tracking) Tallies(ctx context.Context, workspace string, experiments []string) ([]tracking.Tally, error) {
	if err := t.foldWaiting(ctx); err != nil {
		return nil, err
	}
	var list any // NULL: all
	if len(experiments) > 0 {
		text, err := encode(experiments)
		if err != nil {
			return nil, err
		}
		list = text
	}
	var tallies []tracking.Tally
	at := map[string]int{}
	err := t.db.snapshot(ctx, func(tx *sql.Tx) error {
		const which = ` AND (?2 IS NULL OR %s IN (SELECT CAST(value AS INTEGER) FROM json_each(?2)))`
		each := func(query, column string, read func(row scanner) error) error {
			rows, err := tx.QueryContext(ctx, fmt.Sprintf(query, fmt.Sprintf(which, column)), workspace, list)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				if err := read(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		}
		err := each(`SELECT id, name FROM experiments WHERE workspace = ?1 %s ORDER BY id`, "id", func(row scanner) error {
			var y tracking.Tally
			if err := row.Scan(&y.Experiment, &y.Name); err != nil {
				return err
			}
			at[y.Experiment] = len(tallies)
			tallies = append(tallies, y)
			return nil
		})
		if err != nil {
			return err
		}
		for _, count := range []struct {
			query, column string
			fields        func(y *tracking.Tally) []any
		}{
			{`SELECT experiment, sum(deleted = 0), sum(deleted <> 0) FROM runs WHERE workspace = ?1 %s GROUP BY experiment`, "experiment",
				func(y *tracking.Tally) []any { return []any{&y.Active, &y.Deleted} }},
			{`SELECT experiment, count(*), sum(points) FROM (
				SELECT r.experiment AS experiment, sum(c.count) AS points FROM runs r JOIN metric_chunks c ON c.run = r.seq
				WHERE r.workspace = ?1 %s GROUP BY r.seq, c.key) GROUP BY experiment`, "r.experiment",
				func(y *tracking.Tally) []any { return []any{&y.Metrics, &y.Points} }},
			{`SELECT experiment, count(*) FROM logged_models WHERE workspace = ?1 AND deleted = 0 %s GROUP BY experiment`, "experiment",
				func(y *tracking.Tally) []any { return []any{&y.Models} }},
			{`SELECT experiment, count(*) FROM traces WHERE workspace = ?1 %s GROUP BY experiment`, "experiment",
				func(y *tracking.Tally) []any { return []any{&y.Traces} }},
		} {
			err := each(count.query, count.column, func(row scanner) error {
				var id string
				var y tracking.Tally
				if err := row.Scan(append([]any{&id}, count.fields(&y)...)...); err != nil {
					return err
				}
				i, ok := at[id]
				if !ok {
					return nil // its experiment is gone
				}
				for k, to := range count.fields(&tallies[i]) {
					*to.(*int64) = *count.fields(&y)[k].(*int64)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(experiments) > 0 {
		for _, id := range experiments {
			if _, ok := at[id]; !ok {
				return nil, experimentMissing(id)
			}
		}
	}
	return tallies, err
}

// Extents implements tracking.Bin.
func (t *Tracking) Extents(ctx context.Context, workspace, id string) ([]tracking.Extent, error) {
	var run int64
	err := t.db.read.QueryRowContext(ctx, `SELECT seq FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)).Scan(&run)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, runMissing(id)
	}
	if err == nil {
		err = t.foldRun(ctx, run)
	}
	if err != nil {
		return nil, err
	}
	rows, err := t.db.read.QueryContext(ctx, `SELECT key, sum(count), min(first), max(last) FROM metric_chunks WHERE run = ? GROUP BY key ORDER BY key`, run)
	return all(rows, err, func(row scanner) (tracking.Extent, error) {
		var e tracking.Extent
		err := row.Scan(&e.Key, &e.Points, &e.First, &e.Last)
		return e, err
	})
}

// DeletedRuns implements tracking.Bin.
func (t *Tracking) DeletedRuns(ctx context.Context, q tracking.DeletedRuns) ([]tracking.Run, error) {
	query := `SELECT ` + runColumns + ` FROM runs INDEXED BY runs_deleted WHERE deleted <> 0
		AND deleted <> (SELECT e.deleted FROM experiments e WHERE e.id = runs.experiment)`
	var args []any
	add := func(clause string, arg ...any) { query += clause; args = append(args, arg...) }
	if q.Workspace != "" {
		add(` AND workspace = ?`, q.Workspace)
	}
	if q.Until != 0 {
		add(` AND deleted <= ?`, q.Until)
	}
	if q.Deleted != 0 {
		add(` AND (deleted, seq) < (?, ?)`, q.Deleted, q.Seq)
	}
	add(` ORDER BY deleted DESC, seq DESC LIMIT ?`, q.Limit)
	return t.query(ctx, query, args...)
}

// discard notes waste inside a transaction.
func discard(tx *Tx, workspace string, kind tracking.WasteKind, ref string) error {
	if ref == "" {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO waste (workspace, kind, ref) VALUES (?, ?, ?)`, workspace, string(kind), ref)
	return err
}

// Discard implements tracking.Bin.
func (t *Tracking) Discard(ctx context.Context, workspace, uri string) error {
	return t.db.Write(ctx, func(tx *Tx) error { return discard(tx, workspace, tracking.WasteArtifacts, uri) })
}

// Waste implements tracking.Bin.
func (t *Tracking) Waste(ctx context.Context, workspace string, after int64, limit int) ([]tracking.Waste, error) {
	query, args := `SELECT id, workspace, kind, ref FROM waste WHERE id > ? ORDER BY id LIMIT ?`, []any{after, limit}
	if workspace != "" {
		query, args = `SELECT id, workspace, kind, ref FROM waste WHERE workspace = ? AND id > ? ORDER BY id LIMIT ?`, []any{workspace, after, limit}
	}
	rows, err := t.db.read.QueryContext(ctx, query, args...)
	return all(rows, err, func(row scanner) (tracking.Waste, error) {
		var w tracking.Waste
		err := row.Scan(&w.ID, &w.Workspace, &w.Kind, &w.Ref)
		return w, err
	})
}

// Cleared implements tracking.Bin.
func (t *Tracking) Cleared(ctx context.Context, id int64) error {
	return t.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`DELETE FROM waste WHERE id = ?`, id)
		return err
	})
}

// PurgeRun implements tracking.Bin.
func (t *Tracking) PurgeRun(ctx context.Context, workspace, id string, keepArtifacts bool) error {
	return t.db.Write(ctx, func(tx *Tx) error {
		r, err := scanRun(tx.QueryRow(`SELECT `+runColumns+` FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return runMissing(id)
		case err != nil:
			return err
		case r.Deleted == 0:
			return tracking.NotDeleted("run", r.ID)
		case r.Job:
			return tracking.OfJob(r.ID)
		}
		return purgeRun(tx, r.Workspace, r.ID, r.Artifact, keepArtifacts)
	})
}

func purgeRun(tx *Tx, workspace, id, artifact string, keepArtifacts bool) error {
	if !keepArtifacts {
		if err := discard(tx, workspace, tracking.WasteArtifacts, artifact); err != nil {
			return err
		}
	}
	return removeRun(tx, tracking.RunGone{Workspace: workspace, ID: id})
}

// PurgeExperiment implements tracking.Bin.
func (t *Tracking) PurgeExperiment(ctx context.Context, workspace, id string, keepArtifacts bool) error {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return experimentMissing(id)
	}
	for begun := false; ; begun = true {
		left := false
		err := t.db.Write(ctx, func(tx *Tx) (err error) {
			left, err = purgeExperiment(tx, workspace, n, keepArtifacts, begun)
			return err
		})
		if err != nil || !left {
			return err
		}
	}
}

// PurgeWorkspace implements tracking.Bin.
func (t *Tracking) PurgeWorkspace(ctx context.Context, workspace string) error {
	all, err := t.Experiments(ctx, workspace)
	if err != nil {
		return err
	}
	for _, e := range all {
		n, err := strconv.ParseInt(e.ID, 10, 64)
		if err != nil {
			return err
		}
		for left := true; left; {
			err := t.db.Write(ctx, func(tx *Tx) (err error) {
				if _, err := tx.Exec(`UPDATE experiments SET deleted = 1 WHERE id = ? AND deleted = 0`, n); err != nil {
					return err
				}
				left, err = purgeExperiment(tx, workspace, n, true, true)
				return err
			})
			if err != nil {
				return fmt.Errorf("purge experiment %s: %w", e.ID, err)
			}
		}
	}
	return t.db.Write(ctx, func(tx *Tx) error {
		for _, query := range []string{
			`DELETE FROM evaluation_records WHERE dataset IN (SELECT id FROM evaluation_datasets WHERE workspace = ?)`,
			`DELETE FROM evaluation_datasets WHERE workspace = ?`, `DELETE FROM scorers WHERE workspace = ?`, `DELETE FROM waste WHERE workspace = ?`,
		} {
			if _, err := tx.Exec(query, workspace); err != nil {
				return err
			}
		}
		return nil
	})
}

// purgeExperiment removes some rows of an experiment; left tells that there
// are more.
func purgeExperiment(tx *Tx, workspace string, n int64, keepArtifacts, begun bool) (left bool, err error) {
	e, err := scanExperiment(tx.QueryRow(`SELECT `+experimentColumns+` FROM experiments WHERE workspace = ? AND id = ?`, workspace, n))
	id := strconv.FormatInt(n, 10)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, experimentMissing(id)
	case err != nil:
		return false, err
	case e.Deleted == 0:
		return false, tracking.NotDeleted("experiment", id)
	}
	if !begun {
		var jobs int64
		if err := tx.QueryRow(`SELECT count(*) FROM runs WHERE experiment = ? AND job = 1`, n).Scan(&jobs); err != nil {
			return false, err
		}
		if jobs > 0 {
			return false, tracking.HoldsJobs(id, jobs)
		}
		// What is begun is ended, also after a crash.
		kind := tracking.WasteExperiment
		if keepArtifacts {
			kind = tracking.WasteRows
		}
		var noted bool
		if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM waste WHERE workspace = ? AND kind IN ('experiment', 'rows') AND ref = ?)`,
			workspace, id).Scan(&noted); err != nil {
			return false, err
		}
		if !noted {
			if err := discard(tx, workspace, kind, id); err != nil {
				return false, err
			}
		}
	}
	type gone struct{ id, artifact string }
	some := func(query string) (list []gone, err error) {
		rows, err := tx.Query(query, n, purgeRows)
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		for rows.Next() {
			var g gone
			if err := rows.Scan(&g.id, &g.artifact); err != nil {
				return nil, err
			}
			list = append(list, g)
		}
		return list, rows.Err()
	}
	runs, err := some(`SELECT id, artifact FROM runs WHERE experiment = ? ORDER BY seq LIMIT ?`)
	if err != nil {
		return false, err
	}
	for _, g := range runs {
		if err := purgeRun(tx, workspace, g.id, g.artifact, keepArtifacts); err != nil {
			return false, err
		}
	}
	if len(runs) > 0 {
		return true, nil
	}
	models, err := some(`SELECT id, doc ->> 'artifact_uri' FROM logged_models WHERE experiment = ? LIMIT ?`)
	if err != nil {
		return false, err
	}
	for _, g := range models {
		if !keepArtifacts {
			if err := discard(tx, workspace, tracking.WasteArtifacts, g.artifact); err != nil {
				return false, err
			}
		}
		if _, err := tx.Exec(`DELETE FROM logged_model_metrics WHERE model = (SELECT seq FROM logged_models WHERE workspace = ? AND id = ?)`, workspace, g.id); err != nil {
			return false, err
		}
		if _, err := tx.Exec(`DELETE FROM logged_models WHERE workspace = ? AND id = ?`, workspace, g.id); err != nil {
			return false, err
		}
	}
	if len(models) > 0 {
		return true, nil
	}
	traces, err := some(`SELECT seq, id FROM traces WHERE experiment = ? LIMIT ?`)
	if err != nil {
		return false, err
	}
	for _, g := range traces {
		if !keepArtifacts {
			if err := discard(tx, workspace, tracking.WasteArtifacts, strings.TrimSuffix(e.Artifact, "/")+"/traces/"+g.artifact); err != nil {
				return false, err
			}
		}
		for _, query := range []string{`DELETE FROM trace_parts WHERE id >= ?1 << 20 AND id < (?1 + 1) << 20`, `DELETE FROM traces WHERE seq = ?`} {
			if _, err := tx.Exec(query, g.id); err != nil {
				return false, err
			}
		}
	}
	if len(traces) > 0 {
		return true, nil
	}
	for _, query := range []string{
		`DELETE FROM datasets WHERE experiment = ?`, `DELETE FROM scorers WHERE experiment = ?`, `DELETE FROM experiments WHERE id = ?`,
	} {
		if _, err := tx.Exec(query, n); err != nil {
			return false, err
		}
	}
	if t := tx.db.tracking; t != nil {
		tx.after(func(committed bool) {
			if committed {
				t.cache.forget(id)
			}
		})
	}
	_, err = tx.Exec(`DELETE FROM waste WHERE workspace = ? AND kind IN ('experiment', 'rows') AND ref = ?`, workspace, id)
	return false, err
}
