package sqldb

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"lapis/fault"
	"lapis/ml/tracking"
	"lapis/ml/webhook"
	"lapis/resource"
)

// putRow writes a row that belongs to a batch of resources but lives in a table
// of its own.
func (db *DB) putRow(tx *Tx, row any) error {
	switch row := row.(type) {
	case resource.Sealed:
		return putSecret(tx, row)
	case tracking.JobRun:
		return putJobRun(tx, row)
	case tracking.RunEdit:
		return editRun(tx, row)
	case tracking.RunGone:
		return removeRun(tx, row)
	case webhook.Delivery:
		return putDelivery(tx, row)
	default:
		return fmt.Errorf("a batch holds a row of the type %T, for which there is no table", row)
	}
}

// putJobRun stores the run of a new job and makes its experiment.
func putJobRun(tx *Tx, row tracking.JobRun) error {
	r := row.Run
	var taken int
	err := tx.QueryRow("SELECT 1 FROM runs WHERE workspace = ? AND key = ?", r.Workspace, strings.ToLower(r.ID)).Scan(&taken)
	if err == nil {
		return fault.Conflicts("A run with the id '%s' exists, and no job belongs to it; give the job another name.", r.ID).With("UserError").At("name")
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if r.Experiment, err = ensureExperiment(tx, r.Workspace, row.Experiment); err != nil {
		return err
	}
	_, err = storeRun(tx, r, false)
	return err
}

// editRun changes the run of a job.
func editRun(tx *Tx, row tracking.RunEdit) error {
	_, err := changeRun(tx, row.Workspace, row.ID, func(r *tracking.Run) error {
		if row.Experiment != "" {
			id, err := ensureExperiment(tx, r.Workspace, row.Experiment)
			if err != nil {
				return err
			}
			r.Experiment = id
		}
		return row.Change(r)
	})
	return err
}

// removeRun removes the run of a job that is deleted, and all it logged.
func removeRun(tx *Tx, row tracking.RunGone) error {
	var seq int64
	var experiment string
	err := tx.QueryRow("SELECT seq, experiment FROM runs WHERE workspace = ? AND key = ?", row.Workspace, strings.ToLower(row.ID)).Scan(&seq, &experiment)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, table := range []string{"metric_log", "metric_chunks", "logged_model_metrics"} {
		if _, err := tx.Exec("DELETE FROM "+table+" WHERE run = ?", seq); err != nil {
			return err
		}
	}
	if _, err := tx.Exec("DELETE FROM runs WHERE seq = ?", seq); err != nil {
		return err
	}
	if t := tx.db.tracking; t != nil {
		t.touched(tx, row.Workspace, row.ID, experiment, seq)
	}
	return nil
}
