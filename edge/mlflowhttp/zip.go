package mlflowhttp

import (
	"archive/zip"
	"context"
	"io"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/klauspost/compress/flate"

	"lapis/fault"
	"lapis/ml/blob"
)

// maxZipped bounds the files of one archive: its directory is kept in memory
// until the end.
const maxZipped = 100_000

// artifactRoot is where the artefacts of a run or of a logged model lie, one of
// which is named, with a path below it that must be one.
func (s *Server) artifactRoot(c *call, run, model, path string) (string, error) {
	if (run == "") == (model == "") {
		return "", invalid("Exactly one of run_id and model_id must be provided.")
	}
	if err := checkPath(path); err != nil {
		return "", err
	}
	if run != "" {
		d, err := s.Tracking.Run(c.ctx(), c.workspace, run)
		if err != nil {
			return "", err
		}
		return d.Artifact, nil
	}
	m, err := s.Tracking.Model(c.ctx(), c.workspace, model, false)
	return m.Artifact, err
}

// zipArtifacts answers a folder of a run's or model's artefacts as one zip
// file, which is made while it is sent. Its names are relative to the folder.
func (s *Server) zipArtifacts(c *call) error {
	q := c.r.URL.Query()
	run, model, p := q.Get("run_id"), q.Get("model_id"), strings.Trim(q.Get("path"), "/")
	root, err := s.artifactRoot(c, run, model, q.Get("path"))
	if err != nil {
		return err
	}
	base, err := proxied(root)
	if err != nil {
		return err
	}
	at, err := s.locate(c, path.Join(base, p))
	if err != nil {
		return err
	}
	files := 0
	err = s.below(c.ctx(), at, func(blob.Info) error {
		if files++; files > maxZipped {
			return invalid("The folder %q has more than %d files: ask for folders in it one by one.", p, maxZipped)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if files == 0 && p != "" {
		return missing("No such artifact: '%s'", p)
	}
	name := run + model
	if p != "" {
		name = path.Base(p)
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name + ".zip"}))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	if err := s.zip(c.ctx(), c.w, at); err != nil {
		if c.ctx().Err() == nil {
			s.Log.Error("send artifacts as zip", "key", at.key, "err", err)
		}
		// The status is sent; a broken connection is the only way left to say it.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// below calls visit with the blobs of a folder, or with the one blob that at
// names itself, in the order of their keys.
func (s *Server) below(ctx context.Context, at place, visit func(blob.Info) error) error {
	if at.key != "" {
		one, err := s.Blobs.Stat(ctx, at.Container, at.key)
		if err == nil {
			return visit(one)
		}
		if !fault.Is(err, fault.Missing) {
			return err
		}
	}
	q := blob.Query{Prefix: strings.TrimSuffix(at.key, "/") + "/"}
	for {
		page, err := s.Blobs.List(ctx, at.Container, q)
		if fault.Is(err, fault.Missing) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, b := range page.Blobs {
			if err := visit(b); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		q.After = page.Next
	}
}

// zip writes the blobs of a folder as a zip file. One that is gone since it was
// listed is left out.
func (s *Server) zip(ctx context.Context, w io.Writer, at place) error {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	err := s.below(ctx, at, func(b blob.Info) error {
		name := strings.TrimPrefix(b.Key, strings.TrimSuffix(at.key, "/")+"/")
		if b.Key == at.key {
			name = path.Base(b.Key)
		}
		body, info, err := s.Blobs.Open(ctx, at.Container, b.Key, 0, -1)
		if fault.Is(err, fault.Missing) {
			return nil
		}
		if err != nil {
			return err
		}
		defer body.Close()
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: info.Modified})
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return err
	})
	if err != nil {
		return err
	}
	return z.Close()
}
