package environment

import (
	"errors"
	"fmt"
	"strings"

	"lapis/pattern"
)

// Spec is a conda match specification, such as conda-forge::numpy=1.21=py38_0.
type Spec struct {
	Channel string // "conda-forge", "" for any
	Name    string // lower case
	Version string // as conda writes it, "" for any: "=1.21", "==1.21.2", ">=1,<2", "=1.2|=1.3"
}

var (
	specName  = pattern.New(`^[A-Za-z0-9_][A-Za-z0-9._-]*`)
	specCheck = pattern.New(`^(==|=|>=|<=|!=|~=|<|>)?[A-Za-z0-9_.*+!-]+$`)
	brackets  = pattern.New(`version\s*=\s*(?:'([^']*)'|"([^"]*)"|([^,\]\s]+))`)
)

// ParseSpec reads a conda match specification. The build string is left out:
// it names one file of one channel.
func ParseSpec(text string) (Spec, error) {
	var s Spec
	rest := strings.TrimSpace(text)
	if i := strings.Index(rest, " #"); i >= 0 {
		rest = strings.TrimSpace(rest[:i])
	}
	if rest == "" {
		return s, errors.New("a package's name is expected")
	}
	if strings.Contains(rest, "://") {
		return s, fmt.Errorf("%q: a package by URL is not supported; name it with its channel", text)
	}
	if channel, after, ok := strings.Cut(rest, "::"); ok {
		s.Channel, rest = strings.TrimSpace(channel), strings.TrimSpace(after)
	}
	name := specName.FindString(rest)
	if name == "" {
		return s, fmt.Errorf("%q does not begin with a package's name", text)
	}
	s.Name = strings.ToLower(name)
	rest = strings.TrimSpace(rest[len(name):])
	if strings.HasPrefix(rest, "[") {
		if m := brackets.FindStringSubmatch(rest); m != nil {
			s.Version = m[1] + m[2] + m[3]
		}
		return s, nil
	}
	if rest == "" {
		return s, nil
	}

	// "=1.2=build" and "1.2 build" pin a build, and with it the whole version.
	exact := !strings.ContainsAny(rest[:1], "=<>!~")
	var parts []string
	for _, alternative := range strings.Split(rest, "|") {
		var checks []string
		for _, check := range strings.Split(alternative, ",") {
			check = strings.TrimSpace(check)
			op := check[:len(check)-len(strings.TrimLeft(check, "=<>!~"))]
			v := strings.TrimSpace(check[len(op):])
			if version, _, ok := strings.Cut(v, "="); ok && (op == "=" || op == "==" || op == "") {
				op, v = "==", strings.TrimSpace(version)
			}
			if version, _, ok := strings.Cut(v, " "); ok {
				v = version
				if op == "=" {
					op = "=="
				}
			}
			if op == "" && exact && !strings.Contains(v, "*") {
				op = "=="
			}
			if !specCheck.MatchString(op + v) {
				return s, fmt.Errorf("%q is not a version such as %s=1.21 or %s>=1.21,<2", text, s.Name, s.Name)
			}
			checks = append(checks, op+v)
		}
		parts = append(parts, strings.Join(checks, ","))
	}
	s.Version = strings.Join(parts, "|")
	return s, nil
}

// pip returns the version in pip's terms, and whether something was lost.
func (s Spec) pip() (version string, lossy bool) {
	v := s.Version
	if i := strings.LastIndex(v, "|"); i >= 0 {
		v, lossy = v[i+1:], true
	}
	var out []string
	for _, check := range strings.Split(v, ",") {
		check = strings.TrimSpace(check)
		op := check[:len(check)-len(strings.TrimLeft(check, "=<>!~"))]
		v := strings.TrimSpace(check[len(op):])
		stem := strings.TrimSuffix(strings.TrimSuffix(v, "*"), ".")
		star := stem != v
		if stem == "" {
			continue
		}
		switch {
		case op == "=" || (op == "" && star) || (op == "==" && star):
			out = append(out, "=="+stem+".*")
		case op == "":
			out = append(out, "=="+stem)
		case op == "!=" && star:
			out = append(out, "!="+stem+".*")
		default:
			out = append(out, op+stem)
		}
	}
	return strings.Join(out, ","), lossy
}
