package dispatch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"sort"
	"strings"
	"time"

	"lapis/ml/compute"
	"lapis/resource"
)

// clusters are the nodes of the compute targets, by the compute's key. A node
// is a place for one job; on this machine it costs nothing, but it comes, waits
// and goes as the cluster's scale settings say.
type clusters struct {
	of     map[string]*cluster
	listed time.Time // when all were last looked for
}

type cluster struct {
	id     resource.ID
	target compute.Target
	gone   bool
	idle   []idleNode
	shown  *compute.Nodes // what the compute's status says
	read   time.Time
}

type idleNode struct {
	id    string
	since time.Time
}

// refreshEvery is how often a target that no job waits for is read although
// nothing says that it has changed.
const refreshEvery = time.Second

// refresh reads the targets of waiting jobs, which start only on what the target
// is now and not on what it was before somebody stopped or deleted it, and from
// time to time all others.
func (cs *clusters) refresh(ctx context.Context, store resource.Store, waiting []demand, running map[string]demand) error {
	need := map[string]resource.ID{}
	for _, w := range running {
		if !w.compute.Zero() && cs.of[w.compute.Key()] == nil {
			need[w.compute.Key()] = w.compute
		}
	}
	for key, c := range cs.of {
		if time.Since(c.read) > refreshEvery {
			need[key] = c.id
		}
	}
	for _, w := range waiting {
		if !w.compute.Zero() {
			need[w.compute.Key()] = w.compute
		}
	}
	if len(need) == 0 {
		return nil
	}
	ids := make([]resource.ID, 0, len(need))
	for _, id := range need {
		ids = append(ids, id)
	}
	found, err := store.GetMany(ctx, ids)
	if err != nil {
		return err
	}
	for key, id := range need {
		c := cs.of[key]
		if c == nil {
			c = &cluster{id: id}
			cs.of[key] = c
		}
		r, ok := found[key]
		c.gone, c.read = !ok, time.Now()
		if !ok {
			continue
		}
		if c.target, err = compute.ParseTarget(r); err != nil {
			return err
		}
		first := c.shown == nil
		nodes := compute.NodesOf(r)
		if c.shown = &nodes; first {
			c.restore(nodes, running)
		}
	}
	for id, w := range running {
		if c := cs.of[w.compute.Key()]; c != nil && !w.compute.Zero() && w.node == "" && !c.read.IsZero() {
			w.node = newNode()
			running[id] = w
		}
	}
	return nil
}

// listEvery is how often new targets are looked for that no job names yet: one
// with a least number of nodes has them without a job.
const listEvery = 3 * time.Second

// restore takes up the nodes that an earlier server has left: those of jobs that
// still run stay theirs, the others are idle.
func (c *cluster) restore(n compute.Nodes, running map[string]demand) {
	for _, node := range n.Idle {
		c.idle = append(c.idle, idleNode{id: node.ID, since: n.Since.Time})
	}
	for _, node := range n.Running {
		held := false
		for id, w := range running {
			if w.compute.Key() == c.id.Key() && strings.EqualFold(w.run.ID, node.Job) {
				if w.node == "" {
					w.node = node.ID
					running[id] = w
				}
				held = true
			}
		}
		if !held {
			c.idle = append(c.idle, idleNode{id: node.ID, since: time.Now()})
		}
	}
}

// known takes up all targets, so that their node counts become true, also after
// a restart.
func (cs *clusters) known(ctx context.Context, store resource.Store) error {
	if time.Since(cs.listed) < listEvery {
		return nil
	}
	cs.listed = time.Now()
	after := ""
	for {
		page, err := store.List(ctx, resource.Query{Type: compute.Type, Limit: 1000, After: after})
		if err != nil {
			return err
		}
		for _, r := range page.Resources {
			if cs.of[r.ID.Key()] == nil {
				cs.of[r.ID.Key()] = &cluster{id: r.ID}
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

// take gives a job a node: one that is idle, else a new one.
func (c *cluster) take() string {
	if n := len(c.idle); n > 0 {
		node := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return node.id
	}
	return newNode()
}

func newNode() string {
	var b [8]byte
	rand.Read(b[:])
	return "tvmps_" + hex.EncodeToString(b[:]) + "_d"
}

// release makes a job's node idle.
func (cs *clusters) release(w demand, now time.Time) {
	if c := cs.of[w.compute.Key()]; c != nil && w.node != "" {
		c.idle = append(c.idle, idleNode{id: w.node, since: now})
	}
}

// settle scales the clusters and writes the counts that have changed into the
// computes' status.
func (cs *clusters) settle(ctx context.Context, store resource.Store, running map[string]demand, now time.Time) error {
	busy := map[string][]compute.Node{}
	for _, w := range running {
		if !w.compute.Zero() {
			busy[w.compute.Key()] = append(busy[w.compute.Key()], compute.Node{ID: w.node, Job: w.run.ID})
		}
	}
	for key, c := range cs.of {
		if c.gone {
			if len(busy[key]) == 0 {
				delete(cs.of, key)
			}
			continue
		}
		if c.read.IsZero() {
			continue
		}
		c.scale(len(busy[key]), now)
		n := compute.Nodes{Running: busy[key]}
		sort.Slice(n.Running, func(i, j int) bool { return n.Running[i].ID < n.Running[j].ID })
		for _, node := range c.idle {
			n.Idle = append(n.Idle, compute.Node{ID: node.id})
		}
		if err := c.write(ctx, store, n, now); err != nil {
			return err
		}
	}
	return nil
}

// scale gives idle nodes back when their time is over, and keeps the least
// number of nodes.
func (c *cluster) scale(busy int, now time.Time) {
	if c.target.Kind != "AmlCompute" {
		c.idle = nil
		return
	}
	kept := c.idle[:0]
	excess := busy + len(c.idle) - c.target.MinNodes
	over := busy + len(c.idle) - c.target.MaxNodes
	for _, node := range c.idle { // the longest idle first
		if over > 0 || (excess > 0 && now.Sub(node.since) >= time.Duration(c.target.Idle)) {
			excess--
			over--
			continue
		}
		kept = append(kept, node)
	}
	c.idle = kept
	for busy+len(c.idle) < c.target.MinNodes {
		c.idle = append(c.idle, idleNode{id: newNode(), since: now})
	}
}

// write stores the counts if they are not what the compute shows.
func (c *cluster) write(ctx context.Context, store resource.Store, n compute.Nodes, now time.Time) error {
	if c.shown != nil && slices.Equal(c.shown.Running, n.Running) && slices.Equal(c.shown.Idle, n.Idle) {
		return nil
	}
	n.Since = compute.Timestamp{Time: now}
	_, err := store.Commit(ctx, resource.Batch{Statuses: []resource.StatusWrite{{ID: c.id, Change: func(stored json.RawMessage) (json.RawMessage, error) {
		return compute.WithNodes(stored, n), nil
	}}}})
	if err == nil {
		c.shown = &n
	}
	return err
}
