package serving

import "time"

// A group is the process that holds all instances of one generation of a
// deployment: `lapis` or its runner for native models and for programs of the
// user, a Python parent for scripts and MLflow models. It is started as a task
// with the variables below, and listens for its orders in frames (package
// frame) on Folder/control.sock:
//
//	GET /instances           → 200 Group
//	PUT /instances {"count"} → 200 Group, at once; instances come and go by themselves
//
// An instance n listens on Folder/n.sock, or, of a program, on the TCP port that
// the Group names. One that dies is started again, at once the first time (a Python
// worker that was ready for a second: every time), then
// after 1, 2, 4 ... 30 s, and keeps its number and socket. Instances are told
// to go with TERM and killed after Grace. TERM to the group ends it and them:
// what they work on is finished first, within Grace.
//
// What instances and the group print goes to the task's standard output and
// error, and so to its log.
const (
	GroupFolder  = "LAPIS_GROUP_DIR"         // absolute; short enough for a socket's path; there already, 0700
	GroupName    = "LAPIS_GROUP"             // "{endpoint}/{deployment}/{generation}": instance ids are "{group}/{n}"
	GroupCount   = "LAPIS_GROUP_COUNT"       // instances to begin with
	GroupWorkers = "LAPIS_GROUP_WORKERS"     // requests that an instance works on at once
	GroupGrace   = "LAPIS_GROUP_GRACE_MS"    // milliseconds
	GroupModel   = "LAPIS_GROUP_MODEL"       // file or folder of the model; "" for none
	GroupFlavor  = "LAPIS_GROUP_FLAVOR"      // native: onnx, lightgbm, xgboost, triton; python: script, mlflow
	GroupModelID = "LAPIS_GROUP_MODEL_REF"   // "{name}:{version}", for what is told about the model
	GroupSpool   = "LAPIS_GROUP_SPOOL"       // folder where collected events are appended, one file for each collection; "" for none
	GroupKept    = "LAPIS_GROUP_COLLECTIONS" // JSON: custom collection → share of its events that is kept, 0 to 1
	GroupSource  = "LAPIS_GROUP_SOURCE"      // ARM id of the deployment, the source of collected events
	GroupCommand = "LAPIS_GROUP_COMMAND"     // of a program: run by bash in the code's folder, with PORT set
	GroupPort    = "LAPIS_GROUP_PORT"        // of a program: the port that its routes name; a copy of the program gets another in PORT
	GroupProbe   = "LAPIS_GROUP_READY"       // of a program: path that answers 2xx when the program is ready
	GroupAfter   = "LAPIS_GROUP_AFTER"       // of a program: run by bash when an instance has ended; what it prints says why it did
	GroupLibrary = "LAPIS_GROUP_LIBRARY"     // native: folder with the runtime library
	GroupMemory  = "LAPIS_GROUP_MEMORY"      // what is said of an instance that was killed for the memory it used (see package cage)

	GroupBatchSize  = "LAPIS_GROUP_BATCH_SIZE"     // native: rows that are put together at most; "" or 0 for no batching
	GroupBatchDelay = "LAPIS_GROUP_BATCH_DELAY_US" // native: microseconds that a request waits for others at most
)

// InstanceNumber is a variable that programs find their number in.
const InstanceNumber = "LAPIS_INSTANCE"

// Group is what a group tells of itself.
type Group struct {
	Instances []GroupInstance `json:"instances"`
}

// GroupInstance is one instance of a group, as the group sees it.
type GroupInstance struct {
	Number   int       `json:"number"`
	Network  string    `json:"network"` // "unix" or "tcp"
	Address  string    `json:"address"`
	State    string    `json:"state"`
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`    // it is in this state
	Restarts int       `json:"restarts"` // since it was last Ready for a minute

	// Error says in its first line why the instance is Failed (which it is while
	// it waits to be started again): "ModuleNotFoundError: No module named
	// 'nope' (score.py, line 3)". The lines after it are the end of its log.
	Error string `json:"error,omitempty"`

	// Killed says of one that was killed for the memory it used what there is to
	// say, and when that was last.
	Killed   string    `json:"killed,omitempty"`
	KilledAt time.Time `json:"killedAt,omitzero"`

	// Fatal: starting it again cannot help (the script does not import, the
	// model is none).
	Fatal bool `json:"fatal,omitempty"`
}

// The states of an instance.
const (
	Starting = "Starting" // loads the model, runs init()
	Ready    = "Ready"    // answers
	Failed   = "Failed"
	Stopping = "Stopping"
)
