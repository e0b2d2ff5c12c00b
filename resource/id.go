// Package resource is the kernel: what is true of any resource, whatever it
// stands for. It has never heard of a job.
package resource

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"lapis/fault"
)

// The types of the tree that all ids hang on.
const (
	SubscriptionType = "Microsoft.Resources/subscriptions"
	GroupType        = "Microsoft.Resources/subscriptions/resourceGroups"
)

// Limits of ids, in characters.
const (
	maxSegment = 260
	maxID      = 2048
)

// ID names a resource in Azure Resource Manager's way. It keeps the case it
// was written in, but for the words of the tree itself, and is compared without
// regard to case: use Key, not ==.
type ID struct {
	text string // "/subscriptions/…", as it was written
	key  string // text in lower case
	kind string // type, "Microsoft.MachineLearningServices/workspaces/jobs"
}

// String is the id as it was written.
func (id ID) String() string { return id.text }

// Key is the id in lower case: equal for ids that name the same resource.
func (id ID) Key() string { return id.key }

// Type is the resource type in the case it was written in.
func (id ID) Type() string { return id.kind }

// Zero tells whether the id names nothing.
func (id ID) Zero() bool { return id.text == "" }

// Is tells whether the id's type is t, without regard to case.
func (id ID) Is(t string) bool { return strings.EqualFold(id.kind, t) }

// Same tells whether both ids name the same resource.
func (id ID) Same(other ID) bool { return id.key == other.key }

// Name is the last segment.
func (id ID) Name() string { return id.text[strings.LastIndexByte(id.text, '/')+1:] }

// Segment returns the name that follows the type segment of that name, such as
// Segment("workspaces"); "" if there is none.
func (id ID) Segment(kind string) string {
	parts := strings.Split(id.text, "/")
	for i := 1; i+1 < len(parts); i += 2 {
		// A provider's namespace takes the place of a name.
		if strings.EqualFold(parts[i], kind) {
			return parts[i+1]
		}
	}
	return ""
}

// Subscription is the subscription's id, "" outside of one.
func (id ID) Subscription() string { return id.Segment("subscriptions") }

// Group is the resource group's name, "" outside of one.
func (id ID) Group() string { return id.Segment("resourceGroups") }

// Parent is what the resource lies in: the resource above it, its group or its
// subscription. The zero ID lies above a subscription.
func (id ID) Parent() ID {
	parts := strings.Split(id.text, "/")
	n := len(parts) - 2
	if n >= 3 && strings.EqualFold(parts[n-2], "providers") {
		n -= 2
	}
	if n < 2 {
		return ID{}
	}
	p, err := ParseID(strings.Join(parts[:n], "/"))
	if err != nil {
		return ID{}
	}
	return p
}

// Ancestor is the nearest id of type t on the way up, the id itself included;
// the zero ID if there is none.
func (id ID) Ancestor(t string) ID {
	for !id.Zero() && !id.Is(t) {
		id = id.Parent()
	}
	return id
}

// Child names a resource below this one: Child("jobs", "j1"). For the first
// resource of a provider, kind is "Microsoft.X/things".
func (id ID) Child(kind, name string) ID {
	if strings.ContainsAny(name, "/%") { // it would be read as more than a name
		return ID{}
	}
	sep := "/"
	if strings.Contains(kind, ".") && strings.Contains(kind, "/") {
		sep = "/providers/"
	}
	child, err := ParseID(id.text + sep + kind + "/" + name)
	if err != nil {
		return ID{}
	}
	return child
}

// MarshalText writes the id as it was written.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText reads an id.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := ParseID(string(b))
	if err == nil {
		*id = parsed
	}
	return err
}

// ParseID reads a resource id. What it refuses is a fault that names the part.
func ParseID(text string) (ID, error) {
	a, err := ParseAddress(text)
	if err != nil {
		return ID{}, err
	}
	if a.Tail != "" || a.Scope.Zero() {
		return ID{}, fault.Invalid("%q is not a resource id: it ends in a type without a name", fault.Clip(text)).With("InvalidResourceId")
	}
	return a.Scope, nil
}

// Address is what a path of the API speaks of: a resource (Tail is ""), or a
// collection or action below a resource (Tail names it).
type Address struct {
	Scope ID
	Tail  string // "jobs", "cancel", or "Microsoft.X/things" right below a provider
}

