package disk

import (
	"os"
	"syscall"
)

// startFlush tells the disk to begin writing a range. It does not wait.
func startFlush(f *os.File, offset, length int64) {
	const write = 2 // SYNC_FILE_RANGE_WRITE
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { syscall.SyncFileRange(int(fd), offset, length, write) })
	}
}
