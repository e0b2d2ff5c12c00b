package process

import (
	"regexp"
	"strings"
	"sync"

	"lapis/fault"
)

// placeholder is compiled when a server needs it: supervisors never do.
var placeholder = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\$\{\{\s*(inputs|outputs)\.([^\s{}]+)\s*\}\}`)
})

// safeInShell are the characters that mean only themselves in a shell.
const safeInShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%"

// expand replaces ${{inputs.name}} and ${{outputs.name}} in s by the paths,
// which are keyed "inputs.name". In a shell command a path that the shell
// would take apart is quoted for the place where it stands.
func expand(s string, paths map[string]string, shell bool) (string, error) {
	var out strings.Builder
	var quote quoting
	for {
		m := placeholder().FindStringSubmatchIndex(s)
		if m == nil {
			out.WriteString(s)
			return out.String(), nil
		}
		kind, name := s[m[2]:m[3]], s[m[4]:m[5]]
		path, ok := paths[kind+"."+name]
		if !ok {
			return "", fault.Invalid("the command names ${{%s.%s}}, but the job has no such %s; declare it under %s or correct the name",
				kind, name, strings.TrimSuffix(kind, "s"), kind).At(kind + "." + name)
		}
		out.WriteString(s[:m[0]])
		if shell {
			quote.pass(s[:m[0]])
			path = quote.quote(path)
		}
		out.WriteString(path)
		s = s[m[1]:]
	}
}

// quoting follows a shell command and knows which quotes are open.
type quoting struct {
	open    byte // ' or ", 0 outside
	escaped bool
}

func (q *quoting) pass(s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case q.escaped:
			q.escaped = false
		case c == '\\' && q.open != '\'':
			q.escaped = true
		case q.open == 0 && (c == '\'' || c == '"'):
			q.open = c
		case c == q.open:
			q.open = 0
		}
	}
}

func (q *quoting) quote(path string) string {
	if strings.Trim(path, safeInShell) == "" {
		return path
	}
	switch q.open {
	case '\'':
		return strings.ReplaceAll(path, `'`, `'\''`)
	case '"':
		return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(path)
	}
	return `'` + strings.ReplaceAll(path, `'`, `'\''`) + `'`
}
