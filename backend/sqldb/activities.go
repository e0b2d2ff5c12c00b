package sqldb

import (
	"context"
	"fmt"
	"time"

	"lapis/resource"
)

func addActivity(tx *Tx, a resource.Activity) error {
	_, err := tx.Exec("INSERT INTO activities (at, scope, resource, caller, caller_id, action, result, correlation, reason) VALUES (?,?,?,?,?,?,?,?,?)",
		a.At.UnixMilli(), a.Resource.Key(), a.Resource.String(), a.Caller, a.CallerID, a.Action, a.Result, a.Correlation, a.Reason)
	return err
}

// Activities implements resource.Store.
func (s *Resources) Activities(ctx context.Context, scope resource.ID, before time.Time, limit int) ([]resource.Activity, error) {
	rows, err := s.db.Read().QueryContext(ctx, `SELECT at, resource, caller, caller_id, action, result, correlation, reason FROM activities
		WHERE at < ? AND (scope = ? OR (scope > ? AND scope < ?)) ORDER BY at DESC, rowid DESC LIMIT ?`,
		before.UnixMilli(), scope.Key(), scope.Key()+"/", scope.Key()+"0", limit)
	return all(rows, err, func(row scanner) (resource.Activity, error) {
		var a resource.Activity
		var at int64
		var id string
		if err := row.Scan(&at, &id, &a.Caller, &a.CallerID, &a.Action, &a.Result, &a.Correlation, &a.Reason); err != nil {
			return a, err
		}
		a.At = time.UnixMilli(at).UTC()
		var err error
		if a.Resource, err = resource.ParseID(id); err != nil {
			return a, fmt.Errorf("stored id: %w", err)
		}
		return a, nil
	})
}
