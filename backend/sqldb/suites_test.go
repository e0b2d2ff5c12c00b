package sqldb

import (
	"context"
	"path/filepath"
	"testing"

	"lapis/ml/evaluation"
	"lapis/ml/evaluation/evaluationtest"
	"lapis/ml/webhook"
	"lapis/ml/webhook/webhooktest"
	"lapis/resource"
)

// reopened opens the database of a test, and closes and opens it again.
func reopened(t *testing.T) (db *DB, again func() *DB) {
	path := filepath.Join(t.TempDir(), "lapis.db")
	again = func() *DB {
		if db != nil {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if db, err = Open(path); err != nil {
			t.Fatal(err)
		}
		return db
	}
	t.Cleanup(func() { db.Close() })
	return again(), again
}

func TestEvaluationKeepsTheStoresPromises(t *testing.T) {
	evaluationtest.Run(t, func(t *testing.T) evaluationtest.Subject {
		db, again := reopened(t)
		return evaluationtest.Subject{Store: NewEvaluation(db), Reopen: func() evaluation.Store { return NewEvaluation(again()) }}
	})
}

func TestTheOutboxKeepsItsPromises(t *testing.T) {
	webhooktest.Run(t, func(t *testing.T) *webhooktest.Subject {
		db, again := reopened(t)
		resources := NewResources(db)
		return &webhooktest.Subject{
			Outbox: NewOutbox(db),
			Reopen: func() webhook.Outbox { return NewOutbox(again()) },
			Add: func(ctx context.Context, fail bool, deliveries ...webhook.Delivery) error {
				var b resource.Batch
				for _, d := range deliveries {
					b.Rows = append(b.Rows, d)
				}
				if fail {
					b.Rows = append(b.Rows, "a row of no kind")
				}
				_, err := resources.Commit(ctx, b)
				return err
			},
		}
	})
}
