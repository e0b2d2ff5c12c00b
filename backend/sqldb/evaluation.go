package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"lapis/fault"
	"lapis/ml/evaluation"
)

// Evaluation is the evaluation.Store of a database.
type Evaluation struct{ db *DB }

var _ evaluation.Store = (*Evaluation)(nil)

// NewEvaluation returns the evaluation store of db.
func NewEvaluation(db *DB) *Evaluation { return &Evaluation{db} }

func datasetMissing(id string) error {
	return fault.NotFound("Evaluation dataset with id '%s' not found", id).With("RESOURCE_DOES_NOT_EXIST")
}

func scanDataset(row scanner, workspace string) (evaluation.Dataset, error) {
	d := evaluation.Dataset{Workspace: workspace}
	var doc []byte
	if err := row.Scan(&doc); err != nil {
		return d, err
	}
	err := json.Unmarshal(doc, &d)
	return d, err
}

// Dataset implements evaluation.Store.
func (e *Evaluation) Dataset(ctx context.Context, workspace, id string) (evaluation.Dataset, error) {
	d, err := scanDataset(e.db.read.QueryRowContext(ctx, `SELECT doc FROM evaluation_datasets WHERE workspace = ? AND id = ?`, workspace, id), workspace)
	if errors.Is(err, sql.ErrNoRows) {
		err = datasetMissing(id)
	}
	return d, err
}

// Datasets implements evaluation.Store.
func (e *Evaluation) Datasets(ctx context.Context, workspace string) ([]evaluation.Dataset, error) {
	rows, err := e.db.read.QueryContext(ctx, `SELECT doc FROM evaluation_datasets WHERE workspace = ? ORDER BY seq DESC`, workspace)
	return all(rows, err, func(row scanner) (evaluation.Dataset, error) { return scanDataset(row, workspace) })
}

// CreateDataset implements evaluation.Store.
func (e *Evaluation) CreateDataset(ctx context.Context, d evaluation.Dataset) error {
	doc, err := encode(d)
	if err != nil {
		return err
	}
	return e.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO evaluation_datasets (workspace, id, doc) VALUES (?, ?, ?)`, d.Workspace, d.ID, doc)
		return err
	})
}

// ChangeDataset implements evaluation.Store.
func (e *Evaluation) ChangeDataset(ctx context.Context, workspace, id string, hashes []string, change func(*evaluation.Dataset, map[string]*evaluation.Record) ([]evaluation.Hashed, error)) (d evaluation.Dataset, err error) {
	err = e.db.Write(ctx, func(tx *Tx) (err error) {
		d, err = scanDataset(tx.QueryRow(`SELECT doc FROM evaluation_datasets WHERE workspace = ? AND id = ?`, workspace, id), workspace)
		if errors.Is(err, sql.ErrNoRows) {
			return datasetMissing(id)
		}
		if err != nil {
			return err
		}
		old := map[string]*evaluation.Record{}
		for _, hash := range hashes {
			var doc []byte
			err := tx.QueryRow(`SELECT doc FROM evaluation_records WHERE dataset = ? AND hash = ?`, id, hash).Scan(&doc)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			r := &evaluation.Record{}
			if err := json.Unmarshal(doc, r); err != nil {
				return fmt.Errorf("record of dataset %s: %w", id, err)
			}
			old[hash] = r
		}
		records, err := change(&d, old)
		if err != nil {
			return err
		}
		for _, r := range records {
			doc, err := encode(r.Record)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(`INSERT INTO evaluation_records (dataset, hash, id, doc) VALUES (?, ?, ?, ?)
				ON CONFLICT (dataset, hash) DO UPDATE SET doc = excluded.doc`, id, r.Hash, r.ID, doc); err != nil {
				return err
			}
		}
		doc, err := encode(d)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE evaluation_datasets SET doc = ? WHERE workspace = ? AND id = ?`, doc, workspace, id)
		return err
	})
	return d, err
}

