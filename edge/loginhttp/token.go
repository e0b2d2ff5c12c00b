package loginhttp

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lapis/edge"
	"lapis/fault"
	"lapis/resource/identity"
)

const (
	formLimit = 64 << 10 // bytes

	jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

	// What a client's assertion may be made for, besides our own names.
	exchangeAudience = "api://AzureADTokenExchange"

	// A job's token is good for as long as the job; clients are told to come
	// back after this.
	jobTokenRefresh = 24 * time.Hour
)

// token is the token endpoint: v2 asks for a scope, v1 for a resource.
func (s *Server) token(prefix string, v2 bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := edge.ReadBody(w, r, formLimit)
		if err != nil {
			replyError(w, err)
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			replyError(w, oauth("invalid_request", "AADSTS900144: The request body is not a well-formed form."))
			return
		}
		if err := s.tenant(prefix); err != nil {
			replyError(w, err)
			return
		}
		principal, err := s.authenticate(r, form)
		if err != nil {
			replyError(w, err)
			return
		}
		audience, err := s.audience(form, v2)
		if err != nil {
			replyError(w, err)
			return
		}
		issuer := s.origins.Base(r) + "/" + strings.Trim(prefix, "/")
		token, err := s.issuer.Issue(principal, issuer, audience, identity.AccessTokenLife)
		if err != nil {
			replyError(w, err)
			return
		}
		life := lifeOf(principal)
		if v2 {
			edge.WriteJSON(w, http.StatusOK, map[string]any{
				"token_type": "Bearer", "expires_in": int(life.Seconds()) - 1, "ext_expires_in": int(life.Seconds()) - 1,
				"access_token": token,
			})
			return
		}
		now := time.Now()
		edge.WriteJSON(w, http.StatusOK, map[string]any{
			"token_type": "Bearer", "expires_in": strconv.Itoa(int(life.Seconds()) - 1), "ext_expires_in": strconv.Itoa(int(life.Seconds()) - 1),
			"expires_on": strconv.FormatInt(now.Add(life).Unix(), 10), "not_before": strconv.FormatInt(now.Unix(), 10),
			"resource": audience, "access_token": token,
		})
	}
}

func lifeOf(p identity.Principal) time.Duration {
	if p.Job != "" {
		return jobTokenRefresh
	}
	return identity.AccessTokenLife
}

