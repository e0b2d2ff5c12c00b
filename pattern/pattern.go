// Package pattern holds regular expressions that are compiled when they are
// first used.
//
// The whole system is one binary, and it starts often: with every command and
// beside every job. An expression that a start does not use costs it nothing.
package pattern

import (
	"regexp"
	"sync"
)

// Pattern is a regular expression in the syntax of package regexp, whose
// methods it shares. It is safe for use by several goroutines.
type Pattern struct {
	source string
	form   func() *regexp.Regexp
}

// New gives the pattern of a source that stands in the program. One that is
// wrong panics when it is first used.
func New(source string) *Pattern {
	return &Pattern{source, sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(source) })}
}

func (p *Pattern) String() string             { return p.source }
func (p *Pattern) MatchString(s string) bool  { return p.form().MatchString(s) }
func (p *Pattern) FindString(s string) string { return p.form().FindString(s) }

func (p *Pattern) FindIndex(b []byte) []int             { return p.form().FindIndex(b) }
func (p *Pattern) ReplaceAll(b, with []byte) []byte     { return p.form().ReplaceAll(b, with) }
func (p *Pattern) FindStringSubmatch(s string) []string { return p.form().FindStringSubmatch(s) }

func (p *Pattern) FindStringSubmatchIndex(s string) []int {
	return p.form().FindStringSubmatchIndex(s)
}

func (p *Pattern) FindAllString(s string, n int) []string { return p.form().FindAllString(s, n) }

func (p *Pattern) FindAllStringSubmatch(s string, n int) [][]string {
	return p.form().FindAllStringSubmatch(s, n)
}

func (p *Pattern) ReplaceAllString(s, with string) string { return p.form().ReplaceAllString(s, with) }

func (p *Pattern) ReplaceAllStringFunc(s string, with func(string) string) string {
	return p.form().ReplaceAllStringFunc(s, with)
}
