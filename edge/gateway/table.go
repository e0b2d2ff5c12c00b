package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"lapis/ml/serving"
)

// table is what requests are routed by. It is replaced whole and never changed.
type table struct {
	routes serving.Routes
	trust  *trust
	named  map[string]*route
	keyed  map[keyHash]*route // whose key it is, for calls that name no endpoint
}

type keyHash [sha256.Size]byte

// route is one endpoint in a table.
type route struct {
	serving.Endpoint
	keys        []keyHash
	deployments map[string]*deployment
	shares      []share // of the live traffic, by name
	mirror      *deployment
	mirrored    int // percent
	state       *endpoint
}

// share ends at the sum of all percentages up to its own.
type share struct {
	upTo       int
	deployment *deployment
}

// endpoint is what stays of an endpoint from one table to the next.
type endpoint struct {
	name        string
	deployments map[string]*deployment
	limits      limiter

	connections, connected atomic.Int64
	bytesIn, bytesOut      atomic.Int64
	unrouted               counts
}

// install makes a table of the routes and goes by it. The caller holds applying.
func (g *Gateway) install(r serving.Routes) {
	t := &table{routes: r, trust: newTrust(r.Trust), named: map[string]*route{}, keyed: map[keyHash]*route{}}
	endpoints := map[string]*endpoint{}
	var left []*instance // they are no longer in the routes
	for _, e := range r.Endpoints {
		state := g.endpoints[e.Name]
		if state == nil {
			state = &endpoint{name: e.Name}
		}
		endpoints[e.Name] = state
		rt := &route{Endpoint: e, deployments: map[string]*deployment{}, state: state}
		for _, k := range e.Keys {
			var h keyHash
			if n, err := hex.Decode(h[:], []byte(k)); err == nil && n == len(h) {
				rt.keys = append(rt.keys, h)
				t.keyed[h] = rt
			}
		}
		for _, d := range e.Deployments {
			known := state.deployments[d.Name]
			if known == nil {
				known = newDeployment(g, e.Name, d.Name)
			}
			left = append(left, known.update(d)...)
			rt.deployments[strings.ToLower(d.Name)] = known
		}
		sum := 0
		for _, name := range slices.Sorted(maps.Keys(e.Traffic)) {
			if d := rt.deployments[strings.ToLower(name)]; d != nil && e.Traffic[name] > 0 {
				sum += e.Traffic[name]
				rt.shares = append(rt.shares, share{sum, d})
			}
		}
		for name, percent := range e.Mirror {
			if d := rt.deployments[strings.ToLower(name)]; d != nil && percent > 0 {
				rt.mirror, rt.mirrored = d, percent
			}
		}
		t.named[e.Name] = rt
	}
	for name, e := range g.endpoints {
		now := t.named[name]
		for dname, d := range e.deployments {
			if now == nil || now.deployments[strings.ToLower(dname)] != d {
				left = append(left, d.close()...)
			}
		}
	}
	for name, e := range endpoints {
		e.deployments = map[string]*deployment{}
		for _, d := range t.named[name].deployments {
			e.deployments[d.name] = d
		}
	}
	g.endpoints = endpoints
	g.table.Store(t)
	g.retired = slices.DeleteFunc(append(g.retired, left...), func(i *instance) bool { return !i.working() })
	g.drained.fire()
}

// find returns the endpoint that a request is for, and the target without what
// names the endpoint: by the first label of the host, else by the path
// /endpoints/{name}. It returns nil if the request names none, with what it
// called it.
func (t *table) find(r *http.Request) (rt *route, target, name string) {
	target = r.RequestURI
	if !strings.HasPrefix(target, "/") { // "*", or an absolute one
		target = r.URL.RequestURI()
	}
	if label, ok := hostLabel(r.Host); ok {
		if rt := t.named[strings.ToLower(label)]; rt != nil {
			return rt, target, label
		}
	}
	rest, ok := strings.CutPrefix(target, "/endpoints/")
	if !ok {
		return nil, target, ""
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	name, target = rest[:end], rest[end:]
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	if rt := t.named[name]; rt != nil {
		return rt, target, name
	}
	return t.named[strings.ToLower(name)], target, name
}

// hostLabel is the first label of a host name that has several.
func hostLabel(host string) (string, bool) {
	dot := strings.IndexByte(host, '.')
	if dot <= 0 || host[0] == '[' {
		return "", false
	}
	if host[0] >= '0' && host[0] <= '9' {
		if bare, _, ok := strings.Cut(host, ":"); ok {
			host = bare
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return "", false
		}
	}
	return host[:dot], true
}

// choose picks the deployment of a request by the shares: at random, or by the
// value of the sticky header. It returns nil if none has a share.
func (rt *route) choose(h http.Header) *deployment {
	if len(rt.shares) == 0 {
		return nil
	}
	sum := rt.shares[len(rt.shares)-1].upTo
	if len(rt.shares) == 1 {
		return rt.shares[0].deployment
	}
	at := -1
	if rt.Sticky != "" {
		if value := h.Get(rt.Sticky); value != "" {
			f := fnv.New64a()
			f.Write([]byte(value))
			at = int(mix(f.Sum64()) % uint64(sum))
		}
	}
	if at < 0 {
		at = rand.IntN(sum)
	}
	for _, s := range rt.shares {
		if at < s.upTo {
			return s.deployment
		}
	}
	return nil
}

// mix spreads a hash of short texts over all bits.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

// knows tells whether the key is one of the endpoint's, in constant time.
func (rt *route) knows(h keyHash) bool {
	found := 0
	for i := range rt.keys {
		found |= subtle.ConstantTimeCompare(rt.keys[i][:], h[:])
	}
	return found == 1
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
