package gateway

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"lapis/edge"
	"lapis/ml/serving"
)

// The collections of payloads.
const (
	collectRequest  = "request"
	collectResponse = "response"
)

// Bounds of what waits to be written: events beyond them are lost, and counted.
const (
	keptAtOnce = 4096
	keptBytes  = 128 << 20

	// What is longer is cut off: the rest of such a reply is not kept.
	keptPayload = 32 << 20

	lookEvery   = 100 * time.Millisecond // for files that are to be finished
	finishEvery = time.Second            // a file is whole after
)

// collector writes payloads into the spool; see serving.SpoolFolder. It never
// makes a request wait.
type collector struct {
	dir   string
	log   *slog.Logger
	queue chan *kept
	bytes atomic.Int64 // in the queue
	ended chan struct{}

	mu      sync.Mutex
	written map[collection]*tally
	files   map[collection]*spoolFile // the writer's own
}

// collection is where events go.
type collection struct{ endpoint, deployment, name string }

// tally counts events of a collection.
type tally struct{ written, lost atomic.Int64 }

// kept is one request whose payloads are collected.
type kept struct {
	collect            serving.Collect
	endpoint           string
	deployment, source string
	id, clientID       string
	method, path       string
	at                 time.Time
	headers            map[string]string
	request, response  []byte
	types              [2]string // content types of request and response
}

func (k *kept) size() int64 { return int64(len(k.request)+len(k.response)) + 1<<10 }

func openCollector(dir string, log *slog.Logger) (*collector, error) {
	c := &collector{dir: dir, log: log, queue: make(chan *kept, keptAtOnce), ended: make(chan struct{}),
		written: map[collection]*tally{}, files: map[collection]*spoolFile{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c.recover()
	go c.run()
	return c, nil
}

// close writes what is left.
func (c *collector) close() error {
	close(c.queue)
	<-c.ended
	return nil
}

// recover finishes the files of a gateway that was killed, each up to its last
// whole line.
func (c *collector) recover() {
	_ = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, partEnding) {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		whole := bytes.LastIndexByte(b, '\n') + 1
		if whole == 0 {
			err = os.Remove(path)
		} else if err = os.Truncate(path, int64(whole)); err == nil {
			err = os.Rename(path, strings.TrimSuffix(path, partEnding)+serving.SpoolEnding)
		}
		if err != nil {
			c.log.Error("finish collected events", "file", path, "err", err)
		}
		return nil
	})
}

const partEnding = ".part"

// spoolFile is a file that is being written.
type spoolFile struct {
	path  string
	file  *os.File
	w     *bufio.Writer
	began time.Time
}

func (c *collector) tally(k collection) *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.written[k]
	if t == nil {
		t = &tally{}
		c.written[k] = t
	}
	return t
}

// counts are the events of a deployment, by collection; nil if it has none.
func (c *collector) counts(endpoint, deployment string) (written, lost map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{collectRequest, collectResponse} {
		if t := c.written[collection{endpoint, deployment, name}]; t != nil {
			if written == nil {
				written, lost = map[string]int64{}, map[string]int64{}
			}
			written[name], lost[name] = t.written.Load(), t.lost.Load()
		}
	}
	return written, lost
}

// capture decides whether the request's payloads are kept.
func (x *exchange) capture() {
	c := x.cfg.Collect
	if c == nil || x.upgrades || !c.Request && !c.Response || !chance(c.Rate) {
		return
	}
	x.keep = &kept{collect: *c, endpoint: x.rt.Name, deployment: x.d.name, source: x.cfg.ID, id: x.id, clientID: x.clientID,
		method: x.method, at: x.began.UTC()}
	x.keep.path, _, _ = strings.Cut(x.target, "?")
	for _, name := range c.Headers {
		if v := x.r.Header.Get(name); v != "" && !strings.EqualFold(name, "Authorization") {
			if x.keep.headers == nil {
				x.keep.headers = map[string]string{}
			}
			x.keep.headers[strings.ToLower(name)] = v
		}
	}
	x.keep.types[0] = x.r.Header.Get("Content-Type")
	if c.Request {
		x.keep.request = bytes.Clone(x.frame[x.body:])
	}
}

// note takes down a piece of the reply that the caller gets, for those who
// want to know.
func (x *exchange) note(b []byte) {
	if k := x.keep; k != nil && k.collect.Response && len(k.response)+len(b) <= keptPayload {
		k.response = append(k.response, b...)
	}
	if x.mirror != nil {
		x.mirror.live.note(b)
	}
}

