package serving

import (
	"context"
	"io"
)

// Containers runs images, on a machine with a container engine.
type Containers interface {
	// Engine is the name of the engine that answers here. That there is none is
	// a fault.NotImplemented, which says why.
	Engine(ctx context.Context) (string, error)

	// Pull fetches the image, unless it is here, and tells by what name it is
	// run. Progress goes to log. A fault ends in what the engine says.
	Pull(ctx context.Context, image string, log io.Writer) (string, error)

	// Build makes an image of a Dockerfile and its context, unless it is made,
	// and tells its name.
	Build(ctx context.Context, from Build, log io.Writer) (string, error)

	// Command is how one container of a group is run, for the shell: in the
	// foreground, with its output as the command's, published on 127.0.0.1 at
	// the port $PORT. After is to be run when it has ended: it removes what is
	// left, and prints one line if there is more to tell of the end than an exit
	// code. Both go by $LAPIS_INSTANCE, the number of the instance, and want the
	// variables env.
	Command(c Container) (command, after string, env map[string]string)

	// Remove ends and removes the containers of a group.
	Remove(ctx context.Context, group string) error
}

// Build is a Dockerfile and where its context lies.
type Build struct {
	Account    string `json:"account"` // and Container: of blobs
	Container  string `json:"container"`
	Prefix     string `json:"prefix"`     // folder
	Dockerfile string `json:"dockerfile"` // path in it
}

// Container is what an instance is that an image makes.
type Container struct {
	Group     string // folder of the group: the containers carry it as a label
	Image     string
	Port      int               // that it listens on
	Variables map[string]string // that it gets
	Mounts    []Mount
	Memory    int64   // bytes; 0 for no limit
	CPU       float64 // cores; 0 for no limit
	OOM       string  // what After says of one that needed more memory
}

// Mount is a folder of this machine that a container sees.
type Mount struct {
	From     string // for the shell: one word
	To       string
	ReadOnly bool
}
