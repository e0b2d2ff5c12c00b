package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/fault"
)

const runExample = `  lapis run list --experiment vision --filter "metrics.acc > 0.9" --order-by "metrics.acc DESC" -o table
  lapis run compare RUN RUN --changed -o table
  lapis run download --name RUN --path model`

func runCommand() *cobra.Command {
	n := (&noun{name: "run", title: "run"}).start("Look at runs, compare them and bring their files", runExample)
	n.runList()
	n.runShow()
	n.runCompare()
	n.runMetrics()
	n.runFiles()
	n.runCreate()
	n.runLog()
	n.runUpdate()
	n.runTag()
	n.runDelete()
	return n.cmd
}

// runFlag adds --name for a run, completed with the newest there are.
func (n *noun) runFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "name", "n", "", "id of the run")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("name", n.completeRun)
}

func (n *noun) completeRun(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	s, err := n.scope.open(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	t, err := s.RunTable(cmd.Context(), client.RunQuery{Sources: []client.RunSource{{Workspace: s.Workspace, Experiments: n.everyExperiment(cmd, s)}}, Columns: []string{"run_id", "run_name"}, Most: 200})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, row := range t.Rows {
		if id := jsonText(row[0]); strings.HasPrefix(id, prefix) {
			names = append(names, id+"\t"+jsonText(row[1]))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (n *noun) everyExperiment(cmd *cobra.Command, s *session) []string {
	all, _ := s.Experiments(cmd.Context(), client.ExperimentSearch{})
	ids := make([]string, 0, len(all))
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	return ids
}

func jsonText(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// viewFlags choose by lifecycle.
type viewFlags struct{ all, deleted bool }

func (v *viewFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&v.all, "include-deleted", false, "list deleted ones too")
	cmd.Flags().BoolVar(&v.deleted, "deleted-only", false, "list deleted ones alone")
	cmd.MarkFlagsMutuallyExclusive("include-deleted", "deleted-only")
}

func (v *viewFlags) view() string {
	switch {
	case v.all:
		return "ALL"
	case v.deleted:
		return "DELETED_ONLY"
	}
	return "ACTIVE_ONLY"
}

// defaultColumns are those of a list of runs that asks for none.
var defaultColumns = []string{"run_id", "run_name", "experiment_name", "status", "start_time", "end_time"}

// runSources finds where the runs of a list come from, and the names of the
// experiments by workspace and id.
func runSources(cmd *cobra.Command, s *session, workspaces, experiments []string, view string) ([]client.RunSource, map[string]string, error) {
	if len(workspaces) == 0 {
		workspaces = []string{s.Workspace}
	}
	// Deleted runs may be in deleted experiments.
	if view == "ACTIVE_ONLY" {
		view = ""
	} else {
		view = "ALL"
	}
	names := map[string]string{}
	var sources []client.RunSource
	for _, w := range workspaces {
		k := s.Client
		if w != s.Workspace {
			k = s.In(w)
		}
		source := client.RunSource{Workspace: w}
		all, err := k.Experiments(cmd.Context(), client.ExperimentSearch{View: "ALL"})
		if err != nil {
			return nil, nil, err
		}
		for _, e := range all {
			names[w+"/"+e.ID] = e.Name
			if len(experiments) == 0 && (view == "ALL" || e.Lifecycle == "active") {
				source.Experiments = append(source.Experiments, e.ID)
			}
		}
		for _, name := range experiments {
			e, err := k.Experiment(cmd.Context(), name)
			if err != nil {
				return nil, nil, err
			}
			source.Experiments = append(source.Experiments, e.ID)
		}
		sources = append(sources, source)
	}
	return sources, names, nil
}

// runRows makes objects of a table. Times are texts, as in other lists.
func runRows(t client.RunTable, columns []string, names map[string]string) ([]map[string]any, []string, error) {
	at := map[string]int{}
	for i, c := range t.Columns {
		at[c] = i
	}
	// "metrics.*" became the metrics that there are.
	var shown []string
	for _, c := range columns {
		group, star := strings.CutSuffix(c, ".*")
		if !star {
			shown = append(shown, c)
			continue
		}
		for _, found := range t.Columns {
			if strings.HasPrefix(found, group+".") && !slices.Contains(columns, found) {
				shown = append(shown, found)
			}
		}
	}
	rows := []map[string]any{}
	for _, values := range t.Rows {
		row := map[string]any{}
		for _, c := range shown {
			if c == "experiment_name" {
				row[c] = names[jsonText(values[at["workspace"]])+"/"+jsonText(values[at["experiment_id"]])]
				continue
			}
			i, ok := at[c]
			if !ok || len(values[i]) == 0 {
				row[c] = nil
				continue
			}
			var v any
			if err := json.Unmarshal(values[i], &v); err != nil {
				return nil, nil, err
			}
			row[c] = v
			if c == "start_time" || c == "end_time" {
				ms, _ := v.(float64)
				row[c] = timeText(int64(ms))
			}
		}
		rows = append(rows, row)
	}
	return rows, shown, nil
}

// timeText is a time in Unix ms as lists show it; nil for none.
func timeText(ms int64) any {
	if ms <= 0 {
		return nil
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// asked are the columns that the server is asked for.
func asked(columns []string) []string {
	var list []string
	for _, c := range columns {
		if c != "experiment_name" {
			list = append(list, c)
		}
	}
	for _, need := range []string{"workspace", "experiment_id"} {
		if slices.Contains(columns, "experiment_name") && !slices.Contains(list, need) {
			list = append(list, need)
		}
	}
	return list
}

func (n *noun) runList() {
	var experiments, workspaces, columns, order []string
	var filter string
	var most int
	var everything, count bool
	var view viewFlags
	cmd := n.verb("list", "List runs, with the columns that you choose", `  lapis run list -o table
  lapis run list --experiment vision --columns run_name,params.lr,metrics.acc --order-by "metrics.acc DESC" -o table
  lapis run list --columns "run_id,params.*,metrics.*" --filter "attributes.status = 'FINISHED' AND tags.team = 'eyes'"
  lapis run list --workspaces main,research --columns workspace,run_name,metrics.acc -o table
  lapis run list --deleted-only
  lapis run list --filter "metrics.loss < 0.1" --count`, func(cmd *cobra.Command, s *session) error {
		if most < 0 {
			return fault.Invalid("--max-results %d: it cannot be negative.", most)
		}
		if most == 0 && !everything {
			most = defaultJobs
		}
		if everything {
			most = 0
		}
		if len(columns) == 0 {
			columns = defaultColumns
			if len(workspaces) > 1 {
				columns = append([]string{"workspace"}, columns...)
			}
		}
		sources, names, err := runSources(cmd, s, workspaces, experiments, view.view())
		if err != nil {
			return err
		}
		q := client.RunQuery{Sources: sources, Columns: asked(columns), Filter: filter, Order: order, View: view.view(), Most: most}
		if count {
			q.Columns, q.Most = []string{"run_id"}, 1
		}
		t, err := s.RunTable(cmd.Context(), q)
		if err != nil {
			return err
		}
		if count {
			return n.out.print(s.out, map[string]any{"runs": t.Total}, nil)
		}
		rows, shown, err := runRows(t, columns, names)
		if err != nil {
			return err
		}
		if err := n.out.print(s.out, rows, shown); err != nil {
			return err
		}
		if t.Total > len(rows) && (n.out.format == "table" || s.progress.on) {
			fmt.Fprintf(s.progress.w, "%d of %d runs are shown; --max-results or --all-results shows more.\n", len(rows), t.Total)
		}
		return nil
	})
	fl := cmd.Flags()
	fl.StringArrayVarP(&experiments, "experiment", "e", nil, "runs of this experiment, by name or id (may be repeated; default all)")
	fl.StringSliceVar(&workspaces, "workspaces", nil, "runs of these workspaces of the resource group")
	fl.StringSliceVarP(&columns, "columns", "c", nil, "what to show: run_id, run_name, experiment_name, status, start_time …, and metrics.KEY, params.KEY, tags.KEY, where KEY may be *")
	fl.StringVar(&filter, "filter", "", "MLflow's filter, as in \"metrics.acc > 0.9 AND params.lr = '0.1'\"")
	fl.StringArrayVar(&order, "order-by", nil, "key to sort by, as in \"metrics.acc DESC\" (may be repeated; default the newest first)")
	fl.IntVarP(&most, "max-results", "r", 0, fmt.Sprintf("how many to list at most (default %d)", defaultJobs))
	fl.BoolVar(&everything, "all-results", false, "list all, however many there are")
	fl.BoolVar(&count, "count", false, "say how many there are in place of listing them")
	view.register(cmd)
}

// runReply is a run as MLflow's protocol shows it.
type runReply struct {
	Run struct {
		Info struct {
			ID         string `json:"run_id"`
			Name       string `json:"run_name"`
			Experiment string `json:"experiment_id"`
			User       string `json:"user_id"`
			Status     string `json:"status"`
			Start      int64  `json:"start_time"`
			End        int64  `json:"end_time"`
			Lifecycle  string `json:"lifecycle_stage"`
			Artifact   string `json:"artifact_uri"`
		}
		Data struct {
			Metrics []struct {
				Key   string
				Value any
			}
			Params []client.Tag
			Tags   []client.Tag
		}
		Inputs struct {
			Datasets []struct {
				Dataset struct{ Name, Digest string }
			} `json:"dataset_inputs"`
			Models []struct {
				ID string `json:"model_id"`
			} `json:"model_inputs"`
		}
		Outputs struct {
			Models []struct {
				ID string `json:"model_id"`
			} `json:"model_outputs"`
		}
	}
}

func asObject(tags []client.Tag) map[string]any {
	m := map[string]any{}
	for _, t := range tags {
		m[t.Key] = t.Value
	}
	return m
}

// runView is what show prints of a run.
func runView(cmd *cobra.Command, s *session, id string) (map[string]any, error) {
	var reply runReply
	if err := s.MLflow(cmd.Context(), http.MethodGet, "2.0/mlflow/runs/get", url.Values{"run_id": {id}}, nil, &reply); err != nil {
		return nil, err
	}
	r := reply.Run
	metrics := map[string]any{}
	for _, m := range r.Data.Metrics {
		metrics[m.Key] = m.Value
	}
	v := map[string]any{
		"run_id": r.Info.ID, "run_name": r.Info.Name, "experiment_id": r.Info.Experiment, "user_id": r.Info.User, "status": r.Info.Status,
		"start_time": timeText(r.Info.Start), "end_time": timeText(r.Info.End), "lifecycle_stage": r.Info.Lifecycle, "artifact_uri": r.Info.Artifact,
		"params": asObject(r.Data.Params), "tags": asObject(r.Data.Tags), "metrics": metrics,
	}
	var e struct{ Experiment client.Experiment }
	if err := s.MLflow(cmd.Context(), http.MethodGet, "2.0/mlflow/experiments/get", url.Values{"experiment_id": {r.Info.Experiment}}, nil, &e); err == nil {
		v["experiment_name"] = e.Experiment.Name
	}
	var datasets, inputs, outputs []any
	for _, d := range r.Inputs.Datasets {
		datasets = append(datasets, map[string]any{"name": d.Dataset.Name, "digest": d.Dataset.Digest})
	}
	for _, m := range r.Inputs.Models {
		inputs = append(inputs, m.ID)
	}
	for _, m := range r.Outputs.Models {
		outputs = append(outputs, m.ID)
	}
	for key, list := range map[string][]any{"datasets": datasets, "model_inputs": inputs, "model_outputs": outputs} {
		if list != nil {
			v[key] = list
		}
	}
	for key, value := range v {
		if value == nil || value == "" {
			delete(v, key)
		}
	}
	return v, nil
}

// runColumns are those of one run in a table.
var runColumns = []string{"run_id", "run_name", "experiment_name", "status", "start_time", "end_time"}

func (n *noun) runShow() {
	var name string
	var counts bool
	cmd := n.verb("show", "Show a run", `  lapis run show --name RUN
  lapis run show -n RUN --query metrics
  lapis run show -n RUN --counts`, func(cmd *cobra.Command, s *session) error {
		v, err := runView(cmd, s, name)
		if err != nil {
			return err
		}
		if counts {
			var c map[string]any
			if err := s.MLflow(cmd.Context(), http.MethodGet, "lapis/runs/"+name+"/counts", nil, nil, &c); err != nil {
				return err
			}
			v["counts"] = map[string]any{"points": c["points"], "metrics": c["metrics"]}
		}
		return n.out.print(s.out, v, runColumns)
	})
	n.runFlag(cmd, &name)
	cmd.Flags().BoolVar(&counts, "counts", false, "say of each metric how many points it has")
}

func (n *noun) runCompare() {
	var columns []string
	var changed bool
	cmd := n.verb("compare RUN RUN...", "Show runs side by side, also of several workspaces", `  lapis run compare RUN RUN -o table
  lapis run compare RUN research/RUN --columns "params.*,metrics.acc" --changed -o table`, nil)
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.ValidArgsFunction = n.completeRun
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := n.out.check(); err != nil {
			return err
		}
		s, err := n.scope.open(cmd)
		if err != nil {
			return err
		}
		defer s.progress.clear()
		if len(columns) == 0 {
			columns = []string{"run_name", "experiment_name", "status", "start_time", "end_time", "params.*", "metrics.*"}
		}
		// One source for each run, so that they come in the order of the words.
		names := map[string]string{}
		var rows []map[string]any
		var fields []string
		for _, word := range args {
			w, id, ok := strings.Cut(word, "/")
			if !ok {
				w, id = s.Workspace, word
			}
			if _, read := names[w]; !read {
				names[w] = ""
				_, found, err := runSources(cmd, s, []string{w}, nil, "ALL")
				if err != nil {
					return err
				}
				maps.Copy(names, found)
			}
			t, err := s.RunTable(cmd.Context(), client.RunQuery{Sources: []client.RunSource{{Workspace: w, Runs: []string{id}}}, Columns: asked(columns), View: "ALL"})
			if err != nil {
				return err
			}
			found, shown, err := runRows(t, columns, names)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				return fault.NotFound("There is no run %q in the workspace %q.", id, w)
			}
			rows = append(rows, found[0])
			for _, c := range shown {
				if !slices.Contains(fields, c) {
					fields = append(fields, c)
				}
			}
		}
		result := []map[string]any{}
		for _, c := range fieldsInOrder(fields, columns) {
			line := map[string]any{"field": c}
			same := true
			for i, word := range args {
				line[word] = rows[i][c]
				same = same && fmt.Sprint(rows[i][c]) == fmt.Sprint(rows[0][c])
			}
			if !changed || !same {
				result = append(result, line)
			}
		}
		return n.out.print(s.out, result, append([]string{"field"}, args...))
	}
	cmd.Flags().StringSliceVarP(&columns, "columns", "c", nil, "what to compare (default name, experiment, status, times, params.*, metrics.*)")
	cmd.Flags().BoolVar(&changed, "changed", false, "only what is not the same in all")
}

// fieldsInOrder puts fields that several runs have in the order of the columns
// asked for, and by name within a "*".
func fieldsInOrder(fields, columns []string) []string {
	var list []string
	for _, c := range columns {
		group, star := strings.CutSuffix(c, ".*")
		if !star {
			if slices.Contains(fields, c) && !slices.Contains(list, c) {
				list = append(list, c)
			}
			continue
		}
		var of []string
		for _, f := range fields {
			if strings.HasPrefix(f, group+".") && !slices.Contains(list, f) {
				of = append(of, f)
			}
		}
		slices.Sort(of)
		list = append(list, of...)
	}
	return list
}

func (n *noun) runMetrics() {
	var name, key string
	var points int
	cmd := n.verb("metrics", "Show the latest value of each metric, or the course of one", `  lapis run metrics --name RUN -o table
  lapis run metrics -n RUN --metric loss --points 20 -o table`, func(cmd *cobra.Command, s *session) error {
		if key == "" {
			v, err := runView(cmd, s, name)
			if err != nil {
				return err
			}
			m, _ := v["metrics"].(map[string]any)
			if n.out.format != "table" && n.out.format != "tsv" {
				return n.out.print(s.out, m, nil)
			}
			rows := []map[string]any{}
			for _, k := range slices.Sorted(maps.Keys(m)) {
				rows = append(rows, map[string]any{"metric": k, "value": m[k]})
			}
			return n.out.print(s.out, rows, []string{"metric", "value"})
		}
		if points < 1 || points > 10000 {
			return fault.Invalid("--points %d: from 1 to 10000 can be shown.", points)
		}
		var reply struct {
			Series []struct {
				Count  int
				Points [][3]any
			}
		}
		q := url.Values{"run_id": {name}, "key": {key}, "buckets": {strconv.Itoa(max(1, points/2))}}
		if err := s.MLflow(cmd.Context(), http.MethodGet, "lapis/metrics/chart", q, nil, &reply); err != nil {
			return err
		}
		rows := []map[string]any{}
		for _, series := range reply.Series {
			for _, p := range series.Points {
				ms, _ := p[1].(float64)
				rows = append(rows, map[string]any{"step": p[0], "time": timeText(int64(ms)), "value": p[2]})
			}
		}
		if len(rows) == 0 {
			return fault.NotFound("The run %s has no metric %q. `lapis run metrics -n %s` lists those that it has.", name, key, name)
		}
		return n.out.print(s.out, rows, []string{"step", "time", "value"})
	})
	n.runFlag(cmd, &name)
	cmd.Flags().StringVar(&key, "metric", "", "show the course of this metric: the peaks stay, however few points")
	cmd.Flags().IntVar(&points, "points", 100, "how many points to show, about")
}

// printFiles prints the files of a run or a job.
func (n *noun) printFiles(s *session, list []client.Artifact) error {
	rows := []map[string]any{}
	for _, a := range list {
		rows = append(rows, map[string]any{"path": a.Path, "size": a.Size})
	}
	return n.out.print(s.out, rows, []string{"path", "size"})
}

func (n *noun) runFiles() {
	var name, path string
	cmd := n.verb("files", "List the artefacts of a run", "  lapis run files --name RUN -o table", func(cmd *cobra.Command, s *session) error {
		list, err := s.RunArtifacts(cmd.Context(), name, path)
		if err != nil {
			return err
		}
		return n.printFiles(s, list)
	})
	n.runFlag(cmd, &name)
	cmd.Flags().StringVar(&path, "path", "", "folder of the artefacts (default all)")

	var from, dir, zip string
	cmd = n.verb("download", "Download the artefacts of a run", `  lapis run download --name RUN --download-path results
  lapis run download -n RUN --path model
  lapis run download -n RUN --path plots --zip plots.zip`, func(cmd *cobra.Command, s *session) error {
		if zip != "" {
			if _, err := os.Stat(zip); err == nil {
				return fault.Conflicts("%s is there already. Remove it, or name another file.", zip)
			}
			s.progress.stage("Downloading " + zip + " …")
			size, err := s.ZipRun(cmd.Context(), name, from, zip)
			if err != nil {
				return err
			}
			s.progress.say("Downloaded %s to %s", bytesText(size), zip)
			return nil
		}
		count, size, err := s.DownloadRun(cmd.Context(), name, from, dir)
		if err != nil {
			return err
		}
		if count == 0 {
			s.progress.say("The run has no artefacts.")
			return nil
		}
		s.progress.say("Downloaded %d files (%s) to %s", count, bytesText(size), dir)
		return nil
	})
	n.runFlag(cmd, &name)
	cmd.Flags().StringVar(&from, "path", "", "file or folder of the artefacts (default all)")
	cmd.Flags().StringVarP(&dir, "download-path", "p", ".", "folder to download to")
	cmd.Flags().StringVar(&zip, "zip", "", "write one zip file of this name in place of the files")
	cmd.MarkFlagsMutuallyExclusive("download-path", "zip")
	_ = cmd.MarkFlagDirname("download-path")
}

// runsFlag adds --name for one run or more.
func (n *noun) runsFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVarP(to, "name", "n", nil, "id of the run (may be repeated)")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("name", n.completeRun)
}