// take queues what was kept, or counts it as lost.
func (c *collector) take(k *kept, x *exchange) {
	k.types[1] = x.w.Header().Get("Content-Type")
	if c.bytes.Load() <= keptBytes {
		c.bytes.Add(k.size())
		select {
		case c.queue <- k:
			return
		default:
			c.bytes.Add(-k.size())
		}
	}
	k.each(func(to collection, _ []byte, _ string) { c.tally(to).lost.Add(1) })
}

// each goes through the events.
func (k *kept) each(do func(to collection, payload []byte, contentType string)) {
	if k.collect.Request {
		do(collection{k.endpoint, k.deployment, collectRequest}, k.request, k.types[0])
	}
	if k.collect.Response {
		do(collection{k.endpoint, k.deployment, collectResponse}, k.response, k.types[1])
	}
}

// run writes until the queue is closed and empty.
func (c *collector) run() {
	defer close(c.ended)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case k, ok := <-c.queue:
			if !ok {
				c.flush(true)
				return
			}
			c.bytes.Add(-k.size())
			k.each(func(to collection, payload []byte, contentType string) {
				t := c.tally(to)
				if err := c.write(to, k.event(to.name, payload, contentType)); err != nil {
					t.lost.Add(1)
					c.log.Error("collect", "endpoint", to.endpoint, "deployment", to.deployment, "err", err)
					return
				}
				t.written.Add(1)
			})
			if len(c.queue) == 0 { // a gateway that is killed leaves what is in its files
				c.flush(false)
			}
		case <-tick.C:
			c.flush(false)
		}
	}
}

func (c *collector) write(to collection, line []byte) error {
	f := c.files[to]
	if f == nil {
		dir := filepath.Join(c.dir, to.endpoint, to.deployment, to.name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		now := time.Now()
		path := filepath.Join(dir, now.UTC().Format("20060102T150405.000000000Z"))
		file, err := os.OpenFile(path+partEnding, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		f = &spoolFile{path: path, file: file, w: bufio.NewWriterSize(file, 64<<10), began: now}
		c.files[to] = f
	}
	_, err := f.w.Write(line)
	if err != nil { // a full disk: what was written stays, the next file may fare better
		c.finish(to, f)
	}
	return err
}

// flush brings what is collected to the files, and finishes those that are old.
func (c *collector) flush(all bool) {
	for to, f := range c.files {
		if all || time.Since(f.began) >= finishEvery {
			c.finish(to, f)
		} else if err := f.w.Flush(); err != nil {
			c.log.Error("collect", "file", f.path, "err", err)
			c.finish(to, f)
		}
	}
}

func (c *collector) finish(to collection, f *spoolFile) {
	delete(c.files, to)
	err := errors.Join(f.w.Flush(), f.file.Close(), os.Rename(f.path+partEnding, f.path+serving.SpoolEnding))
	if err != nil {
		c.log.Error("collect", "file", f.path, "err", err)
	}
}

// event is one line of the spool.
func (k *kept) event(name string, payload []byte, contentType string) []byte {
	e := struct {
		SpecVersion     string            `json:"specversion"`
		ID              string            `json:"id"`
		Source          string            `json:"source"`
		Type            string            `json:"type"`
		DataContentType string            `json:"datacontenttype"`
		Time            string            `json:"time"`
		Data            json.RawMessage   `json:"data,omitempty"`
		DataBase64      []byte            `json:"data_base64,omitempty"`
		Path            string            `json:"path"`
		Method          string            `json:"method"`
		ContentRange    string            `json:"contentrange"`
		CorrelationID   string            `json:"correlationid"`
		RequestID       string            `json:"xrequestid"`
		Headers         map[string]string `json:"headers,omitempty"`
	}{
		SpecVersion: "1.0", ID: edge.NewID(), Source: k.source, Type: "azureml.inference." + name, DataContentType: contentType,
		Time: k.at.Format("2006-01-02T15:04:05.000000Z"), Path: k.path, Method: k.method,
		ContentRange:  fmt.Sprintf("bytes 0-%d/*", max(len(payload)-1, 0)),
		CorrelationID: k.clientID, RequestID: k.id, Headers: k.headers,
	}
	if e.CorrelationID == "" {
		e.CorrelationID = k.id
	}
	if e.DataContentType == "" {
		e.DataContentType = "application/json"
	}
	switch {
	case json.Valid(payload):
		e.Data = payload
	case utf8.Valid(payload):
		e.Data, _ = json.Marshal(string(payload))
	default:
		e.DataBase64 = payload
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // all of it can be encoded
	}
	return append(b, '\n')
}
