package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

func onlineDeploymentCommand() *cobra.Command {
	o := &onlineFlags{}
	n := (&noun{
		name: "online-deployment", title: "deployment", collection: "deployments", lasting: true,
		columns: []string{"name", "endpoint_name", "instance_type", "instance_count", "provisioning_state"},
		below:   func(s *session) string { return s.EndpointPath(o.endpoint) },
	}).start("Manage online deployments: the models behind an endpoint", `  lapis online-deployment create -f blue.yml --all-traffic
  lapis online-deployment get-logs --name blue --endpoint-name iris
  lapis online-deployment update --name blue --endpoint-name iris --set instance_count=2`)
	o.register(n)
	n.createDeployment(o)
	n.updateDeployment(o)
	n.showDeployment(o)
	n.listDeployments(o)
	n.deleteDeployment(o)
	n.logs(o)
	n.endpointFlag(n.rollback(o, "Go back to the version before the last update", "  lapis online-deployment rollback --name blue --endpoint-name iris"), o)
	for _, cmd := range n.cmd.Commands() {
		truths(cmd)
	}
	return n.cmd
}

// endpointFlag adds --endpoint-name, and completes it with what there is.
func (n *noun) endpointFlag(cmd *cobra.Command, o *onlineFlags) {
	cmd.Flags().StringVarP(&o.endpoint, "endpoint-name", "e", "", "name of the endpoint")
	_ = cmd.MarkFlagRequired("endpoint-name")
	n.completeEndpoints(cmd)
}