// Type is the type of a collection's members.
func (a Address) Type() string {
	if strings.Contains(a.Tail, "/") || a.Tail == "" {
		return a.Tail
	}
	if a.Scope.Zero() {
		return "Microsoft.Resources/" + a.Tail
	}
	return a.Scope.Type() + "/" + a.Tail
}

// ParseAddress reads the path of a request. Segments may be percent-encoded.
func ParseAddress(path string) (Address, error) {
	if len(path) > maxID {
		return Address{}, fault.Invalid("the resource id is %d characters long; at most %d are allowed", len(path), maxID).With("InvalidResourceId")
	}
	path = "/" + strings.Trim(path, "/")
	raw := strings.Split(path, "/")[1:]
	parts := make([]string, 0, len(raw))
	for _, p := range raw {
		if strings.IndexByte(p, '%') >= 0 {
			decoded, err := url.PathUnescape(p)
			if err != nil {
				return Address{}, fault.Invalid("the resource id has a broken percent-encoding in %q", fault.Clip(p)).With("InvalidResourceId")
			}
			p = decoded
		}
		if err := checkSegment(p); err != nil {
			return Address{}, err
		}
		parts = append(parts, p)
	}

	kind, above := "", "" // type so far, and the type above the provider
	provider := false     // the next segment is a type right below a provider
	i := 0
	for i+1 < len(parts) {
		word, name := parts[i], parts[i+1]
		switch {
		case strings.EqualFold(word, "providers") && !provider:
			parts[i] = "providers"
			above, kind, provider = kind, name, true
			i += 2
			continue
		case i == 0 && strings.EqualFold(word, "subscriptions"):
			parts[i], kind = "subscriptions", SubscriptionType
		case i == 2 && strings.EqualFold(word, "resourceGroups") && strings.EqualFold(parts[0], "subscriptions"):
			// Clients write it both ways and read it this way alone.
			parts[i], kind = "resourceGroups", GroupType
		case i == 0:
			return Address{}, fault.Invalid("%q is not a resource id: it starts with neither /subscriptions nor /providers", fault.Clip(path)).With("InvalidResourceId")
		default:
			kind += "/" + word
		}
		provider = false
		i += 2
	}
	scope := ID{}
	tail := ""
	end := i
	if provider { // ".../providers/NS" and perhaps one type
		if i == len(parts) { // the provider itself, as one looks it up
			text := "/" + strings.Join(parts, "/")
			return Address{Scope: ID{text: text, key: strings.ToLower(text), kind: above + "/providers"}}, nil
		}
		tail = kind + "/" + parts[i]
		end = i - 2
	} else if i < len(parts) {
		tail = parts[i]
	}
	if end > 0 {
		text := "/" + strings.Join(parts[:end], "/")
		if provider {
			if end == 0 {
				return Address{Tail: tail}, nil
			}
			scope, err := ParseID(text)
			if err != nil {
				return Address{}, err
			}
			return Address{Scope: scope, Tail: tail}, nil
		}
		scope = ID{text: text, key: strings.ToLower(text), kind: kind}
	}
	return Address{Scope: scope, Tail: tail}, nil
}

// checkSegment refuses what can be no part of an id.
func checkSegment(s string) error {
	switch {
	case s == "":
		return fault.Invalid("the resource id has an empty part").With("InvalidResourceId")
	case s == "." || s == "..":
		return fault.Invalid("the resource id has the part %q, which names nothing", s).With("InvalidResourceId")
	case utf8.RuneCountInString(s) > maxSegment:
		return fault.Invalid("the part %q of the resource id is longer than %d characters", fault.Clip(s), maxSegment).With("InvalidResourceName")
	case !utf8.ValidString(s):
		return fault.Invalid("the resource id is not valid UTF-8").With("InvalidResourceId")
	}
	for _, r := range s {
		// '%' would be decoded a second time when the id is read again.
		if r < 0x20 || r == 0x7f || r == '/' || r == '\\' || r == '?' || r == '#' || r == '%' {
			return fault.Invalid("the part %q of the resource id has the character %q, which is not allowed", fault.Clip(s), r).With("InvalidResourceId")
		}
	}
	return nil
}
