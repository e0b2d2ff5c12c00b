// Package compute has compute targets: where jobs run. Runtime is what a back
// end offers to run tasks on.
package compute

import (
	"context"
	"encoding/json"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/pattern"
	"lapis/resource"
)

// Type is the type of compute targets.
const Type = ml.Workspaces + "/computes"

// Target is the view of a compute's properties that scheduling needs.
type Target struct {
	Name     string
	Kind     string // AmlCompute, ComputeInstance, …
	Size     string
	MinNodes int
	MaxNodes int
	Idle     Duration // before a node that has nothing to do is given back
	Stopped  bool
}

// kinds are the compute types, by lower-case name. Those that are attached are
// kept and shown; jobs cannot run on them yet.
var kinds = map[string]string{
	"amlcompute": "AmlCompute", "computeinstance": "ComputeInstance", "kubernetes": "Kubernetes", "virtualmachine": "VirtualMachine",
	"synapsespark": "SynapseSpark", "databricks": "Databricks", "datafactory": "DataFactory", "hdinsight": "HDInsight",
	"datalakeanalytics": "DataLakeAnalytics", "aks": "AKS",
}

var computeName = pattern.New(`^[A-Za-z][A-Za-z0-9-]{1,31}$`)

// maxNodes bounds a cluster.
const maxNodes = 10_000

// Types makes the type of compute targets, and the look-ups of a location.
func Types(store resource.Store) []*resource.Type {
	actions := switches(store)
	actions["listNodes"] = resource.Action{Run: listNodes}
	actions["listKeys"] = resource.Action{Run: func(context.Context, resource.Call) (any, error) { return map[string]any{}, nil }}
	return []*resource.Type{
		{
			Name: Type, Title: "compute", Async: true, Check: checkName, Admit: admit, View: view,
			Release: func(context.Context, resource.Resource) error { return nil },
			Actions: actions,
		},
		{Name: ml.Provider + "/locations", Title: "location", Virtual: true},
		{Name: ml.Provider + "/locations/operationStatuses", Title: "operation", Virtual: true},
		{Name: ml.Provider + "/locations/operationResults", Title: "operation", Virtual: true},
	}
}

func checkName(name string) error {
	if !computeName.MatchString(name) || len(name) < 2 || strings.HasSuffix(name, "-") {
		return fault.Invalid("%q is no name for a compute: 2 to 32 letters, digits and '-', beginning with a letter and not ending in '-'", name).With("ValidationError").At("name")
	}
	if strings.EqualFold(name, "local") || strings.EqualFold(name, "serverless") {
		return fault.Invalid("a compute cannot be named %q: that word means this machine itself", name).With("ValidationError").At("name")
	}
	return nil
}

func admit(_ context.Context, c *resource.Change) error {
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	kind, ok := kinds[strings.ToLower(p.Text("computeType"))]
	if !ok {
		return fault.Invalid("'properties.computeType' is %q; it must be AmlCompute, ComputeInstance or an attached kind such as Kubernetes", p.Text("computeType")).With("ValidationError").At("properties.computeType")
	}
	if c.Old != nil {
		old, err := resource.ParseDocument(c.Old.Properties)
		if err != nil {
			return err
		}
		if was := old.Text("computeType"); !strings.EqualFold(was, kind) {
			return fault.Conflicts("The compute '%s' is of the type %s and cannot become %s; delete it first.", c.New.ID.Name(), was, kind).With("ComputeTypeMismatch").At("properties.computeType")
		}
	}
	p.Set("computeType", kind)
	for _, name := range []string{"provisioningState", "provisioningErrors", "createdOn", "modifiedOn", "isAttachedCompute"} {
		delete(p, name)
	}
	p.Set("isAttachedCompute", kind != "AmlCompute" && kind != "ComputeInstance")
	inner := p.Object("properties")
	switch kind {
	case "AmlCompute":
		err = admitCluster(c.New.ID, inner)
	case "ComputeInstance":
		err = admitInstance(inner)
	}
	if err != nil {
		return err
	}
	if size := inner.Text("vmSize"); size != "" {
		if _, ok := ParseSize(size); !ok {
			return fault.Invalid("'properties.properties.vmSize' is %q, which is no instance type; see `lapis compute list-sizes`", size).With("InvalidVmSize").At("properties.properties.vmSize")
		}
	}
	// Nothing signs in to an attached machine yet: its secrets are not kept.
	if account := inner.Object("administratorAccount"); len(account) > 0 {
		for _, name := range []string{"password", "privateKeyData", "publicKeyData"} {
			delete(account, name)
		}
		inner["administratorAccount"] = account.Raw()
	}
	for _, name := range []string{"accessToken", "databricksAccessToken"} {
		delete(inner, name)
	}
	p["properties"] = inner.Raw()
	c.New.Properties = p.Raw()
	if c.New.Location == "" {
		c.New.Location = "local"
	}
	if len(c.New.Status) == 0 {
		c.New.Status = json.RawMessage(`{"provisioningState":"Succeeded"}`)
	}
	return nil
}

