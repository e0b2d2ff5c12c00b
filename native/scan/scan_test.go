package scan

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"
)

func TestNumbersAreReadToTheLastDigit(t *testing.T) {
	for _, word := range []string{"0", "-0", "1", "-1.5", "0.1", "5.1", "1e22", "1e23", "123456789012345678", "9223372036854775807", "18446744073709551615", "1.7976931348623157e308",
		"4.9e-324", "2.2250738585072011e-308", "0.30000000000000004", "9007199254740993", "1e-400", "0.000000000000000000000000000000000000001", "12345678901234567890123", "1E+2"} {
		want, err := strconv.ParseFloat(word, 64)
		if err != nil {
			t.Fatal(err)
		}
		n, err := New([]byte(word)).Number()
		if err != nil || math.Float64bits(n.Float) != math.Float64bits(want) {
			t.Errorf("%s is read as %v: %v", word, n.Float, err)
		}
	}
	if n, err := New([]byte("9223372036854775807")).Number(); err != nil || !n.Whole || n.Int != math.MaxInt64 {
		t.Errorf("the largest whole number: %+v %v", n, err)
	}
	if n, err := New([]byte("-9223372036854775808")).Number(); err != nil || !n.Whole || n.Int != math.MinInt64 {
		t.Errorf("the smallest whole number: %+v %v", n, err)
	}
}

// What encoding/json takes, this takes, and numbers are the same.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9\ud83d\ude00",true,null]}`, `[]`, `-0.0`, `"\""`, `[1,]`, `01`, `1.`, `{"a" 1}`, "\"\x01\"", `"\ud800"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := New(b)
		err := s.Skip()
		if err == nil {
			err = s.End()
		}
		if json.Valid(b) && err != nil {
			// Half a surrogate pair and bytes that are no UTF-8 are taken there.
			var v any
			if json.Unmarshal(b, &v) == nil && !containsReplacement(v) {
				t.Errorf("%q is JSON: %v", b, err)
			}
		}
		var want float64
		if json.Unmarshal(b, &want) == nil && string(b) != "null" {
			if n, err := New(b).Number(); err != nil || n.Float != want {
				t.Errorf("%q is %v, and was read as %v: %v", b, want, n.Float, err)
			}
		}
	})
}

func containsReplacement(v any) bool {
	switch v := v.(type) {
	case string:
		for _, r := range v {
			if r == 0xFFFD {
				return true
			}
		}
	case []any:
		for _, e := range v {
			if containsReplacement(e) {
				return true
			}
		}
	case map[string]any:
		for k, e := range v {
			if containsReplacement(k) || containsReplacement(e) {
				return true
			}
		}
	}
	return false
}
