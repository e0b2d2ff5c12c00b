package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/fault"
)

func experimentCommand() *cobra.Command {
	n := (&noun{name: "experiment", title: "experiment", columns: []string{"experiment_id", "name", "lifecycle_stage", "last_update_time"}}).
		start("Manage experiments, which group runs", `  lapis experiment list --counts -o table
  lapis experiment create --name vision
  lapis experiment delete --name vision --permanent`)

	var filter string
	var order []string
	var most int
	var counts bool
	var view viewFlags
	cmd := n.verb("list", "List experiments", `  lapis experiment list -o table
  lapis experiment list --filter "name LIKE 'vis%' AND tags.team = 'eyes'" --order-by "last_update_time DESC"
  lapis experiment list --counts -o table`, func(cmd *cobra.Command, s *session) error {
		if most < 0 {
			return fault.Invalid("--max-results %d: it cannot be negative.", most)
		}
		list, err := s.Experiments(cmd.Context(), client.ExperimentSearch{Filter: filter, View: view.view(), Order: order, Most: most})
		if err != nil {
			return err
		}
		rows := []map[string]any{}
		for _, e := range list {
			rows = append(rows, experimentView(e))
		}
		columns := n.columns
		if counts {
			if err := addCounts(cmd, s, rows); err != nil {
				return err
			}
			columns = append([]string{"experiment_id", "name"}, countColumns...)
		}
		return n.out.print(s.out, rows, columns)
	})
	cmd.Flags().StringVar(&filter, "filter", "", "MLflow's filter, as in \"name LIKE 'vis%'\"")
	cmd.Flags().StringArrayVar(&order, "order-by", nil, "key to sort by, as in \"name ASC\" (may be repeated; default the newest first)")
	cmd.Flags().IntVarP(&most, "max-results", "r", 0, "how many to list at most (default all)")
	cmd.Flags().BoolVar(&counts, "counts", false, "say how many runs, metrics, points, models and traces each has")
	view.register(cmd)

	var name, to string
	var tags []string
	cmd = n.verb("show", "Show an experiment, with what it holds", "  lapis experiment show --name vision", func(cmd *cobra.Command, s *session) error {
		return n.showExperiment(cmd, s, name)
	})
	n.experimentFlag(cmd, &name)

	var artifacts string
	cmd = n.verb("create", "Create an experiment", "  lapis experiment create --name vision --tag team=eyes", func(cmd *cobra.Command, s *session) error {
		t, err := assignments("--tag", tags)
		if err != nil {
			return err
		}
		body := map[string]any{"name": name, "tags": t}
		if artifacts != "" {
			body["artifact_location"] = artifacts
		}
		if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/create", nil, body, nil); err != nil {
			return err
		}
		return n.showExperiment(cmd, s, name)
	})
	cmd.Flags().StringVarP(&name, "name", "n", "", "name of the experiment")
	_ = cmd.MarkFlagRequired("name")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "KEY=VALUE (may be repeated)")
	cmd.Flags().StringVar(&artifacts, "artifact-location", "", "where artefacts of its runs go (default the workspace's store)")

	cmd = n.verb("rename", "Give an experiment another name", "  lapis experiment rename --name vision --to eyes", func(cmd *cobra.Command, s *session) error {
		return n.onExperiment(cmd, s, name, func(e client.Experiment) error {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/update", nil, map[string]any{"experiment_id": e.ID, "new_name": to}, nil); err != nil {
				return err
			}
			return n.showExperiment(cmd, s, e.ID)
		})
	})
	n.experimentFlag(cmd, &name)
	cmd.Flags().StringVar(&to, "to", "", "new name")
	_ = cmd.MarkFlagRequired("to")

	var set, remove []string
	cmd = n.verb("tag", "Set and remove tags of an experiment", "  lapis experiment tag --name vision --set team=eyes --remove draft", func(cmd *cobra.Command, s *session) error {
		t, err := assignments("--set", set)
		if err != nil {
			return err
		}
		if len(t)+len(remove) == 0 {
			return fault.Invalid("Nothing is to be changed. Name a tag, as in --set team=eyes or --remove draft.")
		}
		return n.onExperiment(cmd, s, name, func(e client.Experiment) error {
			for _, x := range t {
				if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/set-experiment-tag", nil, map[string]any{"experiment_id": e.ID, "key": x.Key, "value": x.Value}, nil); err != nil {
					return err
				}
			}
			for _, key := range remove {
				if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/delete-experiment-tag", nil, map[string]any{"experiment_id": e.ID, "key": key}, nil); err != nil {
					return err
				}
			}
			return n.showExperiment(cmd, s, e.ID)
		})
	})
	n.experimentFlag(cmd, &name)
	setFlag(cmd, &set, "KEY=VALUE")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "key of a tag to remove (may be repeated)")

	var permanent, keep, yes bool
	cmd = n.verb("delete", "Delete an experiment with its runs; it can be restored, unless it is for good", `  lapis experiment delete --name vision
  lapis experiment delete -n vision --permanent --yes`, func(cmd *cobra.Command, s *session) error {
		if keep && !permanent {
			return fault.Invalid("--keep-artifacts goes with --permanent: an experiment that can be restored keeps its artefacts.")
		}
		return n.onExperiment(cmd, s, name, func(e client.Experiment) error {
			if !permanent {
				return s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/delete", nil, map[string]any{"experiment_id": e.ID}, nil)
			}
			if !yes {
				row := experimentView(e)
				_ = addCounts(cmd, s, []map[string]any{row})
				if err := confirm(cmd, fmt.Sprintf("Delete the experiment %q for good, with %s runs and their artefacts?", e.Name, sum(row["active_runs"], row["deleted_runs"]))); err != nil {
					return err
				}
			}
			s.progress.stage("Deleting " + e.Name + " …")
			return s.MLflow(cmd.Context(), http.MethodDelete, "lapis/experiments/"+e.ID, keepQuery(keep), nil, nil)
		})
	})
	n.experimentFlag(cmd, &name)
	cmd.Flags().BoolVar(&permanent, "permanent", false, "for good, with all its runs, metrics and artefacts")
	cmd.Flags().BoolVar(&keep, "keep-artifacts", false, "with --permanent, leave the artefacts")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")

	cmd = n.verb("restore", "Bring a deleted experiment back, with the runs that were deleted with it", "  lapis experiment restore --name vision", func(cmd *cobra.Command, s *session) error {
		return n.onExperiment(cmd, s, name, func(e client.Experiment) error {
			return s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/experiments/restore", nil, map[string]any{"experiment_id": e.ID}, nil)
		})
	})
	n.experimentFlag(cmd, &name)
	return n.cmd
}

