package deploy

import (
	"testing"

	"github.com/goccy/go-yaml"
)

func TestAnMLflowModelIsScoredWithoutPythonOnlyWhereAllThatItTakesIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		flavor, text string
		want         bool
	}{
		"no signature":             {"onnx", "flavors: {python_function: {loader_module: mlflow.onnx}}", true},
		"numbers and texts":        {"xgboost", `signature: {inputs: '[{"type": "double", "name": "x"}, {"type": "string", "name": "s"}, {"type": "boolean", "name": "b"}]'}`, true},
		"an optional column":       {"lightgbm", `signature: {inputs: '[{"type": "long", "name": "x", "required": false}]'}`, true},
		"a tensor":                 {"onnx", `signature: {inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'}`, true},
		"a tensor of texts":        {"onnx", `signature: {inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "object", "shape": [-1]}}]'}`, true},
		"dates":                    {"lightgbm", `signature: {inputs: '[{"type": "datetime", "name": "x"}]'}`, false},
		"bytes":                    {"onnx", `signature: {inputs: '[{"type": "binary", "name": "x"}]'}`, false},
		"lists":                    {"onnx", `signature: {inputs: '[{"type": {"type": "array", "items": "double"}, "name": "x"}]'}`, false},
		"a tensor of dates":        {"onnx", `signature: {inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "datetime64[ns]", "shape": [-1]}}]'}`, false},
		"params of XGBoost":        {"xgboost", `signature: {params: '[{"name": "output_margin", "type": "boolean", "default": false, "shape": null}]'}`, false},
		"params without an effect": {"lightgbm", `signature: {params: '[{"name": "n", "type": "long", "default": 1, "shape": null}]'}`, true},
		"a loader of its own":      {"onnx", "flavors: {python_function: {loader_module: mlflow.pyfunc.model}}", false},
		"another prediction":       {"xgboost", "flavors: {python_function: {loader_module: mlflow.xgboost, predict_fn: predict_proba}}", false},
		"a broken signature":       {"onnx", "signature: {inputs: 'x'}", false},
	} {
		var m mlmodel
		if err := yaml.Unmarshal([]byte(c.text), &m); err != nil {
			t.Fatal(name, err)
		}
		if got := m.plain(c.flavor); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
