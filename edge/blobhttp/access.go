package blobhttp

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/resource/identity"
)

// access is what a caller may do in one container.
type access struct {
	container blob.Container
	grant     *identity.Grant // of a shared access signature
	allow     func(write bool) error
}

// authorize finds out what the caller may. A signature decides alone: whatever
// Authorization header a client makes of the address's userinfo is passed over.
func (s *server) authorize(r *http.Request, query url.Values, account, container string) (access, error) {
	if query.Has("sig") {
		return s.bySignature(query, account, container)
	}
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.cfg.Authenticate == nil || !strings.EqualFold(scheme, "Bearer") {
		return access{}, fault.Unknown("The request carries neither a shared access signature nor a bearer token. Use the address with its whole query, or sign in.").With("NoAuthenticationInformation")
	}
	p, err := s.cfg.Authenticate(r)
	if err != nil {
		return access{}, err
	}
	if account == "" {
		if account, err = s.cfg.Account(r.Context(), container); err != nil {
			if fault.Is(err, fault.Missing) {
				return access{}, fault.NotFound("The container %q does not exist.", fault.Clip(container)).With("ContainerNotFound").From(err)
			}
			return access{}, err
		}
	}
	return access{
		container: blob.Container{Account: account, Name: container},
		allow: func(write bool) error {
			return s.cfg.Authorize(identity.With(context.WithoutCancel(r.Context()), p), p, account, container, write)
		},
	}, nil
}

func (s *server) bySignature(query url.Values, account, container string) (access, error) {
	g, err := s.sas.Verify(query, s.cfg.Now())
	if err != nil {
		return access{}, err
	}
	if g.Container != container || (account != "" && account != g.Account) {
		return access{}, fault.Denied("The shared access signature is for another container than %q.", fault.Clip(container)).With("AuthenticationFailed")
	}
	return access{container: blob.Container{Account: g.Account, Name: g.Container}, grant: &g}, nil
}

// permissions, as signatures name them.
const (
	read   = "r"
	list   = "l"
	remove = "d"
	write  = "w"
	create = "c" // of new blobs only
)

// may returns a fault if the caller has none of the permissions on the blob.
func (a access) may(key string, permissions ...string) error {
	if a.grant == nil {
		return a.allow(permissions[0] != read && permissions[0] != list)
	}
	if key != "" && !a.grant.Covers(key) {
		return fault.Denied("The shared access signature is for other blobs than %q.", fault.Clip(key)).With("AuthenticationFailed")
	}
	for _, p := range permissions {
		if a.grant.May(p[0]) {
			return nil
		}
	}
	return fault.Denied("The shared access signature has the permissions %q; this needs one of %q.", a.grant.Permissions, strings.Join(permissions, "")).With("AuthorizationPermissionMismatch")
}

// mayPut is may for writes. Who has create alone must not replace a blob.
func (a access) mayPut(key string, cond *blob.Condition) error {
	if err := a.may(key, write, create); err != nil {
		return err
	}
	if a.grant != nil && !a.grant.May('w') {
		cond.IfNoneMatch = "*"
	}
	return nil
}
