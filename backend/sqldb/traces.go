package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"lapis/fault"
	"lapis/ml/trace"
)

// Traces is the trace.Store of a database.
type Traces struct{ db *DB }

var _ trace.Store = (*Traces)(nil)

// NewTraces returns the trace store of db.
func NewTraces(db *DB) *Traces { return &Traces{db} }

const traceColumns = `seq, workspace, experiment, doc`

func scanTrace(row scanner) (seq int64, info *trace.Info, err error) {
	info = &trace.Info{}
	var doc []byte
	if err := row.Scan(&seq, &info.Workspace, &info.Experiment, &doc); err != nil {
		return 0, nil, err
	}
	if err := json.Unmarshal(doc, info); err != nil {
		return 0, nil, fmt.Errorf("row of a trace: %w", err)
	}
	return seq, info, nil
}

// changeTrace is ChangeTrace inside a transaction; it returns the row.
func changeTrace(tx *Tx, workspace, id string, change func(*trace.Info) (*trace.Info, error)) (int64, *trace.Info, error) {
	seq, old, err := scanTrace(tx.QueryRow(`SELECT `+traceColumns+` FROM traces WHERE workspace = ? AND id = ?`, workspace, id))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, nil, err
	}
	info, err := change(old)
	if err != nil || info == nil {
		return seq, old, err
	}
	doc, err := encode(info)
	if err != nil {
		return 0, nil, err
	}
	err = tx.QueryRow(`INSERT INTO traces (workspace, id, experiment, start, doc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (workspace, id) DO UPDATE SET experiment = excluded.experiment, start = excluded.start, doc = excluded.doc RETURNING seq`,
		workspace, id, info.Experiment, info.Start, doc).Scan(&seq)
	return seq, info, err
}

// ChangeTrace implements trace.Store.
func (t *Traces) ChangeTrace(ctx context.Context, workspace, id string, change func(*trace.Info) (*trace.Info, error)) (info *trace.Info, err error) {
	err = t.db.Write(ctx, func(tx *Tx) (err error) {
		_, info, err = changeTrace(tx, workspace, id, change)
		return err
	})
	return info, err
}

// The parts of a trace, one for each request that brought spans, have the row
// ids seq * 2^partBits and up: those of one trace stand together, and new ones
// at the end of the table.
const (
	partBits = 20
	maxParts = 1 << partBits
)

// rowsAtOnce is how many rows one statement of LogSpans inserts.
const rowsAtOnce = 32

// A statement that fails takes the whole write with it (its savepoint is rolled
// back), so it need not keep a journal to undo itself: OR FAIL.
var (
	insertTrace  = `INSERT OR FAIL INTO traces (seq, workspace, id, experiment, start, doc) VALUES (?, ?, ?, ?, ?, ?)`
	insertPart   = `INSERT OR FAIL INTO trace_parts (id, spans) VALUES (?, ?)`
	insertTraces = insertTrace + strings.Repeat(`, (?, ?, ?, ?, ?, ?)`, rowsAtOnce-1)
	insertParts  = insertPart + strings.Repeat(`, (?, ?)`, rowsAtOnce-1)
)

// spanPacker compresses spans: several requests at once, and quickly.
var spanPacker, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true), zstd.WithWindowSize(128<<10))

// part is what a request has of one trace.
type part struct {
	id     string
	spans  []trace.Span
	packed []byte
	fresh  *trace.Info // the trace, if it is new
	doc    string
}

