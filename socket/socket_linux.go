package socket

import (
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// conn is a connection that is read and written without a word to the
// scheduler. Go takes the processor from a goroutine whose system call lasts for
// 20 µs, and wakes another thread for it; a send on a local connection takes
// about that long, does not block, and the threads cost more than the call does.
type conn struct {
	net.Conn
	raw syscall.RawConn

	look *Look
	slow bool // the last wait was longer than looking is worth
}

// lookFor is how long a read looks for bytes before it sleeps.
const lookFor = 100 * time.Microsecond

// atOnce bounds what is written by one call, in bytes. A longer one takes its time,
// which others should have.
const atOnce = 64 << 10

// New returns the connection as a socket, if it is one. Where look is given
// and there is no other work, a read looks for its bytes again and again for a
// moment before it sleeps: putting the process to sleep and waking it takes
// longer than the answer of a native model.
func New(c net.Conn, look *Look) net.Conn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return c
	}
	if runtime.NumCPU() == 1 { // whoever answers needs the processor
		look = nil
	}
	return &conn{Conn: c, raw: raw, look: look}
}

// SyscallConn is that of the connection.
func (s *conn) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

// Read reads as the connection does.
func (s *conn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return s.Conn.Read(b)
	}
	looks := s.look != nil && s.look.alone()
	var begun time.Time
	if looks {
		begun = time.Now()
		looks = !s.slow
	}
	var n uintptr
	var no syscall.Errno
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, no = syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
			switch {
			case no == syscall.EINTR:
			case no != syscall.EAGAIN:
				return true
			case !looks || time.Since(begun) > lookFor || !s.look.alone():
				if looks {
					s.look.took.Add(int64(time.Since(begun)))
					looks = false
				}
				return false
			}
		}
	})
	if !begun.IsZero() {
		took := time.Since(begun)
		s.slow = took > lookFor
		if looks {
			s.look.took.Add(int64(took))
		}
	}
	switch {
	case err != nil:
		return 0, err
	case no != 0:
		return 0, s.failed("read", no)
	case n == 0:
		return 0, io.EOF
	}
	return int(n), nil
}

// Write writes as the connection does.
func (s *conn) Write(b []byte) (int, error) {
	if len(b) == 0 || len(b) > atOnce {
		return s.Conn.Write(b)
	}
	var done uintptr
	var no syscall.Errno
	err := s.raw.Write(func(fd uintptr) bool {
		for done < uintptr(len(b)) {
			var n uintptr
			n, _, no = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[done])), uintptr(len(b))-done)
			switch no {
			case 0:
				done += n
			case syscall.EINTR:
			case syscall.EAGAIN:
				return false
			default:
				return true
			}
		}
		return true
	})
	if err == nil && no != 0 {
		err = s.failed("write", no)
	}
	return int(done), err
}

func (s *conn) failed(op string, no syscall.Errno) error {
	return &net.OpError{Op: op, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, no)}
}
