package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/fault"
)

// assignments reads KEY=VALUE words.
func assignments(flag string, words []string) ([]client.Tag, error) {
	var list []client.Tag
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, fault.Invalid("%s %s: write it as %s KEY=VALUE.", flag, w, flag)
		}
		list = append(list, client.Tag{Key: key, Value: value})
	}
	return list, nil
}

func (n *noun) runCreate() {
	var experiment, title, parent string
	var params, tags []string
	cmd := n.verb("create", "Begin a run, to log to from a script", `  run=$(lapis run create --experiment vision --query run_id -o tsv)
  lapis run log -n "$run" --metric loss=0.3 --step 1
  lapis run update -n "$run" --status FINISHED`, func(cmd *cobra.Command, s *session) error {
		p, err := assignments("--param", params)
		if err != nil {
			return err
		}
		t, err := assignments("--tag", tags)
		if err != nil {
			return err
		}
		if parent != "" {
			t = append(t, client.Tag{Key: "mlflow.parentRunId", Value: parent})
		}
		e, err := s.Experiment(cmd.Context(), experiment)
		if err != nil {
			return err
		}
		var reply runReply
		body := map[string]any{"experiment_id": e.ID, "start_time": time.Now().UnixMilli(), "tags": t}
		if title != "" {
			body["run_name"] = title
		}
		if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/create", nil, body, &reply); err != nil {
			return err
		}
		id := reply.Run.Info.ID
		if len(p) > 0 {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/log-batch", nil, map[string]any{"run_id": id, "params": p}, nil); err != nil {
				return err
			}
		}
		v, err := runView(cmd, s, id)
		if err != nil {
			return err
		}
		return n.out.print(s.out, v, runColumns)
	})
	cmd.Flags().StringVarP(&experiment, "experiment", "e", "Default", "experiment, by name or id")
	cmd.Flags().StringVar(&title, "run-name", "", "name of the run (default one that is made up)")
	cmd.Flags().StringVar(&parent, "parent", "", "id of the run that it belongs to")
	cmd.Flags().StringArrayVar(&params, "param", nil, "KEY=VALUE (may be repeated)")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "KEY=VALUE (may be repeated)")
}

func (n *noun) runLog() {
	var name string
	var metrics, params []string
	var step int64
	cmd := n.verb("log", "Log metrics and params to a run", "  lapis run log --name RUN --metric loss=0.3 --metric acc=0.9 --step 10", func(cmd *cobra.Command, s *session) error {
		m, err := assignments("--metric", metrics)
		if err != nil {
			return err
		}
		p, err := assignments("--param", params)
		if err != nil {
			return err
		}
		if len(m)+len(p) == 0 {
			return fault.Invalid("Nothing is to be logged. Name a metric, as in --metric loss=0.3, or a param.")
		}
		var points []map[string]any
		now := time.Now().UnixMilli()
		for _, x := range m {
			if _, err := strconv.ParseFloat(x.Value, 64); err != nil {
				return fault.Invalid("--metric %s=%s: the value is not a number.", x.Key, x.Value)
			}
			points = append(points, map[string]any{"key": x.Key, "value": numberText(x.Value), "timestamp": now, "step": step})
		}
		return s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/log-batch", nil, map[string]any{"run_id": name, "metrics": points, "params": p}, nil)
	})
	n.runFlag(cmd, &name)
	cmd.Flags().StringArrayVar(&metrics, "metric", nil, "KEY=NUMBER (may be repeated)")
	cmd.Flags().StringArrayVar(&params, "param", nil, "KEY=VALUE (may be repeated)")
	cmd.Flags().Int64Var(&step, "step", 0, "step of the metrics")
}

// numberText is a number as the protocol has it: those that JSON cannot write
// are texts.
func numberText(s string) any {
	v, _ := strconv.ParseFloat(s, 64)
	switch {
	case v != v:
		return "NaN"
	case v > 1.7976931348623157e308:
		return "Infinity"
	case v < -1.7976931348623157e308:
		return "-Infinity"
	}
	return v
}

