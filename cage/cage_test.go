package cage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// memory makes a version 1 control group with a limit of 64 MiB for each part.
func memory(t *testing.T) []Group {
	t.Helper()
	dir := filepath.Join("/sys/fs/cgroup/memory", "lapis-cage-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("no memory control group can be made here: ", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error("the group is left: ", err)
		}
	})
	return []Group{{Dir: dir, Limits: []Limit{{"memory.limit_in_bytes", "67108864"}}, Kills: "memory.oom_control"}}
}

func TestAPartIsHeldToItsLimitAndTheOthersAreNot(t *testing.T) {
	groups := memory(t)
	run := func(part int, command string) (string, error) {
		c, err := Open(groups, part)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before := c.Kills()
		cmd := exec.Command("bash", "-c", command, "name", "an argument's")
		c.Hold(cmd)
		out, err := cmd.CombinedOutput()
		if c.Kills() > before {
			return "killed", err
		}
		return string(out), err
	}
	if out, err := run(1, `echo begin; x=$(head -c 300000000 /dev/zero | tr '\0' x); echo ${#x}`); out != "killed" {
		t.Errorf("a part that needs 300 MB of 64 MiB: %q, %v", out, err)
	}
	out, err := run(2, `grep memory: /proc/self/cgroup; echo "$0 $1"`)
	if err != nil || !strings.Contains(out, filepath.Base(groups[0].Dir)+"/2\n") || !strings.HasSuffix(out, "name an argument's\n") {
		t.Errorf("a part that needs little: %q, %v", out, err)
	}
	if out, err := run(1, "echo again"); out != "again\n" || err != nil {
		t.Errorf("a part that is started again: %q, %v", out, err)
	}
}

func TestAPartOfATaskWithoutLimitsIsStartedAsItIs(t *testing.T) {
	c, err := Open(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("echo", "x")
	c.Hold(cmd)
	if out, err := cmd.Output(); string(out) != "x\n" || err != nil || len(cmd.Args) != 2 {
		t.Errorf("%q %v %q", out, err, cmd.Args)
	}
	if c.Kills() != 0 {
		t.Error("it counts kills")
	}
	c.Close()
}

func TestLimitsThatCannotBeSetAreToldAndTheProcessRunsAllTheSame(t *testing.T) {
	c, err := Open([]Group{{Dir: "/nowhere", Limits: []Limit{{"memory.max", "1"}}}}, 1)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/1") {
		t.Errorf("the error is %v", err)
	}
	cmd := exec.Command("echo", "x")
	c.Hold(cmd)
	if out, err := cmd.Output(); string(out) != "x\n" || err != nil {
		t.Errorf("%q %v", out, err)
	}
}
