package autoscale

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lapis/fault"
	"lapis/ml/compute"
	"lapis/ml/endpoint"
	"lapis/resource"
)

// Type is the type of autoscale settings. They lie in resource groups.
const Type = "Microsoft.Insights/autoscaleSettings"

// Setting is the view of a setting's properties.
type Setting struct {
	Enabled  *bool     `json:"enabled"` // missing: true
	Name     string    `json:"name"`
	Target   string    `json:"targetResourceUri"`
	Profiles []Profile `json:"profiles"`
}

// Profile is what holds at a time.
type Profile struct {
	Name       string      `json:"name"`
	Capacity   Capacity    `json:"capacity"`
	Rules      []Rule      `json:"rules"`
	FixedDate  *FixedDate  `json:"fixedDate"`
	Recurrence *Recurrence `json:"recurrence"`
}

// Capacity bounds the number of instances. Default is taken when metrics are
// not known and there are fewer.
type Capacity struct {
	Minimum whole `json:"minimum"`
	Maximum whole `json:"maximum"`
	Default whole `json:"default"`
}

// Rule says what a metric leads to.
type Rule struct {
	Trigger Trigger `json:"metricTrigger"`
	Action  Action  `json:"scaleAction"`
}

// Trigger is a comparison of a metric with a threshold.
type Trigger struct {
	Metric      string      `json:"metricName"`
	Namespace   string      `json:"metricNamespace"`
	Resource    string      `json:"metricResourceUri"`
	Grain       string      `json:"timeGrain"`       // PT1M
	Statistic   string      `json:"statistic"`       // over the instances: Average, Min, Max, Sum, Count
	Window      string      `json:"timeWindow"`      // PT5M
	Aggregation string      `json:"timeAggregation"` // over time: Average, Minimum, Maximum, Total, Count, Last
	Operator    string      `json:"operator"`
	Threshold   float64     `json:"threshold"`
	Dimensions  []Dimension `json:"dimensions"`
	PerInstance bool        `json:"dividePerInstance"`
}

// Dimension restricts a trigger's metric.
type Dimension struct {
	Name     string   `json:"DimensionName"`
	Operator string   `json:"Operator"` // Equals, NotEquals
	Values   []string `json:"Values"`
}

// Action is what a rule does.
type Action struct {
	Direction string `json:"direction"` // Increase, Decrease
	Type      string `json:"type"`      // ChangeCount, PercentChangeCount, ExactCount
	Value     whole  `json:"value"`
	Cooldown  string `json:"cooldown"` // PT5M
}

// FixedDate is a time from which to which a profile holds.
type FixedDate struct {
	Zone  string `json:"timeZone"`
	Start string `json:"start"`
	End   string `json:"end"`
}

// Recurrence says when, each week, a profile begins to hold; it does until
// another begins.
type Recurrence struct {
	Frequency string   `json:"frequency"`
	Schedule  Schedule `json:"schedule"`
}

// Schedule are times in a week.
type Schedule struct {
	Zone    string   `json:"timeZone"`
	Days    []string `json:"days"`
	Hours   []whole  `json:"hours"`
	Minutes []whole  `json:"minutes"`
}

// whole is a whole number that may stand in JSON as a text.
type whole int

func (w *whole) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("%s is no whole number", fault.Clip(string(raw)))
	}
	*w = whole(n)
	return nil
}

// The bounds of a setting.
const (
	maxProfiles  = 20
	maxRules     = 10
	maxInstances = 1000
	maxCooldown  = 7 * 24 * time.Hour
	maxWindow    = 12 * time.Hour
)

// Parse reads a setting's properties.
func Parse(properties json.RawMessage) (Setting, error) {
	var s Setting
	if err := json.Unmarshal(properties, &s); err != nil {
		if f := resource.WrongJSON(err, "properties"); strings.Contains(err.Error(), "cannot unmarshal") {
			return s, f
		}
		return s, invalid("the autoscale setting is not what is expected here: %v", err)
	}
	return s, nil
}

func (s Setting) enabled() bool { return s.Enabled == nil || *s.Enabled }

func invalid(format string, args ...any) *fault.Error {
	return fault.Invalid(format, args...).With("InvalidAutoscaleSetting")
}

