package main

import (
	"context"
	"time"

	"lapis/backend/disk"
	"lapis/backend/pyenv"
	"lapis/backend/sqldb"
	"lapis/ml/dispatch"
)

// How often the house is put in order, and how long an upload may lie half-done.
const (
	upkeepEvery = time.Hour
	blocksFor   = 7 * 24 * time.Hour
)

// upkeep gives back what is past its time: ended operations and old activity
// entries, blocks of uploads that were never finished, environments that no job
// has used for long.
func (v *server) upkeep(resources *sqldb.Resources, blobs *disk.Store, builder *pyenv.Builder, jobs *dispatch.Dispatcher) func(context.Context) error {
	return func(ctx context.Context) error {
		first := time.After(time.Minute) // not while the server starts
		tick := time.NewTicker(upkeepEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-first:
			case <-tick.C:
			}
			if err := resources.Prune(ctx, now()); err != nil && ctx.Err() == nil {
				v.log.Error("prune operations and activities", "err", err)
			}
			if err := blobs.Sweep(ctx, blocksFor); err != nil && ctx.Err() == nil {
				v.log.Error("sweep unfinished uploads", "err", err)
			}
			freed, err := builder.Sweep(ctx, jobs.Uses)
			if err != nil && ctx.Err() == nil {
				v.log.Error("sweep environments", "err", err)
			}
			if freed > 0 {
				v.log.Info("environments swept", "bytes", freed)
			}
		}
	}
}
