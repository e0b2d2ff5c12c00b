package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"lapis/backend/sqldb"
	"lapis/edge"
	"lapis/edge/armhttp"
	"lapis/edge/loginhttp"
	"lapis/fault"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/manager"
	"lapis/resource/rbac"
	"lapis/resource/scope"
)

// server is a whole Lapis server. newServer builds it by hand, top to bottom:
// the map of the system.
type server struct {
	settings settings
	folder   *folder
	port     string
	who      who
	keys     *keys
	log      *slog.Logger

	origins   *edge.Origins
	authority *authority
	issuer    *identity.Issuer
	auth      *edge.Authenticator
	manager   *manager.Manager
	router    *edge.Router
	handler   http.Handler

	// loops run until their context ends; when one returns, all stop.
	loops []loop

	// openJobs counts the jobs that have not ended.
	openJobs func(context.Context) (int, error)

	// jobState tells how a job's tokens stand.
	jobState identity.JobState

	closers []io.Closer // in the order of opening
}

type loop struct {
	name string
	run  func(context.Context) error
}

// newServer builds the server over an opened, locked data folder. The port is
// the one it listens on.
func newServer(ctx context.Context, s settings, f *folder, port string, log *slog.Logger) (_ *server, err error) {
	v := &server{settings: s, folder: f, port: port, log: log,
		openJobs: func(context.Context) (int, error) { return 0, nil },
		jobState: func(_, job string) (time.Time, error) {
			return time.Time{}, fault.NotFound("there is no job %q", job)
		},
	}
	defer func() {
		if err != nil {
			v.close()
		}
	}()

	// Who we are.
	if v.keys, err = f.loadKeys(); err != nil {
		return nil, err
	}
	if v.who, err = f.loadIdentity(); err != nil {
		return nil, err
	}
	if v.origins, err = edge.NewOrigins(s.URLs, port); err != nil {
		return nil, err
	}
	names, addresses := v.origins.CertificateNames()
	if v.authority, err = openAuthority(f, names, addresses); err != nil {
		return nil, err
	}
	adminSecret, err := f.adminSecret()
	if err != nil {
		return nil, err
	}
	v.issuer = identity.NewIssuer(identity.IssuerConfig{
		Key: v.keys.signing, Tenant: v.who.Tenant, Trusted: v.origins.Issuer, Long: tokenFiles{f},
		Jobs: func(workspace, job string) (time.Time, error) { return v.jobState(workspace, job) },
	})
	v.auth = &edge.Authenticator{Issuer: v.issuer, Origins: v.origins}

	// What we keep.
	db, err := sqldb.Open(f.path("lapis.db"))
	if err != nil {
		return nil, err
	}
	v.closers = append(v.closers, db)
	resources := sqldb.NewResources(db)

	// The nouns.
	types := resource.NewTypes(
		scope.Subscriptions(),
		scope.Groups(),
	)
	v.manager = manager.New(types, resources, rbac.Checker{}, nil, log)
	v.loops = append(v.loops, loop{"operations", v.manager.Run})

	// The protocols, on one origin.
	v.router = &edge.Router{}
	login := loginhttp.New(v.origins, v.issuer, &principals{who: v.who, secret: adminSecret})
	v.router.Login = login
	v.router.Handle(login, loginhttp.Prefixes...)
	arm := armhttp.New(v.manager, v.origins, log)
	v.router.Handle(v.auth.Require(arm, nil), "subscriptions", "providers", "tenants")
	v.router.Handle(http.HandlerFunc(v.healthz), "healthz")
	v.handler = edge.Front(v.router, v.origins, log)

	return v, v.seed(ctx)
}

// close gives back what newServer opened, the last first.
func (v *server) close() {
	for i := len(v.closers) - 1; i >= 0; i-- {
		if err := v.closers[i].Close(); err != nil {
			v.log.Error("close", "err", err)
		}
	}
}

// healthz answers when the server is ready: it is mounted when all else is.
func (v *server) healthz(w http.ResponseWriter, _ *http.Request) {
	edge.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok", "version": version()})
}

// plainURL is how this machine reaches the server without TLS.
func (v *server) plainURL() string {
	u := url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", v.port)}
	return u.String()
}

// seed makes what a first start must find: the subscription and its group.
func (v *server) seed(ctx context.Context) error {
	for _, r := range []struct{ id, body string }{
		{"/subscriptions/" + v.who.Subscription, fmt.Sprintf(`{"properties":{"displayName":"Lapis","state":"Enabled","tenantId":%q}}`, v.who.Tenant)},
		{"/subscriptions/" + v.who.Subscription + "/resourceGroups/" + v.who.Group, fmt.Sprintf(`{"location":%q}`, v.who.Location)},
	} {
		if err := v.ensure(ctx, r.id, r.body); err != nil {
			return fmt.Errorf("seed %s: %w", r.id, err)
		}
	}
	return nil
}

// ensure makes a resource if it is not there.
func (v *server) ensure(ctx context.Context, idText, body string) error {
	id, err := resource.ParseID(idText)
	if err != nil {
		return err
	}
	if _, err := v.manager.Get(ctx, v.who.admin(), id, resource.View{}); err == nil {
		return nil
	}
	_, err = v.manager.Put(ctx, manager.Request{ID: id, Caller: v.who.admin(), Body: []byte(body), View: resource.View{Origin: v.origins.Default()}})
	return err
}
