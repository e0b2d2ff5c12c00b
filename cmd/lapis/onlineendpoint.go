package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

func onlineEndpointCommand() *cobra.Command {
	n := (&noun{
		name: "online-endpoint", title: "endpoint", collection: "onlineEndpoints", lasting: true,
		columns: []string{"name", "auth_mode", "traffic", "scoring_uri", "provisioning_state"},
	}).start("Manage online endpoints: addresses that models answer at", `  lapis online-endpoint create --name iris
  lapis online-deployment create -f blue.yml --all-traffic
  lapis online-endpoint invoke --name iris --request-file sample.json`)
	o := &onlineFlags{}
	o.register(n)
	n.createEndpoint(o)
	n.updateEndpoint(o)
	n.showEndpoint(o)
	n.listEndpoints(o)
	n.deleteEndpoint(o)
	n.invoke(o)
	n.credentials(o)
	n.regenerateKeys(o)
	n.rollback(o, "Take back the last change of the traffic", "  lapis online-endpoint rollback --name iris")
	n.rolloutVerbs(o)
	for _, cmd := range n.cmd.Commands() {
		truths(cmd)
	}
	return n.cmd
}

func (n *noun) createEndpoint(o *onlineFlags) {
	f := &createFlags{}
	f.options = func(_ *cobra.Command, options *spec.Options) error {
		options.Local = o.local
		return nil
	}
	f.send = func(ctx context.Context, s *session, d *spec.Document, options spec.Options) (spec.Result, error) {
		e, err := s.Endpoint(ctx, d.Name())
		if d.Name() != "" && err == nil {
			if err := o.same(e); err != nil {
				return spec.Result{}, err
			}
		}
		s.progress.stage("Creating the endpoint " + d.Name() + " …")
		return s.Create(ctx, d, n.name, options)
	}
	cmd := n.create("create", "Create an endpoint from a file or from flags", `  lapis online-endpoint create -f endpoint.yml
  lapis online-endpoint create --name iris --auth-mode key`, f, nil)
	f.field(cmd, "auth-mode", "", "auth_mode", "how callers sign in: key, aml_token or aad_token (default key)")
	f.field(cmd, "description", "", "description", "description")
}

func (n *noun) updateEndpoint(o *onlineFlags) {
	var name, file, traffic, mirror string
	var set, removed []string
	cmd := n.verb("update", "Change an endpoint, or which deployments its requests go to", `  lapis online-endpoint update --name iris --traffic "blue=90 green=10"
  lapis online-endpoint update --name iris --mirror-traffic "green=10"
  lapis online-endpoint update --name iris --set tags.team=vision`, func(cmd *cobra.Command, s *session) error {
		f := &createFlags{file: file, name: name}
		if file == "" && name == "" {
			return fault.Invalid("--name is missing. Name the endpoint, or its file with --file.")
		}
		if file == "" && len(set)+len(removed) == 0 && traffic == "" && mirror == "" {
			return fault.Invalid("Nothing is to be changed. Say what, as in --traffic \"blue=90 green=10\" or --set tags.team=vision.")
		}
		var d *spec.Document
		var err error
		if file != "" {
			if d, err = f.document(cmd, n.name); err != nil {
				return err
			}
			name = d.Name()
		}
		raw, err := s.Get(cmd.Context(), n.path(s, name))
		if err != nil {
			return err
		}
		var e client.Endpoint
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		if err := o.same(&e); err != nil {
			return err
		}
		if d == nil {
			if d, err = n.current(raw, removed); err != nil {
				return err
			}
		}
		for _, a := range set {
			if err := d.Set(a); err != nil {
				return err
			}
		}
		if err := putShares(d, "--traffic", "traffic", traffic); err != nil {
			return err
		}
		if err := putShares(d, "--mirror-traffic", "mirror_traffic", mirror); err != nil {
			return err
		}
		s.progress.stage("Changing the endpoint " + name + " …")
		r, err := s.Create(cmd.Context(), d, n.name, spec.Options{Local: o.local})
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.print(s, r.Reply)
	})
	cmd.Flags().StringVarP(&traffic, "traffic", "r", "", "share of the requests that each deployment gets, in percent: \"blue=90 green=10\"")
	cmd.Flags().StringVarP(&mirror, "mirror-traffic", "m", "", "share of the requests of which one deployment gets a copy: \"green=10\"")
	n.updateFlags(cmd, &name, &file, &set, &removed)
}

// updateFlags adds the flags that every update has.
func (n *noun) updateFlags(cmd *cobra.Command, name, file *string, set, removed *[]string) {
	n.nameFlag(cmd, name)
	delete(cmd.Flags().Lookup("name").Annotations, cobra.BashCompOneRequiredFlag)
	cmd.Flags().StringVarP(file, "file", "f", "", "YAML file that says how it shall be")
	_ = cmd.MarkFlagFilename("file", "yml", "yaml")
	setFlag(cmd, set, "set a field, as in --set description=text or --set tags.a=b")
	removeFlag(cmd, removed)
	n.noWait(cmd)
}

