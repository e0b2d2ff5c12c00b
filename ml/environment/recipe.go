// Package environment holds the environments that jobs run in: what one is
// asked to contain (Recipe), and what makes it (Builder).
package environment

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Recipe says what a Python environment is made of. The zero Recipe is the
// default environment: the nearest Python and no packages.
type Recipe struct {
	// Python is the version asked for: "3.10", "3.10.4", a range such as
	// ">=3.9,<3.12", or "" for any.
	Python string

	Channels []string // conda channels, the first preferred
	Conda    []string // conda specs but for Python's own, as written: "numpy=1.21"

	// Pip holds lines of a requirements file: requirements and those options
	// that such a file may carry ("--extra-index-url https://...").
	Pip []string

	// Notes says what was read but has no effect. It is no part of the hash.
	Notes []string `json:"-"`
}

// recipeFormat enters every hash: raise it when the same recipe must give
// another environment than it did.
const recipeFormat = 1

// Hash names the recipe by what it asks for: order of packages, blanks and
// repetitions make no difference, the order of channels and indexes does.
func (r Recipe) Hash() string {
	var options, packages []string
	for _, line := range r.Pip {
		line = strings.Join(strings.Fields(line), " ")
		if strings.HasPrefix(line, "-") {
			options = append(options, line)
		} else if line != "" {
			packages = append(packages, line)
		}
	}
	conda := make([]string, 0, len(r.Conda))
	for _, spec := range r.Conda {
		conda = append(conda, strings.Join(strings.Fields(spec), " "))
	}
	text, err := json.Marshal(struct {
		Format                             int
		Python                             string
		Channels, Conda, Options, Packages []string
	}{recipeFormat, r.Python, r.channels(), sorted(conda), options, sorted(packages)})
	if err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// channels leaves out channels where there is nothing to fetch from them.
func (r Recipe) channels() []string {
	if len(r.Conda) == 0 {
		return nil
	}
	return r.Channels
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
