package tracking

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A pattern without _ is matched by its parts, and as the general way has it.
func TestAPatternMatchesInBothWays(t *testing.T) {
	few := rapid.StringOfN(rapid.SampledFrom([]rune("ab%é")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		p := newPattern(few.Draw(t, "pattern"), rapid.Bool().Draw(t, "fold"))
		slow := &pattern{text: p.text, fold: p.fold}
		s := strings.ReplaceAll(few.Draw(t, "text"), "%", "c")
		if p.match(s) != slow.match(s) {
			t.Fatalf("%q LIKE %q: %v", s, string(p.text), p.match(s))
		}
	})
}
