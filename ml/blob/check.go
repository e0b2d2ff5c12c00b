package blob

import (
	"strings"
	"unicode/utf8"

	"lapis/fault"
)

// The bounds of names, which every back end keeps.
const (
	MaxKey    = 1024  // characters
	MaxBlock  = 128   // characters of a block's name
	MaxBlocks = 50000 // blocks of one blob
)

// CheckKey returns a fault if key is not one that a Store takes.
func CheckKey(key string) error {
	switch {
	case key == "":
		return badKey("A blob needs a name; the address ends at the container.")
	case !utf8.ValidString(key):
		return badKey("The blob name %q is not valid UTF-8.", fault.Clip(key))
	case utf8.RuneCountInString(key) > MaxKey:
		return badKey("The blob name is longer than %d characters: %q", MaxKey, fault.Clip(key))
	case strings.IndexByte(key, 0) >= 0:
		return badKey("The blob name %q holds a NUL character.", fault.Clip(key))
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "." || segment == ".." {
			return badKey("The blob name %q holds the segment %q. Write the path without it.", fault.Clip(key), segment)
		}
	}
	return nil
}

func badKey(format string, args ...any) error {
	return fault.Invalid(format, args...).With("InvalidResourceName").At("blob")
}

// Check returns a fault if the names are not ones that a Store takes: 1 to 63
// of the characters a-z, 0-9, "-", "_" and "$".
func (c Container) Check() error {
	for _, n := range [...]struct{ what, name string }{{"storage account", c.Account}, {"container", c.Name}} {
		if n.name == "" || len(n.name) > 63 || strings.Trim(n.name, "abcdefghijklmnopqrstuvwxyz0123456789-_$") != "" {
			return fault.Invalid("%q is no name of a %s. Use 1 to 63 lower-case letters, digits and hyphens.", fault.Clip(n.name), n.what).
				With("InvalidResourceName").At(n.what)
		}
	}
	return nil
}

// Folder is the prefix of all that lies in the folder at path; "" is the whole
// container.
func Folder(path string) string {
	if path == "" || strings.HasSuffix(path, "/") {
		return path
	}
	return path + "/"
}

// CheckBlock returns a fault if a Store does not take a block of that name.
func CheckBlock(id string) error {
	if id == "" || len(id) > MaxBlock {
		return fault.Invalid("A block's id has 1 to %d characters, this one has %d.", MaxBlock, len(id)).
			With("InvalidQueryParameterValue").At("blockid")
	}
	return nil
}

// Check returns a fault if the condition forbids a write. etag is that of the
// blob as it is, "" if there is none.
func (c Condition) Check(key, etag string) error {
	switch {
	case c.IfNoneMatch == "*" && etag != "":
		return fault.Conflicts("The blob %q exists already.", fault.Clip(key)).With("BlobAlreadyExists").At("blob")
	case c.IfNoneMatch != "" && matches(c.IfNoneMatch, etag):
		return unmet("The blob %q still has the ETag of If-None-Match.", key)
	case c.IfMatch != "" && etag == "":
		return unmet("The blob %q does not exist, and If-Match asks that it does.", key)
	case c.IfMatch != "" && !matches(c.IfMatch, etag):
		return unmet("The blob %q has changed: its ETag is not that of If-Match. Read it again and decide anew.", key)
	}
	return nil
}

// matches tells whether etag is in the list that If-Match or If-None-Match
// holds.
func matches(list, etag string) bool {
	if etag == "" {
		return false
	}
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
		if one == "*" || strings.Trim(one, `"`) == strings.Trim(etag, `"`) {
			return true
		}
	}
	return false
}

// Unchanged tells whether a read with this condition would give the reader
// what it has already.
func (c Condition) Unchanged(etag string) bool {
	return c.IfNoneMatch != "" && matches(c.IfNoneMatch, etag)
}

func unmet(format, key string) error {
	return fault.Stale(format, fault.Clip(key)).With("ConditionNotMet").At("blob")
}
