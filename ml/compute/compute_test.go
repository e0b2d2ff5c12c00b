package compute

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"lapis/fault"
	"lapis/resource"
)

func change(t *testing.T, properties string, old *resource.Resource) *resource.Change {
	t.Helper()
	id, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/" + Type[:strings.LastIndexByte(Type, '/')] + "/w/computes/cpu")
	if err != nil {
		t.Fatal(err)
	}
	return &resource.Change{Old: old, New: &resource.Resource{ID: id, Properties: json.RawMessage(properties)}}
}

func cluster(settings string) string {
	return `{"computeType":"AmlCompute","properties":{"vmSize":"STANDARD_DS3_V2","scaleSettings":` + settings + `}}`
}

func TestClustersThatCannotBeAreRefused(t *testing.T) {
	for _, c := range []struct{ what, properties, field string }{
		{"no type", `{}`, "computeType"},
		{"a type that is none", `{"computeType":"Abacus"}`, "computeType"},
		{"no size", `{"computeType":"AmlCompute","properties":{}}`, "properties.vmSize"},
		{"a size that is none", `{"computeType":"AmlCompute","properties":{"vmSize":"large"}}`, "properties.vmSize"},
		{"a size of an instance that is none", `{"computeType":"ComputeInstance","properties":{"vmSize":"large"}}`, "properties.vmSize"},
		{"fewer than no nodes", cluster(`{"minNodeCount":-1}`), "properties.scaleSettings"},
		{"at most fewer than none", cluster(`{"maxNodeCount":-1}`), "properties.scaleSettings"},
		{"more at least than at most", cluster(`{"minNodeCount":3,"maxNodeCount":2}`), "properties.scaleSettings.minNodeCount"},
		{"a data centre", cluster(`{"maxNodeCount":10001}`), "properties.scaleSettings.maxNodeCount"},
		{"an idle time of no form", cluster(`{"nodeIdleTimeBeforeScaleDown":"2 minutes"}`), "properties.scaleSettings"},
		{"an idle time below nothing", cluster(`{"nodeIdleTimeBeforeScaleDown":"-PT2M"}`), "properties.scaleSettings"},
		{"half a node", cluster(`{"maxNodeCount":1.5}`), "properties.scaleSettings"},
		{"a word for a number", cluster(`{"maxNodeCount":"two"}`), "properties.scaleSettings"},
		{"a list", `[]`, ""},
	} {
		ch := change(t, c.properties, nil)
		f := fault.Find(admit(t.Context(), ch))
		if f == nil || f.Kind != fault.BadRequest || c.field != "" && !strings.HasPrefix(f.Target, "properties."+c.field) {
			t.Errorf("%s: %+v", c.what, f)
		}
	}
	for name, right := range map[string]bool{"cpu": true, "a1": true, "CPU-cluster-2": true, strings.Repeat("a", 32): true,
		"a": false, "": false, "1a": false, "-a": false, "a-": false, "a_b": false, "a.b": false, strings.Repeat("a", 33): false, "local": false, "Serverless": false} {
		if err := checkName(name); (err == nil) != right {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestDefaultsOfAClusterAreFilledIn(t *testing.T) {
	ch := change(t, `{"computeType":"amlcompute","unknown":{"kept":1},"properties":{"vmSize":"STANDARD_DS3_V2","currentNodeCount":7,"mine":true}}`, nil)
	if err := admit(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	target, err := ParseTarget(*ch.New)
	if err != nil || target != (Target{Name: "cpu", Kind: "AmlCompute", Size: "STANDARD_DS3_V2", MinNodes: 0, MaxNodes: 1, Idle: Duration(2 * time.Minute)}) {
		t.Errorf("%+v, %v", target, err)
	}
	text := string(ch.New.Properties)
	for word, there := range map[string]bool{`"unknown":{"kept":1}`: true, `"mine":true`: true, `"osType":"Linux"`: true, "currentNodeCount": false} {
		if strings.Contains(text, word) != there {
			t.Errorf("%s: %s", word, text)
		}
	}
	if ch.New.Location == "" || !strings.Contains(string(ch.New.Status), "Succeeded") {
		t.Errorf("%+v", ch.New)
	}
}

func TestAComputeStaysOfItsType(t *testing.T) {
	ch := change(t, cluster(`{"minNodeCount":1,"maxNodeCount":4,"nodeIdleTimeBeforeScaleDown":"PT15S"}`), nil)
	if err := admit(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	old := *ch.New
	if err := admit(t.Context(), change(t, `{"computeType":"ComputeInstance","properties":{"vmSize":"STANDARD_DS3_V2"}}`, &old)); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v", err)
	}
	again := change(t, cluster(`{"maxNodeCount":8}`), &old)
	if err := admit(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if target, err := ParseTarget(*again.New); err != nil || target.MaxNodes != 8 {
		t.Errorf("%+v, %v", target, err)
	}
}

func TestNodeCountsAreShownAsTheyAre(t *testing.T) {
	ch := change(t, cluster(`{"maxNodeCount":4}`), nil)
	if err := admit(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	r := *ch.New
	n := Nodes{Running: []Node{{ID: "a", Job: "j"}}, Idle: []Node{{ID: "b"}, {ID: "c"}}, Since: Timestamp{time.UnixMilli(5000).UTC()}}
	r.Status = WithNodes(r.Status, n)
	if back := NodesOf(r); fmt.Sprint(back) != fmt.Sprint(n) {
		t.Errorf("%+v, want %+v", back, n)
	}
	rs := []resource.Resource{r}
	if err := view(t.Context(), resource.View{}, rs); err != nil {
		t.Fatal(err)
	}
	var p struct {
		Properties struct {
			CurrentNodeCount, TargetNodeCount int
			NodeStateCounts                   struct{ IdleNodeCount, RunningNodeCount, UnusableNodeCount int }
			AllocationStateTransitionTime     time.Time
		}
	}
	if err := json.Unmarshal(rs[0].Properties, &p); err != nil {
		t.Fatal(err)
	}
	if p.Properties.CurrentNodeCount != 3 || p.Properties.NodeStateCounts.IdleNodeCount != 2 || p.Properties.NodeStateCounts.RunningNodeCount != 1 || p.Properties.AllocationStateTransitionTime.UnixMilli() != 5000 {
		t.Errorf("%+v", p)
	}
	if strings.Contains(string(rs[0].Status), "nodes") {
		t.Errorf("the status is shown as it is kept: %s", rs[0].Status)
	}
	body, err := listNodes(t.Context(), resource.Call{Resource: r})
	raw, _ := json.Marshal(body)
	if err != nil || strings.Count(string(raw), `"nodeState":"idle"`) != 2 || !strings.Contains(string(raw), `"runId":"j"`) {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"PT15S": 15 * time.Second, "PT2M": 2 * time.Minute, "PT1H30M": 90 * time.Minute, "P1DT1S": 86401 * time.Second, "P2D": 48 * time.Hour, "PT0.5S": time.Second / 2, "PT0S": 0, "PT1000000S": 1_000_000 * time.Second} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "P", "PT", "1H", "PT1X", "-PT1S", "PT-1S", "P1Y", "PT1M2H", "PT99999999999999H", "P1D2"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}

func TestSizesFollowFromTheirNames(t *testing.T) {
	for name, want := range map[string]Size{
		"STANDARD_DS3_V2":          {VCPUs: 4, MemoryGB: 14},
		"Standard_B1s":             {VCPUs: 1, MemoryGB: 1},
		"Standard_B4ms":            {VCPUs: 4, MemoryGB: 16},
		"Standard_D2s_v3":          {VCPUs: 2, MemoryGB: 8},
		"standard_e4s_v3":          {VCPUs: 4, MemoryGB: 32},
		"Standard_F16s_v2":         {VCPUs: 16, MemoryGB: 32},
		"Standard_NC6s_v3":         {VCPUs: 6, MemoryGB: 54, GPUs: 1},
		"Standard_NC24ads_A100_v4": {VCPUs: 24, MemoryGB: 216, GPUs: 1},
		"Standard_D1_v2":           {VCPUs: 1, MemoryGB: 3.5},
	} {
		s, ok := ParseSize(name)
		if !ok || s.VCPUs != want.VCPUs || s.MemoryGB != want.MemoryGB || s.GPUs != want.GPUs {
			t.Errorf("%s: %+v %v", name, s, ok)
		}
	}
	for _, name := range []string{"", "D2", "Standard_", "Standard_ZZ9", "Standard_D0_v2", "Standard_D2s v3", "large", "Standard_D9999", "Standard_DS99_v2", "Standard_D6_v2", "Standard_D99s_v3", "Standard_F3s_v2"} {
		if s, ok := ParseSize(name); ok {
			t.Errorf("%q is %+v", name, s)
		}
	}
	for _, s := range Sizes() {
		if s.VCPUs < 1 || s.MemoryGB <= 0 {
			t.Errorf("%+v", s)
		}
	}
	if n := len(Sizes()); n < 50 {
		t.Errorf("%d sizes are listed", n)
	}
}
