package share

import (
	"context"
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/pattern"
	"lapis/resource"
)

var sourceID = pattern.New(`(?i)^azureml://locations/([^/]+)/workspaces/([^/]+)/([a-z]+)/([^/]+)/versions/([^/]+)$`)

// take copies a version out of a workspace, bytes and all. It may be run again
// after a crash.
func (s *Service) take(ctx context.Context, call resource.Call) error {
	var body struct {
		Properties struct {
			Name    string `json:"destinationName"`
			Version string `json:"destinationVersion"`
			Source  string `json:"sourceAssetId"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(call.Body, &body); err != nil {
		return fault.Invalid("the request body is not what is expected here: %v", err).With("InvalidRequestContent")
	}
	want := body.Properties
	m := sourceID.FindStringSubmatch(want.Source)
	if m == nil {
		return fault.Invalid("'sourceAssetId' is %q; it must be azureml://locations/LOCATION/workspaces/ID/TYPE/NAME/versions/VERSION", want.Source).With("ValidationError").At("properties.sourceAssetId")
	}
	from, err := s.workspace(ctx, m[2])
	if err != nil {
		return err
	}
	segment := strings.ToLower(m[3])
	source, err := asset.Find(ctx, s.Resources, from, segment, m[4], m[5])
	if err != nil {
		return err
	}
	if want.Name == "" {
		want.Name = source.ID.Parent().Name()
	}
	if want.Version == "" {
		want.Version = source.ID.Name()
	}
	target := call.ID.Child(segment, want.Name).Child("versions", want.Version)
	if target.Zero() {
		return fault.Invalid("'%s:%s' is no name and version of an asset", want.Name, want.Version).With("ValidationError").At("properties.destinationName")
	}
	p, err := resource.ParseDocument(source.Properties)
	if err != nil {
		return err
	}
	if member, ok := located[segment]; ok {
		if err := s.move(ctx, call, source, target, p, member); err != nil {
			return err
		}
	}
	for _, name := range []string{"provisioningState", "jobName", "stage"} {
		delete(p, name)
	}
	return s.Register(ctx, target, p)
}

// move copies the bytes of a version and writes where they lie now.
func (s *Service) move(ctx context.Context, call resource.Call, source resource.Resource, target resource.ID, p resource.Document, member string) error {
	site, err := ml.SiteOf(ctx, s.Resources, call.ID)
	if err != nil {
		return err
	}
	at, name := addressed(p, member)
	uri := at.Text(name)
	if uri == "" {
		return nil // an environment without a build context
	}
	l, err := data.Locate(ctx, s.Resources, source.ID, uri)
	if err != nil || l.URL != "" {
		return err // bytes that lie elsewhere stay there
	}
	to := container(site, segmentOf(target), target.Parent().Name(), target.Name())
	if err := s.Blobs.CreateContainer(ctx, to); err != nil {
		return err
	}
	key, err := s.copyTree(ctx, l, to)
	if err != nil {
		return err
	}
	at.Set(name, "https://"+to.Account+".blob.core.lapis@localhost/"+to.Name+"/"+key)
	if member == "build" {
		p["build"] = at.Raw()
	}
	return nil
}

// segmentOf is the kind of a version in the words of its id.
func segmentOf(version resource.ID) string {
	kind := version.Parent().Type()
	return strings.ToLower(kind[strings.LastIndexByte(kind, '/')+1:])
}

// copyTree copies a blob, or all below a folder, and returns the key it is found
// under now.
func (s *Service) copyTree(ctx context.Context, from data.Location, to blob.Container) (string, error) {
	path := strings.TrimSuffix(from.Path, "/")
	base := path[strings.LastIndexByte(path, '/')+1:]
	if path != "" && !strings.HasSuffix(from.Path, "/") {
		if _, err := s.Blobs.Stat(ctx, from.Container, path); err == nil {
			return base, s.copyBlob(ctx, from.Container, path, to, base)
		} else if !fault.Is(err, fault.Missing) {
			return "", err
		}
	}
	prefix := path
	if prefix != "" {
		prefix += "/"
	}
	if base == "" {
		base = "content"
	}
	q := blob.Query{Prefix: prefix}
	for {
		page, err := s.Blobs.List(ctx, from.Container, q)
		if err != nil {
			return "", err
		}
		for _, b := range page.Blobs {
			if err := s.copyBlob(ctx, from.Container, b.Key, to, base+"/"+strings.TrimPrefix(b.Key, prefix)); err != nil {
				return "", err
			}
		}
		if q.After = page.Next; q.After == "" {
			return base, nil
		}
	}
}

func (s *Service) copyBlob(ctx context.Context, from blob.Container, key string, to blob.Container, as string) error {
	r, info, err := s.Blobs.Open(ctx, from, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = s.Blobs.Put(ctx, to, as, r, info.Size, info.Attributes, blob.Condition{})
	return err
}

// workspace finds a workspace by its GUID.
func (s *Service) workspace(ctx context.Context, guid string) (resource.ID, error) {
	q := resource.Query{Type: ml.Workspaces, Limit: 1000}
	for {
		page, err := s.Resources.List(ctx, q)
		if err != nil {
			return resource.ID{}, err
		}
		for _, r := range page.Resources {
			if site, err := ml.SiteFrom(r); err == nil && strings.EqualFold(site.GUID, guid) {
				return r.ID, nil
			}
		}
		if q.After = page.Next; q.After == "" {
			return resource.ID{}, fault.NotFound("There is no workspace with the id '%s'.", guid).At("properties.sourceAssetId")
		}
	}
}
