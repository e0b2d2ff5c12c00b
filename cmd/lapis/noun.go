package main

import (
	"github.com/spf13/cobra"

	"lapis/client/spec"
)

// scopeFlags say which workspace a command works in.
type scopeFlags struct {
	subscription string
	group        string
	workspace    string
}

func (s *scopeFlags) register(cmd *cobra.Command) {
	fl := cmd.PersistentFlags()
	fl.StringVar(&s.subscription, "subscription", "", "subscription id")
	fl.StringVarP(&s.group, "resource-group", "g", "", "resource group")
	fl.StringVarP(&s.workspace, "workspace-name", "w", "", "workspace")
}

// nounCommand is the parent of a noun's verbs.
func nounCommand(noun, short string) (*cobra.Command, *scopeFlags) {
	cmd := &cobra.Command{Use: noun, Short: short, GroupID: groupML, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	s := &scopeFlags{}
	s.register(cmd)
	return cmd, s
}

func simpleNoun(noun, short string) *cobra.Command {
	cmd, s := nounCommand(noun, short)
	var f createFlags
	create := &cobra.Command{Use: "create", Short: "Create it from a YAML file", Args: cobra.NoArgs}
	f.register(create)
	create.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := f.document(cmd, noun)
		if err != nil {
			return err
		}
		o := spec.Options{Target: spec.Target{Subscription: s.subscription, ResourceGroup: s.group, Workspace: s.workspace}, Location: f.location, Workspace: s.workspace, Experiment: experimentName()}
		return f.dry(cmd, noun, d, o)
	}
	cmd.AddCommand(create)
	return cmd
}
