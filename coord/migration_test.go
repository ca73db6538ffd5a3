package coord

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pairdb/coordinator/ring"
)

func topologyOf(ids ...string) Topology {
	var t Topology
	for _, id := range ids {
		t = t.WithMember(StorageNode{ID: id, UUID: "uuid-" + id, Host: "h", Port: 1, VirtualNodes: 8})
	}
	return t
}

func ringIDs(t *testing.T, r *ring.Ring, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if r == nil {
		return nil
	}
	var ids []string
	for _, n := range r.Nodes() {
		ids = append(ids, n.ID)
	}
	return ids
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Each migration is two epochs, between which both rings count.
func TestMigrationSteps(t *testing.T) {
	now := time.Unix(1_700_000_000, 0).UTC()
	joining := &StorageNode{ID: "d", UUID: "uuid-d", Host: "h", Port: 4, VirtualNodes: 8}
	other := &StorageNode{ID: "a", UUID: "another", Host: "h", Port: 9, VirtualNodes: 8}
	for _, c := range []struct {
		name                 string
		m                    Migration
		old, joint, after    []string
		cancelled            []string // members after a cancel; nil: it is refused
		unswept, undoUnswept []string
	}{
		{"add", Migration{Kind: MigrationAdd, Node: "d", Joining: joining},
			[]string{"a", "b", "c"}, []string{"a", "b", "c", "d"}, []string{"a", "b", "c", "d"}, []string{"a", "b", "c"}, []string{"a", "b", "c"}, nil},
		{"remove", Migration{Kind: MigrationRemove, Node: "b"},
			[]string{"a", "b", "c"}, []string{"a", "c"}, []string{"a", "c"}, []string{"a", "b", "c"}, nil, []string{"a", "c"}},
		{"force", Migration{Kind: MigrationRemove, Node: "b", Force: true},
			[]string{"a", "b", "c"}, []string{"a", "c"}, []string{"a", "c"}, nil, nil, nil},
		{"replace", Migration{Kind: MigrationReplace, Node: "a", Joining: other},
			[]string{"a", "b", "c"}, nil, []string{"a", "b", "c"}, nil, nil, nil},
		{"fewer replicas", Migration{Kind: MigrationResize, Tenant: "t", From: 3, To: 2},
			[]string{"a", "b", "c"}, nil, []string{"a", "b", "c"}, []string{"a", "b", "c"}, []string{"a", "b", "c"}, nil},
		{"more replicas", Migration{Kind: MigrationResize, Tenant: "t", From: 1, To: 2},
			[]string{"a", "b", "c"}, nil, []string{"a", "b", "c"}, []string{"a", "b", "c"}, nil, []string{"a", "b", "c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := topologyOf("a", "b", "c")
			c.m.ID = "m"
			queued := must[Topology](t)(start.Queue(c.m))
			if queued.Epoch != start.Epoch || queued.Version != start.Version+1 {
				t.Errorf("waiting has epoch %d and version %d, want %d and %d", queued.Epoch, queued.Version, start.Epoch, start.Version+1)
			}
			if got := memberIDs(t, &queued); !slices.Equal(got, c.old) {
				t.Errorf("while it waits the members are %v", got)
			}
			if _, err := queued.Cancel("m", now); errors.Is(err, ErrMigrationConflict) != c.m.Force {
				t.Errorf("cancel while it waits: %v", err)
			}
			joint := must[Topology](t)(queued.Begin("m", now))
			if joint.Epoch != start.Epoch+1 || joint.Current() == nil || joint.Current().Joint != joint.Epoch {
				t.Errorf("under way: epoch %d, %+v", joint.Epoch, joint.Current())
			}
			if got := memberIDs(t, &joint); !slices.Equal(got, c.old) {
				t.Errorf("under way the members before are %v, want %v", got, c.old)
			}
			next, err := joint.NextRing()
			if got := ringIDs(t, next, err); !slices.Equal(got, c.joint) {
				t.Errorf("under way the members after are %v, want %v", got, c.joint)
			}
			done, resize, err := joint.Finish(now)
			if err != nil || done.Epoch != start.Epoch+2 || done.Current() != nil {
				t.Fatalf("finished: epoch %d, %v", done.Epoch, err)
			}
			if got := memberIDs(t, &done); !slices.Equal(got, c.after) {
				t.Errorf("afterwards the members are %v, want %v", got, c.after)
			}
			if (resize != nil) != (c.m.Kind == MigrationResize) || resize != nil && (resize.ReplicationFactor != c.m.To || done.TenantsEpoch != done.Epoch) {
				t.Errorf("finished: resize %+v, tenants' epoch %d of %d", resize, done.TenantsEpoch, done.Epoch)
			}
			if got := unswept(&done); !slices.Equal(got, c.unswept) {
				t.Errorf("afterwards unswept: %v, want %v", got, c.unswept)
			}
			undone, err := joint.Cancel("m", now)
			if c.cancelled == nil {
				if !errors.Is(err, ErrMigrationConflict) {
					t.Errorf("cancel of one that gave up on a node: %v", err)
				}
				return
			}
			if err != nil || undone.Epoch != start.Epoch+2 {
				t.Fatalf("cancelled: epoch %d, %v", undone.Epoch, err)
			}
			if got := memberIDs(t, &undone); !slices.Equal(got, c.cancelled) {
				t.Errorf("cancelled: members %v, want %v", got, c.cancelled)
			}
			if got := unswept(&undone); !slices.Equal(got, c.undoUnswept) {
				t.Errorf("cancelled: unswept %v, want %v", got, c.undoUnswept)
			}
			if _, err := done.Cancel("m", now); !errors.Is(err, ErrMigrationConflict) {
				t.Errorf("cancel of one that is done: %v", err)
			}
		})
	}
}

func memberIDs(t *testing.T, topology *Topology) []string {
	t.Helper()
	r, err := topology.Ring()
	return ringIDs(t, r, err)
}

func unswept(t *Topology) (ids []string) {
	for _, n := range t.Nodes {
		if n.Unswept != 0 {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// A node that may hold what it no longer owns is swept before it is given more.
func TestUnsweptNodesWait(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	grown := must[Topology](t)(func() (Topology, error) {
		start := topologyOf("a", "b", "c")
		q, err := start.Queue(Migration{ID: "1", Kind: MigrationAdd, Node: "d", Joining: &StorageNode{ID: "d", VirtualNodes: 8}})
		if err != nil {
			return q, err
		}
		if q, err = q.Begin("1", now); err != nil {
			return q, err
		}
		q, _, err = q.Finish(now)
		return q, err
	}())
	queued := must[Topology](t)(grown.Queue(Migration{ID: "2", Kind: MigrationRemove, Node: "d"}))
	if must := queued.MustSweep(queued.Migration("2")); !slices.Equal(must, []string{"a", "b", "c"}) {
		t.Errorf("to be swept: %v", must)
	}
	if _, err := queued.Swept("a", queued.Epoch-1); !errors.Is(err, ErrMigrationConflict) {
		t.Errorf("swept at an older epoch: %v", err)
	}
	for _, id := range []string{"a", "b", "c"} {
		queued = must[Topology](t)(queued.Swept(id, queued.Epoch))
	}
	if must := queued.MustSweep(queued.Migration("2")); len(must) > 0 {
		t.Errorf("still to be swept: %v", must)
	}
}

func TestQueueBounds(t *testing.T) {
	q := topologyOf("a", "b", "c")
	resize := func(i int) Migration {
		return Migration{ID: fmt.Sprint(i), Kind: MigrationResize, Tenant: fmt.Sprint("t", i), From: 1, To: 2}
	}
	for i := range maxWaitingMigrations {
		q = must[Topology](t)(q.Queue(resize(i)))
	}
	if _, err := q.Queue(resize(maxWaitingMigrations)); !errors.Is(err, ErrMigrationConflict) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := q.Queue(resize(0)); !errors.Is(err, ErrMigrationConflict) {
		t.Errorf("another of the same tenant: %v", err)
	}
	for i := range maxWaitingMigrations {
		q = must[Topology](t)(q.Cancel(fmt.Sprint(i), time.Unix(int64(i+1), 0)))
	}
	for i := range 50 {
		q = must[Topology](t)(q.Queue(resize(1000 + i)))
		q = must[Topology](t)(q.Cancel(fmt.Sprint(1000+i), time.Unix(5000, 0)))
	}
	if len(q.Migrations) != keptMigrations || q.Migrations[len(q.Migrations)-1].ID != "1049" || q.Migration("0") != nil {
		t.Errorf("%d ended migrations are remembered, the last is %s", len(q.Migrations), q.Migrations[len(q.Migrations)-1].ID)
	}
}

func TestTopologyEncoding(t *testing.T) {
	start := topologyOf("a", "b")
	q := must[Topology](t)(start.Queue(Migration{ID: "1", Kind: MigrationRemove, Node: "b", Force: true, AcceptLoss: true, CreatedAt: time.Unix(7, 0).UTC()}))
	encoded := must[[]byte](t)(q.Encode())
	got, err := DecodeTopology(encoded)
	if err != nil || got.Version != q.Version || got.Epoch != q.Epoch || !slices.Equal(got.Nodes, q.Nodes) ||
		len(got.Migrations) != 1 || got.Migrations[0] != q.Migrations[0] {
		t.Errorf("%+v, %v, want %+v", got, err, q)
	}
	for _, bad := range []string{"", "{", `{"format":2}`, `[]`, `{"format":1,"epoch":-1}`} {
		if _, err := DecodeTopology([]byte(bad)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("decode %q: %v", bad, err)
		}
	}
}

func FuzzDecodeTopology(f *testing.F) {
	f.Add([]byte(`{"format":1,"version":3,"epoch":2,"nodes":[{"id":"a","virtual_nodes":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		decoded, err := DecodeTopology(b)
		if err != nil {
			return
		}
		again, err := decoded.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeTopology(again); err != nil {
			t.Fatalf("%s does not decode again: %v", again, err)
		}
	})
}
