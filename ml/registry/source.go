package registry

import (
	"context"
	"net/url"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/tracking"
	"lapis/pattern"
)

var (
	loggedModel = pattern.New(`^models:/(m-[0-9a-zA-Z]+)(/.*)?$`)
	modelNumber = pattern.New(`^models:/([^/@]+)/(\d+)$`)
	modelAlias  = pattern.New(`^models:/([^/@]+)@([^/]+)$`)
	runPath     = pattern.New(`^runs:/+([^/]+)(?:/(.*))?$`)
)

// promptTag marks models and versions that are prompts: text, without bytes.
const promptTag = "mlflow.prompt.is_prompt"

func badSource(source, why string) error {
	return invalid("Invalid model version source: '%s'. %s", source, why)
}

// checkSource refuses a source that the version may not have, and fills in
// what it tells: a copy has the run and model of the version it copies.
func (g *Registry) checkSource(ctx context.Context, site ml.Site, n *NewVersion) error {
	for _, t := range n.Tags {
		if t.Key == promptTag {
			return nil
		}
	}
	src := n.Source
	if m := loggedModel.FindStringSubmatch(src); m != nil {
		if n.Model == "" {
			n.Model = m[1]
		}
		if n.Model != m[1] {
			return badSource(src, "The model_id request parameter must identify the resource that contains the source.")
		}
		logged, err := g.runs.Model(ctx, site.GUID, m[1], false)
		if err == nil && n.Run == "" {
			n.Run = logged.SourceRun
		}
		return err
	}
	var of Version
	var err error
	if m := modelNumber.FindStringSubmatch(src); m != nil {
		of, err = g.Version(ctx, site, m[1], m[2])
	} else if m := modelAlias.FindStringSubmatch(src); m != nil {
		of, err = g.Aliased(ctx, site, m[1], m[2])
	}
	if err != nil {
		return err
	}
	if of.Name != "" {
		n.Source = "models:/" + of.Name + "/" + of.Number
		if n.Run == "" {
			n.Run = of.Run
		}
		if n.Model == "" {
			n.Model = of.Model
		}
		return nil
	}
	if m := runPath.FindStringSubmatch(src); m != nil {
		if !strings.EqualFold(n.Run, m[1]) {
			return badSource(src, "The run_id request parameter must identify the resource that contains the source.")
		}
		_, err := g.runs.Run(ctx, site.GUID, m[1])
		return err
	}
	return g.checkAddress(ctx, site, src, n)
}

// checkAddress checks a source that is the address of bytes.
func (g *Registry) checkAddress(ctx context.Context, site ml.Site, src string, n *NewVersion) error {
	if strings.HasPrefix(src, "models:/") {
		return badSource(src, "The model_id request parameter must identify the resource that contains the source.")
	}
	u, err := url.Parse(src)
	if err != nil || u.Scheme == "" || u.Scheme == "file" || len(u.Scheme) == 1 {
		return badSource(src, "To use a local path as a model version source, the run_id request parameter has to be specified and the local path has to be contained within the artifact directory of the run specified by the run_id.")
	}
	plain := src
	for range 4 {
		if strings.Contains(plain, "..") {
			for part := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
				if part == ".." {
					return badSource(src, "If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references present. Please provide an absolute path.")
				}
			}
		}
		next, err := url.PathUnescape(plain)
		if err != nil || next == plain {
			break
		}
		plain = next
	}
	if u.Scheme != "mlflow-artifacts" {
		return tracking.CheckLocation(strings.SplitN(src, "#", 2)[0], "source")
	}
	var roots []string
	if n.Run != "" {
		d, err := g.runs.Run(ctx, site.GUID, n.Run)
		if err != nil {
			return err
		}
		roots = append(roots, d.Artifact)
	}
	if n.Model != "" {
		m, err := g.runs.Model(ctx, site.GUID, n.Model, false)
		if err != nil {
			return err
		}
		roots = append(roots, m.Artifact)
	}
	for _, root := range roots {
		if src == root || strings.HasPrefix(src, strings.TrimSuffix(root, "/")+"/") {
			return nil
		}
	}
	return badSource(src, "The run_id request parameter must identify the resource that contains the source.")
}

// resolveSource is the address of the bytes of a source.
func (g *Registry) resolveSource(ctx context.Context, site ml.Site, src string, depth int) (string, error) {
	if depth > 8 {
		return "", badSource(src, "It leads through too many copies.")
	}
	if m := loggedModel.FindStringSubmatch(src); m != nil {
		model, err := g.runs.Model(ctx, site.GUID, m[1], true)
		if err != nil {
			return "", err
		}
		return model.Artifact + strings.TrimSuffix(m[2], "/"), nil
	}
	if m := modelNumber.FindStringSubmatch(src); m != nil {
		v, err := g.Version(ctx, site, m[1], m[2])
		if err != nil {
			return "", err
		}
		return g.resolveSource(ctx, site, v.Source, depth+1)
	}
	if m := runPath.FindStringSubmatch(src); m != nil {
		d, err := g.runs.Run(ctx, site.GUID, m[1])
		if err != nil {
			return "", err
		}
		return strings.TrimSuffix(strings.TrimSuffix(d.Artifact, "/")+"/"+m[2], "/"), nil
	}
	return src, nil
}

// DownloadURI is where an MLflow client reads the bytes of a version.
func (g *Registry) DownloadURI(ctx context.Context, site ml.Site, name, number string) (string, error) {
	v, err := g.Version(ctx, site, name, number)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(v.Source, "runs:/") {
		return v.Source, nil // clients look up the run's address
	}
	if v.path != "" {
		return proxyURI(v.path), nil
	}
	uri, err := g.resolveSource(ctx, site, v.Source, 0)
	if fault.Is(err, fault.Missing) {
		return v.Source, nil // what it came from is gone
	}
	return uri, err
}

var datastorePath = pattern.New(`(?i)^azureml://.*?datastores/([^/]+)/paths/(.*)$`)

// proxyURI is an asset's address as MLflow's clients can read it: through this
// server's artefact proxy.
func proxyURI(uri string) string {
	if m := datastorePath.FindStringSubmatch(uri); m != nil {
		return "mlflow-artifacts:/" + strings.TrimSuffix(tracking.ProxyPath(m[1], m[2]), "/")
	}
	return uri
}

// assetURI is an address in the artefact proxy as a path in a datastore, as
// model assets have it.
func assetURI(uri string) (string, bool) {
	rest, ok := strings.CutPrefix(uri, "mlflow-artifacts:/")
	if !ok {
		return "", false
	}
	store, key := tracking.StorePath(strings.Trim(rest, "/"))
	return "azureml://datastores/" + store + "/paths/" + key, true
}
