package mlflow

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"lapis/fault"
)

// Number is a float whose JSON may be "NaN" or an infinity, as text.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	v := float64(n)
	switch {
	case math.IsNaN(v):
		return []byte(`"NaN"`), nil
	case math.IsInf(v, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(v, -1):
		return []byte(`"-Infinity"`), nil
	}
	return json.Marshal(v)
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Number) UnmarshalJSON(b []byte) error {
	v, err := parseNumber(strings.Trim(string(b), `"`))
	*n = v
	return err
}

// parseNumber reads a number as Python writes it: nan and inf too.
func parseNumber(s string) (Number, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil && !math.IsInf(v, 0) {
		return 0, fault.Invalid("%q is not a number", s)
	}
	return Number(v), nil
}

// whole is an integer that may be written as a text, as int64s are in JSON.
type whole int64

// UnmarshalJSON implements json.Unmarshaler.
func (n *whole) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	if text == "null" || text == "" {
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(text, 64)
		if ferr != nil {
			return err
		}
		v = int64(f)
	}
	*n = whole(v)
	return nil
}
