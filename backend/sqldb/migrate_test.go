package sqldb

import (
	"database/sql"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"lapis/ml/tracking"
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

func TestTheLatestMetricsOfOlderLoggedModelsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := runWith(t, path)
	seq := must(s.Run(t.Context(), testWorkspace, "r")).Seq
	if err := s.CreateModel(t.Context(), tracking.LoggedModel{Workspace: testWorkspace, ID: "m-1", Experiment: "1", Name: "n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
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
	if _, err := p.DownTo(t.Context(), 31); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(`UPDATE logged_models SET doc = json_set(doc, '$.metrics', json(?))`,
		`[{"key":"acc","value":0.5,"timestamp":7,"step":3,"run_id":"R"},{"key":"acc","value":"NaN","timestamp":8,"step":4,"run_id":"r","dataset_name":"d"},
		  {"key":"acc","value":1,"timestamp":9,"step":4,"run_id":"gone"}]`); err != nil {
		t.Fatal(err)
	}
	old.Close()
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if s, err = NewTracking(db); err != nil {
		t.Fatal(err)
	}
	m := must(s.Model(t.Context(), testWorkspace, "m-1"))
	if len(m.Metrics) != 2 || m.Name != "n" || m.Metrics[0] != (tracking.ModelMetric{Key: "acc", Value: .5, Time: 7, Step: 3, Run: "r"}) ||
		m.Metrics[1].Value == m.Metrics[1].Value || m.Metrics[1].DatasetName != "d" {
		t.Errorf("%+v of run %d", m.Metrics, seq)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
