package coord_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pairdb/coordinator/backends/badger"
	"github.com/pairdb/coordinator/backends/sqlite"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is coordinators over storage nodes in this process, on disk. Each
// node stands behind a gate that can fail or hold calls.
type cluster struct {
	metadata *sqlite.Store
	claims   *badger.Claims
	nodes    map[string]*gate
}

// gate is a storage node whose way to it can be cut.
type gate struct {
	coord.Replica
	down    atomic.Pointer[error]
	mu      sync.Mutex
	holding bool
	held    []*coord.Call
	scan    func(context.Context, coord.ScanRequest) (coord.ScanPage, error) // in place of the node's, where it is set
}

func (g *gate) Scan(ctx context.Context, r coord.ScanRequest) (coord.ScanPage, error) {
	if g.scan != nil {
		return g.scan(ctx, r)
	}
	return g.Replica.Scan(ctx, r)
}

func (g *gate) Unavailable() error {
	if err := g.down.Load(); err != nil {
		return *err
	}
	return g.Replica.Unavailable()
}

func (g *gate) Do(c *coord.Call) {
	g.mu.Lock()
	holding := g.holding
	if holding {
		g.held = append(g.held, c)
	}
	g.mu.Unlock()
	if !holding {
		g.Replica.Do(c)
	}
}

func (g *gate) Close() error { return nil } // the cluster closes the node itself

// let gives the node the oldest call of key that is held; false: there is none.
func (g *gate) let(key string) bool {
	g.mu.Lock()
	i := slices.IndexFunc(g.held, func(c *coord.Call) bool { return c.Key == key })
	if i < 0 {
		g.mu.Unlock()
		return false
	}
	c := g.held[i]
	g.held = slices.Delete(g.held, i, i+1)
	g.mu.Unlock()
	g.Replica.Do(c)
	return true
}

// hold keeps calls from the node until release.
func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = true
}

func (g *gate) release() {
	g.mu.Lock()
	calls := g.held
	g.holding, g.held = false, nil
	g.mu.Unlock()
	for _, c := range calls {
		g.Replica.Do(c)
	}
}

func newCluster(t testing.TB, nodes int) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{nodes: map[string]*gate{}}
	var err error
	if c.metadata, err = sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "metadata.db")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.metadata.Close() })
	if c.claims, err = badger.OpenClaims(badger.ClaimsOptions{Dir: filepath.Join(dir, "claims")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.claims.Close() })
	for i := range nodes {
		id := fmt.Sprintf("storage-%d", i+1)
		node, err := badger.OpenNode(badger.NodeOptions{ID: id, Dir: filepath.Join(dir, id)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { node.Close() })
		c.nodes[id] = &gate{Replica: node}
	}
	return c
}

// start runs a coordinator over the cluster, with every node registered and a
// tenant "shop" of replication factor 3.
func (c *cluster) start(t testing.TB, id string, change func(*coord.Options)) *coord.Coordinator {
	t.Helper()
	identity, err := c.metadata.AcquireIdentity(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	options := coord.Options{
		Identity: identity, Metadata: c.metadata, Idempotency: c.claims, ReplayInterval: 20 * time.Millisecond,
		Connect: func(n coord.StorageNode) (coord.Replica, error) { return c.nodes[n.ID], nil },
	}
	if change != nil {
		change(&options)
	}
	engine, err := coord.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
		identity.Release()
	})
	for id := range c.nodes {
		if _, err := engine.AddNode(t.Context(), coord.StorageNode{ID: id, Host: "127.0.0.1", Port: 1, VirtualNodes: 32}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := engine.CreateTenant(t.Context(), "shop", 3); err != nil && !errors.Is(err, coord.ErrTenantExists) {
		t.Fatal(err)
	}
	return engine
}

func put(t testing.TB, c *coord.Coordinator, key, value string, level coord.Level) coord.WriteResult {
	t.Helper()
	r, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: key, Value: []byte(value), Level: level})
	if err != nil {
		t.Fatalf("write %s: %v", key, err)
	}
	return r
}

func get(t testing.TB, c *coord.Coordinator, key string, level coord.Level) (string, error) {
	t.Helper()
	r, err := c.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: key, Level: level})
	return string(r.Value), err
}

