package conformance

import (
	"context"
	"slices"
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
		if err := h.DeleteTenant(m.ctx, "probe"); err != nil {
			if _, err := h.CreateTenant(m.ctx, "probe", 3, 0); err != nil {
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

// want waits for changes, in any order.
func (w *watching) want(t *testing.T, what string, want ...coord.Change) {
	t.Helper()
	late := time.NewTimer(promptly)
	defer late.Stop()
	for want = slices.Clone(want); len(want) > 0; {
		select {
		case c := <-w.changes:
			if at := slices.Index(want, c); at >= 0 {
				want = slices.Delete(want, at, at+1)
			} else if c.Tenant != "probe" {
				t.Errorf("%s: told of %+v, want %+v", what, c, want)
			}
		case <-late.C:
			t.Errorf("%s: not told of %+v within %v", what, want, promptly)
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
	tenant, topology := []coord.Change{{Tenant: "shop"}}, []coord.Change{{Topology: true}}
	type action struct {
		what string
		want []coord.Change
		do   func() error
	}
	version := uint64(0)
	set := func(change func(*coord.TopologyStep)) func() error {
		return func() error {
			version++
			s := coord.TopologyStep{Next: coord.Topology{Version: version, Epoch: version}}
			change(&s)
			return a.SetTopology(m.ctx, s)
		}
	}
	steps := []action{
		{"create a tenant", tenant, func() error { _, err := a.CreateTenant(m.ctx, "shop", 3, 0); return err }},
		{"add a node", topology, set(func(s *coord.TopologyStep) { s.Next.Nodes = []coord.StorageNode{member("x")} })},
		{"change nothing but the version", topology, set(func(s *coord.TopologyStep) { s.Next.Epoch-- })},
		{"resize the tenant", []coord.Change{topology[0], tenant[0]}, set(func(s *coord.TopologyStep) { s.Resize = &coord.Resize{Tenant: "shop", ReplicationFactor: 5} })},
		{"delete it", tenant, func() error { return a.DeleteTenant(m.ctx, "shop") }},
		{"resize it when it is gone", topology, set(func(s *coord.TopologyStep) { s.Resize = &coord.Resize{Tenant: "shop", ReplicationFactor: 3} })},
	}
	for _, id := range sortedOddIDs(t) {
		steps = append(steps, action{"create tenant " + id, []coord.Change{{Tenant: id}}, func() error { _, err := a.CreateTenant(m.ctx, id, 3, 0); return err }})
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		own.want(t, step.what+", by the handle itself", step.want...)
		other.want(t, step.what+", by another handle", step.want...)
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
