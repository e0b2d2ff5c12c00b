package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"lapis/fault"
	"lapis/resource/identity"
)

func tokenCommand() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "List and revoke the long-lived tokens that connect hands out",
		GroupID: groupServer,
		Args:    noWords,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&data, "data", "", "data folder of the server")

	list := &cobra.Command{
		Use:   "list",
		Short: "List the tokens",
		Args:  noWords,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tokens, err := ownTokens(data)
			if err != nil {
				return err
			}
			all, err := tokens.all(time.Now())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "ID\tMADE BY\tCREATED\tEXPIRES")
			for _, t := range all {
				fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\n", t.ID, t.Name, t.Created.Format(time.RFC3339), t.Expires.Format(time.RFC3339))
			}
			return w.Flush()
		},
	}

	var every bool
	revoke := &cobra.Command{
		Use:   "revoke [ID | TOKEN]...",
		Short: "Make tokens worthless at once",
		Example: `  lapis token revoke "$MLFLOW_TRACKING_TOKEN"
  lapis token revoke 5f2c1e0a9b3d
  lapis token revoke --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if every == (len(args) > 0) {
				return fault.Invalid("Name the tokens to revoke, or all of them with --all.")
			}
			tokens, err := ownTokens(data)
			if err != nil {
				return err
			}
			all, err := tokens.all(time.Now())
			if err != nil {
				return err
			}
			var chosen []identity.LongToken
			if every {
				chosen = all
			}
			for _, arg := range args {
				t, err := chooseToken(all, arg)
				if err != nil {
					return err
				}
				chosen = append(chosen, t)
			}
			for _, t := range chosen {
				if err := tokens.revoke(t.ID); err != nil && !fault.Is(err, fault.Missing) {
					return err
				}
			}
			time.Sleep(lookAgain) // then no server takes them
			for _, t := range chosen {
				fmt.Fprintf(cmd.OutOrStdout(), "Revoked %.12s.\n", t.ID)
			}
			return nil
		},
	}
	revoke.Flags().BoolVar(&every, "all", false, "revoke all tokens")
	cmd.AddCommand(list, revoke)
	return cmd
}

func ownTokens(data string) (tokenFiles, error) {
	f, err := openFolder(data)
	if err != nil {
		return tokenFiles{}, err
	}
	return tokenFiles{f}, f.private()
}

// shortestID is how much of an id names a token.
const shortestID = 6

// chooseToken finds the token that a person means: by the word itself or by
// the beginning of its id.
func chooseToken(all []identity.LongToken, arg string) (identity.LongToken, error) {
	id := identity.LongTokenID(arg)
	var found []identity.LongToken
	for _, t := range all {
		if t.ID == id || len(arg) >= shortestID && strings.HasPrefix(t.ID, strings.ToLower(arg)) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		// What was typed may be a token: it is not repeated.
		return identity.LongToken{}, fault.NotFound("There is no such token. `lapis token list` shows those there are.")
	}
	return identity.LongToken{}, fault.Invalid("%q is the beginning of %d ids; give more of it.", arg, len(found))
}
