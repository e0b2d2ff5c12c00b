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

	Command string            // run by `bash -c` (as Azure ML does), in the code's folder; less than 128 KiB
	Env     map[string]string // added to a small clean environment (PATH, HOME, LANG, TMPDIR, PYTHONUNBUFFERED=1)
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
	Apart   bool          // Memory, and CPU as a limit, are those of each part that the task makes a cage for (package cage), not its own

	// LogKeep is of a task that runs for good: when user_logs/std_log.txt is
	// twice as long, its head gives its room on the disk back and reads as
	// zeros, and this many bytes at its end stay. 0 keeps all.
	LogKeep int64
}

// Tree is a prefix of a container: a folder if it is "" or ends in "/".
type Tree struct {
	Container blob.Container
	Prefix    string
}

// Input is a file or folder that the command finds at Path. Path lies below
// inputs/, outputs/ or wd/ (the working folder) of the task's folder. The
// command sees it absolute: in AZURE_ML_INPUT_{name}, and in place of
// ${{inputs.name}} in Command, quoted for the shell where that is needed, and
// in the values of Env.
type Input struct {
	Name string // letters, digits, _, - and .
	Path string
	File bool   // one file, not a folder
	From Tree   // the blob (File) or folder it comes from
	URL  string // instead of From: an http or https address of a file; as a folder, it holds that one file

	// Back is set for a place that the command may write to: Collect puts what
	// is new or changed below Path into From, and deletes from there what the
	// command has deleted. What others have put there meanwhile stays. The
	// folder may be empty at the start.
	Back bool
}

// Output is a file or folder that the command leaves at Path, which is as that
// of an Input: AZURE_ML_OUTPUT_{name}, ${{outputs.name}}. The folder is there
// when the command starts.
type Output struct {
	Name string
	Path string
	File bool
	To   Tree // where Collect puts it; of a File, Prefix is the whole key
}

// Phase says how far a task has come.
type Phase string

// The phases of a task.
const (
	Staging Phase = "Staging" // inputs are being copied, or were when the server died: Launch starts over
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
	Lost     string // why nothing is known of the end: "machine restarted", "its supervisor was killed", ...; "" if it is known
	LastLine string // last lines of std_log.txt that are not blank, at most 2,000 bytes
}

// Runtime runs tasks. Every method may be repeated, also after a crash of the
// server, and finds the tasks that were launched before it.
type Runtime interface {
	// Launch stages the task and starts it. It returns when the command runs,
	// or with the fault that kept it from running (a missing input names the
	// input), and then nothing of the task is left. A task that has been
	// started is left as it is. One that is stopped before its command runs
	// is Exited, and no fault.
	Launch(ctx context.Context, t Task) error

	// List returns all tasks that are not removed.
	List(ctx context.Context) ([]Observed, error)

	// Stop asks the task to end: TERM to its whole group, KILL after the
	// grace. It does not wait. An unknown or ended task is no error. A caller
	// that finds the task not Exited a while later asks again.
	Stop(ctx context.Context, id string) error

	// Collect copies logs, outputs and the inputs to be written back of an
	// ended task to where they belong and tells the sizes in bytes by output name. The log is whole when it
	// returns. The folders outputs/ and logs/ of the working folder go to Logs
	// under these names. An output that the command has not made, or has made
	// a link out of the task's folder, is left out.
	Collect(ctx context.Context, id string) (map[string]int64, error)

	// Remove forgets an ended task and deletes its folder. A task that runs
	// is fault.Conflict, an unknown one no error.
	Remove(ctx context.Context, id string) error

	// OpenLog opens a log of a task that is not removed, from offset to what
	// is its end now, and tells its whole size in bytes: name is relative to
	// the artefact folder, such as "user_logs/std_log.txt". An offset past
	// the end is fault.RangeUnsatisfiable. Logs lists at most 10,000 names
	// with their sizes.
	OpenLog(ctx context.Context, id, name string, offset int64) (io.ReadCloser, int64, error)
	Logs(ctx context.Context, id string) (map[string]int64, error)

	// Ended is signalled, as a hint, when a task has ended.
	Ended() <-chan struct{}
}
