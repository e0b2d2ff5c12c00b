package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/tracking"
)

// Tracking is the tracking.Store of a database.
type Tracking struct {
	db *DB

	// live holds the rows that writes have touched lately, so that logging
	// need not read them again. The writer's goroutine alone uses it.
	live map[string]*liveRun

	cache cache

	fold     sync.Mutex // held by whoever moves points from the log to chunks
	unfolded unfolded
}

var _ tracking.Store = (*Tracking)(nil)

// liveKept bounds the live rows.
const liveKept = 4096

// liveRun is what a run's row holds, as of the last write that touched it.
type liveRun struct {
	seq        int64
	deleted    bool
	id         string
	experiment string
}

// NewTracking returns the tracking store of db.
func NewTracking(db *DB) (*Tracking, error) {
	t := &Tracking{db: db, live: map[string]*liveRun{}}
	t.cache.init()
	if err := t.unfolded.load(db); err != nil {
		return nil, fmt.Errorf("read the metric log: %w", err)
	}
	db.tracking = t
	return t, nil
}

// more is what a run's row holds besides its columns.
type more struct {
	Description string                    `json:"description,omitempty"`
	Properties  map[string]string         `json:"properties,omitempty"`
	Reason      string                    `json:"reason,omitempty"`
	Warnings    []string                  `json:"warnings,omitempty"`
	Error       *tracking.RunError        `json:"error,omitempty"`
	Outputs     map[string]tracking.Asset `json:"outputs,omitempty"`
	Inputs      map[string]tracking.Asset `json:"inputs,omitempty"`
}

// inputs is what a run read and made, as its row holds it.
type inputs struct {
	Datasets []datasetUse           `json:"datasets,omitempty"`
	In       []string               `json:"models,omitempty"`
	Out      []tracking.ModelOutput `json:"outputs,omitempty"`
}

// datasetUse is a dataset as an input of a run, by the dataset's row.
type datasetUse struct {
	Dataset int64          `json:"dataset"`
	Tags    []tracking.Tag `json:"tags,omitempty"`
}

const runColumns = `seq, workspace, id, experiment, parent, job, status, hidden, deleted,
	created, start, finish, name, user, artifact, tags, more`

// scanRun reads a row of runColumns and then the columns of rest.
func scanRun(row scanner, rest ...any) (tracking.Run, error) {
	var r tracking.Run
	var experiment int64
	var tags, other []byte
	err := row.Scan(append([]any{&r.Seq, &r.Workspace, &r.ID, &experiment, &r.Parent, &r.Job, &r.Status,
		&r.Hidden, &r.Deleted, &r.Created, &r.Start, &r.End, &r.Name, &r.User, &r.Artifact, &tags, &other}, rest...)...)
	if err != nil {
		return r, err
	}
	r.Experiment = strconv.FormatInt(experiment, 10)
	if err := json.Unmarshal(tags, &r.Tags); err != nil {
		return r, fmt.Errorf("tags of run %s: %w", r.ID, err)
	}
	var m more
	if len(other) > 2 {
		if err := json.Unmarshal(other, &m); err != nil {
			return r, fmt.Errorf("row of run %s: %w", r.ID, err)
		}
	}
	r.Description, r.Properties, r.Reason, r.Warnings = m.Description, m.Properties, m.Reason, m.Warnings
	r.Error, r.Outputs, r.Inputs = m.Error, m.Outputs, m.Inputs
	return r, nil
}