// held asks a node what it holds.
func held(t testing.TB, g *gate, key string) coord.Head {
	t.Helper()
	page, err := g.Scan(t.Context(), coord.ScanRequest{Span: ring.Everything(), Tenant: "shop", Prefix: key, Limit: coord.MaxScanPage})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range page.Items {
		if item.Position.Key == key {
			return item.Head
		}
	}
	return coord.Head{}
}

func TestSequentialWritesCountUp(t *testing.T) {
	c := newCluster(t, 3).start(t, "c1", nil)
	for i := range 10 {
		r := put(t, c, "k", fmt.Sprint(i), coord.Quorum)
		if want := fmt.Sprintf("{c1:%d}", i+1); r.Clock.String() != want || r.Replicas != 2 || r.Level != coord.Quorum {
			t.Errorf("write %d: %v, %d replicas at %v; want %s, 2 at quorum", i, r.Clock, r.Replicas, r.Level, want)
		}
	}
}

func TestConcurrentWritesOfOneKey(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	clocks := make([]string, 100)
	var all sync.WaitGroup
	for i := range clocks {
		all.Go(func() {
			clocks[i] = put(t, c, "hot", fmt.Sprint(i), coord.All).Clock.String()
		})
	}
	all.Wait()
	different := map[string]bool{}
	for _, clock := range clocks {
		different[clock] = true
	}
	if len(different) != len(clocks) {
		t.Errorf("%d writes made %d versions", len(clocks), len(different))
	}
	first := held(t, cluster.nodes["storage-1"], "hot")
	for id, n := range cluster.nodes {
		if h := held(t, n, "hot"); h.Compare(&first) != 0 || !h.Exists() {
			t.Errorf("%s holds %v, storage-1 holds %v", id, &h, &first)
		}
	}
}

func TestKeyedWriteThroughTwoCoordinators(t *testing.T) {
	cluster := newCluster(t, 3)
	engines := []*coord.Coordinator{cluster.start(t, "c1", nil), cluster.start(t, "c2", nil)}
	results := make([]coord.WriteResult, 64)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			var err error
			results[i], err = engines[i%2].Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "order", Value: []byte("paid"), IdempotencyKey: "k1"})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first := 0
	for _, r := range results {
		if r.Clock.String() != results[0].Clock.String() {
			t.Errorf("one request got %v, another %v", results[0].Clock, r.Clock)
		}
		if !r.Duplicate {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d of 64 requests say they were the first", first)
	}
	_, err := engines[0].Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "order", Value: []byte("void"), IdempotencyKey: "k1"})
	if !errors.Is(err, coord.ErrIdempotencyConflict) || outcome(err) != coord.NotApplied {
		t.Errorf("another value under the same key: %v", err)
	}
}

func outcome(err error) coord.Outcome {
	var w *coord.WriteError
	if !errors.As(err, &w) {
		return 255
	}
	return w.Outcome
}

func TestNodesDown(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	refused := errors.New("connection refused")
	put(t, c, "k", "v", coord.All)

	cluster.nodes["storage-2"].down.Store(&refused)
	put(t, c, "k", "w", coord.Quorum)
	if v, err := get(t, c, "k", coord.Quorum); v != "w" || err != nil {
		t.Errorf("read %q, %v", v, err)
	}
	if _, err := get(t, c, "absent", coord.Quorum); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("absent key: %v", err)
	}
	_, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "k", Level: coord.All})
	var q *coord.QuorumError
	if !errors.As(err, &q) || outcome(err) != coord.NotApplied || len(q.Replicas) != 1 || q.Replicas[0].Node != "storage-2" {
		t.Errorf("all with storage-2 down: %v", err)
	}
	cluster.nodes["storage-3"].down.Store(&refused)
	if _, err := get(t, c, "k", coord.Quorum); !errors.Is(err, coord.ErrNoQuorum) {
		t.Errorf("quorum read with two down: %v", err)
	}
	if v, err := get(t, c, "k", coord.One); v != "w" || err != nil {
		t.Errorf("read at one with two down: %q, %v", v, err)
	}
	cluster.nodes["storage-2"].down.Store(nil)
	cluster.nodes["storage-3"].down.Store(nil)
	if v, err := get(t, c, "k", coord.All); v != "w" || err != nil {
		t.Errorf("after recovery: %q, %v", v, err)
	}
}

