package blobhttp

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
)

// head is Get Blob Properties and Get Blob Metadata.
func (s *server) head(w http.ResponseWriter, r *request) error {
	if err := r.access.may(r.key, read); err != nil {
		return err
	}
	info, err := s.store.Stat(r.Context(), r.container, r.key)
	if err != nil {
		return err
	}
	if done, err := precondition(w, r, info); done || err != nil {
		return err
	}
	describe(w, r, info, false)
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", fmt.Sprint(info.Size))
	} else {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// get is Get Blob.
func (s *server) get(w http.ResponseWriter, r *request) error {
	if err := r.access.may(r.key, read); err != nil {
		return err
	}
	offset, length, ranged := byteRange(r)
	sum := ranged && r.Header.Get("x-ms-range-get-content-md5") == "true"
	if sum && (length < 0 || length > maxSummed) {
		return fault.Invalid("The MD5 sum of a range is given up to %d bytes.", maxSummed).With("OutOfRangeInput").At("x-ms-range-get-content-md5")
	}
	body, info, err := s.store.Open(r.Context(), r.container, r.key, offset, length)
	if err != nil {
		if fault.Is(err, fault.RangeUnsatisfiable) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		}
		return err
	}
	defer body.Close()
	if done, err := precondition(w, r, info); done || err != nil {
		return err
	}
	h, status := w.Header(), http.StatusOK
	if rest := info.Size - offset; length < 0 || length > rest {
		length = rest
	}
	if ranged && length == 0 {
		h.Set("Content-Range", "bytes */0")
		return fault.New(fault.RangeUnsatisfiable, "InvalidRange", "The blob %q is empty, so no range lies in it.", fault.Clip(r.key))
	}
	if ranged {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+length-1, info.Size))
	}
	describe(w, r, info, ranged)
	var from io.Reader = body
	if sum {
		b := make([]byte, length)
		if _, err := io.ReadFull(body, b); err != nil {
			return fmt.Errorf("read blob: %w", err)
		}
		digest := md5.Sum(b)
		h.Set("Content-MD5", base64.StdEncoding.EncodeToString(digest[:]))
		from = strings.NewReader(string(b))
	}
	h.Set("Content-Length", fmt.Sprint(length))
	w.WriteHeader(status)
	if err := send(w, from, length); err != nil {
		if r.Context().Err() == nil {
			s.cfg.Log.Warn("blob download cut", "request", h.Get("x-ms-request-id"), "err", err)
		}
		panic(http.ErrAbortHandler) // so that the client sees it is not whole
	}
	return nil
}

const maxSummed = 4 << 20

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// send writes n bytes. The client may keep it waiting no longer than idle.
func send(w http.ResponseWriter, r io.Reader, n int64) error {
	control := http.NewResponseController(w)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	var until time.Time
	for n > 0 {
		got, err := io.ReadFull(r, (*buf)[:min(n, int64(len(*buf)))])
		if err != nil {
			return fmt.Errorf("read blob: %w", err)
		}
		if now := time.Now(); until.Sub(now) < idle-time.Second {
			until = now.Add(idle)
			control.SetWriteDeadline(until)
		}
		if _, err := w.Write((*buf)[:got]); err != nil {
			return err
		}
		n -= int64(got)
	}
	return nil
}

// byteRange reads x-ms-range or Range. What is not one range "bytes=a-b" or
// "bytes=a-" is passed over, as HTTP wants it. length is -1 to the end.
func byteRange(r *request) (offset, length int64, ok bool) {
	text := r.Header.Get("x-ms-range")
	if text == "" {
		text = r.Header.Get("Range")
	}
	text, ok = strings.CutPrefix(strings.TrimSpace(text), "bytes=")
	from, to, dash := strings.Cut(text, "-")
	if !ok || !dash {
		return 0, -1, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil || first < 0 {
		return 0, -1, false
	}
	if to == "" {
		// The store takes offset 0 to the end for the whole blob; that it is a
		// range shows only in the reply.
		return first, -1, true
	}
	last, err := strconv.ParseInt(to, 10, 64)
	if err != nil || last < first {
		return 0, -1, false
	}
	if last-first == 1<<63-1 {
		last--
	}
	return first, last - first + 1, true
}

// precondition answers a read whose condition does not hold.
func precondition(w http.ResponseWriter, r *request, info blob.Info) (done bool, err error) {
	match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	since, unchanged := r.Header.Get("If-Modified-Since"), r.Header.Get("If-Unmodified-Since")
	if match != "" {
		if err := (blob.Condition{IfMatch: match}).Check(r.key, info.ETag); err != nil {
			return false, err
		}
	}
	if unchanged != "" && match == "" && !notSince(unchanged, info) {
		return false, fault.Stale("The blob %q has changed since %s.", fault.Clip(r.key), unchanged).With("ConditionNotMet")
	}
	if (blob.Condition{IfNoneMatch: none}).Unchanged(info.ETag) || (none == "" && notSince(since, info)) {
		stamp(w, info)
		w.Header().Set("x-ms-error-code", "ConditionNotMet")
		w.WriteHeader(http.StatusNotModified)
		return true, nil
	}
	return false, nil
}

// describe sets the headers that say what is known of a blob.
func describe(w http.ResponseWriter, r *request, info blob.Info, ranged bool) {
	h := w.Header()
	stamp(w, info)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", info.ContentType)
	h.Set("x-ms-blob-type", "BlockBlob")
	h.Set("x-ms-creation-time", info.Created.UTC().Format(http.TimeFormat))
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-server-encrypted", "false")
	for name, v := range map[string]string{
		"Content-Encoding": info.ContentEncoding, "Content-Language": info.ContentLanguage,
		"Content-Disposition": info.ContentDisposition, "Cache-Control": info.CacheControl,
	} {
		if v != "" {
			h.Set(name, v)
		}
	}
	if info.ContentMD5 != nil {
		name := "Content-MD5"
		if ranged {
			name = "x-ms-blob-content-md5"
		}
		h.Set(name, base64.StdEncoding.EncodeToString(info.ContentMD5))
	}
	for k, v := range info.Metadata {
		h["x-ms-meta-"+k] = []string{v} // clients look for names in lower case
	}
	if r.Header.Get("x-ms-version") == "" {
		forBrowsers(h, info)
	}
}

// forBrowsers makes a blob that is opened as a link safe and readable. The
// bytes are anybody's: on the server's own origin they must not run as a page.
func forBrowsers(h http.Header, info blob.Info) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'")
	if info.CacheControl == "" {
		h.Set("Cache-Control", "no-cache") // a log grows
	}
	kind, _, err := mime.ParseMediaType(info.ContentType)
	switch ext := strings.ToLower(path.Ext(info.Key)); {
	case err == nil && kind != "application/octet-stream":
	case ext == ".txt" || ext == ".log":
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	if h.Get("Content-Type") == "text/plain" {
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
}