func runMissing(id string) error {
	return fault.NotFound("Run with id=%s not found", id).With("RESOURCE_DOES_NOT_EXIST")
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// encodeMap is the JSON of a map; nil is {}.
func encodeMap(m map[string]string) (string, error) {
	if len(m) == 0 {
		return "{}", nil
	}
	return encode(m)
}

// storeRun inserts the row, or replaces it where replace allows, and returns
// the Seq.
func storeRun(tx *Tx, r tracking.Run, replace bool) (int64, error) {
	experiment, err := strconv.ParseInt(r.Experiment, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("store run %s: experiment %q is not a number", r.ID, r.Experiment)
	}
	if r.Artifact == "" {
		r.Artifact = tracking.ArtifactRoot(r.Experiment, r.ID)
	}
	if r.Created == 0 {
		r.Created = time.Now().UnixMilli()
	}
	tags, err := encodeMap(r.Tags)
	if err != nil {
		return 0, err
	}
	other, err := encode(more{r.Description, r.Properties, r.Reason, r.Warnings, r.Error, r.Outputs, r.Inputs})
	if err != nil {
		return 0, err
	}
	conflict := ""
	if replace {
		conflict = ` ON CONFLICT (workspace, key) DO UPDATE SET id = excluded.id, experiment = excluded.experiment,
			parent = excluded.parent, job = excluded.job, status = excluded.status, hidden = excluded.hidden,
			deleted = excluded.deleted, created = excluded.created, start = excluded.start, finish = excluded.finish,
			name = excluded.name, user = excluded.user, artifact = excluded.artifact, tags = excluded.tags,
			more = excluded.more`
	}
	var seq int64
	err = tx.QueryRow(`INSERT INTO runs (workspace, key, id, experiment, parent, job, status, hidden, deleted,
		created, start, finish, name, user, artifact, tags, more)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`+conflict+` RETURNING seq`,
		r.Workspace, strings.ToLower(r.ID), r.ID, experiment, r.Parent, r.Job, string(r.Status),
		r.Hidden, r.Deleted, r.Created, r.Start, r.End, r.Name, r.User, r.Artifact, tags, other).Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("store run %s: %w", r.ID, err)
	}
	if t := tx.db.tracking; t != nil {
		t.touched(tx, r.Workspace, r.ID, r.Experiment, seq)
	}
	return seq, nil
}

// touched forgets what is remembered of a run that a write changes.
func (t *Tracking) touched(tx *Tx, workspace, id, experiment string, seq int64) {
	delete(t.live, liveKey(workspace, id))
	tx.after(func(committed bool) {
		if committed {
			t.cache.touch(experiment, seq)
		}
	})
}

func liveKey(workspace, id string) string { return workspace + "\x00" + strings.ToLower(id) }

