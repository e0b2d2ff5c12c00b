package main

import (
	"github.com/spf13/cobra"
)

func componentCommand() *cobra.Command {
	n := (&noun{
		name: "component", collection: "components", versioned: true, fields: assetFields,
		columns: []string{"name", "version", "type", "display_name"},
	}).start("Manage components", `  lapis component create --file component.yml
  lapis component list --output table`)
	n.create("create", "Create a component from a YAML file", "  lapis component create -f component.yml", nil, nil)
	n.assetVerbs()
	return n.cmd
}
