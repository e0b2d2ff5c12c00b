package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"strings"
	"time"

	"lapis/fault"
)

// Grant is what a shared access signature allows.
type Grant struct {
	Account   string // storage account
	Container string

	// Prefix is the key or folder that the grant is for, without a slash at its
	// end; "" is the whole container.
	Prefix string

	Blob        bool      // Prefix is exactly one blob
	Permissions string    // of "racwdl": read, add, create, write, delete, list
	Starts      time.Time // zero: at once
	Expires     time.Time // whole seconds
	Principal   string    // object id of who it was made for, "" if nobody
}

// May tells whether the grant has the permission, one letter of "racwdl".
func (g Grant) May(permission byte) bool {
	return strings.IndexByte(g.Permissions, permission) >= 0
}

// Covers tells whether the grant is for the blob at key.
func (g Grant) Covers(key string) bool {
	switch {
	case g.Blob:
		return key == g.Prefix
	case g.Prefix == "":
		return true
	}
	return key == g.Prefix || strings.HasPrefix(key, g.Prefix+"/")
}

// SAS signs and checks shared access signatures for the Blob dialect. It is
// pure and safe for concurrent use.
type SAS struct{ key []byte }

// NewSAS takes the secret that signs, at least 16 bytes.
func NewSAS(key []byte) *SAS {
	if len(key) < 16 {
		panic("identity: the key of shared access signatures is shorter than 16 bytes")
	}
	return &SAS{key: append([]byte(nil), key...)}
}

const (
	sasVersion     = "2021-12-02"
	sasPermissions = "racwdl" // in the order that clients expect
	sasTime        = "2006-01-02T15:04:05Z"
	sasSkew        = 5 * time.Minute
)

// Sign returns the query string that carries the grant. All its keys are ones
// that Azure's clients know as a SAS's; what they have no key for (account,
// folder, principal) is inside sig, beside the HMAC that covers everything.
func (s *SAS) Sign(g Grant) string {
	var permissions []byte
	for i := range len(sasPermissions) {
		if g.May(sasPermissions[i]) {
			permissions = append(permissions, sasPermissions[i])
		}
	}
	f := sasFields{sp: string(permissions), se: g.Expires.UTC().Format(sasTime), sr: "c"}
	if g.Blob {
		f.sr = "b"
	}
	if !g.Starts.IsZero() {
		f.st = g.Starts.UTC().Format(sasTime)
	}
	prefix := g.Prefix
	if !g.Blob {
		prefix = strings.TrimSuffix(prefix, "/")
	}
	f.inside = pack(g.Account, g.Container, prefix, g.Principal)
	var q strings.Builder
	q.WriteString("sv=" + sasVersion)
	if f.st != "" {
		q.WriteString("&st=" + url.QueryEscape(f.st))
	}
	q.WriteString("&se=" + url.QueryEscape(f.se) + "&sr=" + f.sr + "&sp=" + f.sp)
	q.WriteString("&sig=" + base64.RawURLEncoding.EncodeToString(append(s.mac(f), f.inside...)))
	return q.String()
}

// sasFields are what the HMAC covers.
type sasFields struct {
	st, se, sr, sp string
	inside         []byte
}

func (s *SAS) mac(f sasFields) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write(pack("lapis sas 1", sasVersion, f.st, f.se, f.sr, f.sp, string(f.inside)))
	return h.Sum(nil)
}

// Verify returns the grant that a query carries. Keys that belong to no SAS are
// passed over. Errors are faults with code AuthenticationFailed.
func (s *SAS) Verify(q url.Values, now time.Time) (Grant, error) {
	for _, k := range [...]string{"sv", "st", "se", "sr", "sp", "sig"} {
		switch n := len(q[k]); {
		case n > 1:
			return Grant{}, sasFault("it has %q twice", k)
		case n == 0 && k != "st":
			return Grant{}, sasFault("%q is missing; use the whole address as you were given it", k)
		}
	}
	sig, err := base64.RawURLEncoding.Strict().DecodeString(q.Get("sig"))
	if err != nil || len(sig) < sha256.Size {
		return Grant{}, sasFault("its signature is not one of this server's")
	}
	f := sasFields{st: q.Get("st"), se: q.Get("se"), sr: q.Get("sr"), sp: q.Get("sp"), inside: sig[sha256.Size:]}
	if q.Get("sv") != sasVersion || !hmac.Equal(sig[:sha256.Size], s.mac(f)) {
		return Grant{}, sasFault("its signature does not match; it was changed, or another server made it")
	}
	inside, ok := unpack(f.inside, 4)
	if !ok {
		return Grant{}, sasFault("its signature does not match; it was changed, or another server made it")
	}
	g := Grant{Account: inside[0], Container: inside[1], Prefix: inside[2], Principal: inside[3], Blob: f.sr == "b", Permissions: f.sp}
	if g.Expires, err = time.Parse(sasTime, f.se); err != nil {
		return Grant{}, sasFault("its expiry %q is not a time", f.se)
	}
	if !now.Before(g.Expires) {
		return Grant{}, sasFault("it expired at %s; ask for a new one", f.se)
	}
	if f.st != "" {
		if g.Starts, err = time.Parse(sasTime, f.st); err != nil {
			return Grant{}, sasFault("its start %q is not a time", f.st)
		}
		if now.Before(g.Starts.Add(-sasSkew)) {
			return Grant{}, sasFault("it is not good before %s; check the clock of this machine and of the server", f.st)
		}
	}
	return g, nil
}

func sasFault(format string, args ...any) error {
	return fault.Denied("The shared access signature is refused: "+format+".", args...).With("AuthenticationFailed")
}

// pack writes strings so that different lists never look the same.
func pack(list ...string) []byte {
	var b []byte
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// unpack reads n strings and refuses what pack would not have written.
func unpack(b []byte, n int) ([]string, bool) {
	list := make([]string, 0, n)
	for range n {
		size, used := binary.Uvarint(b)
		if used <= 0 || size > uint64(len(b)-used) {
			return nil, false
		}
		list = append(list, string(b[used:used+int(size)]))
		b = b[used+int(size):]
	}
	return list, len(b) == 0
}