// LogSpans implements trace.Store. All that can be done before the transaction
// is: most traces are new.
func (t *Traces) LogSpans(ctx context.Context, workspace string, spans []trace.Span,
	change func(string, *trace.Info, []trace.Span, func() ([]trace.Span, error)) (*trace.Info, error)) error {
	parts, ids, err := group(spans)
	if err != nil {
		return err
	}
	for i := range parts {
		p := &parts[i]
		if p.fresh, err = change(p.id, nil, p.spans, func() ([]trace.Span, error) { return nil, nil }); err != nil {
			return err
		}
		if p.doc, err = encode(p.fresh); err != nil {
			return err
		}
	}
	return t.db.Write(ctx, func(tx *Tx) error {
		known := map[string]bool{}
		rows, err := tx.Query(`SELECT id FROM traces WHERE workspace = ? AND id IN (SELECT value FROM json_each(?))`, workspace, ids)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			known[id] = true
		}
		if err := rows.Err(); err != nil {
			return err
		}
		var seq int64
		if err := tx.QueryRow(`SELECT coalesce(max(seq), 0) FROM traces`).Scan(&seq); err != nil {
			return err
		}
		traces := make([]any, 0, 6*rowsAtOnce)
		packed := make([]any, 0, 2*rowsAtOnce)
		flush := func() error {
			if len(packed) == 2*rowsAtOnce {
				if _, err := tx.Exec(insertTraces, traces...); err != nil {
					return err
				}
				_, err := tx.Exec(insertParts, packed...)
				traces, packed = traces[:0], packed[:0]
				return err
			}
			for i := range len(packed) / 2 {
				if _, err := tx.Exec(insertTrace, traces[6*i:6*i+6]...); err != nil {
					return err
				}
				if _, err := tx.Exec(insertPart, packed[2*i:2*i+2]...); err != nil {
					return err
				}
			}
			traces, packed = traces[:0], packed[:0]
			return nil
		}
		for i := range parts {
			p := &parts[i]
			if known[p.id] {
				if err := t.addPart(tx, workspace, p, change); err != nil {
					return err
				}
				continue
			}
			seq++
			traces = append(traces, seq, workspace, p.id, p.fresh.Experiment, p.fresh.Start, p.doc)
			packed = append(packed, seq<<partBits, p.packed)
			if len(packed) == 2*rowsAtOnce {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return flush()
	})
}

// addPart adds spans to a trace that is there.
func (t *Traces) addPart(tx *Tx, workspace string, p *part,
	change func(string, *trace.Info, []trace.Span, func() ([]trace.Span, error)) (*trace.Info, error)) error {
	seq, _, err := changeTrace(tx, workspace, p.id, func(old *trace.Info) (*trace.Info, error) {
		return change(p.id, old, p.spans, func() ([]trace.Span, error) {
			rows, err := tx.Query(selectParts, workspace, p.id, partBits)
			return readParts(rows, err, p.id)
		})
	})
	if err != nil {
		return err
	}
	var last int64
	if err := tx.QueryRow(`SELECT coalesce(max(id), ?1 - 1) FROM trace_parts WHERE id >= ?1 AND id < ?2`, seq<<partBits, (seq+1)<<partBits).Scan(&last); err != nil {
		return err
	}
	if last+1 == (seq+1)<<partBits {
		return fault.Invalid("Trace '%s' came in more than %d requests: send its spans in larger ones.", p.id, maxParts).With("INVALID_PARAMETER_VALUE")
	}
	_, err = tx.Exec(insertPart, last+1, p.packed)
	return err
}

// group sorts spans by trace. The ids of the traces come as a JSON list.
func group(spans []trace.Span) (parts []part, ids string, err error) {
	at := map[string]int{}
	var list []string
	for i := range spans {
		n, ok := at[spans[i].Trace]
		if !ok {
			n = len(parts)
			at[spans[i].Trace] = n
			list = append(list, spans[i].Trace)
			parts = append(parts, part{id: spans[i].Trace})
		}
		parts[n].spans = append(parts[n].spans, spans[i])
	}
	var lines []byte
	for i := range parts {
		lines = lines[:0]
		for _, s := range parts[i].spans {
			lines = append(append(lines, s.JSON...), '\n')
		}
		parts[i].packed = spanPacker.EncodeAll(lines, make([]byte, 0, len(lines)/2))
	}
	ids, err = encode(list)
	return parts, ids, err
}

// Traces implements trace.Store.
func (t *Traces) Traces(ctx context.Context, workspace string, ids []string) ([]*trace.Info, error) {
	var found []*trace.Info
	for _, id := range ids {
		s, err := t.db.prepared(ctx, `SELECT `+traceColumns+` FROM traces WHERE workspace = ? AND id = ?`)
		if err != nil {
			return nil, err
		}
		_, info, err := scanTrace(s.QueryRowContext(ctx, workspace, id))
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, info)
	}
	return found, nil
}

// selectParts reads the parts of a trace; its third parameter is partBits.
const selectParts = `SELECT p.spans FROM traces t JOIN trace_parts p ON p.id >= t.seq << ?3 AND p.id < (t.seq + 1) << ?3
	WHERE t.workspace = ?1 AND t.id = ?2 ORDER BY p.id`

