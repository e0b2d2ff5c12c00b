// Package model has models: versioned folders or files of what was trained.
package model

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"

	"lapis/fault"
	"lapis/ml"
	"lapis/ml/asset"
	"lapis/ml/blob"
	"lapis/ml/data"
	"lapis/pattern"
	"lapis/resource"
)

// modelTypes are the types of models, by lower-case name.
var modelTypes = map[string]string{"custom_model": "custom_model", "mlflow_model": "mlflow_model", "triton_model": "triton_model",
	"custommodel": "custom_model", "mlflowmodel": "mlflow_model", "tritonmodel": "triton_model"}

// MLflow takes any name without "/" and ":".
var modelName = pattern.New(`^[^/:\\?#%\x00-\x1f]{1,255}$`)

// jobOutput is the address of what a job made.
var jobOutput = pattern.New(`^azureml://jobs/([^/]+)/outputs/`)

// Registered is the member of a model that MLflow's registry alone writes: what
// only MLflow knows.
const Registered = "mlflow"

// Models is the kind of models.
func Models(store resource.Store, blobs blob.Store) asset.Kind {
	return asset.Kind{
		Segment: "models", Title: "model", Fixed: []string{"modelUri", "modelType"}, Own: []string{Registered},
		Names: func(name string) error {
			if !modelName.MatchString(name) || strings.TrimSpace(name) == "" {
				return fault.Invalid("%q is no name for a model: 1 to 255 characters without '/', ':', '\\', '?', '#' and '%%'", name).With("ValidationError").At("name")
			}
			return nil
		},
		Admit: func(ctx context.Context, c *resource.Change, p resource.Document) error {
			return admit(ctx, store, blobs, c, p)
		},
	}
}

func admit(ctx context.Context, store resource.Store, blobs blob.Store, c *resource.Change, p resource.Document) error {
	kind, ok := modelTypes[strings.ToLower(p.Text("modelType"))]
	if !ok && p.Text("modelType") != "" {
		return fault.Invalid("'properties.modelType' is %q; it must be custom_model, mlflow_model or triton_model", p.Text("modelType")).With("ValidationError").At("properties.modelType")
	}
	if !ok {
		kind = "custom_model"
	}
	p.Set("modelType", kind)
	uri := p.Text("modelUri")
	if uri == "" {
		return fault.Invalid("'properties.modelUri' is required: where the model lies").With("ValidationError").At("properties.modelUri")
	}
	if m := jobOutput.FindStringSubmatch(uri); m != nil {
		p.Default("jobName", m[1])
	}
	site, err := ml.SiteOf(ctx, store, c.New.ID)
	if err != nil {
		return err
	}
	// MLflow's registry checks the source by its own rules and takes what is
	// not here, too: prompts, which are text, and addresses elsewhere.
	_, registered := p[Registered]
	at, err := data.Locate(ctx, store, c.New.ID, uri)
	if registered && fault.Find(err) != nil {
		p.Default("flavors", map[string]any{})
		p.Default("stage", "None")
		return nil
	}
	if err != nil {
		return err
	}
	// Clients split the address they get back at "paths": it must be one of a
	// datastore, whatever they sent.
	if long := inDatastore(site, at); long != "" {
		p.Set("modelUri", long)
	}
	if c.Old == nil && !registered {
		if err := there(ctx, blobs, at, uri); err != nil {
			return err
		}
	}
	p.Default("flavors", map[string]any{})
	if kind == "mlflow_model" && len(p.Object("flavors")) == 0 && at.URL == "" {
		flavors, err := readFlavors(ctx, blobs, at)
		if err != nil {
			return err
		}
		if flavors != nil {
			p.Set("flavors", flavors)
		}
	}
	p.Default("stage", "None")
	return nil
}

// inDatastore is the long form of the location, or "" if no datastore has it.
func inDatastore(site ml.Site, at data.Location) string {
	switch {
	case at.URL != "":
		return ""
	case at.Datastore != "":
		return site.DatastoreURI(at.Datastore, at.Path)
	}
	return ""
}

// there refuses a model whose bytes are not where it says.
func there(ctx context.Context, blobs blob.Store, at data.Location, uri string) error {
	if at.URL != "" {
		return nil
	}
	if at.Path != "" && !strings.HasSuffix(at.Path, "/") {
		if _, err := blobs.Stat(ctx, at.Container, at.Path); err == nil {
			return nil
		} else if !fault.Is(err, fault.Missing) {
			return err
		}
	}
	page, err := blobs.List(ctx, at.Container, blob.Query{Prefix: blob.Folder(at.Path), Limit: 1})
	if err != nil && !fault.Is(err, fault.Missing) {
		return err
	}
	if len(page.Blobs) == 0 {
		return fault.Invalid("Nothing lies at %q: upload the model first, or name an output that the job has written.", uri).With("UserError").At("properties.modelUri")
	}
	return nil
}

// maxMLmodel bounds the file that describes an MLflow model, in bytes.
const maxMLmodel = 4 << 20

// readFlavors reads the flavors from the model's MLmodel file; nil if there is none.
func readFlavors(ctx context.Context, blobs blob.Store, at data.Location) (map[string]any, error) {
	r, _, err := blobs.Open(ctx, at.Container, blob.Folder(at.Path)+"MLmodel", 0, -1)
	if fault.Is(err, fault.Missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxMLmodel))
	if err != nil {
		return nil, err
	}
	return ParseFlavors(text)
}

// ParseFlavors reads the flavors of an MLmodel file in the shape that Azure ML
// shows: each flavor's settings under "data", as strings.
func ParseFlavors(text []byte) (map[string]any, error) {
	var file struct {
		Flavors map[string]map[string]any `yaml:"flavors"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, fault.Invalid("the model's MLmodel file is not valid YAML: %v", yaml.FormatError(err, false, false)).With("UserError").At("MLmodel")
	}
	flavors := map[string]any{}
	for name, settings := range file.Flavors {
		shown := map[string]string{}
		for k, v := range settings {
			shown[k] = plain(v)
		}
		flavors[name] = map[string]any{"data": shown}
	}
	return flavors, nil
}

// plain writes a setting as a string.
func plain(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case map[string]any, []any:
		if raw, err := json.Marshal(v); err == nil {
			return string(raw)
		}
	}
	return fmt.Sprint(v)
}
