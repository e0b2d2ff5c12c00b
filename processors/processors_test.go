package processors

import "testing"

func TestAProcessTakesTheProcessorsThatItFills(t *testing.T) {
	quiet := 0
	now := 1
	for _, step := range []struct {
		share float64
		want  int
	}{{0.2, 1}, {0.8, 2}, {1.9, 4}, {3.9, 6}, {5.9, 6}, {3, 6}} {
		if now = fitting(now, 6, step.share, &quiet); now != step.want {
			t.Fatalf("%.1f: %d, not %d", step.share, now, step.want)
		}
	}
	for looks := 1; now > 1; looks++ {
		before := now
		now = fitting(now, 6, 0.1, &quiet)
		if now < before && looks%quietFor != 0 || looks > 100 {
			t.Fatalf("%d after %d looks", now, looks)
		}
	}
}
