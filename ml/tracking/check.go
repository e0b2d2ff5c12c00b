package tracking

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"lapis/fault"
)

// Limits that MLflow's clients know, in characters unless said otherwise.
const (
	maxKey             = 250
	maxParam           = 6000
	maxTag             = 8000
	maxExperimentName  = 500
	maxExperimentTag   = 20000
	maxBatchMetrics    = 1000
	maxBatchParamsTags = 100
	maxBatch           = 1000
)

// quote is a value as MLflow's errors show it.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	return strings.TrimSuffix(b.String(), "\n")
}

// checkName refuses keys that could not be the name of a file. what is the
// field that the error names.
func checkName(key, what string) error {
	plain := true
	for i := 0; i < len(key); i++ {
		c := key[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == ' ' || c == ':' {
			continue
		}
		if c == '/' || c == '.' || c >= utf8.RuneSelf {
			plain = false
			continue
		}
		return badCharacter(key, what)
	}
	if plain && key != "" {
		return nil
	}
	for _, r := range key {
		if r >= utf8.RuneSelf && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsNumber(r) {
			return badCharacter(key, what)
		}
	}
	norm := path.Clean(key)
	if norm != key || norm == "." || strings.HasPrefix(norm, "..") || strings.HasPrefix(norm, "/") {
		return invalid("Invalid value %s for parameter '%s' supplied: Names may be treated as files in certain cases, and must not resolve to other names when treated as such. This name would resolve to '%s'", quote(key), what, norm)
	}
	return nil
}

// python is a number as MLflow's errors show it.
func python(v float64) string {
	switch {
	case math.IsNaN(v):
		return "nan"
	case math.IsInf(v, 0):
		return strings.TrimPrefix(strings.ToLower(fmt.Sprint(v)), "+")
	}
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

// repr is a string as Python shows it in a list.
func repr(s string) string {
	q := "'"
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = `"`
	}
	s = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
	if q == "'" {
		s = strings.ReplaceAll(s, "'", `\'`)
	}
	return q + s + q
}

// checkRunID refuses what cannot be the id of a run.
func checkRunID(id string) error {
	for i, r := range id {
		if i > 0 && (r == '-' || r == '_') || unicode.IsLetter(r) || unicode.IsDigit(r) {
			continue
		}
		return invalid("Invalid value %s for parameter 'run_id' supplied.", quote(id))
	}
	return nil
}

func badCharacter(key, what string) error {
	return invalid("Invalid value %s for parameter '%s' supplied: Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).", quote(key), what)
}

func tooLong(what string, limit int) error {
	return invalid("'%s' exceeds the maximum length of %d characters", what, limit)
}

// longer tells whether s has more than limit characters.
func longer(s string, limit int) bool {
	return len(s) > limit && utf8.RuneCountInString(s) > limit
}

// cut is s without what is over the limit.
func cut(s string, limit int) string {
	if !longer(s, limit) {
		return s
	}
	return string([]rune(s)[:limit])
}

// checkMetric refuses a point that cannot be kept. at is its place in a batch,
// such as "metrics[3].", or "".
func checkMetric(m *Metric, at string) error {
	if err := checkName(m.Key, at+"name"); err != nil {
		return err
	}
	if m.Time < 0 {
		return invalid("Invalid value %d for parameter '%stimestamp' supplied: metric '%s' (value=%s). Timestamp must be a nonnegative long (64-bit integer) ", m.Time, at, m.Key, python(m.Value))
	}
	if longer(m.Key, maxKey) {
		return tooLong("Metric name", maxKey)
	}
	return nil
}

func checkParam(p *Tag, at string) error {
	if err := checkName(p.Key, at+"key"); err != nil {
		return err
	}
	if longer(p.Key, maxKey) {
		return tooLong("Param key", maxKey)
	}
	p.Value = cut(p.Value, maxParam)
	return nil
}

func checkTag(t *Tag, at string) error {
	if err := checkName(t.Key, at+"key"); err != nil {
		return err
	}
	if longer(t.Key, maxKey) {
		return tooLong(at+"key", maxKey)
	}
	t.Value = cut(t.Value, maxTag)
	return nil
}

func checkExperimentTag(t Tag) error {
	if err := checkName(t.Key, "key"); err != nil {
		return err
	}
	if longer(t.Key, maxKey) {
		return tooLong("key", maxKey)
	}
	if longer(t.Value, maxExperimentTag) {
		return tooLong("value", maxExperimentTag)
	}
	return nil
}

// RunDeleted is the fault of a write to a deleted run.
func RunDeleted(id string) error {
	return invalid("The run %s must be in the 'active' state. Current state is deleted.", id)
}

func missing(format string, args ...any) *fault.Error {
	return fault.NotFound(format, args...).With("RESOURCE_DOES_NOT_EXIST")
}

// CheckTagKey refuses the key of a tag that cannot be kept.
func CheckTagKey(key string) error {
	if err := checkName(key, "key"); err != nil {
		return err
	}
	if longer(key, maxKey) {
		return tooLong("key", maxKey)
	}
	return nil
}
