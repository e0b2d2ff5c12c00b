package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"lapis/fault"
	"lapis/ml/tracking"
)

func modelMissing(id string) error {
	return fault.NotFound("Logged model with ID '%s' not found.", id).With("RESOURCE_DOES_NOT_EXIST")
}

// scanModel reads a row of seq, workspace and doc. The metrics are not in it.
func scanModel(row scanner) (seq int64, m tracking.LoggedModel, err error) {
	var workspace string
	var doc []byte
	if err := row.Scan(&seq, &workspace, &doc); err != nil {
		return 0, m, err
	}
	if err := json.Unmarshal(doc, &m); err != nil {
		return 0, m, fmt.Errorf("row of a logged model: %w", err)
	}
	m.Workspace = workspace
	return seq, m, nil
}

// encodeModel is the row's doc.
func encodeModel(m tracking.LoggedModel) (string, error) {
	m.Metrics = nil
	return encode(m)
}

// modelMetrics are columns of the metrics of models: of one, or of the models of
// experiments.
const modelMetrics = `SELECT x.model, x.key, x.time, x.step, x.value, x.dataset, x.digest, r.id
	FROM logged_model_metrics x JOIN runs r ON r.seq = x.run WHERE `

func scanModelMetric(row scanner) (model int64, m tracking.ModelMetric, err error) {
	var value sql.NullFloat64
	if err := row.Scan(&model, &m.Key, &m.Time, &m.Step, &value, &m.DatasetName, &m.DatasetDigest, &m.Run); err != nil {
		return 0, m, err
	}
	m.Value = tracking.Number(value.Float64)
	if !value.Valid {
		m.Value = tracking.Number(math.NaN())
	}
	return model, m, nil
}

// metricsOf reads rows of modelMetrics.
func metricsOf(rows *sql.Rows, err error, add func(model int64, m tracking.ModelMetric)) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		model, m, err := scanModelMetric(rows)
		if err != nil {
			return err
		}
		add(model, m)
	}
	return rows.Err()
}

const oneModel = `x.model = ? ORDER BY x.key, x.time, x.step, x.run`

// CreateModel implements tracking.Store.
func (t *Tracking) CreateModel(ctx context.Context, m tracking.LoggedModel) error {
	doc, err := encodeModel(m)
	if err != nil {
		return err
	}
	return t.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO logged_models (workspace, id, experiment, deleted, doc) VALUES (?, ?, ?, ?, ?)`,
			m.Workspace, m.ID, m.Experiment, m.Deleted, doc)
		return err
	})
}

const selectModel = `SELECT seq, workspace, doc FROM logged_models WHERE workspace = ? AND id = ?`

// Model implements tracking.Store.
func (t *Tracking) Model(ctx context.Context, workspace, id string) (m tracking.LoggedModel, err error) {
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		var seq int64
		seq, m, err = scanModel(tx.QueryRowContext(ctx, selectModel, workspace, id))
		if errors.Is(err, sql.ErrNoRows) {
			return modelMissing(id)
		}
		if err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, modelMetrics+oneModel, seq)
		return metricsOf(rows, err, func(_ int64, x tracking.ModelMetric) { m.Metrics = append(m.Metrics, x) })
	})
	return m, err
}

// ChangeModel implements tracking.Store.
func (t *Tracking) ChangeModel(ctx context.Context, workspace, id string, change func(*tracking.LoggedModel) error) (m tracking.LoggedModel, err error) {
	err = t.db.Write(ctx, func(tx *Tx) (err error) {
		var seq int64
		seq, m, err = scanModel(tx.QueryRow(selectModel, workspace, id))
		if errors.Is(err, sql.ErrNoRows) {
			return modelMissing(id)
		}
		if err != nil {
			return err
		}
		rows, err := tx.Query(modelMetrics+oneModel, seq)
		if err := metricsOf(rows, err, func(_ int64, x tracking.ModelMetric) { m.Metrics = append(m.Metrics, x) }); err != nil {
			return err
		}
		if err := change(&m); err != nil {
			return err
		}
		doc, err := encodeModel(m)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE logged_models SET deleted = ?, doc = ? WHERE seq = ?`, m.Deleted, doc, seq)
		return err
	})
	return m, err
}

// Models implements tracking.Store.
func (t *Tracking) Models(ctx context.Context, workspace string, experiments []string) (models []tracking.LoggedModel, err error) {
	list, err := encode(experiments)
	if err != nil {
		return nil, err
	}
	const which = `workspace = ? AND experiment IN (SELECT CAST(value AS INTEGER) FROM json_each(?))`
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT seq, workspace, doc FROM logged_models WHERE `+which+` ORDER BY seq DESC`, workspace, list)
		if err != nil {
			return err
		}
		defer rows.Close()
		at := map[int64]int{}
		for rows.Next() {
			seq, m, err := scanModel(rows)
			if err != nil {
				return err
			}
			at[seq] = len(models)
			models = append(models, m)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		rows, err = tx.QueryContext(ctx, modelMetrics+`x.model IN (SELECT seq FROM logged_models WHERE `+which+`) ORDER BY x.model, x.key, x.time, x.step, x.run`, workspace, list)
		return metricsOf(rows, err, func(model int64, x tracking.ModelMetric) {
			m := &models[at[model]]
			m.Metrics = append(m.Metrics, x)
		})
	})
	return models, err
}

// modelPoints puts the points of a run that name a logged model on that model
// too. A point that is there already stays as it is.
func modelPoints(tx *Tx, workspace string, run int64, points []tracking.Metric) error {
	known := map[string]int64{}
	for i := range points {
		p := &points[i]
		if p.Model == "" {
			continue
		}
		model, ok := known[p.Model]
		if !ok {
			err := tx.QueryRow(`SELECT seq FROM logged_models WHERE workspace = ? AND id = ?`, workspace, p.Model).Scan(&model)
			if errors.Is(err, sql.ErrNoRows) {
				return fault.Invalid("The metric %q names the logged model %q, which does not exist.", p.Key, p.Model).With("BAD_REQUEST")
			}
			if err != nil {
				return err
			}
			known[p.Model] = model
		}
		var value any
		if !math.IsNaN(p.Value) {
			value = p.Value
		}
		if _, err := tx.Exec(`INSERT OR IGNORE INTO logged_model_metrics (model, key, time, step, run, value, dataset, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			model, p.Key, p.Time, p.Step, run, value, p.DatasetName, p.DatasetDigest); err != nil {
			return err
		}
	}
	return nil
}
