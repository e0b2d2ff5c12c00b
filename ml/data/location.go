package data

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/pattern"
	"lapis/resource"
)

// Location is where bytes lie: a path in a container of ours, or a URL
// elsewhere.
type Location struct {
	Container blob.Container
	Path      string // key of a blob, or prefix of a folder
	URL       string // instead: http or https
	Type      string // of the data asset that was referred to; "" if none was
	Datastore string // name, "" if it is known by its container alone
	Shared    bool   // in a registry, whose content does not change
}

var (
	shortStore = pattern.New(`(?i)^azureml:(?://)?datastores/([^/]+)/paths/(.*)$`)
	longStore  = pattern.New(`(?i)^azureml://subscriptions/([^/]+)/resource[gG]roups/([^/]+)/(?:providers/microsoft\.machinelearningservices/)?workspaces/([^/]+)/datastores/([^/]+)/paths/(.*)$`)
	jobOutput  = pattern.New(`(?i)^azureml://jobs/([^/]+)/outputs/([^/]+)(?:/paths/?(.*))?$`)
	runFolder  = pattern.New(`^runs:/+([^/]+)/(.*)$`)
	locations  = pattern.New(`(?i)^azureml://locations/([^/]+)/workspaces/([^/]+)/([^/]+)/([^/]+)/versions/([^/]+)$`)
	inRegistry = pattern.New(`(?i)^azureml://registries/([^/]+)/(data|models)/([^/]+)/(versions|labels)/([^/]+)$`)
	armAsset   = pattern.New(`(?i)^(?:azureml:)?(/subscriptions/.+/workspaces/[^/]+)/(data|models|datasets)/([^/]+)/versions/([^/]+)$`)
	armLabel   = pattern.New(`(?i)^(?:azureml:)?(/subscriptions/.+/workspaces/[^/]+)/(data|models)/([^/]+)/labels/([^/]+)$`)
	named      = pattern.New(`^azureml:([^:/@]+)(?::([^:/@]+)|@([^:/@]+))$`)
	hadoopHost = pattern.New(`(?i)^wasbs?://([^@./]+)\.([^@/]+)/([^/]+)/(.*)$`) // as people write it, without the "@"
	hadoop     = pattern.New(`(?i)^(?:wasbs?|abfss?)://([^@/]+)@([^./]+)\.([^/]+)/(.*)$`)
	azureHost  = pattern.New(`(?i)^([^./]+)\.((?:blob|dfs)\.core\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net))$`)
)

