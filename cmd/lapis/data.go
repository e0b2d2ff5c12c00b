package main

import (
	"github.com/spf13/cobra"
)

func dataCommand() *cobra.Command {
	n := (&noun{
		name: "data", title: "data asset", collection: "data", versioned: true, fields: assetFields,
		columns: []string{"name", "version", "type", "path"},
	}).start("Manage data assets", `  lapis data create --name iris --path iris.csv --type uri_file
  lapis data list --output table`)
	f := &createFlags{}
	cmd := n.create("create", "Create a data asset from a file or from flags", `  lapis data create -f data.yml
  lapis data create -n iris -v 1 --type uri_file --path iris.csv`, f, nil)
	f.field(cmd, "path", "p", "path", "local path, or address, of the data")
	f.field(cmd, "type", "t", "type", "uri_file, uri_folder or mltable")
	f.field(cmd, "description", "d", "description", "description")
	f.field(cmd, "datastore", "", "datastore", "datastore to upload to")
	n.assetVerbs()
	n.notYet("import", "Import data from elsewhere")
	n.notYet("mount", "Mount data")
	return n.cmd
}
