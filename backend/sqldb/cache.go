package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"lapis/ml/tracking"
)

// cacheRuns bounds the runs kept for searching, over all experiments.
const cacheRuns = 200_000

// cache keeps the runs of the experiments that were searched lately. A write
// marks the runs it touches before it is acknowledged; the next search reads
// those again. So a search sees all that was acknowledged before it began.
type cache struct {
	mu          sync.Mutex
	experiments map[string]*cachedExperiment
	byRun       map[int64]*cachedExperiment
	clock       int64 // counts searches
}

type cachedExperiment struct {
	id     string
	used   int64 // by cache.clock
	dirty  map[int64]bool
	loaded bool

	load sync.Mutex         // held while rows are read
	runs []*tracking.Detail // by Seq, newest first; replaced, never changed
}

func (c *cache) init() {
	c.experiments = map[string]*cachedExperiment{}
	c.byRun = map[int64]*cachedExperiment{}
}

// touch marks a run that was made or changed.
func (c *cache) touch(experiment string, seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.experiments[experiment]; e != nil {
		e.dirty[seq] = true
	}
	if e := c.byRun[seq]; e != nil {
		e.dirty[seq] = true
	}
}

// touchRun marks a run that logged something.
func (c *cache) touchRun(seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byRun[seq]; e != nil {
		e.dirty[seq] = true
	}
}

// forget drops an experiment.
func (c *cache) forget(experiment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(c.experiments[experiment])
}

func (c *cache) drop(e *cachedExperiment) {
	if e == nil {
		return
	}
	delete(c.experiments, e.id)
	for seq, of := range c.byRun {
		if of == e {
			delete(c.byRun, seq)
		}
	}
}

// Scan implements tracking.Store.
func (t *Tracking) Scan(ctx context.Context, workspace string, experiments []string, visit func(*tracking.Detail) bool) error {
	seen := map[string]bool{}
	for _, id := range experiments {
		if seen[id] {
			continue
		}
		seen[id] = true
		runs, err := t.runsOf(ctx, id)
		if err != nil {
			return fmt.Errorf("read runs of experiment %s: %w", id, err)
		}
		for _, d := range runs {
			if d.Workspace == workspace && !visit(d) {
				return nil
			}
		}
	}
	return nil
}

