package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// transfer is what a user runs; it says how long both ways took, in seconds.
const transfer = `
import os, sys, time, mlflow
run = mlflow.MlflowClient().create_run(mlflow.create_experiment("artefact"))
if not run.info.artifact_uri.startswith("mlflow-artifacts:"):
    sys.exit("the server takes no artefacts: they go to " + run.info.artifact_uri)
start = time.monotonic()
mlflow.MlflowClient().log_artifact(run.info.run_id, sys.argv[1])
up = time.monotonic()
path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=os.path.basename(sys.argv[1]), dst_path=sys.argv[2])
down = time.monotonic()
os.sync()
synced = time.monotonic()
assert os.path.getsize(path) == os.path.getsize(sys.argv[1])
print("took", up - start, synced - up)
`

// artefact measures how fast MLflow's own client sends a file and takes it
// back, beside a copy of it that is synced, and what the server holds meanwhile.
func (p program) artefact(ctx context.Context, v *server, res *results) {
	size := fmt.Sprintf("%d MB", p.bytes>>20)
	err := func() error {
		folder, err := os.MkdirTemp("", "bench-artefact-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(folder) }()
		file := filepath.Join(folder, "artefact.bin")
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		source := rand.NewChaCha8([32]byte{1})
		if _, err = io.CopyN(f, source, p.bytes); err == nil {
			err = f.Sync()
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		begun := time.Now()
		if err := copySynced(file, filepath.Join(folder, "copy.bin")); err != nil {
			return err
		}
		copied := time.Since(begun).Seconds()

		var most atomic.Uint64
		sampled, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(sampled)
			for {
				most.Store(max(most.Load(), uint64(v.memory())))
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		}()
		cmd := exec.CommandContext(ctx, *python, "-c", transfer, file, filepath.Join(folder, "down"))
		cmd.Env = append(os.Environ(), "MLFLOW_TRACKING_URI="+v.url, "MLFLOW_TRACKING_TOKEN="+v.token, "MLFLOW_DISABLE_TELEMETRY=true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false")
		if err := os.Mkdir(filepath.Join(folder, "down"), 0o755); err != nil {
			return err
		}
		out, err := cmd.CombinedOutput()
		close(stop)
		<-sampled
		_, said, _ := strings.Cut(string(out), "took ")
		var up, down float64
		if _, scan := fmt.Sscan(said, &up, &down); err != nil || scan != nil {
			return fmt.Errorf("%v: %s", err, out[max(0, len(out)-300):])
		}
		mb := float64(p.bytes) / 1e6
		res.add(row{"artefact of " + size + " up, MLflow's client", "MB/s", mb / up, fmt.Sprintf("%.2f of cp", copied/up), false})
		res.add(row{"artefact of " + size + " down, MLflow's client", "MB/s", mb / down, fmt.Sprintf("%.2f of cp", copied/down), false})
		res.add(row{"memory at most meanwhile", "MB", float64(most.Load()), "", true})
		return nil
	}()
	if err != nil {
		res.miss("artefact of "+size, err)
	}
}

// copySynced is cp and sync.
func copySynced(from, to string) error {
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	syscall.Sync()
	return nil
}
