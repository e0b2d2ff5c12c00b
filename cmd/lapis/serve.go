package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"lapis/backend/courier"
	"lapis/backend/disk"
	"lapis/backend/runtimes"
	"lapis/backend/sqldb"
	"lapis/edge"
	"lapis/edge/armhttp"
	"lapis/edge/historyhttp"
	"lapis/edge/loginhttp"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/component"
	"lapis/ml/compute"
	"lapis/ml/connection"
	"lapis/ml/data"
	"lapis/ml/deploy"
	"lapis/ml/dispatch"
	"lapis/ml/endpoint"
	mlenvironment "lapis/ml/environment"
	"lapis/ml/job"
	"lapis/ml/model"
	"lapis/ml/serving"
	"lapis/ml/share"
	"lapis/ml/trash"
	"lapis/ml/webhook"
	"lapis/ml/workspace"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/lock"
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
	runtimes *runtimes.Runtimes // of native models

	origins   *edge.Origins
	authority *authority
	issuer    *identity.Issuer
	auth      *edge.Authenticator
	manager   *manager.Manager
	router    *edge.Router
	handler   http.Handler

	// loops run until their context ends; when one returns, all stop.
	loops []loop

	templates  *armhttp.Tasks
	dispatcher *dispatch.Dispatcher
	shared     *share.Service
	workspaces *workspace.Service
	endpoints  *endpoint.Service
	deployer   *deploy.Deployer // nil without a gateway
	platform   *platform        // with the deployer
	courier    *courier.Courier
	scoring    *gatewayProcess
	gateway    serving.Gateway // what the control plane says to it
	bundle     string          // file with the authorities that jobs trust

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
		Key: v.keys.signing, Tenant: v.who.Tenant, Trusted: v.origins.Issuer, Long: &heldTokens{tokenFiles: tokenFiles{f}},
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
	runs, err := sqldb.NewTracking(db)
	if err != nil {
		return nil, err
	}
	v.loops = append(v.loops, loop{"metrics", runs.Fold})
	stored, err := disk.New(f.path("blobs"))
	if err != nil {
		return nil, err
	}

	// What runs jobs.
	if v.bundle, err = f.bundle(environment{os.LookupEnv}); err != nil {
		return nil, err
	}
	runtime, err := newRuntime(f, stored, log)
	if err != nil {
		return nil, err
	}
	v.closers = append(v.closers, runtime)
	builder, err := newBuilder(f)
	if err != nil {
		return nil, err
	}
	v.closers = append(v.closers, builder)
	v.runtimes = newRuntimes(f, builder)
	blobs := dispatch.Live{Store: stored, Runtime: runtime}
	v.dispatcher = dispatch.New(dispatch.Config{
		Resources: resources, Runs: runs, Blobs: stored, Runtime: runtime, Builder: builder,
		Machine: machine(), Slots: s.Slots, Variables: v.jobVariables, Register: v.register, Log: log, Now: now,
	})
	v.loops = append(v.loops, loop{"dispatch", v.dispatcher.Run})
	v.openJobs = func(ctx context.Context) (int, error) { return v.dispatcher.Open(ctx, "") }
	v.jobState = func(workspace, name string) (time.Time, error) { return jobEnded(resources, runs, workspace, name) }

	// What answers the callers of online endpoints.
	if v.scoring, err = startGateway(ctx, s, f, log); err != nil {
		return nil, err
	}
	v.gateway = v.scoring.Client()
	v.closers = append(v.closers, v.scoring)
	v.loops = append(v.loops, loop{"gateway", v.scoring.run})

	// What reaches out.
	if v.courier, err = newCourier(s, v.bundle); err != nil {
		return nil, err
	}

	v.templates = armhttp.NewTasks()
	v.loops = append(v.loops, loop{"templates", v.templates.Run})

	// The nouns.
	sas := identity.NewSAS(v.keys.sas)
	links := links{sas}
	jobs := &job.Service{Resources: resources, Runs: runs, Wake: v.dispatcher.Wake, Now: now,
		Kinds: map[string]job.Kind{"command": job.Command{Resources: resources}}}
	v.workspaces = &workspace.Service{Resources: resources, Blobs: blobs, OpenJobs: v.dispatcher.Open, Purge: runs.PurgeWorkspace, Seeds: []workspace.Seed{share.InWorkspace}}
	v.endpoints = &endpoint.Service{Resources: resources, Sealer: v.keys.sealer, Issuer: v.issuer, Tenant: v.who.Tenant, Base: v.scoringBase, Write: v.write, Log: log, Now: now}
	types := []*resource.Type{
		scope.Subscriptions(),
		scope.Groups(),
		lock.Type(resources),
		v.templates.DeploymentType(),
		v.workspaces.Type(),
		data.Datastores(resources, blobs, links, v.keys.sealer, now),
		connection.Connections(resources, v.keys.sealer),
		webhook.Webhooks(v.keys.sealer, v.courier),
		jobs.Type(),
	}
	types = append(types, compute.Types(resources)...)
	if v.gateway != nil {
		if v.deployer, err = v.newDeployer(resources, blobs, builder); err != nil {
			return nil, err
		}
		v.endpoints.Deployer = v.deployer
		v.loops = append(v.loops, loop{"deployments", v.deployer.Run})
	}
	types = append(types, v.endpoints.Types()...)
	types = append(types, settingTypes(resources)...)
	types = append(types, later()...)
	kinds := []asset.Kind{
		asset.Code(resources, blobs, links, now),
		data.Assets(resources),
		mlenvironment.Environments(),
		component.Components(),
		model.Models(resources, blobs),
	}
	v.shared = &share.Service{Resources: resources, Blobs: blobs, Grants: links, Register: v.register, Now: now}
	types = append(types, v.shared.Types(kinds...)...)
	for _, kind := range kinds {
		types = append(types, kind.Types(resources)...)
	}
	v.manager = manager.New(resource.NewTypes(types...), resources, lock.Guard{Access: rbac.Checker{}, Store: resources}, nil, log)
	v.loops = append(v.loops, loop{"operations", v.manager.Run},
		loop{"upkeep", v.upkeep(resources, stored, builder, v.uses)}, loop{"memory", giveBack})

	// What was deleted, until it is removed for good.
	bin := &trash.Trash{Runs: runs, Blobs: blobs, Resources: resources, Keep: time.Duration(s.TrashDays) * 24 * time.Hour,
		Platform: v.who.platform(), Log: log, Now: now,
		DeleteJob: func(ctx context.Context, caller identity.Principal, site ml.Site, name string) error {
			_, err := v.manager.Delete(ctx, manager.Request{ID: site.ID.Child("jobs", name), Caller: caller})
			return err
		},
	}
	v.loops = append(v.loops, loop{"trash", bin.Run})

	// What watches online endpoints.
	watch, err := v.newWatch(resources, stored)
	if err != nil {
		return nil, err
	}

	// The protocols, on one origin.
	v.router = &edge.Router{}
	login := loginhttp.New(v.origins, v.issuer, &principals{who: v.who, secret: adminSecret})
	v.router.Login = login
	v.router.Handle(login, loginhttp.Prefixes...)
	arm := armhttp.New(v.manager, v.origins, log, append(v.routes(), watch.routes(v)...)...)
	v.router.Handle(v.auth.Require(arm, nil), "subscriptions", "providers", "tenants")
	v.router.Handle(v.auth.Require(arm.DataPlane(), nil), "mferp")
	v.router.Handle(v.auth.Require(arm.Discovery(func(ctx context.Context, name string) (resource.Resource, error) {
		return ml.FindRegistry(ctx, resources, name)
	}), nil), "registrymanagement")
	history := historyhttp.New(historyhttp.Config{Resources: resources, Runs: runs, Blobs: blobs, Access: rbac.Checker{},
		Links: links, Origins: v.origins, Log: log, Now: now})
	v.router.Handle(v.auth.Require(history, nil), "history", "data", "modelregistry", "execution")
	v.router.Handle(http.HandlerFunc(history.Discovery), "discovery")
	mlflow, err := v.newMLflow(db, resources, runs, blobs, bin, links)
	if err != nil {
		return nil, err
	}
	v.router.Handle(mlflow, "mlflow", "api", "ajax-api", "v1", "version", "health", "get-artifact", "model-versions", "graphql")
	v.router.Blob = v.newBlobs(resources, blobs, sas)
	v.router.Handle(http.HandlerFunc(v.healthz), "healthz")
	v.router.Handle(watch.prometheus(v), "metrics")
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

