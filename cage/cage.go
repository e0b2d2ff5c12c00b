// Package cage holds the parts of a task to limits of memory and CPU. Who
// started the task has made control groups for it and tells of them in a
// variable; what runs in the task makes one below each for a part, and has the
// part's processes enter it by themselves.
package cage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Variable holds the groups of the task, as JSON.
const Variable = "LAPIS_CAGE"

// A Group is where the groups of parts are made.
type Group struct {
	Dir    string  `json:"dir"`
	Limits []Limit `json:"limits"`          // of a part, in the order in which they are set
	Kills  string  `json:"kills,omitempty"` // file of a part that counts the processes killed for its memory; "" for none
}

// Limit is what is written into a file of a group.
type Limit struct {
	File  string `json:"file"`
	Value string `json:"value"`
}

// FromEnvironment are the groups of this task; none where it has no limits.
func FromEnvironment() ([]Group, error) {
	text := os.Getenv(Variable)
	if text == "" {
		return nil, nil
	}
	var all []Group
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("%s: %w", Variable, err)
	}
	return all, nil
}

// Cage is what one part is held in. A nil one holds nothing.
type Cage struct {
	dirs  []string
	kills string
}

// Open makes the cage of a part, or finds it as it was left. What cannot be
// limited is in the error; the cage holds the rest.
func Open(groups []Group, part int) (*Cage, error) {
	c := &Cage{}
	var errs []error
	for _, g := range groups {
		dir := filepath.Join(g.Dir, strconv.Itoa(part))
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
			continue
		}
		c.dirs = append(c.dirs, dir)
		for _, l := range g.Limits {
			errs = append(errs, os.WriteFile(filepath.Join(dir, l.File), []byte(l.Value), 0))
		}
		if g.Kills != "" {
			c.kills = filepath.Join(dir, g.Kills)
		}
	}
	return c, errors.Join(errs...)
}

// Hold makes a command enter the cage before it begins.
func (c *Cage) Hold(cmd *exec.Cmd) {
	if c == nil || len(c.dirs) == 0 || cmd.Err != nil {
		return
	}
	script := ""
	for _, dir := range c.dirs {
		script += "echo 0 2>/dev/null >'" + strings.ReplaceAll(filepath.Join(dir, "cgroup.procs"), "'", `'\''`) + "'\n"
	}
	args := append([]string{"sh", "-c", script + `exec "$@"`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Args = "/bin/sh", args
}

// Kills counts the processes of the part that were killed because it used more
// memory than it may.
func (c *Cage) Kills() int {
	if c == nil || c.kills == "" {
		return 0
	}
	return OOMKills(c.kills)
}

// OOMKills reads the count of processes that were killed for memory from a file of
// the kernel's that has it; 0 where it has none.
func OOMKills(file string) int {
	b, _ := os.ReadFile(file)
	for line := range bytes.Lines(b) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "oom_kill "); ok {
			kills, _ := strconv.Atoi(n)
			return kills
		}
	}
	return 0
}

// Close removes the cage of a part that has ended.
func (c *Cage) Close() {
	if c == nil {
		return
	}
	for _, dir := range c.dirs {
		_ = os.Remove(dir) // what is busy goes with the task
	}
}
