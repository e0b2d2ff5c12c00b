package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func workspaceCommand() *cobra.Command {
	n := (&noun{
		name: "workspace", collection: "workspaces",
		columns: []string{"name", "resource_group", "location", "display_name"},
		fields: map[string]string{
			"tags": "tags", "description": "properties.description", "display_name": "properties.friendlyName", "image_build_compute": "properties.imageBuildCompute",
			"public_network_access": "properties.publicNetworkAccess",
		},
	}).start("Manage workspaces", `  lapis workspace create --name team
  lapis workspace list --output table`)
	f := &createFlags{}
	cmd := n.create("create", "Create a workspace from a file or from flags", `  lapis workspace create --name team
  lapis workspace create -f workspace.yml`, f, nil)
	f.field(cmd, "display-name", "d", "display_name", "name to show")
	f.field(cmd, "description", "", "description", "description")
	n.show("  lapis workspace show --name team")
	n.list("  lapis workspace list -o table", nil)
	n.remove("  lapis workspace delete --name team --yes", true, func(cmd *cobra.Command) func(url.Values) {
		purge := cmd.Flags().BoolP("permanently-delete", "p", false, "delete at once, with no way back")
		cmd.Flags().Bool("all-resources", false, "taken for the sake of scripts: a workspace here owns no other resources")
		return func(q url.Values) {
			if *purge {
				q.Set("forceToPurge", "true")
			}
		}
	})
	n.patch()
	n.notYet("provision-network", "Provision a managed network")
	n.notYet("outbound-rule", "Manage outbound rules")
	var name string
	for verb, action := range map[string]string{"list-keys": "listKeys", "sync-keys": "resyncKeys", "diagnose": "diagnose"} {
		short := map[string]string{"list-keys": "List the keys of a workspace's stores", "sync-keys": "Make the workspace read its keys again", "diagnose": "Look for what is wrong with a workspace"}[verb]
		cmd := n.verb(verb, short, "  lapis workspace "+verb+" --name main", func(cmd *cobra.Command, s *session) error {
			if name == "" {
				name = s.Workspace
			}
			raw, err := s.Post(cmd.Context(), n.path(s, name)+"/"+action, nil)
			if err != nil || len(raw) == 0 {
				return err
			}
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				return err
			}
			return n.out.print(s.out, v, nil)
		})
		n.nameFlag(cmd, &name)
		n.connectedName(cmd)
	}
	return n.cmd
}

// patch adds the update of a workspace, which is a PATCH of what is named.
func (n *noun) patch() {
	var name, file string
	var set, removed []string
	fields := map[string]*string{}
	cmd := n.verb("update", "Change a workspace", `  lapis workspace update --name team --set tags.cost=low
  lapis workspace update --name team --display-name "The team"`, func(cmd *cobra.Command, s *session) error {
		if file != "" {
			return n.updateFromFile(cmd, s, &createFlags{file: file, name: name, set: set})
		}
		if name == "" {
			name = s.Workspace
		}
		body := map[string]any{}
		for field, v := range fields {
			if *v != "" {
				set = append(set, field+"="+*v)
			}
		}
		if slices.ContainsFunc(slices.Concat(set, removed), func(a string) bool { return strings.HasPrefix(a, "tags.") }) {
			// A PATCH takes tags for all that there are.
			raw, err := s.Get(cmd.Context(), n.path(s, name))
			if err != nil {
				return err
			}
			var now struct{ Tags map[string]any }
			if err := json.Unmarshal(raw, &now); err != nil {
				return err
			}
			body["tags"] = now.Tags
		}
		for _, a := range set {
			if err := n.assign(body, a); err != nil {
				return err
			}
		}
		for _, a := range removed {
			if err := n.unset(body, a); err != nil {
				return err
			}
		}
		reply, err := s.Request(cmd.Context(), http.MethodPatch, n.path(s, name), "", nil, body)
		if err != nil {
			return err
		}
		return n.print(s, reply)
	})
	n.nameFlag(cmd, &name)
	n.connectedName(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML file that says how it shall be")
	_ = cmd.MarkFlagFilename("file", "yml", "yaml")
	setFlag(cmd, &set, "set a field, as in --set tags.a=b")
	removeFlag(cmd, &removed)
	fields["display_name"] = cmd.Flags().StringP("display-name", "d", "", "name to show")
	fields["description"] = cmd.Flags().String("description", "", "description")
}
