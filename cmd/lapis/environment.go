package main

import (
	"github.com/spf13/cobra"
)

func environmentCommand() *cobra.Command {
	n := (&noun{
		name: "environment", collection: "environments", versioned: true, fields: assetFields,
		columns: []string{"name", "version", "image", "description"},
	}).start("Manage environments", `  lapis environment create --file environment.yml
  lapis environment list --output table`)
	f := &createFlags{}
	cmd := n.create("create", "Create an environment from a file or from flags", `  lapis environment create -f environment.yml
  lapis environment create -n train --image python:3.12 --conda-file conda.yml`, f, nil)
	f.field(cmd, "image", "i", "image", "image that the environment starts from")
	f.field(cmd, "conda-file", "c", "conda_file", "conda specification")
	f.field(cmd, "build-context", "b", "build.path", "folder with a Dockerfile")
	f.field(cmd, "dockerfile-path", "", "build.dockerfile_path", "the Dockerfile in the build context")
	f.field(cmd, "description", "d", "description", "description")
	n.assetVerbs()
	return n.cmd
}
