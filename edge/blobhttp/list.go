package blobhttp

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
)

// What a listing looks like; the order of the fields is that of the elements.
type (
	listing struct {
		XMLName         xml.Name `xml:"EnumerationResults"`
		ServiceEndpoint string   `xml:",attr"`
		ContainerName   string   `xml:",attr"`
		Prefix          *name    `xml:",omitempty"`
		Marker          string   `xml:",omitempty"`
		MaxResults      int      `xml:",omitempty"`
		Delimiter       string   `xml:",omitempty"`
		Blobs           struct{ Entries []any }
		NextMarker      string
	}
	name struct {
		Encoded bool   `xml:",attr,omitempty"`
		Text    string `xml:",chardata"`
	}
	listedBlob struct {
		XMLName    xml.Name `xml:"Blob"`
		Name       name
		Properties listedProperties
		Metadata   *listedMetadata
	}
	listedProperties struct {
		CreationTime    string `xml:"Creation-Time"`
		LastModified    string `xml:"Last-Modified"`
		ETag            string `xml:"Etag"`
		ContentLength   int64  `xml:"Content-Length"`
		ContentType     string `xml:"Content-Type"`
		ContentEncoding string `xml:"Content-Encoding"`
		ContentLanguage string `xml:"Content-Language"`
		ContentMD5      string `xml:"Content-MD5"`
		CacheControl    string `xml:"Cache-Control"`
		Disposition     string `xml:"Content-Disposition"`
		BlobType        string
		LeaseStatus     string
		LeaseState      string
		ServerEncrypted bool
	}
	listedPrefix struct {
		XMLName xml.Name `xml:"BlobPrefix"`
		Name    name
	}
	listedMetadata map[string]string
)

func (m listedMetadata) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if err := e.EncodeElement(m[k], xml.StartElement{Name: xml.Name{Local: k}}); err != nil {
			return err
		}
	}
	return e.EncodeToken(start.End())
}

const maxResults = 5000

// list is List Blobs.
func (s *server) list(w http.ResponseWriter, r *request) error {
	prefix := r.query.Get("prefix")
	if err := r.access.may("", list); err != nil {
		return err
	}
	if g := r.access.grant; g != nil && g.Prefix != "" && !strings.HasPrefix(prefix, g.Prefix) {
		return fault.Denied("The shared access signature is for %q; list with that prefix.", fault.Clip(g.Prefix)).With("AuthenticationFailed")
	}
	q := blob.Query{Prefix: prefix, Delimiter: r.query.Get("delimiter"), Limit: maxResults}
	shown := 0
	if text := r.query.Get("maxresults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fault.Invalid("maxresults is %q; it is a number from 1 to %d.", fault.Clip(text), maxResults).With("OutOfRangeQueryParameterValue").At("maxresults")
		}
		q.Limit, shown = min(n, maxResults), n
	}
	marker := r.query.Get("marker")
	after, err := base64.RawURLEncoding.DecodeString(marker)
	if err != nil {
		return fault.Invalid("The marker %q is not one that a listing gave.", fault.Clip(marker)).With("InvalidQueryParameterValue").At("marker")
	}
	q.After = string(after)
	page, err := s.store.List(r.Context(), r.container, q)
	if err != nil {
		return err
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	out := listing{
		ServiceEndpoint: scheme + "://" + r.Host + "/", ContainerName: r.container.Name,
		Marker: marker, MaxResults: shown, Delimiter: q.Delimiter,
		NextMarker: base64.RawURLEncoding.EncodeToString([]byte(page.Next)),
	}
	if prefix != "" {
		n := nameOf(prefix)
		out.Prefix = &n
	}
	out.Blobs.Entries = s.entries(r, page)
	sendXML(w, http.StatusOK, out)
	return nil
}

