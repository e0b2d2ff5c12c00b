package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
)

// maxFiles bounds what one upload may hold.
const maxFiles = 200_000

// Content is a local file or folder that a document refers to.
type Content struct {
	Path   string // absolute
	Name   string // the last part of the path, which the upload keeps
	Folder bool
	Files  []File // sorted by Name; those that an ignore file leaves out are missing
	Size   int64  // of all files, in bytes

	ignore ignore
	hashes map[string]string
}

// File is one file of a Content.
type File struct {
	Path string // absolute
	Name string // relative to the content's folder, with slashes
	Size int64
}

// OpenContent lists the file or folder at path. It honours the .amlignore,
// else the .gitignore, of the folder.
func OpenContent(path string) (*Content, error) {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	c := &Content{Path: path, Name: filepath.Base(path), Folder: info.IsDir(), hashes: map[string]string{}}
	if !c.Folder {
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is neither a file nor a folder", path)
		}
		c.Files, c.Size = []File{{Path: path, Name: c.Name, Size: info.Size()}}, info.Size()
		return c, nil
	}
	if c.ignore, err = readIgnore(path); err != nil {
		return nil, err
	}
	if err := c.walk(path, "", nil); err != nil {
		return nil, err
	}
	slices.SortFunc(c.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

// walk follows links to folders, as the uploads of other clients do, and
// stops at a link that leads back to where it came from.
func (c *Content) walk(dir, rel string, above []string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if slices.Contains(above, real) {
		return fault.Invalid("%s is a link to a folder that holds it. List it in .amlignore or remove it.", dir)
	}
	above = append(above, real)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if rel != "" {
			name = rel + "/" + name
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			if c.ignore.leavesOut(name, false) {
				continue
			}
			return fault.Invalid("%s cannot be read: %v. List it in .amlignore if it is not needed.", path, err)
		}
		switch {
		case info.IsDir():
			if c.ignore.leavesOut(name, true) && !c.ignore.negated {
				continue
			}
			if err := c.walk(path, name, above); err != nil {
				return err
			}
		case c.ignore.leavesOut(name, false):
		case info.Mode().IsRegular():
			if len(c.Files) >= maxFiles {
				return fault.Invalid("%s holds more than %d files. List what is not needed in .amlignore.", c.Path, maxFiles)
			}
			c.Files = append(c.Files, File{Path: path, Name: name, Size: info.Size()})
			c.Size += info.Size()
		}
	}
	return nil
}

// Snapshot is the SHA-256 by which a server finds a code asset it has. The
// rule is the one that Azure ML's clients share: the number of files, then
// `#name#size` of each, then the bytes of each, in the order of their names in
// lower case.
func (c *Content) Snapshot() (string, error) {
	return c.once("snapshot", func() (string, error) {
		files := slices.Clone(c.Files)
		slices.SortStableFunc(files, func(a, b File) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
		h := sha256.New()
		io.WriteString(h, strconv.Itoa(len(files)))
		for _, f := range files {
			fmt.Fprintf(h, "#%s#%d", f.Name, f.Size)
		}
		for _, f := range files {
			if err := addFile(h, f.Path); err != nil {
				return "", err
			}
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	})
}

// Upload is the hash in `LocalUpload/HASH/`, where data, models and build
// contexts are put. It goes over names and bytes from the top of the folder
// down; other clients use the same, so each finds what another uploaded.
func (c *Content) Upload() (string, error) {
	return c.once("upload", func() (string, error) {
		h := sha256.New()
		io.WriteString(h, "Initialize for october 2021 AML CLI version")
		var err error
		if c.Folder {
			err = c.addFolder(h, c.Path, "")
		} else {
			err = addFile(h, c.Path)
		}
		return hex.EncodeToString(h.Sum(nil)), err
	})
}

func (c *Content) once(key string, compute func() (string, error)) (string, error) {
	if got, ok := c.hashes[key]; ok {
		return got, nil
	}
	sum, err := compute()
	if err == nil {
		c.hashes[key] = sum
	}
	return sum, err
}

func (c *Content) addFolder(h hash.Hash, dir, rel string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int {
		return strings.Compare(strings.ToLower(a.Name()), strings.ToLower(b.Name()))
	})
	for _, e := range entries {
		name := e.Name()
		if rel != "" {
			name = rel + "/" + name
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil || c.ignore.leavesOut(name, false) {
			continue
		}
		io.WriteString(h, e.Name())
		switch {
		case info.Mode().IsRegular():
			err = addFile(h, path)
		case info.IsDir():
			err = c.addFolder(h, path, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func addFile(h hash.Hash, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}