// DeleteDataset implements evaluation.Store.
func (e *Evaluation) DeleteDataset(ctx context.Context, workspace, id string) error {
	return e.db.Write(ctx, func(tx *Tx) error {
		result, err := tx.Exec(`DELETE FROM evaluation_datasets WHERE workspace = ? AND id = ?`, workspace, id)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err
		}
		_, err = tx.Exec(`DELETE FROM evaluation_records WHERE dataset = ?`, id)
		return err
	})
}

// Records implements evaluation.Store.
func (e *Evaluation) Records(ctx context.Context, workspace, id string, after int64, limit int) ([]evaluation.Record, int64, error) {
	if _, err := e.Dataset(ctx, workspace, id); err != nil {
		return nil, 0, err
	}
	rows, err := e.db.read.QueryContext(ctx, `SELECT seq, doc FROM evaluation_records WHERE dataset = ? AND seq > ? ORDER BY seq LIMIT ?`, id, after, limit+1)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	var records []evaluation.Record
	var next, seq int64
	for rows.Next() {
		if len(records) == limit {
			next = seq
			break
		}
		var doc []byte
		var r evaluation.Record
		if err := rows.Scan(&seq, &doc); err != nil {
			return nil, 0, err
		}
		if err := json.Unmarshal(doc, &r); err != nil {
			return nil, 0, fmt.Errorf("record of dataset %s: %w", id, err)
		}
		records = append(records, r)
	}
	return records, next, rows.Err()
}

// DeleteRecords implements evaluation.Store.
func (e *Evaluation) DeleteRecords(ctx context.Context, workspace, id string, records []string) (n int, err error) {
	if _, err := e.Dataset(ctx, workspace, id); err != nil {
		return 0, err
	}
	list, err := encode(records)
	if err != nil {
		return 0, err
	}
	err = e.db.Write(ctx, func(tx *Tx) error {
		result, err := tx.Exec(`DELETE FROM evaluation_records WHERE dataset = ? AND id IN (SELECT value FROM json_each(?))`, id, list)
		if err != nil {
			return err
		}
		gone, err := result.RowsAffected()
		n = int(gone)
		return err
	})
	return n, err
}

// AddScorer implements evaluation.Store.
func (e *Evaluation) AddScorer(ctx context.Context, workspace string, s evaluation.Scorer) (evaluation.Scorer, error) {
	err := e.db.Write(ctx, func(tx *Tx) error {
		var id string
		err := tx.QueryRow(`SELECT version, id FROM scorers WHERE experiment = ? AND name = ? ORDER BY version DESC LIMIT 1`, s.Experiment, s.Name).Scan(&s.Version, &id)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if id != "" {
			s.ID = id
		}
		s.Version++
		_, err = tx.Exec(`INSERT INTO scorers (workspace, experiment, name, version, id, created, body) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			workspace, s.Experiment, s.Name, s.Version, s.ID, s.Created, s.Body)
		return err
	})
	return s, err
}

// Scorers implements evaluation.Store.
func (e *Evaluation) Scorers(ctx context.Context, workspace string, experiments []string) ([]evaluation.Scorer, error) {
	list, err := encode(experiments)
	if err != nil {
		return nil, err
	}
	rows, err := e.db.read.QueryContext(ctx, `SELECT experiment, name, version, id, created, body FROM scorers WHERE workspace = ?
		AND (? OR experiment IN (SELECT CAST(value AS INTEGER) FROM json_each(?))) ORDER BY experiment, name, version`, workspace, len(experiments) == 0, list)
	return all(rows, err, func(row scanner) (evaluation.Scorer, error) {
		var s evaluation.Scorer
		err := row.Scan(&s.Experiment, &s.Name, &s.Version, &s.ID, &s.Created, &s.Body)
		return s, err
	})
}

// DeleteScorer implements evaluation.Store.
func (e *Evaluation) DeleteScorer(ctx context.Context, workspace, experiment, name string, version int64) (n int, err error) {
	err = e.db.Write(ctx, func(tx *Tx) error {
		result, err := tx.Exec(`DELETE FROM scorers WHERE workspace = ? AND experiment = ? AND name = ? AND (? = 0 OR version = ?)`, workspace, experiment, name, version, version)
		if err != nil {
			return err
		}
		gone, err := result.RowsAffected()
		n = int(gone)
		return err
	})
	return n, err
}
