package coord

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pairdb/coordinator/ring"
)

// issuer makes the versions of one coordinator: a hybrid logical clock for
// their timestamps (Kulkarni et al., "Logical Physical Clocks", 2014, without
// the separate logical part: nanoseconds leave room enough), and for each key
// written lately the greatest counter it has issued.
//
// A timestamp is the wall clock or one more than every timestamp seen or
// issued, whichever is later. One exception keeps a broken clock elsewhere from
// spreading: where a key's version is further ahead of the wall clock than
// maxOffset, only that key's next timestamp is raised above it.
type issuer struct {
	writer    Writer
	wall      func() time.Time
	maxOffset time.Duration
	last      atomic.Int64 // greatest timestamp issued by the process clock
	// stuck, where it is not nil, gets a token when the process clock is
	// further ahead of the wall clock than replicas accept. Capacity 1.
	stuck  chan struct{}
	shards [issuerShards]issuerShard
}

// A shard remembers the last issuerShardKeys to twice as many keys written, by
// their tokens, which are at hand and quick to look up. Of two keys with one
// token it remembers the one written last. What it forgets may repeat a
// counter, which is harmless: a version's identity is its timestamp and writer.
// The greatest timestamp of what it forgets stays behind (forgotten), since a
// timestamp far ahead is made without the process clock and must exceed those
// that were issued for the key while that was ahead.
const (
	issuerShards    = 64
	issuerShardKeys = 256
)

type issuerShard struct {
	mu        sync.Mutex
	recent    map[ring.Token]*issued
	older     map[ring.Token]*issued
	unused    []*issued // what was forgotten, to be used again
	forgotten int64     // greatest timestamp issued for any forgotten key
	_         [64]byte
}

// issued is what is remembered of a key.
type issued struct {
	tenant, key string
	counter     int64 // greatest issued for the key
	last        int64 // greatest timestamp issued for it
}

// issue makes the head of a new version of a key that descends from the
// versions seen: seen is their greatest timestamp, clock their join.
func (s *issuer) issue(token ring.Token, tenant, key string, seen int64, clock Clock, tombstone bool) Head {
	shard := &s.shards[token%issuerShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	mine := shard.find(token, tenant, key)

	var timestamp int64
	wall := s.wall().UnixNano()
	floor := max(seen, mine.last)
	switch mutant {
	case mutantWallClock:
		floor = 0
	case mutantSharedTimestamp:
		floor = seen
	}
	if floor-wall > int64(s.maxOffset) && mutant != mutantProcessClock {
		if mine.last == 0 { // nothing is known of it
			floor = max(floor, shard.forgotten)
		}
		timestamp = floor + 1
	} else {
		timestamp = s.tick(wall, floor)
	}
	mine.last = timestamp
	mine.counter = max(mine.counter, clock.Counter(s.writer.ID)) + 1
	return Head{
		Timestamp: timestamp,
		Writer:    s.writer,
		Clock:     clock.With(s.writer.ID, mine.counter, timestamp),
		Tombstone: tombstone,
	}
}

// tick moves the process clock on: to wall, or above floor and all it issued.
func (s *issuer) tick(wall, floor int64) int64 {
	for {
		last := s.last.Load()
		next := max(wall, last+1, floor+1)
		if mutant == mutantSharedTimestamp {
			next = max(wall, floor+1)
		}
		if s.last.CompareAndSwap(last, next) {
			if last-wall > int64(s.maxOffset) {
				select {
				case s.stuck <- struct{}{}:
				default:
				}
			}
			return next
		}
	}
}

// reincarnate goes on under another incarnation as a process does that was
// started again: it remembers nothing, and its clock is the wall clock.
func (s *issuer) reincarnate(w Writer) {
	for i := range s.shards {
		s.shards[i].mu.Lock()
	}
	s.writer = w
	s.last.Store(0)
	for i := range s.shards {
		s.shards[i].recent, s.shards[i].older, s.shards[i].unused, s.shards[i].forgotten = nil, nil, nil, 0
	}
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

// find returns what is remembered of a key, for the caller to bring up to date.
// A key of which nothing is known is remembered from now on; mu is held.
func (s *issuerShard) find(token ring.Token, tenant, key string) *issued {
	e := s.recent[token]
	if e == nil {
		if len(s.recent) >= issuerShardKeys {
			s.age()
		}
		if s.recent == nil {
			s.recent = make(map[ring.Token]*issued)
		}
		if e = s.older[token]; e == nil {
			e = s.fresh()
			e.tenant, e.key = tenant, key
		}
		s.recent[token] = e
	}
	if e.key != key || e.tenant != tenant {
		s.forgotten = max(s.forgotten, e.last)
		*e = issued{tenant: tenant, key: key}
	}
	return e
}

// age forgets what was not written since the last time.
func (s *issuerShard) age() {
	for token, e := range s.older {
		if s.recent[token] == nil {
			s.forgotten = max(s.forgotten, e.last)
			*e = issued{}
			s.unused = append(s.unused, e)
		}
	}
	s.older, s.recent = s.recent, s.older
	clear(s.recent)
}

func (s *issuerShard) fresh() *issued {
	n := len(s.unused) - 1
	if n < 0 {
		return new(issued)
	}
	e := s.unused[n]
	s.unused = s.unused[:n]
	return e
}
