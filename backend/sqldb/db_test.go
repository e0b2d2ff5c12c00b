package sqldb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lapis/fault"
)

func open(t testing.TB) *DB {
	t.Helper()
	db, err := Open(filepath.Join(t.TempDir(), "a file?#%20.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func numbers(t testing.TB) *DB {
	t.Helper()
	db := open(t)
	err := db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec("CREATE TABLE n (v INTEGER PRIMARY KEY, note TEXT)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func count(t testing.TB, db *DB) (n int) {
	t.Helper()
	if err := db.Read().QueryRow("SELECT count(*) FROM n").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAWriteThatFailsLeavesItsNeighboursAlone(t *testing.T) {
	db := numbers(t)
	sad := errors.New("no")
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			err := db.Write(t.Context(), func(tx *Tx) error {
				if _, err := tx.Exec("INSERT INTO n (v) VALUES (?)", i); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return sad
				case 2:
					panic("odd")
				}
				return nil
			})
			switch {
			case i%3 == 0 && err != nil:
				t.Errorf("write %d: %v", i, err)
			case i%3 == 1 && !errors.Is(err, sad):
				t.Errorf("write %d: %v, want its own error", i, err)
			case i%3 == 2 && (err == nil || !strings.Contains(err.Error(), "odd")):
				t.Errorf("write %d: %v, want the panic", i, err)
			}
		})
	}
	wg.Wait()
	if n := count(t, db); n != 100 {
		t.Errorf("%d rows, want the 100 of the writes that succeeded", n)
	}
}

func TestWhatIsAcknowledgedIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	for round := range 3 {
		db, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Write(t.Context(), func(tx *Tx) error {
			if _, err := tx.Exec("CREATE TABLE IF NOT EXISTS n (v INTEGER PRIMARY KEY)"); err != nil {
				return err
			}
			_, err := tx.Exec("INSERT INTO n VALUES (?)", round)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(t, db); n != round+1 {
			t.Errorf("round %d: %d rows", round, n)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFullDatabaseIsAFaultAndReadsGoOn(t *testing.T) {
	db := numbers(t)
	err := db.Write(t.Context(), func(tx *Tx) error {
		if _, err := tx.Exec("INSERT INTO n VALUES (1, 'a')"); err != nil {
			return err
		}
		_, err := tx.Exec("PRAGMA max_page_count = 40")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO n VALUES (2, ?)", strings.Repeat("x", 1<<20))
		return err
	})
	if !fault.Is(err, fault.StorageFull) {
		t.Errorf("got %v, want StorageFull", err)
	}
	if n := count(t, db); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	if err := db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO n VALUES (3, 'c')")
		return err
	}); err != nil {
		t.Errorf("a small write after a full one: %v", err)
	}
}

func TestAWriteWhoseCallerHasLeftDoesNotRun(t *testing.T) {
	db := numbers(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Write(ctx, func(*Tx) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	busy, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = db.Write(t.Context(), func(*Tx) error { close(busy); <-release; return nil }) })
	<-busy
	ctx, cancel = context.WithCancel(t.Context())
	wg.Go(func() {
		if err := db.Write(ctx, func(*Tx) error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(release)
	})
	cancel()
	wg.Wait()
}

func TestAWriteToAClosedDatabaseIsRefused(t *testing.T) {
	db, err := Open(filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := db.Write(t.Context(), func(*Tx) error { return nil }); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := numbers(t)
	if _, err := db.Read().Exec("INSERT INTO n (v) VALUES (1)"); err == nil {
		t.Error("a read connection wrote")
	}
}

func TestADatabaseOfANewerVersionIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9000, 1)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(path); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a fault", err)
	}
}

func BenchmarkGroupCommit(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db := numbers(b)
			work := make(chan int)
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := range work {
						err := db.Write(b.Context(), func(tx *Tx) error {
							_, err := tx.Exec("INSERT INTO n VALUES (?, 'note')", i)
							return err
						})
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				work <- i
			}
			close(work)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}
