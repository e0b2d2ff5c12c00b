package mlflowhttp

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml/blob"
	"lapis/pattern"
)

const (
	// maxParts bounds the parts of one upload, as S3 does.
	maxParts = 10_000

	// partsFor is how long the addresses of an upload's parts are good.
	partsFor = 12 * time.Hour

	// downloadFor is how long the address of an artefact is good: MLflow's own.
	downloadFor = 5 * time.Minute

	// maxExpiration bounds, in seconds, how long an address may be asked for.
	maxExpiration = 604800
)

var errMultipart = fault.New(fault.NotImplemented, "NOT_IMPLEMENTED", "Multipart upload is not supported for the current artifact repository")

// uploadID is the form of an upload's id.
var uploadID = pattern.New(`^[0-9a-f-]{36}$`)

// uploadPrefix is how the names of an upload's blocks begin, so that those of
// two uploads of one artefact are kept apart.
func uploadPrefix(upload string) string {
	// 39 bytes are whole letters of base64.
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%-39s", upload))
}

// partID names a part of an upload among the blocks of a blob.
func partID(upload string, part int) string {
	return uploadPrefix(upload) + base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%06d", part))
}

// uploadOf reads what the requests of a multipart upload share: the path of the
// local file, whose name the artefact takes, in the folder that the URL names.
func (s *Server) uploadOf(c *call) (place, error) {
	local := c.text("path", required)
	if c.err != nil {
		return place{}, c.err
	}
	name := path.Base(strings.ReplaceAll(local, `\`, "/"))
	if name == "." || name == ".." || name == "/" {
		return place{}, invalid("Invalid path")
	}
	p := path.Join(strings.Trim(c.vars["path"], "/"), name)
	for _, each := range []string{c.vars["path"], p} {
		if err := checkPath(each); err != nil {
			return place{}, err
		}
	}
	return s.locate(c, p)
}

// createMultipart gives an address for each part of an upload. The parts are
// blocks of a blob, staged until the upload is completed.
func (s *Server) createMultipart(c *call) error {
	at, err := s.uploadOf(c)
	parts := c.integer("num_parts", false)
	switch {
	case c.err != nil:
		return c.err
	case err != nil:
		return err
	case s.Link == nil:
		return errMultipart
	case !c.has("num_parts"):
		parts = 1
	case parts < 1 || parts > maxParts:
		return invalid("Invalid value %d for parameter 'num_parts' supplied. It must be between 1 and %d.", parts, maxParts)
	}
	if err := blob.CheckKey(at.key); err != nil {
		return err
	}
	upload := edge.NewID()
	link := s.Link(c.r, at.Container, at.key, "w", partsFor)
	var o out
	o.open()
	o.text("upload_id", upload)
	o.list("credentials")
	for part := 1; part <= int(parts); part++ {
		o.open()
		o.text("url", link+"&comp=block&blockid="+url.QueryEscape(partID(upload, part)))
		o.integer("part_number", int64(part))
		o.close()
	}
	o.closeList()
	o.close()
	return c.reply(&o)
}

// upload reads the id of an upload.
func (c *call) upload() string {
	id := c.text("upload_id", required)
	if c.err == nil && !uploadID.MatchString(id) {
		c.fail(invalid("There is no upload %q.", id))
	}
	return id
}

// completeMultipart makes the artefact of the parts, in one step.
func (s *Server) completeMultipart(c *call) error {
	at, err := s.uploadOf(c)
	upload, parts := c.upload(), c.messages("parts", required)
	var refs []blob.BlockRef
	last := 0
	for _, p := range parts {
		n := int(p.integer("part_number", required))
		if c.err == nil && (n <= last || n > maxParts) {
			c.fail(invalid("The parts of an upload are numbered from 1 to %d and listed in that order; %d comes after %d.", maxParts, n, last))
		}
		last = n
		refs = append(refs, blob.BlockRef{ID: partID(upload, n), From: blob.Staged})
	}
	switch {
	case c.err != nil:
		return c.err
	case err != nil:
		return err
	case len(refs) == 0:
		c.needed("parts")
		return c.err
	}
	_, err = s.Blobs.CommitBlocks(c.ctx(), at.Container, at.key, refs, blob.Attributes{ContentType: mediaType(at.key)}, blob.Condition{})
	if f := fault.Find(err); f != nil && f.Code == "InvalidBlockList" {
		return invalid("The upload %q does not have all the parts that are named: send those that are missing, then complete it again.", upload)
	}
	return c.done(err)
}

// abortMultipart drops the parts of an upload. One that is not there is no error.
func (s *Server) abortMultipart(c *call) error {
	at, err := s.uploadOf(c)
	upload := c.upload()
	if c.err != nil {
		return c.err
	}
	if err != nil {
		return err
	}
	err = s.Blobs.Unstage(c.ctx(), at.Container, at.key, uploadPrefix(upload))
	if fault.Is(err, fault.Missing) {
		err = nil
	}
	return c.done(err)
}

// presignedDownload answers the address of an artefact, for clients that read
// it in parallel ranges.
func (s *Server) presignedDownload(c *call) error {
	p := c.vars["path"]
	if err := checkPath(p); err != nil {
		return err
	}
	if s.Link == nil {
		return fault.New(fault.NotImplemented, "NOT_IMPLEMENTED", "Multipart download is not supported for the current artifact repository")
	}
	at, err := s.locate(c, p)
	if err != nil {
		return err
	}
	info, err := s.Blobs.Stat(c.ctx(), at.Container, at.key)
	if fault.Is(err, fault.Missing) || fault.Is(err, fault.BadRequest) {
		return missing("No such artifact: '%s'", p)
	}
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("url", s.Link(c.r, at.Container, at.key, "r", downloadFor))
	o.object("headers")
	o.close()
	o.integer("file_size", info.Size)
	o.close()
	return c.reply(&o)
}

// expiration checks how long an address is asked for, in seconds.
func (c *call) expiration() {
	if n := c.integer("expiration", false); c.err == nil && c.has("expiration") && (n < 1 || n > maxExpiration) {
		c.fail(invalid("expiration must be between 1 and %d seconds (got %d).", maxExpiration, n))
	}
}

// noPresignedUpload checks the request as if there were presigned uploads to a
// cloud's storage, and says that artefacts are sent through the server.
func (s *Server) noPresignedUpload(c *call) error {
	run, model, p := c.text("run_id", false), c.text("model_id", false), c.text("path", required)
	c.expiration()
	if c.err != nil {
		return c.err
	}
	root, err := s.artifactRoot(c, run, model, p)
	if err != nil {
		return err
	}
	scheme, _, _ := strings.Cut(root, ":")
	return invalid("Presigned upload is not supported for proxied artifact storage (artifact URI scheme: %s). "+
		"This endpoint requires a direct cloud storage artifact URI.", scheme)
}

// noPresignedDownload is noPresignedUpload for downloads, which runs alone have.
func (s *Server) noPresignedDownload(c *call) error {
	run, p := c.text("run_id", required), c.text("path", required)
	c.expiration()
	if c.err != nil {
		return c.err
	}
	if err := checkPath(p); err != nil {
		return err
	}
	d, err := s.Tracking.Run(c.ctx(), c.workspace, run)
	if err != nil {
		return err
	}
	scheme, _, _ := strings.Cut(d.Artifact, ":")
	return invalid("Presigned download is not supported for runs with proxied artifact storage (artifact URI scheme: %s). "+
		"This endpoint requires a run with a direct cloud storage artifact URI.", scheme)
}
