// Package secret keeps values that must not be read from a stolen database:
// datastore keys, endpoint keys. A value is sealed under the id of the resource
// it belongs to and its name, so that it opens nowhere else.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the size of a sealing key in bytes.
const KeySize = 32

// version is the first byte of a sealed value: AES-256-GCM, a nonce of 12
// bytes, then the ciphertext.
const version = 1

// ErrSealed says that a sealed value does not open: another key sealed it, it
// belongs to another resource or name, or it was changed.
var ErrSealed = errors.New("the sealed value does not open with this key under this name")

// Sealer seals and opens values. It is pure and safe for concurrent use.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns a Sealer for a key of KeySize random bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the sealing key has %d bytes, not %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead: aead}, nil
}

// NewKey makes a random sealing key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	rand.Read(key)
	return key
}

// Seal encrypts the value for the resource id (in any case of letters) and name.
func (s *Sealer) Seal(id, name string, value []byte) []byte {
	return s.aead.Seal([]byte{version}, nil, value, bound(id, name))
}

// Open decrypts what Seal made for the same id and name, or returns ErrSealed.
func (s *Sealer) Open(id, name string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != version {
		return nil, ErrSealed
	}
	value, err := s.aead.Open(nil, nil, sealed[1:], bound(id, name))
	if err != nil {
		return nil, ErrSealed
	}
	return value, nil
}

// bound is what a value is tied to. A NUL stands in neither part.
func bound(id, name string) []byte {
	return []byte(strings.ToLower(id) + "\x00" + name)
}