// Locate finds out where a URI of any of the kinds that clients send points to,
// as seen from the workspace that "from" lies in. What does not exist is a
// fault that names it.
func Locate(ctx context.Context, store resource.Store, from resource.ID, uri string) (Location, error) {
	workspace := ml.Home(from)
	if m := shortStore.FindStringSubmatch(uri); m != nil {
		return inDatastore(ctx, store, workspace, m[1], m[2], uri)
	}
	if m := longStore.FindStringSubmatch(uri); m != nil {
		if err := sameWorkspace(workspace, m[1], m[2], m[3], uri); err != nil {
			return Location{}, err
		}
		return inDatastore(ctx, store, workspace, m[4], m[5], uri)
	}
	if m := jobOutput.FindStringSubmatch(uri); m != nil {
		site, err := ml.SiteOf(ctx, store, workspace)
		if err != nil {
			return Location{}, err
		}
		return ofJob(ctx, store, site, m[1], m[2], m[3], uri)
	}
	if m := runFolder.FindStringSubmatch(uri); m != nil {
		site, err := ml.SiteOf(ctx, store, workspace)
		if err != nil {
			return Location{}, err
		}
		return checked(Location{Container: site.Artifacts(), Path: ml.RunFolder(m[1]) + m[2], Datastore: ml.ArtifactStore}, uri)
	}
	if m := locations.FindStringSubmatch(uri); m != nil {
		site, err := ml.SiteOf(ctx, store, workspace)
		if err != nil {
			return Location{}, err
		}
		if !strings.EqualFold(site.GUID, m[2]) {
			return Location{}, otherWorkspace(m[2], workspace, uri)
		}
		return ofAsset(ctx, store, workspace, m[3], m[4], m[5])
	}
	for _, re := range []*pattern.Pattern{armAsset, armLabel} {
		if m := re.FindStringSubmatch(uri); m != nil {
			if !strings.EqualFold(strings.Replace(m[1], "resourcegroups", "resourceGroups", 1), workspace.String()) {
				return Location{}, otherWorkspace(m[1][strings.LastIndexByte(m[1], '/')+1:], workspace, uri)
			}
			version := m[4]
			if re == armLabel {
				version = "@" + version
			}
			return ofAsset(ctx, store, workspace, m[2], strings.TrimPrefix(m[3], "azureml:"), version)
		}
	}
	if m := inRegistry.FindStringSubmatch(uri); m != nil {
		r, err := ml.FindRegistry(ctx, store, m[1])
		if err != nil {
			return Location{}, err
		}
		version := m[5]
		if strings.EqualFold(m[4], "labels") {
			version = "@" + version
		}
		l, err := ofAsset(ctx, store, r.ID, m[2], m[3], version)
		l.Shared = true
		return l, err
	}
	if m := named.FindStringSubmatch(uri); m != nil {
		version := m[2]
		if version == "" {
			version = "@" + m[3]
		}
		return ofAsset(ctx, store, workspace, "data", m[1], version)
	}
	if m := hadoop.FindStringSubmatch(uri); m != nil {
		return inAccount(ctx, store, workspace, m[2], m[3], m[1], m[4], uri)
	}
	if m := hadoopHost.FindStringSubmatch(uri); m != nil {
		return inAccount(ctx, store, workspace, m[1], m[2], m[3], m[4], uri)
	}
	if u, err := url.Parse(uri); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
		if c, path, ok := ofURL(u); ok {
			return addressed(ctx, store, workspace, c, path, uri)
		}
		if m := azureHost.FindStringSubmatch(u.Host); m != nil {
			container, path, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
			l, err := inAccount(ctx, store, workspace, m[1], m[2], container, path, uri)
			if l.URL != "" {
				l.URL = uri // with its signature
			}
			return l, err
		}
		return Location{URL: uri}, nil
	}
	return Location{}, fault.Invalid("%q is no place where data can lie: use azureml:NAME:VERSION, azureml://datastores/NAME/paths/PATH, azureml://jobs/JOB/outputs/NAME, or an http(s) URL", fault.Clip(uri)).With("ValidationError").At(uri)
}

// ownAccount is the name of a storage account that a workspace or a registry of
// ours was given.
var ownAccount = pattern.New(`^st[0-9a-f]{22}$`)

// LocateCode finds out where a code version lies, by its ARM id. Code that lies
// outside of this server is a fault.
func LocateCode(ctx context.Context, store resource.Store, from resource.ID, codeID string) (Location, error) {
	id, err := resource.ParseID(strings.TrimPrefix(codeID, "azureml:"))
	if err != nil {
		return Location{}, err
	}
	r, err := store.Get(ctx, id)
	if err != nil {
		return Location{}, err
	}
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return Location{}, err
	}
	at, err := Locate(ctx, store, from, p.Text("codeUri"))
	if err == nil && at.URL != "" {
		err = fault.Invalid("The code lies at %q, outside of this server; upload it.", at.URL).With("UserError")
	}
	return at, err
}

// inAccount is a path in a storage account that an address names, by the
// account and the rest of its host. It is in a container of ours if the account
// is the workspace's own or a datastore has the container, and elsewhere if not.
func inAccount(ctx context.Context, store resource.Store, from resource.ID, account, host, container, path, uri string) (Location, error) {
	c := blob.Container{Account: strings.ToLower(account), Name: strings.ToLower(container)}
	if ownAccount.MatchString(c.Account) || !azureHost.MatchString(account+"."+host) {
		return addressed(ctx, store, from, c, path, uri)
	}
	name, err := datastoreOf(ctx, store, from, c)
	if err != nil {
		return Location{}, err
	}
	if name != "" {
		return checked(Location{Container: c, Path: path, Datastore: name}, uri)
	}
	// What speaks dfs of an account speaks blob as well.
	return Location{URL: (&url.URL{Scheme: "https", Host: account + "." + strings.Replace(strings.ToLower(host), "dfs.", "blob.", 1), Path: "/" + container + "/" + path}).String()}, nil
}

