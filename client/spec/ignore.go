package spec

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ignore holds the patterns of a folder's .amlignore or .gitignore, in order;
// the last one that matches decides.
type ignore struct {
	rules   []ignoreRule
	negated bool // a pattern takes something back in
}

type ignoreRule struct {
	form *regexp.Regexp
	out  bool
}

func readIgnore(dir string) (ignore, error) {
	for _, name := range []string{".amlignore", ".gitignore"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return ignore{}, err
		}
		return parseIgnore(string(data)), nil
	}
	return ignore{}, nil
}

func parseIgnore(source string) ignore {
	var ig ignore
	for line := range strings.Lines(strings.TrimPrefix(source, "\ufeff")) {
		line = strings.TrimRight(line, "\r\n")
		if !strings.HasSuffix(line, `\ `) {
			line = strings.TrimRight(line, " \t")
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		out := true
		if strings.HasPrefix(line, "!") {
			out, line = false, line[1:]
		} else {
			line = strings.TrimPrefix(line, `\`)
		}
		form := ignoreForm(line)
		if form == nil {
			continue
		}
		ig.rules = append(ig.rules, ignoreRule{form, out})
		ig.negated = ig.negated || !out
	}
	return ig
}

// ignoreForm turns a pattern into an expression over a path and, for a
// folder, its path with a slash at the end. What lies below a match matches.
func ignoreForm(pattern string) *regexp.Regexp {
	anchored := strings.Contains(strings.TrimSuffix(pattern, "/"), "/")
	onlyFolder := strings.HasSuffix(pattern, "/")
	pattern = strings.Trim(pattern, "/")
	if pattern == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString("^")
	if !anchored {
		b.WriteString("(?:.*/)?")
	}
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case strings.HasPrefix(pattern[i:], "**/"):
			b.WriteString("(?:.*/)?")
			i += 2
		case strings.HasPrefix(pattern[i:], "/**") && i+3 == len(pattern):
			b.WriteString("/.*")
			i += 2
		case c == '*':
			b.WriteString("[^/]*")
		case c == '?':
			b.WriteString("[^/]")
		case c == '[':
			end := strings.IndexByte(pattern[i+1:], ']')
			if end < 1 {
				b.WriteString(`\[`)
				continue
			}
			class := pattern[i+1 : i+1+end]
			if strings.HasPrefix(class, "!") {
				class = "^" + class[1:]
			}
			b.WriteString("[" + strings.ReplaceAll(class, `\`, `\\`) + "]")
			i += end + 1
		case c == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	if onlyFolder {
		b.WriteString("/")
	} else {
		b.WriteString("(?:/|$)")
	}
	form, err := regexp.Compile(b.String())
	if err != nil {
		return nil
	}
	return form
}

// leavesOut tells whether the file or folder at the relative path is ignored.
func (ig ignore) leavesOut(name string, folder bool) bool {
	if folder {
		name += "/"
	}
	out := false
	for _, r := range ig.rules {
		if r.form.MatchString(name) {
			out = r.out
		}
	}
	return out
}
