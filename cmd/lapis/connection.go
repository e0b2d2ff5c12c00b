package main

import (
	"net/url"

	"github.com/spf13/cobra"
)

func connectionCommand() *cobra.Command {
	n := (&noun{
		name: "connection", collection: "connections",
		columns: []string{"name", "type", "target"},
		fields:  map[string]string{"target": "properties.target", "metadata": "properties.metadata"},
	}).start("Manage connections to other services", `  lapis connection create --file connection.yml
  lapis connection list --output table`)
	n.create("create", "Create a connection from a YAML file", "  lapis connection create -f connection.yml", nil, nil)
	n.show("  lapis connection show --name NAME")
	n.list("  lapis connection list -o table", func(cmd *cobra.Command) func(url.Values) {
		kind := cmd.Flags().String("type", "", "connections of this type alone")
		return func(q url.Values) {
			if *kind != "" {
				q.Set("category", *kind)
			}
		}
	})
	n.remove("  lapis connection delete --name NAME", false, nil)
	n.update("  lapis connection update --name NAME --set target=https://host", nil)
	return n.cmd
}
