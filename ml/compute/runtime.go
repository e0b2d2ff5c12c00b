// Package compute holds the compute targets: where jobs run. Runtime is what a
// back end offers to run tasks on; runtimetest has the suite each one passes.
package compute

import (
	"context"
	"io"
	"time"

	"lapis/ml/blob"
)

// Task is one process (and all it starts) that a job needs run, with what goes
// in and what comes out. It says what is wanted; how, is the runtime's affair.
type Task struct {
	ID string // "{workspace guid}/{job name}"; launching it twice is one launch

	Command string            // run by `bash -c` (as Azure ML does), in the code's folder
	Env     map[string]string // added to a small clean environment (PATH, HOME, LANG, TMPDIR)
	Bin     string            // folder put first on PATH: the environment's bin; "" for none
	Secrets []string          // names in Env whose values are never written to disk in clear or shown

	Code    []Tree   // copied into the working folder, in order
	Inputs  []Input  // staged before the start
	Outputs []Output // made before the start, copied out by Collect

	// Logs is where user_logs/, logs/, outputs/ and system logs go: the
	// artefact folder of the job, "ExperimentRun/dcid.{job}/".
	Logs Tree

	Notes   []string      // lines for the head of user_logs/std_log.txt, such as "lapis: ..."
	Timeout time.Duration // 0 means none; counted from the start of the command
	Grace   time.Duration // between TERM and KILL; 0 means 10 s
	Memory  int64         // bytes, a hard limit where the machine can hold it; 0 means none
	CPU     float64       // cores, a share; 0 means none
}

// Tree is a prefix of a container: a folder if it is "" or ends in "/".
type Tree struct {
	Container blob.Container
	Prefix    string
}

// Input is a file or folder that the command finds at Path.
type Input struct {
	Name string
	Path string // relative to the task's folder; the command sees it absolute, in AZURE_ML_INPUT_{name} and in place of ${{inputs.name}}
	File bool   // one file, not a folder
	From Tree   // the blob (File) or folder it comes from
	URL  string // instead of From: an http or https address of a file
}

// Output is a file or folder that the command leaves at Path.
type Output struct {
	Name string
	Path string // relative to the task's folder
	File bool
	To   Tree // where Collect puts it
}

// Phase says how far a task has come.
type Phase string

// The phases of a task.
const (
	Staging Phase = "Staging" // inputs are being copied
	Running Phase = "Running"
	Exited  Phase = "Exited" // nothing of it runs any more; Exit says how it ended
)

// Observed is what a runtime knows of a task.
type Observed struct {
	ID      string
	Phase   Phase
	Started time.Time // of the command; zero before
	Ended   time.Time
	Exit    Exit
}

// Exit says how a task ended.
type Exit struct {
	Code     int    // exit code; 128+n after signal n
	Signal   string // "SIGKILL", "" if none
	TimedOut bool   // stopped by Timeout
	Stopped  bool   // stopped by Stop
	OOM      bool   // killed for memory
	Lost     string // why nothing is known of the end, such as "machine restarted"; "" if it is
	LastLine string // last lines of std_log.txt that are not blank, at most 2,000 bytes
}

// Runtime runs tasks. Every method may be repeated, also after a crash of the
// server, and finds the tasks that were launched before it.
type Runtime interface {
	// Launch stages the task and starts it. It returns when the command runs,
	// or with the fault that kept it from running (a missing input names the
	// input). A known id is left as it is.
	Launch(ctx context.Context, t Task) error

	// List returns all tasks that are not removed.
	List(ctx context.Context) ([]Observed, error)

	// Stop asks the task to end: TERM to its whole group, KILL after the
	// grace. It does not wait. An unknown or ended task is no error.
	Stop(ctx context.Context, id string) error

	// Collect copies logs and outputs of an ended task to where they belong
	// and tells the sizes in bytes by output name. The log is whole when it returns.
	Collect(ctx context.Context, id string) (map[string]int64, error)

	// Remove forgets an ended task and deletes its folder.
	Remove(ctx context.Context, id string) error

	// OpenLog opens a log of a task that is not removed, from offset: name is
	// relative to the artefact folder, such as "user_logs/std_log.txt". Logs
	// lists their names with their sizes.
	OpenLog(ctx context.Context, id, name string, offset int64) (io.ReadCloser, int64, error)
	Logs(ctx context.Context, id string) (map[string]int64, error)

	// Ended is signalled, as a hint, when a task has ended.
	Ended() <-chan struct{}
}
