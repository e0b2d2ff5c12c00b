// Package blobhttp speaks the dialect of Azure Blob Storage over a blob.Store:
// block blobs, what the Azure clients upload and download through.
//
// A blob's address is /CONTAINER/KEY, as clients make it, or
// /blob/ACCOUNT/CONTAINER/KEY, as our own links have it. Clients put the
// account into the host or the userinfo of the URL, where we do not see it: it
// comes from the shared access signature or, with a token, from the container's
// name. Keys may hold "//", so no router that cleans paths may stand before this
// handler.
package blobhttp

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/ml/blob"
	"lapis/resource/identity"
)

// Config is what the handler asks of the rest of the server. Without
// Authenticate only shared access signatures are accepted.
type Config struct {
	// Authenticate finds out whose bearer token a request carries.
	Authenticate func(*http.Request) (identity.Principal, error)

	// Authorize returns a fault if the principal may not read the container, or
	// write to it.
	Authorize func(ctx context.Context, p identity.Principal, account, container string, write bool) error

	// Account returns the account that a container belongs to, for requests with
	// a token whose address does not name it, or a fault of kind Missing.
	Account func(ctx context.Context, container string) (string, error)

	// Reserved tells whether no container may have the name. Nil: any may.
	Reserved func(name string) bool

	Log *slog.Logger     // nil: slog.Default
	Now func() time.Time // nil: time.Now
}

// Limits of one request's body, in bytes.
const (
	MaxPut   = 5000 << 20
	MaxBlock = 100 << 20
	maxXML   = 16 << 20
)

// idle is how long a transfer may stand still.
const idle = 2 * time.Minute

// New makes the handler. Signatures are checked with sas.
func New(store blob.Store, sas *identity.SAS, cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &server{store: store, sas: sas, cfg: cfg}
}

type server struct {
	store blob.Store
	sas   *identity.SAS
	cfg   Config
}

// request is one request as the operations see it.
type request struct {
	*http.Request
	query     url.Values
	container blob.Container
	key       string // "" if the request is for the container
	access    access
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if h.Get("x-ms-request-id") == "" {
		h.Set("x-ms-request-id", edge.NewID())
	}
	if id := r.Header.Get("x-ms-client-request-id"); id != "" && len(id) <= 1024 {
		h.Set("x-ms-client-request-id", id)
	}
	h.Set("x-ms-version", version(r))
	control := http.NewResponseController(w)
	body := &body{ReadCloser: r.Body, control: control, size: r.ContentLength}
	wrapped := *r // the HTTP server looks at the body of its own request
	wrapped.Body = body
	r = &wrapped
	defer control.SetWriteDeadline(time.Time{})

	if err := s.serve(w, r); err != nil {
		body.drain(r)
		s.fail(w, r, err)
	}
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) error {
	req, err := s.decode(r)
	if err != nil {
		return err
	}
	op, err := s.operation(req)
	if err != nil {
		return err
	}
	return op(w, req)
}

// version is the one that the client speaks: replies are the same for all.
func version(r *http.Request) string {
	v := r.Header.Get("x-ms-version")
	if v == "" || len(v) > 20 || strings.Trim(v, "0123456789-") != "" {
		return "2021-12-02"
	}
	return v
}

// decode reads the address and finds out what the caller may.
func (s *server) decode(r *http.Request) (*request, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.Invalid("The query is malformed: %v.", err).With("InvalidUri")
	}
	account, container, key := parse(r.URL.Path)
	if container == "" {
		return nil, fault.Invalid("The address names no container. It has the form /CONTAINER/BLOB.").With("InvalidUri")
	}
	req := &request{Request: r, query: query, key: key}
	if req.access, err = s.authorize(r, query, account, container); err != nil {
		return nil, err
	}
	req.container = req.access.container
	if err := req.container.Check(); err != nil {
		return nil, err
	}
	if key != "" {
		if err := blob.CheckKey(key); err != nil {
			return nil, fault.Find(err).With("InvalidUri")
		}
	}
	for _, k := range [...]string{"snapshot", "versionid"} {
		if query.Has(k) {
			return nil, fault.Invalid("Snapshots and versions of blobs are not kept here; leave %q out.", k).With("UnsupportedQueryParameter").At(k)
		}
	}
	return req, nil
}

// parse splits a path. account is "" in the form that clients use.
func parse(path string) (account, container, key string) {
	path = strings.TrimPrefix(path, "/")
	if rest, ours := strings.CutPrefix(path, "blob/"); ours {
		account, path, _ = strings.Cut(rest, "/")
	}
	container, key, _ = strings.Cut(path, "/")
	return account, container, key
}

type operation func(http.ResponseWriter, *request) error

// operation finds what is asked for. The table's keys are the method and comp;
// Azure's documentation lists them so.
func (s *server) operation(r *request) (operation, error) {
	comp, restype := r.query.Get("comp"), r.query.Get("restype")
	if restype == "account" || (r.key == "" && restype == "" && comp == "properties") {
		return s.accountInfo, nil
	}
	var table map[string]operation
	if r.key == "" {
		if restype != "container" {
			return nil, fault.Invalid("The address ends at the container %q. Name a blob, or add restype=container.", r.container.Name).With("InvalidUri")
		}
		table = map[string]operation{
			"GET list":     s.list,
			"GET ":         s.containerProperties,
			"HEAD ":        s.containerProperties,
			"GET metadata": s.containerProperties,
			"PUT ":         s.createContainer,
		}
	} else {
		table = map[string]operation{
			"GET ":           s.get,
			"HEAD ":          s.head,
			"GET metadata":   s.head,
			"HEAD metadata":  s.head,
			"PUT ":           s.put,
			"PUT block":      s.putBlock,
			"PUT blocklist":  s.putBlockList,
			"GET blocklist":  s.getBlockList,
			"PUT metadata":   s.setMetadata,
			"PUT properties": s.setProperties,
			"DELETE ":        s.delete,
		}
	}
	if op, ok := table[r.Method+" "+comp]; ok {
		return op, nil
	}
	if comp == "" {
		return nil, fault.New(fault.NotAllowed, "UnsupportedHttpVerb", "%s is not offered here.", r.Method)
	}
	return nil, fault.Invalid("The operation %s with comp=%q is not offered here; this server keeps block blobs only.", r.Method, fault.Clip(comp)).With("InvalidQueryParameterValue").At("comp")
}
