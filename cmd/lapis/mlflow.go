package main

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"lapis/backend/sqldb"
	"lapis/edge/mlflowhttp"
	"lapis/ml"
	"lapis/ml/blob"
	"lapis/ml/evaluation"
	"lapis/ml/registry"
	"lapis/ml/trace"
	"lapis/ml/tracking"
	"lapis/ml/trash"
	"lapis/ml/workspace"
	"lapis/pattern"
	"lapis/resource"
	"lapis/resource/identity"
	"lapis/resource/rbac"
)

// newMLflow serves MLflow's protocol for the first workspace at the root, and
// for each workspace below /mlflow/v1.0{id} and /mlflow/v2.0{id}.
func (v *server) newMLflow(db *sqldb.DB, resources *sqldb.Resources, runs tracking.Store, blobs blob.Store, bin *trash.Trash, links links) (*mlflowhttp.Server, error) {
	main := v.who.group() + "/providers/" + ml.Workspaces + "/" + v.who.Workspace
	sites := &sites{store: resources, byID: map[string]knownSite{}}
	service := tracking.New(runs)
	first, err := resource.ParseID(main)
	if err != nil {
		return nil, err
	}
	catalog := workspace.NewCatalog(v.manager, service, first)
	hooks := v.newWebhooks(db, resources, catalog)
	return mlflowhttp.New(mlflowhttp.Config{
		Tracking:   service,
		Registry:   registry.New(v.manager, service, hooks),
		Traces:     trace.New(sqldb.NewTraces(db), service),
		Evaluation: evaluation.New(sqldb.NewEvaluation(db), service),
		Webhooks:   hooks,
		Workspaces: catalog,
		Resources:  resources,
		Blobs:      blobs,
		Trash:      bin,
		Site: func(ctx context.Context, from ml.Site, name string) (ml.Site, error) {
			if !strings.HasPrefix(name, "/") {
				name = from.ID.Parent().String() + "/providers/" + ml.Workspaces + "/" + name
			}
			return sites.find(ctx, name)
		},
		Resolve: func(r *http.Request) (ml.Site, string, error) {
			id, rest := main, r.URL.Path
			if m := underWorkspace.FindStringSubmatch(r.URL.Path); m != nil {
				id, rest = m[1], m[2]
			}
			site, err := sites.find(r.Context(), id)
			return site, rest, err
		},
		Authenticate: v.auth.Require,
		Access:       rbac.Checker{},
		Link: func(r *http.Request, c blob.Container, key, permissions string, lasting time.Duration) string {
			return links.blob(v.origins.Base(r), c, key, permissions, time.Now().Add(lasting), identity.Of(r.Context()).Name)
		},
		Log: v.log,
	}), nil
}

var underWorkspace = pattern.New(`^/(?i:mlflow/v[12]\.0(/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/workspaces/[^/]+))(/.*)?$`)

// sites remembers workspaces for a moment: every call of MLflow names one.
type sites struct {
	store resource.Store

	mu   sync.Mutex
	byID map[string]knownSite
}

type knownSite struct {
	ml.Site
	read time.Time
}

// siteFor is how long a workspace is taken to be as it was.
const siteFor = time.Second

func (s *sites) find(ctx context.Context, text string) (ml.Site, error) {
	id, err := resource.ParseID(text)
	if err != nil {
		return ml.Site{}, err
	}
	s.mu.Lock()
	known, ok := s.byID[id.Key()]
	s.mu.Unlock()
	if ok && time.Since(known.read) < siteFor {
		return known.Site, nil
	}
	site, err := ml.SiteOf(ctx, s.store, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.byID, id.Key())
		return ml.Site{}, err
	}
	s.byID[id.Key()] = knownSite{site, time.Now()}
	return site, nil
}
