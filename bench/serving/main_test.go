package main

import (
	"errors"
	"strings"
	"testing"
)

func TestARowSaysWhyAServerHasNoFigure(t *testing.T) {
	b := &bench{}
	b.add("forest, 1 client", "µs, p50", true, ours, 100, "")
	b.add("forest, 1 client", "µs, p50", true, gunicorn, 250, "p99 1 ms")
	b.add("forest, 8 clients", "requests/s", false, ours, 3000, "")
	b.miss(azure, "forest", errors.New("it ended;\nits last words: no such name"))
	b.miss(ours, "proxy", errors.New("not deployed"))
	text := b.table()
	for _, want := range []string{
		"| load | unit | Lapis | gunicorn + Flask | Azure inference server |",
		"| forest, 1 client | µs, p50 | 100 | 250; p99 1 ms (2.5×) | – [1] |",
		"| forest, 8 clients | requests/s | 3,000 | – | – [1] |",
		"| proxy | – | – [2] | – | – |",
		"- [1] No figure of Azure inference server for forest: it ended; its last words: no such name",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line %q in:\n%s", want, text)
		}
	}
}