// current gives a resource as a file, to be changed.
func (n *noun) current(raw json.RawMessage, removed []string) (*spec.Document, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	return asFile(n.name, raw, dir, removed)
}

func (n *noun) showEndpoint(o *onlineFlags) {
	var name string
	cmd := n.verb("show", "Show an endpoint", "  lapis online-endpoint show --name iris --query traffic", func(cmd *cobra.Command, s *session) error {
		raw, err := s.Get(cmd.Context(), n.path(s, name))
		if err != nil {
			return err
		}
		if isLocal(raw) != o.local {
			var e client.Endpoint
			if err := json.Unmarshal(raw, &e); err != nil {
				return err
			}
			return o.same(&e)
		}
		v, err := client.View(n.name, raw)
		if err != nil {
			return err
		}
		if err := withIdle(cmd.Context(), s, name, v); err != nil {
			return err
		}
		return n.out.print(s.out, v, n.columns)
	})
	n.nameFlag(cmd, &name)
}

// withIdle names the deployments that get no requests in the traffic of an
// endpoint's view, too, as the SDK does.
func withIdle(ctx context.Context, s *session, name string, view map[string]any) error {
	traffic, _ := view["traffic"].(map[string]any)
	mirror, _ := view["mirror_traffic"].(map[string]any)
	for raw, err := range s.List(ctx, s.EndpointPath(name)+"/deployments", nil) {
		if err != nil {
			return err
		}
		var d struct{ Name string }
		if err := json.Unmarshal(raw, &d); err != nil {
			return err
		}
		if _, live := traffic[d.Name]; !live && mirror[d.Name] == nil {
			traffic[d.Name] = 0
		}
	}
	return nil
}

func (n *noun) listEndpoints(o *onlineFlags) {
	n.verb("list", "List endpoints", "  lapis online-endpoint list -o table", func(cmd *cobra.Command, s *session) error {
		rows := []any{}
		for raw, err := range s.List(cmd.Context(), n.path(s, ""), nil) {
			if err != nil {
				return err
			}
			if isLocal(raw) != o.local {
				continue
			}
			v, err := client.View(n.name, raw)
			if err != nil {
				return err
			}
			rows = append(rows, v)
		}
		return n.out.print(s.out, rows, n.columns)
	})
}

func (n *noun) deleteEndpoint(o *onlineFlags) {
	var name string
	var yes bool
	cmd := n.verb("delete", "Delete an endpoint with its deployments", "  lapis online-endpoint delete --name iris --yes", func(cmd *cobra.Command, s *session) error {
		if _, err := o.checkEndpoint(cmd.Context(), s, name); err != nil {
			return err
		}
		if !yes {
			if err := confirm(cmd, fmt.Sprintf("Delete the endpoint %q with all its deployments?", name)); err != nil {
				return err
			}
		}
		s.progress.stage("Deleting " + name + " …")
		return s.Delete(cmd.Context(), n.path(s, name), nil)
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	n.noWait(cmd)
}

// maxRequest bounds the file of a request, in bytes.
const maxRequest = 100 << 20

func (n *noun) invoke(o *onlineFlags) {
	var name, deployment, file string
	cmd := n.verb("invoke", "Send a request to an endpoint and print its answer", `  lapis online-endpoint invoke --name iris --request-file sample.json
  lapis online-endpoint invoke --name iris --deployment-name green --request-file -`, func(cmd *cobra.Command, s *session) error {
		body, err := requestBody(cmd.InOrStdin(), file)
		if err != nil {
			return err
		}
		e, err := o.checkEndpoint(cmd.Context(), s, name)
		if err != nil {
			return err
		}
		if deployment != "" {
			if _, err := s.Get(cmd.Context(), s.DeploymentPath(name, deployment)); err != nil {
				return err
			}
		}
		if o.local {
			e.Properties.AuthMode = "" // it asks for nothing
		}
		a, err := s.Invoke(cmd.Context(), e, strings.ToLower(deployment), "application/json", body)
		if err != nil {
			return err
		}
		if a.Status < 200 || a.Status > 299 {
			return unanswered(e, a)
		}
		if n.out.query != "" || n.out.format == "none" {
			var v any
			if err := json.Unmarshal(a.Body, &v); err != nil {
				v = string(a.Body)
			}
			return n.out.print(s.out, v, nil)
		}
		if _, err := s.out.Write(a.Body); err != nil {
			return err
		}
		if len(a.Body) > 0 && a.Body[len(a.Body)-1] != '\n' {
			_, err = io.WriteString(s.out, "\n")
		}
		return err
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVarP(&deployment, "deployment-name", "d", "", "the deployment that shall answer (default: as the traffic says)")
	cmd.Flags().StringVarP(&file, "request-file", "r", "", "file with the request, as JSON; - is the input")
	_ = cmd.MarkFlagRequired("request-file")
	_ = cmd.MarkFlagFilename("request-file", "json")
}

// requestBody reads a request, which is JSON.
func requestBody(in io.Reader, file string) ([]byte, error) {
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.Invalid("--request-file %s: it cannot be read: %v.", file, err)
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, maxRequest+1))
	switch {
	case err != nil:
		return nil, fault.Invalid("--request-file %s: it cannot be read: %v.", file, err)
	case len(body) > maxRequest:
		return nil, fault.Invalid("--request-file %s: it has more than %d bytes, and no endpoint takes more.", file, maxRequest)
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fault.Invalid("--request-file %s: it is not JSON: %v. What is not JSON can be sent to the endpoint's scoring_uri with curl.", file, err)
	}
	return body, nil
}

// unanswered says what an endpoint answered in place of a prediction.
func unanswered(e *client.Endpoint, a *client.Answer) error {
	why := strings.TrimSpace(string(a.Body))
	var reply struct {
		Error   json.RawMessage
		Message string
	}
	if json.Unmarshal(a.Body, &reply) == nil {
		var inner struct{ Message string }
		switch {
		case json.Unmarshal(reply.Error, &inner) == nil && inner.Message != "":
			why = inner.Message
		case reply.Message != "":
			why = reply.Message
		}
	}
	if r := []rune(why); len(r) > 4000 {
		why = string(r[:4000]) + " …"
	}
	reason := ""
	if s := a.Header.Get("ms-azureml-model-error-statuscode"); s != "" {
		reason = fmt.Sprintf(" (the model answered %s %s)", s, a.Header.Get("ms-azureml-model-error-reason"))
	} else if s := a.Header.Get("x-aml-reason"); s != "" {
		reason = fmt.Sprintf(" (%s)", s)
	}
	by := ""
	if d := a.Header.Get("azureml-model-deployment"); d != "" {
		by = fmt.Sprintf(", deployment %q,", d)
		reason += fmt.Sprintf(". `lapis online-deployment get-logs --name %s --endpoint-name %s` shows its log", d, e.Name)
	}
	status := strings.TrimSpace(fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status)))
	return fault.New(fault.BadRequest, "InvokeFailed", "The endpoint %q%s answered %s%s: %s", e.Name, by, status, reason, why)
}

