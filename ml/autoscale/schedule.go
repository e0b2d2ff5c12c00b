package autoscale

import (
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // machines without a database of time zones have autoscale settings too

	"lapis/fault"
)

// location finds a time zone by its IANA name or by the name that Windows has
// for it, as Azure Monitor uses it. None is UTC.
func location(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if iana, ok := windowsZones[strings.ToLower(name)]; ok {
		name = iana
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("the time zone %q is not known; a known one is \"Pacific Standard Time\" or \"America/Los_Angeles\"", fault.Clip(name))
	}
	return l, nil
}

// times are the beginning and the end. What stands there is the time on the
// wall in the zone, whatever offset is written behind it.
func (f FixedDate) times() (start, end time.Time, err error) {
	zone, err := location(f.Zone)
	if err != nil {
		return start, end, err
	}
	if start, err = wall(f.Start, zone); err != nil {
		return start, end, err
	}
	end, err = wall(f.End, zone)
	return start, end, err
}

func wall(text string, zone *time.Location) (time.Time, error) {
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(form, text); err == nil {
			return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, zone), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 2026-01-02T03:04:05", fault.Clip(text))
}

var weekdays = []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}

func weekday(name string) (time.Weekday, bool) {
	name = strings.ToLower(name)
	i := slices.IndexFunc(weekdays, func(d string) bool { return d == name || len(name) == 3 && strings.HasPrefix(d, name) })
	return time.Weekday(i), i >= 0
}

func (r Recurrence) check() error {
	if !known(r.Frequency, "Week", "Day") {
		return fmt.Errorf("the frequency %q is not offered; it is Week", fault.Clip(r.Frequency))
	}
	if _, err := location(r.Schedule.Zone); err != nil {
		return err
	}
	if len(r.Schedule.Days) == 0 && !strings.EqualFold(r.Frequency, "Day") {
		return fmt.Errorf("it names no days")
	}
	for _, d := range r.Schedule.Days {
		if _, ok := weekday(d); !ok {
			return fmt.Errorf("%q is no day of the week", fault.Clip(d))
		}
	}
	for _, h := range r.Schedule.Hours {
		if h < 0 || h > 23 {
			return fmt.Errorf("the hour %d is not between 0 and 23", h)
		}
	}
	for _, m := range r.Schedule.Minutes {
		if m < 0 || m > 59 {
			return fmt.Errorf("the minute %d is not between 0 and 59", m)
		}
	}
	return nil
}

// before is when it last began, at now or before; the zero time if not within
// the last eight days.
func (r Recurrence) before(now time.Time) time.Time {
	zone, err := location(r.Schedule.Zone)
	if err != nil {
		return time.Time{}
	}
	hours, minutes := r.Schedule.Hours, r.Schedule.Minutes
	if len(hours) == 0 {
		hours = []whole{0}
	}
	if len(minutes) == 0 {
		minutes = []whole{0}
	}
	here := now.In(zone)
	var last time.Time
	for back := range 9 {
		day := here.AddDate(0, 0, -back)
		if len(r.Schedule.Days) > 0 && !slices.ContainsFunc(r.Schedule.Days, func(d string) bool {
			w, ok := weekday(d)
			return ok && w == day.Weekday()
		}) {
			continue
		}
		for _, h := range hours {
			for _, m := range minutes {
				if at := time.Date(day.Year(), day.Month(), day.Day(), int(h), int(m), 0, 0, zone); !at.After(now) && at.After(last) {
					last = at
				}
			}
		}
		if !last.IsZero() {
			break
		}
	}
	return last
}

// profile is the one that holds: one with a fixed date, else the recurring one
// that began last, else the first of those without a time.
func (s Setting) profile(now time.Time) (Profile, bool) {
	for _, p := range s.Profiles {
		if p.FixedDate != nil {
			if start, end, err := p.FixedDate.times(); err == nil && !now.Before(start) && now.Before(end) {
				return p, true
			}
		}
	}
	var best Profile
	var last time.Time
	for _, p := range s.Profiles {
		if p.Recurrence != nil {
			if at := p.Recurrence.before(now); at.After(last) {
				best, last = p, at
			}
		}
	}
	if !last.IsZero() {
		return best, true
	}
	for _, p := range s.Profiles {
		if p.FixedDate == nil && p.Recurrence == nil {
			return p, true
		}
	}
	return Profile{}, false
}