// Run implements tracking.Store.
func (t *Tracking) Run(ctx context.Context, workspace, id string) (tracking.Run, error) {
	s, err := t.db.prepared(ctx, `SELECT `+runColumns+` FROM runs WHERE workspace = ? AND key = ?`)
	if err != nil {
		return tracking.Run{}, err
	}
	r, err := scanRun(s.QueryRowContext(ctx, workspace, strings.ToLower(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return r, runMissing(id)
	}
	return r, err
}

// Runs implements tracking.Store.
func (t *Tracking) Runs(ctx context.Context, workspace string, ids []string) (map[string]tracking.Run, error) {
	found := map[string]tracking.Run{}
	if len(ids) == 0 {
		return found, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = strings.ToLower(id)
	}
	list, err := encode(keys)
	if err != nil {
		return nil, err
	}
	runs, err := t.query(ctx, `SELECT `+runColumns+` FROM runs WHERE workspace = ? AND key IN (SELECT value FROM json_each(?))`, workspace, list)
	for _, r := range runs {
		found[strings.ToLower(r.ID)] = r
	}
	return found, err
}

func (t *Tracking) query(ctx context.Context, query string, args ...any) ([]tracking.Run, error) {
	rows, err := t.db.query(ctx, query, args...)
	return all(rows, err, func(row scanner) (tracking.Run, error) { return scanRun(row) })
}

// Children implements tracking.Store.
func (t *Tracking) Children(ctx context.Context, workspace, id string) ([]tracking.Run, error) {
	return t.query(ctx, `SELECT `+runColumns+` FROM runs WHERE workspace = ? AND parent = ? AND parent <> '' ORDER BY seq`,
		workspace, id)
}

// OpenJobs implements tracking.Store.
func (t *Tracking) OpenJobs(ctx context.Context) ([]tracking.Run, error) {
	return t.query(ctx, `SELECT `+runColumns+` FROM runs INDEXED BY runs_open
		WHERE job = 1 AND status NOT IN ('Completed', 'Failed', 'Canceled') ORDER BY seq`)
}

// ListJobs implements tracking.Store.
func (t *Tracking) ListJobs(ctx context.Context, workspace string, f tracking.JobFilter, before int64, limit int) ([]tracking.Run, error) {
	query := `SELECT ` + runColumns + ` FROM runs WHERE workspace = ? AND job = 1`
	args := []any{workspace}
	add := func(clause string, arg any) { query += clause; args = append(args, arg) }
	if before > 0 {
		add(` AND seq < ?`, before)
	}
	if f.Hidden != nil {
		add(` AND hidden = ?`, *f.Hidden)
	}
	if f.Experiment != "" {
		add(` AND experiment = ?`, f.Experiment)
	}
	if f.Parent != nil {
		add(` AND parent = ?`, *f.Parent)
	}
	if f.Status != "" {
		add(` AND status = ?`, string(f.Status))
	}
	add(` ORDER BY seq DESC LIMIT ?`, limit)
	return t.query(ctx, query, args...)
}

// ChangeRun implements tracking.Store.
func (t *Tracking) ChangeRun(ctx context.Context, workspace, id string, change func(*tracking.Run) error) (tracking.Run, error) {
	var run tracking.Run
	err := t.db.Write(ctx, func(tx *Tx) (err error) {
		run, err = changeRun(tx, workspace, id, change)
		return err
	})
	return run, err
}

// changeRun is ChangeRun inside a transaction.
func changeRun(tx *Tx, workspace, id string, change func(*tracking.Run) error) (tracking.Run, error) {
	run, err := scanRun(tx.QueryRow(`SELECT `+runColumns+` FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)))
	if errors.Is(err, sql.ErrNoRows) {
		return run, runMissing(id)
	}
	if err != nil {
		return run, err
	}
	before := run.Experiment
	if err := change(&run); err != nil {
		return run, err
	}
	if _, err := storeRun(tx, run, true); err != nil {
		return run, err
	}
	if t := tx.db.tracking; t != nil && before != run.Experiment {
		t.touched(tx, workspace, id, before, run.Seq)
	}
	return run, nil
}

// CreateRun implements tracking.Store.
func (t *Tracking) CreateRun(ctx context.Context, r tracking.Run) (tracking.Run, error) {
	err := t.db.Write(ctx, func(tx *Tx) error {
		var deleted int64
		var artifact string
		err := tx.QueryRow(`SELECT deleted, artifact FROM experiments WHERE workspace = ? AND id = ?`, r.Workspace, r.Experiment).Scan(&deleted, &artifact)
		if errors.Is(err, sql.ErrNoRows) {
			return experimentMissing(r.Experiment)
		}
		if err != nil {
			return err
		}
		if deleted != 0 {
			return fault.Invalid("The experiment %s must be in the 'active' state. Current state is deleted.", r.Experiment).With("INVALID_PARAMETER_VALUE")
		}
		if r.Artifact == "" {
			r.Artifact = strings.TrimSuffix(artifact, "/") + "/" + r.ID + "/artifacts"
		}
		if r.Created == 0 {
			r.Created = time.Now().UnixMilli()
		}
		r.Seq, err = storeRun(tx, r, false)
		return err
	})
	return r, err
}

// record reads a run with its params and inputs inside a transaction.
func record(tx *Tx, workspace, id string) (*tracking.Record, inputs, error) {
	var params, in []byte
	run, err := scanRun(tx.QueryRow(`SELECT `+runColumns+`, params, inputs FROM runs WHERE workspace = ? AND key = ?`,
		workspace, strings.ToLower(id)), &params, &in)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, inputs{}, runMissing(id)
	}
	if err != nil {
		return nil, inputs{}, err
	}
	rec := &tracking.Record{Run: run}
	var uses inputs
	if err := json.Unmarshal(params, &rec.Params); err != nil {
		return nil, uses, fmt.Errorf("params of run %s: %w", run.ID, err)
	}
	if err := json.Unmarshal(in, &uses); err != nil {
		return nil, uses, fmt.Errorf("inputs of run %s: %w", run.ID, err)
	}
	rec.ModelInputs, rec.ModelOutputs = uses.In, uses.Out
	for _, u := range uses.Datasets {
		d, err := dataset(tx, u.Dataset)
		if err != nil {
			return nil, uses, err
		}
		rec.Datasets = append(rec.Datasets, tracking.DatasetInput{Tags: u.Tags, Dataset: d})
	}
	return rec, uses, nil
}

// Log implements tracking.Store.
func (t *Tracking) Log(ctx context.Context, workspace, id string, points []tracking.Metric, change func(*tracking.Record) error) error {
	packed := packLog(points)
	write := t.db.writeOne
	if change != nil || slices.ContainsFunc(points, func(m tracking.Metric) bool { return m.Model != "" }) {
		write = t.db.Write
	}
	return write(ctx, func(tx *Tx) error {
		l, err := t.liveRow(tx, workspace, id)
		if err != nil {
			return err
		}
		if l.deleted {
			return tracking.RunDeleted(l.id)
		}
		if change != nil {
			if err := t.changeRecord(tx, workspace, id, change); err != nil {
				return err
			}
		}
		if len(points) == 0 {
			return nil
		}
		if _, err := tx.Exec(`INSERT INTO metric_log (run, points) VALUES (?, ?)`, l.seq, packed); err != nil {
			return fmt.Errorf("log metrics of run %s: %w", id, err)
		}
		tx.after(func(committed bool) {
			if committed {
				t.unfolded.add(l.seq, len(packed))
				t.cache.touch(l.experiment, l.seq)
			}
		})
		return modelPoints(tx, workspace, l.seq, points)
	})
}

// liveRow returns what is known of a run, read from its row if it must be.
func (t *Tracking) liveRow(tx *Tx, workspace, id string) (*liveRun, error) {
	key := liveKey(workspace, id)
	if l, ok := t.live[key]; ok {
		return l, nil
	}
	l := &liveRun{}
	err := tx.QueryRow(`SELECT seq, deleted <> 0, id, experiment FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)).Scan(&l.seq, &l.deleted, &l.id, &l.experiment)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, runMissing(id)
	}
	if err != nil {
		return nil, err
	}
	if len(t.live) >= liveKept {
		clear(t.live)
	}
	t.live[key] = l
	// The row may be of this group, which may yet be rolled back.
	tx.after(func(committed bool) {
		if !committed {
			delete(t.live, key)
		}
	})
	return l, nil
}

// changeRecord applies change to the run's record and stores what differs.
func (t *Tracking) changeRecord(tx *Tx, workspace, id string, change func(*tracking.Record) error) error {
	rec, uses, err := record(tx, workspace, id)
	if err != nil {
		return err
	}
	oldParams := maps.Clone(rec.Params)
	oldTags := maps.Clone(rec.Tags)
	oldDatasets := len(rec.Datasets)
	oldRun := rec.Run
	oldIn, oldOut := slices.Clone(rec.ModelInputs), slices.Clone(rec.ModelOutputs)
	if err := change(rec); err != nil {
		return err
	}
	if len(rec.Datasets) != oldDatasets || !slices.Equal(oldIn, rec.ModelInputs) || !slices.Equal(oldOut, rec.ModelOutputs) {
		for _, d := range rec.Datasets[min(oldDatasets, len(rec.Datasets)):] {
			n, err := putDataset(tx, rec.Experiment, d.Dataset)
			if err != nil {
				return err
			}
			at := slices.IndexFunc(uses.Datasets, func(u datasetUse) bool { return u.Dataset == n })
			if at < 0 {
				uses.Datasets = append(uses.Datasets, datasetUse{Dataset: n, Tags: d.Tags})
			}
		}
		uses.In, uses.Out = rec.ModelInputs, rec.ModelOutputs
		text, err := encode(uses)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE runs SET inputs = ? WHERE seq = ?`, text, rec.Seq); err != nil {
			return err
		}
		t.touched(tx, workspace, id, rec.Experiment, rec.Seq)
	}
	if !maps.Equal(oldParams, rec.Params) {
		text, err := encodeMap(rec.Params)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE runs SET params = ? WHERE seq = ?`, text, rec.Seq); err != nil {
			return err
		}
		t.touched(tx, workspace, id, rec.Experiment, rec.Seq)
	}
	if !maps.Equal(oldTags, rec.Tags) || rec.Name != oldRun.Name || rec.Description != oldRun.Description || rec.Parent != oldRun.Parent {
		if _, err := storeRun(tx, rec.Run, true); err != nil {
			return err
		}
	}
	return nil
}