// scale is the scaleSettings of a cluster.
type scale struct {
	MinNodeCount int      `json:"minNodeCount"`
	MaxNodeCount *int     `json:"maxNodeCount"`
	IdleTime     Duration `json:"nodeIdleTimeBeforeScaleDown"`
}

// defaultIdle is how long a node waits for work unless the cluster says.
const defaultIdle = "PT120S"

func admitCluster(id resource.ID, inner resource.Document) error {
	if inner.Text("vmSize") == "" {
		return fault.Invalid("'properties.properties.vmSize' is required, such as STANDARD_DS3_V2").With("ValidationError").At("properties.properties.vmSize")
	}
	for _, name := range []string{"allocationState", "allocationStateTransitionTime", "currentNodeCount", "targetNodeCount", "nodeStateCounts", "errors"} {
		delete(inner, name)
	}
	inner.Default("osType", "Linux")
	inner.Default("vmPriority", "Dedicated")
	const idleTime = "nodeIdleTimeBeforeScaleDown"
	settings := inner.Object("scaleSettings")
	settings.Default("minNodeCount", 0)
	settings.Default("maxNodeCount", 1)
	settings.Default(idleTime, defaultIdle)
	if _, err := ParseDuration(settings.Text(idleTime)); err != nil {
		return fault.Invalid("'%s' of compute '%s' is not right: %v", idleTime, id.Name(), err).With("ValidationError").At("properties.properties.scaleSettings." + idleTime)
	}
	var s scale
	if err := json.Unmarshal(settings.Raw(), &s); err != nil {
		return resource.WrongJSON(err, "properties.properties.scaleSettings")
	}
	switch {
	case s.MinNodeCount < 0 || *s.MaxNodeCount < 0:
		return fault.Invalid("a node count cannot be negative (minNodeCount %d, maxNodeCount %d)", s.MinNodeCount, *s.MaxNodeCount).With("ValidationError").At("properties.properties.scaleSettings")
	case *s.MaxNodeCount > maxNodes:
		return fault.Invalid("'maxNodeCount' is %d; at most %d are allowed", *s.MaxNodeCount, maxNodes).With("ValidationError").At("properties.properties.scaleSettings.maxNodeCount")
	case s.MinNodeCount > *s.MaxNodeCount:
		return fault.Invalid("'minNodeCount' (%d) is larger than 'maxNodeCount' (%d)", s.MinNodeCount, *s.MaxNodeCount).With("ValidationError").At("properties.properties.scaleSettings.minNodeCount")
	}
	inner["scaleSettings"] = settings.Raw()
	return nil
}

