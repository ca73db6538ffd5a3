package coord_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/pairdb/coordinator/coord"
)

// A tenant that was deleted and made again while its resize waited keeps the
// replicas that it was made with.
func TestResizeOfATenantThatWasMadeAgain(t *testing.T) {
	cluster := newCluster(t, 4)
	c := cluster.start(t, "c1", nil)
	put(t, c, "k", "v", coord.All)
	// A removal that cannot end keeps the resize waiting.
	cut := errors.New("it is not there")
	for _, id := range []string{"storage-1", "storage-2", "storage-3"} {
		cluster.nodes[id].down.Store(&cut)
	}
	removal, err := c.RemoveNode(t.Context(), "storage-4", coord.Removal{})
	if err != nil {
		t.Fatal(err)
	}
	_, resize, err := c.SetReplicationFactor(t.Context(), "shop", 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteTenant(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateTenant(t.Context(), "shop", 1); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"storage-1", "storage-2", "storage-3"} {
		cluster.nodes[id].down.Store(nil)
	}
	completed(t, c, removal)
	eventually(t, "the resize ends", func() bool {
		now, err := c.Migration(t.Context(), resize.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Status == coord.MigrationFailed && now.Error != `tenant "shop" was deleted` {
			t.Fatalf("it failed because %s", now.Error)
		}
		return now.Status == coord.MigrationFailed
	})
	if shop, err := c.Tenant(t.Context(), "shop"); err != nil || shop.ReplicationFactor != 1 {
		t.Errorf("the tenant that was made again: %+v, %v; want one replica", shop, err)
	}
}

// A coordinator that has not heard of a removal creates no tenant for which
// there are too few nodes.
func TestCreationAfterARemovalElsewhere(t *testing.T) {
	cluster := newCluster(t, 4)
	c := cluster.start(t, "c1", nil)
	deaf := cluster.startLate(t, "c2", 0)
	begun, err := c.RemoveNode(t.Context(), "storage-4", coord.Removal{})
	if err != nil {
		t.Fatal(err)
	}
	completed(t, c, begun)
	if _, err := deaf.CreateTenant(t.Context(), "wide", 4); !errors.Is(err, coord.ErrInvalidReplicationFactor) {
		t.Errorf("four replicas on three nodes: %v", err)
	}
	if _, err := c.Tenant(t.Context(), "wide"); !errors.Is(err, coord.ErrTenantNotFound) {
		t.Errorf("the tenant that was refused: %v", err)
	}
	if _, err := deaf.CreateTenant(t.Context(), "fits", 3); err != nil {
		t.Errorf("three replicas on three nodes: %v", err)
	}
}

// overtaken is metadata in which a tenant is created just when a removal that
// waits has been found possible.
type overtaken struct {
	coord.Metadata
	once sync.Once
	err  error
}

func (o *overtaken) ReplicationFactors(ctx context.Context) ([]int, error) {
	factors, err := o.Metadata.ReplicationFactors(ctx)
	if topology, topologyErr := o.Metadata.Topology(ctx); err == nil && topologyErr == nil && topology.Next() != nil {
		o.once.Do(func() { _, o.err = o.Metadata.CreateTenant(ctx, "wide", 4, 0) })
	}
	return factors, err
}

func TestRemovalOvertakenByACreation(t *testing.T) {
	cluster := newCluster(t, 4)
	store := &overtaken{Metadata: cluster.metadata}
	c := cluster.start(t, "c1", func(o *coord.Options) { o.Metadata = store })
	begun, err := c.RemoveNode(t.Context(), "storage-4", coord.Removal{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removal ends", func() bool {
		now, err := c.Migration(t.Context(), begun.ID)
		if err != nil {
			t.Fatal(err)
		}
		if now.Status == coord.MigrationCompleted {
			t.Fatal("three nodes are left for a tenant with four replicas")
		}
		return now.Status == coord.MigrationFailed && strings.Contains(now.Error, "replication factor 4")
	})
	if store.err != nil {
		t.Fatal(store.err)
	}
	if topology, err := store.Topology(t.Context()); err != nil || topology.Members() != 4 {
		t.Errorf("%d members, %v; want 4", topology.Members(), err)
	}
}