func dataset(tx *Tx, id int64) (d tracking.Dataset, err error) {
	var doc []byte
	if err := tx.QueryRow(`SELECT doc FROM datasets WHERE id = ?`, id).Scan(&doc); err != nil {
		return d, fmt.Errorf("dataset %d: %w", id, err)
	}
	return d, json.Unmarshal(doc, &d)
}

// putDataset returns the row of a dataset, which it makes if it is not there.
func putDataset(tx *Tx, experiment string, d tracking.Dataset) (id int64, err error) {
	err = tx.QueryRow(`SELECT id FROM datasets WHERE experiment = ? AND name = ? AND digest = ?`, experiment, d.Name, d.Digest).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, err
	}
	doc, err := encode(d)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRow(`INSERT INTO datasets (experiment, name, digest, doc) VALUES (?, ?, ?, ?) RETURNING id`, experiment, d.Name, d.Digest, doc).Scan(&id)
	return id, err
}

// detailColumns are those of scanDetail.
const detailColumns = runColumns + `, params, inputs, latest`

// scanDetail reads a row of detailColumns. The datasets come as their rows'
// ids, the metrics without what is not folded yet.
func scanDetail(row scanner) (*tracking.Detail, []datasetUse, error) {
	var params, in, latest []byte
	run, err := scanRun(row, &params, &in, &latest)
	if err != nil {
		return nil, nil, err
	}
	d := &tracking.Detail{Record: tracking.Record{Run: run}}
	if len(params) > 2 {
		if err := json.Unmarshal(params, &d.Params); err != nil {
			return nil, nil, fmt.Errorf("params of run %s: %w", run.ID, err)
		}
	}
	var uses inputs
	if len(in) > 2 {
		if err := json.Unmarshal(in, &uses); err != nil {
			return nil, nil, fmt.Errorf("inputs of run %s: %w", run.ID, err)
		}
	}
	d.ModelInputs, d.ModelOutputs = uses.In, uses.Out
	d.Metrics, err = unpackLatest(latest)
	if err != nil {
		return nil, nil, fmt.Errorf("metrics of run %s: %w", run.ID, err)
	}
	return d, uses.Datasets, nil
}

