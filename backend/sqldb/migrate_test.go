package sqldb

import (
	"database/sql"
	"path/filepath"
	"testing"
)

// A database of an older version is kept as it was, beside the migrated one.
func TestAnOlderDatabaseIsCopiedAsideBeforeItsTablesChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lapis.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// Make it look as an older program left it: the last migration is undone.
	old, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var last int
	if err := old.QueryRow("SELECT max(version_id) FROM goose_db_version").Scan(&last); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		"CREATE TABLE mark (n INTEGER)", "INSERT INTO mark VALUES (7)",
		"DELETE FROM goose_db_version WHERE version_id > 1",
		"DROP TABLE IF EXISTS logged_models", "DROP TABLE IF EXISTS datasets", "DROP TABLE IF EXISTS metric_chunks",
		"DROP TABLE IF EXISTS metric_log", "DROP TABLE IF EXISTS runs", "DROP TABLE IF EXISTS experiments",
	} {
		if _, err := old.Exec(q); err != nil {
			t.Fatal(q, err)
		}
	}
	old.Close()
	if last < 2 {
		t.Fatalf("the newest migration is %d; this test undoes all but the first", last)
	}
	if db, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	kept, err := sql.Open("sqlite", path+".version-1")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	var n, runs int
	if err := kept.QueryRow("SELECT n FROM mark").Scan(&n); err != nil || n != 7 {
		t.Errorf("the copy holds %d, %v; it must hold what was there", n, err)
	}
	if err := kept.QueryRow("SELECT count(*) FROM sqlite_master WHERE name = 'runs'").Scan(&runs); err != nil || runs != 0 {
		t.Errorf("the copy has the new tables: %d, %v", runs, err)
	}
	if err := db.Read().QueryRow("SELECT count(*) FROM runs").Scan(&runs); err != nil {
		t.Errorf("the migrated database has no runs: %v", err)
	}
}
