package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/fault"
)

func whyCommand() *cobra.Command {
	n := &noun{name: "why"}
	cmd := &cobra.Command{
		Use:     "why endpoint/NAME | deployment/ENDPOINT/NAME",
		Short:   "Tell what answers, who deployed it and when, and what it was made from",
		GroupID: groupML,
		Long: `Tell what stands behind an online endpoint, or one of its deployments: the version
that serves, who deployed it and when, its model, the job that made the model, and
what that job read.`,
		Example: `  lapis why endpoint/iris
  lapis why deployment/iris/blue -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.Invalid("Name one thing: endpoint/NAME or deployment/ENDPOINT/NAME.")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := n.out.check(); err != nil {
				return err
			}
			kind, rest, _ := strings.Cut(args[0], "/")
			endpoint, deployment, two := strings.Cut(rest, "/")
			switch {
			case endpoint == "" || strings.Contains(deployment, "/") || two != (kind == "deployment") || two && deployment == "",
				kind != "endpoint" && kind != "deployment":
				return fault.Invalid("%q names nothing that can be told of. Write endpoint/NAME or deployment/ENDPOINT/NAME.", args[0])
			}
			s, err := n.scope.open(cmd)
			if err != nil {
				return err
			}
			defer s.progress.clear()
			plain := n.out.format == "" && n.out.query == ""
			if kind == "deployment" {
				w, err := s.WhyDeployment(cmd.Context(), endpoint, deployment)
				if err != nil {
					return err
				}
				if plain {
					return writeAll(s.out, whyDeployment(w))
				}
				return n.out.print(s.out, w, nil)
			}
			w, err := s.WhyEndpoint(cmd.Context(), endpoint)
			if err != nil {
				return err
			}
			if plain {
				return writeAll(s.out, whyEndpoint(w))
			}
			return n.out.print(s.out, w, nil)
		},
	}
	n.scope.register(cmd)
	n.out.register(cmd)
	return cmd
}

func writeAll(w io.Writer, lines []string) error {
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// whyLine is one fact: its name, and what is known, leaving out what is not.
func whyLine(depth int, name string, known ...string) string {
	known = slices.DeleteFunc(known, func(s string) bool { return s == "" })
	return fmt.Sprintf("%s%-*s%s", strings.Repeat("  ", depth), 16-2*depth, name, strings.Join(known, ", "))
}

func made(what string, m client.Made) string {
	if m.By == "" && m.At == "" {
		return ""
	}
	text := what
	if m.At != "" {
		text += " " + m.At
	}
	if m.By != "" {
		text += " by " + m.By
	}
	return strings.TrimSpace(text)
}

func whyEndpoint(w *client.Why) []string {
	shares := func(m map[string]int) string {
		var all []string
		for _, name := range slices.Sorted(maps.Keys(m)) {
			all = append(all, fmt.Sprintf("%s=%d", name, m[name]))
		}
		return strings.Join(all, " ")
	}
	traffic := shares(w.Traffic)
	if traffic == "" {
		traffic = "none: nobody answers, unless asked for by name"
	}
	lines := []string{
		fmt.Sprintf("endpoint %s: %s", w.Name, w.State),
		whyLine(1, "created", made("", w.Created)),
		whyLine(1, "changed", made("", w.Changed)),
		whyLine(1, "callers", w.Auth),
		whyLine(1, "traffic", traffic),
	}
	if len(w.Mirror) > 0 {
		lines = append(lines, whyLine(1, "copies", shares(w.Mirror)))
	}
	for _, d := range w.Deployments {
		lines = append(append(lines, ""), whyDeployment(d)...)
	}
	return lines
}

func whyDeployment(w *client.WhyDeployment) []string {
	lines := []string{fmt.Sprintf("deployment %s of endpoint %s: %s, %d %% of the traffic", w.Name, w.Endpoint, w.State, w.Traffic)}
	v := w.Version
	if v == nil {
		lines = append(lines, whyLine(1, "serves", "nothing"))
	} else {
		lines = append(lines,
			whyLine(1, "serves", v.Model, v.Script, strings.TrimSpace(v.Runtime+" "+v.Flavor), "generation "+v.Generation),
			whyLine(1, "deployed", made("", v.Deployed)))
		if v.Code != "" {
			lines = append(lines, whyLine(1, "code", v.Code))
		}
		if v.Environment != "" {
			lines = append(lines, whyLine(1, "environment", v.Environment))
		}
	}
	if b := w.Before; b != nil {
		lines = append(lines, whyLine(1, "before", b.Model, b.Script, made("deployed", b.Deployed)))
	}
	if w.Failure != "" {
		lines = append(lines, whyLine(1, "last change", "failed: "+w.Failure))
	}
	m := w.Model
	if m == nil {
		return lines
	}
	gone := ""
	if m.Gone {
		gone = "deleted since"
	}
	lines = append(lines, whyLine(1, "model", m.Name+":"+m.Version, m.Type, made("registered", m.Registered), gone))
	if m.URI != "" {
		lines = append(lines, whyLine(2, "from", m.URI))
	}
	j := m.Job
	if j == nil {
		return lines
	}
	if gone = ""; j.Gone {
		gone = "no job of that name is there"
	}
	lines = append(lines, whyLine(1, "job", j.Name, j.DisplayName, j.Status, made("started", j.Started), gone))
	for _, fact := range [][2]string{{"experiment", j.Experiment}, {"command", j.Command}, {"code", j.Code}, {"commit", j.Commit}, {"environment", j.Environment}} {
		if fact[1] != "" {
			lines = append(lines, whyLine(2, fact[0], fact[1]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.Inputs)) {
		lines = append(lines, whyLine(2, "input", name+" = "+j.Inputs[name]))
	}
	return lines
}
