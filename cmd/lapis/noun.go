package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

// noun is what the verbs of one kind of resource have in common. A file such
// as model.go makes one and adds the verbs that the kind has.
type noun struct {
	name       string // "model", as on the command line
	title      string // "model", as in a sentence
	collection string // "models", as in a path
	versioned  bool
	lasting    bool     // a change goes on after it was asked for, as long as it takes
	columns    []string // of a table

	// fields are the parts that update may set, with where each lies on the
	// wire: "description" in "properties.description".
	fields map[string]string

	// below is where the collection lies, if that is not the workspace. Names
	// of what lies in online endpoints are in lower case.
	below func(s *session) string

	cmd   *cobra.Command
	scope scopeFlags
	out   outputFlags
}

func (n *noun) start(short, example string) *noun {
	n.cmd = parent(&cobra.Command{Use: n.name, Short: short, Example: example, GroupID: groupML})
	if n.title == "" {
		n.title = n.name
	}
	n.scope.register(n.cmd)
	n.out.register(n.cmd)
	return n
}

// verb adds a command.
func (n *noun) verb(use, short, example string, run func(cmd *cobra.Command, s *session) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: noWords}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := n.out.check(); err != nil {
			return err
		}
		s, err := n.open(cmd)
		if err != nil {
			return err
		}
		defer s.progress.clear()
		return run(cmd, s)
	}
	n.cmd.AddCommand(cmd)
	return cmd
}

// open connects a command to its server.
func (n *noun) open(cmd *cobra.Command) (*session, error) {
	s, err := n.scope.open(cmd)
	if err == nil && n.lasting {
		s.NoWait, _ = cmd.Flags().GetBool("no-wait") // there is none where there is nothing to wait for
	}
	return s, err
}

// noWait adds --no-wait. Where changes do not last the command waits all the same.
func (n *noun) noWait(cmd *cobra.Command) {
	if n.lasting {
		cmd.Flags().Bool("no-wait", false, "do not wait until it is done: print how it is when it begins")
		return
	}
	cmd.Flags().Bool("no-wait", false, "taken for the sake of scripts; the command waits")
	_ = cmd.Flags().MarkHidden("no-wait")
}

// notYet adds a verb that is known and refused.
func (n *noun) notYet(use, short string) {
	n.cmd.AddCommand(&cobra.Command{Use: use, Short: short, Hidden: true, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error {
		return notOffered("lapis " + n.name + " " + use)
	}})
}

func notOffered(command string) error {
	return fault.New(fault.NotImplemented, "NotOffered", "`%s` is not offered yet.", command)
}

// setFlag adds --set. As with az, one --set may be followed by several
// assignments.
func setFlag(cmd *cobra.Command, to *[]string, usage string) {
	cmd.Flags().StringArrayVar(to, "set", nil, usage+" (may be repeated)")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("add") {
			return nil // it has words after it too, and is refused later
		}
		for _, a := range args {
			if !cmd.Flags().Changed("set") || !strings.Contains(a, "=") {
				return noWords(cmd, []string{a})
			}
		}
		*to = append(*to, args...)
		return nil
	}
}

