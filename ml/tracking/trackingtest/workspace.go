package trackingtest

import (
	"testing"

	"lapis/fault"
	"lapis/ml/tracking"
)

func purgeWorkspace(t *testing.T, s tracking.Store, fold func() error) {
	ctx := t.Context()
	for _, workspace := range []string{here, there} {
		newRun(t, s, workspace, "a", false)
		newRun(t, s, workspace, "job", true)
		newRun(t, s, workspace, "gone", false)
		if err := s.Log(ctx, workspace, "a", []tracking.Metric{{Key: "m", Point: tracking.Point{Value: 1}}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Discard(ctx, workspace, "mlflow-artifacts:/1"); err != nil {
			t.Fatal(err)
		}
	}
	deleteRun(t, s, "gone", 1)
	if err := fold(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateExperiment(ctx, tracking.Experiment{Workspace: here, Name: "empty"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.PurgeWorkspace(ctx, here); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "job", "gone"} {
			if _, err := s.Run(ctx, here, id); !fault.Is(err, fault.Missing) {
				t.Errorf("%s: %v", id, err)
			}
		}
		if left := must[[]tracking.Experiment](t)(s.Experiments(ctx, here)); len(left) != 0 {
			t.Errorf("experiments are left: %v", left)
		}
		if open := must[[]tracking.Run](t)(s.OpenJobs(ctx)); len(open) != 1 || open[0].Workspace != there {
			t.Errorf("open jobs: %v", open)
		}
		if w := waste(t, s, here); w != "" {
			t.Errorf("waste is left: %s", w)
		}
	}
	if d := must[*tracking.Detail](t)(s.Detail(ctx, there, "a")); len(d.Metrics) != 1 {
		t.Errorf("the other workspace: %+v", d)
	}
	if waste(t, s, there) == "" {
		t.Error("the other workspace's waste is gone")
	}
}
