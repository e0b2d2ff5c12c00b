package share

import (
	"embed"
	"fmt"
	"strings"

	"lapis/ml/asset"
	"lapis/resource"
)

// Each list of requirements is pinned, so that an environment is the same
// wherever it is built.
//
//go:embed curated/*.txt
var lists embed.FS

// curated are the environments of the registry azureml. Azure ML's own are
// images; here each is what people use of them, for the Python of the lists.
var curated = []struct {
	name     string
	versions []string // the last is the latest
	about    string
}{
	{"sklearn-1.5", []string{"1"}, "scikit-learn 1.5, pandas, matplotlib and MLflow."},
	{"lightgbm-3.3", []string{"1"}, "LightGBM 3.3, scikit-learn, pandas and MLflow."},
	{"tensorflow-2.16-cuda12", []string{"1"}, "TensorFlow 2.16, pandas and MLflow. Runs on the CPU where there is no GPU."},
	{"acpt-pytorch-2.8-cuda12.6", []string{"1"}, "PyTorch 2.8, torchvision, transformers and MLflow. Runs on the CPU where there is no GPU."},
	{"responsibleai-tabular", []string{"28"}, "The Responsible AI toolbox for tabular data."},
	{"model-evaluation", []string{"6", "24"}, "Evaluation of models with scikit-learn, evaluate and MLflow."},
}

const curatedPython = "3.11"

// Asset is a version that a server has from the beginning.
type Asset struct {
	Name, Version string
	Properties    resource.Document
}

// Curated are the environments that a server has from the beginning, older
// versions first.
func Curated() ([]Asset, error) {
	var all []Asset
	for _, c := range curated {
		raw, err := lists.ReadFile("curated/" + c.name + ".txt")
		if err != nil {
			return nil, err
		}
		var conda strings.Builder
		fmt.Fprintf(&conda, "name: %s\nchannels:\n- conda-forge\ndependencies:\n- python=%s\n- pip\n- pip:\n", c.name, curatedPython)
		for _, line := range strings.Split(string(raw), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				fmt.Fprintf(&conda, "  - %s\n", line)
			}
		}
		for _, version := range c.versions {
			p := resource.Document{}
			p.Set("image", "mcr.microsoft.com/azureml/curated/"+c.name+":"+version)
			p.Set("condaFile", conda.String())
			p.Set("description", c.about)
			p.Set("environmentType", "Curated")
			p.Set("osType", "Linux")
			all = append(all, Asset{Name: c.name, Version: version, Properties: p})
		}
	}
	return all, nil
}

// InWorkspace are the curated environments as each workspace has them: their
// latest versions, under the names that Azure ML gives them there.
func InWorkspace(workspace resource.ID, stamp resource.Stamp) ([]resource.Write, error) {
	all, err := Curated()
	if err != nil {
		return nil, err
	}
	var writes []resource.Write
	for i, a := range all {
		if i+1 == len(all) || all[i+1].Name != a.Name {
			writes = append(writes, asset.Seeded(workspace, "environments", "AzureML-"+a.Name, a.Version, a.Properties, stamp)...)
		}
	}
	return writes, nil
}
