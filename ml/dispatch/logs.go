package dispatch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
)

// BuildLog is the log of a job's environment build, in its artefact folder.
const BuildLog = "azureml-logs/20_image_build_log.txt"

// buildLog keeps a log as a blob that grows while it is written.
type buildLog struct {
	ctx   context.Context
	blobs blob.Store
	c     blob.Container
	key   string

	mu     sync.Mutex
	text   bytes.Buffer
	stored int
	stop   chan struct{}
	done   chan struct{}
}

// maxBuildLog bounds the log that is kept, in bytes.
const maxBuildLog = 16 << 20

func newBuildLog(ctx context.Context, blobs blob.Store, c blob.Container, key string) *buildLog {
	l := &buildLog{ctx: ctx, blobs: blobs, c: c, key: key, stop: make(chan struct{}), done: make(chan struct{})}
	go l.flushNow()
	return l
}

func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() < maxBuildLog {
		l.text.Write(p)
	}
	return len(p), nil
}

// flushNow stores the log each half second while it grows.
func (l *buildLog) flushNow() {
	defer close(l.done)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			_ = l.flush() // Close stores all, and tells
		}
	}
}

func (l *buildLog) flush() error {
	l.mu.Lock()
	text := bytes.Clone(l.text.Bytes())
	l.mu.Unlock()
	if len(text) == l.stored {
		return nil
	}
	_, err := l.blobs.Put(context.WithoutCancel(l.ctx), l.c, l.key, bytes.NewReader(text), int64(len(text)), textAttributes(), blob.Condition{})
	if err == nil {
		l.stored = len(text)
	}
	return err
}

// Close stores the whole log.
func (l *buildLog) Close() error {
	close(l.stop)
	<-l.done
	return l.flush()
}

// Live is a blob.Store in which the logs of running tasks grow as they are
// written: what a running task has in its folder is read from there.
type Live struct {
	blob.Store
	Runtime compute.Runtime
}

// task finds the task, and the name of the log in it, that a key belongs to.
func task(c blob.Container, key string) (id, name string, ok bool) {
	workspace, isArtifacts := strings.CutPrefix(c.Name, "azureml-")
	rest, isRun := strings.CutPrefix(key, "ExperimentRun/dcid.")
	if !isArtifacts || !isRun || strings.HasPrefix(workspace, "blobstore-") {
		return "", "", false
	}
	job, name, found := strings.Cut(rest, "/")
	return TaskID(workspace, job), name, found
}

// Open implements blob.Store.
func (l Live) Open(ctx context.Context, c blob.Container, key string, offset, length int64) (io.ReadCloser, blob.Info, error) {
	if id, name, ok := task(c, key); ok && name != "" {
		r, size, err := l.Runtime.OpenLog(ctx, id, name, offset)
		if err == nil {
			if offset > 0 && offset >= size {
				r.Close()
				return nil, blob.Info{}, fault.New(fault.RangeUnsatisfiable, "InvalidRange", "the log has %d bytes so far", size)
			}
			left := size - offset
			if length >= 0 {
				left = min(left, length)
			}
			return limited{io.LimitReader(r, left), r}, growing(key, size), nil
		}
		if f := fault.Find(err); f != nil && f.Kind == fault.RangeUnsatisfiable {
			return nil, blob.Info{}, err
		}
	}
	return l.Store.Open(ctx, c, key, offset, length)
}

// limited closes what it reads from.
type limited struct {
	io.Reader
	io.Closer
}

// Stat implements blob.Store.
func (l Live) Stat(ctx context.Context, c blob.Container, key string) (blob.Info, error) {
	if id, name, ok := task(c, key); ok && name != "" {
		if r, size, err := l.Runtime.OpenLog(ctx, id, name, 0); err == nil {
			r.Close()
			return growing(key, size), nil
		}
	}
	return l.Store.Stat(ctx, c, key)
}

// List implements blob.Store. The logs of a running task are listed where the
// prefix is of its folder.
func (l Live) List(ctx context.Context, c blob.Container, q blob.Query) (blob.Page, error) {
	page, err := l.Store.List(ctx, c, q)
	if err != nil || q.Delimiter != "" || q.After != "" || page.Next != "" {
		return page, err
	}
	id, _, ok := task(c, q.Prefix)
	if !ok {
		return page, nil
	}
	logs, err := l.Runtime.Logs(ctx, id)
	if err != nil {
		return page, nil // no such task: what is stored is all
	}
	there := map[string]bool{}
	for _, b := range page.Blobs {
		there[b.Key] = true
	}
	base := q.Prefix[:strings.IndexByte(q.Prefix[len("ExperimentRun/dcid."):], '/')+len("ExperimentRun/dcid.")+1]
	for name, size := range logs {
		if key := base + name; strings.HasPrefix(key, q.Prefix) && !there[key] {
			page.Blobs = append(page.Blobs, growing(key, size))
		}
	}
	sort.Slice(page.Blobs, func(i, j int) bool { return page.Blobs[i].Key < page.Blobs[j].Key })
	return page, nil
}

// textAttributes are those of a log.
func textAttributes() blob.Attributes {
	var a blob.Attributes
	a.ContentType = "text/plain; charset=utf-8"
	return a
}

// growing is what is known of a log that is being written.
func growing(key string, size int64) blob.Info {
	i := blob.Info{Key: key, Size: size, ETag: fmt.Sprintf(`"0xL%X"`, size), Modified: time.Now().UTC()}
	i.ContentType = "text/plain; charset=utf-8"
	return i
}
