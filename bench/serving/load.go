package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// target is a request that is sent again and again.
type target struct {
	address string // host:port
	path    string
	header  string // lines that end in \r\n
	body    string
}

func (t target) request() []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", t.path, t.address, t.header, len(t.body), t.body)
}

// client is one connection that is kept as long as the server keeps it. It
// knows as much of HTTP as it takes to read a reply: the less it does, the less
// of what is measured is its own.
type client struct {
	address string
	conn    net.Conn
	r       *bufio.Reader
	body    []byte
}

const answerWithin = time.Minute

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// do sends a request and reads the reply; its body is in c.body. One that a
// server closes while it is idle is sent once more, as every client does.
func (c *client) do(request []byte) (status int, err error) {
	kept := c.conn != nil
	status, err = c.once(request)
	if err != nil && kept && status == 0 {
		c.close()
		status, err = c.once(request)
	}
	if err != nil {
		c.close()
	}
	return status, err
}

func (c *client) once(request []byte) (status int, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.address, 10*time.Second); err != nil {
			return 0, err
		}
		c.r = bufio.NewReaderSize(c.conn, 16<<10)
	}
	_ = c.conn.SetDeadline(time.Now().Add(answerWithin))
	if _, err = c.conn.Write(request); err != nil {
		return 0, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return 0, fmt.Errorf("not a status line: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length, chunked, last := -1, false, line[7] == '0'
	for {
		line, err = c.r.ReadSlice('\n')
		if err != nil {
			return status, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return status, err
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	c.body = c.body[:0]
	switch {
	case chunked:
		err = c.chunks()
	case length >= 0:
		c.body = slices.Grow(c.body, length)[:length]
		_, err = io.ReadFull(c.r, c.body)
	default:
		last = true
		c.body, err = io.ReadAll(c.r)
	}
	if last {
		c.close()
	}
	return status, err
}

func (c *client) chunks() error {
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return err
		}
		from := len(c.body)
		c.body = slices.Grow(c.body, int(n)+2)[:from+int(n)+2]
		if _, err := io.ReadFull(c.r, c.body[from:]); err != nil {
			return err
		}
		c.body = c.body[:from+int(n)]
		if n == 0 {
			return nil
		}
	}
}

// outcome is what came of a load.
type outcome struct {
	rate     float64 // good answers a second
	p50, p99 time.Duration
	failed   int
	first    string // what the first that failed said
}

func (o outcome) String() string {
	text := fmt.Sprintf("p50 %s, p99 %s", short(o.p50), short(o.p99))
	if o.failed > 0 {
		text += fmt.Sprintf(", %d failed", o.failed)
	}
	return text
}

func short(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
}

func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(p*float64(len(sorted)-1))]
}

// closed sends requests on some connections, each the next one when its last
// was answered.
func closed(t target, clients int, each time.Duration) (outcome, error) {
	request := t.request()
	var mu sync.Mutex
	var wait sync.WaitGroup
	var took []time.Duration
	var o outcome
	warm := client{address: t.address}
	for range 20 {
		if status, err := warm.do(request); err != nil || status >= 300 {
			warm.close()
			return o, fmt.Errorf("the first request: %d %v: %.300s", status, err, warm.body)
		}
	}
	warm.close()
	begun := time.Now()
	end := begun.Add(each)
	for range clients {
		wait.Go(func() {
			c := client{address: t.address}
			defer c.close()
			var mine []time.Duration
			for start := time.Now(); start.Before(end); {
				status, err := c.do(request)
				now := time.Now()
				if err != nil || status >= 300 {
					mu.Lock()
					o.failed++
					if o.first == "" {
						o.first = fmt.Sprintf("%d %v: %.200s", status, err, c.body)
					}
					mu.Unlock()
				} else {
					mine = append(mine, now.Sub(start))
				}
				start = now
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	wait.Wait()
	all := time.Since(begun)
	slices.Sort(took)
	o.rate, o.p50, o.p99 = float64(len(took))/all.Seconds(), percentile(took, .5), percentile(took, .99)
	if len(took) == 0 {
		return o, errors.New(o.first)
	}
	return o, nil
}

// open sends requests at a rate, whether or not the last were answered, on at
// most so many connections: one that would wait for a connection counts as
// failed. It returns the good answers of each second.
func open(ctx context.Context, t target, rate float64, connections int, each time.Duration) (good []int, failed int) {
	request := t.request()
	begun := time.Now()
	counts := make([]atomic.Int64, int(each/time.Second)+2)
	var lost atomic.Int64
	var wait sync.WaitGroup
	work := make(chan struct{}, connections)
	for range connections {
		wait.Go(func() {
			c := client{address: t.address}
			defer c.close()
			for range work {
				status, err := c.do(request)
				if at := int(time.Since(begun) / time.Second); err == nil && status < 300 && at < len(counts) {
					counts[at].Add(1)
				} else {
					lost.Add(1)
				}
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	sent := 0
	for ctx.Err() == nil && time.Since(begun) < each {
		<-tick.C
		for due := int(time.Since(begun).Seconds() * rate); sent < due; sent++ {
			select {
			case work <- struct{}{}:
			default:
				lost.Add(1)
			}
		}
	}
	close(work)
	wait.Wait()
	for i := range int(each / time.Second) {
		good = append(good, int(counts[i].Load()))
	}
	return good, int(lost.Load())
}
