package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lapis/client"
	"lapis/fault"
)

// rolloutVerbs add what brings a new deployment into the traffic with care.
func (n *noun) rolloutVerbs(o *onlineFlags) {
	n.canary(o)
	n.shadow(o)
	n.replay(o)
}

// canary gives a deployment more and more of the traffic, as long as it does
// well, and tells how that goes.
func (n *noun) canary(o *onlineFlags) {
	var name, deployment, steps string
	var seconds, errorRate, p99 float64
	var least int
	var stop bool
	cmd := n.verb("canary", "Bring a deployment into the traffic step by step", `  lapis online-endpoint canary --name iris --deployment-name green
  lapis online-endpoint canary --name iris --deployment-name green --steps 5,25,50,100 --step-seconds 60 --error-rate 0.01 --p99-ms 50
  lapis online-endpoint canary --name iris                   how it goes
  lapis online-endpoint canary --name iris --stop            leaves the traffic as it is`, func(cmd *cobra.Command, s *session) error {
		if _, err := o.checkEndpoint(cmd.Context(), s, name); err != nil {
			return err
		}
		properties := map[string]any{}
		switch {
		case stop && deployment != "":
			return fault.Invalid("--stop and --deployment-name cannot be used together.")
		case stop:
			properties["canary.deployment"] = ""
		case deployment != "":
			if _, err := s.Get(cmd.Context(), s.DeploymentPath(name, deployment)); err != nil {
				return err
			}
			properties["canary.deployment"] = strings.ToLower(deployment)
			properties["canary.steps"] = steps
			properties["canary.step_seconds"] = number(seconds)
			properties["canary.min_requests"] = strconv.Itoa(least)
			// One of a name begins anew although there was one before.
			properties["canary.run"] = strconv.FormatInt(now().UnixMilli(), 36)
		default:
			if cmd.Flags().Changed("steps") || cmd.Flags().Changed("step-seconds") {
				return fault.Invalid("--deployment-name is missing: it names the deployment that is to get the traffic.")
			}
		}
		if cmd.Flags().Changed("error-rate") {
			properties["slo.error_rate"] = number(errorRate)
		}
		if cmd.Flags().Changed("p99-ms") {
			properties["slo.p99_ms"] = number(p99)
		}
		path := n.path(s, name)
		if len(properties) > 0 {
			if _, err := s.Request(cmd.Context(), "PATCH", path, "", nil, map[string]any{"properties": map[string]any{"properties": properties}}); err != nil {
				return err
			}
		}
		raw, err := s.Get(cmd.Context(), path)
		if err != nil {
			return err
		}
		var e struct {
			Properties struct {
				Traffic    map[string]int
				Canary     map[string]any
				Properties map[string]string
			}
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		s.progress.clear()
		out := map[string]any{"traffic": e.Properties.Traffic, "canary": e.Properties.Canary, "deployment": e.Properties.Properties["canary.deployment"],
			"steps": e.Properties.Properties["canary.steps"]}
		return n.out.print(s.out, out, []string{"deployment", "steps", "traffic", "canary"})
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVarP(&deployment, "deployment-name", "d", "", "the deployment that is to get the traffic")
	cmd.Flags().StringVar(&steps, "steps", "5,25,50,100", "its shares of the traffic, in percent; without steps (\"\") its share stays and its objectives alone are watched")
	cmd.Flags().Float64Var(&seconds, "step-seconds", 60, "how long a step lasts at least")
	cmd.Flags().IntVar(&least, "min-requests", 10, "how many requests a step must have seen")
	cmd.Flags().Float64Var(&errorRate, "error-rate", 0, "objective: the share of requests that may fail, such as 0.01")
	cmd.Flags().Float64Var(&p99, "p99-ms", 0, "objective: the time that 99 of 100 requests may take, in milliseconds")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the rollout and leave the traffic as it is")
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// shadow tells how the answers to copies differ from those that callers got.
func (n *noun) shadow(o *onlineFlags) {
	var name, deployment string
	cmd := n.verb("shadow", "Compare the answers to copies of requests with the live ones", `  lapis online-endpoint update --name iris --mirror-traffic "green=10"
  lapis online-endpoint shadow --name iris`, func(cmd *cobra.Command, s *session) error {
		if _, err := o.checkEndpoint(cmd.Context(), s, name); err != nil {
			return err
		}
		body := map[string]any{}
		if deployment != "" {
			body["deployment"] = strings.ToLower(deployment)
		}
		raw, err := s.Post(cmd.Context(), n.path(s, name)+"/shadowReport", body)
		if err != nil {
			return err
		}
		var report map[string]any
		if err := json.Unmarshal(raw, &report); err != nil {
			return err
		}
		s.progress.clear()
		return n.out.print(s.out, report, []string{"live", "shadow", "pairs", "equal", "failures", "p50Ms", "p99Ms"})
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVarP(&deployment, "deployment-name", "d", "", "the deployment that got copies (default: the one that gets them)")
}

// replay sends requests that were collected once more, to a candidate.
func (n *noun) replay(o *onlineFlags) {
	var name, deployment, from, against string
	var width, limit int
	cmd := n.verb("replay", "Send collected requests to a deployment and compare its answers", `  lapis online-endpoint replay --name iris --deployment-name green --from blue
  lapis online-endpoint replay --name iris --deployment-name green --from requests.jsonl --against blue`, func(cmd *cobra.Command, s *session) error {
		e, err := o.checkEndpoint(cmd.Context(), s, name)
		if err != nil {
			return err
		}
		for _, d := range []string{deployment, against} {
			if d == "" {
				continue
			}
			if _, err := s.Get(cmd.Context(), s.DeploymentPath(name, d)); err != nil {
				return err
			}
		}
		if o.local {
			e.Properties.AuthMode = "" // it asks for nothing
		}
		requests, err := n.collected(cmd, s, name, from)
		if err != nil {
			return err
		}
		if limit > 0 && len(requests) > limit {
			requests = requests[:limit]
		}
		report, err := s.Replay(cmd.Context(), e, requests, client.Replay{Deployment: strings.ToLower(deployment), Against: strings.ToLower(against), Width: width,
			Tell: func(done, total int) {
				if done%100 == 0 || done == total {
					s.progress.stage(fmt.Sprintf("Sent %d of %d requests …", done, total))
				}
			}})
		s.progress.clear()
		if err != nil {
			return err
		}
		return n.out.print(s.out, report, []string{"deployment", "against", "requests", "pairs", "equal", "failures", "p50Ms", "p99Ms"})
	})
	n.nameFlag(cmd, &name)
	cmd.Flags().StringVarP(&deployment, "deployment-name", "d", "", "the deployment that is to answer")
	_ = cmd.MarkFlagRequired("deployment-name")
	cmd.Flags().StringVar(&from, "from", "", "file or folder of collected requests, or the deployment that collected them")
	_ = cmd.MarkFlagRequired("from")
	cmd.Flags().StringVar(&against, "against", "", "a deployment that is asked the same (default: the answers that were collected)")
	cmd.Flags().IntVar(&width, "concurrency", 1, "requests at a time")
	cmd.Flags().IntVar(&limit, "limit", 0, "the first so many requests only")
}

// collected reads the requests that --from names: what lies there, or what was
// collected of a deployment.
func (n *noun) collected(cmd *cobra.Command, s *session, endpoint, from string) ([]client.Captured, error) {
	var answers []string
	if _, err := os.Stat(from); err != nil {
		if strings.ContainsAny(from, `/\.`) {
			return nil, fault.NotFound("--from: there is no file or folder %s.", from)
		}
		dir, err := os.MkdirTemp("", "lapis-replay-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		requests, responses := dir+"/request", dir+"/response"
		found, err := s.Collected(cmd.Context(), endpoint, from, "request", requests)
		if err != nil {
			return nil, err
		}
		if found == 0 {
			return nil, fault.NotFound("--from: there is no file %s, and no requests of a deployment %q are collected. Have them collected with data_collector in the deployment's file.", from, from)
		}
		if found, err = s.Collected(cmd.Context(), endpoint, from, "response", responses); err != nil {
			return nil, err
		}
		if from = requests; found > 0 {
			answers = append(answers, responses)
		}
	}
	requests, unread, err := client.ReadCaptured(from, answers...)
	if err != nil {
		return nil, err
	}
	if unread > 0 {
		s.progress.say("%d lines are left out: they are no requests, or their payload lies elsewhere.", unread)
	}
	if len(requests) == 0 {
		return nil, fault.NotFound("--from: there are no requests in %s.", from)
	}
	return requests, nil
}
