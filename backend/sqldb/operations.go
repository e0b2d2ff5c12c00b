package sqldb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lapis/fault"
	"lapis/resource"
)

const operationColumns = "id, verb, resource, caller, state, code, message, input, result, started, ended"

func scanOperation(row scanner) (resource.Operation, error) {
	var (
		op             resource.Operation
		id             string
		input, result  sql.NullString
		started, ended int64
	)
	if err := row.Scan(&op.ID, &op.Verb, &id, &op.Caller, &op.State, &op.Code, &op.Message, &input, &result, &started, &ended); err != nil {
		return op, err
	}
	parsed, err := resource.ParseID(id)
	if err != nil {
		return op, fmt.Errorf("stored id: %w", err)
	}
	op.Resource = parsed
	if input.Valid {
		op.Input = json.RawMessage(input.String)
	}
	if result.Valid {
		op.Result = json.RawMessage(result.String)
	}
	op.Started = time.UnixMilli(started).UTC()
	if ended != 0 {
		op.Ended = time.UnixMilli(ended).UTC()
	}
	return op, nil
}

// Operation implements resource.Store.
func (s *Resources) Operation(ctx context.Context, id string) (resource.Operation, error) {
	op, err := scanOperation(s.db.Read().QueryRowContext(ctx, "SELECT "+operationColumns+" FROM operations WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return op, fault.NotFound("The operation '%s' could not be found; operations are kept for %d days.", id, operationDays).At(id)
	}
	return op, err
}

// OpenOperations implements resource.Store.
func (s *Resources) OpenOperations(ctx context.Context) ([]resource.Operation, error) {
	rows, err := s.db.Read().QueryContext(ctx, "SELECT "+operationColumns+" FROM operations WHERE state = 'Running' ORDER BY started")
	return all(rows, err, scanOperation)
}

func putOperation(tx *Tx, op resource.Operation) error {
	var ended int64
	if !op.Ended.IsZero() {
		ended = op.Ended.UnixMilli()
	}
	_, err := tx.Exec("INSERT OR REPLACE INTO operations ("+operationColumns+") VALUES (?,?,?,?,?,?,?,?,?,?,?)",
		op.ID, op.Verb, op.Resource.String(), op.Caller, op.State, op.Code, op.Message,
		textOrNull(op.Input), textOrNull(op.Result), op.Started.UnixMilli(), ended)
	return err
}

func textOrNull(raw json.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	return string(raw)
}

// How long ended operations and activity entries are kept, in days.
const (
	operationDays = 7
	activityDays  = 90
)

// Prune deletes ended operations, activity entries and notes of removals that
// are past their time.
func (s *Resources) Prune(ctx context.Context, now time.Time) error {
	return s.db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec("DELETE FROM operations WHERE state <> 'Running' AND ended < ?", now.AddDate(0, 0, -operationDays).UnixMilli()); err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM activities WHERE at < ?", now.AddDate(0, 0, -activityDays).UnixMilli()); err != nil {
			return err
		}
		const kept = 100_000 // of removals: who is further behind reads all anew
		_, err := tx.Exec("DELETE FROM removed WHERE seq < (SELECT n FROM sequence) - ?", kept)
		return err
	})
}
