package disk

import (
	"path"
	"strings"

	"lapis/ml/blob"
)

// Folders and files of the tree are named after a segment of the key and end in
// what they are. So "a" and "a/b" can both exist, and no segment, not even an
// empty one, is "." or "..".
const (
	folderEnd    = ".d" // the keys that go on after SEGMENT/
	longEnd      = ".c" // the segments that begin with these longest bytes and go on
	headerEnd    = ".b" // the header of a blob
	fileEnd      = ".v" // SEGMENT.TOKEN.v: the bytes of a blob
	partsEnd     = ".p" // SEGMENT.TOKEN.p: the same, as a folder of parts
	endLen       = 2
	tokenLen     = 16
	longest      = 200 // bytes of a segment in one name; a file name has 255 at most
	partNameForm = "%05d"
)

// place is where a key's blob lives: a folder below the container's tree and
// how the names of its files begin.
type place struct {
	tree    string   // the container's tree
	folders []string // names from the tree downwards
	base    string
}

// locate finds the place of a key that passed blob.CheckKey. Different keys
// have different places.
func locate(c blob.Container, key string) place {
	p := place{tree: treeDir(c)}
	for {
		segment, rest, more := strings.Cut(key, "/")
		for len(segment) >= longest {
			p.folders = append(p.folders, segment[:longest]+longEnd)
			segment = segment[longest:]
		}
		if !more {
			p.base = segment
			return p
		}
		p.folders = append(p.folders, segment+folderEnd)
		key = rest
	}
}

func (p place) dir() string { return path.Join(p.tree, path.Join(p.folders...)) }

func (p place) header() string { return p.dir() + "/" + p.base + headerEnd }

func (p place) data(token string, parts bool) string {
	return p.dir() + "/" + dataName(p.base, token, parts)
}

func dataName(base, token string, parts bool) string {
	if parts {
		return base + "." + token + partsEnd
	}
	return base + "." + token + fileEnd
}

// kindOf splits a name into what it begins with and what it ends in. For the
// bytes of a blob it gives the token too. Names not of our making have end "".
func kindOf(name string) (base, token, end string) {
	if len(name) < endLen {
		return "", "", ""
	}
	base, end = name[:len(name)-endLen], name[len(name)-endLen:]
	switch end {
	case folderEnd, longEnd, headerEnd:
		return base, "", end
	case fileEnd, partsEnd:
		dot := len(base) - tokenLen - 1
		if dot < 0 || base[dot] != '.' {
			return "", "", ""
		}
		return base[:dot], base[dot+1:], end
	}
	return "", "", ""
}
