package coord_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

var errDown = errors.New("connection refused")

func (g *gate) cut()  { g.down.Store(&errDown) }
func (g *gate) mend() { g.down.Store(nil) }

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
	// A node that refuses keeps its hints, however often they are replayed.
	hinted := func(node string, keys ...string) {
		t.Helper()
		eventually(t, "hints for "+node, func() bool { return len(cluster.stored(t, node)) == len(keys) })
		hints := cluster.stored(t, node)
		for _, key := range keys {
			if _, ok := hints[key]; !ok {
				t.Errorf("%s missed %q: there is no hint", node, key)
			}
		}
	}
	hinted("storage-1")
	hinted("storage-2", "one took it")
	hinted("storage-3", "one took it")
	faults["storage-2"].refuse.Store(false)
	put(t, c, "two took it", "v", coord.Quorum)
	hinted("storage-1")
	hinted("storage-3", "one took it", "two took it")
	faults["storage-3"].refuse.Store(false)
	cluster.paid(t, c)
}

// faultyHints is a store that can fail, or stall the next group it is given.
type faultyHints struct {
	store   coord.Hints
	failing atomic.Bool
	stall   atomic.Bool
	stalled atomic.Bool
	failed  atomic.Int64
	lists   atomic.Int64
}

var _ coord.Hints = (*faultyHints)(nil)

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
	return f.store.PutHints(ctx, coordinator, hints)
}

func (f *faultyHints) Hints(ctx context.Context, node, coordinator string, orphanedBefore time.Time, after *coord.Position, limit int, maxBytes int64) ([]coord.Hint, error) {
	f.lists.Add(1)
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.store.Hints(ctx, node, coordinator, orphanedBefore, after, limit, maxBytes)
}

func (f *faultyHints) DropHints(ctx context.Context, hints []coord.Hint) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.store.DropHints(ctx, hints)
}

func (f *faultyHints) ExpireHints(ctx context.Context, before time.Time, limit int) (int, error) {
	if err := f.fail(); err != nil {
		return 0, err
	}
	return f.store.ExpireHints(ctx, before, limit)
}

func (f *faultyHints) Owe(ctx context.Context, node string, ranges []uint16) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.store.Owe(ctx, node, ranges)
}

func (f *faultyHints) Owed(ctx context.Context, node string) ([]uint16, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.store.Owed(ctx, node)
}

func (f *faultyHints) Settle(ctx context.Context, node string, ranges []uint16) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.store.Settle(ctx, node, ranges)
}

func (f *faultyHints) Debts(ctx context.Context) ([]coord.Debt, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.store.Debts(ctx)
}

func TestHintsWaitForTheirStore(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	store := &faultyHints{store: cluster.metadata}
	var reported atomic.Int64
	c := cluster.startHinted(t, "c1", func(o *coord.Options) {
		o.Hints = store
		o.Events.Background = func(_ string, err error) {
			if errors.Is(err, coord.ErrMetadataUnavailable) {
				reported.Add(1)
			}
		}
	})
	store.failing.Store(true)
	cluster.nodes["storage-2"].cut()
	started := time.Now()
	const keys = 30
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("%d writes took %v while hints could not be stored", keys, took)
	}
	eventually(t, "several attempts, and reports of them", func() bool { return store.failed.Load() > 3 && reported.Load() > 1 })
	if d := debtOf(t, c, "storage-2"); d.Hints != keys || d.Bytes == 0 || d.Oldest.Before(started) {
		t.Errorf("while the store is down the node is owed %+v, want %d hints", d, keys)
	}
	if n := len(cluster.stored(t, "storage-2")); n != 0 {
		t.Errorf("%d hints are stored", n)
	}
	put(t, c, "0", "newer", coord.Quorum)
	if d := debtOf(t, c, "storage-2"); d.Hints != keys {
		t.Errorf("after a newer version of a key the node is owed %d hints, want %d", d.Hints, keys)
	}
	store.failing.Store(false)
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == keys })
	cluster.nodes["storage-2"].mend()
	cluster.paid(t, c)
	for i := range keys {
		if h := held(t, cluster.nodes["storage-2"], fmt.Sprint(i)); !h.Exists() {
			t.Errorf("the node lacks key %d", i)
		}
	}
}

