package registry

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
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
	modelStage  = pattern.New(`^models:/([^/@]+)/([^/]+)$`)
	runPath     = pattern.New(`^runs:/+([^/]+)(?:/(.*))?$`)
)

// promptTag marks models and versions that are prompts: text, without bytes.
const promptTag = "mlflow.prompt.is_prompt"

func badSource(source, why string) error {
	return invalid("Invalid model version source: '%s'. %s", source, why)
}

// promptSources are what clients give as the source of a prompt, which has none.
var promptSources = []string{"prompt-template", "dummy-source"}

// What a source must belong to.
const (
	ofRun   = "The run_id request parameter must identify the resource that contains the source."
	ofModel = "The model_id request parameter must identify the resource that contains the source."
)

// checkSource refuses a source that the version may not have, and fills in
// what it tells: a copy has the run and model of the version it copies.
func (g *Registry) checkSource(ctx context.Context, site ml.Site, n *NewVersion) error {
	src := n.Source
	if isPrompt(asMap(n.Tags)) {
		if !slices.Contains(promptSources, src) {
			return invalid("Invalid prompt source: '%s'. Prompt sources must use an MLflow placeholder.", src)
		}
		return nil
	}
	if err := g.copied(ctx, site, n); err != nil {
		return err
	}
	if err := g.contained(ctx, site, n); err != nil {
		return err
	}
	switch scheme, _, _ := strings.Cut(src, ":"); scheme {
	case "runs", "models":
	default:
		if err := tracking.CheckLocation(strings.SplitN(src, "#", 2)[0], "source"); err != nil {
			return err
		}
	}
	if n.Model == "" {
		return nil
	}
	logged, err := g.runs.Model(ctx, site.GUID, n.Model, false)
	if err == nil && n.Run == "" {
		n.Run = logged.SourceRun
	}
	return err
}

// copied makes the version a copy if its source names another version.
func (g *Registry) copied(ctx context.Context, site ml.Site, n *NewVersion) error {
	if !strings.HasPrefix(n.Source, "models:") || loggedModel.MatchString(n.Source) {
		return nil
	}
	var name, number string
	m := modelNumber.FindStringSubmatch(n.Source)
	if a := modelAlias.FindStringSubmatch(n.Source); m == nil && a != nil {
		of, err := g.Aliased(ctx, site, a[1], a[2])
		if err != nil {
			return err
		}
		name, number = of.Name, of.Number
	} else if st := modelStage.FindStringSubmatch(n.Source); m == nil && st != nil {
		in := []string{st[2]}
		if strings.EqualFold(st[2], "latest") {
			in = nil
		}
		list, err := g.LatestVersions(ctx, site, st[1], in)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return fault.NotFound("No versions of model with name '%s' and stage '%s' found", st[1], st[2]).With("RESOURCE_DOES_NOT_EXIST")
		}
		newest := slices.MaxFunc(list, func(a, b Version) int { return cmp.Compare(numberOf(a), numberOf(b)) })
		name, number = st[1], newest.Number
	} else if m != nil {
		name, number = m[1], m[2]
	} else {
		return badSource(n.Source, ofModel)
	}
	model, err := g.Model(ctx, site, name)
	if err != nil {
		return err
	}
	if isPrompt(model.Tags) {
		return badSource(n.Source, "Prompt versions cannot be used as model version sources.")
	}
	of, err := g.Version(ctx, site, name, number)
	if err != nil {
		return err
	}
	if n.RunGiven && n.Run != of.Run || n.ModelGiven && n.Model != of.Model {
		return badSource(n.Source, "The run_id and model_id request parameters must match the referenced model version.")
	}
	n.Source, n.Run, n.Model = "models:/"+of.Name+"/"+of.Number, of.Run, of.Model
	return nil
}

func numberOf(v Version) int64 { return number(v.Number) }

// contained refuses a source that does not belong to the model, or the run, that
// the version is said to come from.
func (g *Registry) contained(ctx context.Context, site ml.Site, n *NewVersion) error {
	src, must, field := n.Source, ofRun, "run_id"
	if n.Model != "" {
		must, field = ofModel, "model_id"
	}
	u, err := url.Parse(src)
	if err != nil || u.Scheme == "" || u.Scheme == "file" || len(u.Scheme) == 1 {
		return badSource(src, fmt.Sprintf("To use a local path as a model version source, the %s request parameter has to be specified and the local path has to be contained within the artifact directory of the run specified by the %[1]s.", field))
	}
	if err := absolute(src); err != nil {
		return err
	}
	switch u.Scheme {
	case "models":
		if m := loggedModel.FindStringSubmatch(src); m != nil && (m[1] != n.Model || u.Host != "") {
			return badSource(src, ofModel)
		}
	case "runs":
		m := runPath.FindStringSubmatch(src)
		if n.Model != "" || m == nil || u.Host != "" || n.Run == "" || m[1] != n.Run {
			return badSource(src, must)
		}
	case "mlflow-artifacts":
		root := ""
		if n.Model != "" {
			m, err := g.runs.Model(ctx, site.GUID, n.Model, false)
			if err != nil && !fault.Is(err, fault.Missing) {
				return err
			}
			root = m.Artifact
		} else if n.Run != "" {
			d, err := g.runs.Run(ctx, site.GUID, n.Run)
			if err != nil && !fault.Is(err, fault.Missing) {
				return err
			}
			if err == nil {
				root = d.Artifact
			}
		}
		if root == "" || src != root && !strings.HasPrefix(src, strings.TrimSuffix(root, "/")+"/") {
			return badSource(src, must)
		}
	}
	return nil
}

// absolute refuses a path that is none from the root, or leads out of it,
// however often it is escaped.
func absolute(src string) error {
	bad := badSource(src, "If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references present. Please provide an absolute path.")
	plain := src
	for range 16 {
		next, err := url.QueryUnescape(plain)
		if err != nil || next == plain {
			break
		}
		plain = next
	}
	for part := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == ".." || part == "." {
			return bad
		}
	}
	_, path, _ := strings.Cut(plain, ":")
	if rest, ok := strings.CutPrefix(path, "//"); ok {
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	path, _, _ = strings.Cut(path, "?")
	if !strings.HasPrefix(path, "/") || strings.Trim(path, "/") == "" || strings.ContainsRune(path, 0) {
		return bad
	}
	return nil
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
