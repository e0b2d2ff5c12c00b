package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// MLflow sends a request of MLflow's protocol to the workspace. The path is
// below /api: "2.0/mlflow/runs/get". The answer is read into reply, if there is
// one.
func (c *Client) MLflow(ctx context.Context, method, path string, query url.Values, body, reply any) error {
	_, data, err := c.exchange(ctx, method, c.mlflow(path, query), body)
	if err != nil || reply == nil {
		return err
	}
	if err := json.Unmarshal(data, reply); err != nil {
		return fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return nil
}

// mlflow is the address of a path of MLflow's protocol.
func (c *Client) mlflow(path string, query url.Values) string {
	u := url.URL{Path: "/mlflow/v2.0" + c.Path() + "/api/" + path, RawQuery: query.Encode()}
	return c.URL + u.String()
}

const proxiedArtifacts = "2.0/mlflow-artifacts/artifacts"

// PutArtifact stores a file at a path below "mlflow-artifacts:/". open is
// called for each try; size is in bytes, -1 if it is not known.
func (c *Client) PutArtifact(ctx context.Context, path string, size int64, open func() (io.ReadCloser, error)) error {
	res, err := c.do(ctx, call{
		method: http.MethodPut, url: c.mlflow(proxiedArtifacts+"/"+path, nil),
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body: func() (io.Reader, int64, error) {
			if size == 0 {
				return http.NoBody, 0, nil
			}
			r, err := open()
			return r, size, err
		},
	})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// ArtifactsBelow lists the files below a path of "mlflow-artifacts:/", with
// their sizes in bytes, by their path from there.
func (c *Client) ArtifactsBelow(ctx context.Context, path string) (map[string]int64, error) {
	found := map[string]int64{}
	folders := []string{""}
	for len(folders) > 0 {
		at := folders[0]
		folders = folders[1:]
		var page struct {
			Files []struct {
				Path  string
				IsDir bool  `json:"is_dir"`
				Size  int64 `json:"file_size"`
			}
		}
		if err := c.MLflow(ctx, http.MethodGet, proxiedArtifacts, url.Values{"path": {strings.Trim(path+"/"+at, "/")}}, nil, &page); err != nil {
			return nil, err
		}
		for _, f := range page.Files {
			below := strings.Trim(at+"/"+f.Path, "/")
			if f.IsDir {
				folders = append(folders, below)
			} else {
				found[below] = f.Size
			}
		}
	}
	return found, nil
}

// ProxyPath is the path below "mlflow-artifacts:/" of an artefact's address. It
// is false for addresses elsewhere.
func ProxyPath(uri string) (string, bool) {
	rest, ok := strings.CutPrefix(uri, "mlflow-artifacts:")
	if host, yes := strings.CutPrefix(rest, "//"); yes && !strings.HasPrefix(host, "/") {
		_, rest, _ = strings.Cut(host, "/")
	}
	return strings.Trim(rest, "/"), ok
}

// GetArtifact brings a file at a path below "mlflow-artifacts:/" to disk; it
// is there whole or not at all. It gives its size in bytes.
func (c *Client) GetArtifact(ctx context.Context, path, file string) (int64, error) {
	return c.fetch(ctx, c.mlflow(proxiedArtifacts+"/"+path, nil), file)
}

// fetch brings what lies at an address of the server into a file.
func (c *Client) fetch(ctx context.Context, address, to string) (n int64, err error) {
	res, err := c.do(ctx, call{method: http.MethodGet, url: address})
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	err = save(to, func(f *os.File) (err error) {
		n, err = io.Copy(f, res.Body)
		return err
	})
	return n, err
}

// LogSpans sends spans in OpenTelemetry's JSON to an experiment.
func (c *Client) LogSpans(ctx context.Context, experiment string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	u := url.URL{Path: "/mlflow/v2.0" + c.Path() + "/v1/traces"}
	res, err := c.do(ctx, call{
		method: http.MethodPost, url: c.URL + u.EscapedPath(),
		header: http.Header{"Content-Type": {"application/json"}, "X-Mlflow-Experiment-Id": {experiment}},
		body:   func() (io.Reader, int64, error) { return bytes.NewReader(data), int64(len(data)), nil },
	})
	if err != nil {
		return err
	}
	return res.Body.Close()
}