// authenticate finds the client: by its secret, in the form or in the header,
// or by a token of ours that stands as its assertion.
func (s *Server) authenticate(r *http.Request, form url.Values) (identity.Principal, error) {
	var none identity.Principal
	switch grant := form.Get("grant_type"); grant {
	case "client_credentials":
	case "":
		return none, missing("grant_type")
	default:
		return none, oauth("unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type '%s'. This server knows 'client_credentials'.", fault.Clip(grant))
	}

	if kind := form.Get("client_assertion_type"); kind != "" {
		if kind != jwtBearer {
			return none, oauth("invalid_request", "AADSTS50027: The client_assertion_type '%s' is not known; use '%s'.", fault.Clip(kind), jwtBearer)
		}
		p, err := s.issuer.Verify(form.Get("client_assertion"), func(aud string) bool { return aud == exchangeAudience || s.origins.Audience(aud) })
		if f := fault.Find(err); f != nil && f.Kind == fault.Unauthenticated {
			return none, oauth("invalid_client", "AADSTS700027: The client assertion is not accepted. %s", f.Message).From(err)
		}
		return p, err
	}

	id, secret := form.Get("client_id"), form.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok && id == "" {
		id, secret = user, password
	} else if ok && secret == "" {
		secret = password
	}
	if id == "" {
		return none, missing("client_id")
	}
	if secret == "" {
		return none, oauth("invalid_client", "AADSTS7000218: The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	}
	p, err := s.clients.Client(r.Context(), id, secret)
	switch {
	case fault.Is(err, fault.Missing):
		return none, oauth("unauthorized_client", "AADSTS700016: Application with identifier '%s' was not found in the directory '%s'. `lapis connect` sets AZURE_CLIENT_ID.", fault.Clip(id), s.issuer.Tenant()).From(err)
	case fault.Is(err, fault.Unauthenticated):
		return none, oauth("invalid_client", "AADSTS7000215: Invalid client secret provided for app '%s'. `lapis connect` sets AZURE_CLIENT_SECRET.", fault.Clip(id)).From(err)
	}
	return p, err
}

// audience is what the token is asked for: the scope without its "/.default",
// to the letter, as clients compare it.
func (s *Server) audience(form url.Values, v2 bool) (string, error) {
	var aud string
	if scope := strings.TrimSpace(form.Get("scope")); v2 || scope != "" && form.Get("resource") == "" {
		if scope == "" {
			return "", missing("scope")
		}
		var ok bool
		if aud, ok = strings.CutSuffix(scope, "/.default"); !ok {
			return "", oauth("invalid_scope", "AADSTS1002012: The provided value for scope '%s' is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier.", fault.Clip(scope))
		}
	} else if aud = form.Get("resource"); aud == "" {
		return "", missing("resource")
	}
	if err := s.checkAudience(aud); err != nil {
		return "", err
	}
	return aud, nil
}

func (s *Server) checkAudience(aud string) error {
	if s.origins.Audience(aud) {
		return nil
	}
	return oauth("invalid_resource", "AADSTS500011: The resource principal named '%s' was not found in the tenant '%s'. This server is '%s'.", fault.Clip(aud), s.issuer.Tenant(), s.origins.Default())
}

func missing(parameter string) error {
	return oauth("invalid_request", "AADSTS900144: The request body must contain the following parameter: '%s'.", parameter)
}

// oauth makes an error with OAuth's word for it. A client that did not prove
// who it is gets a 401, all else is a 400.
func oauth(code, format string, args ...any) *fault.Error {
	kind := fault.BadRequest
	if code == "invalid_client" {
		kind = fault.Unauthenticated
	}
	return fault.New(kind, code, format, args...)
}

// replyError sends an error as RFC 6749 has it, with the fields that MSAL shows.
func replyError(w http.ResponseWriter, err error) {
	f := fault.Find(err)
	if f == nil {
		f = fault.New(fault.Internal, "server_error", "AADSTS90033: Internal error. The server's log has it under the request id %s.", w.Header().Get("x-ms-request-id"))
	}
	code := f.Code
	if code == "RequestBodyTooLarge" || code == "InvalidRequest" {
		code = "invalid_request"
	}
	if f.Kind == fault.Unauthenticated {
		w.Header().Set("WWW-Authenticate", `Basic realm="lapis"`)
	}
	codes := []int{}
	if number, _, ok := strings.Cut(strings.TrimPrefix(f.Message, "AADSTS"), ":"); ok {
		if n, err := strconv.Atoi(number); err == nil {
			codes = append(codes, n)
		}
	}
	id := w.Header().Get("x-ms-request-id")
	edge.WriteJSON(w, edge.Status(f.Kind), map[string]any{
		"error": code, "error_description": f.Message + " Trace ID: " + id, "error_codes": codes,
		"timestamp": time.Now().UTC().Format("2006-01-02 15:04:05Z"), "trace_id": id, "correlation_id": w.Header().Get("x-ms-correlation-request-id"),
	})
}

// managedIdentity gives code inside a job a token. The caller proves itself by
// the job's own token, in the header that IDENTITY_HEADER or MSI_SECRET fill.
func (s *Server) managedIdentity(w http.ResponseWriter, r *http.Request) {
	refuse := func(f *fault.Error) {
		edge.WriteJSON(w, edge.Status(f.Kind), map[string]any{
			"statusCode": edge.Status(f.Kind), "message": f.Message, "error": f.Code, "error_description": f.Message,
		})
	}
	proof := r.Header.Get("X-IDENTITY-HEADER")
	if proof == "" {
		proof = r.Header.Get("secret")
	}
	if proof == "" {
		refuse(oauth("invalid_request", "The header X-IDENTITY-HEADER is missing. It holds the value of IDENTITY_HEADER, which each job has in its environment."))
		return
	}
	resource := strings.TrimSuffix(r.URL.Query().Get("resource"), "/.default")
	if resource == "" {
		refuse(oauth("invalid_request", "The query parameter 'resource' is missing."))
		return
	}
	p, err := s.issuer.Verify(proof, s.origins.Audience)
	if err == nil {
		err = s.checkAudience(resource)
	}
	var token string
	if err == nil {
		token, err = s.issuer.Issue(p, s.origins.Base(r)+"/adfs", resource, identity.AccessTokenLife)
	}
	if err != nil {
		f := fault.Find(err)
		if f == nil {
			f = fault.New(fault.Internal, "server_error", "Internal error. The server's log has it under the request id %s.", edge.RequestID(r.Context()))
		}
		refuse(f)
		return
	}
	life := lifeOf(p)
	edge.WriteJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "token_type": "Bearer", "resource": resource, "client_id": p.Client,
		"expires_on": strconv.FormatInt(time.Now().Add(life).Unix(), 10), "expires_in": strconv.Itoa(int(life.Seconds())),
	})
}
