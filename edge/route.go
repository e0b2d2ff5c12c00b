package edge

import (
	"net/http"
	"strings"

	"lapis/fault"
)

// Router tells the protocols of the one origin apart. In this order: the header
// x-ms-version, which the storage clients alone send and always do, so that a
// container may have the name of a protocol ("data", "models"); the first
// segment of the path, in any case of letters; what a sign-in path ends in; the
// query sig; else 404.
type Router struct {
	prefixes map[string]http.Handler

	// Login answers below any tenant: /{tenant}/…/.well-known/… and
	// /{tenant}/oauth2/….
	Login http.Handler

	// Blob answers requests with the header x-ms-version or the query sig, and
	// what lies below /blob/.
	Blob http.Handler
}

// BlobPrefix is the first segment of the blob links of our own making:
// /blob/{account}/{container}/{key}.
const BlobPrefix = "blob"

// Handle gives a handler all paths whose first segment is one of the prefixes.
func (t *Router) Handle(h http.Handler, prefixes ...string) {
	if t.prefixes == nil {
		t.prefixes = map[string]http.Handler{}
	}
	for _, p := range prefixes {
		t.prefixes[strings.ToLower(p)] = h
	}
}

// Reserved tells whether no container may have the name, since addresses that
// begin with it have another meaning for the storage clients too.
func (t *Router) Reserved(container string) bool {
	return strings.EqualFold(container, BlobPrefix)
}

func (t *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// az joins addresses with one slash too many.
	if strings.HasPrefix(r.URL.Path, "//") {
		u := *r.URL
		u.Path = "/" + strings.TrimLeft(u.Path, "/")
		if u.RawPath != "" {
			u.RawPath = "/" + strings.TrimLeft(u.RawPath, "/")
		}
		r2 := *r
		r2.URL = &u
		r = &r2
	}
	first, rest, _ := strings.Cut(r.URL.Path[min(1, len(r.URL.Path)):], "/")
	if t.Blob != nil && (r.Header.Get("x-ms-version") != "" || strings.EqualFold(first, BlobPrefix)) {
		t.Blob.ServeHTTP(w, r)
		return
	}
	if h, ok := t.prefixes[strings.ToLower(first)]; ok {
		h.ServeHTTP(w, r)
		return
	}
	if t.Login != nil && signIn("/"+rest) {
		t.Login.ServeHTTP(w, r)
		return
	}
	if t.Blob != nil && strings.Contains(r.URL.RawQuery, "sig=") {
		t.Blob.ServeHTTP(w, r)
		return
	}
	WriteError(w, fault.NotFound("There is nothing at %q on this server.", fault.Clip(r.URL.Path)))
}

func signIn(rest string) bool {
	return strings.HasSuffix(rest, "/.well-known/openid-configuration") ||
		rest == "/oauth2/token" || rest == "/oauth2/v2.0/token" || rest == "/discovery/v2.0/keys"
}
