package endpoint

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/connection"
	"lapis/pattern"
	"lapis/resource"
)

// content checks what is served: model, code and environment.
func (s *Service) content(ctx context.Context, c *resource.Change, p resource.Document) error {
	workspace := ml.Home(c.New.ID)
	if p.Text("model") == "" {
		delete(p, "model")
	} else if _, err := s.pin(ctx, workspace, "models", p, "model", "model"); err != nil {
		return err
	}
	code, err := object(p, "codeConfiguration", "codeId", "scoringScript")
	if err != nil {
		return err
	}
	for _, field := range []string{"codeId", "scoringScript"} {
		if err := text(code, field, "codeConfiguration."+field); err != nil {
			return err
		}
	}
	if len(code) > 0 {
		if code.Text("codeId") == "" {
			delete(code, "codeId") // the script is in the image or the model
		} else if _, err := s.pin(ctx, workspace, "codes", code, "codeId", "codeConfiguration.codeId"); err != nil {
			return err
		}
		if err := script(code.Text("scoringScript")); err != nil {
			return err
		}
		p["codeConfiguration"] = code.Raw()
	} else {
		delete(p, "codeConfiguration")
	}
	own := false // the environment brings its own server
	if p.Text("environmentId") == "" {
		delete(p, "environmentId")
	} else {
		r, err := s.pin(ctx, workspace, "environments", p, "environmentId", "environmentId")
		if err != nil {
			return err
		}
		e, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		own = len(e.Object("inferenceConfig")) > 0
	}
	if mount := p.Text("modelMountPath"); mount != "" && (!path.IsAbs(mount) || slices.Contains(strings.Split(mount, "/"), "..") || len(mount) > 1024) {
		return invalid("modelMountPath", "is %q; it must be an absolute path without '..'", fault.Clip(mount))
	}
	if p["model"] == nil && len(code) == 0 && !own {
		return invalid("model", "is missing, and so are a scoring script and an environment with an inference_config: name a model, give 'codeConfiguration', or an environment that brings its own server")
	}
	if len(code) > 0 && p["environmentId"] == nil {
		return invalid("environmentId", "is required: a scoring script runs in an environment; name one")
	}
	return nil
}

// exact is a reference to one version, which means the same for ever.
var exact = pattern.New(`(?i)^(?:/subscriptions/|azureml://registries/).+/versions/[^/]+$`)

// pin finds the version that a member names. A label or a short name is replaced
// by the version that it stands for now: what is deployed does not change by itself.
func (s *Service) pin(ctx context.Context, workspace resource.ID, segment string, d resource.Document, field, at string) (resource.Resource, error) {
	given := d.Text(field)
	r, err := asset.Refer(ctx, s.Resources, workspace, segment, given, at)
	if err != nil || exact.MatchString(given) && !strings.Contains(given, "/azureml:") {
		return r, err
	}
	if home := ml.Home(r.ID); home.Is(ml.Registries) {
		d.Set(field, "azureml://registries/"+home.Name()+"/"+segment+"/"+r.ID.Parent().Name()+"/versions/"+r.ID.Name())
	} else {
		d.Set(field, r.ID.String())
	}
	return r, nil
}

// script refuses a scoring script that lies outside the code.
func script(name string) error {
	const field = "codeConfiguration.scoringScript"
	switch {
	case name == "":
		return invalid(field, "is required: the script with init() and run(), as a path in the code")
	case len(name) > 1024 || strings.ContainsAny(name, "\x00\n\r\\"):
		return invalid(field, "is %q, which is no path of a script", fault.Clip(name))
	case path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), ".."):
		return invalid(field, "is %q; it must be a path inside the code", fault.Clip(name))
	}
	return nil
}

var (
	variableName = pattern.New(`^[^=\x00-\x1f]{1,1000}$`)
	reference    = pattern.New(`\$\{\{\s*([^}]*?)\s*\}\}`)
	inConnection = pattern.New(`(?i)^azureml://connections/([^/]+)/(?:credentials/[^/]+|target|metadata/[^/]+|type)$`)
)

// variables checks the environment variables, and that the connections exist
// whose secrets they ask for.
func (s *Service) variables(ctx context.Context, c *resource.Change, p resource.Document) error {
	const field = "environmentVariables"
	variables, err := texts(p, field, field)
	if err != nil {
		return err
	}
	if len(variables) > maxVariables {
		return invalid(field, "are %d; at most %d are allowed", len(variables), maxVariables)
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if !variableName.MatchString(name) || strings.ContainsRune(variables[name], 0) {
			return invalid(field, "has %q, which is no name of a variable, or a value that cannot be one", fault.Clip(name))
		}
		for _, m := range reference.FindAllStringSubmatch(variables[name], -1) {
			found := inConnection.FindStringSubmatch(m[1])
			if found == nil {
				return invalid(field+"."+name, "refers to ${{%s}}; what is offered is ${{azureml://connections/NAME/credentials/KEY}}, …/target and …/metadata/NAME", fault.Clip(m[1]))
			}
			id := ml.Home(c.New.ID).Child("connections", found[1])
			if id.Zero() {
				return invalid(field+"."+name, "refers to the connection %q, which is no name of one", fault.Clip(found[1]))
			}
			if _, err := s.Resources.Get(ctx, id); fault.Is(err, fault.Missing) {
				return invalid(field+"."+name, "refers to the connection '%s', which workspace '%s' does not have (%s)", found[1], ml.Home(c.New.ID).Name(), connection.Type)
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}
