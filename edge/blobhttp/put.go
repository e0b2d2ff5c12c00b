package blobhttp

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"io"
	"net/http"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml/blob"
)

// put is Put Blob, and Copy Blob if there is a source.
func (s *server) put(w http.ResponseWriter, r *request) error {
	cond, err := s.condition(r)
	if err != nil {
		return err
	}
	if err := r.access.mayPut(r.key, &cond); err != nil {
		return err
	}
	set, err := attributes(r)
	if err != nil {
		return err
	}
	if r.Header.Get("x-ms-copy-source") != "" {
		return s.copy(w, r, set, cond)
	}
	switch kind := r.Header.Get("x-ms-blob-type"); kind {
	case "BlockBlob":
	case "":
		return fault.Invalid("The header x-ms-blob-type is missing; it is BlockBlob.").With("MissingRequiredHeader").At("x-ms-blob-type")
	default:
		return fault.Invalid("Blobs of type %q are not kept here, only block blobs: use x-ms-blob-type: BlockBlob.", fault.Clip(kind)).With("InvalidHeaderValue").At("x-ms-blob-type")
	}
	body, err := limit(r, MaxPut)
	if err != nil {
		return err
	}
	if body, err = checked(r, body); err != nil {
		return err
	}
	info, err := s.store.Put(r.Context(), r.container, r.key, body, r.ContentLength, set, cond)
	if err != nil {
		return err
	}
	return written(w, http.StatusCreated, info)
}

// written is the reply to a write.
func written(w http.ResponseWriter, status int, info blob.Info) error {
	stamp(w, info)
	w.Header().Set("x-ms-request-server-encrypted", "false")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
	return nil
}

func stamp(w http.ResponseWriter, info blob.Info) {
	w.Header().Set("ETag", info.ETag)
	w.Header().Set("Last-Modified", info.Modified.UTC().Format(http.TimeFormat))
}

