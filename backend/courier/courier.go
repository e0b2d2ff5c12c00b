// Package courier posts messages to other services over HTTPS. Unless it is told
// otherwise it goes to public addresses alone, so that nobody can reach what
// lies behind this server through it.
package courier

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lapis/fault"
	"lapis/ml/webhook"
)

// Config says how messages are sent.
type Config struct {
	Private bool           // private and loopback addresses may be reached, too
	Roots   *x509.CertPool // authorities that are trusted; nil: the system's
	Timeout time.Duration  // of one message; 0: 30 s
}

// Courier is a webhook.Courier.
type Courier struct {
	private bool
	client  *http.Client
}

var _ webhook.Courier = (*Courier)(nil)

const (
	maxAnswer    = 64 << 10
	maxRedirects = 5
	resolveFor   = 5 * time.Second
)

// New returns a courier. Proxies that the environment names are not used: a
// proxy would be what is checked in the receiver's place.
func New(c Config) *Courier {
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	courier := &Courier{private: c.Private}
	dialer := &net.Dialer{Timeout: 10 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return courier.mayReach(address)
	}}
	courier.client = &http.Client{
		Timeout: c.Timeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second, MaxIdleConns: 32, MaxConnsPerHost: 8, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("it redirects too often")
			}
			if r.URL.Scheme != "https" {
				return refuse("it redirects to %s, which is not https", r.URL.Redacted())
			}
			return nil
		},
	}
	return courier
}

func refuse(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("INVALID_PARAMETER_VALUE")
}

// mayReach refuses a connection to an address that is not public. It is asked
// after the name is resolved and before the first packet, so a name that changes
// its mind in between leads nowhere else.
func (c *Courier) mayReach(address string) error {
	if c.private {
		return nil
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !public(at.Addr()) {
		return refuse("Webhook connection blocked: %s is not a public IP address.", address)
	}
	return nil
}

// Check implements webhook.Courier.
func (c *Courier) Check(ctx context.Context, address string) error {
	if strings.TrimSpace(address) == "" {
		return refuse("Webhook URL cannot be empty or just whitespace: '%s'", address)
	}
	u, err := url.Parse(address)
	if err != nil {
		return refuse("Invalid webhook URL '%s': %v", address, errors.Unwrap(err))
	}
	if u.Scheme != "https" {
		return refuse("Invalid webhook URL scheme: '%s'. Allowed schemes are: https.", u.Scheme)
	}
	host := u.Hostname()
	if host == "" {
		return refuse("Webhook URL must include a hostname: '%s'", address)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return refuse("Invalid webhook URL '%s': there is no port %s", address, p)
		}
	}
	if c.private {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveFor)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return refuse("Cannot resolve Webhook URL hostname '%s': %v", host, err)
	}
	for _, ip := range found {
		if !public(ip) {
			return refuse("Webhook URL must not resolve to a non-public IP address. '%s' resolves to %s. The server can be told to allow it: lapis up --private-webhooks.", host, ip.Unmap())
		}
	}
	return nil
}

// Send implements webhook.Courier.
func (c *Courier) Send(ctx context.Context, m webhook.Message) (webhook.Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		return webhook.Answer{}, err
	}
	if r.URL.Scheme != "https" {
		return webhook.Answer{}, refuse("Invalid webhook URL scheme: '%s'. Allowed schemes are: https.", r.URL.Scheme)
	}
	for name, value := range m.Header {
		r.Header.Set(name, value)
	}
	reply, err := c.client.Do(r)
	if err != nil {
		return webhook.Answer{}, unwrapped(err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxAnswer))
	if err != nil {
		return webhook.Answer{}, fmt.Errorf("read the answer: %w", err)
	}
	a := webhook.Answer{Status: reply.StatusCode, Body: strings.ToValidUTF8(string(body), "\ufffd")}
	if s, err := strconv.Atoi(reply.Header.Get("Retry-After")); err == nil && s > 0 {
		a.RetryAfter = time.Duration(min(s, 86400)) * time.Second
	} else if at, err := http.ParseTime(reply.Header.Get("Retry-After")); err == nil {
		a.RetryAfter = max(0, time.Until(at))
	}
	return a, nil
}

// unwrapped leaves out the address, which may hold a password.
func unwrapped(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// private are the blocks that are not for everyone, beside those that netip
// knows.
var private = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("3fff::/20"), netip.MustParsePrefix("5f00::/16"), netip.MustParsePrefix("fec0::/10"),
}

var (
	sixToFour = netip.MustParsePrefix("2002::/16")
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
)

// public tells whether an address is one of the whole Internet. One that holds
// an IPv4 address is what that is.
func public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if b := ip.As16(); ip.Is6() && sixToFour.Contains(ip) {
		ip = netip.AddrFrom4([4]byte(b[2:6]))
	} else if ip.Is6() && nat64.Contains(ip) {
		ip = netip.AddrFrom4([4]byte(b[12:16]))
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, block := range private {
		if block.Contains(ip) {
			return false
		}
	}
	return true
}
