package driver

import (
	"os"
	"path/filepath"

	"lapis/pattern"
)

// offered are the packages that a script may import without naming them in its
// environment: in Azure they are in the images for inference.
var offered = []struct {
	named  *pattern.Pattern // how a script names them
	folder string           // below site-packages, where they are installed
	lines  []string         // lines of a requirements file
}{
	{
		pattern.New(`\b(flask|werkzeug|azureml_inference_server_http|azureml\.contrib)\b`), "flask",
		[]string{"flask==3.1.3; python_version >= '3.9'", "flask==3.0.3; python_version < '3.9'"},
	},
	{pattern.New(`\binference_schema\b`), "inference_schema", []string{"inference-schema==1.8"}},
	{pattern.New(`\bazureml\.ai\b`), "azureml/ai/monitoring", []string{"azureml-ai-monitoring==1.0.0"}},
}

// Lacking tells which packages the sources name that the environment in dir has
// not, as lines of a requirements file; none if there is nothing to add. They
// belong into a folder of their own, which PlatformPackages names to the group.
func Lacking(dir string, sources [][]byte) []string {
	var lines []string
	for _, o := range offered {
		if found, _ := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", o.folder)); len(found) > 0 {
			continue
		}
		for _, source := range sources {
			if o.named.FindIndex(source) != nil {
				lines = append(lines, o.lines...)
				break
			}
		}
	}
	return lines
}

// Site is the folder of packages of the environment in dir; "" if it has none.
func Site(dir string) string {
	found, _ := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages"))
	for _, path := range found {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
	}
	return ""
}