// scoringBase is the address of the gateway for one who reached the server at
// origin.
func (v *server) scoringBase(origin string) string { return v.scoring.Base(origin) }

// seed makes what a first start must find: the subscription, its group, a
// workspace, and the registry with the curated environments.
func (v *server) seed(ctx context.Context) error {
	group := v.who.group()
	for _, r := range []struct{ id, body string }{
		{"/subscriptions/" + v.who.Subscription, fmt.Sprintf(`{"properties":{"displayName":"Lapis","state":"Enabled","tenantId":%q}}`, v.who.Tenant)},
		{group, fmt.Sprintf(`{"location":%q}`, v.who.Location)},
		{group + "/providers/" + ml.Workspaces + "/" + v.who.Workspace, fmt.Sprintf(`{"location":%q,"properties":{}}`, v.who.Location)},
	} {
		if err := v.ensure(ctx, r.id, r.body); err != nil {
			return fmt.Errorf("seed %s: %w", r.id, err)
		}
	}
	return v.seedRegistry(ctx)
}

// seedRegistry makes the registry azureml, and the versions that this program
// brings and that are not in it yet.
func (v *server) seedRegistry(ctx context.Context) error {
	found, err := ml.FindRegistry(ctx, v.manager.Store(), share.Own)
	registry := found.ID
	if fault.Is(err, fault.Missing) {
		if registry, err = resource.ParseID(v.who.group() + "/providers/" + ml.Registries + "/" + share.Own); err != nil {
			return err
		}
		err = v.ensure(ctx, registry.String(), fmt.Sprintf(`{"location":%q,"properties":{"description":"Environments that every workspace may use."}}`, v.who.Location))
	}
	if err != nil {
		return fmt.Errorf("seed the registry %s: %w", share.Own, err)
	}
	assets, err := share.Curated()
	if err != nil {
		return err
	}
	for _, a := range assets {
		body := resource.Document{"properties": a.Properties.Raw()}
		name := registry.Child("environments", a.Name)
		if len(a.Labels) > 0 {
			if err := v.ensure(ctx, name.String(), string(resource.Document{"properties": asset.Labelled(a.Version, a.Labels)}.Raw())); err != nil {
				return fmt.Errorf("seed %s: %w", name, err)
			}
		}
		id := name.Child("versions", a.Version)
		if err := v.ensure(ctx, id.String(), string(body.Raw())); err != nil {
			return fmt.Errorf("seed %s: %w", id, err)
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
	if f := fault.Find(err); f != nil && f.Code == "SoftDeletedWorkspaceExists" {
		return nil // it was deleted on purpose and can be brought back
	}
	return err
}