// runWords are the states that a client may give a run.
var runWords = []string{"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}

func (n *noun) runUpdate() {
	var name, title, status, description string
	cmd := n.verb("update", "Change a run's name, description or status", `  lapis run update --name RUN --run-name "second try"
  lapis run update -n RUN --status FINISHED`, func(cmd *cobra.Command, s *session) error {
		if title == "" && status == "" && description == "" {
			return fault.Invalid("Nothing is to be changed. Name a field, as in --run-name or --status.")
		}
		body := map[string]any{"run_id": name}
		if title != "" {
			body["run_name"] = title
		}
		if status != "" {
			word := strings.ToUpper(status)
			if !slices.Contains(runWords, word) {
				return fault.Invalid("--status %s: it can be %s.", status, strings.Join(runWords, ", "))
			}
			body["status"] = word
			if word != "RUNNING" && word != "SCHEDULED" {
				body["end_time"] = time.Now().UnixMilli()
			}
		}
		if title != "" || status != "" {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/update", nil, body, nil); err != nil {
				return err
			}
		}
		if description != "" {
			tag := map[string]any{"run_id": name, "key": "mlflow.note.content", "value": description}
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/set-tag", nil, tag, nil); err != nil {
				return err
			}
		}
		v, err := runView(cmd, s, name)
		if err != nil {
			return err
		}
		return n.out.print(s.out, v, runColumns)
	})
	n.runFlag(cmd, &name)
	cmd.Flags().StringVar(&title, "run-name", "", "new name")
	cmd.Flags().StringVar(&status, "status", "", strings.Join(runWords, ", ")+"; an end is dated now")
	cmd.Flags().StringVar(&description, "description", "", "new description")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(runWords, cobra.ShellCompDirectiveNoFileComp))
}

func (n *noun) runTag() {
	var name string
	var set, remove []string
	cmd := n.verb("tag", "Set and remove tags of a run", "  lapis run tag --name RUN --set team=eyes --set good=yes --remove draft", func(cmd *cobra.Command, s *session) error {
		tags, err := assignments("--set", set)
		if err != nil {
			return err
		}
		if len(tags)+len(remove) == 0 {
			return fault.Invalid("Nothing is to be changed. Name a tag, as in --set team=eyes or --remove draft.")
		}
		if len(tags) > 0 {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/log-batch", nil, map[string]any{"run_id": name, "tags": tags}, nil); err != nil {
				return err
			}
		}
		for _, key := range remove {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/delete-tag", nil, map[string]any{"run_id": name, "key": key}, nil); err != nil {
				return err
			}
		}
		v, err := runView(cmd, s, name)
		if err != nil {
			return err
		}
		return n.out.print(s.out, v["tags"], nil)
	})
	n.runFlag(cmd, &name)
	setFlag(cmd, &set, "KEY=VALUE")
	cmd.Flags().StringArrayVar(&remove, "remove", nil, "key of a tag to remove (may be repeated)")
}

func (n *noun) runDelete() {
	var names []string
	var permanent, keep, yes bool
	cmd := n.verb("delete", "Delete runs; they can be restored, unless it is for good", `  lapis run delete --name RUN
  lapis run delete -n RUN -n RUN --permanent --yes`, func(cmd *cobra.Command, s *session) error {
		if keep && !permanent {
			return fault.Invalid("--keep-artifacts goes with --permanent: a run that can be restored keeps its artefacts.")
		}
		if permanent && !yes {
			question := fmt.Sprintf("Delete the run %s for good, with its metrics and artefacts?", names[0])
			if len(names) > 1 {
				question = fmt.Sprintf("Delete %d runs for good, with their metrics and artefacts?", len(names))
			}
			if err := confirm(cmd, question); err != nil {
				return err
			}
		}
		for _, name := range names {
			var err error
			if permanent {
				err = s.MLflow(cmd.Context(), http.MethodDelete, "lapis/runs/"+name, keepQuery(keep), nil, nil)
			} else {
				err = s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/delete", nil, map[string]any{"run_id": name}, nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	n.runsFlag(cmd, &names)
	cmd.Flags().BoolVar(&permanent, "permanent", false, "for good, with metrics and artefacts")
	cmd.Flags().BoolVar(&keep, "keep-artifacts", false, "with --permanent, leave the artefacts")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")

	cmd = n.verb("restore", "Bring deleted runs back", "  lapis run restore --name RUN", func(cmd *cobra.Command, s *session) error {
		for _, name := range names {
			if err := s.MLflow(cmd.Context(), http.MethodPost, "2.0/mlflow/runs/restore", nil, map[string]any{"run_id": name}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	n.runsFlag(cmd, &names)
}

func keepQuery(keep bool) url.Values {
	if keep {
		return url.Values{"keep_artifacts": {"true"}}
	}
	return nil
}