// A node that answers nothing delays a request by a hedge, not by its timeout.
func TestFrozenNode(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "v", coord.All)
	frozen := cluster.nodes["storage-1"]
	frozen.hold()
	started := time.Now()
	for i := range 20 {
		put(t, c, fmt.Sprint(i), "v", coord.Quorum)
		if v, err := get(t, c, "k", coord.Quorum); v != "v" || err != nil {
			t.Errorf("read %q, %v", v, err)
		}
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("40 operations took %v beside a frozen node", took)
	}
	frozen.release()
}

// A client that goes away is told at once what is known; the write goes on.
func TestClientGoesAway(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	for _, n := range cluster.nodes {
		n.hold()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := c.Write(ctx, coord.WriteRequest{Tenant: "shop", Key: "early", Value: []byte("v")})
	if !errors.Is(err, coord.ErrDeadlineExceeded) || outcome(err) != coord.NotApplied {
		t.Errorf("left while clocks were read: %v, outcome %v", err, outcome(err))
	}
	for _, n := range cluster.nodes {
		n.release()
	}
	if _, err := get(t, c, "early", coord.All); !errors.Is(err, coord.ErrKeyNotFound) {
		t.Errorf("a write that was not applied: %v", err)
	}
}

func TestCloseWaitsForOperations(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	cluster.nodes["storage-1"].hold()
	put(t, c, "k", "v", coord.Quorum) // its third call is still out
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- c.Close(ctx) }()
	if err := <-closed; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a call out: %v", err)
	}
	if _, err := get(t, c, "k", coord.Quorum); !errors.Is(err, coord.ErrShuttingDown) {
		t.Errorf("read after Close: %v", err)
	}
	cluster.nodes["storage-1"].release()
}

func TestTenants(t *testing.T) {
	cluster := newCluster(t, 3)
	var hits, misses atomic.Int64
	c := cluster.start(t, "c1", func(o *coord.Options) {
		o.TenantTTL = time.Millisecond
		o.Events.TenantCache = func(hit bool) {
			if hit {
				hits.Add(1)
			} else {
				misses.Add(1)
			}
		}
	})
	if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "nobody", Key: "k"}); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("unknown tenant: %v", err)
	}
	for _, rf := range []int{0, 11, 4} {
		if _, err := c.CreateTenant(t.Context(), "t", rf); !errors.Is(err, coord.ErrInvalidReplicationFactor) {
			t.Errorf("replication factor %d on three nodes: %v", rf, err)
		}
	}
	put(t, c, "k", "v", coord.Quorum)
	for _, rf := range []int{1, 3} {
		before, begun, err := c.SetReplicationFactor(t.Context(), "shop", rf)
		if err != nil || before.ReplicationFactor != 4-rf {
			t.Fatalf("replication factor %d: %+v, %v", rf, before, err)
		}
		completed(t, c, begun)
		if now, err := c.Tenant(t.Context(), "shop"); err != nil || now.ReplicationFactor != rf {
			t.Errorf("after the change to %d the tenant has %d, %v", rf, now.ReplicationFactor, err)
		}
	}
	if v, err := get(t, c, "k", coord.All); v != "v" || err != nil {
		t.Errorf("after the replication factor went down and up: %q, %v", v, err)
	}
	// Metadata goes away: the tenant stays usable past its time, others do not load.
	cluster.metadata.Close()
	for before := misses.Load(); misses.Load() == before; { // until its time is over
		if _, err := get(t, c, "k", coord.Quorum); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := get(t, c, "k", coord.Quorum); v != "v" || err != nil {
		t.Errorf("cached tenant without metadata: %q, %v", v, err)
	}
	if _, err := c.Read(t.Context(), coord.ReadRequest{Tenant: "unseen", Key: "k"}); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("unseen tenant without metadata: %v", err)
	}
	if known, err := c.Tenant(t.Context(), "shop"); err != nil || known.ID != "shop" || known.ReplicationFactor != 3 {
		t.Errorf("what is known of a cached tenant without metadata: %+v, %v", known, err)
	}
	if _, err := c.Tenant(t.Context(), "unseen"); !errors.Is(err, coord.ErrMetadataUnavailable) {
		t.Errorf("what is known of an unseen tenant without metadata: %v", err)
	}
	if misses.Load() == 0 {
		t.Error("no cache miss was reported")
	}
}