// Settings makes the type of autoscale settings.
func Settings(store resource.Store) *resource.Type {
	return &resource.Type{
		Name: Type, Title: "autoscale setting", Tracked: true,
		Admit: func(ctx context.Context, c *resource.Change) error { return admit(ctx, store, c) },
	}
}

func admit(ctx context.Context, store resource.Store, c *resource.Change) error {
	if !c.New.ID.Parent().Is(resource.GroupType) {
		return invalid("An autoscale setting lies in a resource group; %s does not.", c.New.ID)
	}
	p, err := resource.ParseDocument(c.New.Properties)
	if err != nil {
		return err
	}
	p.Default("enabled", true)
	p.Default("notifications", []any{})
	p.Default("predictiveAutoscalePolicy", map[string]string{"scaleMode": "Disabled"})
	p.Set("name", c.New.ID.Name())
	c.New.Properties = p.Raw()
	s, err := Parse(c.New.Properties)
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	target, err := resource.ParseID(s.Target)
	if err != nil {
		return invalid("'targetResourceUri' is no id of a resource: %v", err).At("properties.targetResourceUri")
	}
	if !target.Is(endpoint.DeploymentType) {
		return invalid("'targetResourceUri' is of the type %s, which is not scaled here; give the id of an online deployment.", target.Type()).At("properties.targetResourceUri")
	}
	if _, err := store.Get(ctx, target); err != nil {
		if fault.Is(err, fault.Missing) {
			return fault.NotFound("The resource that the setting scales, '%s', could not be found.", target).With("ResourceNotFound").At("properties.targetResourceUri")
		}
		return err
	}
	others, err := resource.All(ctx, store, resource.Query{Type: Type})
	if err != nil {
		return err
	}
	for _, o := range others {
		theirs, err := Parse(o.Properties)
		if err == nil && strings.EqualFold(theirs.Target, s.Target) && !o.ID.Same(c.New.ID) {
			return fault.Conflicts("The resource '%s' is scaled by the autoscale setting '%s' already; change or delete that one.", target.Name(), o.ID).
				With("AutoscaleSettingExists").At("properties.targetResourceUri")
		}
	}
	return nil
}

// check refuses a setting that cannot be gone by, and names the part.
func (s Setting) check() error {
	if s.Target == "" {
		return invalid("'targetResourceUri' is missing: it is the id of the deployment to scale.").At("properties.targetResourceUri")
	}
	if len(s.Profiles) == 0 || len(s.Profiles) > maxProfiles {
		return invalid("An autoscale setting has 1 to %d profiles; this has %d.", maxProfiles, len(s.Profiles)).At("properties.profiles")
	}
	names := map[string]bool{}
	for i, p := range s.Profiles {
		at := fmt.Sprintf("properties.profiles[%d]", i)
		if p.Name == "" {
			return invalid("A profile has no name.").At(at + ".name")
		}
		if names[strings.ToLower(p.Name)] {
			return invalid("There are two profiles %q.", fault.Clip(p.Name)).At(at + ".name")
		}
		names[strings.ToLower(p.Name)] = true
		if err := p.check(at); err != nil {
			return err
		}
	}
	return nil
}