// snapshot runs fn on one read connection that sees one state of the database.
func (db *DB) snapshot(ctx context.Context, fn func(tx *sql.Tx) error) error {
	tx, err := db.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	return fn(tx)
}

// Detail implements tracking.Store.
func (t *Tracking) Detail(ctx context.Context, workspace, id string) (d *tracking.Detail, err error) {
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		var uses []datasetUse
		d, uses, err = scanDetail(tx.QueryRowContext(ctx, `SELECT `+detailColumns+` FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)))
		if errors.Is(err, sql.ErrNoRows) {
			return runMissing(id)
		}
		if err != nil {
			return err
		}
		return complete(ctx, tx, d, uses)
	})
	return d, err
}

// complete adds to a detail what its row does not hold: datasets, and the
// points that are not folded yet.
func complete(ctx context.Context, tx *sql.Tx, d *tracking.Detail, uses []datasetUse) error {
	for _, u := range uses {
		var doc []byte
		var in tracking.DatasetInput
		if err := tx.QueryRowContext(ctx, `SELECT doc FROM datasets WHERE id = ?`, u.Dataset).Scan(&doc); err != nil {
			return fmt.Errorf("dataset %d: %w", u.Dataset, err)
		}
		if err := json.Unmarshal(doc, &in.Dataset); err != nil {
			return fmt.Errorf("dataset %d: %w", u.Dataset, err)
		}
		in.Tags = u.Tags
		d.Datasets = append(d.Datasets, in)
	}
	rows, err := tx.QueryContext(ctx, `SELECT points FROM metric_log WHERE run = ? ORDER BY id`, d.Seq)
	if err != nil {
		return err
	}
	defer rows.Close()
	var latest *latestOf
	for rows.Next() {
		var packed sql.RawBytes
		if err := rows.Scan(&packed); err != nil {
			return err
		}
		if latest == nil {
			latest = newLatest(d.Metrics)
		}
		if err := eachLogged(packed, func(key []byte, p tracking.Point) { latest.add(key, p) }); err != nil {
			return fmt.Errorf("metrics of run %s: %w", d.ID, err)
		}
	}
	if latest != nil {
		d.Metrics = latest.metrics()
	}
	return rows.Err()
}
