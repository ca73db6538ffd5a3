package coord_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

var errDown = errors.New("connection refused")

func (g *gate) cut()    { g.down.Store(&errDown) }
func (g *gate) mend()   { g.down.Store(nil) }
func (g *gate) id() string {
	who, err := g.Describe(context.Background())
	if err != nil {
		return err.Error()
	}
	return who.ID
}

// startHinted is start with the cluster's metadata store for hints.
func (c *cluster) startHinted(t testing.TB, id string, change func(*coord.Options)) *coord.Coordinator {
	t.Helper()
	return c.start(t, id, func(o *coord.Options) {
		o.Hints = c.metadata
		if change != nil {
			change(o)
		}
	})
}

// eventually waits until the engine's background work has come to something.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to this: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func debtOf(t testing.TB, c *coord.Coordinator, node string) coord.Debt {
	t.Helper()
	for _, n := range c.Status(t.Context()).Nodes {
		if n.ID == node {
			return n.Debt
		}
	}
	return coord.Debt{}
}

// stored is the hints that are stored for a node, by key.
func (c *cluster) stored(t testing.TB, node string) map[string]coord.Hint {
	t.Helper()
	list, err := c.metadata.Hints(t.Context(), node, "", time.Now().Add(time.Hour), nil, math.MaxInt32, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]coord.Hint{}
	for _, h := range list {
		byKey[h.Key] = h
	}
	return byKey
}

func remove(t testing.TB, c *coord.Coordinator, key string, level coord.Level) {
	t.Helper()
	if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: key, Delete: true, Level: level}); err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
}

// paid waits until nobody is owed anything, by the store and by every engine.
func (c *cluster) paid(t testing.TB, engines ...*coord.Coordinator) {
	t.Helper()
	eventually(t, "no hints left", func() bool {
		debts, err := c.metadata.Debts(t.Context())
		return err == nil && len(debts) == 0
	})
	for _, e := range engines {
		for id := range c.nodes {
			eventually(t, "no hints left for "+id+" in Status", func() bool { return debtOf(t, e, id) == coord.Debt{} })
		}
	}
}

func TestMissedWritesAreReplayed(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.startHinted(t, "c1", nil)
	away := cluster.nodes["storage-2"]
	began := time.Now()
	put(t, c, "deleted", "v", coord.All)
	away.cut()
	const keys = 60
	for i := range keys {
		put(t, c, fmt.Sprint("key-", i), strings.Repeat("x", 100*i), coord.Quorum)
		// Pending, on the way to the store or stored, a hint is never out of sight.
		if d := debtOf(t, c, "storage-2"); d.Hints != int64(i+1) {
			t.Errorf("after %d writes the node is owed %d hints", i+1, d.Hints)
		}
	}
	for i := range 20 { // newer versions take the places of the older ones
		put(t, c, fmt.Sprint("key-", i), "newer", coord.Quorum)
		put(t, c, fmt.Sprint("key-", i), "newest", coord.One)
	}
	remove(t, c, "key-30", coord.Quorum)
	remove(t, c, "deleted", coord.Quorum)
	remove(t, c, "never written", coord.Quorum)

	eventually(t, "a hint for each key, by Status", func() bool { return debtOf(t, c, "storage-2").Hints == keys+2 })
	var size int64
	var oldest time.Time
	current := func(key string) coord.Head { return held(t, cluster.nodes["storage-1"], key) }
	eventually(t, "the newest versions stored", func() bool {
		hints := cluster.stored(t, "storage-2")
		size, oldest = 0, time.Time{}
		for key, h := range hints {
			want := current(key)
			if h.Version.Compare(&want) != 0 || h.Version.Tombstone != want.Tombstone {
				return false
			}
			size += h.Size()
			if oldest.IsZero() || h.Since.Before(oldest) {
				oldest = h.Since
			}
		}
		return len(hints) == keys+2
	})
	eventually(t, "bytes and age in Status", func() bool {
		d := debtOf(t, c, "storage-2")
		return d.Bytes == size && d.Oldest.Equal(oldest) && d.OwedRanges == 0
	})
	if oldest.Before(began) || oldest.After(time.Now()) {
		t.Errorf("the oldest hint is of %v, want a time since %v", oldest, began)
	}
	for _, other := range []string{"storage-1", "storage-3"} {
		if d := debtOf(t, c, other); d != (coord.Debt{}) {
			t.Errorf("%s is owed %+v", other, d)
		}
	}

	away.mend()
	cluster.paid(t, c)
	for i := range keys {
		key := fmt.Sprint("key-", i)
		want, got := current(key), held(t, away, key)
		if !got.Exists() || got.Compare(&want) != 0 {
			t.Errorf("%s: the node that was away holds %v, another %v", key, &got, &want)
		}
	}
	for _, key := range []string{"key-30", "deleted", "never written"} {
		if h := held(t, away, key); !h.Exists() || !h.Tombstone {
			t.Errorf("%s was deleted: the node that was away holds %v", key, &h)
		}
	}
	if v, err := get(t, c, "key-7", coord.All); v != "newest" || err != nil {
		t.Errorf("read %q, %v", v, err)
	}
}

// faulty is a replica that can refuse versions, or take its time for them.
type faulty struct {
	coord.Replica
	refuse atomic.Bool
	delay  atomic.Int64 // of each apply; nanoseconds
	out    atomic.Int64 // applies that are being delayed
	peak   atomic.Int64 // the most of them at once
	total  atomic.Int64
}

