package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/tracking"
)

const (
	// chunkPoints is how many points a full chunk holds: enough for the
	// compression, few enough to be rewritten while the chunk fills.
	chunkPoints = 4096

	// A run's log is folded when it has this much, or has rested this long.
	// Until then each read of the run's metrics reads the log as well.
	foldRows  = 512
	foldBytes = 256 << 10
	foldRest  = 2 * time.Second
	foldEvery = 100 * time.Millisecond
)

// unfolded knows which runs have points in the log.
type unfolded struct {
	mu   sync.Mutex
	runs map[int64]*backlog
}

type backlog struct {
	rows, bytes int
	last        time.Time
}

func (u *unfolded) load(db *DB) error {
	u.runs = map[int64]*backlog{}
	rows, err := db.read.Query(`SELECT run, count(*), sum(length(points)) FROM metric_log GROUP BY run`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var run int64
		b := &backlog{}
		if err := rows.Scan(&run, &b.rows, &b.bytes); err != nil {
			return err
		}
		u.runs[run] = b
	}
	return rows.Err()
}

func (u *unfolded) add(run int64, bytes int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.runs[run]
	if b == nil {
		b = &backlog{}
		u.runs[run] = b
	}
	b.rows++
	b.bytes += bytes
	b.last = time.Now()
}

// due returns the runs whose log is long or old enough; all, if all is set.
func (u *unfolded) due(now time.Time, all bool) []int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	var runs []int64
	for run, b := range u.runs {
		if all || b.rows >= foldRows || b.bytes >= foldBytes || now.Sub(b.last) >= foldRest {
			runs = append(runs, run)
		}
	}
	return runs
}

func (u *unfolded) took(run int64, rows, bytes int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if b := u.runs[run]; b != nil {
		b.rows -= rows
		b.bytes -= bytes
		if b.rows <= 0 {
			delete(u.runs, run)
		}
	}
}

// Fold moves points from the log into chunks, as they become due, until ctx
// ends. Without it all works, and gets slower and larger. At its start it makes
// ready what the first searches will want.
func (t *Tracking) Fold(ctx context.Context) error {
	var warm sync.WaitGroup
	defer warm.Wait()
	warm.Go(func() { _ = t.Warm(ctx) }) // else the first search does it, and says what is wrong
	tick := time.NewTicker(foldEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, run := range t.unfolded.due(now, false) {
				if err := t.foldRun(ctx, run); err != nil {
					if ctx.Err() != nil {
						return nil
					}
					if fault.Is(err, fault.StorageFull) || fault.Is(err, fault.Unavailable) {
						break // the points are safe in the log; later, then
					}
					return err
				}
			}
		}
	}
}

// FoldAll folds everything now.
func (t *Tracking) FoldAll(ctx context.Context) error {
	for {
		runs := t.unfolded.due(time.Time{}, true)
		if len(runs) == 0 {
			return nil
		}
		for _, run := range runs {
			if err := t.foldRun(ctx, run); err != nil {
				return err
			}
		}
	}
}

// chunk is one row of metric_chunks to be.
type chunk struct {
	key    string
	points []tracking.Point
	packed []byte
}

