package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lapis/file"
	"lapis/ml/compute"
)

// Files of a task's folder. Nothing secret is in any of them.
const (
	taskFile   = "task.json"    // manifest: written first
	lockFile   = "lock"         // locked by who stages the task, then by its supervisor, without a gap
	startFile  = "started.json" // startRecord: from here on the task is never started again
	stopFile   = "stop"         // there: the task is to end
	exitFile   = "exit.json"    // exitRecord: nothing of the task runs any more
	workDir    = "wd"           // where the command starts; holds the code
	artefacts  = "artifacts"    // user_logs and system_logs
	tmpDir     = "tmp"          // TMPDIR
	ownEnv     = "env"          // the layer over the environment that what the job installs goes to
	stdLog     = "user_logs/std_log.txt"
	ownLog     = "supervisor.log"
	maxRecord  = 1 << 20 // bytes
	maxLastLog = 2000    // bytes
)

// manifest is what is needed of a task after it has been launched.
type manifest struct {
	ID      string
	Outputs []compute.Output
	Back    []compute.Input // those that are written back
	Staged  time.Time       // when staging began: what was put in their place later, others have put there
	Logs    compute.Tree
}

// startRecord says who supervises the task. PID and Ticks together name one
// process as long as the machine is not restarted.
type startRecord struct {
	PID     int    // of the supervisor
	Ticks   uint64 // when that process began, in clock ticks since the machine started
	Boot    string // which start of the machine
	Command int    // process and session of the command; 0 until it is known
	Cgroups []string
	Started time.Time
}

type exitRecord struct {
	Ended time.Time
	Exit  compute.Exit
}

// readRecord reads the JSON file of dir; a missing one is os.ErrNotExist.
func readRecord[T any](dir, file string) (T, error) {
	var v T
	b, err := readAll(filepath.Join(dir, file), maxRecord)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
	}
	return v, nil
}

// writeRecord replaces the file in one step. When durable, it survives a power
// cut once writeRecord has returned.
func writeRecord(dir, name string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if durable {
		return file.Replace(path, b, 0o600)
	}
	return file.Whole(path, 0o600, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

func exists(dir, file string) bool {
	_, err := os.Lstat(filepath.Join(dir, file))
	return err == nil
}

// tryLock takes the task's lock, or returns errLocked. The lock belongs to the
// open file and to every process that inherits it; the kernel frees it when
// the last of them is gone, however it went.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// bootID names the present start of the machine.
func bootID() (string, error) {
	b, err := readAll("/proc/sys/kernel/random/boot_id", 100)
	return strings.TrimSpace(string(b)), err
}

// status is what /proc tells of a process.
type status struct {
	parent, group, session int
	ticks                  uint64
	zombie                 bool
}

func processStatus(pid int) (status, error) {
	b, err := readAll("/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return status{}, err
	}
	// The second field is the program's name in parentheses, and may hold any character.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return status{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	var s status
	s.zombie = f[0] == "Z"
	s.parent, _ = strconv.Atoi(f[1])
	s.group, _ = strconv.Atoi(f[2])
	s.session, _ = strconv.Atoi(f[3])
	s.ticks, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}

// processes lists the ids of all processes.
func processes() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
