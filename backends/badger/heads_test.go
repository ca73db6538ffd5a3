package badger

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

func heldAt(timestamp int64) *held { return &held{head: coord.Head{Timestamp: timestamp}} }

func wantHeld(t *testing.T, c *headCache, key string, want int64) {
	t.Helper()
	if h := c.get(1, "t", key); h == nil || h.head.Timestamp != want {
		t.Errorf("key %s: got %+v, want one of timestamp %d", key, h, want)
	}
}

func TestHeadCacheShowsACommitWithItsTimestamp(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	c.stage(nil, 1, "t", "k", heldAt(5), heldAt(6), 11)
	wantHeld(t, c, "k", 5)
	committed.Store(11)
	wantHeld(t, c, "k", 6)
	c.stage(nil, 1, "t", "k", heldAt(6), heldAt(7), 12)
	c.unstage(1, "t", "k")
	if h := c.get(1, "t", "k"); h != nil {
		t.Error("a key whose commit failed is still cached")
	}
}

// A reader may evict an entry between the look at it and the commit.
func TestHeadCacheStagesWhatWasEvicted(t *testing.T) {
	for name, evict := range map[string]func(*headCache){
		"evicted":             func(c *headCache) { c.unstage(1, "t", "k") },
		"evicted, and filled": func(c *headCache) { c.unstage(1, "t", "k"); c.fill(1, []byte("t"), []byte("k"), heldAt(5), 10) },
		"purged":              func(c *headCache) { c.purge() },
		"still there":         func(*headCache) {},
	} {
		t.Run(name, func(t *testing.T) {
			var committed atomic.Uint64
			committed.Store(10)
			c := newHeadCache(&committed, 1<<20)
			c.fill(1, []byte("t"), []byte("k"), heldAt(5), 10)
			e, before := c.lookup(1, "t", "k")
			if e == nil || before.head.Timestamp != 5 {
				t.Fatalf("looked up %v, %+v", e, before)
			}
			evict(c)
			c.stage(e, 1, "t", "k", before, heldAt(6), 11)
			wantHeld(t, c, "k", 5)
			committed.Store(11)
			wantHeld(t, c, "k", 6)
			if s := c.shard(1); len(s.order) != 1 || len(s.entries) != 1 {
				t.Errorf("%d entries in order, %d to be found, want one", len(s.order), len(s.entries))
			}
		})
	}
}