func (p Profile) check(at string) error {
	c := p.Capacity
	switch {
	case c.Minimum < 0 || c.Maximum > maxInstances:
		return invalid("The capacity of the profile %q is %d to %d; it must lie between 0 and %d.", fault.Clip(p.Name), c.Minimum, c.Maximum, maxInstances).At(at + ".capacity")
	case c.Minimum > c.Maximum || c.Default < c.Minimum || c.Default > c.Maximum:
		return invalid("The capacity of the profile %q must be minimum <= default <= maximum; it is %d, %d, %d.", fault.Clip(p.Name), c.Minimum, c.Default, c.Maximum).At(at + ".capacity")
	case len(p.Rules) > maxRules:
		return invalid("The profile %q has %d rules; at most %d are allowed.", fault.Clip(p.Name), len(p.Rules), maxRules).At(at + ".rules")
	case p.FixedDate != nil && p.Recurrence != nil:
		return invalid("The profile %q has both a fixed date and a recurrence.", fault.Clip(p.Name)).At(at)
	}
	if f := p.FixedDate; f != nil {
		start, end, err := f.times()
		if err != nil {
			return invalid("The fixed date of the profile %q: %v", fault.Clip(p.Name), err).At(at + ".fixedDate")
		}
		if !start.Before(end) {
			return invalid("The fixed date of the profile %q ends before it begins.", fault.Clip(p.Name)).At(at + ".fixedDate")
		}
	}
	if r := p.Recurrence; r != nil {
		if err := r.check(); err != nil {
			return invalid("The recurrence of the profile %q: %v", fault.Clip(p.Name), err).At(at + ".recurrence")
		}
	}
	for i, r := range p.Rules {
		if err := r.check(fmt.Sprintf("%s.rules[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func (r Rule) check(at string) error {
	t, a := r.Trigger, r.Action
	if t.Metric == "" {
		return invalid("A rule names no metric.").At(at + ".metricTrigger.metricName")
	}
	if t.Resource != "" {
		if _, err := resource.ParseID(t.Resource); err != nil {
			return invalid("'metricResourceUri' is no id of a resource: %v", err).At(at + ".metricTrigger.metricResourceUri")
		}
	}
	if _, ok := operators[strings.ToLower(t.Operator)]; !ok {
		return invalid("The operator %q is not known; the known ones are Equals, NotEquals, GreaterThan, GreaterThanOrEqual, LessThan, LessThanOrEqual.", fault.Clip(t.Operator)).At(at + ".metricTrigger.operator")
	}
	if !known(t.Statistic, "Average", "Min", "Max", "Sum", "Count") {
		return invalid("The statistic %q is not known; the known ones are Average, Min, Max, Sum, Count.", fault.Clip(t.Statistic)).At(at + ".metricTrigger.statistic")
	}
	if !known(t.Aggregation, "Average", "Minimum", "Maximum", "Total", "Count", "Last") {
		return invalid("The time aggregation %q is not known; the known ones are Average, Minimum, Maximum, Total, Count, Last.", fault.Clip(t.Aggregation)).At(at + ".metricTrigger.timeAggregation")
	}
	grain, window := t.times()
	if grain < time.Minute || grain%time.Minute != 0 {
		return invalid("'timeGrain' is %q; it must be a whole number of minutes, such as PT1M.", fault.Clip(t.Grain)).At(at + ".metricTrigger.timeGrain")
	}
	if window < grain || window > maxWindow {
		return invalid("'timeWindow' is %q; it must be at least the time grain and at most 12 hours, such as PT5M.", fault.Clip(t.Window)).At(at + ".metricTrigger.timeWindow")
	}
	for _, d := range t.Dimensions {
		if d.Name == "" || len(d.Values) == 0 || !known(d.Operator, "Equals", "NotEquals") {
			return invalid("A dimension of a rule needs a DimensionName, the Operator Equals or NotEquals, and Values.").At(at + ".metricTrigger.dimensions")
		}
	}
	if !known(a.Direction, "Increase", "Decrease") || a.Direction == "" {
		return invalid("The direction %q is not known; it is Increase or Decrease.", fault.Clip(a.Direction)).At(at + ".scaleAction.direction")
	}
	if !known(a.Type, "ChangeCount", "PercentChangeCount", "ExactCount", "ServiceAllowedNextValue") || a.Type == "" {
		return invalid("The type %q of a scale action is not known; the known ones are ChangeCount, PercentChangeCount, ExactCount.", fault.Clip(a.Type)).At(at + ".scaleAction.type")
	}
	if a.Value < 0 || a.Value > 100*maxInstances {
		return invalid("The value of a scale action is %d; it must be at least 0.", a.Value).At(at + ".scaleAction.value")
	}
	if cooldown, err := compute.ParseDuration(a.Cooldown); err != nil || cooldown > maxCooldown {
		return invalid("'cooldown' is %q; it must be a duration of at most a week, such as PT5M.", fault.Clip(a.Cooldown)).At(at + ".scaleAction.cooldown")
	}
	return nil
}

// known tells whether a word is one of those, in any case of letters, or missing.
func known(word string, words ...string) bool {
	if word == "" {
		return true
	}
	for _, w := range words {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// times are the grain and the window; 0 if they do not parse.
func (t Trigger) times() (grain, window time.Duration) {
	grain, window = time.Minute, 5*time.Minute
	if t.Grain != "" {
		grain, _ = compute.ParseDuration(t.Grain)
	}
	if t.Window != "" {
		window, _ = compute.ParseDuration(t.Window)
	}
	return grain, window
}

func (a Action) cooldown() time.Duration {
	d, _ := compute.ParseDuration(a.Cooldown)
	return d
}
