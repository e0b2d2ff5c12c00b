package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

func jobCommand() *cobra.Command {
	n := (&noun{
		name: "job", collection: "jobs",
		columns: []string{"name", "status", "type", "display_name", "experiment_name", "compute", "creation_context.created_at"},
	}).start("Run jobs and follow them", `  lapis job create --file job.yml --stream
  lapis job list --max-results 10 --output table
  lapis job show --name NAME --query status --output tsv`)

	f := &createFlags{}
	var stream, web bool
	create := n.create("create", "Create a job from a YAML file", `  lapis job create -f job.yml
  lapis job create -f job.yml --stream
  lapis job create -f job.yml --set inputs.lr=0.1 --set compute=azureml:cpu-cluster
  lapis job create -f job.yml --query name -o tsv`, f, func(cmd *cobra.Command, s *session, r spec.Result) error {
		name := r.Path[strings.LastIndexByte(r.Path, '/')+1:]
		if !stream {
			return n.print(s, r.Reply)
		}
		if err := streamJob(cmd.Context(), s, name); err != nil {
			return err
		}
		if n.out.format == "" && n.out.query == "" {
			return nil
		}
		raw, err := s.Get(cmd.Context(), r.Path)
		if err != nil {
			return err
		}
		return n.print(s, raw)
	})
	create.Flags().BoolVarP(&stream, "stream", "s", false, "follow the job's log until it ends")
	create.Flags().BoolVarP(&web, "web", "e", false, "taken for the sake of scripts; no browser is opened")
	_ = create.Flags().MarkHidden("web")
	f.field(create, "compute", "", "compute", "compute target; overrides the file")
	f.field(create, "experiment-name", "", "experiment_name", "experiment; overrides the file")

	n.show("  lapis job show --name NAME")
	list := n.list(`  lapis job list --max-results 10 -o table
  lapis job list --query "[?status=='Failed'].name" -o tsv
  lapis job list --parent-job-name NAME -o table`, nil)
	n.children(list)

	var name string
	cmd := n.verb("stream", "Follow the log of a job until it ends", "  lapis job stream --name NAME", func(cmd *cobra.Command, s *session) error {
		return streamJob(cmd.Context(), s, name)
	})
	n.nameFlag(cmd, &name)

	cmd = n.verb("cancel", "Cancel a job", "  lapis job cancel --name NAME", func(cmd *cobra.Command, s *session) error {
		return s.Cancel(cmd.Context(), name)
	})
	n.nameFlag(cmd, &name)

	var output, dir string
	var all bool
	cmd = n.verb("download", "Download the logs and outputs of a job", `  lapis job download --name NAME                      logs and ./outputs
  lapis job download --name NAME --output-name model  one named output
  lapis job download --name NAME --all --download-path results`, func(cmd *cobra.Command, s *session) error {
		count, err := s.Download(cmd.Context(), name, output, all, dir)
		if err != nil {
			return err
		}
		s.progress.clear()
		if count == 0 {
			s.progress.say("The job wrote no files.")
		} else {
			s.progress.say("Downloaded %d files to %s", count, dir)
		}
		return nil
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVar(&output, "output-name", "", "one output alone; default is the job's logs and ./outputs")
	cmd.Flags().StringVarP(&dir, "download-path", "p", ".", "folder to download to")
	cmd.Flags().BoolVar(&all, "all", false, "logs, ./outputs and every named output")
	cmd.MarkFlagsMutuallyExclusive("all", "output-name")
	_ = cmd.MarkFlagDirname("download-path")

	n.archive()
	n.remove("  lapis job delete --name NAME", true, nil)

	var set, removed []string
	cmd = n.verb("update", "Change a job's display name, description or tags", `  lapis job update --name NAME --set display_name="second try" --set tags.good=yes`, func(cmd *cobra.Command, s *session) error {
		change, err := runChange(set, removed)
		if err != nil {
			return err
		}
		if err := s.ChangeRun(cmd.Context(), name, change); err != nil {
			return err
		}
		raw, err := s.Get(cmd.Context(), s.Path("jobs", name))
		if err != nil {
			return err
		}
		return n.print(s, raw)
	})
	n.nameFlag(cmd, &name)
	setFlag(cmd, &set, "display_name=…, description=… or tags.KEY=…")
	removeFlag(cmd, &removed)
	cmd.MarkFlagsOneRequired("set", "remove")

	cmd = n.verb("show-services", "Show the services of a running job", "  lapis job show-services --name NAME", func(cmd *cobra.Command, s *session) error {
		raw, err := s.Get(cmd.Context(), s.Path("jobs", name))
		if err != nil {
			return err
		}
		v, err := client.View("job", raw)
		if err != nil {
			return err
		}
		return n.out.print(s.out, v["services"], nil)
	})
	n.nameFlag(cmd, &name)

	cmd = n.verb("metrics", "Show the latest value of each metric", "  lapis job metrics --name NAME", func(cmd *cobra.Command, s *session) error {
		m, err := s.Metrics(cmd.Context(), name)
		if err != nil {
			return err
		}
		if n.out.format == "table" || n.out.format == "tsv" {
			rows := []map[string]any{}
			for key, value := range m {
				rows = append(rows, map[string]any{"metric": key, "value": value})
			}
			slices.SortFunc(rows, func(a, b map[string]any) int {
				return strings.Compare(a["metric"].(string), b["metric"].(string))
			})
			return n.out.print(s.out, rows, []string{"metric", "value"})
		}
		return n.out.print(s.out, m, nil)
	})
	n.nameFlag(cmd, &name)

	cmd = n.verb("files", "List the logs and outputs of a job", "  lapis job files --name NAME -o table", func(cmd *cobra.Command, s *session) error {
		list, err := s.Artifacts(cmd.Context(), name)
		if err != nil {
			return err
		}
		return n.printFiles(s, list)
	})
	n.nameFlag(cmd, &name)

	v := &createFlags{}
	validate := &cobra.Command{
		Use: "validate", Short: "Say what is wrong with a job's file, without a server",
		Example: "  lapis job validate --file job.yml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := v.document(cmd, "job")
			if err != nil {
				return err
			}
			if err := spec.Check(cmd.Context(), d, "job", spec.Options{Target: n.scope.offline()}); err != nil {
				return err
			}
			return n.out.print(cmd.OutOrStdout(), map[string]any{"result": "Succeeded"}, nil)
		},
	}
	v.register(validate)
	n.cmd.AddCommand(validate)
	n.notYet("connect-ssh", "Open a shell in a running job")
	return n.cmd
}

// children lets list show what one job has started.
func (n *noun) children(list *cobra.Command) {
	parent := list.Flags().String("parent-job-name", "", "list the runs that this job has started")
	jobs := list.RunE
	list.RunE = func(cmd *cobra.Command, args []string) error {
		if *parent == "" {
			return jobs(cmd, args)
		}
		if err := n.out.check(); err != nil {
			return err
		}
		s, err := n.scope.open(cmd)
		if err != nil {
			return err
		}
		defer s.progress.clear()
		all, err := s.Children(cmd.Context(), *parent)
		if err != nil {
			return err
		}
		most, _ := cmd.Flags().GetInt("max-results")
		alone, _ := cmd.Flags().GetBool("archived-only")
		both, _ := cmd.Flags().GetBool("include-archived")
		rows := []any{}
		for _, r := range all {
			if r["is_archived"] == alone || both {
				rows = append(rows, r)
			}
			if len(rows) == most && most > 0 {
				break
			}
		}
		return n.out.print(s.out, rows, []string{"name", "status", "type", "display_name"})
	}
}

func runChange(set, removed []string) (client.RunChange, error) {
	var c client.RunChange
	for _, field := range removed {
		key, ok := strings.CutPrefix(field, "tags.")
		if !ok {
			return c, fault.Invalid("--remove %s: of a job, tags can be removed, as in --remove tags.KEY.", field)
		}
		if c.Tags == nil {
			c.Tags = map[string]*string{}
		}
		c.Tags[key] = nil
	}
	for _, a := range set {
		field, value, ok := strings.Cut(a, "=")
		switch {
		case !ok:
			return c, fault.Invalid("--set %s: write it as --set FIELD=VALUE.", a)
		case field == "display_name":
			c.DisplayName = &value
		case field == "description":
			c.Description = &value
		case strings.HasPrefix(field, "tags."):
			if c.Tags == nil {
				c.Tags = map[string]*string{}
			}
			c.Tags[strings.TrimPrefix(field, "tags.")] = &value
		default:
			return c, fault.Invalid("--set %s: this field of a job cannot be changed; display_name, description and tags.KEY can.", field)
		}
	}
	return c, nil
}

// streamJob copies a job's log to the output until the job has ended. A job
// that failed is an error, with its reason.
func streamJob(ctx context.Context, s *session, name string) error {
	// Whoever reads the log later needs the name to come back to it.
	fmt.Fprintln(s.progress.w, "Job", name)
	began := time.Now()
	building := false
	r, err := s.Stream(ctx, name, client.Follow{
		Out: s.out,
		Build: func(line string) {
			building = true
			if line = strings.TrimSpace(line); line != "" {
				s.progress.stage("Building the environment: " + line)
			}
		},
		Status: func(status, reason string) {
			if building && status != "Preparing" {
				building = false
			}
			if client.Ended(status) {
				return
			}
			text := status + " …"
			if reason != "" {
				text = status + ": " + reason
			}
			if !building {
				s.progress.stage(text)
			}
		},
	})
	s.progress.clear()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			s.progress.say("The job goes on. Follow it again with `lapis job stream --name %s`; end it with `lapis job cancel --name %s`.", name, name)
		}
		return err
	}
	took := time.Since(began).Round(time.Second)
	switch r.Status {
	case "Completed":
		s.progress.say("Job %s completed after %s.", name, took)
		return nil
	case "Canceled":
		fmt.Fprintln(s.progress.w, "Job "+name+" was canceled.")
		return nil
	}
	why := ""
	if r.Error != nil {
		why = ": " + strings.TrimSpace(r.Error.Error.Message)
	}
	if r.Status == "Failed" {
		return fault.Conflicts("Job %s failed%s", name, why)
	}
	return fault.Conflicts("Job %s is %s%s", name, r.Status, why)
}
