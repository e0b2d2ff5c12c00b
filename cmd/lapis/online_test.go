package main

import (
	"reflect"
	"testing"
)

func TestSharesAreReadAsTheyAreTyped(t *testing.T) {
	for given, want := range map[string]map[string]any{
		"blue=90 green=10":   {"blue": 90, "green": 10},
		"Blue=90,green=10%":  {"blue": 90, "green": 10},
		"  blue=0\tgreen=0 ": {"blue": 0, "green": 0},
		"blue=-1":            {"blue": -1}, // refused with the others' bounds
	} {
		if got, err := shares("--traffic", given); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, %v", given, got, err)
		}
	}
	for _, wrong := range []string{"", " ", "blue", "=5", "blue=", "blue=x", "blue=1.5", "blue=1 blue=2", "blue=1 BLUE=2"} {
		if got, err := shares("--traffic", wrong); err == nil {
			t.Errorf("%q is taken as %v", wrong, got)
		}
	}
}

func TestAFieldIsRemovedThoughItsNameHasPoints(t *testing.T) {
	for path, want := range map[string]map[string]any{
		"a":            {"tags": map[string]any{"x.y": 1, "x": map[string]any{"z": 2}}},
		"tags":         {"a": 0},
		"tags.x.y":     {"a": 0, "tags": map[string]any{"x": map[string]any{"z": 2}}},
		"tags.x.z":     {"a": 0, "tags": map[string]any{"x.y": 1, "x": map[string]any{}}},
		"tags.x":       {"a": 0, "tags": map[string]any{"x.y": 1}},
		"b":            nil,
		"tags.q":       nil,
		"tags.x.y.z":   nil,
		"a.b":          nil,
		"":             nil,
		".":            nil,
		"tags.":        nil,
		"tags.x.z.w.v": nil,
	} {
		m := map[string]any{"a": 0, "tags": map[string]any{"x.y": 1, "x": map[string]any{"z": 2}}}
		found := without(m, path)
		if found != (want != nil) || found && !reflect.DeepEqual(m, want) {
			t.Errorf("%q: %v, %v", path, found, m)
		}
	}
}

func TestTheStageIsTheLastThatTheLogTells(t *testing.T) {
	for log, want := range map[string]string{
		"": "",
		"2026-11-21 20:50:19,165 I Preparing the environment\n":                                                                   ": Preparing the environment",
		"2026-11-21 20:50:19,165 I Preparing the environment\n==> Python 3.11.7\nInstalling\n\n":                                  ": Preparing the environment: Installing",
		"2026-11-21 20:50:19,165 I Preparing the environment\n==> Python 3.11.7\n2026-11-21 20:50:39,420 I Starting 1 instance\n": ": Starting 1 instance",
		"==> Python 3.11.7": ": Python 3.11.7",
	} {
		if got := stageOf(log); got != want {
			t.Errorf("%q: %q", log, got)
		}
	}
}
