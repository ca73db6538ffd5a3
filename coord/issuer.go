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

// A shard remembers the last issuerShardKeys to twice as many keys written.
// What it forgets may repeat a counter, which is harmless: a version's identity
// is its timestamp and writer. The greatest timestamp of what it forgets stays
// behind (forgotten), since a timestamp far ahead is made without the process
// clock and must exceed those that were issued for the key while that was ahead.
const (
	issuerShards    = 64
	issuerShardKeys = 256
)

type issuerShard struct {
	mu        sync.Mutex
	recent    map[issuedKey]issued
	older     map[issuedKey]issued
	forgotten int64 // greatest timestamp issued for any forgotten key
	_         [64]byte
}

type issuedKey struct{ tenant, key string }

type issued struct {
	counter int64 // greatest issued for the key
	last    int64 // greatest timestamp issued for it
}

// issue makes the head of a new version of a key that descends from the
// versions seen: seen is their greatest timestamp, clock their join.
func (s *issuer) issue(token ring.Token, tenant, key string, seen int64, clock Clock, tombstone bool) Head {
	shard := &s.shards[token%issuerShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	k := issuedKey{tenant, key}
	mine, known := shard.lookup(k)

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
		if !known {
			floor = max(floor, shard.forgotten)
		}
		timestamp = floor + 1
	} else {
		timestamp = s.tick(wall, floor)
	}
	mine.last = timestamp
	mine.counter = max(mine.counter, clock.Counter(s.writer.ID)) + 1
	shard.remember(k, mine)
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
		s.shards[i].recent, s.shards[i].older, s.shards[i].forgotten = nil, nil, 0
	}
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

func (s *issuerShard) lookup(k issuedKey) (issued, bool) {
	if v, ok := s.recent[k]; ok {
		return v, true
	}
	v, ok := s.older[k]
	return v, ok
}

func (s *issuerShard) remember(k issuedKey, v issued) {
	if _, ok := s.recent[k]; !ok && len(s.recent) >= issuerShardKeys {
		for old, e := range s.older {
			if _, kept := s.recent[old]; !kept {
				s.forgotten = max(s.forgotten, e.last)
			}
		}
		s.older, s.recent = s.recent, s.older
		clear(s.recent)
	}
	if s.recent == nil {
		s.recent = make(map[issuedKey]issued)
	}
	s.recent[k] = v
}
