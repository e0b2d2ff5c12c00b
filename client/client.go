package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"lapis/fault"
)

// Client speaks to one server. It is safe for use by several goroutines.
type Client struct {
	Config
	http *http.Client

	// Patience is how long a call goes on trying when a server that has
	// answered before is gone, as it is while it restarts.
	Patience time.Duration

	// NoWait: the work that a change of an online endpoint or of a deployment
	// begins is not waited for; the reply is the resource as it was when it began.
	NoWait bool

	// Progress, if set, is told how far uploads and downloads are.
	Progress Progress

	// Waiting, if set, is told when a call waits for the server to come back.
	Waiting func(err error)

	// Trace, if set, is told of each request and its answer: a status, or an
	// error. The address comes without its query, which may hold a signature.
	Trace func(method, address string, status int, err error, took time.Duration)

	mu      sync.Mutex
	token   string
	expires time.Time
	reached bool // some call has been answered
}

// New makes a client. It calls nobody.
func New(c Config) (*Client, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var roots *x509.CertPool // nil: the system's
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fault.Invalid("The file of certificate authorities %s cannot be read: %v. Run `eval \"$(lapis connect)\"` again.", c.CA, err)
		}
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		// One connection a request moves large blobs faster than one for all.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	return &Client{Config: c, http: &http.Client{Transport: transport}, Patience: 2 * time.Minute}, nil
}

// call is one HTTP exchange, as it may be repeated.
type call struct {
	method string
	url    string
	header http.Header
	body   func() (io.Reader, int64, error) // nil for none; called for each try
	anon   bool                             // no token: the URL carries its own right
}

