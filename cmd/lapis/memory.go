package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// What the Go runtime keeps for later, beyond this, is given back to the
	// machine: jobs need it more. It costs one collection.
	spareMemory = 24 << 20
	spareEvery  = 5 * time.Second
)

// giveBack returns memory that a large request has left behind, until ctx ends.
func giveBack(ctx context.Context) error {
	tick := time.NewTicker(spareEvery)
	defer tick.Stop()
	spare := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(spare)
		if spare[0].Value.Kind() == metrics.KindUint64 && spare[0].Value.Uint64() > spareMemory {
			debug.FreeOSMemory()
		}
	}
}
