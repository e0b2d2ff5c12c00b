package disk

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"lapis/ml/blob"
)

// A crash may cut the making of a container short after any of its folders.
func TestAHalfMadeContainerKeepsNobodyFromStarting(t *testing.T) {
	c := blob.Container{Account: "lapis", Name: "code"}
	for _, made := range []string{"lapis", "lapis/code", "lapis/code/tmp", "lapis/code/staged"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, made), 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := New(dir)
		if err != nil {
			t.Fatalf("with %s alone: %v", made, err)
		}
		if ok, err := s.HasContainer(context.Background(), c); ok || err != nil {
			t.Errorf("with %s alone: HasContainer = %v, %v; it was never made", made, ok, err)
		}
		if err := s.CreateContainer(context.Background(), c); err != nil {
			t.Errorf("with %s alone: CreateContainer: %v", made, err)
		}
		s.Close()
	}
}
