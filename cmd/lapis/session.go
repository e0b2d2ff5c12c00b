package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/client/spec"
	"lapis/fault"
)

// scopeFlags say which workspace a command works in.
type scopeFlags struct {
	subscription string
	group        string
	workspace    string
	registry     string // in place of a workspace, for nouns that registries hold
	debug        bool
}

func (s *scopeFlags) register(cmd *cobra.Command) {
	fl := cmd.PersistentFlags()
	fl.StringVar(&s.subscription, "subscription", "", "subscription id")
	fl.StringVarP(&s.group, "resource-group", "g", "", "resource group")
	fl.StringVarP(&s.workspace, "workspace-name", "w", "", "workspace")
	fl.BoolVar(&s.debug, "debug", false, "print each request and its answer on the error output")
	for _, name := range []string{"verbose", "only-show-errors"} {
		fl.Bool(name, false, "taken for the sake of scripts")
		_ = fl.MarkHidden(name)
	}
}

func (s *scopeFlags) target() spec.Target {
	return spec.Target{Subscription: s.subscription, ResourceGroup: s.group, Workspace: s.workspace}
}

// configuration finds the server and the workspace: by flags, then the
// variables of `lapis connect`, then .azureml/config.json, then the data folder.
func (s *scopeFlags) configuration() (client.Config, error) {
	dir, err := os.Getwd()
	if err != nil {
		return client.Config{}, err
	}
	file, err := client.WorkspaceFile(dir)
	if err != nil {
		return client.Config{}, err
	}
	c, connected := client.FromEnvironment(os.Getenv)
	if connected {
		c.Target = client.Over(file, c.Target)
	} else {
		if c, err = folderConfig(); err != nil {
			return c, err
		}
		c.Target = client.Over(c.Target, file)
	}
	c.Target = client.Over(c.Target, s.target())
	return c, nil
}

// folderConfig is what the data folder says to its owner.
func folderConfig() (client.Config, error) {
	var c client.Config
	f, err := openFolder("")
	if err != nil {
		if fault.Is(err, fault.Missing) {
			dir, _ := folderPath("")
			return c, fault.NotFound("There is no server to speak to: this shell is not connected, and no server has used the data folder %s. Start one with `lapis up`, or connect to one that runs with `lapis connect`.", dir)
		}
		return c, err
	}
	if err := f.private(); err != nil {
		return c, err
	}
	w, err := f.loadIdentity()
	if err != nil {
		return c, err
	}
	info, err := f.readServer()
	if errors.Is(err, fs.ErrNotExist) {
		return c, fault.NotFound("The server on %s has not been ready yet. Start it with `lapis up`.", f.dir)
	}
	if err != nil {
		return c, err
	}
	secret, err := f.adminSecret()
	if err != nil {
		return c, err
	}
	return client.Config{
		URL: info.URL, CA: f.path("keys", "ca.crt"),
		Tenant: w.Tenant, ClientID: w.Admin.Client, ClientSecret: secret,
		Target: spec.Target{Subscription: w.Subscription, ResourceGroup: w.Group, Workspace: w.Workspace},
	}, nil
}

// offline is the workspace that a dry run names: the same as with a server if
// one is known here, else placeholders.
func (s *scopeFlags) offline() spec.Target {
	t := spec.Target{Subscription: "00000000-0000-0000-0000-000000000000", ResourceGroup: "lapis", Workspace: "main"}
	if s.subscription == "" || s.group == "" || s.workspace == "" {
		if c, err := s.configuration(); err == nil {
			t = client.Over(t, c.Target)
		}
	}
	t = client.Over(t, s.target())
	t.Registry = s.registry
	return t
}

// session is a client, and the terminal it reports to.
type session struct {
	*client.Client
	progress *progress
	out      io.Writer
}

// open connects a command to its server.
func (s *scopeFlags) open(cmd *cobra.Command) (*session, error) {
	c, err := s.configuration()
	if err != nil {
		return nil, err
	}
	k, err := client.New(c)
	if err != nil {
		return nil, err
	}
	p := newProgress(cmd.ErrOrStderr())
	if s.debug {
		k.Trace = func(method, address string, status int, err error, took time.Duration) {
			p.clear()
			answer := fmt.Sprint(status)
			if err != nil {
				answer = err.Error()
			}
			fmt.Fprintf(p.w, "DEBUG: %s %s: %s in %.1f ms\n", method, address, answer, float64(took.Microseconds())/1000)
		}
	}
	if s.registry != "" {
		if k, err = k.InRegistry(cmd.Context(), s.registry); err != nil {
			return nil, err
		}
	}
	k.Progress = p.bar
	k.Waiting = func(error) { p.stage("The server is away; waiting for it to come back …") }
	return &session{Client: k, progress: p, out: p.over(cmd.OutOrStdout())}, nil
}
