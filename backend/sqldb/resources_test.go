package sqldb

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lapis/ml/tracking"
	"lapis/resource"
	"lapis/resource/storetest"
)

func TestResources(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		path := filepath.Join(t.TempDir(), "lapis.db")
		var db *DB
		openStore := func() storetest.Store {
			var err error
			if db != nil {
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if db, err = Open(path); err != nil {
				t.Fatal(err)
			}
			return NewResources(db)
		}
		t.Cleanup(func() { db.Close() })
		return storetest.Subject{Store: openStore(), Reopen: openStore}
	})
}

func TestListsAreReadFromAnIndexInTheirOrder(t *testing.T) {
	db := open(t)
	plan := func(query string, args ...any) string {
		rows, err := db.Read().Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var lines []string
		for rows.Next() {
			var a, b, c int
			var line string
			if err := rows.Scan(&a, &b, &c, &line); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
		return strings.Join(lines, "; ")
	}
	scope := storetest.ID(t, "/subscriptions/s")
	for _, q := range []resource.Query{
		{}, {After: "x"}, {Parent: scope}, {Parent: scope, After: "x"}, {Parent: scope, Newest: true}, {Parent: scope, Newest: true, After: "1 x"},
		{Scope: scope}, {Scope: scope, After: "x"},
	} {
		q.Type = "t"
		query, args, err := listQuery(q, 10)
		if err != nil {
			t.Fatal(err)
		}
		if p := plan(query, args...); strings.Contains(p, "SCAN") || strings.Contains(p, "TEMP B-TREE FOR ORDER BY") {
			t.Errorf("%+v: %s", q, p)
		}
	}
	query, args, err := listQuery(resource.Query{Type: "t", Lookup: "x", Scope: scope}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if p := plan(query, args...); !strings.Contains(p, "resources_lookup") {
		t.Errorf("a lookup: %s", p)
	}
}

func TestWhatIsPastItsTimeIsPruned(t *testing.T) {
	db := open(t)
	s := NewResources(db)
	now := time.Now().UTC()
	id := storetest.ID(t, "/subscriptions/s")
	for _, days := range []int{1, 8, 100} {
		at := now.AddDate(0, 0, -days)
		if _, err := s.Commit(t.Context(), resource.Batch{
			Operations: []resource.Operation{
				{ID: at.String(), Resource: id, State: resource.Succeeded, Started: at, Ended: at},
				{ID: "open" + at.String(), Resource: id, State: resource.OperationRunning, Started: at}},
			Activities: []resource.Activity{{At: at, Resource: id}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Prune(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]int{
		"SELECT count(*) FROM operations WHERE state = 'Running'":  3,
		"SELECT count(*) FROM operations WHERE state <> 'Running'": 1,
		"SELECT count(*) FROM activities":                          2,
	} {
		var n int
		if err := db.Read().QueryRow(query).Scan(&n); err != nil || n != want {
			t.Errorf("%s: %d, want %d; %v", query, n, want, err)
		}
	}
}

// However many jobs have ended, those that are open, and one page of a list, are
// found in an index of their own.
func TestEndedJobsCostNothing(t *testing.T) {
	db := open(t)
	runs, err := NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	const ended = 100_000
	err = db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO runs (workspace, key, id, experiment, parent, job, status, hidden, deleted, created, start, finish, name, user, artifact, tags, more)
			SELECT 'w', 'j' || i, 'j' || i, 1, '', 1, CASE WHEN i % 1000 THEN 'Completed' ELSE 'Queued' END, 0, 0, i, i, i, 'name', 'eve', '', '{}', '{}' FROM n`, ended)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const rounds = 20
	for range rounds {
		list, err := runs.OpenJobs(t.Context())
		if err != nil || len(list) != ended/1000 {
			t.Fatalf("%d open, %v", len(list), err)
		}
	}
	open := time.Since(began) / rounds
	began = time.Now()
	shown, before := false, int64(ended/2)
	for range rounds {
		list, err := runs.ListJobs(t.Context(), "w", tracking.JobFilter{Hidden: &shown}, before, 100)
		if err != nil || len(list) != 100 || list[0].Seq != before-1 {
			t.Fatalf("%d listed, %v", len(list), err)
		}
	}
	listed := time.Since(began) / rounds
	t.Logf("of %d jobs: the open ones in %s, a page in %s", ended, open, listed)
	// To look at all of them takes some hundred times as long.
	if most := 100 * time.Millisecond; open > most || listed > most {
		t.Errorf("the open jobs in %s, a page in %s", open, listed)
	}
}

// TestWhoSeesThatItWasDoneSeesWhatWasDone polls an operation, as clients do, and
// reads the resource that the same commit has changed.
func TestWhoSeesThatItWasDoneSeesWhatWasDone(t *testing.T) {
	db := open(t)
	s := NewResources(db)
	ctx := t.Context()
	id := storetest.ID(t, "/subscriptions/s/resourceGroups/g")
	if _, err := s.Commit(ctx, resource.Batch{Puts: []resource.Write{{Expect: resource.Absent, Resource: resource.Resource{ID: id, Properties: json.RawMessage(`{}`)}}}}); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		op := resource.Operation{ID: resource.NewGUID(), Verb: "put", Resource: id, State: resource.OperationRunning, Started: time.Now()}
		if _, err := s.Commit(ctx, resource.Batch{Operations: []resource.Operation{op}}); err != nil {
			t.Fatal(err)
		}
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				for {
					r, err := s.Get(ctx, id) // and so it is at hand
					seen, opErr := s.Operation(ctx, op.ID)
					if err != nil || opErr != nil {
						t.Error(err, opErr)
						return
					}
					if !seen.Done() {
						continue
					}
					if r, err = s.Get(ctx, id); err != nil || string(r.Status) != fmt.Sprintf(`{"n":%d}`, i) {
						t.Errorf("it is done, and the status is still %s (%v)", r.Status, err)
					}
					return
				}
			})
		}
		op.State, op.Ended = resource.Succeeded, time.Now()
		if _, err := s.Commit(ctx, resource.Batch{Operations: []resource.Operation{op},
			Statuses: []resource.StatusWrite{{ID: id, Status: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}}}); err != nil {
			t.Fatal(err)
		}
		readers.Wait()
		if t.Failed() {
			return
		}
	}
}
