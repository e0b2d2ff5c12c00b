package mlflowhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/ml/tracking"
)

func (s *Server) artifactRoutes() {
	s.handle("GET", "2.0/mlflow/artifacts/list", artifactsRead, s.listArtifacts)
	s.handle("GET", "2.0/mlflow-artifacts/artifacts", artifactsRead, s.listProxied)
	s.add("PUT", "2.0/mlflow-artifacts/artifacts/{path...}", route{artifactsWrite, true, s.putArtifact})
	s.add("GET|HEAD", "2.0/mlflow-artifacts/artifacts/{path...}", route{artifactsRead, true, s.getArtifact})
	s.add("DELETE", "2.0/mlflow-artifacts/artifacts/{path...}", route{artifactsDelete, true, s.deleteArtifact})
	s.handle("POST", "2.0/mlflow-artifacts/mpu/create/{path...}", artifactsWrite, s.createMultipart)
	s.handle("POST", "2.0/mlflow-artifacts/mpu/complete/{path...}", artifactsWrite, s.completeMultipart)
	s.handle("POST", "2.0/mlflow-artifacts/mpu/abort/{path...}", artifactsWrite, s.abortMultipart)
	s.add("GET", "2.0/mlflow-artifacts/presigned/{path...}", route{artifactsRead, true, s.presignedDownload})
	s.handle("POST", "2.0/mlflow/artifacts/presigned-upload-url", artifactsWrite, s.noPresignedUpload)
	s.handle("POST", "2.0/mlflow/artifacts/presigned-download-url", artifactsRead, s.noPresignedDownload)
	s.add("GET|HEAD", "lapis/artifacts/zip", route{artifactsRead, true, s.zipArtifacts})
	s.add("GET|HEAD", "get-artifact", route{artifactsRead, true, s.getRunArtifact})
	s.add("POST", "2.0/mlflow/upload-artifact", route{artifactsWrite, true, s.uploadArtifact})
	s.add("GET", serverInfoPath, route{"", true, s.serverInfo})
}

const serverInfoPath = "3.0/mlflow/server-info"

func (s *Server) serverInfo(c *call) error {
	on, err := s.Workspaces.Enabled(c.ctx())
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.text("store_type", "SqlStore")
	o.flag("workspaces_enabled", on)
	o.flag("trace_archival_enabled", false)
	o.flag("multipart_uploads_enabled", s.Link != nil)
	// A client that is told of presigned downloads asks for an address before
	// each file, and takes it with settings of its own for TLS; one plain
	// request is faster and surer. Who insists may have them.
	o.flag("multipart_downloads_enabled", false)
	o.flag("presigned_upload_run_id_supported", true)
	o.flag("presigned_upload_model_id_supported", true)
	o.close()
	return c.reply(&o)
}

// proxied returns the path of an artefact URI that this server keeps.
func proxied(uri string) (string, error) {
	rest, ok := strings.CutPrefix(uri, "mlflow-artifacts:")
	if !ok {
		return "", invalid("The artifacts at '%s' are not kept by this server: use that store's own client.", uri)
	}
	if rest, host := strings.CutPrefix(rest, "//"); host && !strings.HasPrefix(rest, "/") {
		_, rest, _ = strings.Cut(rest, "/")
		return strings.Trim(rest, "/"), nil
	}
	return strings.Trim(rest, "/"), nil
}

// checkPath refuses paths that lead elsewhere, however often they are escaped.
func checkPath(p string) error {
	for range 8 {
		if strings.HasPrefix(p, "/") || strings.ContainsAny(p, "#\x00") || strings.HasPrefix(strings.ToLower(p), "file:") ||
			len(p) > 1 && p[1] == ':' && (p[0]|0x20 >= 'a' && p[0]|0x20 <= 'z') {
			return invalid("Invalid path")
		}
		for part := range strings.FieldsFuncSeq(p, func(r rune) bool { return r == '/' || r == '\\' }) {
			if part == ".." || part == "." {
				return invalid("Invalid path")
			}
		}
		plain, err := url.PathUnescape(p)
		if err != nil || plain == p {
			return nil
		}
		p = plain
	}
	return invalid("Invalid path")
}

// place is where bytes lie.
type place struct {
	blob.Container
	key string
}

// locate finds the bytes of a path below "mlflow-artifacts:/".
func (s *Server) locate(c *call, p string) (place, error) {
	p = strings.Trim(p, "/")
	if err := c.within(p); err != nil {
		return place{}, err
	}
	store, key := tracking.StorePath(p)
	if store == ml.ArtifactStore {
		return place{c.site.Artifacts(), key}, nil
	}
	at, err := data.Locate(c.ctx(), s.Resources, c.site.ID, "azureml://datastores/"+store+"/paths/"+key)
	if err != nil {
		return place{}, err
	}
	return place{at.Container, at.Path}, nil
}

