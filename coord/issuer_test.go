package coord

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/ring"
)

func newTestIssuer(wall func() time.Time) *issuer {
	return &issuer{writer: Writer{"c1", 1}, wall: wall, maxOffset: DefaultMaxClockOffset}
}

// Concurrent writes of one key, none of which sees another, take different
// counters and timestamps, and the two agree in order.
func TestIssuerConcurrentWritesDiffer(t *testing.T) {
	frozen := time.Unix(1_700_000_000, 0)
	s := newTestIssuer(func() time.Time { return frozen })
	heads := make([]Head, 100)
	var all sync.WaitGroup
	for i := range heads {
		all.Go(func() { heads[i] = s.issue(7, "t", "k", 0, nil, false) })
	}
	all.Wait()
	byCounter := map[int64]Head{}
	for _, h := range heads {
		byCounter[h.Clock.Counter("c1")] = h
	}
	for i := int64(1); i <= 100; i++ {
		h, ok := byCounter[i]
		if !ok {
			t.Fatalf("counter %d was not issued once", i)
		}
		if before := byCounter[i-1]; h.Compare(&before) <= 0 {
			t.Errorf("counter %d has %v, counter %d has %v", i, &h, i-1, &before)
		}
	}
}

func TestIssuerExceedsWhatItSaw(t *testing.T) {
	wall := time.Unix(1_700_000_000, 0)
	s := newTestIssuer(func() time.Time { return wall })
	seen := wall.Add(30 * time.Second).UnixNano()
	first := s.issue(1, "t", "a", seen, Clock{{ID: "c2", Counter: 5}}, false)
	if first.Timestamp <= seen || first.Clock.String() != "{c1:1 c2:5}" {
		t.Errorf("issued %v over %d", &first, seen)
	}
	// The process clock has moved with it: another key's version is later still.
	if second := s.issue(2, "t", "b", 0, nil, false); second.Timestamp <= first.Timestamp {
		t.Errorf("%v was issued after %v", &second, &first)
	}
	// A wall clock that jumps back changes nothing.
	wall = wall.Add(-time.Hour)
	if third := s.issue(1, "t", "a", 0, nil, false); third.Timestamp <= first.Timestamp || third.Clock.Counter("c1") != 2 {
		t.Errorf("%v was issued after %v", &third, &first)
	}
}

// A timestamp far ahead raises its own key's next one and nothing else, and
// stays unique for as many keys as there may be, of one token or of many.
func TestIssuerFarAhead(t *testing.T) {
	for name, token := range map[string]func(i int) ring.Token{
		"one token":   func(int) ring.Token { return 0 },
		"their own":   func(i int) ring.Token { return ring.Token(i * issuerShards) },
		"two a token": func(i int) ring.Token { return ring.Token(i / 2 * issuerShards) },
	} {
		t.Run(name, func(t *testing.T) {
			wall := time.Unix(1_700_000_000, 0)
			s := newTestIssuer(func() time.Time { return wall })
			far := wall.Add(24 * time.Hour).UnixNano()
			issued := map[string]int64{}
			for range 3 {
				for i := range 4 * issuerShardKeys { // more than a shard remembers
					key := fmt.Sprint(i)
					h := s.issue(token(i), "t", key, far, nil, false)
					if h.Timestamp <= issued[key] || h.Timestamp > far+int64(justAbove) {
						t.Fatalf("key %s got %d after %d, far ahead is %d", key, h.Timestamp, issued[key], far)
					}
					issued[key] = h.Timestamp
				}
			}
			if h := s.issue(0, "t", "other", 0, nil, false); h.Timestamp != wall.UnixNano() {
				t.Errorf("another key's timestamp is %v off the wall clock", h.UpdatedAt().Sub(wall))
			}
		})
	}
}

// Keys are told apart though they share a token, and what is remembered is
// bounded.
func TestIssuerRemembers(t *testing.T) {
	wall := time.Unix(1_700_000_000, 0)
	s := newTestIssuer(func() time.Time { return wall })
	counter := func(token ring.Token, tenant, key string) int64 {
		h := s.issue(token, tenant, key, 0, nil, false)
		return h.Clock.Counter("c1")
	}
	for i := range int64(3) {
		for key := range issuerShardKeys {
			if got := counter(ring.Token(key*issuerShards), "t", fmt.Sprint(key)); got != i+1 {
				t.Fatalf("counter %d for write %d of key %d", got, i+1, key)
			}
		}
	}
	if got := counter(0, "t", "another key"); got != 1 {
		t.Errorf("counter %d for the first write of a key, whose token another has", got)
	}
	if got := counter(0, "another tenant", "another key"); got != 1 {
		t.Errorf("counter %d for the first write of a key of another tenant", got)
	}
	for key := range 10 * issuerShardKeys {
		counter(ring.Token(key*issuerShards), "t", fmt.Sprint(key))
	}
	shard := &s.shards[0]
	if n := len(shard.recent) + len(shard.older) + len(shard.unused); n > 3*issuerShardKeys {
		t.Errorf("a shard remembers %d keys", n)
	}
}

func BenchmarkIssue(b *testing.B) {
	for _, keys := range []int{1, 10_000, 1_000_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			s := newTestIssuer(time.Now)
			names, tokens := make([]string, keys), make([]ring.Token, keys)
			for i := range names {
				names[i] = fmt.Sprintf("key-%07d", i)
				tokens[i] = ring.KeyToken("default", names[i])
			}
			clock := Clock{{ID: "c1", Counter: 5}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.issue(tokens[i%keys], "default", names[i%keys], 0, clock, false)
			}
		})
	}
}
