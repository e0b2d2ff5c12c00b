package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"
)

// MLmodel is what an MLflow model says of itself.
type MLmodel struct {
	Folder  string
	Flavors map[string]map[string]any `yaml:"flavors"`

	Signature struct {
		Inputs  string `yaml:"inputs"`
		Outputs string `yaml:"outputs"`
		Params  string `yaml:"params"`
	} `yaml:"signature"`
	Example *struct {
		Path string `yaml:"artifact_path"`
	} `yaml:"saved_input_example_info"`

	Inputs []Column `yaml:"-"` // of the signature; nil if it has none
	Params []Param  `yaml:"-"`
}

// Column is one input of a signature: a column of a table, or a tensor.
type Column struct {
	Name     string          `json:"name"`
	Type     json.RawMessage `json:"type"`
	Required *bool           `json:"required"`
	Tensor   *struct {
		Type  string  `json:"dtype"`
		Shape []int64 `json:"shape"`
	} `json:"tensor-spec"`

	Kind string `json:"-"` // of a column: "double", "long", ...; "tensor"; "" for what is nested
}

// Param is one parameter of a signature.
type Param struct {
	Name    string          `json:"name"`
	Type    json.RawMessage `json:"type"`
	Shape   []int64         `json:"shape"`
	Default any             `json:"default"`

	Kind string `json:"-"`
}

// maxMLmodel bounds the file, in bytes.
const maxMLmodel = 16 << 20

// readMLmodel reads the file MLmodel of a folder; nil if there is none.
func readMLmodel(folder string) (*MLmodel, error) {
	file := filepath.Join(folder, "MLmodel")
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxMLmodel {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("the file MLmodel cannot be read: %w", err)
	}
	m := &MLmodel{Folder: folder}
	if err := yaml.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("the file MLmodel is not valid YAML: %s", yaml.FormatError(err, false, false))
	}
	if m.Signature.Inputs != "" {
		if err := json.Unmarshal([]byte(m.Signature.Inputs), &m.Inputs); err != nil {
			return nil, fmt.Errorf("the signature in the file MLmodel is broken: inputs: %w", err)
		}
	}
	if m.Signature.Params != "" && m.Signature.Params != "null" {
		if err := json.Unmarshal([]byte(m.Signature.Params), &m.Params); err != nil {
			return nil, fmt.Errorf("the signature in the file MLmodel is broken: params: %w", err)
		}
	}
	for i := range m.Inputs {
		_ = json.Unmarshal(m.Inputs[i].Type, &m.Inputs[i].Kind) // nested types are none of ours
	}
	for i := range m.Params {
		_ = json.Unmarshal(m.Params[i].Type, &m.Params[i].Kind)
	}
	return m, nil
}

// data is the file of the flavor's model.
func (m *MLmodel) data(flavor string) (string, error) {
	f, ok := m.Flavors[flavor]
	if !ok {
		return "", fmt.Errorf("the MLflow model has no flavor %q", flavor)
	}
	name, _ := f["data"].(string)
	if name == "" {
		name = "model.onnx"
	}
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the file MLmodel names %q, which lies outside of the model", name)
	}
	file := filepath.Join(m.Folder, name)
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("the file MLmodel names %q, which is not there", name)
	}
	return file, nil
}

// Setting is a setting of a flavor, or "".
func (m *MLmodel) Setting(flavor, name string) string {
	s, _ := m.Flavors[flavor][name].(string)
	return s
}
