package autoscale

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"lapis/ml/monitor"
)

const target1 = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/onlineEndpoints/e/deployments/blue"

// rule makes a rule: "CpuUtilizationPercentage > 70 out 2 cooldown".
func rule(metric, operator string, threshold float64, direction, kind string, value int, cooldown string) string {
	return fmt.Sprintf(`{"metricTrigger":{"metricName":%q,"metricResourceUri":%q,"timeGrain":"PT1M","statistic":"Average","timeWindow":"PT5M","timeAggregation":"Average","operator":%q,"threshold":%v},
		"scaleAction":{"direction":%q,"type":%q,"value":"%d","cooldown":%q}}`, metric, target1, operator, threshold, direction, kind, value, cooldown)
}

func profile(name string, least, fallback, most int, extra string, rules ...string) string {
	return fmt.Sprintf(`{"name":%q,"capacity":{"minimum":"%d","maximum":"%d","default":"%d"},"rules":[%s]%s}`, name, least, most, fallback, strings.Join(rules, ","), extra)
}

func setting(t *testing.T, profiles ...string) Setting {
	t.Helper()
	s, err := Parse(json.RawMessage(fmt.Sprintf(`{"targetResourceUri":%q,"profiles":[%s]}`, target1, strings.Join(profiles, ","))))
	if err == nil {
		err = s.check()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRulesDecideHowManyInstancesThereAre(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	cpuOut := rule(monitor.CPU, "GreaterThan", 70, "Increase", "ChangeCount", 2, "PT5M")
	cpuIn := rule(monitor.CPU, "LessThan", 30, "Decrease", "ChangeCount", 1, "PT5M")
	slowOut := rule("RequestLatency", "GreaterThan", 70, "Increase", "ChangeCount", 1, "PT1M")
	fastIn := rule("RequestLatency", "LessThan", 20, "Decrease", "ChangeCount", 2, "PT1M")
	unknown := map[string]float64{}
	for _, c := range []struct {
		name    string
		rules   []string
		bounds  [3]int // minimum, default, maximum
		current int
		ago     time.Duration // since the last change; 0: never
		values  map[string]float64
		want    int
	}{
		{"a rule that holds scales out", []string{cpuOut}, [3]int{2, 2, 5}, 2, 0, map[string]float64{monitor.CPU: 90}, 4},
		{"at the threshold nothing happens", []string{cpuOut}, [3]int{2, 2, 5}, 2, 0, map[string]float64{monitor.CPU: 70}, 2},
		{"not above the maximum", []string{cpuOut}, [3]int{2, 2, 5}, 4, 0, map[string]float64{monitor.CPU: 90}, 5},
		{"at the maximum nothing happens", []string{cpuOut}, [3]int{2, 2, 5}, 5, 0, map[string]float64{monitor.CPU: 90}, 5},
		{"below the minimum it is raised, whatever the metrics", []string{cpuOut}, [3]int{2, 2, 5}, 1, time.Second, unknown, 2},
		{"from none it is raised, too", []string{cpuOut}, [3]int{2, 2, 5}, 0, time.Second, unknown, 2},
		{"where none may be, none stays until a request comes", []string{cpuOut}, [3]int{0, 1, 5}, 0, 0, unknown, 0},
		{"above the maximum it is lowered", []string{cpuOut}, [3]int{2, 2, 5}, 9, time.Second, unknown, 5},
		{"without metrics the default holds", []string{cpuOut}, [3]int{1, 3, 5}, 2, 0, unknown, 3},
		{"and takes nothing away", []string{cpuOut}, [3]int{1, 3, 5}, 4, 0, unknown, 4},
		{"within the cooldown nothing happens", []string{cpuOut}, [3]int{2, 2, 5}, 2, 4 * time.Minute, map[string]float64{monitor.CPU: 90}, 2},
		{"after it, it does", []string{cpuOut}, [3]int{2, 2, 5}, 2, 5 * time.Minute, map[string]float64{monitor.CPU: 90}, 4},
		{"any rule scales out, the one that makes most", []string{slowOut, cpuOut}, [3]int{1, 1, 9}, 2, 0, map[string]float64{monitor.CPU: 90, "RequestLatency": 90}, 4},
		{"one of them is enough", []string{slowOut, cpuOut}, [3]int{1, 1, 9}, 2, 0, map[string]float64{monitor.CPU: 10, "RequestLatency": 90}, 3},
		{"a cooldown holds for its own rule", []string{slowOut, cpuOut}, [3]int{1, 1, 9}, 2, 2 * time.Minute, map[string]float64{monitor.CPU: 90, "RequestLatency": 90}, 3},
		{"scaling in needs all of them", []string{cpuIn, fastIn}, [3]int{1, 1, 9}, 4, 0, map[string]float64{monitor.CPU: 10, "RequestLatency": 50}, 4},
		{"and takes the smallest step", []string{cpuIn, fastIn}, [3]int{1, 1, 9}, 4, 0, map[string]float64{monitor.CPU: 10, "RequestLatency": 5}, 3},
		{"an unknown metric does not agree", []string{cpuIn, fastIn}, [3]int{1, 1, 9}, 4, 0, map[string]float64{monitor.CPU: 10}, 4},
		{"scaling out goes before scaling in", []string{slowOut, cpuIn}, [3]int{1, 1, 9}, 4, 0, map[string]float64{monitor.CPU: 10, "RequestLatency": 90}, 5},
		{"not below the minimum", []string{fastIn}, [3]int{3, 3, 9}, 4, 0, map[string]float64{"RequestLatency": 5}, 3},
		{"in would be out at once", []string{rule(monitor.CPU, "GreaterThan", 70, "Increase", "ChangeCount", 1, "PT1M"), rule(monitor.CPU, "LessThan", 60, "Decrease", "ChangeCount", 1, "PT1M")},
			[3]int{1, 1, 9}, 2, 0, map[string]float64{monitor.CPU: 50}, 2},
		{"a smaller step would not", []string{rule(monitor.CPU, "GreaterThan", 70, "Increase", "ChangeCount", 1, "PT1M"), rule(monitor.CPU, "LessThan", 60, "Decrease", "ChangeCount", 5, "PT1M")},
			[3]int{1, 1, 9}, 6, 0, map[string]float64{monitor.CPU: 50}, 5},
		{"percent out rounds up", []string{rule(monitor.CPU, "GreaterThan", 70, "Increase", "PercentChangeCount", 30, "PT1M")}, [3]int{1, 1, 20}, 4, 0, map[string]float64{monitor.CPU: 90}, 6},
		{"percent in rounds down and takes one at least", []string{rule(monitor.CPU, "LessThan", 20, "Decrease", "PercentChangeCount", 10, "PT1M")}, [3]int{1, 1, 20}, 4, 0, map[string]float64{monitor.CPU: 5}, 3},
		{"an exact count", []string{rule(monitor.CPU, "GreaterThan", 70, "Increase", "ExactCount", 7, "PT1M")}, [3]int{1, 1, 20}, 4, 0, map[string]float64{monitor.CPU: 90}, 7},
		{"an exact count below does not scale out", []string{rule(monitor.CPU, "GreaterThan", 70, "Increase", "ExactCount", 3, "PT1M")}, [3]int{1, 1, 20}, 4, 0, map[string]float64{monitor.CPU: 90}, 4},
	} {
		s := setting(t, profile("default", c.bounds[0], c.bounds[1], c.bounds[2], "", c.rules...))
		last := time.Time{}
		if c.ago > 0 {
			last = now.Add(-c.ago)
		}
		read := func(t Trigger) reading {
			v, ok := c.values[t.Metric]
			kind := monitor.Share
			if t.Metric == "RequestLatency" {
				kind = monitor.Latency
			}
			return reading{value: v, known: ok, kind: kind}
		}
		d := s.decide(now, c.current, last, read)
		if d.count != c.want || (d.count != c.current) != (d.reason != "") {
			t.Errorf("%s: %d to %d (%s), want %d", c.name, c.current, d.count, d.reason, c.want)
		}
		no := false
		s.Enabled = &no
		if d := s.decide(now, c.current, last, read); d.count != c.current {
			t.Errorf("%s: a setting that is not enabled scales to %d", c.name, d.count)
		}
	}
}

func TestProfilesHoldAtTheirTimes(t *testing.T) {
	weekend := `,"recurrence":{"frequency":"Week","schedule":{"timeZone":"Pacific Standard Time","days":["Saturday"],"hours":[0],"minutes":[0]}}`
	monday := `,"recurrence":{"frequency":"Week","schedule":{"timeZone":"Pacific Standard Time","days":["Monday"],"hours":[6],"minutes":[30]}}`
	launch := `,"fixedDate":{"timeZone":"W. Europe Standard Time","start":"2026-07-04T10:00:00Z","end":"2026-07-04T12:00:00Z"}`
	s := setting(t, profile("default", 1, 1, 5, ""), profile("weekend", 2, 2, 2, weekend), profile("week", 3, 3, 6, monday), profile("launch", 9, 9, 9, launch))
	los, _ := time.LoadLocation("America/Los_Angeles")
	berlin, _ := time.LoadLocation("Europe/Berlin")
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{time.Date(2026, 7, 3, 23, 59, 0, 0, los), "week"},
		{time.Date(2026, 7, 4, 0, 0, 0, 0, los), "weekend"},
		{time.Date(2026, 7, 4, 9, 59, 0, 0, berlin), "weekend"}, // 0:59 in Los Angeles
		{time.Date(2026, 7, 4, 10, 0, 0, 0, berlin), "launch"},
		{time.Date(2026, 7, 4, 11, 59, 0, 0, berlin), "launch"},
		{time.Date(2026, 7, 4, 12, 0, 0, 0, berlin), "weekend"},
		{time.Date(2026, 7, 6, 6, 29, 0, 0, los), "weekend"},
		{time.Date(2026, 7, 6, 6, 30, 0, 0, los), "week"},
		{time.Date(2026, 12, 5, 7, 59, 0, 0, time.UTC), "week"}, // winter time: eight hours behind
		{time.Date(2026, 12, 5, 8, 0, 0, 0, time.UTC), "weekend"},
	} {
		if p, ok := s.profile(c.at); !ok || p.Name != c.want {
			t.Errorf("at %s the profile is %q, want %q", c.at, p.Name, c.want)
		}
	}
	// The profile's bounds are kept to when it begins to hold.
	never := func(Trigger) reading { return reading{} }
	if d := s.decide(time.Date(2026, 7, 4, 10, 30, 0, 0, berlin), 2, time.Time{}, never); d.count != 9 {
		t.Errorf("%d instances at the launch, want 9", d.count)
	}
}

func TestAllNamesOfTimeZonesAreOnesOfPlaces(t *testing.T) {
	for windows := range windowsZones {
		if _, err := location(windows); err != nil {
			t.Error(err)
		}
	}
	if _, err := location("Mars Standard Time"); err == nil {
		t.Error("a time zone that is not there is taken")
	}
}

func TestSettingsThatCannotBeGoneByAreRefused(t *testing.T) {
	good := rule(monitor.CPU, "GreaterThan", 70, "Increase", "ChangeCount", 2, "PT5M")
	for _, c := range []struct{ body, says string }{
		{`{"profiles":[` + profile("a", 1, 1, 2, "", good) + `]}`, "targetResourceUri"},
		{`{"targetResourceUri":"x","profiles":[]}`, "profiles"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 3, 1, 2, "") + `]}`, "minimum <= default <= maximum"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 5, 2, "") + `]}`, "minimum <= default <= maximum"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "") + `,` + profile("A", 1, 1, 2, "") + `]}`, "two profiles"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "", strings.Replace(good, "GreaterThan", "Near", 1)) + `]}`, "operator"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "", strings.Replace(good, `"PT1M"`, `"PT30S"`, 1)) + `]}`, "timeGrain"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "", strings.Replace(good, `"timeWindow":"PT5M"`, `"timeWindow":"P1D"`, 1)) + `]}`, "timeWindow"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "", strings.Replace(good, `"Increase"`, `"Sideways"`, 1)) + `]}`, "direction"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, "", strings.Replace(good, `"cooldown":"PT5M"`, `"cooldown":"soon"`, 1)) + `]}`, "cooldown"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, `,"recurrence":{"frequency":"Week","schedule":{"timeZone":"Mars","days":["Monday"]}}`) + `]}`, "time zone"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, `,"recurrence":{"frequency":"Week","schedule":{"days":["Caturday"]}}`) + `]}`, "Caturday"},
		{`{"targetResourceUri":"x","profiles":[` + profile("a", 1, 1, 2, `,"fixedDate":{"start":"2026-01-02T00:00:00","end":"2026-01-01T00:00:00"}`) + `]}`, "ends before"},
		{`{"targetResourceUri":7,"profiles":[]}`, "targetResourceUri"},
		{`{"targetResourceUri":"x","profiles":[{"name":"a","capacity":{"minimum":"one","maximum":"2","default":"1"}}]}`, "one"},
	} {
		s, err := Parse(json.RawMessage(c.body))
		if err == nil {
			err = s.check()
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want a refusal that says %q", c.body, err, c.says)
		}
	}
}
