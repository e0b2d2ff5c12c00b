package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"

	"lapis/fault"
)

// A long token is a random word, not a JWT: it can be revoked, and what is
// stored of it cannot be used in its place.
const longTokenPrefix = "lapis_"

// LongToken is what is stored of a long token.
type LongToken struct {
	ID        string    `json:"id"` // hex SHA-256 of the token
	Name      string    `json:"name"`
	Principal Principal `json:"principal"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
}

// LongTokens finds stored tokens.
type LongTokens interface {
	// Find returns the token of that id, or fault.Missing if there is none or
	// it was revoked.
	Find(id string) (LongToken, error)
}

// NewLongToken makes a token: the word is for the caller, the rest to be stored.
func NewLongToken(p Principal, name string, now time.Time) (word string, stored LongToken) {
	b := make([]byte, 32)
	rand.Read(b) // never fails, says its documentation
	word = longTokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	return word, LongToken{ID: LongTokenID(word), Name: name, Principal: p, Created: now.UTC(), Expires: now.Add(LongTokenLife).UTC()}
}

// LongTokenID is the id under which a token is stored.
func LongTokenID(word string) string {
	sum := sha256.Sum256([]byte(word))
	return hex.EncodeToString(sum[:])
}

func (i *Issuer) verifyLong(word string) (Principal, error) {
	if i.long == nil {
		return Principal{}, fault.Unknown("This server hands out no long-lived tokens.")
	}
	t, err := i.long.Find(LongTokenID(word))
	switch {
	case fault.Is(err, fault.Missing):
		return Principal{}, fault.Unknown("The token is not known or was revoked. `eval \"$(lapis connect)\"` gives a new one.").From(err)
	case err != nil:
		return Principal{}, err
	case i.now().After(t.Expires):
		return Principal{}, expired("The token expired on %s. `eval \"$(lapis connect)\"` gives a new one.", t.Expires.Format(time.RFC3339))
	}
	return t.Principal, nil
}
