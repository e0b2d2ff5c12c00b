package mlflowhttp_test

import (
	_ "embed"
	"encoding/json"
	"strings"
	"testing"

	"lapis/pattern"
)

//go:embed testdata/routes.txt
var mlflowsRoutes string

var variable = pattern.New(`\{\w+(\.\.\.)?\}`)

// Every route of MLflow's server is one of two kinds: it does what it does
// there, or it says that it is not offered. None is forgotten.
func TestEveryRouteOfMLflowIsAnswered(t *testing.T) {
	c := newClient(t)
	n := 0
	for line := range strings.Lines(mlflowsRoutes) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		n++
		line, left := strings.CutPrefix(line, "- ")
		method, path, _ := strings.Cut(line, " ")
		roots := []string{"/api/", "/ajax-api/"}
		if !strings.Contains(path, ".0/") {
			roots = []string{"/"}
		}
		for _, root := range roots {
			status, reply := c.raw(method, root+variable.ReplaceAllString(path, "x"), "{}", "application/json")
			var v struct {
				Code string `json:"error_code"`
			}
			_ = json.Unmarshal([]byte(reply), &v)
			switch {
			case left && (status != 501 || v.Code != "NOT_IMPLEMENTED"):
				t.Errorf("%s %s%s: %d %s, want NOT_IMPLEMENTED", method, root, path, status, reply)
			case !left && (status >= 500 || status == 405 || v.Code == "ENDPOINT_NOT_FOUND" && !strings.Contains(path, "workspaces")):
				t.Errorf("%s %s%s: %d %s", method, root, path, status, reply)
			}
		}
	}
	if n < 150 {
		t.Errorf("%d routes were tried; MLflow has more", n)
	}
}