// datastoreOf is the name of the workspace's datastore with that container, ""
// if none has it.
func datastoreOf(ctx context.Context, store resource.Store, workspace resource.ID, c blob.Container) (string, error) {
	q := resource.Query{Type: DatastoreType, Parent: workspace, Limit: 1000}
	for {
		page, err := store.List(ctx, q)
		if err != nil {
			return "", err
		}
		for _, r := range page.Resources {
			var d Datastore
			if json.Unmarshal(r.Properties, &d) == nil && d.Kind == "AzureBlob" && d.Blobs() == c {
				return r.ID.Name(), nil
			}
		}
		if q.After = page.Next; q.After == "" {
			return "", nil
		}
	}
}

// addressed is a path in a container that an address names by itself. The
// stores of another workspace cannot be reached that way.
func addressed(ctx context.Context, store resource.Store, from resource.ID, c blob.Container, path, uri string) (Location, error) {
	if ownAccount.MatchString(c.Account) {
		site, err := ml.SiteOf(ctx, store, from)
		if err != nil {
			return Location{}, err
		}
		if c.Account != site.Account {
			return Location{}, otherWorkspace("the storage account "+c.Account, from, uri)
		}
		switch c {
		case site.Blobs():
			return checked(Location{Container: c, Path: path, Datastore: ml.BlobStore}, uri)
		case site.Artifacts():
			return checked(Location{Container: c, Path: path, Datastore: ml.ArtifactStore}, uri)
		}
	}
	return checked(Location{Container: c, Path: path}, uri)
}

// ofURL recognises the addresses of our own blobs: /blob/ACCOUNT/CONTAINER/PATH,
// and the host names that clients build of the storage suffix.
func ofURL(u *url.URL) (blob.Container, string, bool) {
	path := strings.TrimPrefix(u.Path, "/")
	if rest, ok := strings.CutPrefix(path, "blob/"); ok {
		parts := strings.SplitN(rest, "/", 3)
		if len(parts) >= 2 {
			return blob.Container{Account: strings.ToLower(parts[0]), Name: strings.ToLower(parts[1])}, part(parts, 2), true
		}
	}
	// https://ACCOUNT.blob.core.lapis@HOST/CONTAINER/PATH: all before the "@" is
	// user information to HTTP.
	host := u.Host
	if u.User != nil {
		host = u.User.Username()
	}
	if account, _, ok := strings.Cut(host, ".blob.core.lapis"); ok && account != "" {
		parts := strings.SplitN(path, "/", 2)
		return blob.Container{Account: strings.ToLower(account), Name: strings.ToLower(parts[0])}, part(parts, 1), true
	}
	return blob.Container{}, "", false
}

func part(parts []string, i int) string {
	if i < len(parts) {
		return parts[i]
	}
	return ""
}

// checked refuses a path that leaves its container.
func checked(l Location, uri string) (Location, error) {
	if err := l.Container.Check(); err != nil {
		return Location{}, err
	}
	if l.Path != "" {
		if err := blob.CheckKey(strings.TrimSuffix(l.Path, "/")); err != nil && strings.Trim(l.Path, "/") != "" {
			return Location{}, fault.Invalid("the path in %q is not allowed: %v", fault.Clip(uri), err).With("ValidationError").At(uri)
		}
	}
	return l, nil
}

// inDatastore is a path in a datastore of the workspace.
func inDatastore(ctx context.Context, store resource.Store, workspace resource.ID, name, path, uri string) (Location, error) {
	id := workspace.Child("datastores", name)
	if id.Zero() {
		return Location{}, fault.Invalid("%q is no name of a datastore", fault.Clip(name)).At(uri)
	}
	r, err := store.Get(ctx, id)
	if fault.Is(err, fault.Missing) {
		return Location{}, fault.NotFound("The datastore '%s', which %q refers to, could not be found in workspace '%s'.", name, fault.Clip(uri), workspace.Name()).At(uri)
	}
	if err != nil {
		return Location{}, err
	}
	var d Datastore
	if err := json.Unmarshal(r.Properties, &d); err != nil {
		return Location{}, err
	}
	if d.Kind != "AzureBlob" {
		return Location{}, fault.Invalid("The datastore '%s' is of the type %s, which jobs cannot read or write here; use an AzureBlob datastore.", name, d.Kind).With("ValidationError").At(uri)
	}
	return checked(Location{Container: d.Blobs(), Path: strings.TrimPrefix(path, "/"), Datastore: r.ID.Name()}, uri)
}

