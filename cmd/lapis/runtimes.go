package main

import (
	"context"
	"io"
	"os"

	"lapis/backend/pyenv"
	"lapis/backend/runtimes"
)

// newRuntimes keeps the runtimes of native models in the data folder.
func newRuntimes(f *folder, builder *pyenv.Builder) *runtimes.Runtimes {
	return runtimes.New(runtimes.Config{
		Dir: f.path("runtimes"), Runner: os.Getenv("LAPIS_RUNNER"),
		Fetch: func(ctx context.Context, p runtimes.Package, dir string, progress io.Writer) error {
			return builder.Fetch(ctx, pyenv.Wheel(p), dir, progress)
		},
	})
}
