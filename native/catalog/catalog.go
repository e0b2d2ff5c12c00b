// Package catalog finds and loads what a deployment serves natively: a model
// file, an MLflow model, or a repository in Triton's layout.
package catalog

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"lapis/native/model"
	"lapis/native/onnx"
	"lapis/native/tree"
)

// Source is what a group is told about its model; see ml/serving.
type Source struct {
	Path       string // file or folder
	Flavor     string // onnx, lightgbm, xgboost, triton
	ID         string // "{name}:{version}"
	Library    string // folder with ONNX Runtime
	BatchSize  string // rows
	BatchDelay string // microseconds
}

// Loaded is the models of a source.
type Loaded struct {
	Models model.Repository
	MLflow *MLmodel // nil unless it is an MLflow model
	Flavor string
}

// Load loads a source. Its errors begin with a line that says what is wrong
// with the model.
func Load(src Source) (*Loaded, error) {
	size, delay, err := batching(src)
	if err != nil {
		return nil, err
	}
	out := &Loaded{Flavor: src.Flavor}
	var lib *onnx.Library
	if src.Flavor == "onnx" || src.Flavor == "triton" {
		if lib, err = onnx.Load(src.Library); err != nil {
			return nil, err
		}
	}
	add := func(m *model.Model, size int, delay time.Duration) {
		if size > 1 {
			m.Runner = model.Batched(m, size, delay)
		}
		out.Models.Add(m)
	}
	if src.Flavor == "triton" {
		found, err := repository(src.Path)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			m, err := model.OpenONNX(lib, f.file, f.name, f.version)
			if err != nil {
				return nil, fmt.Errorf("model %s, version %s: %w", f.name, f.version, err)
			}
			m.MaxBatch = f.config.maxBatch
			rows, wait := size, delay
			if f.config.batching && rows == 0 {
				rows, wait = f.config.maxBatch, f.config.delay
			}
			add(m, rows, wait)
		}
		return out, nil
	}
	name, version, _ := strings.Cut(src.ID, ":")
	if name == "" {
		name = "model"
	}
	if version == "" {
		version = "1"
	}
	file := src.Path
	info, err := os.Stat(src.Path)
	if err != nil {
		return nil, fmt.Errorf("the model is not there: %w", err)
	}
	if info.IsDir() {
		if out.MLflow, err = readMLmodel(src.Path); err != nil {
			return nil, err
		}
		if out.MLflow != nil {
			file, err = out.MLflow.data(src.Flavor)
		} else {
			file, err = single(src.Path, src.Flavor)
		}
		if err != nil {
			return nil, err
		}
	}
	var m *model.Model
	switch src.Flavor {
	case "onnx":
		m, err = model.OpenONNX(lib, file, name, version)
	case "lightgbm":
		var t *tree.Model
		if t, err = tree.OpenLightGBM(file); err == nil {
			m = t.Model(name, version)
		}
	case "xgboost":
		class := ""
		if out.MLflow != nil {
			class = out.MLflow.Setting("xgboost", "model_class")
			if strings.HasSuffix(class, ".Booster") {
				class = ""
			}
		}
		var t *tree.Model
		if t, err = tree.OpenXGBoost(file, class); err == nil {
			m = t.Model(name, version)
		}
	default:
		return nil, fmt.Errorf("models of flavor %q are not served natively", src.Flavor)
	}
	if err != nil {
		return nil, err
	}
	add(m, size, delay)
	return out, nil
}

// batching reads how requests are put together; no rows for not at all.
func batching(src Source) (rows int, delay time.Duration, err error) {
	if src.BatchSize != "" {
		if rows, err = strconv.Atoi(src.BatchSize); err != nil || rows < 0 || rows > 1<<20 {
			return 0, 0, fmt.Errorf("the size of batches must be a number of rows, and is %q", src.BatchSize)
		}
	}
	if src.BatchDelay != "" {
		n, err := strconv.Atoi(src.BatchDelay)
		if err != nil || n < 0 {
			return 0, 0, fmt.Errorf("the delay of batches must be microseconds, and is %q", src.BatchDelay)
		}
		delay = time.Duration(n) * time.Microsecond
	}
	return rows, delay, nil
}

// endings are those that model files have.
var endings = map[string][]string{"onnx": {".onnx"}, "lightgbm": {".txt", ".lgb", ".model"}, "xgboost": {".json", ".ubj", ".xgb", ".model"}}

// maxFiles bounds how many files of a folder are looked at.
const maxFiles = 10000

// single is the one file of a folder that may be the model.
func single(folder, flavor string) (string, error) {
	var found []string
	seen := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxFiles {
			return fmt.Errorf("the model has more than %d files", maxFiles)
		}
		if !d.IsDir() && slices.Contains(endings[flavor], strings.ToLower(filepath.Ext(path))) && isModel(path, flavor) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no %s model in the model's folder: a file that ends in %s is needed", flavor, strings.Join(endings[flavor], " or "))
	}
	return "", fmt.Errorf("there are %d %s models in the model's folder, and one is needed; register the file, or a triton_model", len(found), flavor)
}

// isModel tells by its first bytes whether a file may be a model.
func isModel(path, flavor string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 16)
	n, _ := f.Read(head) // an empty file is none
	text := strings.TrimSpace(string(head[:n]))
	switch flavor {
	case "lightgbm":
		return strings.HasPrefix(text, "tree")
	case "xgboost":
		return strings.HasPrefix(text, "{")
	}
	return true
}
