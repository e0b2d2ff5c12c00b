// Package spool reads the folders in which collected events wait: the gateway's,
// of files that are whole, and those of groups, whose files grow.
package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"lapis/file"
	"lapis/ml/collect"
	"lapis/ml/serving"
)

// Spool implements collect.Spool. Below its folders lie
//
//	{endpoint}/{deployment}/{collection}/{name}.jsonl    whole, deleted once taken
//	{endpoint}/{deployment}/{collection}.jsonl           appended to by instances
//
// Of a file that grows it is kept beside it how far it was taken, and the disk
// space of what was taken is given back.
type Spool struct{ dirs []string }

var _ collect.Spool = (*Spool)(nil)

// New makes a spool over folders, which need not be there yet.
func New(dirs ...string) *Spool { return &Spool{dirs} }

// takenEnding is that of the file that says how far another was taken.
const takenEnding = ".taken"

// Pieces implements collect.Spool.
func (s *Spool) Pieces(ctx context.Context, limit int64) ([]collect.Piece, error) {
	var pieces []collect.Piece
	for _, dir := range s.dirs {
		deployments, err := filepath.Glob(filepath.Join(globbed(dir), "*", "*"))
		if err != nil {
			return nil, err
		}
		for _, at := range deployments {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			found, err := s.ofDeployment(at, limit)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, found...)
		}
	}
	return pieces, nil
}

// globbed is a path as a pattern that matches it alone.
func globbed(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func (s *Spool) ofDeployment(at string, limit int64) ([]collect.Piece, error) {
	entries, err := os.ReadDir(at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	of := collect.Piece{Endpoint: filepath.Base(filepath.Dir(at)), Deployment: filepath.Base(at)}
	var pieces []collect.Piece
	for _, e := range entries {
		p := of
		switch name, grows := strings.CutSuffix(e.Name(), serving.SpoolEnding); {
		case e.IsDir():
			p.Collection = e.Name()
			found, err := whole(filepath.Join(at, e.Name()), p, limit)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, found...)
		case grows:
			p.Collection = name
			piece, err := growing(filepath.Join(at, e.Name()), p, limit)
			if err != nil {
				return nil, err
			}
			if len(piece.Lines) > 0 {
				pieces = append(pieces, piece)
			}
		}
	}
	return pieces, nil
}

// whole reads the files of a collection, the oldest first, up to the limit.
func whole(dir string, of collect.Piece, limit int64) ([]collect.Piece, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), serving.SpoolEnding) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	const most = 100 // files at once
	var pieces []collect.Piece
	for _, name := range names[:min(len(names), most)] {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return nil, err
		}
		if len(pieces) > 0 && st.Size() > limit {
			break
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		p := of
		p.ID, p.To, p.Lines, p.Since = path, int64(len(raw)), raw, st.ModTime()
		p.ID = plain(path)
		pieces = append(pieces, p)
		limit -= st.Size()
	}
	return pieces, nil
}

// plain is a path without the signs that a piece's id must not have.
func plain(path string) string { return strings.NewReplacer("=", "_", ";", "_").Replace(path) }

// mark says how far a file was taken. A file of another inode is another file.
type mark struct {
	Inode uint64 `json:"inode"`
	To    int64  `json:"to"`
}

// growing reads what was appended to a file since it was last taken, up to the
// last whole line.
func growing(path string, of collect.Piece, limit int64) (collect.Piece, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return of, nil
	}
	if err != nil {
		return of, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return of, err
	}
	inode := inodeOf(st)
	m := readMark(path)
	if m.Inode != inode || m.To > st.Size() {
		m = mark{Inode: inode}
	}
	waits := st.Size() - m.To
	if waits <= 0 {
		return of, nil
	}
	// One line may be longer than the limit; it is taken whole.
	for size := min(waits, limit); ; size = min(waits, 2*size) {
		raw := make([]byte, size)
		n, err := f.ReadAt(raw, m.To)
		if err != nil && !errors.Is(err, io.EOF) {
			return of, err
		}
		raw = raw[:n]
		if end := bytes.LastIndexByte(raw, '\n'); end >= 0 {
			of.ID, of.From, of.To, of.Lines = fmt.Sprintf("%s#%d", plain(path), inode), m.To, m.To+int64(end)+1, raw[:end+1]
			of.Since = st.ModTime()
			if since, err := os.Stat(path + takenEnding); err == nil {
				of.Since = since.ModTime()
			}
			return of, nil
		}
		if size == waits {
			return of, nil // the line is not whole yet
		}
	}
}

func inodeOf(st os.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func readMark(path string) mark {
	var m mark
	raw, err := os.ReadFile(path + takenEnding)
	if err != nil || json.Unmarshal(raw, &m) != nil {
		return mark{}
	}
	return m
}

// Taken implements collect.Spool.
func (s *Spool) Taken(_ context.Context, p collect.Piece) error {
	path, err := s.path(p)
	if err != nil {
		return err
	}
	if filepath.Base(filepath.Dir(path)) == p.Collection {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := json.Marshal(mark{inodeOf(st), p.To})
	if err != nil {
		return err
	}
	if err := file.Replace(path+takenEnding, raw, 0o600); err != nil {
		return err
	}
	giveBack(path, p.To)
	return nil
}

// path is the file that a piece is of.
func (s *Spool) path(p collect.Piece) (string, error) {
	id, _, _ := strings.Cut(p.ID, "#")
	for _, dir := range s.dirs {
		at := filepath.Join(dir, p.Endpoint, p.Deployment)
		for _, path := range []string{filepath.Join(at, p.Collection+serving.SpoolEnding), filepath.Join(at, p.Collection, filepath.Base(id))} {
			if plain(path) == id {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s is no file of the spool", p.ID)
}

// giveBack makes a hole of what was taken: the file keeps its length, so that
// those who append to it notice nothing, and not its blocks. A file system that
// cannot do that keeps them.
func giveBack(path string, to int64) {
	const keepSize, punchHole, block = 1, 2, 4096
	if to -= to % block; to < 1<<20 {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = syscall.Fallocate(int(f.Fd()), keepSize|punchHole, 0, to)
}
