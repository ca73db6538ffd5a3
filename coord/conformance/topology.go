package conformance

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

func emptyTopology(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	wantTopology(t, m, "new store", coord.Topology{}, a, b)
	for _, version := range []uint64{0, 2, 3, math.MaxUint64} {
		err := a.SetTopology(m.ctx, coord.TopologyStep{Next: coord.Topology{Version: version, Epoch: 1}})
		wantErr(t, fmt.Sprintf("version %d before the first", version), err, coord.ErrMigrationConflict)
	}
	wantTopology(t, m, "after that", coord.Topology{}, a, b)
	want := step(t, m, b, nil)
	if want.Version != 1 || want.Epoch != 1 {
		t.Errorf("the first step makes %+v", want)
	}
	wantTopology(t, m, "after the first step", want, a, b)
}

// topologyDocument: what is set comes back, whatever is in it.
func topologyDocument(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	first := step(t, m, a, func(s *coord.TopologyStep) {
		s.Next.Epoch, s.Next.TenantsEpoch = math.MaxInt64, 7
		for i, id := range sortedOddIDs(t) {
			s.Next.Nodes = append(s.Next.Nodes, coord.StorageNode{
				ID: id, UUID: strings.Repeat("u", i), Host: "h" + id, Port: 1 + i, VirtualNodes: 1 + i*100, Unswept: uint64(i),
				Status: []coord.NodeStatus{coord.NodeActive, coord.NodeInactive, coord.NodeDraining}[i%3],
			})
			s.Next.Gone = append(s.Next.Gone, "gone-"+id)
		}
		joining := member("<joining>")
		s.Next.Migrations = []coord.Migration{
			{ID: "1", Kind: coord.MigrationRemove, Status: coord.MigrationFailed, Node: "a", Force: true, AcceptLoss: true, Joint: 3, CreatedAt: at, StartedAt: at, EndedAt: at, Error: "why\nit failed"},
			{ID: "2", Kind: coord.MigrationReplace, Status: coord.MigrationInProgress, Node: "b", Joining: &joining, Joint: 4, CreatedAt: at, StartedAt: at},
			{ID: "3", Kind: coord.MigrationResize, Status: coord.MigrationPending, Tenant: "shop", From: 3, To: 5, CreatedAt: at},
		}
	})
	wantTopology(t, m, "every field", first, a, b)
	// It is replaced as a whole, and any part may become less.
	second := coord.Topology{Version: 2, Epoch: 1, Gone: []string{"x"}}
	if err := b.SetTopology(m.ctx, coord.TopologyStep{Next: second}); err != nil {
		t.Fatal(err)
	}
	wantTopology(t, m, "replaced", second, a, b)
	large := step(t, m, a, func(s *coord.TopologyStep) {
		for i := range 5000 {
			s.Next.Nodes = append(s.Next.Nodes, member(fmt.Sprintf("node-%06d", i)))
		}
	})
	wantTopology(t, m, "five thousand nodes", large, a, b)
	err := a.SetTopology(m.ctx, coord.TopologyStep{Next: coord.Topology{Version: 4, Epoch: math.MaxInt64 + 1}})
	if err == nil || errors.Is(err, coord.ErrMetadataUnavailable) || errors.Is(err, coord.ErrMigrationConflict) {
		t.Errorf("an epoch out of range: got %v, want a plain error", err)
	}
	wantTopology(t, m, "after what was refused", large, a, b)
}

func outdatedVersion(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	step(t, m, a, nil)
	want := step(t, m, b, func(s *coord.TopologyStep) { s.Next.Nodes = []coord.StorageNode{member("x")} })
	shop := mustCreate(t, m, a, "shop", 3)
	for name, h := range map[string]coord.Metadata{"the same handle": b, "another handle": a} {
		for _, version := range []uint64{0, 1, 2, 4, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
			err := h.SetTopology(m.ctx, coord.TopologyStep{
				Next:   coord.Topology{Version: version, Epoch: 9, Nodes: []coord.StorageNode{member("z")}},
				Resize: &coord.Resize{Tenant: "shop", ReplicationFactor: 1},
			})
			wantErr(t, fmt.Sprintf("version %d by %s", version, name), err, coord.ErrMigrationConflict)
			if errors.Is(err, coord.ErrMetadataUnavailable) {
				t.Errorf("version %d by %s: an answer must not pass for the lack of one: %v", version, name, err)
			}
		}
		wantTopology(t, m, "after refused steps", want, h)
		wantTenant(t, m, shop, h)
	}
}

