package sqldb

import (
	"database/sql"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"
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
	// Make it look as an older program left it: all but the first migration
	// are undone.
	old, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, old, files)
	if err != nil {
		t.Fatal(err)
	}
	if undone, err := p.DownTo(t.Context(), 1); err != nil || len(undone) == 0 {
		t.Fatal(undone, err)
	}
	for _, q := range []string{"CREATE TABLE mark (n INTEGER)", "INSERT INTO mark VALUES (7)"} {
		if _, err := old.Exec(q); err != nil {
			t.Fatal(q, err)
		}
	}
	old.Close()
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
