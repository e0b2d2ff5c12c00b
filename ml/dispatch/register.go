package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lapis/fault"
	"lapis/ml/asset"
	"lapis/ml/data"
	"lapis/ml/job"
	"lapis/ml/tracking"
	"lapis/resource"
)

// register makes a data asset of each output that is there, under the name that
// clients expect, and a version of the name that the job gives it.
func (d *Dispatcher) register(ctx context.Context, w demand, sizes map[string]int64) (map[string]tracking.Asset, error) {
	outputs := map[string]tracking.Asset{}
	for _, name := range sorted(w.job.Outputs) {
		out := w.job.Outputs[name]
		if _, there := sizes[name]; !there && !out.Direct() {
			continue
		}
		at, err := data.Locate(ctx, d.Resources, w.site.ID, out.URI)
		if err != nil {
			return outputs, err
		}
		uri := out.URI
		if at.Datastore != "" {
			uri = w.site.DatastoreURI(at.Datastore, at.Path)
		}
		kind := strings.ToLower(out.Kind)
		// A model is a folder as well: the SDK asks for outputs that are data
		// assets alone, its call for models is broken in 1.35.2.
		dataType := kind
		if strings.HasSuffix(kind, "_model") {
			dataType = "uri_folder"
		}
		given := "azureml_" + w.run.ID + "_output_data_" + name
		id := w.site.ID.Child("data", given).Child("versions", "1")
		if err := d.Register(ctx, id, map[string]any{"dataType": dataType, "dataUri": uri, "isAnonymous": true}); err != nil {
			return outputs, err
		}
		a := tracking.Asset{Type: kind, URI: uri, AssetID: d.assetID(w, id)}
		if out.AssetName != "" {
			id, err := d.registerAs(ctx, w, name, out, uri)
			if err != nil {
				return outputs, fmt.Errorf("register output %s: %w", name, err)
			}
			if dataType == kind {
				a.AssetID = d.assetID(w, id)
			}
		}
		outputs[name] = a
	}
	return outputs, nil
}

// assetID is a version's id as clients of the run history know it.
func (d *Dispatcher) assetID(w demand, id resource.ID) string {
	kind := "data"
	if strings.Contains(id.Key(), "/models/") {
		kind = "models"
	}
	return "azureml://locations/" + w.site.Location + "/workspaces/" + w.site.GUID + "/" + kind + "/" + id.Parent().Name() + "/versions/" + id.Name()
}

// registerAttempts bounds how often a version that another job takes first is
// tried anew.
const registerAttempts = 20

// registerAs makes the version of the name that the job gives its output: the
// version it asks for, else the next. Done again after a crash, it finds the
// version it made.
func (d *Dispatcher) registerAs(ctx context.Context, w demand, name string, out job.Output, uri string) (resource.ID, error) {
	mark := map[string]string{"azureml.jobName": w.run.ID, "azureml.outputName": name}
	segment := "data"
	props := map[string]any{"dataType": strings.ToLower(out.Kind), "dataUri": uri, "properties": mark}
	if strings.HasSuffix(strings.ToLower(out.Kind), "_model") {
		segment = "models"
		props = map[string]any{"modelType": strings.ToLower(out.Kind), "modelUri": uri, "jobName": w.run.ID, "properties": mark}
	}
	if out.Description != "" {
		props["description"] = out.Description
	}
	container := w.site.ID.Child(segment, out.AssetName)
	for try := 1; ; try++ {
		version, made, err := d.versionFor(ctx, container, out.AssetVersion, mark)
		if err != nil || made {
			return container.Child("versions", version), err
		}
		id := container.Child("versions", version)
		err = d.Register(ctx, id, props)
		if err == nil || out.AssetVersion != "" || try == registerAttempts || fault.Find(err) == nil || fault.Find(err).Code != "UserError" {
			return id, err
		}
	}
}

// versionFor is the version that an output gets, and whether it has it already.
func (d *Dispatcher) versionFor(ctx context.Context, container resource.ID, asked string, mark map[string]string) (version string, made bool, err error) {
	newest, err := asset.Newest(ctx, d.Resources, container)
	switch {
	case fault.Is(err, fault.Missing):
		return orOne(asked), false, nil
	case err != nil:
		return "", false, err
	}
	var p struct {
		Properties map[string]string `json:"properties"`
	}
	if json.Unmarshal(newest.Properties, &p) == nil && p.Properties["azureml.jobName"] == mark["azureml.jobName"] && p.Properties["azureml.outputName"] == mark["azureml.outputName"] {
		return newest.ID.Name(), true, nil
	}
	if asked != "" {
		return asked, false, nil
	}
	version, err = asset.Next(ctx, d.Resources, container)
	return version, false, err
}

func orOne(version string) string {
	if version == "" {
		return "1"
	}
	return version
}