// file is one entry of a listing.
type file struct {
	name string // relative to the folder
	dir  bool
	size int64
}

// folder lists what lies directly in a folder, by name.
func (s *Server) folder(ctx context.Context, at place) ([]file, error) {
	prefix := strings.TrimSuffix(at.key, "/") + "/"
	var files []file
	q := blob.Query{Prefix: prefix, Delimiter: "/"}
	for {
		page, err := s.Blobs.List(ctx, at.Container, q)
		if fault.Is(err, fault.Missing) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, b := range page.Blobs {
			if name := b.Key[len(prefix):]; name != "" {
				files = append(files, file{name: name, size: b.Size})
			}
		}
		for _, p := range page.Prefixes {
			if name := strings.TrimSuffix(p[len(prefix):], "/"); name != "" {
				files = append(files, file{name: name, dir: true})
			}
		}
		if page.Next == "" {
			break
		}
		q.After = page.Next
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

func (o *out) files(files []file, below string) {
	if len(files) == 0 {
		return
	}
	o.list("files")
	for _, f := range files {
		o.open()
		o.text("path", path.Join(below, f.name))
		o.flag("is_dir", f.dir)
		if !f.dir {
			o.integer("file_size", f.size)
		}
		o.close()
	}
	o.closeList()
}

func (s *Server) listArtifacts(c *call) error {
	run, below := c.run(), c.text("path", false)
	if c.err != nil {
		return c.err
	}
	if err := checkPath(below); err != nil {
		return err
	}
	d, err := s.Tracking.Run(c.ctx(), c.workspace, run)
	if err != nil {
		return err
	}
	return s.replyFiles(c, d.Artifact, below)
}

// replyFiles lists a folder below an artefact root.
func (s *Server) replyFiles(c *call, root, below string) error {
	base, err := proxied(root)
	if err != nil {
		return err
	}
	return s.replyFolder(c, path.Join(base, below), root, below)
}

// replyFolder lists what lies at a path, whose files are told as lying below;
// root "" is left out.
func (s *Server) replyFolder(c *call, where, root, below string) error {
	at, err := s.locate(c, where)
	if err != nil {
		return err
	}
	files, err := s.folder(c.ctx(), at)
	if err != nil {
		return err
	}
	var o out
	o.open()
	o.some("root_uri", root)
	o.files(files, below)
	o.close()
	return c.reply(&o)
}

func (s *Server) listProxied(c *call) error {
	below := c.text("path", false)
	if c.err != nil {
		return c.err
	}
	if err := checkPath(below); err != nil {
		return err
	}
	return s.replyFolder(c, below, "", "")
}

func mediaType(name string) string {
	switch strings.ToLower(path.Ext(name)) {
	case ".log", ".txt", ".yaml", ".yml", ".md", ".py", ".cfg", ".ini":
		return "text/plain"
	case ".json":
		return "application/json"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// put streams a body into a blob.
func (s *Server) put(c *call, at place) error {
	_, err := s.Blobs.Put(c.ctx(), at.Container, at.key, c.r.Body, c.r.ContentLength, blob.Attributes{ContentType: mediaType(at.key)}, blob.Condition{})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.Invalid("The upload of '%s' ended early: send it again.", at.key).With("BAD_REQUEST").From(err)
	}
	return err
}

func (s *Server) putArtifact(c *call) error {
	p := c.vars["path"]
	if strings.HasSuffix(p, "/") {
		return invalid("Invalid path: '%s' is a folder; name a file.", p)
	}
	if err := checkPath(p); err != nil {
		return err
	}
	at, err := s.locate(c, p)
	if err != nil {
		return err
	}
	if err := s.put(c, at); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) getArtifact(c *call) error {
	p := c.vars["path"]
	if err := checkPath(p); err != nil {
		return err
	}
	at, err := s.locate(c, p)
	if err != nil {
		return err
	}
	return s.send(c, at, p)
}

// send streams a blob, or the part of it that the request asks for.
func (s *Server) send(c *call, at place, shown string) error {
	gone := func(err error) error {
		if fault.Is(err, fault.Missing) {
			return missing("No such artifact: '%s'", shown)
		}
		return err
	}
	info, err := s.Blobs.Stat(c.ctx(), at.Container, at.key)
	if err != nil {
		return gone(err)
	}
	h := c.w.Header()
	first, length, part, err := byteRange(c.r.Header.Get("Range"), info.Size)
	if err != nil {
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(info.Size, 10))
		return err
	}
	if r := c.r.Header.Get("If-Range"); part && r != "" && r != info.ETag {
		first, length, part = 0, info.Size, false
	}
	body := io.ReadCloser(http.NoBody)
	if c.r.Method != http.MethodHead && length > 0 {
		want := length
		if !part {
			want = -1
		}
		var opened blob.Info
		if body, opened, err = s.Blobs.Open(c.ctx(), at.Container, at.key, first, want); err != nil {
			return gone(err)
		}
		if opened.ETag != info.ETag {
			// It was replaced since: what is sent is whole and new.
			if info = opened; !part {
				length = info.Size
			}
		}
	}
	defer body.Close()
	h.Set("Content-Type", mediaType(shown))
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", info.ETag)
	h.Set("Last-Modified", info.Modified.UTC().Format(http.TimeFormat))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(shown)}))
	status := http.StatusOK
	if part {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, info.Size))
	}
	c.w.WriteHeader(status)
	if _, err := io.Copy(c.w, body); err != nil && c.ctx().Err() == nil {
		// The status is sent; a broken connection is the only way left to say it.
		s.Log.Error("send artifact", "key", at.key, "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

// byteRange reads a Range header of one range. Others, and none, mean all.
func byteRange(header string, size int64) (first, length int64, part bool, err error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	from, to, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, false, nil
	}
	outside := fault.New(fault.RangeUnsatisfiable, "INVALID_PARAMETER_VALUE", "The range %q lies outside the artifact, which has %d bytes.", header, size)
	if from == "" {
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil || n < 0 {
			return 0, size, false, nil
		}
		if n == 0 || size == 0 {
			return 0, 0, false, outside
		}
		n = min(n, size)
		return size - n, n, true, nil
	}
	a, err := strconv.ParseInt(from, 10, 64)
	if err != nil || a < 0 {
		return 0, size, false, nil
	}
	b := size - 1
	if to != "" {
		if b, err = strconv.ParseInt(to, 10, 64); err != nil || b < a {
			return 0, size, false, nil
		}
		b = min(b, size-1)
	}
	if a >= size {
		return 0, 0, false, outside
	}
	return a, b - a + 1, true, nil
}

func (s *Server) deleteArtifact(c *call) error {
	if err := checkPath(c.vars["path"]); err != nil {
		return err
	}
	at, err := s.locate(c, c.vars["path"])
	if err != nil {
		return err
	}
	if at.key == "" {
		return invalid("Invalid path")
	}
	if err := s.Blobs.Delete(c.ctx(), at.Container, at.key, blob.Condition{}); err != nil && !fault.Is(err, fault.Missing) {
		return err
	}
	for {
		page, err := s.Blobs.List(c.ctx(), at.Container, blob.Query{Prefix: at.key + "/"})
		if fault.Is(err, fault.Missing) {
			break
		}
		if err != nil {
			return err
		}
		for _, b := range page.Blobs {
			if err := s.Blobs.Delete(c.ctx(), at.Container, b.Key, blob.Condition{}); err != nil && !fault.Is(err, fault.Missing) {
				return err
			}
		}
		if page.Next == "" || len(page.Blobs) == 0 {
			break
		}
	}
	return c.empty()
}

// artifactOf is where an artefact of a run lies.
func (s *Server) artifactOf(c *call, run, p string) (place, error) {
	if run == "" {
		return place{}, invalid("Missing value for required parameter 'run_id'.%s", seeDocs)
	}
	if p == "" {
		return place{}, invalid("Missing value for required parameter 'path'.%s", seeDocs)
	}
	if err := checkPath(p); err != nil {
		return place{}, err
	}
	d, err := s.Tracking.Run(c.ctx(), c.workspace, run)
	if err != nil {
		return place{}, err
	}
	base, err := proxied(d.Artifact)
	if err != nil {
		return place{}, err
	}
	return s.locate(c, path.Join(base, p))
}

func (s *Server) getRunArtifact(c *call) error {
	q := c.r.URL.Query()
	run := q.Get("run_id")
	if run == "" {
		run = q.Get("run_uuid")
	}
	at, err := s.artifactOf(c, run, q.Get("path"))
	if err != nil {
		return err
	}
	return s.send(c, at, q.Get("path"))
}

func (s *Server) uploadArtifact(c *call) error {
	q := c.r.URL.Query()
	run := q.Get("run_uuid")
	if run == "" {
		run = q.Get("run_id")
	}
	at, err := s.artifactOf(c, run, q.Get("path"))
	if err != nil {
		return err
	}
	const most = 10 << 20
	if c.r.ContentLength > most {
		return invalid("Artifact size is too large. Max size is 10MB.")
	}
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, most)
	if err := s.put(c, at); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}
