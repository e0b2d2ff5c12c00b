package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"lapis/fault"
	"lapis/ml/serving"
)

// Client speaks with a gateway through its control socket. It is a
// serving.Gateway.
type Client struct{ http *http.Client }

var _ serving.Gateway = (*Client)(nil)

// NewClient returns a client of the gateway whose control socket that is. The
// gateway need not be there yet.
func NewClient(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
	}}}
}

// Apply replaces the routes.
func (c *Client) Apply(ctx context.Context, r serving.Routes) error {
	return c.call(ctx, http.MethodPut, "/routes", r, nil)
}

// Drained waits until none of the instances works on a request.
func (c *Client) Drained(ctx context.Context, instances []string) error {
	return c.call(ctx, http.MethodPost, "/drained", instances, nil)
}

// State is what goes on now.
func (c *Client) State(ctx context.Context) (serving.State, error) {
	var s serving.State
	return s, c.call(ctx, http.MethodGet, "/state", nil, &s)
}

// Events returns what happened after the event of that number.
func (c *Client) Events(ctx context.Context, after int64) ([]serving.Event, error) {
	for {
		var list []serving.Event
		if err := c.call(ctx, http.MethodGet, "/events?after="+strconv.FormatInt(after, 10), nil, &list); err != nil || len(list) > 0 {
			return list, err
		}
	}
}

// Metrics is the state as Prometheus text.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	var b []byte
	return b, c.call(ctx, http.MethodGet, "/metrics", nil, &b)
}

// Compared is a shadow report.
func (c *Client) Compared(ctx context.Context, endpoint, deployment string) (serving.Comparison, error) {
	var out serving.Comparison
	q := url.Values{"endpoint": {endpoint}, "deployment": {deployment}}
	return out, c.call(ctx, http.MethodGet, "/compared?"+q.Encode(), nil, &out)
}

// Info is what the gateway tells of itself.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i Info
	return i, c.call(ctx, http.MethodGet, "/info", nil, &i)
}

// Watch tells the gateway that its control plane is there, until ctx ends. It
// returns when the gateway has ended.
func (c *Client) Watch(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/watch", nil, nil)
}

// Stop asks the gateway to end.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/stop", nil, nil)
}

// call sends one request. A gateway that is away is fault.Unavailable.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://gateway"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return away(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return away(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		var reply struct {
			Error struct{ Code, Message string }
		}
		if json.Unmarshal(b, &reply) != nil || reply.Error.Message == "" {
			return fmt.Errorf("gateway: %s %s: %s", method, path, resp.Status)
		}
		kind := fault.Internal
		switch resp.StatusCode {
		case http.StatusBadRequest:
			kind = fault.BadRequest
		case http.StatusServiceUnavailable:
			kind = fault.Unavailable
		}
		return fault.New(kind, reply.Error.Code, "%s", reply.Error.Message)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = b
		return nil
	}
	return json.Unmarshal(b, out)
}

func away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.New(fault.Unavailable, "GatewayUnavailable", "The gateway of online endpoints cannot be reached: %v.", err).From(err)
}
