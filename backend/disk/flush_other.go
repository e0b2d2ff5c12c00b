//go:build !linux

package disk

import "os"

// startFlush leaves it to the fsync at the end.
func startFlush(*os.File, int64, int64) {}
