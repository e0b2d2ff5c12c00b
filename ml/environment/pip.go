package environment

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/pattern"
)

// ParseRequirements reads the text of a pip requirements file. Python is the
// version to use, "" for any. What is wrong with it is a fault that names the line.
func ParseRequirements(python, text string) (Recipe, error) {
	if len(text) > maxFile {
		return Recipe{}, fault.Invalid("the requirements have %d bytes, the limit is %d", len(text), maxFile).With("InvalidRequirements")
	}
	r := Recipe{Python: python}
	begin, joined := 0, ""
	for i, line := range strings.Split(text, "\n") {
		if joined == "" {
			begin = i + 1
		}
		line = strings.TrimSuffix(line, "\r")
		if rest, goesOn := strings.CutSuffix(line, `\`); goesOn {
			joined += rest + " "
			continue
		}
		if err := r.addRequirement(joined + line); err != nil {
			return Recipe{}, fault.Invalid("requirements line %d: %v", begin, err).With("InvalidRequirements")
		}
		joined = ""
	}
	if err := r.addRequirement(joined); err != nil {
		return Recipe{}, fault.Invalid("requirements line %d: %v", begin, err).With("InvalidRequirements")
	}
	return r, nil
}

// requirement is a distribution's name, perhaps extras, and what may follow.
var requirement = pattern.New(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*(\[[^\]]*\])?\s*($|[<>=!~;@( ])`)

// options tells how to treat the options of a requirements file: those with a
// value, those without, and those that change nothing here.
var options = struct{ valued, plain, idle []string }{
	valued: []string{"--index-url", "--extra-index-url", "--find-links", "--no-binary", "--only-binary", "--trusted-host"},
	plain:  []string{"--no-index", "--pre"},
	idle:   []string{"--upgrade", "-U", "--no-cache-dir", "--prefer-binary", "--use-pep517", "--no-warn-script-location", "--quiet", "-q", "--disable-pip-version-check", "--use-deprecated", "--use-feature", "--require-hashes", "--timeout", "--retries", "--progress-bar"},
}

// shortOptions are other spellings of an option.
var shortOptions = map[string]string{"-i": "--index-url", "-f": "--find-links", "--pypi-url": "--index-url"}

// addRequirement takes one line of a requirements file into the recipe.
func (r *Recipe) addRequirement(text string) error {
	text = strings.TrimSpace(text)
	if i := strings.Index(text, " #"); i >= 0 {
		text = strings.TrimSpace(text[:i])
	}
	if text == "" || strings.HasPrefix(text, "#") {
		return nil
	}
	if strings.ContainsAny(text, "\n\r\x00") {
		return errors.New("one requirement has one line")
	}
	text = strings.Join(strings.Fields(text), " ")
	if strings.HasPrefix(text, "-") {
		return r.addOption(text)
	}
	if local(text) {
		return fmt.Errorf("%q is a path, and the environment is built without the files beside it: name a published package or a URL", text)
	}
	isURL := strings.Contains(strings.SplitN(text, " ", 2)[0], "://")
	if !isURL && !requirement.MatchString(text) {
		return fmt.Errorf("%q is not a requirement such as numpy==1.21", text)
	}
	r.Pip = append(r.Pip, text)
	return nil
}

func (r *Recipe) addOption(text string) error {
	name, value := text, ""
	if i := strings.IndexAny(text, "= \t"); i >= 0 {
		name, value = text[:i], strings.TrimSpace(text[i+1:])
	} else if len(text) > 2 && text[1] != '-' { // -fURL
		name, value = text[:2], text[2:]
	}
	if long, ok := shortOptions[name]; ok {
		name = long
	}
	switch {
	case name == "-r" || name == "--requirement" || name == "-c" || name == "--constraint":
		return fmt.Errorf("%q names a file that does not come with the environment: write its lines here", text)
	case name == "-e" || name == "--editable":
		if strings.Contains(value, "://") {
			r.Pip = append(r.Pip, value)
			return nil
		}
		return fmt.Errorf("%q names a folder that does not come with the environment: name a published package or a URL", text)
	case slices.Contains(options.valued, name):
		if value == "" {
			return fmt.Errorf("%s needs a value", name)
		}
		if name == "--find-links" && local(value) {
			return fmt.Errorf("%q names a folder that does not come with the environment", text)
		}
		r.Pip = append(r.Pip, name+" "+value)
	case slices.Contains(options.plain, name):
		r.Pip = append(r.Pip, name)
	case slices.Contains(options.idle, name):
		r.Notes = append(r.Notes, fmt.Sprintf("pip option %s has no effect here", name))
	default:
		return fmt.Errorf("option %s cannot stand in a list of requirements", name)
	}
	return nil
}

// local tells whether the text names a file beside the conda file.
func local(text string) bool {
	return strings.HasPrefix(text, ".") || strings.HasPrefix(text, "~") || strings.HasPrefix(text, "/")
}
