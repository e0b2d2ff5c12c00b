package sqldb

import (
	"hash/maphash"
	"sync"

	"lapis/resource"
)

// shelf keeps resources that were read lately at hand: almost every request
// reads its workspace, and what lies between. It never holds what a commit that
// was acknowledged has changed.
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
}

func newShelf() *shelf {
	s := &shelf{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].items = map[string]resource.Resource{}
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
	if h.turn != turn {
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

// drop takes away what a commit has changed.
func (s *shelf) drop(key string) {
	h := s.shard(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn++
	delete(h.items, key)
}

// dropAll takes everything away.
func (s *shelf) dropAll() {
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		h.turn++
		clear(h.items)
		h.mu.Unlock()
	}
}

// changed takes away what the batch has changed.
func (s *shelf) changed(b resource.Batch) {
	for _, r := range b.Removals {
		if r.Deep {
			s.dropAll()
			return
		}
		s.drop(r.ID.Key())
	}
	for _, w := range b.Puts {
		s.drop(w.Resource.ID.Key())
	}
	for _, w := range b.Statuses {
		s.drop(w.ID.Key())
	}
}
