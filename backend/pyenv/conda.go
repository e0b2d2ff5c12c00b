package pyenv

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lapis/ml/environment"
)

// condaTool returns the path of micromamba, mamba or conda on PATH, or "".
func (b *Builder) condaTool() string {
	for _, name := range []string{"micromamba", "mamba", "conda"} {
		for _, dir := range filepath.SplitList(b.vars["PATH"]) {
			file := filepath.Join(dir, name)
			if info, err := os.Stat(file); err == nil && filepath.IsAbs(dir) && !info.IsDir() && info.Mode()&0o111 != 0 {
				return file
			}
		}
	}
	return ""
}

// onlyConda tells whether a conda tool is worth its time: for pip alone, which
// nearly every conda file names, it is not.
func onlyConda(specs []string) bool {
	return slices.ContainsFunc(specs, func(text string) bool {
		s, err := environment.ParseSpec(text)
		return err == nil && s.Name != "pip" && s.Name != "setuptools" && s.Name != "wheel"
	})
}

// condaPython is the conda spec of Recipe.Python.
func condaPython(want string) string {
	switch {
	case want == "":
		return "python"
	case strings.ContainsAny(want, "<>!~,|="):
		return "python " + want
	default:
		return "python=" + want
	}
}
