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
	"github.com/spf13/pflag"

	"lapis/client/spec"
	"lapis/fault"
)

// The groups that help lists commands in.
const (
	groupServer = "server"
	groupML     = "ml"
)

// commands is every command by its name, in the order that help shows them.
// Each sits in the file of its name.
var commands = []struct {
	name string
	make func() *cobra.Command
}{
	{"job", jobCommand},
	{"compute", computeCommand},
	{"data", dataCommand},
	{"environment", environmentCommand},
	{"model", modelCommand},
	{"online-endpoint", onlineEndpointCommand},
	{"online-deployment", onlineDeploymentCommand},
	{"why", whyCommand},
	{"component", componentCommand},
	{"datastore", datastoreCommand},
	{"connection", connectionCommand},
	{"workspace", workspaceCommand},
	{"registry", registryCommand},
	{"experiment", experimentCommand},
	{"run", runCommand},
	{"trash", trashCommand},
	{"import", importCommand},
	{"up", upCommand},
	{"connect", connectCommand},
	{"doctor", doctorCommand},
	{"down", downCommand},
	{"backup", backupCommand},
	{"restore", restoreCommand},
	{"token", tokenCommand},
	{"version", versionCommand},
	{"gateway", gatewayCommand},
}

func main() {
	// A supervisor starts with every job, and a host with every deployment of a
	// program: they do nothing that only the other commands need.
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		os.Exit(supervise())
	}
	if len(os.Args) > 1 && os.Args[1] == "host" {
		os.Exit(hostProgram())
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
	root := rootCommand(args)
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
		return unknownCommand(cmd, args[0])
	}
	return cmd
}

func unknownCommand(cmd *cobra.Command, word string) error {
	remedy := fmt.Sprintf("`%s --help` lists what there is.", cmd.CommandPath())
	var names []string
	near := ""
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
		if near == "" && len(word) > 2 && strings.HasPrefix(c.Name(), word) {
			near = c.Name()
		}
	}
	if near == "" {
		near = spec.Nearest(word, names)
	}
	if near != "" {
		remedy = fmt.Sprintf("Did you mean `%s %s`?", cmd.CommandPath(), near)
	}
	return fault.Invalid("There is no command `%s %s`. %s", cmd.CommandPath(), word, remedy)
}

// noWords refuses words that no flag goes before.
func noWords(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	remedy := ""
	for _, flag := range []string{"file", "name"} {
		if cmd.Flags().Lookup(flag) != nil && !cmd.Flags().Changed(flag) {
			remedy = fmt.Sprintf(" Did you mean --%s %s?", flag, args[0])
			break
		}
	}
	return fault.Invalid("The word %q is not known here.%s See `%s --help`.", args[0], remedy, cmd.CommandPath())
}

// flagError says what is wrong with a flag, and which it may have meant. Where
// the command itself is not known, as in `lapis job creat -f job.yml`, its flags
// are not what is wrong.
func flagError(args []string) func(*cobra.Command, error) error {
	return func(cmd *cobra.Command, err error) error {
		depth := len(strings.Fields(cmd.CommandPath())) - 1
		if cmd.HasSubCommands() && depth < len(args) && !strings.HasPrefix(args[depth], "-") {
			return unknownCommand(cmd, args[depth])
		}
		var unknown *pflag.NotExistError
		if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
			return err
		}
		var names []string
		each := func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		}
		cmd.LocalFlags().VisitAll(each)
		cmd.InheritedFlags().VisitAll(each)
		near := spec.Nearest(unknown.GetSpecifiedName(), names)
		if near == "" {
			return err
		}
		return fault.Invalid("`%s` has no flag --%s. Did you mean --%s?", cmd.CommandPath(), unknown.GetSpecifiedName(), near)
	}
}

// rootCommand is the tree of commands for a command line. Where that begins
// with the name of a command, the tree has this one alone: it is made anew at
// every start, and the others are of no use to it.
func rootCommand(args []string) *cobra.Command {
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
	})
	root.AddGroup(
		&cobra.Group{ID: groupML, Title: "Machine learning:"},
		&cobra.Group{ID: groupServer, Title: "The server:"},
	)
	root.SetFlagErrorFunc(flagError(args))
	for _, c := range commands {
		if len(args) > 0 && args[0] == c.name {
			root.AddCommand(c.make())
			return root
		}
	}
	for _, c := range commands {
		root.AddCommand(c.make())
	}
	root.AddCommand(laterCommands()...)
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
		Args:    noWords,
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
