package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client/spec"
	"lapis/fault"
)

// createFlags are the flags of every command that reads a YAML file.
type createFlags struct {
	file     string
	set      []string
	name     string
	version  string
	dryRun   bool
	storage  string
	location string
	fields   map[string]*string // of flags that stand for a field: --size for size
	flags    map[string]string  // the names of those flags

	// options, if set, checks the flags that the noun has of its own; send, if
	// set, is how its files are sent.
	options func(cmd *cobra.Command, o *spec.Options) error
	send    func(ctx context.Context, s *session, d *spec.Document, o spec.Options) (spec.Result, error)
}

func (f *createFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	f.flags = map[string]string{"name": "name", "version": "version"}
	fl.StringVarP(&f.file, "file", "f", "", "YAML file that describes the resource")
	setFlag(cmd, &f.set, "set a field of the file, as in --set inputs.lr=0.1")
	fl.StringVarP(&f.name, "name", "n", "", "name of the resource; overrides the file")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the requests as JSON and send none; needs no server")
	fl.StringVar(&f.location, "location", "", "location of the resource (default: the workspace's)")
	fl.StringVar(&f.storage, "storage", "https://ACCOUNT.blob.core.lapis/CONTAINER", "with --dry-run: the container URL that uploads would go to")
	_ = cmd.MarkFlagFilename("file", "yml", "yaml")
}

// field adds a flag that stands for a field of the file.
func (f *createFlags) field(cmd *cobra.Command, flag, short, path, usage string) {
	if f.fields == nil {
		f.fields = map[string]*string{}
	}
	f.flags[path] = flag
	f.fields[path] = cmd.Flags().StringP(flag, short, "", usage)
}

// document reads the file and puts the flags over it. Without a file the
// flags are the document.
func (f *createFlags) document(cmd *cobra.Command, noun string) (*spec.Document, error) {
	var d *spec.Document
	var err error
	if f.file != "" {
		if d, err = spec.ReadFile(f.file); err != nil {
			return nil, err
		}
	} else {
		given := f.name != "" || len(f.set) > 0
		for _, v := range f.fields {
			given = given || *v != ""
		}
		if !given {
			return nil, fault.Invalid("--file is missing. Name the YAML file of the %s, as in `lapis %s create --file %s.yml`.", noun, noun, noun)
		}
		dir, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		if d, err = spec.Parse("the command line", dir, []byte("{}")); err != nil {
			return nil, err
		}
	}
	for _, a := range f.set {
		if err := d.Set(a); err != nil {
			return nil, err
		}
	}
	flags := map[string]string{"name": f.name, "version": f.version}
	for path, v := range f.fields {
		flags[path] = *v
	}
	for _, path := range slices.Sorted(maps.Keys(flags)) {
		if v := flags[path]; v != "" {
			if err := d.Put("--"+cmp.Or(f.flags[path], path), path, v); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

// dry prints the requests that the document would send.
func (f *createFlags) dry(cmd *cobra.Command, noun string, d *spec.Document, o spec.Options) error {
	o.DryRun = true
	w := &spec.DryRun{Target: o.Target, At: o.Location, Storage: f.storage}
	if w.At == "" {
		w.At = "local"
	}
	if _, err := spec.Create(cmd.Context(), d, noun, o, w); err != nil {
		return err
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(w.Requests)
}

// experimentName is the experiment of jobs whose file names none: the folder
// that the command runs in.
func experimentName() string {
	dir, err := os.Getwd()
	if err != nil {
		return "Default"
	}
	name := strings.ReplaceAll(filepath.Base(dir), " ", "")
	if ext := filepath.Ext(name); ext != name {
		name = strings.TrimSuffix(name, ext)
	}
	if name == "" || name == string(filepath.Separator) || name == "." {
		return "Default"
	}
	return name
}