func (n *noun) credentials(o *onlineFlags) {
	var name string
	cmd := n.verb("get-credentials", "Print the keys of an endpoint, or a token for it", "  lapis online-endpoint get-credentials --name iris --query primaryKey -o tsv", func(cmd *cobra.Command, s *session) error {
		e, err := o.checkEndpoint(cmd.Context(), s, name)
		if err != nil {
			return err
		}
		if o.local {
			return fault.Invalid("A local endpoint asks for no key.")
		}
		m, err := s.Credentials(cmd.Context(), e)
		if err != nil {
			return err
		}
		return n.out.print(s.out, m, nil)
	})
	n.nameFlag(cmd, &name)
}

func (n *noun) regenerateKeys(o *onlineFlags) {
	var name, kind string
	cmd := n.verb("regenerate-keys", "Replace a key of an endpoint; the other one stays", "  lapis online-endpoint regenerate-keys --name iris --key-type secondary", func(cmd *cobra.Command, s *session) error {
		kind = strings.ToLower(kind)
		if kind != "primary" && kind != "secondary" {
			return fault.Invalid("--key-type %s: it can be primary or secondary.", kind)
		}
		e, err := o.checkEndpoint(cmd.Context(), s, name)
		if err != nil {
			return err
		}
		if o.local {
			return fault.Invalid("A local endpoint asks for no key.")
		}
		if err := s.RegenerateKey(cmd.Context(), e, kind); err != nil {
			return err
		}
		m, err := s.Credentials(cmd.Context(), e)
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.out.print(s.out, m, nil)
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVar(&kind, "key-type", "primary", "the key to replace: primary or secondary")
	_ = cmd.RegisterFlagCompletionFunc("key-type", cobra.FixedCompletions([]string{"primary", "secondary"}, cobra.ShellCompDirectiveNoFileComp))
	n.noWait(cmd) // taken for the sake of scripts: the new key is what is asked for
	_ = cmd.Flags().MarkHidden("no-wait")
}

// rollback adds rollback, by which an endpoint gets the traffic that it had before
// the last change, or a deployment its version.
func (n *noun) rollback(o *onlineFlags, short, example string) *cobra.Command {
	var name string
	cmd := n.verb("rollback", short, example, func(cmd *cobra.Command, s *session) error {
		endpoint := name
		if n.below != nil {
			endpoint = o.endpoint
		}
		if _, err := o.checkEndpoint(cmd.Context(), s, endpoint); err != nil {
			return err
		}
		s.progress.stage("Going back …")
		if _, err := s.Post(cmd.Context(), n.path(s, name)+"/rollback", nil); err != nil {
			return err
		}
		raw, err := s.Get(cmd.Context(), n.path(s, name))
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.print(s, raw)
	})
	n.nameFlag(cmd, &name)
	return cmd
}
