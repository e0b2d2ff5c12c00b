package spec

import "strings"

func (b *builder) model() (Result, error) {
	v, auto, err := b.version("models")
	if err != nil {
		return Result{}, err
	}
	at := b.root.get("path")
	uri := at.text
	switch {
	case strings.HasPrefix(uri, "azureml:") && !strings.HasPrefix(uri, "azureml://"):
		return Result{}, at.fault("path", "%q is an asset. The path of a model is a local path, azureml://jobs/JOB/outputs/OUTPUT, azureml://datastores/NAME/paths/… or runs:/RUN/PATH.", uri)
	case !remote(uri):
		c, err := b.local(at, "path")
		if err != nil {
			return Result{}, err
		}
		place, err := b.world.Upload(b.ctx, c, b.root.str("datastore"), Asset{"models", b.root.str("name"), v})
		if err != nil {
			return Result{}, err
		}
		uri = b.uploaded(place)
	}
	p := b.modelProperties(b.root, uri)
	return b.sendRequest(Request{Method: "PUT", Path: b.Target.Path("models", b.root.str("name"), "versions", v), APIVersion: "2023-08-01-preview", Body: map[string]any{"properties": p}, Automatic: auto})
}

// uploaded is the address of a model that was uploaded.
func (b *builder) uploaded(place Place) string {
	if b.Target.Registry != "" {
		return place.URL
	}
	return "azureml://subscriptions/" + b.Target.Subscription + "/resourcegroups/" + b.Target.ResourceGroup +
		"/workspaces/" + b.Target.Workspace + "/datastores/" + place.Datastore + "/paths/" + place.Path
}

// modelProperties are those of the model that n describes and that lies at uri.
func (b *builder) modelProperties(n *Node, uri string) map[string]any {
	modelType := n.str("type")
	if modelType == "" {
		modelType = "custom_model"
	}
	p := map[string]any{
		"modelType": modelType, "modelUri": uri,
		"isAnonymous": false, "isArchived": false,
		"tags": tagsOf(n.get("tags")), "properties": tagsOf(n.get("properties")),
	}
	put(p, "description", n.str("description"))
	put(p, "stage", n.str("stage"))
	if f := n.get("flavors"); f != nil {
		flavors := map[string]any{}
		for i, k := range f.keys {
			flavors[k.text] = map[string]any{"data": f.values[i].plain()}
		}
		p["flavors"] = flavors
	}
	return p
}

var modelTypes = []string{"custom_model", "mlflow_model", "triton_model"}

var modelAsset = asset.and(
	field{key: "name", shape: name, rule: required},
	field{key: "path", shape: str, rule: required},
	field{key: "type", shape: choice(modelTypes...)},
	field{key: "datastore", shape: str},
	field{key: "properties", shape: mapOf(nullable(scalar))},
	field{key: "flavors", shape: mapOf(anything)},
	field{key: "stage", shape: str},
	field{key: "system_metadata", shape: mapOf(anything)},
	field{key: "job_name", rule: readOnly},
	field{key: "intellectual_property", rule: readOnly},
	field{key: "default_deployment_template", shape: anything},
	field{key: "allowed_deployment_templates", shape: anything},
)
