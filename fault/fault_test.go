package fault

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWhatAMessageQuotesIsCutBetweenCharacters(t *testing.T) {
	if got := Clip("a short name"); got != "a short name" {
		t.Errorf("a short text became %q", got)
	}
	for lead := range 3 {
		got := Clip(strings.Repeat("x", lead) + strings.Repeat("日本", 500))
		if !utf8.ValidString(got) || len(got) > 200+len("…") || len(got) < 190 || !strings.HasSuffix(got, "日…") && !strings.HasSuffix(got, "本…") {
			t.Errorf("a long text became %q of %d bytes", got, len(got))
		}
	}
}
