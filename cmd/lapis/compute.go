package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"lapis/client"
)

func computeCommand() *cobra.Command {
	n := (&noun{
		name: "compute", title: "compute", collection: "computes",
		columns: []string{"name", "type", "size", "min_instances", "max_instances", "provisioning_state"},
		fields: map[string]string{
			"tags": "tags", "description": "properties.description",
			"min_instances":               "properties.properties.scaleSettings.minNodeCount",
			"max_instances":               "properties.properties.scaleSettings.maxNodeCount",
			"idle_time_before_scale_down": "properties.properties.scaleSettings.nodeIdleTimeBeforeScaleDown",
		},
	}).start("Manage compute targets", `  lapis compute create --name cpu --type amlcompute --max-instances 2
  lapis compute list --output table`)
	for _, use := range []string{"create", "attach"} {
		f := &createFlags{}
		cmd := n.create(use, "Create a compute from a file or from flags", `  lapis compute create -f compute.yml
  lapis compute create -n cpu --type amlcompute --min-instances 0 --max-instances 2`, f, nil)
		f.field(cmd, "type", "t", "type", "amlcompute, computeinstance, kubernetes, virtualmachine or synapsespark")
		f.field(cmd, "size", "", "size", "size of each machine, such as STANDARD_DS3_v2")
		f.field(cmd, "min-instances", "", "min_instances", "nodes that stay when there is nothing to do")
		f.field(cmd, "max-instances", "", "max_instances", "nodes at most")
		f.field(cmd, "idle-time-before-scale-down", "", "idle_time_before_scale_down", "seconds until a node that does nothing is given up")
		f.field(cmd, "tier", "", "tier", "dedicated or low_priority")
		f.field(cmd, "description", "", "description", "description")
		f.field(cmd, "resource-id", "", "resource_id", "id of the resource to attach")
	}
	n.show("  lapis compute show --name cpu")
	n.list("  lapis compute list -o table", func(cmd *cobra.Command) func(url.Values) {
		kind := cmd.Flags().StringP("type", "t", "", "computes of this type alone")
		return func(q url.Values) {
			if *kind != "" {
				q.Set("computeType", *kind)
			}
		}
	})
	n.remove("  lapis compute delete --name cpu --yes", true, func(cmd *cobra.Command) func(url.Values) {
		return func(q url.Values) { q.Set("underlyingResourceAction", "Delete") }
	})
	var attached string
	detach := n.verb("detach", "Detach a compute: the machine itself stays", "  lapis compute detach --name NAME --yes", func(cmd *cobra.Command, s *session) error {
		if yes, _ := cmd.Flags().GetBool("yes"); !yes {
			if err := confirm(cmd, fmt.Sprintf("Detach the compute %q?", attached)); err != nil {
				return err
			}
		}
		return s.Delete(cmd.Context(), n.path(s, attached), url.Values{"underlyingResourceAction": {"Detach"}})
	})
	n.nameFlag(detach, &attached)
	detach.Flags().BoolP("yes", "y", false, "do not ask")
	n.update("  lapis compute update --name cpu --max-instances 4", map[string]string{
		"min-instances": "min_instances", "max-instances": "max_instances", "idle-time-before-scale-down": "idle_time_before_scale_down",
	})
	var name string
	for verb, short := range map[string]string{"start": "Start a compute instance", "stop": "Stop a compute instance", "restart": "Restart a compute instance"} {
		cmd := n.verb(verb, short, "  lapis compute "+verb+" --name NAME", func(cmd *cobra.Command, s *session) error {
			s.progress.stage(verb + " …")
			_, err := s.Post(cmd.Context(), s.Path("computes", name, verb), nil)
			return err
		})
		n.nameFlag(cmd, &name)
		n.noWait(cmd)
	}
	cmd := n.verb("list-nodes", "List the nodes of a cluster", "  lapis compute list-nodes --name cpu", func(cmd *cobra.Command, s *session) error {
		raw, err := s.Post(cmd.Context(), s.Path("computes", name, "listNodes"), nil)
		if err != nil {
			return err
		}
		var r struct{ Nodes []map[string]any }
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		rows := []any{}
		for _, node := range r.Nodes {
			rows = append(rows, map[string]any{"node_id": node["nodeId"], "node_state": node["nodeState"], "private_ip_address": node["privateIpAddress"], "port": node["port"], "current_job_name": node["runId"]})
		}
		return n.out.print(s.out, rows, []string{"node_id", "node_state", "current_job_name"})
	})
	n.nameFlag(cmd, &name)
	n.notYet("connect-ssh", "Open a shell on a compute instance")
	n.lookup("list-sizes", "List the sizes of machines", "vmSizes", []string{"name", "v_cpus", "memory_gb", "gpus"})
	n.lookup("list-usage", "List what is used of each quota", "usages", []string{"name", "current_value", "limit"})
	return n.cmd
}

// lookup adds a verb that lists what a location offers.
func (n *noun) lookup(use, short, what string, columns []string) {
	var location string
	cmd := n.verb(use, short, "  lapis compute "+use+" -o table", func(cmd *cobra.Command, s *session) error {
		if location == "" {
			raw, err := s.Get(cmd.Context(), s.Path())
			if err != nil {
				return err
			}
			var r struct{ Location string }
			if err := json.Unmarshal(raw, &r); err != nil {
				return err
			}
			location = r.Location
		}
		raw, err := s.Request(cmd.Context(), http.MethodGet, "/subscriptions/"+s.Subscription+"/providers/Microsoft.MachineLearningServices/locations/"+location+"/"+what, "2023-08-01-preview", nil, nil)
		if err != nil {
			return err
		}
		var r struct{ Value []map[string]any }
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		rows := []any{}
		for _, v := range r.Value {
			if m, ok := v["name"].(map[string]any); ok {
				v["name"] = m["value"]
			}
			rows = append(rows, client.SnakeKeys(v))
		}
		return n.out.print(s.out, rows, columns)
	})
	cmd.Flags().StringVarP(&location, "location", "l", "", "location (default the workspace's)")
}
