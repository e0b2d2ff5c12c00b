package secret

import (
	"bytes"
	"errors"
	"testing"
)

func newSealer(t testing.TB) *Sealer {
	s, err := NewSealer(NewKey())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASealedValueOpensUnderItsResourceAndNameAlone(t *testing.T) {
	s := newSealer(t)
	value := []byte("the account's key")
	sealed := s.Seal("/subscriptions/S/x", "key", value)
	if bytes.Contains(sealed, value) {
		t.Fatal("the value can be read")
	}
	for _, c := range []struct {
		name, id, field string
		sealer          *Sealer
		change          func([]byte) []byte
		opens           bool
	}{
		{"as it was sealed", "/subscriptions/S/x", "key", s, nil, true},
		{"in another case of letters", "/SUBSCRIPTIONS/s/X", "key", s, nil, true},
		{"under another resource", "/subscriptions/S/y", "key", s, nil, false},
		{"under another name", "/subscriptions/S/x", "key2", s, nil, false},
		{"where the border between id and name moves", "/subscriptions/S/", "xkey", s, nil, false},
		{"with another key", "/subscriptions/S/x", "key", newSealer(t), nil, false},
		{"altered", "/subscriptions/S/x", "key", s, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, false},
		{"cut", "/subscriptions/S/x", "key", s, func(b []byte) []byte { return b[:5] }, false},
		{"empty", "/subscriptions/S/x", "key", s, func([]byte) []byte { return nil }, false},
		{"of another version", "/subscriptions/S/x", "key", s, func(b []byte) []byte { b[0] = 9; return b }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(sealed)
			if c.change != nil {
				b = c.change(b)
			}
			got, err := c.sealer.Open(c.id, c.field, b)
			if c.opens && (err != nil || !bytes.Equal(got, value)) {
				t.Errorf("got %q, %v", got, err)
			}
			if !c.opens && !errors.Is(err, ErrSealed) {
				t.Errorf("got %q, %v; want ErrSealed", got, err)
			}
		})
	}
}

func TestTheSameValueIsNeverSealedAlike(t *testing.T) {
	s := newSealer(t)
	if bytes.Equal(s.Seal("/a", "k", []byte("v")), s.Seal("/a", "k", []byte("v"))) {
		t.Error("two seals of one value are equal")
	}
}

func TestAKeyOfAnotherSizeIsRefused(t *testing.T) {
	if _, err := NewSealer(make([]byte, 16)); err == nil {
		t.Error("a key of 16 bytes was taken")
	}
}

func FuzzOpen(f *testing.F) {
	s := newSealer(f)
	f.Add("/a", "n", s.Seal("/a", "n", []byte("v")))
	f.Add("/a", "n", []byte{1})
	f.Fuzz(func(t *testing.T, id, name string, sealed []byte) {
		v, err := s.Open(id, name, sealed)
		if err == nil && !bytes.Equal(v, []byte("v")) {
			t.Errorf("opened what was never sealed: %q", v)
		}
	})
}
