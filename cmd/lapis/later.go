package main

import "github.com/spf13/cobra"

// laterCommands are the nouns that files exist for and that come later.
func laterCommands() []*cobra.Command {
	var out []*cobra.Command
	for _, name := range []string{"schedule", "batch-endpoint", "batch-deployment", "feature-store", "feature-set", "feature-store-entity", "index", "serverless-endpoint", "marketplace-subscription", "capability-host"} {
		n := &noun{name: name}
		n.cmd = &cobra.Command{Use: name, Short: "Not offered yet", Hidden: true, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error {
			return notOffered("lapis " + name)
		}}
		for _, verb := range []string{"create", "update", "show", "list", "delete", "invoke"} {
			n.notYet(verb, "Not offered yet")
		}
		out = append(out, n.cmd)
	}
	return out
}
