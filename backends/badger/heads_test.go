package badger

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

func heldAt(timestamp int64) held { return held{head: coord.Head{Timestamp: timestamp}} }

func wantHeld(t *testing.T, c *headCache, key string, want int64) {
	t.Helper()
	if h, ok := c.get(1, "t", key); !ok || h.head.Timestamp != want {
		t.Errorf("key %s: got %d, cached %t, want %d", key, h.head.Timestamp, ok, want)
	}
}

func TestHeadCacheShowsACommitWithItsTimestamp(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	c.stage(1, "t", "k", heldAt(5), heldAt(6), 11)
	wantHeld(t, c, "k", 5)
	committed.Store(11)
	wantHeld(t, c, "k", 6)
	c.stage(1, "t", "k", heldAt(6), heldAt(7), 12)
	c.unstage(1, "t", "k")
	if _, ok := c.get(1, "t", "k"); ok {
		t.Error("a key whose commit failed is still cached")
	}
}

func TestHeadCacheRefusesOutdatedFill(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	c.stage(1, "t", "k", heldAt(5), heldAt(6), 11)
	committed.Store(11)
	c.unstage(1, "t", "k") // as an eviction does
	c.fill(1, []byte("t"), []byte("k"), heldAt(5), 10)
	if h, ok := c.get(1, "t", "k"); ok {
		t.Errorf("what was read before a commit was cached after it: %d", h.head.Timestamp)
	}
	c.fill(1, []byte("t"), []byte("k"), heldAt(6), 11)
	wantHeld(t, c, "k", 6)
	c.fill(1, []byte("t"), []byte("k"), heldAt(5), 11)
	wantHeld(t, c, "k", 6)
}

func TestHeadCacheTellsEqualTokensApart(t *testing.T) {
	var committed atomic.Uint64
	c := newHeadCache(&committed, 1<<20)
	c.fill(1, []byte("t"), []byte("a"), heldAt(1), 0)
	if _, ok := c.get(1, "t", "b"); ok {
		t.Error("another key of the same token is cached")
	}
	c.fill(1, []byte("t"), []byte("b"), heldAt(2), 0)
	wantHeld(t, c, "b", 2)
}

func TestHeadCacheIsBounded(t *testing.T) {
	var committed atomic.Uint64
	const bytes = 1 << 20
	c := newHeadCache(&committed, bytes)
	for i := range 10_000 {
		c.fill(ring.Token(i), []byte("t"), []byte(fmt.Sprint(i)), heldAt(1), 0)
	}
	total, entries := 0, 0
	for i := range c.shards {
		s := &c.shards[i]
		total += s.bytes
		entries += len(s.order)
		if len(s.entries) != len(s.order) {
			t.Fatalf("shard %d: %d entries, %d in order", i, len(s.entries), len(s.order))
		}
	}
	if total > bytes || entries < bytes/1024 {
		t.Errorf("%d entries of %d bytes in a cache of %d", entries, total, bytes)
	}
}

// TestHeadsAgreeWithRecords writes and reads few keys through a cache that
// holds hardly any of them, so that entries come and go all the time.
func TestHeadsAgreeWithRecords(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	n.heads.maxBytes = 600 // one entry a shard
	const keys, writes = 200, 4000
	var acknowledged [keys]atomic.Int64
	stop := make(chan struct{})
	var group sync.WaitGroup
	for r := range 3 {
		group.Go(func() {
			for i := r; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				k := i * 7 % keys
				least := acknowledged[k].Load()
				kind := coord.CallHead + coord.CallKind(i%2)
				call := do(n, &coord.Call{Kind: kind, Tenant: "t", Key: fmt.Sprint(k)})
				if call.Err != nil || call.Held.Timestamp < least {
					t.Errorf("%s of key %d: got %s, error %v, after %d was acknowledged", kind, k, &call.Held.Head, call.Err, least)
					return
				}
			}
		})
	}
	for i := range writes {
		k := i % keys
		call := apply(n, "t", fmt.Sprint(k), testVersion(int64(i+1), nil))
		if call.Err != nil {
			t.Fatal(call.Err)
		}
		acknowledged[k].Store(call.Held.Timestamp)
	}
	close(stop)
	group.Wait()
}
