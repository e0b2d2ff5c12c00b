package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"lapis/ml/webhook"
	"lapis/resource"
)

// Outbox is the webhook.Outbox of a database.
type Outbox struct{ db *DB }

var _ webhook.Outbox = (*Outbox)(nil)

// NewOutbox returns the outbox of db.
func NewOutbox(db *DB) *Outbox { return &Outbox{db} }

// countEvery is how many deliveries are stored until somebody counts them.
const countEvery = 64

// putDelivery stores a delivery with what happened, and drops the oldest of a
// webhook that has too many.
func putDelivery(tx *Tx, d webhook.Delivery) error {
	result, err := tx.Exec("INSERT INTO webhook_outbox (webhook, id, body, made, attempts, next) VALUES (?,?,?,?,?,?)",
		d.Webhook.Key(), d.ID, d.Body, d.Made.UnixMilli(), d.Attempts, d.Next.UnixMilli())
	if err != nil {
		return err
	}
	if seq, err := result.LastInsertId(); err != nil || seq%countEvery != 0 {
		return err
	}
	_, err = tx.Exec(`DELETE FROM webhook_outbox WHERE webhook = ?1 AND seq <=
		(SELECT seq FROM webhook_outbox WHERE webhook = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)`, d.Webhook.Key(), webhook.MaxWaiting)
	return err
}

// Waiting implements webhook.Outbox.
func (o *Outbox) Waiting(ctx context.Context, at time.Time) ([]resource.ID, error) {
	rows, err := o.db.read.QueryContext(ctx, "SELECT DISTINCT webhook FROM webhook_outbox WHERE next <= ?", at.UnixMilli())
	return all(rows, err, func(row scanner) (resource.ID, error) {
		var text string
		if err := row.Scan(&text); err != nil {
			return resource.ID{}, err
		}
		id, err := resource.ParseID(text)
		if err != nil {
			return id, fmt.Errorf("stored id: %w", err)
		}
		return id, nil
	})
}

// Due implements webhook.Outbox.
func (o *Outbox) Due(ctx context.Context, id resource.ID, at time.Time, limit int) ([]webhook.Delivery, error) {
	rows, err := o.db.read.QueryContext(ctx, "SELECT id, body, made, attempts, next FROM webhook_outbox WHERE webhook = ? AND next <= ? ORDER BY seq LIMIT ?",
		id.Key(), at.UnixMilli(), limit)
	return all(rows, err, func(row scanner) (webhook.Delivery, error) {
		d := webhook.Delivery{Webhook: id}
		var made, next int64
		if err := row.Scan(&d.ID, &d.Body, &made, &d.Attempts, &next); err != nil {
			return d, err
		}
		d.Made, d.Next = time.UnixMilli(made), time.UnixMilli(next)
		return d, nil
	})
}

// Delay implements webhook.Outbox.
func (o *Outbox) Delay(ctx context.Context, d webhook.Delivery) error {
	return o.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("UPDATE webhook_outbox SET attempts = ?, next = ? WHERE webhook = ? AND id = ?", d.Attempts, d.Next.UnixMilli(), d.Webhook.Key(), d.ID)
		return err
	})
}

// Drop implements webhook.Outbox.
func (o *Outbox) Drop(ctx context.Context, d webhook.Delivery) error {
	return o.db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("DELETE FROM webhook_outbox WHERE webhook = ? AND id = ?", d.Webhook.Key(), d.ID)
		return err
	})
}

// Next implements webhook.Outbox.
func (o *Outbox) Next(ctx context.Context) (time.Time, error) {
	var next sql.NullInt64
	err := o.db.read.QueryRowContext(ctx, "SELECT MIN(next) FROM webhook_outbox").Scan(&next)
	if err != nil || !next.Valid {
		return time.Time{}, err
	}
	return time.UnixMilli(next.Int64), nil
}
