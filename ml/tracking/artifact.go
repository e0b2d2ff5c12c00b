package tracking

import "strings"

// artifactStore is the datastore that keeps the artefacts of a workspace.
const artifactStore = "workspaceartifactstore"

// ArtifactRoot is where a run's artefacts are, in an experiment that names no
// place of its own.
func ArtifactRoot(experiment, run string) string {
	return "mlflow-artifacts:/" + experiment + "/" + run + "/artifacts"
}

// StorePath is where an artefact lies, by its path below "mlflow-artifacts:/":
// a datastore and a path in it. The artefacts of a run are those of the job of
// that name, where Azure ML's clients look for them.
func StorePath(p string) (datastore, path string) {
	// What lies in a workspace that MLflow names lies where it would without.
	if deep := strings.SplitN(p, "/", 4); len(deep) >= 3 && deep[0] == "workspaces" {
		if id, _, _ := strings.Cut(deep[2], "/"); digits(id) {
			p = strings.Join(deep[2:], "/")
		}
	}
	parts := strings.SplitN(p, "/", 4)
	if len(parts) >= 3 && parts[2] == "artifacts" && digits(parts[0]) && parts[1] != "" {
		path = "ExperimentRun/dcid." + parts[1]
		if len(parts) == 4 {
			path += "/" + parts[3]
		}
		return artifactStore, path
	}
	if len(parts) >= 2 && parts[0] == "datastores" && parts[1] != "" {
		return parts[1], strings.Join(parts[2:], "/")
	}
	return artifactStore, strings.TrimSuffix("mlflow/"+p, "/")
}

// ProxyPath is the path below "mlflow-artifacts:/" of what lies in a datastore:
// the inverse of StorePath.
func ProxyPath(datastore, path string) string {
	if datastore == artifactStore {
		if rest, ok := strings.CutPrefix(path, "mlflow/"); ok {
			return rest
		}
		if rest, ok := strings.CutPrefix(path, "ExperimentRun/dcid."); ok {
			run, below, deeper := strings.Cut(rest, "/")
			if run != "" {
				if deeper {
					below = "/" + below
				}
				return "0/" + run + "/artifacts" + below
			}
		}
	}
	return "datastores/" + datastore + "/" + path
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
