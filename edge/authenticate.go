package edge

import (
	"fmt"
	"net/http"
	"strings"

	"lapis/fault"
	"lapis/resource/identity"
)

// Authenticator finds out who is calling.
type Authenticator struct {
	Issuer  *identity.Issuer
	Origins *Origins
}

// Principal returns whose bearer token the request carries. Errors are faults
// of kind Unauthenticated.
func (a *Authenticator) Principal(r *http.Request) (identity.Principal, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return identity.Principal{}, fault.Unknown("Authentication failed. The 'Authorization' header is missing: sign in, or set up the client with `eval \"$(lapis connect)\"`.").With("AuthenticationFailed")
	}
	scheme, token, _ := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return identity.Principal{}, fault.Unknown("Authentication failed. The 'Authorization' header is not of the form 'Bearer TOKEN'.")
	}
	return a.Issuer.Verify(token, a.Origins.Audience)
}

// Require hands requests on with the principal in their context
// (identity.Of), and others to refuse, which answers in the protocol's form;
// nil means ARM's.
func (a *Authenticator) Require(next http.Handler, refuse func(http.ResponseWriter, *http.Request, error)) http.Handler {
	if refuse == nil {
		refuse = func(w http.ResponseWriter, _ *http.Request, err error) { WriteError(w, err) }
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := a.Principal(r)
		if err != nil {
			if f := fault.Find(err); f != nil && f.Kind == fault.Unauthenticated {
				Challenge(w, f)
			}
			refuse(w, r, err)
			return
		}
		note(r.Context(), p)
		next.ServeHTTP(w, r.WithContext(identity.With(r.Context(), p)))
	})
}

// Challenge sets WWW-Authenticate, which a 401 must have.
func Challenge(w http.ResponseWriter, f *fault.Error) {
	if w.Header().Get("WWW-Authenticate") != "" {
		return
	}
	reason := strings.NewReplacer(`"`, `'`, `\`, `/`, "\r", " ", "\n", " ").Replace(f.Message)
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="lapis", error="invalid_token", error_description="%s"`, reason))
}