func sum(a, b any) string {
	x, ok := a.(int64)
	y, too := b.(int64)
	if !ok || !too {
		return "all its"
	}
	return fmt.Sprint(x + y)
}

// experimentFlag adds --name for an experiment.
func (n *noun) experimentFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "name", "n", "", "name or id of the experiment")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("name", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		s, err := n.scope.open(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, _ := s.Experiments(cmd.Context(), client.ExperimentSearch{Most: 200, View: "ALL"})
		var names []string
		for _, e := range list {
			if strings.HasPrefix(e.Name, prefix) {
				names = append(names, e.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// onExperiment finds the experiment that a command is about.
func (n *noun) onExperiment(cmd *cobra.Command, s *session, name string, do func(e client.Experiment) error) error {
	e, err := s.Experiment(cmd.Context(), name)
	if err != nil {
		return err
	}
	return do(e)
}

func (n *noun) showExperiment(cmd *cobra.Command, s *session, name string) error {
	return n.onExperiment(cmd, s, name, func(e client.Experiment) error {
		row := experimentView(e)
		if err := addCounts(cmd, s, []map[string]any{row}); err != nil {
			return err
		}
		return n.out.print(s.out, row, n.columns)
	})
}

func experimentView(e client.Experiment) map[string]any {
	return map[string]any{
		"experiment_id": e.ID, "name": e.Name, "artifact_location": e.Artifact, "lifecycle_stage": e.Lifecycle,
		"creation_time": timeText(e.Created), "last_update_time": timeText(e.Updated), "tags": asObject(e.Tags),
	}
}

var countColumns = []string{"active_runs", "deleted_runs", "metrics", "points", "logged_models", "traces"}

// addCounts adds to rows what the experiments hold.
func addCounts(cmd *cobra.Command, s *session, rows []map[string]any) error {
	q := url.Values{}
	if len(rows) <= 50 {
		for _, row := range rows {
			q.Add("experiment_ids", row["experiment_id"].(string))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	var reply struct {
		Experiments []struct {
			ID      string `json:"experiment_id"`
			Active  int64  `json:"active_runs"`
			Deleted int64  `json:"deleted_runs"`
			Metrics int64
			Points  int64
			Models  int64 `json:"logged_models"`
			Traces  int64
		}
	}
	if err := s.MLflow(cmd.Context(), http.MethodGet, "lapis/counts", q, nil, &reply); err != nil {
		return err
	}
	for _, row := range rows {
		for _, e := range reply.Experiments {
			if e.ID == row["experiment_id"] {
				row["active_runs"], row["deleted_runs"], row["metrics"], row["points"] = e.Active, e.Deleted, e.Metrics, e.Points
				row["logged_models"], row["traces"] = e.Models, e.Traces
			}
		}
	}
	return nil
}

func trashCommand() *cobra.Command {
	n := (&noun{name: "trash", title: "deleted run", columns: []string{"kind", "id", "name", "experiment_name", "deletion_time", "purge_time"}}).
		start("See what was deleted and can be restored, and remove it for good", `  lapis trash list -o table
  lapis trash empty --older-than 168h --yes`)
	var most int
	cmd := n.verb("list", "List deleted runs and experiments, the latest first", "  lapis trash list -o table", func(cmd *cobra.Command, s *session) error {
		if most < 0 {
			return fault.Invalid("--max-results %d: it cannot be negative.", most)
		}
		rows := []map[string]any{}
		for token := ""; ; {
			q := url.Values{"max_results": {"1000"}}
			if token != "" {
				q.Set("page_token", token)
			}
			var page struct {
				Items []struct {
					Kind       string
					Run        string `json:"run_id"`
					Name       string `json:"run_name"`
					Job        bool
					Experiment string `json:"experiment_id"`
					Title      string `json:"experiment_name"`
					Deleted    int64  `json:"deletion_time"`
					Purge      int64  `json:"purge_time"`
				}
				Next string `json:"next_page_token"`
			}
			if err := s.MLflow(cmd.Context(), http.MethodGet, "lapis/trash", q, nil, &page); err != nil {
				return err
			}
			for _, i := range page.Items {
				row := map[string]any{"kind": i.Kind, "id": i.Run, "name": i.Name, "experiment_name": i.Title, "deletion_time": timeText(i.Deleted), "purge_time": timeText(i.Purge)}
				if i.Kind == "experiment" {
					row["id"], row["name"] = i.Experiment, i.Title
				}
				if rows = append(rows, row); most > 0 && len(rows) == most {
					return n.out.print(s.out, rows, n.columns)
				}
			}
			if token = page.Next; token == "" {
				return n.out.print(s.out, rows, n.columns)
			}
		}
	})
	cmd.Flags().IntVarP(&most, "max-results", "r", 0, "how many to list at most (default all)")

	var age time.Duration
	var yes bool
	cmd = n.verb("empty", "Remove for good what was deleted", `  lapis trash empty --yes
  lapis trash empty --older-than 168h`, func(cmd *cobra.Command, s *session) error {
		if age < 0 {
			return fault.Invalid("--older-than %s: it cannot be negative.", age)
		}
		if !yes {
			if err := confirm(cmd, "Remove for good what was deleted, with metrics and artefacts?"); err != nil {
				return err
			}
		}
		s.progress.stage("Emptying the trash …")
		var reply map[string]any
		body := map[string]any{"deleted_until": time.Now().Add(-age).UnixMilli()}
		if err := s.MLflow(cmd.Context(), http.MethodPost, "lapis/trash/empty", nil, body, &reply); err != nil {
			return err
		}
		s.progress.clear()
		return n.out.print(s.out, reply, nil)
	})
	cmd.Flags().DurationVar(&age, "older-than", 0, "only what was deleted so long ago, as in 168h")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return n.cmd
}
