// Command lapis is Azure Machine Learning on your own machines: the server,
// and the command line that speaks to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lapis/fault"
)

// The groups that help lists commands in.
const (
	groupServer = "server"
	groupML     = "ml"
)

// commands is every command, in the order that help shows them. Each sits in
// the file of its name.
func commands() []*cobra.Command {
	return append([]*cobra.Command{
		jobCommand(),
		computeCommand(),
		dataCommand(),
		environmentCommand(),
		modelCommand(),
		componentCommand(),
		datastoreCommand(),
		connectionCommand(),
		workspaceCommand(),
		registryCommand(),
		upCommand(),
		connectCommand(),
		doctorCommand(),
		downCommand(),
		backupCommand(),
		restoreCommand(),
		tokenCommand(),
		versionCommand(),
	}, laterCommands()...)
}

func main() {
	// A supervisor starts with every job: it does nothing that only the other
	// commands need.
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		os.Exit(supervise())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the default action is back, so that a second
	// Ctrl-C ends a command that is slow to stop.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs one command line and returns the exit code: 0, or 1 after it has
// said what is wrong on errs.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 130
	}
	line := errorLine(err)
	if misused(err) {
		line += fmt.Sprintf(". See `%s --help`.", cmd.CommandPath())
	}
	fmt.Fprintln(errs, line)
	return 1
}

// misused tells whether the words of the command line are to blame.
func misused(err error) bool {
	if fault.Find(err) != nil {
		return false
	}
	for _, start := range []string{"required flag", "unknown flag", "unknown shorthand", "flag needs an argument", "invalid argument", "if any flags in the group", "accepts "} {
		if strings.HasPrefix(err.Error(), start) {
			return true
		}
	}
	return false
}

// parent makes a command that only has others below it: alone it prints its
// help, and a word it does not know is answered with the nearest it does.
func parent(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		remedy := fmt.Sprintf("`%s --help` lists what there is.", cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			remedy = fmt.Sprintf("Did you mean `%s %s`?", cmd.CommandPath(), near[0])
		}
		return fault.Invalid("There is no command `%s %s`. %s", cmd.CommandPath(), args[0], remedy)
	}
	return cmd
}

func rootCommand() *cobra.Command {
	root := parent(&cobra.Command{
		Use:   "lapis",
		Short: "Azure Machine Learning on your own machines",
		Long: `Azure Machine Learning on your own machines: one server that unmodified
Azure ML clients talk to, and a command line with the verbs of "az ml".`,
		Example: `  lapis up                                   start the server
  eval "$(lapis connect)"                    point this shell's clients at it
  lapis job create -f job.yml --stream       run a job and follow its log`,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
	})
	root.AddGroup(
		&cobra.Group{ID: groupML, Title: "Machine learning:"},
		&cobra.Group{ID: groupServer, Title: "The server:"},
	)
	root.AddCommand(commands()...)
	return root
}

// errorLine is the one line that says what is wrong; a fault's details follow
// on lines of their own.
func errorLine(err error) string {
	var b strings.Builder
	b.WriteString("ERROR: ")
	b.WriteString(err.Error())
	if f := fault.Find(err); f != nil {
		for _, d := range f.Details {
			b.WriteString("\n  ")
			b.WriteString(d.Message)
		}
	}
	return b.String()
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this binary",
		GroupID: groupServer,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "lapis", version())
			return nil
		},
	}
}

// stamp is the version that the build was told.
var stamp string

// version is the one the build was told, else the module's, else the commit.
func version() string {
	if stamp != "" {
		return stamp
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
