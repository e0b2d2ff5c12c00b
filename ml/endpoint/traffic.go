package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lapis/fault"
	"lapis/resource"
)

// pastTraffic is a split that was in force until then.
type pastTraffic struct {
	Traffic map[string]int `json:"traffic"`
	Until   time.Time      `json:"until"`
}

// maxSplits bounds how many splits are remembered.
const maxSplits = 20

// maxMirror is the largest share of requests that is sent to another
// deployment, too, in percent.
const maxMirror = 50

// admitTraffic checks the split. One that a PUT names replaces the whole; one
// that it does not name stays.
func (s *Service) admitTraffic(ctx context.Context, c *resource.Change, p, old resource.Document) error {
	for _, field := range []string{"traffic", "mirrorTraffic"} {
		if _, named := p[field]; !named && old[field] != nil {
			p[field] = old[field]
		}
	}
	traffic, err := percents(p, "traffic")
	if err != nil {
		return err
	}
	mirror, err := percents(p, "mirrorTraffic")
	if err != nil {
		return err
	}
	was, _ := percents(old, "traffic")
	mirrored, _ := percents(old, "mirrorTraffic")
	if c.Old != nil && maps.Equal(traffic, was) && maps.Equal(mirror, mirrored) {
		return nil
	}
	there, err := s.deployments(ctx, c.New.ID)
	if err != nil {
		return err
	}
	if err := s.named(c, there, "traffic", traffic, was); err != nil {
		return err
	}
	if err := s.named(c, there, "mirrorTraffic", mirror, mirrored); err != nil {
		return err
	}
	p.Set("traffic", traffic)
	p.Set("mirrorTraffic", mirror)
	sum := 0
	for _, percent := range traffic {
		sum += percent
	}
	if sum != 0 && sum != 100 {
		return invalid("traffic", "adds up to %d (%s); it must add up to 100, or to 0 to take all traffic away", sum, spell(traffic))
	}
	if err := checkMirror(c, mirror, traffic); err != nil {
		return err
	}
	if c.Old != nil && !maps.Equal(live(traffic), live(was)) {
		c.Batch.Statuses = append(c.Batch.Statuses, s.remember(c.New.ID, was))
	}
	return nil
}

// named finds out whether the deployments of a split are there and serve. It
// takes those with 0 percent out that are gone.
func (s *Service) named(c *resource.Change, there []resource.Resource, field string, split, was map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(split)) {
		i := slices.IndexFunc(there, func(r resource.Resource) bool { return strings.EqualFold(r.ID.Name(), name) })
		if i < 0 {
			if _, known := was[name]; known && split[name] == 0 {
				delete(split, name)
				continue
			}
			if c.Old == nil {
				return invalid(field, "names the deployment '%s', but the endpoint does not exist yet: traffic is given to deployments once they are there", fault.Clip(name))
			}
			return invalid(field, "names the deployment '%s', which the endpoint '%s' does not have; it has: %s", fault.Clip(name), c.New.ID.Name(), namesOf(there))
		}
		d := there[i]
		if own := d.ID.Name(); own != name {
			if _, twice := split[own]; twice {
				return invalid(field, "names the deployment '%s' twice", own)
			}
			split[own] = split[name]
			delete(split, name)
			name = own
		}
		if split[name] > 0 && split[name] != was[name] && !serves(d) {
			return fault.Conflicts("The deployment '%s' cannot be given traffic: it is %s and has not answered yet.", name, StateOf(d)).With("DeploymentNotReady").At("properties." + field)
		}
		c.Rely(d)
	}
	return nil
}

func namesOf(rs []resource.Resource) string {
	if len(rs) == 0 {
		return "none"
	}
	var names []string
	for _, r := range rs {
		names = append(names, r.ID.Name())
	}
	return strings.Join(names, ", ")
}

func checkMirror(c *resource.Change, mirror, traffic map[string]int) error {
	target := live(mirror)
	if len(target) > 1 {
		return invalid("mirrorTraffic", "names %d deployments (%s); copies go to one", len(target), spell(target))
	}
	for name, percent := range target {
		switch {
		case c.New.Kind == Kubernetes:
			return invalid("mirrorTraffic", "is not offered by Kubernetes endpoints")
		case percent > maxMirror:
			return invalid("mirrorTraffic", "sends copies of %d %% of the requests to '%s'; at most %d %% are allowed", percent, name, maxMirror)
		case traffic[name] > 0:
			return invalid("mirrorTraffic", "names '%s', which has %d %% of the live traffic; a deployment gets either copies or live traffic", name, traffic[name])
		}
	}
	return nil
}

// live is the split without those that get nothing.
func live(split map[string]int) map[string]int {
	some := maps.Clone(split)
	maps.DeleteFunc(some, func(_ string, percent int) bool { return percent == 0 })
	return some
}

// spell writes a split as people do: blue=90 green=10.
func spell(split map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(split)) {
		parts = append(parts, fmt.Sprintf("%s=%d", fault.Clip(name), split[name]))
	}
	return strings.Join(parts, " ")
}

// remember keeps the split that is in force no longer.
func (s *Service) remember(id resource.ID, was map[string]int) resource.StatusWrite {
	now := s.Now().UTC()
	return resource.StatusWrite{ID: id, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		splits := StatusOf(resource.Resource{Status: stored}).Splits
		splits = append([]pastTraffic{{Traffic: live(was), Until: now}}, splits...)
		return laid(map[string]any{"trafficBefore": splits[:min(len(splits), maxSplits)]})(stored)
	}}
}

// rollback gives the endpoint the split that it had before, at once. Done twice,
// it is as it was.
func (s *Service) rollback(ctx context.Context, call resource.Call) (any, error) {
	if err := busy("online endpoint", &call.Resource); err != nil {
		return nil, err
	}
	splits := StatusOf(call.Resource).Splits
	p, err := resource.ParseDocument(call.Resource.Properties)
	if err != nil {
		return nil, err
	}
	was, err := percents(p, "traffic")
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(splits, func(one pastTraffic) bool { return len(one.Traffic) > 0 && !maps.Equal(one.Traffic, live(was)) })
	if at < 0 {
		return nil, fault.Conflicts("The endpoint '%s' has had no other split of its traffic to go back to.", call.ID.Name()).With("NothingToRollBack").At(call.ID.String())
	}
	traffic := maps.Clone(splits[at].Traffic)
	there, err := s.deployments(ctx, call.ID)
	if err != nil {
		return nil, err
	}
	c := &resource.Change{Old: &call.Resource, New: &call.Resource}
	if err := s.named(c, there, "traffic", traffic, nil); err != nil {
		return nil, fault.Conflicts("The split before (%s) cannot come back: a deployment of it is gone or does not serve.", spell(traffic)).With("NothingToRollBack").At(call.ID.String()).From(err)
	}
	mirror, err := percents(p, "mirrorTraffic")
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(mirror, func(name string, _ int) bool { return traffic[name] > 0 })
	p.Set("traffic", traffic)
	p.Set("mirrorTraffic", mirror)
	next := call.Resource
	next.Properties = p.Raw()
	batch := c.Batch
	batch.Puts = []resource.Write{{Resource: next, Expect: call.Resource.Etag, Keep: true}}
	batch.Statuses = []resource.StatusWrite{s.remember(call.ID, was)}
	if _, err := s.Resources.Commit(ctx, batch); err != nil {
		return nil, changed(err)
	}
	if s.Deployer != nil {
		if err := s.Deployer.Route(ctx); err != nil {
			return nil, err
		}
	}
	return map[string]any{"traffic": traffic, "mirrorTraffic": mirror, "before": live(was)}, nil
}