// runsOf returns the experiment's runs as they are now.
func (t *Tracking) runsOf(ctx context.Context, experiment string) ([]*tracking.Detail, error) {
	c := &t.cache
	c.mu.Lock()
	c.clock++
	e := c.experiments[experiment]
	if e == nil {
		e = &cachedExperiment{id: experiment, dirty: map[int64]bool{}}
		c.experiments[experiment] = e
	}
	e.used = c.clock
	c.mu.Unlock()

	e.load.Lock()
	defer e.load.Unlock()
	c.mu.Lock()
	dirty, first := e.dirty, !e.loaded
	if !first && len(dirty) == 0 {
		c.mu.Unlock()
		return e.runs, nil
	}
	e.dirty = map[int64]bool{}
	c.mu.Unlock()

	var runs []*tracking.Detail
	var err error
	if first {
		runs, err = t.readRuns(ctx, experiment, `experiment = ?`, experiment)
	} else {
		seqs := make([]int64, 0, len(dirty))
		for seq := range dirty {
			seqs = append(seqs, seq)
		}
		var list string
		if list, err = encode(seqs); err == nil {
			runs, err = t.readRuns(ctx, experiment, `seq IN (SELECT value FROM json_each(?))`, list)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		for seq := range dirty {
			e.dirty[seq] = true
		}
		return nil, err
	}
	if first {
		e.runs, e.loaded = runs, true
	} else {
		e.runs = merged(e.runs, runs, dirty)
	}
	if c.experiments[experiment] == e {
		for _, d := range runs {
			c.byRun[d.Seq] = e
		}
		c.shrink(e)
	}
	return e.runs, nil
}

// merged is old without the dirty runs, and with the new ones.
func merged(old, fresh []*tracking.Detail, dirty map[int64]bool) []*tracking.Detail {
	all := make([]*tracking.Detail, 0, len(old)+len(fresh))
	for _, d := range old {
		for len(fresh) > 0 && fresh[0].Seq > d.Seq {
			all, fresh = append(all, fresh[0]), fresh[1:]
		}
		if !dirty[d.Seq] {
			all = append(all, d)
		}
	}
	return append(all, fresh...)
}

// shrink drops the experiments not searched for longest, but not keep.
func (c *cache) shrink(keep *cachedExperiment) {
	for len(c.byRun) > cacheRuns {
		var oldest *cachedExperiment
		for _, e := range c.experiments {
			if e != keep && (oldest == nil || e.used < oldest.used) {
				oldest = e
			}
		}
		if oldest == nil {
			return
		}
		c.drop(oldest)
	}
}

// readRuns reads runs of one experiment with all they logged, newest first.
func (t *Tracking) readRuns(ctx context.Context, experiment, where string, arg any) (runs []*tracking.Detail, err error) {
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT `+detailColumns+` FROM runs WHERE `+where+` ORDER BY seq DESC`, arg)
		if err != nil {
			return err
		}
		defer rows.Close()
		bySeq := map[int64]*tracking.Detail{}
		same := texts{}
		used := map[*tracking.Detail][]datasetUse{}
		for rows.Next() {
			d, uses, err := scanDetail(rows)
			if err != nil {
				return err
			}
			if d.Experiment != experiment {
				continue // it has moved
			}
			same.share(d)
			runs = append(runs, d)
			bySeq[d.Seq] = d
			if len(uses) > 0 {
				used[d] = uses
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		if err := readDatasets(ctx, tx, used); err != nil {
			return err
		}
		return readLog(ctx, tx, bySeq, where, arg)
	})
	return runs, err
}

// texts holds one copy of each text, for runs that say much the same.
type texts map[string]string

func (t texts) one(s string) string {
	if len(s) > 64 {
		return s
	}
	if had, ok := t[s]; ok {
		return had
	}
	t[s] = s
	return s
}

func (t texts) oneMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	shared := make(map[string]string, len(m))
	for k, v := range m {
		shared[t.one(k)] = t.one(v)
	}
	return shared
}

// share makes a run use the texts that others use.
func (t texts) share(d *tracking.Detail) {
	for _, s := range []*string{&d.Workspace, &d.Experiment, &d.Parent, &d.User, (*string)(&d.Status)} {
		*s = t.one(*s)
	}
	d.Tags, d.Params = t.oneMap(d.Tags), t.oneMap(d.Params)
	for i := range d.Metrics {
		d.Metrics[i].Key = t.one(d.Metrics[i].Key)
	}
}

// readDatasets fills in the datasets of runs; those that share one share its bytes.
func readDatasets(ctx context.Context, tx *sql.Tx, used map[*tracking.Detail][]datasetUse) error {
	known := map[int64]tracking.Dataset{}
	for d, uses := range used {
		for _, u := range uses {
			set, ok := known[u.Dataset]
			if !ok {
				var doc []byte
				if err := tx.QueryRowContext(ctx, `SELECT doc FROM datasets WHERE id = ?`, u.Dataset).Scan(&doc); err != nil {
					return fmt.Errorf("dataset %d: %w", u.Dataset, err)
				}
				if err := json.Unmarshal(doc, &set); err != nil {
					return fmt.Errorf("dataset %d: %w", u.Dataset, err)
				}
				known[u.Dataset] = set
			}
			d.Datasets = append(d.Datasets, tracking.DatasetInput{Tags: u.Tags, Dataset: set})
		}
	}
	return nil
}

// readLog adds the points that are not folded yet.
func readLog(ctx context.Context, tx *sql.Tx, bySeq map[int64]*tracking.Detail, where string, arg any) error {
	rows, err := tx.QueryContext(ctx, `SELECT run, points FROM metric_log WHERE run IN (SELECT seq FROM runs WHERE `+where+`) ORDER BY run`, arg)
	if err != nil {
		return err
	}
	defer rows.Close()
	var of *tracking.Detail
	var latest *latestOf
	finish := func() {
		if of != nil {
			of.Metrics = slices.Clip(latest.metrics())
		}
	}
	for rows.Next() {
		var seq int64
		var packed sql.RawBytes
		if err := rows.Scan(&seq, &packed); err != nil {
			return err
		}
		d := bySeq[seq]
		if d == nil {
			continue
		}
		if d != of {
			finish()
			of, latest = d, newLatest(d.Metrics)
		}
		if err := eachLogged(packed, func(key []byte, p tracking.Point) { latest.add(key, p) }); err != nil {
			return fmt.Errorf("metrics of run %s: %w", d.ID, err)
		}
	}
	finish()
	return rows.Err()
}
