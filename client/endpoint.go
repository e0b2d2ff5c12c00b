package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lapis/fault"
)

// EndpointPath is the resource id of an online endpoint, or of what the parts
// name in it. Endpoints and deployments have names in lower case.
func (c *Client) EndpointPath(name string, parts ...string) string {
	path := c.Path("onlineEndpoints", strings.ToLower(name))
	for _, p := range parts {
		path += "/" + p
	}
	return path
}

// DeploymentPath is the resource id of an online deployment, or of what the
// parts name in it.
func (c *Client) DeploymentPath(endpoint, name string, parts ...string) string {
	return c.EndpointPath(endpoint, append([]string{"deployments", strings.ToLower(name)}, parts...)...)
}

// Endpoint is what a caller needs to know of an online endpoint.
type Endpoint struct {
	Name       string
	Location   string
	Properties struct {
		AuthMode          string
		ScoringURI        string
		Traffic           map[string]int
		MirrorTraffic     map[string]int
		Properties        map[string]any
		ProvisioningState string
	}
}

// Endpoint reads an online endpoint.
func (c *Client) Endpoint(ctx context.Context, name string) (*Endpoint, error) {
	raw, err := c.Get(ctx, c.EndpointPath(name))
	if err != nil {
		return nil, err
	}
	e := &Endpoint{}
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	return e, nil
}

// Credentials are the keys of an endpoint, or a token for it, as the server
// gives them.
func (c *Client) Credentials(ctx context.Context, e *Endpoint) (map[string]any, error) {
	action := "token"
	switch strings.ToLower(e.Properties.AuthMode) {
	case "key":
		action = "listKeys"
	case "aadtoken":
		token, err := c.Token(ctx)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return map[string]any{"accessToken": token, "expiryTimeUtc": c.expires.Unix(), "tokenType": "Bearer"}, nil
	}
	raw, err := c.Post(ctx, c.EndpointPath(e.Name, action), nil)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	return m, nil
}

// RegenerateKey replaces the primary or the secondary key of an endpoint: the
// old one is refused from then on.
func (c *Client) RegenerateKey(ctx context.Context, e *Endpoint, kind string) error {
	if !strings.EqualFold(e.Properties.AuthMode, "key") {
		return fault.Invalid("The endpoint %q has no keys: callers sign in with a token (%s). `lapis online-endpoint get-credentials --name %s` gives one.", e.Name, e.Properties.AuthMode, e.Name)
	}
	keys, err := c.Credentials(ctx, e)
	if err != nil {
		return err
	}
	// A key that is sent as it is is the wish for another.
	body := map[string]any{"keyType": "Primary", "keyValue": keys["primaryKey"]}
	if kind == "secondary" {
		body = map[string]any{"keyType": "Secondary", "keyValue": keys["secondaryKey"]}
	}
	_, err = c.Post(ctx, c.EndpointPath(e.Name, "regenerateKeys"), body)
	return err
}

// Answer is what an endpoint answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Invoke sends a request to an endpoint as its callers do: with its key or a
// token, to the named deployment, or to one by the traffic rules if that is
// "". Every answer comes back, also a refusal.
func (c *Client) Invoke(ctx context.Context, e *Endpoint, deployment, contentType string, body []byte) (*Answer, error) {
	if e.Properties.ScoringURI == "" {
		return nil, fault.Conflicts("The endpoint %q has no address yet: it is %s.", e.Name, e.Properties.ProvisioningState)
	}
	header := http.Header{"Content-Type": {contentType}}
	if deployment != "" {
		header.Set("azureml-model-deployment", deployment)
	}
	if err := c.authorize(ctx, e, header); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Properties.ScoringURI, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header
	res, err := c.scoring().Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fault.New(fault.Unavailable, "NoGateway", "Nobody answers at %s: %v. Endpoints are served by the gateway, which `lapis up` starts.", e.Properties.ScoringURI, cause(err)).From(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "AnswerBroken", "The answer of %s broke off: %v.", e.Properties.ScoringURI, cause(err)).From(err)
	}
	if len(data) > maxReply {
		return nil, fault.New(fault.TooLarge, "AnswerTooLarge", "The answer of %s has more than %d bytes.", e.Properties.ScoringURI, maxReply)
	}
	return &Answer{Status: res.StatusCode, Header: res.Header, Body: data}, nil
}

// authorize adds the key or token of an endpoint to the header of a request to
// it; a local one has neither.
func (c *Client) authorize(ctx context.Context, e *Endpoint, header http.Header) error {
	if e.Properties.AuthMode == "" {
		return nil
	}
	credentials, err := c.Credentials(ctx, e)
	if err != nil {
		return err
	}
	for _, name := range []string{"primaryKey", "accessToken"} {
		if s, ok := credentials[name].(string); ok && s != "" {
			header.Set("Authorization", "Bearer "+s)
		}
	}
	return nil
}

// scoring is the client for requests to endpoints. A model may take its time,
// so the server's patience decides and not ours; no proxy stands before it.
func (c *Client) scoring() *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t, ok := c.http.Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
		config = t.TLSClientConfig.Clone()
	}
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, DisableKeepAlives: true},
		Timeout:   10 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// The containers of a deployment, as the wire calls them.
const (
	InferenceServer    = "InferenceServer"
	StorageInitializer = "StorageInitializer"
)

// DeploymentLogs are the last lines of a container of a deployment; of the
// one that serves if container is "".
func (c *Client) DeploymentLogs(ctx context.Context, endpoint, deployment, container string, lines int) (string, error) {
	body := map[string]any{"tail": lines}
	if container != "" {
		body["containerType"] = container
	}
	raw, err := c.Post(ctx, c.DeploymentPath(endpoint, deployment, "getLogs"), body)
	if err != nil {
		return "", err
	}
	var r struct{ Content string }
	if err := json.Unmarshal(raw, &r); err != nil {
		return "", fmt.Errorf("read logs: %w", err)
	}
	return r.Content, nil
}

// SetTraffic says which deployments get which share of an endpoint's
// requests, in percent, in place of what was said before.
func (c *Client) SetTraffic(ctx context.Context, endpoint string, traffic map[string]int) (json.RawMessage, error) {
	return c.changeEndpoint(ctx, endpoint, func(p map[string]any) { p["traffic"] = traffic })
}

// changeEndpoint reads an endpoint, changes its properties and writes it back.
// It begins anew when somebody else changed it meanwhile.
func (c *Client) changeEndpoint(ctx context.Context, name string, change func(properties map[string]any)) (json.RawMessage, error) {
	path := c.EndpointPath(name)
	raw, err := c.Get(ctx, path)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	properties, _ := body["properties"].(map[string]any)
	if properties == nil {
		properties = map[string]any{}
	}
	change(properties)
	sent := map[string]any{"properties": properties}
	for _, key := range []string{"location", "tags", "identity", "kind", "sku"} {
		if v, ok := body[key]; ok {
			sent[key] = v
		}
	}
	return c.Request(ctx, http.MethodPut, path, "", url.Values{}, sent)
}
