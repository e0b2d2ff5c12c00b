package sqldb

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

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

// LogSpans implements trace.Store.
func (t *Traces) LogSpans(ctx context.Context, workspace string, spans []trace.Span, change func(string, *trace.Info, []trace.Span) (*trace.Info, error)) error {
	type part struct {
		spans  []trace.Span
		packed []byte
	}
	parts := map[string]*part{}
	var order []string
	for _, s := range spans {
		p := parts[s.Trace]
		if p == nil {
			p = &part{}
			parts[s.Trace] = p
			order = append(order, s.Trace)
		}
		p.spans = append(p.spans, s)
	}
	for _, p := range parts {
		var lines []byte
		for _, s := range p.spans {
			lines = append(append(lines, s.JSON...), '\n')
		}
		p.packed = packer.EncodeAll(lines, nil)
	}
	return t.db.Write(ctx, func(tx *Tx) error {
		for _, id := range order {
			p := parts[id]
			seq, info, err := changeTrace(tx, workspace, id, func(old *trace.Info) (*trace.Info, error) { return change(id, old, p.spans) })
			if err != nil {
				return err
			}
			if info == nil {
				continue
			}
			if _, err := tx.Exec(`INSERT INTO trace_spans (trace, spans) VALUES (?, ?)`, seq, p.packed); err != nil {
				return err
			}
		}
		return nil
	})
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

// Spans implements trace.Store.
func (t *Traces) Spans(ctx context.Context, workspace, id string) ([]trace.Span, error) {
	s, err := t.db.prepared(ctx, `SELECT spans FROM trace_spans WHERE trace = (SELECT seq FROM traces WHERE workspace = ? AND id = ?) ORDER BY id`)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, workspace, id)
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

// EachTrace implements trace.Store.
func (t *Traces) EachTrace(ctx context.Context, workspace string, experiments []string, visit func(*trace.Info) (bool, error)) error {
	list, err := encode(experiments)
	if err != nil {
		return err
	}
	rows, err := t.db.read.QueryContext(ctx, `SELECT `+traceColumns+` FROM traces
		WHERE experiment IN (SELECT CAST(value AS INTEGER) FROM json_each(?)) AND workspace = ? ORDER BY start DESC, id`, list, workspace)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		_, info, err := scanTrace(rows)
		if err != nil {
			return err
		}
		if more, err := visit(info); err != nil || !more {
			return err
		}
	}
	return rows.Err()
}

// DeleteTraces implements trace.Store.
func (t *Traces) DeleteTraces(ctx context.Context, workspace string, ids []string) (n int, err error) {
	err = t.db.Write(ctx, func(tx *Tx) error {
		n = 0
		for _, id := range ids {
			if _, err := tx.Exec(`DELETE FROM trace_spans WHERE trace = (SELECT seq FROM traces WHERE workspace = ? AND id = ?)`, workspace, id); err != nil {
				return err
			}
			result, err := tx.Exec(`DELETE FROM traces WHERE workspace = ? AND id = ?`, workspace, id)
			if err != nil {
				return err
			}
			gone, err := result.RowsAffected()
			if err != nil {
				return err
			}
			n += int(gone)
		}
		return nil
	})
	return n, err
}