// entries merges blobs and prefixes in byte order, and leaves out what the
// grant does not cover: the list of "logs" would have "logs2" too.
func (s *server) entries(r *request, page blob.Page) []any {
	withMetadata := slices.Contains(strings.Split(strings.Join(r.query["include"], ","), ","), "metadata")
	covers := func(key string) bool {
		return r.access.grant == nil || r.access.grant.Covers(strings.TrimSuffix(key, "/"))
	}
	all := make([]any, 0, len(page.Blobs)+len(page.Prefixes))
	for blobs, prefixes := page.Blobs, page.Prefixes; len(blobs)+len(prefixes) > 0; {
		if len(blobs) == 0 || (len(prefixes) > 0 && prefixes[0] < blobs[0].Key) {
			if covers(prefixes[0]) {
				all = append(all, listedPrefix{Name: nameOf(prefixes[0])})
			}
			prefixes = prefixes[1:]
			continue
		}
		if covers(blobs[0].Key) {
			all = append(all, listed(blobs[0], withMetadata))
		}
		blobs = blobs[1:]
	}
	return all
}

func listed(info blob.Info, withMetadata bool) listedBlob {
	b := listedBlob{Name: nameOf(info.Key), Properties: listedProperties{
		CreationTime:  info.Created.UTC().Format(http.TimeFormat),
		LastModified:  info.Modified.UTC().Format(http.TimeFormat),
		ETag:          strings.Trim(info.ETag, `"`),
		ContentLength: info.Size, ContentType: info.ContentType, ContentEncoding: info.ContentEncoding,
		ContentLanguage: info.ContentLanguage, CacheControl: info.CacheControl, Disposition: info.ContentDisposition,
		BlobType: "BlockBlob", LeaseStatus: "unlocked", LeaseState: "available",
	}}
	if info.ContentMD5 != nil {
		b.Properties.ContentMD5 = base64.StdEncoding.EncodeToString(info.ContentMD5)
	}
	if withMetadata {
		m := listedMetadata(info.Metadata)
		b.Metadata = &m
	}
	return b
}

// nameOf writes a name as it is, or percent-encoded and marked so if XML cannot
// hold it.
func nameOf(key string) name {
	for _, c := range key {
		if c < 0x20 || c == 0xFFFE || c == 0xFFFF {
			return name{Encoded: true, Text: url.PathEscape(key)}
		}
	}
	return name{Text: key}
}

// getBlockList is Get Block List.
func (s *server) getBlockList(w http.ResponseWriter, r *request) error {
	if err := r.access.may(r.key, read); err != nil {
		return err
	}
	which := r.query.Get("blocklisttype")
	if which == "" {
		which = "committed"
	}
	if which != "committed" && which != "uncommitted" && which != "all" {
		return fault.Invalid("blocklisttype is %q; it is committed, uncommitted or all.", fault.Clip(which)).With("InvalidQueryParameterValue").At("blocklisttype")
	}
	committed, staged, err := s.store.Blocks(r.Context(), r.container, r.key)
	if err != nil {
		return err
	}
	if info, err := s.store.Stat(r.Context(), r.container, r.key); err == nil {
		stamp(w, info)
		w.Header().Set("x-ms-blob-content-length", fmt.Sprint(info.Size))
	} else if which == "committed" {
		return err
	}
	type block struct {
		Name string
		Size int64
	}
	type list struct{ Block []block }
	of := func(blocks []blob.Block) *list {
		l := new(list)
		for _, b := range blocks {
			l.Block = append(l.Block, block{b.ID, b.Size})
		}
		return l
	}
	var out struct {
		XMLName           xml.Name `xml:"BlockList"`
		CommittedBlocks   *list    `xml:",omitempty"`
		UncommittedBlocks *list    `xml:",omitempty"`
	}
	if which != "uncommitted" {
		out.CommittedBlocks = of(committed)
	}
	if which != "committed" {
		out.UncommittedBlocks = of(staged)
	}
	sendXML(w, http.StatusOK, out)
	return nil
}
