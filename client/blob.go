package client

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"lapis/client/spec"
	"lapis/fault"
	"lapis/file"
)

// How blobs are moved: files up to singlePut go in one request, larger ones
// in blocks; so many requests at a time.
const (
	singlePut   = 64 << 20 // bytes
	blockSize   = 32 << 20 // bytes
	files       = 16       // at a time
	blocks      = 4        // at a time, of one file
	blobVersion = "2021-12-02"
)

// container is a blob container with the right to use it.
type container struct {
	base string // https://host/container
	sas  string // the query that grants it
}

// containerAt splits a URL with a SAS.
func containerAt(sasURI string) container {
	base, sas, _ := strings.Cut(sasURI, "?")
	return container{strings.TrimSuffix(base, "/"), sas}
}

// blob is the URL of a blob, with more query if given.
func (k container) blob(name string, query ...string) string {
	u := url.URL{Path: "/" + name}
	return k.base + u.EscapedPath() + "?" + strings.Join(append(query, k.sas), "&")
}

func blobHeader(pairs ...string) http.Header {
	h := http.Header{"X-Ms-Version": {blobVersion}}
	for i := 0; i+1 < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

// Progress is told how far a transfer is. Done grows to total; both in bytes.
// It is not called twice at once.
type Progress func(name string, done, total int64)

// transfer counts what several requests move together.
type transfer struct {
	tell  Progress // may be nil
	name  string
	total int64

	mu   sync.Mutex
	done int64
}

func (t *transfer) moved(n int64) {
	if t.tell == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	t.tell(t.name, t.done, t.total)
}

// uploaded tells whether the content is in the container already: the first
// of its files carries the mark that an upload puts last.
func (c *Client) uploaded(ctx context.Context, k container, indicator string) (bool, error) {
	res, err := c.do(ctx, call{method: http.MethodHead, url: k.blob(indicator), header: blobHeader(), anon: true})
	if fault.Is(err, fault.Missing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	res.Body.Close()
	return res.Header.Get("x-ms-meta-upload_status") == "completed", nil
}

// upload puts all files of the content below prefix ("" or ending in a
// slash) and then marks the first of them as complete.
func (c *Client) upload(ctx context.Context, k container, prefix string, content *spec.Content, name, version string) error {
	if len(content.Files) == 0 {
		return fault.Invalid("%s is empty: there is nothing to upload.", content.Path)
	}
	place := func(f spec.File) string {
		if content.Folder {
			return prefix + content.Name + "/" + f.Name
		}
		return prefix + f.Name
	}
	indicator := place(content.Files[0])
	if done, err := c.uploaded(ctx, k, indicator); err != nil || done {
		return err
	}
	report := (&transfer{tell: c.Progress, name: "Uploading " + content.Name, total: content.Size}).moved
	report(0)
	var jobs []func(context.Context) error
	for _, f := range content.Files {
		if f.Size <= singlePut {
			jobs = append(jobs, func(ctx context.Context) error { return c.putFile(ctx, k, place(f), f, report) })
		}
	}
	if err := inParallel(ctx, files, jobs); err != nil {
		return err
	}
	for _, f := range content.Files {
		if f.Size > singlePut {
			if err := c.putBlocks(ctx, k, place(f), f, report); err != nil {
				return err
			}
		}
	}
	res, err := c.do(ctx, call{
		method: http.MethodPut, url: k.blob(indicator, "comp=metadata"), anon: true,
		header: blobHeader("x-ms-meta-upload_status", "completed", "x-ms-meta-name", name, "x-ms-meta-version", version),
		body:   noBody,
	})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func noBody() (io.Reader, int64, error) { return http.NoBody, 0, nil }

// section gives a part of a file as a body; a try may be repeated.
func section(file *os.File, from, size int64) func() (io.Reader, int64, error) {
	return func() (io.Reader, int64, error) {
		// The type hides that it can be closed: the file stays open.
		return struct{ io.Reader }{io.NewSectionReader(file, from, size)}, size, nil
	}
}

func (c *Client) putFile(ctx context.Context, k container, name string, f spec.File, report func(int64)) error {
	file, err := os.Open(f.Path)
	if err != nil {
		return fault.Invalid("%s cannot be read: %v.", f.Path, err)
	}
	defer file.Close()
	res, err := c.do(ctx, call{method: http.MethodPut, url: k.blob(name), header: blobHeader("x-ms-blob-type", "BlockBlob", "Content-Type", "application/octet-stream"), body: section(file, 0, f.Size), anon: true})
	if err != nil {
		return changed(f, err)
	}
	report(f.Size)
	return res.Body.Close()
}

func (c *Client) putBlocks(ctx context.Context, k container, name string, f spec.File, report func(int64)) error {
	file, err := os.Open(f.Path)
	if err != nil {
		return fault.Invalid("%s cannot be read: %v.", f.Path, err)
	}
	defer file.Close()
	var jobs []func(context.Context) error
	var list strings.Builder
	list.WriteString(`<?xml version="1.0" encoding="utf-8"?><BlockList>`)
	for at := int64(0); at < f.Size; at += blockSize {
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%032d", at/blockSize))
		size := min(blockSize, f.Size-at)
		list.WriteString("<Latest>" + id + "</Latest>")
		jobs = append(jobs, func(ctx context.Context) error {
			res, err := c.do(ctx, call{method: http.MethodPut, url: k.blob(name, "comp=block", "blockid="+url.QueryEscape(id)), header: blobHeader("Content-Type", "application/octet-stream"), body: section(file, at, size), anon: true})
			if err != nil {
				return changed(f, err)
			}
			report(size)
			return res.Body.Close()
		})
	}
	list.WriteString("</BlockList>")
	if err := inParallel(ctx, blocks, jobs); err != nil {
		return err
	}
	body := list.String()
	res, err := c.do(ctx, call{method: http.MethodPut, url: k.blob(name, "comp=blocklist"), header: blobHeader("Content-Type", "application/xml"), anon: true,
		body: func() (io.Reader, int64, error) { return strings.NewReader(body), int64(len(body)), nil }})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// changed says that a file was written to while it was sent.
func changed(f spec.File, err error) error {
	if info, statErr := os.Stat(f.Path); statErr == nil && info.Size() != f.Size {
		return fault.Conflicts("%s changed while it was uploaded. Try again when it is at rest.", f.Path).From(err)
	}
	return err
}

// inParallel runs jobs, so many at a time, and stops at the first error.
func inParallel(ctx context.Context, width int, jobs []func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan func(context.Context) error)
	var wait sync.WaitGroup
	for range min(width, len(jobs)) {
		wait.Go(func() {
			for job := range next {
				if err := job(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, job := range jobs {
		select {
		case next <- job:
		case <-ctx.Done():
		}
	}
	close(next)
	wait.Wait()
	if err := context.Cause(ctx); ctx.Err() != nil {
		return err
	}
	return nil
}

// Blob is one entry of a listing.
type Blob struct {
	Name string
	Size int64
}

// blobs lists what lies below prefix.
func (c *Client) blobs(ctx context.Context, k container, prefix string) ([]Blob, error) {
	var all []Blob
	marker := ""
	for {
		q := url.Values{"restype": {"container"}, "comp": {"list"}, "prefix": {prefix}}
		if marker != "" {
			q.Set("marker", marker)
		}
		res, err := c.do(ctx, call{method: http.MethodGet, url: k.base + "?" + q.Encode() + "&" + k.sas, header: blobHeader(), anon: true})
		if err != nil {
			return nil, err
		}
		var page struct {
			Blobs struct {
				Blob []struct {
					Name       string
					Properties struct {
						Size int64 `xml:"Content-Length"`
					}
					Metadata struct {
						Folder string `xml:"hdi_isfolder"`
					}
				}
			}
			NextMarker string
		}
		err = xml.NewDecoder(res.Body).Decode(&page)
		res.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read a listing: %w", err)
		}
		for _, b := range page.Blobs.Blob {
			if b.Metadata.Folder != "true" {
				all = append(all, Blob{b.Name, b.Properties.Size})
			}
		}
		if marker = page.NextMarker; marker == "" {
			return all, nil
		}
	}
}

// downloadTo brings every blob below prefix into dir, keeping what follows
// prefix as the path. It gives the number of files.
func (c *Client) downloadTo(ctx context.Context, k container, prefix, dir, label string) (int, error) {
	list, err := c.blobs(ctx, k, prefix)
	if err != nil {
		return 0, err
	}
	t := &transfer{tell: c.Progress, name: "Downloading " + label}
	var jobs []func(context.Context) error
	count := 0
	for _, b := range list {
		rest, ok := strings.CutPrefix(b.Name, prefix)
		switch {
		case !ok:
			continue
		case rest == "": // the prefix is a file itself
			rest = path.Base(b.Name)
		case !strings.HasSuffix(prefix, "/") && prefix != "" && !strings.HasPrefix(rest, "/"):
			continue // a neighbour that begins with the same letters
		}
		rest = strings.TrimPrefix(rest, "/")
		if !filepath.IsLocal(filepath.FromSlash(rest)) {
			return 0, fault.Invalid("The blob %q would lie outside of %s; it is not downloaded.", b.Name, dir)
		}
		t.total += b.Size
		count++
		jobs = append(jobs, func(ctx context.Context) error {
			return c.downloadFile(ctx, k.blob(b.Name), filepath.Join(dir, filepath.FromSlash(rest)), t.moved)
		})
	}
	return count, inParallel(ctx, files, jobs)
}

// downloadFile brings one blob. A connection that breaks is taken up where it
// broke; the file appears when it is whole.
func (c *Client) downloadFile(ctx context.Context, address, to string, report func(int64)) error {
	return save(to, func(part *os.File) error {
		var at int64
		etag := ""
		for tries := 0; ; tries++ {
			h := blobHeader()
			if at > 0 {
				h.Set("Range", fmt.Sprintf("bytes=%d-", at))
				h.Set("If-Match", etag)
			}
			res, err := c.do(ctx, call{method: http.MethodGet, url: address, header: h, anon: true})
			if err != nil {
				return err
			}
			etag = res.Header.Get("ETag")
			n, err := io.Copy(part, &meter{res.Body, report})
			res.Body.Close()
			if at += n; err == nil {
				return nil
			}
			var pe *os.PathError
			if ctx.Err() != nil || tries > 20 || errors.As(err, &pe) {
				return err
			}
		}
	})
}

// save makes a file of what fill brings, and the folders above it; it is there
// whole or not at all.
func save(to string, fill func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fault.Invalid("The folder %s cannot be made: %v.", filepath.Dir(to), err)
	}
	err := file.Whole(to, 0o644, fill)
	var pe *os.PathError
	switch {
	case err == nil || fault.Find(err) != nil:
		return err
	case errors.As(err, &pe):
		return fault.Invalid("%s cannot be written: %v.", to, err).From(err)
	}
	return fmt.Errorf("download %s: %w", to, err)
}

type meter struct {
	io.Reader
	report func(int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.report(int64(n))
	return n, err
}

// rangeFrom reads a blob from an offset on. At its end it gives nothing.
func (c *Client) rangeFrom(ctx context.Context, address string, from int64) ([]byte, error) {
	h := http.Header{}
	if from > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
	}
	res, err := c.do(ctx, call{method: http.MethodGet, url: address, header: h, anon: true})
	if fault.Is(err, fault.RangeUnsatisfiable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil && len(data) == 0 {
		return nil, err
	}
	if from > 0 && res.StatusCode == http.StatusOK { // ranges are not known here
		if int64(len(data)) <= from {
			return nil, nil
		}
		data = data[from:]
	}
	return data, nil
}
