package gateway

import (
	"context"
	"net"
	"slices"
	"time"

	"lapis/frame"
	"lapis/ml/serving"
	"lapis/socket"
)

// instance is one process that answers requests of a deployment. Its fields are
// guarded by the deployment's mu.
type instance struct {
	serving.Instance
	d       *deployment
	running int // requests that it works on, or is about to
	idle    []*conn
	retired bool // out of the routes

	down    bool   // it cannot be reached: who probes it will say when it can
	ejected bool   // it fails, and gets nothing for a while
	failing int    // failures in a row
	recent  uint16 // how the last 16 requests ended, a bit set for each failure; the last in the lowest
	ejects  int    // ejections in a row
	served  int64
	failed  int64
}

func newInstance(d *deployment, c serving.Instance) *instance {
	return &instance{Instance: c, d: d}
}

// When instances are ejected, and for how long.
const (
	ejectAfter = 5 // failures in a row
	ejectFor   = time.Second
	ejectMost  = 30 * time.Second

	probeFirst = 5 * time.Millisecond
	probeMost  = 500 * time.Millisecond
)

// retire closes the connections that nobody uses. The caller holds mu.
func (i *instance) retire() {
	i.retired = true
	i.drop()
}

// drop closes the kept connections. The caller holds mu.
func (i *instance) drop() {
	for _, c := range i.idle {
		c.Close()
	}
	i.idle = nil
}

// forget closes the kept connections: one of them was not good, so the others
// are not either.
func (i *instance) forget() {
	i.d.mu.Lock()
	defer i.d.mu.Unlock()
	i.drop()
}

// working tells whether requests are with the instance, or wait for it.
func (i *instance) working() bool {
	i.d.mu.Lock()
	defer i.d.mu.Unlock()
	return i.running > 0 || !i.retired
}

// report counts how a request on the instance ended, and ejects it when it
// fails again and again.
func (i *instance) report(good bool) {
	d := i.d
	d.mu.Lock()
	defer d.mu.Unlock()
	i.recent <<= 1
	if good {
		i.served++
		i.failing, i.ejects = 0, 0
		if i.ejected {
			i.readmit()
		}
		return
	}
	i.failed++
	i.recent |= 1
	if i.failing++; i.failing < ejectAfter || i.ejected || i.retired || !d.sound(i) {
		return
	}
	i.ejected, i.failing = true, 0
	wait := min(ejectFor<<min(i.ejects, 10), ejectMost)
	i.ejects++
	d.g.events.add(serving.Event{Kind: serving.EventEject, Endpoint: d.endpoint, Deployment: d.name, Instance: i.ID,
		Reason: "5 requests in a row failed"})
	time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if i.ejected {
			i.readmit()
		}
	})
}

// sound tells whether another instance than i has answered and not failed of late. Where all
// of them fail now and then it is the requests, or the model, and an ejection
// would only make the others busier. The caller holds mu.
func (d *deployment) sound(i *instance) bool {
	return slices.ContainsFunc(d.instances, func(o *instance) bool {
		return o != i && !o.down && !o.ejected && o.recent == 0 && o.served >= 16
	})
}

// readmit lets an ejected instance have requests again. The caller holds mu.
func (i *instance) readmit() {
	i.ejected = false
	i.d.g.events.add(serving.Event{Kind: serving.EventReadmit, Endpoint: i.d.endpoint, Deployment: i.d.name, Instance: i.ID})
	i.d.dispatch()
}

// unreachable takes the instance out until it can be reached again, which is
// tried in ever longer steps.
func (i *instance) unreachable() {
	i.d.mu.Lock()
	defer i.d.mu.Unlock()
	i.failed++
	if i.down || i.retired {
		return
	}
	i.down = true
	i.drop()
	i.d.g.work.Go(i.probe)
}

// probe waits until the instance can be reached.
func (i *instance) probe() {
	for wait := probeFirst; ; wait = min(2*wait, probeMost) {
		select {
		case <-i.d.g.ends.Done():
			return
		case <-time.After(wait):
		}
		ctx, cancel := context.WithTimeout(i.d.g.ends, 10*time.Second)
		c, err := i.dial(ctx)
		cancel()
		i.d.mu.Lock()
		if err == nil {
			i.down = false
			i.keep(c)
			i.d.dispatch()
		}
		retired := i.retired
		i.d.mu.Unlock()
		if err == nil || retired {
			return
		}
	}
}

// conn is a connection to an instance, for one request at a time.
type conn struct {
	net.Conn
	reader *frame.Reader // of an instance that speaks frames
	http   *httpConn     // of one that speaks HTTP
	used   bool          // it has carried a request before
	since  time.Time     // it is idle
}

// connect returns a connection that nobody uses, or a new one.
func (i *instance) connect(ctx context.Context, deadline time.Time, fresh bool) (*conn, error) {
	i.d.mu.Lock()
	for n := len(i.idle); n > 0 && !fresh; n = len(i.idle) {
		c := i.idle[n-1]
		i.idle = i.idle[:n-1]
		if c.http != nil && !c.http.fit(c) {
			c.Close()
			continue
		}
		i.d.mu.Unlock()
		return c, nil
	}
	i.d.mu.Unlock()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return i.dial(ctx)
}

var dialer net.Dialer

// dial opens a connection. An instance that speaks frames has said Hello when
// it returns.
func (i *instance) dial(ctx context.Context) (*conn, error) {
	nc, err := dialer.DialContext(ctx, i.Network, i.Address)
	if err != nil {
		return nil, err
	}
	nc = socket.New(nc, &i.d.g.look)
	c := &conn{Conn: nc}
	if !i.Frames {
		c.http = newHTTPConn(nc)
		return c, nil
	}
	c.reader = frame.NewReader(nc, 0)
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(past) })
	kind, _, err := c.reader.Next()
	if err == nil && kind != frame.KindHello {
		err = frame.ErrMalformed
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

// keep gives a connection back for the next request. The caller holds mu.
func (i *instance) keep(c *conn) {
	if i.retired || len(i.idle) >= max(i.d.cfg.Concurrency, 1) {
		c.Close()
		return
	}
	c.used, c.since = true, time.Now()
	i.idle = append(i.idle, c)
}
