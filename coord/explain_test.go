package coord_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/ring"
)

func TestExplainTellsWhereAKeyLives(t *testing.T) {
	c := newCluster(t, 5)
	engine := c.start(t, "coordinator-1", nil)
	got, err := engine.Explain(t.Context(), "shop", "cart", coord.LevelDefault)
	if err != nil {
		t.Fatal(err)
	}
	if got.Token != ring.KeyToken("shop", "cart") || got.ReplicationFactor != 3 || got.Level != coord.Quorum || got.Epoch != engine.Status(t.Context()).Epoch {
		t.Errorf("got %+v", got)
	}
	var members []ring.Node
	for id := range c.nodes {
		members = append(members, ring.Node{ID: id, VirtualNodes: 32})
	}
	r, err := ring.New(1, members)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, n := range r.Replicas(nil, got.Token, 3) {
		want = append(want, r.Nodes()[n].ID)
	}
	var nodes []string
	for i, replica := range got.Replicas {
		nodes = append(nodes, replica.Node.ID)
		if replica.Place != i+1 || replica.Standing != coord.Preferred {
			t.Errorf("%s is at place %d, %v", replica.Node.ID, replica.Place, replica.Standing)
		}
	}
	if !slices.Equal(nodes, want) {
		t.Errorf("replicas %v, want %v", nodes, want)
	}
	levels := []coord.ExplainedLevel{{Level: coord.One, Need: 1, Met: true}, {Level: coord.Quorum, Need: 2, Met: true}, {Level: coord.All, Need: 3, Met: true}}
	if !slices.Equal(got.Levels, levels) {
		t.Errorf("levels %+v, want %+v", got.Levels, levels)
	}

	// A node that is down goes last, and is missed at all.
	down := errors.New("connection refused")
	c.nodes[want[0]].down.Store(&down)
	if got, err = engine.Explain(t.Context(), "shop", "cart", coord.All); err != nil {
		t.Fatal(err)
	}
	last := got.Replicas[2]
	if last.Node.ID != want[0] || last.Place != 1 || last.Standing != coord.Down || !errors.Is(last.Unavailable, down) {
		t.Errorf("the node that is down: %+v", last)
	}
	if !got.Levels[1].Met || got.Levels[2].Met {
		t.Errorf("levels with a node down: %+v", got.Levels)
	}
	if _, err := engine.Explain(t.Context(), "nobody", "cart", coord.One); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("unknown tenant: %v", err)
	}
}

func TestInspectReadsEveryReplicaAndChangesNothing(t *testing.T) {
	c := newCluster(t, 3)
	engine := c.start(t, "coordinator-1", nil)
	write := func(value string) {
		t.Helper()
		if _, err := engine.Write(t.Context(), coord.WriteRequest{Tenant: "shop", Key: "cart", Value: []byte(value), Level: coord.Quorum}); err != nil {
			t.Fatal(err)
		}
	}
	inspect := func() map[string]coord.Copy {
		t.Helper()
		copies, err := engine.Inspect(t.Context(), "shop", "cart")
		if err != nil {
			t.Fatal(err)
		}
		byNode := map[string]coord.Copy{}
		for _, copy := range copies {
			byNode[copy.Node] = copy
		}
		if len(byNode) != 3 {
			t.Fatalf("copies %+v", copies)
		}
		return byNode
	}
	for node, copy := range inspect() {
		if copy.Err != nil || copy.Version.Exists() || copy.Greatest {
			t.Errorf("before any write %s holds %+v", node, copy)
		}
	}
	write("old")
	waitFor(t, "all replicas to hold the first version", func() bool {
		for _, copy := range inspect() {
			if string(copy.Version.Value) != "old" {
				return false
			}
		}
		return true
	})
	down := errors.New("cut off")
	c.nodes["storage-2"].down.Store(&down)
	write("new")
	c.nodes["storage-2"].down.Store(nil)
	for range 2 { // a second look finds the same: nothing was repaired
		for node, copy := range inspect() {
			want, relation := "new", coord.Equal
			if node == "storage-2" {
				want, relation = "old", coord.Before
			}
			if copy.Err != nil || string(copy.Version.Value) != want || copy.Relation != relation || copy.Greatest != (relation == coord.Equal) {
				t.Errorf("%s holds %s %q, relation %v, greatest %t, error %v", node, copy.Version.String(), copy.Version.Value, copy.Relation, copy.Greatest, copy.Err)
			}
		}
	}
	if _, err := engine.Inspect(t.Context(), "nobody", "cart"); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("unknown tenant: %v", err)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
