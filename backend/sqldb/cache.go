package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/tracking"
)

const (
	// indexBytes bounds the indexes that are kept, but for the one that was
	// searched last.
	indexBytes = 96 << 20

	// shownBytes bounds the runs that are kept as they were shown last.
	shownBytes = 24 << 20

	// warmBytes bounds the indexes that are made when the server starts.
	warmBytes = 48 << 20
)

// cache keeps the indexes of the experiments that were searched lately, and the
// runs that were shown. A write marks the runs it touches before it is
// acknowledged; the next search reads those again. So a search sees all that
// was acknowledged before it began.
type cache struct {
	mu          sync.Mutex
	experiments map[string]*indexed
	clock       int64 // counts searches

	shown     map[int64]*shown
	shownSize int
	turn      int64       // counts marks
	marked    [1024]int64 // the runs marked last, by turn; -1 = all
}

// indexed is the index of one experiment.
type indexed struct {
	id        string
	workspace string // GUID
	used      int64  // by cache.clock
	dirty     map[int64]bool
	size      int // as of the last search

	lock  sync.RWMutex // held to write while rows are read
	index *tracking.Index
}

// shown is a run that was shown.
type shown struct {
	detail *tracking.Detail
	size   int
}

func (c *cache) init() {
	c.experiments = map[string]*indexed{}
	c.shown = map[int64]*shown{}
}

// touch marks a run that was made or changed, or logged something.
func (c *cache) touch(experiment string, seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(seq)
	if e := c.experiments[experiment]; e != nil {
		e.dirty[seq] = true
	}
	c.hide(seq)
}

func (c *cache) mark(seq int64) {
	c.turn++
	c.marked[c.turn%int64(len(c.marked))] = seq
}

// markedSince tells whether a run was marked after a turn, or may have been.
func (c *cache) markedSince(turn, seq int64) bool {
	if c.turn-turn >= int64(len(c.marked)) {
		return true
	}
	for i := turn + 1; i <= c.turn; i++ {
		if m := c.marked[i%int64(len(c.marked))]; m == seq || m == -1 {
			return true
		}
	}
	return false
}

func (c *cache) hide(seq int64) {
	if s := c.shown[seq]; s != nil {
		c.shownSize -= s.size
		delete(c.shown, seq)
	}
}

// forget drops an experiment.
func (c *cache) forget(experiment string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(-1)
	delete(c.experiments, experiment)
	clear(c.shown)
	c.shownSize = 0
}