// foldRun folds up to a few megabytes of one run's log.
func (t *Tracking) foldRun(ctx context.Context, run int64) error {
	t.fold.Lock()
	defer t.fold.Unlock()
	series := map[string][]tracking.Point{}
	var until int64 // highest id read
	rowCount, bytes := 0, 0
	var latest []byte
	var replaced []int64 // chunks that are merged with the new points
	err := t.db.snapshot(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT latest FROM runs WHERE seq = ?`, run).Scan(&latest); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT id, points FROM metric_log WHERE run = ? ORDER BY id LIMIT 8192`, run)
		if err != nil {
			return err
		}
		defer rows.Close()
		for bytes < 8<<20 && rows.Next() {
			var packed sql.RawBytes
			if err := rows.Scan(&until, &packed); err != nil {
				return err
			}
			rowCount++
			bytes += len(packed)
			err := eachLogged(packed, func(key []byte, p tracking.Point) {
				series[string(key)] = append(series[string(key)], p)
			})
			if err != nil {
				return err
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		for key, points := range series {
			var id int64
			var packed []byte
			err := tx.QueryRowContext(ctx, `SELECT id, points FROM metric_chunks WHERE run = ? AND key = ? AND count < ?
				ORDER BY first DESC LIMIT 1`, run, key, chunkPoints).Scan(&id, &packed)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			if series[key], err = unpackChunk(packed, points); err != nil {
				return err
			}
			replaced = append(replaced, id)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fold metrics of run %d: %w", run, err)
	}
	if rowCount == 0 {
		t.unfolded.mu.Lock()
		delete(t.unfolded.runs, run)
		t.unfolded.mu.Unlock()
		return nil
	}
	old, err := unpackLatest(latest)
	if err != nil {
		return fmt.Errorf("fold metrics of run %d: %w", run, err)
	}
	best := newLatest(old)
	var chunks []chunk
	for key, points := range series {
		points = tidy(points)
		// The latest of all is among the last step's.
		for i := len(points) - 1; i >= 0 && points[i].Step == points[len(points)-1].Step; i-- {
			best.add([]byte(key), points[i])
		}
		for part := range slices.Chunk(points, chunkPoints) {
			chunks = append(chunks, chunk{key: key, points: part, packed: packChunk(part)})
		}
	}
	packedLatest := packLatest(best.metrics())
	err = t.db.Write(ctx, func(tx *Tx) error {
		result, err := tx.Exec(`UPDATE runs SET latest = ? WHERE seq = ?`, packedLatest, run)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err // the run was removed, and its rows with it
		}
		for _, id := range replaced {
			if _, err := tx.Exec(`DELETE FROM metric_chunks WHERE id = ?`, id); err != nil {
				return err
			}
		}
		for _, c := range chunks {
			if _, err := tx.Exec(`INSERT INTO metric_chunks (run, key, first, last, count, points) VALUES (?, ?, ?, ?, ?, ?)`,
				run, c.key, c.points[0].Step, c.points[len(c.points)-1].Step, len(c.points), c.packed); err != nil {
				return err
			}
		}
		_, err = tx.Exec(`DELETE FROM metric_log WHERE run = ? AND id <= ?`, run, until)
		return err
	})
	if err != nil {
		return fmt.Errorf("fold metrics of run %d: %w", run, err)
	}
	t.unfolded.took(run, rowCount, bytes)
	return nil
}

// Series implements tracking.Store.
func (t *Tracking) Series(ctx context.Context, workspace, id, key string) (points []tracking.Point, err error) {
	err = t.Points(ctx, workspace, id, key, func(n int) { points = make([]tracking.Point, 0, n) },
		func(piece []tracking.Point) { points = append(points, piece...) })
	return points, err
}

// piece is a chunk that is not unpacked yet.
type piece struct {
	first, last int64 // steps
	count       int
	packed      []byte
}

// Points implements tracking.Store.
func (t *Tracking) Points(ctx context.Context, workspace, id, key string, begin func(n int), visit func([]tracking.Point)) error {
	pieces, tail, err := t.pieces(ctx, workspace, id, key)
	if err != nil {
		return fmt.Errorf("metric %q of run %s: %w", key, id, err)
	}
	tail = tidy(tail)
	n := len(tail)
	ordered := true
	for i, p := range pieces {
		n += p.count
		if i > 0 && p.first <= pieces[i-1].last {
			ordered = false
		}
	}
	if len(pieces) > 0 && len(tail) > 0 && tail[0].Step <= pieces[len(pieces)-1].last {
		ordered = false
	}
	var u unpacking
	if !ordered {
		all := make([]tracking.Point, 0, n)
		for _, p := range pieces {
			if all, err = u.chunk(p.packed, all); err != nil {
				return fmt.Errorf("metric %q of run %s: %w", key, id, err)
			}
		}
		all = tidy(append(all, tail...))
		begin(len(all))
		visit(all)
		return nil
	}
	begin(n)
	buffer := make([]tracking.Point, 0, min(n, chunkPoints))
	for _, p := range pieces {
		if buffer, err = u.chunk(p.packed, buffer[:0]); err != nil {
			return fmt.Errorf("metric %q of run %s: %w", key, id, err)
		}
		if len(buffer) != p.count {
			return fmt.Errorf("metric %q of run %s: %w", key, id, errPacked)
		}
		visit(buffer)
	}
	if len(tail) > 0 {
		visit(tail)
	}
	return nil
}

// pieces reads the chunks of a metric, by step, and the points that are not
// folded yet. A run that is not there has none.
func (t *Tracking) pieces(ctx context.Context, workspace, id, key string) (pieces []piece, tail []tracking.Point, err error) {
	err = t.db.snapshot(ctx, func(tx *sql.Tx) error {
		var run int64
		err := tx.QueryRowContext(ctx, `SELECT seq FROM runs WHERE workspace = ? AND key = ?`, workspace, strings.ToLower(id)).Scan(&run)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		chunks, err := tx.QueryContext(ctx, `SELECT first, last, count, points FROM metric_chunks WHERE run = ? AND key = ? ORDER BY first`, run, key)
		if err != nil {
			return err
		}
		defer chunks.Close()
		for chunks.Next() {
			var p piece
			if err := chunks.Scan(&p.first, &p.last, &p.count, &p.packed); err != nil {
				return err
			}
			pieces = append(pieces, p)
		}
		if err := chunks.Err(); err != nil {
			return err
		}
		chunks.Close()
		rows, err := tx.QueryContext(ctx, `SELECT points FROM metric_log WHERE run = ? ORDER BY id`, run)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var packed sql.RawBytes
			if err := rows.Scan(&packed); err != nil {
				return err
			}
			err := eachLogged(packed, func(k []byte, p tracking.Point) {
				if string(k) == key {
					tail = append(tail, p)
				}
			})
			if err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return pieces, tail, err
}
