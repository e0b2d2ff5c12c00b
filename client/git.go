package client

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// GitProperties says which commit the folder is at, in the words that run
// history has for it: repository, branch, commit, and whether there are changes
// besides. A folder outside of any repository gives none.
func GitProperties(ctx context.Context, dir string) map[string]string {
	ask := map[string]struct {
		variable string
		args     []string
	}{
		"mlflow.source.git.repoURL": {"AZUREML_GIT_REPOSITORY_URI", []string{"ls-remote", "--get-url"}},
		"mlflow.source.git.branch":  {"AZUREML_GIT_BRANCH", []string{"symbolic-ref", "--short", "HEAD"}},
		"mlflow.source.git.commit":  {"AZUREML_GIT_COMMIT", []string{"rev-parse", "HEAD"}},
		"azureml.git.dirty":         {"AZUREML_GIT_DIRTY", []string{"status", "--porcelain", "."}},
	}
	repository := inRepository(dir)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := map[string]string{}
	for key, q := range ask {
		value := os.Getenv(q.variable)
		if value == "" && repository {
			cmd := exec.CommandContext(ctx, "git", q.args...)
			cmd.Dir = dir
			text, err := cmd.Output()
			if err != nil {
				continue
			}
			value = strings.TrimSpace(string(text))
			if key == "azureml.git.dirty" && value != "" {
				value = "True"
			}
		}
		if u, err := url.Parse(value); key == "mlflow.source.git.repoURL" && err == nil && u.User != nil {
			u.User = nil // it may be a secret
			value = u.String()
		}
		// Without a remote, git answers with the word it was asked for.
		if value == "" || value == "origin" {
			continue
		}
		out[key] = value
	}
	return out
}

func inRepository(dir string) bool {
	for {
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false
		}
		dir = parent
	}
}
