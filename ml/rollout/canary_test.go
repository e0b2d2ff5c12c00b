package rollout

import (
	"maps"
	"testing"
)

func TestASplitGivesTheCanaryItsPercentAndTheOthersTheRest(t *testing.T) {
	for _, c := range []struct {
		before  map[string]int
		percent int
		want    map[string]int
	}{
		{map[string]int{"blue": 100}, 5, map[string]int{"blue": 95, "green": 5}},
		{map[string]int{"blue": 100}, 100, map[string]int{"blue": 0, "green": 100}},
		{map[string]int{"blue": 60, "red": 40}, 50, map[string]int{"blue": 30, "red": 20, "green": 50}},
		{map[string]int{"a": 33, "b": 33, "c": 34}, 1, map[string]int{"a": 33, "b": 32, "c": 34, "green": 1}},
		{map[string]int{"blue": 90, "green": 10}, 0, map[string]int{"blue": 100, "green": 0}},
		{map[string]int{"blue": 0, "green": 100}, 0, map[string]int{"blue": 100, "green": 0}},
	} {
		got := split(c.before, "green", c.percent)
		sum := 0
		for _, percent := range got {
			sum += percent
		}
		if !maps.Equal(got, c.want) || sum != 100 {
			t.Errorf("%v with %d %%: %v, want %v", c.before, c.percent, got, c.want)
		}
	}
}

func TestAPlanThatMeansNothingIsRefused(t *testing.T) {
	for _, p := range []map[string]string{
		{propSteps: "5,4"}, {propSteps: "0"}, {propSteps: "101"}, {propSteps: "five"}, {propSeconds: "0"}, {propSeconds: "soon"},
		{propErrors: "2"}, {propErrors: "NaN"}, {propLatency: "-1"}, {propLeast: "0"},
	} {
		p[propDeployment] = "green"
		if _, _, err := parsePlan(p); err == nil {
			t.Errorf("%v is taken", p)
		}
	}
	if got, ok, err := parsePlan(map[string]string{propDeployment: "Green", propSteps: "5, 25,100%", propErrors: "0.01"}); err != nil || !ok || got.deployment != "green" || len(got.steps) != 3 || got.steps[2] != 100 {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if _, ok, err := parsePlan(map[string]string{propErrors: "0.01"}); ok || err != nil {
		t.Error("an objective alone begins a canary")
	}
}
