package spec

import "strings"

func (b *builder) model() (Result, error) {
	modelType := b.root.str("type")
	if modelType == "" {
		modelType = "custom_model"
	}
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
		uri = "azureml://subscriptions/" + b.Target.Subscription + "/resourcegroups/" + b.Target.ResourceGroup +
			"/workspaces/" + b.Target.Workspace + "/datastores/" + place.Datastore + "/paths/" + place.Path
		if b.Target.Registry != "" {
			uri = place.URL
		}
	}
	p := map[string]any{
		"modelType": modelType, "modelUri": uri,
		"isAnonymous": false, "isArchived": false,
		"tags": tagsOf(b.root.get("tags")), "properties": tagsOf(b.root.get("properties")),
	}
	put(p, "description", b.root.str("description"))
	put(p, "stage", b.root.str("stage"))
	if f := b.root.get("flavors"); f != nil {
		flavors := map[string]any{}
		for i, k := range f.keys {
			flavors[k.text] = map[string]any{"data": f.values[i].plain()}
		}
		p["flavors"] = flavors
	}
	return b.sendRequest(Request{Method: "PUT", Path: b.Target.Path("models", b.root.str("name"), "versions", v), APIVersion: "2023-08-01-preview", Body: map[string]any{"properties": p}, Automatic: auto})
}
