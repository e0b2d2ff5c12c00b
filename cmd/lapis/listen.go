package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"lapis/fault"
)

// listen opens the address that a flag gave: for "localhost" both loopback addresses, for any
// other host the loopback too, since jobs talk to it. Port "0" takes a free
// one. It returns the port.
func listen(flag, address string) ([]net.Listener, string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", fault.Invalid("%s %q is not of the form HOST:PORT, such as localhost:7443.", flag, address).From(err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, "", fault.Invalid("%s %q has no port between 0 and 65535.", flag, address).From(err)
	} else {
		port = strconv.FormatUint(n, 10)
	}

	hosts := []string{"127.0.0.1", "::1"}
	switch host {
	case "localhost", "127.0.0.1", "::1":
	case "", "0.0.0.0", "::":
		hosts = []string{host}
	default:
		hosts = append([]string{host}, hosts...)
	}
	var open []net.Listener
	fail := func(err error) ([]net.Listener, string, error) {
		for _, l := range open {
			l.Close()
		}
		return nil, "", err
	}
	for _, h := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(h, port))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fail(inUse(flag, port))
		case h == "::1" && err != nil:
			continue // a machine without IPv6
		case errors.Is(err, syscall.EACCES):
			return fail(fault.Denied("Port %s is for root alone. Take one above 1023, such as %s %s.", port, flag, net.JoinHostPort(host, "7443")).From(err))
		case err != nil:
			return fail(fault.Invalid("Cannot listen on %s: %v. Name an address of this machine with %s.", net.JoinHostPort(h, port), err, flag).From(err))
		}
		open = append(open, l)
		if port == "0" {
			port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		}
	}
	return open, port, nil
}

// inUse says who holds the port and what to do.
func inUse(flag, port string) error {
	holder := "another process"
	if pid, command := portHolder(port); pid > 0 {
		holder = fmt.Sprintf("pid %d (%s)", pid, command)
	}
	return fault.New(fault.Conflict, "PortInUse", "Port %s is in use by %s. Stop that, or take another port: lapis up %s localhost:PORT", port, holder, flag)
}

// portHolder finds the process that listens on a TCP port, 0 if it is not ours to see.
func portHolder(port string) (pid int, command string) {
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0, ""
	}
	inodes := map[string]bool{}
	suffix := fmt.Sprintf(":%04X", n)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			const local, state, inode, listening = 1, 3, 9, "0A"
			fields := strings.Fields(line)
			if len(fields) > inode && strings.HasSuffix(fields[local], suffix) && fields[state] == listening {
				inodes["socket:["+fields[inode]+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		command := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
		if len(command) > 80 {
			command = command[:80] + "…"
		}
		return pid, command
	}
	return 0, ""
}

// sniffFor is how long a new connection may take to say what it speaks.
const sniffFor = 10 * time.Second

// splitter takes connections of one port and tells TLS and plain HTTP apart by
// the first byte. Plain HTTP is for this machine alone.
type splitter struct {
	log       *slog.Logger
	tls, http *queue
}

func newSplitter(addr net.Addr, log *slog.Logger) *splitter {
	return &splitter{log: log, tls: newQueue(addr), http: newQueue(addr)}
}

// run accepts until the listener is closed, which happens when ctx ends.
func (s *splitter) run(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of file descriptors, as a rule: it passes.
			s.log.Error("accept", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		open.Go(func() { s.sort(ctx, conn) })
	}
}

const tlsHandshake = 0x16 // the first byte of every TLS connection

const needsTLS = "Plain HTTP is answered on this machine alone. Use https://.\n"

func (s *splitter) sort(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
	conn.SetReadDeadline(time.Now().Add(sniffFor))
	r := bufio.NewReaderSize(conn, 512)
	first, err := r.Peek(1)
	if !stop() || err != nil {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{})
	sniffed := &sniffedConn{Conn: conn, r: r}
	switch {
	case first[0] == tlsHandshake:
		s.tls.put(sniffed)
	case loopback(conn.RemoteAddr()):
		s.http.put(sniffed)
	default:
		conn.SetWriteDeadline(time.Now().Add(sniffFor))
		fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(needsTLS), needsTLS)
		conn.Close()
	}
}

func loopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// sniffedConn gives back what was read ahead.
type sniffedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *sniffedConn) Read(b []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(b)
	}
	n, err := c.r.Read(b)
	if c.r.Buffered() == 0 {
		c.r = nil
	}
	return n, err
}

// ReadFrom lets the kernel copy a file to the connection by itself.
func (c *sniffedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends our half, so that the last bytes of a reply arrive.
func (c *sniffedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// queue is a net.Listener of connections that someone else has accepted.
type queue struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.done:
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { q.once.Do(func() { close(q.done) }); return nil }
func (q *queue) Addr() net.Addr { return q.addr }
