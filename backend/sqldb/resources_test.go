package sqldb

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

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
