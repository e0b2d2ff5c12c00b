package pattern_test

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lapis/pattern"
)

func TestAPatternMatchesAsItsExpression(t *testing.T) {
	p := pattern.New(`^(\w+)-(\d+)$`)
	if got := p.FindStringSubmatch("job-12"); len(got) != 3 || got[1] != "job" || got[2] != "12" || p.MatchString("job") {
		t.Error(got)
	}
	if got := p.ReplaceAllString("job-12", "$2"); got != "12" {
		t.Error(got)
	}
}

// Patterns are compiled late, so that a wrong one would be found late too.
func TestEveryPatternOfTheProgramIsSound(t *testing.T) {
	count := 0
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != ".." && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 || types.ExprString(call.Fun) != "pattern.New" {
				return true
			}
			value, err := types.Eval(files, nil, token.NoPos, types.ExprString(call.Args[0]))
			if err != nil || value.Value == nil {
				t.Errorf("%s: %s is no constant text", path, types.ExprString(call.Args[0]))
				return true
			}
			count++
			if _, err := regexp.Compile(constant.StringVal(value.Value)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if count < 50 {
		t.Errorf("only %d patterns were found", count)
	}
}