// concurrentTopologyChanges: of n steps from one version exactly one is taken,
// and the topology is its own.
func concurrentTopologyChanges(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const callers = 8
	mustCreate(t, m, handles[0], "shop", 100)
	for round := range uint64(3) {
		winner := -1
		for i, err := range concurrently(callers, func(i int) error {
			return handles[i%2].SetTopology(m.ctx, coord.TopologyStep{
				Next:   coord.Topology{Version: round + 1, Epoch: round + 1, Gone: []string{fmt.Sprint(i)}},
				Resize: &coord.Resize{Tenant: "shop", ReplicationFactor: 1 + i},
			})
		}) {
			switch {
			case err != nil:
				wantErr(t, "a loser", err, coord.ErrMigrationConflict)
			case winner >= 0:
				t.Errorf("callers %d and %d both took version %d", winner, i, round+1)
			default:
				winner = i
			}
		}
		wantTopology(t, m, "after callers at once", coord.Topology{Version: round + 1, Epoch: round + 1, Gone: []string{fmt.Sprint(winner)}}, handles...)
		if shop, err := handles[0].Tenant(m.ctx, "shop"); err != nil || shop.ReplicationFactor != 1+winner {
			t.Errorf("caller %d took the step, and the tenant is %+v, %v", winner, shop, err)
		}
	}
	// Whoever looks again and tries again gets through.
	for _, err := range concurrently(callers, func(i int) error {
		h := handles[i%2]
		for {
			next, err := h.Topology(m.ctx)
			if err != nil {
				return err
			}
			next.Version++
			next.Gone = append(next.Gone, fmt.Sprintf("again-%d", i))
			if err = h.SetTopology(m.ctx, coord.TopologyStep{Next: next}); !errors.Is(err, coord.ErrMigrationConflict) {
				return err
			}
		}
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if topology := mustTopology(t, m, handles[1]); topology.Version != 3+callers || len(topology.Gone) != 1+callers {
		t.Errorf("got version %d with %q, want version %d with a mark of each of %d callers", topology.Version, topology.Gone, 3+callers, callers)
	}
}

func leastReplicas(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	try := func(least int) error {
		next := mustTopology(t, m, b)
		next.Version++
		return b.SetTopology(m.ctx, coord.TopologyStep{
			Next: next, LeastReplicas: least, Resize: &coord.Resize{Tenant: "five", ReplicationFactor: 5},
		})
	}
	if err := try(math.MaxInt32); err != nil {
		t.Errorf("without a tenant no condition can fail: %v", err)
	}
	mustCreate(t, m, a, "five", 5)
	mustCreate(t, m, a, "three", 3)
	for _, test := range []struct {
		least int
		holds bool
	}{{0, true}, {-1, true}, {1, true}, {3, true}, {4, false}, {5, false}, {6, false}} {
		before := mustTopology(t, m, a)
		five, err := a.Tenant(m.ctx, "five")
		if err != nil {
			t.Fatal(err)
		}
		err = try(test.least)
		if test.holds {
			if err != nil {
				t.Errorf("at least %d replicas: %v", test.least, err)
			}
			continue
		}
		wantErr(t, fmt.Sprintf("at least %d replicas", test.least), err, coord.ErrMigrationConflict)
		wantTopology(t, m, "after a step whose condition does not hold", before, a, b)
		wantTenant(t, m, five, a, b)
	}
	// A resize of the same step does not help.
	next := mustTopology(t, m, a)
	next.Version++
	err := a.SetTopology(m.ctx, coord.TopologyStep{Next: next, LeastReplicas: 5, Resize: &coord.Resize{Tenant: "three", ReplicationFactor: 5}})
	wantErr(t, "at least 5 replicas, with a resize of the tenant with 3", err, coord.ErrMigrationConflict)
	if err := a.DeleteTenant(m.ctx, "three"); err != nil {
		t.Fatal(err)
	}
	if err := try(5); err != nil {
		t.Errorf("at least 5 replicas, after the tenant with 3 was deleted: %v", err)
	}
}

// leastReplicasConcurrently creates tenants that break the condition of a step
// while the step is taken: each is of before the step, which then fails, or of
// after it.
func leastReplicasConcurrently(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const creators = 4
	for round := range uint64(15) {
		before, created := 0, make([]coord.Tenant, creators)
		errs := concurrently(1+creators, func(i int) (err error) {
			if i < creators {
				created[i], err = handles[i%2].CreateTenant(m.ctx, fmt.Sprintf("t%d", i), 2, 0)
				return err
			}
			next := coord.Topology{Version: round + 1, Epoch: round + 1}
			return handles[0].SetTopology(m.ctx, coord.TopologyStep{Next: next, LeastReplicas: 3})
		})
		for i, tenant := range created {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			if tenant.Since == round {
				before++
			} else if tenant.Since != round+1 {
				t.Fatalf("created at epoch %d or %d: %+v", round, round+1, tenant)
			}
			if err := handles[0].DeleteTenant(m.ctx, tenant.ID); err != nil {
				t.Fatal(err)
			}
		}
		switch err := errs[creators]; {
		case err == nil && before > 0:
			t.Fatalf("round %d: %d tenants of before the step break its condition, and it was taken", round, before)
		case err != nil:
			wantErr(t, "the step", err, coord.ErrMigrationConflict)
			if before != creators {
				t.Errorf("round %d: the step failed, and %d of %d tenants are of before it", round, before, creators)
			}
			step(t, m, handles[1], nil)
		}
	}
}

func mostReplicas(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	try := func(most int) error {
		next := mustTopology(t, m, b)
		next.Version++
		return b.SetTopology(m.ctx, coord.TopologyStep{Next: next, MostReplicas: most})
	}
	if err := try(1); err != nil {
		t.Errorf("without a tenant no condition can fail: %v", err)
	}
	mustCreate(t, m, a, "one", 1)
	mustCreate(t, m, a, "three", 3)
	for _, test := range []struct {
		most  int
		holds bool
	}{{0, true}, {-1, true}, {1, false}, {2, false}, {3, true}, {math.MaxInt32, true}} {
		before := mustTopology(t, m, a)
		err := try(test.most)
		if test.holds {
			if err != nil {
				t.Errorf("at most %d replicas: %v", test.most, err)
			}
			continue
		}
		wantErr(t, fmt.Sprintf("at most %d replicas", test.most), err, coord.ErrMigrationConflict)
		wantTopology(t, m, "after a step whose condition does not hold", before, a, b)
	}
}

func createAtEpoch(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	step(t, m, a, func(s *coord.TopologyStep) { s.Next.Epoch = 5 })
	for _, epoch := range []uint64{1, 4, 6, math.MaxUint64} {
		_, err := b.CreateTenant(m.ctx, "shop", 3, epoch)
		wantErr(t, fmt.Sprintf("created as of epoch %d, at 5", epoch), err, coord.ErrMigrationConflict)
		_, err = a.Tenant(m.ctx, "shop")
		wantErr(t, "it was not created", err, coord.ErrTenantNotFound)
	}
	shop, err := b.CreateTenant(m.ctx, "shop", 3, 5)
	if err != nil || shop.Since != 5 {
		t.Fatalf("created as of epoch 5: %+v, %v", shop, err)
	}
	wantTenant(t, m, shop, a, b)
	_, err = a.CreateTenant(m.ctx, "shop", 3, 4)
	wantErr(t, "one that exists, as of an outdated epoch", err, coord.ErrTenantExists)
}

// removalAgainstCreation has a node removed, which leaves two, while tenants with three
// replicas are created: one of both fails, whichever comes second.
func removalAgainstCreation(t *testing.T, m *metadataTest) {
	handles := []coord.Metadata{m.open(t), m.open(t)}
	const creators = 4
	step(t, m, handles[0], nil)
	for range 15 {
		now := mustTopology(t, m, handles[0])
		errs := concurrently(1+creators, func(i int) (err error) {
			if i < creators {
				_, err = handles[i%2].CreateTenant(m.ctx, fmt.Sprintf("t%d", i), 3, now.Epoch)
				return err
			}
			next := coord.Topology{Version: now.Version + 1, Epoch: now.Epoch + 1}
			return handles[1].SetTopology(m.ctx, coord.TopologyStep{Next: next, MostReplicas: 2})
		})
		created := 0
		for i, err := range errs[:creators] {
			if err != nil {
				wantErr(t, "a tenant", err, coord.ErrMigrationConflict)
				continue
			}
			created++
			if err := handles[0].DeleteTenant(m.ctx, fmt.Sprintf("t%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		removed := errs[creators] == nil
		if !removed {
			wantErr(t, "the removal", errs[creators], coord.ErrMigrationConflict)
		}
		if removed == (created > 0) {
			t.Fatalf("removed %t, and %d of %d tenants were created", removed, created, creators)
		}
	}
}

// resizeFollower is about a tenant that was made anew before the resize of the
// one before it: it keeps its own.
func resizeFollower(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	first := mustCreate(t, m, a, "shop", 3)
	if err := a.DeleteTenant(m.ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	shop := mustCreate(t, m, b, "shop", 2)
	next := step(t, m, a, func(s *coord.TopologyStep) {
		s.Next.Epoch++
		s.Resize = &coord.Resize{Tenant: "shop", Space: first.Space, ReplicationFactor: 5}
	})
	shop.AsOf = next.Epoch
	wantTenant(t, m, shop, a, b)
	next = step(t, m, a, func(s *coord.TopologyStep) {
		s.Next.Epoch++
		s.Resize = &coord.Resize{Tenant: "shop", Space: shop.Space, ReplicationFactor: 5}
	})
	got, err := b.Tenant(m.ctx, "shop")
	if err != nil || got.ReplicationFactor != 5 || got.Since != next.Epoch {
		t.Errorf("resized by its own space: %+v, %v", got, err)
	}
}

func resizeTenant(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	step(t, m, a, nil)
	shop := mustCreate(t, m, a, "shop", 3)
	other := mustCreate(t, m, a, "other", 3)
	for _, to := range []int{5, 2, 2} {
		next := step(t, m, b, func(s *coord.TopologyStep) {
			s.Next.Epoch += 2
			s.Resize = &coord.Resize{Tenant: "shop", ReplicationFactor: to}
		})
		got, err := a.Tenant(m.ctx, "shop")
		if err != nil {
			t.Fatal(err)
		}
		if got.UpdatedAt.Before(shop.UpdatedAt) || got.UpdatedAt.After(time.Now()) || got.UpdatedAt.Nanosecond() != 0 {
			t.Errorf("resized to %d: updated at %v, want a whole second between %v and now", to, got.UpdatedAt, shop.UpdatedAt)
		}
		shop.ReplicationFactor, shop.Since, shop.AsOf, shop.UpdatedAt = to, next.Epoch, next.Epoch, got.UpdatedAt
		other.AsOf = next.Epoch
		wantTenant(t, m, shop, a, b)
		wantTenant(t, m, other, a, b)
	}
}

func resizeGoneTenant(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	shop := mustCreate(t, m, a, "shop", 3)
	if err := a.DeleteTenant(m.ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"shop", "never"} {
		want := step(t, m, b, func(s *coord.TopologyStep) { s.Resize = &coord.Resize{Tenant: id, ReplicationFactor: 5} })
		wantTopology(t, m, "the step is taken all the same", want, a, b)
		_, err := a.Tenant(m.ctx, id)
		wantErr(t, "the tenant stays gone", err, coord.ErrTenantNotFound)
	}
	wantSpaces(t, m, "the space stays deleted", []string{shop.Space}, a, b)
}

// topologySnapshot takes steps that make all that belongs to them tell their
// epoch, and looks whether any reader sees parts of two.
func topologySnapshot(t *testing.T, m *metadataTest) {
	writer := m.open(t)
	readers := []coord.Metadata{writer, m.open(t)}
	take := func(epoch uint64) error {
		node := member("x")
		node.VirtualNodes = int(epoch)
		return writer.SetTopology(m.ctx, coord.TopologyStep{
			Next:   coord.Topology{Version: epoch, Epoch: epoch, Nodes: []coord.StorageNode{node}},
			Resize: &coord.Resize{Tenant: "shop", ReplicationFactor: int(epoch)},
		})
	}
	mustCreate(t, m, writer, "shop", 1)
	mustCreate(t, m, writer, "other", 1)
	if err := take(1); err != nil {
		t.Fatal(err)
	}
	const changes = 60
	written := make(chan struct{})
	var group sync.WaitGroup
	for _, reader := range readers {
		group.Go(func() {
			var last uint64
			for done := false; !done; {
				select {
				case <-written:
					done = true // one more look, at the end state
				default:
				}
				topology, err := reader.Topology(m.ctx)
				tenant, err2 := reader.Tenant(m.ctx, "shop")
				tenants, err3 := reader.Tenants(m.ctx, "", 10)
				if err := errors.Join(err, err2, err3); err != nil {
					t.Error(err)
					return
				}
				if len(topology.Nodes) != 1 || uint64(topology.Nodes[0].VirtualNodes) != topology.Epoch || topology.Version != topology.Epoch || topology.Epoch < last {
					t.Errorf("after epoch %d a reader saw the topology %+v", last, topology)
					return
				}
				if uint64(tenant.ReplicationFactor) != tenant.AsOf || tenant.Since != tenant.AsOf || tenant.AsOf < topology.Epoch {
					t.Errorf("after epoch %d a reader saw the tenant %+v", topology.Epoch, tenant)
					return
				}
				if len(tenants) != 2 || tenants[0].AsOf != tenants[1].AsOf || tenants[1].Since != tenants[1].AsOf ||
					uint64(tenants[1].ReplicationFactor) != tenants[1].AsOf || tenants[1].AsOf < tenant.AsOf {
					t.Errorf("after epoch %d a reader saw the tenants %+v", tenant.AsOf, tenants)
					return
				}
				last = tenants[1].AsOf
			}
			if last != changes {
				t.Errorf("the last epoch read is %d, want %d", last, changes)
			}
		})
	}
	for epoch := uint64(2); epoch <= changes; epoch++ {
		if err := take(epoch); err != nil {
			t.Errorf("step to epoch %d: %v", epoch, err)
			break
		}
	}
	close(written)
	group.Wait()
}

func tenantEpochs(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	first := mustCreate(t, m, a, "first", 3)
	step(t, m, a, func(s *coord.TopologyStep) { s.Next.Epoch = 5 })
	second := mustCreate(t, m, b, "second", 3)
	if second.Since != 5 || second.AsOf != 5 {
		t.Errorf("created at epoch 5: since epoch %d, as of epoch %d", second.Since, second.AsOf)
	}
	first.AsOf = 5
	wantTenant(t, m, first, a, b)
	wantTenant(t, m, second, a, b)
	step(t, m, b, func(s *coord.TopologyStep) { s.Next.Epoch = 9 })
	first.AsOf, second.AsOf = 9, 9
	wantTenant(t, m, first, a, b)
	wantTenant(t, m, second, a, b)
	for i, h := range []coord.Metadata{a, b} {
		tenants, err := h.Tenants(m.ctx, "", 10)
		if err != nil || len(tenants) != 2 || !sameTenant(tenants[0], first) || !sameTenant(tenants[1], second) {
			t.Errorf("handle %d lists %+v, %v; want %+v and %+v", i, tenants, err, first, second)
		}
	}
}

func replicationFactors(t *testing.T, m *metadataTest) {
	a, b := m.open(t), m.open(t)
	want := func(want ...int) {
		t.Helper()
		for _, h := range []coord.Metadata{a, b} {
			if got, err := h.ReplicationFactors(m.ctx); err != nil || !slices.Equal(got, want) {
				t.Errorf("replication factors: %d, %v; want %d", got, err, want)
			}
		}
	}
	want()
	mustCreate(t, m, a, "ten", 10)
	want(10)
	mustCreate(t, m, b, "three", 3)
	mustCreate(t, m, b, "another three", 3)
	want(3, 10)
	step(t, m, a, func(s *coord.TopologyStep) { s.Resize = &coord.Resize{Tenant: "ten", ReplicationFactor: 2} })
	want(2, 3)
	step(t, m, a, func(s *coord.TopologyStep) { s.Resize = &coord.Resize{Tenant: "three", ReplicationFactor: 7} })
	want(2, 3, 7)
	for _, id := range []string{"another three", "ten", "three"} {
		if err := a.DeleteTenant(m.ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	want()
}