// nameFlag adds --name, and completes it with what there is.
func (n *noun) nameFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "name", "n", "", "name of the "+n.title)
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.RegisterFlagCompletionFunc("name", func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		s, err := n.scope.open(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for raw, err := range s.List(cmd.Context(), n.path(s, ""), nil) {
			var r struct{ Name string }
			if err != nil || json.Unmarshal(raw, &r) != nil || len(names) >= 200 {
				break
			}
			if strings.HasPrefix(r.Name, prefix) {
				names = append(names, r.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// path is the resource id of the collection, or of one of it.
func (n *noun) path(s *session, name string) string {
	base := s.Path(n.collection)
	switch n.name {
	case "online-endpoint", "online-deployment":
		name = strings.ToLower(name)
		if n.below != nil {
			base = n.below(s) + "/" + n.collection
		}
	case "workspace":
		base = s.Group() + "/providers/Microsoft.MachineLearningServices/workspaces"
	case "registry":
		base = s.Group() + "/providers/Microsoft.MachineLearningServices/registries"
	}
	if name == "" {
		return base
	}
	return base + "/" + name
}

// print writes one resource.
func (n *noun) print(s *session, raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	v, err := client.View(n.name, raw)
	if err != nil {
		return err
	}
	return n.out.print(s.out, v, n.columns)
}

// create adds create, or another verb that reads a file.
func (n *noun) create(use, short, example string, f *createFlags, done func(cmd *cobra.Command, s *session, r spec.Result) error) *cobra.Command {
	if f == nil {
		f = &createFlags{}
	}
	cmd := &cobra.Command{Use: use, Short: short, Example: example}
	f.register(cmd)
	if n.versioned {
		cmd.Flags().StringVarP(&f.version, "version", "v", "", "version of the "+n.title+"; overrides the file")
	}
	n.noWait(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := n.out.check(); err != nil {
			return err
		}
		d, err := f.document(cmd, n.name)
		if err != nil {
			return err
		}
		o := spec.Options{Location: f.location, Experiment: experimentName(), Workspace: n.scope.workspace}
		if n.name == "job" {
			o.Source = client.GitProperties(cmd.Context(), d.Dir)
		}
		if f.options != nil {
			if err := f.options(cmd, &o); err != nil {
				return err
			}
		}
		if f.dryRun {
			o.Target = n.scope.offline()
			return f.dry(cmd, n.name, d, o)
		}
		s, err := n.open(cmd)
		if err != nil {
			// What is wrong with the file is worth knowing without a server too.
			o.Target = n.scope.offline()
			if wrong := spec.Check(cmd.Context(), d, n.name, o); wrong != nil {
				return wrong
			}
			return err
		}
		defer s.progress.clear()
		send := s.Create
		if f.send != nil {
			send = func(ctx context.Context, d *spec.Document, _ string, o spec.Options) (spec.Result, error) {
				return f.send(ctx, s, d, o)
			}
		}
		r, err := send(cmd.Context(), d, n.name, o)
		if err != nil {
			return err
		}
		s.progress.clear()
		if r.Existed {
			fmt.Fprintf(cmd.ErrOrStderr(), "The job %q was there already, and a job runs once. To run this file again, give it another name.\n", path.Base(r.Path))
		}
		if done != nil {
			return done(cmd, s, r)
		}
		raw := r.Reply
		if n.name == "workspace" {
			if raw, err = s.Get(cmd.Context(), r.Path); err != nil {
				return err
			}
		}
		return n.print(s, raw)
	}
	n.cmd.AddCommand(cmd)
	return cmd
}

// show adds show.
func (n *noun) show(example string) {
	var name, version, label string
	cmd := n.verb("show", "Show a "+n.title, example, func(cmd *cobra.Command, s *session) error {
		if name == "" {
			name = s.Workspace // of no other noun is the name left out
		}
		_, raw, err := n.read(cmd, s, name, version, label)
		if err != nil {
			return err
		}
		v, err := client.View(n.name, raw)
		if err != nil {
			return err
		}
		if n.name == "job" {
			if err := s.Explain(cmd.Context(), v); err != nil {
				return err
			}
		}
		return n.out.print(s.out, v, n.columns)
	})
	n.nameFlag(cmd, &name)
	if n.name == "workspace" {
		n.connectedName(cmd)
	}
	if n.versioned {
		n.versionFlags(cmd, &version, &label)
	}
}

// connectedName lets the name of a workspace be left out: then it is the one
// that the command works in.
func (n *noun) connectedName(cmd *cobra.Command) {
	f := cmd.Flags().Lookup("name")
	delete(f.Annotations, cobra.BashCompOneRequiredFlag)
	f.Usage += " (default the one that this shell is connected to)"
}

func (n *noun) versionFlags(cmd *cobra.Command, version, label *string) {
	cmd.Flags().StringVarP(version, "version", "v", "", "version of the "+n.title)
	cmd.Flags().StringVarP(label, "label", "l", "", "label in place of a version, such as latest")
	cmd.MarkFlagsMutuallyExclusive("version", "label")
}

// read reads the resource that the flags mean, and tells where it is.
func (n *noun) read(cmd *cobra.Command, s *session, name, version, label string) (path string, raw []byte, err error) {
	path = n.path(s, name)
	if n.versioned {
		v, err := n.pick(cmd, s, name, version, label)
		if err != nil {
			return "", nil, err
		}
		path += "/versions/" + v
	}
	raw, err = s.Get(cmd.Context(), path)
	return path, raw, err
}

// pick gives the version that the flags mean; none means the latest.
func (n *noun) pick(cmd *cobra.Command, s *session, name, version, label string) (string, error) {
	if version != "" {
		return version, nil
	}
	if label == "" {
		label = "latest"
	}
	return s.Version(cmd.Context(), n.collection, name, label)
}

// defaultJobs is how many jobs a list has that asks for no number: there may be
// very many.
const defaultJobs = 50

// maxPage is how many resources a server puts on one page at most.
const maxPage = 1000

// list adds list.
func (n *noun) list(example string, more func(cmd *cobra.Command) func(q url.Values)) *cobra.Command {
	var name string
	var most int
	var all, archived, everything bool
	query := func(url.Values) {}
	cmd := n.verb("list", "List "+plural(n.title), example, func(cmd *cobra.Command, s *session) error {
		if most < 0 {
			return fault.Invalid("--max-results %d: it cannot be negative.", most)
		}
		q := url.Values{}
		switch {
		case archived:
			q.Set("listViewType", "ArchivedOnly")
		case all:
			q.Set("listViewType", "All")
		case n.versioned || n.name == "job":
			q.Set("listViewType", "ActiveOnly")
		}
		query(q)
		if n.name == "job" && most == 0 && !everything {
			most = defaultJobs
		}
		if q.Set("pageSize", strconv.Itoa(maxPage)); most > 0 {
			q.Set("pageSize", strconv.Itoa(min(most, maxPage)))
		}
		path := n.path(s, name)
		if name != "" {
			path += "/versions"
			q.Set("$orderBy", "createdtime desc")
		}
		if n.name == "workspace" && n.scope.group == "" {
			path = "/subscriptions/" + s.Subscription + "/providers/Microsoft.MachineLearningServices/workspaces"
		}
		rows := []any{}
		for raw, err := range s.List(cmd.Context(), path, q) {
			if err != nil {
				return err
			}
			v, err := client.View(n.name, raw)
			if err != nil {
				return err
			}
			if rows = append(rows, v); most > 0 && len(rows) >= most {
				break
			}
		}
		columns := n.columns
		if n.versioned && name == "" {
			columns = []string{"name", "latest_version", "description"}
		}
		return n.out.print(s.out, rows, columns)
	})
	if more != nil {
		query = more(cmd)
	}
	if n.name == "job" {
		cmd.Flags().IntVarP(&most, "max-results", "r", 0, fmt.Sprintf("how many to list at most, the newest first (default %d)", defaultJobs))
		cmd.Flags().BoolVar(&everything, "all-results", false, "list all, however many there are")
	} else {
		cmd.Flags().IntVarP(&most, "max-results", "r", 0, "how many to list at most (default all)")
	}
	if n.versioned {
		cmd.Flags().StringVarP(&name, "name", "n", "", "list the versions of this "+n.title)
	}
	if n.versioned || n.name == "job" {
		cmd.Flags().BoolVar(&all, "include-archived", false, "list archived ones too")
		cmd.Flags().BoolVar(&archived, "archived-only", false, "list archived ones alone")
		cmd.MarkFlagsMutuallyExclusive("include-archived", "archived-only")
	}
	return cmd
}

func plural(s string) string {
	switch {
	case s == "data asset":
		return "data assets"
	case strings.HasSuffix(s, "y"):
		return s[:len(s)-1] + "ies"
	}
	return s + "s"
}

// remove adds delete. It asks first if the loss would be large.
func (n *noun) remove(example string, ask bool, more func(cmd *cobra.Command) func(q url.Values)) {
	var name, version, label string
	var yes bool
	query := func(url.Values) {}
	cmd := n.verb("delete", "Delete a "+n.title, example, func(cmd *cobra.Command, s *session) error {
		path, what := n.path(s, name), fmt.Sprintf("the %s %q", n.title, name)
		if n.versioned && version+label == "" {
			what += " with all its versions"
		} else if n.versioned {
			v, err := n.pick(cmd, s, name, version, label)
			if err != nil {
				return err
			}
			path, what = path+"/versions/"+v, fmt.Sprintf("version %s of %s", v, what)
		}
		if ask && !yes {
			if err := confirm(cmd, "Delete "+what+"?"); err != nil {
				return err
			}
		}
		if n.versioned || n.name == "job" {
			// The server says nothing of one that is not there.
			if _, err := s.Get(cmd.Context(), path); err != nil {
				return err
			}
		}
		q := url.Values{}
		query(q)
		s.progress.stage("Deleting " + name + " …")
		return s.Delete(cmd.Context(), path, q)
	})
	if more != nil {
		query = more(cmd)
	}
	n.nameFlag(cmd, &name)
	if n.versioned {
		n.versionFlags(cmd, &version, &label)
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	n.noWait(cmd)
}

// confirm asks the user, who must be there.
func confirm(cmd *cobra.Command, question string) error {
	if !isTerminal(cmd.InOrStdin()) {
		return fault.Invalid("%s Say so with --yes: there is no terminal to ask at.", question)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s (y/n): ", question)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return fault.Invalid("Nothing was deleted.")
	}
	return nil
}

// archive adds archive and restore.
func (n *noun) archive() {
	for verb, archived := range map[string]bool{"archive": true, "restore": false} {
		var name, version, label string
		short := map[bool]string{true: "Hide a " + n.title + " from lists", false: "Bring an archived " + n.title + " back"}[archived]
		cmd := n.verb(verb, short, fmt.Sprintf("  lapis %s %s --name NAME", n.name, verb), func(cmd *cobra.Command, s *session) error {
			if n.name == "job" {
				return s.ChangeRun(cmd.Context(), name, client.RunChange{Hidden: &archived})
			}
			if label != "" {
				var err error
				if version, err = s.Version(cmd.Context(), n.collection, name, label); err != nil {
					return err
				}
			}
			return s.Archive(cmd.Context(), n.collection, name, version, archived)
		})
		n.nameFlag(cmd, &name)
		if n.versioned {
			n.versionFlags(cmd, &version, &label)
		}
	}
}

// update adds update: it reads the resource, sets fields and writes it back.
func (n *noun) update(example string, flags map[string]string) *cobra.Command {
	var name, version, label, file string
	var set, removed []string
	values := map[string]*string{}
	cmd := n.verb("update", "Change a "+n.title, example, func(cmd *cobra.Command, s *session) error {
		if file != "" {
			return n.updateFromFile(cmd, s, &createFlags{file: file, name: name, version: version, set: set})
		}
		if name == "" {
			return fault.Invalid("--name is missing. Name the %s, or its file with --file.", n.title)
		}
		for flag, field := range flags {
			if v := *values[flag]; v != "" {
				set = append(set, field+"="+v)
			}
		}
		if len(set)+len(removed) == 0 {
			return fault.Invalid("Nothing is to be changed. Name a field, as in --set tags.team=vision.")
		}
		path, raw, err := n.read(cmd, s, name, version, label)
		if err != nil {
			return err
		}
		var body map[string]any
		if err := json.Unmarshal(raw, &body); err != nil {
			return err
		}
		for _, a := range set {
			if err := n.assign(body, a); err != nil {
				return err
			}
		}
		for _, r := range removed {
			if err := n.unset(body, r); err != nil {
				return err
			}
		}
		maps.DeleteFunc(body, func(key string, _ any) bool {
			return !slices.Contains([]string{"location", "tags", "identity", "sku", "kind", "properties"}, key)
		})
		reply, err := s.Request(cmd.Context(), http.MethodPut, path, "", nil, body)
		if err != nil {
			return err
		}
		s.progress.clear()
		return n.print(s, reply)
	})
	cmd.Flags().StringVarP(&name, "name", "n", "", "name of the "+n.title)
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML file that says how it shall be")
	_ = cmd.MarkFlagFilename("file", "yml", "yaml")
	if n.versioned {
		n.versionFlags(cmd, &version, &label)
	}
	setFlag(cmd, &set, "set a field, as in --set description=text or --set tags.a=b")
	removeFlag(cmd, &removed)
	for flag, field := range flags {
		values[flag] = cmd.Flags().String(flag, "", "new "+strings.ReplaceAll(field, "_", " "))
	}
	return cmd
}

// updateFromFile writes what a file says over a resource that is there.
func (n *noun) updateFromFile(cmd *cobra.Command, s *session, f *createFlags) error {
	d, err := f.document(cmd, n.name)
	if err != nil {
		return err
	}
	r, err := s.Create(cmd.Context(), d, n.name, spec.Options{Workspace: n.scope.workspace})
	if err != nil {
		return err
	}
	s.progress.clear()
	return n.print(s, r.Reply)
}

// removeFlag adds --remove, and says what az's --add comes to.
func removeFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVar(to, "remove", nil, "remove a field, as in --remove tags.a (may be repeated)")
	cmd.Flags().StringArray("add", nil, "")
	_ = cmd.Flags().MarkHidden("add")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().Changed("add") {
			return fault.Invalid("--add adds to a list, and no field that can be changed here is one. Use --set, as in --set tags.a=b.")
		}
		return nil
	}
}

// unset removes one field of a resource as the wire has it.
func (n *noun) unset(body map[string]any, field string) error {
	head, key, deep := strings.Cut(field, ".")
	wire, ok := n.fields[head]
	if !ok {
		return fault.Invalid("--remove %s: this field of a %s cannot be changed; %s can.", field, n.title, strings.Join(slices.Sorted(maps.Keys(n.fields)), ", "))
	}
	if deep {
		wire += "." + key
	}
	steps := strings.SplitN(wire, ".", strings.Count(n.fields[head], ".")+2)
	at := body
	for _, step := range steps[:len(steps)-1] {
		at, _ = at[step].(map[string]any)
	}
	last := steps[len(steps)-1]
	if _, ok := at[last]; !ok {
		return fault.NotFound("--remove %s: there is none.", field)
	}
	delete(at, last)
	return nil
}

// assign sets one field of a resource as the wire has it.
func (n *noun) assign(body map[string]any, assignment string) error {
	field, value, ok := strings.Cut(assignment, "=")
	if !ok || field == "" {
		return fault.Invalid("--set %s: write it as --set FIELD=VALUE.", assignment)
	}
	head, rest, _ := strings.Cut(field, ".")
	wire, ok := n.fields[head]
	if !ok {
		return fault.Invalid("--set %s: this field of a %s cannot be changed; %s can.", field, n.title, strings.Join(slices.Sorted(maps.Keys(n.fields)), ", "))
	}
	if rest != "" {
		wire += "." + rest
	}
	at := body
	// A tag may hold points in its name.
	steps := strings.SplitN(wire, ".", strings.Count(n.fields[head], ".")+2)
	for _, step := range steps[:len(steps)-1] {
		next, ok := at[step].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[step] = next
		}
		at = next
	}
	last := steps[len(steps)-1]
	switch {
	case strings.HasSuffix(last, "NodeCount"):
		i, err := strconv.Atoi(value)
		if err != nil || i < 0 {
			return fault.Invalid("--set %s=%s: a whole number, zero or more, is wanted.", field, value)
		}
		at[last] = i
	case last == "nodeIdleTimeBeforeScaleDown":
		i, err := strconv.Atoi(value)
		if err != nil || i < 0 {
			return fault.Invalid("--set %s=%s: a number of seconds is wanted.", field, value)
		}
		at[last] = fmt.Sprintf("PT%dS", i)
	case strings.HasPrefix(value, "{"):
		var v any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return fault.Invalid("--set %s: the value is not JSON: %v", field, err)
		}
		at[last] = v
	default:
		at[last] = value
	}
	return nil
}
