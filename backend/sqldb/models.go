package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"lapis/fault"
	"lapis/ml/tracking"
)

func modelMissing(id string) error {
	return fault.NotFound("Logged model with ID '%s' not found.", id).With("RESOURCE_DOES_NOT_EXIST")
}

func scanModel(row scanner) (tracking.LoggedModel, error) {
	var m tracking.LoggedModel
	var workspace string
	var doc []byte
	if err := row.Scan(&workspace, &doc); err != nil {
		return m, err
	}
	if err := json.Unmarshal(doc, &m); err != nil {
		return m, fmt.Errorf("row of a logged model: %w", err)
	}
	m.Workspace = workspace
	return m, nil
}

// CreateModel implements tracking.Store.
func (t *Tracking) CreateModel(ctx context.Context, m tracking.LoggedModel) error {
	doc, err := encode(m)
	if err != nil {
		return err
	}
	return t.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO logged_models (workspace, id, experiment, deleted, doc) VALUES (?, ?, ?, ?, ?)`,
			m.Workspace, m.ID, m.Experiment, m.Deleted, doc)
		return err
	})
}

// Model implements tracking.Store.
func (t *Tracking) Model(ctx context.Context, workspace, id string) (tracking.LoggedModel, error) {
	m, err := scanModel(t.db.read.QueryRowContext(ctx, `SELECT workspace, doc FROM logged_models WHERE workspace = ? AND id = ?`, workspace, id))
	if errors.Is(err, sql.ErrNoRows) {
		return m, modelMissing(id)
	}
	return m, err
}

// ChangeModel implements tracking.Store.
func (t *Tracking) ChangeModel(ctx context.Context, workspace, id string, change func(*tracking.LoggedModel) error) (m tracking.LoggedModel, err error) {
	err = t.db.Write(ctx, func(tx *Tx) (err error) {
		m, err = changeModel(tx, workspace, id, change)
		return err
	})
	return m, err
}

func changeModel(tx *Tx, workspace, id string, change func(*tracking.LoggedModel) error) (tracking.LoggedModel, error) {
	m, err := scanModel(tx.QueryRow(`SELECT workspace, doc FROM logged_models WHERE workspace = ? AND id = ?`, workspace, id))
	if errors.Is(err, sql.ErrNoRows) {
		return m, modelMissing(id)
	}
	if err != nil {
		return m, err
	}
	if err := change(&m); err != nil {
		return m, err
	}
	doc, err := encode(m)
	if err != nil {
		return m, err
	}
	_, err = tx.Exec(`UPDATE logged_models SET deleted = ?, doc = ? WHERE workspace = ? AND id = ?`, m.Deleted, doc, workspace, id)
	return m, err
}

// Models implements tracking.Store.
func (t *Tracking) Models(ctx context.Context, workspace string, experiments []string) ([]tracking.LoggedModel, error) {
	list, err := encode(experiments)
	if err != nil {
		return nil, err
	}
	rows, err := t.db.read.QueryContext(ctx, `SELECT workspace, doc FROM logged_models WHERE workspace = ?
		AND experiment IN (SELECT CAST(value AS INTEGER) FROM json_each(?)) ORDER BY seq DESC`, workspace, list)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var models []tracking.LoggedModel
	for rows.Next() {
		m, err := scanModel(rows)
		if err != nil {
			return nil, err
		}
		models = append(models, m)
	}
	return models, rows.Err()
}