// Index implements tracking.Store.
func (t *Tracking) Index(ctx context.Context, workspace string, experiments []string, visit func(*tracking.Index) error) error {
	for i, id := range experiments {
		if slices.Contains(experiments[:i], id) {
			continue
		}
		e, err := t.indexed(ctx, id)
		if err != nil {
			return fmt.Errorf("read runs of experiment %s: %w", id, err)
		}
		if e == nil || e.workspace != workspace {
			continue
		}
		e.lock.RLock()
		err = visit(e.index)
		e.lock.RUnlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// indexed returns the experiment's index with all that is acknowledged now; nil
// when there is no such experiment.
func (t *Tracking) indexed(ctx context.Context, experiment string) (*indexed, error) {
	c := &t.cache
	c.mu.Lock()
	c.clock++
	e := c.experiments[experiment]
	if e == nil {
		e = &indexed{id: experiment, dirty: map[int64]bool{}}
		c.experiments[experiment] = e
	}
	e.used = c.clock
	clean := len(e.dirty) == 0
	c.mu.Unlock()

	if clean {
		e.lock.RLock()
		ready := e.index != nil
		e.lock.RUnlock()
		if ready {
			return e, nil
		}
	}
	e.lock.Lock()
	defer e.lock.Unlock()
	c.mu.Lock()
	dirty := e.dirty
	e.dirty = map[int64]bool{}
	c.mu.Unlock()
	err := t.refresh(ctx, e, dirty)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		for seq := range dirty {
			e.dirty[seq] = true
		}
		if e.index == nil && c.experiments[experiment] == e {
			delete(c.experiments, experiment)
		}
		if fault.Is(err, fault.Missing) {
			return nil, nil
		}
		return nil, err
	}
	e.size = e.index.Size()
	c.shrink(e)
	return e, nil
}

// shrink drops the experiments not searched for longest, but not keep.
func (c *cache) shrink(keep *indexed) {
	for {
		all := 0
		var oldest *indexed
		for _, e := range c.experiments {
			all += e.size
			if e != keep && e.size > 0 && (oldest == nil || e.used < oldest.used) {
				oldest = e
			}
		}
		if all <= indexBytes || oldest == nil {
			return
		}
		delete(c.experiments, oldest.id)
	}
}

// refresh brings an index up to date. The caller holds its lock.
func (t *Tracking) refresh(ctx context.Context, e *indexed, dirty map[int64]bool) error {
	if e.index == nil || e.index.Sparse() {
		return t.load(ctx, e)
	}
	if len(dirty) == 0 {
		return nil
	}
	seqs := make([]int64, 0, len(dirty))
	for seq := range dirty {
		seqs = append(seqs, seq)
	}
	slices.Sort(seqs)
	for part := range slices.Chunk(seqs, 1000) {
		runs, err := t.readRuns(ctx, part)
		if err != nil {
			return err
		}
		for _, seq := range part {
			d := runs[seq]
			switch {
			case d == nil || d.Experiment != e.id:
				e.index.Remove(seq) // it is gone or has moved
			case !e.index.Set(d):
				return t.load(ctx, e)
			}
		}
	}
	return nil
}

// load makes an experiment's index anew.
func (t *Tracking) load(ctx context.Context, e *indexed) error {
	n, err := strconv.ParseInt(e.id, 10, 64)
	if err != nil {
		return experimentMissing(e.id)
	}
	index := tracking.NewIndex()
	workspace := ""
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT workspace FROM experiments WHERE id = ?`, n).Scan(&workspace)
		if err == sql.ErrNoRows {
			return experimentMissing(e.id)
		}
		if err != nil {
			return err
		}
		waiting, err := readLog(ctx, tx, `run IN (SELECT seq FROM runs WHERE experiment = ?)`, n)
		if err != nil {
			return err
		}
		return loadIndex(ctx, tx, index, n, waiting)
	})
	if err != nil {
		return err
	}
	e.index, e.workspace = index, workspace
	return nil
}

// loadIndex reads the runs of an experiment. It runs once for each experiment
// and may meet a hundred thousand runs, so it makes no maps of what it reads.
func loadIndex(ctx context.Context, tx *sql.Tx, index *tracking.Index, experiment int64, waiting map[int64][][]byte) error {
	rows, err := tx.QueryContext(ctx, `SELECT seq, id, parent, status, deleted, start, finish, name, user, artifact, tags, params,
		CASE more WHEN '{}' THEN NULL ELSE more ->> '$.description' END, CASE inputs WHEN '{}' THEN NULL ELSE inputs END, latest FROM runs WHERE experiment = ? ORDER BY seq`, experiment)
	if err != nil {
		return err
	}
	defer rows.Close()
	used := map[int64][]datasetUse{}
	var r tracking.Run
	var tags, params, description, in, latest sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&r.Seq, &r.ID, &r.Parent, &r.Status, &r.Deleted, &r.Start, &r.End, &r.Name, &r.User, &r.Artifact,
			&tags, &params, &description, &in, &latest); err != nil {
			return err
		}
		row, ok := index.Begin(&r)
		if !ok {
			return fmt.Errorf("run %s is out of order", r.ID)
		}
		if len(description) > 0 {
			index.Tag(row, []byte(tracking.TagNote), description)
		}
		if r.Parent != "" {
			index.Tag(row, []byte(tracking.TagParent), []byte(r.Parent))
		}
		err := eachPair(tags, func(k, v []byte) {
			switch string(k) {
			case tracking.TagName:
				if r.Name != "" {
					return
				}
			case tracking.TagNote:
				if len(description) > 0 {
					return
				}
			case tracking.TagParent:
				if r.Parent != "" {
					return
				}
			}
			index.Tag(row, k, v)
		})
		if err == nil {
			err = eachPair(params, func(k, v []byte) { index.Param(row, k, v) })
		}
		if err == nil {
			err = indexMetrics(index, row, latest, waiting[r.Seq])
		}
		if err != nil {
			return fmt.Errorf("row of run %s: %w", r.ID, err)
		}
		if len(in) > 2 {
			var uses inputs
			if err := json.Unmarshal(in, &uses); err != nil {
				return fmt.Errorf("inputs of run %s: %w", r.ID, err)
			}
			if len(uses.Datasets) > 0 {
				used[int64(row)] = uses.Datasets
			}
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	known := map[int64]*tracking.DatasetInput{}
	for row, uses := range used {
		for _, u := range uses {
			d := known[u.Dataset]
			if d == nil {
				d = &tracking.DatasetInput{}
				if err := tx.QueryRowContext(ctx, `SELECT name, digest FROM datasets WHERE id = ?`, u.Dataset).Scan(&d.Dataset.Name, &d.Dataset.Digest); err != nil {
					return fmt.Errorf("dataset %d: %w", u.Dataset, err)
				}
				known[u.Dataset] = d
			}
			d.Tags = u.Tags
			index.Dataset(uint32(row), d)
		}
	}
	return nil
}

// indexMetrics sets the latest of a run's metrics, of those that are folded and
// those that wait.
func indexMetrics(index *tracking.Index, row uint32, latest []byte, waiting [][]byte) error {
	if len(waiting) == 0 {
		return eachLogged(latest, func(key []byte, p tracking.Point) { index.Metric(row, key, p.Value) })
	}
	folded, err := unpackLatest(latest)
	if err != nil {
		return err
	}
	best := newLatest(folded)
	for _, packed := range waiting {
		if err := eachLogged(packed, best.add); err != nil {
			return err
		}
	}
	for _, m := range best.list {
		index.Metric(row, []byte(m.Key), m.Value)
	}
	return nil
}

// eachPair visits the members of a JSON object of texts.
func eachPair(object []byte, visit func(k, v []byte)) error {
	b := object
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return slowPairs(object, visit)
	}
	// The first pass finds out whether it is as plain as it should be.
	for plain := range 2 {
		b := b[1 : len(b)-1]
		for len(b) > 0 {
			k, rest, ok := plainText(b)
			if !ok || len(rest) == 0 || rest[0] != ':' {
				return slowPairs(object, visit)
			}
			v, rest, ok := plainText(rest[1:])
			if !ok || len(rest) > 0 && (rest[0] != ',' || len(rest) == 1) {
				return slowPairs(object, visit)
			}
			if plain == 1 {
				visit(k, v)
			}
			b = rest[min(1, len(rest)):]
		}
	}
	return nil
}

// plainText reads a JSON string that has nothing escaped.
func plainText(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			return b[1:i], b[i+1:], true
		case '\\':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

func slowPairs(object []byte, visit func(k, v []byte)) error {
	var m map[string]string
	if err := json.Unmarshal(object, &m); err != nil {
		return err
	}
	for k, v := range m {
		visit([]byte(k), []byte(v))
	}
	return nil
}

// readLog returns the requests that are not folded yet, by run.
func readLog(ctx context.Context, tx *sql.Tx, where string, arg any) (map[int64][][]byte, error) {
	rows, err := tx.QueryContext(ctx, `SELECT run, points FROM metric_log WHERE `+where+` ORDER BY id`, arg)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	waiting := map[int64][][]byte{}
	for rows.Next() {
		var run int64
		var packed []byte
		if err := rows.Scan(&run, &packed); err != nil {
			return nil, err
		}
		waiting[run] = append(waiting[run], packed)
	}
	return waiting, rows.Err()
}

// Details implements tracking.Store.
func (t *Tracking) Details(ctx context.Context, seqs []int64) (map[int64]*tracking.Detail, error) {
	found := make(map[int64]*tracking.Detail, len(seqs))
	var others []int64
	c := &t.cache
	c.mu.Lock()
	turn := c.turn
	for _, seq := range seqs {
		if s := c.shown[seq]; s != nil {
			found[seq] = s.detail
		} else {
			others = append(others, seq)
		}
	}
	c.mu.Unlock()
	for part := range slices.Chunk(others, 1000) {
		runs, err := t.readRuns(ctx, part)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		for seq, d := range runs {
			found[seq] = d
			// What was written since may be newer than what was read.
			if !c.markedSince(turn, seq) {
				c.show(seq, d)
			}
		}
		c.mu.Unlock()
	}
	return found, nil
}

// show keeps a run; others make room for it.
func (c *cache) show(seq int64, d *tracking.Detail) {
	size := 1500 + 250*len(d.Metrics) + 2*(len(d.Description)+len(d.Artifact))
	for k, v := range d.Params {
		size += 100 + 2*(len(k)+len(v))
	}
	for k, v := range d.Tags {
		size += 100 + 2*(len(k)+len(v))
	}
	for i := range d.Datasets {
		size += 200 + 2*(len(d.Datasets[i].Dataset.Source)+len(d.Datasets[i].Dataset.Schema)+len(d.Datasets[i].Dataset.Profile))
	}
	if size > shownBytes/16 || c.shown[seq] != nil {
		return
	}
	for old := range c.shown { // any one
		if c.shownSize+size <= shownBytes {
			break
		}
		c.hide(old)
	}
	c.shown[seq] = &shown{d, size}
	c.shownSize += size
}

// readRuns reads runs with all they logged, by Seq.
func (t *Tracking) readRuns(ctx context.Context, seqs []int64) (map[int64]*tracking.Detail, error) {
	runs := make(map[int64]*tracking.Detail, len(seqs))
	list, err := encode(seqs)
	if err != nil {
		return nil, err
	}
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT `+detailColumns+` FROM runs WHERE seq IN (SELECT value FROM json_each(?))`, list)
		if err != nil {
			return err
		}
		defer rows.Close()
		used := map[*tracking.Detail][]datasetUse{}
		for rows.Next() {
			d, uses, err := scanDetail(rows)
			if err != nil {
				return err
			}
			runs[d.Seq] = d
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
		waiting, err := readLog(ctx, tx, `run IN (SELECT value FROM json_each(?))`, list)
		if err != nil {
			return err
		}
		for seq, packed := range waiting {
			d := runs[seq]
			if d == nil {
				continue
			}
			best := newLatest(d.Metrics)
			for _, p := range packed {
				if err := eachLogged(p, best.add); err != nil {
					return fmt.Errorf("metrics of run %s: %w", d.ID, err)
				}
			}
			d.Metrics = best.metrics()
		}
		return nil
	})
	return runs, err
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

// Warm makes the indexes of the experiments that were used last, so that the
// first search need not wait for it. It ends early with ctx, without an error.
func (t *Tracking) Warm(ctx context.Context) error {
	ids, err := t.lately(ctx)
	if err != nil {
		return err
	}
	size := 0
	for _, id := range ids {
		e, err := t.indexed(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("index experiment %s: %w", id, err)
		}
		if e != nil {
			size += e.size
		}
		if size > warmBytes {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond): // requests come first
		}
	}
	return nil
}

// lately returns the experiments of the newest runs.
func (t *Tracking) lately(ctx context.Context) ([]string, error) {
	rows, err := t.db.read.QueryContext(ctx, `SELECT experiment FROM (SELECT experiment, seq FROM runs ORDER BY seq DESC LIMIT 1000) GROUP BY experiment ORDER BY max(seq) DESC LIMIT 20`)
	return all(rows, err, func(row scanner) (string, error) {
		var id string
		err := row.Scan(&id)
		return id, err
	})
}
