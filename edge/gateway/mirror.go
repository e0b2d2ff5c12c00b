package gateway

import (
	"bytes"
	"net/http"
	"sync"
	"time"
)

// Bounds of the copies that wait for a deployment: what is beyond is dropped.
const (
	copiesAtOnce = 512
	copiesBytes  = 64 << 20
	copyWorkers  = 32 // copies on their way at once; no more than the deployment works on

	// comparedBytes is how much of a reply is compared.
	comparedBytes = 1 << 20
)

// mirror sends copies of requests to a deployment, beside those who called.
type mirror struct {
	d *deployment

	mu      sync.Mutex
	queue   []*copied
	bytes   int
	workers int

	report report
}

func (m *mirror) init(d *deployment) { m.d = d }

// copied is a copy of a request, and what its caller got.
type copied struct {
	rt         *route
	live       answerOf
	liveName   string
	done       chan struct{} // closed when live is whole
	request    *http.Request
	method     string
	target     string
	id         string
	frame      []byte
	head, body int
}

// answerOf is how one of a pair was answered.
type answerOf struct {
	status int // of the model
	body   []byte
	cut    bool
	took   time.Duration
}

func (a *answerOf) note(b []byte) {
	if a.cut = a.cut || len(a.body)+len(b) > comparedBytes; !a.cut {
		a.body = append(a.body, b...)
	}
}

// shadow queues a copy of the request, for a share of those that named no
// deployment.
func (x *exchange) shadow() {
	rt := x.rt
	if rt.mirror == nil || x.pinned || x.upgrades || rt.mirror == x.d || !chance(float64(rt.mirrored)/100) {
		return
	}
	m := &rt.mirror.mirror
	c := &copied{rt: rt, liveName: x.d.name, done: make(chan struct{}), method: x.method, target: x.target, id: x.id,
		frame: bytes.Clone(x.frame), head: x.head, body: x.body,
		request: &http.Request{Method: x.method, Header: http.Header{}, ProtoMajor: 1}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) >= copiesAtOnce || m.bytes+len(c.frame) > copiesBytes {
		m.d.stats.dropped.Add(1)
		return
	}
	m.queue = append(m.queue, c)
	m.bytes += len(c.frame)
	x.mirror = c
	if m.workers < m.d.slots() {
		m.workers++
		m.d.g.work.Go(m.run)
	}
}

// slots is how many copies may be on their way.
func (d *deployment) slots() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return min(max(d.cfg.Capacity, 1)*max(d.cfg.Concurrency, 1), copyWorkers)
}

// answered tells how the caller was answered.
func (c *copied) answered(model int, took time.Duration) {
	c.live.status, c.live.took = model, took
	close(c.done)
}

// run sends copies until there are none.
func (m *mirror) run() {
	for {
		m.mu.Lock()
		if len(m.queue) == 0 || m.d.g.ends.Err() != nil {
			m.workers--
			m.mu.Unlock()
			return
		}
		c := m.queue[0]
		m.queue = m.queue[1:]
		m.bytes -= len(c.frame)
		m.mu.Unlock()
		m.send(c)
	}
}

// nobody takes the reply to a copy.
type nobody struct{ header http.Header }

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Write(b []byte) (int, error) { return len(b), nil }
func (n *nobody) FlushError() error           { return nil }

// send has the deployment answer a copy, and compares.
func (m *mirror) send(c *copied) {
	x := &exchange{g: m.d.g, w: &nobody{http.Header{}}, r: c.request.WithContext(m.d.g.ends), began: time.Now(), id: c.id,
		method: c.method, target: c.target, rt: c.rt, d: m.d, cfg: m.d.config(), frame: c.frame, head: c.head, body: c.body}
	x.deadline = x.began.Add(x.timeout())
	shadow := &copied{done: make(chan struct{})}
	x.mirror = shadow // it takes the reply down
	m.d.stats.mirrored.Add(1)
	if no := x.score(); no != nil {
		x.refuse(no)
	}
	x.finish()
	// The caller's own request ends within its bounds.
	select {
	case <-c.done:
	case <-m.d.g.ends.Done():
		return
	}
	m.report.add(c.id, c.liveName, c.live, shadow.live)
}
