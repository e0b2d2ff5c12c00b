package main

import (
	"github.com/spf13/cobra"
)

func registryCommand() *cobra.Command {
	n := (&noun{
		name: "registry", collection: "registries",
		columns: []string{"name", "location"},
		fields:  map[string]string{"tags": "tags", "description": "properties.description"},
	}).start("Manage registries", `  lapis registry create --file registry.yml
  lapis registry list --output table`)
	n.create("create", "Create a registry from a YAML file", "  lapis registry create -f registry.yml", nil, nil)
	n.show("  lapis registry show --name NAME")
	n.list("  lapis registry list -o table", nil)
	n.remove("  lapis registry delete --name NAME --yes", true, nil)
	n.update("  lapis registry update --name NAME --set description=text", nil)
	return n.cmd
}
