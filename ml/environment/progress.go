package environment

import "strings"

// StageMark begins those lines of a build log that say how far the build has
// come: "==> installing 23 packages". A display may show the newest alone.
const StageMark = "==> "

// Stage returns what a line of a build log says about the progress, if it does.
func Stage(line string) (string, bool) {
	text, ok := strings.CutPrefix(line, StageMark)
	return strings.TrimSpace(text), ok
}
