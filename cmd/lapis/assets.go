package main

import (
	"regexp"
	"strings"
)

// The fields that may change on a version that is there.
var assetFields = map[string]string{"description": "properties.description", "tags": "properties.tags"}

// assetVerbs are the verbs that all versioned things have.
func (n *noun) assetVerbs() {
	n.show("  lapis " + n.name + " show --name NAME --version 1\n  lapis " + n.name + " show --name NAME --label latest")
	n.list("  lapis "+n.name+" list -o table\n  lapis "+n.name+" list --name NAME -o table", nil)
	n.update("  lapis "+n.name+" update --name NAME --version 1 --set tags.team=vision", nil)
	n.archive()
}

var hump = regexp.MustCompile(`([a-z0-9])([A-Z])`)

func snakeKey(s string) string { return strings.ToLower(hump.ReplaceAllString(s, "${1}_${2}")) }