func (n *noun) completeEndpoints(cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("endpoint-name", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		s, err := n.scope.open(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for raw, err := range s.List(cmd.Context(), s.Path("onlineEndpoints"), nil) {
			var r struct{ Name string }
			if err != nil || json.Unmarshal(raw, &r) != nil || len(names) >= 200 {
				break
			}
			if strings.HasPrefix(r.Name, prefix) {
				names = append(names, r.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// scriptFlags are those of az ml that say how a deployment's code is looked at.
type scriptFlags struct {
	skip, debug, gpu, pack bool
}

func (f *scriptFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.skip, "skip-script-validation", false, "do not look whether the scoring script is there and is Python")
	for name, to := range map[string]*bool{"vscode-debug": &f.debug, "local-enable-gpu": &f.gpu, "package-model": &f.pack} {
		cmd.Flags().BoolVar(to, name, false, "")
		_ = cmd.Flags().MarkHidden(name)
	}
}

func (f *scriptFlags) options(o *spec.Options) error {
	switch {
	case f.debug:
		return notOffered("--vscode-debug")
	case f.gpu:
		return notOffered("--local-enable-gpu")
	case f.pack:
		return notOffered("--package-model")
	}
	o.SkipScript, o.Script = f.skip, pythonScript
	return nil
}

// deploy sends a deployment's file and waits until it answers or has failed.
func (n *noun) deploy(ctx context.Context, s *session, o *onlineFlags, d *spec.Document, options spec.Options) (spec.Result, error) {
	// What is wrong with the file comes first, then what the server lacks; and
	// nothing is uploaded for an endpoint that is not there.
	options.Target = s.Target
	if err := spec.Check(ctx, d, n.name, options); err != nil {
		return spec.Result{}, err
	}
	o.endpoint = d.EndpointName()
	if _, err := o.checkEndpoint(ctx, s, o.endpoint); err != nil {
		return spec.Result{}, err
	}
	if s.NoWait {
		return s.Create(ctx, d, n.name, options)
	}
	stop := follow(ctx, s, o.endpoint, d.Name())
	r, err := s.Create(ctx, d, n.name, options)
	stop()
	if err != nil {
		return r, withLog(ctx, s, o.endpoint, d.Name(), err)
	}
	return r, nil
}

func (n *noun) createDeployment(o *onlineFlags) {
	f, script := &createFlags{}, &scriptFlags{}
	var all bool
	f.options = func(_ *cobra.Command, options *spec.Options) error { return script.options(options) }
	f.send = func(ctx context.Context, s *session, d *spec.Document, options spec.Options) (spec.Result, error) {
		s.NoWait = s.NoWait && !all && !o.local // traffic goes to what answers
		return n.deploy(ctx, s, o, d, options)
	}
	cmd := n.create("create", "Create a deployment from a file, and wait until it answers", `  lapis online-deployment create -f blue.yml --all-traffic
  lapis online-deployment create -f green.yml --endpoint-name iris --name green`, f, func(cmd *cobra.Command, s *session, r spec.Result) error {
		if !all && o.local {
			// A local endpoint answers as soon as it has a deployment.
			e, err := s.Endpoint(cmd.Context(), o.endpoint)
			if err != nil {
				return err
			}
			all = len(e.Properties.Traffic) == 0
		}
		if all {
			s.progress.stage("Giving it all traffic …")
			name := r.Path[strings.LastIndex(r.Path, "/")+1:]
			if _, err := s.SetTraffic(cmd.Context(), o.endpoint, map[string]int{name: 100}); err != nil {
				return fmt.Errorf("the deployment %q answers, and gets no traffic: %w", name, err)
			}
			s.progress.clear()
		}
		return n.print(s, r.Reply)
	})
	f.field(cmd, "endpoint-name", "e", "endpoint_name", "name of the endpoint; overrides the file")
	n.completeEndpoints(cmd)
	cmd.Flags().BoolVar(&all, "all-traffic", false, "then give the deployment all requests of the endpoint, once it answers: --no-wait waits for that")
	script.register(cmd)
}

func (n *noun) updateDeployment(o *onlineFlags) {
	var name, file string
	var set, removed []string
	script := &scriptFlags{}
	cmd := n.verb("update", "Change a deployment; the version before answers until the new one does", `  lapis online-deployment update --name blue --endpoint-name iris --set instance_count=2
  lapis online-deployment update -f blue.yml`, func(cmd *cobra.Command, s *session) error {
		var options spec.Options
		if err := script.options(&options); err != nil {
			return err
		}
		var d *spec.Document
		var err error
		if file != "" {
			f := &createFlags{file: file, name: name, set: set}
			if d, err = f.document(cmd, n.name); err != nil {
				return err
			}
			if o.endpoint != "" {
				if err := d.Put("--endpoint-name", "endpoint_name", o.endpoint); err != nil {
					return err
				}
			}
			if d.Name() == "" || d.EndpointName() == "" {
				return spec.Check(cmd.Context(), d, n.name, options)
			}
			o.endpoint = d.EndpointName()
			if _, err := s.Get(cmd.Context(), n.path(s, d.Name())); err != nil {
				return err
			}
		} else {
			switch {
			case name == "":
				return fault.Invalid("--name is missing. Name the deployment, or its file with --file.")
			case o.endpoint == "":
				return fault.Invalid("--endpoint-name is missing. Name the endpoint of the deployment.")
			case len(set)+len(removed) == 0:
				return fault.Invalid("Nothing is to be changed. Name a field, as in --set instance_count=2.")
			}
			raw, err := s.Get(cmd.Context(), n.path(s, name))
			if err != nil {
				return err
			}
			if d, err = n.current(raw, removed); err != nil {
				return err
			}
			for _, a := range set {
				if err := d.Set(a); err != nil {
					return err
				}
			}
		}
		r, err := n.deploy(cmd.Context(), s, o, d, options)
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.print(s, r.Reply)
	})
	n.endpointFlag(cmd, o)
	delete(cmd.Flags().Lookup("endpoint-name").Annotations, cobra.BashCompOneRequiredFlag)
	n.updateFlags(cmd, &name, &file, &set, &removed)
	script.register(cmd)
}

func (n *noun) showDeployment(o *onlineFlags) {
	var name string
	cmd := n.verb("show", "Show a deployment", "  lapis online-deployment show --name blue --endpoint-name iris", func(cmd *cobra.Command, s *session) error {
		if _, err := o.checkEndpoint(cmd.Context(), s, o.endpoint); err != nil {
			return err
		}
		raw, err := s.Get(cmd.Context(), n.path(s, name))
		if err != nil {
			return err
		}
		return n.print(s, raw)
	})
	n.nameFlag(cmd, &name)
	n.endpointFlag(cmd, o)
}

func (n *noun) listDeployments(o *onlineFlags) {
	cmd := n.verb("list", "List the deployments of an endpoint", "  lapis online-deployment list --endpoint-name iris -o table", func(cmd *cobra.Command, s *session) error {
		if _, err := o.checkEndpoint(cmd.Context(), s, o.endpoint); err != nil {
			return err
		}
		rows := []any{}
		for raw, err := range s.List(cmd.Context(), n.path(s, ""), nil) {
			if err != nil {
				return err
			}
			v, err := client.View(n.name, raw)
			if err != nil {
				return err
			}
			rows = append(rows, v)
		}
		return n.out.print(s.out, rows, n.columns)
	})
	n.endpointFlag(cmd, o)
}

func (n *noun) deleteDeployment(o *onlineFlags) {
	var name string
	var yes bool
	cmd := n.verb("delete", "Delete a deployment", "  lapis online-deployment delete --name blue --endpoint-name iris --yes", func(cmd *cobra.Command, s *session) error {
		e, err := o.checkEndpoint(cmd.Context(), s, o.endpoint)
		if err != nil {
			return err
		}
		if !yes {
			if err := confirm(cmd, fmt.Sprintf("Delete the deployment %q of the endpoint %q?", name, o.endpoint)); err != nil {
				return err
			}
		}
		s.progress.stage("Deleting " + name + " …")
		if e.Properties.Traffic[strings.ToLower(name)] > 0 && o.local {
			// Nobody splits the traffic of a local endpoint, so nobody need take it away.
			if _, err := s.SetTraffic(cmd.Context(), o.endpoint, map[string]int{}); err != nil {
				return err
			}
		}
		return s.Delete(cmd.Context(), n.path(s, name), nil)
	})
	n.nameFlag(cmd, &name)
	n.endpointFlag(cmd, o)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	n.noWait(cmd)
}

// containers are the words of the command line for the containers.
var containers = map[string]string{"inference-server": client.InferenceServer, "storage-initializer": client.StorageInitializer}

// maxLogLines is how many lines the server gives at most.
const maxLogLines = 5000

func (n *noun) logs(o *onlineFlags) {
	var name, container string
	var lines int
	cmd := n.verb("get-logs", "Print the end of a deployment's log", `  lapis online-deployment get-logs --name blue --endpoint-name iris --lines 100
  lapis online-deployment get-logs --name blue --endpoint-name iris --container storage-initializer`, func(cmd *cobra.Command, s *session) error {
		kind, ok := containers[strings.ToLower(container)]
		if !ok {
			return fault.Invalid("--container %s: it can be inference-server, which serves, or storage-initializer, which prepares environment, code and model.", container)
		}
		if lines < 1 || lines > maxLogLines {
			return fault.Invalid("--lines %d: it can be 1 to %d.", lines, maxLogLines)
		}
		if _, err := o.checkEndpoint(cmd.Context(), s, o.endpoint); err != nil {
			return err
		}
		text, err := s.DeploymentLogs(cmd.Context(), o.endpoint, name, kind, lines)
		if err != nil {
			return err
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		_, err = io.WriteString(s.out, text)
		return err
	})
	n.nameFlag(cmd, &name)
	n.endpointFlag(cmd, o)
	cmd.Flags().IntVarP(&lines, "lines", "l", 50, "how many lines to print at most")
	cmd.Flags().StringVarP(&container, "container", "c", "inference-server", "inference-server or storage-initializer")
	_ = cmd.RegisterFlagCompletionFunc("container", cobra.FixedCompletions([]string{"inference-server", "storage-initializer"}, cobra.ShellCompDirectiveNoFileComp))
}