// putBlock is Put Block.
func (s *server) putBlock(w http.ResponseWriter, r *request) error {
	var cond blob.Condition
	if err := r.access.mayPut(r.key, &cond); err != nil {
		return err
	}
	id, err := blockID(r.query.Get("blockid"))
	if err != nil {
		return err
	}
	if r.Header.Get("x-ms-copy-source") != "" {
		return fault.Invalid("A block is not taken from another address here; send its bytes.").With("UnsupportedHeader").At("x-ms-copy-source")
	}
	body, err := limit(r, MaxBlock)
	if err != nil {
		return err
	}
	if body, err = checked(r, body); err != nil {
		return err
	}
	if err := s.store.Stage(r.Context(), r.container, r.key, id, body, r.ContentLength); err != nil {
		return err
	}
	w.Header().Set("x-ms-request-server-encrypted", "false")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// blockID checks that a block's id is what Azure takes, base64 of 1 to 64 bytes.
func blockID(id string) (string, error) {
	if b, err := base64.StdEncoding.DecodeString(id); err != nil || len(b) == 0 || len(b) > 64 {
		return "", fault.Invalid("The blockid %q is not the base64 of 1 to 64 bytes.", fault.Clip(id)).With("InvalidQueryParameterValue").At("blockid")
	}
	return id, nil
}

// putBlockList is Put Block List.
func (s *server) putBlockList(w http.ResponseWriter, r *request) error {
	cond, err := s.condition(r)
	if err != nil {
		return err
	}
	if err := r.access.mayPut(r.key, &cond); err != nil {
		return err
	}
	set, err := attributes(r)
	if err != nil {
		return err
	}
	if set.ContentType = r.Header.Get("x-ms-blob-content-type"); set.ContentType == "" {
		set.ContentType = "application/octet-stream" // Content-Type is that of the XML
	}
	if set.ContentMD5, err = md5Header(r, "x-ms-blob-content-md5"); err != nil { // Content-MD5 is that of the XML
		return err
	}
	text, err := edge.ReadBody(w, r.Request, maxXML)
	if err != nil {
		return err
	}
	body, err := checked(r, bytes.NewReader(text))
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	refs, err := parseBlockList(text)
	if err != nil {
		return err
	}
	info, err := s.store.CommitBlocks(r.Context(), r.container, r.key, refs, set, cond)
	if err != nil {
		return err
	}
	return written(w, http.StatusCreated, info)
}

func parseBlockList(text []byte) ([]blob.BlockRef, error) {
	bad := func(err error) error {
		return fault.Invalid("The body is not a block list: %v.", err).With("InvalidXmlDocument")
	}
	var doc struct {
		XMLName xml.Name `xml:"BlockList"`
		Blocks  []struct {
			XMLName xml.Name
			ID      string `xml:",chardata"`
		} `xml:",any"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, bad(err)
	}
	from := map[string]blob.BlockSource{"Latest": blob.Latest, "Committed": blob.Committed, "Uncommitted": blob.Staged}
	refs := make([]blob.BlockRef, 0, len(doc.Blocks))
	for _, b := range doc.Blocks {
		source, ok := from[b.XMLName.Local]
		if !ok {
			return nil, fault.Invalid("A block list holds Latest, Committed and Uncommitted, not %q.", fault.Clip(b.XMLName.Local)).With("InvalidXmlDocument")
		}
		refs = append(refs, blob.BlockRef{ID: strings.TrimSpace(b.ID), From: source})
	}
	return refs, nil
}

// setMetadata is Set Blob Metadata.
func (s *server) setMetadata(w http.ResponseWriter, r *request) error {
	cond, err := s.mayChange(r)
	if err != nil {
		return err
	}
	meta, err := metadata(r)
	if err != nil {
		return err
	}
	info, err := s.store.SetMetadata(r.Context(), r.container, r.key, meta, cond)
	if err != nil {
		return err
	}
	return written(w, http.StatusOK, info)
}

// setProperties is Set Blob Properties.
func (s *server) setProperties(w http.ResponseWriter, r *request) error {
	cond, err := s.mayChange(r)
	if err != nil {
		return err
	}
	r.Header.Del("Content-Type") // it says nothing of the blob here
	r.Header.Del("Content-MD5")
	set, err := attributes(r)
	if err != nil {
		return err
	}
	info, err := s.store.SetHeaders(r.Context(), r.container, r.key, set, cond)
	if err != nil {
		return err
	}
	return written(w, http.StatusOK, info)
}

func (s *server) mayChange(r *request) (blob.Condition, error) {
	if err := r.access.may(r.key, write); err != nil {
		return blob.Condition{}, err
	}
	return s.condition(r)
}

// delete is Delete Blob.
func (s *server) delete(w http.ResponseWriter, r *request) error {
	if err := r.access.may(r.key, remove); err != nil {
		return err
	}
	cond, err := s.condition(r)
	if err != nil {
		return err
	}
	if err := s.store.Delete(r.Context(), r.container, r.key, cond); err != nil {
		return err
	}
	w.Header().Set("x-ms-delete-type-permanent", "true")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// attributes reads what is to be kept with a blob.
func attributes(r *request) (blob.Attributes, error) {
	get := func(name string) string {
		if v := r.Header.Get("x-ms-blob-" + name); v != "" {
			return v
		}
		return r.Header.Get(name)
	}
	set := blob.Attributes{
		ContentType:        get("content-type"),
		ContentEncoding:    r.Header.Get("x-ms-blob-content-encoding"),
		ContentLanguage:    r.Header.Get("x-ms-blob-content-language"),
		ContentDisposition: r.Header.Get("x-ms-blob-content-disposition"),
		CacheControl:       r.Header.Get("x-ms-blob-cache-control"),
	}
	var err error
	if set.ContentMD5, err = md5Header(r, "x-ms-blob-content-md5"); err != nil {
		return blob.Attributes{}, err
	}
	if set.ContentMD5 == nil {
		if set.ContentMD5, err = md5Header(r, "Content-MD5"); err != nil {
			return blob.Attributes{}, err
		}
	}
	set.Metadata, err = metadata(r)
	return set, err
}

const (
	metaPrefix  = "X-Ms-Meta-"
	maxMetadata = 8 << 10
)

func metadata(r *request) (map[string]string, error) {
	meta, size := map[string]string{}, 0
	for name, values := range r.Header {
		key, ok := strings.CutPrefix(name, metaPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if !identifier(key) {
			return nil, fault.Invalid("The metadata name %q is not made of letters, digits and underscores, a digit not first.", fault.Clip(key)).With("InvalidMetadata").At(name)
		}
		meta[key] = strings.Join(values, ",")
		if size += len(key) + len(meta[key]); size > maxMetadata {
			return nil, fault.Invalid("The metadata is larger than %d bytes.", maxMetadata).With("MetadataTooLarge")
		}
	}
	return meta, nil
}

func identifier(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_', 'a' <= c && c <= 'z', '0' <= c && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// condition reads the conditions of a write. One that is about time is decided
// here and then tied to the ETag that was looked at.
func (s *server) condition(r *request) (blob.Condition, error) {
	cond := blob.Condition{IfMatch: r.Header.Get("If-Match"), IfNoneMatch: r.Header.Get("If-None-Match")}
	since, unchanged := r.Header.Get("If-Modified-Since"), r.Header.Get("If-Unmodified-Since")
	if since == "" && unchanged == "" {
		return cond, nil
	}
	info, err := s.store.Stat(r.Context(), r.container, r.key)
	if fault.Is(err, fault.Missing) {
		return cond, nil
	}
	if err != nil {
		return cond, err
	}
	if notSince(since, info) || (unchanged != "" && !notSince(unchanged, info)) {
		return cond, fault.Stale("The blob %q was last changed at %s, which the request's condition forbids.", fault.Clip(r.key), info.Modified.Format(http.TimeFormat)).With("ConditionNotMet")
	}
	if cond.IfMatch == "" {
		cond.IfMatch = info.ETag
	}
	return cond, nil
}

// notSince tells whether a blob was not changed after an HTTP date.
func notSince(date string, info blob.Info) bool {
	t, err := http.ParseTime(date)
	return err == nil && !info.Modified.Truncate(time.Second).After(t)
}

// copy is Copy Blob and Put Blob From URL, for sources on this server.
func (s *server) copy(w http.ResponseWriter, r *request, set blob.Attributes, cond blob.Condition) error {
	from, key, err := s.source(r)
	if err != nil {
		return err
	}
	source, info, err := s.store.Open(r.Context(), from, key, 0, -1)
	if err != nil {
		return err
	}
	defer source.Close()
	kept := info.Attributes
	if len(set.Metadata) > 0 {
		kept.Metadata = set.Metadata
	}
	if t := r.Header.Get("x-ms-blob-content-type"); t != "" {
		kept.ContentType = t
	}
	// The copy outlives the client's patience, as Azure's does.
	ctx := context.WithoutCancel(r.Context())
	made, err := s.store.Put(ctx, r.container, r.key, source, info.Size, kept, cond)
	if err != nil {
		return err
	}
	w.Header().Set("x-ms-copy-id", edge.NewID())
	w.Header().Set("x-ms-copy-status", "success")
	if r.Header.Get("x-ms-blob-type") != "" || r.Header.Get("x-ms-requires-sync") == "true" {
		return written(w, http.StatusCreated, made)
	}
	return written(w, http.StatusAccepted, made)
}

// source finds the blob that x-ms-copy-source names and checks that it may be
// read: by its own signature, or by the access that the request has.
func (s *server) source(r *request) (blob.Container, string, error) {
	refuse := func(why string) (blob.Container, string, error) {
		return blob.Container{}, "", fault.Invalid("The blob cannot be copied: %s.", why).With("CannotVerifyCopySource").At("x-ms-copy-source")
	}
	u, err := r.URL.Parse(r.Header.Get("x-ms-copy-source"))
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !strings.EqualFold(u.Host, r.Host) {
		return refuse("its source is not an address of this server")
	}
	account, container, key := parse(u.Path)
	if key == "" {
		return refuse("its source names no blob")
	}
	if err := blob.CheckKey(key); err != nil {
		return blob.Container{}, "", err
	}
	access := r.access
	if q := u.Query(); q.Has("sig") {
		if access, err = s.bySignature(q, account, container); err != nil {
			return blob.Container{}, "", err
		}
	} else if container != access.container.Name || (account != "" && account != access.container.Account) {
		return refuse("its source is in another container and carries no shared access signature")
	}
	return access.container, key, access.may(key, read)
}
