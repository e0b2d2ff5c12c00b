package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lapis/fault"
	"lapis/pattern"
)

// maxReply bounds a reply that is kept in memory, in bytes.
const maxReply = 64 << 20

// The api-version of requests that come from no file, and of those to
// registries.
const (
	apiVersion      = "2024-10-01-preview"
	registryVersion = "2021-10-01-dataplanepreview"
)

// Request sends a request to a resource id or another path of the server and
// waits until what it started is done (see NoWait). The path is not escaped. The reply is
// the resource, or empty.
func (c *Client) Request(ctx context.Context, method, path, version string, query url.Values, body any) (json.RawMessage, error) {
	res, data, err := c.exchange(ctx, method, c.address(path, version, query), body)
	if err != nil {
		return nil, err
	}
	if c.NoWait && method != http.MethodPost && strings.Contains(path, "/onlineEndpoints/") {
		return data, nil
	}
	return c.await(ctx, method, c.address(path, version, nil), res, data)
}

// address makes a URL of a path.
func (c *Client) address(path, version string, query url.Values) string {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	if version == "" {
		version = apiVersion
	}
	q.Set("api-version", version)
	// What lies in registries has a plane of its own.
	if inRegistry.MatchString(path) {
		path = "/mferp/managementfrontend" + path
		if version == apiVersion {
			q.Set("api-version", registryVersion)
		}
	}
	u := url.URL{Path: path}
	return c.URL + u.EscapedPath() + "?" + q.Encode()
}

var inRegistry = pattern.New(`(?i)^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.MachineLearningServices/registries/[^/]+/`)

func (c *Client) exchange(ctx context.Context, method, address string, body any) (*http.Response, json.RawMessage, error) {
	k := call{method: method, url: address, header: http.Header{"Accept": {"application/json"}}}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, nil, err
		}
		k.header.Set("Content-Type", "application/json")
		k.body = func() (io.Reader, int64, error) { return bytes.NewReader(data), int64(len(data)), nil }
	}
	for {
		res, err := c.do(ctx, k)
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
		res.Body.Close()
		if err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			continue // the connection broke within the reply
		}
		if len(data) > maxReply {
			return nil, nil, fault.New(fault.TooLarge, "ReplyTooLarge", "The reply to %s %s has more than %d bytes.", method, address, maxReply)
		}
		return res, data, nil
	}
}

// await follows an operation to its end and reads the resource again.
func (c *Client) await(ctx context.Context, method, resource string, res *http.Response, data json.RawMessage) (json.RawMessage, error) {
	operation := res.Header.Get("Azure-AsyncOperation")
	location := res.Header.Get("Location")
	switch {
	case operation != "":
		for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
			if err := sleep(ctx, min(pause, retryAfter(res, pause))); err != nil {
				return nil, err
			}
			var reply json.RawMessage
			var err error
			if res, reply, err = c.exchange(ctx, http.MethodGet, operation, nil); err != nil {
				return nil, err
			}
			var status struct {
				Status string
				Error  *struct{ Code, Message string }
			}
			if err := json.Unmarshal(reply, &status); err != nil {
				return nil, fmt.Errorf("read operation: %w", err)
			}
			switch strings.ToLower(status.Status) {
			case "succeeded":
				if method == http.MethodDelete {
					return nil, nil
				}
				if method == http.MethodPost {
					return data, nil
				}
				_, final, err := c.exchange(ctx, http.MethodGet, resource, nil)
				return final, err
			case "failed", "canceled":
				if status.Error != nil {
					return nil, fault.Conflicts("%s", status.Error.Message).With(status.Error.Code)
				}
				return nil, fault.Conflicts("The operation ended %s.", status.Status)
			}
		}
	case location != "" && res.StatusCode == http.StatusAccepted:
		for pause := firstPoll; res.StatusCode == http.StatusAccepted; pause = min(2*pause, lastPoll) {
			if err := sleep(ctx, min(pause, retryAfter(res, pause))); err != nil {
				return nil, err
			}
			var err error
			if res, data, err = c.exchange(ctx, http.MethodGet, location, nil); err != nil {
				return nil, err
			}
		}
	}
	return data, nil
}

// An operation is asked after soon, and then less and less often: the server
// is near, and most are done at once.
const (
	firstPoll = 20 * time.Millisecond
	lastPoll  = 500 * time.Millisecond
)

// Get reads a resource.
func (c *Client) Get(ctx context.Context, path string) (json.RawMessage, error) {
	return c.Request(ctx, http.MethodGet, path, "", nil, nil)
}

// List gives the resources of a collection, page after page.
func (c *Client) List(ctx context.Context, path string, query url.Values) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		next := c.address(path, "", query)
		for next != "" {
			_, data, err := c.exchange(ctx, http.MethodGet, next, nil)
			if err != nil {
				yield(nil, err)
				return
			}
			var page struct {
				Value    []json.RawMessage `json:"value"`
				NextLink string            `json:"nextLink"`
			}
			if err := json.Unmarshal(data, &page); err != nil {
				yield(nil, fmt.Errorf("read a page of %s: %w", path, err))
				return
			}
			for _, v := range page.Value {
				if !yield(v, nil) {
					return
				}
			}
			if page.NextLink == next {
				return
			}
			next = page.NextLink
			if next != "" && !strings.HasPrefix(next, c.URL+"/") {
				yield(nil, fault.Invalid("The server's next page lies elsewhere: %s.", next))
				return
			}
		}
	}
}

// Delete removes a resource and waits until it is gone (see NoWait).
func (c *Client) Delete(ctx context.Context, path string, query url.Values) error {
	_, err := c.Request(ctx, http.MethodDelete, path, "", query, nil)
	return err
}

// Post calls an action of a resource.
func (c *Client) Post(ctx context.Context, path string, body any) (json.RawMessage, error) {
	if body == nil {
		body = map[string]any{}
	}
	return c.Request(ctx, http.MethodPost, path, "", nil, body)
}