// Spans implements trace.Store.
func (t *Traces) Spans(ctx context.Context, workspace, id string) ([]trace.Span, error) {
	rows, err := t.db.query(ctx, selectParts, workspace, id, partBits)
	return readParts(rows, err, id)
}

func readParts(rows *sql.Rows, err error, id string) ([]trace.Span, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var spans []trace.Span
	for rows.Next() {
		var packed sql.RawBytes
		if err := rows.Scan(&packed); err != nil {
			return nil, err
		}
		lines, err := unpacker.DecodeAll(packed, nil)
		if err != nil {
			return nil, fmt.Errorf("spans of trace %s: %w", id, err)
		}
		for line := range bytes.Lines(lines) {
			s, err := trace.ParseSpan(id, bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				return nil, fmt.Errorf("spans of trace %s: %w", id, err)
			}
			spans = append(spans, s)
		}
	}
	return trace.Tidy(spans), rows.Err()
}

// tracesAtOnce is how many traces EachTrace reads before it shows them. It holds
// no connection while it does: visit may read spans.
const tracesAtOnce = 256

// EachTrace implements trace.Store.
func (t *Traces) EachTrace(ctx context.Context, workspace string, experiments []string, visit func(*trace.Info) (bool, error)) error {
	switch len(experiments) {
	case 0:
		return nil
	case 1:
		return t.eachOf(ctx, workspace, experiments[0], visit)
	}
	// Of several experiments the order is found first, without the traces.
	list, err := encode(experiments)
	if err != nil {
		return err
	}
	rows, err := t.db.read.QueryContext(ctx, `SELECT seq FROM traces
		WHERE experiment IN (SELECT CAST(value AS INTEGER) FROM json_each(?)) AND workspace = ? ORDER BY start DESC, id`, list, workspace)
	if err != nil {
		return err
	}
	var order []int64
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return errors.Join(err, rows.Close())
		}
		order = append(order, seq)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for chunk := range slices.Chunk(order, tracesAtOnce) {
		list, err := encode(chunk)
		if err != nil {
			return err
		}
		found, err := t.some(ctx, `SELECT `+traceColumns+` FROM traces WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY start DESC, id`, list)
		if err != nil {
			return err
		}
		for _, i := range found {
			if more, err := visit(i); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// eachOf is EachTrace for one experiment, page by page.
func (t *Traces) eachOf(ctx context.Context, workspace, experiment string, visit func(*trace.Info) (bool, error)) error {
	start, id := int64(math.MaxInt64), ""
	for {
		found, err := t.some(ctx, `SELECT `+traceColumns+` FROM traces WHERE experiment = CAST(?1 AS INTEGER) AND workspace = ?2
			AND start <= ?3 AND (start < ?3 OR id > ?4) ORDER BY start DESC, id LIMIT ?5`, experiment, workspace, start, id, tracesAtOnce)
		if err != nil {
			return err
		}
		for _, i := range found {
			if more, err := visit(i); err != nil || !more {
				return err
			}
			start, id = i.Start, i.ID
		}
		if len(found) < tracesAtOnce {
			return nil
		}
	}
}

// some reads the traces of a query.
func (t *Traces) some(ctx context.Context, query string, args ...any) ([]*trace.Info, error) {
	rows, err := t.db.query(ctx, query, args...)
	return all(rows, err, func(row scanner) (*trace.Info, error) {
		_, info, err := scanTrace(row)
		return info, err
	})
}

// deleteParts removes the parts of the trace with the seq ?1; ?2 is partBits.
const deleteParts = `DELETE FROM trace_parts WHERE id >= ?1 << ?2 AND id < (?1 + 1) << ?2`

// DeleteTraces implements trace.Store.
func (t *Traces) DeleteTraces(ctx context.Context, workspace string, ids []string) (n int, err error) {
	err = t.db.Write(ctx, func(tx *Tx) error {
		n = 0
		for _, id := range ids {
			var seq int64
			err := tx.QueryRow(`SELECT seq FROM traces WHERE workspace = ? AND id = ?`, workspace, id).Scan(&seq)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			if _, err := tx.Exec(deleteParts, seq, partBits); err != nil {
				return err
			}
			if _, err := tx.Exec(`DELETE FROM traces WHERE seq = ?`, seq); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}
