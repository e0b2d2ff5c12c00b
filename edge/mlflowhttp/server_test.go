package mlflowhttp_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"lapis/backend/disk"
	"lapis/backend/sqldb"
	"lapis/edge/mlflowhttp"
	"lapis/ml/blob"
	"lapis/ml/tracking"
)

const workspace = "6f1b7a2e-0000-4000-8000-000000000001"

// serve starts a server over a fresh database and folder.
func serve(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LAPIS_TEST_DATA")
	if dir == "" {
		dir = t.TempDir()
	}
	db, err := sqldb.Open(filepath.Join(dir, "lapis.db"))
	if err != nil {
		t.Fatal(err)
	}
	runs, err := sqldb.NewTracking(db)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := disk.New(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	folded := make(chan error, 1)
	go func() { folded <- runs.Fold(ctx) }()
	s := httptest.NewUnstartedServer(mlflowhttp.New(mlflowhttp.Config{
		Tracking: tracking.New(runs),
		Blobs:    blobs,
		Container: func(context.Context, string) (blob.Container, error) {
			return blob.Container{Account: "lapis", Name: "artifacts"}, nil
		},
		Resolve: func(r *http.Request) (string, string, error) { return workspace, r.URL.Path, nil },
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}))
	s.Start()
	t.Cleanup(func() {
		s.Close()
		cancel()
		if err := <-folded; err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.URL
}

// TestServeForever serves and writes its address to a file, for trying clients by hand.
func TestServeForever(t *testing.T) {
	if os.Getenv("LAPIS_TEST_SERVE") == "" {
		t.Skip("set LAPIS_TEST_SERVE to serve until interrupted")
	}
	if err := os.WriteFile(os.Getenv("LAPIS_TEST_SERVE"), []byte(serve(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
}