func TestHeadCacheRefusesOutdatedFill(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	c.stage(nil, 1, "t", "k", heldAt(5), heldAt(6), 11)
	committed.Store(11)
	c.unstage(1, "t", "k") // as an eviction does
	c.fill(1, []byte("t"), []byte("k"), heldAt(5), 10)
	if h := c.get(1, "t", "k"); h != nil {
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
	if h := c.get(1, "t", "b"); h != nil {
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

func heldValue(timestamp int64, value string) *held {
	h := heldAt(timestamp)
	h.value, h.known = []byte(value), true
	return h
}

func wantValue(t *testing.T, c *headCache, key string, timestamp int64, want string, known bool) {
	t.Helper()
	if h := c.get(1, "t", key); h == nil || h.head.Timestamp != timestamp || h.known != known || string(h.value) != want {
		t.Errorf("key %s: got %+v, want %q (known: %t) at %d", key, h, want, known, timestamp)
	}
}

func TestHeadCacheShowsAValueWithItsHead(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	c.stage(nil, 1, "t", "k", heldAt(5), heldValue(6, "six"), 11)
	wantValue(t, c, "k", 5, "", false)
	committed.Store(11)
	wantValue(t, c, "k", 6, "six", true)
	c.stage(nil, 1, "t", "k", heldValue(6, "six"), heldAt(7), 12)
	wantValue(t, c, "k", 6, "six", true)
	committed.Store(12)
	wantValue(t, c, "k", 7, "", false)
}

func TestHeadCacheTakesInAMissingValue(t *testing.T) {
	var committed atomic.Uint64
	committed.Store(10)
	c := newHeadCache(&committed, 1<<20)
	fill := func(h *held, at uint64) { c.fill(1, []byte("t"), []byte("k"), h, at) }
	fill(heldAt(5), 10)
	fill(heldValue(5, "five"), 10)
	wantValue(t, c, "k", 5, "five", true)
	fill(heldAt(5), 10) // a head that was read meanwhile
	wantValue(t, c, "k", 5, "five", true)

	c.stage(nil, 1, "t", "k", heldValue(5, "five"), heldAt(6), 11)
	fill(heldValue(5, "five"), 10)
	committed.Store(11)
	fill(heldValue(5, "five"), 10)
	wantValue(t, c, "k", 6, "", false)
	fill(heldValue(6, "six"), 11)
	wantValue(t, c, "k", 6, "six", true)
}

func TestHeadCacheCountsValues(t *testing.T) {
	var committed atomic.Uint64
	const bytes = 4 << 20
	c := newHeadCache(&committed, bytes)
	value := string(make([]byte, cachedValueBytes))
	for i := range 20_000 {
		key := fmt.Sprint(i % 10_000)
		before, after := heldValue(int64(i), value), heldValue(int64(i+1), value)
		c.stage(nil, ring.Token(i%10_000), "t", key, before, after, uint64(i+1))
		committed.Store(uint64(i + 1))
	}
	kept := 0
	for i := range c.shards {
		s := &c.shards[i]
		for _, e := range s.order {
			kept += cap(e.held.value)
			if e.next != nil {
				kept += cap(e.next.value)
			}
		}
		counted := 0
		for _, e := range s.entries {
			counted += e.bytes
		}
		if counted != s.bytes {
			t.Fatalf("shard %d counts %d bytes, its entries %d", i, s.bytes, counted)
		}
	}
	if kept > bytes || kept < bytes/2 {
		t.Errorf("%d bytes of values are kept in a cache of %d", kept, bytes)
	}
}

func TestHeadCacheKeepsNothingThatIsTooLarge(t *testing.T) {
	var committed atomic.Uint64
	c := newHeadCache(&committed, 1<<20)
	c.maxBytes = 1000
	c.fill(1, []byte("t"), []byte("small"), heldAt(1), 0)
	c.fill(1+headShards, []byte("t"), []byte("large"), heldValue(2, string(make([]byte, 1000))), 0)
	s := c.shard(1)
	if len(s.order) != 0 || len(s.entries) != 0 || s.bytes != 0 {
		t.Errorf("%d entries of %d bytes are kept in a shard of 1000", len(s.order), s.bytes)
	}
}

// TestHeadsAgreeWithRecords writes and reads few keys through a cache that
// holds hardly any of them, so that entries come and go all the time, and
// through one that holds most.
func TestHeadsAgreeWithRecords(t *testing.T) {
	for _, shardBytes := range []int{500, 4 << 10} {
		t.Run(fmt.Sprintf("%d bytes a shard", shardBytes), func(t *testing.T) { testHeadsAgree(t, shardBytes) })
	}
}

func testHeadsAgree(t *testing.T, shardBytes int) {
	n := openTestNode(t, NodeOptions{})
	n.heads.maxBytes = shardBytes
	const keys, writes = 200, 4000
	// Each value tells its version. Some are too large for the cache.
	value := func(timestamp int64) []byte {
		v := []byte(fmt.Sprint(timestamp))
		if timestamp%5 == 0 {
			v = append(v, make([]byte, cachedValueBytes)...)
		}
		return v
	}
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
				if kind == coord.CallRead && call.Held.Exists() && !bytes.Equal(call.Held.Value, value(call.Held.Timestamp)) {
					t.Errorf("key %d: got %s with the value of another version", k, &call.Held.Head)
					return
				}
			}
		})
	}
	for i := range writes {
		k := i % keys
		call := apply(n, "t", fmt.Sprint(k), testVersion(int64(i+1), value(int64(i+1))))
		if call.Err != nil {
			t.Fatal(call.Err)
		}
		acknowledged[k].Store(call.Held.Timestamp)
	}
	close(stop)
	group.Wait()
}

// answered tells whether a call was finished before Do returned.
type answered struct{ done bool }

func (a *answered) Done(*coord.Call) { a.done = true }

func TestCachedReadIsAnsweredAtOnce(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	version := testVersion(1, []byte("value"))
	if call := apply(n, "t", "k", version); call.Err != nil {
		t.Fatal(call.Err)
	}
	if call := apply(n, "t", "deleted", coord.Version{Head: coord.Head{
		Timestamp: 1, Writer: version.Writer, Clock: version.Clock, Tombstone: true,
	}}); call.Err != nil {
		t.Fatal(call.Err)
	}
	do(n, &coord.Call{Kind: coord.CallRead, Tenant: "t", Key: "absent"})
	n.reads.close() // nothing but Do itself can answer now
	for key, want := range map[string]string{"k": "value", "deleted": "", "absent": ""} {
		var caller answered
		call := &coord.Call{Kind: coord.CallRead, Tenant: "t", Key: key, Token: ring.KeyToken("t", key), Caller: &caller}
		n.Do(call)
		if !caller.done || call.Err != nil || string(call.Held.Value) != want || call.Held.Live(time.Now()) != (key == "k") {
			t.Errorf("key %s: finished %t with %q, error %v, want %q at once", key, caller.done, call.Held.Value, call.Err, want)
		}
	}
}

func TestReceiverMayChangeWhatIsCached(t *testing.T) {
	n := openTestNode(t, NodeOptions{})
	if call := apply(n, "t", "k", testVersion(1, []byte("value"))); call.Err != nil {
		t.Fatal(call.Err)
	}
	n.heads.purge() // the first read fills the cache, the others are answered from it
	for i := range 3 {
		call := read(n, "t", "k")
		if call.Err != nil || string(call.Held.Value) != "value" {
			t.Errorf("read %d: got %q, error %v", i, call.Held.Value, call.Err)
		}
		clear(call.Held.Value)
	}
}
