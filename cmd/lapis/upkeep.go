package main

import (
	"context"
	"time"

	"lapis/backend/disk"
	"lapis/backend/pyenv"
	"lapis/backend/sqldb"
	"lapis/ml"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/manager"
)

// How often the house is put in order, and how long an upload may lie half-done.
const (
	upkeepEvery = time.Hour
	blocksFor   = 7 * 24 * time.Hour
)

// upkeep gives back what is past its time: ended operations and old activity
// entries, blocks of uploads that were never finished, environments that nothing
// has used for long.
func (v *server) upkeep(resources *sqldb.Resources, blobs *disk.Store, builder *pyenv.Builder, uses func(hash string) bool) func(context.Context) error {
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
			if err := v.purgeDeleted(ctx); err != nil && ctx.Err() == nil {
				v.log.Error("purge deleted workspaces", "err", err)
			}
			freed, err := builder.Sweep(ctx, uses)
			if err != nil && ctx.Err() == nil {
				v.log.Error("sweep environments", "err", err)
			}
			if freed > 0 {
				v.log.Info("environments swept", "bytes", freed)
			}
		}
	}
}

// purgeDeleted removes the workspaces that were deleted long ago.
func (v *server) purgeDeleted(ctx context.Context) error {
	yes := true
	page, err := v.manager.Store().List(ctx, resource.Query{Type: ml.Workspaces, Archived: &yes, Limit: 1000})
	if err != nil {
		return err
	}
	for _, r := range page.Resources {
		if at, ok := workspace.When(r); ok && now().Sub(at) > workspace.KeptFor {
			if _, err := v.manager.Delete(ctx, manager.Request{ID: r.ID, Caller: v.who.platform(), Purge: true}); err != nil {
				return err
			}
		}
	}
	return nil
}
