package coord_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

// ask has a node do a call and waits for its end.
func ask(t testing.TB, g *gate, call coord.Call) coord.Call {
	t.Helper()
	done := make(finishedCall, 1)
	call.Tenant, call.Token = "shop", ring.KeyToken("shop", call.Key)
	call.Deadline, call.Caller = time.Now().Add(10*time.Second), done
	g.Replica.Do(&call)
	return *<-done
}

type finishedCall chan *coord.Call

func (f finishedCall) Done(c *coord.Call) { f <- c }

// forget deletes keys and has every node forget their deletion, as if it had
// been collected. It returns the timestamps of the deletions.
func (c *cluster) forget(t testing.TB, engine *coord.Coordinator, keys []string) map[string]int64 {
	t.Helper()
	collected := map[string]int64{}
	for _, key := range keys {
		put(t, engine, key, "value", coord.All)
		remove(t, engine, key, coord.All)
		for _, g := range c.nodes {
			if h := held(t, g, key); h.Exists() {
				if call := ask(t, g, coord.Call{Kind: coord.CallDrop, Key: key, Version: coord.Version{Head: h}}); call.Err != nil {
					t.Fatal(call.Err)
				}
				collected[key] = h.Timestamp
			}
		}
	}
	return collected
}

// wantFloors asserts that each of the key's replicas, whatever it has, knows how
// high the deletion was.
func (c *cluster) wantFloors(t *testing.T, what string, collected map[string]int64, nodes ...string) {
	t.Helper()
	missed := 0
	for key, timestamp := range collected {
		for _, id := range nodes {
			if call := ask(t, c.nodes[id], coord.Call{Kind: coord.CallHead, Key: key}); call.Err != nil || call.Floor < timestamp {
				missed++
			}
		}
	}
	if missed > 0 {
		t.Errorf("%s: %d times of %d a replica does not know how high a collected deletion was", what, missed, len(collected)*len(nodes))
	}
}

// What was collected from a range is known to those that take it over: a
// coordinator whose clock is far behind writes above it.
func TestFloorsMoveWithTheirRanges(t *testing.T) {
	cluster := newCluster(t, 5)
	c := cluster.start(t, "c1", nil)
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	collected := cluster.forget(t, c, keys)
	begun, err := c.RemoveNode(t.Context(), "storage-1", coord.Removal{})
	if err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
	// One that is lost takes its floors with it: the others know them.
	gone := errors.New("its disk is lost")
	cluster.nodes["storage-2"].down.Store(&gone)
	if begun, err = c.RemoveNode(t.Context(), "storage-2", coord.Removal{Force: true}); err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
	cluster.wantFloors(t, "after two nodes left", collected, "storage-3", "storage-4", "storage-5")

	late := cluster.startLate(t, "c2", time.Hour)
	for key, timestamp := range collected {
		if r := put(t, late, key, "again", coord.Quorum); len(r.Clock) == 0 {
			t.Fatal("no clock")
		}
		for _, id := range []string{"storage-3", "storage-4", "storage-5"} {
			if h := held(t, cluster.nodes[id], key); h.Exists() && h.Timestamp <= timestamp {
				t.Fatalf("%s on %s was written at %d, and was deleted at %d before", key, id, h.Timestamp, timestamp)
			}
		}
	}
}

// More replicas know what the few knew.
func TestFloorsAreGivenToMoreReplicas(t *testing.T) {
	cluster := newCluster(t, 3)
	c := cluster.start(t, "c1", nil)
	resize := func(to int) {
		t.Helper()
		_, begun, err := c.SetReplicationFactor(t.Context(), "shop", to)
		if err != nil {
			t.Fatal(err)
		}
		completed(t, c, begun)
	}
	resize(1)
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	collected := cluster.forget(t, c, keys)
	if len(collected) != len(keys) {
		t.Fatalf("%d keys of %d were forgotten", len(collected), len(keys))
	}
	resize(3)
	cluster.wantFloors(t, "with three replicas", collected, "storage-1", "storage-2", "storage-3")
}

// startLate is another coordinator, whose clock is behind.
func (c *cluster) startLate(t testing.TB, id string, behind time.Duration) *coord.Coordinator {
	t.Helper()
	identity, err := c.metadata.AcquireIdentity(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	engine, err := coord.New(t.Context(), coord.Options{
		Identity: identity, Metadata: c.metadata, Idempotency: c.claims,
		Connect: func(n coord.StorageNode) (coord.Replica, error) { return c.nodes[n.ID], nil },
		Wall:    func() time.Time { return time.Now().Add(-behind) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
		identity.Release()
	})
	return engine
}

// What is left on one node after the others were lost is copied to those that
// come, and not missed by a quorum of them alone.
func TestNodesThatComeAfterALossAreGivenWhatIsLeft(t *testing.T) {
	cluster := newCluster(t, 5)
	late := map[string]*gate{}
	for _, id := range []string{"storage-4", "storage-5"} {
		late[id] = cluster.nodes[id]
		delete(cluster.nodes, id)
	}
	c := cluster.start(t, "c1", nil)
	for i := range 20 {
		put(t, c, fmt.Sprint("k", i), "value", coord.All)
	}
	gone := errors.New("its disk is lost")
	for _, id := range []string{"storage-2", "storage-3"} {
		cluster.nodes[id].down.Store(&gone)
		begun, err := c.RemoveNode(t.Context(), id, coord.Removal{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		completed(t, c, begun)
	}
	for id, g := range late {
		cluster.nodes[id] = g
		begun, err := c.AddNode(t.Context(), coord.StorageNode{ID: id, Host: "127.0.0.1", Port: 1, VirtualNodes: 32})
		if err != nil {
			t.Fatal(err)
		}
		if begun.ID != "" {
			completed(t, c, begun)
		}
	}
	cluster.nodes["storage-1"].down.Store(&gone)
	for i := range 20 {
		key := fmt.Sprint("k", i)
		if v, err := get(t, c, key, coord.Quorum); errors.Is(err, coord.ErrKeyNotFound) || err == nil && v != "value" {
			t.Fatalf("%s is %q, %v; want what was acknowledged, or that nobody can tell", key, v, err)
		}
	}
}