// The store fails while a node is being replayed to: hints may be sent twice,
// never lost.
func TestReplayGoesOnAfterItsStoreFailed(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	faults := cluster.makeFaulty()
	store := &faultyHints{store: cluster.metadata}
	c := cluster.startHinted(t, "c1", func(o *coord.Options) { o.Hints = store })
	cluster.nodes["storage-2"].cut()
	const keys = 40
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == keys })
	faults["storage-2"].delay.Store(int64(5 * time.Millisecond))
	cluster.nodes["storage-2"].mend()
	eventually(t, "a replay under way", func() bool { return faults["storage-2"].total.Load() > 3 })
	store.failing.Store(true)
	eventually(t, "a failure", func() bool { return store.failed.Load() > 0 })
	store.failing.Store(false)
	cluster.paid(t, c)
	for i := range keys {
		if h := held(t, cluster.nodes["storage-2"], fmt.Sprint(i)); !h.Exists() {
			t.Errorf("the node lacks key %d", i)
		}
	}
}

func TestOrphanedHints(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	first := cluster.startHinted(t, "c1", nil)
	store := &faultyHints{store: cluster.metadata}
	var ahead atomic.Int64
	second := cluster.startHinted(t, "c2", func(o *coord.Options) {
		o.Hints = store
		o.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	cluster.nodes["storage-2"].cut()
	const keys = 20
	for i := range keys {
		put(t, first, fmt.Sprint(i), "v", coord.Quorum)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(cluster.stored(t, "storage-2")); n != keys {
		t.Errorf("a coordinator that has closed left %d hints, want %d", n, keys)
	}
	// The other one sees them, and leaves them to their writer for a while.
	eventually(t, "the debt in the other's Status", func() bool { return debtOf(t, second, "storage-2").Hints == keys })
	cluster.nodes["storage-2"].mend()
	looks := store.lists.Load()
	eventually(t, "two looks for hints to replay", func() bool { return store.lists.Load() >= looks+2 })
	if n := len(cluster.stored(t, "storage-2")); n != keys {
		t.Errorf("of %d hints that another coordinator wrote just now, %d are left", keys, n)
	}
	ahead.Store(int64(40 * time.Second))
	cluster.paid(t, second)
	for i := range keys {
		if h := held(t, cluster.nodes["storage-2"], fmt.Sprint(i)); !h.Exists() {
			t.Errorf("the node lacks key %d", i)
		}
	}
}

func TestTwoCoordinatorsReplay(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	engines := []*coord.Coordinator{cluster.startHinted(t, "c1", nil), cluster.startHinted(t, "c2", nil)}
	cluster.nodes["storage-2"].cut()
	for i := range 40 {
		put(t, engines[i%2], fmt.Sprint(i), "v", coord.Quorum)
		put(t, engines[i%2], "shared", fmt.Sprint(i), coord.Quorum)
	}
	for _, e := range engines {
		eventually(t, "the debt in the Status of both", func() bool { return debtOf(t, e, "storage-2").Hints == 41 })
	}
	cluster.nodes["storage-2"].mend()
	cluster.paid(t, engines...)
	for i := range 40 {
		if h := held(t, cluster.nodes["storage-2"], fmt.Sprint(i)); !h.Exists() {
			t.Errorf("the node lacks key %d", i)
		}
	}
	a, b := held(t, cluster.nodes["storage-1"], "shared"), held(t, cluster.nodes["storage-2"], "shared")
	if a.Compare(&b) != 0 {
		t.Errorf("the shared key is %v on one node and %v on the one that was away", &a, &b)
	}
}

func TestHintsOfADeletedTenant(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.startHinted(t, "c1", nil)
	away := cluster.nodes["storage-2"]
	away.cut()
	put(t, c, "kept", "v", coord.Quorum)
	if _, err := c.CreateTenant(t.Context(), "gone", 3); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "gone", Key: fmt.Sprint(i), Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.DeleteTenant(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == 11 })
	away.mend()
	cluster.paid(t, c)
	page, err := away.Scan(t.Context(), coord.ScanRequest{Span: ring.Everything(), Tenant: "gone", Limit: 100})
	if err != nil || len(page.Items) != 0 {
		t.Errorf("the node got %d keys of a tenant that was deleted, %v", len(page.Items), err)
	}
	if h := held(t, away, "kept"); !h.Exists() {
		t.Error("the node lacks a key of another tenant")
	}
}

// A node that has given up its ranges, whether it is still there or not, gets
// no hints: those who have the ranges now do.
func TestHintsFollowTheirRange(t *testing.T) {
	t.Parallel()
	for _, leaves := range []bool{false, true} {
		t.Run(fmt.Sprint("removed ", leaves), func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, 4)
			c := cluster.startHinted(t, "c1", nil)
			away := cluster.nodes["storage-2"]
			away.cut()
			const keys = 40
			for i := range keys {
				put(t, c, fmt.Sprint(i), "v", coord.Quorum)
			}
			owed := debtOf(t, c, "storage-2").Hints
			if owed == 0 || owed == keys {
				t.Fatalf("the node missed %d of %d keys, want some", owed, keys)
			}
			eventually(t, "the hints stored", func() bool { return int64(len(cluster.stored(t, "storage-2"))) == owed })
			cluster.reshape(t, func(topology *coord.Topology) {
				if leaves {
					topology.Nodes = slices.Delete(topology.Nodes, 1, 2)
				} else {
					topology.Nodes[1].Status = coord.NodeInactive
				}
			})
			if err := c.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !leaves {
				away.mend()
			}
			hinted := cluster.stored(t, "storage-2")
			cluster.paid(t, c)
			for key := range hinted {
				for _, owner := range []string{"storage-1", "storage-3", "storage-4"} {
					if h := held(t, cluster.nodes[owner], key); !h.Exists() {
						t.Errorf("%s is an owner of %s now and lacks it", owner, key)
					}
				}
				if h := held(t, away, key); h.Exists() {
					t.Errorf("a node that is no owner got %s", key)
				}
			}
		})
	}
}

