package main

import (
	"github.com/spf13/cobra"
)

func datastoreCommand() *cobra.Command {
	n := (&noun{
		name: "datastore", collection: "datastores",
		columns: []string{"name", "type", "account_name", "container_name", "is_default"},
		fields:  map[string]string{"description": "properties.description", "tags": "properties.tags"},
	}).start("Manage datastores", `  lapis datastore create --file datastore.yml
  lapis datastore list --output table`)
	n.create("create", "Create a datastore from a YAML file", "  lapis datastore create -f datastore.yml", nil, nil)
	n.show("  lapis datastore show --name workspaceblobstore")
	n.list("  lapis datastore list -o table", nil)
	n.remove("  lapis datastore delete --name NAME", false, nil)
	n.update("  lapis datastore update --name NAME --set description=text", nil)
	n.notYet("mount", "Mount a datastore")
	return n.cmd
}
