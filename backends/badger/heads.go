package badger

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

const headShards = 64

// held is what a node holds for a key, without the value.
type held struct {
	head     coord.Head // the zero Head: the node has never seen the key
	separate bool       // the value lies under its own key
	file     uint64     // that the value lies in, 0 without
	size     int        // of the value, in bytes
}

// headCache holds what is committed for keys used lately, so that clock reads
// and applies need no look into the database. It never disagrees with it: a
// commit is staged in the cache first, under its timestamp, and shows from the
// very moment at which the store's committed timestamp reaches it.
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
	// touched is the timestamp of the last commit staged here. What was read
	// from an older snapshot may be outdated and is not taken in.
	touched uint64
}

type headEntry struct {
	token       ring.Token
	tenant, key string
	held        held
	next        held   // what a commit makes of it
	nextAt      uint64 // that commit's timestamp, 0 without one
	at          int    // index in order
	used        bool
}

func newHeadCache(committed *atomic.Uint64, maxBytes int64) *headCache {
	c := &headCache{committed: committed, maxBytes: int(maxBytes / headShards)}
	c.purge()
	return c
}

// Tokens are hashes, of which the ring uses the top bits first.
func (c *headCache) shard(token ring.Token) *headShard { return &c.shards[uint64(token)%headShards] }

// get is what is committed for a key, if the cache knows.
func (c *headCache) get(token ring.Token, tenant, key string) (held, bool) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(token, tenant, key)
	if e == nil {
		return held{}, false
	}
	e.used = true
	return e.now(c.committed), true
}

// fill takes in what was read from the snapshot of timestamp at, unless
// something newer may have been committed since.
func (c *headCache) fill(token ring.Token, tenant, key []byte, h held, at uint64) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.touched > at {
		return
	}
	if e := s.entries[token]; e != nil && e.key == string(key) && e.tenant == string(tenant) {
		return
	}
	s.add(token, string(tenant), string(key), c.maxBytes).held = h
}

// stage announces that the commit of timestamp at replaces before with after.
func (c *headCache) stage(token ring.Token, tenant, key string, before, after held, at uint64) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched = at
	e := s.find(token, tenant, key)
	if e == nil {
		e = s.add(token, strings.Clone(tenant), strings.Clone(key), c.maxBytes)
	}
	e.held, e.next, e.nextAt, e.used = before, after, at, true
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
		s.entries, s.order, s.hand, s.bytes, s.touched = make(map[ring.Token]*headEntry), nil, 0, 0, 0
		s.mu.Unlock()
	}
}

func (e *headEntry) now(committed *atomic.Uint64) held {
	if e.nextAt != 0 && committed.Load() >= e.nextAt {
		e.held, e.next, e.nextAt = e.next, held{}, 0
	}
	return e.held
}

// size estimates an entry's memory. It must not change while the entry lives,
// so it leaves room for a clock of usual length.
func (e *headEntry) size() int { return 512 + len(e.tenant) + len(e.key) }

func (s *headShard) find(token ring.Token, tenant, key string) *headEntry {
	if e := s.entries[token]; e != nil && e.key == key && e.tenant == tenant {
		return e
	}
	return nil
}

// add makes an entry, in place of one with the same token if there is one, and
// evicts others to stay within maxBytes. Evicting is always right, a staged
// entry too: the database knows better.
func (s *headShard) add(token ring.Token, tenant, key string, maxBytes int) *headEntry {
	if e := s.entries[token]; e != nil {
		s.remove(e)
	}
	e := &headEntry{token: token, tenant: tenant, key: key}
	for s.bytes+e.size() > maxBytes && len(s.order) > 0 {
		s.hand %= len(s.order)
		if old := s.order[s.hand]; old.used {
			old.used = false
			s.hand++
		} else {
			s.remove(old)
		}
	}
	e.at = len(s.order)
	s.order = append(s.order, e)
	s.entries[token] = e
	s.bytes += e.size()
	return e
}

func (s *headShard) remove(e *headEntry) {
	last := s.order[len(s.order)-1]
	s.order[e.at] = last
	last.at = e.at
	s.order[len(s.order)-1] = nil
	s.order = s.order[:len(s.order)-1]
	delete(s.entries, e.token)
	s.bytes -= e.size()
}