func TestDeletedTenantIsGone(t *testing.T) {
	c := newCluster(t, 3).start(t, "c1", nil)
	put(t, c, "k", "v", coord.Quorum)
	if err := c.DeleteTenant(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, c, "k", coord.Quorum); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("read of a deleted tenant: %v", err)
	}
}

func TestNodes(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	node := coord.StorageNode{ID: "storage-1", Host: "127.0.0.2", Port: 2, VirtualNodes: 32}
	epoch := c.Status(t.Context()).Epoch
	if _, err := c.AddNode(t.Context(), node); err != nil || c.Status(t.Context()).Epoch != epoch {
		t.Errorf("the same node at a new address: %v, epoch %d, was %d", err, c.Status(t.Context()).Epoch, epoch)
	}
	states, err := c.Nodes(t.Context())
	if err != nil || len(states) != 3 || states[0].Host != "127.0.0.2" {
		t.Errorf("nodes %+v, %v", states, err)
	}
	if _, err := c.RemoveNode(t.Context(), "storage-9", coord.Removal{}); !errors.Is(err, coord.ErrNodeNotFound) {
		t.Errorf("removal of an unknown node: %v", err)
	}
	if _, err := c.RemoveNode(t.Context(), "storage-1", coord.Removal{}); !errors.Is(err, coord.ErrNodeInUse) {
		t.Errorf("removal below the replication factor: %v", err)
	}
	// The same data directory under another id would be counted twice.
	cluster.nodes["twin"] = cluster.nodes["storage-1"]
	if _, err := c.AddNode(t.Context(), coord.StorageNode{ID: "twin", Host: "h", Port: 1, VirtualNodes: 1}); !errors.Is(err, coord.ErrNodeInUse) {
		t.Errorf("one data directory under two ids: %v", err)
	}
	delete(cluster.nodes, "twin")
	put(t, c, "k", "v", coord.All)
	extra, err := badger.OpenNode(badger.NodeOptions{ID: "storage-4", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { extra.Close() })
	cluster.nodes["storage-4"] = &gate{Replica: extra}
	begun, err := c.AddNode(t.Context(), coord.StorageNode{ID: "storage-4", Host: "h", Port: 1, VirtualNodes: 32})
	if err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
	// Another disk under a known id must not vote as if it held its data: it is
	// rebuilt first.
	wiped, err := badger.OpenNode(badger.NodeOptions{ID: "storage-2", Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wiped.Close() })
	lost := cluster.nodes["storage-2"]
	cluster.nodes["storage-2"] = &gate{Replica: wiped}
	other := coord.StorageNode{ID: "storage-2", Host: "h", Port: 2, VirtualNodes: 32}
	if _, err = c.AddNode(t.Context(), other); !errors.Is(err, coord.ErrNodeInUse) {
		t.Errorf("another disk under the id of a node that is alive: %v", err)
	}
	lost.cut()
	if begun, err = c.AddNode(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
	if v, err := get(t, c, "k", coord.All); v != "v" || err != nil {
		t.Errorf("read at all once the disk is rebuilt: %q, %v", v, err)
	}
}

// completed waits for a migration's end.
func completed(t testing.TB, c *coord.Coordinator, m coord.Migration) {
	t.Helper()
	if m.ID == "" {
		t.Fatal("no migration was begun")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		now, err := c.Migration(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Status == coord.MigrationCompleted {
			return
		}
		if !now.EndedAt.IsZero() || time.Now().After(deadline) {
			t.Fatalf("migration %s %s of %s%s: %s %s, waiting for %q", m.ID, m.Kind, m.Node, m.Tenant, now.Status, now.Error, now.Waiting)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Where too few are left to rebuild what a lost node held, nothing begins that
// could not end, unless it is said that data may be lost; and what has begun can
// go on as soon as that is said.
func TestForcedRemovalWithTooFewLeft(t *testing.T) {
	cluster := newCluster(t, 5)
	c := cluster.start(t, "c1", nil)
	for i := range 50 {
		put(t, c, fmt.Sprint(i), "v", coord.All)
	}
	force := func(node string, acceptLoss bool) (coord.Migration, error) {
		return c.RemoveNode(t.Context(), node, coord.Removal{Force: true, AcceptLoss: acceptLoss})
	}
	// One is lost; a second one goes while what the first held is being rebuilt.
	begun := cluster.beginForced(t, c, "storage-5")
	cluster.nodes["storage-4"].cut()
	cluster.release()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		now, err := c.Migration(t.Context(), begun.ID)
		if err != nil || !now.EndedAt.IsZero() || time.Now().After(deadline) {
			t.Fatalf("forced removal with too few left: %s, waiting for %q, %v", now.Status, now.Waiting, err)
		}
		if strings.Contains(now.Waiting, "must be scanned") {
			break
		}
	}
	if _, err := force("storage-5", false); !errors.Is(err, coord.ErrMigrationConflict) {
		t.Errorf("forced again: %v", err)
	}
	if err := c.CancelMigration(t.Context(), begun.ID); !errors.Is(err, coord.ErrMigrationConflict) {
		t.Errorf("cancel of a forced removal: %v", err)
	}
	epoch := c.Status(t.Context()).Epoch
	again, err := force("storage-5", true)
	if err != nil || again.ID != begun.ID {
		t.Fatalf("consent: migration %q, %v; want %q", again.ID, err, begun.ID)
	}
	if now := c.Status(t.Context()).Epoch; now <= epoch {
		t.Errorf("quorums have changed, the epoch has not: %d, was %d", now, epoch)
	}
	completed(t, c, begun)
	for i := range 50 { // nothing was lost after all: one replica had it
		if v, err := get(t, c, fmt.Sprint(i), coord.Quorum); v != "v" || err != nil {
			t.Errorf("key %d once it is rebuilt: %q, %v", i, v, err)
		}
	}
	// Of the four that are members one does not answer, which is known before.
	cluster.nodes["storage-3"].cut()
	if _, err := force("storage-4", false); !errors.Is(err, coord.ErrNodeInUse) || !strings.Contains(err.Error(), "accept_data_loss") {
		t.Errorf("removal that could not end: %v", err)
	}
	if begun, err = force("storage-4", true); err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
}

// beginForced cuts a node off, forces it out, and holds up the copy before its
// first key.
func (c *cluster) beginForced(t *testing.T, engine *coord.Coordinator, node string) coord.Migration {
	t.Helper()
	c.nodes[node].cut()
	for _, g := range c.nodes {
		g.hold()
	}
	begun, err := engine.RemoveNode(t.Context(), node, coord.Removal{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		now, err := engine.Migration(t.Context(), begun.ID)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("forced removal has not begun: %+v, %v", now, err)
		}
		if now.Status == coord.MigrationInProgress {
			return begun
		}
	}
}

func (c *cluster) release() {
	for _, g := range c.nodes {
		g.release()
	}
}

// The copy that is under way when data is said to be dispensable must not be
// taken for one that has ended.
func TestConsentWhileCopying(t *testing.T) {
	cluster := newCluster(t, 5)
	c := cluster.start(t, "c1", nil)
	for i := range 50 {
		put(t, c, fmt.Sprint(i), "v", coord.All)
	}
	begun := cluster.beginForced(t, c, "storage-5")
	if _, err := c.RemoveNode(t.Context(), "storage-5", coord.Removal{Force: true, AcceptLoss: true}); err != nil {
		t.Fatal(err)
	}
	cluster.release()
	completed(t, c, begun)
	if ended, err := c.Migration(t.Context(), begun.ID); err != nil || ended.Keys == 0 {
		t.Errorf("it ended after %d keys, %v", ended.Keys, err)
	}
}

func TestKeysAcrossNodes(t *testing.T) {
	cluster := newCluster(t, 5)
	c := cluster.start(t, "c1", nil)
	want := map[string]bool{}
	for i := range 300 {
		key := fmt.Sprintf("user:%d", i)
		put(t, c, key, "v", coord.All)
		want[key] = true
		put(t, c, fmt.Sprintf("cart:%d", i), "v", coord.All)
	}
	for i := range 50 {
		key := fmt.Sprintf("user:%d", i)
		if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: key, Delete: true, Level: coord.All}); err != nil {
			t.Fatal(err)
		}
		delete(want, key)
	}
	for _, limit := range []int{7, 1000} {
		got := map[string]bool{}
		for after := (*coord.Position)(nil); ; {
			page, err := c.Keys(t.Context(), coord.KeysRequest{Tenant: "shop", Prefix: "user:", After: after, Limit: limit})
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range page.Keys {
				if got[key] || !want[key] {
					t.Errorf("limit %d: %s is listed twice or should not be", limit, key)
				}
				got[key] = true
			}
			if page.Next == nil {
				break
			}
			after = page.Next
		}
		if len(got) != len(want) {
			t.Errorf("limit %d: %d keys, want %d", limit, len(got), len(want))
		}
	}
}

// TestKeysOfATenantThatFollows pages through the keys of a tenant that has the id
// of one that was deleted: it gets its own, each once, and learns of no others.
func TestKeysOfATenantThatFollows(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	for i := range 40 {
		put(t, c, fmt.Sprintf("before:%d", i), "v", coord.All)
	}
	if err := c.DeleteTenant(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateTenant(t.Context(), "shop", 3); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for i := range 20 {
		key := fmt.Sprintf("after:%d", i)
		put(t, c, key, "v", coord.All)
		want[key] = true
	}
	for _, limit := range []int{1, 7, 1000} {
		got := map[string]bool{}
		for after := (*coord.Position)(nil); ; {
			page, err := c.Keys(t.Context(), coord.KeysRequest{Tenant: "shop", After: after, Limit: limit})
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range page.Keys {
				if got[key] || !want[key] {
					t.Fatalf("limit %d: %s is listed twice or should not be", limit, key)
				}
				got[key] = true
			}
			if page.Next == nil {
				break
			}
			if key := page.Next.Key; key != "" && (page.Next.Tenant != "shop" || !want[key]) {
				t.Fatalf("limit %d: the page ends at %+v", limit, *page.Next)
			}
			after = page.Next
		}
		if len(got) != len(want) {
			t.Errorf("limit %d: %d keys, want %d", limit, len(got), len(want))
		}
	}
}

// TestPositionsOfOthers: a page may end at somebody else's key, of which a
// tenant learns no more than on which side of its own it lies.
func TestPositionsOfOthers(t *testing.T) {
	c := newCluster(t, 3)
	coordinator := c.start(t, "c1", nil)
	put(t, coordinator, "mine", "v", coord.All)
	var ends []coord.Position
	for _, tenant := range []string{"a", "shop", "shop\x012", "shopping"} {
		for _, key := range []string{"", "secret"} {
			ends = append(ends, coord.Position{Token: 5, Tenant: tenant, Key: key})
		}
	}
	for i := range ends {
		end := &ends[i]
		for _, node := range c.nodes {
			node.scan = func(context.Context, coord.ScanRequest) (coord.ScanPage, error) {
				return coord.ScanPage{Next: end}, nil
			}
		}
		page, err := coordinator.Keys(t.Context(), coord.KeysRequest{Tenant: "shop", Limit: 10})
		if err != nil || page.Next == nil {
			t.Fatalf("%+v: %+v, %v", *end, page, err)
		}
		next := *page.Next
		switch {
		case end.Tenant == "shop":
			if next != *end {
				t.Errorf("its own %+v is told as %+v", *end, next)
			}
		case next.Key != "" || next.Token != end.Token || next.Tenant != "" && next.Tenant != "shop\x00":
			t.Errorf("%+v is told as %+v", *end, next)
		case next.Compare(coord.Position{Token: 5, Tenant: "shop"}) != end.Compare(coord.Position{Token: 5, Tenant: "shop"}):
			t.Errorf("%+v is told as %+v, on the other side of the tenant", *end, next)
		}
	}
}

func TestValuesOfAllKinds(t *testing.T) {
	c := newCluster(t, 3).start(t, "c1", nil)
	big := bytes.Repeat([]byte{0, 255, '\n', 128}, 10<<20/4)
	for name, value := range map[string][]byte{"empty": {}, "binary": {0, 1, 255}, "big": big} {
		if _, err := c.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: name, Value: value, Level: coord.All}); err != nil {
			t.Fatal(err)
		}
		r, err := c.Read(t.Context(), coord.ReadRequest{Tenant: "shop", Key: name})
		if err != nil || !bytes.Equal(r.Value, value) {
			t.Errorf("%s: %d bytes, %v", name, len(r.Value), err)
		}
	}
}

// memory is a replica without a disk, for measuring the engine alone.
type memory struct {
	mu   sync.Mutex
	data map[string]coord.Version
	id   string
}

func (m *memory) Do(c *coord.Call) {
	m.mu.Lock()
	held := m.data[c.Key]
	if c.Kind == coord.CallApply {
		if store, _ := coord.Admit(&held.Head, 0, &c.Version.Head, c.Intent, time.Now(), time.Minute); store {
			held = c.Version
			m.data[c.Key] = held
		}
	}
	m.mu.Unlock()
	c.Held = held
	c.Finish(nil)
}
func (*memory) Unavailable() error { return nil }
func (m *memory) Describe(context.Context) (coord.NodeDescription, error) {
	return coord.NodeDescription{ID: m.id, UUID: m.id}, nil
}
func (*memory) Scan(context.Context, coord.ScanRequest) (coord.ScanPage, error) {
	return coord.ScanPage{}, nil
}
func (*memory) Heard() (uint64, time.Duration)              { return 1, 0 }
func (*memory) Adopt(context.Context, uint64, []byte) error { return nil }
func (*memory) Floors(context.Context, uint64, []coord.RangeFloor) ([]coord.RangeFloor, error) {
	return nil, nil
}
func (*memory) Sums(_ context.Context, req coord.SumRequest) ([]coord.SpanSums, error) {
	return make([]coord.SpanSums, len(req.Spans)), nil
}
func (*memory) Close() error { return nil }

func startOnMemory(tb testing.TB) *coord.Coordinator {
	tb.Helper()
	cluster := &cluster{nodes: map[string]*gate{}}
	var err error
	if cluster.metadata, err = sqlite.Open(tb.Context(), sqlite.Options{Path: filepath.Join(tb.TempDir(), "m.db")}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cluster.metadata.Close() })
	if cluster.claims, err = badger.OpenClaims(badger.ClaimsOptions{Dir: tb.TempDir()}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cluster.claims.Close() })
	for i := range 3 {
		id := fmt.Sprint("n", i)
		cluster.nodes[id] = &gate{Replica: &memory{id: id, data: map[string]coord.Version{}}}
	}
	return cluster.start(tb, "c1", nil)
}

