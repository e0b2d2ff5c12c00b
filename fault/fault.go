// Package fault holds the errors a user may read: what is wrong, with which
// thing, and what to do about it. Each edge turns a fault into its protocol's
// reply; any other error is logged and leaves as "internal error".
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says whose turn it is to act, in the terms every protocol shares.
type Kind int

// The kinds, with the HTTP status that the edges give them by default.
const (
	Internal           Kind = iota // 500: not the caller's doing
	BadRequest                     // 400: the request is wrong as it stands
	Unauthenticated                // 401: who is calling is not known
	Forbidden                      // 403: the caller may not do this
	Missing                        // 404: the thing is not there
	NotAllowed                     // 405: the thing does not know this verb
	Conflict                       // 409: the state of the thing forbids it
	PreconditionFailed             // 412: the caller's condition does not hold
	TooLarge                       // 413: over a limit that the message names
	UnsupportedMedia               // 415: the body's type or coding
	RangeUnsatisfiable             // 416: the range lies outside the thing
	Misdirected                    // 421: not a name of this server
	Locked                         // 423: held by someone else
	TooMany                        // 429: try later
	NotImplemented                 // 501: known, and not offered here
	Unavailable                    // 503: try again after a while
	StorageFull                    // 507: no room left on the device
)

// Error is an error that may be shown to the user.
type Error struct {
	Kind    Kind
	Code    string   // the protocol's word for it, such as "ResourceNotFound"
	Message string   // what is wrong, with which thing, and what to do
	Target  string   // the field or thing it is about, if there is one
	Details []*Error // more of the same, when several things are wrong
	Cause   error    // what lay under it; logged, never shown
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// With names the protocol's code for this error and returns it.
func (e *Error) With(code string) *Error { e.Code = code; return e }

// At names the field or thing that the error is about and returns it.
func (e *Error) At(target string) *Error { e.Target = target; return e }

// From keeps the cause for the log and returns the error.
func (e *Error) From(cause error) *Error { e.Cause = cause; return e }

func makeFault(k Kind, code, format string, args []any) *Error {
	return &Error{Kind: k, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid says that the request is wrong as it stands.
func Invalid(format string, args ...any) *Error {
	return makeFault(BadRequest, "InvalidRequest", format, args)
}

// NotFound says that the thing is not there.
func NotFound(format string, args ...any) *Error {
	return makeFault(Missing, "ResourceNotFound", format, args)
}

// Conflicts says that the state of the thing forbids the request.
func Conflicts(format string, args ...any) *Error {
	return makeFault(Conflict, "Conflict", format, args)
}

// Denied says that the caller may not do this.
func Denied(format string, args ...any) *Error {
	return makeFault(Forbidden, "AuthorizationFailed", format, args)
}

// Unknown says that the caller's identity could not be established.
func Unknown(format string, args ...any) *Error {
	return makeFault(Unauthenticated, "InvalidAuthenticationToken", format, args)
}

// Stale says that the caller's condition does not hold any more.
func Stale(format string, args ...any) *Error {
	return makeFault(PreconditionFailed, "PreconditionFailed", format, args)
}

// New makes a fault of any kind.
func New(k Kind, code, format string, args ...any) *Error {
	return makeFault(k, code, format, args)
}

// Find returns the fault in err's chain, or nil.
func Find(err error) *Error {
	var f *Error
	if errors.As(err, &f) {
		return f
	}
	return nil
}

// Is tells whether err is a fault of kind k.
func Is(err error, k Kind) bool {
	f := Find(err)
	return f != nil && f.Kind == k
}

// Clip shortens a text that came from outside, for a message that quotes it: at
// most 200 bytes stay, whole characters, and a sign that there was more.
func Clip(text string) string {
	const most = 200
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
