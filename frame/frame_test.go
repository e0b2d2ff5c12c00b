package frame

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: more than a buffer that is kept
	var stream []byte
	var err error
	for _, body := range [][]byte{nil, []byte("{}"), big, []byte("after")} {
		q := Request{Timeout: 1500 * time.Millisecond, Method: "POST", Target: "/score?a=b", Headers: []byte("X-A: 1\r\nX-A: 2\r\n"), Body: body}
		if stream, err = AppendRequest(stream, q); err != nil {
			t.Fatal(err)
		}
		if stream, err = AppendReply(stream, KindReply, Reply{Status: 201, Headers: q.Headers, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	stream = Append(stream, KindEnd, nil)
	r := NewReader(bytes.NewReader(stream), 0)
	for _, body := range [][]byte{nil, []byte("{}"), big, []byte("after")} {
		k, p, err := r.Next()
		if k != KindRequest || err != nil {
			t.Fatalf("%c, %v", k, err)
		}
		q, err := ParseRequest(p)
		if err != nil || q.Timeout != 1500*time.Millisecond || q.Method != "POST" || q.Target != "/score?a=b" || string(q.Headers) != "X-A: 1\r\nX-A: 2\r\n" || !bytes.Equal(q.Body, body) {
			t.Fatalf("a request came back as %v %s %s %q and %d bytes: %v", q.Timeout, q.Method, q.Target, q.Headers, len(q.Body), err)
		}
		k, p, err = r.Next()
		if k != KindReply || err != nil {
			t.Fatalf("%c, %v", k, err)
		}
		a, err := ParseReply(p)
		if err != nil || a.Status != 201 || string(a.Headers) != "X-A: 1\r\nX-A: 2\r\n" || !bytes.Equal(a.Body, body) {
			t.Fatalf("a reply came back as %d %q and %d bytes: %v", a.Status, a.Headers, len(a.Body), err)
		}
	}
	if k, p, err := r.Next(); k != KindEnd || len(p) != 0 || err != nil {
		t.Fatalf("%c %q %v", k, p, err)
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Fatalf("at the end: %v", err)
	}
}

func TestAFrameThatIsTooLongIsRefusedBeforeItIsRead(t *testing.T) {
	r := NewReader(bytes.NewReader(Append(nil, KindData, make([]byte, 100))), 50)
	if _, _, err := r.Next(); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
	if _, _, err := NewReader(bytes.NewReader([]byte{0, 0, 0, 0, 'd'}), 0).Next(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a frame of no bytes: %v", err)
	}
	// One that promises a gigabyte and holds nothing costs no gigabyte.
	if _, _, err := NewReader(bytes.NewReader([]byte{0, 0, 0, 0x40, 'd', 1, 2}), 0).Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("a frame that ends early: %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	q, _ := AppendRequest(nil, Request{Method: "GET", Target: "/", Headers: []byte("A: b\r\n"), Body: []byte("x")})
	a, _ := AppendReply(nil, KindBegin, Reply{Status: 200, Body: []byte("y")})
	f.Add(append(q, a...))
	f.Add([]byte{5, 0, 0, 0, 'q', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream), 1<<20)
		for {
			k, p, err := r.Next()
			if err != nil {
				return
			}
			switch k {
			case KindRequest:
				if q, err := ParseRequest(p); err == nil {
					again, err := AppendRequest(nil, q)
					if err != nil || !bytes.Equal(again[5:], p) {
						t.Fatalf("%q is written back as %q: %v", p, again[5:], err)
					}
				}
			case KindReply, KindBegin:
				if a, err := ParseReply(p); err == nil {
					again, err := AppendReply(nil, k, a)
					if err != nil || !bytes.Equal(again[5:], p) {
						t.Fatalf("%q is written back as %q: %v", p, again[5:], err)
					}
				}
			}
		}
	})
}