// The engine's allocation budget per operation, replicas and codec aside. A
// write makes its clock and its context's share; a read makes nothing.
const (
	writeAllocations = 2
	readAllocations  = 1
)

func TestAllocationBudget(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates; the budget is checked without it")
		return
	}
	c := startOnMemory(t)
	ctx := context.Background()
	value := []byte("value")
	put(t, c, "k", "v", coord.Quorum)
	writes := testing.AllocsPerRun(2000, func() {
		c.Write(ctx, coord.WriteRequest{Tenant: "shop", Key: "k", Value: value, Level: coord.Quorum})
	})
	reads := testing.AllocsPerRun(2000, func() {
		c.Read(ctx, coord.ReadRequest{Tenant: "shop", Key: "k", Level: coord.Quorum})
	})
	t.Logf("%.1f allocations per write, %.1f per read", writes, reads)
	if writes > writeAllocations || reads > readAllocations {
		t.Errorf("%.1f allocations per write, %.1f per read; the budget is %d and %d", writes, reads, writeAllocations, readAllocations)
	}
}

func BenchmarkWrite(b *testing.B) {
	c := startOnMemory(b)
	ctx := context.Background()
	value := make([]byte, 100)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := c.Write(ctx, coord.WriteRequest{Tenant: "shop", Key: keys[i%len(keys)], Value: value, Level: coord.Quorum}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	c := startOnMemory(b)
	ctx := context.Background()
	put(b, c, "k", "v", coord.Quorum)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := c.Read(ctx, coord.ReadRequest{Tenant: "shop", Key: "k", Level: coord.Quorum}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := coord.New(t.Context(), coord.Options{})
	for _, field := range []string{"Identity", "Metadata", "Idempotency", "Connect"} {
		if err == nil || !strings.Contains(err.Error(), "no "+field) {
			t.Errorf("empty options: %v; want it to name %s", err, field)
		}
	}
}
