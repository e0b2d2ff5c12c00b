package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client/mlflow"
)

func importCommand() *cobra.Command {
	cmd := parent(&cobra.Command{
		Use: "import", Short: "Bring in what another server holds", GroupID: groupML,
		Example: `  lapis import mlflow sqlite:///mlflow.db
  lapis import mlflow http://tracking.example.com:5000`,
	})
	cmd.AddCommand(importMLflowCommand())
	return cmd
}

// importToken is the variable that holds the token of the server to import from.
const importToken = "LAPIS_IMPORT_TOKEN"

func importMLflowCommand() *cobra.Command {
	var scope scopeFlags
	var out outputFlags
	var experiments []string
	var artifacts string
	var again, noArtifacts bool
	cmd := &cobra.Command{
		Use:   "mlflow STORE",
		Short: "Copy an MLflow store to the workspace",
		Long: `Copy an MLflow store to the workspace: experiments, runs with all their metrics,
params, tags, datasets and artefacts, logged models, registered models with
versions and aliases, prompts, traces. Ids, times and version numbers stay; an
experiment whose id is taken gets another.

STORE is a SQLite database of MLflow 2 or 3, a folder of files such as ./mlruns,
or the address of a server. The store is only read.

An import that was cut off goes on where it was when it is started again, and
one that is repeated brings what has been added since. What is here is never
written over: runs that were not imported, aliases and tags that were set here.`,
		Example: `  lapis import mlflow sqlite:///mlflow.db
  lapis import mlflow ./mlruns --experiment vision
  lapis import mlflow sqlite:////srv/mlflow.db --artifacts /srv/mlartifacts
  lapis import mlflow https://user:password@tracking.example.com -w research
  ` + importToken + `=... lapis import mlflow https://tracking.example.com -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			s, err := scope.open(cmd)
			if err != nil {
				return err
			}
			defer s.progress.clear()
			store, err := mlflow.Open(cmd.Context(), args[0], mlflow.Options{Artifacts: artifacts, Token: os.Getenv(importToken)})
			if err != nil {
				return err
			}
			defer store.Close()
			s.Client.Progress = nil
			job := &mlflow.Import{Store: store, To: s.Client, Experiments: experiments, Again: again, NoArtifacts: noArtifacts,
				Progress: func(what string, done, total int, r *mlflow.Report) {
					s.progress.tally(what, done, total, fmt.Sprintf("%d runs, %d points, %s", r.Runs.Imported+r.Runs.Present, r.Points, bytesText(r.Bytes)))
				}}
			r, err := job.Run(cmd.Context())
			s.progress.clear()
			if err != nil {
				if errors.Is(err, context.Canceled) || r.Runs.Imported > 0 {
					fmt.Fprintf(s.progress.w, "%d of %d runs were copied or here before. Start the same command again to go on.\n", r.Runs.Imported+r.Runs.Present, r.Runs.Found)
				}
				return err
			}
			if out.format == "" && out.query == "" {
				sayImport(s, args[0], r)
				return nil
			}
			if out.format == "table" && out.query == "" {
				return out.print(s.out, tallies(r), []string{"kind", "found", "imported", "present", "skipped"})
			}
			return out.print(s.out, r, nil)
		},
	}
	scope.register(cmd)
	out.register(cmd)
	cmd.PersistentFlags().Lookup("output").Usage = "json, yaml, table, tsv or none (default a report for people)"
	fl := cmd.Flags()
	fl.StringArrayVar(&experiments, "experiment", nil, "import this experiment alone, by name or id (may be repeated); the model registry is left out then")
	fl.StringVar(&artifacts, "artifacts", "", "folder that the artefacts lie in now, if they are not where the store says")
	fl.BoolVar(&noArtifacts, "no-artifacts", false, "leave the artefacts where they are")
	fl.BoolVar(&again, "again", false, "copy again what was copied before, files too")
	_ = cmd.MarkFlagDirname("artifacts")
	return cmd
}

// tallies are the rows of a report.
func tallies(r *mlflow.Report) []map[string]any {
	var rows []map[string]any
	for _, t := range []struct {
		kind string
		mlflow.Tally
	}{
		{"experiments", r.Experiments}, {"runs", r.Runs}, {"artefacts", r.Artifacts}, {"logged models", r.Models},
		{"registered models", r.Registered}, {"model versions", r.Versions}, {"traces", r.Traces},
	} {
		rows = append(rows, map[string]any{"kind": t.kind, "found": t.Found, "imported": t.Imported, "present": t.Present, "skipped": t.Skipped})
	}
	return rows
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sayImport says for people what an import did.
func sayImport(s *session, store string, r *mlflow.Report) {
	if u, err := url.Parse(store); err == nil && u.User != nil {
		store = u.Redacted()
	}
	fmt.Fprintf(s.out, "Imported %s to the workspace %s.\n\n", store, s.Workspace)
	for _, row := range tallies(r) {
		line := fmt.Sprintf("  %-18s %8d imported", row["kind"], row["imported"])
		if n := row["present"].(int); n > 0 {
			line += fmt.Sprintf(", %d here before", n)
		}
		if n := row["skipped"].(int); n > 0 {
			line += fmt.Sprintf(", %d skipped", n)
		}
		fmt.Fprintln(s.out, line)
	}
	fmt.Fprintf(s.out, "  %-18s %8d sent\n  %-18s %8s sent\n", "metric points", r.Points, "bytes", bytesText(r.Bytes))
	for _, was := range sortedNames(r.Renumbered) {
		fmt.Fprintf(s.out, "\nThe experiment %s has the id %s here: its own was taken.", was, r.Renumbered[was])
	}
	if len(r.Renumbered) > 0 {
		fmt.Fprintln(s.out)
	}
	if len(r.Left) > 0 {
		var left []string
		for _, what := range sortedNames(r.Left) {
			left = append(left, fmt.Sprintf("%d %s", r.Left[what], what))
		}
		fmt.Fprintf(s.out, "\nNot imported: %s.\n", strings.Join(left, ", "))
	}
	if len(r.Skipped) > 0 {
		fmt.Fprintln(s.out, "\nSkipped:")
		const most = 20
		for n, skip := range r.Skipped {
			if n == most {
				fmt.Fprintf(s.out, "  … and more; --output json names them\n")
				break
			}
			fmt.Fprintf(s.out, "  %s %s: %s\n", skip.Kind, skip.ID, cell(skip.Reason))
		}
	}
}