// reshape changes the topology at once, as no migration does.
func (c *cluster) reshape(t *testing.T, change func(*coord.Topology)) {
	t.Helper()
	topology, err := c.metadata.Topology(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	change(&topology)
	topology.Version++
	topology.Epoch++
	if err := c.metadata.SetTopology(t.Context(), coord.TopologyStep{Next: topology}); err != nil {
		t.Fatal(err)
	}
}

func TestHintsWaitForAnOwner(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	var failures atomic.Int64
	c := cluster.startHinted(t, "c1", func(o *coord.Options) {
		o.Events.Background = func(what string, _ error) {
			if strings.HasPrefix(what, "replay hints") {
				failures.Add(1)
			}
		}
	})
	cluster.nodes["storage-2"].cut()
	put(t, c, "k", "v", coord.Quorum)
	eventually(t, "the hint stored", func() bool { return len(cluster.stored(t, "storage-2")) == 1 })
	var nodes []coord.StorageNode
	cluster.reshape(t, func(topology *coord.Topology) { nodes, topology.Nodes = topology.Nodes, nil })
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a replay with nobody to replay to", func() bool { return failures.Load() > 0 })
	cluster.nodes["storage-2"].mend()
	if n := len(cluster.stored(t, "storage-2")); n != 1 {
		t.Errorf("while no node owns its key %d hints are left, want 1", n)
	}
	cluster.reshape(t, func(topology *coord.Topology) { topology.Nodes = nodes })
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.paid(t, c)
	if h := held(t, cluster.nodes["storage-2"], "k"); !h.Exists() {
		t.Error("the node lacks the key")
	}
}

func TestCloseStoresHints(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	store := &faultyHints{store: cluster.metadata}
	c := cluster.startHinted(t, "c1", func(o *coord.Options) { o.Hints = store })
	store.stall.Store(true)
	cluster.nodes["storage-2"].cut()
	const keys = 20
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	eventually(t, "a group that the store does not take", store.stalled.Load)
	if n := len(cluster.stored(t, "storage-2")); n != 0 {
		t.Fatalf("%d hints are stored before Close", n)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(cluster.stored(t, "storage-2")); n != keys {
		t.Errorf("Close left %d hints, want %d", n, keys)
	}
	// The coordinator's next life, or another after a while, goes on with them.
	cluster.nodes["storage-2"].mend()
	next := cluster.startHinted(t, "c2", func(o *coord.Options) {
		o.Wall = func() time.Time { return time.Now().Add(40 * time.Second) }
	})
	cluster.paid(t, next)
	for i := range keys {
		if h := held(t, cluster.nodes["storage-2"], fmt.Sprint(i)); !h.Exists() {
			t.Errorf("the node lacks key %d", i)
		}
	}
}

func TestExpiredHints(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.startHinted(t, "c1", func(o *coord.Options) { o.HintLifetime = time.Millisecond })
	cluster.nodes["storage-2"].cut()
	for i := range 20 {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	eventually(t, "ranges owed for hints", func() bool {
		d := debtOf(t, c, "storage-2")
		return d.Hints == 0 && d.OwedRanges > 0
	})
	if d := debtOf(t, c, "storage-2"); d.OwedRanges > 20 || d.Bytes != 0 || !d.Oldest.IsZero() {
		t.Errorf("owed %+v, want only ranges, no more than keys", d)
	}
}

// Hints whose lifetime passes between their being read and sent are not sent.
func TestHintsExpireWhileReplayed(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	away := cluster.makeFaulty()["storage-2"]
	var ahead atomic.Int64
	c := cluster.startHinted(t, "c1", func(o *coord.Options) {
		o.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	cluster.nodes["storage-2"].cut()
	const keys = 10
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == keys })
	away.delay.Store(int64(200 * time.Millisecond))
	cluster.nodes["storage-2"].mend()
	eventually(t, "a replay under way", func() bool { return away.total.Load() > 0 })
	ahead.Store(int64(coord.DefaultHintLifetime))
	sent := away.total.Load()
	eventually(t, "ranges owed for hints", func() bool {
		d := debtOf(t, c, "storage-2")
		return d.Hints == 0 && d.OwedRanges > 0
	})
	eventually(t, "the end of what was sent", func() bool { return away.out.Load() == 0 })
	if late := away.total.Load() - sent; late > 1 || sent >= keys-1 {
		t.Errorf("%d of %d hints were sent, then their lifetime passed, and %d more were sent", sent, keys, late)
	}
}

// A node that answers slowly gets one hint at a time; one that answers quickly
// gets more, but never more than a bound.
func TestReplayWindow(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	away := cluster.makeFaulty()["storage-2"]
	c := cluster.startHinted(t, "c1", nil)
	cluster.nodes["storage-2"].cut()
	const keys = 150
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.One)
	}
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == keys })
	const slow = 100 * time.Millisecond
	away.delay.Store(int64(slow))
	cluster.nodes["storage-2"].mend()
	eventually(t, "a few hints replayed", func() bool { return away.total.Load() >= 6 })
	if peak := away.peak.Load(); peak != 1 {
		t.Errorf("%d hints were out at once at a node that takes %v for each", peak, slow)
	}
	away.delay.Store(int64(time.Millisecond))
	cluster.paid(t, c)
	if peak := away.peak.Load(); peak < 4 || peak > 128 {
		t.Errorf("at most %d hints were out at once at a node that is quick, want 4 to 128", peak)
	}
}

// A node that is back is replayed to while writes go on that another one misses.
func TestReplayBesideNewHints(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, 3)
	c := cluster.startHinted(t, "c1", nil)
	cluster.nodes["storage-2"].cut()
	const keys = 30
	for i := range keys {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
	}
	eventually(t, "the hints stored", func() bool { return len(cluster.stored(t, "storage-2")) == keys })
	cluster.nodes["storage-3"].cut()
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ctx.Err() == nil; i++ {
			_, err := c.Write(context.Background(), coord.WriteRequest{Tenant: "shop", Key: fmt.Sprint("new-", i), Level: coord.One})
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	cluster.nodes["storage-2"].mend()
	eventually(t, "the first node's hints replayed", func() bool {
		stored := cluster.stored(t, "storage-2")
		for i := range keys {
			if _, left := stored[fmt.Sprint(i)]; left {
				return false
			}
		}
		return true
	})
	stop()
	<-stopped
}