// ofAsset is where a data or model asset points to.
func ofAsset(ctx context.Context, store resource.Store, workspace resource.ID, segment, name, version string) (Location, error) {
	if strings.EqualFold(segment, "datasets") {
		segment = "data"
	}
	r, err := asset.Find(ctx, store, workspace, strings.ToLower(segment), name, version)
	if err != nil {
		return Location{}, err
	}
	p, err := resource.ParseDocument(r.Properties)
	if err != nil {
		return Location{}, err
	}
	uri, kind := p.Text("dataUri"), p.Text("dataType")
	if uri == "" {
		uri, kind = p.Text("modelUri"), p.Text("modelType")
	}
	if named.MatchString(uri) || armAsset.MatchString(uri) {
		return Location{}, fault.Invalid("The asset '%s:%s' points to another asset, %q; give it a path.", name, r.ID.Name(), fault.Clip(uri)).With("ValidationError")
	}
	l, err := Locate(ctx, store, workspace, uri)
	l.Type = kind
	return l, err
}

func sameWorkspace(workspace resource.ID, sub, group, name, uri string) error {
	if strings.EqualFold(workspace.Subscription(), sub) && strings.EqualFold(workspace.Group(), group) && strings.EqualFold(workspace.Name(), name) {
		return nil
	}
	return otherWorkspace(name, workspace, uri)
}

func otherWorkspace(other string, workspace resource.ID, uri string) error {
	return fault.Invalid("%q lies in workspace '%s', not in '%s': an asset of another workspace cannot be used; share it through a registry or copy it.", fault.Clip(uri), other, workspace.Name()).With("ValidationError").At(uri)
}

// ofJob is a path in an output of a job.
func ofJob(ctx context.Context, store resource.Store, site ml.Site, job, output, path, uri string) (Location, error) {
	r, err := store.Get(ctx, site.ID.Child("jobs", job))
	if fault.Is(err, fault.Missing) {
		return Location{}, fault.NotFound("The job '%s', which %q refers to, could not be found in workspace '%s'.", job, fault.Clip(uri), site.ID.Name()).At(uri)
	}
	if err != nil {
		return Location{}, err
	}
	c, base := JobOutput(site, r.ID.Name(), output)
	l := Location{Container: c, Path: base}
	var p struct {
		Outputs map[string]struct {
			URI string `json:"uri"`
		} `json:"outputs"`
	}
	if err := json.Unmarshal(r.Properties, &p); err != nil {
		return Location{}, err
	}
	if o, ok := p.Outputs[output]; ok {
		if o.URI != "" && !jobOutput.MatchString(o.URI) {
			if l, err = Locate(ctx, store, site.ID, o.URI); err != nil {
				return Location{}, err
			}
		}
	} else if c != site.Artifacts() {
		return Location{}, fault.NotFound("The job '%s' has no output '%s', which %q refers to.", job, output, fault.Clip(uri)).At(uri)
	}
	if path != "" {
		l.Path = strings.TrimSuffix(l.Path, "/") + "/" + strings.TrimPrefix(path, "/")
	}
	return checked(l, uri)
}

// JobOutput is where a named output of a job lies unless the job says
// otherwise; the output "default" is the folder of its artefacts, and
// "artifacts" with it.
func JobOutput(site ml.Site, job, output string) (blob.Container, string) {
	if strings.EqualFold(output, "default") || strings.EqualFold(output, "artifacts") {
		return site.Artifacts(), ml.RunFolder(job)
	}
	return site.Blobs(), "azureml/" + job + "/" + output + "/"
}
