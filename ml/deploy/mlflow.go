package deploy

import (
	"context"
	"encoding/json"
	"io"
	"path"
	"strings"

	"github.com/goccy/go-yaml"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/environment"
)

// file reads a small file of a model's folder; nil if it is not there.
func (d *Deployer) file(ctx context.Context, m Model, name string) ([]byte, error) {
	r, _, err := d.Blobs.Open(ctx, m.Tree.Container, m.Tree.Prefix+name, 0, maxRead)
	if fault.Is(err, fault.Missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxRead))
}

// mlmodel is the part of an MLmodel file that serving goes by.
type mlmodel struct {
	Flavors   map[string]map[string]any `yaml:"flavors"`
	Signature struct {
		Inputs string `yaml:"inputs"`
		Params string `yaml:"params"`
	} `yaml:"signature"`
	Example struct {
		Path    string `yaml:"artifact_path"`
		Serving string `yaml:"serving_input_path"`
	} `yaml:"saved_input_example_info"`
}

// mlmodel reads the MLmodel file of a model, once.
func (d *Deployer) mlmodel(ctx context.Context, m *Model) (*mlmodel, error) {
	if m.mlmodel != nil {
		return m.mlmodel, nil
	}
	text, err := d.file(ctx, *m, "MLmodel")
	if err != nil {
		return nil, err
	}
	if text == nil {
		return nil, fault.Invalid("The model '%s:%s' is no MLflow model: there is no file MLmodel in its folder. Register it as custom_model, or name the folder that holds MLmodel.", m.Name, m.Version).With("BadArgument").At("properties.model")
	}
	file := &mlmodel{}
	if err := yaml.Unmarshal(text, file); err != nil {
		return nil, fault.Invalid("The model '%s:%s' has an MLmodel file that is not valid YAML: %v", m.Name, m.Version, yaml.FormatError(err, false, false)).With("BadArgument").At("properties.model")
	}
	m.mlmodel = file
	return file, nil
}

// loaders are the modules of MLflow that native scoring stands in for.
var loaders = map[string]string{"onnx": "mlflow.onnx", "lightgbm": "mlflow.lightgbm", "xgboost": "mlflow.xgboost"}

// plain tells whether all that the model takes is known to native scoring: what
// is not is scored by MLflow itself, in Python.
func (m mlmodel) plain(flavor string) bool {
	python := m.Flavors["python_function"]
	if loader, _ := python["loader_module"].(string); loader != "" && loader != loaders[flavor] {
		return false
	}
	if predict, _ := python["predict_fn"].(string); predict != "" && predict != "predict" {
		return false
	}
	if m.Signature.Params != "" && m.Signature.Params != "null" && m.Signature.Params != "[]" && flavor == "xgboost" {
		return false // they change what predict does
	}
	var inputs []struct {
		Type   json.RawMessage `json:"type"`
		Tensor *struct {
			Type string `json:"dtype"`
		} `json:"tensor-spec"`
	}
	if m.Signature.Inputs == "" || m.Signature.Inputs == "null" {
		return true
	}
	if json.Unmarshal([]byte(m.Signature.Inputs), &inputs) != nil {
		return false
	}
	for _, in := range inputs {
		var kind string
		_ = json.Unmarshal(in.Type, &kind) // what is no word is a nested type
		switch kind {
		case "double", "float", "long", "integer", "boolean", "string":
		case "tensor":
			if in.Tensor == nil || strings.HasPrefix(in.Tensor.Type, "datetime") || strings.HasPrefix(in.Tensor.Type, "complex") || in.Tensor.Type == "object" && flavor != "onnx" {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// mlflowFlavor is the native flavor of an MLflow model; "" if it has none.
func (d *Deployer) mlflowFlavor(ctx context.Context, m *Model) (string, error) {
	file, err := d.mlmodel(ctx, m)
	if err != nil {
		return "", err
	}
	for _, flavor := range []string{"onnx", "lightgbm", "xgboost"} {
		settings, ok := file.Flavors[flavor]
		if !ok {
			continue
		}
		if !file.plain(flavor) {
			return "", nil
		}
		name, _ := settings["data"].(string)
		if name == "" {
			name = "model.onnx"
		}
		f, err := d.fileFlavor(ctx, compute.Tree{Container: m.Tree.Container, Prefix: m.Tree.Prefix + name})
		if fault.Is(err, fault.Missing) {
			return "", nil
		}
		if err != nil || f == flavor {
			return f, err
		}
	}
	return "", nil
}

// modelRecipe is the environment that an MLflow model asks for.
func (d *Deployer) modelRecipe(ctx context.Context, m Model) (environment.Recipe, error) {
	text, err := d.file(ctx, m, "conda.yaml")
	if err != nil {
		return environment.Recipe{}, err
	}
	if text != nil {
		return environment.ParseConda(string(text))
	}
	var python struct {
		Python       string   `yaml:"python"`
		Dependencies []string `yaml:"dependencies"`
	}
	if text, err = d.file(ctx, m, "python_env.yaml"); err != nil {
		return environment.Recipe{}, err
	}
	if err := yaml.Unmarshal(text, &python); err != nil {
		return environment.Recipe{}, fault.Invalid("The model '%s:%s' has a python_env.yaml that is not valid YAML: %v", m.Name, m.Version, yaml.FormatError(err, false, false)).With("BadArgument").At("properties.model")
	}
	requirements, err := d.file(ctx, m, "requirements.txt")
	if err != nil {
		return environment.Recipe{}, err
	}
	return environment.ParseRequirements(python.Python, string(requirements))
}

// maxSample bounds the sample that readiness scores, in bytes.
const maxSample = 256 << 10

// modelSample is the request that comes with an MLflow model; nil if there is none.
func (d *Deployer) modelSample(ctx context.Context, m *Model) *Sample {
	file, err := d.mlmodel(ctx, m)
	if err != nil {
		return nil
	}
	name := file.Example.Serving
	if name == "" {
		name = "serving_input_example.json"
	}
	if path.Clean(name) != name || strings.HasPrefix(name, "..") || strings.HasPrefix(name, "/") {
		return nil
	}
	text, err := d.file(ctx, *m, name)
	if err != nil || len(text) == 0 || len(text) > maxSample || !json.Valid(text) {
		return nil
	}
	return &Sample{Target: "/invocations", Body: text}
}