// retryable says which answers are worth another try.
func retryable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// do makes the call until it is answered, the context ends or patience does.
// The caller closes the body. Answers of 400 and more come back as faults.
func (c *Client) do(ctx context.Context, k call) (*http.Response, error) {
	deadline := time.Now().Add(c.Patience)
	pause := 100 * time.Millisecond
	renewed := false
	for {
		began := time.Now()
		res, err := c.once(ctx, k)
		if c.Trace != nil {
			address, _, _ := strings.Cut(k.url, "?")
			status := 0
			if res != nil {
				status = res.StatusCode
			}
			c.Trace(k.method, address, status, err, time.Since(began))
		}
		if err == nil {
			c.mu.Lock()
			c.reached = true
			c.mu.Unlock()
			switch {
			case res.StatusCode == http.StatusUnauthorized && !k.anon && !renewed:
				res.Body.Close()
				c.forget()
				renewed = true
				continue
			case retryable(res.StatusCode) && time.Now().Before(deadline):
				wait := retryAfter(res, pause)
				res.Body.Close()
				if err := sleep(ctx, wait); err != nil {
					return nil, err
				}
				pause = min(2*pause, 2*time.Second)
				continue
			case res.StatusCode >= 400:
				defer res.Body.Close()
				return nil, failure(res)
			}
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if fault.Find(err) != nil {
			return nil, err
		}
		c.mu.Lock()
		reached := c.reached
		c.mu.Unlock()
		if !reached || time.Now().After(deadline) || !lost(err) {
			return nil, c.unreachable(err)
		}
		if c.Waiting != nil {
			c.Waiting(err)
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, time.Second)
	}
}

// lost tells a connection that broke or was refused from an error that
// another try would meet again.
func lost(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return !errors.As(err, &unknown) && !errors.As(err, &name) && !errors.As(err, &invalid)
}

func (c *Client) unreachable(err error) error {
	var unknown x509.UnknownAuthorityError
	var dns *net.DNSError
	switch {
	case errors.As(err, &unknown):
		return fault.New(fault.Unavailable, "UntrustedServer", "The certificate of %s is not signed by an authority that is trusted here. Run `eval \"$(lapis connect)\"` in this shell.", c.URL).From(err)
	case errors.As(err, &dns):
		return fault.New(fault.Unavailable, "UnknownHost", "The host of %s has no address here: %v. Check the name.", c.URL, dns.Err).From(err)
	}
	return fault.New(fault.Unavailable, "NoServer", "No server answers at %s. Start it with `lapis up`, or name another with `eval \"$(lapis connect --data FOLDER)\"`. (%v)", c.URL, cause(err)).From(err)
}

// cause is the innermost reason, without addresses said before.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (c *Client) once(ctx context.Context, k call) (*http.Response, error) {
	var body io.Reader
	var size int64
	if k.body != nil {
		var err error
		if body, size, err = k.body(); err != nil {
			return nil, fault.Invalid("%v", err).From(err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, k.method, k.url, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = size
		if size == 0 {
			req.Body = http.NoBody
		}
	}
	for name, values := range k.header {
		req.Header[name] = values
	}
	if !k.anon {
		token, err := c.Token(ctx)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return c.http.Do(req)
}

// Token gives an access token for the server, a fresh one if need be.
func (c *Client) Token(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Now().Before(c.expires) {
		return c.token, nil
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "client_secret": {c.ClientSecret}, "scope": {c.URL + "/.default"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/adfs/"+url.PathEscape(c.Tenant)+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var reply struct {
		Token       string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(data, &reply)
	if res.StatusCode >= 500 {
		return "", fmt.Errorf("sign-in: %s", res.Status)
	}
	if res.StatusCode != http.StatusOK || reply.Token == "" {
		why := strings.TrimSpace(reply.Description)
		if why == "" {
			why = res.Status
		}
		return "", fault.Unknown("The server at %s does not sign in the client %s: %s Run `eval \"$(lapis connect)\"` again.", c.URL, c.ClientID, why)
	}
	c.reached = true
	c.token = reply.Token
	c.expires = time.Now().Add(time.Duration(reply.ExpiresIn)*time.Second - 5*time.Minute)
	return c.token, nil
}

func (c *Client) forget() {
	c.mu.Lock()
	c.token = ""
	c.mu.Unlock()
}

// retryAfter is how long the answer asks to wait, at most a minute.
func retryAfter(res *http.Response, otherwise time.Duration) time.Duration {
	if s := res.Header.Get("Retry-After"); s != "" {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 {
			return min(max(time.Duration(n)*time.Second, 50*time.Millisecond), time.Minute)
		}
	}
	return otherwise
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// failure makes a fault of an error reply, in ARM's JSON or Blob's XML.
func failure(res *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	kind, ok := kinds[res.StatusCode]
	if !ok {
		kind = fault.Internal
		if res.StatusCode < 500 {
			kind = fault.BadRequest
		}
	}
	f := fault.New(kind, res.Header.Get("x-ms-error-code"), "")
	type detail struct {
		Code    string   `json:"code"`
		Message string   `json:"message"`
		Target  string   `json:"target"`
		Details []detail `json:"details"`
	}
	var arm struct {
		Error     detail `json:"error"`
		Code      string `json:"error_code"` // MLflow's
		Message   string `json:"message"`
		ErrorText string `json:"error_description"`
	}
	var blob struct {
		Code    string
		Message string
	}
	switch {
	case json.Unmarshal(data, &arm) == nil && arm.Error.Message != "":
		f.Code, f.Message, f.Target = arm.Error.Code, arm.Error.Message, arm.Error.Target
		for _, d := range arm.Error.Details {
			if d.Message != "" {
				f.Details = append(f.Details, fault.New(kind, d.Code, "%s", d.Message).At(d.Target))
			}
		}
	case arm.Message != "":
		f.Code, f.Message = arm.Code, arm.Message
	case xml.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &blob) == nil && blob.Message != "":
		f.Code, f.Message = blob.Code, blob.Message
	}
	f.Message = strings.TrimPrefix(f.Message, "("+f.Code+") ") // for clients that show no code
	if f.Message == "" {
		f.Message = fmt.Sprintf("The server answered %s to %s %s.", res.Status, res.Request.Method, res.Request.URL.Path)
	}
	if id := res.Header.Get("x-ms-request-id"); id != "" && res.StatusCode >= 500 {
		f.Message += " (request " + id + "; the server's log has the reason)"
	}
	return f
}

var kinds = map[int]fault.Kind{
	400: fault.BadRequest, 401: fault.Unauthenticated, 403: fault.Forbidden, 404: fault.Missing, 405: fault.NotAllowed, 409: fault.Conflict,
	412: fault.PreconditionFailed, 413: fault.TooLarge, 415: fault.UnsupportedMedia, 416: fault.RangeUnsatisfiable, 421: fault.Misdirected,
	423: fault.Locked, 429: fault.TooMany, 501: fault.NotImplemented, 503: fault.Unavailable, 507: fault.StorageFull,
}
