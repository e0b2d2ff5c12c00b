// Package file writes files in one step: whoever opens one sees the old bytes
// or the new ones, never a mix, also after a crash.
package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// unfinished begins the names of files that are not whole yet.
const unfinished = ".new-"

// Replace puts data at path, in place of what was there. It survives a power
// cut once Replace has returned.
func Replace(path string, data []byte, mode fs.FileMode) error {
	err := Whole(path, mode, func(f *os.File) error {
		_, err := f.Write(data)
		return errors.Join(err, f.Sync())
	})
	if err != nil {
		return err
	}
	return Sync(filepath.Dir(path))
}

// Whole puts at path what fill writes, or leaves what was there if fill fails.
// What is to survive a power cut fill itself syncs.
func Whole(path string, mode fs.FileMode, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished+"*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Unfinished tells whether a path is of a file that was never made whole: one
// that a crash has left, or that is being written.
func Unfinished(path string) bool {
	return strings.HasPrefix(filepath.Base(path), unfinished)
}

// Sync makes the entries of a folder survive a power cut.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