func (f *faulty) Do(c *coord.Call) {
	switch delay := time.Duration(f.delay.Load()); {
	case c.Kind == coord.CallApply && f.refuse.Load():
		c.Finish(fmt.Errorf("%w: planted", coord.ErrReplicaRefused))
	case c.Kind == coord.CallApply && delay > 0:
		f.total.Add(1)
		out := f.out.Add(1)
		for peak := f.peak.Load(); out > peak && !f.peak.CompareAndSwap(peak, out); peak = f.peak.Load() {
		}
		time.AfterFunc(delay, func() {
			f.out.Add(-1)
			f.Replica.Do(c)
		})
	default:
		f.Replica.Do(c)
	}
}

// makeFaulty puts faults between each gate and its node.
func (c *cluster) makeFaulty() map[string]*faulty {
	faults := map[string]*faulty{}
	for id, g := range c.nodes {
		faults[id] = &faulty{Replica: g.Replica}
		g.Replica = faults[id]
	}
	return faults
}

func TestWhatIsNotHinted(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	faults := cluster.makeFaulty()
	c := cluster.startHinted(t, "c1", nil)
	write := func(key string, level coord.Level, want coord.Outcome) {
		t.Helper()
		_, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: key, Value: []byte("v"), Level: level})
		if err == nil || outcome(err) != want {
			t.Errorf("write of %q: %v, outcome %v; want %v", key, err, outcome(err), want)
		}
	}
	cluster.nodes["storage-2"].cut()
	write("all with one down", coord.All, coord.NotApplied)
	cluster.nodes["storage-3"].cut()
	write("quorum with two down", coord.Quorum, coord.NotApplied)
	if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "nobody", Key: "no tenant"}); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Error(err)
	}
	if _, err := get(t, c, "absent", coord.One); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("read: %v", err)
	}
	cluster.nodes["storage-2"].mend()
	cluster.nodes["storage-3"].mend()
	for _, f := range faults {
		f.refuse.Store(true)
	}
	write("all refuse", coord.Quorum, coord.NotApplied)
	for id := range cluster.nodes {
		if d := debtOf(t, c, id); d != (coord.Debt{}) {
			t.Errorf("%s is owed %+v", id, d)
		}
	}
	// What one replica took may be read: those that did not are told.
	faults["storage-1"].refuse.Store(false)
	write("one took it", coord.Quorum, coord.InDoubt)
	faults["storage-2"].refuse.Store(false)
	put(t, c, "two took it", "v", coord.Quorum)
	eventually(t, "hints for those that refused", func() bool {
		return len(cluster.stored(t, "storage-2")) == 1 && len(cluster.stored(t, "storage-3")) == 2
	})
	for node, keys := range map[string][]string{"storage-1": nil, "storage-2": {"one took it"}, "storage-3": {"one took it", "two took it"}} {
		hints := cluster.stored(t, node)
		for _, key := range keys {
			if _, ok := hints[key]; !ok {
				t.Errorf("%s missed %q: there is no hint", node, key)
			}
			delete(hints, key)
		}
		for key := range hints {
			t.Errorf("there is a hint of %q for %s", key, node)
		}
	}
	faults["storage-3"].refuse.Store(false)
	cluster.paid(t, c)
}

// faultyHints is a store that can fail, or stall its next group.
type faultyHints struct {
	coord.Hints
	failing atomic.Bool
	stall   atomic.Bool
	stalled atomic.Bool
	lists   atomic.Int64
	failed  atomic.Int64
}

func (f *faultyHints) fail() error {
	if !f.failing.Load() {
		return nil
	}
	f.failed.Add(1)
	return fmt.Errorf("%w: planted", coord.ErrMetadataUnavailable)
}

func (f *faultyHints) PutHints(ctx context.Context, coordinator string, hints []coord.Hint) error {
	if f.stall.CompareAndSwap(true, false) {
		f.stalled.Store(true)
		<-ctx.Done()
		return fmt.Errorf("%w: %w", coord.ErrMetadataUnavailable, ctx.Err())
	}
	if err := f.fail(); err != nil {
		return err
	}
	return f.Hints.PutHints(ctx, coordinator, hints)
}

func (f *faultyHints) DropHints(ctx context.Context, hints []coord.Hint) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Hints.DropHints(ctx, hints)
}

func (f *faultyHints) ExpireHints(ctx context.Context, before time.Time, limit int) (int, error) {
	if err := f.fail(); err != nil {
		return 0, err
	}
	return f.Hints.ExpireHints(ctx, before, limit)
}

func (f *faultyHints) Owe(ctx context.Context, node string, ranges []uint16) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Hints.Owe(ctx, node, ranges)
}

func (f *faultyHints) Debts(ctx context.Context) ([]coord.Debt, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.Hints.Debts(ctx)
}

// List of hints: the method is named like the interface that is embedded.
type listedHints struct{ *faultyHints }

func (f listedHints) Hints(ctx context.Context, node, coordinator string, orphanedBefore time.Time, after *coord.Position, limit int, maxBytes int64) ([]coord.Hint, error) {
	f.lists.Add(1)
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.faultyHints.Hints.Hints(ctx, node, coordinator, orphanedBefore, after, limit, maxBytes)
}
