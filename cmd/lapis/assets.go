package main

import (
	"github.com/spf13/cobra"

	"lapis/client/spec"
	"lapis/fault"
)

// The fields that may change on a version that is there.
var assetFields = map[string]string{"description": "properties.description", "tags": "properties.tags"}

// assetVerbs are the verbs that all versioned things have.
func (n *noun) assetVerbs() {
	n.show("  lapis " + n.name + " show --name NAME --version 1\n  lapis " + n.name + " show --name NAME --label latest")
	n.list("  lapis "+n.name+" list -o table\n  lapis "+n.name+" list --name NAME -o table", nil)
	n.update("  lapis "+n.name+" update --name NAME --version 1 --set tags.team=vision", nil)
	n.archive()
	n.remove("  lapis "+n.name+" delete --name NAME --version 1", true, nil)
	n.cmd.PersistentFlags().StringVar(&n.scope.registry, "registry-name", "", "work in this registry in place of a workspace")
	n.share()
}

// share adds share.
func (n *noun) share() {
	var name, version, label, registry, asName, asVersion string
	cmd := n.verb("share", "Copy a "+n.title+" to a registry", "  lapis "+n.name+" share --name NAME --version 1 --registry-name shared --share-with-name NAME", func(cmd *cobra.Command, s *session) error {
		if registry == "" {
			return fault.Invalid("--registry-name is missing. `lapis registry list` shows what there is.")
		}
		v, err := n.pick(cmd, s, name, version, label)
		if err != nil {
			return err
		}
		s.progress.stage("Copying " + name + " to " + registry + " …")
		if err := s.Share(cmd.Context(), spec.Asset{Collection: n.collection, Name: name, Version: v}, registry, asName, asVersion); err != nil {
			return err
		}
		there, err := s.InRegistry(cmd.Context(), registry)
		if err != nil {
			return err
		}
		if asName == "" {
			asName = name
		}
		if asVersion == "" {
			asVersion = v
		}
		raw, err := there.Get(cmd.Context(), there.Path(n.collection, asName, "versions", asVersion))
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.print(s, raw)
	})
	n.nameFlag(cmd, &name)
	n.versionFlags(cmd, &version, &label)
	// Here the registry is where to, not where.
	cmd.PreRun = func(*cobra.Command, []string) { registry, n.scope.registry = n.scope.registry, "" }
	cmd.Flags().StringVar(&asName, "share-with-name", "", "name in the registry (default the same)")
	cmd.Flags().StringVar(&asVersion, "share-with-version", "", "version in the registry (default the same)")
}
