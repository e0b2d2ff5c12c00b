package spec

import (
	"net/url"
	"strings"
)

// AnonymousEnvironment is the name of all environments written inside a job;
// their version is a hash of what they hold.
const AnonymousEnvironment = "CliV2AnonymousEnvironment"

func (b *builder) environment() (Result, error) {
	v, auto, err := b.version("environments")
	if err != nil {
		return Result{}, err
	}
	p, err := b.environmentProperties(b.root, "", Asset{"environments", b.root.str("name"), v})
	if err != nil {
		return Result{}, err
	}
	return b.sendRequest(Request{Method: "PUT", Path: b.Target.Path("environments", b.root.str("name"), "versions", v), APIVersion: "2023-04-01-preview", Body: map[string]any{"properties": p}, Automatic: auto})
}

func (b *builder) environmentProperties(n *Node, path string, asset Asset) (map[string]any, error) {
	image, build, conda := n.get("image"), n.get("build"), n.get("conda_file")
	switch {
	case image == nil && build == nil:
		return nil, n.fault(join(path, "image"), "an environment needs an image or a build context. Add `image:`, with a conda_file if you like, or `build: {path: FOLDER}`.")
	case image != nil && build != nil:
		return nil, build.fault(join(path, "build"), "an environment has an image or a build context, not both. Remove one.")
	}
	p := map[string]any{"isAnonymous": path != "", "isArchived": false}
	put(p, "image", n.str("image"))
	put(p, "description", n.str("description"))
	if t := n.get("tags"); t != nil {
		p["tags"] = tagsOf(t)
	}
	if t := n.get("properties"); t != nil {
		p["properties"] = tagsOf(t)
	}
	put(p, "osType", pascal(n.str("os_type")))
	if conda != nil {
		text, err := b.conda(conda, join(path, "conda_file"))
		if err != nil {
			return nil, err
		}
		p["condaFile"] = text
	}
	if build != nil {
		context := map[string]any{}
		put(context, "dockerfilePath", build.str("dockerfile_path"))
		at := build.get("path")
		if remote(at.text) {
			context["contextUri"] = at.text
		} else {
			c, err := b.local(at, join(path, "build.path"))
			if err != nil {
				return nil, err
			}
			if !c.Folder {
				return nil, at.fault(join(path, "build.path"), "%q is a file. A build context is a folder with a Dockerfile.", at.text)
			}
			place, err := b.world.Upload(b.ctx, c, n.str("datastore"), asset)
			if err != nil {
				return nil, err
			}
			context["contextUri"] = strings.TrimSuffix(place.URL, "/") + "/"
		}
		p["build"] = context
	}
	if inference := n.get("inference_config"); inference != nil {
		routes := map[string]any{}
		for _, key := range []string{"liveness_route", "readiness_route", "scoring_route"} {
			r := inference.get(key)
			routes[camel(key)] = map[string]any{"port": r.get("port").plain(), "path": r.str("path")}
		}
		p["inferenceConfig"] = routes
	}
	return p, nil
}

// conda gives the conda specification as YAML, from a file or in place.
func (b *builder) conda(n *Node, path string) (string, error) {
	switch n.kind {
	case mapping:
		return emit(n), nil
	case text:
		if u, err := url.Parse(n.text); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return "", n.fault(path, "a conda file is a local file; %q is an address. Download it first.", n.text)
		}
		d, err := b.readLocal(n, path)
		if err != nil {
			return "", err
		}
		if d.Root.kind != mapping {
			return "", d.Root.fault("", "a conda file is a mapping with channels and dependencies, and this is %s.", d.Root.kind)
		}
		return emit(d.Root), nil
	}
	return "", n.fault(path, "this is %s where the path of a conda file, or its content, is wanted.", n.kind)
}

// environmentID gives what a job or a component names as its environment. One
// written in place is put first, as an anonymous version.
func (b *builder) environmentID(n *Node, path string) (string, error) {
	if n.kind == text && strings.HasPrefix(n.text, "file:") {
		d, err := b.readLocal(n, path)
		if err != nil {
			return "", err
		}
		var c checker
		anonymousEnvironment.check(&c, d.Root, "")
		if err := c.err(); err != nil {
			return "", err
		}
		n = d.Root
	}
	if n.kind == mapping {
		p, err := b.environmentProperties(n, path, Asset{"environments", AnonymousEnvironment, "1"})
		if err != nil {
			return "", err
		}
		delete(p, "tags")
		r := Request{Method: "PUT", APIVersion: "2023-04-01-preview", Body: map[string]any{"properties": p}}
		if t := n.get("tags"); t != nil {
			p["tags"] = tagsOf(t)
		}
		version := contentHash(p)
		r.Path = b.Target.Path("environments", AnonymousEnvironment, "versions", version)
		if _, err := b.sendRequest(r); err != nil {
			return "", err
		}
		if b.Target.Registry != "" {
			return Asset{"environments", AnonymousEnvironment, version}.URI(b.Target.Registry), nil
		}
		return r.Path, nil
	}
	if strings.HasPrefix(n.text, "azureml:AzureML-") {
		return n.text, nil // curated: the server knows them by this name
	}
	return b.reference(n, path, "environments")
}

var route = fields{
	{key: "port", shape: whole(0), rule: required},
	{key: "path", shape: str, rule: required},
}

var environmentAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "image", shape: str},
	field{key: "conda_file", shape: present},
	field{key: "build", shape: fields{
		{key: "path", shape: str, rule: required},
		{key: "dockerfile_path", shape: str},
	}.check},
	field{key: "inference_config", shape: fields{
		{key: "liveness_route", shape: route.check, rule: required},
		{key: "readiness_route", shape: route.check, rule: required},
		{key: "scoring_route", shape: route.check, rule: required},
	}.check},
	field{key: "os_type", shape: choice("linux", "windows")},
	field{key: "datastore", shape: str},
	field{key: "properties", shape: mapOf(nullable(scalar))},
	field{key: "intellectual_property", rule: readOnly},
)

var anonymousEnvironment = environmentAsset.and(
	field{key: "name", shape: str},
	field{key: "version", shape: version},
)

// environmentReference takes a reference, a file, or an environment in place.
func environmentReference(c *checker, n *Node, path string) {
	if n.kind != mapping {
		str(c, n, path)
		return
	}
	anonymousEnvironment.check(c, n, path)
}
