package pyenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A killed server's uv may write for a moment longer: the next server starts.
func TestAHalfMadeEnvironmentThatStillGrowsKeepsNobodyFromStarting(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, strings.Repeat("0a", 16), "lib")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				os.MkdirAll(half, 0o755)
				os.WriteFile(filepath.Join(half, time.Now().Format("150405.000000000")), nil, 0o644)
			}
		}
	}()
	for range 20 {
		for deadline := time.Now().Add(5 * time.Second); ; {
			if grown, _ := os.ReadDir(half); len(grown) > 20 {
				break
			} else if time.Now().After(deadline) {
				t.Fatal("the environment does not grow")
			}
		}
		b, err := New(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	close(stop)
	<-stopped
	b, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := os.Stat(filepath.Dir(half)); !os.IsNotExist(err) {
		t.Errorf("the half-made environment is still there: %v", err)
	}
}
