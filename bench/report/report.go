// Package report keeps what a bench has measured in a section of a page.
package report

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"
)

// Measured says when and on what the bench of that name has run.
func Measured(name string) string {
	return fmt.Sprintf("Measured %s on %d cores, %s/%s, by `make bench-%s`.", time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, name)
}

// Write puts text into the section of the bench of that name in a page; a page
// without one gets it at the end.
func Write(path, name, text string) error {
	begin, end := fmt.Sprintf("<!-- %[1]s: written by make bench-%[1]s -->\n", name), fmt.Sprintf("<!-- end of %s -->\n", name)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	page := string(b)
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		before, after = page, ""
	}
	return os.WriteFile(path, []byte(before+begin+text+end+after), 0o644)
}
