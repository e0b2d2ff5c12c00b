package share

import (
	"embed"
	"fmt"
	"strings"

	"lapis/ml/asset"
	"lapis/resource"
)

// Curated environments are the files of this folder: NAME.txt lists what
// "pip install" is given, each line pinned, so that an environment is the same
// wherever it is built. Its head says what the environment is about, the versions
// that it stands for, oldest first, and the labels of the latest.
//
// Azure ML's own environments are images; here each is what people use of them.
//
//go:embed curated/*.txt
var lists embed.FS

const curatedPython = "3.11"

// Asset is a version that a server has from the beginning.
type Asset struct {
	Name, Version string
	Labels        []string // beside latest
	Properties    resource.Document
}

// Curated are the environments that a server has from the beginning, by name,
// older versions first.
func Curated() ([]Asset, error) {
	files, err := lists.ReadDir("curated")
	if err != nil {
		return nil, err
	}
	var all []Asset
	for _, file := range files {
		raw, err := lists.ReadFile("curated/" + file.Name())
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(file.Name(), ".txt")
		head := map[string]string{}
		var conda strings.Builder
		fmt.Fprintf(&conda, "name: %s\nchannels:\n- conda-forge\ndependencies:\n- python=%s\n- pip\n- pip:\n", name, curatedPython)
		for _, line := range strings.Split(string(raw), "\n") {
			line = strings.TrimSpace(line)
			if said, ok := strings.CutPrefix(line, "#"); ok {
				key, value, _ := strings.Cut(said, ":")
				head[strings.TrimSpace(key)] = strings.TrimSpace(value)
			} else if line != "" {
				fmt.Fprintf(&conda, "  - %s\n", line)
			}
		}
		versions := strings.Fields(head["versions"])
		if len(versions) == 0 || head["about"] == "" {
			return nil, fmt.Errorf("curated environment %s: its head must say 'about' and 'versions'", file.Name())
		}
		for i, version := range versions {
			p := resource.Document{}
			p.Set("image", "mcr.microsoft.com/azureml/curated/"+strings.ToLower(name)+":"+version)
			p.Set("condaFile", conda.String())
			p.Set("description", head["about"])
			p.Set("environmentType", "Curated")
			p.Set("osType", "Linux")
			a := Asset{Name: name, Version: version, Properties: p}
			if i == len(versions)-1 {
				a.Labels = strings.Fields(head["labels"])
			}
			all = append(all, a)
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
			writes = append(writes, asset.Seeded(workspace, "environments", "AzureML-"+a.Name, a.Version, a.Labels, a.Properties, stamp)...)
		}
	}
	return writes, nil
}
