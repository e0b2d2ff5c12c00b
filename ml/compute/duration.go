package compute

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"lapis/pattern"
)

// Duration is a length of time that stands in JSON in ISO 8601's form, "PT2M".
type Duration time.Duration

var iso = pattern.New(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?$`)

// ParseDuration reads ISO 8601's days, hours, minutes and seconds.
func ParseDuration(text string) (time.Duration, error) {
	m := iso.FindStringSubmatch(text)
	if m == nil || text == "P" || text[len(text)-1] == 'T' {
		return 0, fmt.Errorf("%q is no duration in ISO 8601's form, such as PT30M or P1DT2H", text)
	}
	var seconds float64
	for i, unit := range []float64{86400, 3600, 60, 1} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(m[i+1], 64)
		if err != nil {
			return 0, err
		}
		seconds += n * unit
	}
	const most = 10 * 365 * 86400
	if seconds > most {
		return 0, fmt.Errorf("%q is longer than ten years", text)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// UnmarshalJSON reads "PT2M".
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	parsed, err := ParseDuration(text)
	*d = Duration(parsed)
	return err
}

// Timestamp is a time that may be missing.
type Timestamp struct{ time.Time }

func (t Timestamp) or(other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t.Time
}
