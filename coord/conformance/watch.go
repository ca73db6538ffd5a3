package conformance

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

// promptly is how soon a change must be told of.
const promptly = time.Second

// watching is a Watch under way.
type watching struct {
	changes chan coord.Change // Lost ones are left out
	stop    context.CancelFunc
	ended   chan struct{}
}

// watch begins to watch, and returns when changes are noticed; it ends with the
// test. It returns nil where the store does not tell of changes.
func watch(t *testing.T, m *metadataTest, h coord.Metadata) *watching {
	t.Helper()
	watcher, ok := h.(coord.Watcher)
	if !ok {
		return nil
	}
	ctx, stop := context.WithCancel(m.ctx)
	w := &watching{changes: make(chan coord.Change, 1000), stop: stop, ended: make(chan struct{})}
	var inside atomic.Int32
	go func() {
		defer close(w.ended)
		watcher.Watch(ctx, func(c coord.Change) {
			if inside.Add(1) != 1 {
				t.Error("two changes are told at once")
			}
			if !c.Lost {
				w.changes <- c
			}
			inside.Add(-1)
		})
	}()
	t.Cleanup(func() {
		stop()
		<-w.ended
	})
	// A change that is made again and again until it is heard of.
	for again := time.NewTicker(5 * time.Millisecond); ; {
		if _, _, err := h.SetReplicationFactor(m.ctx, "probe", 3); err != nil {
			if _, err := h.CreateTenant(m.ctx, "probe", 3); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-w.changes:
			again.Stop()
			return w
		case <-again.C:
		case <-m.ctx.Done():
			t.Fatal("no change is told")
		}
	}
}

// want waits for a change.
func (w *watching) want(t *testing.T, what string, want coord.Change) {
	t.Helper()
	late := time.NewTimer(promptly)
	defer late.Stop()
	for {
		select {
		case c := <-w.changes:
			if c == want {
				return
			}
			if c.Tenant != "probe" {
				t.Errorf("%s: told of %+v, want %+v", what, c, want)
			}
		case <-late.C:
			t.Errorf("%s: not told within %v", what, promptly)
			return
		}
	}
}

func watchChanges(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	own, other := watch(t, m, a), watch(t, m, b)
	if own == nil {
		return
	}
	topology := coord.Change{Topology: true}
	node := member("x")
	steps := []struct {
		what string
		want coord.Change
		do   func() error
	}{
		{"create a tenant", coord.Change{Tenant: "shop"}, func() error { _, err := a.CreateTenant(m.ctx, "shop", 3); return err }},
		{"set its replication factor", coord.Change{Tenant: "shop"}, func() error { _, _, err := a.SetReplicationFactor(m.ctx, "shop", 5); return err }},
		{"delete it", coord.Change{Tenant: "shop"}, func() error { return a.DeleteTenant(m.ctx, "shop") }},
		{"add a node", topology, func() error { _, err := a.PutNode(m.ctx, 0, node); return err }},
		{"move a node", topology, func() error { node.Port++; _, err := a.PutNode(m.ctx, 1, node); return err }},
		{"drain a node", topology, func() error { node.Status = coord.NodeDraining; _, err := a.PutNode(m.ctx, 1, node); return err }},
		{"remove a node", topology, func() error { _, err := a.RemoveNode(m.ctx, 2, "x"); return err }},
	}
	for _, id := range sortedOddIDs(t) {
		steps = append(steps, struct {
			what string
			want coord.Change
			do   func() error
		}{"create tenant " + id, coord.Change{Tenant: id}, func() error { _, err := a.CreateTenant(m.ctx, id, 3); return err }})
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		own.want(t, step.what+", by the handle itself", step.want)
		other.want(t, step.what+", by another handle", step.want)
	}
}

func watchSeveral(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	first, second := watch(t, m, a), watch(t, m, a)
	if first == nil {
		return
	}
	mustCreate(t, m, b, "both", 3)
	first.want(t, "one watcher", coord.Change{Tenant: "both"})
	second.want(t, "another watcher", coord.Change{Tenant: "both"})
	first.stop()
	<-first.ended
	mustCreate(t, m, b, "one", 3)
	second.want(t, "the watcher that is left", coord.Change{Tenant: "one"})
}

// watchEnds: Watch returns when its context ends, and soon.
func watchEnds(t *testing.T, m *metadataTest) {
	h := m.open(t)
	w := watch(t, m, h)
	if w == nil {
		return
	}
	w.stop()
	select {
	case <-w.ended:
	case <-time.After(5 * time.Second):
		t.Error("Watch goes on after its context has ended")
	}
	ended, cancel := context.WithCancel(m.ctx)
	cancel()
	h.(coord.Watcher).Watch(ended, func(coord.Change) {})
}
