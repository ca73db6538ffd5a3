package badger

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

const headShards = 64

// cachedValueBytes is the size up to which a value is cached with its head.
const cachedValueBytes = 1 << 10

// held is what a node holds for a key. Nobody changes one, nor its slices, once it
// is in the cache.
type held struct {
	head     coord.Head // the zero Head: the node has never seen the key
	separate bool       // the value lies under its own key
	file     uint64     // that the value lies in, 0 without
	length   int        // of the value, in bytes
	value    []byte     // where it is known
	known    bool       // value is the whole value
}

// headCache holds what is committed for keys used lately: the head and, where it
// is small and was read or written, the value. So clock reads, applies and most
// reads of such keys need no look into the database. It never disagrees with
// it: a commit is staged in the cache first, head and value together, under its
// number, and shows from the very moment at which the number of commits reaches it.
type headCache struct {
	committed *atomic.Uint64 // of the store
	maxBytes  int            // per shard
	shards    [headShards]headShard
}

type headShard struct {
	mu      sync.Mutex
	entries map[ring.Token]*headEntry
	order   []*headEntry // the clock hand goes round it to find what to evict
	hand    int
	bytes   int
	// touched is the number of the last commit staged here. What was read
	// from an older snapshot may be outdated and is not taken in.
	touched uint64
	tenant  string // of the entry that was added last
}

type headEntry struct {
	token       ring.Token
	tenant, key string
	held        *held
	next        *held  // what a commit makes of it
	nextAt      uint64 // that commit's number, 0 without one
	at          int    // index in order, or evicted
	bytes       int    // that the shard counts for it
	used        bool
}

// evicted is where an entry is that is no longer in the cache.
const evicted = -1

// entryBytes is what an entry takes besides its strings and what it holds: itself,
// and its places in the map and in the order. heldBytes is what one of those
// takes besides its slices.
const (
	entryBytes = 256
	heldBytes  = 128
)

func newHeadCache(committed *atomic.Uint64, maxBytes int64) *headCache {
	c := &headCache{committed: committed, maxBytes: int(maxBytes / headShards)}
	c.purge()
	return c
}

// Tokens are hashes, of which the ring uses the top bits first.
func (c *headCache) shard(token ring.Token) *headShard { return &c.shards[uint64(token)%headShards] }

// get is what is committed for a key, nil where the cache does not know.
func (c *headCache) get(token ring.Token, tenant, key string) *held {
	_, h := c.lookup(token, tenant, key)
	return h
}

// lookup is get that also tells the entry, for stage.
func (c *headCache) lookup(token ring.Token, tenant, key string) (*headEntry, *held) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(token, tenant, key)
	if e == nil {
		return nil, nil
	}
	e.used = true
	return e, e.now(c.committed)
}

// fill takes in what was read from a snapshot of the commits up to at, unless
// something newer may have been committed since. Where the cache lacks only the
// value, it takes that: with nothing committed since, both tell of one version.
func (c *headCache) fill(token ring.Token, tenant, key []byte, h *held, at uint64) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.touched > at {
		return
	}
	e := s.entries[token]
	if e == nil || e.key != string(key) || e.tenant != string(tenant) {
		e = s.add(token, string(tenant), string(key))
		e.held = h
	} else if now := e.now(c.committed); h.known && !now.known {
		e.held = h
	} else {
		return
	}
	s.account(e, c.maxBytes)
}

// stage announces that commit number at replaces before with after. Where lookup
// has found the key's entry, e is it: to look once is cheaper.
func (c *headCache) stage(e *headEntry, token ring.Token, tenant, key string, before, after *held, at uint64) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = at
	if e == nil || e.at == evicted {
		e = s.find(token, tenant, key)
	}
	if e == nil {
		e = s.add(token, tenant, strings.Clone(key))
	}
	e.held, e.next, e.nextAt, e.used = before, after, at, true
	s.account(e, c.maxBytes)
}

// unstage forgets a key whose commit failed.
func (c *headCache) unstage(token ring.Token, tenant, key string) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(token, tenant, key); e != nil {
		s.remove(e)
	}
}

func (c *headCache) purge() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, e := range s.order {
			e.at = evicted
		}
		s.entries, s.order, s.hand, s.bytes, s.touched = make(map[ring.Token]*headEntry), nil, 0, 0, 0
		s.mu.Unlock()
	}
}

func (e *headEntry) now(committed *atomic.Uint64) *held {
	if e.nextAt != 0 && committed.Load() >= e.nextAt {
		e.held, e.next, e.nextAt = e.next, nil, 0
	}
	return e.held
}

// size estimates an entry's memory.
func (e *headEntry) size() int {
	size := entryBytes + len(e.tenant) + len(e.key) + e.held.size()
	if e.next != nil {
		size += e.next.size()
	}
	return size
}

func (h *held) size() int {
	const clockEntryBytes = 32
	return heldBytes + len(h.head.Clock)*clockEntryBytes + cap(h.value)
}

func (s *headShard) find(token ring.Token, tenant, key string) *headEntry {
	if e := s.entries[token]; e != nil && e.key == key && e.tenant == tenant {
		return e
	}
	return nil
}

// add makes an entry, in place of one with the same token if there is one. It
// keeps the key, and a copy of the tenant, which neighbours share: then comparing
// it does not miss the processor's caches. It must be accounted for next.
func (s *headShard) add(token ring.Token, tenant, key string) *headEntry {
	if e := s.entries[token]; e != nil {
		s.remove(e)
	}
	if s.tenant != tenant {
		s.tenant = strings.Clone(tenant)
	}
	e := &headEntry{token: token, tenant: s.tenant, key: key, at: len(s.order)}
	s.order = append(s.order, e)
	s.entries[token] = e
	return e
}

// account counts an entry by what it holds now, and evicts others to stay
// within maxBytes, the entry itself if it is too large alone. Evicting is always
// right, a staged entry too: the database knows better.
func (s *headShard) account(e *headEntry, maxBytes int) {
	size := e.size()
	s.bytes += size - e.bytes
	e.bytes = size
	for s.bytes > maxBytes && len(s.order) > 0 {
		s.hand %= len(s.order)
		old := s.order[s.hand]
		if len(s.order) > 1 && (old == e || old.used) {
			old.used = old == e && old.used
			s.hand++
			continue
		}
		s.remove(old)
	}
}

func (s *headShard) remove(e *headEntry) {
	last := s.order[len(s.order)-1]
	s.order[e.at] = last
	last.at = e.at
	s.order[len(s.order)-1] = nil
	s.order = s.order[:len(s.order)-1]
	delete(s.entries, e.token)
	s.bytes -= e.bytes
	e.at = evicted
}
