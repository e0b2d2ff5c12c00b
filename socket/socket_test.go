package socket

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a connection, ours as a socket.
func pair(t *testing.T, network string, look *Look) (ours, theirs net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	ours = New(ours, look)
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
	})
	return ours, theirs
}

// each runs the test for the networks in use, with and without a request that
// is worth looking for.
func each(t *testing.T, test func(t *testing.T, network string, look *Look)) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) { test(t, network, nil) })
		t.Run(network+", alone", func(t *testing.T) {
			look := new(Look)
			look.Begin()
			defer look.End()
			test(t, network, look)
		})
	}
}

func TestBytesArriveWholeAndInOrder(t *testing.T) {
	each(t, func(t *testing.T, network string, look *Look) {
		ours, theirs := pair(t, network, look)
		sent := make([]byte, 5<<20)
		_, _ = rand.Read(sent)
		go func() { _, _ = io.Copy(theirs, io.LimitReader(theirs, int64(len(sent)))) }() // sends back
		wrote := make(chan error, 1)
		go func() {
			// Small pieces, and some that the buffers of the system don't hold.
			var err error
			for at, n := 0, 1; at < len(sent) && err == nil; at, n = at+n, n*3%(200<<10)+1 {
				_, err = ours.Write(sent[at:min(at+n, len(sent))])
			}
			wrote <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(ours, got); err != nil {
			t.Fatal(err)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, sent) {
			t.Error("other bytes came back than were sent")
		}
	})
}

func TestAReadEndsAtItsDeadlineAndCanGoOn(t *testing.T) {
	each(t, func(t *testing.T, network string, look *Look) {
		ours, theirs := pair(t, network, look)
		b := make([]byte, 8)
		for range 2 { // the second does not look any more
			if err := ours.SetReadDeadline(time.Now().Add(5 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			_, err := ours.Read(b)
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("at the deadline: %v", err)
			}
		}
		_ = ours.SetReadDeadline(time.Time{})
		done := make(chan error, 1)
		go func() {
			_, err := ours.Read(b)
			done <- err
		}()
		time.Sleep(time.Millisecond)
		if _, err := theirs.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || b[0] != 'x' {
			t.Errorf("%q, %v", b[0], err)
		}
	})
}

func TestAReadThatWaitsIsEndedByClose(t *testing.T) {
	each(t, func(t *testing.T, network string, look *Look) {
		ours, _ := pair(t, network, look)
		done := make(chan error, 1)
		go func() {
			_, err := ours.Read(make([]byte, 1))
			done <- err
		}()
		time.Sleep(time.Millisecond)
		ours.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v", err)
		}
		if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write on what is closed: %v", err)
		}
	})
}

func TestTheEndAndAResetAreTold(t *testing.T) {
	each(t, func(t *testing.T, network string, look *Look) {
		ours, theirs := pair(t, network, look)
		if _, err := theirs.Write([]byte("last")); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		if b, err := io.ReadAll(ours); err != nil || string(b) != "last" {
			t.Errorf("%q, %v", b, err)
		}
		// The other side is gone: the first write may still be taken.
		var err error
		for n := 0; err == nil && n < 100; n++ {
			_, err = ours.Write([]byte("x"))
			time.Sleep(time.Millisecond)
		}
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a write that nobody takes: %v", err)
		}
	})
}

func TestAWriteThatNobodyTakesEndsAtItsDeadline(t *testing.T) {
	each(t, func(t *testing.T, network string, look *Look) {
		ours, _ := pair(t, network, look)
		_ = ours.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		b := make([]byte, 32<<10)
		var err error
		for err == nil {
			_, err = ours.Write(b)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}
