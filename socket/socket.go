// Package socket makes small requests and replies cheap for a process that does
// little else than pass them on: its connections are read and written without a
// word to the scheduler, and it may look for an answer instead of sleeping until
// it comes. On other systems than Linux connections stay as they are.
package socket

import (
	"net"
	"sync/atomic"
	"time"
)

// Look says when an answer is worth looking for: while a single request is
// under way, the processor has nothing better to do.
type Look struct {
	active atomic.Int64
	took   atomic.Int64 // nanoseconds
}

// Begin counts a request, until End.
func (l *Look) Begin() { l.active.Add(1) }

// End is the other side of Begin.
func (l *Look) End() { l.active.Add(-1) }

// Took is the processor time spent on looking so far.
func (l *Look) Took() time.Duration { return time.Duration(l.took.Load()) }

func (l *Look) alone() bool { return l.active.Load() == 1 }

// Listen returns the listener with connections of this package.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

// Accept waits for a connection.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return New(c, nil), nil
}
