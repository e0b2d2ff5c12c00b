package edge

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"lapis/fault"
)

// Origins are the names that the server goes by. Absolute URLs are made from
// the one that the request was sent to; none is stored.
type Origins struct {
	named []string          // scheme://host[:port], as given; the first is the default
	hosts map[string]string // lower-case Host header → scheme behind a proxy that ends TLS
}

// PublicAudiences are hard-coded in clients; tokens for them are given and
// taken like those for our own names.
var PublicAudiences = []string{
	"https://ml.azure.com",
	"https://management.azure.com",
	"https://management.core.windows.net",
	"https://storage.azure.com",
	MLAudience,
}

// What the metadata document calls its portal, and the audience that the Azure
// ML SDK derives from it. Nobody contacts either.
const (
	PortalURL  = "https://portal.azure.lapis.localhost"
	MLAudience = "https://ml.azure.lapis.localhost"
)

// NewOrigins takes the addresses of --url, scheme://host[:port] each, and the
// port the server listens on. The loopback names with that port always belong
// to it; https://localhost:port is the default if no address is given.
func NewOrigins(urls []string, port string) (*Origins, error) {
	o := &Origins{hosts: map[string]string{}}
	for _, raw := range urls {
		u, err := url.Parse(strings.TrimSuffix(raw, "/"))
		if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http") {
			return nil, fault.Invalid("--url %q is not of the form https://HOST[:PORT].", raw)
		}
		host := bareHost(u.Scheme, strings.ToLower(u.Host))
		if origin := u.Scheme + "://" + host; !slices.Contains(o.named, origin) {
			o.named = append(o.named, origin)
		}
		if _, ok := o.hosts[host]; !ok {
			o.hosts[host] = u.Scheme
		}
	}
	for _, name := range []string{"localhost", "127.0.0.1", "[::1]"} {
		host := bareHost("https", name+":"+port)
		if len(o.named) == 0 {
			o.named = append(o.named, "https://"+host)
		}
		o.hosts[host] = "" // plain HTTP on loopback stays plain
		if port == "80" {
			o.hosts[name] = ""
		}
	}
	return o, nil
}

// bareHost drops the port that the scheme implies, as clients do.
func bareHost(scheme, host string) string {
	if scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

// Default is the address the server is known by if nobody says otherwise.
func (o *Origins) Default() string { return o.named[0] }

// Base is scheme://host[:port] of the request, for absolute URLs in its reply.
func (o *Origins) Base(r *http.Request) string {
	host := strings.ToLower(r.Host)
	if r.TLS != nil {
		return "https://" + bareHost("https", host)
	}
	if scheme := o.hosts[host]; scheme != "" {
		return scheme + "://" + bareHost(scheme, host)
	}
	return "http://" + bareHost("http", host)
}

// Known tells whether host, as a Host header has it, is a name of the server.
func (o *Origins) Known(host string) bool {
	host = strings.ToLower(host)
	if _, ok := o.hosts[host]; ok {
		return true
	}
	_, ok := o.hosts[strings.TrimSuffix(host, ":443")]
	return ok
}

// Check refuses a request that was not sent to a name of the server: a page of
// someone else's that had its own name resolve to this address (DNS
// rebinding), or a client that took a wrong turn.
func (o *Origins) Check(r *http.Request) error {
	if !o.Known(r.Host) {
		return fault.New(fault.Misdirected, "MisdirectedRequest",
			"This server does not go by the name %q; it is %s. To give it that name, start it with `lapis up --url https://%s`.",
			fault.Clip(r.Host), strings.Join(o.named, ", "), fault.Clip(r.Host))
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !o.Known(u.Host) {
		return fault.Denied("Pages of %q may not call this server.", fault.Clip(origin)).With("OriginNotAllowed")
	}
	return nil
}

// Audience tells whether a token's audience is this server: one of its names
// or one of the public ones, with or without a slash at the end.
func (o *Origins) Audience(aud string) bool {
	aud = strings.TrimSuffix(aud, "/")
	if slices.Contains(PublicAudiences, aud) {
		return true
	}
	scheme, host, ok := strings.Cut(aud, "://")
	return ok && (scheme == "https" || scheme == "http") && o.Known(host)
}

// Issuer tells whether a token's issuer is this server: one of its names with
// any path behind it.
func (o *Origins) Issuer(iss string) bool {
	u, err := url.Parse(iss)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && o.Known(u.Host)
}

// CertificateNames are the DNS names and addresses a certificate for the
// server must hold.
func (o *Origins) CertificateNames() (names []string, addresses []net.IP) {
	seen := map[string]bool{}
	for host := range o.hosts {
		u := url.URL{Host: host}
		name := u.Hostname()
		if name == "" || seen[name] {
			continue
		}
		seen[name] = true
		if a, err := netip.ParseAddr(name); err == nil {
			addresses = append(addresses, net.IP(a.AsSlice()))
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	slices.SortFunc(addresses, func(a, b net.IP) int { return strings.Compare(a.String(), b.String()) })
	return names, addresses
}