// ParseTarget reads a stored compute.
func ParseTarget(r resource.Resource) (Target, error) {
	var p struct {
		ComputeType string `json:"computeType"`
		Properties  struct {
			VMSize        string `json:"vmSize"`
			ScaleSettings scale  `json:"scaleSettings"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(r.Properties, &p); err != nil {
		return Target{}, err
	}
	t := Target{Name: r.ID.Name(), Kind: p.ComputeType, Size: p.Properties.VMSize, MaxNodes: 1}
	t.Stopped = t.Kind == "ComputeInstance" && powerOf(r).State == stopped
	if t.Kind == "AmlCompute" {
		s := p.Properties.ScaleSettings
		t.MinNodes, t.Idle = s.MinNodeCount, s.IdleTime
		if s.MaxNodeCount != nil {
			t.MaxNodes = *s.MaxNodeCount
		}
	}
	return t, nil
}

// Nodes is what the scheduler knows of a cluster's nodes; it stands in the
// compute's status.
type Nodes struct {
	Running []Node    `json:"running"`
	Idle    []Node    `json:"idle"`
	Since   Timestamp `json:"since"` // of the last change
}

// Node is one node of a cluster.
type Node struct {
	ID  string `json:"id"`
	Job string `json:"job,omitempty"`
}

type status struct {
	ProvisioningState string `json:"provisioningState"`
	Nodes             *Nodes `json:"nodes,omitempty"`
}

// WithNodes is the status of a compute with new counts.
func WithNodes(old json.RawMessage, n Nodes) json.RawMessage {
	raw, _ := json.Marshal(map[string]any{"nodes": n})
	if len(old) == 0 {
		old = json.RawMessage(`{"provisioningState":"Succeeded"}`)
	}
	return resource.Overlay(old, raw)
}

// NodesOf reads the counts out of a compute's status.
func NodesOf(r resource.Resource) Nodes {
	var s status
	if len(r.Status) > 0 && json.Unmarshal(r.Status, &s) == nil && s.Nodes != nil {
		return *s.Nodes
	}
	return Nodes{}
}

// view puts the counts where clients look for them.
func view(_ context.Context, _ resource.View, rs []resource.Resource) error {
	for i := range rs {
		r := &rs[i]
		p, err := resource.ParseDocument(r.Properties)
		if err != nil {
			return err
		}
		p.Set("createdOn", r.Created.At)
		p.Set("modifiedOn", r.Updated.At)
		p.Default("provisioningErrors", []any{})
		inner := p.Object("properties")
		if p.Text("computeType") == "AmlCompute" {
			n := NodesOf(*r)
			total := len(n.Running) + len(n.Idle)
			inner.Set("allocationState", "Steady")
			inner.Set("allocationStateTransitionTime", n.Since.or(r.Created.At))
			inner.Set("currentNodeCount", total)
			inner.Set("targetNodeCount", total)
			inner.Set("nodeStateCounts", map[string]int{"idleNodeCount": len(n.Idle), "runningNodeCount": len(n.Running),
				"preparingNodeCount": 0, "unusableNodeCount": 0, "leavingNodeCount": 0, "preemptedNodeCount": 0})
		}
		if p.Text("computeType") == "ComputeInstance" {
			viewInstance(r, inner)
		}
		p["properties"] = inner.Raw()
		r.Properties = p.Raw()
		if len(r.Status) > 0 {
			s, err := resource.ParseDocument(r.Status)
			if err != nil {
				return err
			}
			delete(s, "nodes") // they stand among the properties
			delete(s, "power")
			r.Status = s.Raw()
		}
		if r.Tags == nil {
			r.Tags = map[string]string{}
		}
	}
	return nil
}

// listNodes lists the nodes that are there now.
func listNodes(_ context.Context, call resource.Call) (any, error) {
	n := NodesOf(call.Resource)
	nodes := []map[string]any{}
	add := func(list []Node, state string) {
		for _, node := range list {
			item := map[string]any{"nodeId": node.ID, "privateIpAddress": "127.0.0.1", "nodeState": state}
			if node.Job != "" {
				item["runId"] = node.Job
			}
			nodes = append(nodes, item)
		}
	}
	add(n.Running, "running")
	add(n.Idle, "idle")
	return map[string]any{"nodes": nodes, "nextLink": nil}, nil
}
