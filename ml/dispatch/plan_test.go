package dispatch

import (
	"testing"

	"lapis/ml/compute"
	"lapis/ml/tracking"
	"lapis/resource"
)

func TestPlan(t *testing.T) {
	id := func(name string) resource.ID {
		id, err := resource.ParseID("/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/computes/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	here := demand{}
	on := func(name string) demand { return demand{compute: id(name)} }
	sized := func(name string) demand {
		s, ok := compute.ParseSize(name)
		if !ok {
			t.Fatalf("%s is no size", name)
		}
		return demand{size: s}
	}
	target := func(name, size string, most, busy int) *targetState {
		return &targetState{target: compute.Target{Name: name, Kind: "AmlCompute", Size: size, MaxNodes: most}, busy: busy}
	}
	const start = "" // no reason to wait
	for _, c := range []struct {
		name    string
		waiting []demand
		free    capacity
		want    []string // the reason of each, start, or "fail: …"
	}{
		{"nobody waits", nil, capacity{slots: 1, total: 1}, nil},
		{"all fit", []demand{here, here}, capacity{slots: 2, total: 2}, []string{start, start}},
		{"the oldest go first", []demand{here, here, here}, capacity{slots: 1, total: 4},
			[]string{start, "waits for a slot of this machine: 4 of 4 are taken", "waits for a slot of this machine: 4 of 4 are taken"}},
		{"more tasks than slots, as after a restart with fewer", []demand{here}, capacity{slots: -2, total: 2}, []string{"waits for a slot of this machine: 2 of 2 are taken"}},
		{"a cluster has its own limit", []demand{on("a"), on("a"), on("a")}, capacity{slots: 9, total: 9, targets: map[string]*targetState{id("a").Key(): target("a", "STANDARD_DS3_V2", 2, 1)}},
			[]string{start, "waits for a node of a: 2 of 2 are busy", "waits for a node of a: 2 of 2 are busy"}},
		{"who waits for one cluster does not keep back another's", []demand{on("a"), on("b"), here}, capacity{slots: 9, total: 9, targets: map[string]*targetState{
			id("a").Key(): target("a", "STANDARD_DS3_V2", 1, 1), id("b").Key(): target("b", "STANDARD_DS3_V2", 1, 0)}},
			[]string{"waits for a node of a: 1 of 1 are busy", start, start}},
		{"a cluster without nodes keeps its jobs", []demand{on("a")}, capacity{slots: 9, total: 9, targets: map[string]*targetState{id("a").Key(): target("a", "STANDARD_DS3_V2", 0, 0)}},
			[]string{"waits for a node of a, which may have none now (max_instances is 0)"}},
		{"a cluster that is gone fails its jobs", []demand{on("a"), on("b")}, capacity{slots: 9, total: 9, targets: map[string]*targetState{id("a").Key(): {gone: true}}},
			[]string{"fail", "fail"}},
		{"a size larger than the machine waits for nothing", []demand{sized("Standard_M64ms")}, capacity{slots: 1, total: 1}, []string{start}},
		{"a GPU is waited for", []demand{sized("Standard_NC6s_v3"), here}, capacity{slots: 1, total: 1}, []string{"waits for a GPU: Standard_NC6s_v3 has 1, this machine has none", start}},
		{"a GPU that is there is given", []demand{sized("Standard_NC6s_v3")}, capacity{slots: 1, total: 1, gpus: 1}, []string{start}},
		{"a cluster's size counts too", []demand{on("a")}, capacity{slots: 1, total: 1, targets: map[string]*targetState{id("a").Key(): target("a", "STANDARD_NC12S_V3", 1, 0)}},
			[]string{"waits for a GPU: STANDARD_NC12S_V3 has 2, this machine has none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := plan(c.waiting, c.free)
			if len(got) != len(c.want) {
				t.Fatalf("%d verdicts", len(got))
			}
			for i, v := range got {
				switch want := c.want[i]; {
				case want == "fail" && v.fail == "", want == start && !v.start, want != start && want != "fail" && (v.start || v.reason != want):
					t.Errorf("%d: %+v, want %q", i, v, want)
				}
			}
		})
	}
}

// The queue is looked at in each pass, so what a look costs is what a thousand
// jobs that wait cost the one that runs.
func BenchmarkPlan1000(b *testing.B) {
	waiting := make([]demand, 1000)
	for b.Loop() {
		plan(waiting, capacity{slots: 0, total: 4})
	}
}

func TestTheLastWordsAreTheCommands(t *testing.T) {
	for lines, want := range map[string]string{
		"":                       "",
		"a\nb\n":                 "b",
		"a\nb\n\n \n":            "b",
		notePrefix + "no engine": "",
		notePrefix + "x\nboom":   "boom",
		"one":                    "one",
	} {
		if got := lastWords(lines); got != want {
			t.Errorf("of %q: %q, want %q", lines, got, want)
		}
	}
}

func TestAnEndIsWrittenOnce(t *testing.T) {
	for _, s := range []tracking.Status{tracking.Completed, tracking.Failed, tracking.Canceled} {
		r := tracking.Run{Status: s, End: 7, Reason: "x"}
		if err := settled(&r, ending{status: tracking.Failed, code: "c", message: "m"}, 9); err != nil || r.Status != s || r.End != 7 || r.Error != nil {
			t.Errorf("%s became %+v, %v", s, r, err)
		}
	}
}
