package pyenv

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	trash = ".trash-" // begins the name of a folder that is being removed

	// restFor is how long an environment is left alone after its last use, so
	// that none goes between being found and being started in.
	restFor = 10 * time.Minute

	// keepLogs is how long the log of a failed build is kept.
	keepLogs = 30 * 24 * time.Hour
)

// Sweep removes the environments used longest ago until the rest keeps to the
// quota, but for those that inUse names and those used a moment ago. It returns
// the bytes removed.
func (b *Builder) Sweep(ctx context.Context, inUse func(hash string) bool) (int64, error) {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return 0, fmt.Errorf("environments folder: %w", err)
	}
	type env struct {
		hash  string
		bytes int64
		used  time.Time
	}
	var list []env
	var total int64
	for _, e := range entries {
		if err := b.sweepLog(e.Name()); err != nil {
			return 0, err
		}
		if !e.IsDir() || !isHash(e.Name()) {
			continue
		}
		file := filepath.Join(b.cfg.Dir, e.Name(), readyFile)
		info, err := os.Stat(file)
		if err != nil {
			continue // being built
		}
		text, err := os.ReadFile(file)
		var m marker
		if err != nil || json.Unmarshal(text, &m) != nil {
			continue
		}
		total += m.Bytes
		list = append(list, env{e.Name(), m.Bytes, info.ModTime()})
	}
	slices.SortFunc(list, func(a, b env) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.hash, b.hash)) })

	var freed int64
	for _, e := range list {
		if total-freed <= b.cfg.Quota || ctx.Err() != nil {
			break
		}
		if time.Since(e.used) < restFor || inUse(e.hash) {
			continue
		}
		gone, err := b.remove(e.hash)
		if err != nil {
			return freed, err
		}
		if gone {
			freed += e.bytes
		}
	}
	return freed, ctx.Err()
}

// sweepLog removes an old log that has no environment.
func (b *Builder) sweepLog(name string) error {
	hash, ok := strings.CutSuffix(name, ".log")
	if !ok || !isHash(hash) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(b.cfg.Dir, hash)); err == nil {
		return nil
	}
	info, err := os.Stat(b.LogFile(hash))
	if err != nil || time.Since(info.ModTime()) < keepLogs {
		return nil // gone already, or young
	}
	if err := os.Remove(b.LogFile(hash)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove an old build log: %w", err)
	}
	return nil
}

// remove takes an environment away in one step, then deletes it.
func (b *Builder) remove(hash string) (bool, error) {
	unlock, ok, err := b.tryLock(hash)
	if err != nil || !ok {
		return false, err
	}
	defer unlock()
	info, err := os.Stat(filepath.Join(b.cfg.Dir, hash, readyFile))
	if err != nil || time.Since(info.ModTime()) < restFor {
		return false, nil // taken into use since the list was made
	}
	aside := filepath.Join(b.cfg.Dir, trash+hash)
	if err := os.RemoveAll(aside); err != nil {
		return false, fmt.Errorf("remove an old environment: %w", err)
	}
	if err := os.Rename(filepath.Join(b.cfg.Dir, hash), aside); err != nil {
		return false, fmt.Errorf("remove an old environment: %w", err)
	}
	if err := os.RemoveAll(aside); err != nil {
		return false, fmt.Errorf("remove an old environment: %w", err)
	}
	if err := os.Remove(b.LogFile(hash)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return true, fmt.Errorf("remove an old build log: %w", err)
	}
	return true, nil
}
