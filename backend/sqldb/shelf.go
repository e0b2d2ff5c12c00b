package sqldb

import (
	"hash/maphash"
	"sync"

	"lapis/resource"
)

// shelf keeps resources that were read lately at hand: almost every request
// reads its workspace, and what lies between. It never gives what a commit has
// changed that others can see, be it acknowledged or not: who reads in one table
// that something was done finds it done in all.
type shelf struct {
	seed   maphash.Seed
	shards [16]shard
}

const (
	shardKept = 256     // resources in a shard
	shelfMost = 8 << 10 // bytes of a resource that is kept
)

type shard struct {
	mu    sync.Mutex
	turn  uint64 // counts what was taken away
	items map[string]resource.Resource
	held  map[string]int // being changed by so many commits
	all   int            // commits that may change any
}

func newShelf() *shelf {
	s := &shelf{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].items, s.shards[i].held = map[string]resource.Resource{}, map[string]int{}
	}
	return s
}

func (s *shelf) shard(key string) *shard {
	return &s.shards[maphash.String(s.seed, key)%uint64(len(s.shards))]
}

// get returns the resource if it is there, and a turn for put if it is not.
func (s *shelf) get(key string) (r resource.Resource, turn uint64, ok bool) {
	h := s.shard(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all > 0 || h.held[key] > 0 {
		return r, h.turn, false
	}
	r, ok = h.items[key]
	return r, h.turn, ok
}

// put keeps what was read after get gave the turn, unless a commit has come
// between: the reader may have seen what was before it.
func (s *shelf) put(key string, r resource.Resource, turn uint64) {
	if len(r.Properties)+len(r.Status) > shelfMost {
		return
	}
	h := s.shard(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turn != turn || h.all > 0 || h.held[key] > 0 {
		return
	}
	if len(h.items) >= shardKept {
		for old := range h.items { // any one
			delete(h.items, old)
			break
		}
	}
	h.items[key] = r
}

// hold is called before a commit can be seen: what it changes is neither given
// nor kept until release.
func (s *shelf) hold(b resource.Batch) {
	s.each(b, func(h *shard, key string) { h.held[key]++ }, func(h *shard) { h.all++ })
}

// release ends a hold, and takes away what was changed.
func (s *shelf) release(b resource.Batch) {
	s.each(b, func(h *shard, key string) {
		if h.held[key]--; h.held[key] == 0 {
			delete(h.held, key)
		}
		h.turn++
		delete(h.items, key)
	}, func(h *shard) {
		h.all--
		h.turn++
		clear(h.items)
	})
}

// each calls one for every resource that the batch names, or all for every shard
// if it removes what lies below one. The shard is locked.
func (s *shelf) each(b resource.Batch, one func(h *shard, key string), all func(h *shard)) {
	for _, r := range b.Removals {
		if r.Deep {
			for i := range s.shards {
				h := &s.shards[i]
				h.mu.Lock()
				all(h)
				h.mu.Unlock()
			}
			return
		}
	}
	locked := func(key string) {
		h := s.shard(key)
		h.mu.Lock()
		defer h.mu.Unlock()
		one(h, key)
	}
	for _, r := range b.Removals {
		locked(r.ID.Key())
	}
	for _, w := range b.Puts {
		locked(w.Resource.ID.Key())
	}
	for _, w := range b.Statuses {
		locked(w.ID.Key())
	}
}
