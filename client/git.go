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
	const repository, branch, commit, dirty = "mlflow.source.git.repoURL", "mlflow.source.git.branch", "mlflow.source.git.commit", "azureml.git.dirty"
	out := map[string]string{}
	if inRepository(dir) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		git := func(args ...string) string {
			cmd := exec.CommandContext(ctx, "git", args...)
			cmd.Dir = dir
			text, err := cmd.Output()
			if err != nil {
				return ""
			}
			return string(text)
		}
		remote := make(chan string)
		go func() { remote <- strings.TrimSpace(git("ls-remote", "--get-url")) }()
		for line := range strings.Lines(git("status", "--porcelain=v2", "--branch", "--", ".")) {
			line = strings.TrimSpace(line)
			if id, ok := strings.CutPrefix(line, "# branch.oid "); ok && id != "(initial)" {
				out[commit] = id
			} else if name, ok := strings.CutPrefix(line, "# branch.head "); ok && name != "(detached)" {
				out[branch] = name
			} else if !strings.HasPrefix(line, "#") {
				out[dirty] = "True"
			}
		}
		// Without a remote, git answers with the word it would have gone by.
		if url := <-remote; url != "" && url != "origin" {
			out[repository] = url
		}
	}
	for key, variable := range map[string]string{
		repository: "AZUREML_GIT_REPOSITORY_URI", branch: "AZUREML_GIT_BRANCH", commit: "AZUREML_GIT_COMMIT", dirty: "AZUREML_GIT_DIRTY",
	} {
		if v := os.Getenv(variable); v != "" {
			out[key] = v
		}
	}
	if u, err := url.Parse(out[repository]); err == nil && u.User != nil {
		u.User = nil // it may be a secret
		out[repository] = u.String()
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
